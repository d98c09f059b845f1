"""Serialising a message of the email package: what leaves is what was written."""

from __future__ import annotations

from email.message import EmailMessage
from email.mime.text import MIMEText

import pytest

from smtpconn.capabilities import ServerCapabilities
from smtpconn.message import AnyMessage, as_octets


def modern() -> EmailMessage:
    """A message of the modern API."""
    message = EmailMessage()
    message.set_content("From here on\n")
    return message


@pytest.mark.parametrize("message", [modern(), MIMEText("From here on\n")], ids=["new", "old"])
def test_a_line_that_begins_with_from_stays(message: AnyMessage) -> None:
    """No ">" is put before it; that is the custom of mailbox files, which a message is not."""
    octets = as_octets(message, ServerCapabilities(), smtputf8=False)
    assert octets.endswith(b"\r\n\r\nFrom here on\r\n")
