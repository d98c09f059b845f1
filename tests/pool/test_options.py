"""The limits of a pool: which values may be given."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn import ConnectionPool, ValidationError, get_pool
from smtpconn.pool.options import PoolKeywords, PoolOptions

COUNTS = {"max_size": 1, "max_waiting": 0, "max_messages": 1, "max_connecting": 1}
SECONDS = ["acquire_timeout", "max_idle", "max_lifetime", "keepalive", "leak_after"]


@pytest.mark.parametrize(("name", "least"), COUNTS.items())
def test_counts(name: str, least: int) -> None:
    """A count is an int from its least value on."""
    for good in (least, least + 1, 10**9):
        assert getattr(PoolOptions(**{name: good}), name) == good
    bad_values = [least - 1, -1, float(least + 1), str(least + 1), True, math.inf]
    if name != "max_waiting":
        bad_values.append(None)
    for bad in bad_values:
        with pytest.raises(ValidationError, match=name):
            PoolOptions(**{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SECONDS)
def test_seconds(name: str) -> None:
    """A time is a finite number above 0."""
    for good in (0.001, 1, 1e9):
        assert getattr(PoolOptions(**{name: good}), name) == good  # type: ignore[arg-type]
    for bad in (0, -1, math.inf, math.nan, "1"):
        with pytest.raises(ValidationError):
            PoolOptions(**{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "may_be_none"),
    [
        ("keepalive", True),
        ("leak_after", True),
        ("acquire_timeout", True),
        ("max_waiting", True),
        ("max_messages", False),
        ("max_idle", False),
        ("max_lifetime", False),
    ],
)
def test_only_some_can_be_switched_off(name: str, may_be_none: bool) -> None:
    """None stands for "no limit" where that means something, and is refused elsewhere."""
    if may_be_none:
        assert getattr(PoolOptions(**{name: None}), name) is None  # type: ignore[arg-type]
    else:
        with pytest.raises(ValidationError):
            PoolOptions(**{name: None})  # type: ignore[arg-type]


def test_limits_are_a_value() -> None:
    """Equal limits are equal, and none can be changed."""
    assert PoolOptions(max_size=3) == PoolOptions(max_size=3) != PoolOptions(max_size=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoolOptions().max_size = 9  # type: ignore[misc]


def test_the_pool_has_the_same_defaults_and_options() -> None:
    """`ConnectionPool`, `get_pool` and `PoolOptions` take the same, with the same defaults."""
    parameters = inspect.signature(ConnectionPool).parameters
    options = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(options) == set(PoolKeywords.__annotations__)
    for field in dataclasses.fields(PoolOptions):
        assert options[field.name] == field.default


@pytest.mark.parametrize("make", [ConnectionPool, get_pool])
@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("burst", "1"),
        ("burst", 0),
        ("burst", None),
        ("burst", 1.5),
        ("max_rate", True),
        ("max_rate", "1"),
        ("on_event", "log"),
        ("name", 5),
        ("name", b"mail"),
    ],
)
def test_options_beside_the_limits(make: Callable[..., object], option: str, wrong: Any) -> None:
    """They are refused by name, whether they are used or not."""
    with pytest.raises(ValidationError, match=f"^{option} is"):
        make("smtp://h.example", **{option: wrong})


@pytest.mark.parametrize("make", [ConnectionPool, get_pool])
def test_an_unknown_option(make: Callable[..., object]) -> None:
    """The error has the name of every option that exists."""
    with pytest.raises(ValidationError) as refused:
        make("smtp://h.example", max_sizes=3)
    assert all(name in str(refused.value) for name in PoolKeywords.__annotations__)


def test_get_pool_takes_one_server() -> None:
    """A second one is refused, not left out."""
    with pytest.raises(ValidationError, match="ConnectionPool"):
        get_pool(["smtp://a.example", "smtp://b.example"])  # type: ignore[arg-type]


@pytest.mark.parametrize("count", ["2", -1, None, 1.5])
def test_warm_takes_a_number(count: Any) -> None:
    """Anything else is refused before a connection is made."""
    with ConnectionPool("smtp://h.invalid") as pool, pytest.raises(ValidationError, match="count"):
        pool.warm(count)
