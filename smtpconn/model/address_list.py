"""Address lists as in header fields: with names, comments and groups (RFC 5322 3.4, 4.4).

This module finds the addresses in a text; `smtpconn.model.addresses` decides whether an address may
be sent. A text is scanned once from start to end, without recursion, so the time is linear for any
input. Ambiguous text is refused, because a message must not go to another address than was written.

Accepted beyond RFC 5322 3.4: full stops and brackets in unquoted names, empty elements in a
list, source routes (which are dropped later), and UTF-8 (RFC 6532). Not accepted: spaces inside an
address, except around its @.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from smtpconn.model.errors import ValidationError

_TOKEN = re.compile(
    r'(?P<blank>[ \t]+)|(?P<atom>[^\x00-\x20"(),.:;<>@\[\\\]\x7F]+)|(?P<special>[,.:;<>@])'
    r'|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<literal>\[[^\[\]\\]*\])|(?P<comment>\()'
)
_IN_COMMENT = re.compile(r"\\.|[()]")
_QUOTED_PAIR = re.compile(r"\\(.)")
_FOLD = re.compile(r"\r?\n(?=[ \t])")
_WORDS = ("atom", "quoted", "literal")


@dataclass(frozen=True, slots=True)
class Named:
    """An address with its display name.

    Attributes:
        name: the display name without its quoting; if there is none, the comment after the
            address; "" if there is neither. Encoded words (RFC 2047) are not decoded.
        address: the address, not validated; `smtpconn.model.addresses.ForwardPath` does that.
    """

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Group:
    """The addresses of a group such as ``undisclosed-recipients:;``, or one address outside groups.

    Attributes:
        name: without quoting; None for an address outside groups.
        members: in order.
    """

    name: str | None
    members: tuple[Named, ...]


def read_addresses(text: str, *, allow_gaps: bool = True) -> list[str]:
    """The addresses in a list, in order, without names and comments.

    Args:
        text: a list of addresses, or the value of an address field, which may be folded.
        allow_gaps: whether there may be nothing between two commas (RFC 5322 4.4).

    Raises:
        ValidationError: it is not a list of addresses.
    """
    groups = read_groups(text, allow_gaps=allow_gaps)
    return [each.address for group in groups for each in group.members]


def read_groups(text: str, *, allow_gaps: bool = True) -> list[Group]:
    """The addresses in a list with names and groups; each one outside groups is a `Group` alone.

    Raises:
        ValidationError: it is not a list of addresses.
    """
    return list(_Reader(_FOLD.sub("", text), allow_gaps=allow_gaps).groups())


@dataclass(slots=True)
class _Token:
    """A word or a special character; the last token of a text is its end, with the text "".

    Attributes:
        kind: the group of `_TOKEN` that matched, or "end" for the end of the text.
        text: the characters of the token, unchanged.
        has_gap_before: whether a space or a comment precedes it.
    """

    kind: str
    text: str
    has_gap_before: bool

    def is_one_of(self, specials: str) -> bool:
        return self.kind == "special" and self.text in specials


class _Reader:
    """Reads one text; `groups` may be called only once."""

    def __init__(self, text: str, *, allow_gaps: bool) -> None:
        self._text = text
        self._allow_gaps = allow_gaps
        self._tokens = self._scan()
        self._comment = ""

    def groups(self) -> Iterator[Group]:
        group: str | None = None
        members: list[Named] = []
        ended_group = False
        while True:
            words, end = self._words()
            if end.is_one_of(">"):
                raise self._error("a > without a <")
            if ended_group and (words or end.is_one_of("<:;")):
                raise self._error("there is no comma after a group")
            if end.is_one_of(":"):
                if group is not None or not words:
                    raise self._error("a colon that does not begin a group")
                group = self._name(words)
                continue
            named: Named | None
            if end.is_one_of("<"):
                named, end = self._angle(words)
            else:
                named = self._bare(words) if words else None
                if named is None and not (self._allow_gaps or end.is_one_of(";") or ended_group):
                    raise self._error("an empty element")
            ended_group = end.is_one_of(";")
            if group is None:
                if ended_group:
                    raise self._error("a semicolon that does not end a group")
                if named is not None:
                    yield Group(None, (named,))
            else:
                if named is not None:
                    members.append(named)
                if ended_group:
                    yield Group(group, tuple(members))
                    group, members = None, []
            if end.kind == "end":
                if group is not None:
                    raise self._error("a group without an end")
                return

    def _words(self) -> tuple[list[_Token], _Token]:
        """The tokens before the next one that ends a name or an address, and that token."""
        self._comment = ""
        words: list[_Token] = []
        for token in self._tokens:
            if token.kind == "end" or token.is_one_of(",:;<>"):
                return words, token
            words.append(token)
        raise AssertionError("the last token is the end")

    def _angle(self, words: list[_Token]) -> tuple[Named, _Token]:
        """An address in angle brackets after a name, and the token that ends it."""
        name = self._name(words)
        inside: list[_Token] = []
        for token in self._tokens:
            if token.is_one_of(">"):
                break
            if token.kind == "end" or token.is_one_of("<;"):
                raise self._error("a < without a >")
            inside.append(token)
        address = self._joined(inside)
        after, end = self._words()
        if after or end.is_one_of("<>:"):
            raise self._error("text after an angle bracket")
        return Named(name or self._comment, address), end

    def _bare(self, words: list[_Token]) -> Named:
        address = self._joined(words)
        if not any(token.is_one_of("@") for token in words) and address.lower() != "postmaster":
            raise self._error("a name without an address")
        return Named(self._comment, address)

    def _joined(self, tokens: list[_Token]) -> str:
        """The text of an address; blanks and comments are allowed only around "@", "," and ":"."""
        for before, token in itertools.pairwise(tokens):
            if token.has_gap_before and not (token.is_one_of("@,:") or before.is_one_of("@,:")):
                raise self._error("a blank in an address, or no comma between two addresses")
        if not tokens:
            raise self._error("an address is missing")
        return "".join(token.text for token in tokens)

    def _name(self, words: list[_Token]) -> str:
        """A phrase without its quoting, with single spaces."""
        if any(token.is_one_of("@") for token in words):
            raise self._error("an address where a name is expected")
        text = "".join(
            (" " if token.has_gap_before else "")
            + (_QUOTED_PAIR.sub(r"\1", token.text[1:-1]) if token.kind == "quoted" else token.text)
            for token in words
        )
        return text.strip()

    def _scan(self) -> Iterator[_Token]:
        text, position, has_gap_before = self._text, 0, False
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise self._error(f"{text[position]!a} is not allowed there")
            kind = found.lastgroup or ""
            position = found.end()
            if kind == "comment":
                start, position = position, self._end_of_comment(position)
                self._comment = text[start : position - 1]
                has_gap_before = True
            elif kind == "blank":
                has_gap_before = True
            else:
                yield _Token(kind, found[0], has_gap_before)
                has_gap_before = False
        yield _Token("end", "", has_gap_before)

    def _end_of_comment(self, position: int) -> int:
        depth = 1
        for found in _IN_COMMENT.finditer(self._text, position):
            depth += {"(": 1, ")": -1}.get(found[0], 0)
            if not depth:
                return found.end()
        raise self._error("a comment without an end")

    def _error(self, why: str) -> ValidationError:
        return ValidationError(f"not an address, nor a list of them: {self._text!r:.80}: {why}")
