"""The loop that programs have, with ``smtplib`` and with `smtpconn.smtplib` in its place.

A connection for each message, STARTTLS, a login and `send_message`, over a real Postfix that asks a
real Dovecot about logins, behind a proxy that adds latency. The servers are those of the tests.
"""

from __future__ import annotations

import smtplib
import ssl
import time
from email.message import EmailMessage
from types import ModuleType

import smtpconn.smtplib
from benchmarks.latency import Delay
from tests.realservers.base import PASSWORDS
from tests.realservers.certificates import Certificates
from tests.realservers.dovecot import Dovecot
from tests.realservers.postfix import Postfix

USER = "alice"


def missing() -> str | None:
    """Why it cannot be measured here; None if it can."""
    return Postfix.missing() or Dovecot.missing()


def compare(count: int, delay: float) -> dict[str, float]:
    """Seconds for a message, by who sends it.

    Args:
        count: messages each way.
        delay: seconds of latency each way; a round trip takes twice as long.
    """
    found = {}
    with (
        Certificates() as certificates,
        Dovecot(certificates) as dovecot,
        Postfix(certificates, sasl_port=dovecot.sasl_port) as postfix,
        Delay(postfix.port, delay) as way,
    ):
        context = certificates.client_context()
        send(smtplib, way.port, context, 1)
        found["smtplib"] = send(smtplib, way.port, context, count)
        found["smtpconn.smtplib"] = send(smtpconn.smtplib, way.port, context, count)
        with smtpconn.smtplib.pooled():
            found["smtpconn.smtplib, pooled"] = send(smtpconn.smtplib, way.port, context, count)
    return found


def send(module: ModuleType, port: int, context: ssl.SSLContext, count: int) -> float:
    """Send so many messages; the seconds for each."""
    message = EmailMessage()
    message["From"], message["To"] = "alice@example.test", "bob@example.test"
    message["Subject"] = "hello"
    message.set_content("Hello!\n" * 100)
    begun = time.perf_counter()
    for _ in range(count):
        with module.SMTP("127.0.0.1", port, "client.example.test") as smtp:
            smtp.starttls(context=context)
            smtp.login(USER, PASSWORDS[USER])
            smtp.send_message(message)
    return (time.perf_counter() - begun) / count
