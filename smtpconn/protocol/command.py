"""The only place where a command becomes bytes, and where bytes that must not be sent are refused.

Rule: nothing in smtpconn writes a command to a socket except as a `Command`, and a `Command` is
made only by the functions below, which check the finished bytes. Checking the bytes, and not only
the arguments they were made from, also stops encodings that turn harmless characters into CR and LF
(CVE-2025-7962), and a parameter smuggled through any argument.

A command stores its log form together with its bytes, so that no log line can contain a secret by
oversight: code that makes a command with a secret also supplies the text without it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from smtpconn.model.errors import Phase, SmtpUtf8RequiredError, ValidationError
from smtpconn.model.secret import Secret

MAX_COMMAND = 2000
"""Bytes in a command line with its CRLF. RFC 5321 4.5.3.1.4 has 512, which extensions enlarge
(SIZE, DSN, AUTH=, ...); beyond 2048 Postfix drops the rest silently and still answers 250."""

MAX_AUTH_LINE = 12 * 1024
"""Bytes in a SASL line with its CRLF (RFC 4954 4)."""

_FORBIDDEN = bytes([*range(0x20), 0x7F])
# UTF8-non-ascii includes these (RFC 6531 3.3), but no command needs them: the C1 controls (of which
# U+0085 is a line end) and the separators that end a line for code that splits text by Unicode.
_FORBIDDEN_TEXT = re.compile("[\x80-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Command:
    """One command line as it will be sent.

    Attributes:
        wire: the bytes with CRLF.
        log: the text that is logged; it contains no secret.
        phase: the phase of an error while its reply is awaited.
        replies: how many replies it gets: 1, or 0 for a BDAT whose payload follows.
        ends_message: False: no command ends a message (`smtpconn.protocol.exchange.Payload` does).
    """

    ends_message: ClassVar[bool] = False

    wire: bytes = field(repr=False)
    log: str
    phase: Phase
    replies: int = 1


def cached_command(phase: Phase, replies: int = 1) -> Callable[[str], Command]:
    """A function that makes commands from their texts, as `command`, and caches the most recent.

    Applications send from few addresses, often to the same ones, messages of similar sizes.
    """

    @functools.lru_cache(maxsize=2048)
    def make(text: str) -> Command:
        return command(phase, text, replies)

    return make


def command(phase: Phase, text: str, replies: int = 1) -> Command:
    """Make a command from its text.

    Raises:
        ValidationError: it holds a control character, or is longer than `MAX_COMMAND` bytes.
    """
    # Nearly every command is printable ASCII, which is quick to check.
    if text.isascii() and text.isprintable() and len(text) + 2 <= MAX_COMMAND:
        return Command(text.encode("ascii") + b"\r\n", text, phase, replies)
    wire = _wire(text)
    if problem := _problem(wire, MAX_COMMAND):
        raise ValidationError(f"{problem}: {ascii(text)[:200]}", phase=phase)
    return Command(wire, text, phase, replies)


def ascii_command(phase: Phase, text: str) -> Command:
    """Make a command that must be ASCII because SMTPUTF8 is not in force (RFC 6531 3.4).

    Raises:
        SmtpUtf8RequiredError: it is not ASCII.
        ValidationError: as `command`.
    """
    if not text.isascii():
        raise SmtpUtf8RequiredError(
            f"{text!r} is not ASCII and the server does not offer SMTPUTF8", phase=phase
        )
    return command(phase, text)


def secret_command(text: str | Secret, log: str) -> Command:
    """Make a SASL line (AUTH, or the answer to a challenge) that is logged as ``log``.

    Raises:
        ValidationError: it holds a control character, or is longer than `MAX_AUTH_LINE` bytes;
            neither the error text nor a local variable in its traceback contains the line.
    """
    secret = Secret.of(text)
    del text
    made = Command(_wire(secret.reveal()), log, Phase.AUTH)
    if problem := _problem(made.wire, MAX_AUTH_LINE):
        raise ValidationError(f"{problem}: {ascii(log)[:200]}", phase=Phase.AUTH)
    return made


def _wire(text: str) -> bytes:
    """The bytes of a line; its content is checked elsewhere."""
    # A lone surrogate becomes bytes that are not UTF-8, which `_problem` finds.
    return text.encode("utf-8", "surrogatepass") + b"\r\n"


def _problem(wire: bytes, limit: int) -> str:
    """Why a line may not be sent; "" if it may. Raises nothing: a traceback could show a secret."""
    line = wire[:-2]
    if not line.isascii():
        text = line.decode("utf-8", "surrogatepass")
        if any("\ud800" <= c <= "\udfff" for c in text):
            return "a lone surrogate may not be sent"
        if _FORBIDDEN_TEXT.search(text):
            return "a control character may not be sent"
    if line.translate(None, _FORBIDDEN) != line:
        return "a control character may not be sent"
    if len(wire) > limit:
        return f"the line would have {len(wire)} bytes, more than {limit}"
    return ""
