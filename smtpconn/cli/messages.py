"""What ``send`` sends: files, standard input, and messages composed here.

A message leaves as it is, but for three things: an mbox's ``From `` line in front of it is no part
of it, Bcc never leaves, and what is not CRLF becomes CRLF on the way. Small ones are read whole, so
that their size and their octets are known before a word is said; large ones are streamed.

Sender and recipients are those of the options, else those the headers name.
"""

from __future__ import annotations

import argparse
import email.policy
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import BinaryIO

from smtpconn.cli.compose import compose, unreadable
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.wishes import EnvelopeOptions, envelope_of, envelope_options
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.content import Message
from smtpconn.model.email_message import recipients_of, sender_of
from smtpconn.model.results import Envelope

WHOLE = 1024 * 1024
"""Octets up to which a message is read whole. Its header has to end within them."""

_END_OF_HEADER = re.compile(rb"(\A|\r?\n)\r?\n")
_BCC = re.compile(
    rb"^(?:Resent-)?Bcc[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
)
_SPACE_BEHIND_NAME = re.compile(r"^([!-9;-~]+)[ \t]+:", re.MULTILINE)
"""Obsolete, and legal (RFC 5322 4.5)."""

_MBOX_LINE = re.compile(rb"\AFrom [^\n]*\n")


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message that is ready to leave.

    Attributes:
        name: what to call it: a file's name.
        envelope: with its message.
        text: the whole message, if it is here.
    """

    name: str
    envelope: Envelope
    text: bytes | None
    _file: BinaryIO | None = None

    @property
    def recipients(self) -> list[str]:
        """Whom it is for."""
        return [str(recipient) for recipient in self.envelope.recipients]

    def close(self) -> None:
        """Close its file."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, slots=True)
class Source:
    """Where a message comes from: a name, and how to open it when its turn comes.

    ``open`` raises `OSError`, `UsageError` or `ValidationError`.
    """

    name: str
    open: Callable[[], Outgoing]


def sources_of(args: argparse.Namespace, files: Sequence[str]) -> list[Source]:
    """The messages that the options name, in their order.

    Raises:
        UsageError: they say both that there is a message and that one is to be composed.
        ValidationError: as `envelope_options`.
    """
    wishes = envelope_options(args)
    names = [*files, *([args.data] if args.data is not None else [])]
    composes = bool(args.header or args.attach or args.body is not None)
    if composes and names:
        raise UsageError(
            "--header, --body and --attach compose a message; with a file there is one"
        )
    if names.count("-") > 1:
        raise UsageError("standard input can be read only once")
    if names:
        return [_source(name, wishes) for name in names]
    if composes or sys.stdin is None or sys.stdin.isatty():
        return [Source("composed message", lambda: _composed(args, wishes))]
    return [_source("-", wishes)]


def envelope_to_try(args: argparse.Namespace, files: Sequence[str]) -> Envelope:
    """The envelope of the first message, which is looked at only for what no option says.

    Raises:
        As `sources_of` and opening a `Source`.
    """
    wishes = envelope_options(args)
    if wishes.sender is not None and wishes.recipients:
        return envelope_of(wishes.sender, wishes.recipients, b"", wishes)
    outgoing = sources_of(args, files)[0].open()
    outgoing.close()
    return outgoing.envelope


def _composed(args: argparse.Namespace, wishes: EnvelopeOptions) -> Outgoing:
    sender, recipients, text = compose(args, wishes)
    return Outgoing("composed message", envelope_of(sender, recipients, text, wishes), text)


def _source(name: str, wishes: EnvelopeOptions) -> Source:
    if name == "-":
        return Source("standard input", lambda: _read("standard input", sys.stdin.buffer, wishes))
    return Source(name, lambda: _open(name, wishes))


def _open(name: str, wishes: EnvelopeOptions) -> Outgoing:
    try:
        file = open(name, "rb")  # noqa: SIM115 - closed when it was sent
    except OSError as error:
        raise unreadable(name, error) from None
    try:
        return _read(name, file, wishes, file)
    except BaseException:
        file.close()
        raise


def _read(
    name: str, file: BinaryIO, wishes: EnvelopeOptions, to_close: BinaryIO | None = None
) -> Outgoing:
    """Read a message as far as its envelope needs, and all of it if it is small."""
    begin = _read_up_to(file, WHOLE + 1)
    if not begin.strip():
        raise UsageError(f"{name}: there is no message in it", os.EX_NOINPUT)
    begin = _MBOX_LINE.sub(b"", begin)
    end = _END_OF_HEADER.search(begin)
    if end is None and len(begin) > WHOLE:
        raise UsageError(f"{name}: no end of the header within {WHOLE} octets", os.EX_DATAERR)
    header, rest = (begin, b"") if end is None else (begin[: end.end(1)], begin[end.end(1) :])
    if end is None and not header.endswith(b"\n"):
        header += b"\r\n"
    sender, recipients = _parties(name, header, wishes)
    whole = _BCC.sub(b"", header) + rest
    if len(begin) <= WHOLE:
        text: bytes | None = whole
        message: Message = whole
    else:
        text, message = None, _stream(whole, file)
    size = None if text is not None else _size(file, len(whole))
    return Outgoing(name, envelope_of(sender, recipients, message, wishes, size), text, to_close)


def _read_up_to(file: BinaryIO, octets: int) -> bytes:
    """Read so many octets, or to the end; a pipe gives them piece by piece."""
    pieces, missing = [], octets
    while missing and (piece := file.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _stream(begin: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield begin
    yield from iter(lambda: file.read(64 * 1024), b"")


def _size(file: BinaryIO, behind: int) -> int | None:
    """Octets of a stream of which ``behind`` were read already; None where nobody knows."""
    try:
        return behind + os.fstat(file.fileno()).st_size - file.tell() if file.seekable() else None
    except (OSError, io.UnsupportedOperation):
        return None


def _parties(
    name: str, header: bytes, wishes: EnvelopeOptions
) -> tuple[ReversePath, tuple[ForwardPath, ...]]:
    """Sender and recipients: of the options, else of the header."""
    if wishes.sender is not None and wishes.recipients:
        return wishes.sender, wishes.recipients
    text = _SPACE_BEHIND_NAME.sub(r"\1:", header.decode("utf-8", "surrogateescape"))
    fields = HeaderParser(policy=email.policy.default).parsestr(text)
    if fields.defects:
        # What stands behind it would not be found, and nobody would know.
        raise UsageError(
            f"{name}: a line of its header is no header field: give --from and --to", os.EX_DATAERR
        )
    sender = wishes.sender if wishes.sender is not None else sender_of(fields)
    return sender, wishes.recipients or tuple(recipients_of(fields))
