"""Random sequences of pool events, by hypothesis: the invariants hold after each event."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smtpconn.pool.failover import SERVER_LIMIT_DURATION
from smtpconn.pool.state import PooledConnection, Waiter
from smtpconn.protocol.quirks import MAX_NOOPS
from tests.support.pool_simulator import FakeConnection, pool_simulator

ANY = st.integers(0, 11)
"""Which one of several, counted round and round."""


class PoolMachine(RuleBasedStateMachine):
    """The events of a pool, and its invariants.

    Served callers are in ``using`` (with a connection) or ``connecting``, those that wait are in
    ``queue``, in the order in which they have to be served.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Waiter] = []
        self.served: list[Waiter] = []
        self.gone: list[Waiter] = []
        self.kept_alive: dict[Waiter, PooledConnection] = {}
        self.alive: set[PooledConnection] = set()
        self.noops: dict[PooledConnection, int] = {}
        self.is_closed = False

    @initialize(
        size=st.integers(1, 4), connecting=st.integers(1, 3), keepalive=st.sampled_from([None, 20])
    )
    def begin(self, size: int, connecting: int, keepalive: float | None) -> None:
        """A pool with some limits."""
        self.pool_simulator = pool_simulator(
            max_size=size, max_connecting=connecting, keepalive=keepalive, max_messages=3
        )
        self.settled = self.pool_simulator.now

    # What happens

    @rule(seconds=st.sampled_from([0.5, 7, 21, 35, 61]))
    def time_passes(self, seconds: float) -> None:
        """Nothing happens for a while."""
        self.pool_simulator.now += seconds

    @precondition(lambda self: not self.is_closed)
    @rule()
    def arrive(self) -> None:
        """A caller arrives; it gets a connection at once only if no other waits."""
        had_line, waiter = bool(self.queue), Waiter()
        if self.pool_simulator.state.try_acquire(waiter, self.pool_simulator.now) is not None:
            assert not had_line
            self.served.append(waiter)
        else:
            assert self.pool_simulator.is_gone(waiter)
            self.queue.append(waiter)
            was_served = self.pool_simulator.state.enqueue(waiter, self.pool_simulator.now)
            self._settled()
            assert was_served is (waiter in self.served)

    @precondition(lambda self: self._connecting())
    @rule(which=ANY)
    def connect(self, which: int) -> None:
        """A caller has made its connection."""
        pooled = self.pool_simulator.connect(_pick(self._connecting(), which))
        self.alive.add(pooled)
        self._settled()

    @precondition(lambda self: self._connecting())
    @rule(which=ANY)
    def fail_to_connect(self, which: int) -> None:
        """A caller could not connect, and is told."""
        self._leave(_pick(self._connecting(), which), lost=True)

    @precondition(lambda self: self._can_requeue_at_server_limit())
    @rule(which=ANY)
    def be_one_too_many(self, which: int) -> None:
        """The server takes no more connections: the caller waits, if there is one to wait for."""
        waiter = _pick(self._connecting(), which)
        others = len(self.alive)
        self.queue.insert(0, waiter)
        self.served.remove(waiter)
        waits = self.pool_simulator.state.requeue_at_server_limit(
            waiter, self.pool_simulator.now, self.pool_simulator.now + SERVER_LIMIT_DURATION
        )
        assert waits is (others > 0)
        if waits:
            assert self.pool_simulator.state.effective_size(self.pool_simulator.now) == others
            self._settled()
        else:
            self.queue.remove(waiter)
            self.served.append(waiter)
            self._leave(waiter, lost=True)

    @precondition(lambda self: self._using())
    @rule(which=ANY, messages=st.integers(0, 2))
    def use(self, which: int, messages: int) -> None:
        """A caller sends, and gives back a good connection."""
        waiter = _pick(self._using(), which)
        assert waiter.pooled is not None
        connection = waiter.pooled.connection
        assert isinstance(connection, FakeConnection)
        connection.transactions += messages
        self._leave(waiter, lost=False)

    @precondition(lambda self: self._using())
    @rule(which=ANY)
    def lose(self, which: int) -> None:
        """A caller's connection is lost in use."""
        self._leave(_pick(self._using(), which), lost=True)

    @precondition(lambda self: self._using())
    @rule(which=ANY, renew=st.booleans())
    def go_again(self, which: int, renew: bool) -> None:
        """A caller's connection is no good, and it wants another, or a new one."""
        waiter = _pick(self._using(), which)
        assert waiter.pooled is not None
        self.alive.remove(waiter.pooled)
        self.served.remove(waiter)
        self.queue.insert(0, waiter)
        self.pool_simulator.state.requeue(waiter, self.pool_simulator.now, renew=renew)
        self._settled()

    @precondition(lambda self: self.queue)
    @rule(which=ANY)
    def give_up(self, which: int) -> None:
        """A caller's timeout has passed."""
        self._leave(_pick(self.queue, which), lost=True)

    @precondition(lambda self: self.gone)
    @rule(which=ANY)
    def leave_again(self, which: int) -> None:
        """A lease that was given back is given back again."""
        self.pool_simulator.return_connection(_pick(self.gone, which))
        self._settled()

    @rule()
    def look_after_idle(self) -> None:
        """Maintenance closes what is over, and begins a NOOP if one is due."""
        self._expire()
        waiter = Waiter()
        pooled = self.pool_simulator.state.borrow_for_noop(waiter, self.pool_simulator.now)
        if pooled is not None:
            assert (
                self.pool_simulator.state.discard_reason_when_idle(pooled, self.pool_simulator.now)
                is None
            )
            pooled.noops += 1
            pooled.last_used_at = self.pool_simulator.now
            self.noops[pooled] = self.noops.get(pooled, 0) + 1
            self.kept_alive[waiter] = pooled

    @precondition(lambda self: self.kept_alive)
    @rule(which=ANY, is_alive=st.booleans())
    def end_noop(self, which: int, is_alive: bool) -> None:
        """A NOOP is answered, or not."""
        waiter = _pick(self.kept_alive, which)
        pooled = self.kept_alive.pop(waiter)
        if not is_alive:
            self.alive.remove(pooled)
        self.pool_simulator.state.release(
            waiter, pooled if is_alive else None, self.pool_simulator.now, was_used=False
        )
        self.gone.append(waiter)
        self._settled()
        self._expire()

    @rule()
    def drain(self) -> None:
        """Every connection is to be replaced; those that are idle, at once."""
        self.pool_simulator.state.drain()
        self._expire()
        assert not self.pool_simulator.state.idle

    @precondition(lambda self: not self.is_closed)
    @rule(really=st.integers(0, 9))
    def close(self, really: int) -> None:
        """The pool is closed, but not as often as everything else happens."""
        if really == 0:
            self.is_closed = True
            self.alive.difference_update(self.pool_simulator.state.idle)
            self.gone += self.queue
            self.queue.clear()
            self.pool_simulator.close()

    def teardown(self) -> None:
        """At the end all callers are served, and all remaining connections are idle."""
        if not hasattr(self, "pool_simulator"):
            return
        while self.served or self.kept_alive:
            while self.kept_alive:
                self.end_noop(0, True)
            for waiter in list(self.served):
                if waiter.pooled is None:
                    self.connect(self._connecting().index(waiter))
                self._leave(waiter, lost=False)
            self.nobody_waits_in_vain()
        assert not self.queue
        self.a_connection_is_in_one_place()
        self.capacity_is_kept()
        assert not self.pool_simulator.state.leases

    # What is always true

    @invariant()
    def capacity_is_kept(self) -> None:
        """Limits are never exceeded, connections that are idle or being made included."""
        state, limits = self.pool_simulator.state, self.pool_simulator.options
        assert len(state.leases) <= limits.max_size
        assert len(state.leases) + len(state.idle) <= limits.max_size
        assert len(state.connecting) <= limits.max_connecting

    @invariant()
    def leases_are_those_of_callers(self) -> None:
        """Every served caller has a lease, and no other has one."""
        leases = set(self.pool_simulator.state.leases)
        assert leases >= {*self.served, *self.kept_alive}
        assert leases <= {*self.served, *self.kept_alive, *self.queue}
        assert set(self.pool_simulator.state.connecting) == set(self._connecting())

    @invariant()
    def a_connection_is_in_one_place(self) -> None:
        """Each open connection is idle or borrowed, by one caller or maintenance; none is lost."""
        lent = [t.pooled for t in self.served if t.pooled is not None]
        places = [*self.pool_simulator.state.idle, *lent, *self.kept_alive.values()]
        assert len(places) == len(set(places))
        assert set(places) == self.alive

    @invariant()
    def who_left_holds_nothing(self) -> None:
        """No lease, no place in the line, no connection and no right to make one."""
        assert all(self.pool_simulator.is_gone(waiter) for waiter in self.gone)

    @invariant()
    def who_waits_sleeps_and_who_is_served_is_awake(self) -> None:
        """Every waiting caller sleeps and has no connection; all others were woken."""
        assert [t for t in self.queue if not self.pool_simulator.is_waiting(t)] == []
        assert [t for t in self.served if self.pool_simulator.is_waiting(t)] == []

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """While callers wait, a lease is held, and each waiting caller lacks what it needs."""
        if not self.queue:
            return
        assert self.served or self.kept_alive
        state = self.pool_simulator.state
        can_connect = len(state.connecting) < self.pool_simulator.options.max_connecting
        for waiter in self.queue:
            others = len(state.leases) - (waiter in state.leases)
            has_room = waiter in state.leases or others < state.effective_size(self.settled)
            has_idle = bool(state.idle) and state.idle[-1].idle_since > waiter.not_before
            assert not (has_room and (has_idle or can_connect))

    @invariant()
    def noops_are_bounded(self) -> None:
        """No connection has had more than eight."""
        assert max(self.noops.values(), default=0) <= MAX_NOOPS

    @invariant()
    def a_moment_is_told_while_something_is_idle(self) -> None:
        """Maintenance knows when to look again, and is not needed when nothing is idle."""
        assert (self.pool_simulator.state.next_due() is not None) is bool(
            self.pool_simulator.state.idle
        )

    # How it is done

    def _connecting(self) -> list[Waiter]:
        return [t for t in self.served if t.pooled is None]

    def _using(self) -> list[Waiter]:
        return [t for t in self.served if t.pooled is not None]

    def _can_requeue_at_server_limit(self) -> bool:
        return bool(self._connecting())

    def _leave(self, waiter: Waiter, *, lost: bool) -> None:
        pooled = waiter.pooled
        if pooled is not None and (lost or self._why_not_kept(pooled) is not None):
            self.alive.remove(pooled)
            lost = True
        (self.queue if waiter in self.queue else self.served).remove(waiter)
        self.gone.append(waiter)
        if lost:
            self.pool_simulator.lose(waiter)
        else:
            self.pool_simulator.return_connection(waiter)
        self._settled()
        self._expire()

    def _why_not_kept(self, pooled: PooledConnection) -> str | None:
        return self.pool_simulator.state.discard_reason_on_return(pooled, self.pool_simulator.now)

    def _expire(self) -> None:
        for pooled, _ in self.pool_simulator.state.take_expired(self.pool_simulator.now):
            self.alive.remove(pooled)

    def _settled(self) -> None:
        """Record who was served by the last event: only the first callers in the queue.

        Only those who want a new connection may be passed.
        """
        self.settled = self.pool_simulator.now
        served = [waiter for waiter in self.queue if self.pool_simulator.state.is_served(waiter)]
        last = self.queue.index(served[-1]) if served else 0
        passed = [waiter for waiter in self.queue[:last] if waiter not in served]
        assert all(waiter.not_before > 0 for waiter in passed)
        self.served += served
        self.queue = [waiter for waiter in self.queue if waiter not in served]


def _pick(things: Collection[Waiter], which: int) -> Waiter:
    return list(things)[which % len(things)]


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(
    deadline=None,
    max_examples=150,
    stateful_step_count=40,
    # To explain a failure takes longer than a test may.
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
)
