"""The keeper: its one thread, when it looks, when it ends, and that it never stands in the way.

The pools are fakes that say when to be looked at again; the thread is real. A moment "now" is over
before anybody looks, and one "later" does not come while a test lasts.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpconn.pool import maintenance as keeper_module
from smtpconn.pool.maintenance import Keeper
from tests.support.forks import in_child

ROOT = Path(__file__).parent.parent.parent


def now() -> float:
    """A moment that has come."""
    return time.monotonic()


def later() -> float:
    """A moment that does not come."""
    return time.monotonic() + 1000


def nothing() -> None:
    """Nothing is idle."""


Answer = Callable[[], float | None]


class FakePool:
    """A pool that gives prepared answers, and `nothing` when they are used up.

    Attributes:
        threads: who looked, one for each look.
    """

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._looks = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []

    def look_after_idle(self) -> float | None:
        """Give the next answer."""
        self.threads.append(threading.current_thread())
        answer = self._answers.pop(0) if self._answers else nothing
        self._looks.release()
        return answer()

    def await_look(self) -> threading.Thread:
        """Wait for a look nobody has waited for yet; who looked."""
        assert self._looks.acquire(timeout=10)
        return self.threads[-1]


def await_end(thread: threading.Thread) -> None:
    """Wait for a thread to end."""
    thread.join(10)
    assert not thread.is_alive()


def keeper_threads() -> list[threading.Thread]:
    """The keepers' threads that live."""
    return [t for t in threading.enumerate() if t.name == "smtpconn-keeper"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something nobody tells us of."""
    patience = threading.Event()
    for _ in range(5000):
        if condition():
            return
        patience.wait(0.001)
    raise AssertionError("what was waited for did not happen")


# When the thread lives


def test_the_thread_starts_with_the_first_pool() -> None:
    """There is no thread before something is to be watched, and then one, a daemon."""
    keeper, pool = Keeper(), FakePool()
    keeper.ring()
    assert keeper_threads() == []
    keeper.watch(pool, now())
    thread = pool.await_look()
    assert thread.name == "smtpconn-keeper"
    assert thread.daemon
    await_end(thread)


def test_the_thread_ends_when_nothing_is_idle() -> None:
    """It looks as often as the pool asks for, and ends with the answer that nothing is idle."""
    keeper, pool = Keeper(), FakePool(now, now, now)
    keeper.watch(pool, now())
    await_end(pool.await_look())
    assert len(pool.threads) == 4


def test_the_thread_ends_with_the_last_pool() -> None:
    """While one pool has something idle the thread goes on, and no longer."""
    keeper, short, long = Keeper(), FakePool(), FakePool(now, now, now, now)
    keeper.watch(long, later())
    keeper.watch(short, now())
    await_end(long.await_look())
    assert len(short.threads) == 1
    assert len(long.threads) == 5


def test_the_thread_starts_again() -> None:
    """After its thread has ended, the keeper starts another one for the next pool."""
    keeper, pool = Keeper(), FakePool()
    seen = []
    for _ in range(3):
        keeper.watch(pool, now())
        seen.append(pool.await_look())
        await_end(seen[-1])
    assert len(set(seen)) == 3


def test_one_thread_for_many_pools() -> None:
    """All pools are looked after by one thread, which ends when none of them needs it."""
    keeper, pools = Keeper(), [FakePool() for _ in range(5)]
    for pool in pools:
        keeper.watch(pool, later())
    assert len(keeper_threads()) == 1
    keeper.ring()
    threads = {pool.await_look() for pool in pools}
    assert len(threads) == 1
    await_end(threads.pop())


def test_many_threads_that_watch() -> None:
    """However many threads watch at once, no pool is overlooked and one thread looks at a time."""
    keeper, looking, most = Keeper(), 0, 0

    def look() -> None:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        looking -= 1

    barrier = threading.Barrier(8)
    pools = [[FakePool(look) for _ in range(50)] for _ in range(8)]

    def watch(mine: list[FakePool]) -> None:
        barrier.wait(10)
        for pool in mine:
            keeper.watch(pool, now())

    watchers = [threading.Thread(target=watch, args=(mine,)) for mine in pools]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        await_end(watcher)
    for mine in pools:
        for pool in mine:
            pool.await_look()
    assert most == 1


def test_a_thread_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a thread to be had nobody is disturbed, and the next time it is tried again."""
    caplog.set_level(logging.INFO, "smtpconn.pool")
    keeper, first, second = Keeper(), FakePool(), FakePool()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        keeper.watch(first, now())
        keeper.ring()
    assert "not looked after: can't start new thread" in caplog.text
    keeper.watch(second, now())
    assert first.await_look() is second.await_look()


# When it looks


def test_it_looks_when_the_moment_has_come() -> None:
    """The first look is not before it is due."""
    keeper, moments = Keeper(), list[float]()
    pool = FakePool(lambda: moments.append(now()))
    due = now() + 0.02
    keeper.watch(pool, due)
    await_end(pool.await_look())
    # A wait may end a clock's tick early.
    assert moments[0] >= due - 0.002


def test_the_earliest_moment_of_all_pools_counts() -> None:
    """A pool that can wait does not delay one that cannot."""
    keeper, patient, hasty = Keeper(), FakePool(later, later, later), FakePool(now, now)
    keeper.watch(patient, now())
    keeper.watch(hasty, now())
    for _ in range(3):
        hasty.await_look()
    assert len(patient.threads) >= 3
    keeper.ring()
    await_end(patient.threads[0])


def test_an_earlier_moment_wakes_it() -> None:
    """A pool that is due before all others is looked after in time."""
    keeper, patient, hasty = Keeper(), FakePool(), FakePool()
    keeper.watch(patient, later())
    thread = keeper_threads()[0]
    keeper.watch(hasty, now())
    assert hasty.await_look() is patient.await_look() is thread


def test_the_same_pool_may_be_due_earlier() -> None:
    """What is said last of a pool counts, if it is earlier."""
    keeper, pool = Keeper(), FakePool()
    keeper.watch(pool, later())
    keeper.watch(pool, now())
    await_end(pool.await_look())
    assert len(pool.threads) == 1


def test_a_later_moment_does_not_wake_it() -> None:
    """A pool that is due after others waits for its turn, and misses nothing."""
    keeper, first, second = Keeper(), FakePool(), FakePool()
    keeper.watch(first, later())
    keeper.watch(second, later() + 1000)
    keeper.ring()
    await_end(first.await_look())
    assert (len(first.threads), len(second.threads)) == (1, 1)


def test_ringing_makes_it_look_at_once() -> None:
    """Every ring is followed by a look at all pools, and the answers count anew."""
    keeper, pool = Keeper(), FakePool(later, later)
    keeper.watch(pool, later())
    for _ in range(3):
        keeper.ring()
        pool.await_look()
    await_end(pool.threads[0])


def test_ringing_during_a_look_makes_it_look_again() -> None:
    """What changed while it looked is seen by the next look, which comes at once."""
    keeper, go_on = Keeper(), threading.Event()

    def hold() -> float:
        assert go_on.wait(10)
        return later()

    pool = FakePool(hold)
    keeper.watch(pool, now())
    pool.await_look()
    keeper.ring()
    go_on.set()
    await_end(pool.await_look())
    assert len(pool.threads) == 2


@pytest.mark.parametrize("answer", [nothing, later])
def test_a_pool_that_is_due_again_during_its_look(answer: Answer) -> None:
    """A pool that has something idle again is not forgotten, whatever its look said before."""
    keeper = Keeper()

    def have_more() -> float | None:
        keeper.watch(pool, now())
        return answer()

    pool = FakePool(have_more)
    keeper.watch(pool, now())
    pool.await_look()
    await_end(pool.await_look())
    assert len(pool.threads) == 2


def test_a_pool_that_comes_during_the_last_look() -> None:
    """A pool that comes when the thread is about to end has it go on."""
    keeper, newcomer = Keeper(), FakePool()
    last = FakePool(lambda: keeper.watch(newcomer, now()))
    keeper.watch(last, now())
    assert newcomer.await_look() is last.await_look()


# What does not stop it, and what it does not stop


def test_an_exception_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A pool that fails is logged, the others are looked after, and the thread lives on."""
    keeper = Keeper()

    def fail() -> float:
        raise ValueError("a bug")

    before, failing, after = FakePool(later, later), FakePool(fail), FakePool(later, later)
    for pool in (before, failing, after):
        keeper.watch(pool, later())
    keeper.ring()
    threads = {pool.await_look() for pool in (before, failing, after)}
    assert len(threads) == 1
    keeper.ring()
    assert {before.await_look(), after.await_look()} == threads
    records = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [r.name for r in records] == ["smtpconn.pool"]
    assert records[0].exc_info is not None
    assert isinstance(records[0].exc_info[1], ValueError)
    assert len(failing.threads) == 1
    # It is looked after again when it says that it has something.
    keeper.watch(failing, now())
    assert failing.await_look() in threads
    keeper.ring()


def test_an_exception_of_the_only_pool(caplog: pytest.LogCaptureFixture) -> None:
    """With nothing else to watch the thread ends, and can start again."""
    keeper, failing = Keeper(), FakePool(lambda: 1 / 0)
    keeper.watch(failing, now())
    await_end(failing.await_look())
    assert "looking after idle connections failed" in caplog.text
    keeper.watch(failing, now())
    await_end(failing.await_look())


def test_pools_are_not_kept_alive_by_waiting() -> None:
    """A pool that is watched can be collected at any time, and the thread then ends."""
    keeper, pool = Keeper(), FakePool()
    keeper.watch(pool, later())
    thread = keeper_threads()[0]
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    keeper.ring()
    await_end(thread)


def test_pools_are_not_kept_alive_by_a_look(caplog: pytest.LogCaptureFixture) -> None:
    """What the thread remembers of its looks, good or bad, keeps no pool alive."""
    # What pytest keeps of the log would hold the error, and with it the frames.
    caplog.set_level(logging.CRITICAL, "smtpconn.pool")
    keeper = Keeper()
    pools = [FakePool(later), FakePool(lambda: 1 / 0), FakePool(later)]
    for pool in pools:
        keeper.watch(pool, later())
    keeper.ring()
    thread = {pool.await_look() for pool in pools}.pop()
    gone = [weakref.ref(pool) for pool in pools]
    pools.clear()
    del pool
    wait_until(lambda: gc.collect() >= 0 and all(reference() is None for reference in gone))
    keeper.ring()
    await_end(thread)


def test_a_collected_pool_costs_the_others_nothing() -> None:
    """The others are looked after as before."""
    keeper, short_lived, pool = Keeper(), FakePool(), FakePool(now)
    keeper.watch(short_lived, later())
    keeper.watch(pool, later())
    del short_lived
    gc.collect()
    keeper.ring()
    pool.await_look()
    await_end(pool.await_look())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_begins_anew() -> None:
    """The child has no thread and watches nothing, has its own at need; the parent's goes on."""
    keeper, parents = keeper_module.keeper, FakePool()
    keeper.watch(parents, later())
    thread = keeper_threads()[0]

    def child() -> str:
        keeper.ring()
        pool = FakePool()
        before = len(keeper_threads())
        keeper.watch(pool, now())
        await_end(pool.await_look())
        return f"{before} {len(pool.threads)} {len(parents.threads)}"

    assert in_child(child) == "0 1 0"
    keeper.ring()
    assert parents.await_look() is thread


SCRIPT = """
import sys, threading, time
from smtpconn.pool.maintenance import keeper

class Pool:
    def look_after_idle(self):
        looking.set()
        if sys.argv[1] == "looking":
            threading.Event().wait()
        return time.monotonic() + 1000

looking, pool = threading.Event(), Pool()
keeper.watch(pool, time.monotonic())
looking.wait()
"""


@pytest.mark.parametrize("where", ["looking", "waiting"])
def test_the_interpreter_ends(where: str) -> None:
    """A process ends in silence while its keeper waits, and even while a look hangs."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, where],
        capture_output=True,
        text=True,
        timeout=15,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
