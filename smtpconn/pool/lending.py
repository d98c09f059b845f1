"""Lending connections out and taking them back, and the waiting in between.

What is decided is in `smtpconn.pool.state`; the connections themselves are `smtpconn.pool.stock`'s.
Here too everything is decided under the lock and done outside it.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import time

from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import PoolClosedError, PoolOverloadedError, PoolTimeoutError, SmtpError
from smtpconn.net.deadline import Deadline
from smtpconn.pool import maintenance
from smtpconn.pool.events import SILENCE, Action, Telling
from smtpconn.pool.state import Pooled, Ticket
from smtpconn.pool.stock import Stock

LIFETIME_JITTER = 0.1
"""Part by which lifetimes differ, so that connections made together do not end together."""

_log = logging.getLogger("smtpconn.pool")


class Lending(Stock):
    """The inside of a pool; made as `smtpconn.pool.stock.Stock`."""

    def checkout(self, ticket: Ticket, timeout: float | Deadline) -> SmtpConnection:
        """Get a connection that is good, standing in line if need be; for `Lease`."""
        begun = time.monotonic()
        telling = SILENCE
        if self._watches:
            telling = self.teller.about(Action.CHECKOUT)
            telling.begin()
        with self._lock:
            pooled = self._state.take_now(ticket, begun)
            if pooled is not None:
                self._counters.checkouts += 1
        made, now = None, begun
        if pooled is not None and pooled.server:
            timeout = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
            made = self._move_back(ticket, pooled, timeout)
            now = time.monotonic()
        if made is not None:
            pooled = made
        elif pooled is not None and self._is_good(pooled, now):
            pooled.uses += 1
        else:
            deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
            pooled = self._stand_in_line(ticket, deadline, begun, telling)
        if self._watches:
            self._watch(ticket, pooled, telling)
        return pooled.connection

    def renew(self, ticket: Ticket, deadline: Deadline) -> SmtpConnection:
        """Replace a connection that turned out to be dead by a new one; for `Lease`."""
        if ticket.pooled is not None:
            self._discard(ticket.pooled, "dead when used")
        with self._lock:
            self._state.again(ticket, time.monotonic(), fresh=True)
        pooled = self._obtain(ticket, deadline)
        if (held := self._held.get(ticket)) is not None:
            held.at(self._configs[pooled.server])
        return pooled.connection

    def check_in(self, ticket: Ticket, keep: bool) -> None:
        """Take back whatever a lease has; can be called again; for `Lease`."""
        now = time.monotonic()
        pooled = ticket.pooled
        is_back, due = False, None
        if pooled is not None and keep and pooled.uses and pooled.connection.is_idle:
            with self._lock:
                if is_back := self._state.give_now(ticket, pooled, now):
                    self._counters.use_seconds += now - ticket.since
                    due = self._when_to_look_after(pooled) if self._keeps_alive else None
        if not is_back:
            self._check_in_otherwise(ticket, keep, now)
        elif due is not None:
            maintenance.keeper.watch(self, due)
        if self._watches:
            self._is_back(ticket)
        if self._orphans:
            self._adopt_orphans()

    def _check_in_otherwise(self, ticket: Ticket, keep: bool, now: float) -> None:
        if (pooled := ticket.pooled) is None:
            return self._leave(ticket, now)
        if not pooled.uses:
            self._connector.keep_tls_session(pooled.connection, pooled.server)
        expired = due = None
        if (why := self._why_unusable(pooled, keep)) is None:
            with self._lock:
                if (why := self._state.why_not_keep(pooled, now)) is None:
                    self._counters.use_seconds += now - ticket.since
                    self._state.leave(ticket, pooled, now)
                    expired = self._state.take_oldest_expired(now)
                    due = self._when_to_look_after(pooled) if self._keeps_alive else None
        if why is not None:
            # Before the permit is free, so that there is never one connection too many.
            self._discard(pooled, why)
            self.count(use_seconds=now - ticket.since)
            self._leave(ticket, now)
        if expired is not None:
            self._discard(*expired)
        if due is not None:
            maintenance.keeper.watch(self, due)
        return None

    def orphan(self, ticket: Ticket) -> None:
        """Take back what a lease has that was collected as garbage; for `Lease`.

        A destructor may run anywhere: inside one of our own steps, whose half-made changes it must
        not meet, or under a lock of the application's, which a hook might want. So the permit is
        returned at once if that can be, and everything else is done by the next caller.
        """
        pooled = ticket.pooled
        self._orphans.append((ticket, pooled))
        if pooled is not None:
            pooled.connection.close()
        # Semi-public: `threading.Condition` asks the same of any lock it is given.
        if not self._lock._is_owned():  # type: ignore[attr-defined]
            self._leave(ticket, time.monotonic())

    def _stand_in_line(
        self, ticket: Ticket, deadline: Deadline, begun: float, telling: Telling
    ) -> Pooled:
        # An idle connection that turned out to be dead: a counter never takes anything back.
        is_counted = ticket.pooled is not None
        try:
            self._line_up(ticket, begun)
            pooled = self._obtain(ticket, deadline)
        except BaseException as error:
            telling.failed(error)
            raise
        with self._lock:
            self._counters.checkouts += not is_counted
            self._counters.wait_seconds += time.monotonic() - begun
        return pooled

    def _line_up(self, ticket: Ticket, now: float) -> None:
        with self._lock:
            if self._state.is_closed:
                raise self._closed_error()
            if ticket.pooled is not None:
                # It had its turn, and got what was no good.
                self._state.again(ticket, now)
            elif self._state.is_overloaded(now):
                self._counters.overloads += 1
                raise PoolOverloadedError(
                    f"{len(self._state.queue)} callers wait already for {self._config}"
                )
            elif not self._state.enter(ticket, now):
                self._counters.waits += 1

    def _watch(self, ticket: Ticket, pooled: Pooled, telling: Telling) -> None:
        """What only those who ask for it pay for: the hook, and the stack for the leak report."""
        server = self._configs[pooled.server]
        telling.at(server)
        telling.done()
        self._held[ticket] = self.teller.holding(server)
        # Behind _watch, checkout and Lease.__enter__ is who wanted the connection.
        self._leaks.watch(ticket, sys._getframe(3))

    def _obtain(self, ticket: Ticket, deadline: Deadline) -> Pooled:
        while True:
            self._await_turn(ticket, deadline)
            pooled = ticket.pooled
            if pooled is None:
                if (made := self._connect(ticket, deadline)) is not None:
                    return made
            elif (made := self._move_back(ticket, pooled, deadline)) is not None:
                return made
            elif self._is_good(pooled, time.monotonic()):
                pooled.uses += 1
                return pooled
            else:
                with self._lock:
                    self._state.again(ticket, time.monotonic())

    def _move_back(self, ticket: Ticket, pooled: Pooled, deadline: Deadline) -> Pooled | None:
        """Replace an idle connection by one to a better server, if one is back; None if none is.

        One caller at a time asks; the others go on with what is idle.
        """
        made = self._connector.connect_to_better(pooled.server, deadline) if pooled.server else None
        if made is None:
            return None
        ticket.pooled = better = self._pooled(*made)
        self._discard(pooled, "a better server may be back")
        return better

    def _is_good(self, pooled: Pooled, now: float) -> bool:
        """Whether an idle connection may be handed out; it is given up if not."""
        if now >= pooled.good_until:
            why = self._state.why_expired(pooled, now) or "max_idle"
        elif pooled.server and self._connector.has_better(pooled.server):
            why = "a better server may be back"
        elif pooled.connection.probe():
            return True
        else:
            why = "dead when idle"
        self._discard(pooled, why)
        return False

    def _await_turn(self, ticket: Ticket, deadline: Deadline) -> None:
        if self._orphans:
            self._adopt_orphans()
        has_turn = False
        while not has_turn:
            with self._lock:
                now = time.monotonic()
                self._state.settle(now)
                # Then there is room although nobody has given anything back.
                more_room_in = self._state.more_room_in(now)
            left = deadline.remaining()
            has_turn = ticket.wait(min(left, more_room_in))
            if not has_turn and left <= more_room_in:
                self._give_up_unless_served(ticket, deadline)
                break
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
        made = self._connector.connect(
            deadline, lambda error, until: self._step_back(ticket, error, until)
        )
        if made is None:
            return None
        with self._lock:
            ticket.pooled = pooled = self._pooled(*made)
            self._state.connected(ticket, pooled.born)
        return pooled

    def _pooled(self, connection: SmtpConnection, server: int) -> Pooled:
        now = time.monotonic()
        limits = self._limits
        return Pooled(
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

    def _step_back(self, ticket: Ticket, error: SmtpError | None, until: float) -> bool:
        with self._lock:
            now = time.monotonic()
            waits = self._state.step_back(ticket, now, until)
            size = self._state.effective_size(now)
        if waits and error is not None and now < until:
            _log.warning("%s: down to %d connections for a while: %s", self.name, size, str(error))
        return waits

    def _why_unusable(self, pooled: Pooled, keep: bool) -> str | None:
        connection = pooled.connection
        if not keep:
            return "interrupted"
        if connection.is_idle:
            return None
        return "421" if connection.is_shutting_down else "closed in use"

    def _closed_error(self) -> PoolClosedError:
        return PoolClosedError(f"the pool {self.name} is closed")

    def _timeout_error(self, deadline: Deadline) -> PoolTimeoutError:
        state = self._state
        oldest = min((t.since for t in state.permits), default=None)
        age = 0.0 if oldest is None else time.monotonic() - oldest
        return PoolTimeoutError(
            f"no connection to {self._config} became free within {deadline} s: "
            f"max_size={self._limits.max_size}, in use={len(state.permits)}, "
            f"idle={len(state.idle)}, connecting={len(state.connecting)}, "
            f"waiting={len(state.queue)}; the oldest lease is {age:.1f} s old"
        )
