"""Which log records are mailed, and when: the decisions for `smtpconn.contrib.logging`.

Rule 1: the records, including those in the mail in flight, are at most the capacity. Further
        records are dropped and counted; the next mail has the number.
Rule 2: a record waits for others to share its mail, for a limited time or until the mail is full.
Rule 3: the number of mails in a period is limited. Records that come in between wait, by rule 1.
Rule 4: a mail that was certainly not delivered is sent again a few times, after a pause that
        doubles. One that may have been delivered is never sent again.
Rule 5: while a caller waits, rules 2 and 3 do not apply; at the end of the process no pause does.

The caller holds the lock and passes the time (monotonic clock, seconds).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

from smtpconn.model.errors import ValidationError

FIRST_PAUSE = 1.0
"""Seconds before a mail that was not delivered is sent again; doubled with each attempt."""

MAX_PAUSE = 60.0

MAX_ATTEMPTS = 10
"""Attempts per mail; with the pauses they take about five minutes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The parts of a log record that a mail needs; holds no reference to application objects."""

    level: int
    subject: str
    text: str
    arrived: float


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one mail.

    Attributes:
        entries: the records, in the order in which they were logged.
        dropped: the number of records dropped since the last mail that reported one.
        attempts: the number of attempts to send the mail, this one included.
    """

    entries: tuple[Entry, ...]
    dropped: int
    attempts: int = 1

    @property
    def subject(self) -> str:
        """The subject of the first of the most severe records, and the number of records."""
        worst = max(self.entries, key=lambda entry: entry.level)
        count = len(self.entries)
        return worst.subject if count == 1 else f"{worst.subject} ({count} records)"


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of the rules above.

    Raises:
        ValidationError: an invalid limit.
    """

    capacity: int
    group_for: float
    max_records: int
    max_mails: int
    per: float

    def __post_init__(self) -> None:
        for name in ("capacity", "max_records", "max_mails"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or value < 1:
                raise ValidationError(f"{name} is 1 or more, not {value!r:.40}")
        for name in ("group_for", "per"):
            check_seconds(name, getattr(self, name))


def check_seconds(name: str, value: float) -> float:
    """Check and return a number of seconds, 0 or more.

    Raises:
        ValidationError: it is no number, negative, or too large to wait for.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValidationError(f"{name} is seconds, 0 or more, not {value!r:.40}")
    return value


class RecordQueue:
    """The records that wait, and the mail in flight.

    Attributes:
        mailed, dropped, unknown: records in mails that the server accepted, records that are in no
            mail, and records in mails that may have been delivered.
    """

    def __init__(self, rules: Rules) -> None:
        self.mailed = 0
        self.dropped = 0
        self.unknown = 0
        self._rules = rules
        self._waiting: deque[Entry] = deque()
        self._batch: Batch | None = None
        self._retry_at: float | None = None
        self._mails: deque[float] = deque(maxlen=rules.max_mails)
        self._unreported = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self._waiting and self._batch is None

    @property
    def has_room(self) -> bool:
        """Whether there is room for another record (rule 1)."""
        in_flight = len(self._batch.entries) if self._batch is not None else 0
        return len(self._waiting) + in_flight < self._rules.capacity

    @property
    def is_pausing(self) -> bool:
        """Whether a failed mail waits to be sent again."""
        return self._retry_at is not None

    def add(self, entry: Entry) -> bool:
        """Queue a record; the caller has checked `has_room`.

        Returns whether the record changes when the next mail is due (rule 2).
        """
        self._waiting.append(entry)
        return len(self._waiting) in (1, self._rules.max_records)

    def drop(self, count: int) -> None:
        """Count records that are not mailed."""
        self.dropped += count
        self._unreported += count

    def due_at(self, now: float, *, is_flushing: bool, is_closing: bool) -> float | None:
        """When to send the next mail; None while there is nothing to send.

        Args:
            now: the time.
            is_flushing: whether a caller waits (rule 5).
            is_closing: whether the process is ending (rule 5).
        """
        if self._retry_at is not None:
            return now if is_closing else self._retry_at
        if not self._waiting:
            return None
        if is_flushing or is_closing:
            return now
        is_full = len(self._waiting) >= self._rules.max_records
        due = now if is_full else self._waiting[0].arrived + self._rules.group_for
        if len(self._mails) == self._rules.max_mails:
            due = max(due, self._mails[0] + self._rules.per)
        return due

    def take(self, now: float) -> Batch:
        """Take the next mail; it is in flight until `delivered` or `failed` is called."""
        if self._retry_at is not None and self._batch is not None:
            self._batch = replace(self._batch, attempts=self._batch.attempts + 1)
            self._retry_at = None
        else:
            count = min(len(self._waiting), self._rules.max_records)
            entries = tuple(self._waiting.popleft() for _ in range(count))
            self._batch = Batch(entries, self._unreported)
            self._mails.append(now)
        return self._batch

    def delivered(self) -> None:
        """Note that the mail in flight was accepted."""
        if self._batch is not None:
            self.mailed += len(self._batch.entries)
            self._unreported -= self._batch.dropped
            self._batch = None

    def failed(self, now: float, *, certainly: bool, may_retry: bool) -> bool:
        """Note that the mail in flight failed (rule 4); return whether it is sent again.

        Args:
            now: the time.
            certainly: whether it certainly was not delivered.
            may_retry: whether a later attempt may succeed.
        """
        if (batch := self._batch) is None:
            return False
        if certainly and may_retry and batch.attempts < MAX_ATTEMPTS:
            self._retry_at = now + min(MAX_PAUSE, FIRST_PAUSE * 2 ** (batch.attempts - 1))
            return True
        self._batch = None
        if certainly:
            self.drop(len(batch.entries))
        else:
            self.unknown += len(batch.entries)
        return False

    def abandon(self) -> int:
        """Drop the records that wait or are to be sent again; return their number.

        A mail in flight is not affected.
        """
        count = len(self._waiting)
        if self._retry_at is not None and self._batch is not None:
            count += len(self._batch.entries)
            self._batch = self._retry_at = None
        self._waiting.clear()
        self.drop(count)
        return count
