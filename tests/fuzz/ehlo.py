"""The EHLO reply (RFC 5321 4.1.1.1): an extension is the first word of its own line, no more."""

from __future__ import annotations

import re

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import ParseError, SmtpError
from smtpconn.model.parameters import MailFromParams, mail_parameters
from smtpconn.model.replies import SmtpResponse, response
from smtpconn.protocol.reply_parser import ReplyParser
from tests.fuzz.source import Source

SEEDS = (
    b"mx.example\nPIPELINING\nSIZE 1000\nAUTH PLAIN LOGIN\nSTARTTLS\n8BITMIME",
    b"mx STARTTLS\nAUTH=LOGIN\nauth\tcram-md5\nLIMITS RCPTMAX=100 MAILMAX=5",
    b"mx\nDELIVERBY 240\nFUTURERELEASE 1000 2030-01-01T00:00:00Z\nDSN\nSMTPUTF8",
)

WORDS = (
    b"\n", b"SIZE ", b"AUTH ", b"STARTTLS", b"LIMITS RCPTMAX=", b"MAILMAX=", b"SIZE 0",
    b"DELIVERBY ", b"FUTURERELEASE ", b"\xc5\xbf", b"\xe2\x80\x82", b"\xd9\xa1", b"AUTH=", b"X-",
)  # fmt: skip

_ASKS_FOR_MUCH = MailFromParams(size=1, hold_for=1)

_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")


def check(source: Source) -> None:
    """Each keyword is on a line of its own, and asking for anything fails in an orderly way."""
    ignored = source.choice(["", "STARTTLS", "AUTH", "SIZE"])
    lines = tuple(source.rest().decode("utf-8", "surrogateescape").split("\n"))
    found = ServerCapabilities.from_ehlo(response(250, lines), frozenset({ignored}))
    first_words = {re.split(r"[ \t]+", line.lstrip(" \t"))[0] for line in lines[1:]}
    # "AUTH=PLAIN" is an offer of AUTH, the old form of it.
    first_words |= {word[:4] for word in first_words if word[:5].upper() == "AUTH="}
    keywords = {word.upper() for word in first_words if word.isascii()}
    for extension in found.extensions:
        assert re.fullmatch(r"[A-Z0-9][A-Z0-9-]*", extension.keyword)
        assert extension.keyword in keywords
        assert extension.keyword != ignored
        assert found.supports(extension.keyword.lower())
    assert found.supports_starttls == ("STARTTLS" in keywords and ignored != "STARTTLS")
    for name in found.auth_mechanisms:
        assert re.fullmatch(r"[A-Z0-9_-]+", name)
        assert found.supports_auth(name.lower())
    for limit in (found.size_limit, found.max_recipients, found.max_transactions):
        assert limit is None or limit > 0
    _same_again(found)
    try:
        mail_parameters(_ASKS_FOR_MUCH, found, size=None, body=None, smtputf8=False)
    except SmtpError:
        pass  # that is what the server's limits are for


def _same_again(found: ServerCapabilities) -> None:
    """What was understood, said once more, is understood the same."""
    said = [found.greeting_name, *map(str, found.extensions)]
    if any(_CONTROL.search(text) for text in said):
        return  # the parser escapes control characters
    data = "".join(f"250{'-' if n < len(said) else ' '}{s}\r\n" for n, s in enumerate(said, 1))
    parser = ReplyParser()
    parser.feed(data.encode("utf-8", "surrogateescape"))
    try:
        reply: SmtpResponse | None = parser.next_reply()
    except ParseError:
        return  # no such reply can come from the parser
    assert reply is not None
    assert ServerCapabilities.from_ehlo(reply) == found
