"""`Wakeup`: waking a thread that waits, safe inside signal handlers and destructors."""

from __future__ import annotations

import threading
import time
from collections import deque


class Wakeup:
    """A signal that threads wait for; setting it twice is the same as once.

    `threading.Event` cannot be used, because it has a plain lock: a signal handler that sets an
    event while its own thread is setting it would deadlock.

    The lock that a thread sleeps on is made when the thread goes to sleep. One made earlier may
    belong to another kind of thread: gunicorn's gevent workers load the application (``--preload``)
    and fork before they replace threads by greenlets. A greenlet that waits for a lock of the
    operating system blocks all greenlets of its process, also the one that would release the lock.
    """

    __slots__ = ("_flag", "_sleeping")

    def __init__(self) -> None:
        self._flag: deque[None] = deque(maxlen=1)
        self._sleeping: set[threading.Lock] = set()

    @property
    def is_set(self) -> bool:
        """Whether the signal is set."""
        return bool(self._flag)

    def set(self) -> None:
        """Set the signal, and wake the threads that wait."""
        self._flag.append(None)
        # A copy of the set, not a tuple: a tuple is allocated before it is filled, and a garbage
        # collection at that moment may run other threads, which change the set.
        for lock in self._sleeping.copy():
            if lock.locked():
                try:
                    lock.release()
                except RuntimeError:
                    pass  # another thread has set it in between

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for the signal, and clear it; return whether it was set."""
        if self._clear():
            return True
        if seconds <= 0:
            return False
        end = time.monotonic() + seconds
        lock = threading.Lock()
        self._sleeping.add(lock)
        try:
            while True:
                lock.acquire(blocking=False)
                # Checked after the lock is taken: `set` releases it from now on.
                if self._clear():
                    return True
                left = min(end - time.monotonic(), threading.TIMEOUT_MAX)
                if left <= 0 or not lock.acquire(timeout=left):
                    return self._clear()
        finally:
            self._sleeping.discard(lock)

    def _clear(self) -> bool:
        try:
            self._flag.pop()
        except IndexError:
            return False
        return True
