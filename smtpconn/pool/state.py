"""The decisions of a pool, without a lock, a clock, a thread or a socket.

The caller holds the pool's lock and passes the time in. The rules:

Rule 1: the pool's capacity limits leases, not connections. Each caller has a `Waiter`, which is a
        lease while it is in ``leases``. Whether its connection is usable, lost, closed or not made
        yet, the lease must be released; releasing it twice changes nothing.
Rule 2: one queue, first in, first out. The first waiter gets the next lease, and with it an idle
        connection (the one used last, so that the others expire) or the right to make one, which
        ``max_connecting`` waiters have at a time. A waiter that needs a new connection and may not
        make one yet does not block later waiters that an idle connection can serve.
Rule 3: an exception may interrupt any method at any bytecode. The next call to `dispatch` continues
        correctly from the state that is left. So every step is one operation of a list, set or
        deque, and can be repeated. Containers written in Python are not used, because their methods
        can be interrupted half-way.
Rule 4: any method may be interrupted by a call of the same thread (a signal handler or a destructor
        that sends mail), which runs to its end before the method goes on. Such a call uses only
        `try_acquire`, `try_release`, `acquire_at_once` and `release_without_dispatch`, which may
        change ``idle`` and ``leases``, but never the queue. So no step here relies on what an
        earlier step has read from ``idle`` or ``leases``: it acts first and checks afterwards, or
        handles an empty container. CPython runs signal handlers only after calls and jumps, so a
        condition without a call is not interrupted.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Collection
from typing import TypeVar

from smtpconn.client.connection import SmtpConnection
from smtpconn.pool.options import PoolOptions
from smtpconn.pool.wakeup import Wakeup
from smtpconn.protocol.quirks import MAX_NOOPS

T = TypeVar("T")

NOOP_GRACE = 0.5
"""Seconds a caller without a connection waits for the reply to a keep-alive NOOP."""


class DiscardReason(enum.StrEnum):
    """Why a connection was discarded; the values are the keys of ``PoolStats.discards``."""

    MAX_IDLE = "max_idle"
    MAX_LIFETIME = "max_lifetime"
    MAX_MESSAGES = "max_messages"
    SHUTTING_DOWN = "421"
    DEAD_WHEN_IDLE = "dead when idle"
    DEAD_WHEN_USED = "dead when used"
    CLOSED_IN_USE = "closed in use"
    INTERRUPTED = "interrupted"
    ABANDONED = "lost by its holder"
    KEEPALIVE_FAILED = "keepalive failed"
    DRAINED = "drained"
    POOL_CLOSED = "pool closed"
    BETTER_SERVER = "a better server may be back"


class PooledConnection:
    """A connection of the pool and its history; times are of the monotonic clock.

    Args:
        connection: the connection.
        created_at, last_used_at: when it was made, and when it last sent a command.
        lifetime: seconds after which it is closed when it is returned.
        server: the index of its server among those of the pool.
        generation: the pool's generation when it was made; `PoolState.drain` begins a new one.
        max_messages: the number of messages after which it is closed.

    ``expires_at`` is when an idle connection expires. It is computed when the connection is
    returned, so that handing it out again takes one comparison.
    """

    def __init__(
        self,
        connection: SmtpConnection,
        *,
        created_at: float,
        lifetime: float,
        last_used_at: float = 0.0,
        server: int = 0,
        generation: int = 0,
        max_messages: float = math.inf,
    ) -> None:
        self.connection = connection
        self.created_at = created_at
        self.lifetime = lifetime
        self.idle_since = 0.0
        self.expires_at = 0.0
        self.last_used_at = last_used_at
        self.server = server
        self.generation = generation
        self.max_messages = max_messages
        self.uses = 0
        self.noops = 0


class Waiter:
    """A caller's place in the queue, and then its lease.

    The initial values are class attributes, which saves time: every checkout makes a waiter, and
    sets only two of them.

    Attributes:
        wakeup: set when the caller's turn has come; None if it was never in the queue.
        pooled: the connection it was given; None if it has to make one.
        since: when it got its lease (monotonic clock).
        not_before: a time; the waiter takes only a connection returned after it, or a new one.
        noop_since: when the keep-alive NOOP of this lease began; None if a caller has the lease.
        batch: the batch that it belongs to, if any; see `PoolState.may_follow`.
        lease: a weak reference to the caller's `smtpconn.pool.lease.Lease`, until it is returned.
        lost: the connection that its lease had when it was collected as garbage.
    """

    wakeup: Wakeup | None = None
    pooled: PooledConnection | None = None
    since: float = 0.0
    not_before: float = -math.inf
    noop_since: float | None = None
    batch: object | None = None
    lease: object = None
    lost: PooledConnection | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for the caller's turn, at most ``seconds``; returns whether it came."""
        return self.wakeup is not None and self.wakeup.wait(seconds)

    def wake(self) -> None:
        """Wake the caller; may be called more than once."""
        if self.wakeup is not None:
            self.wakeup.set()


