"""Tests of code that sends mail, with the fixture ``smtp_server`` of smtpconn.

Run them with ``pytest examples/test_your_mail.py``; the last one needs Django. No import is
necessary: ``smtpconn[pytest]`` provides the fixture.
"""

from __future__ import annotations

import smtplib
from email.message import EmailMessage

import django
import pytest
from django.conf import settings
from django.core.mail import send_mail
from django.test import override_settings

from smtpconn import AllRecipientsFailedError, ConnectionPool
from smtpconn.testing import SmtpServer


def hello(to: str) -> EmailMessage:
    """The mail that the functions under test send."""
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Hello", "shop@example.com", to
    message.set_content("Hello!\n")
    return message


def greet_with_smtplib(server: SmtpServer, to: str) -> None:
    """Code under test: it logs in under TLS, with the standard library."""
    with smtplib.SMTP(server.host, server.port, timeout=5) as client:
        client.starttls(context=server.client_context)
        client.login("shop", "s3cret")
        client.send_message(hello(to))


@pytest.mark.smtp_server(tls="starttls", users={"shop": "s3cret"}, require_auth=True)
def test_smtplib(smtp_server: SmtpServer) -> None:
    """The received messages, their sender and how they came."""
    greet_with_smtplib(smtp_server, "jane@example.com")
    (message,) = smtp_server.messages
    assert message.recipients == ("jane@example.com",)
    assert message.email["Subject"] == "Hello"
    assert (message.tls, message.user) == (True, "shop")


def test_smtpconn(smtp_server: SmtpServer) -> None:
    """An unknown recipient is an error; a connection that the server closes is none."""
    smtp_server.refuse_recipient("nobody@example.com")
    with ConnectionPool(smtp_server.url) as pool:
        with pytest.raises(AllRecipientsFailedError):
            pool.send_message(hello("nobody@example.com"))
        smtp_server.shut_down_at("MAIL")
        pool.send_message(hello("jane@example.com"))
    assert [m.recipients for m in smtp_server.messages] == [("jane@example.com",)]
    assert len(smtp_server.connections) == 2


def django_settings(server: SmtpServer) -> dict[str, object]:
    """Django's own SMTP backend: MAILERS from Django 6.1 on, EMAIL_* before."""
    backend = "django.core.mail.backends.smtp.EmailBackend"
    if django.VERSION < (6, 1):
        return {"EMAIL_BACKEND": backend, "EMAIL_HOST": server.host, "EMAIL_PORT": server.port}
    options = {"host": server.host, "port": server.port}
    return {"MAILERS": {"default": {"BACKEND": backend, "OPTIONS": options}}}


def test_django(smtp_server: SmtpServer) -> None:
    """What Django sends; its test runner would have it sent nowhere."""
    if not settings.configured:
        settings.configure()
    with override_settings(**django_settings(smtp_server)):
        assert send_mail("Hello", "Hello!", "shop@example.com", ["jane@example.com"]) == 1
    assert smtp_server.messages[0].email["To"] == "jane@example.com"
