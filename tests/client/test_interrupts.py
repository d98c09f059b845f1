"""Interrupts: exceptions out of nowhere, Ctrl-C and killed greenlets cost no capacity."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from smtpconn import ConnectionPool, SmtpError
from smtpconn.testing import SmtpServer
from tests.support.signals import one_ctrl_c, send_until_handled, to_main_thread
from tests.support.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent

SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that can do everything."""
    with SmtpServer() as running:
        yield running


class Injected(BaseException):
    """What interrupts."""


def raise_in_thread(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise ``error`` asynchronously in a thread."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident), ctypes.py_object(error)
    )


def take_all(pool: ConnectionPool, count: int) -> None:
    """Take as many leases as there may be, at once; fails if capacity was lost."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(pool.connection(2)).noop()


class PoolUser:
    """A thread that borrows and returns connections until it is stopped.

    An exception may hit anywhere, also in here; so what it does in between is one call, and the
    thread goes on as long as it was not told to stop.
    """

    def __init__(self, pool: ConnectionPool, use: Callable[[ConnectionPool], None]) -> None:
        self.over = False
        self.rounds = self.injected = 0
        self.errors: list[Exception] = []
        self._pool = pool
        self._use = use
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.over:
            try:
                while not self.over:
                    self._use(self._pool)
                    self.rounds += 1
            except Injected:
                self.injected += 1
            except SmtpError:
                pass  # of a connection that was interrupted in another thread's favour
            except Exception as error:
                self.errors.append(error)


def by_lease(pool: ConnectionPool) -> None:
    """Take a connection, and say something on it now and then."""
    with pool.connection(5) as connection:
        if random.random() < 0.1:
            connection.noop()


def by_send(pool: ConnectionPool) -> None:
    """Send a message."""
    pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=5)


@pytest.fixture
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore exceptions in destructors and threads, which interrupts may cause.

    Python code that reports them would be interrupted as well. A socket that was made and not yet
    kept when that happened is closed by its destructor, with a warning.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)


may_cut_off_sockets = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")


@may_cut_off_sockets
@pytest.mark.usefixtures("no_reports")
@pytest.mark.parametrize("use", [by_lease, by_send])
def test_asynchronous_exceptions(server: SmtpServer, use: Callable[[ConnectionPool], None]) -> None:
    """A pool of four keeps four leases although eight threads are interrupted hundreds of times."""
    chance, pause = random.Random(4711), threading.Event()
    pool = ConnectionPool(server.url, max_size=4, keepalive=None, max_connecting=4)
    users = [PoolUser(pool, use) for _ in range(8)]
    for user in users:
        user.thread.start()
    end, injected_count = time.monotonic() + 1.5, 0
    while time.monotonic() < end:
        raise_in_thread(chance.choice(users).thread, Injected)
        injected_count += 1
        pause.wait(chance.random() * 0.004)  # at random moments is what is wanted
    for user in users:
        user.over = True
    for user in users:
        user.thread.join(10)
        assert not user.thread.is_alive()
    gc.collect()
    stats = pool.stats()
    print(
        f"{injected_count} exceptions, {sum(v.injected for v in users)} felt, "
        f"{sum(v.rounds for v in users)} rounds, {stats.connects} connects"
    )
    assert sum(v.injected for v in users) > 50
    assert [e for v in users for e in v.errors] == []
    assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0)
    assert stats.idle <= 4
    take_all(pool, 4)
    pool.close()
    assert pool.stats().in_use == 0


def _interrupt_main() -> None:
    to_main_thread(signal.SIGINT)


def _interrupt_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    "interrupt", [_interrupt_main, _interrupt_process], ids=["thread", "process"]
)
def test_ctrl_c_while_waiting(server: SmtpServer, interrupt: Callable[[], None]) -> None:
    """Ctrl-C ends the wait for a connection at once with `KeyboardInterrupt`."""
    with ConnectionPool(server.url, max_size=1, keepalive=None) as pool, one_ctrl_c() as handler:

        def interrupt_the_waiter() -> None:
            wait_until(lambda: pool.stats().waiting == 1)
            send_until_handled(handler, interrupt)

        with pool.connection():
            other = threading.Thread(target=interrupt_the_waiter)
            other.start()
            begun = time.monotonic()
            with pytest.raises(KeyboardInterrupt), pool.connection(10):
                pass
            took = time.monotonic() - begun
            other.join(10)
            assert took < 5
            assert (pool.stats().waiting, pool.stats().in_use) == (0, 1)
        take_all(pool, 1)
        assert len(server.connections) == 1  # the holder's was not harmed


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "CONTENT"])
def test_ctrl_c_while_the_server_is_silent(server: SmtpServer, step: str) -> None:
    """Ctrl-C ends connecting and sending as well; the connection is lost, the lease is not."""
    server.fault(step, hang=True)
    with ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        reached = {"CONNECT": "", "EHLO": "EHLO", "MAIL": "MAIL", "CONTENT": "DATA"}[step]

        def has_reached() -> bool:
            seen = [["", *c.commands] for c in server.connections]
            return any(line.startswith(reached) for lines in seen for line in lines)

        def interrupt() -> None:
            wait_until(has_reached)
            _interrupt_main()

        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=10)
        other.join(10)
        stats = pool.stats()
        assert (stats.in_use, stats.idle, stats.connecting) == (0, 0, 0)
        assert stats.failed_messages == 1
        take_all(pool, 1)


@may_cut_off_sockets
@pytest.mark.usefixtures("no_reports")
def test_ctrl_c_again_and_again(server: SmtpServer) -> None:
    """The main thread is interrupted a hundred times while it uses the pool; no lease is lost."""
    over = threading.Event()
    felt = 0

    with ConnectionPool(server.url, max_size=2, keepalive=None) as pool:
        is_open = threading.Event()

        def interrupt() -> None:
            chance = random.Random(4711)
            while not over.is_set():
                if is_open.wait(0.01):
                    over.wait(chance.random() * 0.003)  # at random moments is what is wanted
                    is_open.clear()
                    _interrupt_main()

        other = threading.Thread(target=interrupt)
        other.start()
        try:
            while felt < 100:
                with suppress(SmtpError):
                    try:
                        is_open.set()
                        while True:
                            by_lease(pool)
                    except KeyboardInterrupt:
                        felt += 1
        finally:
            over.set()
            other.join(10)
        stats = pool.stats()
        assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0)
        take_all(pool, 2)


GREENLETS = """
from gevent import monkey

