"""A pool_simulator at which callers of a pool are served: its decisions alone, without I/O and
threads.

`PoolSimulator` asks `PoolState` in the order in which `smtpconn.pool.lending` does, at a time of
its own, with connections that are names only. The tests of the decisions play whole days with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from smtpconn.client.connection import SmtpConnection
from smtpconn.pool.options import Limits
from smtpconn.pool.state import Pooled, PoolState, Ticket

START = 1000.0
"""When every day begins, on a monotonic clock."""

LIFETIME = 900.0


@dataclass(slots=True, eq=False)
class FakeConnection:
    """All that is decided on of a connection: how many messages it had."""

    transactions: int = 0


class PoolSimulator:
    """A pool's decisions and a clock.

    Args:
        limits: the pool's; everything else is as by default.

    Attributes:
        state: the decisions.
        now: the time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.state = PoolState(limits)
        self.now = START

    def make(self, *, messages: int = 0) -> Pooled:
        """A connection made now, that had so many messages."""
        return Pooled(
            cast(SmtpConnection, FakeConnection(messages)),
            born=self.now,
            lifetime=LIFETIME,
            spoke_at=self.now,
            generation=self.state.generation,
            most_messages=self.limits.max_messages,
        )

    def arrive(self) -> Ticket:
        """A caller comes, and stands in line if need be."""
        ticket = Ticket()
        if self.state.take_now(ticket, self.now) is None:
            self.state.enter(ticket, self.now)
        return ticket

    def connect(self, ticket: Ticket) -> Pooled:
        """A caller that may connect has connected."""
        assert ticket in self.state.connecting
        ticket.pooled = pooled = self.make()
        self.state.connected(ticket, self.now)
        return pooled

    def hold(self) -> tuple[Ticket, Pooled]:
        """A caller comes and gets a connection at once, an idle one or its own."""
        ticket = self.arrive()
        return ticket, ticket.pooled or self.connect(ticket)

    def give_back(self, ticket: Ticket) -> None:
        """A caller leaves, with a good connection if it has one, in whatever state it is."""
        pooled = ticket.pooled
        if pooled is None or not self.state.give_now(ticket, pooled, self.now):
            is_kept = pooled is not None and self.state.why_not_keep(pooled, self.now) is None
            self.state.leave(ticket, pooled if is_kept else None, self.now)

    def lose(self, ticket: Ticket) -> None:
        """A caller leaves without a connection: it was lost, or could not be made."""
        self.state.leave(ticket, None, self.now)

    def keep_alive(self) -> Pooled | None:
        """Have the keeper say one NOOP, if one is due; on which connection."""
        ticket = Ticket()
        pooled = self.state.borrow_for_noop(ticket, self.now)
        if pooled is not None:
            pooled.noops += 1
            pooled.spoke_at = self.now
            self.state.leave(ticket, pooled, self.now, was_used=False)
        return pooled

    def close(self) -> None:
        """Close the pool; those who wait leave when they are called."""
        self.state.is_closed = True
        self.state.idle.clear()
        for ticket in list(self.state.queue):
            ticket.call()
            self.lose(ticket)

    def is_to_connect(self, ticket: Ticket) -> bool:
        """Whether a caller is to make a connection."""
        return ticket in self.state.connecting and ticket.pooled is None

    def is_waiting(self, ticket: Ticket) -> bool:
        """Whether a caller stands in line, asleep; otherwise it is served, and was called."""
        is_asleep = ticket.wake is not None and ticket.wake.locked()
        assert is_asleep is (ticket in self.state.queue) is not self.state.is_served(ticket)
        return is_asleep

    def is_gone(self, ticket: Ticket) -> bool:
        """Whether nothing of the pool is a caller's any more."""
        state = self.state
        places = (state.permits, state.connecting, state.queue)
        return ticket.pooled is None and not any(ticket in place for place in places)

    def fill(self, count: int, *, pause: float = 0.0) -> list[Pooled]:
        """Have ``count`` idle connections, the oldest first, that came back ``pause`` apart."""
        held = [self.hold() for _ in range(count)]
        for ticket, _ in held:
            self.give_back(ticket)
            self.now += pause
        return [pooled for _, pooled in held]


def pool_simulator(
    *,
    max_size: int = 5,
    max_waiting: int = 100,
    max_connecting: int = 100,
    max_messages: int = 100,
    max_idle: float = 60.0,
    keepalive: float | None = 20.0,
) -> PoolSimulator:
    """A pool_simulator; as many connections as there may be can be made at once, unless told
    otherwise."""
    return PoolSimulator(
        Limits(
            max_size=max_size,
            max_waiting=max_waiting,
            max_connecting=max_connecting,
            max_messages=max_messages,
            max_idle=max_idle,
            max_lifetime=LIFETIME,
            keepalive=keepalive,
        )
    )
