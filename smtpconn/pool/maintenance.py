"""Maintenance: one daemon thread per process that looks after the idle connections of all pools.

It says NOOP on connections that were silent for long and closes those whose time is over. It lives
only while something is idle, is never joined, and holds pools by weak references. Pools work
without it, as a pool with ``keepalive=None`` does.

Pools call `Maintenance.watch` when they take a connection back, which may be in a signal handler
that interrupts another such call. So there is no lock here: what is shared is changed by single
operations of a deque and of a lock that nobody waits for, and everything else belongs to the
thread.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

from smtpconn.net.forking import forget_in_child
from smtpconn.pool.pool_log import log
from smtpconn.pool.wakeup import Wakeup


class Maintained(Protocol):
    """What maintenance needs of a pool."""

    def maintain_idle(self) -> float | None:
        """Do what is due; return when to look again (monotonic), None while nothing is idle."""


class Maintenance:
    """The thread, and the pools it looks after."""

    def __init__(self) -> None:
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Begin anew in a forked child, in which the thread does not exist."""
        self._wakeup = Wakeup()
        # Held while the thread lives; acquired without waiting only.
        self._is_running = threading.Lock()
        # What is to be watched from when on; None to look at all pools at once.
        self._inbox: deque[tuple[weakref.ref[Maintained], float] | None] = deque()
        # The thread's alone.
        self._pools: dict[int, tuple[weakref.ref[Maintained], float]] = {}

    def watch(self, pool: Maintained, due: float) -> None:
        """Have ``pool`` looked at by ``due`` (monotonic clock)."""
        self._inbox.append((weakref.ref(pool), due))
        self._wakeup.set()
        self._start()

    def wake(self) -> None:
        """Have all pools looked at now, because there is less to look after."""
        if self._is_running.locked():
            self._inbox.append(None)
            self._wakeup.set()

    def run(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Do work of a pool that may take long, so that no other pool waits for it.

        Args:
            work: done here if no other pool is watched, else in a thread of its own.
            then: called in that thread when the work is done.
        """
        if len(self._pools) > 1:

            def both() -> None:
                try:
                    work()
                except BaseException:
                    _log_failure()
                then()

            if _start_thread("smtpconn-keepalive", both) is None:
                return
        work()

    def _start(self) -> None:
        if not self._is_running.acquire(blocking=False):
            return
        error = _start_thread("smtpconn-maintenance", self._run)
        if error is not None:
            self._is_running.release()
            # The caller gives a connection back and must not fail: its message may be delivered.
            log(logging.INFO, "idle connections are not looked after: %s", error)

    def _run(self) -> None:
        try:
            while self._has_pools():
                due = min(due for _, due in self._pools.values())
                seconds = due - time.monotonic()
                if seconds > 0:
                    self._wakeup.wait(seconds)
                else:
                    self._look_at_all()
        finally:
            self._is_running.release()
        # A pool that came after the last look found the thread running.
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

    def _look_at_all(self) -> None:
        for key, (reference, _) in list(self._pools.items()):
            due = _look(reference)
            if due is None:
                del self._pools[key]
            else:
                self._pools[key] = (reference, due)


def _look(reference: weakref.ref[Maintained]) -> float | None:
    pool = reference()
    if pool is not None:
        try:
            return pool.maintain_idle()
        except BaseException:
            # Whatever a hook raises, SystemExit too: the other pools are looked after all the same.
            _log_failure()
    return None


def _log_failure() -> None:
    log(logging.ERROR, "looking after idle connections failed", exc_info=True)


def _start_thread(name: str, target: Callable[[], None]) -> RuntimeError | None:
    """Start a daemon thread; the error if that is impossible now, as when Python ends."""
    # `Thread.start` waits until the new thread has had this lock. A signal handler that interrupts
    # another `start` of its thread, which holds it, would wait for ever.
    lock = getattr(threading, "_active_limbo_lock", None)
    is_owned = getattr(lock, "_is_owned", None)  # gevent's lock has none
    if is_owned is not None and is_owned():
        return RuntimeError("this thread is starting another one")
    try:
        threading.Thread(target=target, name=name, daemon=True).start()
    except RuntimeError as error:
        return error
    return None


maintenance = Maintenance()
