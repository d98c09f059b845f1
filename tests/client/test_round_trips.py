"""The number of round trips, counted by a server that replies only to a silent client.

The server replies when it has read everything and the client has then been silent for a while. So
each of its writes is one round trip, independent of TCP segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from smtpconn import AllRecipientsFailedError, Envelope, Pipelining, SmtpConnection, TlsMode
from smtpconn.model.content import CHUNK
from smtpconn.protocol.transaction import EAGER_CAP
from smtpconn.testing import SmtpServer
from tests.support.error_classes import kind_of

PAUSE = 0.03
EVERYTHING = ("PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME")
WITHOUT_PIPELINING = EVERYTHING[1:]
THREE = ["one@example.com", "two@example.com", "three@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"

Send = Callable[[SmtpConnection], object]


@pytest.fixture(autouse=True)
def no_idle_spells(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a second may pass between two lines of a test."""
    monkeypatch.setattr("smtpconn.client.driver.IDLE_AFTER", 60.0)


def send(connection: SmtpConnection) -> object:
    """With DATA."""
    return connection.send("me@example.com", THREE, MESSAGE)


def send_bdat(connection: SmtpConnection) -> object:
    """With BDAT."""
    return connection.send_bdat("me@example.com", THREE, MESSAGE)


def send_lmtp(connection: SmtpConnection) -> object:
    """With LMTP's DATA."""
    return connection.send_lmtp("me@example.com", THREE, MESSAGE)


def send_lmtp_bdat(connection: SmtpConnection) -> object:
    """With LMTP's BDAT."""
    return connection.send_lmtp_bdat("me@example.com", THREE, MESSAGE)


def send_a_long_one(connection: SmtpConnection) -> object:
    """With BDAT, longer than what may be spent on recipients that are perhaps refused."""
    return connection.send_bdat("me@example.com", THREE, b"x" * EAGER_CAP + b"\r\n")


def after_an_idle_spell(connection: SmtpConnection) -> object:
    """With BDAT, over a connection that has been silent for long."""
    connection._channel.driver._last_reply_at = -math.inf
    return send_bdat(connection)


def send_five_chunks(connection: SmtpConnection) -> object:
    """With BDAT, in as many chunks."""
    pieces = [b"x" * CHUNK] * 4 + [b"the end\r\n"]
    return connection.send_bdat("me@example.com", THREE, iter(pieces))


def turns(server: SmtpServer, connection: SmtpConnection, call: Send) -> int:
    """How many round trips a call takes."""
    before = server.connections[0].turns
    call(connection)
    return server.connections[0].turns - before


@pytest.mark.parametrize(
    ("extensions", "pipelining", "call", "expected"),
    [
        (EVERYTHING, Pipelining.AUTO, send, 2),
        (WITHOUT_PIPELINING, Pipelining.AUTO, send, 6),
        (EVERYTHING, Pipelining.OFF, send, 6),
        (EVERYTHING, Pipelining.AUTO, send_bdat, 2),
        (WITHOUT_PIPELINING, Pipelining.AUTO, send_bdat, 5),
        (EVERYTHING, Pipelining.OFF, send_bdat, 5),
        (EVERYTHING, Pipelining.EAGER, send, 2),
        (EVERYTHING, Pipelining.EAGER, send_bdat, 1),
        (EVERYTHING, Pipelining.EAGER, send_a_long_one, 2),
        (EVERYTHING, Pipelining.EAGER, after_an_idle_spell, 2),
        (WITHOUT_PIPELINING, Pipelining.EAGER, send_bdat, 5),
    ],
)
def test_round_trips_of_a_message_to_three(
    extensions: tuple[str, ...], pipelining: Pipelining, call: Send, expected: int
) -> None:
    """Two with PIPELINING; one per command and one for the content without.

    Under EAGER a short message has one, over a connection that was used just now.
    """
    with (
        SmtpServer(extensions=extensions, answer_after_pause=PAUSE) as server,
        SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, 10, pipelining=pipelining
        ) as connection,
    ):
        assert turns(server, connection, call) == expected
        assert len(server.messages) == 1


