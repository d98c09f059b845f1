"""`ConnectionPool`: connections that are made once and used many times, by any thread.

What is decided is in `smtpconn.poolstate`; this file has the lock, the waiting and the I/O, in this
order always: decide under the lock, act outside it. Nothing slow ever happens under the lock.

What a caller holds meanwhile is a `smtpconn.lease.Lease`.
"""

from __future__ import annotations

import copy
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

from smtpconn import keeper
from smtpconn.address import ReversePath
from smtpconn.config import ServerConfig
from smtpconn.connection import SmtpConnection
from smtpconn.content import Message
from smtpconn.deadline import Deadline
from smtpconn.dialogue.transaction import make_request
from smtpconn.envelope import SendResult
from smtpconn.errors import (
    ConnectionClosedError,
    Phase,
    PoolClosedError,
    PoolOverloadedError,
    PoolTimeoutError,
    SmtpError,
    TransientError,
    TransportError,
)
from smtpconn.forking import forget_in_child
from smtpconn.lease import Lease
from smtpconn.limits import Limits
from smtpconn.parameters import MailFromParams, RcptToParams
from smtpconn.poolstate import Pooled, PoolState, Ticket
from smtpconn.sending import Recipients
from smtpconn.stats import Counters, PoolStats

T = TypeVar("T")

NOOP_PATIENCE = 5.0
"""Seconds a keep-alive NOOP may take."""

LIFETIME_JITTER = 0.1
"""Part by which lifetimes differ, so that connections made together do not end together."""

_BEFORE_CONTENT = frozenset({Phase.IDLE, Phase.RSET, Phase.MAIL, Phase.RCPT, Phase.DATA})

_log = logging.getLogger("smtpconn.pool")
_numbers = itertools.count(1)


