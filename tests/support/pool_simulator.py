"""`PoolSimulator`: the decisions of a pool, without I/O, threads and a real clock.

It calls `PoolState` in the order in which `smtpconn.pool.core` does, with a simulated time and fake
connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from smtpconn.client.connection import SmtpConnection
from smtpconn.pool.options import PoolOptions
from smtpconn.pool.state import PooledConnection, PoolState, Waiter

START = 1000.0
"""The initial time, on a monotonic clock."""

LIFETIME = 900.0


@dataclass(slots=True, eq=False)
class FakeConnection:
    """The only property of a connection that decisions use: its number of messages."""

    transactions: int = 0


class PoolSimulator:
    """A pool's decisions with a simulated clock.

    Args:
        options: of the pool; everything else has its default.

    Attributes:
        state: the decisions.
        now: the time.
    """

    def __init__(self, options: PoolOptions) -> None:
        self.options = options
        self.state = PoolState(options)
        self.now = START

    def make(self, *, messages: int = 0) -> PooledConnection:
        """A connection made now, with a number of messages sent."""
        return PooledConnection(
            cast(SmtpConnection, FakeConnection(messages)),
            created_at=self.now,
            lifetime=LIFETIME,
            last_used_at=self.now,
            generation=self.state.generation,
            max_messages=self.options.max_messages,
        )

    def arrive(self) -> Waiter:
        """A caller arrives, and waits if necessary."""
        waiter = Waiter()
        if self.state.try_acquire(waiter, self.now) is None:
            self.state.enqueue(waiter, self.now)
        return waiter

    def connect(self, waiter: Waiter) -> PooledConnection:
        """A caller with the right to connect has connected."""
        assert waiter in self.state.connecting
        waiter.pooled = pooled = self.make()
        self.state.connected(waiter, self.now)
        return pooled

    def hold(self) -> tuple[Waiter, PooledConnection]:
        """A caller arrives and gets a connection at once, an idle or a new one."""
        waiter = self.arrive()
        return waiter, waiter.pooled or self.connect(waiter)

    def return_connection(self, waiter: Waiter) -> None:
        """A caller leaves, in any state, and returns its connection if it has one."""
        pooled = waiter.pooled
        if pooled is None or not self.state.try_release(waiter, pooled, self.now):
            if pooled is not None and self.state.discard_reason_on_return(pooled, self.now):
                pooled = None
            self.state.release(waiter, pooled, self.now)

    def lose(self, waiter: Waiter) -> None:
        """A caller leaves without a connection, which was lost or could not be made."""
        self.state.release(waiter, None, self.now)

    def keep_alive(self) -> PooledConnection | None:
        """Have maintenance send one NOOP, if one is due; return its connection."""
        waiter = Waiter()
        pooled = self.state.borrow_for_noop(waiter, self.now)
        if pooled is not None:
            pooled.noops += 1
            pooled.last_used_at = self.now
            self.state.release(waiter, pooled, self.now, was_used=False)
        return pooled

    def close(self) -> None:
        """Close the pool; waiting callers leave when they are woken."""
        self.state.is_closed = True
        self.state.idle.clear()
        for waiter in list(self.state.queue):
            waiter.wake()
            self.lose(waiter)

    def is_to_connect(self, waiter: Waiter) -> bool:
        """Whether a caller has the right to connect."""
        return waiter in self.state.connecting and waiter.pooled is None

    def is_waiting(self, waiter: Waiter) -> bool:
        """Whether a caller waits; otherwise it is served, and was woken."""
        is_asleep = waiter.wakeup is not None and not waiter.wakeup.is_set
        assert is_asleep is (waiter in self.state.queue) is not self.state.is_served(waiter)
        return is_asleep

    def is_gone(self, waiter: Waiter) -> bool:
        """Whether a caller holds nothing of the pool."""
        state = self.state
        places = (state.leases, state.connecting, state.queue)
        return waiter.pooled is None and not any(waiter in place for place in places)

    def fill(self, count: int, *, pause: float = 0.0) -> list[PooledConnection]:
        """Make ``count`` idle connections, returned ``pause`` apart, the oldest first."""
        held = [self.hold() for _ in range(count)]
        for waiter, _ in held:
            self.return_connection(waiter)
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
    """A simulator; all connections may be opened at the same time, unless told otherwise."""
    return PoolSimulator(
        PoolOptions(
            max_size=max_size,
            max_waiting=max_waiting,
            max_connecting=max_connecting,
            max_messages=max_messages,
            max_idle=max_idle,
            max_lifetime=LIFETIME,
            keepalive=keepalive,
        )
    )
