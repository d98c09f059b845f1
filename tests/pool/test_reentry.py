"""The pool entered again by its own thread: signal handlers, destructors, hooks, handlers of logs.

A call may be interrupted between any two lines by another call of the same thread, which runs to
its end first. It works, or is refused before anything changes; the interrupted call goes on.
"""

from __future__ import annotations

import gc
import itertools
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import smtpconn
from smtpconn import (
    ConnectionClosedError,
    ConnectionPool,
    PoolError,
    PoolEvent,
    PoolOverloadedError,
    PoolTimeoutError,
    ServerConfig,
    SmtpError,
    get_pool,
)
from smtpconn.pool import maintenance as maintenance_module
from smtpconn.pool.rate_limit import RateLimiter
from smtpconn.testing import SmtpServer
from tests.support.bytecode_injector import BytecodeInjector
from tests.support.interruption import Interruption
from tests.support.pool_use import MESSAGE, RECIPIENTS, SENDER

ROOT = Path(__file__).parent.parent.parent

_FILES = tuple(
    str(path)
    for path in (Path(smtpconn.__file__).parent / "pool").glob("*.py")
    if path.stem not in ("bulk", "options")
)


def send(pool: ConnectionPool) -> None:
    """Send a message."""
    assert pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=5) is not None


def use(pool: ConnectionPool) -> None:
    """Borrow a connection."""
    with pool.connection(5):
        pass


def borrow_twice(pool: ConnectionPool) -> None:
    """Have two connections at once, and lose one of them."""
    lost, other = pool.connection(5), pool.connection(5)
    lost.__enter__()
    with other:
        del lost


def look(pool: ConnectionPool) -> None:
    """Ask for the figures."""
    assert pool.stats().in_use >= 0
    assert pool.leaks() == []


def warm(pool: ConnectionPool) -> None:
    """Make connections ahead."""
    pool.warm(2)


def drain(pool: ConnectionPool) -> None:
    """Replace all connections."""
    pool.drain()


def close(pool: ConnectionPool) -> None:
    """Close the pool, however long leases take to come back."""
    pool.close(0.01)


NESTED = [send, borrow_twice, look, warm, drain, close]


def fresh(server: SmtpServer, size: int) -> ConnectionPool:
    """A pool that has no connection yet."""
    return ConnectionPool(server.url, max_size=size, max_waiting=0)


def warmed(server: SmtpServer, size: int) -> ConnectionPool:
    """A pool with an idle connection, that is watched and limited in every way."""
    pool = ConnectionPool(
        server.url,
        max_size=size,
        max_waiting=0,
        max_rate=1e6,
        burst=100,
        leak_after=1000,
        on_event=lambda event: None,
    )
    pool.warm(1)
    return pool


def worn_out(server: SmtpServer, size: int) -> ConnectionPool:
    """A pool whose idle connection dies when it is used."""
    server.clear()
    pool = ConnectionPool(server.url, max_size=size, max_waiting=0, max_messages=1)
    with pool.connection() as connection:
        connection.noop()
    server.fault("MAIL", close=True, times=1)
    return pool


# A send for every line takes long on a busy machine.
@pytest.mark.timeout(90)
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("make", "size"), [(fresh, 1), (fresh, 3), (warmed, 1), (warmed, 3), (worn_out, 3)]
)
@pytest.mark.parametrize("nested", NESTED)
def test_a_call_at_every_line(
    server: SmtpServer,
    nested: Callable[[ConnectionPool], None],
    make: Callable[[SmtpServer, int], ConnectionPool],
    size: int,
) -> None:
    """Wherever a send is interrupted by another call, both end well, and nothing is lost."""
    line, where, refused = 0, "?", 0
    while where:
        with make(server, size) as pool:
            case = _Case(pool, nested, line)
            before = len(server.messages)
            where, error = case.run()
            stats = pool.stats()
            figures = (stats.in_use, stats.waiting, stats.connecting)
            assert figures == (0, 0, 0), f"{where}: {error!r} {stats}"
            assert case.most <= size, where
            assert len(server.messages) - before == case.sent == stats.messages, where
            # What breaks at the first MAIL breaks there on a new connection, too.
            if not isinstance(error, ConnectionClosedError) or make is not worn_out:
                assert error is None or size == 1 or nested is close, f"{where}: {error!r}"
            refused += error is not None
            line += 1
    assert line > 100
    if nested is send:
        # With room for one connection, it depends on whether the interrupted call has it.
        assert refused < line * 0.9


