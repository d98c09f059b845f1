"""When log records are mailed: the decisions alone, at a time of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn import ValidationError
from smtpconn.contrib.logging_queue import (
    FIRST_PAUSE,
    MAX_ATTEMPTS,
    MAX_PAUSE,
    Backlog,
    Entry,
    Rules,
)

RULES = Rules(capacity=10, group_for=5.0, max_records=4, max_mails=2, per=60.0)
START = 1000.0


def entry(arrived: float = START, level: int = 40, subject: str = "Errors") -> Entry:
    """A record that came at that time."""
    return Entry(level, subject, f"came at {arrived}", arrived)


def due(backlog: Backlog, now: float = START) -> float | None:
    """When the next mail is due while no caller waits."""
    return backlog.due_at(now, hurry=False, last=False)


@pytest.fixture
def backlog() -> Backlog:
    """An empty backlog."""
    return Backlog(RULES)


def test_nothing_is_due_without_records(backlog: Backlog) -> None:
    """An empty backlog has nothing to send, hurry or not."""
    assert backlog.is_empty
    assert backlog.due_at(START, hurry=True, last=True) is None


def test_records_wait_for_others(backlog: Backlog) -> None:
    """A mail is sent that long after its first record, with all records that came since."""
    for second in range(3):
        backlog.add(entry(START + second))
    assert due(backlog) == START + 5
    batch = backlog.take(START + 5)
    assert [e.arrived for e in batch.entries] == [START, START + 1, START + 2]
    backlog.delivered()
    assert backlog.is_empty
    assert backlog.mailed == 3


def test_a_full_mail_waits_for_nobody(backlog: Backlog) -> None:
    """With as many records as a mail may have it goes at once, and the rest is the next one."""
    changes = [backlog.add(entry()) for _ in range(6)]
    assert changes == [True, False, False, True, False, False]  # when the thread has to look again
    assert due(backlog) == START
    assert len(backlog.take(START).entries) == 4
    backlog.delivered()
    assert due(backlog) == START + 5
    assert len(backlog.take(START + 5).entries) == 2


def test_so_many_mails_in_so_much_time(backlog: Backlog) -> None:
    """The third mail has to wait until the first one is a minute old."""
    for number in range(2):
        backlog.add(entry())
        backlog.take(START + number)
        backlog.delivered()
    backlog.add(entry(START + 2))
    assert due(backlog, START + 2) == START + 60
    assert backlog.due_at(START + 2, hurry=True, last=False) == START + 2
    backlog.take(START + 60)
    backlog.delivered()
    backlog.add(entry(START + 60))
    assert due(backlog, START + 60) == START + 65


def test_there_is_room_for_so_many(backlog: Backlog) -> None:
    """What is in flight takes room as well, because it may come back."""
    for _ in range(10):
        assert backlog.has_room
        backlog.add(entry())
    assert not backlog.has_room
    backlog.take(START)
    assert not backlog.has_room
    backlog.failed(START, certainly=True, may_retry=True)
    assert not backlog.has_room
    backlog.take(START + FIRST_PAUSE)
    backlog.delivered()
    assert backlog.has_room


def test_the_next_mail_says_how_many_were_dropped(backlog: Backlog) -> None:
    """Each dropped record is told in one mail that is accepted, and once."""
    backlog.add(entry())
    backlog.drop(3)
    assert backlog.take(START).dropped == 3
    backlog.failed(START, certainly=True, may_retry=False)
    backlog.add(entry())
    assert backlog.take(START).dropped == 4  # the one of the failed mail too
    backlog.drop(1)
    backlog.delivered()
    backlog.add(entry())
    assert backlog.take(START).dropped == 1
    assert backlog.dropped == 5


def test_what_failed_goes_again_after_a_pause_that_doubles(backlog: Backlog) -> None:
    """The same records, a few times, also for who is in a hurry; then they are dropped."""
    backlog.add(entry())
    first = backlog.take(START)
    now, pauses = START, []
    for attempt in range(1, MAX_ATTEMPTS):
        assert backlog.failed(now, certainly=True, may_retry=True)
        assert backlog.is_pausing
        then = backlog.due_at(now, hurry=True, last=False)
        assert then is not None
        pauses.append(then - now)
        now = then
        again = backlog.take(now)
        assert again.entries == first.entries
        assert again.attempts == attempt + 1
    assert not backlog.failed(now, certainly=True, may_retry=True)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == MAX_PAUSE
    assert (backlog.is_empty, backlog.dropped, backlog.mailed) == (True, 1, 0)


def test_what_may_have_been_delivered_never_goes_again(backlog: Backlog) -> None:
    """It is counted as unknown, and no mail reports it as dropped."""
    backlog.add(entry())
    backlog.take(START)
    assert not backlog.failed(START, certainly=False, may_retry=True)
    assert backlog.is_empty
    assert (backlog.unknown, backlog.dropped) == (1, 0)


def test_at_the_end_no_pause_is_kept(backlog: Backlog) -> None:
    """The last attempt is now, and what is left behind it is dropped."""
    for _ in range(6):
        backlog.add(entry())
    backlog.take(START)
    backlog.failed(START, certainly=True, may_retry=True)
    assert backlog.due_at(START, hurry=False, last=True) == START
    assert backlog.abandon() == 6
    assert (backlog.is_empty, backlog.dropped) == (True, 6)


def test_what_is_in_flight_is_not_abandoned(backlog: Backlog) -> None:
    """The server tells its delivery status."""
    for _ in range(6):
        backlog.add(entry())
    backlog.take(START)
    assert backlog.abandon() == 2
    backlog.delivered()
    assert (backlog.mailed, backlog.dropped) == (4, 2)


def test_the_subject_is_that_of_the_most_severe(backlog: Backlog) -> None:
    """The first of them; with several records it says how many there are."""
    backlog.add(entry(level=30, subject="warning"))
    assert backlog.take(START).subject == "warning"
    backlog.delivered()
    for level, subject in ((30, "warning"), (40, "error"), (40, "another error")):
        backlog.add(entry(level=level, subject=subject))
    assert backlog.take(START).subject == "error (3 records)"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rules(0, 1, 1, 1, 1),
        lambda: Rules(1, -1, 1, 1, 1),
        lambda: Rules(1, 1, 0, 1, 1),
        lambda: Rules(1, 1, 1, 0, 1),
        lambda: Rules(1, 1, 1, 1, -1),
        lambda: Rules(1, float("inf"), 1, 1, 1),
        lambda: Rules(1, 1, 1, 1, float("nan")),
    ],
)
def test_rules_that_cannot_be(make: Callable[[], Rules]) -> None:
    """No capacity, no mail at all or a time before now are refused."""
    with pytest.raises(ValidationError, match="not"):
        make()
