"""The backend of Flask-Mailman, against the installed Flask-Mailman."""

from __future__ import annotations

import copy
import pickle
import smtplib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import flask_mailman
import pytest
from flask import Flask

from smtpconn.contrib.flask_mailman import EmailBackend
from smtpconn.testing import SmtpServer
from tests.support.threads import run_in_threads

ME, YOU, SHE = "me@example.com", "you@example.net", "she@example.net"
BACKEND = "smtpconn.contrib.flask_mailman.EmailBackend"
MakeApp = Callable[..., tuple[Flask, Any]]


@pytest.fixture
def make_app(server: SmtpServer) -> Iterator[MakeApp]:
    """Makes applications for the server, and closes their pools at the end."""
    with ExitStack() as stack:

        def make(**config: Any) -> tuple[Flask, Any]:
            app = Flask("app")
            app.config.update(
                {
                    "MAIL_SERVER": server.host,
                    "MAIL_PORT": server.port,
                    "MAIL_BACKEND": BACKEND,
                    "MAIL_DEFAULT_SENDER": ME,
                }
                | config
            )
            mail = flask_mailman.Mail(app)
            stack.callback(close_pool, app, mail)
            return app, mail

        yield make


def close_pool(app: Flask, mail: Any) -> None:
    """Close an application's pool, if its settings make one."""
    with app.app_context():
        try:
            mail.get_connection().pool.close()
        except ValueError:
            pass


def test_every_way_to_send(server: SmtpServer, make_app: MakeApp) -> None:
    """send_mail, send_mass_mail, EmailMessage.send and a connection: one connection in all."""
    app, mail = make_app()
    with app.app_context():
        assert mail.send_mail("hello", "grüße", ME, [YOU]) == 1
        assert mail.send_mass_mail([("hello", "Hello!", ME, [YOU])] * 2) == 2
        sent = flask_mailman.EmailMessage("hello", "Hello!", to=[YOU], bcc=["hidden@example.net"])
        assert sent.send() == 1
        with mail.get_connection() as connection:
            assert isinstance(connection, EmailBackend)
            assert connection.open() is False
            assert connection.send_messages([sent]) == 1
    assert len(server.messages) == 5
    assert server.messages[3].recipients == (YOU, "hidden@example.net")
    assert b"hidden" not in server.messages[3].content
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("Example.com <one@example.com>", "one@example.com"),
        ("Acme Inc. <one@example.com>", "one@example.com"),
        ("Jane Q. Public <one@example.com>", "one@example.com"),
        ("one..two@docomo.example", '"one..two"@docomo.example'),
        ("One <one.@docomo.example>", '"one."@docomo.example'),
        ("one@under_score.example", "one@under_score.example"),
        (f"{'l' * 65}@example.com", f"{'l' * 65}@example.com"),
        (" one@example.com\t", "one@example.com"),
    ],
)
def test_addresses_that_are_in_use(
    server: SmtpServer, make_app: MakeApp, written: str, address: str
) -> None:
    """As sender and as recipient; and postmaster."""
    app, mail = make_app()
    with app.app_context():
        assert mail.send_mail("hello", "Hello!", written, [written, "postmaster"]) == 1
    (received,) = server.messages
    assert (received.sender, received.recipients) == (address, (address, "postmaster"))


def test_threads_share_a_pool(server: SmtpServer, make_app: MakeApp) -> None:
    """Requests in 6 threads use at most as many connections as the pool has."""
    app, mail = make_app(SMTPCONN={"pool": {"max_size": 2}})

    def request(number: int) -> None:
        with app.app_context():
            for _ in range(5):
                mail.send_mail("hello", f"from {number}", ME, [YOU])

    run_in_threads(6, request)
    assert len(server.messages) == 30
    assert len(server.connections) <= 2


def test_errors_silent_or_not(server: SmtpServer, make_app: MakeApp) -> None:
    """``fail_silently`` hides the same errors as in Django."""
    server.fault("RCPT", reply="550 5.1.1 no", match=SHE, times=None)
    app, mail = make_app()
    with app.app_context():
        assert mail.send_mail("hello", "", ME, [YOU, SHE]) == 1
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            mail.send_mail("hello", "", ME, [SHE])
        assert mail.send_mail("hello", "", ME, [SHE], fail_silently=True) == 0
        with pytest.raises(ValueError, match="Invalid address"):
            mail.send_mail("hello", "", ME, ["you@"])
        assert mail.send_mail("hello", "", ME, ["you@"], fail_silently=True) == 0
        mail.get_connection().pool.close()
        server.stop()
        with pytest.raises(OSError, match="refused"):
            mail.send_mail("hello", "", ME, [YOU])
        assert mail.get_connection(fail_silently=True).open() is None
        assert mail.send_mail("hello", "", ME, [YOU], fail_silently=True) == 0


