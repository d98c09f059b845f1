"""Decisions that are cut off or interrupted at each bytecode: at most a connection is lost.

A signal handler's exception or the end of a greenlet may be raised anywhere. The interrupted caller
leaves, as a lease does, and all others continue as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn.pool.failover import SERVER_LIMIT_DURATION
from smtpconn.pool.state import PoolState, Waiter
from tests.support.bytecode_injector import BytecodeInjector, Injected
from tests.support.pool_simulator import pool_simulator


class Scenario:
    """A pool in full swing: one holds a connection, one connects, and another is about to come.

    Args:
        is_busy: whether two more wait in line; otherwise two connections are idle.

    Attributes:
        interrupted: who is in the middle of a decision.
    """

    def __init__(self, *, is_busy: bool) -> None:
        self.pool_simulator = pool_simulator(
            max_size=3 if is_busy else 5, max_connecting=1, keepalive=20
        )
        self.holder, _ = self.pool_simulator.hold()
        others = [self.pool_simulator.hold()[0] for _ in range(1 if is_busy else 2)]
        self.connecting = self.pool_simulator.arrive()
        waiting = [self.pool_simulator.arrive(), self.pool_simulator.arrive()] if is_busy else []
        if not is_busy:
            for waiter in others:
                self.pool_simulator.return_connection(waiter)
        self.newcomer = self.interrupted = Waiter()
        self.people = [self.holder, *others, self.connecting, *waiting, self.newcomer]
        self.pool_simulator.now += 30

    @property
    def state(self) -> PoolState:
        """Whose decisions they are."""
        return self.pool_simulator.state

    def end(self) -> None:
        """The interrupted caller leaves; then all others are served and leave."""
        self.pool_simulator.return_connection(self.interrupted)
        for waiter in self.people:
            # Which fails for one that is half served.
            if not self.pool_simulator.is_gone(waiter):
                self.pool_simulator.is_waiting(waiter)
        for _ in self.people:
            for waiter in self.people:
                if self.pool_simulator.is_to_connect(waiter):
                    self.pool_simulator.connect(waiter)
                if waiter not in self.state.queue:
                    self.pool_simulator.return_connection(waiter)


def _enter(scenario: Scenario) -> None:
    scenario.state.enqueue(scenario.newcomer, scenario.pool_simulator.now)


def _try_acquire(scenario: Scenario) -> None:
    scenario.state.try_acquire(scenario.newcomer, scenario.pool_simulator.now)


def _requeue(scenario: Scenario) -> None:
    scenario.interrupted = scenario.holder
    scenario.state.requeue(scenario.holder, scenario.pool_simulator.now)


def _renew(scenario: Scenario) -> None:
    scenario.interrupted = scenario.holder
    scenario.state.requeue(scenario.holder, scenario.pool_simulator.now, renew=True)


def _requeue_at_server_limit(scenario: Scenario) -> None:
    scenario.interrupted = scenario.connecting
    scenario.state.requeue_at_server_limit(
        scenario.connecting,
        scenario.pool_simulator.now,
        scenario.pool_simulator.now + SERVER_LIMIT_DURATION,
    )


def _connect(scenario: Scenario) -> None:
    scenario.interrupted = scenario.connecting
    scenario.pool_simulator.connect(scenario.connecting)


def _return_connection(scenario: Scenario) -> None:
    scenario.interrupted = scenario.holder
    scenario.pool_simulator.return_connection(scenario.holder)


def _fail(scenario: Scenario) -> None:
    scenario.interrupted = scenario.connecting
    scenario.pool_simulator.lose(scenario.connecting)


def _give_up(scenario: Scenario) -> None:
    scenario.interrupted = scenario.people[-2]
    scenario.pool_simulator.lose(scenario.interrupted)


def _send_noop(scenario: Scenario) -> None:
    pooled = scenario.state.borrow_for_noop(scenario.newcomer, scenario.pool_simulator.now)
    scenario.state.release(scenario.newcomer, pooled, scenario.pool_simulator.now, was_used=False)


def _expire(scenario: Scenario) -> None:
    scenario.state.drain()
    scenario.state.take_expired(scenario.pool_simulator.now)


DECISIONS: list[Callable[[Scenario], None]] = [
    _enter,
    _try_acquire,
    _requeue,
    _renew,
    _requeue_at_server_limit,
    _connect,
    _return_connection,
    _fail,
    _give_up,
    _send_noop,
    _expire,
]


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("decide", DECISIONS)
def test_a_decision_that_is_cut_off(decide: Callable[[Scenario], None], is_busy: bool) -> None:
    """Wherever it is interrupted, in the end all callers were served, and none holds anything."""
    point, was_interrupted = 0, True
    while was_interrupted:
        scenario = Scenario(is_busy=is_busy)
        injector = BytecodeInjector(point, lambda name: None)
        try:
            with injector:
                decide(scenario)
        except Injected:
            pass
        scenario.end()
        state = scenario.state
        left = [*state.leases, *state.connecting, *state.queue]
        assert not left, f"interrupted at {injector.where}"
        assert all(scenario.pool_simulator.is_gone(waiter) for waiter in scenario.people), (
            injector.where
        )
        assert len(set(state.idle)) == len(state.idle), injector.where
        was_interrupted = bool(injector.where)
        point += was_interrupted
    assert point > 2


class Interruption(BytecodeInjector):
    """A call of the same thread at one bytecode, which borrows a connection and gives it back.

    Args:
        point: the bytecode.
        scenario: whose decision it interrupts.
        keeps: whether it gives back only after the decision.
    """

    def __init__(self, point: int, scenario: Scenario, *, keeps: bool) -> None:
        super().__init__(point, lambda name: None)
        self._scenario = scenario
        self._keeps = keeps
        self._waiter = Waiter()

    def _inject(self, where: str) -> None:
        state, waiter, now = self._scenario.state, self._waiter, self._scenario.pool_simulator.now
        if state.try_acquire(waiter, now) is None and state.acquire_at_once(waiter, now):
            waiter.pooled = waiter.pooled or self._scenario.pool_simulator.make()
            state.connecting.discard(waiter)
        self.check()
        if not self._keeps:
            self._return_connection()

    def check(self) -> None:
        """There are never more than ``max_size`` connections."""
        state = self._scenario.state
        served = [waiter for waiter in state.leases if state.is_served(waiter)]
        assert len(served) + len(state.idle) <= state.options.max_size, self.where
        assert len(state.leases) <= state.options.max_size, self.where

    def _return_connection(self) -> None:
        state, pooled, now = (
            self._scenario.state,
            self._waiter.pooled,
            self._scenario.pool_simulator.now,
        )
        if pooled is not None and not state.try_release(self._waiter, pooled, now):
            state.release_without_dispatch(self._waiter, pooled, now)

    def end(self) -> None:
        """The lock is free again."""
        self.check()
        self._return_connection()
        self._scenario.state.dispatch(self._scenario.pool_simulator.now)
        self.check()


@pytest.mark.parametrize("keeps", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("decide", DECISIONS)
def test_a_decision_that_is_interrupted(
    decide: Callable[[Scenario], None], is_busy: bool, keeps: bool
) -> None:
    """Wherever a call of the same thread comes in between, it goes on rightly."""
    point, where = 0, "?"
    while where:
        scenario = Scenario(is_busy=is_busy)
        with (interruption := Interruption(point, scenario, keeps=keeps)):
            decide(scenario)
        where = interruption.where
        interruption.end()
        scenario.end()
        state = scenario.state
        left = [*state.leases, *state.connecting, *state.queue]
        assert not left, f"interrupted at {where}"
        assert all(scenario.pool_simulator.is_gone(waiter) for waiter in scenario.people), where
        assert len(set(state.idle)) == len(state.idle), where
        assert len(state.idle) <= state.options.max_size, where
        point += 1
    assert point > 3
