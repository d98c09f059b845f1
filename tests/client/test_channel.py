"""Several threads and one connection: each gets its own replies, and closing never waits."""

from __future__ import annotations

import faulthandler
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from smtpconn import (
    ConnectionClosedError,
    Envelope,
    Phase,
    ProtocolError,
    SendResult,
    SmtpConnection,
    SmtpTimeoutError,
    TlsMode,
    TransientError,
    ValidationError,
)
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates

ME = "me@example.com"
YOU = "you@example.com"
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"
TIMEOUT = 5.0
SHORT = 0.1
SIZE = 1_000_000

Call = Callable[[SmtpConnection], object]


def connect(server: SmtpServer) -> SmtpConnection:
    """Connect in clear."""
    return SmtpConnection.connect(server.host, server.port, TlsMode.NONE, TIMEOUT)


@contextmanager
def busy(server: SmtpServer, connection: SmtpConnection) -> Iterator[Future[None]]:
    """Another thread is in a NOOP that the server does not answer; it is closed at the end."""
    server.fault("NOOP", hang=True)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(connection.noop)
        try:
            server.wait_for(lambda: "NOOP" in server.connections[-1].commands)
            yield future
        finally:
            connection.close()


# --- Sharing --------------------------------------------------------------------------------------


REFUSED = "450 4.7.1 NOOP is refused"


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as the interpreter can; who hangs is shown where."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    # Before the suite's own limit, which mainly reports the main thread.
    faulthandler.dump_traceback_later(15, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        sys.setswitchinterval(interval)


class Worker:
    """One of the threads that share a connection; each of its operations has a reply of its own.

    Nothing that is answered to another thread, or to another of its commands, would pass: vrfy and
    recipients are named in their answers, NOOP is always refused, and nothing else ever is.
    """

    def __init__(self, connection: SmtpConnection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.sent: list[str] = []

    def work(self, rounds: int) -> None:
        """Do everything so often, in an order of its own."""
        deeds = [
            self.send, self.noop, self.rehlo, self.reset, self.look, self.ask, self.send_many,
        ]  # fmt: skip
        for turn in range(rounds):
            chance = random.Random(f"{self.number} {turn}")
            for deed in chance.sample(deeds, len(deeds)):
                deed(f"n{self.number}-{turn}")

    def send(self, name: str) -> None:
        """Whom the server refuses is named in its reply."""
        self._check(self.connection.send(ME, self._both(name), body(name)), name)
        self.sent.append(name)

    def send_many(self, name: str) -> None:
        """Two at once."""
        names = [f"{name}-{which}" for which in ("first", "second")]
        envelopes = [Envelope(ME, self._both(each), body(each)) for each in names]
        for each, outcome in zip(names, self.connection.send_many(envelopes), strict=True):
            self._check(outcome.result, each)
        self.sent += names

    def noop(self, name: str) -> None:
        """It is refused, and in its own words."""
        with pytest.raises(TransientError) as caught:
            self.connection.noop()
        assert caught.value.phase is Phase.NOOP
        assert str(caught.value.response) == REFUSED

    def rehlo(self, name: str) -> None:
        """What comes of it is looked at in `look`, mostly while another thread asks anew."""
        self.connection.rehlo()

    def reset(self, name: str) -> None:
        """It is never refused."""
        self.connection.reset()

    def ask(self, name: str) -> None:
        """The answer repeats what was asked, with the parameter of VRFY (RFC 6531 3.7.4.2)."""
        assert self.connection.vrfy(name).lines[-1].split()[-2:] == [name, "SMTPUTF8"]

    def look(self, name: str) -> None:
        """What the server offers is there whole at any time, and so is the description."""
        offered = self.connection.capabilities
        assert offered.supports_pipelining
        assert offered.size_limit == SIZE
        assert offered.extensions[-1].keyword == "BINARYMIME"
        assert "SmtpConnection" in repr(self.connection)

    @staticmethod
    def _both(name: str) -> list[str]:
        return [f"{kind}{name}@example.com" for kind in ("good", "bad")]

    def _check(self, result: object, name: str) -> None:
        assert isinstance(result, SendResult)
        good, bad = self._both(name)
        assert [str(path) for path in result.accepted_recipients] == [good]
        (rejected,) = result.rejected_recipients
        assert str(rejected.recipient) == bad
        assert bad in str(rejected.response)


def body(name: str) -> bytes:
    """A message that can be told from all others."""
    return f"Subject: {name}\r\n\r\n{name}\r\n".encode()


@pytest.mark.usefixtures("hasty")
def test_sixteen_threads_and_one_connection() -> None:
    """They mix operations; every reply reaches its caller, and every message arrives once."""
    threads, rounds = 16, 30
    start = threading.Barrier(threads)

    def work(worker: Worker) -> None:
        start.wait(TIMEOUT)
        worker.work(rounds)

    with (
        SmtpServer(size_limit=SIZE, recipient_known=lambda path: path.startswith("good")) as server,
        connect(server) as connection,
        ThreadPoolExecutor(threads) as executor,
    ):
        connection.timeout = 4 * TIMEOUT
        server.fault("NOOP", reply=REFUSED, times=None)
        workers = [Worker(connection, number) for number in range(threads)]
        for future in [executor.submit(work, worker) for worker in workers]:
            future.result()
        assert connection.is_open
        assert len(server.connections) == 1
        received = {message.recipients[0]: message.content for message in server.messages}
        names = [name for worker in workers for name in worker.sent]
        assert len(server.messages) == len(names) == threads * rounds * 3
        assert received == {f"good{name}@example.com": body(name) for name in names}


@pytest.mark.parametrize(
    ("call", "phase"),
    [
        (lambda c: c.send(ME, YOU, MESSAGE, SHORT), Phase.MAIL),
        (lambda c: c.noop(SHORT), Phase.NOOP),
        (lambda c: c.rehlo(SHORT), Phase.EHLO),
        (lambda c: c.quit(SHORT), Phase.QUIT),
    ],
)
def test_waiting_for_another_thread_counts(call: Call, phase: Phase) -> None:
    """Who cannot begin in time gets a timeout, has sent nothing, and has broken nothing."""
    inside, go_on = threading.Event(), threading.Event()

    def message() -> Iterator[bytes]:
        yield b"one\r\n"
        inside.set()
        assert go_on.wait(TIMEOUT)
        yield b"two\r\n"

    with (
        SmtpServer() as server,
        connect(server) as connection,
        ThreadPoolExecutor(1) as executor,
    ):
        sending = executor.submit(connection.send, ME, YOU, message())
        assert inside.wait(TIMEOUT)
        start = time.monotonic()
        with pytest.raises(SmtpTimeoutError, match="another thread") as caught:
            call(connection)
        assert SHORT <= time.monotonic() - start < SHORT + 0.5
        assert caught.value.phase is phase
        assert not caught.value.may_have_been_delivered
        assert connection.is_open
        go_on.set()
        sending.result()
        commands = list(server.connections[0].commands)
        assert [c[:4] for c in commands] == ["EHLO", "MAIL", "RCPT", "DATA"]
        connection.send(ME, YOU, MESSAGE)
        assert [m.content for m in server.messages] == [b"one\r\ntwo\r\n", MESSAGE]


# --- Closing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(TlsMode))
def test_closing_ends_another_threads_operation(certificates: Certificates, mode: TlsMode) -> None:
    """``close`` makes a hanging operation fail at once, and the descriptor is closed."""
    context = None if mode is TlsMode.NONE else certificates.server_context()
    made: list[socket.socket] = []

    def factory(host: str, port: int, seconds: float) -> socket.socket:
        made.append(socket.create_connection((host, port), seconds))
        return made[0]

    with SmtpServer(tls_context=context, implicit_tls=mode is TlsMode.IMPLICIT) as server:
        connection = SmtpConnection.connect(
            "localhost",
            server.port,
            mode,
            TIMEOUT,
            tls_context=certificates.client_context(),
            socket_factory=factory,
        )
        tls = connection.tls
        with busy(server, connection) as operation:
            start = time.monotonic()
            connection.close()
            assert not connection.is_open
            with pytest.raises(ConnectionClosedError, match="close") as caught:
                operation.result(TIMEOUT)
            assert time.monotonic() - start < 1
            assert caught.value.phase is Phase.NOOP
        assert (made[0] if tls is None else tls).fileno() == -1
        assert "closed: close() was called" in repr(connection)


def test_closing_while_content_is_written() -> None:
    """``close`` from another thread ends a message half-way; it was certainly not delivered."""
    inside, go_on = threading.Event(), threading.Event()

    def message() -> Iterator[bytes]:
        yield b"one\r\n"
        inside.set()
        assert go_on.wait(TIMEOUT)
        yield b"two\r\n" * 100_000

    with SmtpServer() as server, ThreadPoolExecutor(1) as executor:
        connection = connect(server)
        sending = executor.submit(connection.send, ME, YOU, message())
        assert inside.wait(TIMEOUT)
        connection.close()
        go_on.set()
        with pytest.raises(ConnectionClosedError) as caught:
            sending.result()
        assert not caught.value.may_have_been_delivered
        assert not connection.is_open
        server.wait_for(lambda: server.connections[0].closed)
        assert server.messages == []


def test_those_that_wait_are_told_too() -> None:
    """Threads that wait for their turn hear of the closing as well, and send nothing."""
    with SmtpServer() as server:
        connection = connect(server)
        with ThreadPoolExecutor(3) as executor, busy(server, connection) as operation:
            waiting = [executor.submit(connection.send, ME, YOU, MESSAGE) for _ in range(3)]
            connection.close()
            with pytest.raises(ConnectionClosedError):
                operation.result(TIMEOUT)
            for future in waiting:
                with pytest.raises(ConnectionClosedError):
                    future.result(TIMEOUT)
        assert server.connections[0].commands[1:] == ["NOOP"]


def test_taking_leave_of_a_busy_connection() -> None:
    """``quit_nowait`` hardly waits for another thread: it closes instead."""
    with SmtpServer() as server:
        connection = connect(server)
        with busy(server, connection) as operation:
            start = time.monotonic()
            connection.quit_nowait()
            assert time.monotonic() - start < 1
            with pytest.raises(ConnectionClosedError):
                operation.result(TIMEOUT)
        assert not connection.is_open


def test_leaving_the_block_while_another_thread_is_busy() -> None:
    """The end of the ``with`` block waits for a busy thread only so long, and then closes."""
    with SmtpServer() as server:
        connection = connect(server)
        with busy(server, connection) as operation:
            connection.timeout = SHORT
            start = time.monotonic()
            with connection:
                pass
            assert time.monotonic() - start < SHORT + 0.5
            assert not connection.is_open
            with pytest.raises(ConnectionClosedError):
                operation.result(TIMEOUT)


def test_many_threads_may_close() -> None:
    """Closing from many threads at once closes once, without an error."""
    with SmtpServer() as server:
        connection = connect(server)
        start = threading.Barrier(8)

        def close() -> None:
            start.wait(TIMEOUT)
            connection.close()

        with ThreadPoolExecutor(8) as executor:
            for future in [executor.submit(close) for _ in range(8)]:
                future.result()
        assert not connection.is_open


# --- The caller's own code inside an operation ----------------------------------------------------


@pytest.mark.parametrize(
    ("again", "phase"),
    [
        (SmtpConnection.noop, Phase.NOOP),
        (SmtpConnection.quit, Phase.QUIT),
        (lambda c: c.send(ME, YOU, MESSAGE), Phase.MAIL),
    ],
)
def test_calling_a_connection_from_inside_itself(again: Call, phase: Phase) -> None:
    """A message's iterable that calls its own connection is misuse, not a deadlock."""
    with SmtpServer() as server:
        connection = connect(server)

        def message() -> Iterator[bytes]:
            yield b"one\r\n"
            again(connection)

        start = time.monotonic()
        with pytest.raises(ProtocolError, match="from inside") as caught:
            connection.send(ME, YOU, message())
        assert time.monotonic() - start < 1
        assert caught.value.phase is phase
        assert not connection.is_open
        assert server.messages == []


def test_what_may_be_asked_from_inside() -> None:
    """Properties and ``repr`` never wait, so a message's iterable may ask them."""
    with SmtpServer() as server, connect(server) as connection:
        seen: list[object] = []

        def message() -> Iterator[bytes]:
            yield b"X-First: piece\r\n"
            seen.extend([repr(connection), connection.is_open, connection.is_idle])
            seen.append(connection.capabilities.supports_pipelining)
            yield MESSAGE

        connection.send(ME, YOU, message())
        assert "<locked>" in str(seen[0])
        assert seen[1:] == [True, False, True]
        assert len(server.messages) == 1


def test_closing_from_inside() -> None:
    """A message's iterable that closes its own connection ends the operation, undelivered."""
    with SmtpServer() as server:
        connection = connect(server)

        def message() -> Iterator[bytes]:
            yield b"one\r\n"
            connection.close()
            yield b"two\r\n" * 100_000

        with pytest.raises(ConnectionClosedError) as caught:
            connection.send(ME, YOU, message())
        assert not caught.value.may_have_been_delivered
        assert not connection.is_open
        assert server.messages == []


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, SystemExit, ValueError, OSError, StopAsyncIteration]
)
@pytest.mark.parametrize("verb", ["send", "send_bdat"])
def test_an_exception_inside_the_message(verb: str, kind: type[BaseException]) -> None:
    """What a message's iterable raises is propagated, and the connection closed, not half-used."""
    with SmtpServer() as server:
        connection = connect(server)
        error = kind("from inside")

        def message() -> Iterator[bytes]:
            yield b"one\r\n"
            raise error

        with pytest.raises(kind, match="from inside") as caught:
            getattr(connection, verb)(ME, YOU, message())
        assert caught.value is error
        assert not connection.is_open
        assert not connection.probe()
        with pytest.raises(ConnectionClosedError, match=kind.__name__):
            connection.noop()
        server.wait_for(lambda: server.connections[0].closed)
        assert server.messages == []


NOT_BYTES: Any = "a str"


def test_a_piece_that_is_no_bytes() -> None:
    """A message's iterable that yields a str is found out before it is sent as anything."""
    with SmtpServer() as server:
        connection = connect(server)
        with pytest.raises(ValidationError):
            connection.send(ME, YOU, iter([b"one\r\n", NOT_BYTES]))
        assert not connection.is_open
        assert server.messages == []
