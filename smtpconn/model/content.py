"""The message content on its way out: line ends, dots, size, eight bits (RFC 5321 4.5.2, 2.3.8).

Rule 1: no bare CR and no bare LF ever leaves as text. Servers disagree on what they end
("smuggling", CVE-2023-51764 and its kin), so each becomes CRLF, before the dots are stuffed.

Rule 2: bytes that are already right are sent from the caller's buffer, without a copy. Others are
rewritten block by block, never a second whole copy. Files and iterables are streamed.

Rule 3: what can be known before the first command is known before it: whether the message is bytes
at all, its size, whether it needs 8BITMIME. `Content` is made once for a message, also when the
message is sent twice because a connection turned out to be dead before any of it was spent.

Rule 4: no NUL ever leaves as text (RFC 2045 2.7, 2.8). There are servers that drop it, and what it
stands before may be the dot that ends a message then. BINARYMIME has another way to end one.

What the server offers is not known here.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias, cast

from smtpconn.model.errors import Phase, ProtocolError, UnsupportedExtensionError, ValidationError

Message: TypeAlias = bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]
"""A message as it is given: its octets, or a binary file or an iterable, which are streamed."""

Buffer: TypeAlias = bytes | bytearray | memoryview

BLOCK = 64 * 1024
"""Octets that are rewritten, or read from a file, at a time."""

CHUNK = 1024 * 1024
"""Octets of a stream that go into one BDAT."""

MAX_LINE = 998
"""Octets in a line of text without its CRLF (RFC 5322 2.1.1)."""

SMALL = 4096
"""Octets below which a piece of a stream is copied."""

_RIGHT_LINE_ENDS = (None, "\r\n")
_dot = re.compile(rb"\n(?=\.)").search

END_OF_DATA = b".\r\n"
"""What ends DATA, behind the CRLF that ends the last line."""


NOT_SEVEN_BIT = "the message holds octets above 127, which 7BIT does not allow"


class Content:
    """A message that is about to be sent: where its bytes come from and what is known of them.

    Attributes:
        binary_size: the octets as they are, as SIZE declares them for BODY=BINARYMIME; None when
            that cannot be known without reading a stream to its end.
        is_8bit: whether any octet is above 127; None when that cannot be known.
        is_stream: whether it is a file or an iterable, which is read only once.
        on_block: called each time a stream has given a block, before the block is used; what it
            raises ends the message.
        is_declared_7bit: whether it is sent with BODY=7BIT; a stream is held to it as it is sent.
        read_error: what the caller's own file or iterable raised after its first block.

    Raises:
        ValidationError: the message is no bytes.
    """

    binary_size: int | None = None
    is_stream = False
    on_block: Callable[[], object] | None = None
    is_8bit: bool | None = None
    is_declared_7bit = False
    read_error: Exception | None = None
    _size: int | None = None
    _whole: Buffer | None = None
    _text: Buffer | None = None
    _stream: Iterator[bytes] = iter(())
    _spent = False

    def __init__(self, message: Message) -> None:
        if isinstance(message, (bytes, bytearray)):
            self._take_bytes(message)
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

    @property
    def size(self) -> int | None:
        """Octets with CRLF line ends and without dot-stuffing, as SIZE declares it (RFC 1870 3).

        None when it cannot be known without reading a stream to its end. Bytes are looked through
        for it once, when it is first asked for, which for BINARYMIME is never.
        """
        if self._size is None and self._whole is not None:
            self._look_through(self._whole)
        return self._size

    def _look_through(self, whole: Buffer) -> None:
        """Learn the size, and what leaves as text if all of that is here.

        What is short is rewritten at once, which costs less than finding out what is wrong with it.
        """
        if isinstance(whole, bytes) and len(whole) <= BLOCK:
            self._text = _with_right_ends(whole)
            self._size = len(self._text)
        else:
            self._size = text_size(whole)
            self._text = whole if self._size == len(whole) else None

    def refuse_nul(self) -> None:
        """Refuse what can leave only with BODY=BINARYMIME; a stream is held to it as it is sent.

        Raises:
            ValidationError: it holds a NUL.
        """
        whole = self._whole
        if whole is None:
            self._stream = map(_without_nul, self._stream)
        elif isinstance(whole, memoryview):
            for block in _blocks(whole):
                _without_nul(block)
        elif b"\0" in whole:
            raise _nul_error(None)

    @property
    def whole_size(self) -> int | None:
        """Octets as they are, if all of them are here; None for a stream."""
        return None if self._whole is None else self.binary_size

    def as_data(self, *, seven_bit_only: bool = False) -> Iterator[Buffer]:
        """The buffers to write for DATA: CRLF line ends, stuffed dots, the final dot.

        Args:
            seven_bit_only: refuse an octet above 127 that a stream turns out to hold.

        Raises:
            UnsupportedExtensionError: such an octet came.
            ValidationError: the same from what is declared as 7BIT; or a NUL came.
            ProtocolError: the message is a stream and was spent by an earlier send.
        """
        if self._size is None and self._whole is not None:
            self._look_through(self._whole)
        text = self._text
        if text is not None and not _has_dot(text):
            return iter((text, END_OF_DATA))
        return self._rewritten(stuff_dots=True, end=END_OF_DATA, seven_bit_only=seven_bit_only)

    def whole_chunk(self, *, is_binary: bool) -> Chunk | None:
        """All of it for one BDAT, as text or untouched; None for a stream."""
        whole = self._whole
        if whole is None:
            return None
        if is_binary:
            return Chunk(len(whole), (whole,), is_last=True)
        size = self.size or 0
        if self._text is not None:
            return Chunk(size, (self._text,), is_last=True)
        buffers = self._rewritten(stuff_dots=False, end=b"", seven_bit_only=False)
        return Chunk(size, buffers, is_last=True)

    def text_chunks(self, *, seven_bit_only: bool = False) -> Iterator[Chunk]:
        """The chunks to send with BDAT as text: CRLF line ends, and nothing else is changed.

        Raises: as `as_data`.
        """
        if (whole := self.whole_chunk(is_binary=False)) is not None:
            return iter((whole,))
        return _gather(self._rewritten(stuff_dots=False, end=b"", seven_bit_only=seven_bit_only))

    def binary_chunks(self) -> Iterator[Chunk]:
        """The chunks to send with BDAT and BODY=BINARYMIME: untouched (RFC 3030 3)."""
        if (whole := self.whole_chunk(is_binary=True)) is not None:
            return iter((whole,))
        return _gather(self._take_once())

    def _rewritten(self, *, stuff_dots: bool, end: bytes, seven_bit_only: bool) -> Iterator[Buffer]:
        encoder = LineEncoder(stuff_dots=stuff_dots)
        if self._whole is not None:
            blocks = _blocks(self._whole if self._text is None else self._text)
        else:
            blocks = self._take_once()
            if self.is_declared_7bit:
                blocks = map(_declared_7bit, blocks)
            elif seven_bit_only:
                blocks = map(_seven_bit, blocks)
        return itertools.chain(map(encoder.encode, blocks), encoder.finish(end))

    def _take_bytes(self, message: bytes | bytearray) -> None:
        self._whole = message
        self.is_8bit = not message.isascii()
        self.binary_size = len(message)

    def _take_view(self, message: memoryview) -> None:
        if message.format != "B" or message.ndim != 1 or not message.c_contiguous:
            # No octets one behind the other.
            self._take_bytes(bytes(message))
            return
        self._whole = message
        # A view cannot tell itself, and what it looks at may be too large to copy.
        self.is_8bit = not all(block.isascii() for block in _blocks(message))
        self.binary_size = len(message)

    def _take_file(self, file: BinaryIO) -> None:
        remaining = _remaining(file)
        self._take_stream(iter(lambda: file.read(BLOCK), b""))
        # A file's own line ends may change its size on the way; SIZE is an estimate (RFC 1870 6.1).
        self._size = self.binary_size = remaining

    def _take_stream(self, stream: Iterator[bytes]) -> None:
        self.is_stream = True
        # The first block is read now: a text file must be refused before a command is sent.
        first = _octets(next(stream, b""))
        self._stream = itertools.chain((first,), map(_octets, self._rest_of(stream)))

    def _rest_of(self, stream: Iterator[bytes]) -> Iterator[bytes]:
        """The rest of a stream; notes what it raises, which is no error of the connection."""
        try:
            yield from stream
        except Exception as error:
            self.read_error = error
            raise

    def _take_once(self) -> Iterator[bytes]:
        if self._spent:
            raise ProtocolError(
                "the message is a stream that was read already: give a new one to send it again",
                phase=Phase.CONTENT,
            )
        self._spent = True
        return self._stream if self.on_block is None else self._watched(self.on_block)

    def _watched(self, on_block: Callable[[], object]) -> Iterator[bytes]:
        for block in self._stream:
            on_block()
            yield block


@dataclass(slots=True, eq=False)
class Chunk:
    """What goes behind one BDAT: exactly ``octets`` in ``buffers``."""

    octets: int
    buffers: Iterable[Buffer]
    is_last: bool


def _gather(buffers: Iterable[Buffer]) -> Iterator[Chunk]:
    """Put the buffers of a stream together to chunks; which one is the last shows at the end.

    Small ones are put into one, because each costs some dozen octets more than it holds.
    """
    gathered: list[Buffer] = []
    octets = 0
    for buffer in buffers:
        if octets >= CHUNK:
            yield Chunk(octets, tuple(gathered), is_last=False)
            gathered, octets = [], 0
        octets += len(buffer)
        if len(buffer) >= SMALL:
            gathered.append(buffer)
        elif gathered and isinstance(gathered[-1], bytearray):
            gathered[-1] += buffer
        else:
            gathered.append(bytearray(buffer))
    yield Chunk(octets, tuple(gathered), is_last=True)


class LineEncoder:
    """Rewrites text block by block; what it keeps between blocks is one CR and one fact."""

    def __init__(self, *, stuff_dots: bool) -> None:
        self._stuff_dots = stuff_dots
        self._at_line_start = True
        self._held_cr = False

    def encode(self, block: bytes) -> bytes:
        """Rewrite the next block; a CR at its end is held back until the next octet is known."""
        if self._held_cr:
            block = b"\r" + block
        self._held_cr = block.endswith(b"\r")
        if self._held_cr:
            block = block[:-1]
        if not block:
            return b""
        block = _with_crlf(block)
        if self._stuff_dots:
            starts_with_dot = self._at_line_start and block.startswith(b".")
            block = block.replace(b"\n.", b"\n..")
            block = b"." + block if starts_with_dot else block
        self._at_line_start = block.endswith(b"\n")
        return block

    def finish(self, end: bytes) -> Iterator[bytes]:
        """End the last line if it has no end, then add ``end``; runs when it is iterated."""
        yield end if self._at_line_start and not self._held_cr else b"\r\n" + end


def _with_crlf(block: bytes) -> bytes:
    """A block with CRLF for each line end; itself if they are."""
    if b"\r" not in block:
        # As the standard library writes messages unless it is told otherwise.
        return block.replace(b"\n", b"\r\n")
    if has_bare_line_end(block):
        return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return block


def _with_right_ends(whole: bytes) -> bytes:
    """Something short as text: CRLF line ends, the last line's too."""
    text = _with_crlf(whole)
    return text if text.endswith(b"\n") or not text else text + b"\r\n"


