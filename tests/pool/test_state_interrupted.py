"""Decisions that are cut off or interrupted at each bytecode: at most a connection is lost.

A signal's exception or the end of a greenlet may strike anywhere. The caller it strikes leaves, as
a lease does, and then the day goes on for all others as if nothing had been.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn.pool.failover import LOWERED_FOR
from smtpconn.pool.state import PoolState, Waiter
from tests.pool.test_lease import ExceptionInjector, Struck
from tests.support.pool_simulator import pool_simulator


class Scene:
    """A pool in full swing: one holds a connection, one connects, and another is about to come.

    Args:
        is_busy: whether two more wait in line; otherwise two connections are idle.

    Attributes:
        struck: who is in the middle of a decision.
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
                self.pool_simulator.give_back(waiter)
        self.newcomer = self.struck = Waiter()
        self.people = [self.holder, *others, self.connecting, *waiting, self.newcomer]
        self.pool_simulator.now += 30

    @property
    def state(self) -> PoolState:
        """Whose decisions they are."""
        return self.pool_simulator.state

    def end(self) -> None:
        """Who was struck leaves, and then everybody is served and leaves."""
        self.pool_simulator.give_back(self.struck)
        for waiter in self.people:
            # Which fails for one that is half served.
            if not self.pool_simulator.is_gone(waiter):
                self.pool_simulator.is_waiting(waiter)
        for _ in self.people:
            for waiter in self.people:
                if self.pool_simulator.is_to_connect(waiter):
                    self.pool_simulator.connect(waiter)
                if waiter not in self.state.queue:
                    self.pool_simulator.give_back(waiter)


def _enter(scene: Scene) -> None:
    scene.state.enqueue(scene.newcomer, scene.pool_simulator.now)


def _take_now(scene: Scene) -> None:
    scene.state.try_acquire(scene.newcomer, scene.pool_simulator.now)


def _go_again(scene: Scene) -> None:
    scene.struck = scene.holder
    scene.state.requeue(scene.holder, scene.pool_simulator.now)


def _renew(scene: Scene) -> None:
    scene.struck = scene.holder
    scene.state.requeue(scene.holder, scene.pool_simulator.now, renew=True)


def _step_back(scene: Scene) -> None:
    scene.struck = scene.connecting
    scene.state.requeue_at_server_limit(
        scene.connecting, scene.pool_simulator.now, scene.pool_simulator.now + LOWERED_FOR
    )


def _connect(scene: Scene) -> None:
    scene.struck = scene.connecting
    scene.pool_simulator.connect(scene.connecting)


def _give_back(scene: Scene) -> None:
    scene.struck = scene.holder
    scene.pool_simulator.give_back(scene.holder)


def _fail(scene: Scene) -> None:
    scene.struck = scene.connecting
    scene.pool_simulator.lose(scene.connecting)


def _give_up(scene: Scene) -> None:
    scene.struck = scene.people[-2]
    scene.pool_simulator.lose(scene.struck)


def _say_noop(scene: Scene) -> None:
    pooled = scene.state.borrow_for_noop(scene.newcomer, scene.pool_simulator.now)
    scene.state.release(scene.newcomer, pooled, scene.pool_simulator.now, was_used=False)


def _expire(scene: Scene) -> None:
    scene.state.drain()
    scene.state.take_expired(scene.pool_simulator.now)


DECISIONS: list[Callable[[Scene], None]] = [
    _enter,
    _take_now,
    _go_again,
    _renew,
    _step_back,
    _connect,
    _give_back,
    _fail,
    _give_up,
    _say_noop,
    _expire,
]


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("decide", DECISIONS)
def test_a_decision_that_is_cut_off(decide: Callable[[Scene], None], is_busy: bool) -> None:
    """Wherever it is struck, in the end everybody was served, and nobody holds anything."""
    point, was_struck = 0, True
    while was_struck:
        scene = Scene(is_busy=is_busy)
        lightning = ExceptionInjector(point, lambda name: None)
        try:
            with lightning:
                decide(scene)
        except Struck:
            pass
        scene.end()
        state = scene.state
        left = [*state.leases, *state.connecting, *state.queue]
        assert not left, f"struck at {lightning.where}"
        assert all(scene.pool_simulator.is_gone(waiter) for waiter in scene.people), lightning.where
        assert len(set(state.idle)) == len(state.idle), lightning.where
        was_struck = bool(lightning.where)
        point += was_struck
    assert point > 2


class Interruption(ExceptionInjector):
    """A call of the same thread at one bytecode, which borrows a connection and gives it back.

    Args:
        point: the bytecode.
        scene: whose decision it interrupts.
        keeps: whether it gives back only after the decision.
    """

    def __init__(self, point: int, scene: Scene, *, keeps: bool) -> None:
        super().__init__(point, lambda name: None)
        self._scene = scene
        self._keeps = keeps
        self._waiter = Waiter()

    def _strike(self, where: str) -> None:
        state, waiter, now = self._scene.state, self._waiter, self._scene.pool_simulator.now
        if state.try_acquire(waiter, now) is None and state.acquire_at_once(waiter, now):
            waiter.pooled = waiter.pooled or self._scene.pool_simulator.make()
            state.connecting.discard(waiter)
        self.check()
        if not self._keeps:
            self._give_back()

    def check(self) -> None:
        """There are never more connections than there may be."""
        state = self._scene.state
        served = [waiter for waiter in state.leases if state.is_served(waiter)]
        assert len(served) + len(state.idle) <= state.options.max_size, self.where
        assert len(state.leases) <= state.options.max_size, self.where

    def _give_back(self) -> None:
        state, pooled, now = self._scene.state, self._waiter.pooled, self._scene.pool_simulator.now
        if pooled is not None and not state.try_release(self._waiter, pooled, now):
            state.give_back(self._waiter, pooled, now)

    def end(self) -> None:
        """The lock is free again."""
        self.check()
        self._give_back()
        self._scene.state.dispatch(self._scene.pool_simulator.now)
        self.check()


@pytest.mark.parametrize("keeps", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("decide", DECISIONS)
def test_a_decision_that_is_interrupted(
    decide: Callable[[Scene], None], is_busy: bool, keeps: bool
) -> None:
    """Wherever a call of the same thread comes in between, it goes on rightly."""
    point, where = 0, "?"
    while where:
        scene = Scene(is_busy=is_busy)
        with (interruption := Interruption(point, scene, keeps=keeps)):
            decide(scene)
        where = interruption.where
        interruption.end()
        scene.end()
        state = scene.state
        left = [*state.leases, *state.connecting, *state.queue]
        assert not left, f"interrupted at {where}"
        assert all(scene.pool_simulator.is_gone(waiter) for waiter in scene.people), where
        assert len(set(state.idle)) == len(state.idle), where
        assert len(state.idle) <= state.options.max_size, where
        point += 1
    assert point > 3
