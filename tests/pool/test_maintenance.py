"""Maintenance: its one thread, when it runs, when it ends, and that it blocks no caller.

The pools are fakes that return the time of their next check; the thread is real. The time "now" has
passed before a check, and "later" is not reached during a test.
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

from smtpconn.pool import maintenance as maintenance_module
from smtpconn.pool.maintenance import Maintenance
from tests.support.forks import in_child
from tests.support.waiting import wait_until

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

    def maintain_idle(self) -> float | None:
        """Give the next answer."""
        self.threads.append(threading.current_thread())
        answer = self._answers.pop(0) if self._answers else nothing
        self._looks.release()
        return answer()

    def await_look(self) -> threading.Thread:
        """Wait for the next check; return its pool."""
        assert self._looks.acquire(timeout=10)
        return self.threads[-1]


def await_end(thread: threading.Thread) -> None:
    """Wait for a thread to end."""
    thread.join(10)
    assert not thread.is_alive()


def maintenance_threads() -> list[threading.Thread]:
    """The maintainers' threads that live."""
    return [t for t in threading.enumerate() if t.name == "smtpconn-maintenance"]


# When the thread lives


def test_the_thread_starts_with_the_first_pool() -> None:
    """There is no thread before something is to be watched, and then one, a daemon."""
    maintenance, pool = Maintenance(), FakePool()
    maintenance.wake()
    assert maintenance_threads() == []
    maintenance.watch(pool, now())
    thread = pool.await_look()
    assert thread.name == "smtpconn-maintenance"
    assert thread.daemon
    await_end(thread)


def test_the_thread_ends_when_nothing_is_idle() -> None:
    """It looks as often as the pool asks for, and ends with the answer that nothing is idle."""
    maintenance, pool = Maintenance(), FakePool(now, now, now)
    maintenance.watch(pool, now())
    await_end(pool.await_look())
    assert len(pool.threads) == 4


def test_the_thread_ends_with_the_last_pool() -> None:
    """While one pool has something idle the thread goes on, and no longer."""
    maintenance, short, long = Maintenance(), FakePool(), FakePool(now, now, now, now)
    maintenance.watch(long, later())
    maintenance.watch(short, now())
    await_end(long.await_look())
    assert len(short.threads) == 1
    assert len(long.threads) == 5


def test_the_thread_starts_again() -> None:
    """After its thread has ended, the maintenance starts another one for the next pool."""
    maintenance, pool = Maintenance(), FakePool()
    seen = []
    for _ in range(3):
        maintenance.watch(pool, now())
        seen.append(pool.await_look())
        await_end(seen[-1])
    assert len(set(seen)) == 3


def test_waking_reaches_a_thread_that_has_just_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool may be closed before the thread, which the pool's last user started, runs at all."""
    may_run, run = threading.Event(), Maintenance._run

    def delayed(self: Maintenance) -> None:
        may_run.wait(10)
        run(self)

    monkeypatch.setattr(Maintenance, "_run", delayed)
    maintenance, pool = Maintenance(), FakePool()
    maintenance.watch(pool, later())
    maintenance.wake()
    may_run.set()
    await_end(pool.await_look())


def test_one_thread_for_many_pools() -> None:
    """All pools are looked after by one thread, which ends when none of them needs it."""
    maintenance, pools = Maintenance(), [FakePool() for _ in range(5)]
    for pool in pools:
        maintenance.watch(pool, later())
    assert len(maintenance_threads()) == 1
    maintenance.wake()
    threads = {pool.await_look() for pool in pools}
    assert len(threads) == 1
    await_end(threads.pop())


def test_many_threads_that_watch() -> None:
    """However many threads watch at once, no pool is overlooked and one thread looks at a time."""
    maintenance, looking, most = Maintenance(), 0, 0

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
            maintenance.watch(pool, now())

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
    """If no thread can be started, no caller fails, and the next call tries again."""
    caplog.set_level(logging.INFO, "smtpconn.pool")
    maintenance, first, second = Maintenance(), FakePool(), FakePool()

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        maintenance.watch(first, now())
        maintenance.wake()
    assert "not maintained: can't start new thread" in caplog.text
    maintenance.watch(second, now())
    assert first.await_look() is second.await_look()


# When it looks


def test_it_looks_when_the_moment_has_come() -> None:
    """The first look is not before it is due."""
    maintenance, moments = Maintenance(), list[float]()
    pool = FakePool(lambda: moments.append(now()))
    due = now() + 0.02
    maintenance.watch(pool, due)
    await_end(pool.await_look())
    # A wait may end a clock's tick early.
    assert moments[0] >= due - 0.002


def test_the_earliest_moment_of_all_pools_counts() -> None:
    """A pool that can wait does not delay one that cannot."""
    maintenance, patient, hasty = Maintenance(), FakePool(later, later, later), FakePool(now, now)
    maintenance.watch(patient, now())
    maintenance.watch(hasty, now())
    for _ in range(3):
        hasty.await_look()
    assert len(patient.threads) >= 3
    maintenance.wake()
    await_end(patient.threads[0])


