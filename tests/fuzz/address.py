"""Addresses (RFC 5321 4.1.2): what is accepted leaves as one word that means the same."""

from __future__ import annotations

import re
from typing import TypeAlias

from smtpconn.model.addresses import AddressLiteral, Domain, ForwardPath, Mailbox, ReversePath
from smtpconn.model.errors import Phase, SmtpUtf8RequiredError, ValidationError
from smtpconn.protocol.command import command
from tests.fuzz.source import Source

SEEDS = (
    b"user@example.com\x00",
    b'"john \\"doe\\""@example.com\x01',
    b"<@a.example,@b.example:user@[IPv6:2001:db8::1]>\x02",
    b"\x01\x03", b"postmaster\x03",
    "jörg@münchen.example".encode() + b"\x02",
    b'"x@a> ORCPT=b"@c.example\x03',
    b"[tag:content]\x04", b"[192.0.2.1]\x04", b"xn--bcher-kva.example\x05",
)  # fmt: skip

WORDS = (
    b'"', b"\\", b"@", b"<", b">", b" ", b"[IPv6:", b"]", b".", b"..",
    b"\xe2\x80\x8d", b"\xef\xbc\x8e",
    b"\xc2\x85", b"\xe2\x80\xa8", b"xn--", b"\r\n", b" ORCPT=", b"postmaster",
    b"\xef\xbc\xa0", b"%",
)  # fmt: skip

Address: TypeAlias = Mailbox | ReversePath | ForwardPath | Domain | AddressLiteral

KINDS: tuple[type[Address], ...] = (Mailbox, ReversePath, ForwardPath, Domain, AddressLiteral)

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# What a server does that reads byte by byte: a quoted string, or anything that ends no word.
_ARGUMENT = re.compile(rf'<(?:(?:{_QUOTED}|[^<>" ]*)(?:@[^<>" @]+)?)?>\Z')


def check(source: Source) -> None:
    """Parse, print, parse: the same value, one word without controls, within the limits."""
    kind = source.choice(KINDS)
    text = source.rest().decode("utf-8", "surrogateescape")
    try:
        value = kind(text)
    except ValidationError as error:
        assert str(error).isprintable()
        return
    _check(value)
    try:
        ascii_ = value.to_ascii()
    except (ValidationError, SmtpUtf8RequiredError):
        return
    _check(ascii_)
    assert ascii_.is_ascii or not isinstance(value, Domain)


def _check(value: Address) -> None:
    printed = str(value)
    again = type(value)(printed)
    assert again == value
    assert hash(again) == hash(value)
    assert str(again) == printed
    assert not _CONTROLS.search(printed)
    assert printed.isascii() == value.is_ascii
    assert len(printed.encode()) <= (320 if isinstance(value, Mailbox) else 255)
    if isinstance(value, (ReversePath, ForwardPath, Mailbox)):
        _ = command(Phase.RCPT, f"RCPT TO:<{printed}>")
        assert _ARGUMENT.match(f"<{printed}>"), printed
        mailbox = value if isinstance(value, Mailbox) else value.mailbox
        if mailbox is not None:
            local_part = printed.removesuffix(f"@{mailbox.domain}")
            assert local_part != printed
            assert len(local_part.encode()) <= 252
