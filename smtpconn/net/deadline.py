"""One deadline per operation: a moment on the monotonic clock, handed down instead of a timeout.

The public method makes the `Deadline`, and the object itself goes down to the socket. Every wait
asks it how long it may take, and every loop that makes progress without waiting asks it too; so a
server that drips a byte a second cannot stretch an operation, and waiting for a lock, a pool or a
name server counts like any other wait. Error texts show the figure the caller gave.
"""

from __future__ import annotations

import math
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

    @classmethod
    def of(cls, timeout: float | Deadline | None, default: float) -> Deadline:
        """The deadline for a timeout in seconds; one that runs already is returned as it is.

        Args:
            timeout: seconds, a deadline that a caller further up has made, or None.
            default: seconds where ``timeout`` is None.

        Raises:
            ValidationError: as `Deadline`.
        """
        if isinstance(timeout, Deadline):
            return timeout
        return cls(default if timeout is None else timeout)

    def at_most(self, seconds: float) -> Deadline:
        """The same deadline, or one in ``seconds`` from now if that is earlier."""
        end = time.monotonic() + seconds
        if end >= self._end:
            return self
        earlier = Deadline.__new__(Deadline)
        earlier.timeout, earlier._end = seconds, end
        return earlier

    def share(self, count: int, limit: float = math.inf) -> Deadline:
        """The deadline for the first of ``count`` attempts that divide the time left evenly.

        Args:
            count: how many attempts the time left is for.
            limit: seconds that the attempt takes at most.
        """
        remaining = self.remaining()
        if count == 1 and limit >= remaining:
            return self
        return _Share(self, min(remaining / count, limit))

    def begin_message(self) -> None:
        """A message begins; of interest to `StreamDeadline` alone."""

    def remaining(self) -> float:
        """Seconds left; 0.0 when it has passed."""
        remaining = self._end - time.monotonic()
        return remaining if remaining > 0 else 0.0

    def check(self, phase: Phase, peer: str = "") -> float:
        """Return the seconds left, more than 0.

        Args:
            phase: what is in progress.
            peer: ``host:port`` for the error.

        Raises:
            SmtpTimeoutError: none are left.
        """
        remaining = self.remaining()
        if not remaining:
            raise self.error(phase, peer)
        return remaining

    def error(self, phase: Phase, peer: str = "") -> SmtpTimeoutError:
        """The error for this deadline having passed during ``phase``, with ``peer`` (host:port)."""
        where = f"{phase} with {peer}" if peer else str(phase)
        text = f"{self._share_of()}the timeout of {self} seconds has passed during {where}"
        return SmtpTimeoutError(text, phase=phase)

    def _share_of(self) -> str:
        return ""

    def __str__(self) -> str:
        """The seconds as the caller gave them."""
        return f"{self.timeout:.15g}"


class _Share(Deadline):
    """A part of another deadline's time; errors tell both."""

    __slots__ = ("_seconds",)

    def __init__(self, whole: Deadline, seconds: float) -> None:
        self.timeout = whole.timeout
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def _share_of(self) -> str:
        return f"a share of {self._seconds:.3g} seconds of "


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
