"""Waking a thread: announced before or after it waits, once or twice, by whomever."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from smtpconn.pool.wakeup import Wakeup

if TYPE_CHECKING:
    from _typeshed import TraceFunction

ROOT = Path(__file__).parent.parent.parent


def test_what_was_announced_is_noted_once() -> None:
    """Twice is the same as once, and after it was noted it has to be announced again."""
    wakeup = Wakeup()
    seen = [wakeup.is_set]
    wakeup.set()
    wakeup.set()
    seen += [wakeup.is_set, wakeup.wait(0), wakeup.is_set, wakeup.wait(0)]
    assert seen == [False, True, True, False, False]
    wakeup.set()
    assert wakeup.wait(10)


def test_who_waits_is_woken() -> None:
    """However long it would wait otherwise, infinity included."""
    wakeup, woken = Wakeup(), threading.Semaphore(0)

    def sleep() -> None:
        if wakeup.wait(float("inf")):
            woken.release()

    thread = threading.Thread(target=sleep)
    thread.start()
    wakeup.set()
    assert woken.acquire(timeout=10)
    thread.join(10)


@pytest.mark.parametrize("seconds", [0.01, 0, -1])
def test_waiting_ends(seconds: float) -> None:
    """When the time is over, also if it was over before."""
    begun = time.monotonic()
    assert not Wakeup().wait(seconds)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("sleepers", [1, 5])
def test_of_several_who_wait_one_takes_note(sleepers: int) -> None:
    """Each announcement is for one of them, and none is lost."""
    wakeup, woken = Wakeup(), threading.Semaphore(0)

    def sleep() -> None:
        if wakeup.wait(10):
            woken.release()

    threads = [threading.Thread(target=sleep) for _ in range(sleepers)]
    for thread in threads:
        thread.start()
    for _ in threads:
        wakeup.set()
        assert woken.acquire(timeout=10)
    assert not wakeup.is_set
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("change", ["begins", "ends"])
def test_who_begins_or_ends_to_wait_during_a_garbage_collection(change: str) -> None:
    """A collection may begin at any allocation, and run destructors and other threads."""
    wakeup = Wakeup()
    sleeping = [threading.Lock() for _ in range(500)]
    wakeup._sleeping.update(sleeping[1:])

    def change_who_waits(phase: str, info: object) -> None:
        if change == "begins":
            wakeup._sleeping.add(threading.Lock())
        elif sleeping:
            wakeup._sleeping.discard(sleeping.pop())

    thresholds = gc.get_threshold()
    gc.callbacks.append(change_who_waits)
    gc.set_threshold(1)
    try:
        for _ in range(200):
            wakeup.set()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(change_who_waits)
    assert wakeup.is_set


def test_announcing_between_two_steps_of_announcing() -> None:
    """A signal handler may announce it while its thread does: neither fails."""
    wakeup = Wakeup()
    lock = threading.Lock()
    lock.acquire()

    class Interrupted:
        """A lock that is released by a handler as soon as it was looked at."""

        def locked(self) -> bool:
            was_locked = lock.locked()
            lock.release()
            return was_locked

        def release(self) -> None:
            lock.release()

    wakeup._sleeping.add(cast(threading.Lock, Interrupted()))
    wakeup.set()
    assert not lock.locked()
    assert wakeup.wait(0)


def test_announcing_between_two_steps_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may announce it anywhere in `Wakeup.wait`, which does not sleep then."""
    sleeps: list[None] = []

    class Lock:
        """A lock that notes that a thread would sleep on it now, for as long as it may."""

        def __init__(self) -> None:
            lock = threading.Lock()
            self.release, self.locked = lock.release, lock.locked
            self._take = lock.acquire

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            is_taken = self._take(blocking=False)
            if blocking and not is_taken:
                sleeps.append(None)
            return is_taken

    replaced = SimpleNamespace(Lock=Lock, TIMEOUT_MAX=threading.TIMEOUT_MAX)
    monkeypatch.setattr("smtpconn.pool.wakeup.threading", replaced)
    is_in_time = []
    for line in itertools.count(1):
        sleeps.clear()
        had_slept = announced_at(line, sleeps)
        if had_slept is None:
            break
        is_in_time.append(not had_slept)
        assert bool(sleeps) == had_slept, line
    # In the end it is too late to be woken.
    assert is_in_time == sorted(is_in_time, reverse=True)
    assert is_in_time.count(True) > 10


def announced_at(line: int, sleeps: list[None]) -> bool | None:
    """Wait, and announce it before the line of that number.

    Returns whether it had slept by then; None if it has no such line.
    """
    wakeup = Wakeup()
    lines, had_slept = itertools.count(1), []

    def trace(frame: FrameType, event: str, argument: object) -> TraceFunction | None:
        if frame.f_globals["__name__"] != "smtpconn.pool.wakeup":
            return None
        if event == "line" and next(lines) == line:
            had_slept.append(bool(sleeps))
            wakeup.set()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        is_woken = wakeup.wait(3600)
    finally:
        sys.settrace(before)
    # Behind its last look it is too late to be woken, but not lost.
    assert is_woken == bool(had_slept) or wakeup.is_set
    return had_slept[0] if had_slept else None


LATE = """
import os
import sys
import warnings

from smtpconn.pool.wakeup import Wakeup

wakeup = Wakeup()
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
warnings.simplefilter("ignore")
from gevent import monkey

monkey.patch_all()
import gevent

gevent.spawn_later(0.05, wakeup.set)
os._exit(not wakeup.wait(5))
"""


def test_gevent_may_come_later() -> None:
    """In a child whose threads become greenlets, waiting lets the others run."""
    pytest.importorskip("gevent")
    assert subprocess.run([sys.executable, "-c", LATE], check=False, cwd=ROOT).returncode == 0
