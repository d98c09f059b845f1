"""What a pool decides about connections: which are kept, why not, which need a NOOP, and when."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn.pool.state import PooledConnection, Waiter
from smtpconn.protocol.quirks import MAX_NOOPS
from tests.support.pool_simulator import LIFETIME, START, PoolSimulator, pool_simulator

# Which connections are kept


def closing(pool: PoolSimulator, pooled: PooledConnection) -> None:
    """The pool was closed."""
    pool.state.is_closed = True


def draining(pool: PoolSimulator, pooled: PooledConnection) -> None:
    """The pool was drained."""
    pool.state.drain()


def grown_old(pool: PoolSimulator, pooled: PooledConnection) -> None:
    """The connection's time is over."""
    pool.now = START + LIFETIME


def worn_out(pool: PoolSimulator, pooled: PooledConnection) -> None:
    """The connection had all its messages."""
    pooled.max_messages = 0


def unwanted(pool: PoolSimulator, pooled: PooledConnection) -> None:
    """No caller needed the connection."""
    pool.now = START + 60


Happening = Callable[[PoolSimulator, PooledConnection], None]
REASONS_IN_USE: list[tuple[Happening, str]] = [
    (closing, "pool closed"),
    (draining, "drained"),
    (grown_old, "max_lifetime"),
    (worn_out, "max_messages"),
]
REASONS_IDLE: list[tuple[Happening, str]] = [
    (draining, "drained"),
    (grown_old, "max_lifetime"),
    (unwanted, "max_idle"),
]


@pytest.mark.parametrize(("happen", "reason"), REASONS_IN_USE, ids=[r for _, r in REASONS_IN_USE])
def test_why_a_connection_does_not_become_idle(happen: Happening, reason: str) -> None:
    """A good connection has no reason to go, and each thing that may happen in use is one."""
    pool = pool_simulator(max_idle=60)
    waiter, pooled = pool.hold()
    assert pool.state.discard_reason_on_return(pooled, pool.now) is None
    happen(pool, pooled)
    assert not pool.state.try_release(waiter, pooled, pool.now)
    assert waiter.pooled is pooled
    assert pool.state.discard_reason_on_return(pooled, pool.now) == reason


@pytest.mark.parametrize(("happen", "reason"), REASONS_IDLE, ids=[r for _, r in REASONS_IDLE])
def test_why_an_idle_connection_is_not_kept(happen: Happening, reason: str) -> None:
    """An idle connection is removed for each possible reason."""
    pool = pool_simulator(max_idle=60)
    [pooled] = pool.fill(1)
    assert pool.state.discard_reason_when_idle(pooled, pool.now) is None
    happen(pool, pooled)
    assert pool.state.discard_reason_when_idle(pooled, pool.now) == reason
    assert pool.state.take_expired(pool.now) == [(pooled, reason)]
    assert not pool.state.idle


def test_a_return_takes_the_oldest_away_if_its_time_is_over() -> None:
    """Returning a connection does not check all idle ones."""
    pool = pool_simulator(max_idle=60)
    first, second = pool.fill(2, pause=10)
    pool.now = START + 59.999
    assert pool.state.take_oldest_expired(pool.now) is None
    pool.now = START + 60
    assert pool.state.take_oldest_expired(pool.now) == (first, "max_idle")
    assert pool.state.take_oldest_expired(pool.now) is None
    assert list(pool.state.idle) == [second]


def test_the_moments_are_exact() -> None:
    """A connection is good until the very moment its time is over."""
    pool = pool_simulator(max_idle=60)
    [pooled] = pool.fill(1)
    assert pool.state.discard_reason_when_idle(pooled, START + 59.999) is None
    assert pool.state.discard_reason_when_idle(pooled, START + 60) == "max_idle"
    waiter, _ = pool.hold()
    pool.now = START + LIFETIME - 30
    assert pool.state.discard_reason_on_return(pooled, pool.now) is None
    pool.return_connection(waiter)
    assert pool.state.discard_reason_when_idle(pooled, START + LIFETIME - 0.001) is None
    assert pool.state.discard_reason_when_idle(pooled, START + LIFETIME) == "max_lifetime"


@pytest.mark.parametrize(
    ("messages", "reason"), [(2, None), (3, "max_messages"), (4, "max_messages")]
)
def test_messages_are_counted(messages: int, reason: str | None) -> None:
    """A connection is good for max_messages messages."""
    pool = pool_simulator(max_messages=3)
    assert pool.state.discard_reason_on_return(pool.make(messages=messages), pool.now) == reason


def test_a_connection_in_use_is_not_idle() -> None:
    """However long it is in use, that is no reason of max_idle."""
    pool = pool_simulator(max_idle=60)
    _, pooled = pool.hold()
    assert pool.state.discard_reason_on_return(pooled, pool.now + 600) is None


def test_draining_is_for_those_that_exist() -> None:
    """Idle ones and those in use are to go, those made after it are not."""
    pool = pool_simulator()
    [idle] = pool.fill(1)
    holder, used = pool.hold()
    assert used is idle
    pool.fill(1)
    pool.state.drain()
    assert [why for _, why in pool.state.take_expired(pool.now)] == ["drained"]
    assert pool.state.discard_reason_on_return(used, pool.now) == "drained"
    pool.lose(holder)
    _, new = pool.hold()
    assert pool.state.discard_reason_on_return(new, pool.now) is None
    pool.state.drain()
    assert pool.state.discard_reason_on_return(new, pool.now) == "drained"