monkey.patch_all()

import sys
import time
import warnings

import gevent
from gevent.event import Event

from smtpconn import ConnectionPool, ServerConfig, SmtpError
from smtpconn.testing import SmtpServer

SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\\r\\n\\r\\nHello!\\r\\n"
url = sys.argv[1]


def until(condition):
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


def all_leases(pool, count):
    leases = [pool.connection(2) for _ in range(count)]
    for lease in leases:
        lease.__enter__().noop()
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (count, 0), stats
    for lease in leases:
        lease.__exit__(None, None, None)


def hold(pool, entered, go_on=None):
    with pool.connection(5):
        entered.set()
        (go_on or Event()).wait(10)


def kill_holder():
    pool, entered = ConnectionPool(url, max_size=1), Event()
    holder = gevent.spawn(hold, pool, entered)
    entered.wait(5)
    holder.kill()
    assert pool.stats().in_use == 0, pool
    assert pool.stats().discards == {"interrupted": 1}, pool.stats()
    all_leases(pool, 1)
    pool.close()


def kill_waiter():
    pool, entered, go_on = ConnectionPool(url, max_size=1), Event(), Event()
    holder = gevent.spawn(hold, pool, entered, go_on)
    entered.wait(5)
    waiters = [gevent.spawn(hold, pool, Event(), go_on) for _ in range(3)]
    until(lambda: pool.stats().waiting == 3)
    waiters[0].kill()
    waiters[2].kill()
    assert pool.stats().waiting == 1, pool
    go_on.set()
    gevent.joinall([holder, waiters[1]], timeout=5, raise_error=True)
    assert pool.stats().connects == 1
    all_leases(pool, 1)
    pool.close()