def test_a_login_with_other_credentials(make_app: MakeApp) -> None:
    """auth_user and auth_password override the settings."""
    with SmtpServer(users={"app": "s3cret", "other": "s3cret"}) as server:
        app, mail = make_app(
            MAIL_PORT=server.port, MAIL_USERNAME="app", MAIL_PASSWORD="s3cret", MAIL_TIMEOUT=7
        )
        with app.app_context():
            mail.send_mail("hello", "", ME, [YOU])
            mail.send_mail("hello", "", ME, [YOU], auth_user="other", auth_password="s3cret")
            other = mail.get_connection(username="other", password="s3cret")
            assert other.pool.config.timeout == 7
            other.pool.close()
            mail.get_connection().pool.close()
        assert [m.user for m in server.messages] == ["app", "other"]


def test_a_url(make_app: MakeApp) -> None:
    """MAIL_URL says the server, as for the extension; a login may stand beside it."""
    with SmtpServer(users={"app": "s3cret"}, require_auth=True) as server:
        app, mail = make_app(MAIL_URL=server.url, MAIL_USERNAME="app", MAIL_PASSWORD="s3cret")
        with app.app_context():
            assert mail.send_mail("hello", "", ME, [YOU]) == 1
            mail.get_connection().pool.close()
        assert server.messages[0].user == "app"


def test_a_url_among_the_own_settings(make_app: MakeApp) -> None:
    """It goes before the others, and has the login with it."""
    with SmtpServer(users={"app": "s3cret"}, require_auth=True) as server:
        url = f"smtp://app:s3cret@{server.host}:{server.port}"
        app, mail = make_app(MAIL_URL="smtp://nowhere.invalid", SMTPCONN={"url": url})
        with app.app_context():
            assert mail.send_mail("hello", "", ME, [YOU]) == 1
            mail.get_connection().pool.close()


def test_an_empty_host_is_none(server: SmtpServer, make_app: MakeApp) -> None:
    """As in Flask-Mailman, the setting counts then."""
    app, mail = make_app()
    with app.app_context():
        assert mail.get_connection(host="", port=0).host == server.host


@pytest.mark.parametrize(
    "config",
    [
        {"MAIL_USE_TLS": True, "MAIL_USE_SSL": True},
        {"SMTPCONN": {"pool": {"max_sise": 1}}},
        {"SMTPCONN": "smtp://h"},
        {"MAIL_SEND_OPTIONS": ["XFOO"]},
    ],
    ids=str,
)
def test_settings_that_cannot_be(make_app: MakeApp, config: dict[str, Any]) -> None:
    """They are a ValueError, silent or not."""
    app, mail = make_app(**config)
    with (
        app.app_context(),
        pytest.raises(ValueError, match=r"MAIL_USE_TLS/MAIL_USE_SSL|max_sise|is a dict|MAIL_SEND"),
    ):
        mail.get_connection(fail_silently=True)


def test_a_message_is_pickled_with_its_backend(make_app: MakeApp) -> None:
    """No password goes along, from wherever it came; the application's settings have it."""
    secret = "correct-horse-battery"
    with SmtpServer(users={"app": secret}, require_auth=True) as server:
        login = {"MAIL_PORT": server.port, "MAIL_USERNAME": "app", "MAIL_PASSWORD": secret}
        url = {"MAIL_PORT": None, "MAIL_URL": server.url_for("app")}
        for config in (login, url):
            app, mail = make_app(**config)
            with app.app_context():
                sent = flask_mailman.EmailMessage("hello", "Hello!", to=[YOU])
                sent.connection = mail.get_connection()
                data = pickle.dumps(sent.connection)
                assert secret.encode() not in data
                again = pickle.loads(data)
                assert again.send_messages([sent]) == 1
                assert again.pool is sent.connection.pool is copy.deepcopy(again).pool
                assert secret not in f"{vars(sent.connection)['_settings']} {sent.connection!r}"
    assert len(server.messages) == 2