def test_an_earlier_moment_wakes_it() -> None:
    """A pool that is due before all others is looked after in time."""
    maintenance, patient, hasty = Maintenance(), FakePool(), FakePool()
    maintenance.watch(patient, later())
    thread = maintenance_threads()[0]
    maintenance.watch(hasty, now())
    assert hasty.await_look() is patient.await_look() is thread


def test_the_same_pool_may_be_due_earlier() -> None:
    """What is said last of a pool counts, if it is earlier."""
    maintenance, pool = Maintenance(), FakePool()
    maintenance.watch(pool, later())
    maintenance.watch(pool, now())
    await_end(pool.await_look())
    assert len(pool.threads) == 1


def test_a_later_moment_does_not_wake_it() -> None:
    """A pool that is due after others waits for its turn, and misses nothing."""
    maintenance, first, second = Maintenance(), FakePool(), FakePool()
    maintenance.watch(first, later())
    maintenance.watch(second, later() + 1000)
    maintenance.wake()
    await_end(first.await_look())
    assert (len(first.threads), len(second.threads)) == (1, 1)


def test_waking_makes_it_look_at_once() -> None:
    """Every wake is followed by a look at all pools, and the answers count anew."""
    maintenance, pool = Maintenance(), FakePool(later, later)
    maintenance.watch(pool, later())
    for _ in range(3):
        maintenance.wake()
        pool.await_look()
    await_end(pool.threads[0])


def test_waking_during_a_look_makes_it_look_again() -> None:
    """What changed while it looked is seen by the next look, which comes at once."""
    maintenance, go_on = Maintenance(), threading.Event()

    def hold() -> float:
        assert go_on.wait(10)
        return later()

    pool = FakePool(hold)
    maintenance.watch(pool, now())
    pool.await_look()
    maintenance.wake()
    go_on.set()
    await_end(pool.await_look())
    assert len(pool.threads) == 2


@pytest.mark.parametrize("answer", [nothing, later])
def test_a_pool_that_is_due_again_during_its_look(answer: Answer) -> None:
    """A pool that has something idle again is not forgotten, whatever its look said before."""
    maintenance = Maintenance()

    def have_more() -> float | None:
        maintenance.watch(pool, now())
        return answer()

    pool = FakePool(have_more)
    maintenance.watch(pool, now())
    pool.await_look()
    await_end(pool.await_look())
    assert len(pool.threads) == 2


def test_a_pool_that_comes_during_the_last_look() -> None:
    """A pool that comes when the thread is about to end has it go on."""
    maintenance, newcomer = Maintenance(), FakePool()
    last = FakePool(lambda: maintenance.watch(newcomer, now()))
    maintenance.watch(last, now())
    assert newcomer.await_look() is last.await_look()


# What does not stop it, and what it does not stop


def test_an_exception_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A pool that fails is logged, the others are looked after, and the thread lives on."""
    maintenance = Maintenance()

    def fail() -> float:
        raise ValueError("a bug")

    before, failing, after = FakePool(later, later), FakePool(fail), FakePool(later, later)
    for pool in (before, failing, after):
        maintenance.watch(pool, later())
    maintenance.wake()
    threads = {pool.await_look() for pool in (before, failing, after)}
    assert len(threads) == 1
    maintenance.wake()
    assert {before.await_look(), after.await_look()} == threads
    records = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [r.name for r in records] == ["smtpconn.pool"]
    assert records[0].exc_info is not None
    assert isinstance(records[0].exc_info[1], ValueError)
    assert len(failing.threads) == 1
    # It is looked after again when it says that it has something.
    maintenance.watch(failing, now())
    assert failing.await_look() in threads
    maintenance.wake()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_more_than_an_exception_is_logged(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """What would end a thread is logged as well, and the thread goes on."""
    maintenance = Maintenance()

    def fail() -> float:
        raise kind

    failing, other = FakePool(fail), FakePool(later, later)
    for pool in (failing, other):
        maintenance.watch(pool, later())
    maintenance.wake()
    assert failing.await_look() is other.await_look()
    maintenance.wake()
    assert other.await_look() is other.threads[0]
    assert "maintaining idle connections failed" in caplog.text
    maintenance.wake()
    await_end(other.await_look())


def run_long(maintenance: Maintenance, *others: FakePool) -> tuple[threading.Thread, list[str]]:
    """Have a pool do what takes long, with others beside it; who did it, and what was called."""
    called: list[str] = []
    worker: list[threading.Thread] = []

    def work() -> None:
        worker.append(threading.current_thread())
        called.append("work")
        if others:
            raise SystemExit

    def answer() -> None:
        maintenance.run(work, lambda: called.append("then"))

    pool = FakePool(answer)
    for each in (*others, pool):
        maintenance.watch(each, later())
    maintenance.wake()
    thread = pool.await_look()
    wait_until(lambda: bool(worker))
    if worker[0] is not thread:
        await_end(worker[0])
    maintenance.wake()
    await_end(thread)
    return thread, [worker[0].name, *called]


def test_what_takes_long_with_other_pools() -> None:
    """It is done in a thread of its own, after which the pool says when to look again."""
    thread, done = run_long(Maintenance(), FakePool(later))
    assert thread.name == "smtpconn-maintenance"
    assert done == ["smtpconn-keepalive", "work", "then"]


def test_what_takes_long_alone() -> None:
    """With no other pool to wait for it, it needs no thread of its own."""
    assert run_long(Maintenance())[1] == ["smtpconn-maintenance", "work"]


def test_what_takes_long_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no thread can be started the others have to wait."""

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "smtpconn-keepalive":
            raise RuntimeError("can't start new thread")
        thread.start()

    monkeypatch.setattr(maintenance_module, "start_thread", refuse)
    assert run_long(Maintenance(), FakePool(later))[1] == ["smtpconn-maintenance", "work"]


