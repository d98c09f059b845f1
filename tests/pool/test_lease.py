"""What a lease promises: whatever happens at whatever moment, the pool loses no capacity.

The tests that use `inject_everywhere` run a scenario again and again and raise an exception at its
first bytecode in the pool's code, then at its second, and so on until the scenario comes through.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from smtpconn import (
    ConnectionPool,
    PoolError,
    PoolEvent,
    PoolTimeoutError,
    ServerConfig,
    SmtpError,
    TransportError,
)
from smtpconn.pool.lease import Lease
from smtpconn.testing import SmtpServer
from tests.support.bytecode_injector import BytecodeInjector, Injected
from tests.support.pool_use import take

# An exception at every bytecode takes long on a busy machine.
pytestmark = pytest.mark.timeout(90)


def in_another_thread(call: Callable[[], None]) -> BaseException | None:
    """Run in a thread of its own, which knows of no lock that this one may hold."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(5)
    if thread.is_alive():
        return TimeoutError("it hangs")
    return errors[0] if errors else None


def take_all(pool: ConnectionPool) -> None:
    """Take as many leases as there may be at once, without waiting."""
    with ExitStack() as stack:
        for _ in range(pool.stats().max_size):
            stack.enter_context(pool.connection(2.0))


def _is_anything_out(pool: ConnectionPool) -> bool:
    stats = pool.stats()
    return bool(stats.in_use or stats.waiting or stats.connecting)


def inject_everywhere(
    pool: ConnectionPool,
    scenario: Callable[[], None],
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    on_call: Callable[[str], None] = lambda name: None,
) -> None:
    """Run a scenario with an exception at each of its bytecodes; check the capacity each time."""
    point, lost = 0, ""
    while True:
        before()
        injector = BytecodeInjector(point, on_call)
        try:
            with injector:
                scenario()
        except (Injected, PoolTimeoutError, TransportError):
            pass
        after()
        if _is_anything_out(pool):
            gc.collect()  # an error holds the frames it went through, and those the lease
        error = in_another_thread(lambda: take_all(pool))
        if error is not None or _is_anything_out(pool):
            lost = f"{injector.where}: {error!r} {pool.stats()}"
            break
        if not injector.where:
            break
        point += 1
    assert not lost, f"at point {point}: {lost}"
    assert point > 100, f"only {point} points were tried"


