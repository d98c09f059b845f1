"""The reply parser (RFC 5321 4.2): the same replies and the same end however the bytes arrive."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

from smtpconn.model.errors import ParseError
from smtpconn.model.replies import SmtpResponse
from smtpconn.protocol.reply_parser import (
    MAX_CHALLENGE,
    MAX_EMPTY_LINES,
    MAX_LINES,
    MAX_REPLY,
    ReplyParser,
)
from tests.fuzz.source import Source

LONGEST = 16 * 1024
SHORT = 256

_SIZES = bytes(range(17, 33, 2))
"""In how many pieces a seed arrives; see `Source.pieces`."""

SEEDS = (
    b"250 2.1.0 Ok\r\n" + _SIZES,
    b"220-mx.example\r\n220 ESMTP\r\n250-mx\r\n250-SIZE 1000\r\n250 AUTH PLAIN\r\n" + _SIZES,
    b"421 4.3.2 bye\r\n" + _SIZES,
    b"334 VXNlcm5hbWU6\r\n" + _SIZES,
    b"250\r\n250-\r\n250 \xc3\xa4\t\xff\r\n" + _SIZES,
    b"334 " + b"A" * 9000 + b"\r\n" + _SIZES,
    b"220 old\n250-old\n250 SIZE\r\n354 go\n" + _SIZES,
    b"220 mx\r\r\n\r\n\r\n250 mx\x1b[2J\r\r\n" + _SIZES,
    b"220-teaser\r\n521-a\r\n521 no\r\n250 ok\r\n" + _SIZES,
    b"220 mx\r\n554 rejected: x\n250 ok\r\n" + _SIZES,
)

WORDS = (
    *(b"250", b"250-", b"250 ", b"334 ", b"421 ", b"5.1.1 ", b"599", b"600"),
    *(b"\r\n", b"\n", b"\r", b"\x1b"),
)

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([- ])([^\0\r\n]*))?(\r*)\n\Z")
_EMPTY = re.compile(rb"\r*\n")
_CONTROL = re.compile("[\x01-\x08\x0b-\x1f\x7f]")


def check(source: Source) -> None:
    """Whole, byte by byte and in pieces: the same, and only what the grammar has."""
    pieces = list(source.pieces())
    data = b"".join(pieces)
    whole = _parse((data,))
    assert _parse(pieces) == whole
    assert _received(pieces) == whole
    if len(data) <= SHORT:
        assert _parse(data[at : at + 1] for at in range(len(data))) == whole
    replies, broken, consumed_all = whole
    takes_lf = not data[: data.find(b"\n")].endswith(b"\r")
    rest = data
    for number, reply in enumerate(replies):
        if number == 1:
            rest = _without_empty_lines(rest)
        rest = _without(reply, rest, takes_lf=takes_lf)
    if len(replies) == 1:
        rest = _without_empty_lines(rest)
    assert not (broken and consumed_all)
    assert consumed_all == (not rest) or broken
    _check_leniency(data, replies)


def _check_leniency(data: bytes, replies: list[SmtpResponse]) -> None:
    """What may be overlooked in the last reply awaited, and in the first: refusals, no success."""
    parser, found = ReplyParser(), list[SmtpResponse]()
    parser.feed(data)
    with contextlib.suppress(ParseError):
        while (reply := parser.next_reply(is_last=True, may_mix=True)) is not None:
            found.append(reply)
    assert found[: len(replies)] == replies
    for more, reply in enumerate(found[len(replies) :]):
        if reply is found[-1] and parser.is_over:
            assert reply.code >= 400
        else:
            assert data.endswith(b"\n"), more
    if parser.is_over:
        assert parser.simple_replies(b"250 ok\r\n") is None
        assert parser.next_reply() is None


def _parse(pieces: Iterable[bytes]) -> tuple[list[SmtpResponse], bool, bool]:
    """The replies, whether there was something else, and whether nothing is left over."""
    parser, replies = ReplyParser(), []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (reply := parser.next_reply()) is not None:
                replies.append(reply)
        except ParseError:
            return replies, True, parser.is_empty
    return replies, False, parser.is_empty


def _received(pieces: Iterable[bytes]) -> tuple[list[SmtpResponse], bool, bool]:
    """The same by the way a connection takes, where what comes again is parsed once."""
    parser, replies = ReplyParser(), list[SmtpResponse]()
    for piece in pieces:
        try:
            usual = parser.simple_replies(piece)
            replies.extend(parser.replies_in(piece) if usual is None else usual)
        except ParseError:
            return replies, True, parser.is_empty
    return replies, False, parser.is_empty


def _without_empty_lines(data: bytes) -> bytes:
    """What follows the empty lines behind a greeting."""
    for _ in range(MAX_EMPTY_LINES):
        match = _EMPTY.match(data)
        data = data[match.end() :] if match else data
    return data


def _without(reply: SmtpResponse, data: bytes, *, takes_lf: bool) -> bytes:
    """Read the reply's lines by the book and return what follows them."""
    total = 0
    assert 200 <= reply.code <= 599
    assert 1 <= len(reply.lines) <= MAX_LINES
    assert str(reply).isprintable()
    for number, text in enumerate(reply.lines, 1):
        line, end, data = data.partition(b"\n")
        match = _LINE.match(line + end)
        assert match is not None
        assert takes_lf or match[4]
        assert len(line + end) <= MAX_CHALLENGE
        assert int(match[1]) == reply.code
        sent = (match[3] or b"").decode("utf-8", "surrogateescape")
        assert _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", sent) == text
        assert (match[2] == b"-") == (number < len(reply.lines))
        total += len(line + end)
    assert total <= MAX_REPLY
    status = reply.enhanced_status
    assert status is None or reply.lines[0].split(" ")[0] == str(status)
    assert status is None or status.class_ == reply.code // 100
    return data
