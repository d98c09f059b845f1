"""What a pool tells those who listen: frozen values, one per thing that begins, ends or fails.

A hook is any function of one `PoolEvent`. It runs in the thread to which the thing happened and
never under a lock; what it raises is logged and goes no further. Nothing is made or measured for
nobody: a pool without a hook makes no events.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from smtpconn.errors import SmtpError

_log = logging.getLogger("smtpconn.pool")


class Action(enum.StrEnum):
    """What an event is about."""

    CHECKOUT = "checkout"
    CONNECT = "connect"
    SEND = "send"
    NOOP = "noop"
    DISCARD = "discard"


class Stage(enum.StrEnum):
    """Where it stands."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something happened.

    Attributes:
        pool: the pool's name.
        action, stage: what, and where it stands.
        server: ``host:port``; "" where none is chosen yet.
        seconds: how long it took; None while it has not ended.
        error: why it failed.
        reason: why a connection was given up, for `Action.DISCARD`.
    """

    pool: str
    action: Action
    stage: Stage
    server: str = ""
    seconds: float | None = None
    error: SmtpError | None = None
    reason: str = ""


Hook: TypeAlias = Callable[[PoolEvent], None]


class Teller:
    """Tells a hook, if there is one.

    Args:
        pool: the pool's name.
        hook: whom to tell; what it raises is logged.
    """

    def __init__(self, pool: str, hook: Hook | None) -> None:
        self.pool = pool
        self.hook = hook

    def tell(
        self,
        action: Action,
        stage: Stage,
        *,
        server: object = "",
        since: float | None = None,
        error: BaseException | None = None,
        reason: str = "",
    ) -> None:
        """Make an event and call the hook; ``since`` is when it began (monotonic clock)."""
        if self.hook is None:
            return
        event = PoolEvent(
            self.pool,
            action,
            stage,
            str(server),
            None if since is None else time.monotonic() - since,
            error if isinstance(error, SmtpError) else None,
            reason,
        )
        try:
            self.hook(event)
        except Exception:
            _log.exception("the hook of %s failed", self.pool)
