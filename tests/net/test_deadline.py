"""Deadlines: one moment on the monotonic clock, asked again before each wait."""

from __future__ import annotations

import decimal
import math
import threading
from typing import Any

import pytest

from smtpconn import SmtpConnection, TlsMode
from smtpconn.model.errors import Phase, SmtpTimeoutError, ValidationError
from smtpconn.net import deadline as deadline_module
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.testing import SmtpServer
from tests.support.parametrize_ids import stable_repr


class Clock:
    """A clock that stands still unless it is moved; takes the place of the module time."""

    def __init__(self, now: float) -> None:
        self.now = now

    def monotonic(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that deadlines look at."""
    clock = Clock(1000.0)
    monkeypatch.setattr(deadline_module, "time", clock)
    return clock


def test_it_runs_down(clock: Clock) -> None:
    """What is left gets less as time passes, and is never less than nothing."""
    deadline = Deadline(10)
    assert deadline.timeout == 10
    assert deadline.remaining() == 10.0
    clock.now += 7.5
    assert deadline.remaining() == 2.5
    assert deadline.check(Phase.DATA) == 2.5
    clock.now += 100
    assert deadline.remaining() == 0.0


def test_asking_does_not_stretch_it(clock: Clock) -> None:
    """A server that drips a byte a second is not given more time for each."""
    deadline = Deadline(3)
    for left in (3.0, 2.0, 1.0):
        assert deadline.check(Phase.EHLO) == left
        clock.now += 1
    with pytest.raises(SmtpTimeoutError):
        deadline.check(Phase.EHLO)


@pytest.mark.parametrize("late", [0.0, 0.001, 1e9])
def test_when_it_has_passed(clock: Clock, late: float) -> None:
    """At the very moment and ever after, checking is a timeout that says where and how long."""
    deadline = Deadline(2.5)
    clock.now += 2.5 + late
    with pytest.raises(SmtpTimeoutError, match=r"2\.5 seconds") as caught:
        deadline.check(Phase.RCPT)
    assert caught.value.phase is Phase.RCPT
    assert "rcpt" in str(caught.value)
    assert caught.value.is_transient
    assert not caught.value.may_have_been_delivered


def test_what_is_left_is_never_nothing(clock: Clock) -> None:
    """A check gives more than 0, because 0 means "do not wait" to a socket."""
    deadline = Deadline(1)
    clock.now = math.nextafter(1001.0, 0)
    assert deadline.check(Phase.DATA) > 0


def test_the_error_can_be_had_without_waiting(clock: Clock) -> None:
    """Who noticed the timeout otherwise gets the same error."""
    error = Deadline(60).error(Phase.TLS)
    assert isinstance(error, TimeoutError)
    assert str(error) == "the timeout of 60 seconds has passed during tls"
    assert error.phase is Phase.TLS


@pytest.mark.parametrize("timeout", [1, 0.5, 1e-9, 60, 86400.0, 10**6])
def test_good_timeouts(timeout: float) -> None:
    """A timeout is any number above 0 that can be waited for."""
    deadline = Deadline(timeout)
    assert deadline.timeout == timeout
    assert 0 <= deadline.remaining() <= timeout


@pytest.mark.parametrize(
    "timeout",
    [
        *(0, 0.0, -0.0, -1, -0.001, math.inf, -math.inf, math.nan),
        *(None, "1", "", b"1", (1,), 1j, decimal.Decimal(1), object()),
    ],
    ids=stable_repr,
)
def test_bad_timeouts(timeout: Any) -> None:
    """No timeout, an endless one and what is no number are refused."""
    with pytest.raises(ValidationError, match="timeout"):
        Deadline(timeout)


@pytest.mark.parametrize(
    "timeout",
    [1e300, 10**400, threading.TIMEOUT_MAX * 2],
    ids=["a huge float", "a huge int", "twice what a lock takes"],
)
def test_timeouts_nothing_can_wait_for(timeout: float) -> None:
    """A timeout that no lock and no socket takes is refused here, not with an OverflowError."""
    with pytest.raises(ValidationError, match="timeout"):
        Deadline(timeout)


@pytest.mark.parametrize("timeout", [86400, 3e6, 1e9])
def test_timeouts_of_years(timeout: float) -> None:
    """Who does not want a timeout may give a very long one; every wait in the house takes it."""
    with (
        SmtpServer() as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, timeout) as connection,
    ):
        connection.noop()


# Handed down


def test_it_is_handed_down_as_it_is(clock: Clock) -> None:
    """Who is given a deadline uses that one; who is given seconds, or nothing, makes one."""
    deadline = Deadline(10)
    clock.now += 4
    assert Deadline.of(deadline, 60) is deadline
    assert Deadline.of(3, 60).remaining() == 3.0
    assert Deadline.of(None, 60).remaining() == 60.0
    with pytest.raises(ValidationError):
        Deadline.of(0, 60)


def test_a_part_of_an_operation_may_have_less(clock: Clock) -> None:
    """Whichever ends first holds, and its figure is the one that is told."""
    deadline = Deadline(10)
    assert deadline.at_most(10) is deadline
    assert deadline.at_most(60) is deadline
    earlier = deadline.at_most(4)
    assert (earlier.timeout, earlier.remaining()) == (4, 4.0)
    clock.now += 4
    assert "timeout of 4 seconds has" in str(earlier.error(Phase.POOL))
    assert deadline.at_most(6) is deadline
    assert deadline.remaining() == 6.0


def test_attempts_share_what_is_left(clock: Clock) -> None:
    """The last attempt has all that is left; an error tells the share and the whole."""
    deadline = Deadline(10)
    clock.now += 1
    assert deadline.share(1) is deadline
    first = deadline.share(3)
    assert first.remaining() == 3.0
    clock.now += 1
    second = deadline.share(2)
    assert second.remaining() == 4.0
    clock.now += 8
    with pytest.raises(SmtpTimeoutError) as caught:
        second.check(Phase.GREETING, "mx.example.test:25")
    assert str(caught.value) == (
        "a share of 4 seconds of the timeout of 10 seconds has passed during greeting with "
        "mx.example.test:25"
    )


@pytest.mark.parametrize(
    ("timeout", "text"),
    [
        *((0.5, "0.5"), (60, "60"), (60.0, "60"), (0.1 + 0.2, "0.3"), (1e-9, "1e-09")),
        *((86400 * 365, "31536000"), (1.234567891, "1.234567891")),
    ],
)
def test_the_figure_is_the_callers_own(timeout: float, text: str) -> None:
    """An error shows the timeout as it was given, to the last digit, and who it was about."""
    error = Deadline(timeout).error(Phase.DATA, "mx.example.test:25")
    assert str(error) == (
        f"the timeout of {text} seconds has passed during data with mx.example.test:25"
    )


# Many messages in one call


def test_each_message_has_its_own(clock: Clock) -> None:
    """From its first byte to its final reply, however many are in progress."""
    deadline = StreamDeadline(10)
    for _ in range(3):
        deadline.begin_messages()
        clock.now += 3
    assert deadline.remaining() == 1.0  # of the first, which is nine seconds old
    deadline.end_messages(1)
    assert deadline.remaining() == 4.0
    deadline.end_messages(1)
    assert deadline.remaining() == 7.0
    deadline.end_messages(1)
    assert deadline.remaining() == 10.0  # for the next to begin
    clock.now += 9
    deadline.begin_messages()
    assert deadline.remaining() == 10.0


def test_messages_that_begin_together(clock: Clock) -> None:
    """Each has its own time; only the first must also meet the deadline of what went before."""
    first = Deadline(4)
    deadline = StreamDeadline(10, first)
    deadline.begin_messages(3)
    assert deadline.remaining() == 4.0
    deadline.end_messages(1)
    assert deadline.remaining() == 10.0
    clock.now += 1
    deadline.begin_messages(2)
    deadline.end_messages(2)
    assert deadline.remaining() == 10.0
    deadline.end_messages(2)


def test_the_callers_own_time_is_not_counted(clock: Clock) -> None:
    """Neither that of who makes the messages, nor of who takes the results."""
    deadline = StreamDeadline(10)
    deadline.begin_messages()
    clock.now += 4
    for _ in range(2):
        deadline.pause()
        clock.now += 100
        deadline.resume()
    assert deadline.remaining() == 6.0
    deadline.begin_messages()
    deadline.end_messages(1)
    assert deadline.remaining() == 10.0
    clock.now += 11
    with pytest.raises(SmtpTimeoutError, match="10 seconds"):
        deadline.check(Phase.CONTENT)
