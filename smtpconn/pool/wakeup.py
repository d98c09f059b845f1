"""`Wakeup`: waking a thread that waits, safe inside signal handlers and destructors."""

from __future__ import annotations

import threading
import time
from collections import deque


class Wakeup:
    """A signal that threads wait for; setting it twice is the same as once.

    Not a `threading.Event`, which uses a plain lock: a signal handler that sets an event while its
    own thread is setting it would deadlock.

    The lock that a thread sleeps on is made when it goes to sleep. One made earlier may be of
    another kind than the threads: gunicorn's gevent workers load the application (``--preload``)
    and fork before they replace threads by greenlets. A greenlet that waits for a lock of the
    operating system stops all others of its process, those that would release it included.
    """

    __slots__ = ("_flag", "_sleeping")

    def __init__(self) -> None:
        self._flag: deque[None] = deque(maxlen=1)
        self._sleeping: set[threading.Lock] = set()

    @property
    def is_set(self) -> bool:
        """Whether it is set."""
        return bool(self._flag)

    def set(self) -> None:
        """Set it."""
        self._flag.append(None)
        # Not a tuple, which is allocated first: a garbage collection then may run other threads.
        for lock in self._sleeping.copy():
            if lock.locked():
                try:
                    lock.release()
                except RuntimeError:
                    pass  # another thread has set it in between

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most ``seconds``, and clear it; returns whether it was set."""
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
