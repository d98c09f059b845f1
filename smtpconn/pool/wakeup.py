"""`Wakeup`: waking a thread that waits, safe inside signal handlers and destructors."""

from __future__ import annotations

import threading


class Wakeup:
    """Something that one thread waits for and others announce; twice is the same as once.

    Not a `threading.Event`, which is Python code under a plain lock: a signal handler that sets an
    event while its own thread is setting it waits for ever.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    @property
    def is_set(self) -> bool:
        """Whether it was announced and nobody has taken note of it."""
        return not self._lock.locked()

    def set(self) -> None:
        """Announce it."""
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                pass  # somebody else announced it in between

    def wait(self, seconds: float) -> bool:
        """Wait for it, at most so long, and take note of it; whether it came."""
        return self._lock.acquire(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))