class ConnectionPool:
    """A pool of connections to one server.

    Args:
        config: a `ServerConfig`, or a URL as `ServerConfig.from_url` takes it.
        max_size: connections at most, those in use included. A hard limit.
        acquire_timeout: seconds a caller waits for a connection by default.
        max_waiting: callers that may wait; one more gets `PoolOverloadedError` at once.
        max_idle: seconds after which an unused connection is closed.
        max_lifetime: seconds after which a connection is closed when it comes back.
        max_messages: messages after which a connection is closed when it comes back.
        keepalive: seconds of silence after which an idle connection gets a NOOP (8 in its life
            at most); None for no NOOPs and no background thread.
        max_connecting: connections made at the same time.
        name: for logs and figures; None for a number.

    A pool is safe to use from any thread, and in a forked child, which begins with no connection
    while the parent's stay as they are.

    Raises:
        ValidationError: a limit that cannot be.
    """

    def __init__(
        self,
        config: ServerConfig | str,
        *,
        max_size: int = 5,
        acquire_timeout: float = 10.0,
        max_waiting: int = 100,
        max_idle: float = 60.0,
        max_lifetime: float = 900.0,
        max_messages: int = 100,
        keepalive: float | None = 20.0,
        max_connecting: int = 2,
        name: str | None = None,
    ) -> None:
        self._config = ServerConfig.from_url(config) if isinstance(config, str) else config
        self._limits = Limits(
            max_size=max_size,
            acquire_timeout=acquire_timeout,
            max_waiting=max_waiting,
            max_idle=max_idle,
            max_lifetime=max_lifetime,
            max_messages=max_messages,
            keepalive=keepalive,
            max_connecting=max_connecting,
        )
        self.name = name if name is not None else f"pool-{next(_numbers)}"
        self._begin()
        forget_in_child(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()
        self._state = PoolState(self._limits)
        self._leases: dict[Ticket, SmtpConnection] = {}
        self._counters = Counters()
        self._last_error: SmtpError | None = None
        self._all_back = threading.Event()

    @property
    def config(self) -> ServerConfig:
        """The server this pool connects to."""
        return self._config

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._state.is_closed

    def connection(self, timeout: float | None = None) -> Lease:
        """Borrow a connection: ``with pool.connection() as c:``, where ``c`` is the connection.

        Args:
            timeout: seconds to wait for one, making one included; None for ``acquire_timeout``.

        Raises (on entering the block):
            PoolTimeoutError: none became free in time; the text says who has them.
            PoolOverloadedError: too many wait already.
            PoolClosedError: the pool is closed.
            SmtpError: a new connection could not be made, precisely why.
        """
        return Lease(self, self._limits.acquire_timeout if timeout is None else timeout)

    def send(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        mail_params: MailFromParams | None = None,
        rcpt_params: Sequence[RcptToParams] | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message over a connection of the pool; arguments as `SmtpConnection.send`.

        If a connection that was used before turns out to be dead, or says 421, before the content
        was begun, the message goes once more over a new connection. In no other case is anything
        sent twice.

        Args:
            timeout: seconds for everything, waiting for a connection included; None for the
                configuration's timeout, of which ``acquire_timeout`` may be spent on waiting.

        Raises:
            SmtpError: as `connection` and `SmtpConnection.send_with_all_params`.
        """
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        deadline = Deadline(self._config.timeout if timeout is None else timeout)
        try:
            result = self._run(
                lambda c: c.send_request(request, deadline.check(Phase.MAIL)), deadline
            )
        except BaseException:
            with self._lock:
                self._counters.failed_messages += 1
            raise
        with self._lock:
            self._counters.messages += 1
        return result

    def stats(self) -> PoolStats:
        """The pool's figures at this moment."""
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
                connects=counters.connects,
                connect_errors=counters.connect_errors,
                retries=counters.retries,
                noops=counters.noops,
                messages=counters.messages,
                failed_messages=counters.failed_messages,
                discards=dict(counters.discards),
            )

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: refuse new callers, wake waiting ones, wait for leases, say QUIT.

        Args:
            timeout: seconds to wait for connections in use; those still out after it are closed
                when they come back. 0 does not wait.
        """
        with self._lock:
            self._state.is_closed = True
            idle, self._state.idle[:] = list(self._state.idle), []
            for ticket in self._state.queue:
                if ticket.wake.locked():
                    ticket.wake.release()
            if not self._state.permits:
                self._all_back.set()
        for pooled in idle:
            self._discard(pooled, "pool closed")
        keeper.keeper.ring()
        if not self._all_back.wait(timeout):
            _log.warning("%s: closed while %d connections are out", self.name, self.stats().in_use)

    def __enter__(self) -> ConnectionPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"<ConnectionPool {self.name} {self._config} in_use={stats.in_use} idle={stats.idle} "
            f"waiting={stats.waiting} max_size={stats.max_size}>"
        )

    def forget(self) -> None:
        """Begin anew in a forked child: the parent's connections are closed here, and only here."""
        inherited = [p.connection for p in self._state.idle] + list(self._leases.values())
        self._begin()
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
            return self._state.next_due()

    def _keep_alive(self, ticket: Ticket) -> None:
        try:
            while (pooled := self._borrow_for_noop(ticket)) is not None:
                alive = self._say_noop(pooled)
                self._leave(ticket, pooled if alive else None, was_used=False)
        finally:
            self._leave(ticket, None)

    def _borrow_for_noop(self, ticket: Ticket) -> Pooled | None:
        with self._lock:
            return self._state.borrow_for_noop(ticket, time.monotonic())

    def _say_noop(self, pooled: Pooled) -> bool:
        pooled.noops += 1
        pooled.spoke_at = time.monotonic()
        try:
            pooled.connection.noop(NOOP_PATIENCE)
        except SmtpError as error:
            _log.debug("%s: keep-alive: %s", self.name, error)
            self._discard(pooled, "keepalive failed")
            return False
        with self._lock:
            self._counters.noops += 1
        return True

    def _run(self, operation: Callable[[SmtpConnection], T], deadline: Deadline) -> T:
        """Run an operation on a connection, once more on a new one if that is safe."""
        lease = self.connection(min(self._limits.acquire_timeout, deadline.check(Phase.POOL)))
        with lease as connection:
            try:
                return operation(connection)
            except SmtpError as error:
                if not (lease.was_reused and _is_stale(error)):
                    raise
                _log.info("%s: a reused connection was dead (%s): once more", self.name, error)
            with self._lock:
                self._counters.retries += 1
            return operation(lease.renew(deadline))

    def checkout(self, ticket: Ticket, deadline: Deadline) -> Pooled:
        """Stand in line and get a connection that is good; for `Lease`."""
        with self._lock:
            if self._state.is_closed:
                raise self._closed_error()
            if self._state.is_overloaded:
                self._counters.overloads += 1
                raise PoolOverloadedError(
                    f"{len(self._state.queue)} callers wait already for {self._config}"
                )
            if not self._state.enter(ticket, time.monotonic()):
                self._counters.waits += 1
        pooled = self._obtain(ticket, deadline)
        with self._lock:
            self._counters.checkouts += 1
        return pooled

    def renew(self, ticket: Ticket, pooled: Pooled, deadline: Deadline) -> Pooled:
        """Replace a connection that turned out to be dead by a new one; for `Lease`."""
        self._discard(pooled, "dead when used")
        with self._lock:
            self._state.again(ticket, time.monotonic(), fresh=True)
        return self._obtain(ticket, deadline)

    def check_in(self, ticket: Ticket, pooled: Pooled | None, *, keep: bool) -> None:
        """Take back whatever a lease has; can be called again; for `Lease`."""
        kept = pooled
        if pooled is not None and (why := self._why_not_kept(pooled, keep)) is not None:
            self._discard(pooled, why)
            kept = None
        if kept is not None:
            kept.idle_since = kept.spoke_at = time.monotonic()
        self._leave(ticket, kept)
        if kept is not None and self._limits.keepalive is not None:
            self._have_it_looked_after(kept)

    def _obtain(self, ticket: Ticket, deadline: Deadline) -> Pooled:
        while True:
            self._await_turn(ticket, deadline)
            pooled = ticket.pooled
            if pooled is None:
                return self._connect(ticket, deadline)
            if (why := self._why_stale(pooled)) is None:
                pooled.uses += 1
                self._leases[ticket] = pooled.connection
                return pooled
            self._discard(pooled, why)
            with self._lock:
                self._state.again(ticket, time.monotonic())

    def _await_turn(self, ticket: Ticket, deadline: Deadline) -> None:
        if not ticket.wake.acquire(timeout=deadline.remaining()):
            with self._lock:
                # It may have come in the meantime.
                if not ticket.wake.acquire(blocking=False):
                    self._counters.timeouts += 1
                    raise self._timeout_error(deadline) from self._last_error
        if self._state.is_closed:
            raise self._closed_error()

    def _connect(self, ticket: Ticket, deadline: Deadline) -> Pooled:
        try:
            connection = self._config.connect(
                min(self._config.timeout, deadline.check(Phase.CONNECT))
            )
        except SmtpError as error:
            with self._lock:
                self._counters.connect_errors += 1
                # A copy, which holds no traceback and so keeps no frame alive.
                self._last_error = copy.copy(error)
            raise
        now = time.monotonic()
        lifetime = self._limits.max_lifetime * random.uniform(1 - LIFETIME_JITTER, 1)
        pooled = Pooled(connection, now, lifetime, spoke_at=now)
        with self._lock:
            self._counters.connects += 1
            self._last_error = None
            self._leases[ticket] = connection
            ticket.pooled = pooled
            self._state.connected(ticket, now)
        return pooled

    def _why_stale(self, pooled: Pooled) -> str | None:
        why = self._state.why_not(pooled, time.monotonic())
        if why is None and not pooled.connection.probe():
            return "dead when idle"
        return why

    def _why_not_kept(self, pooled: Pooled, keep: bool) -> str | None:
        connection = pooled.connection
        if connection.is_shutting_down:
            return "421"
        if not keep:
            return "interrupted"
        if not connection.is_quiet:
            return "closed in use"
        pooled.idle_since = 0.0
        return self._state.why_not(pooled, time.monotonic())

    def _leave(self, ticket: Ticket, pooled: Pooled | None, *, was_used: bool = True) -> None:
        with self._lock:
            self._leases.pop(ticket, None)
            now = time.monotonic()
            self._state.leave(ticket, pooled, now, was_used=was_used)
            expired = self._state.take_expired(now)
            if self._state.is_closed and not self._state.permits:
                self._all_back.set()
        for old, why in expired:
            self._discard(old, why)

    def _discard(self, pooled: Pooled, why: str) -> None:
        with self._lock:
            self._counters.discard(why)
        level = logging.DEBUG if why.startswith("max_") else logging.INFO
        _log.log(level, "%s: connection given up: %s", self.name, why)
        if pooled.connection.is_quiet:
            pooled.connection.take_leave()
        else:
            pooled.connection.close()

    def _have_it_looked_after(self, pooled: Pooled) -> None:
        due = self._state.noop_due(pooled)
        end = pooled.idle_since + self._limits.max_idle
        keeper.keeper.watch(self, end if due is None else min(due, end))

    def _closed_error(self) -> PoolClosedError:
        return PoolClosedError(f"the pool {self.name} is closed")

    def _timeout_error(self, deadline: Deadline) -> PoolTimeoutError:
        state = self._state
        oldest = min((t.since for t in state.permits), default=None)
        age = (
            ""
            if oldest is None
            else (f"; the oldest connection was taken {time.monotonic() - oldest:.1f} s ago")
        )
        _log.warning("%s: no connection became free in time", self.name)
        return PoolTimeoutError(
            f"no connection to {self._config} became free within {deadline.timeout:g} s: "
            f"max_size={self._limits.max_size}, in use={len(state.permits)}, "
            f"idle={len(state.idle)}, connecting={len(state.connecting)}, "
            f"waiting={len(state.queue)}{age}"
        )


def _is_stale(error: SmtpError) -> bool:
    """Whether an error means no more than that a reused connection had died meanwhile."""
    return (
        isinstance(error, (ConnectionClosedError, TransportError, TransientError))
        and (not isinstance(error, TransientError) or error.response.code == 421)
        and error.phase in _BEFORE_CONTENT
        and not error.may_have_been_delivered
    )
