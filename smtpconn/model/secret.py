"""`Secret`: a password or token that is hidden from error reports.

Error reports contain more than texts: Sentry, Django's error page and
``traceback.TracebackException(capture_locals=True)`` show the repr of every local variable in every
frame of the traceback. So a function that receives a secret wraps it at once and deletes the
argument, and a secret is unwrapped only in functions that cannot fail.
"""

from __future__ import annotations

from typing import NoReturn, Self


class Secret:
    """A text that its repr does not show and that is never pickled; compared by value.

    Args:
        value: the text. The code that uses the secret checks its type.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    @classmethod
    def of(cls, value: str | Secret) -> Secret:
        """Wrap a value, unless it is wrapped already."""
        return value if isinstance(value, Secret) else cls(value)

    def reveal(self) -> str:
        """The text."""
        return self._value

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "<secret>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: pickle the credentials it belongs to")