def has_bare_line_end(text: bytes | bytearray) -> bool:
    """Whether a CR or LF stands without the other."""
    # Universal newlines: the standard library looks for all three line ends in one pass, which is
    # more than twice as fast as counting. It wants a str; Latin-1 has the same octets.
    decoder = io.IncrementalNewlineDecoder(None, translate=False)
    if len(text) <= BLOCK:
        decoder.decode(str(text, "latin-1"), final=True)
    else:
        view = memoryview(text)
        for start in range(0, len(view), BLOCK):
            decoder.decode(str(view[start : start + BLOCK], "latin-1"))
        decoder.decode("", final=True)
    return decoder.newlines not in _RIGHT_LINE_ENDS


def has_long_line(text: bytes) -> bool:
    """Whether a line has more than 998 octets, more than servers have to take (RFC 5321 4.5.3.1.6).

    Leaps from line end to line end, the last one within reach, so it looks at few of the octets.
    """
    start = 0
    while len(text) - start > MAX_LINE:
        end = text.rfind(b"\n", start, start + MAX_LINE + 2)
        if end == start + MAX_LINE + 1 and text[end - 1] != 0x0D:
            # One octet too many for this to be the only line end.
            end = text.rfind(b"\n", start, end)
        if end < 0:
            return True
        start = end + 1
    return False


