"""The limits of a pool: their names, defaults and valid values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from smtpconn.model.errors import ValidationError
from smtpconn.net.deadline import Deadline
from smtpconn.pool.events import EventHook


class PoolKeywords(TypedDict, total=False):
    """The keyword arguments of `smtpconn.ConnectionPool`, which explains them."""

    max_size: int
    acquire_timeout: float | None
    max_waiting: int | None
    max_idle: float
    max_lifetime: float
    max_messages: int
    keepalive: float | None
    max_connecting: int
    max_rate: float | None
    burst: int
    leak_after: float | None
    on_event: EventHook | None
    name: str | None


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The limits of a pool, in seconds and counts; `smtpconn.ConnectionPool` explains them.

    Raises:
        ValidationError: an invalid limit.
    """

    max_size: int = 5
    acquire_timeout: float | None = None
    max_waiting: int | None = None
    max_idle: float = 60.0
    max_lifetime: float = 900.0
    max_messages: int = 100
    keepalive: float | None = 20.0
    max_connecting: int = 2
    leak_after: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_size", "max_messages", "max_connecting"):
            check_count(name, getattr(self, name), 1)
        if self.max_waiting is not None:
            check_count("max_waiting", self.max_waiting, 0)
        for name in ("max_idle", "max_lifetime"):
            _check_seconds(name, getattr(self, name))
        for name in ("acquire_timeout", "keepalive", "leak_after"):
            if getattr(self, name) is not None:
                _check_seconds(name, getattr(self, name))


def check_other_options(burst: int, on_event: EventHook | None, name: str | None) -> None:
    """Check the arguments of `smtpconn.ConnectionPool` that are not in `PoolOptions`.

    Raises:
        ValidationError: an invalid value.
    """
    check_count("burst", burst, 1)
    if on_event is not None and not callable(on_event):
        raise ValidationError(f"on_event is called as on_event(event), not {on_event!r:.40}")
    if name is not None and not isinstance(name, str):
        raise ValidationError(f"name is a str, not {name!r:.40}")


def _check_seconds(name: str, seconds: float) -> None:
    try:
        Deadline(seconds)
    except ValidationError:
        raise ValidationError(
            f"{name} is a number of seconds above 0, not {seconds!r:.40}"
        ) from None


def check_count(name: str, count: object, least: int) -> None:
    """Check that the option ``name`` is a number of things.

    Raises:
        ValidationError: ``count`` is no int, or below ``least``.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise ValidationError(f"{name} is {least} or more, not {count!r:.40}")
