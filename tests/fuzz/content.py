"""Message content (RFC 5321 4.5.2): however it is cut, the same leaves as by the slow way."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from smtpconn.model import content
from smtpconn.model.content import Content, Message
from tests.fuzz.source import Source

_SIZES = bytes(range(0, 20, 2))

SEEDS = (
    b"Subject: hello\r\n\r\nHello!\r\n" + _SIZES,
    b".\r\n..\r\n.a\r\n" + _SIZES,
    b"a\n.\nb\r.\rc\r\n.\r\nQUIT\r\n" + _SIZES,
    b"\r\n.\r\r\n\n.\r\n." + _SIZES,
    b"\xff\x00\r" + _SIZES,
)

WORDS = (b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r\n", b".", b"\r")


def check(source: Source) -> None:
    """Whole, from a file and from an iterable: one end, dots stuffed, no bare CR or LF."""
    with _block_of(source.number(1, 32), source.number(1, 64)):
        pieces = list(source.pieces())
        message = b"".join(pieces)
        text = _normalised(message)
        whole = Content(message)
        assert whole.size == len(text)
        assert whole.binary_size == len(message)
        assert whole.short_data() in (None, _stuffed(text) + b".\r\n")
        makers: tuple[Callable[[], Message], ...] = (
            lambda: message,
            lambda: bytearray(message),
            lambda: memoryview(message),
            lambda: io.BytesIO(message),
            lambda: iter(pieces),
        )
        for make in makers:
            data = _joined(Content(make()).as_data())
            assert data == _stuffed(text) + b".\r\n"
            assert _unstuffed(data) == text
            chunks = list(Content(make()).text_chunks())
            assert b"".join(_joined(chunk.buffers) for chunk in chunks) == text
            assert [chunk.is_last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
            chunks = list(Content(make()).binary_chunks())
            assert sum(chunk.size for chunk in chunks) == len(message)
            assert b"".join(_joined(chunk.buffers) for chunk in chunks) == message


@contextmanager
def _block_of(block: int, chunk: int) -> Iterator[None]:
    """Make the module's pieces so small that their edges are everywhere."""
    before = content.BLOCK, content.CHUNK
    content.BLOCK, content.CHUNK = block, chunk
    try:
        yield
    finally:
        content.BLOCK, content.CHUNK = before


def _joined(buffers: Iterable[bytes | bytearray | memoryview]) -> bytes:
    return b"".join(buffers)


def _normalised(message: bytes) -> bytes:
    lines = re.split(rb"\r\n|\r|\n", message)
    unended = lines.pop()
    return b"".join(line + b"\r\n" for line in lines) + (unended + b"\r\n" if unended else b"")


def _stuffed(text: bytes) -> bytes:
    lines = text.split(b"\r\n")[:-1]
    return b"".join((b"." if line[:1] == b"." else b"") + line + b"\r\n" for line in lines)


def _unstuffed(data: bytes) -> bytes:
    """What a server takes that reads line by line up to the first lone dot: all of it."""
    lines = iter(data.split(b"\r\n"))
    taken = []
    for line in lines:
        if line == b".":
            break
        taken.append(line.removeprefix(b".") + b"\r\n")
    assert list(lines) == [b""]
    return b"".join(taken)
