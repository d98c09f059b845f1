"""The parser of replies, which accepts nothing else (RFC 5321 4.2).

Rule 1: the grammar is strict. A line is three digits, then "-" (more lines follow), " " or nothing
(last line), then text, then CRLF. All lines of a reply carry the same code. Anything else is a
`ParseError`, after which the parser refuses to go on: a peer that lost its place in the dialogue
cannot be brought back in sync by guessing where its next reply begins.

Rule 2: everything is bounded, because the peer decides how much it sends: the octets of a line,
the lines of a reply, the octets of a reply.

Rule 3: bytes are looked at once. `ReplyParser` remembers how far it has searched for a line's end,
so a server that sends one byte at a time costs linear time. Most replies are one line, and one of
the same few lines: those are parsed once and remembered (`simple_replies`).

Who a reply belongs to is not known here; that is `smtpconn.protocol.reply_matcher`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import cast

from smtpconn.model.errors import ParseError, Phase
from smtpconn.model.replies import SmtpResponse, response

MAX_LINE = 8 * 1024
"""Octets in one reply line with its CRLF; RFC 5321 4.5.3.1.5 asks for 512."""

MAX_LINES = 128
"""Lines in one reply."""

MAX_REPLY = 64 * 1024
"""Octets in one reply."""

MAX_CHALLENGE = 12 * 1024
"""Octets in one 334 line, which may be longer than others (RFC 4954 4, 12288 octets)."""

_REMEMBERED = 512
"""Octets that are remembered with the replies they are, so that they are parsed once."""

_CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_HYPHEN = b"-"[0]


@functools.lru_cache(maxsize=256)
def _simple_reply(line: bytes) -> SmtpResponse | None:
    """The reply that a line without its CRLF is; None if it is none, or part of one, or odd."""
    code, text = line[:3], line[4:]
    is_simple = (
        line[3:4] == b" "
        and len(line) <= 128
        and code.isdigit()
        and b"200" <= code <= b"599"
        and code != b"421"
        and text.isascii()
    )
    if not is_simple or not (decoded := text.decode("ascii")).isprintable():
        return None
    return response(int(code), (decoded,))


def simple_replies(data: bytes) -> tuple[SmtpResponse, ...] | None:
    """The replies that ``data`` is, if it is nothing but whole replies of one usual line each.

    421 is not usual, so that who hands them over needs to look for it only among the others.
    """
    return _remembered_replies(data) if len(data) <= _REMEMBERED else _simple_replies(data)


def _simple_replies(data: bytes) -> tuple[SmtpResponse, ...] | None:
    *lines, rest = data.split(b"\r\n")
    replies = tuple(map(_simple_reply, lines))
    return cast("tuple[SmtpResponse, ...]", replies) if not rest and all(replies) else None


# Envelopes are answered with the same few octets again and again.
_remembered_replies = functools.lru_cache(maxsize=256)(_simple_replies)


class ReplyParser:
    """Turns the octets of a connection into replies; one for each connection and TLS layer.

    Attributes:
        is_empty: whether every octet fed in has come out as part of a whole reply.
    """

    def __init__(self) -> None:
        self.is_empty = True
        self._buffer = bytearray()
        self._start = 0
        self._searched = 0
        self._code = b""
        self._lines: list[str] = []
        self._octets = 0
        self._failed = False

    def replies_in(self, data: bytes) -> Iterable[SmtpResponse]:
        """The whole replies there are once ``data`` was received too.

        They are a tuple if ``data`` holds nothing else and none of them is 421.

        Raises:
            ParseError: as `next_reply`, behind the replies that came before; when iterated.
        """
        if self.is_empty and (replies := simple_replies(data)) is not None:
            return replies
        self.feed(data)
        return iter(self.next_reply, None)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self.is_empty = self.is_empty and not data
        if self._start:
            del self._buffer[: self._start]
            self._searched -= self._start
            self._start = 0
        self._buffer += data

    def next_reply(self) -> SmtpResponse | None:
        """Return the next whole reply, or None if more octets are needed.

        Raises:
            ParseError: what was received is no reply, or too long for one. The parser is then
                of no more use.
        """
        if self._failed:
            raise _broken("the reply stream was already broken")
        try:
            while (line := self._next_line()) is not None:
                if self._add_line(line):
                    self.is_empty = self._start == len(self._buffer)
                    return self._take_reply()
        except ParseError:
            self._failed = True
            raise
        return None

    def _next_line(self) -> bytes | None:
        start = self._start
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            self._check_length(self._searched - start)
            return None
        self._check_length(end + 1 - start)
        self._start = self._searched = end + 1
        return bytes(self._buffer[start : end + 1])

    def _check_length(self, octets: int) -> None:
        if octets > MAX_LINE and (
            octets > MAX_CHALLENGE or not self._buffer.startswith(b"334", self._start)
        ):
            raise _broken(f"the server sent a reply line of more than {MAX_LINE} octets")
        if self._octets + octets > MAX_REPLY:
            raise _broken(f"the server sent a reply of more than {MAX_REPLY} octets")

    def _add_line(self, line: bytes) -> bool:
        """Check one line and keep its text; whether it is the last of its reply."""
        if not line.endswith(b"\r\n"):
            raise _broken(f"the server sent a reply line without CRLF: {_excerpt(line)}")
        code, text = line[:3], line[4:-2]
        if not code.isdigit() or not b"200" <= code <= b"599":
            raise _broken(f"the server sent something that is no reply: {_excerpt(line)}")
        separator = line[3]
        if separator not in b"- " and len(line) != len(b"250\r\n"):
            raise _broken(f"the server sent no space after the reply code: {_excerpt(line)}")
        if text.translate(None, _CONTROLS) != text:
            raise _broken(f"the server sent control characters: {_excerpt(line)}")
        if self._lines and code != self._code:
            raise _broken(
                f"the server changed the code inside a reply from "
                f"{self._code.decode()}: {_excerpt(line)}"
            )
        self._code = code
        self._lines.append(text.decode("utf-8", "surrogateescape"))
        self._octets += len(line)
        if separator != _HYPHEN:
            return True
        if len(self._lines) >= MAX_LINES:
            raise _broken(f"the server sent a reply of more than {MAX_LINES} lines")
        return False

    def _take_reply(self) -> SmtpResponse:
        lines, self._lines, self._octets = tuple(self._lines), [], 0
        return response(int(self._code), lines)


def _excerpt(line: bytes) -> str:
    return ascii(line[:80].decode("utf-8", "surrogateescape"))


def _broken(text: str) -> ParseError:
    """The error for something that is no reply; which command it answers, the caller knows."""
    return ParseError(text, phase=Phase.IDLE)
