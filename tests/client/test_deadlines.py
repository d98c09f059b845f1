"""Every wait in the package ends by its deadline, whatever happens while it waits.

`WAITS` lists the blocking primitives; docs/reliability.md has the same list with the other tests of
each. What is done to them here: signals that are handled in the waiting thread all the time, and
other threads that want the same lock. Peers that drip or flood are below.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from smtpconn import (
    Action,
    ConnectionPool,
    Envelope,
    OAuthCredentials,
    PasswordCredentials,
    Phase,
    PoolEvent,
    PoolTimeoutError,
    ProtocolError,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TlsMode,
    get_pool,
)
from smtpconn.client.driver import DRAIN_TIMEOUT, Driver
from smtpconn.contrib.logging import PooledSmtpHandler
from smtpconn.net.deadline import Deadline
from smtpconn.net.transport import Transport
from smtpconn.protocol import single_command
from smtpconn.protocol.session import SessionState
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates

ME = "me@example.com"
YOU = "you@example.com"
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"
TIMEOUT = 0.2
SLACK = 2.0
LONG_TIMEOUT = 10.0

Wait = Callable[[], object]


class Harness:
    """Where a wait takes place: makes servers and connections, and ends them.

    Args:
        stack: ends everything.
        certificates: of servers with TLS.
        monkeypatch: for a resolver that does not answer.
        directory: for UNIX sockets.
    """

    def __init__(
        self,
        stack: ExitStack,
        certificates: Certificates,
        monkeypatch: pytest.MonkeyPatch,
        directory: Path,
    ) -> None:
        self.stack = stack
        self.certificates = certificates
        self.monkeypatch = monkeypatch
        self.directory = directory

    def server(self, **options: Any) -> SmtpServer:
        """A server of the test."""
        return self.stack.enter_context(SmtpServer(**options))

    def connect(self, server: SmtpServer) -> SmtpConnection:
        """A connection to it, closed at the end."""
        connection = server_config(server, self.certificates).connect()
        self.stack.callback(connection.close)
        return connection

    def pool(self, server: SmtpServer, **options: Any) -> ConnectionPool:
        """A pool of connections to it, closed at the end."""
        pool = ConnectionPool(server.url, keepalive=None, **options)
        self.stack.callback(pool.close, 0)
        return pool

    def listener(self) -> socket.socket:
        """A socket that listens and does nothing more."""
        return self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))


def server_config(server: SmtpServer, certificates: Certificates) -> ServerConfig:
    """How to connect to a server of the test."""
    return ServerConfig.from_url(server.url, tls_context=certificates.client_context())


@pytest.fixture
def harness(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Harness]:
    """Where a wait takes place."""
    with ExitStack() as stack:
        yield Harness(stack, certificates, monkeypatch, tmp_path)


# The waits: each prepares everything and returns what waits for TIMEOUT seconds


def reply_in_clear(harness: Harness) -> Wait:
    """``recv``: a reply that does not come."""
    server = harness.server()
    server.fault("NOOP", hang=True)
    connection = harness.connect(server)
    return lambda: connection.noop(TIMEOUT)


def reply_under_tls(harness: Harness) -> Wait:
    """``SSL_read``: the same under TLS."""
    server = harness.server(tls_context=harness.certificates.server_context(), implicit_tls=True)
    server.fault("NOOP", hang=True)
    connection = harness.connect(server)
    return lambda: connection.noop(TIMEOUT)


def reply_over_a_unix_socket(harness: Harness) -> Wait:
    """``recv`` of a UNIX socket."""
    server = harness.server(protocol="LMTP", unix_path=str(harness.directory / "s"))
    server.fault("NOOP", hang=True)
    connection = harness.connect(server)
    return lambda: connection.noop(TIMEOUT)


def greeting(harness: Harness) -> Wait:
    """A server whose kernel connects, and that says nothing."""
    host, port = harness.listener().getsockname()
    return lambda: SmtpConnection.connect(host, port, TlsMode.NONE, TIMEOUT)


def tls_handshake(harness: Harness) -> Wait:
    """The same where TLS comes first."""
    host, port = harness.listener().getsockname()
    return lambda: SmtpConnection.connect(host, port, TlsMode.IMPLICIT, TIMEOUT)


def write_in_clear(harness: Harness) -> Wait:
    """``send`` to a peer that reads nothing: a window of zero."""
    return _write(harness, None)


def write_under_tls(harness: Harness) -> Wait:
    """``SSL_write`` to a peer that reads nothing."""
    return _write(harness, harness.certificates.server_context())


def _write(harness: Harness, context: ssl.SSLContext | None) -> Wait:
    transport, _ = harness.stack.enter_context(transport_and_peer(harness.certificates, context))
    return lambda: transport.write(bytes(50_000_000), Deadline(TIMEOUT), _ignore, _ignore)


def connecting(harness: Harness) -> Wait:
    """A server whose queue of connections is full."""
    full = harness.stack.enter_context(socket.socket())
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    for _ in range(4):
        waiting = harness.stack.enter_context(socket.socket())
        waiting.setblocking(False)
        waiting.connect_ex(full.getsockname())
    host, port = full.getsockname()
    return lambda: SmtpConnection.connect(host, port, TlsMode.NONE, TIMEOUT)


def resolving(harness: Harness) -> Wait:
    """A name server that does not answer."""
    answers = threading.Event()
    harness.stack.callback(answers.set)

    def getaddrinfo(*given: Any, **options: Any) -> list[Any]:
        if not options.get("flags"):
            answers.wait(LONG_TIMEOUT)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    harness.monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return lambda: SmtpConnection.connect("mx.example.test", 25, TlsMode.NONE, TIMEOUT)


def logging_in(harness: Harness) -> Wait:
    """A login that is not answered, within connecting."""
    server = harness.server(users={"user": "secret"})
    server.fault("AUTH", hang=True)
    config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "secret"))
    return lambda: config.connect(TIMEOUT)


def lock_of_a_connection(harness: Harness) -> Wait:
    """Another thread's operation that does not end."""
    server = harness.server()
    server.fault("NOOP", hang=True)
    connection = harness.connect(server)
    executor = harness.stack.enter_context(ThreadPoolExecutor(1))
    harness.stack.callback(connection.close)
    executor.submit(connection.noop)
    server.wait_for(lambda: "NOOP" in server.connections[-1].commands)
    return lambda: connection.send(ME, YOU, MESSAGE, TIMEOUT)


