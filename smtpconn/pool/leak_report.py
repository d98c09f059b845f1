"""The leak report: which leases are out for too long, and where they were taken.

Only a pool that was asked for it (``leak_after``) pays for it, with a stack per checkout.
"""

from __future__ import annotations

import logging
import time
import traceback
from types import FrameType

from smtpconn.pool.state import Ticket

_log = logging.getLogger("smtpconn.pool")


class Leaks:
    """The leases that are out, with the stacks of their checkouts.

    Args:
        name: the pool's.
        limit: seconds after which a lease is reported; None to watch nothing.
    """

    def __init__(self, name: str, limit: float | None) -> None:
        self._name = name
        self._limit = limit
        self._stacks: dict[Ticket, str] = {}
        self._reported: set[Ticket] = set()

    def watch(self, ticket: Ticket, frame: FrameType) -> None:
        """Note who has a lease: ``frame`` is where it was taken."""
        if self._limit is not None:
            self._stacks[ticket] = "".join(traceback.format_stack(frame))

    def forget(self, ticket: Ticket) -> None:
        """A lease is back: note that, and report those that are out for too long."""
        if self._limit is None:
            return
        self._stacks.pop(ticket, None)
        self._reported.discard(ticket)
        now = time.monotonic()
        for other, stack in self._old(now):
            if other not in self._reported:
                self._reported.add(other)
                age = now - other.since
                _log.warning(
                    "%s: a connection has been out for %.1f s:\n%s", self._name, age, stack
                )

    def old(self, now: float) -> list[tuple[float, str]]:
        """The leases that are out for too long: their age, and the stack of their checkout."""
        return [(now - ticket.since, stack) for ticket, stack in self._old(now)]

    def _old(self, now: float) -> list[tuple[Ticket, str]]:
        if self._limit is None:
            return []
        # A copy, because other threads take and give meanwhile.
        held = list(self._stacks.items())
        return [(ticket, stack) for ticket, stack in held if now - ticket.since > self._limit]
