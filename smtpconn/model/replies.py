"""A server's reply as a value: code, lines and enhanced status code (RFC 5321 4.2, RFC 3463).

This module raises no error of smtpconn and imports none, because errors hold replies. Bytes are
parsed into replies in `smtpconn.protocol.reply_parser`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from smtpconn.model.frozen import setters
from smtpconn.model.pickling import reduce_value

SHUTTING_DOWN = 421
"""The code with which a server ends the connection, at any time (RFC 5321 3.8)."""


@dataclass(frozen=True, slots=True)
class EnhancedStatusCode:
    """The machine-readable part of a reply (RFC 3463): ``str(code)`` is text such as ``5.1.1``.

    Attributes:
        class_: 2 (success), 4 (transient) or 5 (permanent); always that of the reply.
        subject: what it is about: 1 the address, 2 the mailbox, 3 the system, 4 the network, 5 the
            protocol, 6 the content, 7 security or policy.
        detail: what exactly; 0 if it is not specified.
    """

    __reduce_ex__ = reduce_value

    class_: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.class_}.{self.subject}.{self.detail}"

    @classmethod
    def from_text(cls, text: str) -> EnhancedStatusCode | None:
        """Read the code that ``text`` begins with; None if it begins with something else."""
        word = text.partition(" ")[0]
        # A cheap check that most texts without a code fail: "Ok", "End data with ...".
        return _status_code(word) if word[1:2] == "." and len(word) <= len("5.999.999") else None


@functools.lru_cache(maxsize=256)
def _status_code(word: str) -> EnhancedStatusCode | None:
    numbers = word.split(".")
    if len(numbers) != 3 or not all(n.isascii() and n.isdigit() for n in numbers):
        return None
    if max(map(len, numbers)) > 3:
        return None
    code = EnhancedStatusCode(*map(int, numbers))
    # Of one to three digits each, without leading zeros (RFC 3463 2).
    return code if code.class_ in (2, 4, 5) and str(code) == word else None


@dataclass(frozen=True, slots=True, init=False)
class SmtpResponse:
    """One whole reply of a server (RFC 5321 4.2).

    Attributes:
        code: the three-digit code, 200 to 599.
        lines: the text of each line after the code, as sent (an enhanced status code stays in it;
            bytes that are not UTF-8 are surrogate-escaped).
        enhanced_status: the RFC 3463 code, or None when there is none or its class contradicts
            the reply's.
    """

    __reduce_ex__ = reduce_value

    code: int
    lines: tuple[str, ...] = ("",)
    enhanced_status: EnhancedStatusCode | None = None

    def __init__(
        self,
        code: int,
        lines: tuple[str, ...] = ("",),
        enhanced_status: EnhancedStatusCode | None = None,
    ) -> None:
        _set_code(self, code)
        _set_lines(self, lines)
        _set_status(self, enhanced_status)

    def __str__(self) -> str:
        text = " / ".join(line for line in self.lines if line)
        return f"{self.code} {printable(text)}".rstrip()

    @property
    def is_success(self) -> bool:
        """Whether this is a 2xx reply."""
        return 200 <= self.code < 300

    @property
    def is_intermediate(self) -> bool:
        """Whether this is a 3xx reply: the server waits for more."""
        return 300 <= self.code < 400

    @property
    def is_transient(self) -> bool:
        """Whether this is a 4xx reply: a refusal that may not last."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """Whether this is a 5xx reply: a refusal that will last."""
        return self.code >= 500


_set_code, _set_lines, _set_status = setters(SmtpResponse)


def printable(text: str) -> str:
    """A server's text for terminals and logs, with control characters escaped."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]


def response(code: int, lines: tuple[str, ...]) -> SmtpResponse:
    """Make a response, reading the enhanced status code if its class matches (RFC 2034 4)."""
    status = EnhancedStatusCode.from_text(lines[0]) if code // 100 != 3 else None
    if status is not None and status.class_ != code // 100:
        status = None
    return SmtpResponse(code, lines, status)