def message_of_many(harness: Harness) -> Wait:
    """`SmtpConnection.send_many` with a server that does not answer the content."""
    server = harness.server()
    server.fault("CONTENT", hang=True)
    connection = harness.connect(server)

    def wait() -> None:
        [outcome] = connection.send_many([Envelope(ME, [YOU], MESSAGE)], TIMEOUT)
        assert outcome.error is not None
        raise outcome.error

    return wait


def connection_of_a_pool(harness: Harness) -> Wait:
    """A pool all of whose connections are in use."""
    pool = harness.pool(harness.server(), max_size=1)
    harness.stack.enter_context(pool.connection())
    return lambda: pool.send(ME, YOU, MESSAGE, timeout=TIMEOUT)


def connect_of_a_pool(harness: Harness) -> Wait:
    """A pool that makes a connection to a server that says nothing."""
    host, port = harness.listener().getsockname()
    pool = ConnectionPool(f"smtp://{host}:{port}", keepalive=None)
    harness.stack.callback(pool.close, 0)
    return lambda: pool.send(ME, YOU, MESSAGE, timeout=TIMEOUT)


def fan_out(harness: Harness) -> Wait:
    """`ConnectionPool.send_many`, which waits for its threads."""
    server = harness.server()
    server.fault("CONTENT", hang=True)
    pool = harness.pool(server, max_size=2)

    def wait() -> None:
        [outcome] = pool.send_many([Envelope(ME, [YOU], MESSAGE)], timeout=TIMEOUT)
        assert outcome.error is not None
        raise outcome.error

    return wait


