"""A pool with a backup: mail uses it at once, returns later, and no caller waits for long."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from smtpconn import (
    ConnectionPool,
    PoolTimeoutError,
    SmtpConnection,
    SmtpTimeoutError,
    TransientError,
    TransportError,
)
from smtpconn.testing import SmtpServer
from tests.support.clock import Clock
from tests.support.pool_use import MESSAGE, RECIPIENTS, SENDER, configs
from tests.support.waiting import wait_until

MAINTENANCE = ["421 4.3.2 Closing for maintenance", "432 4.3.2 Queue paused", "451 4.3.2 Not now"]


def send(pool: ConnectionPool, timeout: float | None = None) -> float:
    """Send a message; the seconds it took."""
    begun = time.monotonic()
    pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=timeout)
    return time.monotonic() - begun


def port(connection: SmtpConnection) -> int:
    """Which server it goes to."""
    return int(repr(connection).split(" ")[1].rpartition(":")[2])


# Too many connections


@pytest.mark.parametrize("reply", MAINTENANCE)
def test_a_server_under_maintenance_costs_the_backup_nothing(
    server: SmtpServer, backup: SmtpServer, clock: Clock, reply: str
) -> None:
    """All connections there may be go to the backup, before and after each look at the server."""
    server.fault("CONNECT", reply=reply, close=True, times=None)
    with ConnectionPool(configs(server, backup), max_size=4, max_idle=1e6, keepalive=None) as pool:
        for looks in range(1, 5):
            with ExitStack() as stack:
                for _ in range(4):
                    assert port(stack.enter_context(pool.connection(5))) == backup.port
            stats = pool.stats()
            assert stats.effective_size == 4
            assert (stats.connects, stats.connect_errors, stats.discards) == (4, looks, {})
            clock.advance(60)


@pytest.mark.parametrize("reply", MAINTENANCE)
def test_what_one_server_does_not_take_another_one_does(
    server: SmtpServer, backup: SmtpServer, reply: str
) -> None:
    """A server with a limit keeps the connections it took; the pool's others go to the backup."""
    with ConnectionPool(configs(server, backup), max_size=5) as pool, ExitStack() as stack:
        first = [stack.enter_context(pool.connection()) for _ in range(2)]
        server.fault("CONNECT", reply=reply, close=True, times=None)
        others = [stack.enter_context(pool.connection(5)) for _ in range(3)]
        assert {port(c) for c in first} == {server.port}
        assert {port(c) for c in others} == {backup.port}
        # One was refused, and no caller tried again.
        assert len(server.connections) == 3
        stats = pool.stats()
        assert (stats.effective_size, stats.in_use, stats.waiting) == (5, 5, 0)


def test_a_server_with_a_limit_is_asked_again_after_a_minute(
    server: SmtpServer, backup: SmtpServer, clock: Clock
) -> None:
    """By one caller, who falls back on the backup; the connections to the backup stay."""
    with ConnectionPool(configs(server, backup), max_size=4, max_idle=1e6, keepalive=None) as pool:
        with pool.connection() as first:
            server.fault("CONNECT", reply=MAINTENANCE[0], close=True, times=2)
            with ExitStack() as stack:
                for _ in range(3):
                    stack.enter_context(pool.connection())
            for minute in range(1, 3):
                for _ in range(4):
                    send(pool)
                assert len(server.connections) == 1 + minute
                assert (pool.stats().effective_size, pool.stats().discards) == (4, {})
                clock.advance(61)
            assert port(first) == server.port
            assert len(backup.messages) == 8
            send(pool)  # and now there is room
            assert len(server.messages) == 1
        assert pool.stats().discards == {"a better server may be back": 1}


