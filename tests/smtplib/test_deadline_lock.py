"""`DeadlineLock`: a lock that is waited for until a deadline."""

from __future__ import annotations

import threading
import time

import pytest

from smtpconn.net.deadline import Deadline
from smtpconn.smtplib.deadline_lock import DeadlineLock, Hold
from tests.support.waiting import wait_until


class Interrupted(BaseException):
    """What a signal handler raises in a thread that waits for the lock."""


class InterruptedDeadline(Deadline):
    """The deadline of that thread, which is interrupted when it was woken up."""

    is_begun = False

    def remaining(self) -> float:
        """The seconds left; asked a second time, be interrupted."""
        if self.is_begun:
            raise Interrupted
        self.is_begun = True
        return super().remaining()


@pytest.mark.parametrize("interrupted_first", [True, False])
@pytest.mark.parametrize("others", [1, 3])
def test_a_caller_interrupted_when_it_is_woken_up_wakes_up_another(
    interrupted_first: bool, others: int
) -> None:
    """The wake-up is not lost with it, or they would wait until their time is over."""

    def take(deadline: Deadline) -> None:
        try:
            with Hold(lock, deadline):
                served.append(None)
        except Interrupted:
            pass

    for _ in range(20):
        lock, served = DeadlineLock(), list[None]()
        deadlines: list[Deadline] = [Deadline(5) for _ in range(others)]
        deadlines.insert(0 if interrupted_first else others, InterruptedDeadline(5))
        threads = [threading.Thread(target=take, args=(each,)) for each in deadlines]
        with Hold(lock, Deadline(5)):
            for number, thread in enumerate(threads, 1):
                thread.start()
                wait_until(lambda: len(lock._freed._sleeping) == number)  # noqa: B023
        begun = time.monotonic()
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun < 3
        assert len(served) == others
