"""SCRAM against a server that knows the protocol and lies in it (RFC 5802)."""

from __future__ import annotations

import base64

from smtpconn.auth.scram import Scram
from smtpconn.model.capabilities import AuthMechanism
from smtpconn.model.errors import ProtocolError, ValidationError
from tests.fuzz.source import Source

SEEDS = (
    b"r=%,s=QSXCR+Q6sek8bf92,i=4096\xffv=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=\x00\x00",
    b"r=%,s=QSXCR+Q6sek8bf92,i=99999999999\xffv=\x00\x00",
    b"e=unknown-user\xffe=invalid-proof\x00\x00",
    b"m=x,r=%,s=,i=1\xff\x00\x00",
)

WORDS = (b"r=%", b",s=", b",i=", b"v=", b"e=", b"m=", b"4096", b"\xff", b"=", b"==", b"%")

PASSWORD = "correct horse"


def check(source: Source) -> None:
    """Only a `ProtocolError` is raised, without the password, and no server is accepted."""
    name = source.choice([AuthMechanism.SCRAM_SHA_256, AuthMechanism.SCRAM_SHA_1])
    is_base64 = not source.chance()
    mechanism = Scram(name, "user", PASSWORD)
    nonce = mechanism.begin().rpartition(b"r=")[2]
    for _ in range(2):
        # "%" stands for our nonce, which the server has to repeat.
        said = source.field().replace(b"%", nonce + b"%")
        challenge = base64.b64encode(said) if is_base64 else said
        try:
            answer = mechanism.answer(challenge.decode("utf-8", "surrogateescape"))
        except ProtocolError as error:
            assert PASSWORD not in f"{error!r}{error.__context__!r}"
            break
        assert answer is None or PASSWORD.encode() not in answer
    try:
        mechanism.finish()
    except ProtocolError:
        _check_names(source)
        return
    raise AssertionError("a server without the password has proven that it has it")


def _check_names(source: Source) -> None:
    """Any user name and password is taken or refused, and neither is shown."""
    user, password = source.text(), "s3cret-" + source.text()
    try:
        first = Scram(AuthMechanism.SCRAM_SHA_256, user, password).begin()
    except ValidationError as error:
        assert "s3cret-" not in repr(error)
    else:
        assert b"\r" not in base64.b64encode(first)
        assert first.startswith(b"n,,n=")
        assert first.count(b",r=") == 1
