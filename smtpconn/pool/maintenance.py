"""Maintenance: one daemon thread per process that maintains the idle connections of all pools.

It sends NOOP on connections that were idle for long and closes expired ones. It runs only while a
connection is idle, is never joined, and has weak references to pools. It is optional: pools work
without it, as with ``keepalive=None``.

Pools call `Maintenance.watch` when a connection is returned, perhaps in a signal handler that
interrupts another such call. So no method waits for a lock: shared state changes by single
operations of a deque, and one lock is only tried. All other state belongs to the thread.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

from smtpconn.net.forking import reset_in_child
from smtpconn.net.threads import start_thread
from smtpconn.pool.pool_log import log
from smtpconn.pool.wakeup import Wakeup


class Maintained(Protocol):
    """The part of a pool that maintenance uses."""

    def maintain_idle(self) -> float | None:
        """Maintain the idle connections.

        Returns when to call this again (monotonic clock); None while nothing is idle.
        """


class Maintenance:
    """The thread, and the pools that it maintains."""

    def __init__(self) -> None:
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Reset in a forked child, where the thread does not exist."""
        self._wakeup = Wakeup()
        # Held while the thread runs; only tried, never waited for.
        self._is_running = threading.Lock()
        # Pools and their due times; None to maintain all pools now.
        self._inbox: deque[tuple[weakref.ref[Maintained], float] | None] = deque()
        # Used only by the thread.
        self._pools: dict[int, tuple[weakref.ref[Maintained], float]] = {}

    def watch(self, pool: Maintained, due: float) -> None:
        """Maintain ``pool`` at ``due`` (monotonic clock)."""
        self._inbox.append((weakref.ref(pool), due))
        self._wakeup.set()
        self._start()

    def wake(self) -> None:
        """Maintain all pools now, because a pool was closed; the thread may end then."""
        # A thread that has just been started holds no lock yet, and finds the pools in the inbox.
        if self._is_running.locked() or self._inbox:
            self._inbox.append(None)
            self._wakeup.set()

    def run(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Do work of a pool that may take long, without delaying other pools.

        Args:
            work: called here if no other pool is watched, else in a new thread.
            then: called in that thread after the work.
        """
        if len(self._pools) > 1:

            def both() -> None:
                try:
                    work()
                except BaseException:
                    _log_failure()
                then()

            if _try_start("smtpconn-keepalive", both) is None:
                return
        work()

    def _start(self) -> None:
        if self._is_running.locked():
            return
        error = _try_start("smtpconn-maintenance", self._run)
        if error is not None:
            # The caller returns a connection and must not fail: its message may be delivered.
            log(logging.INFO, "idle connections are not maintained: %s", error)

    def _run(self) -> None:
        # The new thread acquires the lock, not the one that starts it: if an exception of a signal
        # handler interrupts the start, that one cannot know whether the new thread runs. If
        # several threads were started at once, one continues and the others end.
        if not self._is_running.acquire(blocking=False):
            return
        try:
            while self._has_pools():
                due = min(due for _, due in self._pools.values())
                seconds = due - time.monotonic()
                if seconds > 0:
                    self._wakeup.wait(seconds)
                else:
                    self._maintain_all()
        finally:
            self._is_running.release()
        # A pool may have been added after the last check, while the thread was still running.
        if self._inbox:
            self._start()

    def _has_pools(self) -> bool:
        while self._inbox:
            item = self._inbox.popleft()
            if item is None:
                self._pools = {key: (ref, 0.0) for key, (ref, _) in self._pools.items()}
            elif (pool := item[0]()) is not None:
                known = self._pools.get(id(pool))
                due = item[1] if known is None or known[0]() is not pool else min(known[1], item[1])
                self._pools[id(pool)] = (item[0], due)
        return bool(self._pools)

    def _maintain_all(self) -> None:
        for key, (reference, _) in list(self._pools.items()):
            due = _maintain(reference)
            if due is None:
                del self._pools[key]
            else:
                self._pools[key] = (reference, due)


def _maintain(reference: weakref.ref[Maintained]) -> float | None:
    pool = reference()
    if pool is not None:
        try:
            return pool.maintain_idle()
        except BaseException:
            # A hook may raise anything, even SystemExit; the other pools are maintained all the
            # same.
            _log_failure()
    return None


def _log_failure() -> None:
    log(logging.ERROR, "maintaining idle connections failed", exc_info=True)


def _try_start(name: str, target: Callable[[], None]) -> RuntimeError | None:
    """Start a daemon thread; return the error if that is impossible."""
    try:
        start_thread(threading.Thread(target=target, name=name, daemon=True))
    except RuntimeError as error:
        return error
    return None


maintenance = Maintenance()
