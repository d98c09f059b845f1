"""The message content as it is sent: line ends, dots, size, eight bits (RFC 5321 4.5.2, 2.3.8).

Rule 1: text is never sent with a bare CR or a bare LF. Some servers take one for the
end of a line and others do not ("smuggling", CVE-2023-51764 and others), so each becomes CRLF,
before the dots are stuffed.

Rule 2: bytes that need no change are sent from the caller's buffer without a copy. Others are
rewritten block by block, never as a second complete copy. Files and iterables are streamed.

Rule 3: as much as possible is known before the first command: whether the message consists of
bytes, its size, whether it needs 8BITMIME. One `Content` is made per message, even if the message
is sent twice because a connection turned out to be dead before any content was sent.

Rule 4: text is never sent with a NUL (RFC 2045 2.7, 2.8). Some servers drop it, and then the dot
after it may end the message. BINARYMIME does not end messages with a dot.

This module does not know what the server offers.
"""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeAlias, cast

from smtpconn.model.errors import Phase, ProtocolError, UnsupportedExtensionError, ValidationError

Message: TypeAlias = bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]
"""A message as the caller passes it: bytes, or a binary file or an iterable to be streamed."""

Buffer: TypeAlias = bytes | bytearray | memoryview

BLOCK = 64 * 1024
"""Bytes that are rewritten, or read from a file, at a time."""

CHUNK = 1024 * 1024
"""Bytes of a stream per BDAT."""

MAX_LINE = 998
"""Bytes in a line of text without its CRLF (RFC 5322 2.1.1)."""

SMALL = 4096
"""Bytes below which a piece of a stream is copied to join it with others."""

# As numbers, because ``b"." in data`` first tries to convert the bytes to a number, and fails; that
# takes ten times as long as the search in a short message.
_NUL, _LF, _CR, _DOT = b"\0\n\r."

_RIGHT_LINE_ENDS = (None, "\r\n")
_dot = re.compile(rb"\n(?=\.)").search

END_OF_DATA = b".\r\n"
"""The end of DATA, after the CRLF of the last line."""


NOT_SEVEN_BIT = "the message holds bytes above 127, which 7BIT does not allow"


