"""`Wakeup`: waking a thread that waits, safe inside signal handlers and destructors."""

from __future__ import annotations

import threading


class Wakeup:
    """A signal that one thread waits for; setting it twice is the same as once.

    Not a `threading.Event`, which uses a plain lock: a signal handler that sets an event while its
    own thread is setting it would deadlock.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    @property
    def is_set(self) -> bool:
        """Whether it is set."""
        return not self._lock.locked()

    def set(self) -> None:
        """Set it."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                pass  # another thread has set it in between

    def wait(self, seconds: float) -> bool:
        """Wait until it is set, at most so long, and clear it; whether it was set."""
        return self._lock.acquire(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))