class _Case:
    """A send that is interrupted at one line.

    Attributes:
        sent: messages that were acknowledged.
        most: the largest number of connections that was observed.
    """

    def __init__(
        self, pool: ConnectionPool, nested: Callable[[ConnectionPool], None], line: int
    ) -> None:
        self._pool = pool
        self._nested = nested
        self._line = line
        self.sent = self.most = 0

    def run(self) -> tuple[str, SmtpError | None]:
        """Send; return the line, and the error of the interrupting or the interrupted call."""
        errors: list[SmtpError] = []

        def attempt(call: Callable[[ConnectionPool], None]) -> None:
            try:
                call(self._pool)
                self.sent += call is send
            except (PoolError, ConnectionClosedError) as error:
                # Without the frames, which would keep what was borrowed in them.
                errors.append(error.with_traceback(None))
            self._look()

        with Interruption(self._line, lambda: attempt(self._nested), _FILES) as interruption:
            attempt(send)
        return interruption.where, errors[0] if errors else None

    def _look(self) -> None:
        state = self._pool._core._state
        lent = [waiter for waiter in state.leases if state.is_served(waiter)]
        self.most = max(self.most, len(lent) + len(state.idle))


@pytest.mark.parametrize("size", [1, 2])
def test_a_send_at_every_bytecode(server: SmtpServer, size: int) -> None:
    """Not only at lines: between the bytecodes of pool core, too, no capacity is lost."""
    point, where = 0, "?"
    with ConnectionPool(server.url, max_size=size, max_waiting=0, keepalive=None) as pool:
        pool.warm(size)
        while where:
            interruption = _AtBytecode(point, pool)
            with interruption, pool.connection(5):
                pass
            where = interruption.where
            stats = pool.stats()
            assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0), where
            assert stats.idle <= size
            point += 1
    assert point > 100


class _AtBytecode(BytecodeInjector):
    """Borrows a connection at one bytecode, where others raise an exception."""

    def __init__(self, point: int, pool: ConnectionPool) -> None:
        super().__init__(point, lambda name: None)
        self._pool = pool

    def _inject(self, where: str) -> None:
        try:
            with self._pool.connection():
                pass
        except PoolOverloadedError:
            assert self._pool.stats().max_size == 1


def test_an_interrupting_call_that_keeps_its_connection(server: SmtpServer) -> None:
    """What a handler borrows and gives back later counts all the while."""
    line, where = 0, "?"
    while where:
        with ConnectionPool(server.url, max_size=2) as pool:
            lease = pool.connection()
            with Interruption(line, lease.__enter__, _FILES) as interruption:
                send(pool)
            where = interruption.where
            if where:
                assert pool.stats().in_use == 1, where
                lease.__exit__(None, None, None)
            stats = pool.stats()
            assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0), where
            assert stats.idle <= 2, where
            line += 1


def test_a_call_that_cannot_wait_is_told_why(server: SmtpServer) -> None:
    """Inside a decision of its own thread it could wait for ever, so it fails at once."""
    with ConnectionPool(server.url, max_size=1) as pool, pool.connection():
        with pool._core._lock:
            begun = time.monotonic()
            with pytest.raises(PoolOverloadedError, match="interrupts a call") as caught:
                send(pool)
            assert time.monotonic() - begun < 5
        assert caught.value.is_transient
        assert not caught.value.may_have_been_delivered
        assert pool.stats().in_use == 1


def test_a_lease_given_back_inside_a_decision_reaches_those_who_wait(server: SmtpServer) -> None:
    """A handler may end a lease: who waits for it is served when the decision is over."""
    with ConnectionPool(server.url, max_size=1) as pool:
        lease = pool.connection()
        lease.__enter__()
        waiter = threading.Thread(target=send, args=(pool,))
        waiter.start()
        while not pool.stats().waiting:
            time.sleep(0.001)
        with pool._core._lock:
            lease.__exit__(None, None, None)
        pool.stats()
        waiter.join(3)
        assert not waiter.is_alive()
        assert pool.stats().connects == 1


