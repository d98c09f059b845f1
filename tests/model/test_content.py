"""Message content: what leaves for any bytes in any pieces, and how little is copied or read."""

from __future__ import annotations

import array
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpconn.model import content as content_module
from smtpconn.model.content import (
    BLOCK,
    CHUNK,
    Buffer,
    Chunk,
    Content,
    LineEncoder,
    has_bare_line_end,
    has_long_line,
    text_size,
)
from smtpconn.model.errors import Phase, ProtocolError, UnsupportedExtensionError, ValidationError
from tests.support.parametrize_ids import stable_repr

QUICK = settings(deadline=None, max_examples=150)

NORMALISED: list[tuple[bytes, bytes]] = [
    # a message, and its text with CRLF line ends and its last line ended
    (b"", b""),
    (b"a", b"a\r\n"),
    (b"a\r\n", b"a\r\n"),
    (b"a\n", b"a\r\n"),
    (b"a\r", b"a\r\n"),
    (b"\n", b"\r\n"),
    (b"\r", b"\r\n"),
    (b"\r\n", b"\r\n"),
    (b"\r\r\n", b"\r\n\r\n"),
    (b"\r\n\n", b"\r\n\r\n"),
    (b"\n\r", b"\r\n\r\n"),
    (b"\n\n", b"\r\n\r\n"),
    (b"\r\r", b"\r\n\r\n"),
    (b"\r\n\r\n", b"\r\n\r\n"),
    (b"a\nb\rc\r\nd", b"a\r\nb\r\nc\r\nd\r\n"),
    (b".", b".\r\n"),
    (b"..", b"..\r\n"),
    (b".\n", b".\r\n"),
    (b".\r\n", b".\r\n"),
    (b"a\n.\nb", b"a\r\n.\r\nb\r\n"),
    (b"a\r.\rb", b"a\r\n.\r\nb\r\n"),
    (b"a\r\n.\r\nQUIT\r\n", b"a\r\n.\r\nQUIT\r\n"),
    (b"a\n.\r\nMAIL FROM:<x@y>\r\n", b"a\r\n.\r\nMAIL FROM:<x@y>\r\n"),
    (b"a\r.\r\nMAIL FROM:<x@y>\r\n", b"a\r\n.\r\nMAIL FROM:<x@y>\r\n"),
    (b"a.b\r\n.c", b"a.b\r\n.c\r\n"),
    (b"\0\x01\xff\x7f", b"\0\x01\xff\x7f\r\n"),
    (b"\x0b\x0c\x85\x1c", b"\x0b\x0c\x85\x1c\r\n"),
]


def normalised(message: bytes) -> bytes:
    """The text with CRLF line ends and its last line ended, by the book."""
    lines = re.split(rb"\r\n|\r|\n", message)
    unended = lines.pop()
    return b"".join(line + b"\r\n" for line in lines) + (unended + b"\r\n" if unended else b"")


def unstuffed(data: bytes) -> bytes:
    """What a server takes from DATA: everything up to the final dot, leading dots removed."""
    assert data == b".\r\n" or data.endswith(b"\r\n.\r\n")
    body = data[: -len(b".\r\n")]
    lines = body.split(b"\r\n")[:-1]
    assert b"." not in lines
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines)


def joined(buffers: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """All that is written."""
    return b"".join(buffers)


def of_chunks(chunks: Iterable[Chunk]) -> bytes:
    """All that is written with BDAT; every chunk has as many bytes as it says."""
    found, wholes = list(chunks), []
    for chunk in found:
        whole = joined(chunk.buffers)
        assert len(whole) == chunk.size
        wholes.append(whole)
    assert [chunk.is_last for chunk in found] == [False] * (len(found) - 1) + [True]
    return b"".join(wholes)


def single_bytes(data: bytes) -> Iterator[bytes]:
    """The pieces of data, byte by byte."""
    return (data[i : i + 1] for i in range(len(data)))


class Forgetful(io.RawIOBase):
    """A file that can neither seek nor tell, like a pipe."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.reads: list[int] = []

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Read, and remember how much was asked for."""
        self.reads.append(len(buffer))
        return self._data.readinto(buffer)


WAYS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "memoryview of a bytearray": lambda b: memoryview(bytearray(b)),
    "memoryview with gaps": lambda b: memoryview(bytes(c for o in b for c in (o, 0)))[::2],
    "BytesIO": io.BytesIO,
    "pipe": Forgetful,
    "buffered pipe": lambda b: io.BufferedReader(Forgetful(b)),
    "list": lambda b: [b],
    "list of bytes": lambda b: list(single_bytes(b)),
    "generator": single_bytes,
    "generator with empty pieces": lambda b: (p for o in single_bytes(b) for p in (b"", o, b"")),
    "bytearrays": lambda b: map(bytearray, single_bytes(b)),
    "memoryviews": lambda b: map(memoryview, single_bytes(b)),
    "tuple": lambda b: (b[:1], b[1:]),
}


