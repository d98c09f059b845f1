"""Lending connections out and taking them back: the lock, the waiting and the I/O of a pool.

What is decided is in `smtpconn.poolstate`. The order here is always the same: decide under the
lock, act outside it. Nothing slow happens under the lock: no I/O, no waiting, nobody else's code.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import threading
import time
import traceback
from collections.abc import Sequence

from smtpconn import keeper
from smtpconn.config import ServerConfig
from smtpconn.connection import SmtpConnection
from smtpconn.connector import Connector
from smtpconn.deadline import Deadline
from smtpconn.errors import (
    PoolClosedError,
    PoolOverloadedError,
    PoolTimeoutError,
    SmtpError,
)
from smtpconn.events import Action, Hook, Stage, Teller
from smtpconn.forking import forget_in_child
from smtpconn.limits import Limits
from smtpconn.poolstate import Pooled, PoolState, Ticket
from smtpconn.stats import Counters, PoolStats

NOOP_PATIENCE = 5.0
"""Seconds a keep-alive NOOP may take."""

LIFETIME_JITTER = 0.1
"""Part by which lifetimes differ, so that connections made together do not end together."""

_log = logging.getLogger("smtpconn.pool")


class Lending:
    """The inside of a pool.

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
        self._configs = configs
        self._config = configs[0]
        self._limits = limits
        self._begin()
        forget_in_child(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._state = PoolState(self._limits)
        self._counters = Counters()
        self._connector = Connector(self._configs, self._lock, self.teller)
        self._looked_after_at: float | None = None
        self._all_back = threading.Event()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._state.is_closed

    def count(self, **what: float) -> None:
        """Add to counters of `Counters`."""
        with self._lock:
            for name, amount in what.items():
                setattr(self._counters, name, getattr(self._counters, name) + amount)

    def drain(self) -> None:
        """Replace every connection: idle ones now, those in use when they come back."""
        with self._lock:
            self._state.drain()
            drained = self._state.take_expired(time.monotonic())
        for pooled, why in drained:
            self._discard(pooled, why)

    def leaks(self) -> list[tuple[float, str]]:
        """The leases older than ``leak_after``: their age, and the stack of their checkout."""
        with self._lock:
            now = time.monotonic()
            return [(now - t.since, t.stack) for t in self._state.permits if self._is_old(t, now)]

    def _is_old(self, ticket: Ticket, now: float) -> bool:
        limit = self._limits.leak_after
        return limit is not None and bool(ticket.stack) and now - ticket.since > limit

    def stats(self) -> PoolStats:
        """The figures at this moment."""
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
        with self._lock:
            self._state.is_closed = True
            idle, self._state.idle[:] = list(self._state.idle), []
            for ticket in self._state.queue:
                ticket.call()
            if not self._state.permits:
                self._all_back.set()
        for pooled in idle:
            self._discard(pooled, "pool closed")
        keeper.keeper.ring()
        if not self._all_back.wait(timeout):
            _log.warning("%s: closed while %d connections are out", self.name, self.stats().in_use)

    def checkout(self, ticket: Ticket, timeout: float) -> SmtpConnection:
        """Get a connection that is good, standing in line if need be; for `Lease`."""
        begun = time.monotonic()
        with self._lock:
            pooled = self._state.take_now(ticket, begun)
            self._counters.checkouts += pooled is not None
        if pooled is not None and (why := self._why_stale(pooled, begun)) is not None:
            self._discard(pooled, why)
            pooled = None
        if pooled is not None:
            pooled.uses += 1
        else:
            pooled = self._stand_in_line(ticket, Deadline(timeout), begun)
        if self._watches:
            self._watch(ticket, pooled, begun)
        return pooled.connection

    def renew(self, ticket: Ticket, deadline: Deadline) -> SmtpConnection:
        """Replace a connection that turned out to be dead by a new one; for `Lease`."""
        if ticket.pooled is not None:
            self._discard(ticket.pooled, "dead when used")
        with self._lock:
            self._state.again(ticket, time.monotonic(), fresh=True)
        return self._obtain(ticket, deadline).connection

    def check_in(self, ticket: Ticket, *, keep: bool) -> None:
        """Take back whatever a lease has; can be called again; for `Lease`."""
        now = time.monotonic()
        pooled = ticket.pooled
        if pooled is not None:
            if pooled.uses == 0:
                self._connector.keep_tls_session(pooled.connection, pooled.server)
            if (why := self._why_not_kept(pooled, keep, now)) is not None:
                self._discard(pooled, why)
                pooled = None
            else:
                pooled.idle_since = pooled.spoke_at = now
        self._leave(ticket, pooled, now)

    def _stand_in_line(self, ticket: Ticket, deadline: Deadline, begun: float) -> Pooled:
        with self._lock:
            if self._state.is_closed:
                raise self._closed_error()
            if ticket.pooled is not None:
                # It had its turn, and got what was no good.
                self._counters.checkouts -= 1
                self._state.again(ticket, begun)
            elif self._state.is_overloaded(begun):
                self._counters.overloads += 1
                raise PoolOverloadedError(
                    f"{len(self._state.queue)} callers wait already for {self._config}"
                )
            elif not self._state.enter(ticket, begun):
                self._counters.waits += 1
        pooled = self._obtain(ticket, deadline)
        with self._lock:
            self._counters.checkouts += 1
            self._counters.wait_seconds += time.monotonic() - begun
        return pooled

    def _watch(self, ticket: Ticket, pooled: Pooled, begun: float) -> None:
        """What only those who ask for it pay for: the hook, and the stack for the leak report."""
        server = self._configs[pooled.server]
        self.teller.tell(Action.CHECKOUT, Stage.DONE, server=server, since=begun)
        if self._limits.leak_after is not None:
            # Behind _watch, checkout and Lease.__enter__ is who wanted the connection.
            ticket.stack = "".join(traceback.format_stack(sys._getframe(3)))

    def _obtain(self, ticket: Ticket, deadline: Deadline) -> Pooled:
        while True:
            self._await_turn(ticket, deadline)
            pooled = ticket.pooled
            if pooled is None:
                if (made := self._connect(ticket, deadline)) is not None:
                    return made
                continue
            if (why := self._why_stale(pooled, time.monotonic())) is None:
                pooled.uses += 1
                return pooled
            self._discard(pooled, why)
            with self._lock:
                self._state.again(ticket, time.monotonic())

    def _await_turn(self, ticket: Ticket, deadline: Deadline) -> None:
        wake = ticket.wake
        if wake is None or not wake.acquire(timeout=deadline.remaining()):
            self._give_up_unless_served(ticket, deadline)
        if self._state.is_closed:
            raise self._closed_error()

    def _give_up_unless_served(self, ticket: Ticket, deadline: Deadline) -> None:
        with self._lock:
            if self._state.is_served(ticket):
                return  # its turn came in the meantime
            self._counters.timeouts += 1
            error, cause = self._timeout_error(deadline), self._connector.last_error()
        # As text: a record that is kept (by Sentry, by a queue) must not keep this frame alive.
        _log.warning("%s: %s", self.name, str(error))
        try:
            raise error from cause
        finally:
            del error, cause

    def _connect(self, ticket: Ticket, deadline: Deadline) -> Pooled | None:
        """Make a connection; None if one is to be waited for instead."""
        made = self._connector.connect(deadline, lambda error: self._step_back(ticket, error))
        if made is None:
            return None
        connection, server = made
        now = time.monotonic()
        limits = self._limits
        with self._lock:
            ticket.pooled = pooled = Pooled(
                connection,
                born=now,
                lifetime=limits.max_lifetime * random.uniform(1 - LIFETIME_JITTER, 1),
                spoke_at=now,
                server=server,
                generation=self._state.generation,
                most_messages=min(
                    limits.max_messages, connection.capabilities.max_transactions or math.inf
                ),
            )
            self._state.connected(ticket, now)
        return pooled

    def _step_back(self, ticket: Ticket, error: SmtpError) -> bool:
        with self._lock:
            now = time.monotonic()
            waits = self._state.step_back(ticket, now)
            size = self._state.effective_size(now)
        if waits:
            _log.warning("%s: down to %d connections for a while: %s", self.name, size, str(error))
        return waits

    def _why_stale(self, pooled: Pooled, now: float) -> str | None:
        why = self._state.why_not(pooled, now)
        if why is None and pooled.server > 0 and self._connector.has_better(pooled.server, now):
            return "a better server may be back"
        if why is None and not pooled.connection.probe():
            return "dead when idle"
        return why

    def _why_not_kept(self, pooled: Pooled, keep: bool, now: float) -> str | None:
        connection = pooled.connection
        if not keep:
            return "interrupted"
        if not connection.is_quiet:
            return "421" if connection.is_shutting_down else "closed in use"
        pooled.idle_since = 0.0
        return self._state.why_not(pooled, now)

    def _report_leaks(self) -> None:
        with self._lock:
            now = time.monotonic()
            permits = self._state.permits
            old = [t for t in permits if self._is_old(t, now) and not t.is_reported]
            found = [(now - t.since, t.stack) for t in old]
            for ticket in old:
                ticket.is_reported = True
        for age, stack in found:
            _log.warning("%s: a connection has been out for %.1f s:\n%s", self.name, age, stack)

    def _leave(
        self, ticket: Ticket, pooled: Pooled | None, now: float, *, was_used: bool = True
    ) -> None:
        with self._lock:
            if was_used and ticket.since and ticket in self._state.permits:
                self._counters.use_seconds += now - ticket.since
            self._state.leave(ticket, pooled, now, was_used=was_used)
            # What came back just now was looked at just now.
            others = self._state.is_closed or len(self._state.idle) > 1
            expired = self._state.take_expired(now) if others else ()
            if self._state.is_closed and not self._state.permits:
                self._all_back.set()
            due = None if pooled is None else self._when_to_look_after(pooled)
        for old, why in expired:
            self._discard(old, why)
        if due is not None:
            keeper.keeper.watch(self, due)
        if self._limits.leak_after is not None:
            self._report_leaks()

    def _when_to_look_after(self, pooled: Pooled) -> float | None:
        """When the keeper has to look at this connection; None if it comes early enough anyhow."""
        if self._limits.keepalive is None:
            return None
        due = pooled.idle_since + self._limits.max_idle
        noop_due = self._state.noop_due(pooled)
        if noop_due is not None:
            due = min(due, noop_due)
        if self._looked_after_at is not None and self._looked_after_at <= due:
            return None
        self._looked_after_at = due
        return due

    def _discard(self, pooled: Pooled, why: str) -> None:
        with self._lock:
            self._counters.discard(why)
        level = logging.DEBUG if why.startswith("max_") else logging.INFO
        _log.log(level, "%s: connection given up: %s", self.name, why)
        server = self._configs[pooled.server]
        self.teller.tell(Action.DISCARD, Stage.DONE, server=server, reason=why)
        if pooled.connection.is_quiet:
            pooled.connection.take_leave()
        else:
            pooled.connection.close()

    def _closed_error(self) -> PoolClosedError:
        return PoolClosedError(f"the pool {self.name} is closed")

    def _timeout_error(self, deadline: Deadline) -> PoolTimeoutError:
        state = self._state
        oldest = min((t.since for t in state.permits), default=None)
        age = 0.0 if oldest is None else time.monotonic() - oldest
        return PoolTimeoutError(
            f"no connection to {self._config} became free within {deadline.timeout:g} s: "
            f"max_size={self._limits.max_size}, in use={len(state.permits)}, "
            f"idle={len(state.idle)}, connecting={len(state.connecting)}, "
            f"waiting={len(state.queue)}; the oldest lease is {age:.1f} s old"
        )

    def forget(self) -> None:
        """Begin anew in a forked child: the parent's connections are closed here, and only here."""
        state = self._state
        out = [ticket.pooled for ticket in state.permits if ticket.pooled is not None]
        inherited = [pooled.connection for pooled in state.idle + out]
        was_closed = self._state.is_closed
        self._begin()
        self._state.is_closed = was_closed
        for connection in inherited:
            connection.abandon()

    def look_after_idle(self) -> float | None:
        """Close idle connections whose time is over and say NOOP on silent ones; for the keeper.

        Returns when to look again (monotonic clock), None while nothing is idle.
        """
        with self._lock:
            expired = self._state.take_expired(time.monotonic())
        for pooled, why in expired:
            self._discard(pooled, why)
        self._keep_alive(Ticket())
        with self._lock:
            self._looked_after_at = self._state.next_due()
            return self._looked_after_at

    def _keep_alive(self, ticket: Ticket) -> None:
        try:
            while (pooled := self._borrow_for_noop(ticket)) is not None:
                alive = self._say_noop(pooled)
                kept = pooled if alive else None
                self._leave(ticket, kept, time.monotonic(), was_used=False)
        finally:
            self._leave(ticket, None, time.monotonic(), was_used=False)

    def _borrow_for_noop(self, ticket: Ticket) -> Pooled | None:
        with self._lock:
            return self._state.borrow_for_noop(ticket, time.monotonic())

    def _say_noop(self, pooled: Pooled) -> bool:
        pooled.noops += 1
        pooled.spoke_at = begun = time.monotonic()
        server = self._configs[pooled.server]
        try:
            pooled.connection.noop(NOOP_PATIENCE)
        except SmtpError as error:
            _log.debug("%s: keep-alive: %s", self.name, str(error))
            self.teller.tell(Action.NOOP, Stage.FAILED, server=server, since=begun, error=error)
            self._discard(pooled, "keepalive failed")
            return False
        self.count(noops=1)
        self.teller.tell(Action.NOOP, Stage.DONE, server=server, since=begun)
        return True
