"""Waking a thread: announced before or after it waits, once or twice, by whomever."""

from __future__ import annotations

import threading
import time

import pytest

from smtpconn.pool.wakeup import Wakeup


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


def test_announcing_between_two_steps_of_announcing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may announce it while its thread does: neither fails."""
    wakeup = Wakeup()
    lock = wakeup._lock

    class Interrupted:
        """A lock that is released by a handler as soon as it was looked at."""

        def locked(self) -> bool:
            was_locked = lock.locked()
            lock.release()
            return was_locked

        def release(self) -> None:
            lock.release()

    monkeypatch.setattr(Wakeup, "_lock", Interrupted())
    wakeup.set()
    assert not lock.locked()
