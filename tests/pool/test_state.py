"""What a pool decides about callers: who is served, when, and with what.

What it decides when the server takes no more connections is in
`tests.pool.test_state_server_limit`, and about connections that are idle in
`tests.pool.test_state_idle`; whole days of all of it, at random, are in
`tests.pool.test_state_machine`.
"""

from __future__ import annotations

import pytest

from smtpconn.pool.failover import SERVER_LIMIT_DURATION
from smtpconn.pool.state import Waiter
from tests.support.pool_simulator import PoolSimulator, pool_simulator

# Taking


def test_the_first_caller_makes_a_connection() -> None:
    """With nothing idle a caller is served at once, with the right to connect."""
    pool = pool_simulator()
    waiter = Waiter()
    assert pool.state.try_acquire(waiter, pool.now) is None
    assert pool.is_gone(waiter)
    assert pool.state.enqueue(waiter, pool.now)
    assert pool.is_to_connect(waiter)
    assert waiter in pool.state.leases


def test_an_idle_connection_is_taken_at_once() -> None:
    """With one idle a caller gets it and a lease, and need not stand in line."""
    pool = pool_simulator()
    [pooled] = pool.fill(1)
    waiter = Waiter()
    pool.now += 3
    assert pool.state.try_acquire(waiter, pool.now) is pooled is waiter.pooled
    assert waiter.since == pool.now
    assert waiter in pool.state.leases
    assert not pool.state.idle


def test_the_youngest_idle_connection_goes_first() -> None:
    """Idle connections are lent last in, first out, on either way of taking them."""
    pool = pool_simulator()
    first, second, third = pool.fill(3)
    taken = [pool.arrive().pooled]
    waiter = Waiter()
    assert pool.state.enqueue(waiter, pool.now)
    assert [*taken, waiter.pooled, pool.arrive().pooled] == [third, second, first]


def test_the_fast_way_is_shut_in_a_closed_pool() -> None:
    """After closing no caller gets or holds a connection."""
    pool = pool_simulator()
    pool.fill(2)
    pool.close()
    waiter = Waiter()
    assert pool.state.try_acquire(waiter, pool.now) is None
    assert pool.is_gone(waiter)


def test_the_fast_way_does_not_overtake() -> None:
    """While a caller waits, no later one overtakes it, even if there are idle connections."""
    pool = pool_simulator(max_connecting=1)
    renewing_one, _ = pool.hold()
    other, _ = pool.hold()
    connecting = pool.arrive()
    pool.state.requeue(renewing_one, pool.now, renew=True)
    pool.return_connection(other)
    assert pool.is_waiting(renewing_one)
    assert len(pool.state.idle) == 1
    newcomer = Waiter()
    assert pool.state.try_acquire(newcomer, pool.now) is None
    assert pool.is_gone(newcomer)
    pool.connect(connecting)
    assert pool.is_to_connect(renewing_one)
    assert pool.state.try_acquire(newcomer, pool.now) is not None


# Waiting


def test_waiters_are_served_in_order() -> None:
    """Callers are served in order, and each gets the returned connection."""
    pool = pool_simulator(max_size=1)
    holder, pooled = pool.hold()
    waiters = [pool.arrive() for _ in range(4)]
    for waiter in waiters:
        assert pool.is_waiting(waiter)
        pool.return_connection(holder)
        assert waiter.pooled is pooled
        holder = waiter
    assert not pool.state.queue


def test_a_connection_is_handed_over_in_one_step() -> None:
    """It is never idle between two callers, nor is its lease free: no other caller can take it."""
    pool = pool_simulator(max_size=1)
    holder, pooled = pool.hold()
    waiter = pool.arrive()
    pool.now += 2
    pool.return_connection(holder)
    assert not pool.is_waiting(waiter)
    assert (waiter.pooled, waiter.since) == (pooled, pool.now)
    assert set(pool.state.leases) == {waiter}
    assert not pool.state.idle
    assert pool.is_gone(holder)
    assert pool.is_waiting(pool.arrive())


def test_a_lease_is_handed_over_without_a_connection() -> None:
    """Whose turn comes when a connection was lost makes one."""
    pool = pool_simulator(max_size=1)
    holder, _ = pool.hold()
    waiter = pool.arrive()
    pool.lose(holder)
    assert pool.is_to_connect(waiter)
    assert set(pool.state.leases) == {waiter}


@pytest.mark.parametrize("size", [1, 2, 7])
def test_max_size_is_hard(size: int) -> None:
    """At most max_size callers are served, and the others wait."""
    pool = pool_simulator(max_size=size)
    callers = [pool.arrive() for _ in range(size + 3)]
    assert [pool.is_waiting(c) for c in callers] == [False] * size + [True] * 3
    assert len(pool.state.leases) == size


@pytest.mark.parametrize("most", [1, 2])
def test_only_so_many_connect_at_once(most: int) -> None:
    """The right to connect goes to the next caller when one has connected, or failed to."""
    pool = pool_simulator(max_connecting=most)
    callers = [pool.arrive() for _ in range(most + 2)]
    assert [pool.is_to_connect(c) for c in callers] == [True] * most + [False] * 2
    pool.connect(callers[0])
    assert [pool.is_to_connect(c) for c in callers[most:]] == [True, False]
    pool.lose(callers[most])
    assert pool.is_to_connect(callers[most + 1])


