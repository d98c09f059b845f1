"""One deadline per operation: a moment on the monotonic clock, handed down instead of a timeout.

Whoever is about to wait asks how long it may; so a server that drips a byte a second cannot stretch
an operation, and waiting for a lock, a pool or a name server counts like any other wait.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from smtpconn.model.errors import Phase, SmtpTimeoutError, ValidationError

_NUMBERS = (int, float)


def _is_number(timeout: object) -> bool:
    return isinstance(timeout, _NUMBERS) and not isinstance(timeout, bool)


class Deadline:
    """The moment by which an operation has to be over.

    Args:
        timeout: seconds from now, above 0 and no longer than a lock can wait (centuries).

    Raises:
        ValidationError: ``timeout`` is no positive, finite number.
    """

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float) -> None:
        is_number = type(timeout) in _NUMBERS or _is_number(timeout)
        if not is_number or not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ValidationError(
                f"a timeout is a number of seconds above 0, at most {threading.TIMEOUT_MAX:g}, "
                f"not {timeout!r:.40}"
            )
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def begin_message(self) -> None:
        """A message begins; of interest to `StreamDeadline` alone."""

    def remaining(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        remaining = self._end - time.monotonic()
        return remaining if remaining > 0 else 0.0

    def check(self, phase: Phase) -> float:
        """Return the seconds left, more than 0.

        Raises:
            SmtpTimeoutError: none are left.
        """
        remaining = self.remaining()
        if not remaining:
            raise self.error(phase)
        return remaining

    def error(self, phase: Phase) -> SmtpTimeoutError:
        """The error for this deadline having passed during ``phase``."""
        return SmtpTimeoutError(
            f"the timeout of {self.timeout:g} seconds has passed during {phase}", phase=phase
        )


class StreamDeadline(Deadline):
    """The deadline of many messages under way at once: that of the oldest.

    Each has ``timeout`` seconds from its first octet to its final reply. The time that passes in
    the caller's own code, which makes the messages and takes the results, is not counted.
    """

    __slots__ = ("_ends", "_paused", "_paused_at")

    def __init__(self, timeout: float) -> None:
        super().__init__(timeout)
        # In time without pauses, so that a pause moves all of them at once; so is `_end`, which
        # counts while no message is under way.
        self._ends: deque[float] = deque()
        self._paused = 0.0
        self._paused_at = 0.0

    def remaining(self) -> float:
        """Seconds left to the oldest message; 0.0 when they have passed."""
        end = self._ends[0] if self._ends else self._end
        return max(0.0, end + self._paused - time.monotonic())

    def begin_message(self) -> None:
        """A message's first octet is about to leave."""
        self._ends.append(time.monotonic() - self._paused + self.timeout)

    def end_message(self) -> None:
        """The oldest message has its final reply."""
        if self._ends:
            self._ends.popleft()
        if not self._ends:
            self._end = time.monotonic() - self._paused + self.timeout

    def pause(self) -> None:
        """The caller's code begins to run."""
        self._paused_at = time.monotonic()

    def go_on(self) -> None:
        """It has ended."""
        self._paused += time.monotonic() - self._paused_at
