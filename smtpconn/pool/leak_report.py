"""The leak report: leases held for too long, and the stacks of their checkouts.

With ``leak_after`` a pool records a stack for each checkout; without it this costs nothing.
"""

from __future__ import annotations

import logging
import time
import traceback
from types import FrameType

from smtpconn.pool.pool_log import log
from smtpconn.pool.state import Waiter


class LeakReport:
    """The current leases, with the stacks of their checkouts.

    Args:
        name: the name of the pool.
        limit: seconds after which a lease is reported; None for no report.
    """

    def __init__(self, name: str, limit: float | None) -> None:
        self._name = name
        self._limit = limit
        self._stacks: dict[Waiter, str] = {}
        self._reported: set[Waiter] = set()

    def watch(self, waiter: Waiter, frame: FrameType) -> None:
        """Record a lease, and the stack of the ``frame`` that checked it out."""
        if self._limit is not None:
            self._stacks[waiter] = "".join(traceback.format_stack(frame))

    def discard(self, waiter: Waiter) -> None:
        """Remove a returned lease, and report those that are held for too long."""
        if self._limit is None:
            return
        self._stacks.pop(waiter, None)
        self._reported.discard(waiter)
        now = time.monotonic()
        for other, stack in self._old(now):
            if other not in self._reported:
                self._reported.add(other)
                age = now - other.since
                text = "%s: a connection has been in use for %.1f s:\n%s"
                log(logging.WARNING, text, self._name, age, stack)

    def old(self, now: float) -> list[tuple[float, str]]:
        """The leases held for too long: age in seconds, and stack of the checkout."""
        return [(now - waiter.since, stack) for waiter, stack in self._old(now)]

    def _old(self, now: float) -> list[tuple[Waiter, str]]:
        if self._limit is None:
            return []
        # A copy, because other threads change the dict.
        held = list(self._stacks.items())
        return [(waiter, stack) for waiter, stack in held if now - waiter.since > self._limit]
