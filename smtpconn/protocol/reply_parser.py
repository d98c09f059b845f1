"""The parser of replies: liberal where that is harmless, strict where it protects (RFC 5321 4.2).

Rule 1: a line is three digits from 200 to 599, then "-" (more lines follow), " " or nothing (last
line), then text, then CRLF. All lines of a reply carry the same code. Anything else is a
`ParseError`, after which the parser returns nothing more: where the next reply begins can only be
guessed then, and a wrong guess would assign every later command the reply to another one.

Rule 2: what cannot shift that boundary is accepted. Extra CRs before the LF are dropped,
control characters but NUL and a bare CR are escaped, and empty lines after the greeting are
skipped. A bare LF ends a line only if the server also ended its greeting with a bare LF,
or where it is the last byte received and exactly one reply is awaited: elsewhere it may
stand in text that the server repeats (``554 rejected: ...<LF>250 ok<CRLF>``) and begin a reply that
the server never gave.

Rule 3: in the greeting and in the reply to EHLO, a refusal may follow lines with another code
(postscreen: ``220-teaser``, then ``521 no``). The reply counts as that refusal, and nothing more is
read. A success after another code is an error there; anywhere else any change of code is an error.

Rule 4: everything is bounded, because the peer decides how much it sends: the bytes of a line, the
lines of a reply, the bytes of a reply, the empty lines after the greeting.

Rule 5: each byte is searched once. `ReplyParser` remembers how far it has searched for a line's
end, so a server that sends one byte at a time costs linear time. Most replies are one line, and the
same few lines recur: those are parsed once and cached (`ReplyParser.simple_replies`).

Which command a reply belongs to is decided in `smtpconn.protocol.reply_matcher`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import cast

from smtpconn.model.errors import ParseError, Phase
from smtpconn.model.replies import SmtpResponse, response

MAX_LINE = 8 * 1024
"""Bytes in one reply line with its line end; RFC 5321 4.5.3.1.5 asks for 512."""

MAX_LINES = 128
"""Lines in one reply."""

MAX_REPLY = 64 * 1024
"""Bytes in one reply."""

MAX_CHALLENGE = 12 * 1024
"""Bytes in one 334 line, which may be longer than others (RFC 4954 4, 12288 bytes)."""

MAX_EMPTY_LINES = 16
"""Empty lines between the greeting and the next reply."""

_REMEMBERED = 512
"""The most received bytes whose replies are cached."""

_NUL_AND_CR = b"\0\r"
_CONTROLS = bytes([*range(0x09), *range(0x0A, 0x20), 0x7F])
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROLS}


@functools.lru_cache(maxsize=256)
def _simple_reply(line: bytes) -> SmtpResponse | None:
    """Parse a line without its CRLF as a reply of one line.

    None if the line is invalid, belongs to a reply of several lines, is long, is a 421, or has
    anything but printable ASCII: then it needs the complete parser.
    """
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


def _simple_replies(data: bytes) -> tuple[SmtpResponse, ...] | None:
    """Parse ``data`` if it consists of complete, simple replies only (`_simple_reply`); else None.

    421 is not simple, so the caller need not look for it among these.
    """
    *lines, rest = data.split(b"\r\n")
    replies = tuple(map(_simple_reply, lines))
    return cast("tuple[SmtpResponse, ...]", replies) if not rest and all(replies) else None


# Cached: servers answer envelopes with the same few bytes again and again.
_remembered_replies = functools.lru_cache(maxsize=256)(_simple_replies)


class ReplyParser:
    """Turns the bytes of a connection into replies; one for each connection and TLS layer.

    Args:
        begins_with_greeting: whether the first reply is the greeting, which empty lines may
            follow; False under a TLS layer that STARTTLS began.

    Attributes:
        is_empty: whether every byte received so far belongs to a reply that was returned.
        is_over: whether nothing more is read, because the last reply was a refusal after lines
            with another code.
        takes_lf: whether a bare LF ends a line, because it ended the first line; None before the
            first line.
        has_lone_lf: whether the last reply ended with a bare LF though the server ends its lines
            with CRLF.
    """

    def __init__(self, *, begins_with_greeting: bool = True) -> None:
        self.is_empty = True
        self.is_over = False
        self.has_lone_lf = False
        self._buffer = bytearray()
        self._start = 0
        self._searched = 0
        self._code = b""
        self._is_mixed = False
        self._code_begins_at = 0  # index of the first line with the last line's code
        self._lines: list[str] = []
        self._reply_size = 0
        self._failed = False
        self.takes_lf: bool | None = None
        self._begins_with_greeting = begins_with_greeting
        self._replies = 0
        self._empty_lines = 0

    def simple_replies(self, data: bytes) -> tuple[SmtpResponse, ...] | None:
        """Parse ``data`` if it completes simple replies only, none of them 421; else return None.

        If it returns None, ``data`` was not consumed: give it to `replies_in`.
        """
        if self.is_over:
            return None
        if not self.is_empty or data[-2:] != b"\r\n":
            replies = self._cut_replies(data)
        elif len(data) <= _REMEMBERED:
            replies = _remembered_replies(data)
        else:
            replies = _simple_replies(data)
        # After two replies the line end is known, and no empty lines are allowed any more.
        if replies and self._replies < 2:
            self._replies += len(replies)
            if self.takes_lf is None:
                self.takes_lf = False
        return replies

    def _cut_replies(self, data: bytes) -> tuple[SmtpResponse, ...] | None:
        """The same if ``data`` begins or ends inside a line: TCP may split the stream anywhere."""
        end = data.rfind(b"\r\n") + 2  # of the last whole line; less than 2 if there is none
        is_line_begun = not self._lines and not self._failed and self._searched == len(self._buffer)
        rest = data[end:]
        if end < 2 or not is_line_begun or b"\n" in rest or len(rest) > MAX_LINE:
            return None
        replies = _simple_replies(bytes(self._buffer[self._start :]) + data[:end])
        if replies is not None:
            self._buffer[:] = rest
            self._start, self._searched = 0, len(rest)
            self.is_empty = not rest
        return replies

    def replies_in(
        self, data: bytes, *, is_last: bool = False, may_mix: bool = False
    ) -> Iterable[SmtpResponse]:
        """Add ``data`` and iterate over the replies that are complete then.

        Args:
            data: what was received.
            is_last, may_mix: as in `next_reply`.

        Raises:
            ParseError: as `next_reply`, after the replies that came before; when iterated.
        """
        self.feed(data)
        return iter(functools.partial(self.next_reply, is_last=is_last, may_mix=may_mix), None)

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self.is_empty = self.is_empty and not data
        if self._start:
            del self._buffer[: self._start]
            self._searched -= self._start
            self._start = 0
        self._buffer += data

    def next_reply(self, *, is_last: bool = False, may_mix: bool = False) -> SmtpResponse | None:
        """Return the next whole reply, or None if more bytes are needed.

        Args:
            is_last: whether exactly one reply is awaited, so that a bare LF as the last byte
                received ends its line.
            may_mix: whether it is the greeting or the reply to EHLO, where a refusal may
                follow lines with another code.

        Raises:
            ParseError: what was received is no reply, or too long for one. The parser cannot be
                used any more then.
        """
        if self._failed:
            raise _broken("the reply stream was already broken")
        if self.is_over:
            return None
        try:
            while (line := self._next_line(is_last=is_last)) is not None:
                if self._is_empty_line(line):
                    continue
                if self._add_line(line, may_mix=may_mix):
                    self.is_empty = self._start == len(self._buffer)
                    return self._take_reply()
        except ParseError:
            self._failed = True
            raise
        return None

    def _next_line(self, *, is_last: bool) -> bytes | None:
        """The next line without its line end; None if it is not whole."""
        start = self._start
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            self._check_length(self._searched - start)
            return None
        self._check_length(end + 1 - start)
        self._start = self._searched = end + 1
        line = bytes(self._buffer[start:end])
        self.has_lone_lf = False
        if not line.endswith(b"\r"):
            self._check_lf(line, is_last=is_last and self._start == len(self._buffer))
        elif self.takes_lf is None:
            self.takes_lf = False
        # Some servers end lines with CR CR LF.
        return line.rstrip(b"\r")

    def _check_lf(self, line: bytes, *, is_last: bool) -> None:
        """Check whether a bare LF may end a line (rule 2); raises `ParseError` if not."""
        if self.takes_lf is None:
            self.takes_lf = True
        if not self.takes_lf:
            self.has_lone_lf = is_last
            if not is_last:
                raise _broken(f"the server sent a reply line without CRLF: {_excerpt(line)}")

    def _check_length(self, size: int) -> None:
        if size > MAX_LINE and (
            size > MAX_CHALLENGE or not self._buffer.startswith(b"334", self._start)
        ):
            raise _broken(f"the server sent a reply line of more than {MAX_LINE} bytes")
        if self._reply_size + size > MAX_REPLY:
            raise _broken(f"the server sent a reply of more than {MAX_REPLY} bytes")

    def _is_empty_line(self, line: bytes) -> bool:
        """Whether a line is one of the empty ones that may follow the greeting."""
        if line or self._lines or not self._begins_with_greeting or self._replies != 1:
            return False
        if self._empty_lines == MAX_EMPTY_LINES:
            return False
        self._empty_lines += 1
        self.is_empty = self._start == len(self._buffer)
        return True

    def _add_line(self, line: bytes, *, may_mix: bool) -> bool:
        """Check a line and keep its text; return whether it is the last line of the reply."""
        code, text = line[:3], line[4:]
        if len(code) != 3 or not code.isdigit() or not b"200" <= code <= b"599":
            raise _broken(f"the server sent something that is no reply: {_excerpt(line)}")
        separator = line[3:4]
        if separator not in (b"-", b" ", b""):
            raise _broken(f"the server sent no space after the reply code: {_excerpt(line)}")
        if text.translate(None, _NUL_AND_CR) != text:
            raise _broken(f"the server sent control characters: {_excerpt(line)}")
        is_end = separator != b"-"
        if self._lines and code != self._code:
            self._is_mixed = True
            self._code_begins_at = len(self._lines)
        if self._is_mixed and (not may_mix or (is_end and code < b"400")):
            raise _broken(
                f"the server changed the code inside a reply from "
                f"{self._code.decode()}: {_excerpt(line)}"
            )
        self._code = code
        self._lines.append(_readable(text))
        self._reply_size += len(line) + 2
        if not is_end and len(self._lines) >= MAX_LINES:
            raise _broken(f"the server sent a reply of more than {MAX_LINES} lines")
        return is_end

    def _take_reply(self) -> SmtpResponse:
        # Lines with another code before a refusal (rule 3) are not part of the returned reply.
        lines, self._lines, self._reply_size = tuple(self._lines[self._code_begins_at :]), [], 0
        self.is_over = self._is_mixed
        self._replies += 1
        return response(int(self._code), lines)


def _readable(text: bytes) -> str:
    """A line's text, with control characters but the tab escaped (``\\x1b``)."""
    decoded = text.decode("utf-8", "surrogateescape")
    return decoded if text.translate(None, _CONTROLS) == text else decoded.translate(_ESCAPES)


def _excerpt(line: bytes) -> str:
    return ascii(line[:80].decode("utf-8", "surrogateescape"))


def _broken(text: str) -> ParseError:
    """The error for something that is no reply; the caller adds which command it answers."""
    return ParseError(text, phase=Phase.IDLE)
