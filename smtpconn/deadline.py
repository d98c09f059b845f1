"""One deadline per operation: a moment on the monotonic clock, handed down instead of a timeout.

Whoever is about to wait asks how long it may; so a server that drips a byte a second cannot stretch
an operation, and waiting for a lock, a pool or a name server counts like any other wait.
"""

from __future__ import annotations

import threading
import time

from smtpconn.errors import Phase, SmtpTimeoutError, ValidationError


class Deadline:
    """The moment by which an operation has to be over.

    Args:
        timeout: seconds from now, above 0 and no longer than a lock can wait (centuries).

    Raises:
        ValidationError: ``timeout`` is no positive, finite number.
    """

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float) -> None:
        is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if not is_number or not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ValidationError(
                f"a timeout is a number of seconds above 0, at most {threading.TIMEOUT_MAX:g}, "
                f"not {timeout!r:.40}"
            )
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    def remaining(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        return max(0.0, self._end - time.monotonic())

    def check(self, phase: Phase) -> float:
        """Return the seconds left, more than 0.

        Raises:
            SmtpTimeoutError: none are left.
        """
        remaining = self._end - time.monotonic()
        if remaining <= 0:
            raise self.error(phase)
        return remaining

    def error(self, phase: Phase) -> SmtpTimeoutError:
        """The error for this deadline having passed during ``phase``."""
        return SmtpTimeoutError(
            f"the timeout of {self.timeout:g} seconds has passed during {phase}", phase=phase
        )