def test_when_all_servers_are_full_callers_wait(server: SmtpServer, backup: SmtpServer) -> None:
    """No server has room: a caller gets a returned connection of either server."""
    got: list[int] = []

    def work() -> None:
        with pool.connection(10) as connection:
            got.append(port(connection))

    with ConnectionPool(configs(server, backup), max_size=5) as pool:
        waiter = threading.Thread(target=work)
        with pool.connection():
            server.fault("CONNECT", reply=MAINTENANCE[0], close=True, times=None)
            with pool.connection():
                backup.fault("CONNECT", reply=MAINTENANCE[0], close=True, times=None)
                waiter.start()
                wait_until(lambda: pool.stats().effective_size == 2)
                assert not got
            waiter.join(10)
            assert got == [backup.port]
        # Both are known to be full: no caller tries them.
        asked = len(server.connections) + len(backup.connections)
        with pool.connection(), pool.connection(), pytest.raises(PoolTimeoutError) as caught:
            pool.connection(0.05).__enter__()
        assert len(server.connections) + len(backup.connections) == asked
        assert isinstance(caught.value.__cause__, TransientError)


def test_waiting_ends_when_another_server_may_be_back(
    server: SmtpServer, backup: SmtpServer
) -> None:
    """A dead backup has a short backoff: who waits for a full server's connection asks it."""
    backup.stop()
    with ConnectionPool(configs(server, backup), max_size=3) as pool, pool.connection():
        server.fault("CONNECT", reply=MAINTENANCE[0], close=True, times=None)
        with pytest.raises(PoolTimeoutError):
            pool.connection(0.3).__enter__()
        backup.start()
        with pool.connection(5) as connection:
            assert port(connection) == backup.port


# A server that hangs


@pytest.mark.parametrize(
    ("configured", "asked"), [(10.0, 0.3), (0.15, 10.0), (10.0, 0.05)], ids=repr
)
def test_a_server_that_hangs_is_in_backoff_after_its_first_failure(
    server: SmtpServer, backup: SmtpServer, configured: float, asked: float
) -> None:
    """However short the caller's or the configuration's time: the next callers do not meet it."""
    server.fault("CONNECT", hang=True, times=None)
    with ConnectionPool(configs(server, backup, timeout=configured)) as pool:
        failures = 0
        while not backup.messages:  # the shortest of times may be too short for the backup, too
            try:
                send(pool, asked)
            except SmtpTimeoutError:
                failures += 1
        assert failures == 0 or asked == 0.05
        met = pool.stats().servers[0].failures
        assert met == 1 or failures
        for _ in range(11):
            send(pool)
        assert pool.stats().servers[0].failures == met
        assert len(server.connections) == met
    assert len(backup.messages) == 12