WAITS = [
    reply_in_clear,
    reply_under_tls,
    reply_over_a_unix_socket,
    greeting,
    tls_handshake,
    write_in_clear,
    write_under_tls,
    connecting,
    resolving,
    logging_in,
    lock_of_a_connection,
    message_of_many,
    connection_of_a_pool,
    connect_of_a_pool,
    fan_out,
]


@contextmanager
def signals(every: float = 0.005) -> Iterator[list[int]]:
    """Signals with a Python handler, to this thread again and again; yields those handled.

    They end by themselves some seconds later, so that a wait they postpone is a test that fails and
    not one that hangs.
    """
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
    over, thread = threading.Event(), threading.get_ident()

    def feed() -> None:
        end = time.monotonic() + 5
        while not over.wait(every) and time.monotonic() < end:
            signal.pthread_kill(thread, signal.SIGUSR1)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield handled
    finally:
        over.set()
        feeder.join()
        signal.signal(signal.SIGUSR1, before)


def seconds_of(wait: Wait) -> float:
    """How long it takes until the timeout."""
    begun = time.monotonic()
    with pytest.raises((SmtpTimeoutError, PoolTimeoutError, TimeoutError)):
        wait()
    return time.monotonic() - begun


@pytest.mark.parametrize("prepare", WAITS, ids=lambda wait: wait.__name__)
def test_signals_do_not_postpone_it(harness: Harness, prepare: Callable[[Harness], Wait]) -> None:
    """Handlers run while it waits, and it ends in time all the same."""
    wait = prepare(harness)
    with signals() as handled:
        assert TIMEOUT * 0.9 <= seconds_of(wait) < TIMEOUT + SLACK
    assert len(handled) > 1


def test_signals_to_another_thread(harness: Harness) -> None:
    """Python runs handlers in the main thread only, but the kernel interrupts any thread's call."""
    wait = reply_in_clear(harness)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(seconds_of, wait)
            [waiter] = [t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name]
            assert waiter.ident is not None
            end = time.monotonic() + 5
            while not waiting.done() and time.monotonic() < end:
                signal.pthread_kill(waiter.ident, signal.SIGUSR1)
                time.sleep(0.005)  # the rate limiter of the signals
            assert waiting.result() < TIMEOUT + SLACK
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signals_and_the_rate_limiter(harness: Harness) -> None:
    """Waiting for one's turn by ``max_rate`` is not stretched, and not cut short."""
    pool = harness.pool(harness.server(), max_rate=1 / TIMEOUT)
    pool.send(ME, YOU, MESSAGE)
    begun = time.monotonic()
    with signals() as handled:
        pool.send(ME, YOU, MESSAGE, timeout=LONG_TIMEOUT)
    assert TIMEOUT / 2 < time.monotonic() - begun < TIMEOUT + SLACK
    assert handled
    with pytest.raises(PoolTimeoutError, match=r"within 0\.01 s"):
        pool.send(ME, YOU, MESSAGE, timeout=0.01)


@pytest.mark.parametrize("end", ["quit", "with", "quit_nowait"])
def test_signals_while_leaving(harness: Harness, end: str) -> None:
    """A server that does not answer QUIT delays no caller beyond its limit."""
    server = harness.server()
    server.fault("QUIT", hang=True)
    connection = harness.connect(server)
    connection.timeout = TIMEOUT
    begun = time.monotonic()
    with signals():
        if end == "quit":
            connection.quit(TIMEOUT)
        elif end == "quit_nowait":
            connection.quit_nowait()
        else:
            with connection:
                pass
    assert time.monotonic() - begun < TIMEOUT + SLACK
    assert not connection.is_open