class Content:
    """A message to be sent: its source and its properties.

    Attributes:
        binary_size: the size in bytes without changes, for SIZE with BODY=BINARYMIME; None if it is
            unknown before a stream has been read to its end.
        whole_size: the same size, but None for every stream.
        is_stream: whether it is a file or an iterable, which can be read once only.
        on_block: called for each block of a stream, before the block is used; an exception that it
            raises ends the message.
        short_text: the message as text, with CRLF line ends; None unless it is `bytes`, and at most
            `BLOCK` of them then.
        is_declared_7bit: whether it is sent with BODY=7BIT; a stream is checked as it is sent.
        read_error: the exception that the caller's file or iterable raised after its first block.

    Raises:
        ValidationError: the message is not bytes, a binary file or an iterable of bytes.
    """

    binary_size: int | None = None
    whole_size: int | None = None
    short_text: bytes | None = None
    is_stream = False
    on_block: Callable[[], object] | None = None
    is_declared_7bit = False
    read_error: Exception | None = None
    _whole: Buffer | None = None
    _stream: Iterator[bytes] = iter(())
    _is_used_up = False

    def __init__(self, message: Message) -> None:
        if isinstance(message, (bytes, bytearray)):
            self._whole = message
            self.binary_size = self.whole_size = size = len(message)
            if size <= BLOCK and isinstance(message, bytes):
                # Rewriting a short message is faster than checking whether it needs that.
                self.is_8bit = not message.isascii()
                text = _with_crlf(message)
                if text and text[-1] != _LF:
                    text += b"\r\n"
                self.size = len(text)
                if self.size <= BLOCK:
                    self.short_text = text
                else:
                    self._text = text
            return
        if isinstance(message, memoryview):
            self._take_view(message)
            return
        _refuse_text(message)
        if hasattr(message, "read"):
            self._take_file(cast(BinaryIO, message))
        elif isinstance(message, Iterable):
            self._take_stream(iter(message))
        else:
            raise ValidationError(
                f"a message is bytes, a binary file or an iterable of bytes, "
                f"not {type(message).__name__}"
            )

    def has_at_most(self, size: int) -> bool:
        """Whether it has at most so many bytes; False for every stream."""
        return self.whole_size is not None and self.whole_size <= size

    # These are computed on first use; BINARYMIME needs none of them.

    @functools.cached_property
    def size(self) -> int | None:
        """Bytes with CRLF line ends and without dot-stuffing, as for SIZE (RFC 1870 3).

        None if it is unknown before a stream has been read to its end.
        """
        return self._scan_result[0]

    @functools.cached_property
    def is_8bit(self) -> bool | None:
        """Whether any byte is above 127; None if that is unknown."""
        return self._scan_result[1]

    @functools.cached_property
    def _text(self) -> Buffer | None:
        """The whole message as text, before dot-stuffing; None if a stream or not yet rewritten."""
        if self.short_text is not None:
            return self.short_text
        whole = self._whole
        return whole if whole is not None and self.size == len(whole) else None

    @functools.cached_property
    def _scan_result(self) -> tuple[int | None, bool | None]:
        return (None, None) if self._whole is None else _scan(self._whole)

    def refuse_nul(self) -> None:
        """Refuse a message that needs BODY=BINARYMIME; a stream is checked as it is sent.

        Raises:
            ValidationError: it contains a NUL.
        """
        whole = self._whole
        if whole is None:
            self._stream = map(_without_nul, self._stream)
        elif isinstance(whole, memoryview):
            for block in _blocks(whole):
                _without_nul(block)
        elif _NUL in whole:
            raise _nul_error(None)

    def as_data(self, *, seven_bit_only: bool = False) -> Iterator[Buffer]:
        """The buffers to write for DATA: CRLF line ends, stuffed dots, the final dot.

        Args:
            seven_bit_only: refuse bytes above 127 in a stream.

        Raises:
            UnsupportedExtensionError: a stream has a byte above 127.
            ValidationError: the same for a message declared as 7BIT; or it contains a NUL.
            ProtocolError: the message is a stream that an earlier send has read.
        """
        text = self._text
        if text is not None and not _has_dot(text):
            return iter((text, END_OF_DATA))
        return self._rewritten(stuff_dots=True, end=END_OF_DATA, seven_bit_only=seven_bit_only)

    def short_data(self) -> bytes | None:
        """The same in one piece, if there is a `short_text`; else None."""
        text = self.short_text
        if text is None:
            return None
        data = (_with_stuffed_dots(text) if _has_dot(text) else text) + END_OF_DATA
        # What is long is written by itself, so that its time does not count for the next message.
        return data if len(data) <= BLOCK else None

    def whole_chunk(self, *, is_binary: bool) -> Chunk | None:
        """The whole message for one BDAT, as text or unchanged; None for a stream."""
        whole = self._whole
        if whole is None:
            return None
        if is_binary:
            return Chunk(len(whole), (whole,), is_last=True)
        size = self.size or 0
        if (text := self._text) is not None:
            return Chunk(size, (text,), is_last=True)
        buffers = self._rewritten(stuff_dots=False, end=b"", seven_bit_only=False)
        return Chunk(size, buffers, is_last=True)

    def text_chunks(self, *, seven_bit_only: bool = False) -> Iterator[Chunk]:
        """The chunks to send with BDAT as text: only line ends are changed, to CRLF.

        Raises: as `as_data`.
        """
        if (whole := self.whole_chunk(is_binary=False)) is not None:
            return iter((whole,))
        return _chunks(self._rewritten(stuff_dots=False, end=b"", seven_bit_only=seven_bit_only))

    def binary_chunks(self) -> Iterator[Chunk]:
        """The chunks to send with BDAT and BODY=BINARYMIME: unchanged (RFC 3030 3)."""
        if (whole := self.whole_chunk(is_binary=True)) is not None:
            return iter((whole,))
        return _chunks(self._use_stream())

    def _rewritten(self, *, stuff_dots: bool, end: bytes, seven_bit_only: bool) -> Iterator[Buffer]:
        encoder = LineEncoder(stuff_dots=stuff_dots)
        if (whole := self._whole) is not None:
            text = self._text
            blocks = _blocks(whole if text is None else text)
        else:
            blocks = self._use_stream()
            if self.is_declared_7bit:
                blocks = map(_declared_7bit, blocks)
            elif seven_bit_only:
                blocks = map(_seven_bit, blocks)
        return itertools.chain(map(encoder.encode, blocks), encoder.finish(end))

    def _take_view(self, message: memoryview) -> None:
        is_plain = message.format == "B" and message.ndim == 1 and message.c_contiguous
        # A view of anything else than contiguous bytes is copied.
        self._whole = message if is_plain else bytes(message)
        self.binary_size = self.whole_size = len(self._whole)

    def _take_file(self, file: BinaryIO) -> None:
        remaining = _remaining(file)
        self._take_stream(iter(lambda: file.read(BLOCK), b""))
        # Converting the line ends may change the size; SIZE is an estimate (RFC 1870 6.1).
        self.size = self.binary_size = remaining

    def _take_stream(self, stream: Iterator[bytes]) -> None:
        self.is_stream = True
        # The first block is read now, so that a text file is refused before a command is sent.
        first = _as_bytes(next(stream, b""))
        self._stream = itertools.chain((first,), map(_as_bytes, self._rest_of(stream)))

    def _rest_of(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the rest of a stream; record its exception, to tell it from network errors."""
        try:
            yield from stream
        except Exception as error:
            self.read_error = error
            raise

    def _use_stream(self) -> Iterator[bytes]:
        if self._is_used_up:
            raise ProtocolError(
                "the message is a stream that was read already: give a new one to send it again",
                phase=Phase.CONTENT,
            )
        self._is_used_up = True
        return self._stream if self.on_block is None else self._with_on_block(self.on_block)

    def _with_on_block(self, on_block: Callable[[], object]) -> Iterator[bytes]:
        for block in self._stream:
            on_block()
            yield block


class Chunk:
    """The content of one BDAT: exactly ``size`` bytes in ``buffers``."""

    __slots__ = ("buffers", "is_last", "size")

    def __init__(self, size: int, buffers: Iterable[Buffer], *, is_last: bool) -> None:
        self.size = size
        self.buffers = buffers
        self.is_last = is_last


def _chunks(buffers: Iterable[Buffer]) -> Iterator[Chunk]:
    """Join the buffers of a stream to chunks; the last one is known only at the end.

    Small buffers are joined, because each object costs dozens of bytes in addition to its content.
    """
    gathered: list[Buffer] = []
    size = 0
    for buffer in buffers:
        if size >= CHUNK:
            yield Chunk(size, tuple(gathered), is_last=False)
            gathered, size = [], 0
        size += len(buffer)
        if len(buffer) >= SMALL:
            gathered.append(buffer)
        elif gathered and isinstance(gathered[-1], bytearray):
            gathered[-1] += buffer
        else:
            gathered.append(bytearray(buffer))
    yield Chunk(size, tuple(gathered), is_last=True)


class LineEncoder:
    """Rewrites text block by block: CRLF line ends, and stuffed dots if asked for."""

    def __init__(self, *, stuff_dots: bool) -> None:
        self._stuff_dots = stuff_dots
        self._at_line_start = True
        self._held_cr = False

    def encode(self, block: bytes) -> bytes:
        """Rewrite the next block; a CR at its end is held back until the next byte is known."""
        if self._held_cr:
            block = b"\r" + block
        self._held_cr = block.endswith(b"\r")
        if self._held_cr:
            block = block[:-1]
        if not block:
            return b""
        block = _with_crlf(block)
        if self._stuff_dots:
            block = _with_stuffed_dots(block, at_line_start=self._at_line_start)
        self._at_line_start = block.endswith(b"\n")
        return block

    def finish(self, end: bytes) -> Iterator[bytes]:
        """End the last line if it has no end, then add ``end``; runs when it is iterated."""
        yield end if self._at_line_start and not self._held_cr else b"\r\n" + end


def _with_stuffed_dots(block: bytes, *, at_line_start: bool = True) -> bytes:
    """A block with a dot inserted before each dot that begins a line (RFC 5321 4.5.2)."""
    stuffed = block.replace(b"\n.", b"\n..")
    return b"." + stuffed if at_line_start and block.startswith(b".") else stuffed


def _with_crlf(block: bytes) -> bytes:
    """A block with CRLF for each line end; the block itself if nothing changes."""
    if _CR not in block:
        # The common case: the email package ends lines with LF by default.
        return block.replace(b"\n", b"\r\n")
    if has_bare_line_end(block):
        return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return block


def has_bare_line_end(text: bytes | bytearray) -> bool:
    """Whether there is a CR without LF after it, or an LF without CR before it."""
    if len(text) > BLOCK:
        return _scan_blocks(text)[0]
    # The decoder of universal newlines finds all three kinds of line ends in one pass, more than
    # twice as fast as counting. It needs a str; Latin-1 maps bytes one to one.
    decoder = io.IncrementalNewlineDecoder(None, False)
    decoder.decode(str(text, "latin-1"), True)
    return decoder.newlines not in _RIGHT_LINE_ENDS


def _scan_blocks(text: bytes | bytearray) -> tuple[bool, bool]:
    """`has_bare_line_end` of a long message, and whether any byte is above 127, in one pass."""
    decoder, coding = io.IncrementalNewlineDecoder(None, translate=False), "ascii"
    view = memoryview(text)
    for start in range(0, len(view), BLOCK):
        block = view[start : start + BLOCK]
        try:
            decoder.decode(str(block, coding))
        except UnicodeDecodeError:
            coding = "latin-1"
            decoder.decode(str(block, coding))
    decoder.decode("", final=True)
    return decoder.newlines not in _RIGHT_LINE_ENDS, coding != "ascii"


def has_long_line(text: bytes) -> bool:
    """Whether a line has more than the 998 bytes that servers must accept (RFC 5321 4.5.3.1.6).

    Jumps to the last line end within 998 bytes each time, so it reads few of the bytes.
    """
    start = 0
    while len(text) - start > MAX_LINE:
        end = text.rfind(b"\n", start, start + MAX_LINE + 2)
        if end == start + MAX_LINE + 1 and text[end - 1] != 0x0D:
            # Without a CR before it, this LF ends a line of 999 bytes.
            end = text.rfind(b"\n", start, end)
        if end < 0:
            return True
        start = end + 1
    return False


def text_size(text: Buffer) -> int:
    """The size of ``text`` in bytes with CRLF line ends, also at the end of its last line."""
    return _scan(text)[0]


def _scan(text: Buffer) -> tuple[int, bool]:
    """The size of a message as text, and whether any byte is above 127."""
    if isinstance(text, memoryview):
        # It has no isascii(), and may be too large to copy.
        encoder = LineEncoder(stuff_dots=False)
        encoded = itertools.chain(map(encoder.encode, _blocks(text)), encoder.finish(b""))
        return sum(map(len, encoded)), not all(block.isascii() for block in _blocks(text))
    if _CR not in text:
        size = len(text) + text.count(b"\n") + (0 if text.endswith(b"\n") or not text else 2)
        return size, not text.isascii()
    has_bare, is_8bit = _scan_blocks(text)
    if not has_bare:
        size = len(text) if text.endswith(b"\n") or not text else len(text) + 2
    else:
        bare = text.count(b"\n") + text.count(b"\r") - 2 * text.count(b"\r\n")
        size = len(text) + bare + (0 if text.endswith((b"\n", b"\r")) else 2)
    return size, is_8bit


def _refuse_text(message: object) -> None:
    """Refuse a str and an email.message object, which are iterable and would pass for a stream."""
    if isinstance(message, str) or hasattr(message, "get_payload"):
        raise ValidationError(
            f"a message is bytes, not {type(message).__name__}: encode a str, and give an "
            f"email.message.EmailMessage to send_message"
        )


def _as_bytes(block: object) -> bytes:
    """A block of a stream as bytes. Checks the type first, because ``bytes(5)`` is five NULs."""
    if isinstance(block, bytes):
        return block
    if isinstance(block, (bytearray, memoryview)):
        return bytes(block)
    raise ValidationError(
        f"a message is bytes, this one yields {type(block).__name__}: open a file in binary mode",
        phase=Phase.CONTENT,
    )


def _has_dot(text: Buffer) -> bool:
    """Whether a line begins with a dot."""
    if text[:1] == b".":
        return True
    if isinstance(text, memoryview):
        return _dot(text) is not None
    if len(text) <= BLOCK:
        return _DOT in text and _dot(text) is not None
    # Most blocks of a large message are base64 without a dot. `find` is 20 times as fast on them as
    # the regular expression.
    return any(
        text.find(b".", start, start + BLOCK) >= 0
        and _dot(text, max(0, start - 1), start + BLOCK) is not None
        for start in range(0, len(text), BLOCK)
    )


def _blocks(whole: Buffer) -> Iterator[bytes]:
    view = memoryview(whole)
    return (bytes(view[start : start + BLOCK]) for start in range(0, len(view), BLOCK))


def _without_nul(block: bytes) -> bytes:
    if _NUL in block:
        raise _nul_error(Phase.CONTENT)
    return block


def _nul_error(phase: Phase | None) -> ValidationError:
    return ValidationError(
        "the message holds a NUL, which text may not (RFC 2045 2.7): encode that part as "
        "base64, or send with BODY=BINARYMIME",
        phase=phase,
    )


def _declared_7bit(block: bytes) -> bytes:
    if not block.isascii():
        raise ValidationError(NOT_SEVEN_BIT, phase=Phase.CONTENT)
    return block


def _seven_bit(block: bytes) -> bytes:
    if not block.isascii():
        raise UnsupportedExtensionError(
            "the message holds a byte above 127 and the server does not offer 8BITMIME",
            phase=Phase.CONTENT,
        )
    return block


def _remaining(file: BinaryIO) -> int | None:
    """The bytes from a file's position to its end; None if it cannot seek."""
    try:
        here = file.tell()
        end: int | None = file.seek(0, io.SEEK_END)
        if end is None and (there := file.tell()) != here:
            end = there  # a mapped file, before Python 3.13
        file.seek(here)
        if end is None:
            return None
        return max(0, end - here)
    except (OSError, AttributeError, TypeError, ValueError):
        return None
