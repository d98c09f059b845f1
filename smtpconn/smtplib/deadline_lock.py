"""`DeadlineLock`: a lock that a thread waits for until a deadline."""

from __future__ import annotations

from collections import deque

from smtpconn.model.errors import Phase
from smtpconn.net.deadline import Deadline
from smtpconn.pool.wakeup import Wakeup


class DeadlineLock:
    """A lock for one thread at a time; acquired by `Hold`.

    The lock is one item in a deque: whichever `Hold` has moved the item to its own deque holds the
    lock. A single call of a function in C moves the item, so no exception can lose it.
    """

    def __init__(self) -> None:
        # Not a `threading.Lock`: it could have been created before gevent replaced that class.
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
        """Wait at most ``seconds`` until the lock may be free; returns whether it may be."""
        return self._freed.wait(seconds)

    def wake(self) -> None:
        """Wake up a thread that waits."""
        self._freed.set()

    def release(self, taken: deque[None]) -> None:
        """Move the item from ``taken`` back to the lock; does nothing if ``taken`` is empty."""
        while taken:
            try:
                self._free.extend(map(deque.pop, (taken,)))
            finally:
                self._freed.set()


class Hold:
    """A context manager that holds a `DeadlineLock`, waiting for it until a deadline.

    The lock is released exactly once, even if an exception interrupts the block at any point. If
    nothing else releases it, garbage collection of this object does.
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
            # This thread may have consumed the only wakeup: pass it on to another waiting thread.
            self._lock.wake()
            raise

    def __exit__(self, *error: object) -> None:
        self._lock.release(self._taken)

    def __del__(self) -> None:
        if hasattr(self, "_taken"):
            self._lock.release(self._taken)
