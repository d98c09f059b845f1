"""Out of sync: no reply is given to the wrong command, and no content is read as commands.

Known attacks: unsolicited lines, BDAT refused before its bytes are read
(Exim's CVE-2017-16943 and its kin), QUIT sent before the message is acknowledged.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionClosedError,
    Envelope,
    PermanentError,
    Phase,
    Pipelining,
    ProtocolError,
    SendOutcome,
    SmtpConnection,
    SmtpError,
)
from tests.support.recording_servers import (
    ME,
    MESSAGE,
    TIMEOUT,
    YOU,
    Reader,
    Recorder,
    Script,
    connect,
    peer,
)

GREETING = b"220 mx.example.com\r\n"
EHLO = b"250-mx\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 8BITMIME\r\n"
STOLEN = b"250 2.0.0 stolen\r\n"

Call = Callable[[SmtpConnection], object]

NEXT: dict[str, Call] = {
    "vrfy": lambda c: c.vrfy("someone"),
    "noop": SmtpConnection.noop,
    "send": lambda c: c.send(ME, YOU, MESSAGE),
    "auth": lambda c: c.auth_external(),
    "rehlo": SmtpConnection.rehlo,
}


@pytest.mark.parametrize("extra", [STOLEN, b"250-st", b"2", b"\r\n", b"421 4.3.2 bye\r\n", b"\0"])
@pytest.mark.parametrize("call", NEXT)
def test_an_extra_reply_answers_no_command(call: str, extra: bytes) -> None:
    """Unsolicited data after a reply ends the connection; no operation gets it."""
    script = Script(GREETING, EHLO, b"250 2.0.0 ok\r\n" + extra, STOLEN, STOLEN, STOLEN)
    with peer(script.serve) as factory, connect(factory) as connection:
        connection.noop()
        assert not connection.is_open
        with pytest.raises(ConnectionClosedError):
            NEXT[call](connection)
    assert bytes(script.raw) == b"EHLO client.example.com\r\nNOOP\r\n"


@pytest.mark.parametrize("extra", [STOLEN, b"250-st", b"2", b"\r\n", b"421 4.3.2 bye\r\n", b""])
@pytest.mark.parametrize("call", NEXT)
def test_data_between_commands_answers_no_command(call: str, extra: bytes) -> None:
    """Data that arrives between commands is found before the next command is sent."""
    has_come = threading.Event()
    heard = bytearray()

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        for reply in (GREETING, EHLO):
            sock.sendall(reply)
            heard.extend(reader.until(b"\r\n"))
        sock.sendall(b"250 2.0.0 ok\r\n")
        go.wait(5)
        if extra:
            sock.sendall(extra)
        else:
            sock.shutdown(socket.SHUT_WR)
        has_come.set()
        while received := sock.recv(4096):
            heard.extend(received)

    go = threading.Event()
    with peer(serve) as factory, connect(factory) as connection:
        connection.noop()
        go.set()
        assert has_come.wait(5)
        with pytest.raises((ProtocolError, ConnectionClosedError)) as caught:
            NEXT[call](connection)
        assert not caught.value.may_have_been_delivered
        assert connection.is_shutting_down is extra.startswith(b"421")
    assert bytes(heard) == b"EHLO client.example.comNOOP"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_replies_too_many_in_a_group_end_in_an_error(count: int) -> None:
    """A pipelined group that gets more replies than it has commands closes the connection."""
    replies = b"250 ok\r\n250 ok\r\n354 go on\r\n"
    script = Script(GREETING, EHLO, b"250 ok\r\n" * count + replies)
    with peer(script.serve) as factory, connect(factory) as connection:
        with pytest.raises(SmtpError) as caught:
            connection.send(ME, YOU, MESSAGE)
        assert not caught.value.may_have_been_delivered
        assert not connection.is_open
    assert MESSAGE not in script.raw


@pytest.mark.parametrize("reply", [b"503 5.5.1 first MAIL\r\n", b"452 4.2.2 full\r\n"])
@pytest.mark.parametrize("how", ["send_bdat", "send"])
def test_content_that_is_refused_before_it_is_read(how: str, reply: bytes) -> None:
    """If the server refuses content that is still on its way, nothing follows: it may read it all
    as commands. The refusal is the message's answer, and the connection is closed."""
    raw: list[bytearray] = []
    content = b"RSET\r\nMAIL FROM:<admin@example.com>\r\n" * 200_000

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        raw.append(reader.raw)
        for said in (GREETING, EHLO):
            sock.sendall(said)
            reader.until(b"\r\n")
        reader.until(b"RCPT TO:<you@example.com>\r\n")
        sock.sendall(b"250 ok\r\n250 ok\r\n" + (b"354 go\r\n" if how == "send" else b""))
        reader.until(b"\r\n")
        sock.sendall(reply)
        while True:
            reader.exactly(1)

    with peer(serve) as factory, connect(factory) as connection:
        with pytest.raises(SmtpError) as caught:
            getattr(connection, how)(ME, YOU, content)
        assert str(reply[:3], "ascii") in str(caught.value)
        assert not caught.value.may_have_been_delivered
        assert not connection.is_open
    mark = b"DATA\r\n" if how == "send" else b" LAST\r\n"
    text = bytes(raw[0]).partition(mark)[2]
    assert content.startswith(text)
    assert len(text) < len(content)


def send_many(connection: SmtpConnection, *messages: bytes) -> list[SendOutcome]:
    """Send messages in one call."""
    return list(connection.send_many(Envelope(ME, [YOU], message) for message in messages))