@pytest.mark.parametrize(("message", "text"), NORMALISED)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_line_ends_and_dots(way: Callable[[bytes], Any], message: bytes, text: bytes) -> None:
    """Whatever the message comes in, a server gets its text with CRLF, and no line of one dot."""
    assert normalised(message) == text
    assert unstuffed(joined(Content(way(message)).as_data())) == text
    assert of_chunks(Content(way(message)).text_chunks()) == text
    assert of_chunks(Content(way(message)).binary_chunks()) == message


@pytest.mark.parametrize(("message", "text"), NORMALISED)
def test_a_short_message_in_one_piece(message: bytes, text: bytes) -> None:
    """It is the same as in several; a long one and a stream are not held in one piece."""
    content = Content(message)
    assert content.short_text == text
    assert content.short_data() == joined(content.as_data())
    assert Content(b"x" * (BLOCK + 1)).short_data() is None
    assert Content(iter([message])).short_data() is None


@pytest.mark.parametrize("message", [b"\n" * 60000, b".\r\n" * 20000])
def test_a_message_that_grows_is_not_held_in_one_piece(message: bytes) -> None:
    """Its size with CRLF line ends and stuffed dots counts."""
    content = Content(message)
    assert content.short_data() is None
    assert unstuffed(joined(content.as_data())) == normalised(message)


@pytest.mark.parametrize(("message", "text"), NORMALISED)
def test_the_size_of_bytes_is_exact(message: bytes, text: bytes) -> None:
    """SIZE is what leaves, without the dots that are stuffed and the final one (RFC 1870 3)."""
    assert Content(message).size == len(text)
    assert Content(bytearray(message)).size == len(text)
    assert Content(memoryview(message)).size == len(text)
    assert text_size(message) == len(text)
    assert has_bare_line_end(message) == (re.search(rb"(?<!\r)\n|\r(?!\n)", message) is not None)


@pytest.mark.parametrize("message", [b"a\r\n", b"", b"a\r\n\r\nb..c .\r\n", b"x" * 998 + b"\r\n"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: memoryview(bytearray(b))])
def test_what_is_right_is_not_copied(kind: Callable[[bytes], Any], message: bytes) -> None:
    """Text that needs no change leaves from the caller's own buffer, and the dot behind it."""
    given_ = kind(message)
    owner = memoryview(given_).obj

    def is_his(buffer: Buffer) -> bool:
        return buffer == message and memoryview(buffer).obj is owner

    first, end = Content(given_).as_data()
    assert is_his(first)
    assert end == b".\r\n"
    (chunk,) = Content(given_).text_chunks()
    assert is_his(next(iter(chunk.buffers)))
    (chunk,) = Content(given_).binary_chunks()
    assert is_his(next(iter(chunk.buffers)))


def test_dots_do_not_matter_without_data() -> None:
    """BDAT needs no stuffing, so a leading dot costs no copy."""
    message = b".a\r\n.\r\n"
    (chunk,) = Content(message).text_chunks()
    assert next(iter(chunk.buffers)) is message


@pytest.mark.parametrize("message", [b"", b"a\r\n", b"a\n", b".", b"\xff\r\n"])
def test_bytes_can_be_sent_again(message: bytes) -> None:
    """What is wholly in memory can be sent as often as need be, in any way."""
    content = Content(message)
    assert joined(content.as_data()) == joined(content.as_data())
    assert of_chunks(content.text_chunks()) == of_chunks(content.text_chunks())
    assert of_chunks(content.binary_chunks()) == of_chunks(content.binary_chunks()) == message


