"""`DeadlineLock`: a lock that is waited for until a deadline."""

from __future__ import annotations

from collections import deque

from smtpconn.model.errors import Phase
from smtpconn.net.deadline import Deadline
from smtpconn.pool.wakeup import Wakeup


class DeadlineLock:
    """What one thread has at a time, and others wait for."""

    def __init__(self) -> None:
        # One item, in here or with the holder; a `threading.Lock` could be older than gevent's.
        self._free: deque[None] = deque([None])
        self._freed = Wakeup()

    def try_acquire(self, to: deque[None]) -> bool:
        """Take it if it is free; whether it was. Nothing cuts this in two."""
        try:
            to.extend(map(deque.pop, (self._free,)))
        except IndexError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until it may be free, at most so long; whether it may."""
        return self._freed.wait(seconds)

    def wake(self) -> None:
        """Wake up one that waits."""
        self._freed.set()

    def release(self, taken: deque[None]) -> None:
        """Give back what was taken, if anything was; again does no harm."""
        while taken:
            try:
                self._free.extend(map(deque.pop, (taken,)))
            finally:
                self._freed.set()


class Hold:
    """Hold a lock that is waited for until a deadline, and no longer.

    It is released once, however the block is interrupted: at the latest when this object is
    garbage-collected.
    """

    def __init__(self, lock: DeadlineLock, deadline: Deadline) -> None:
        self._lock = lock
        self._deadline = deadline
        self._taken: deque[None] = deque()

    def __enter__(self) -> None:
        seconds = self._deadline.check(Phase.CONNECT)
        try:
            while not self._lock.try_acquire(self._taken):
                if not self._lock.wait(seconds):
                    raise self._deadline.error(Phase.CONNECT)
                seconds = self._deadline.remaining()
        except BaseException:
            # It may have been woken up, and no other thread was.
            self._lock.wake()
            raise

    def __exit__(self, *error: object) -> None:
        self._lock.release(self._taken)

    def __del__(self) -> None:
        if hasattr(self, "_taken"):
            self._lock.release(self._taken)
