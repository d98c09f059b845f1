"""Events of a pool: frozen values, one for each operation that begins, ends or fails.

A hook is any function of one `PoolEvent`. It runs in the thread to which the event happens and
never under a lock; an exception it raises is logged and goes no further. Without a hook
no events are created.
"""

from __future__ import annotations

import enum
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import SmtpError
from smtpconn.model.modes import Protocol
from smtpconn.model.pickling import reduce_enum, reduce_value
from smtpconn.pool.pool_log import log

_numbers = itertools.count(1)


class Action(enum.StrEnum):
    """What an event is about."""

    __reduce_ex__ = reduce_enum

    CHECKOUT = "checkout"
    CHECKIN = "checkin"
    CONNECT = "connect"
    SEND = "send"
    NOOP = "noop"
    DISCARD = "discard"


class Stage(enum.StrEnum):
    """Where it stands."""

    __reduce_ex__ = reduce_enum

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something happened.

    Attributes:
        pool: the pool's name.
        action, stage: what, and where it stands.
        server: ``host:port``, or the path of a UNIX socket; "" where none is chosen yet.
        seconds: how long it took; None while it has not ended.
        error: why it failed.
        reason: why a connection was given up, for `Action.DISCARD`.
        operation: a number that an operation's begin and end have in common, and nothing else in
            this process; 0 for what has no begin.
        protocol: what that server speaks; None where none is chosen yet.
        accepted, rejected: of a message that was sent, the recipients it was accepted for and
            those who were refused.
    """

    __reduce_ex__ = reduce_value

    pool: str
    action: Action
    stage: Stage
    server: str = ""
    seconds: float | None = None
    error: SmtpError | None = None
    reason: str = ""
    operation: int = 0
    protocol: Protocol | None = None
    accepted: int = 0
    rejected: int = 0


EventHook: TypeAlias = Callable[[PoolEvent], None]
"""What a pool calls for each event; it should be quick, because the pool's caller waits for it."""


class EventEmitter:
    """Calls a hook for each event, if there is one.

    Args:
        pool: the pool's name.
        hook: what to call; an exception it raises is logged.
    """

    def __init__(self, pool: str, hook: EventHook | None) -> None:
        self.pool = pool
        self._hook = hook

    def about(self, action: Action, server: ServerConfig | None = None) -> OperationEvents:
        """The events of an operation that is about to begin, at a server if that is known."""
        if self._hook is None:
            return NO_EVENTS
        return _HookedEvents(self.pool, self._hook, action, server)

    def holding(self, server: ServerConfig) -> OperationEvents:
        """The event of a connection, lent from now on, that comes back."""
        if self._hook is None:
            return NO_EVENTS
        return _HookedEvents(self.pool, self._hook, Action.CHECKIN, server, operation=0)

    def discarded(self, server: ServerConfig, reason: str) -> None:
        """A connection is given up."""
        if self._hook is not None:
            events = _HookedEvents(self.pool, self._hook, Action.DISCARD, server, operation=0)
            events.happened(reason)


class OperationEvents:
    """The events of one operation; this class emits none."""

    __slots__ = ()

    def begin(self) -> None:
        """It begins now."""

    def at(self, server: ServerConfig) -> None:
        """It is done with this server."""

    def done(self, accepted: int = 0, rejected: int = 0) -> None:
        """It is done; for a message, with so many recipients."""

    def failed(self, error: BaseException) -> None:
        """It has failed."""


NO_EVENTS = OperationEvents()
"""For a pool without a hook: one object for all operations, so that it costs nothing."""


class _HookedEvents(OperationEvents):
    """The events of one operation, for a hook."""

    __slots__ = ("_action", "_begun", "_hook", "_operation", "_pool", "_server")

    def __init__(
        self,
        pool: str,
        hook: EventHook,
        action: Action,
        server: ServerConfig | None,
        operation: int | None = None,
    ) -> None:
        self._pool = pool
        self._hook = hook
        self._action = action
        self._server = server
        self._operation = next(_numbers) if operation is None else operation
        self._begun = time.monotonic()

    def begin(self) -> None:
        self._tell(Stage.STARTED, None)

    def at(self, server: ServerConfig) -> None:
        self._server = server

    def done(self, accepted: int = 0, rejected: int = 0) -> None:
        self._tell(Stage.DONE, self._seconds(), accepted=accepted, rejected=rejected)

    def failed(self, error: BaseException) -> None:
        known = error if isinstance(error, SmtpError) else None
        self._tell(Stage.FAILED, self._seconds(), error=known)

    def happened(self, reason: str) -> None:
        """It has happened, in no time."""
        self._tell(Stage.DONE, None, reason=reason)

    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def _tell(
        self,
        stage: Stage,
        seconds: float | None,
        *,
        error: SmtpError | None = None,
        reason: str = "",
        accepted: int = 0,
        rejected: int = 0,
    ) -> None:
        server = self._server
        event = PoolEvent(
            self._pool,
            self._action,
            stage,
            "" if server is None else str(server),
            seconds,
            error,
            reason,
            self._operation,
            None if server is None else server.protocol,
            accepted,
            rejected,
        )
        try:
            self._hook(event)
        except Exception:
            log(logging.ERROR, "the hook of %s failed", self._pool, exc_info=True)
