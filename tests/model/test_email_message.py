"""Serialising a message of the email package: what leaves is what was written."""

from __future__ import annotations

from email.message import EmailMessage
from email.mime.text import MIMEText

import pytest

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.email_message import AnyMessage, as_octets, recipients_of, sender_of
from smtpconn.model.errors import ValidationError


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


def addressed(to: str, *, old: bool) -> AnyMessage:
    """A message to somebody, of either API."""
    message = MIMEText("hi") if old else modern()
    message["From"] = to
    message["To"] = to
    return message


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("a@[192.0.2.1], b@example.com", ["a@[192.0.2.1]", "b@example.com"]),
        ("X <a@[IPv6:2001:db8::1]>", ["a@[IPv6:2001:db8::1]"]),
        ("us: a@b.example, c@d.example;, e@f.io", ["a@b.example", "c@d.example", "e@f.io"]),
        ('"c d"@e.example (comment)', ['"c d"@e.example']),
        ("<@route.example:a@b.example>,, c@d.example", ["a@b.example", "c@d.example"]),
        ("\u00fc@ex\u00e4mple.com", ["\u00fc@ex\u00e4mple.com"]),
        ("Postmaster", ["Postmaster"]),
    ],
)
def test_everybody_named_gets_it(field: str, expected: list[str], old: bool) -> None:
    """However an address is written, whichever Python reads it, nobody is left out."""
    message = addressed(field, old=old)
    assert [str(path) for path in recipients_of(message)] == expected
    if expected != ["Postmaster"]:
        assert str(sender_of(message)) == expected[0]


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    "field",
    [
        "a@b.example; c@d.example",
        "a@b.example c@d.example",
        "a b c <x@y.example> z, ok@example.com",
        "no address here, ok@example.com",
        "ok@example.com, a@b..example",
        "alice@example.org)bob@example.com",
    ],
)
def test_what_cannot_be_read_is_an_error(field: str, old: bool) -> None:
    """Rather than a message for some of those it was meant for."""
    with pytest.raises(ValidationError):
        recipients_of(addressed(field, old=old))