def kill_served_waiter():
    # Its turn has come, but it has not run since: the connection is its own already.
    pool, entered, go_on = ConnectionPool(url, max_size=1), Event(), Event()
    lease = pool.connection()
    lease.__enter__()
    waiter = gevent.spawn(hold, pool, entered)
    until(lambda: pool.stats().waiting == 1)
    lease.__exit__(None, None, None)
    assert (pool.stats().waiting, pool.stats().in_use) == (0, 1), pool
    waiter.kill()
    assert pool.stats().in_use == 0, pool
    all_leases(pool, 1)
    pool.close()


def kill_returner():
    # Many moments of taking, using and giving back.
    pool = ConnectionPool(url, max_size=2)

    def work():
        while True:
            with pool.connection(5) as connection:
                connection.noop()

    for number in range(60):
        workers = [gevent.spawn(work) for _ in range(3)]
        gevent.sleep(0.0002 * (number % 20))
        gevent.killall(workers)
        stats = pool.stats()
        assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0), stats
    all_leases(pool, 2)
    pool.close()


def kill_connecting():
    with SmtpServer() as silent:
        silent.fault("CONNECT", hang=True)
        pool = ConnectionPool(silent.url, max_size=1)
        caller = gevent.spawn(hold, pool, Event())
        until(lambda: len(silent.connections) == 1)
        caller.kill()
        stats = pool.stats()
        assert (stats.in_use, stats.connecting) == (0, 0), stats
        all_leases(pool, 1)
        pool.close()


def overlap():
    # A greenlet that waits for a slow server does not block another one.
    with SmtpServer() as slow, SmtpServer() as quick:
        slow.fault("MAIL", hang=True)
        slow_pool, quick_pool = ConnectionPool(slow.url), ConnectionPool(quick.url)

        def send_slowly():
            try:
                slow_pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=10)
            except SmtpError as error:
                return error

        waiting = gevent.spawn(send_slowly)
        until(lambda: any("MAIL" in line for c in slow.connections for line in c.commands))
        for _ in range(5):
            quick_pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=5)
        assert not waiting.ready()
        assert len(quick.messages) == 5
        slow.kill()
        assert isinstance(waiting.get(timeout=5), SmtpError)
        slow_pool.close()
        quick_pool.close()


def same_pool_overlaps():
    # Two greenlets have two connections of one pool at once.
    with SmtpServer() as server:
        server.fault("CONTENT", hang=True, times=1)
        pool = ConnectionPool(server.url, max_size=2)
        first = gevent.spawn(pool.send, SENDER, RECIPIENTS, MESSAGE, timeout=10)
        until(lambda: any(line == "DATA" for c in server.connections for line in c.commands))
        pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=5)
        assert not first.ready()
        first.kill()
        assert pool.stats().in_use == 0
        all_leases(pool, 2)
        pool.close()


def timeout_of_gevent():
    # gevent.Timeout is a BaseException that strikes while waiting.
    pool, entered, go_on = ConnectionPool(url, max_size=1), Event(), Event()
    holder = gevent.spawn(hold, pool, entered, go_on)
    entered.wait(5)
    try:
        with gevent.Timeout(0.05):
            pool.connection(10).__enter__()
    except gevent.Timeout:
        pass
    else:
        raise AssertionError("it was not raised")
    go_on.set()
    holder.join(5)
    assert (pool.stats().in_use, pool.stats().waiting) == (0, 0), pool
    all_leases(pool, 1)
    pool.close()


warnings.simplefilter("error")
globals()[sys.argv[2]]()
print("done")
"""


@pytest.mark.parametrize(
    "scenario",
    [
        "kill_holder",
        "kill_waiter",
        "kill_served_waiter",
        "kill_returner",
        "kill_connecting",
        "overlap",
        "same_pool_overlaps",
        "timeout_of_gevent",
    ],
)
def test_greenlets(server: SmtpServer, scenario: str) -> None:
    """Under gevent greenlets overlap, and killing one anywhere loses nothing."""
    pytest.importorskip("gevent")
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS, server.url, scenario],
        capture_output=True,
        text=True,
        timeout=18,
        cwd=ROOT,
        check=False,
    )
    assert done.stderr == ""
    assert (done.stdout, done.returncode) == ("done\n", 0)
