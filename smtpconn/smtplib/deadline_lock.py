"""`DeadlineLock`: a lock that is waited for until a deadline."""

from __future__ import annotations

from collections import deque

from smtpconn.model.errors import Phase
from smtpconn.net.deadline import Deadline
from smtpconn.pool.wakeup import Wakeup


class DeadlineLock:
    """A lock for one thread at a time; acquired by `Hold`.

    It is locked while its one item is with a `Hold`. Moving the item is a single call of a function
    in C, so no exception can lose it.
    """

    def __init__(self) -> None:
        # Not a `threading.Lock`, which could be older than gevent's replacement.
        self._free: deque[None] = deque([None])
        self._freed = Wakeup()

    def try_acquire(self, to: deque[None]) -> bool:
        """Move the item to ``to`` if the lock is free; returns whether it was."""
        try:
            to.extend(map(deque.pop, (self._free,)))
        except IndexError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until it may be free, at most ``seconds``; returns whether it may be."""
        return self._freed.wait(seconds)

    def wake(self) -> None:
        """Wake up a thread that waits."""
        self._freed.set()

    def release(self, taken: deque[None]) -> None:
        """Take the item back from ``taken``; does nothing if it is not there."""
        while taken:
            try:
                self._free.extend(map(deque.pop, (taken,)))
            finally:
                self._freed.set()


class Hold:
    """A context manager that holds a `DeadlineLock`, waiting for it until a deadline.

    The lock is released once, even if an exception interrupts the block at any point: at the latest
    when this object is garbage-collected.
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
