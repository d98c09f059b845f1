"""When log records are mailed: the decisions alone, at a time of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn import ValidationError
from smtpconn.contrib.logging_queue import (
    FIRST_PAUSE,
    MAX_ATTEMPTS,
    MAX_PAUSE,
    Entry,
    RecordQueue,
    Rules,
)

RULES = Rules(capacity=10, group_for=5.0, max_records=4, max_mails=2, per=60.0)
START = 1000.0


def entry(arrived: float = START, level: int = 40, subject: str = "Errors") -> Entry:
    """A record that came at that time."""
    return Entry(level, subject, f"came at {arrived}", arrived)


def due(queue: RecordQueue, now: float = START) -> float | None:
    """When the next mail is due while no caller waits."""
    return queue.due_at(now, is_flushing=False, is_closing=False)


@pytest.fixture
def queue() -> RecordQueue:
    """An empty queue."""
    return RecordQueue(RULES)


def test_nothing_is_due_without_records(queue: RecordQueue) -> None:
    """An empty queue has nothing to send, is_flushing or not."""
    assert queue.is_empty
    assert queue.due_at(START, is_flushing=True, is_closing=True) is None


def test_records_wait_for_others(queue: RecordQueue) -> None:
    """A mail is sent that long after its first record, with all records that came since."""
    for second in range(3):
        queue.add(entry(START + second))
    assert due(queue) == START + 5
    batch = queue.take(START + 5)
    assert [e.arrived for e in batch.entries] == [START, START + 1, START + 2]
    queue.delivered()
    assert queue.is_empty
    assert queue.mailed == 3


def test_a_full_mail_is_sent_at_once(queue: RecordQueue) -> None:
    """With as many records as a mail may have it goes at once, and the rest is the next one."""
    changes = [queue.add(entry()) for _ in range(6)]
    assert changes == [True, False, False, True, False, False]  # when the thread has to look again
    assert due(queue) == START
    assert len(queue.take(START).entries) == 4
    queue.delivered()
    assert due(queue) == START + 5
    assert len(queue.take(START + 5).entries) == 2


def test_so_many_mails_in_so_much_time(queue: RecordQueue) -> None:
    """The third mail has to wait until the first one is a minute old."""
    for number in range(2):
        queue.add(entry())
        queue.take(START + number)
        queue.delivered()
    queue.add(entry(START + 2))
    assert due(queue, START + 2) == START + 60
    assert queue.due_at(START + 2, is_flushing=True, is_closing=False) == START + 2
    queue.take(START + 60)
    queue.delivered()
    queue.add(entry(START + 60))
    assert due(queue, START + 60) == START + 65


def test_there_is_room_for_so_many(queue: RecordQueue) -> None:
    """What is in flight takes room as well, because it may come back."""
    for _ in range(10):
        assert queue.has_room
        queue.add(entry())
    assert not queue.has_room
    queue.take(START)
    assert not queue.has_room
    queue.failed(START, certainly=True, may_retry=True)
    assert not queue.has_room
    queue.take(START + FIRST_PAUSE)
    queue.delivered()
    assert queue.has_room


def test_the_next_mail_says_how_many_were_dropped(queue: RecordQueue) -> None:
    """Each dropped record is told in one mail that is accepted, and once."""
    queue.add(entry())
    queue.drop(3)
    assert queue.take(START).dropped == 3
    queue.failed(START, certainly=True, may_retry=False)
    queue.add(entry())
    assert queue.take(START).dropped == 4  # the one of the failed mail too
    queue.drop(1)
    queue.delivered()
    queue.add(entry())
    assert queue.take(START).dropped == 1
    assert queue.dropped == 5


def test_what_failed_goes_again_after_a_pause_that_doubles(queue: RecordQueue) -> None:
    """The same records, a few times, also for who is in a is_flushing; then they are dropped."""
    queue.add(entry())
    first = queue.take(START)
    now, pauses = START, []
    for attempt in range(1, MAX_ATTEMPTS):
        assert queue.failed(now, certainly=True, may_retry=True)
        assert queue.is_pausing
        then = queue.due_at(now, is_flushing=True, is_closing=False)
        assert then is not None
        pauses.append(then - now)
        now = then
        again = queue.take(now)
        assert again.entries == first.entries
        assert again.attempts == attempt + 1
    assert not queue.failed(now, certainly=True, may_retry=True)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == MAX_PAUSE
    assert (queue.is_empty, queue.dropped, queue.mailed) == (True, 1, 0)


def test_what_may_have_been_delivered_never_goes_again(queue: RecordQueue) -> None:
    """It is counted as unknown, and no mail reports it as dropped."""
    queue.add(entry())
    queue.take(START)
    assert not queue.failed(START, certainly=False, may_retry=True)
    assert queue.is_empty
    assert (queue.unknown, queue.dropped) == (1, 0)


def test_at_the_end_no_pause_is_kept(queue: RecordQueue) -> None:
    """The last attempt is now, and what is left behind it is dropped."""
    for _ in range(6):
        queue.add(entry())
    queue.take(START)
    queue.failed(START, certainly=True, may_retry=True)
    assert queue.due_at(START, is_flushing=False, is_closing=True) == START
    assert queue.abandon() == 6
    assert (queue.is_empty, queue.dropped) == (True, 6)


def test_what_is_in_flight_is_not_abandoned(queue: RecordQueue) -> None:
    """The server tells its delivery status."""
    for _ in range(6):
        queue.add(entry())
    queue.take(START)
    assert queue.abandon() == 2
    queue.delivered()
    assert (queue.mailed, queue.dropped) == (4, 2)


def test_the_subject_is_that_of_the_most_severe(queue: RecordQueue) -> None:
    """The first of them; with several records it says how many there are."""
    queue.add(entry(level=30, subject="warning"))
    assert queue.take(START).subject == "warning"
    queue.delivered()
    for level, subject in ((30, "warning"), (40, "error"), (40, "another error")):
        queue.add(entry(level=level, subject=subject))
    assert queue.take(START).subject == "error (3 records)"


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