@pytest.mark.parametrize(("pipelining", "expected"), [(Pipelining.AUTO, 4), (Pipelining.OFF, 9)])
def test_round_trips_of_chunks(pipelining: Pipelining, expected: int) -> None:
    """With PIPELINING the first four of five need two, because each leaves before the one before
    it is answered; the last one waits for them.
    """
    with (
        # Longer than it takes to put a chunk together, on a busy machine too.
        SmtpServer(extensions=EVERYTHING, answer_after_pause=5 * PAUSE) as server,
        SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, 10, pipelining=pipelining
        ) as connection,
    ):
        assert turns(server, connection, send_five_chunks) == expected
        assert len(server.messages) == 1


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
@pytest.mark.parametrize("call", [send_lmtp, send_lmtp_bdat])
def test_round_trips_of_a_delivery_to_three(call: Send, pipelining: Pipelining) -> None:
    """LMTP answers three times, in one turn; its content waits for the recipients, always."""
    with (
        SmtpServer(protocol="LMTP", answer_after_pause=PAUSE) as server,
        SmtpConnection.connect_lmtp(
            server.host, server.port, TlsMode.NONE, 10, pipelining=pipelining
        ) as connection,
    ):
        assert turns(server, connection, call) == 2
        assert len(server.messages) == 3


def send_many(connection: SmtpConnection, count: int) -> None:
    """``count`` messages with `send_many`; the fourth of each five has no valid recipient."""
    nobody = ["nobody@example.com"]
    outcomes = connection.send_many(
        Envelope(f"{n}@example.com", nobody if n % 5 == 3 else THREE, MESSAGE) for n in range(count)
    )
    errors = [kind_of(outcome.error) for outcome in outcomes]
    five = [None] * 3 + [AllRecipientsFailedError, None]
    assert errors == five * (count // 5)


@pytest.mark.parametrize(
    ("protocol", "extensions", "pipelining", "count", "expected"),
    [
        ("SMTP", EVERYTHING, Pipelining.AUTO, 20, 21),
        ("SMTP", EVERYTHING, Pipelining.EAGER, 20, 1),
        ("SMTP", EVERYTHING[:-2], Pipelining.EAGER, 20, 21),
        ("LMTP", EVERYTHING, Pipelining.AUTO, 20, 21),
        ("LMTP", EVERYTHING, Pipelining.EAGER, 20, 21),
        ("SMTP", EVERYTHING, Pipelining.OFF, 5, 4 * 6 + 3),
        ("SMTP", WITHOUT_PIPELINING, Pipelining.EAGER, 5, 4 * 6 + 3),
    ],
)
def test_round_trips_of_many_messages(
    protocol: str, extensions: tuple[str, ...], pipelining: Pipelining, count: int, expected: int
) -> None:
    """One for each and one more: the content of each leaves with the envelope of the next.

    Under EAGER all leave together. Without PIPELINING each has what it has alone, which for one
    that is refused is MAIL, RCPT, and the RSET before the next.
    """
    connect = SmtpConnection.connect if protocol == "SMTP" else SmtpConnection.connect_lmtp
    with (
        SmtpServer(
            protocol=protocol,
            extensions=extensions,
            answer_after_pause=PAUSE,
            recipient_known=lambda path: not path.startswith("nobody"),
        ) as server,
        connect(server.host, server.port, TlsMode.NONE, 10, pipelining=pipelining) as connection,
    ):
        assert turns(server, connection, lambda c: send_many(c, count)) == expected
        assert len(server.messages) == count * 4 // 5 * (3 if protocol == "LMTP" else 1)


def test_round_trips_of_two_hundred_messages_at_once() -> None:
    """Far fewer than messages: replies to those before arrive while others leave."""
    with (
        SmtpServer(answer_after_pause=PAUSE) as server,
        SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, 10, pipelining=Pipelining.EAGER
        ) as connection,
    ):
        many = [Envelope(f"{n}@example.com", THREE, b"x" * 5000 + b"\r\n") for n in range(200)]
        assert turns(server, connection, lambda c: list(c.send_many(many))) <= 20
        assert len(server.messages) == 200


def test_a_reset_costs_no_round_trip() -> None:
    """After a failure RSET goes in the same group as the next MAIL."""
    with (
        SmtpServer(answer_after_pause=PAUSE) as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 10) as connection,
    ):
        server.fault("CONTENT", reply="450 4.2.0 later")
        with pytest.raises(OSError, match="later"):
            send(connection)
        assert turns(server, connection, send) == 2
        assert server.connections[0].commands[-6] == "RSET"


@pytest.mark.parametrize(("password_bytes", "expected"), [(100, 1), (600, 2)])
def test_round_trips_of_a_login(password_bytes: int, expected: int) -> None:
    """One if the whole line has room, two if not (RFC 4954 4)."""
    password = "x" * password_bytes
    with (
        SmtpServer(users={"user": password}, answer_after_pause=PAUSE) as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 10) as connection,
    ):
        assert turns(server, connection, lambda c: c.auth_plain("user", password)) == expected


def test_round_trips_of_connecting() -> None:
    """The greeting, which is no answer, and EHLO: one."""
    with (
        SmtpServer(answer_after_pause=PAUSE) as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 10),
    ):
        assert server.connections[0].turns == 1