@pytest.mark.parametrize("way", ["BytesIO", "pipe", "list", "generator", "tuple"])
@pytest.mark.parametrize("spend", [Content.as_data, Content.text_chunks, Content.binary_chunks])
@pytest.mark.parametrize("again", [Content.as_data, Content.text_chunks, Content.binary_chunks])
def test_a_stream_can_be_sent_once(
    way: str, spend: Callable[[Content], Any], again: Callable[[Content], Any]
) -> None:
    """A stream that was read cannot be sent again, and says so before anything is written."""
    content = Content(WAYS[way](b"a\r\n"))
    spend(content)
    with pytest.raises(ProtocolError, match="stream") as caught:
        again(content)
    assert caught.value.phase is Phase.CONTENT


@pytest.mark.parametrize(
    "message",
    [
        "text",
        "",
        5,
        None,
        1.5,
        object(),
        True,
        ["text"],
        [""],
        [b"a", "text"],
        [5],
        [None],
        [b"a", 5],
        [b"a", None],
        [b"a", [66]],
        range(3),
        ("a" for _ in range(2)),
        io.StringIO("text"),
        io.StringIO(""),
        {"a": b"b"},
        EmailMessage(),
        array.array("f", [1.0]),
    ],
    ids=stable_repr,
)
def test_what_is_no_bytes_is_refused(message: Any) -> None:
    """Text, numbers and other things are refused, the first piece before anything is sent."""
    with pytest.raises(ValidationError, match="bytes"):
        joined(Content(message).as_data())


@pytest.mark.parametrize(
    "message",
    ["text", "", 5, None, ["text"], [5], io.StringIO("x"), io.StringIO("")],
    ids=stable_repr,
)
def test_what_is_no_bytes_is_refused_at_once(message: Any) -> None:
    """What can be seen from the first piece is refused before a command could be sent."""
    with pytest.raises(ValidationError, match="bytes"):
        Content(message)


def test_a_text_file_is_refused_at_once(tmp_path: Path) -> None:
    """A file opened as text is refused with a hint, whether it holds something or not."""
    path = tmp_path / "message.eml"
    for text in ("Subject: x\n", ""):
        path.write_text(text)
        with path.open(encoding="utf-8") as file, pytest.raises(ValidationError, match="binary"):
            Content(file)  # type: ignore[arg-type]


def test_a_file_is_sent_from_where_it_stands(tmp_path: Path) -> None:
    """A file is read from its position to its end, and that is its size."""
    path = tmp_path / "message.eml"
    path.write_bytes(b"skipped\r\nSubject: x\r\n\r\n.\r\n")
    with path.open("rb") as file:
        file.seek(len(b"skipped\r\n"))
        content = Content(file)
        assert content.size == len(b"Subject: x\r\n\r\n.\r\n")
        assert content.is_8bit is None
        assert unstuffed(joined(content.as_data())) == b"Subject: x\r\n\r\n.\r\n"


@pytest.mark.parametrize("position", [5, 6, 100])
def test_a_file_at_its_end_is_empty(position: int) -> None:
    """A file that stands at its end or behind it is an empty message, of no negative size."""
    file = io.BytesIO(b"12345")
    file.seek(position)
    content = Content(file)
    assert content.size == 0
    assert joined(content.as_data()) == b".\r\n"