@pytest.mark.parametrize("runs", [False, True])
def test_a_start_that_was_interrupted(monkeypatch: pytest.MonkeyPatch, runs: bool) -> None:
    """Whether or not the thread runs then, the pool is looked after when it is watched again."""

    def interrupted(thread: threading.Thread) -> None:
        if runs:
            thread.start()
        raise KeyboardInterrupt

    maintenance, pool, other = Maintenance(), FakePool(), FakePool()
    with monkeypatch.context() as patch:
        patch.setattr(maintenance_module, "start_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            maintenance.watch(pool, now())
    maintenance.watch(other, now())
    for each in (pool, other):
        await_end(each.await_look())


def test_an_exception_of_the_only_pool(caplog: pytest.LogCaptureFixture) -> None:
    """With nothing else to watch the thread ends, and can start again."""
    maintenance, failing = Maintenance(), FakePool(lambda: 1 / 0)
    maintenance.watch(failing, now())
    await_end(failing.await_look())
    assert "maintaining idle connections failed" in caplog.text
    maintenance.watch(failing, now())
    await_end(failing.await_look())


def test_pools_are_not_kept_alive_by_waiting() -> None:
    """A pool that is watched can be collected at any time, and the thread then ends."""
    maintenance, pool = Maintenance(), FakePool()
    maintenance.watch(pool, later())
    thread = maintenance_threads()[0]
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None
    maintenance.wake()
    await_end(thread)


def test_pools_are_not_kept_alive_by_a_look(caplog: pytest.LogCaptureFixture) -> None:
    """What the thread remembers of its looks, good or bad, keeps no pool alive."""
    # What pytest keeps of the log would hold the error, and with it the frames.
    caplog.set_level(logging.CRITICAL, "smtpconn.pool")
    maintenance = Maintenance()
    pools = [FakePool(later), FakePool(lambda: 1 / 0), FakePool(later)]
    for pool in pools:
        maintenance.watch(pool, later())
    maintenance.wake()
    thread = {pool.await_look() for pool in pools}.pop()
    gone = [weakref.ref(pool) for pool in pools]
    pools.clear()
    del pool
    wait_until(lambda: gc.collect() >= 0 and all(reference() is None for reference in gone))
    maintenance.wake()
    await_end(thread)


def test_a_collected_pool_costs_the_others_nothing() -> None:
    """The others are looked after as before."""
    maintenance, short_lived, pool = Maintenance(), FakePool(), FakePool(now)
    maintenance.watch(short_lived, later())
    maintenance.watch(pool, later())
    del short_lived
    gc.collect()
    maintenance.wake()
    pool.await_look()
    await_end(pool.await_look())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_begins_anew() -> None:
    """The child has no thread and watches nothing, has its own at need; the parent's goes on."""
    maintenance, parents = maintenance_module.maintenance, FakePool()
    maintenance.watch(parents, later())
    thread = maintenance_threads()[0]

    def child() -> str:
        maintenance.wake()
        pool = FakePool()
        before = len(maintenance_threads())
        maintenance.watch(pool, now())
        await_end(pool.await_look())
        return f"{before} {len(pool.threads)} {len(parents.threads)}"

    assert in_child(child) == "0 1 0"
    maintenance.wake()
    assert parents.await_look() is thread


SCRIPT = """
import sys, threading, time
from smtpconn.pool.maintenance import maintenance

class Pool:
    def maintain_idle(self):
        looking.set()
        if sys.argv[1] == "looking":
            threading.Event().wait()
        return time.monotonic() + 1000

looking, pool = threading.Event(), Pool()
maintenance.watch(pool, time.monotonic())
looking.wait()
"""


@pytest.mark.parametrize("where", ["looking", "waiting"])
def test_the_interpreter_ends(where: str) -> None:
    """A process ends in silence while its maintenance waits, and even while a look hangs."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, where],
        capture_output=True,
        text=True,
        timeout=15,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