class PoolState:
    """The leases, the queue of waiters, and the idle connections."""

    def __init__(self, options: PoolOptions) -> None:
        self.options = options
        self.leases: set[Waiter] = set()
        self.queue: deque[Waiter] = deque()
        self.connecting: set[Waiter] = set()
        self.idle: deque[PooledConnection] = deque()
        self.is_closed = False
        self.generation = 0
        self._max_size = self._reduced_size = options.max_size
        self._max_idle = options.max_idle
        self._reduced_until = 0.0

    def is_overloaded(self, now: float) -> bool:
        """Whether one more caller would exceed ``max_waiting``."""
        may_connect = len(self.connecting) < self.options.max_connecting
        would_wait = bool(self.queue) or not self._has_room(now) or not (self.idle or may_connect)
        limit = self.options.max_waiting
        return limit is not None and would_wait and len(self.queue) >= limit

    def may_follow(self, waiter: Waiter, now: float) -> bool:
        """Whether the caller may use its connection for another message of the same batch.

        False if the connection has reached its lifetime or its number of messages, or while a
        caller outside the batch waits. May be called without the lock: a change during the call is
        seen by the next call.
        """
        pooled = waiter.pooled
        if (
            pooled is None
            or self.is_closed
            or pooled.generation != self.generation
            or now >= pooled.created_at + pooled.lifetime
            or pooled.connection.transactions >= pooled.max_messages
        ):
            return False
        if not self.queue:
            return True
        return all(other.batch is waiter.batch for other in _snapshot(self.queue))

    def try_acquire(self, waiter: Waiter, now: float) -> PooledConnection | None:
        """Hand out an idle connection if nobody waits: the common case.

        Returns None, and changes nothing, in any other case.
        """
        if not self.idle or self.queue or self.is_closed or now < self._reduced_until:
            return None
        waiter.since = now
        self.leases.add(waiter)
        if len(self.leases) <= self._max_size:
            try:
                waiter.pooled = pooled = self.idle.pop()
            except IndexError:
                pass  # rule 4
            else:
                return pooled
        self.leases.discard(waiter)
        return None

    def try_release(self, waiter: Waiter, pooled: PooledConnection, now: float) -> bool:
        """Take back a usable connection while no caller waits: the common case.

        Returns False, and changes nothing, in any other case.
        """
        end = pooled.created_at + pooled.lifetime
        idle = self.idle
        if (
            now >= end
            or pooled.connection.transactions >= pooled.max_messages
            or self.queue
            or self.is_closed
            or pooled.generation != self.generation
            or (idle and now >= idle[0].expires_at)
        ):
            return False
        idle_end = now + self._max_idle
        pooled.idle_since = pooled.last_used_at = now
        pooled.expires_at = end if end < idle_end else idle_end
        waiter.pooled = None
        idle.append(pooled)
        self.leases.discard(waiter)
        return True

    def acquire_at_once(self, waiter: Waiter, now: float, *, renew: bool = False) -> bool:
        """Serve a call that interrupts a decision, and therefore cannot wait (rule 4).

        It gets an idle connection (not with ``renew``), or the right to make one even beyond
        ``max_connecting``. Returns False, and changes nothing, if the pool is full.
        """
        waiter.since = now
        waiter.pooled = None
        self.leases.add(waiter)
        if len(self.leases) > self.effective_size(now):
            self.leases.discard(waiter)
            return False
        if not renew:
            try:
                waiter.pooled = self.idle.pop()
                return True
            except IndexError:
                pass
        self.connecting.add(waiter)
        return True

    def enqueue(self, waiter: Waiter, now: float) -> bool:
        """Add the caller to the end of the queue; return whether it is served at once."""
        waiter.wakeup = Wakeup()
        self.queue.append(waiter)
        self.dispatch(now)
        return self.is_served(waiter)

    def is_short_of(self, count: int, now: float) -> bool:
        """Whether the pool has fewer than ``count`` connections, counting those being made."""
        size = min(count, self.effective_size(now))
        # Queued callers that will make a connection, such as those of other `warm` calls.
        makers = [w for w in _snapshot(self.queue) if w.not_before > -math.inf]
        waiting = sum([not self.is_served(waiter) for waiter in makers])
        return len(self.leases) + len(self.idle) + waiting < size

    def requeue(self, waiter: Waiter, now: float, *, renew: bool = False) -> None:
        """Put a caller whose connection was unusable at the head of the queue.

        With ``renew`` the caller gets no connection that is idle now, because those may be dead
        too.
        """
        waiter.pooled = None
        if renew:
            waiter.not_before = now
        self._enqueue_first(waiter)
        self.leases.discard(waiter)
        self.dispatch(now)

    def connections_to(self, server: int) -> int:
        """The number of connections to a server, idle or in use."""
        in_use = [waiter.pooled for waiter in _snapshot(self.leases)]
        every = [*in_use, *_snapshot(self.idle)]
        return sum([pooled is not None and pooled.server == server for pooled in every])

    def requeue_at_server_limit(self, waiter: Waiter, now: float, until: float) -> bool:
        """Put a caller at the head of the queue because no server accepts more connections.

        Until the time ``until``, when a server can be tried again, the effective size of the pool
        is the number of connections that it has. Returns False, and changes nothing, if it has
        none: then the caller would wait for ever.
        """
        # Connections are counted, not leases: a caller that is still connecting may never have a
        # connection to return.
        in_use = sum([other.pooled is not None for other in _snapshot(self.leases)])
        if not (size := in_use + len(self.idle)):
            return False
        self._reduced_size, self._reduced_until = size, until
        waiter.not_before = -math.inf
        self._enqueue_first(waiter)
        self.connecting.discard(waiter)
        self.leases.discard(waiter)
        self.dispatch(now)
        return True

    def effective_size(self, now: float) -> int:
        """The maximum number of connections now: ``max_size``, or fewer at a server's limit."""
        return self._reduced_size if now < self._reduced_until else self.options.max_size

    def more_room_in(self, now: float) -> float:
        """Seconds until the effective size is ``max_size`` again; infinity if it is already."""
        return self._reduced_until - now if now < self._reduced_until else math.inf

    def drain(self) -> None:
        """Begin a new generation: existing connections are closed when next checked."""
        self.generation += 1

    def connected(self, waiter: Waiter, now: float) -> None:
        """Record that a caller has made its connection, so that the next caller may make one."""
        waiter.not_before = -math.inf
        self.connecting.discard(waiter)
        self.dispatch(now)

    def release(
        self, waiter: Waiter, pooled: PooledConnection | None, now: float, *, was_used: bool = True
    ) -> None:
        """Release the place in the queue and the lease, and return the connection if any.

        Args:
            waiter: the caller.
            pooled: the connection, which becomes idle; None if there is none.
            now: the time.
            was_used: False after a mere keep-alive NOOP; see `release_without_dispatch`.
        """
        # Searching the queue takes time, and a caller that was served is no longer in it.
        may_be_queued = not self.is_served(waiter)
        self.release_without_dispatch(waiter, pooled, now, was_used=was_used)
        if self.queue:
            if may_be_queued or self.queue[0] is waiter:
                self._remove_from_queue(waiter)
            self.dispatch(now)

    def release_without_dispatch(
        self, waiter: Waiter, pooled: PooledConnection | None, now: float, *, was_used: bool = True
    ) -> None:
        """Release the lease, and return the connection if any, without serving the queue.

        With ``was_used`` false, for a keep-alive NOOP, the connection becomes the oldest idle one
        again.
        """
        waiter.pooled = None
        if pooled is not None:
            if was_used:
                pooled.idle_since = pooled.last_used_at = now
                end = pooled.created_at + pooled.lifetime
                pooled.expires_at = min(end, now + self._max_idle)
                self.idle.append(pooled)
            else:
                self.idle.appendleft(pooled)
        # The lease is released last, so that there is never one connection more than ``max_size``.
        self.leases.discard(waiter)
        self.connecting.discard(waiter)

    def dispatch(self, now: float) -> None:
        """Serve the queue as far as there are leases, idle connections and rights to connect."""
        place = 0
        while place < len(self.queue):
            waiter = self.queue[place]
            if self.is_served(waiter) or self._serve(waiter, now):
                waiter.wake()
                self._remove_from_queue(waiter)
            elif self.idle and self._has_room(now):
                # This waiter needs the right to connect; later ones may use an idle connection.
                place += 1
            else:
                return

    def is_served(self, waiter: Waiter) -> bool:
        """Whether a caller has a connection, or the right to make one."""
        return waiter.pooled is not None or waiter in self.connecting

    def _enqueue_first(self, waiter: Waiter) -> None:
        waiter.wakeup = Wakeup()
        self.queue.appendleft(waiter)

    def _remove_from_queue(self, waiter: Waiter) -> None:
        try:
            self.queue.remove(waiter)
        except ValueError:
            pass  # it was served already

    def _remove_idle(self, pooled: PooledConnection) -> bool:
        try:
            self.idle.remove(pooled)
        except ValueError:
            return False  # rule 4
        return True

    def _has_room(self, now: float) -> bool:
        return len(self.leases) < self.effective_size(now)

    def _serve(self, waiter: Waiter, now: float) -> bool:
        # The lease comes first, so that no interrupting call makes one connection too many (rule
        # 4). A waiter whose dispatch was interrupted (rule 3) has a lease already.
        if waiter not in self.leases:
            if not self._has_room(now):
                return False
            waiter.since = now
            self.leases.add(waiter)
        is_served = len(self.leases) <= self.effective_size(now) and self._equip(waiter, now)
        if not is_served:
            # A waiter that keeps a lease while it waits could wait for itself.
            self.leases.discard(waiter)
        return is_served

    def _equip(self, waiter: Waiter, now: float) -> bool:
        """Give a caller with a lease an idle connection, or the right to make one."""
        if self._takes_idle(waiter, now):
            try:
                waiter.pooled = self.idle.pop()
                return True
            except IndexError:
                pass  # rule 4
        if len(self.connecting) >= self.options.max_connecting:
            return False
        self.connecting.add(waiter)
        return True

    def _takes_idle(self, waiter: Waiter, now: float) -> bool:
        """Whether a caller takes the last returned idle connection, rather than make one."""
        try:
            returned_at = self.idle[-1].idle_since
        except IndexError:
            return False
        if returned_at > waiter.not_before:
            return True
        # The idle connection may be dead, but there is no room for a new one.
        return len(self.leases) + len(self.idle) > self.effective_size(now)

    def discard_reason_on_return(
        self, pooled: PooledConnection, now: float
    ) -> DiscardReason | None:
        """Why a returned connection must not become idle; None if it may."""
        if self.is_closed:
            return DiscardReason.POOL_CLOSED
        if pooled.generation != self.generation:
            return DiscardReason.DRAINED
        if now >= pooled.created_at + pooled.lifetime:
            return DiscardReason.MAX_LIFETIME
        if pooled.connection.transactions >= pooled.max_messages:
            return DiscardReason.MAX_MESSAGES
        return None

    def discard_reason_when_idle(
        self, pooled: PooledConnection, now: float
    ) -> DiscardReason | None:
        """Why an idle connection must be neither handed out nor kept; None if it may be."""
        if pooled.generation != self.generation:
            return DiscardReason.DRAINED
        if now < pooled.expires_at:
            return None
        is_old = now - pooled.created_at >= pooled.lifetime
        return DiscardReason.MAX_LIFETIME if is_old else DiscardReason.MAX_IDLE

    def take_idle(self) -> list[PooledConnection]:
        """Remove all idle connections."""
        taken: list[PooledConnection] = []
        while self.idle:
            try:
                taken.append(self.idle.pop())
            except IndexError:
                break  # rule 4
        return taken

    def take_expired(self, now: float) -> list[tuple[PooledConnection, DiscardReason]]:
        """Remove the idle connections that are to be closed; return them with the reasons."""
        return [
            (pooled, reason)
            for pooled in _snapshot(self.idle)
            if (reason := self.discard_reason_when_idle(pooled, now)) is not None
            and self._remove_idle(pooled)
        ]

    def take_oldest_expired(self, now: float) -> tuple[PooledConnection, DiscardReason] | None:
        """Remove the connection that has been idle for longest, if it is to be closed.

        Takes constant time, so that it can be called whenever a connection is returned.
        """
        try:
            oldest = self.idle[0]
        except IndexError:
            return None
        reason = self.discard_reason_when_idle(oldest, now)
        if reason is None or not self._remove_idle(oldest):
            return None
        return oldest, reason

    def borrow_for_noop(self, waiter: Waiter, now: float) -> PooledConnection | None:
        """Take an idle connection that needs a NOOP, with a lease; None if none needs one."""
        for pooled in _snapshot(self.idle):
            due = self.noop_due(pooled)
            if due is None or now < due:
                continue
            waiter.since = waiter.noop_since = now
            self.leases.add(waiter)
            if self._remove_idle(pooled):
                waiter.pooled = pooled
                return pooled
            self.leases.discard(waiter)
        return None

    def has_noop_due(self, now: float) -> bool:
        """Whether an idle connection needs a NOOP."""
        dues = (self.noop_due(pooled) for pooled in _snapshot(self.idle))
        return any(due is not None and now >= due for due in dues)

    def overdue_noops(self, now: float, grace: float) -> list[Waiter]:
        """The leases of keep-alive NOOPs without a reply for ``grace`` seconds."""
        return [
            waiter
            for waiter in _snapshot(self.leases)
            if waiter.noop_since is not None and now >= waiter.noop_since + grace
        ]

    def noop_overdue_in(self, now: float, grace: float) -> float:
        """Seconds until the next NOOP in flight becomes overdue; infinity if there is none."""
        begun = [w.noop_since for w in _snapshot(self.leases) if w.noop_since is not None]
        return max(0.0, min(begun) + grace - now) if begun else math.inf

    def noop_due(self, pooled: PooledConnection) -> float | None:
        """When an idle connection needs its next NOOP; None for never."""
        if self.options.keepalive is None or pooled.noops >= MAX_NOOPS:
            return None
        return pooled.last_used_at + self.options.keepalive

    def next_due(self) -> float | None:
        """When idle connections need maintenance again; None while nothing is idle."""
        idle = _snapshot(self.idle)
        moments = [p.expires_at for p in idle]
        moments += [due for p in idle if (due := self.noop_due(p)) is not None]
        return min(moments, default=None)


def _snapshot(items: Collection[T]) -> tuple[T, ...]:
    while True:
        try:
            return tuple(items)
        except RuntimeError:
            pass  # an interrupting call changed the container during the copy (rule 4)
