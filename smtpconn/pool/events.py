"""Events of a pool: frozen values, one for each operation that begins, ends or fails.

A hook is any function that takes one `PoolEvent`. It runs in the thread that causes the event,
never under a lock; an exception it raises is logged and not passed on. Without a hook no events are
created.
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
    """The operation that an event belongs to."""

    __reduce_ex__ = reduce_enum

    CHECKOUT = "checkout"
    CHECKIN = "checkin"
    CONNECT = "connect"
    SEND = "send"
    NOOP = "noop"
    DISCARD = "discard"


class Stage(enum.StrEnum):
    """Whether the operation begins, ends or fails."""

    __reduce_ex__ = reduce_enum

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """One event.

    Attributes:
        pool: the pool's name.
        action, stage: the operation, and whether it begins, ends or fails.
        server: ``host:port``, or the path of a UNIX socket; "" while none is chosen.
        seconds: the duration; None until the operation has ended.
        error: why the operation failed; None otherwise, and for an error that is no `SmtpError`.
        reason: why a connection was closed, for `Action.DISCARD`.
        operation: the number that the events of one operation share, unique in this process; 0 for
            an operation without a `Stage.STARTED` event.
        protocol: the server's protocol; None while none is chosen.
        accepted, rejected: the numbers of accepted and refused recipients of a message that was
            sent.
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
"""A function that a pool calls for each event; it should be quick, because the caller waits."""


class EventEmitter:
    """Calls a hook for each event, if there is one.

    Args:
        pool: the pool's name.
        hook: the function to call; an exception it raises is logged.
    """

    def __init__(self, pool: str, hook: EventHook | None) -> None:
        self.pool = pool
        self._hook = hook

    def operation(self, action: Action, server: ServerConfig | None = None) -> OperationEvents:
        """The events of an operation that is about to begin, with its server if known."""
        if self._hook is None:
            return NO_EVENTS
        return _HookedEvents(self.pool, self._hook, action, server)

    def checkin(self, server: ServerConfig) -> OperationEvents:
        """The event for the later return of a connection that is borrowed now."""
        if self._hook is None:
            return NO_EVENTS
        return _HookedEvents(self.pool, self._hook, Action.CHECKIN, server, operation=0)

    def emit_discard(self, server: ServerConfig, reason: str) -> None:
        """Emit the event that the pool closes a connection, and why."""
        if self._hook is not None:
            events = _HookedEvents(self.pool, self._hook, Action.DISCARD, server, operation=0)
            events.done_with_reason(reason)


class OperationEvents:
    """The events of one operation; the base class emits none."""

    __slots__ = ()

    def begin(self) -> None:
        """Emit that the operation begins now."""

    def set_server(self, server: ServerConfig) -> None:
        """Set the server for the following events of the operation."""

    def done(self, accepted: int = 0, rejected: int = 0) -> None:
        """Emit that the operation has ended; for a message, with the numbers of recipients."""

    def failed(self, error: BaseException) -> None:
        """Emit that the operation has failed."""


NO_EVENTS = OperationEvents()
"""The events of every operation of a pool without a hook: one shared object."""


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
        self._emit(Stage.STARTED, None)

    def set_server(self, server: ServerConfig) -> None:
        self._server = server

    def done(self, accepted: int = 0, rejected: int = 0) -> None:
        self._emit(Stage.DONE, self._seconds(), accepted=accepted, rejected=rejected)

    def failed(self, error: BaseException) -> None:
        known = error if isinstance(error, SmtpError) else None
        self._emit(Stage.FAILED, self._seconds(), error=known)

    def done_with_reason(self, reason: str) -> None:
        """Emit that the operation has ended, with a reason and without a duration."""
        self._emit(Stage.DONE, None, reason=reason)

    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def _emit(
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