def test_only_the_expired_are_taken_away() -> None:
    """The others stay in their order, and with nothing expired nothing changes."""
    pool = pool_simulator(max_idle=60)
    first, second, third, fourth = pool.fill(4, pause=10)
    assert pool.state.take_expired(pool.now) == []
    second.expires_at = START + 60
    pool.now = START + 60
    assert pool.state.take_expired(pool.now) == [(first, "max_idle"), (second, "max_idle")]
    assert list(pool.state.idle) == [third, fourth]


# Keeping alive


def test_a_silent_connection_is_borrowed_for_a_noop() -> None:
    """It is taken with a lease when it was silent for keepalive, and not before."""
    pool = pool_simulator(keepalive=20)
    [pooled] = pool.fill(1)
    waiter = Waiter()
    assert pool.state.borrow_for_noop(waiter, START + 19.999) is None
    assert pool.is_gone(waiter)
    assert list(pool.state.idle) == [pooled]
    assert pool.state.borrow_for_noop(waiter, START + 20) is pooled
    assert set(pool.state.leases) == {waiter}
    assert waiter.since == START + 20
    assert not pool.state.idle


def test_only_the_silent_are_borrowed() -> None:
    """Of several idle connections each gets its NOOP when its own silence is long enough."""
    pool = pool_simulator(keepalive=20)
    first, second, third = pool.fill(3, pause=5)
    second.last_used_at = START + 12
    pool.now = START + 31
    assert [pool.keep_alive() for _ in range(3)] == [first, third, None]
    pool.now = START + 32
    assert [pool.keep_alive() for _ in range(2)] == [second, None]


def test_after_a_noop_a_connection_goes_below() -> None:
    """The one kept alive is lent after those used since, and was idle since it was used."""
    pool = pool_simulator(keepalive=20)
    first, second = pool.fill(2, pause=15)
    pool.now = START + 21
    since = first.idle_since
    assert pool.keep_alive() is first
    assert first.idle_since == since
    assert [pool.arrive().pooled for _ in range(2)] == [second, first]


def test_eight_noops_in_a_life() -> None:
    """A connection gets no more, however long it is silent and however often it is used."""
    pool = pool_simulator(keepalive=20, max_idle=1000)
    [pooled] = pool.fill(1)
    for number in range(8):
        pool.now += 20
        assert pool.keep_alive() is pooled
        if number == 3:
            pool.return_connection(pool.arrive())
    for _ in range(5):
        pool.now += 20
        assert pool.state.noop_due(pooled) is None
        assert pool.keep_alive() is None
        pool.return_connection(pool.arrive())


def test_no_noops_at_all() -> None:
    """Without keepalive nothing is borrowed."""
    pool = pool_simulator(keepalive=None)
    [pooled] = pool.fill(1)
    pool.now += 10**6
    assert pool.state.noop_due(pooled) is None
    assert pool.keep_alive() is None


def test_a_noop_counts_as_use() -> None:
    """While the only connection says NOOP a caller waits, and gets it when that is over."""
    pool = pool_simulator(max_size=1, keepalive=20)
    [pooled] = pool.fill(1)
    pool.now += 20
    waiter = Waiter()
    assert pool.state.borrow_for_noop(waiter, pool.now) is pooled
    caller = pool.arrive()
    assert pool.is_waiting(caller)
    pool.state.release(waiter, pooled, pool.now, was_used=False)
    assert caller.pooled is pooled
    assert pool.is_gone(waiter)


def test_a_failed_noop_gives_back_the_lease() -> None:
    """Who waits makes a connection instead of the one that was lost."""
    pool = pool_simulator(max_size=1, keepalive=20)
    pool.fill(1)
    pool.now += 20
    waiter = Waiter()
    pool.state.borrow_for_noop(waiter, pool.now)
    caller = pool.arrive()
    pool.state.release(waiter, None, pool.now, was_used=False)
    assert pool.is_to_connect(caller)


# When to look again


def test_nothing_is_due_while_nothing_is_idle() -> None:
    """Connections in use are not checked."""
    pool = pool_simulator()
    assert pool.state.next_due() is None
    pool.hold()
    assert pool.state.next_due() is None


def test_the_first_of_all_moments_is_due() -> None:
    """Of NOOP, max_idle and max_lifetime, of every idle connection, what comes first is due."""
    pool = pool_simulator(keepalive=20, max_idle=60)
    first, second = pool.fill(2, pause=5)
    assert pool.state.next_due() == START + 20
    first.noops = MAX_NOOPS
    assert pool.state.next_due() == second.last_used_at + 20 == START + 25
    second.noops = MAX_NOOPS
    assert pool.state.next_due() == START + 60
    second.expires_at = START + 50
    assert pool.state.next_due() == START + 50


def test_without_noops_the_end_is_due() -> None:
    """Without keepalive, max_idle is due, or max_lifetime if that ends earlier."""
    pool = pool_simulator(keepalive=None, max_idle=60)
    pool.fill(1)
    assert pool.state.next_due() == START + 60
    pool = pool_simulator(keepalive=None, max_idle=10**6)
    pool.fill(1)
    assert pool.state.next_due() == START + LIFETIME


@pytest.mark.parametrize("keepalive", [None, 7.0, 200.0])
def test_looking_when_due_always_finds_something(keepalive: float | None) -> None:
    """At each announced time there is a NOOP to send or a connection to close."""
    pool = pool_simulator(keepalive=keepalive, max_idle=60)
    pool.fill(4, pause=3)
    looks = 0
    while (due := pool.state.next_due()) is not None:
        pool.now = due
        assert pool.state.take_expired(pool.now) or pool.keep_alive()
        looks += 1
    assert not pool.state.idle
    assert pool.now == START + 9 + 60
    assert looks == 4 + (4 * 8 if keepalive == 7.0 else 0)
