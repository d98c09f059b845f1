"""Addresses and ESMTP options as ``smtplib`` takes them: free text, which is checked before use.

``smtplib`` sends any text: it strips the name from "Jane <jane@example.com>" and sends "John",
which is not an address, unchanged. Here a valid address becomes one of smtpconn's values. Other
text is sent unchanged, and the server accepts or refuses it. Text with a control character, a space
or an angle bracket is refused here, because these could end the path and begin something else
(CVE-2025-59937).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parseaddr

from smtpconn.model.addresses import ForwardPath, ReversePath, advice_for
from smtpconn.model.errors import Phase, ValidationError
from smtpconn.model.parameters import BodyType, MailFromParams

_UNSAFE = re.compile(r"[\x00-\x20\x7f<>]|[\ud800-\udfff]")
# An address in angle brackets, with or without a name before it.
_IN_BRACKETS = re.compile(r"[^<>]*<([^<>]*)>\Z")
# esmtp-param (RFC 5321 4.1.2); the value may also contain an equals sign here.
_PARAMETER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:=[^\x00-\x20\x7f]+)?\Z")


class _LiteralReversePath(ReversePath):
    """A reverse-path that is not an address, sent unchanged."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        _set_text(self, text)


class _LiteralForwardPath(ForwardPath):
    """A forward-path that is not an address, sent unchanged."""

    __slots__ = ()

    def __init__(self, text: str) -> None:
        _set_text(self, text)


@dataclass(frozen=True, slots=True)
class MailOptions:
    """The parsed ``mail_options`` of ``smtplib``.

    Attributes:
        smtputf8: whether they contain SMTPUTF8.
        body: the value of BODY; None if they do not contain it.
        words: the other parameters, as they are sent.
    """

    smtputf8: bool = False
    body: BodyType | None = None
    words: str = ""

    @property
    def params(self) -> MailFromParams:
        """SMTPUTF8 and BODY as typed parameters."""
        return MailFromParams(body=self.body, smtputf8=self.smtputf8)


def refuse_line_ends(text: str) -> None:
    """Refuse a line break in a command, with the error text of ``smtplib``.

    Raises:
        ValidationError: the text contains CR or LF; the error is a ValueError, too.
    """
    if "\r" in text or "\n" in text:
        shown = text.replace("\n", "\\n").replace("\r", "\\r")
        raise ValidationError(
            f"command and arguments contain prohibited newline characters: {shown}"
        )


@functools.lru_cache(maxsize=256)
def reverse_path(given: str) -> ReversePath:
    """The reverse-path for a caller's text.

    Raises:
        ValidationError: the text contains characters that may not be sent.
    """
    text = _address_of(given)
    try:
        return ReversePath(text)
    except ValidationError:
        return _LiteralReversePath(_checked(text))


@functools.lru_cache(maxsize=1024)
def forward_path(given: str) -> ForwardPath:
    """The forward-path for a caller's text; raises as `reverse_path`."""
    text = _address_of(given)
    try:
        return ForwardPath(text)
    except ValidationError:
        if not text:
            raise
        return _LiteralForwardPath(_checked(text))


def check_ascii(path: ReversePath | ForwardPath) -> None:
    """Check that a path can be sent without SMTPUTF8, perhaps with its domain in A-labels.

    Raises:
        UnicodeEncodeError: the path needs SMTPUTF8; ``smtplib`` raises the same error.
    """
    mailbox = path.mailbox
    (str(path) if mailbox is None else mailbox.local_part).encode("ascii")


def mail_options(options: Sequence[str]) -> MailOptions:
    """Parse ``mail_options``.

    Raises:
        ValidationError: an option is not an ESMTP parameter.
    """
    utf8, body, words = False, None, []
    for word in _words("mail", options):
        name, _, value = word.upper().partition("=")
        if name == "SMTPUTF8":
            utf8 = True
        elif name == "BODY" and value in (BodyType.SEVENBIT, BodyType.EIGHTBITMIME):
            body = BodyType(value)
        elif name != "SIZE":  # smtpconn sends its own SIZE
            words.append(f" {word}")
    return MailOptions(utf8, body, "".join(words))


def rcpt_words(options: Sequence[str]) -> str:
    """Parse ``rcpt_options``; raises as `mail_options`."""
    return "".join(f" {word}" for word in _words("rcpt", options))


def _words(verb: str, options: Sequence[str]) -> list[str]:
    text = " ".join(options)
    refuse_line_ends(f"{verb} {text}")
    words = text.split(" ")
    for word in filter(None, words):
        if not _PARAMETER.match(word):
            raise ValidationError(f"not an ESMTP parameter: {word!r:.80}", phase=Phase.INPUT)
    return [word for word in words if word]


def _address_of(given: str) -> str:
    if not isinstance(given, str):
        raise TypeError(f"an address is a str, not {type(given).__name__}")
    text = given.strip()
    refuse_line_ends(text)
    if (named := _IN_BRACKETS.match(text)) is not None:
        return named[1]
    # parseaddr turns text that is not an address into another one: "a b" into "a".
    if text.endswith(")") and "@" in (spec := parseaddr(text)[1]):
        return spec
    return text


def _checked(text: str) -> str:
    if _UNSAFE.search(text):
        advice = advice_for(text)
        raise ValidationError(
            f"an address that may not be sent: {text!a:.80}" + (f"; {advice}" if advice else "")
        )
    return text


def _set_text(path: ReversePath | ForwardPath, text: str) -> None:
    facts = {"mailbox": None, "is_ascii": text.isascii(), "text": text}
    if isinstance(path, ForwardPath):
        facts["written"] = text
    for name, value in facts.items():
        object.__setattr__(path, name, value)
