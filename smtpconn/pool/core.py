"""`PoolCore`: a pool's connections, their leases, and the callers that wait.

The decisions are in `smtpconn.pool.state`; the lock and the waiting are here. Decisions are made
under the lock and carried out outside it: under the lock there is no I/O, no waiting, no logging
and no call of other code (hooks, iterables, token functions).

A signal handler or a destructor may call a pool while its own thread is inside a decision, which
cannot continue before that call returns. The lock is re-entrant, and `PoolCore._is_interrupting`
recognises such a call. It does not wait for a connection: it gets an idle one or makes one. If the
pool is full, it is refused with `PoolOverloadedError`, and nothing has changed. A lease or
connection that it returns is free at once, but callers in the queue are served only when the
interrupted call has released the lock. See rule 4 of `smtpconn.pool.state`.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence

from smtpconn.client.config import ServerConfig
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import PoolClosedError, PoolOverloadedError, PoolTimeoutError, SmtpError
from smtpconn.model.results import LmtpSendResult, SendResult
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_if_forked, reset_in_child
from smtpconn.pool import maintenance
from smtpconn.pool.connector import Connector
from smtpconn.pool.events import NO_EVENTS, Action, EventEmitter, EventHook, OperationEvents
from smtpconn.pool.leak_report import LeakReport
from smtpconn.pool.lease import Lease, LeaseReference
from smtpconn.pool.options import PoolOptions
from smtpconn.pool.pool_log import log
from smtpconn.pool.state import NOOP_GRACE, DiscardReason, PooledConnection, PoolState, Waiter
from smtpconn.pool.stats import Counters, PoolStats
from smtpconn.pool.wakeup import Wakeup

NOOP_TIMEOUT = 5.0
"""Seconds a keep-alive NOOP may take."""

LIFETIME_JITTER = 0.1
"""Fraction by which lifetimes vary, so that connections made together do not expire together."""

MAINTENANCE_RETRY = 1.0
"""Seconds after which failed maintenance is tried again."""

_ROUTINE = frozenset(
    {DiscardReason.MAX_IDLE, DiscardReason.MAX_LIFETIME, DiscardReason.MAX_MESSAGES}
)


class PoolCore:
    """The implementation of `smtpconn.ConnectionPool`: checkout, return, maintenance, statistics.

    Args:
        configs: the servers, the preferred one first.
        options: the limits of the pool.
        name: the name of the pool, for logs and error texts.
        hook: called with each event.
    """

    def __init__(
        self,
        configs: Sequence[ServerConfig],
        options: PoolOptions,
        name: str,
        hook: EventHook | None,
    ) -> None:
        self.name = name
        self.events = EventEmitter(name, hook)
        self.has_hook = hook is not None
        self._watches = hook is not None or options.leak_after is not None
        self._keeps_alive = options.keepalive is not None
        self._configs = configs
        self._config = configs[0]
        self._options = options
        self._begin()
        reset_in_child(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._state = PoolState(self._options)
        self._counters = Counters()
        self._connector = Connector(
            self._configs, self._lock, self.events, self._state.connections_to
        )
        self._maintained_at: float | None = None
        self._all_returned = Wakeup()
        self._leaks = LeakReport(self.name, self._options.leak_after)
        self._held: dict[Waiter, OperationEvents] = {}
        # Returned leases whose clean-up destructors and interrupting calls leave to the pool's
        # next call.
        self.deferred: deque[Waiter | LeaseReference] = deque()

    # Checkout and return

    def checkout(self, waiter: Waiter, timeout: float | Deadline) -> SmtpConnection:
        """Get a usable connection, waiting for one if necessary; for `Lease`."""
        begun = time.monotonic()
        events = NO_EVENTS
        if self._watches:
            events = self.events.operation(Action.CHECKOUT)
            events.begin()
        with self._lock:
            pooled = self._state.try_acquire(waiter, begun)
            if pooled is not None:
                self._counters.checkouts += 1
        made, now = None, begun
        if pooled is not None and pooled.server:
            timeout = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
            made = self._move_back(waiter, pooled, timeout)
            now = time.monotonic()
        if made is not None:
            pooled = made
        elif pooled is not None and self._validate(pooled, now):
            pooled.uses += 1
        else:
            deadline = timeout if isinstance(timeout, Deadline) else Deadline(timeout)
            pooled = self._wait_for_connection(waiter, deadline, begun, events)
        if self._watches:
            self._watch(waiter, pooled, events)
        if self.deferred:
            self._finish_deferred()
        return pooled.connection

    def renew(self, waiter: Waiter, deadline: Deadline) -> SmtpConnection:
        """Replace a connection that turned out to be dead; for `Lease`.

        The replacement is new, or was returned after this call began.
        """
        if (dead := waiter.pooled) is not None:
            self._discard(dead, DiscardReason.DEAD_WHEN_USED)
        if self._is_interrupting():
            pooled = self._obtain_at_once(waiter, deadline, renew=True)
        else:
            with self._lock:
                self._state.requeue(waiter, time.monotonic(), renew=True)
            pooled = self._obtain(waiter, deadline)
        if (held := self._held.get(waiter)) is not None:
            held.set_server(self._configs[pooled.server])
        return pooled.connection

    def may_follow(self, waiter: Waiter) -> bool:
        """Whether a lease's connection may be used for another message of its batch."""
        return self._state.may_follow(waiter, time.monotonic())

    def check_in(self, waiter: Waiter, keep: bool) -> None:
        """Take back the connection and the lease; safe to call again; for `Lease`.

        Args:
            waiter: the lease.
            keep: False to close the connection instead of making it idle.
        """
        now = time.monotonic()
        pooled = waiter.pooled
        is_back, due = False, None
        if pooled is not None and keep and pooled.uses and pooled.connection.is_idle:
            with self._lock:
                if is_back := self._state.try_release(waiter, pooled, now):
                    self._counters.use_seconds += now - waiter.since
                    due = self._maintenance_due(pooled) if self._keeps_alive else None
        if not is_back:
            self._check_in_fully(waiter, keep, now)
        elif due is not None:
            self._maintain_at(due)
        if self._watches:
            self._note_returned(waiter)
        if self.deferred:
            self._finish_deferred()

    def _check_in_fully(self, waiter: Waiter, keep: bool, now: float) -> None:
        if (pooled := waiter.pooled) is None:
            return self._release(waiter, now)
        if not pooled.uses:
            self._connector.keep_tls_session(pooled.connection, pooled.server)
        expired = due = None
        if (reason := _unusable_reason(pooled, keep)) is None:
            is_interrupting = self._is_interrupting()
            with self._lock:
                reason = self._state.discard_reason_on_return(pooled, now)
                if reason is None:
                    self._counters.use_seconds += now - waiter.since
                    self._release_or_defer(waiter, pooled, now, is_interrupting)
                    expired = self._state.take_oldest_expired(now)
                    due = self._maintenance_due(pooled) if self._keeps_alive else None
        if reason is not None:
            # Closed before the lease is free: otherwise another caller could connect first, and
            # there would be one connection more than ``max_size``.
            try:
                self._discard(pooled, reason)
            finally:
                with self._lock:
                    self._counters.use_seconds += now - waiter.since
                self._release(waiter, now)
        if expired is not None:
            self._discard(*expired)
        if due is not None:
            self._maintain_at(due)
        return None

    def abandoned(self, waiter: Waiter) -> None:
        """Take back a lease that was collected as garbage; for `Lease`.

        Called from ``__del__``, which may run while the application holds any lock, so it must not
        call the application's code. The lease is released at once; `LeaseReference` leaves the rest
        to the pool's next call.
        """
        if (pooled := waiter.pooled) is not None:
            waiter.lost = pooled
            pooled.connection.close()
        self._release(waiter, time.monotonic())

    def warm(self, count: int, timeout: float) -> None:
        """Make connections until there are ``count``, one after the other.

        Each is idle before the next is begun, so that callers can use it at once.
        """
        reset_if_forked()
        is_short = True
        while is_short:
            lease = Lease(self, timeout)
            try:
                is_short = self._warm_one(lease.begin(), count, Deadline(timeout))
            except BaseException:
                lease.__exit__(BaseException, None, None)
                raise
            lease.__exit__(None, None, None)

    def _warm_one(self, waiter: Waiter, count: int, deadline: Deadline) -> bool:
        """Make a connection if there are fewer than ``count``; return whether there were fewer."""
        is_interrupting = self._is_interrupting()
        with self._lock:
            now = time.monotonic()
            if self._state.is_closed:
                raise self._closed_error()
            if not self._state.is_short_of(count, now):
                return False
            waiter.not_before = now
            if not is_interrupting:
                self._enqueue(waiter, now)
        events = self.events.operation(Action.CHECKOUT)
        try:
            events.begin()
            if is_interrupting:
                pooled = self._obtain_at_once(waiter, deadline, renew=True)
            else:
                pooled = self._obtain(waiter, deadline)
        except BaseException as error:
            events.failed(error)
            raise
        with self._lock:
            self._counters.checkouts += 1
            self._counters.wait_seconds += time.monotonic() - now
        if self._watches:
            self._watch(waiter, pooled, events)
        return True

    def _wait_for_connection(
        self, waiter: Waiter, deadline: Deadline, begun: float, events: OperationEvents
    ) -> PooledConnection:
        # The checkout is counted already if it got an idle connection, which turned out to be dead.
        is_counted = waiter.pooled is not None
        try:
            if self._is_interrupting():
                pooled = self._obtain_at_once(waiter, deadline)
            else:
                self._enqueue(waiter, begun)
                pooled = self._obtain(waiter, deadline)
        except BaseException as error:
            events.failed(error)
            raise
        with self._lock:
            self._counters.checkouts += not is_counted
            self._counters.wait_seconds += time.monotonic() - begun
        return pooled

    def _enqueue(self, waiter: Waiter, now: float) -> None:
        with self._lock:
            if self._state.is_closed:
                raise self._closed_error()
            if waiter.pooled is not None:
                # The caller was served already, with a connection that turned out to be unusable.
                self._state.requeue(waiter, now)
            elif self._state.is_overloaded(now):
                self._counters.overloads += 1
                raise PoolOverloadedError(
                    f"{len(self._state.queue)} callers wait already for {self._config}"
                )
            elif not self._state.enqueue(waiter, now):
                self._counters.waits += 1

    def _watch(self, waiter: Waiter, pooled: PooledConnection, events: OperationEvents) -> None:
        """Start the events of a lease and its entry in the leak report, if either is in use."""
        server = self._configs[pooled.server]
        events.set_server(server)
        events.done()
        self._held[waiter] = self.events.checkin(server)
        # The caller's frame: below it are those of Lease.__enter__, checkout and _watch.
        self._leaks.watch(waiter, sys._getframe(3))

    def _obtain(self, waiter: Waiter, deadline: Deadline) -> PooledConnection:
        while True:
            self._wait_for_turn(waiter, deadline)
            pooled = waiter.pooled
            if pooled is None:
                if (made := self._connect(waiter, deadline)) is not None:
                    return made
            elif (made := self._move_back(waiter, pooled, deadline)) is not None:
                return made
            elif self._validate(pooled, time.monotonic()):
                pooled.uses += 1
                return pooled
            else:
                with self._lock:
                    self._state.requeue(waiter, time.monotonic())

    def _move_back(
        self, waiter: Waiter, pooled: PooledConnection, deadline: Deadline
    ) -> PooledConnection | None:
        """Replace a connection to a backup server by one to a preferred server.

        Returns None if no preferred server accepts a connection. One caller at a time tries this;
        the others continue with their idle connections.
        """
        made = self._connector.connect_to_better(pooled.server, deadline) if pooled.server else None
        if made is None:
            return None
        better = self._new_pooled(*made)
        with self._lock:
            better.generation = self._state.generation
            waiter.pooled = better
        self._discard(pooled, DiscardReason.BETTER_SERVER)
        return better

    def _obtain_at_once(
        self, waiter: Waiter, deadline: Deadline, *, renew: bool = False
    ) -> PooledConnection:
        """Get a connection for a call that interrupts a decision, without waiting for one."""
        while True:
            if self._state.is_closed:
                raise self._closed_error()
            if not self._state.acquire_at_once(waiter, time.monotonic(), renew=renew):
                raise PoolOverloadedError(
                    f"all connections to {self._config} are in use, and this call cannot wait for "
                    f"one: it interrupts a call of its own thread inside the pool {self.name}"
                )
            pooled = waiter.pooled
            if pooled is None:
                if (made := self._connect(waiter, deadline)) is not None:
                    return made
            elif self._validate(pooled, time.monotonic()):
                pooled.uses += 1
                return pooled

    def _validate(self, pooled: PooledConnection, now: float) -> bool:
        """Whether an idle connection may be handed out; if not, it is discarded."""
        if now >= pooled.expires_at:
            reason = self._state.discard_reason_when_idle(pooled, now) or DiscardReason.MAX_IDLE
        elif pooled.server and self._connector.has_better(pooled.server):
            reason = DiscardReason.BETTER_SERVER
        elif pooled.connection.probe():
            return True
        else:
            reason = DiscardReason.DEAD_WHEN_IDLE
        self._discard(pooled, reason)
        return False

    def _wait_for_turn(self, waiter: Waiter, deadline: Deadline) -> None:
        if self.deferred:
            self._finish_deferred()
        # With a short deadline, the caller waits for a NOOP only half of the time that is left.
        grace = min(NOOP_GRACE, deadline.remaining() / 2)
        while True:
            with self._lock:
                now = time.monotonic()
                self._state.dispatch(now)
                # After this time there is room even if no lease was released.
                more_room_in = self._state.more_room_in(now)
                overdue_in = self._state.noop_overdue_in(now, grace)
            left = deadline.remaining()
            if waiter.wait(min(left, more_room_in, overdue_in)):
                break
            if left <= min(more_room_in, overdue_in):
                self._give_up_unless_served(waiter, deadline)
                break
            self._reclaim_overdue_noops(grace)
        if self._state.is_closed:
            raise self._closed_error()

    def _reclaim_overdue_noops(self, grace: float) -> None:
        """Close connections whose keep-alive NOOP is overdue, to make room for waiting callers."""
        with self._lock:
            overdue = self._state.overdue_noops(time.monotonic(), grace)
        for noop in overdue:
            if (pooled := noop.pooled) is not None:
                # This ends the NOOP; the thread that sent it discards the connection.
                pooled.connection.close()
            self._release(noop, time.monotonic())

    def _give_up_unless_served(self, waiter: Waiter, deadline: Deadline) -> None:
        with self._lock:
            if self._state.is_served(waiter):
                return  # the caller was served in the meantime
            self._counters.timeouts += 1
            error, cause = self._timeout_error(deadline), self._connector.last_error()
        # Logged as text: a record that is kept (by Sentry, by a queue) must not keep this frame
        # alive through the traceback of the error.
        log(logging.WARNING, "%s: %s", self.name, str(error))
        try:
            raise error from cause
        finally:
            del error, cause

    def _connect(self, waiter: Waiter, deadline: Deadline) -> PooledConnection | None:
        """Make a connection; None if the caller has to wait for one instead."""

        def should_wait(error: SmtpError | None, until: float) -> bool:
            return self._requeue_at_server_limit(waiter, error, until)

        made = self._connector.connect(deadline, should_wait)
        if made is None:
            return None
        pooled = self._new_pooled(*made)
        is_interrupting = self._is_interrupting()
        with self._lock:
            pooled.generation = self._state.generation
            waiter.pooled = pooled
            if is_interrupting:
                self._state.connecting.discard(waiter)
            else:
                self._state.connected(waiter, pooled.created_at)
        return pooled

    def _new_pooled(self, connection: SmtpConnection, server: int) -> PooledConnection:
        now = time.monotonic()
        options = self._options
        return PooledConnection(
            connection,
            created_at=now,
            lifetime=options.max_lifetime * random.uniform(1 - LIFETIME_JITTER, 1),
            last_used_at=now,
            server=server,
            max_messages=min(
                options.max_messages, connection.capabilities.max_transactions or math.inf
            ),
        )

    def _requeue_at_server_limit(
        self, waiter: Waiter, error: SmtpError | None, until: float
    ) -> bool:
        if self._is_interrupting():
            return False
        with self._lock:
            now = time.monotonic()
            waits = self._state.requeue_at_server_limit(waiter, now, until)
            size = self._state.effective_size(now)
        if waits and error is not None and now < until:
            text = "%s: limited to %d connections for a while: %s"
            log(logging.WARNING, text, self.name, size, str(error))
        return waits

    def _closed_error(self) -> PoolClosedError:
        return PoolClosedError(f"the pool {self.name} is closed")

    def _timeout_error(self, deadline: Deadline) -> PoolTimeoutError:
        state = self._state
        oldest = min([w.since for w in tuple(state.leases)], default=None)
        age = 0.0 if oldest is None else time.monotonic() - oldest
        return PoolTimeoutError(
            f"no connection to {self._config} became free within {deadline} s: "
            f"max_size={self._options.max_size}, in use={len(state.leases)}, "
            f"idle={len(state.idle)}, connecting={len(state.connecting)}, "
            f"waiting={len(state.queue)}; the oldest lease is {age:.1f} s old"
        )

    # Statistics, draining, closing, forking

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._state.is_closed

    def count(self, **amounts: int) -> None:
        """Add to the counters, as `Counters.add`."""
        if self.deferred:
            self._finish_deferred()
        with self._lock:
            self._counters.add(**amounts)

    def count_sent(self, result: SendResult) -> None:
        """Count a message that was sent, and its recipients."""
        accepted, rejected = recipient_counts(result)
        if self.deferred:
            self._finish_deferred()
        counters = self._counters
        with self._lock:
            counters.messages += 1
            counters.accepted_recipients += accepted
            counters.rejected_recipients += rejected

    def drain(self) -> None:
        """Close every connection: idle ones now, those in use when they are returned."""
        reset_if_forked()
        with self._lock:
            self._state.drain()
            drained = self._state.take_expired(time.monotonic())
        for pooled, reason in drained:
            self._discard(pooled, reason)

    def leaks(self) -> list[tuple[float, str]]:
        """The leases older than ``leak_after``: age in seconds, and stack of the checkout."""
        reset_if_forked()
        return self._leaks.old(time.monotonic())

    def stats(self) -> PoolStats:
        """A snapshot of the pool's statistics."""
        reset_if_forked()
        if self.deferred:
            self._finish_deferred()
        with self._lock:
            state, counters = self._state, self._counters
            return PoolStats(
                name=self.name,
                max_size=self._options.max_size,
                in_use=len(state.leases),
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
        """Refuse new callers, wake waiting ones, QUIT idle connections, and wait for leases.

        Args:
            timeout: seconds to wait for leases; 0 does not wait.
        """
        reset_if_forked()
        with self._lock:
            self._state.is_closed = True
            idle = self._state.take_idle()
            for waiter in self._state.queue:
                waiter.wake()
            if not self._state.leases:
                self._all_returned.set()
        for pooled in idle:
            self._discard(pooled, DiscardReason.POOL_CLOSED)
        maintenance.maintenance.wake()
        # A call that interrupts its own thread inside the pool must not wait: that thread may hold
        # a lease.
        if self._all_returned.wait(0.0 if self._is_interrupting() else timeout):
            self._all_returned.set()  # for others that close the pool at the same time
        else:
            in_use = len(self._state.leases)
            log(logging.WARNING, "%s: closed with %d connections in use", self.name, in_use)

    def reset_after_fork(self) -> None:
        """Start empty in a forked child; only the child's copies of the descriptors are closed."""
        state = self._state
        in_use = [waiter.pooled for waiter in state.leases if waiter.pooled is not None]
        inherited = [pooled.connection for pooled in [*state.idle, *in_use]]
        was_closed = self._state.is_closed
        self._begin()
        self._state.is_closed = was_closed
        for connection in inherited:
            connection.close_after_fork()

    # Maintenance of idle connections

    def maintain_idle(self) -> float | None:
        """Close expired idle connections, and send NOOP on those that were silent for long.

        Returns when to call this again (monotonic clock); None while nothing is idle.
        """
        try:
            with self._lock:
                now = time.monotonic()
                expired = self._state.take_expired(now)
                needs_noop = self._state.has_noop_due(now)
            for pooled, reason in expired:
                self._discard(pooled, reason)
            if needs_noop:
                maintenance.maintenance.run(self._keep_alive, self._maintain_later)
            if self.deferred:
                self._finish_deferred()
        except BaseException:
            self._maintain_later()
            raise
        return self._next_maintenance()

    def _next_maintenance(self) -> float | None:
        with self._lock:
            self._maintained_at = due = self._state.next_due()
        return due

    def _maintain_later(self) -> None:
        if (due := self._next_maintenance()) is not None:
            self._maintain_at(max(due, time.monotonic() + MAINTENANCE_RETRY))

    def _maintain_at(self, due: float) -> None:
        maintenance.maintenance.watch(self, due)
        if self._state.is_closed:
            # Closed since ``due`` was computed: the thread need not wait until then to end.
            maintenance.maintenance.watch(self, 0.0)

    def _keep_alive(self) -> None:
        # Each NOOP has a lease of its own: a waiting caller may take the lease of one that is not
        # answered.
        while self._send_noop(Waiter()):
            pass

    def _send_noop(self, waiter: Waiter) -> bool:
        """Send NOOP on an idle connection that needs it; False if none does."""
        try:
            with self._lock:
                pooled = self._state.borrow_for_noop(waiter, time.monotonic())
            if pooled is not None:
                self._put_back(waiter, pooled, is_alive=self._send_noop_on(pooled))
        finally:
            lost = waiter.pooled
            self._release(waiter, time.monotonic())
            if lost is not None:
                self._discard(lost, DiscardReason.KEEPALIVE_FAILED)
        return pooled is not None

    def _send_noop_on(self, pooled: PooledConnection) -> bool:
        pooled.noops += 1
        pooled.last_used_at = time.monotonic()
        events = self.events.operation(Action.NOOP, self._configs[pooled.server])
        events.begin()
        try:
            pooled.connection.noop(NOOP_TIMEOUT)
        except SmtpError as error:
            log(logging.DEBUG, "%s: keep-alive: %s", self.name, str(error))
            events.failed(error)
            return False
        self.count(noops=1)
        events.done()
        return True

    def _put_back(self, waiter: Waiter, pooled: PooledConnection, *, is_alive: bool) -> None:
        """Return a connection after a keep-alive NOOP, without renewing its idle time."""
        reason: DiscardReason | None = DiscardReason.KEEPALIVE_FAILED
        if is_alive and pooled.connection.is_idle:
            with self._lock:
                now = time.monotonic()
                if self._state.is_closed:
                    reason = DiscardReason.POOL_CLOSED
                elif waiter in self._state.leases:  # no caller took it
                    reason = self._state.discard_reason_when_idle(pooled, now)
                    if reason is None:
                        self._state.release(waiter, pooled, now, was_used=False)
        if reason is not None:
            waiter.pooled = None
            self._discard(pooled, reason)

    def _maintenance_due(self, pooled: PooledConnection) -> float | None:
        """When this connection needs maintenance; None if maintenance runs before that anyway."""
        due = pooled.expires_at
        noop_due = self._state.noop_due(pooled)
        if noop_due is not None:
            due = min(due, noop_due)
        # A planned run in the past did not take place, so maintenance is scheduled again.
        planned = self._maintained_at
        if planned is not None and pooled.idle_since < planned <= due:
            return None
        self._maintained_at = due
        return due

    # Shared by all of the above

    def _is_interrupting(self) -> bool:
        """Whether this thread holds the pool's lock already: the call interrupts another one."""
        # Semi-public: `threading.Condition` calls the same method of the lock it is given.
        is_owned: bool = self._lock._is_owned()  # type: ignore[attr-defined]
        return is_owned

    def _discard(self, pooled: PooledConnection, reason: DiscardReason) -> None:
        with self._lock:
            self._counters.discards[reason.value] += 1
        try:
            level = logging.DEBUG if reason in _ROUTINE else logging.INFO
            log(level, "%s: connection discarded: %s", self.name, reason.value)
            self.events.emit_discard(self._configs[pooled.server], reason.value)
        finally:
            if pooled.connection.is_idle:
                pooled.connection.quit_nowait()
            else:
                pooled.connection.close()

    def _release(self, waiter: Waiter, now: float) -> None:
        """Release a place in the queue or a lease, without a connection."""
        is_interrupting = self._is_interrupting()
        with self._lock:
            self._release_or_defer(waiter, None, now, is_interrupting)

    def _release_or_defer(
        self, waiter: Waiter, pooled: PooledConnection | None, now: float, is_interrupting: bool
    ) -> None:
        if is_interrupting:
            self._state.release_without_dispatch(waiter, pooled, now)
            self.deferred.append(waiter)
        else:
            self._state.release(waiter, pooled, now)
            self._signal_all_returned()

    def _signal_all_returned(self) -> None:
        if self._state.is_closed and not self._state.leases:
            self._all_returned.set()

    def _finish_deferred(self) -> None:
        """Do the work that destructors and interrupting calls left to the pool's next call."""
        while self.deferred and not self._is_interrupting():
            try:
                item = self.deferred[0]
            except IndexError:
                return  # another thread has done it
            if (waiter := item if isinstance(item, Waiter) else item.waiter) is not None:
                with self._lock:
                    if item is not waiter and waiter.lost is None:
                        waiter.lost = waiter.pooled  # the destructor was interrupted
                    # Released again, because the waiter may still be in the queue.
                    self._state.release(waiter, None, time.monotonic())
                    self._signal_all_returned()
            try:
                self.deferred.remove(item)
            except ValueError:
                continue  # another thread does the rest
            if waiter is not None and item is not waiter:
                self._report_abandoned(waiter)

    def _report_abandoned(self, waiter: Waiter) -> None:
        waiter.lease = None
        if (lost := waiter.lost) is not None:
            self._discard(lost, DiscardReason.ABANDONED)
        self._note_returned(waiter)

    def _note_returned(self, waiter: Waiter) -> None:
        """End the events of a lease and its entry in the leak report, if either is in use."""
        self._leaks.discard(waiter)
        if (held := self._held.pop(waiter, None)) is not None:
            held.done()


def _unusable_reason(pooled: PooledConnection, keep: bool) -> DiscardReason | None:
    connection = pooled.connection
    if not keep:
        return DiscardReason.INTERRUPTED
    if connection.is_idle:
        return None
    if connection.is_shutting_down:
        return DiscardReason.SHUTTING_DOWN
    return DiscardReason.CLOSED_IN_USE


def recipient_counts(result: SendResult) -> tuple[int, int]:
    """The numbers of accepted and of refused recipients."""
    accepted, refused = len(result.accepted_recipients), len(result.rejected_recipients)
    if isinstance(result, LmtpSendResult):
        refused += len(result.results) - accepted
    return accepted, refused
