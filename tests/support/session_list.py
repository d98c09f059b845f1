"""The sessions that the tests run: every way of connecting, logging in and sending, and QUIT.

Each is as short as possible, because it is run once for each of its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpconn import (
    BodyType,
    Envelope,
    MailFromParams,
    Pipelining,
    SmtpConnection,
    TlsMode,
)
from tests.support.sessions import EVERYTHING, ME, TWO, Operation, SessionCase

FIRST, SECOND = b"one\r\n", b".two\r\n"
THIRD, FOURTH = b"three\r\n", b"four\r\n"
ONE = TWO[:1]


def _auth_plain(connection: SmtpConnection) -> None:
    connection.auth_plain("u", "p")


def _auth_login(connection: SmtpConnection) -> None:
    connection.auth_login("u", "p")


def _send(message: bytes) -> Operation:
    return Operation(lambda c: c.send(ME, TWO, message), 1)


def _send_bdat(message: bytes) -> Operation:
    return Operation(lambda c: c.send_bdat(ME, TWO, message), 1)


def _send_bdat_in_chunks(message: bytes) -> Operation:
    # A stream has chunks of `smtpconn.model.content.CHUNK` bytes, which the tests make small.
    return Operation(lambda c: c.send_bdat(ME, TWO, iter([message])), 1)


def _send_lmtp(message: bytes) -> Operation:
    return Operation(lambda c: c.send_lmtp(ME, TWO, message), 2)


def _send_lmtp_bdat(message: bytes) -> Operation:
    return Operation(lambda c: c.send_lmtp_bdat(ME, TWO, message), 2)


def _send_many(*messages: bytes, recipients: Sequence[str] = TWO, answers: int = 1) -> Operation:
    envelopes = [Envelope(ME, recipients, message) for message in messages]
    return Operation(lambda c: list(c.send_many(envelopes)), answers * len(messages))


def _send_all_kinds(connection: SmtpConnection) -> object:
    binary = MailFromParams(body=BodyType.BINARYMIME)
    return list(
        connection.send_many(
            [
                Envelope(ME, TWO, FIRST),
                # A stream ends its turn; what goes by BDAT goes between the others.
                Envelope(ME, ONE, iter([SECOND])),
                Envelope(ME, ONE, b"\0\n", binary),
                Envelope(ME, ONE, FOURTH),
            ]
        )
    )


LOGIN_PLAIN, LOGIN_LOGIN = Operation(_auth_plain), Operation(_auth_login)
RSET, QUIT = Operation(SmtpConnection.reset), Operation(SmtpConnection.quit)

BY_DATA = (LOGIN_PLAIN, _send(FIRST), _send(SECOND), QUIT)
BY_BDAT = (LOGIN_PLAIN, _send_bdat(FIRST), _send_bdat_in_chunks(SECOND), QUIT)

ONE_BY_ONE = (LOGIN_LOGIN, _send(FIRST), RSET, _send(SECOND), QUIT)
BY_LMTP = (_send_lmtp(FIRST), _send_lmtp(SECOND), QUIT)
BY_LMTP_BDAT = (_send_lmtp_bdat(FIRST), _send_lmtp_bdat(SECOND), QUIT)

SESSIONS = [
    SessionCase("data", BY_DATA),
    SessionCase("data, one by one", ONE_BY_ONE, extensions=()),
    SessionCase("bdat", BY_BDAT),
    SessionCase("lmtp", BY_LMTP, "LMTP"),
    SessionCase("lmtp, bdat", BY_LMTP_BDAT, "LMTP"),
    SessionCase("bdat, eager", (_send_bdat(FIRST), QUIT), pipelining=Pipelining.EAGER),
    SessionCase("many", (_send_many(FIRST, SECOND, THIRD), QUIT)),
    SessionCase(
        "many, one by one", (_send_many(FIRST, SECOND, recipients=ONE), QUIT), extensions=()
    ),
    SessionCase(
        "many of all kinds",
        (Operation(_send_all_kinds, 4), QUIT),
        extensions=(*EVERYTHING, "BINARYMIME"),
    ),
    # The last one finds the window full, and so leaves in another write.
    SessionCase(
        "many, eager",
        (_send_many(FIRST, SECOND, THIRD, FOURTH, recipients=ONE), QUIT),
        pipelining=Pipelining.EAGER,
    ),
    SessionCase("many, lmtp", (_send_many(FIRST, SECOND, answers=2), QUIT), "LMTP"),
]

TLS_SESSIONS = [
    SessionCase("data, starttls", BY_DATA, tls_mode=TlsMode.STARTTLS),
    SessionCase("bdat, tls", (_send_bdat_in_chunks(FIRST), QUIT), tls_mode=TlsMode.IMPLICIT),
    SessionCase("lmtp, tls", (_send_lmtp(FIRST), QUIT), "LMTP", TlsMode.IMPLICIT),
    SessionCase(
        "many, tls",
        (_send_many(FIRST, SECOND, recipients=ONE), QUIT),
        tls_mode=TlsMode.IMPLICIT,
    ),
    SessionCase(
        "many, eager, tls",
        (_send_many(FIRST, SECOND, recipients=ONE), QUIT),
        tls_mode=TlsMode.IMPLICIT,
        pipelining=Pipelining.EAGER,
    ),
]


def _large(size: int) -> bytes:
    return b"x" * (size - 2) + b"\r\n"


# As many bytes as leave in one write of the driver's, and more; the sockets' buffers hold few.
LARGE_SESSIONS = [
    SessionCase("48 KB", (_send(_large(48_000)), QUIT), buffer=4096),
    SessionCase("100 KB", (_send(_large(100_000)), QUIT), buffer=4096),
    SessionCase("100 KB, bdat", (_send_bdat(_large(100_000)), QUIT), buffer=4096),
    SessionCase("48 KB, lmtp", (_send_lmtp(_large(48_000)), QUIT), "LMTP", buffer=4096),
    SessionCase(
        "100 KB, tls", (_send(_large(100_000)), QUIT), "SMTP", TlsMode.IMPLICIT, buffer=4096
    ),
    SessionCase("many of 48 KB", (_send_many(*[_large(48_000)] * 3), QUIT), buffer=4096),
    SessionCase(
        "many of 48 KB, eager",
        (_send_many(*[_large(48_000)] * 3), QUIT),
        buffer=4096,
        pipelining=Pipelining.EAGER,
    ),
]