def text_size(text: Buffer) -> int:
    """The octets of ``text`` once its line ends are CRLF and its last line is ended."""
    if isinstance(text, memoryview):
        encoder = LineEncoder(stuff_dots=False)
        encoded = itertools.chain(map(encoder.encode, _blocks(text)), encoder.finish(b""))
        return sum(map(len, encoded))
    if b"\r" not in text:
        return len(text) + text.count(b"\n") + (0 if text.endswith(b"\n") or not text else 2)
    if not has_bare_line_end(text):
        return len(text) if text.endswith(b"\n") or not text else len(text) + 2
    bare = text.count(b"\n") + text.count(b"\r") - 2 * text.count(b"\r\n")
    return len(text) + bare + (0 if text.endswith((b"\n", b"\r")) else 2)


def _refuse_text(message: object) -> None:
    """Refuse what is an iterable, or has what one needs, but no message of ours."""
    if isinstance(message, str) or hasattr(message, "get_payload"):
        raise ValidationError(
            f"a message is bytes, not {type(message).__name__}: encode a str, and give an "
            f"email.message.EmailMessage to send_message"
        )


def _octets(block: object) -> bytes:
    """A block of a stream as bytes. Not ``bytes(block)`` alone: of 5 that makes five NULs."""
    if isinstance(block, bytes):
        return block
    if isinstance(block, (bytearray, memoryview)):
        return bytes(block)
    raise ValidationError(
        f"a message is bytes, this one yields {type(block).__name__}: open a file in binary mode",
        phase=Phase.CONTENT,
    )