@pytest.mark.parametrize("how", ["send_bdat", "send", "send_many"])
def test_no_content_without_a_recipient(how: str) -> None:
    """Where every recipient is refused, no BDAT and no content is sent at all."""
    refusals = b"250 ok\r\n550 5.1.1 no\r\n" + (b"" if how == "send_bdat" else b"554 no\r\n")
    script = Script(GREETING, EHLO, refusals)
    with peer(script.serve) as factory, connect(factory) as connection:
        if how == "send_many":
            (outcome,) = send_many(connection, MESSAGE)
            assert isinstance(outcome.error, AllRecipientsFailedError)
        else:
            with pytest.raises(AllRecipientsFailedError):
                getattr(connection, how)(ME, YOU, MESSAGE)
        connection.close()
    assert b"BDAT" not in script.raw
    assert MESSAGE not in script.raw


def test_a_trusted_server_that_reads_content_as_commands() -> None:
    """The hazard of EAGER: a server that refuses BDAT before it reads the bytes.

    Its replies to them are other messages' at first sight. Nothing is said for certain, and the
    connection is not used again.
    """
    content = b"hello\r\nthis is\r\nno command\r\n.\r\n"
    refused = b"250 ok\r\n550 5.1.1 no\r\n503 5.5.1 no recipient\r\n"
    what = b"500 5.5.2 what?\r\n" * content.count(b"\n")
    taken = b"250 reset\r\n250 ok\r\n250 ok\r\n250 2.0.0 taken\r\n"
    script = Script(GREETING, EHLO, refused + what + taken)
    with peer(script.serve) as factory:
        connection = connect(factory, pipelining=Pipelining.EAGER)
        first, second = send_many(connection, content, MESSAGE)
        assert not connection.is_open
    for outcome in (first, second):
        assert isinstance(outcome.error, ProtocolError)
        assert outcome.error.may_have_been_delivered
    assert MESSAGE in script.raw


def test_the_same_where_its_replies_come_one_by_one() -> None:
    """What is told before it is found out is what the server said; the next is unknown: what seems
    to refuse RSET may refuse content that was read as a command."""

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        for said in (GREETING, EHLO):
            sock.sendall(said)
            reader.until(b"\r\n")
        reader.until(MESSAGE)
        sock.sendall(b"250 ok\r\n550 5.1.1 no\r\n503 5.5.1 no recipient\r\n")
        assert told.wait(TIMEOUT)
        sock.sendall(b"500 5.5.2 what?\r\n" * 4)
        reader.exactly(1)

    told = threading.Event()
    with peer(serve) as factory:
        connection = connect(factory, pipelining=Pipelining.EAGER)
        outcomes = connection.send_many(Envelope(ME, [YOU], m) for m in (b"hello\r\n", MESSAGE))
        assert isinstance(next(outcomes).error, AllRecipientsFailedError)
        told.set()
        error = next(outcomes).error
        assert isinstance(error, ConnectionClosedError)
        assert error.phase is Phase.RSET
        assert error.may_have_been_delivered
        assert list(outcomes) == []
        assert not connection.is_open


def test_a_refused_chunk_is_the_last() -> None:
    """After a refused BDAT the stream stays here but for what was on its way (RFC 3030 2)."""
    heard: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        for said in (GREETING, EHLO):
            sock.sendall(said)
            reader.until(b"\r\n")
        reader.until(b"RCPT TO:<you@example.com>\r\n")
        sock.sendall(b"250 ok\r\n250 ok\r\n")
        size = int(reader.until(b"\r\n").split()[1])
        reader.exactly(size)
        sock.sendall(b"552 5.3.4 too big\r\n")
        size = int(reader.until(b"\r\n").split()[1])
        reader.exactly(size)
        sock.sendall(b"503 5.5.1 no\r\n")
        heard.append(reader.until(b"\r\n"))
        sock.sendall(b"250 ok\r\n")

    with peer(serve) as factory, connect(factory) as connection:
        with pytest.raises(PermanentError):
            connection.send_bdat(ME, YOU, (b"x" * 1024 * 1024 for _ in range(9)))
        connection.reset()
        connection.close()
    assert heard == [b"RSET"]


@pytest.mark.parametrize("how", ["send", "send_bdat"])
def test_quit_waits_for_the_message(how: str) -> None:
    """QUIT is sent when the message is acknowledged, never right behind it."""
    early: list[bool] = []

    class Slow(Recorder):
        def _taken(self) -> bytes:
            early.append(bool(select.select([self.sock], [], [], 0.1)[0]))
            return super()._taken()

        def serve(self, sock: socket.socket) -> None:
            self.sock = sock
            super().serve(sock)

    recorder = Slow()
    with peer(recorder.serve) as factory, connect(factory) as connection:
        getattr(connection, how)(ME, YOU, MESSAGE)
    assert early == [False]
    assert recorder.verbs[-1] == b"QUIT"


@pytest.mark.parametrize("farewell", [b"", b"500 what?\r\n", b"\0", b"421 bye\r\n"])
def test_a_failed_quit_does_not_change_the_result(farewell: bytes) -> None:
    """An acknowledged message stays delivered, whatever the reply to QUIT."""

    class UnsolicitedSender(Recorder):
        def _answer(self, line: bytes, reader: Reader, sock: socket.socket) -> bytes:
            return farewell if line == b"QUIT" else super()._answer(line, reader, sock)

    recorder = UnsolicitedSender()
    with peer(recorder.serve) as factory:
        with connect(factory) as connection:
            result = connection.send(ME, YOU, MESSAGE)
        assert result.response.code == 250
    assert recorder.verbs[-1] == b"QUIT"