unclosed = pytest.mark.filterwarnings(
    # A connection may be lost to an exception, and its socket is then closed when it is collected.
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


@unclosed
def test_exceptions_while_a_lease_is_taken_and_given_back(server: SmtpServer) -> None:
    """Taking an idle connection and giving it back loses no capacity."""
    with ConnectionPool(server.url, max_size=2, keepalive=None) as pool:
        inject_everywhere(pool, lambda: take(pool))


@unclosed
def test_exceptions_while_a_connection_is_made(server: SmtpServer) -> None:
    """Making a connection and giving it back loses no capacity."""
    with ConnectionPool(server.url, max_size=1, max_messages=1, keepalive=None) as pool:

        def empty() -> None:
            with pool.connection() as connection:
                connection.close()

        inject_everywhere(pool, lambda: take(pool), before=empty)


@unclosed
def test_exceptions_while_a_caller_waits(server: SmtpServer) -> None:
    """Waiting for a connection that another lease gives back loses no capacity."""
    with ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        holder: list[Lease] = []

        def occupy() -> None:
            holder.append(pool.connection())
            holder[0].__enter__()

        def release() -> None:
            if holder:
                holder.pop().__exit__(None, None, None)

        def release_when_waited_for(name: str) -> None:
            if name == "_wait_for_turn":
                release()

        inject_everywhere(
            pool,
            lambda: take(pool),
            before=occupy,
            after=release,
            on_call=release_when_waited_for,
        )


@unclosed
def test_exceptions_while_a_caller_times_out(
    server: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting until the time is over loses no capacity, neither the waiter's nor the holder's."""
    # What pytest keeps of the log would hold the error, and with it the frames and the lease.
    caplog.set_level(logging.CRITICAL, "smtpconn.pool")
    with ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        holder: list[Lease] = []

        def occupy() -> None:
            holder.append(pool.connection())
            holder[0].__enter__()

        inject_everywhere(
            pool,
            lambda: take(pool, 0.0001),
            before=occupy,
            after=lambda: holder.pop().__exit__(None, None, None),
        )


@unclosed
def test_exceptions_while_connecting_fails(server: SmtpServer) -> None:
    """A connect that fails loses no capacity and no right to connect."""
    fails = False

    def factory(host: str, port: int, timeout: float) -> socket.socket:
        if fails:
            raise ConnectionRefusedError("not now")
        return socket.create_connection((host, port), timeout)

    config = ServerConfig.from_url(server.url, socket_factory=factory)
    with ConnectionPool(config, max_size=1, max_connecting=1, keepalive=None) as pool:

        def empty() -> None:
            nonlocal fails
            fails = False
            with pool.connection() as connection:
                connection.close()
            fails = True

        def heal() -> None:
            nonlocal fails
            fails = False

        inject_everywhere(pool, lambda: take(pool), before=empty, after=heal)


@unclosed
def test_exceptions_while_a_connection_is_replaced(server: SmtpServer) -> None:
    """Sending again over a new connection loses no capacity."""
    message = b"Subject: hello\r\n\r\nHello!\r\n"
    with ConnectionPool(server.url, max_size=1, keepalive=None) as pool:

        def send() -> None:
            pool.send("me@example.com", ["you@example.com"], message)

        def have_it_die() -> None:
            server.clear()
            take(pool)
            server.fault("MAIL", close=True)

        inject_everywhere(
            pool,
            send,
            before=have_it_die,
            after=server.clear,
        )


def test_a_lease_is_for_one_block_at_a_time(server: SmtpServer) -> None:
    """A lease in use cannot be entered again, and is not harmed by the attempt."""
    with ConnectionPool(server.url, max_size=2) as pool:
        lease = pool.connection()
        with lease as connection:
            with pytest.raises(PoolError, match="in use"), lease:
                raise AssertionError("never reached")
            connection.noop()
            assert pool.stats().in_use == 1
        assert pool.stats().in_use == 0


def test_a_lease_can_be_used_again(server: SmtpServer) -> None:
    """One block after the other may use the same lease object."""
    with ConnectionPool(server.url) as pool:
        lease = pool.connection()
        for _ in range(3):
            with lease as connection:
                connection.noop()
        assert pool.stats().checkouts == 3
        assert len(server.connections) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Injected])
def test_an_interrupted_block_costs_the_connection(
    server: SmtpServer, kind: type[BaseException]
) -> None:
    """After anything but an ordinary exception the connection is closed, and the lease is back."""
    with ConnectionPool(server.url, max_size=1) as pool:
        with pytest.raises(kind), pool.connection() as connection:
            raise kind
        assert not connection.is_open
        stats = pool.stats()
        assert (stats.in_use, stats.idle) == (0, 0)
        assert stats.discards == {"interrupted": 1}
        take(pool)


def test_a_lost_lease_gives_back_its_capacity(server: SmtpServer) -> None:
    """A lease that was entered and forgotten is given back when it is collected."""
    with ConnectionPool(server.url, max_size=1) as pool:
        lease = pool.connection()
        connection = lease.__enter__()
        del lease
        gc.collect()
        assert pool.stats().in_use == 0
        assert not connection.is_open
        take(pool, 1.0)


@pytest.mark.parametrize(
    "fault",
    [
        {"step": "MAIL", "reply": "421 4.3.2 Shutting down", "close": True},
        {"step": "MAIL", "close": True},
        {"step": "MAIL", "reset": True},
        {"step": "MAIL", "reply": "what?"},
        {"step": "MAIL", "hang": True},
        {"step": "MAIL", "after": b"250 too much\r\n"},
        {"step": "CONTENT", "close": True},
        {"step": "CONTENT", "reply": "421 4.3.2 Shutting down", "close": True},
        {"step": "RCPT", "reply": "550 5.1.1 Nobody"},
    ],
    ids=str,
)
def test_a_lost_lease_whose_connection_failed(server: SmtpServer, fault: dict[str, Any]) -> None:
    """No error that is kept keeps the frame of who lost it, and the lease with that."""

    def lose() -> None:
        lease = pool.connection()
        connection = lease.__enter__()
        with contextlib.suppress(SmtpError):
            connection.send("a@b.example", ["c@d.example"], b"hello\r\n", timeout=0.3)
        with contextlib.suppress(SmtpError):
            connection.noop(timeout=0.3)

    with ConnectionPool(server.url, max_size=1) as pool:
        server.fault(**fault)
        lose()
        gc.collect()
        assert pool.stats().in_use == 0


@unclosed
def test_exceptions_while_a_pool_is_warmed(server: SmtpServer) -> None:
    """Also while what was made ahead is put down for those who come."""
    with ConnectionPool(server.url, max_size=2, keepalive=None) as pool:
        inject_everywhere(pool, lambda: pool.warm(1), before=pool.drain)


@pytest.mark.parametrize("is_circle", [False, True])
def test_exceptions_while_a_lease_is_collected(
    server: SmtpServer, is_circle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destructor that a signal handler cuts off is not called again; the lease comes back."""
    monkeypatch.setattr(sys, "unraisablehook", lambda args: None)
    with ConnectionPool(server.url, max_size=1) as pool:
        point, where = 0, "somewhere"
        while where:
            lease = pool.connection()
            lease.__enter__()
            holder: list[object] = [lease]
            if is_circle:
                holder.append(holder)
            del lease
            with BytecodeInjector(point, lambda name: None) as injector:
                del holder
                gc.collect()
            where, point = injector.where, point + 1
            assert pool.stats().in_use == 0, where
            take_all(pool)
        assert point > 20
        assert pool.stats().discards == {"lost by its holder": point}


def test_a_lease_that_is_collected_inside_the_pool(server: SmtpServer) -> None:
    """A destructor that runs in the middle of one of the pool's own steps gives back the lease.

    That is one step of its own. What takes more is done with the next thing the pool does.
    """
    with ConnectionPool(server.url, max_size=1) as pool:
        lease = pool.connection()
        lease.__enter__()
        core = pool._core
        with core._lock:
            del lease
            gc.collect()
            assert len(core._state.leases) == 0
            assert core._counters.discards == {}
        take(pool, 1.0)
        assert pool.stats().discards == {"lost by its holder": 1}


def test_a_lease_that_is_collected_calls_no_hook(server: SmtpServer) -> None:
    """The hook may need a lock that is held where the destructor runs; it is told later."""
    heard: list[str] = []
    with ConnectionPool(server.url, max_size=1, on_event=lambda e: heard.append(e.action)) as pool:
        lease = pool.connection()
        lease.__enter__()
        heard.clear()
        del lease
        gc.collect()
        assert heard == []
        assert pool.stats().in_use == 0
        assert heard == ["discard", "checkin"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_hook_that_fails_while_a_connection_is_given_up(
    server: SmtpServer, kind: type[BaseException]
) -> None:
    """Whatever it raises, the connection is closed and the next caller is served."""

    failures = [kind]

    def hook(event: PoolEvent) -> None:
        if event.action == "discard" and failures:
            raise failures.pop()

    with ConnectionPool(server.url, max_size=1, on_event=hook) as pool:
        lease = pool.connection()
        connection = lease.__enter__()
        pool._core._state.drain()
        try:
            lease.__exit__(None, None, None)
        except (KeyboardInterrupt, SystemExit):
            assert kind is not ValueError
        assert not connection.is_open
        assert pool.stats().in_use == 0
        take(pool)
        assert pool.stats().discards == {"drained": 1}


def test_a_lease_given_back_twice_counts_once(server: SmtpServer) -> None:
    """Leaving the block again has no effect, even if another caller has the connection."""
    with ConnectionPool(server.url, max_size=2) as pool:
        lease = pool.connection()
        lease.__enter__()
        lease.__exit__(None, None, None)
        with pool.connection() as connection:
            lease.__exit__(None, None, None)
            lease.__exit__(None, KeyboardInterrupt(), None)
            stats = pool.stats()
            assert (stats.in_use, stats.idle) == (1, 0)
            connection.noop()
        assert pool.stats().idle == 1


def test_a_lease_tells_whether_its_connection_was_used(server: SmtpServer) -> None:
    """A connection counts as reused from its second block on."""
    with ConnectionPool(server.url) as pool:
        for was_reused in (False, True, True):
            lease = pool.connection()
            assert not lease.was_reused
            with lease:
                assert lease.was_reused is was_reused
            assert not lease.was_reused


@pytest.mark.parametrize(
    "fault", [{"close": True}, {"reset": True}, {"hang": True}, {"reply": b"\0"}], ids=str
)
def test_giving_back_is_never_an_error(server: SmtpServer, fault: dict[str, Any]) -> None:
    """A connection that is to end when it comes back says QUIT, and what comes of it is nothing."""
    server.fault("QUIT", times=None, **fault)
    with ConnectionPool(server.url, max_size=1, max_messages=1) as pool:
        for _ in range(2):
            assert pool.send("a@b.example", ["c@d.example"], b"one\r\n") is not None
        assert pool.stats().in_use == 0
    assert len(server.messages) == len(server.connections) == 2