def test_who_waits_to_connect_takes_what_comes_back_first() -> None:
    """A caller with nothing but a right to wait for is served by an idle connection as well."""
    pool = pool_simulator(max_connecting=1)
    holder, pooled = pool.hold()
    connecting, waiter = pool.arrive(), pool.arrive()
    assert pool.is_waiting(waiter)
    pool.return_connection(holder)
    assert waiter.pooled is pooled
    pool.connect(connecting)
    assert not pool.is_to_connect(waiter)


@pytest.mark.parametrize("most", [0, 1, 3])
def test_too_many_waiters(most: int) -> None:
    """Only a caller that would exceed ``max_waiting`` is refused."""
    pool = pool_simulator(max_size=1, max_waiting=most)
    assert not pool.state.is_overloaded(pool.now)
    pool.fill(1)
    assert not pool.state.is_overloaded(pool.now)
    holder, _ = pool.hold()
    for _ in range(most):
        assert not pool.state.is_overloaded(pool.now)
        pool.arrive()
    assert pool.state.is_overloaded(pool.now)
    pool.return_connection(holder)
    assert not pool.state.is_overloaded(pool.now)


def test_no_caller_waits_with_max_waiting_0() -> None:
    """With max_waiting=0 a caller that would have to wait for its turn to connect is refused."""
    pool = pool_simulator(max_waiting=0, max_connecting=1)
    pool.arrive()
    assert pool.state.is_overloaded(pool.now)


# A connection that was no good


def test_a_dead_connection_is_replaced_by_the_next() -> None:
    """Who was given a dead one gets the next idle one at once, keeping its lease."""
    pool = pool_simulator()
    first, second = pool.fill(2)
    waiter = pool.arrive()
    assert waiter.pooled is second
    pool.state.requeue(waiter, pool.now)
    assert waiter.pooled is first
    pool.state.requeue(waiter, pool.now)
    assert pool.is_to_connect(waiter)
    assert set(pool.state.leases) == {waiter}


def test_who_goes_again_goes_before_all_others() -> None:
    """A caller who had its turn does not go to the end of the line."""
    pool = pool_simulator(max_size=2, max_connecting=1)
    holder, _ = pool.hold()
    connecting, waiter = pool.arrive(), pool.arrive()
    pool.state.requeue(holder, pool.now)
    assert pool.is_waiting(holder)
    pool.connect(connecting)
    assert pool.is_to_connect(holder)
    assert pool.is_waiting(waiter)


def test_who_wants_a_new_one_gets_a_new_one() -> None:
    """With ``renew`` a caller connects although there are idle connections, which are kept."""
    pool = pool_simulator()
    first, _ = pool.fill(2)
    waiter = pool.arrive()
    pool.state.requeue(waiter, pool.now, renew=True)
    assert pool.is_to_connect(waiter)
    assert list(pool.state.idle) == [first]
    made = pool.connect(waiter)
    pool.return_connection(waiter)
    assert list(pool.state.idle) == [first, made]


def renewing(*, room: int) -> tuple[PoolSimulator, Waiter, Waiter]:
    """A pool in which one caller wants a new connection, and may not make it while another does.

    Returns it, the caller that wants a new one, and the one that connects.
    """
    pool = pool_simulator(max_size=2 + room, max_connecting=1)
    waiter, _ = pool.hold()
    others = [pool.hold()[0] for _ in range(room)]
    connecting = pool.arrive()
    for other in others:
        pool.return_connection(other)
    pool.now += 1
    pool.state.requeue(waiter, pool.now, renew=True)
    assert pool.is_waiting(waiter)
    return pool, waiter, connecting


def test_a_caller_that_wants_a_new_connection_delays_no_other() -> None:
    """Those who came later take what is idle, in their order, while it waits to connect."""
    pool, waiter, connecting = renewing(room=2)
    assert len(pool.state.idle) == 2
    second, third, fourth = pool.arrive(), pool.arrive(), pool.arrive()
    assert second.pooled is not None
    assert third.pooled is not None
    assert pool.is_waiting(fourth)
    pool.connect(connecting)
    assert pool.is_to_connect(waiter)
    assert pool.is_waiting(fourth)


def test_who_wants_a_new_one_takes_one_that_came_back_since() -> None:
    """It was in use until now, so it is as good as a new one; and it goes to the first in line."""
    pool, waiter, _ = renewing(room=2)
    second, third = pool.arrive(), pool.arrive()
    fourth = pool.arrive()
    assert pool.is_waiting(fourth)
    pool.now += 1
    lent = second.pooled
    pool.return_connection(second)
    assert waiter.pooled is lent
    assert pool.is_waiting(fourth)
    pool.now += 1
    pool.return_connection(third)
    assert not pool.is_waiting(fourth)


