"""How public values and enums are pickled: as ``smtpconn.NAME``, the name users import.

Most of these classes keep the module they are defined in as their ``__module__``, because
`typing.get_type_hints` and `inspect.getsource` need it. A pickle that named it could not be read
once the class has moved to another file. So the pickle names one of the two functions at the end,
which ``smtpconn`` has as attributes, and they look the class up there.

An instance of a user's own subclass is pickled the usual way, by the name of that subclass.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import SupportsIndex


def reduce_value(self: object, protocol: SupportsIndex) -> str | tuple[object, ...]:
    """The ``__reduce_ex__`` of a public dataclass; it keeps the values of all fields."""
    if not type(self).__module__.startswith("smtpconn."):
        return object.__reduce_ex__(self, protocol)
    assert is_dataclass(self)
    values = {each.name: getattr(self, each.name) for each in fields(self)}
    return restore_value, (type(self).__name__, values)


def reduce_enum(self: enum.Enum, proto: object) -> tuple[object, ...]:
    """The ``__reduce_ex__`` of a public enum, of which there are no subclasses."""
    return make_public, (type(self).__name__, (self.value,), {})


def _public(name: str) -> type:
    # Not an import: the package is loaded, and this layer is below it.
    kind = getattr(sys.modules["smtpconn"], name)
    assert isinstance(kind, type)
    return kind


def make_public(name: str, args: tuple[object, ...], options: Mapping[str, object]) -> object:
    """Call the constructor of a public class; pickles name this function."""
    return _public(name)(*args, **options)


def restore_value(name: str, values: Mapping[str, object]) -> object:
    """Make a public dataclass from the values of its fields; pickles name this function."""
    value: object = object.__new__(_public(name))
    for field, each in values.items():
        object.__setattr__(value, field, each)
    return value


for _function, _name in ((make_public, "_make_public"), (restore_value, "_restore_value")):
    _function.__module__ = "smtpconn"
    _function.__name__ = _function.__qualname__ = _name