def test_no_caller_waits_for_half_the_time(
    server: SmtpServer, backup: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is another server, one that hangs has a few seconds and no more."""
    monkeypatch.setattr("smtpconn.pool.connector.TRIAL_TIMEOUT", 0.1)
    server.fault("CONNECT", hang=True, times=None)
    with ConnectionPool(configs(server, backup, timeout=60), acquire_timeout=60) as pool:
        assert 0.1 <= send(pool) < 5


def test_a_slow_server_has_the_rest_of_the_time(
    server: SmtpServer, backup: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If no other server can be had, the one that was cut short is asked again, with patience."""
    monkeypatch.setattr("smtpconn.pool.connector.TRIAL_TIMEOUT", 0.05)
    backup.stop()
    server.fault("CONNECT", delay=0.3, times=None)
    with ConnectionPool(configs(server, backup)) as pool:
        assert 0.3 <= send(pool) < 5
        assert pool.stats().servers[0].is_healthy
    assert len(server.messages) == 1


def test_no_caller_waits_for_a_server_that_hangs_if_a_connection_may_come_back(
    server: SmtpServer, backup: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the backup full, a connection to it that is given back is waited for instead."""
    monkeypatch.setattr("smtpconn.pool.connector.TRIAL_TIMEOUT", 0.05)
    server.fault("CONNECT", hang=True, times=None)
    backup.fault("CONNECT", reply=MAINTENANCE[0], close=True, times=None, skip=1)
    got: list[float] = []

    def work() -> None:
        begun = time.monotonic()
        with pool.connection(30) as connection:
            assert port(connection) == backup.port
            got.append(time.monotonic() - begun)

    with ConnectionPool(configs(server, backup, timeout=30), max_size=3) as pool:
        for _ in range(2):  # the second time the backup is known to be full
            callers = [threading.Thread(target=work) for _ in range(2)]
            with pool.connection():
                for caller in callers:
                    caller.start()
                wait_until(lambda: pool.stats().waiting == 2)
            for caller in callers:
                caller.join(10)
    assert len(got) == 4
    assert max(got) < 5
    assert len(backup.connections) <= 3


def test_one_caller_asks_whether_a_server_is_back(
    server: SmtpServer, backup: SmtpServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the answer; all others go on with the backup's idle connections, which stay."""
    monkeypatch.setattr("smtpconn.pool.connector.TRIAL_TIMEOUT", 0.5)
    server.stop()
    with ConnectionPool(configs(server, backup), max_size=3, max_idle=1e6, keepalive=None) as pool:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(pool.connection())
        server.start()
        server.fault("CONNECT", hang=True)
        clock.advance(60)
        trial = threading.Thread(target=send, args=[pool])
        trial.start()
        wait_until(lambda: bool(server.connections))
        for _ in range(5):
            assert send(pool) < 0.4
        assert len(backup.messages) == 5
        trial.join(10)
        stats = pool.stats()
        assert (stats.connects, stats.connect_errors, stats.discards) == (3, 2, {})
        assert len(backup.messages) == 6
        assert len(server.connections) == 1


def test_when_it_is_back_the_mail_moves_back(
    server: SmtpServer, backup: SmtpServer, clock: Clock
) -> None:
    """The caller that asked uses the connection it made; then no other goes to the backup."""
    server.stop()
    with ConnectionPool(configs(server, backup), max_size=3, max_idle=1e6, keepalive=None) as pool:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(pool.connection())
        server.start()
        clock.advance(60)
        send(pool)
        assert len(server.messages) == 1
        assert pool.stats().discards == {"a better server may be back": 1}
        with ExitStack() as stack:
            for _ in range(3):
                assert port(stack.enter_context(pool.connection())) == server.port
        assert pool.stats().discards == {"a better server may be back": 3}
    assert not backup.messages


def test_the_caller_that_asks_keeps_to_its_time(
    server: SmtpServer, backup: SmtpServer, clock: Clock
) -> None:
    """Asking takes half of it at most, so that the message still goes to the backup."""
    server.stop()
    with ConnectionPool(configs(server, backup), max_idle=1e6, keepalive=None) as pool:
        send(pool)
        server.start()
        server.fault("CONNECT", hang=True, times=None)
        clock.advance(60)
        assert 0.2 <= send(pool, 0.4) < 0.4
        assert pool.stats().servers[0].failures == 2
    assert len(backup.messages) == 2


def test_a_backup_that_fails_during_a_trial(
    server: SmtpServer, backup: SmtpServer, clock: Clock
) -> None:
    """The connection to the backup is checked after the trial, and replaced if it is dead."""
    server.stop()
    with ConnectionPool(configs(server, backup), max_idle=1e6, keepalive=None) as pool:
        send(pool)
        backup.stop()
        backup.start()
        clock.advance(60)
        send(pool)
        assert isinstance(pool.stats().servers[0].last_error, TransportError)
        assert pool.stats().discards == {"dead when idle": 1}
    assert len(backup.messages) == 2


def test_many_threads_while_the_preferred_server_comes_and_goes(
    server: SmtpServer, backup: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every message arrives once, at one of the two, and the pool keeps its size."""
    monkeypatch.setattr("smtpconn.pool.failover.FIRST_BACKOFF", 0.01)
    monkeypatch.setattr("smtpconn.pool.failover.MAX_BACKOFF", 0.05)
    with ConnectionPool(configs(server, backup), max_size=6, max_connecting=3) as pool:
        pause = threading.Event()

        def work(count: int) -> None:
            for number in range(count):
                pool.send(SENDER, RECIPIENTS, b"Subject: %d\r\n\r\n" % number)

        threads = [threading.Thread(target=work, args=[40]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for fault in ({"reply": MAINTENANCE[0], "close": True}, {"reset": True}, {"close": True}):
            server.fault("CONNECT", times=3, **fault)
            pool.drain()
            pause.wait(0.05)
        for thread in threads:
            thread.join()
        stats = pool.stats()
        assert (stats.messages, stats.failed_messages, stats.in_use) == (320, 0, 0)
    assert len(server.messages) + len(backup.messages) == 320