def test_signals_whose_handlers_send(server: SmtpServer) -> None:
    """Two hundred times a handler interrupts the main thread and sends, beside three threads."""
    over = threading.Event()
    sent, depth = [0], [0]
    with ConnectionPool(server.url, max_size=4, keepalive=0.05, max_connecting=2) as pool:

        def count(*args: object) -> None:
            # A handler that waits is interrupted as well; that has to end somewhere.
            depth[0] += 1
            try:
                if depth[0] <= 3:
                    send(pool)
                    sent[0] += 1
            except (PoolOverloadedError, PoolTimeoutError):
                pass
            finally:
                depth[0] -= 1

        def work() -> None:
            while not over.is_set():
                use(pool)

        def interrupt() -> None:
            main = threading.main_thread().ident or 0
            for _ in range(200):
                signal.pthread_kill(main, signal.SIGUSR1)
                over.wait(0.003)
            over.set()

        before = signal.signal(signal.SIGUSR1, count)
        threads = [threading.Thread(target=target) for target in (work, work, work, interrupt)]
        mine = 0
        try:
            for thread in threads:
                thread.start()
            while not over.is_set():
                send(pool)
                mine += 1
        finally:
            over.set()
            for thread in threads:
                thread.join(10)
            signal.signal(signal.SIGUSR1, before)
        stats = pool.stats()
        assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0)
        assert stats.idle <= 4
        assert sent[0] > 50
        assert len(server.messages) == stats.messages == mine + sent[0]


def test_a_destructor_that_sends(server: SmtpServer) -> None:
    """Objects that mail when they are collected may be collected anywhere inside the pool."""

    class Farewell:
        def __init__(self, pool: ConnectionPool) -> None:
            self.pool, self.me = pool, self

        def __del__(self) -> None:
            send(self.pool)

    with ConnectionPool(server.url, max_size=3) as pool:
        thresholds = gc.get_threshold()
        gc.set_threshold(1)
        try:
            for _ in range(20):
                Farewell(pool)
                send(pool)
        finally:
            gc.set_threshold(*thresholds)
        gc.collect()
        assert pool.stats().messages == len(server.messages) == 40
        assert pool.stats().in_use == 0


def test_a_hook_that_sends_through_its_pool(server: SmtpServer) -> None:
    """A hook runs under no lock, so that it may use the pool like any caller."""
    pools: list[ConnectionPool] = []
    heard: list[str] = []

    def hook(event: PoolEvent) -> None:
        heard.append(event.action)
        if len(heard) < 20:
            send(pools[0])

    with ConnectionPool(server.url, on_event=hook, max_size=30) as pool:
        pools.append(pool)
        send(pool)
        pool.drain()
        assert pool.stats().in_use == 0
        assert pool.stats().messages == len(server.messages) > 10


class Mailer(logging.Handler):
    """Sends each record through a pool."""

    def __init__(self, pool: ConnectionPool, level: int) -> None:
        super().__init__(level)
        self.pool = pool
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Send it; what goes wrong is not reported further."""
        self.texts.append(record.getMessage())
        try:
            self.pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.05)
        except SmtpError:
            pass


@pytest.fixture
def mailers() -> Iterator[Callable[[ConnectionPool, int], Mailer]]:
    """Makes handlers of the pool's log, and takes them away again."""
    logger, added = logging.getLogger("smtpconn"), list[Mailer]()
    level = logger.level

    def make(pool: ConnectionPool, at: int) -> Mailer:
        added.append(Mailer(pool, at))
        logger.addHandler(added[-1])
        logger.setLevel(at)
        return added[-1]

    yield make
    logger.setLevel(level)
    for mailer in added:
        logger.removeHandler(mailer)


def test_a_handler_that_mails_warnings_through_the_pool_that_warns(
    server: SmtpServer, mailers: Callable[[ConnectionPool, int], Mailer]
) -> None:
    """A time-out of the pool is mailed once; that this times out, too, is not mailed again."""
    with ConnectionPool(server.url, max_size=1, acquire_timeout=0.05) as pool:
        mailer = mailers(pool, logging.WARNING)
        with pool.connection(timeout=10), pytest.raises(PoolTimeoutError):
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.05)
        assert len(mailer.texts) == 1
        assert pool.stats().timeouts == 2
        # And the next warning is mailed again.
        with pool.connection(timeout=10), pytest.raises(PoolTimeoutError):
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.05)
        assert len(mailer.texts) == 2


def test_a_handler_that_mails_what_hooks_raise(
    server: SmtpServer, mailers: Callable[[ConnectionPool, int], Mailer]
) -> None:
    """A hook that fails at each event is logged, and mailing that does not begin it again."""

    def hook(event: PoolEvent) -> None:
        raise ValueError("a bug")

    with ConnectionPool(server.url, on_event=hook) as pool:
        mailer = mailers(pool, logging.ERROR)
        with pool.connection():
            pass
        # A checkout, begun and done, and a check-in; mailing the first has made the connection.
        assert len(mailer.texts) == 3