def test_signals_while_a_pool_closes(harness: Harness) -> None:
    """Leases that stay out are waited for as long as told."""
    pool = harness.pool(harness.server())
    with pool.connection(), signals():
        begun = time.monotonic()
        pool.close(TIMEOUT)
        assert TIMEOUT * 0.9 <= time.monotonic() - begun < TIMEOUT + SLACK


def test_a_keepalive_that_is_not_answered(harness: Harness) -> None:
    """A server that does not answer a NOOP costs the maintenance thread a bounded time."""
    harness.monkeypatch.setattr("smtpconn.pool.core.NOOP_TIMEOUT", TIMEOUT)
    server = harness.server()
    server.fault("NOOP", hang=True)
    given_up = threading.Event()

    def hook(event: PoolEvent) -> None:
        if event.action is Action.NOOP and event.error is not None:
            given_up.set()

    with ConnectionPool(server.url, keepalive=0.01, on_event=hook) as pool:
        pool.send(ME, YOU, MESSAGE)
        assert given_up.wait(TIMEOUT + SLACK)
        # Another caller is served during and after that.
        pool.send(ME, YOU, MESSAGE, timeout=LONG_TIMEOUT)
        assert pool.stats().discards == {"keepalive failed": 1}


@pytest.mark.parametrize("end", ["flush", "close"])
def test_signals_while_log_records_are_mailed(harness: Harness, end: str) -> None:
    """The logging handler waits for a server that does not answer as long as told."""
    server = harness.server()
    server.fault("CONTENT", hang=True)
    handler = PooledSmtpHandler(
        ServerConfig.from_url(server.url),
        ME,
        [YOU],
        "log",
        timeout=TIMEOUT * 3,
        close_timeout=TIMEOUT,
    )
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    handler.emit(logging.makeLogRecord({"msg": "hello", "levelno": logging.ERROR}))
    begun = time.monotonic()
    with signals():
        getattr(handler, end)()
    assert time.monotonic() - begun < TIMEOUT + SLACK
    handler.close()


# Lock contention


def test_a_lock_that_many_threads_want(harness: Harness) -> None:
    """Each of many threads that want one connection gives up at its own deadline."""
    server = harness.server()
    server.fault("NOOP", hang=True)
    connection = harness.connect(server)
    with ThreadPoolExecutor(9) as executor:
        executor.submit(connection.noop, LONG_TIMEOUT)
        server.wait_for(lambda: "NOOP" in server.connections[-1].commands)
        waits = [lambda n=n: connection.noop(TIMEOUT * n / 4) for n in range(1, 9)]
        for n, seconds in enumerate(executor.map(seconds_of, waits), 1):
            assert TIMEOUT * n / 4 * 0.9 <= seconds < TIMEOUT * n / 4 + SLACK
        connection.close()


def test_a_pool_that_many_threads_want(harness: Harness) -> None:
    """Each of many threads that want a pool's only connection gives up at its own deadline."""
    pool = harness.pool(harness.server(), max_size=1)

    def take(seconds: float) -> None:
        with pool.connection(seconds):
            raise AssertionError("it is in use")

    with pool.connection(), ThreadPoolExecutor(8) as executor:
        waits = [lambda n=n: take(TIMEOUT * n / 4) for n in range(1, 9)]
        for n, seconds in enumerate(executor.map(seconds_of, waits), 1):
            assert TIMEOUT * n / 4 * 0.9 <= seconds < TIMEOUT * n / 4 + SLACK


def test_no_lock_is_held_while_a_pool_connects(harness: Harness) -> None:
    """While a connect hangs, the registry, the figures and closing answer at once."""
    host, port = harness.listener().getsockname()
    url = f"smtp://{host}:{port}"
    pool = get_pool(url, keepalive=None)
    with ThreadPoolExecutor(1) as executor:
        hanging = executor.submit(pool.send, ME, YOU, MESSAGE, timeout=LONG_TIMEOUT / 10)
        end = time.monotonic() + LONG_TIMEOUT
        while not pool.stats().connecting and time.monotonic() < end:
            time.sleep(0.001)
        begun = time.monotonic()
        assert get_pool(url, keepalive=None) is pool
        assert pool.stats().connecting == 1
        pool.close(0)
        assert time.monotonic() - begun < LONG_TIMEOUT / 20
        with pytest.raises(SmtpTimeoutError):
            hanging.result()


