"""The figures of a pool: counted where things happen, read as one value.

`Counters` belong to a pool and change under its lock; `PoolStats` is a snapshot that never changes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from smtpconn.model.pickling import reduce_value
from smtpconn.pool.failover import ServerStats


@dataclass(slots=True)
class Counters:
    """What a pool counts; see `PoolStats` for the meanings."""

    checkouts: int = 0
    waits: int = 0
    timeouts: int = 0
    overloads: int = 0
    retries: int = 0
    noops: int = 0
    messages: int = 0
    failed_messages: int = 0
    unknown_messages: int = 0
    accepted_recipients: int = 0
    rejected_recipients: int = 0
    wait_seconds: float = 0.0
    use_seconds: float = 0.0
    discards: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(
        self,
        *,
        messages: int = 0,
        failed_messages: int = 0,
        unknown_messages: int = 0,
        accepted_recipients: int = 0,
        rejected_recipients: int = 0,
        retries: int = 0,
        noops: int = 0,
    ) -> None:
        """Count these.

        Each addition stands alone and calls nothing, so that none is lost if a signal handler that
        counts, too, interrupts this.
        """
        self.messages += messages
        self.failed_messages += failed_messages
        self.unknown_messages += unknown_messages
        self.accepted_recipients += accepted_recipients
        self.rejected_recipients += rejected_recipients
        self.retries += retries
        self.noops += noops


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment.

    Attributes:
        name: the pool's.
        max_size: connections it may have.
        in_use: leases out, those that are being connected included.
        idle: connections waiting for work.
        connecting: connections being made.
        waiting: callers waiting for a connection.
        checkouts: connections handed out so far; also one that was dead and could not be replaced.
        waits: callers who had to wait for one.
        timeouts, overloads: callers who got none: in time, or because too many waited.
        connects, connect_errors: connections made, and attempts that failed.
        retries: messages sent again because a reused connection was dead before content was spent.
        noops: keep-alive NOOPs.
        messages, failed_messages: what `ConnectionPool.send` and its kin did.
        unknown_messages: those of the failed ones that may have been delivered.
        accepted_recipients, rejected_recipients: of the messages that were sent.
        wait_seconds, use_seconds, connect_seconds: spent by all callers together on waiting for a
            connection (connecting included), on holding one, and on connecting.
        discards: connections given up, by reason.
        effective_size: ``max_size``, or less for a while after every server that can be had said
            that there are too many connections.
        servers: how each server stands, in the order given.
    """

    __reduce_ex__ = reduce_value

    name: str
    max_size: int
    in_use: int
    idle: int
    connecting: int
    waiting: int
    checkouts: int
    waits: int
    timeouts: int
    overloads: int
    connects: int
    connect_errors: int
    retries: int
    noops: int
    messages: int
    failed_messages: int
    unknown_messages: int
    accepted_recipients: int
    rejected_recipients: int
    wait_seconds: float
    use_seconds: float
    connect_seconds: float
    discards: Mapping[str, int]
    effective_size: int
    servers: tuple[ServerStats, ...]
