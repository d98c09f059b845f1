"""`RateLimiter`: at most so many messages per second, across threads.

A message reserves the next free time slot and waits for it outside the lock. If the slot is after
its deadline, it fails at once and reserves nothing.

A signal handler that sends may interrupt a reservation of its own thread. The lock is re-entrant,
and the interrupted reservation notices that its slot is taken and uses the next one.
"""

from __future__ import annotations

import threading
import time

from smtpconn.model.errors import Phase, PoolTimeoutError, ValidationError
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_if_forked, reset_in_child


class RateLimiter:
    """The times at which messages may be sent.

    Args:
        rate: messages per second, above 0.
        burst: how many may be sent at once after a pause.

    Raises:
        ValidationError: an invalid value.
    """

    def __init__(self, rate: float, burst: int = 1) -> None:
        is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
        if not is_number or not 0 < rate < float("inf"):
            raise ValidationError(f"max_rate is a number of messages per second, not {rate!r:.40}")
        if not isinstance(burst, int) or burst < 1:
            raise ValidationError(f"burst is 1 or more, not {burst!r:.40}")
        self._interval = 1 / rate
        self._allowance = (burst - 1) * self._interval
        self._next = 0.0
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Take a new lock in a forked child, and drop the slots that the parent has reserved."""
        self._lock = threading.RLock()
        self._next = min(self._next, time.monotonic())

    def wait(self, deadline: Deadline) -> None:
        """Wait until a message may be sent.

        Raises:
            PoolTimeoutError: the next slot is after the deadline; nothing is reserved.
        """
        if seconds := self.reserve_within(deadline):
            time.sleep(seconds)

    def reserve_within(self, deadline: Deadline) -> float:
        """Reserve the next slot; return the seconds until then.

        Raises:
            PoolTimeoutError: as `wait`.
        """
        reset_if_forked()
        seconds = self.reserve(time.monotonic(), deadline.remaining())
        if seconds is None:
            raise PoolTimeoutError(
                f"max_rate does not let this message go within {deadline} s",
                phase=Phase.POOL,
            )
        return seconds

    def reserve(self, now: float, max_wait: float) -> float | None:
        """Reserve the next slot; return the seconds until then.

        Args:
            now: the time (monotonic clock).
            max_wait: if the slot is more seconds away, None is returned and nothing is reserved.
        """
        with self._lock:
            while True:
                seen = self._next
                # After a pause, no more messages than the burst may be sent at once.
                moment = max(seen, now - self._allowance)
                seconds = max(0.0, moment - now)
                if seconds > max_wait:
                    return None
                end = moment + self._interval
                # One statement without a call, which no signal handler can interrupt.
                self._next = end if self._next is seen else self._next
                if self._next is end:
                    return seconds
