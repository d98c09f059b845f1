"""How the constructor of a frozen dataclass with slots sets its fields fast.

The constructor that `dataclasses` writes calls `object.__setattr__`, which looks each field up by
name. A slot's own setter takes half of the instructions, which matters for values that are made for
every message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TypeAlias, cast

Setter: TypeAlias = Callable[[object, object], None]


def setters(kind: type) -> tuple[Setter, ...]:
    """For each field of a dataclass with slots, in order: a function that sets it in an instance.

    Args:
        kind: the class, whose own slots all fields are.
    """
    return tuple(cast(Setter, vars(kind)[each.name].__set__) for each in fields(kind))
