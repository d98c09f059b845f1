"""The rate limiter: reserved slots with a given time, and once with threads and a clock."""

from __future__ import annotations

import threading
import time

import pytest

from smtpconn import Phase, PoolTimeoutError, ValidationError
from smtpconn.net.deadline import Deadline
from smtpconn.pool.rate_limit import RateLimiter

NOW = 1000.0
FOREVER = 1e9


@pytest.mark.parametrize(
    ("burst", "waits"),
    [
        (1, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (2, [0.0, 0.0, 0.25, 0.5, 0.75]),
        (4, [0.0, 0.0, 0.0, 0.0, 0.25]),
    ],
)
def test_messages_at_one_moment(burst: int, waits: list[float]) -> None:
    """Of messages that come at once, a burst goes and the others wait one interval each."""
    limiter = RateLimiter(4, burst)
    assert [limiter.reserve(NOW, FOREVER) for _ in waits] == pytest.approx(waits)


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize("silence", [1.0, 60.0, 1e6])
def test_silence_earns_no_more_than_a_burst(burst: int, silence: float) -> None:
    """However long nothing was sent, only a burst goes at once."""
    limiter = RateLimiter(4, burst)
    limiter.reserve(NOW, FOREVER)
    later = NOW + silence
    waits = [limiter.reserve(later, FOREVER) for _ in range(burst + 2)]
    assert waits == pytest.approx([0.0] * burst + [0.25, 0.5])


def test_a_slow_sender_never_waits() -> None:
    """Messages that come no faster than the rate go at once."""
    limiter = RateLimiter(4)
    assert [limiter.reserve(NOW + 0.25 * n, FOREVER) for n in range(50)] == [0.0] * 50


def test_a_little_silence_earns_a_little() -> None:
    """What was not used in part of an interval is taken off the next wait."""
    limiter = RateLimiter(4)
    limiter.reserve(NOW, FOREVER)
    assert limiter.reserve(NOW + 0.1, FOREVER) == pytest.approx(0.15)
    assert limiter.reserve(NOW + 0.5, FOREVER) == pytest.approx(0.0)


def test_who_cannot_wait_reserves_nothing() -> None:
    """A message whose deadline is too early fails at once, and delays no other."""
    limiter = RateLimiter(4)
    assert limiter.reserve(NOW, 0.0) == 0.0
    assert [limiter.reserve(NOW, 0.2) for _ in range(5)] == [None] * 5
    assert limiter.reserve(NOW, 0.3) == pytest.approx(0.25)
    assert limiter.reserve(NOW, 0.3) is None
    assert limiter.reserve(NOW, 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("rate", "burst"), [(0.5, 1), (3, 1), (7, 5), (1000, 1)], ids=lambda v: f"{v:g}"
)
def test_never_more_than_the_rate_in_any_window(rate: float, burst: int) -> None:
    """In any window of time there go no more than a burst and the rate allows."""
    limiter, moments, now = RateLimiter(rate, burst), list[float](), NOW
    for n in range(300):
        now += (n * 7919 % 13) / (8 * rate)  # callers that come now thick and now thin
        wait = limiter.reserve(now, FOREVER)
        assert wait is not None
        moments.append(now + wait)
    assert moments == sorted(moments)
    for first in range(0, 300, 7):
        for last in range(first, 300, 5):
            allowed = burst + rate * (moments[last] - moments[first])
            assert last - first + 1 <= allowed + 1e-6


def test_threads_go_no_faster_than_the_rate() -> None:
    """Eight threads let 60 messages go no faster than the rate, from the first one on."""
    rate, moments, barrier = 200.0, list[float](), threading.Barrier(8)
    limiter = RateLimiter(rate)

    def work() -> None:
        barrier.wait(10)
        for _ in range(8 if threading.current_thread() in threads[:4] else 7):
            limiter.wait(Deadline(10))
            moments.append(time.monotonic())

    threads = [threading.Thread(target=work) for _ in range(8)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    moments.sort()
    assert len(moments) == 60
    # Late is allowed, early is not: the n-th may go (n - 1) intervals after the first reservation.
    early = [n for n, moment in enumerate(moments) if moment < begun + n / rate - 0.0005]
    assert early == []


def test_a_wait_beyond_the_deadline_fails_at_once() -> None:
    """A message that the rate delays beyond its deadline fails at once, with the reason."""
    limiter = RateLimiter(0.01)
    limiter.wait(Deadline(1))
    begun = time.monotonic()
    with pytest.raises(PoolTimeoutError, match=r"max_rate .* within 5 s") as caught:
        limiter.wait(Deadline(5))
    assert time.monotonic() - begun < 2
    assert caught.value.phase is Phase.POOL
    assert caught.value.is_transient
    assert not caught.value.may_have_been_delivered


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan"), "10", None])
def test_a_rate_that_cannot_be(rate: float) -> None:
    """A rate is a number above 0."""
    with pytest.raises(ValidationError, match="max_rate"):
        RateLimiter(rate)


@pytest.mark.parametrize("burst", [0, -1, 1.5, "2", None])
def test_a_burst_that_cannot_be(burst: int) -> None:
    """A burst is a whole number from 1 on."""
    with pytest.raises(ValidationError, match="burst"):
        RateLimiter(1, burst)