# What the caller's own code takes


def test_a_slow_token_counts(harness: Harness) -> None:
    """A token function cannot be interrupted, but nothing is said when it comes too late."""
    server = harness.server(users={"user": "x"}, sasl={"XOAUTH2": _never})

    def token(*, force_refresh: bool = False) -> str:
        time.sleep(TIMEOUT * 1.5)
        return "token"

    config = ServerConfig.from_url(server.url, credentials=OAuthCredentials("user", token))
    with pytest.raises(SmtpTimeoutError, match=r"timeout of 0\.2 seconds .* auth with") as caught:
        config.connect(TIMEOUT)
    assert caught.value.phase is Phase.AUTH


def test_a_slow_socket_factory_counts(harness: Harness) -> None:
    """A socket factory that takes all of the time leaves none for the greeting."""
    server = harness.server()
    given: list[float] = []

    def factory(host: str, port: int, timeout: float) -> socket.socket:
        given.append(timeout)
        time.sleep(TIMEOUT * 1.5)
        return socket.create_connection((host, port))

    config = ServerConfig.from_url(server.url, socket_factory=factory)
    with pytest.raises(SmtpTimeoutError, match=r"timeout of 0\.2 seconds has passed"):
        config.connect(TIMEOUT)
    assert 0 < given[0] <= TIMEOUT


def _never() -> Any:
    raise AssertionError("nothing is sent without a token")


def dripping(pieces: int) -> Iterator[bytes]:
    """A message that comes in small pieces, for twice the time there is."""
    yield b"Subject: slow\r\n\r\n"
    for _ in range(pieces):
        time.sleep(TIMEOUT * 2 / pieces)
        yield b"x" * 70 + b"\r\n"


class DrippingFile:
    """A file that gives little, and late."""

    def __init__(self) -> None:
        self._pieces = dripping(20)

    def read(self, size: int = -1) -> bytes:
        """The next piece."""
        return next(self._pieces, b"")


def stalls_at_its_end() -> Iterator[bytes]:
    """A message that is complete in time and says so too late."""
    yield MESSAGE
    time.sleep(TIMEOUT * 1.2)


