"""Helpers of the tests of the logging handler; the fixtures are in conftest.py."""

from __future__ import annotations

import email
import email.policy
import logging
import sys
import threading
from collections.abc import Callable
from email.message import EmailMessage

from smtpconn.contrib.logging import PooledSmtpHandler
from smtpconn.testing import ReceivedMessage, SmtpServer
from tests.support.waiting import wait_until

FROM, TO = "app@example.com", ["admin@example.com"]
NEVER = 3600.0
"""Seconds that records wait for others: a mail is sent only when it is full, or by `flush`."""

MakeHandler = Callable[..., PooledSmtpHandler]


class RecordingHandler(PooledSmtpHandler):
    """A handler that records what it would print on stderr."""

    errors: tuple[str, ...] = ()

    def handleError(self, record: logging.LogRecord) -> None:
        """Record the class of the error and the text of the record."""
        kind = sys.exc_info()[0]
        assert kind is not None
        self.errors += (f"{kind.__name__}: {record.msg}",)


def read(message: ReceivedMessage) -> EmailMessage:
    """A received message, parsed by the email package."""
    return email.message_from_bytes(message.content, policy=email.policy.default)


def text_of(message: ReceivedMessage) -> str:
    """The text of a message."""
    text: str = read(message).get_content()
    return text.replace("\r\n", "\n")


def is_in_flight(server: SmtpServer) -> None:
    """Wait until the server has received RCPT."""
    server.wait_for(lambda: any("RCPT" in line for c in server.connections for line in c.commands))


def wait_until_idle() -> None:
    """Wait until no handler has a thread."""
    wait_until(
        lambda: not any(t.name.startswith("smtpconn-log-mail") for t in threading.enumerate())
    )
