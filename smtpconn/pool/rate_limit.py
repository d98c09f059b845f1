"""Pacing: not more than so many messages a second, from the first one on and across threads.

A message reserves the next free moment and waits for it outside the lock. Who cannot wait so long
learns it at once and reserves nothing.
"""

from __future__ import annotations

import threading
import time

from smtpconn.model.errors import Phase, PoolTimeoutError, ValidationError
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import forget_in_child, reset_if_forked


class Pace:
    """The moments at which messages may go.

    Args:
        rate: messages per second, above 0.
        burst: how many may go at once after a silence.

    Raises:
        ValidationError: a value that cannot be.
    """

    def __init__(self, rate: float, burst: int = 1) -> None:
        if not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
            raise ValidationError(f"max_rate is a number of messages per second, not {rate!r:.40}")
        if not isinstance(burst, int) or burst < 1:
            raise ValidationError(f"burst is 1 or more, not {burst!r:.40}")
        self._interval = 1 / rate
        self._allowance = (burst - 1) * self._interval
        self._next = 0.0
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Begin with a new lock in a forked child; what is reserved is the parent's."""
        self._lock = threading.Lock()
        self._next = min(self._next, time.monotonic())

    def wait(self, deadline: Deadline) -> None:
        """Wait until a message may go.

        Raises:
            PoolTimeoutError: that would be after the deadline; nothing is reserved then.
        """
        reset_if_forked()
        seconds = self.reserve(time.monotonic(), deadline.remaining())
        if seconds is None:
            raise PoolTimeoutError(
                f"max_rate does not let this message go within {deadline} s",
                phase=Phase.POOL,
            )
        if seconds:
            time.sleep(seconds)

    def reserve(self, now: float, patience: float) -> float | None:
        """Reserve the next moment; seconds until then, None if they are more than ``patience``."""
        with self._lock:
            # Silence earns no more than the burst.
            moment = max(self._next, now - self._allowance)
            seconds = max(0.0, moment - now)
            if seconds > patience:
                return None
            self._next = moment + self._interval
            return seconds
