"""Packages that find Flask-Mail in ``app.extensions["mail"]``, over smtpconn's extension."""

from __future__ import annotations

import importlib
import os
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
from flask import Flask

from smtpconn.contrib.flask import Mail
from smtpconn.testing import SmtpServer

YOU = "you@example.net"


def test_a_password_reset_of_flask_security(server: SmtpServer) -> None:
    """The page that asks for it mails the link, over the process's pool; the link works."""
    try:
        version("Flask-Security-Too")
    except PackageNotFoundError:
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
            pytest.fail("Flask-Security-Too is missing, and SMTPCONN_REQUIRE_SERVERS=1")
        pytest.skip("Flask-Security-Too is missing: pip install 'smtpconn[compat-test]'")
    # By name: where it is missing, type checkers do not know it either.
    package = importlib.import_module("flask_security")
    datastore = importlib.import_module("flask_security.datastore")

    class User(package.UserMixin):  # type: ignore[misc,name-defined]
        id, email, password, fs_uniquifier, active = 1, "", "", "", True
        confirmed_at, roles = None, ()

        def __init__(self, **fields: Any) -> None:
            self.__dict__.update(fields)

    class Users(datastore.UserDatastore):  # type: ignore[misc,name-defined]
        """One user, kept in memory."""

        def __init__(self) -> None:
            super().__init__(User, None)
            self.user: User | None = None

        def find_user(self, *args: object, **query: Any) -> User | None:
            query.pop("case_insensitive", None)
            found = self.user
            match = found and all(getattr(found, k, None) == v for k, v in query.items())
            return found if match else None

        def put(self, model: User) -> User:
            return model

        def commit(self) -> None:
            pass

    app = Flask("app")
    app.config.update(
        SECRET_KEY="of no use",
        SECURITY_PASSWORD_SALT="of no use",
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
        SECURITY_RECOVERABLE=True,
        SECURITY_EMAIL_SENDER="shop@example.com",
        SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
        WTF_CSRF_ENABLED=False,
        MAIL_SERVER=server.host,
        MAIL_PORT=server.port,
    )
    mail = Mail(app)
    users = Users()
    package.Security(app, users)
    with app.app_context():
        users.user = User(
            email=YOU, password=package.hash_password("before"), fs_uniquifier="unique", active=True
        )
    client = app.test_client()
    page = client.post("/reset", data={"email": YOU})
    assert page.status_code in (200, 302), page.text
    (message,) = server.messages
    assert (message.sender, message.recipients) == ("shop@example.com", (YOU,))
    body = message.email.get_body(("plain",))
    assert body is not None
    link = re.search(r"http://localhost(/reset/\S+)", body.get_content())
    assert link is not None
    assert client.get(link[1]).status_code in (200, 302)
    with app.app_context():
        mail.pool.close()
