"""What a pool decides, without a lock, a clock, a thread or a socket of its own.

The caller holds the pool's lock and passes the time in. The rules:

Rule 1: capacity is permits, not connections. A caller has a `Ticket`; the ticket in ``permits`` is
        the permit. A connection may be lost, closed or not made yet: the permit is given back all
        the same, once, and giving it back twice changes nothing.
Rule 2: one queue, first in, first out. Whoever is at its head gets the next permit, and with it an
        idle connection (the youngest, so that the others grow old and can go) or the right to make
        one, of which ``max_connecting`` are out at a time.
Rule 3: any method may be cut off by an exception at any bytecode and leaves a state from which the
        next call to `settle` goes on rightly. So every step is one operation of a list, set or
        deque, and each step can be done again. No other containers: theirs is Python code, which
        can be cut off half-way.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass

from smtpconn.client.connection import SmtpConnection
from smtpconn.pool.options import Limits
from smtpconn.protocol.quirks import MAX_NOOPS


@dataclass(slots=True, eq=False)
class Pooled:
    """A connection of the pool and what is known of its life; times are of the monotonic clock.

    ``good_until`` is when an idle one expires, known when it comes back, so that handing it out
    again takes one comparison.
    """

    connection: SmtpConnection
    born: float
    lifetime: float
    idle_since: float = 0.0
    good_until: float = 0.0
    spoke_at: float = 0.0
    server: int = 0
    generation: int = 0
    most_messages: float = math.inf
    uses: int = 0
    noops: int = 0


def _held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class Ticket:
    """A caller's place in the queue, and then its permit.

    Its attributes begin as the class has them: one is made for every checkout, which needs but two.

    Attributes:
        wake: released when the caller's turn has come; None for one that never stood in line.
        pooled: the idle connection it was given; None if it is to make one.
        since: when it got its permit.
        fresh: whether it wants no idle connection.
    """

    wake: threading.Lock | None = None
    pooled: Pooled | None = None
    since: float = 0.0
    fresh: bool = False

    def wait(self, seconds: float) -> bool:
        """Wait to be called, at most so long; whether it was."""
        return self.wake is not None and self.wake.acquire(timeout=seconds)

    def call(self) -> None:
        """Tell the caller that it is its turn; again does no harm."""
        if self.wake is not None and self.wake.locked():
            self.wake.release()


class PoolState:
    """Who has a permit, who waits for one, and which connections are idle."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.permits: set[Ticket] = set()
        self.queue: deque[Ticket] = deque()
        self.connecting: set[Ticket] = set()
        self.idle: deque[Pooled] = deque()
        self.is_closed = False
        self.generation = 0
        self._max_size = self._ceiling = limits.max_size
        self._max_idle = limits.max_idle
        self._ceiling_until = 0.0

    def is_overloaded(self, now: float) -> bool:
        """Whether one more caller would be one too many."""
        may_connect = len(self.connecting) < self.limits.max_connecting
        would_wait = bool(self.queue) or not self._has_room(now) or not (self.idle or may_connect)
        return would_wait and len(self.queue) >= self.limits.max_waiting

    def take_now(self, ticket: Ticket, now: float) -> Pooled | None:
        """Serve a caller who need not stand in line: the common case, and nothing else."""
        if (
            not self.idle
            or self.queue
            or self.is_closed
            or len(self.permits) >= self._max_size
            or now < self._ceiling_until
        ):
            return None
        ticket.since = now
        self.permits.add(ticket)
        ticket.pooled = pooled = self.idle.pop()
        return pooled

    def give_now(self, ticket: Ticket, pooled: Pooled, now: float) -> bool:
        """Take back what is good from a caller while nobody waits: the common case.

        False if it is not that; nothing has changed then.
        """
        end = pooled.born + pooled.lifetime
        idle = self.idle
        if (
            self.queue
            or self.is_closed
            or now >= end
            or pooled.generation != self.generation
            or pooled.connection.transactions >= pooled.most_messages
            or (idle and now >= idle[0].good_until)
        ):
            return False
        idle_end = now + self._max_idle
        pooled.idle_since = pooled.spoke_at = now
        pooled.good_until = end if end < idle_end else idle_end
        ticket.pooled = None
        idle.append(pooled)
        self.permits.discard(ticket)
        return True

    def enter(self, ticket: Ticket, now: float) -> bool:
        """Take a place in the queue; whether the caller's turn has come at once."""
        ticket.wake = _held_lock()
        self.queue.append(ticket)
        self.settle(now)
        return self.is_served(ticket)

    def again(self, ticket: Ticket, now: float, *, fresh: bool = False) -> None:
        """Give a caller whose connection was no good its turn again, before all others.

        With ``fresh`` it is to make one, because those that are idle may be no better.
        """
        ticket.pooled = None
        ticket.fresh = fresh
        ticket.wake = _held_lock()
        self.queue.appendleft(ticket)
        self.permits.discard(ticket)
        self.settle(now)

    def connections_to(self, server: int) -> int:
        """How many connections to a server are idle or lent."""
        lent = sum(
            ticket.pooled is not None and ticket.pooled.server == server for ticket in self.permits
        )
        return lent + sum(pooled.server == server for pooled in self.idle)

    def step_back(self, ticket: Ticket, now: float, until: float) -> bool:
        """No server takes more connections: wait for one to come back, if there are any.

        The pool's effective size is lowered to those it has, ``until`` a server can be tried again.
        Returns False if there is none to wait for.
        """
        # Connections and not permits: who only connects or waits may never have one to give.
        lent = sum(other.pooled is not None for other in self.permits)
        if not lent + len(self.idle):
            return False
        self._ceiling, self._ceiling_until = lent + len(self.idle), until
        ticket.fresh = False
        ticket.wake = _held_lock()
        self.queue.appendleft(ticket)
        self.connecting.discard(ticket)
        self.permits.discard(ticket)
        self.settle(now)
        return True

    def effective_size(self, now: float) -> int:
        """How many connections there may be now: ``max_size``, or fewer if the server said so."""
        return self._ceiling if now < self._ceiling_until else self.limits.max_size

    def more_room_in(self, now: float) -> float:
        """Seconds until a lowered effective size is over; infinity if it is not lowered."""
        return self._ceiling_until - now if now < self._ceiling_until else math.inf

    def drain(self) -> None:
        """Have every connection that exists closed when it is next looked at."""
        self.generation += 1

    def connected(self, ticket: Ticket, now: float) -> None:
        """Note that a caller has made its connection, so that the next one may make one."""
        self.connecting.discard(ticket)
        self.settle(now)

    def leave(
        self, ticket: Ticket, pooled: Pooled | None, now: float, *, was_used: bool = True
    ) -> None:
        """Give everything back: the place in the queue, the permit, and the connection if any.

        One that was only kept alive goes below the other idle ones, where it was.
        """
        # Looking for a place in the queue takes time; who had its turn has none any more.
        may_stand_in_line = not self.is_served(ticket)
        ticket.pooled = None
        if pooled is not None:
            if was_used:
                self.idle.append(pooled)
            else:
                self.idle.appendleft(pooled)
        self.permits.discard(ticket)
        if self.connecting:
            self.connecting.discard(ticket)
        if self.queue:
            if may_stand_in_line or self.queue[0] is ticket:
                self._remove_from_queue(ticket)
            self.settle(now)

    def settle(self, now: float) -> None:
        """Serve the queue as far as there are permits, idle connections and rights to connect."""
        while self.queue:
            ticket = self.queue[0]
            if not self.is_served(ticket) and not self._serve(ticket, now):
                break
            ticket.call()
            self.queue.popleft()

    def is_served(self, ticket: Ticket) -> bool:
        """Whether a caller's turn has come."""
        return ticket.pooled is not None or ticket in self.connecting

    def _remove_from_queue(self, ticket: Ticket) -> None:
        try:
            self.queue.remove(ticket)
        except ValueError:
            pass  # its turn had come

    def _has_room(self, now: float) -> bool:
        return len(self.permits) < self.effective_size(now)

    def _serve(self, ticket: Ticket, now: float) -> bool:
        takes_idle = bool(self.idle) and not ticket.fresh
        if not takes_idle and len(self.connecting) >= self.limits.max_connecting:
            return False
        # Only now: who waits holds no permit, or it might wait for itself.
        if ticket not in self.permits:
            if not self._has_room(now):
                return False
            ticket.since = now
            self.permits.add(ticket)
        if takes_idle:
            ticket.pooled = self.idle.pop()
        else:
            self.connecting.add(ticket)
        return True

    def why_not_keep(self, pooled: Pooled, now: float) -> str | None:
        """Why a connection that comes back should not become idle; None if it may, from ``now``."""
        if self.is_closed:
            return "pool closed"
        if pooled.generation != self.generation:
            return "drained"
        end = pooled.born + pooled.lifetime
        if now >= end:
            return "max_lifetime"
        if pooled.connection.transactions >= pooled.most_messages:
            return "max_messages"
        idle_end = now + self.limits.max_idle
        pooled.idle_since = pooled.spoke_at = now
        pooled.good_until = end if end < idle_end else idle_end
        return None

    def why_expired(self, pooled: Pooled, now: float) -> str | None:
        """Why an idle connection should not be handed out or kept any more; None if it may."""
        if pooled.generation != self.generation:
            return "drained"
        if now < pooled.good_until:
            return None
        return "max_lifetime" if now - pooled.born >= pooled.lifetime else "max_idle"

    def take_expired(self, now: float) -> list[tuple[Pooled, str]]:
        """Remove the idle connections whose time is over, with the reasons."""
        expired = [(p, why) for p in self.idle if (why := self.why_expired(p, now)) is not None]
        for pooled, _ in expired:
            self.idle.remove(pooled)
        return expired

    def take_oldest_expired(self, now: float) -> tuple[Pooled, str] | None:
        """Remove the connection that has been idle for longest, if its time is over.

        What every return can afford to ask, however many are idle.
        """
        if not self.idle or (why := self.why_expired(self.idle[0], now)) is None:
            return None
        return self.idle.popleft(), why

    def borrow_for_noop(self, ticket: Ticket, now: float) -> Pooled | None:
        """Take an idle connection that needs a NOOP, and a permit with it; None if none does."""
        for pooled in self.idle:
            due = self.noop_due(pooled)
            if due is not None and now >= due:
                ticket.since = now
                self.permits.add(ticket)
                self.idle.remove(pooled)
                return pooled
        return None

    def noop_due(self, pooled: Pooled) -> float | None:
        """When an idle connection needs its next NOOP; None for never."""
        if self.limits.keepalive is None or pooled.noops >= MAX_NOOPS:
            return None
        return pooled.spoke_at + self.limits.keepalive

    def next_due(self) -> float | None:
        """When the keeper of idle connections has to look again; None while nothing is idle."""
        moments = [p.good_until for p in self.idle]
        moments += [due for p in self.idle if (due := self.noop_due(p)) is not None]
        return min(moments, default=None)
