"""ESMTP parameters (RFC 5321 4.1.2): no value ends its own parameter, or begins another."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.parameters import (
    BodyType,
    DeliverBy,
    DeliverByMode,
    DsnNotify,
    DsnRet,
    MailFromParams,
    RcptToParams,
    mail_parameters,
    rcpt_parameters,
    xtext,
)
from smtpconn.model.replies import response
from tests.fuzz.source import Source

SEEDS = (
    b"QQ314159\xffo@example.com\xffrfc822;o@example.com",
    b"a+b=c d\xff\xffutf-8;\xc3\xa4@example.com\x01\x01\x01\x01\x01",
    b'x SIZE=1\xff"a> b"@example.com\xffrfc822;o NOTIFY=NEVER\x01\x02\x03\x04\x05\x06\x07\x08',
)

WORDS = (
    b"\xff", b"rfc822;", b"utf-8;", b"\\x{", b"+", b"=", b" ", b" SIZE=", b"\r\n", b"\xc2\xa0",
    b"\xc2\x85", b"\xe2\x80\xa8", b"\xf0\x9f\x93\xa7", b"<>", b"@",
)  # fmt: skip

_OFFER = ServerCapabilities.from_ehlo(
    response(
        250,
        ("mx", "DSN", "SIZE", "AUTH PLAIN", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY",
         "REQUIRETLS", "8BITMIME", "BINARYMIME", "SMTPUTF8", "CHUNKING"),
    )
)  # fmt: skip
_VALUE = "[!-<>-~\u00a0-\U0010ffff]+"
_PARAMETERS = re.compile(rf"(?: [A-Z0-9-]+(?:={_VALUE})?)*\Z")


def check(source: Source) -> None:
    """What is accepted leaves as the words asked for, each once, without spaces or controls."""
    envid, auth, orcpt = source.text(), source.text(), source.text()
    smtputf8 = source.chance()
    try:
        mail, rcpt = _mail(source, envid, auth), RcptToParams(_notify(source), orcpt or None)
    except ValidationError:
        return
    try:
        text = mail_parameters(
            mail, _OFFER, size=source.number(0, 255), body=mail.body, smtputf8=smtputf8
        )
        text_of_rcpt = rcpt_parameters(rcpt, _OFFER, smtputf8=smtputf8)
    except SmtpError:
        return
    words = _words(text)
    assert text.isascii()
    assert words.get("ENVID") == (xtext(envid) if envid else None)
    assert not envid or _from_xtext(words["ENVID"]) == envid.encode()
    assert "SIZE" in words
    assert words.keys() <= {
        "BODY", "SMTPUTF8", "SIZE", "RET", "ENVID", "AUTH", "BY", "HOLDFOR", "HOLDUNTIL",
        "MT-PRIORITY", "REQUIRETLS",
    }  # fmt: skip
    words = _words(text_of_rcpt)
    assert words.keys() <= {"NOTIFY", "ORCPT"}
    assert text_of_rcpt.isascii() or smtputf8
    if orcpt.lower().startswith("rfc822;"):
        assert _from_xtext(words["ORCPT"].partition(";")[2]) == orcpt.partition(";")[2].encode()


def _mail(source: Source, envid: str, auth: str) -> MailFromParams:
    hold_for = source.number(0, 255) or None
    zone = timezone(timedelta(minutes=source.number(-128, 127)))
    moment = datetime(2030, 1, 1, tzinfo=UTC).astimezone(zone)
    by = DeliverBy(source.number(-9, 246), source.choice(list(DeliverByMode)), source.chance())
    return MailFromParams(
        body=source.choice([None, *BodyType]),
        smtputf8=source.chance(),
        size=source.choice([None, 0, 10**19, 10**20]),
        ret=source.choice([None, *DsnRet]),
        envid=envid or None,
        auth=auth if source.chance() else None,
        deliver_by=by if source.chance() else None,
        hold_for=hold_for,
        hold_until=moment if source.chance() else None,
        mt_priority=source.choice([None, *range(-10, 11)]),
        require_tls=source.chance(),
    )


def _notify(source: Source) -> DsnNotify | None:
    number = source.number(0, 16)
    return DsnNotify(number) if number < 16 else None


def _words(text: str) -> dict[str, str]:
    assert _PARAMETERS.match(text), text
    pairs = [word.partition("=") for word in text.split(" ")[1:]]
    words = {name: value for name, _, value in pairs}
    assert len(words) == len(pairs)
    return words


def _from_xtext(text: str) -> bytes:
    """Decode by the book (RFC 3461 4)."""
    data = re.sub(r"\+([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), text)
    return data.encode("latin-1")
