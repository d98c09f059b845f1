"""The driver: any exchange over a transport, in sync or closed, and what it logs."""

from __future__ import annotations

import base64
import errno
import logging
import math
import select
import socket
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from smtpconn import (
    AuthError,
    ConnectionClosedError,
    ParseError,
    PermanentError,
    Phase,
    Pipelining,
    ProtocolError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TlsMode,
    TransientError,
    ValidationError,
)
from smtpconn.client.driver import WRITE_BUFFER, Driver
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.transport import Transport
from smtpconn.protocol.command import command
from smtpconn.protocol.exchange import CommandGroup, Exchange, Payload, StartTls
from smtpconn.protocol.session import SessionState
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.error_classes import kind_of
from tests.support.sockets import read_all
from tests.support.waiting import wait_until

TIMEOUT = 5.0
SMALL = 16 * 1024
OK = b"250 2.0.0 Ok\r\n"

Ends = tuple[Driver, socket.socket]


@contextmanager
def driver_and_peer(session: SessionState | None = None) -> Iterator[Ends]:
    """A driver and its peer, with small buffers between them."""
    left, right = socket.socketpair()
    with left, right:
        for sock in (left, right):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        right.settimeout(TIMEOUT)
        driver = Driver(Transport(left), session or SessionState(), "localhost", "peer:25", None)
        yield driver, right
        driver.close("the test is over")


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A driver and its peer."""
    with driver_and_peer() as made:
        yield made


def as_exchange(talk: Callable[..., Exchange[Any]]) -> Callable[..., Exchange[Any]]:
    """The same exchange as one of the package's, whose errors are no other code's."""
    assert isinstance(talk, types.FunctionType)
    names = {**talk.__globals__, "__name__": "smtpconn.protocol.of_a_test"}
    return types.FunctionType(
        talk.__code__, names, talk.__name__, talk.__defaults__, talk.__closure__
    )


def noops(count: int) -> Exchange[list[int]]:
    """Several NOOPs in one command group; returns the codes."""
    group = CommandGroup(tuple(command(Phase.NOOP, "NOOP") for _ in range(count)))
    yield group
    return [reply.code for reply in group.replies]


def content(*buffers: bytes, ends_message: bool = True) -> Exchange[int]:
    """Content; returns the code of its answer."""
    group = CommandGroup((Payload(buffers, ends_message=ends_message),))
    yield group
    return group.replies[0].code


def run(driver: Driver, exchange: Exchange[Any], timeout: float = TIMEOUT) -> Any:
    """Run an exchange."""
    return driver.run(exchange, Deadline(timeout))


# --- In sync --------------------------------------------------------------------------------------


def test_a_command_group_is_one_write(ends: Ends) -> None:
    """The whole group is sent before the first reply is read, and each command gets its reply."""
    driver, peer = ends

    def serve() -> bytes:
        data = read_all(peer, 18)
        peer.sendall(b"250 a\r\n500 b\r\n250-c\r\n250 c\r\n")
        return data

    with ThreadPoolExecutor(1) as executor:
        served = executor.submit(serve)
        assert run(driver, noops(3)) == [250, 500, 250]
        assert served.result() == b"NOOP\r\n" * 3
    assert driver.transport.is_open
    assert driver.closed_because == ""


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionResetError(errno.ECONNRESET, "gone")])
def test_an_answer_at_the_last_moment_counts(
    ends: Ends, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """A final reply that came with the end of the time, or of the connection, is the outcome."""
    driver, peer = ends
    over = 0.01

    class EndingTransport(Transport):
        """Its time, or its connection, ends when the answer has just come."""

        def receive(self, deadline: Deadline) -> bytes:
            """It has come, and cannot be read in time."""
            peer.sendall(OK)
            while deadline.remaining():
                select.select([], [], [], over)
            raise error

    monkeypatch.setattr(driver.transport, "__class__", EndingTransport)
    assert run(driver, content(b"hello\r\n.\r\n"), over) == 250
    assert driver.transport.is_open is isinstance(error, TimeoutError)


def test_full_duplex(ends: Ends) -> None:
    """Replies that arrive while a long group is being written are read; no deadlock."""
    driver, peer = ends
    count = 20_000

    def serve() -> None:
        # Each reply is longer than its command, and half of what was read is answered at once.
        unanswered = b""
        answered = 0
        while answered < count:
            unanswered += peer.recv(65536)
            lines = unanswered.count(b"\n")
            unanswered = unanswered.rpartition(b"\n")[2]
            peer.sendall(OK * lines)
            answered += lines

    with ThreadPoolExecutor(1) as executor:
        served = executor.submit(serve)
        assert run(driver, noops(count), 15) == [250] * count
        served.result()
    assert driver.transport.is_open


def test_a_message_has_its_time_from_its_own_first_byte(ends: Ends) -> None:
    """The content of the previous message in the same group does not use up its time."""
    driver, peer = ends
    order: list[str] = []

    class Noting(StreamDeadline):
        """A deadline that notes when a message begins."""

        def begin_messages(self, count: int = 1) -> None:
            order.append("begins")
            super().begin_messages()

    def buffers() -> Iterator[bytes]:
        order.append("content")
        yield b"hello\r\n.\r\n"

    def talk() -> Exchange[None]:
        mail = command(Phase.MAIL, "MAIL FROM:<>")
        yield CommandGroup((Payload(buffers()), mail), begins_message=True)

    peer.sendall(b"250 stored\r\n250 ok\r\n")
    driver.run(talk(), Noting(TIMEOUT))
    assert order == ["content", "begins"]


def test_a_reply_that_comes_while_writing_is_a_sign_of_life() -> None:
    """Under EAGER it proves the connection as one that was waited for does."""
    session = SessionState(pipelining=Pipelining.EAGER)
    long = bytes(1_000_000)

    def ask_and_write() -> Exchange[None]:
        yield CommandGroup((command(Phase.NOOP, "NOOP"), Payload((long,), replies=0)), waits=False)

    with driver_and_peer(session) as (driver, peer):

        def serve() -> None:
            read_all(peer, 6)
            peer.sendall(OK)
            # The rest only fits when it is read: the client blocks, and meets the reply.
            wait_until(lambda: session.recently_active)
            read_all(peer, len(long))

        driver._last_reply_at = -math.inf
        with ThreadPoolExecutor(1) as executor:
            served = executor.submit(serve)
            run(driver, ask_and_write())
            served.result()
        assert session.recently_active
        driver.mark_idle()
        assert session.recently_active


@pytest.mark.parametrize(
    "size", [0, 1, WRITE_BUFFER - 1, WRITE_BUFFER, WRITE_BUFFER + 1, 3 * WRITE_BUFFER]
)
def test_pieces_of_any_size_arrive_in_order(ends: Ends, size: int) -> None:
    """However pieces are put together into writes, the stream is the same."""
    driver, peer = ends
    buffers = (b"<", bytes(size), b"|", bytes(size), b">")

    def serve() -> bytes:
        data = read_all(peer, sum(map(len, buffers)))
        peer.sendall(OK)
        return data

    with ThreadPoolExecutor(1) as executor:
        served = executor.submit(serve)
        assert run(driver, content(*buffers)) == 250
        assert served.result() == b"".join(buffers)


@pytest.mark.parametrize(
    "error",
    [ValidationError("no"), PermanentError],
    ids=["validation", "refusal"],
)
def test_a_refusal_keeps_it_open(ends: Ends, error: object) -> None:
    """An exchange that ends in a refusal leaves both sides in sync."""
    driver, peer = ends
    peer.sendall(b"500 no\r\n")

    @as_exchange
    def talk() -> Exchange[None]:
        group = CommandGroup((command(Phase.NOOP, "NOOP"),))
        yield group
        if isinstance(error, SmtpError):
            raise error
        raise PermanentError(group.replies[0], phase=Phase.NOOP)

    with pytest.raises(SmtpError):
        run(driver, talk())
    assert driver.transport.is_open


def test_misuse_before_the_first_byte_keeps_it_open(ends: Ends) -> None:
    """A ProtocolError before anything was sent is about the call, not about the connection."""
    driver, _ = ends

    @as_exchange
    def talk(says_something: bool) -> Exchange[None]:
        if says_something:
            yield CommandGroup((command(Phase.NOOP, "NOOP", replies=0),))
        raise ProtocolError("misuse")

    with pytest.raises(ProtocolError):
        run(driver, talk(says_something=False))
    assert driver.transport.is_open
    with pytest.raises(ProtocolError):
        run(driver, talk(says_something=True))
    assert not driver.transport.is_open


# --- Out of sync ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "kind", "phase"),
    [
        (b"garbage\r\n", ParseError, Phase.NOOP),
        (b"421 bye\r\n", TransientError, Phase.NOOP),
        (b"250 a\r\n421 bye\r\n", TransientError, Phase.NOOP),
        (b"250 a\r\ngarbage\r\n", ParseError, Phase.NOOP),
    ],
)
def test_an_exchange_that_fails_closes_the_connection(
    ends: Ends, raw: bytes, kind: type[SmtpError], phase: Phase
) -> None:
    """A failure closes the transport before it is thrown into the exchange."""
    driver, peer = ends
    heard: list[SmtpError] = []

    def talk() -> Exchange[None]:
        try:
            yield from noops(3)
        except SmtpError as error:
            assert not driver.transport.is_open
            heard.append(error)
            raise

    peer.sendall(raw)
    with pytest.raises(kind) as caught:
        run(driver, talk())
    assert caught.value is heard[0]
    assert caught.value.phase is phase
    assert driver.closed_because == str(caught.value)
    assert (driver.shutdown_reply is not None) is (b"421" in raw)


def test_too_many_replies_close_but_do_not_undo(ends: Ends) -> None:
    """A reply too many in the same segment: the result stands, the transport is closed."""
    driver, peer = ends

    def serve() -> None:
        read_all(peer, 6)
        peer.sendall(OK * 2)

    with ThreadPoolExecutor(1) as executor:
        served = executor.submit(serve)
        assert run(driver, noops(1)) == [250]
        served.result()
    assert not driver.transport.is_open
    with pytest.raises(SmtpError):
        run(driver, noops(1))


def test_the_last_word_of_a_server_that_hangs_up_on_us(ends: Ends) -> None:
    """A refusal that came before the connection broke is told, not the broken connection."""
    driver, peer = ends
    peer.sendall(b"552 5.3.4 too big\r\n")
    peer.close()
    with pytest.raises(PermanentError, match="too big") as caught:
        run(driver, content(bytes(1_000_000)))
    assert caught.value.phase is Phase.CONTENT
    assert not caught.value.may_have_been_delivered
    assert not driver.transport.is_open


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize("ends_message", [True, False])
def test_what_may_have_been_delivered(ends: Ends, size: int, ends_message: bool) -> None:
    """Only a message whose last byte has left may have been delivered."""
    driver, _ = ends
    with pytest.raises(SmtpTimeoutError) as caught:
        run(driver, content(bytes(size), ends_message=ends_message), 0.1)
    assert caught.value.may_have_been_delivered is (ends_message and size == 10)
    assert caught.value.phase is Phase.CONTENT


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError, GeneratorExit])
def test_an_exception_in_content_closes(ends: Ends, error: type[BaseException]) -> None:
    """Whatever the source of the content raises, the transport is closed and it is propagated."""
    driver, _ = ends

    def buffers() -> Iterator[bytes]:
        yield b"one"
        raise error("from inside")

    def talk() -> Exchange[None]:
        yield CommandGroup((Payload(buffers()),))

    with pytest.raises(error, match="from inside"):
        run(driver, talk())
    assert not driver.transport.is_open


def test_a_closed_driver(ends: Ends) -> None:
    """Running anything on a closed transport says why it is closed."""
    driver, _ = ends
    driver.close("first reason")
    driver.close("second reason")
    with pytest.raises(ConnectionClosedError, match="peer:25 is closed: first reason"):
        run(driver, noops(1))


def test_an_interrupt(ends: Ends) -> None:
    """An interrupt from another thread is a ConnectionClosedError that says so."""
    driver, peer = ends
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(run, driver, noops(1))
        read_all(peer, 6)
        driver.interrupt()
        with pytest.raises(ConnectionClosedError, match=r"close\(\) was called"):
            running.result()
    assert not driver.transport.is_open


def test_tls_without_settings(ends: Ends) -> None:
    """A driver without TLS settings cannot start TLS, and does not go on in clear."""
    driver, _ = ends

    def talk() -> Exchange[None]:
        yield StartTls()

    with pytest.raises(ProtocolError, match="TLS"):
        run(driver, talk())
    assert not driver.transport.is_open


# --- Probing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "hangs_up", "kind"),
    [
        (b"", False, None),
        (b"", True, ConnectionClosedError),
        (b"421 bye\r\n", False, ConnectionClosedError),
        (b"250 hello\r\n", False, ProtocolError),
        (b"garbage\r\n", False, ParseError),
    ],
)
def test_a_probe(ends: Ends, raw: bytes, hangs_up: bool, kind: type[SmtpError] | None) -> None:
    """A probe finds, without waiting, whether the connection is still good."""
    driver, peer = ends
    if raw:
        peer.sendall(raw)
    if hangs_up:
        peer.close()
    error = driver.probe()
    assert kind_of(error) is kind
    assert driver.transport.is_open is (kind is None)
    if error is not None:
        assert error.phase is Phase.IDLE


@pytest.mark.parametrize("reply", [b"451 4.4.2 idle\r\n", b"554 5.4.0 idle\r\n"])
def test_a_refusal_after_a_message_that_was_sent_at_once(ends: Ends, reply: bytes) -> None:
    """It closes the idle connection: all replies to the message came in its operation."""
    driver, peer = ends

    def talk() -> Exchange[None]:
        yield CommandGroup(
            (command(Phase.MAIL, "MAIL FROM:<a@b.example>"), Payload((b"x",))), begins_message=True
        )

    peer.sendall(OK * 2)
    run(driver, talk())
    peer.sendall(reply)
    error = driver.probe()
    assert isinstance(error, ConnectionClosedError)
    assert error.is_transient


def test_half_a_reply_between_operations(ends: Ends) -> None:
    """An unsolicited partial line is not part of the reply to the next command."""
    driver, peer = ends
    peer.sendall(b"250 unso")
    error = driver.probe()
    assert isinstance(error, ProtocolError)
    assert error.phase is Phase.IDLE
    assert not driver.transport.is_open


# --- The wire log ---------------------------------------------------------------------------------

USER, PASSWORD = "user@example.com", "correct horse"


def plain(connection: SmtpConnection) -> None:
    """Log in with PLAIN."""
    connection.auth_plain(USER, PASSWORD)


def login(connection: SmtpConnection) -> None:
    """Log in with LOGIN."""
    connection.auth_login(USER, PASSWORD)


def secrets() -> list[str]:
    """The forms in which the password must not appear."""
    in_clear = [PASSWORD, f"\0{USER}\0{PASSWORD}", f"{USER}\0{PASSWORD}"]
    encoded = [base64.b64encode(text.encode()).decode() for text in in_clear]
    return in_clear[:1] + [text.rstrip("=")[:-1] for text in encoded]


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("log_in", [plain, login])
@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.STARTTLS])
def test_the_wire_log(
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
    mode: TlsMode,
    log_in: Callable[[SmtpConnection], None],
    is_right: bool,
) -> None:
    """Commands and replies are logged, secrets and content are not, in no form."""
    caplog.set_level(logging.DEBUG)
    users = {USER: PASSWORD if is_right else "another"}
    context = certificates.server_context() if mode is TlsMode.STARTTLS else None
    with (
        SmtpServer(users=users, tls_context=context) as server,
        SmtpConnection.connect(
            "localhost", server.port, mode, TIMEOUT, tls_context=certificates.client_context()
        ) as connection,
    ):
        if is_right:
            log_in(connection)
        else:
            with pytest.raises(AuthError) as caught:
                log_in(connection)
            assert not any(secret in str(caught.value) for secret in secrets())
        connection.send("me@example.com", "you@example.com", b"Subject: private matter\r\n")
        assert not any(secret in repr(connection) for secret in secrets())
    wire = [r.getMessage() for r in caplog.records if r.name == "smtpconn.wire"]
    text = "\n".join(wire)
    for expected in (
        "<- 220 mx.example.test ESMTP",
        "-> EHLO ",
        "<- 250-PIPELINING",
        "-> AUTH ",
        "<secret>",
        "<- 235 2.7.0" if is_right else "<- 535 5.7.8",
        "-> MAIL FROM:<me@example.com>",
        "-> RCPT TO:<you@example.com>",
        "<- 354 ",
        "-> <content>",
        "-> QUIT",
        "<- 221 2.0.0 Bye",
    ):
        assert expected in text
    assert ("== TLS from here on" in text) == (mode is TlsMode.STARTTLS)
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert not any(secret in everything for secret in secrets())
    assert "private matter" not in everything
    assert all(record.levelno <= logging.DEBUG for record in caplog.records)


def test_no_escape_sequence_comes_through(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the wire log nor in a repr can a server's words move a reader's cursor."""
    caplog.set_level(logging.DEBUG, "smtpconn")
    with SmtpServer() as server:
        server.fault("EHLO", reply="250-mx\n250-X \x9b2J\u202e\u2028\n250 SIZE")
        server.fault("NOOP", reply="250 \x1b[2J\x07\x7f")
        with SmtpConnection.connect(server.host, server.port, TlsMode.NONE, TIMEOUT) as connection:
            assert repr(connection).isprintable()
            connection.noop()
    assert len(caplog.records) > 5
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert "<- 250 \\x1b[2J" in caplog.text


def test_no_wire_log_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """At the usual level nothing is logged."""
    caplog.set_level(logging.INFO, "smtpconn")
    with (
        SmtpServer() as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, TIMEOUT) as connection,
    ):
        connection.noop()
    assert caplog.records == []


def test_a_reply_cannot_forge_log_lines(ends: Ends, caplog: pytest.LogCaptureFixture) -> None:
    """Every line of a record is one of the server's lines, marked as such."""
    caplog.set_level(logging.DEBUG, "smtpconn.wire")
    driver, peer = ends
    peer.sendall(b"250-one\r\n250-caf\xe9\r\n250 two\r\n")
    assert run(driver, noops(1)) == [250]
    lines = [record.getMessage().partition(" ")[2] for record in caplog.records]
    assert lines == ["-> NOOP", "<- 250-one", "<- 250-caf\\xe9", "<- 250 two"]
