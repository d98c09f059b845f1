"""What a pool tells those who listen: frozen values, one per thing that begins, ends or fails.

A hook is any function of one `PoolEvent`. It runs in the thread to which the thing happened and
never under a lock; what it raises is logged and goes no further. Nothing is made or measured for
nobody: a pool without a hook makes no events.
"""

from __future__ import annotations

import enum
import logging
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


def tell(hook: Hook | None, event: PoolEvent) -> None:
    """Call a hook; what it raises is logged."""
    if hook is None:
        return
    try:
        hook(event)
    except Exception:
        _log.exception("the hook of %s failed", event.pool)
