"""Django's own mail and that of its packages, over the wire, from a site in another process."""

from __future__ import annotations

import email
import email.policy
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from smtpconn.testing import ReceivedMessage, SmtpServer

OURS = "smtpconn.contrib.django.EmailBackend"
DJANGOS = "django.core.mail.backends.smtp.EmailBackend"

pytestmark = pytest.mark.timeout(60)


def run(scenario: str, backend: str, server: SmtpServer) -> str:
    """Run a scenario of `tests.support.django_site`, and return what it printed."""
    where = [server.host, str(server.port)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.django_site", scenario, backend, *where],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(message: ReceivedMessage) -> tuple[object, ...]:
    """A message as its reader sees it, without what is never the same twice."""
    parsed = email.message_from_bytes(message.content, policy=email.policy.default)
    parts = []
    for part in parsed.walk():
        fields = [(name.lower(), str(value)) for name, value in part.items()]
        kept = [each for each in fields if each[0] not in ("date", "message-id")]
        content = b"" if part.is_multipart() else part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts.append((kept, re.sub(rb"/[A-Za-z0-9]+-[0-9a-f]+/", b"/TOKEN/", content)))
    text = re.sub(r"boundary=[^']*", "boundary", repr(parts))
    text = re.sub(r"Test email from [^']*", "Test email", text)
    return message.sender, message.recipients, len(message.content.split(b"\r\n\r\n")), text


def test_every_message_is_that_of_djangos_backend() -> None:
    """The same fields and content: test mails, a password reset, reports, files, mass mail."""
    with SmtpServer() as server:
        run("own", DJANGOS, server)
        theirs = [read(message) for message in server.messages]
    with SmtpServer() as server:
        run("own", OURS, server)
        ours = [read(message) for message in server.messages]
        assert len(server.connections) == 1
    assert len(theirs) == len(ours) == 8
    for one, other in zip(ours, theirs, strict=True):
        assert one == other


def require(package: str) -> None:
    """Skip without a package; fail where everything is required."""
    try:
        version(package)
    except PackageNotFoundError:
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{package} is missing, and SMTPCONN_REQUIRE_SERVERS=1", pytrace=False)
        pytest.skip(f"{package} is missing: pip install 'smtpconn[compat-test]'")


def test_django_mailer_puts_off_one_message_alone(server: SmtpServer) -> None:
    """An invalid address defers its message; the following ones are sent."""
    require("django-mailer")
    assert run("mailer", OURS, server).endswith("1 deferred, 1 queued\n")
    assert [m.recipients for m in server.messages] == [("you@example.net",), ("she@example.net",)]
    assert len(server.connections) == 1


def test_anymail_messages(server: SmtpServer) -> None:
    """They are sent as others."""
    require("django-anymail")
    run("anymail", OURS, server)
    assert [m.recipients for m in server.messages] == [("you@example.net",)]


def test_post_office(server: SmtpServer) -> None:
    """Its threads share the pool."""
    require("django-post-office")
    assert run("post_office", OURS, server).endswith("(2, 0, 0)\n")
    assert {m.recipients for m in server.messages} == {("you@example.net",), ("she@example.net",)}
    assert len(server.connections) <= 2


def test_celery_email(server: SmtpServer) -> None:
    """The task opens and closes the backend; the connection stays the pool's."""
    require("django-celery-email")
    if int(version("Django").partition(".")[0]) >= 6:
        pytest.skip("django-celery-email 3.0 reads attributes of messages that Django 6 has not")
    run("celery_email", OURS, server)
    assert [m.recipients for m in server.messages] == [("you@example.net",)]
    assert len(server.connections) == 1


def test_manage_check_finds_nothing(server: SmtpServer) -> None:
    """The checks are an application; they connect to nothing."""
    assert "no issues" in run("checks", OURS, server)
    assert server.connections == []
