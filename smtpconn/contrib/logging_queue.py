"""Which log records are mailed when, for `smtpconn.contrib.logging`: pure decisions.

Rule 1: there are never more records than the capacity, those in a mail under way included. One
        more is dropped and counted, and the next mail says how many there were.
Rule 2: a record waits a while for others to be in one mail with, or until the mail is full.
Rule 3: there are only so many mails in so much time. What comes in between waits by rule 1.
Rule 4: a mail that certainly was not delivered goes again, after a pause that doubles, a few times.
        One that may have been delivered never goes again.
Rule 5: for who is in a hurry, rules 2 and 3 do not hold; at the end of the process, no pause does.

The caller holds the lock and passes the time (monotonic clock, seconds).
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

from smtpconn.model.errors import ValidationError

FIRST_PAUSE = 1.0
"""Seconds before a mail that was not delivered goes again; doubled with each attempt."""

MAX_PAUSE = 60.0

MAX_ATTEMPTS = 10
"""How often a mail is tried; with the pauses that is about five minutes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a mail needs of a log record, so that nothing of the application is kept alive."""

    level: int
    subject: str
    text: str
    arrived: float


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one mail.

    Attributes:
        entries: in the order they came.
        dropped: records dropped since the last mail that said so.
        attempts: how often it was tried, this time included.
    """

    entries: tuple[Entry, ...]
    dropped: int
    attempts: int = 1

    @property
    def subject(self) -> str:
        """That of the first of the most severe records, and how many there are."""
        worst = max(self.entries, key=lambda entry: entry.level)
        count = len(self.entries)
        return worst.subject if count == 1 else f"{worst.subject} ({count} records)"


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the rules above.

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
            if getattr(self, name) < 1:
                raise ValidationError(f"{name} is 1 or more, not {getattr(self, name)!r:.40}")
        for name in ("group_for", "per"):
            check_seconds(name, getattr(self, name))


def check_seconds(name: str, value: float) -> float:
    """Check a time that may be nothing; returns it.

    Raises:
        ValidationError: it is less, or more than anything can wait for.
    """
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValidationError(f"{name} is seconds, 0 or more, not {value!r:.40}")
    return value


class Backlog:
    """The records that wait, and the mail under way.

    Attributes:
        mailed, dropped, unknown: records that are in a mail the server accepted, that are in none,
            and that are in one that may have been delivered.
    """

    def __init__(self, rules: Rules) -> None:
        self.mailed = 0
        self.dropped = 0
        self.unknown = 0
        self._rules = rules
        self._waiting: deque[Entry] = deque()
        self._batch: Batch | None = None
        self._again_at: float | None = None
        self._mails: deque[float] = deque(maxlen=rules.max_mails)
        self._untold = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing is under way."""
        return not self._waiting and self._batch is None

    @property
    def has_room(self) -> bool:
        """Whether one more record may come (rule 1)."""
        under_way = len(self._batch.entries) if self._batch is not None else 0
        return len(self._waiting) + under_way < self._rules.capacity

    @property
    def is_pausing(self) -> bool:
        """Whether a mail failed and waits to be tried again."""
        return self._again_at is not None

    def add(self, entry: Entry) -> bool:
        """Have a record mailed, for which there is room; whether that changes when (rule 2)."""
        self._waiting.append(entry)
        return len(self._waiting) in (1, self._rules.max_records)

    def drop(self, count: int) -> None:
        """Count records that are mailed never."""
        self.dropped += count
        self._untold += count

    def due_at(self, now: float, *, hurry: bool, last: bool) -> float | None:
        """When the next mail is to go; None while there is nothing to send.

        Args:
            now: the time.
            hurry: whether somebody waits for it (rule 5).
            last: whether there is no later.
        """
        if self._again_at is not None:
            return now if last else self._again_at
        if not self._waiting:
            return None
        if hurry or last:
            return now
        is_full = len(self._waiting) >= self._rules.max_records
        due = now if is_full else self._waiting[0].arrived + self._rules.group_for
        if len(self._mails) == self._rules.max_mails:
            due = max(due, self._mails[0] + self._rules.per)
        return due

    def take(self, now: float) -> Batch:
        """The next mail, which is then under way until `delivered` or `failed`."""
        if self._again_at is not None and self._batch is not None:
            self._batch = replace(self._batch, attempts=self._batch.attempts + 1)
            self._again_at = None
        else:
            count = min(len(self._waiting), self._rules.max_records)
            entries = tuple(self._waiting.popleft() for _ in range(count))
            self._batch = Batch(entries, self._untold)
            self._mails.append(now)
        return self._batch

    def delivered(self) -> None:
        """Note that the mail under way was accepted."""
        if self._batch is not None:
            self.mailed += len(self._batch.entries)
            self._untold -= self._batch.dropped
            self._batch = None

    def failed(self, now: float, *, certainly: bool, may_retry: bool) -> bool:
        """Note that the mail under way failed (rule 4); whether it is tried again.

        Args:
            now: the time.
            certainly: whether it certainly was not delivered.
            may_retry: whether it may go better another time.
        """
        if (batch := self._batch) is None:
            return False
        if certainly and may_retry and batch.attempts < MAX_ATTEMPTS:
            self._again_at = now + min(MAX_PAUSE, FIRST_PAUSE * 2 ** (batch.attempts - 1))
            return True
        self._batch = None
        if certainly:
            self.drop(len(batch.entries))
        else:
            self.unknown += len(batch.entries)
        return False

    def abandon(self) -> int:
        """Drop what waits, but not what is under way; how many records that were."""
        count = len(self._waiting)
        if self._again_at is not None and self._batch is not None:
            count += len(self._batch.entries)
            self._batch = self._again_at = None
        self._waiting.clear()
        self.drop(count)
        return count