def _has_dot(text: Buffer) -> bool:
    # Most of what is large is Base64, which has none at all; that is seen sixteen times as fast.
    if not isinstance(text, memoryview) and b"." not in text:
        return False
    return text[:1] == b"." or _dot(text) is not None


def _blocks(whole: Buffer) -> Iterator[bytes]:
    view = memoryview(whole)
    return (bytes(view[start : start + BLOCK]) for start in range(0, len(view), BLOCK))


def _without_nul(block: bytes) -> bytes:
    if b"\0" in block:
        raise _nul_error(Phase.CONTENT)
    return block


def _nul_error(phase: Phase | None) -> ValidationError:
    return ValidationError(
        "the message holds a NUL, which no text may (RFC 2045 2.7): encode that part as base64, "
        "or send with BODY=BINARYMIME",
        phase=phase,
    )


def _declared_7bit(block: bytes) -> bytes:
    if not block.isascii():
        raise ValidationError(NOT_SEVEN_BIT, phase=Phase.CONTENT)
    return block


def _seven_bit(block: bytes) -> bytes:
    if not block.isascii():
        raise UnsupportedExtensionError(
            "the message holds an octet above 127 and the server does not offer 8BITMIME",
            phase=Phase.CONTENT,
        )
    return block


def _remaining(file: BinaryIO) -> int | None:
    """The octets from where a file stands to its end; None for what cannot seek."""
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
