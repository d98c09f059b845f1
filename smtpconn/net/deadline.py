"""One deadline per operation: a point on the monotonic clock, passed down instead of a timeout.

The public method creates the `Deadline`, and the object itself is passed down to the socket. Every
wait asks it how long it may take, and so does every loop that makes progress without waiting. So a
server that sends a byte a second cannot prolong an operation, and waiting for a lock, a pool or a
name server counts like any other wait. Error texts show the number the caller gave.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque

from smtpconn.model.errors import Phase, SmtpTimeoutError, ValidationError

_NUMBERS = (int, float)
_MAX = threading.TIMEOUT_MAX


def _is_number(timeout: object) -> bool:
    return isinstance(timeout, _NUMBERS) and not isinstance(timeout, bool)


class Deadline:
    """The time by which an operation must have ended.

    Args:
        timeout: seconds from now, above 0 and at most `threading.TIMEOUT_MAX` (centuries).

    Raises:
        ValidationError: ``timeout`` is not a positive, finite number.
    """

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float) -> None:
        is_number = type(timeout) in _NUMBERS or _is_number(timeout)
        if not is_number or not 0 < timeout <= _MAX:
            raise ValidationError(
                f"a timeout is a number of seconds above 0, at most {_MAX:g}, not {timeout!r:.40}"
            )
        self.timeout = timeout
        self._end = time.monotonic() + timeout

    @classmethod
    def of(cls, timeout: float | Deadline | None, default: float) -> Deadline:
        """The deadline for a timeout in seconds; a `Deadline` is returned unchanged.

        Args:
            timeout: seconds, a deadline that a caller further up has created, or None.
            default: seconds if ``timeout`` is None.

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
        """The deadline for the first of ``count`` attempts that share the remaining time equally.

        Args:
            count: how many attempts the remaining time is for.
            limit: seconds that the attempt may take at most.
        """
        remaining = self.remaining()
        if count == 1 and limit >= remaining:
            return self
        return _Share(self, min(remaining / count, limit))

    def begin_messages(self, count: int = 1) -> None:
        """Record that messages begin; only `StreamDeadline` uses it."""

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
            SmtpTimeoutError: the deadline has passed.
        """
        remaining = self.remaining()
        if not remaining:
            raise self.error(phase, peer)
        return remaining

    def error(self, phase: Phase, peer: str = "") -> SmtpTimeoutError:
        """The error that this deadline has passed during ``phase`` with ``peer`` (host:port)."""
        where = f"{phase} with {peer}" if peer else str(phase)
        text = f"{self._share_text()}the timeout of {self} seconds has passed during {where}"
        return SmtpTimeoutError(text, phase=phase)

    def _share_text(self) -> str:
        return ""

    def __str__(self) -> str:
        """The seconds as the caller gave them."""
        return f"{self.timeout:.15g}"


class _Share(Deadline):
    """A part of another deadline's time; error texts show both."""

    __slots__ = ("_seconds",)

    def __init__(self, whole: Deadline, seconds: float) -> None:
        self.timeout = whole.timeout
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def _share_text(self) -> str:
        return f"a share of {self._seconds:.3g} seconds of "


class StreamDeadline(Deadline):
    """The deadline for several messages in flight: that of the oldest.

    Each message has ``timeout`` seconds from its first byte to its final reply. Time spent in the
    caller's code, which makes the messages and takes the results, is not counted.

    Args:
        timeout: seconds for each message.
        first: a deadline that the first message must also meet, because it has already waited for
            something; None if it has ``timeout`` seconds like the others.
    """

    __slots__ = ("_ends", "_first", "_paused", "_paused_at")

    def __init__(self, timeout: float, first: Deadline | None = None) -> None:
        super().__init__(timeout)
        self._first = first
        if first is not None:
            self._end = min(self._end, first._end)
        # These do not include the pauses, so that a pause moves all of them at once. Nor does
        # `_end`, which applies while no message is in flight.
        self._ends: deque[float] = deque()
        self._paused = 0.0
        self._paused_at = 0.0

    def remaining(self) -> float:
        """Seconds left for the oldest message; 0.0 when its deadline has passed."""
        end = self._ends[0] if self._ends else self._end
        remaining = end + self._paused - time.monotonic()
        return remaining if remaining > 0 else 0.0

    def begin_messages(self, count: int = 1) -> None:
        """Record that the first byte of each of ``count`` messages is about to be sent."""
        end = time.monotonic() - self._paused + self.timeout
        if self._first is not None:
            self._ends.append(min(end, self._first._end - self._paused))
            self._first = None
            count -= 1
        self._ends += (end,) * count

    def end_messages(self, count: int) -> None:
        """Record that the ``count`` oldest messages have received their final reply."""
        ends = self._ends
        if count < len(ends):
            for _ in range(count):
                ends.popleft()
        else:
            ends.clear()
            self._end = time.monotonic() - self._paused + self.timeout

    def pause(self) -> None:
        """Stop the clock, because the caller's code starts to run."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Restart the clock, because the caller's code has returned."""
        self._paused += time.monotonic() - self._paused_at
