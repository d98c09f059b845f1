"""Runs the cases of `tests.support.reply_cases`: the replacing bytes, and the server's settings.

The server is that of `smtpconn.testing`, at the other end of a pair of sockets
(`tests.support.cutting_server`), with a fault at the place of the case. This module does not decide
the expected outcomes.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import socket
from collections.abc import Generator

from scramp.core import ScramMechanism

from smtpconn import SmtpConnection, TlsMode
from smtpconn.testing.faults import Fault
from smtpconn.testing.session import Settings, login, plain
from tests.support.cutting_server import NotingFaults
from tests.support.reply_cases import Kind, Place, ReplyCase
from tests.support.sessions import LONG_TIMEOUT, USERS, Contexts

ENDLESS = 1024 * 1024
"""Bytes of an endless reply; more than socket buffers hold, so the server writes until the client
closes the connection."""

LATER = b"450 4.2.0 not this time\r\n"
LONG = "p" * 400
"""A password that is too long for the line of AUTH (RFC 4954 4)."""


def usual(place: Place) -> bytes:
    """A valid reply at this place."""
    return f"{place.code} again\r\n".encode() if place.code != 334 else b"334 YWdhaW4=\r\n"


def instead(case: ReplyCase) -> bytes:
    """The bytes that replace the reply."""
    code = case.place.code
    return {
        Kind.SHUTTING_DOWN: b"421 4.7.0 bye\r\n",
        Kind.SHUTDOWN_NOTICE: b"421 4.3.2 bye\r\n",
        Kind.TRANSIENT: b"454 4.7.0 later\r\n",
        Kind.PERMANENT: b"554 5.7.1 no\r\n",
        Kind.UNKNOWN_COMMAND: b"502 5.5.1 what?\r\n",
        Kind.OTHER_SUCCESS: b"251 2.1.5 as you like\r\n",
        Kind.OTHER_INTERMEDIATE: b"334 \r\n" if code == 354 else b"354 go on\r\n",
        Kind.ANOTHER_CHALLENGE: b"334 YWdhaW4=\r\n",
        Kind.OTHER_CODE_INSIDE: f"{code}-one\r\n{code + 1} two\r\n".encode(),
        Kind.EMPTY_LINE: b"\r\n",
        Kind.GARBAGE: bytes(range(256)) + b"\r\n",
        Kind.ENDLESS_LINE: f"{code} ".encode() + b"x" * ENDLESS,
        Kind.ENDLESS_REPLY: f"{code}-more\r\n".encode() * (ENDLESS // 10),
    }[case.kind]


def fault(place: Place, *, reply: bytes | None = None, after: bytes = b"", times: int = 1) -> Fault:
    """A fault at one reply, or at ``times`` consecutive ones."""
    return Fault(
        place.step, reply, 0, False, False, False, 0, b"", after, times, place.nth, None
    )  # fmt: skip


def faults(case: ReplyCase) -> NotingFaults:
    """The faults of a case."""
    found = NotingFaults()
    comes_again = case.exchange.name.endswith("again")
    if case.kind is Kind.TWICE:
        found.add(fault(case.place, after=usual(case.place)))
    elif case.kind is Kind.EARLY:
        assert case.previous is not None
        refused = comes_again and case.previous.step == "CONTENT"
        found.add(fault(case.previous, reply=LATER if refused else None, after=usual(case.place)))
    else:
        found.add(fault(case.place, reply=instead(case)))
    if comes_again:
        found.add(fault(Place("CONTENT", 250), reply=LATER, times=case.exchange.answers))
    return found


def cram_md5() -> Generator[bytes, bytes, str | None]:
    """CRAM-MD5 (RFC 2195)."""
    challenge = b"<1@mx>"
    digest = hmac.new(b"p", challenge, hashlib.md5).hexdigest()
    return "u" if (yield challenge) == f"u {digest}".encode() else None


def xoauth2() -> Generator[bytes, bytes, str | None]:
    """XOAUTH2 that accepts one token."""
    return "u" if b"auth=Bearer p" in (yield b"") else None


def scram() -> Generator[bytes, bytes, str | None]:
    """SCRAM-SHA-256 (RFC 7677), by the server of scramp."""
    mechanism = ScramMechanism("SCRAM-SHA-256")
    known = mechanism.make_auth_info("p", iteration_count=4096, salt=b"salt of scram")
    server = mechanism.make_server(lambda user: known)
    server.set_client_first((yield b"").decode())
    server.set_client_final((yield server.get_server_first().encode()).decode())
    yield server.get_server_final().encode()
    return "u"


def oauthbearer() -> Generator[bytes, bytes, str | None]:
    """OAUTHBEARER (RFC 7628) that accepts one token."""
    return "u" if (yield b"") == b"n,,\x01auth=Bearer p\x01\x01" else None


def external() -> Generator[bytes, bytes, str | None]:
    """EXTERNAL (RFC 4422 A)."""
    yield b""
    return "u"


def settings(case: ReplyCase, contexts: Contexts) -> Settings:
    """The settings of the server."""
    return Settings(
        protocol=case.exchange.protocol,
        hostname="mx",
        extensions=("CHUNKING", "PIPELINING") if case.pipelining else ("CHUNKING",),
        ehlo=case.exchange.name != "connect, helo",
        users=USERS,
        tls_context=contexts.server if "starttls" in case.exchange.name else None,
        implicit_tls=False,
        require_auth=False,
        size_limit=None,
        mechanisms={
            "PLAIN": functools.partial(plain, USERS | {"long": LONG}),
            "LOGIN": functools.partial(login, USERS),
            "CRAM-MD5": cram_md5,
            "SCRAM-SHA-256": scram,
            "XOAUTH2": xoauth2,
            "OAUTHBEARER": oauthbearer,
            "EXTERNAL": external,
        },
        recipient_known=lambda path: True,
    )


def connect_to(case: ReplyCase, sock: socket.socket, contexts: Contexts) -> SmtpConnection:
    """Connect over a socket as a case's exchange does."""
    is_lmtp = case.exchange.protocol == "LMTP"
    connect = SmtpConnection.connect_lmtp if is_lmtp else SmtpConnection.connect
    return connect(
        "localhost",
        25,
        TlsMode.STARTTLS if "starttls" in case.exchange.name else TlsMode.NONE,
        LONG_TIMEOUT,
        tls_context=contexts.client,
        ehlo_domain="c",
        socket_factory=lambda host, port, seconds: sock,
        allow_cleartext_auth=True,
        pipelining=case.exchange.runs_ahead,
    )