@pytest.mark.parametrize(
    "make", [lambda: dripping(20), DrippingFile, stalls_at_its_end], ids=["pieces", "file", "end"]
)
@pytest.mark.parametrize("how", ["send", "send_bdat", "pool", "send_many", "lmtp", "pool_many"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_slow_message_counts(
    harness: Harness, how: str, make: Callable[[], Any], tls: bool
) -> None:
    """Its end never leaves behind the deadline, so that it is certainly not delivered."""
    context = harness.certificates.server_context() if tls else None
    protocol = "LMTP" if how == "lmtp" else "SMTP"
    server = harness.server(tls_context=context, implicit_tls=tls, protocol=protocol)
    config = server_config(server, harness.certificates).replace(host="localhost")
    begun = time.monotonic()
    error: object = None
    if how.startswith("pool"):
        with ConnectionPool(config, keepalive=None) as pool:
            begun = time.monotonic()
            if how == "pool":
                with pytest.raises(SmtpTimeoutError) as caught:
                    pool.send(ME, YOU, make(), timeout=TIMEOUT)
                error = caught.value
            else:
                [outcome] = pool.send_many([Envelope(ME, [YOU], make())], timeout=TIMEOUT)
                error = outcome.error
    else:
        with contextlib.closing(config.connect()) as connection:
            begun = time.monotonic()
            if how == "send_many":
                [outcome] = connection.send_many([Envelope(ME, [YOU], make())], TIMEOUT)
                error = outcome.error
            else:
                call = {"lmtp": "send_lmtp"}.get(how, how)
                with pytest.raises(SmtpTimeoutError) as caught:
                    getattr(connection, call)(ME, YOU, make(), timeout=TIMEOUT)
                error = caught.value
            assert not connection.is_open
    assert isinstance(error, SmtpTimeoutError)
    assert not error.may_have_been_delivered
    assert f"timeout of {TIMEOUT} seconds" in str(error)
    assert time.monotonic() - begun < TIMEOUT * 1.5 + SLACK
    server.wait_for(lambda: all(c.closed for c in server.connections))
    assert server.messages == []


# Progress is no excuse


def _ignore(_: object) -> None:
    pass


@contextmanager
def transport_and_peer(
    certificates: Certificates, context: ssl.SSLContext | None
) -> Iterator[tuple[Transport, socket.socket]]:
    """A transport and its peer, under TLS with a server's context."""
    left, right = socket.socketpair()
    with left, right, ThreadPoolExecutor(1) as executor:
        transport = Transport(left)
        try:
            if context is None:
                yield transport, right
                return
            handshake = executor.submit(context.wrap_socket, right, server_side=True)
            transport.start_tls(certificates.client_context(), "localhost", Deadline(LONG_TIMEOUT))
            with handshake.result() as peer:
                yield transport, peer
        finally:
            transport.close()


@pytest.fixture(params=["clear", "tls"])
def ends(
    request: pytest.FixtureRequest, certificates: Certificates
) -> Iterator[tuple[Transport, socket.socket]]:
    """A transport and its peer, in clear and under TLS."""
    context = certificates.server_context() if request.param == "tls" else None
    with transport_and_peer(certificates, context) as made:
        yield made


class Clock:
    """A clock that stands still unless it is moved; takes the place of the module time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.now

    def second(self, _: object = None) -> None:
        """Advance the clock by a second."""
        self.now += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that deadlines look at."""
    clock = Clock()
    monkeypatch.setattr("smtpconn.net.deadline.time", clock)
    return clock


def test_small_records_do_not_move_it(ends: tuple[Transport, socket.socket], clock: Clock) -> None:
    """There is always something to read, byte by byte, and reading ends all the same."""
    transport, peer = ends
    deadline = Deadline(3)
    for _ in range(3):
        peer.send(b"x")
        assert transport.receive(deadline) == b"x"
        clock.second()
    peer.send(b"x")
    with pytest.raises(TimeoutError):
        transport.receive(deadline)


def test_a_fast_reader_does_not_move_it(
    ends: tuple[Transport, socket.socket], clock: Clock
) -> None:
    """A write that never blocks ends at the deadline, too."""
    transport, peer = ends
    length = 0

    def taken(count: int) -> None:
        nonlocal length
        length += count
        while count > 0:
            count -= len(peer.recv(count))
        clock.second()

    with pytest.raises(TimeoutError):
        transport.write(bytes(50_000_000), Deadline(3), taken, _ignore)
    assert clock.now == 1003
    assert 0 < length <= 3 << 20


def test_a_write_in_clear_is_looked_after() -> None:
    """The kernel gets no more at once than it takes in little time, however fast the peer reads."""
    left, right = socket.socketpair()
    given: list[int] = []

    class Noting(socket.socket):
        """A socket that notes how much it is given, and takes it all."""

        def send(self, data: Any, flags: int = 0) -> int:
            given.append(len(data))
            return len(data)

    with right:
        transport = Transport(Noting(fileno=left.detach()))
        transport.write(bytes(10_000_000), Deadline(LONG_TIMEOUT), _ignore, _ignore)
        transport.close()
    assert max(given) <= 1 << 20
    assert sum(given) == 10_000_000


def test_a_chatty_peer_does_not_move_a_blocked_write(
    ends: tuple[Transport, socket.socket], clock: Clock
) -> None:
    """A peer that sends without reading does not extend a write."""
    transport, peer = ends
    peer.send(b"x")

    def arrived(_: bytes) -> None:
        clock.second()
        peer.send(b"x")

    with pytest.raises(TimeoutError):
        transport.write(bytes(50_000_000), Deadline(3), _ignore, arrived)
    assert clock.now == 1003


@pytest.mark.parametrize("look", ["probe", "after a timeout"])
def test_looking_at_what_came_has_an_end(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    """Whatever was said already is read for `DRAIN_TIMEOUT` at most, not until there is no more."""
    with transport_and_peer(harness.certificates, None) as (transport, peer):
        clock = Clock()
        monkeypatch.setattr("smtpconn.net.deadline.time", clock)
        driver = Driver(transport, SessionState(), "localhost", "mx.example.test:25", None)
        reads = 0

        def receive_now() -> bytes:
            nonlocal reads
            reads += 1
            clock.now += DRAIN_TIMEOUT / 4
            return b"2"

        monkeypatch.setattr(transport, "receive_now", receive_now)
        if look == "probe":
            peer.send(b"2")
            error: SmtpError | None = driver.probe()
        else:
            deadline = Deadline(1)
            clock.second()
            with pytest.raises(SmtpError) as caught:
                driver.run(single_command.noop(SessionState()), deadline)
            error = caught.value
        assert isinstance(error, ProtocolError if look == "probe" else SmtpTimeoutError)
        assert not transport.is_open
        assert reads <= 5


def test_nothing_leaves_behind_the_deadline(ends: tuple[Transport, socket.socket]) -> None:
    """A write that would not block is not begun when the time is over."""
    transport, peer = ends
    deadline = Deadline(1e-9)
    sent: list[int] = []
    with pytest.raises(TimeoutError):
        transport.write(b".\r\n", deadline, sent.append, _ignore)
    assert sent == []
    peer.setblocking(False)
    with pytest.raises((BlockingIOError, ssl.SSLWantReadError)):
        peer.recv(1)


class RenegotiatingSocket(ssl.SSLSocket):
    """A TLS socket that wants the opposite before it can go on, as while it renegotiates."""

    wants: type[OSError] | None = None
    calls = 0
    before_send: Callable[[], object] = staticmethod(lambda: None)
    after_recv: Callable[[], None] = staticmethod(lambda: None)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send, unless something else has to come first."""
        self.before_send()
        self.calls += 1
        if self.wants is not None:
            raise self.wants()
        return super().send(data, flags)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Read, unless something else has to come first."""
        self.calls += 1
        if self.wants is not None:
            raise self.wants()
        try:
            return super().recv(buflen, flags)
        finally:
            self.after_recv()


@contextmanager
def wanting(
    certificates: Certificates,
) -> Iterator[tuple[Transport, RenegotiatingSocket, socket.socket]]:
    """A transport, its TLS socket, and its peer's socket."""
    left, right = socket.socketpair()
    context = certificates.client_context()
    context.sslsocket_class = RenegotiatingSocket
    with left, right, ThreadPoolExecutor(1) as executor:
        handshake = executor.submit(
            certificates.server_context().wrap_socket, right, server_side=True
        )
        transport = Transport(left)
        transport.start_tls(context, "localhost", Deadline(LONG_TIMEOUT))
        with handshake.result() as peer:
            tls = transport.tls
            assert isinstance(tls, RenegotiatingSocket)
            transport.receive_now()  # session tickets
            try:
                yield transport, tls, peer
            finally:
                transport.close()


def test_a_write_that_wants_to_read_waits_for_that(certificates: Certificates) -> None:
    """A socket that can be written is no reason to try again: that would spin until the end."""
    with wanting(certificates) as (transport, tls, _):
        tls.wants, tls.calls = ssl.SSLWantReadError, 0
        with pytest.raises(TimeoutError):
            transport.write(b"NOOP\r\n", Deadline(TIMEOUT), _ignore, _ignore)
        assert tls.calls <= 4


@pytest.mark.parametrize("action", ["read", "write"])
def test_what_wants_to_write_waits_for_that(certificates: Certificates, action: str) -> None:
    """A socket that can be read is no reason to try again, while there is no room to write."""
    with wanting(certificates) as (transport, tls, peer):
        with contextlib.suppress(BlockingIOError):
            while True:
                socket.socket.send(tls, bytes(1 << 16))  # no room is left
        peer.send(b"250 ok\r\n")
        tls.wants, tls.calls = ssl.SSLWantWriteError, 0
        wait: Wait = functools.partial(transport.receive, Deadline(TIMEOUT))
        if action == "write":
            wait = functools.partial(
                transport.write, b"NOOP\r\n", Deadline(TIMEOUT), _ignore, _ignore
            )
        with pytest.raises(TimeoutError):
            wait()
        assert tls.calls <= 4


def test_half_a_record(certificates: Certificates, clock: Clock) -> None:
    """A TLS record that comes byte by byte, and never as a whole, does not move it."""
    with wanting(certificates) as (transport, tls, peer):
        socket.socket.send(peer, b"\x17\x03\x03\x01\x00")
        deadline, tls.calls = Deadline(5), 0

        def drip() -> None:
            socket.socket.send(peer, b"x")
            clock.second()

        tls.after_recv = drip
        with pytest.raises(TimeoutError):
            transport.receive(deadline)
        assert clock.now == 1005
        assert tls.calls == 5


def test_it_goes_on_when_it_has_what_it_wanted(certificates: Certificates) -> None:
    """Once the peer's part has come, the write is done, and the answer is read."""
    with wanting(certificates) as (transport, tls, peer), ThreadPoolExecutor(1) as executor:
        tls.wants = ssl.SSLWantReadError
        begun = threading.Event()
        tls.before_send = begun.set
        arrived: list[bytes] = []
        writing = executor.submit(
            transport.write, b"NOOP\r\n", Deadline(LONG_TIMEOUT), _ignore, arrived.append
        )
        assert begun.wait(LONG_TIMEOUT)
        tls.wants = None
        peer.send(b"250 ok\r\n")
        writing.result()
        assert peer.recv(100) == b"NOOP\r\n"
        assert b"".join(arrived) + (b"" if arrived else transport.receive(Deadline(1))) == (
            b"250 ok\r\n"
        )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_renegotiation_that_never_ends(certificates: Certificates) -> None:
    """A TLS 1.2 server asks for one and falls silent: no operation takes longer, nor much CPU."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["openssl", "s_server", "-accept", str(port), "-tls1_2", "-crlf", "-4"]
    process = subprocess.Popen(
        [*arguments, "-cert", certificates.server_file, "-key", certificates.server_key_file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    seen, stdin = bytearray(), process.stdin

    def until(word: bytes) -> None:
        assert process.stdout is not None
        while word not in seen:
            data = process.stdout.read1(4096)  # type: ignore[attr-defined]
            assert data, bytes(seen)
            seen.extend(data)

    def say(line: bytes) -> None:
        stdin.write(line + b"\n")
        stdin.flush()

    def serve() -> None:
        until(b"CIPHER is")
        say(b"220 hello")
        until(b"EHLO")
        say(b"250 hello")

    with process, ThreadPoolExecutor(1) as executor:
        try:
            until(b"ACCEPT")
            serving = executor.submit(serve)
            connection = SmtpConnection.connect(
                "127.0.0.1",
                port,
                TlsMode.IMPLICIT,
                LONG_TIMEOUT,
                tls_context=certificates.client_context(),
            )
            serving.result()
            say(b"R")
            tls = connection.tls
            assert tls is not None
            assert select.select([tls], [], [], LONG_TIMEOUT)[0]  # the HelloRequest is here
            process.send_signal(signal.SIGSTOP)
            begun, cpu = time.monotonic(), time.thread_time()
            with pytest.raises(SmtpTimeoutError):
                connection.noop(TIMEOUT)
            assert time.monotonic() - begun < TIMEOUT + SLACK
            assert time.thread_time() - cpu < TIMEOUT / 2
        finally:
            process.kill()