def test_a_pipe_has_no_size() -> None:
    """What cannot seek is sent without knowing how much it is."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as file:
        with os.fdopen(writer, "wb") as end:
            end.write(b"a\nb")
        content = Content(file)
        assert content.size is None
        assert content.is_8bit is None
        assert joined(content.as_data()) == b"a\r\nb\r\n.\r\n"


@pytest.mark.parametrize("answer", [None, 0])
def test_a_file_like_object_with_a_strange_seek(answer: int | None) -> None:
    """A size that cannot be determined is unknown, never wrong and never a TypeError."""

    class Strange:
        """Reads well, and answers tell() and seek() with something useless."""

        def __init__(self) -> None:
            self._pieces = [b"a\r\n", b""]

        def read(self, size: int = -1) -> bytes:
            """The next piece."""
            return self._pieces.pop(0)

        def tell(self) -> int | None:
            """Something useless."""
            return answer

        def seek(self, offset: int, whence: int = 0) -> None:
            """Nothing."""

    content = Content(Strange())  # type: ignore[arg-type]
    assert content.size is None
    assert joined(content.as_data()) == b"a\r\n.\r\n"


@pytest.mark.parametrize("message", [[b"a"], iter([b"a"]), (b"a",)])
def test_an_iterable_has_no_size(message: Iterable[bytes]) -> None:
    """What an iterable holds is not known without reading it."""
    content = Content(message)
    assert content.size is None
    assert content.is_8bit is None


@pytest.mark.parametrize(
    ("message", "is_8bit"),
    [
        (b"", False),
        (b"a\r\n", False),
        (b"\x7f\0", False),
        (b"\x80", True),
        (b"a" * 999 + b"\xff", True),
    ],
)
def test_eight_bits(message: bytes, is_8bit: bool) -> None:
    """Bytes are known to be 7 or 8 bit before anything is sent."""
    assert Content(message).is_8bit is is_8bit
    assert Content(bytearray(message)).is_8bit is is_8bit


@pytest.mark.parametrize("way", ["BytesIO", "pipe", "generator", "list"])
def test_a_stream_that_must_have_seven_bits(way: str) -> None:
    """A byte above 127 in a stream for a server without 8BITMIME raises."""
    for send in (Content.as_data, Content.text_chunks):
        good = list(send(Content(WAYS[way](b"a\n")), seven_bit_only=True))
        assert good
        buffers = send(Content(WAYS[way](b"a\n\xe9\n")), seven_bit_only=True)
        with pytest.raises(UnsupportedExtensionError, match="8BITMIME") as caught:
            list(buffers)
        assert caught.value.phase is Phase.CONTENT
    assert unstuffed(joined(Content(WAYS[way](b"\xe9\n")).as_data())) == b"\xe9\r\n"


def test_a_file_is_read_in_blocks() -> None:
    """A file is read a block at a time, one ahead at most, never all at once."""
    file = Forgetful((b"x" * 78 + b"\r\n") * 10_000)
    content = Content(file)
    assert file.reads == [BLOCK]
    buffers = content.as_data()
    assert file.reads == [BLOCK]
    for number, buffer in enumerate(buffers, start=1):
        assert len(buffer) <= BLOCK + 2
        assert len(file.reads) <= number + 1
    assert set(file.reads) == {BLOCK}


def test_an_iterable_is_read_as_it_is_sent() -> None:
    """Of an iterable only the first piece is asked for before the sending begins."""
    asked: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(100):
            asked.append(number)
            yield b"%d\n" % number

    content = Content(pieces())
    assert asked == [0]
    buffers = content.as_data()
    assert asked == [0]
    for count in range(1, 100):
        next(buffers)
        assert len(asked) <= count + 1


def test_an_error_of_the_stream_comes_out_as_it_is() -> None:
    """What the caller's iterable raises is the caller's."""

    def pieces() -> Iterator[bytes]:
        yield b"a"
        raise LookupError("no more")

    buffers = Content(pieces()).as_data()
    with pytest.raises(LookupError, match="no more"):
        list(buffers)


def test_a_large_message_is_rewritten_block_by_block() -> None:
    """Bytes that have to be changed are never copied whole."""
    content = Content(b".\n" * BLOCK)
    sizes = [len(buffer) for buffer in content.as_data()]
    assert max(sizes) <= 2 * BLOCK
    assert sum(sizes) == content.size + BLOCK + 3 if content.size else False


def test_a_stream_goes_in_chunks_of_bounded_size() -> None:
    """With BDAT a stream is gathered to chunks, so memory stays bounded."""
    block = b"x" * 998 + b"\r\n"
    chunks = list(Content(block for _ in range(3 * CHUNK // 1000)).text_chunks())
    assert len(chunks) >= 3
    assert all(chunk.size < CHUNK + len(block) for chunk in chunks)
    assert of_chunks(chunks) == block * (3 * CHUNK // 1000)


def test_an_empty_stream_is_one_empty_last_chunk() -> None:
    """BDAT 0 LAST is how nothing is sent."""
    for empty in ([], [b""], [b"", b""], io.BytesIO()):
        assert [(c.size, c.is_last) for c in Content(empty).text_chunks()] == [(0, True)]
    assert [(c.size, c.is_last) for c in Content(b"").binary_chunks()] == [(0, True)]


@pytest.mark.parametrize("pattern", [b"\r", b"\n", b".\n", b"\r\n", b"\n.", b"a", b"\r\r\n."])
def test_a_long_message_of_the_worst_lines(pattern: bytes) -> None:
    """Many blocks of nothing but line ends and dots come out right, in one piece and in many."""
    message = pattern * (200_000 // len(pattern))
    assert unstuffed(joined(Content(message).as_data())) == normalised(message)
    pieces = [message[start : start + 7] for start in range(0, len(message), 7)]
    assert unstuffed(joined(Content(pieces).as_data())) == normalised(message)


_TEXTS = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"a", b"\xff", b"\0"]), max_size=24).map(
        b"".join
    ),
)


@st.composite
def _pieces(draw: st.DrawFn) -> list[bytes]:
    text = draw(_TEXTS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=10)))
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@QUICK
@given(_TEXTS, st.integers(1, 8))
@example(b"\r\n.\r\n", 2)
@example(b"a\r\n.\n", 1)
def test_any_bytes(message: bytes, block: int) -> None:
    """For any bytes and any block, what leaves is the normalised text, and its size was known."""
    with mock.patch.object(content_module, "BLOCK", block):
        content = Content(message)
        data = joined(content.as_data())
        chunks = of_chunks(content.text_chunks())
    assert not has_bare_line_end(data)
    assert unstuffed(data) == chunks == normalised(message)
    assert content.size == len(chunks)
    stuffing = len(re.findall(rb"(?m)^\.", normalised(message)))
    assert len(data) == content.size + stuffing + len(b".\r\n")


@QUICK
@given(_pieces(), st.booleans())
@example([b"a\r", b"\n.\r", b"\n"], False)
@example([b"a\r", b"", b"\n", b".", b"\r\n"], False)
@example([b"\r", b"\r", b"."], True)
def test_any_stream_in_any_pieces(pieces: list[bytes], mutable: bool) -> None:
    """Where a stream is cut makes no difference to what leaves."""
    whole = b"".join(pieces)
    given_: list[Any] = [bytearray(piece) for piece in pieces] if mutable else list(pieces)
    data = joined(Content(given_).as_data())
    assert not has_bare_line_end(data)
    assert unstuffed(data) == normalised(whole)
    with mock.patch.object(content_module, "CHUNK", 4):
        assert of_chunks(Content(given_).text_chunks()) == normalised(whole)
        assert of_chunks(Content(given_).binary_chunks()) == whole


@QUICK
@given(_TEXTS, st.integers(1, 8), st.integers(0, 70))
def test_any_file_at_any_position(message: bytes, block: int, position: int) -> None:
    """A file gives the same as the bytes from its position on, however small its blocks."""
    file = io.BytesIO(message)
    file.seek(min(position, len(message)))
    with mock.patch.object(content_module, "BLOCK", block):
        content = Content(file)
        data = joined(content.as_data())
    rest = message[min(position, len(message)) :]
    assert content.size == len(rest)
    assert unstuffed(data) == normalised(rest)


@QUICK
@given(_pieces())
def test_the_encoder_keeps_no_text(pieces: list[bytes]) -> None:
    """Between two pieces the encoder holds back one CR at most."""
    encoder = LineEncoder(stuff_dots=False)
    written = taken = 0
    for piece in pieces:
        written += len(encoder.encode(piece))
        taken += len(piece)
        assert written >= taken - 1


# Lines, NULs, seven bits


@pytest.mark.parametrize(
    ("text", "is_long"),
    [
        (b"", False),
        (b"x" * 998, False),
        (b"x" * 999, True),
        (b"x" * 998 + b"\r\n", False),
        (b"x" * 998 + b"\n", False),
        (b"x" * 999 + b"\n", True),
        (b"x" * 999 + b"\r\n", True),
        (b"x" * 997 + b"\n" + b"y" * 998 + b"\r\n", False),
        (b"x" * 5 + b"\n" + b"y" * 999 + b"\n", True),
        (b"a\r\n" * 5000 + b"x" * 999, True),
        (b"a\n" * 5000 + b"x" * 998, False),
    ],
)
def test_which_lines_are_long(text: bytes, is_long: bool) -> None:
    """Those of more than 998 bytes, the line end not counted."""
    assert has_long_line(text) is is_long
    assert has_long_line(b"z\r\n" + text) is is_long


@QUICK
@given(st.lists(st.tuples(st.integers(990, 1003), st.sampled_from([b"\n", b"\r\n"])), max_size=6))
def test_long_lines_are_found_wherever_they_stand(lines: list[tuple[int, bytes]]) -> None:
    """The same as looking at each."""
    text = b"".join(b"x" * length + end for length, end in lines)
    assert has_long_line(text) is any(length > 998 for length, _ in lines)


@QUICK
@given(
    st.binary(max_size=80)
    | st.text("\r\n.a\xff\0", max_size=30).map(lambda text: text.encode("latin-1"))
)
def test_what_is_short_is_rewritten_as_the_rest(text: bytes) -> None:
    """In one step, with what comes of it block by block."""
    for stuff_dots, end in ((True, b".\r\n"), (False, b"")):
        encoder = LineEncoder(stuff_dots=stuff_dots)
        slowly = b"".join([*map(encoder.encode, [text[i : i + 1] for i in range(len(text))]),
                           *encoder.finish(end)])  # fmt: skip
        content = Content(text)
        chunk = content.whole_chunk(is_binary=False)
        assert chunk is not None
        quickly = content.as_data() if stuff_dots else chunk.buffers
        if text or stuff_dots:
            assert b"".join(quickly) == slowly
        assert content.size == text_size(memoryview(text)) == text_size(text)


@pytest.mark.parametrize("text", [b"\0", b"a\r\n\0.\r\n", b"x" * 200_000 + b"\0"])
def test_a_nul_is_refused_where_it_is_asked_for(text: bytes) -> None:
    """Bytes at once, a stream as it is read; what has none is as before."""
    for whole in (text, bytearray(text), memoryview(text)):
        with pytest.raises(ValidationError, match="NUL"):
            Content(whole).refuse_nul()
    stream = Content(io.BytesIO(text))
    stream.refuse_nul()
    with pytest.raises(ValidationError, match="NUL") as caught:
        list(stream.as_data())
    assert caught.value.phase is Phase.CONTENT
    fine = Content(io.BytesIO(b"a\n"))
    fine.refuse_nul()
    assert b"".join(fine.as_data()) == b"a\r\n.\r\n"


def test_a_stream_declared_as_7bit_is_held_to_it() -> None:
    """What it yields above 127 is refused as the same bytes are."""
    for pieces in ([b"ok\n", b"\xe9\n"], [b"\xe9"]):
        for how in (Content.as_data, Content.text_chunks):
            content = Content(pieces)
            content.is_declared_7bit = True
            with pytest.raises(ValidationError, match="7BIT"):
                list(how(content))


@pytest.mark.parametrize("at", [0, 1, BLOCK - 3, BLOCK - 2, BLOCK - 1, BLOCK, 2 * BLOCK - 2])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_dot_at_a_line_start_is_found_in_any_block(at: int, kind: Callable[[bytes], Any]) -> None:
    """Also where a line ends with one block of a long message and the dot begins the next."""
    start = b"x" * at + b"\r\n" if at else b""
    rest = b"y.\r\n" * BLOCK
    message = start + b".z\r\n" + rest
    assert joined(Content(kind(message)).as_data()) == start + b"..z\r\n" + rest + b".\r\n"
    without = start + b"z\r\n" + rest
    assert joined(Content(kind(without)).as_data()) == without + b".\r\n"


@pytest.mark.parametrize("at", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r"])
def test_eight_bits_anywhere_in_a_long_message(at: int, end: bytes) -> None:
    """Whatever its line ends are, and they are seen behind such a byte as well."""
    text = (b"x" * 70 + b"\r\n") * (3 * BLOCK // 72)
    message = text[:at] + b"\xe9" + text[at:] + b"y" + end
    content = Content(message)
    assert content.is_8bit is True
    assert content.size == len(message) + (end != b"\r\n")
    assert Content(text).is_8bit is False
