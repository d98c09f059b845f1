"""Bytes of a fuzzer, taken as numbers, texts and pieces.

Fields are taken from the front, up to the byte FF, which is nowhere in UTF-8; numbers from the
back, a byte each. So a mutation changes one thing and leaves the meaning of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

FIELD_END = b"\xff"


class Source:
    """What one input holds and has not been taken yet."""

    def __init__(self, data: bytes) -> None:
        self._bytes = data

    def number(self, least: int, most: int) -> int:
        """A number of at most 256 different ones; the least one when nothing is left."""
        if not self._bytes:
            return least
        last, self._bytes = self._bytes[-1], self._bytes[:-1]
        return least + last % (most - least + 1)

    def chance(self) -> bool:
        """Yes or no; no when nothing is left."""
        return bool(self.number(0, 1))

    def choice(self, options: Sequence[T]) -> T:
        """One of several; the first one when nothing is left."""
        return options[self.number(0, len(options) - 1)]

    def field(self) -> bytes:
        """The next field."""
        field, _, self._bytes = self._bytes.partition(FIELD_END)
        return field

    def text(self) -> str:
        """The next field as text; what is no UTF-8 becomes lone surrogates."""
        return self.field().decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """All that is left."""
        rest, self._bytes = self._bytes, b""
        return rest

    def pieces(self) -> Iterator[bytes]:
        """All that is left, in pieces of 0 to 15 bytes, or larger ones as often."""
        sizes = [self.number(0, 31) for _ in range(8)]
        rest, at = self.rest(), 0
        while rest:
            size = sizes[at % len(sizes)]
            at += 1
            # A size of nothing but zeros would never come to an end.
            size = size if size < 16 else 1 << (size - 13)
            size = max(size, 1) if not any(sizes) else size
            yield rest[:size]
            rest = rest[size:]
