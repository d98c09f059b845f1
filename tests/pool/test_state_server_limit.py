"""The pool's decisions when the server accepts no more connections."""

from __future__ import annotations

import pytest

from smtpconn.pool.failover import SERVER_LIMIT_DURATION
from smtpconn.pool.state import Waiter
from tests.support.pool_simulator import PoolSimulator, pool_simulator


def refused(pool: PoolSimulator) -> Waiter:
    """A caller comes, and the server takes no more connections."""
    waiter = pool.arrive()
    assert pool.is_to_connect(waiter)
    assert pool.state.requeue_at_server_limit(waiter, pool.now, pool.now + SERVER_LIMIT_DURATION)
    return waiter


def test_who_is_refused_waits_for_a_connection() -> None:
    """It gives up lease and right to connect, and gets the next connection before all others."""
    pool = pool_simulator(max_size=4)
    holder, pooled = pool.hold()
    waiter = refused(pool)
    assert pool.is_waiting(waiter)
    assert set(pool.state.leases) == {holder}
    assert not pool.state.connecting
    later = pool.arrive()
    pool.return_connection(holder)
    assert waiter.pooled is pooled
    assert pool.is_waiting(later)


def test_who_is_refused_goes_before_those_who_wait() -> None:
    """Who had its turn already is served before those who came later."""
    pool = pool_simulator(max_size=2)
    holder, pooled = pool.hold()
    refused_one = pool.arrive()
    waiter = pool.arrive()
    assert pool.state.requeue_at_server_limit(
        refused_one, pool.now, pool.now + SERVER_LIMIT_DURATION
    )
    pool.return_connection(holder)
    assert refused_one.pooled is pooled
    assert pool.is_waiting(waiter)


def test_with_none_to_wait_for_nothing_changes() -> None:
    """A refusal with no other caller out is the caller's own affair."""
    pool = pool_simulator(max_size=4)
    waiter = pool.arrive()
    assert not pool.state.requeue_at_server_limit(
        waiter, pool.now, pool.now + SERVER_LIMIT_DURATION
    )
    assert pool.is_to_connect(waiter)
    assert pool.state.effective_size(pool.now) == 4


def test_the_size_is_lowered_for_a_while() -> None:
    """The pool has as many as the server took, until the while is over."""
    pool = pool_simulator(max_size=5)
    holders = [pool.hold()[0] for _ in range(3)]
    pool.return_connection(refused(pool))
    assert pool.state.effective_size(pool.now) == 3
    assert pool.state.is_overloaded(pool.now) is False
    assert pool.is_waiting(pool.arrive())
    pool.return_connection(holders[0])
    assert len(pool.state.leases) == 3
    assert pool.state.effective_size(pool.now + SERVER_LIMIT_DURATION - 0.001) == 3
    assert pool.state.effective_size(pool.now + SERVER_LIMIT_DURATION) == 5


def test_after_the_while_callers_connect_again() -> None:
    """When the size is what it was, the next caller finds room, and so do those who wait."""
    pool = pool_simulator(max_size=3)
    pool.hold()
    waiter = refused(pool)
    pool.now += SERVER_LIMIT_DURATION
    newcomer = pool.arrive()
    assert pool.is_to_connect(waiter)
    assert pool.is_to_connect(newcomer)


def test_a_second_refusal_lowers_the_size_further() -> None:
    """What the server said last counts."""
    pool = pool_simulator(max_size=5)
    holders = [pool.hold()[0] for _ in range(3)]
    pool.return_connection(refused(pool))
    pool.lose(holders[0])
    pool.now += 10
    refused(pool)
    assert pool.state.effective_size(pool.now) == 2
    assert pool.state.effective_size(pool.now + SERVER_LIMIT_DURATION - 0.001) == 2
    assert pool.state.effective_size(pool.now + SERVER_LIMIT_DURATION) == 5


def test_a_lowered_size_lends_what_there_is() -> None:
    """Idle connections are lent as ever while the size is lowered, up to that size."""
    pool = pool_simulator(max_size=5)
    holders = [pool.hold()[0] for _ in range(2)]
    pool.return_connection(refused(pool))
    for holder in holders:
        pool.return_connection(holder)
    assert pool.arrive().pooled is not None
    assert pool.arrive().pooled is not None
    assert pool.is_waiting(pool.arrive())


@pytest.mark.parametrize("most", [1, 2])
def test_no_caller_waits_for_waiting_ones(most: int) -> None:
    """If all connecting callers are refused and no caller has a connection, the next one tries."""
    pool = pool_simulator(max_size=5, max_connecting=most)
    callers = [pool.arrive() for _ in range(most + 1)]
    for caller in callers[:most]:
        if not pool.state.requeue_at_server_limit(
            caller, pool.now, pool.now + SERVER_LIMIT_DURATION
        ):
            pool.lose(caller)
    assert any(pool.is_to_connect(caller) for caller in callers)


def test_who_is_refused_takes_an_idle_connection() -> None:
    """One that came back while the caller was connecting is its own at once."""
    pool = pool_simulator()
    holder, pooled = pool.hold()
    waiter = pool.arrive()
    pool.return_connection(holder)
    assert pool.state.requeue_at_server_limit(waiter, pool.now, pool.now + SERVER_LIMIT_DURATION)
    assert waiter.pooled is pooled


def test_the_size_is_lowered_to_all_there_are() -> None:
    """Those that are idle at that moment count like those that are out."""
    pool = pool_simulator(max_size=5)
    holders = [pool.hold()[0] for _ in range(3)]
    waiter = pool.arrive()
    pool.return_connection(holders[0])
    pool.state.requeue_at_server_limit(waiter, pool.now, pool.now + SERVER_LIMIT_DURATION)
    assert pool.state.effective_size(pool.now) == 3


def test_who_is_refused_a_new_one_takes_what_comes_back() -> None:
    """A caller that was to make a new connection is content with another's when it may not."""
    pool = pool_simulator(max_size=2)
    waiter, _ = pool.hold()
    holder, pooled = pool.hold()
    pool.state.requeue(waiter, pool.now, renew=True)
    assert pool.state.requeue_at_server_limit(waiter, pool.now, pool.now + SERVER_LIMIT_DURATION)
    pool.return_connection(holder)
    assert waiter.pooled is pooled
