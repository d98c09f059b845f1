"""The stock of a pool: its connections, seen without those who borrow them.

Here are the lock, the figures, giving connections up, keeping idle ones alive, and what draining,
closing and forking do to all of them. What is decided is in `smtpconn.pool.state`. The order is
always the same: decide under the lock, act outside it. Nothing slow happens under the lock: no I/O,
no waiting, nobody else's code. Who lends them is `smtpconn.pool.lending`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import SmtpError
from smtpconn.net.forking import forget_in_child, reset_if_forked
from smtpconn.pool import maintenance
from smtpconn.pool.connector import Connector
from smtpconn.pool.events import Action, Hook, Teller, Telling
from smtpconn.pool.leak_report import Leaks
from smtpconn.pool.options import Limits
from smtpconn.pool.state import Pooled, PoolState, Ticket
from smtpconn.pool.stats import Counters, PoolStats

NOOP_TIMEOUT = 5.0
"""Seconds a keep-alive NOOP may take."""

_log = logging.getLogger("smtpconn.pool")


class Stock:
    """The inside of a pool, but for lending.

    Args:
        configs: the servers, the preferred one first.
        limits: the pool's.
        name: the pool's, for logs and messages.
        hook: who is told of events.
    """

    def __init__(
        self, configs: Sequence[ServerConfig], limits: Limits, name: str, hook: Hook | None
    ) -> None:
        self.name = name
        self.teller = Teller(name, hook)
        self._watches = hook is not None or limits.leak_after is not None
        self._keeps_alive = limits.keepalive is not None
        self._configs = configs
        self._config = configs[0]
        self._limits = limits
        self._begin()
        forget_in_child(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._state = PoolState(self._limits)
        self._counters = Counters()
        self._connector = Connector(
            self._configs, self._lock, self.teller, self._state.connections_to
        )
        self._looked_after_at: float | None = None
        self._all_back = threading.Event()
        self._leaks = Leaks(self.name, self._limits.leak_after)
        self._held: dict[Ticket, Telling] = {}
        self._orphans: deque[tuple[Ticket, Pooled | None]] = deque()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._state.is_closed

    def count(self, **what: float) -> None:
        """Add to counters of `Counters`."""
        if self._orphans:
            self._adopt_orphans()
        with self._lock:
            for name, amount in what.items():
                setattr(self._counters, name, getattr(self._counters, name) + amount)

    def drain(self) -> None:
        """Replace every connection: idle ones now, those in use when they come back."""
        reset_if_forked()
        with self._lock:
            self._state.drain()
            drained = self._state.take_expired(time.monotonic())
        for pooled, why in drained:
            self._discard(pooled, why)

    def leaks(self) -> list[tuple[float, str]]:
        """The leases older than ``leak_after``: their age, and the stack of their checkout."""
        reset_if_forked()
        return self._leaks.old(time.monotonic())

    def stats(self) -> PoolStats:
        """The figures at this moment."""
        reset_if_forked()
        if self._orphans:
            self._adopt_orphans()
        with self._lock:
            state, counters = self._state, self._counters
            return PoolStats(
                name=self.name,
                max_size=self._limits.max_size,
                in_use=len(state.permits),
                idle=len(state.idle),
                connecting=len(state.connecting),
                waiting=len(state.queue),
                checkouts=counters.checkouts,
                waits=counters.waits,
                timeouts=counters.timeouts,
                overloads=counters.overloads,
                connects=self._connector.connects,
                connect_errors=self._connector.errors,
                retries=counters.retries,
                noops=counters.noops,
                messages=counters.messages,
                failed_messages=counters.failed_messages,
                unknown_messages=counters.unknown_messages,
                accepted_recipients=counters.accepted_recipients,
                rejected_recipients=counters.rejected_recipients,
                wait_seconds=counters.wait_seconds,
                use_seconds=counters.use_seconds,
                connect_seconds=self._connector.seconds,
                discards=dict(counters.discards),
                effective_size=state.effective_size(time.monotonic()),
                servers=self._connector.stats(),
            )

    def close(self, timeout: float) -> None:
        """Refuse new callers, wake waiting ones, say QUIT on idle connections, wait for leases."""
        reset_if_forked()
        with self._lock:
            self._state.is_closed = True
            idle = list(self._state.idle)
            self._state.idle.clear()
            for ticket in self._state.queue:
                ticket.call()
            if not self._state.permits:
                self._all_back.set()
        for pooled in idle:
            self._discard(pooled, "pool closed")
        maintenance.keeper.ring()
        if not self._all_back.wait(timeout):
            _log.warning("%s: closed while %d connections are out", self.name, self.stats().in_use)

    def forget(self) -> None:
        """Begin anew in a forked child: the parent's connections are closed here, and only here."""
        state = self._state
        out = [ticket.pooled for ticket in state.permits if ticket.pooled is not None]
        inherited = [pooled.connection for pooled in [*state.idle, *out]]
        was_closed = self._state.is_closed
        self._begin()
        self._state.is_closed = was_closed
        for connection in inherited:
            connection.close_after_fork()

    def look_after_idle(self) -> float | None:
        """Close idle connections whose time is over and say NOOP on silent ones; for the
        maintenance.

        Returns when to look again (monotonic clock), None while nothing is idle.
        """
        with self._lock:
            expired = self._state.take_expired(time.monotonic())
        for pooled, why in expired:
            self._discard(pooled, why)
        self._keep_alive(Ticket())
        if self._orphans:
            self._adopt_orphans()
        with self._lock:
            self._looked_after_at = self._state.next_due()
            return self._looked_after_at

    def _keep_alive(self, ticket: Ticket) -> None:
        try:
            while (pooled := self._borrow_for_noop(ticket)) is not None:
                if self._say_noop(pooled):
                    self._put_back(ticket, pooled)
                else:
                    self._leave(ticket, time.monotonic())
        finally:
            self._leave(ticket, time.monotonic())

    def _put_back(self, ticket: Ticket, pooled: Pooled) -> None:
        """Give back what was only kept alive, as idle as it was."""
        with self._lock:
            now = time.monotonic()
            why = "pool closed" if self._state.is_closed else self._state.why_expired(pooled, now)
            if why is None:
                self._state.leave(ticket, pooled, now, was_used=False)
        if why is not None:
            self._discard(pooled, why)
            self._leave(ticket, now)

    def _borrow_for_noop(self, ticket: Ticket) -> Pooled | None:
        with self._lock:
            return self._state.borrow_for_noop(ticket, time.monotonic())

    def _say_noop(self, pooled: Pooled) -> bool:
        pooled.noops += 1
        pooled.spoke_at = time.monotonic()
        telling = self.teller.about(Action.NOOP, self._configs[pooled.server])
        telling.begin()
        try:
            pooled.connection.noop(NOOP_TIMEOUT)
        except SmtpError as error:
            _log.debug("%s: keep-alive: %s", self.name, str(error))
            telling.failed(error)
            self._discard(pooled, "keepalive failed")
            return False
        self.count(noops=1)
        telling.done()
        return True

    def _when_to_look_after(self, pooled: Pooled) -> float | None:
        """When the keeper has to look at this connection; None if it comes early enough anyhow."""
        due = pooled.good_until
        noop_due = self._state.noop_due(pooled)
        if noop_due is not None:
            due = min(due, noop_due)
        # One that is past was missed, so that the keeper has to be told again.
        looks_at = self._looked_after_at
        if looks_at is not None and pooled.idle_since < looks_at <= due:
            return None
        self._looked_after_at = due
        return due

    def _discard(self, pooled: Pooled, why: str) -> None:
        with self._lock:
            self._counters.discard(why)
        level = logging.DEBUG if why.startswith("max_") else logging.INFO
        _log.log(level, "%s: connection given up: %s", self.name, why)
        self.teller.discarded(self._configs[pooled.server], why)
        if pooled.connection.is_idle:
            pooled.connection.quit_nowait()
        else:
            pooled.connection.close()

    def _leave(self, ticket: Ticket, now: float) -> None:
        """Give back a place in the queue or a permit, without a connection."""
        with self._lock:
            self._state.leave(ticket, None, now)
            if self._state.is_closed and not self._state.permits:
                self._all_back.set()

    def _adopt_orphans(self) -> None:
        """Finish what destructors of leases had to leave undone."""
        while self._orphans:
            ticket, pooled = self._orphans.popleft()
            self._leave(ticket, time.monotonic())
            if pooled is not None:
                self._discard(pooled, "lost by its holder")
            self._is_back(ticket)

    def _is_back(self, ticket: Ticket) -> None:
        """What only those who ask for it pay for: the leak report and the hook hear of it."""
        self._leaks.forget(ticket)
        if (held := self._held.pop(ticket, None)) is not None:
            held.done()