def test_a_handler_that_mails_that_no_thread_can_be_started(
    server: SmtpServer,
    mailers: Callable[[ConnectionPool, int], Mailer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It uses a pool that would start the thread as well."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(maintenance_module, "maintenance", maintenance_module.Maintenance())
    monkeypatch.setattr(maintenance_module, "start_thread", refuse)
    with ConnectionPool(server.url) as pool, ConnectionPool(server.url) as other:
        mailer = mailers(other, logging.INFO)
        send(pool)
        assert any("not maintained" in text for text in mailer.texts)


def test_a_handler_that_interrupts_the_start_of_a_thread(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not start one itself, which would wait for the first for ever; a later call does."""
    monkeypatch.setattr(maintenance_module, "maintenance", maintenance_module.Maintenance())
    with ConnectionPool(server.url) as pool:
        lease = pool.connection()
        lease.__enter__()
        with threading._active_limbo_lock:  # type: ignore[attr-defined]
            lease.__exit__(None, None, None)
        assert "smtpconn-maintenance" not in [thread.name for thread in threading.enumerate()]
        with ConnectionPool(server.url) as other:
            send(other)
            assert "smtpconn-maintenance" in [thread.name for thread in threading.enumerate()]


SCRIPT = """
import atexit, faulthandler, logging, sys
from smtpconn import ConnectionPool

class Mail(logging.Handler):
    def emit(self, record):
        log_pool.send("log@x.example", ["admin@x.example"], b"Subject: log\\r\\n\\r\\n", timeout=5)

pool, log_pool = ConnectionPool(sys.argv[1]), ConnectionPool(sys.argv[1])
logging.getLogger("smtpconn.pool").addHandler(Mail())
logging.getLogger("smtpconn.pool").setLevel(logging.INFO)
faulthandler.dump_traceback_later(10, exit=True)

@atexit.register
def farewell():
    pool.send("me@x.example", ["you@x.example"], b"Subject: farewell\\r\\n\\r\\n", timeout=5)
    print("sent")
"""


def test_sending_when_the_interpreter_ends(server: SmtpServer) -> None:
    """When no more threads can be started (3.12), mail still goes, also that of log handlers."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.url],
        capture_output=True,
        text=True,
        timeout=18,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "sent\n", "")
    assert "Subject: farewell" in str([m.content for m in server.messages])


def test_a_reservation_at_every_line() -> None:
    """A message that is sent while another one reserves its moment has a moment of its own."""
    line, where = 0, "?"
    while where:
        limiter = RateLimiter(4)
        limiter.reserve(1000.0, 1e9)
        waits: list[float] = []

        def reserve(limiter: RateLimiter = limiter, waits: list[float] = waits) -> None:
            waits.append(limiter.reserve(1000.0, 1e9) or 0.0)

        with Interruption(line, reserve, _FILES) as interruption:
            reserve()
        where = interruption.where
        reserve()
        waits.sort()
        # A moment may be lost if the interruption comes at the very end, but none is given twice.
        assert all(later - earlier > 0.24 for earlier, later in itertools.pairwise([0.0, *waits]))
        assert waits[-1] < 0.25 * (len(waits) + 1.1), where
        line += 1
    assert line > 5


def test_the_registry_at_every_line() -> None:
    """A handler that asks for the pool its thread is just making gets the same one."""
    line, where = 0, "?"
    while where:
        config = ServerConfig.from_url(f"smtp://reentry-{line}.example")
        pools: list[ConnectionPool] = []

        def get(config: ServerConfig = config, pools: list[ConnectionPool] = pools) -> None:
            pools.append(get_pool(config))

        with Interruption(line, get, _FILES) as interruption:
            get()
        where = interruption.where
        assert len(set(map(id, pools))) == 1, where
        assert get_pool(config) is pools[0]
        line += 1
    assert line > 5


def test_a_socket_factory_that_sends(server: SmtpServer) -> None:
    """Code of others that is called while connecting may use the pool."""
    pools: list[ConnectionPool] = []

    def factory(host: str, port: int, timeout: float) -> socket.socket:
        if pools:
            send(pools.pop())
        return socket.create_connection((host, port), timeout)

    config = ServerConfig.from_url(server.url, socket_factory=factory)
    with ConnectionPool(config, max_size=2) as pool:
        pools.append(pool)
        send(pool)
        assert pool.stats().messages == 2