def test_who_wants_a_new_one_takes_no_older_one() -> None:
    """Those that were idle already when its own was dead may be dead as well."""
    pool, waiter, connecting = renewing(room=1)
    [idle] = pool.state.idle
    pool.connect(connecting)
    assert pool.is_to_connect(waiter)
    assert list(pool.state.idle) == [idle]


def test_who_wants_a_new_one_takes_an_old_one_if_there_is_no_room() -> None:
    """A connection that may be dead is better than waiting until the timeout."""
    pool = pool_simulator(max_size=3)
    waiter, _ = pool.hold()
    refused, _ = pool.hold()
    [idle] = [pool.hold()[0]]
    old = idle.pooled
    pool.return_connection(idle)
    pool.state.requeue(refused, pool.now, renew=True)
    assert pool.state.requeue_at_server_limit(refused, pool.now, pool.now + SERVER_LIMIT_DURATION)
    assert refused.pooled is old
    pool.return_connection(refused)
    pool.state.requeue(waiter, pool.now, renew=True)
    assert pool.is_to_connect(waiter)
    assert pool.state.effective_size(pool.now) == 2


def test_renewing_is_for_once() -> None:
    """A caller who goes again in the ordinary way takes an idle one."""
    pool = pool_simulator()
    first, _ = pool.fill(2)
    waiter = pool.arrive()
    pool.state.requeue(waiter, pool.now, renew=True)
    pool.connect(waiter)
    pool.state.requeue(waiter, pool.now)
    assert waiter.pooled is first


# Leaving


def test_who_left_holds_nothing() -> None:
    """Lease, connection and right to connect are given back, in whatever state the caller is."""
    pool = pool_simulator(max_size=3, max_connecting=1)
    never_came = Waiter()
    holder, pooled = pool.hold()
    connecting, waiting = pool.arrive(), pool.arrive()
    pool.lose(never_came)
    pool.lose(waiting)
    pool.lose(connecting)
    pool.return_connection(holder)
    assert all(pool.is_gone(t) for t in (never_came, holder, connecting, waiting))
    assert list(pool.state.idle) == [pooled]


def test_leaving_again_changes_nothing() -> None:
    """Returning twice has no effect, even if another caller has the connection."""
    pool = pool_simulator(max_size=1)
    holder, pooled = pool.hold()
    second, third = pool.arrive(), pool.arrive()
    for _ in range(3):
        pool.return_connection(holder)
        assert second.pooled is pooled
        assert set(pool.state.leases) == {second}
        assert pool.is_waiting(third)
    pool.return_connection(second)
    pool.return_connection(third)
    for waiter in (holder, second, third):
        pool.return_connection(waiter)
    assert list(pool.state.idle) == [pooled]
    assert not pool.state.leases


def test_who_gives_up_leaves_the_line() -> None:
    """The others move up, in their order."""
    pool = pool_simulator(max_size=1)
    holder, _ = pool.hold()
    first, second, third = (pool.arrive() for _ in range(3))
    pool.lose(second)
    pool.return_connection(holder)
    assert not pool.is_waiting(first)
    pool.return_connection(first)
    assert not pool.is_waiting(third)


def test_who_gives_up_at_the_head_lets_the_next_pass() -> None:
    """Those behind one who waited for more than they need are served when it leaves."""
    pool = pool_simulator(max_size=4, max_connecting=1)
    waiter, _ = pool.hold()
    holder, pooled = pool.hold()
    pool.arrive()
    pool.state.requeue(waiter, pool.now, renew=True)
    pool.return_connection(holder)
    pool.lose(waiter)
    assert pool.arrive().pooled is pooled


def test_who_gives_up_too_late_passes_it_on() -> None:
    """A caller whose turn came when its time was over gives everything to the next one."""
    pool = pool_simulator(max_size=1)
    holder, pooled = pool.hold()
    late, patient = pool.arrive(), pool.arrive()
    pool.return_connection(holder)
    assert late.pooled is pooled
    pool.return_connection(late)
    assert patient.pooled is pooled


def test_a_caller_can_be_called_twice() -> None:
    """Being told of one's turn again does no harm, nor does it to one who never stood in line."""
    pool = pool_simulator(max_size=1)
    holder, _ = pool.hold()
    waiter = pool.arrive()
    pool.return_connection(holder)
    assert not pool.is_waiting(waiter)
    waiter.wake()
    Waiter().wake()
    assert not pool.is_waiting(waiter)


# Warming


@pytest.mark.parametrize(("asked", "is_short"), [(3, False), (4, True)])
def test_callers_that_wait_to_make_a_connection_count_as_one_each(
    asked: int, is_short: bool
) -> None:
    """However the server delays them, those that warm a pool make no more than they were asked."""
    pool = pool_simulator(max_size=8, max_connecting=1)
    for _ in range(3):
        waiter = Waiter()
        waiter.not_before = pool.now
        pool.state.enqueue(waiter, pool.now)
    pool.state.enqueue(Waiter(), pool.now)  # takes any connection, and counts as none
    assert len(pool.state.leases) == 1
    assert pool.state.is_short_of(asked, pool.now) == is_short
