"""How often the client waits for the server: counted by a server that answers only a silent client.

The server answers when it has read everything and the client has then been silent for a while, so
each of its writes is one round trip, however the octets were cut into segments.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn import Pipelining, SmtpConnection, TlsMode
from smtpconn.testing import SmtpServer

PAUSE = 0.03
EVERYTHING = ("PIPELINING", "SIZE 1000000", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME")
WITHOUT_PIPELINING = EVERYTHING[1:]
THREE = ["one@example.com", "two@example.com", "three@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"

Send = Callable[[SmtpConnection], object]


def send(connection: SmtpConnection) -> object:
    """With DATA."""
    return connection.send("me@example.com", THREE, MESSAGE)


def send_bdat(connection: SmtpConnection) -> object:
    """With BDAT."""
    return connection.send_bdat("me@example.com", THREE, MESSAGE)


def send_lmtp(connection: SmtpConnection) -> object:
    """With LMTP's DATA."""
    return connection.send_lmtp("me@example.com", THREE, MESSAGE)


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
    ],
)
def test_round_trips_of_a_message_to_three(
    extensions: tuple[str, ...], pipelining: Pipelining, call: Send, expected: int
) -> None:
    """Two with PIPELINING; one per command and one for the content without."""
    with (
        SmtpServer(extensions=extensions, answer_after_pause=PAUSE) as server,
        SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, 10, pipelining=pipelining
        ) as connection,
    ):
        assert turns(server, connection, call) == expected
        assert len(server.messages) == 1


def test_round_trips_of_a_delivery_to_three() -> None:
    """LMTP answers three times, in one turn."""
    with (
        SmtpServer(protocol="LMTP", answer_after_pause=PAUSE) as server,
        SmtpConnection.connect_lmtp(server.host, server.port, TlsMode.NONE, 10) as connection,
    ):
        assert turns(server, connection, send_lmtp) == 2
        assert len(server.messages) == 3


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


@pytest.mark.parametrize(("password_octets", "expected"), [(100, 1), (600, 2)])
def test_round_trips_of_a_login(password_octets: int, expected: int) -> None:
    """One if the whole line has room, two if not (RFC 4954 4)."""
    password = "x" * password_octets
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
