"""The statistics of a pool.

`Counters` belong to a pool and change under its lock; `PoolStats` is an immutable snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from smtpconn.model.pickling import reduce_value
from smtpconn.pool.failover import ServerStats


class Counters:
    """The counters of a pool; see `PoolStats` for the meanings."""

    def __init__(self) -> None:
        self.checkouts = 0
        self.waits = 0
        self.timeouts = 0
        self.overloads = 0
        self.retries = 0
        self.noops = 0
        self.messages = 0
        self.failed_messages = 0
        self.unknown_messages = 0
        self.accepted_recipients = 0
        self.rejected_recipients = 0
        self.wait_seconds = 0.0
        self.use_seconds = 0.0
        self.discards: defaultdict[str, int] = defaultdict(int)

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
        """Add to counters of the same names.

        Each addition is one statement without a call, so that no addition is lost if a signal
        handler counts too.
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
        name: the name of the pool.
        max_size: the maximum number of connections.
        in_use: borrowed connections, including those that are being opened.
        idle: idle connections.
        connecting: connections that are being opened.
        waiting: callers that wait for a connection.
        checkouts: connections handed out so far, including those that were dead and could not be
            replaced.
        waits: callers that had to wait.
        timeouts: callers that got no connection in time.
        overloads: callers that were refused because too many waited.
        connects, connect_errors: successful and failed connects.
        retries: messages sent again because a reused connection was dead before the content was
            begun.
        noops: keep-alive NOOPs.
        messages, failed_messages: messages that `ConnectionPool.send` and the other methods sent,
            or failed to send.
        unknown_messages: failed messages that may have been delivered.
        accepted_recipients, rejected_recipients: recipients of the messages that were sent.
        wait_seconds, use_seconds, connect_seconds: total time that callers waited for a connection
            (including connecting), held one, and connected.
        discards: connections that the pool closed, by reason.
        effective_size: ``max_size``, or less for a while after every available server has replied
            that there are too many connections.
        servers: the state of each server, in the order given.
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
