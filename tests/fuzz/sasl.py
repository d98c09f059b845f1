"""AUTH against a server that answers anything: bounded, in lines, and without showing a secret."""

from __future__ import annotations

import base64
import re

from smtpconn.auth.mechanisms import (
    CramMd5,
    External,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
)
from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities, SmtpExtension
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.replies import SmtpResponse, response
from smtpconn.protocol.auth import MAX_ROUNDS, authenticate
from smtpconn.protocol.command import MAX_AUTH_LINE, Command
from smtpconn.protocol.exchange import CommandGroup
from smtpconn.protocol.session import SessionState
from tests.fuzz.source import Source

SEEDS = (
    b"user\xffpassword\xff\xff235 ok\x00",
    b"user\xffpassword\xff\xff334 VXNlcm5hbWU6\n334 UGFzc3dvcmQ6\n235 ok\x01",
    b"user\xffpassword\xff\xff334 PDE4OTYuNjk3QGV4YW1wbGU+\n235 ok\x02",
    b"user\xfftoken\xff\xff334 eyJzdGF0dXMiOiI0MDEifQ==\n535 no\x04",
    b"user\xfftoken\xff\xff334 eyJzdGF0dXMiOiI0MDEifQ==\n535 no\x05",
)

WORDS = (b"334 ", b"235 ", b"535 ", b"454 ", b"\n", b"====", b"\xff", b"\x01", b"\x00")

_OFFER = ServerCapabilities("mx", (SmtpExtension("AUTH", tuple(AuthMechanism)),))
_MARK = "s3cret-"


def check(source: Source) -> None:
    """Whatever is answered: few lines, no controls in them, and no secret in logs and errors."""
    kind = source.number(0, 5)
    user, secret, authzid = source.text(), source.text(), source.text()
    try:
        mechanism = _mechanism(kind, user, _MARK + secret, authzid)
    except ValidationError as error:
        _shows_nothing(repr(error), secret)
        return
    assert _MARK not in repr(mechanism)
    session = SessionState(capabilities=_OFFER, is_private=source.chance())
    replies = [_reply(line) for line in source.rest().split(b"\n")]
    exchange = authenticate(session, mechanism)
    sent = 0
    try:
        step = next(exchange)
        while True:
            assert isinstance(step, CommandGroup)
            assert step.missing == 1
            assert session.is_private or not mechanism.shows_secret
            _check_line(step, secret)
            step.replies.append(replies[sent] if sent < len(replies) else _reply(b"334"))
            sent += 1
            step = next(exchange)
    except StopIteration:
        assert session.is_authenticated
    except SmtpError as error:
        assert not session.is_authenticated
        said = " ".join(str(reply) for reply in replies)
        assert _MARK in said or _MARK not in f"{error}{error!r}{vars(error)}"
    assert sent <= 1 + MAX_ROUNDS + 1


def _mechanism(kind: int, user: str, secret: str, authzid: str) -> SaslMechanism:
    if kind == 0:
        return Plain(user, secret, authzid)
    if kind == 1:
        return Login(user, secret)
    if kind == 2:
        return CramMd5(user, secret)
    if kind == 3:
        return External(authzid)
    return XOAuth2(user, secret) if kind == 4 else OAuthBearer(secret, user)


def _check_line(step: CommandGroup, secret: str) -> None:
    (line,) = step.pieces
    assert isinstance(line, Command)
    assert re.fullmatch(rb"(AUTH [A-Z0-9-]+( [A-Za-z0-9+/=]+)?|[A-Za-z0-9+/]*=*|\*)\r\n", line.wire)
    assert len(line.wire) <= MAX_AUTH_LINE
    encoded = base64.b64encode((_MARK + secret).encode("utf-8", "surrogatepass")).decode()
    for shown in (line.log, repr(line)):
        assert _MARK not in shown
        assert encoded not in shown


def _shows_nothing(shown: str, secret: str) -> None:
    assert _MARK not in shown
    assert len(secret) < 8 or secret not in shown


def _reply(line: bytes) -> SmtpResponse:
    """A reply as the parser could have made it."""
    code = line[:3]
    text = re.sub(rb"[\x00-\x1f\x7f]", b"", line[4:]).decode("utf-8", "surrogateescape")
    known = code.isdigit() and b"200" <= code <= b"599"
    return response(int(code) if known else 334, (text,))
