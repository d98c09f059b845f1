"""The messages that ``send`` sends: files, standard input, and messages composed from options.

A message is sent as it is, except that an mbox's ``From `` line before it and its Bcc fields are
removed, and line ends become CRLF. Small messages are read whole, so that their size and their
content are known before the first command; large ones are streamed.

Sender and recipients come from the options, else from the header (RFC 5321 3.3). Composed messages
have the fields that swaks writes where no option sets them. They are sent in 7 bits, so that every
server accepts them; only an address that is not ASCII needs SMTPUTF8 (RFC 6531).
"""

from __future__ import annotations

import argparse
import email.policy
import io
import mimetypes
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from email.parser import HeaderParser
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import BinaryIO

from smtpconn.cli.exit_codes import UsageError
from smtpconn.model.address_list import read_addresses
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.content import Message
from smtpconn.model.email_message import needs_smtputf8, recipients_of, sender_of, serialize
from smtpconn.model.errors import ValidationError
from smtpconn.model.parameters import DsnNotify, DsnRet, MailFromParams, RcptToParams
from smtpconn.model.results import Envelope

WHOLE = 1024 * 1024
"""Bytes of the largest message that is read whole, and of the largest header."""

_END_OF_HEADER = re.compile(rb"(\A|\r?\n)\r?\n")
_BCC = re.compile(
    rb"^(?:Resent-)?Bcc[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
)
_SPACE_BEHIND_NAME = re.compile(r"^([!-9;-~]+)[ \t]+:", re.MULTILINE)
"""Space before the colon is obsolete and legal (RFC 5322 4.5)."""

_MBOX_LINE = re.compile(rb"\AFrom [^\n]*\n")

_FIELD_NAME = re.compile(r"[!-9;-~]+")


@dataclass(slots=True, eq=False)
class OutgoingMessage:
    """A message that is ready to be sent.

    Attributes:
        name: its name in the report, usually that of its file.
        envelope: the envelope and the message.
        text: the whole message; None if it is streamed.
    """

    name: str
    envelope: Envelope
    text: bytes | None
    _file: BinaryIO | None = None

    @property
    def recipients(self) -> list[str]:
        """The recipients."""
        return [str(recipient) for recipient in self.envelope.recipients]

    def close(self) -> None:
        """Close its file."""
        if self._file is not None:
            self._file.close()


@dataclass(frozen=True, slots=True)
class MessageSource:
    """The source of a message.

    Attributes:
        name: its name in the report.
        open: reads the message; raises `OSError`, `UsageError` or `ValidationError`.
    """

    name: str
    open: Callable[[], OutgoingMessage]


def sources_of(args: argparse.Namespace, files: Sequence[str]) -> list[MessageSource]:
    """The messages that the options name, in their order.

    Raises:
        UsageError: the options name a message and compose one, or standard input is closed.
        ValidationError: as `envelope_options`.
    """
    options = envelope_options(args)
    names = [*files, *([args.data] if args.data is not None else [])]
    composes = bool(args.header or args.attach or args.body is not None)
    if composes and names:
        raise UsageError(
            "--header, --body and --attach compose a message; they cannot change a file"
        )
    if names.count("-") > 1:
        raise UsageError("standard input can be read only once")
    if "-" in names and sys.stdin is None:
        raise UsageError("standard input is closed", os.EX_NOINPUT)
    if names:
        return [_source(name, options) for name in names]
    if composes or sys.stdin is None or sys.stdin.isatty():
        return [MessageSource("composed message", lambda: _composed(args, options))]
    return [_source("-", options)]


def envelope_to_try(args: argparse.Namespace, files: Sequence[str]) -> Envelope:
    """The envelope of the first message, which is read only if options lack a part of it.

    Raises:
        UsageError, ValidationError, OSError: as `sources_of` and `MessageSource.open`.
    """
    options = envelope_options(args)
    if options.sender is not None and options.recipients:
        return envelope_of(options.sender, options.recipients, b"", options)
    outgoing = sources_of(args, files)[0].open()
    outgoing.close()
    return outgoing.envelope


def _composed(args: argparse.Namespace, options: EnvelopeOptions) -> OutgoingMessage:
    sender, recipients, text = compose(args, options)
    return OutgoingMessage("composed message", envelope_of(sender, recipients, text, options), text)


def _source(name: str, options: EnvelopeOptions) -> MessageSource:
    if name == "-":
        return MessageSource(
            "standard input", lambda: _read("standard input", sys.stdin.buffer, options)
        )
    return MessageSource(name, lambda: _open(name, options))


def _open(name: str, options: EnvelopeOptions) -> OutgoingMessage:
    try:
        file = open(name, "rb")  # noqa: SIM115 - closed after sending
    except OSError as error:
        raise _unreadable(name, error) from None
    try:
        return _read(name, file, options, file)
    except BaseException:
        file.close()
        raise


def _read(
    name: str, file: BinaryIO, options: EnvelopeOptions, to_close: BinaryIO | None = None
) -> OutgoingMessage:
    """Read a message whole if it is small, else as far as its envelope needs."""
    begin = _read_up_to(file, WHOLE + 1)
    if not begin.strip():
        raise UsageError(f"{name}: there is no message in it", os.EX_NOINPUT)
    begin = _MBOX_LINE.sub(b"", begin)
    end = _END_OF_HEADER.search(begin)
    if end is None and len(begin) > WHOLE:
        raise UsageError(f"{name}: no end of the header within {WHOLE} bytes", os.EX_DATAERR)
    header, rest = (begin, b"") if end is None else (begin[: end.end(1)], begin[end.end(1) :])
    if end is None and not header.endswith(b"\n"):
        header += b"\r\n"
    sender, recipients = _parties(name, header, options)
    whole = _BCC.sub(b"", header) + rest
    if len(begin) <= WHOLE:
        text: bytes | None = whole
        message: Message = whole
    else:
        text, message = None, _stream(whole, file)
    size = None if text is not None else _size(file, len(whole))
    return OutgoingMessage(
        name, envelope_of(sender, recipients, message, options, size), text, to_close
    )


def _read_up_to(file: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, or up to the end; one read from a pipe returns fewer."""
    pieces, missing = [], size
    while missing and (piece := file.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _stream(begin: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield begin
    yield from iter(lambda: file.read(64 * 1024), b"")


def _size(file: BinaryIO, behind: int) -> int | None:
    """The size of a stream, ``behind`` bytes of which were read already; None if unknown."""
    try:
        return behind + os.fstat(file.fileno()).st_size - file.tell() if file.seekable() else None
    except (OSError, io.UnsupportedOperation):
        return None


def _parties(
    name: str, header: bytes, options: EnvelopeOptions
) -> tuple[ReversePath, tuple[ForwardPath, ...]]:
    """Sender and recipients, from the options, else from the header."""
    if options.sender is not None and options.recipients:
        return options.sender, options.recipients
    text = _SPACE_BEHIND_NAME.sub(r"\1:", header.decode("utf-8", "surrogateescape"))
    fields = HeaderParser(policy=email.policy.default).parsestr(text)
    if fields.defects:
        # The parser ignores the fields after that line, so their recipients would be missing.
        raise UsageError(
            f"{name}: a line of its header is not a header field: give --from and --to",
            os.EX_DATAERR,
        )
    sender = options.sender if options.sender is not None else sender_of(fields)
    return sender, options.recipients or tuple(recipients_of(fields))


# The envelope


@dataclass(frozen=True, slots=True)
class EnvelopeOptions:
    """The envelope options, which hold for every message.

    Attributes:
        sender, recipients: replace those in the header; None and () to keep them.
        mail_params, notify: the parameters of MAIL, and NOTIFY of each RCPT.
    """

    sender: ReversePath | None = None
    recipients: tuple[ForwardPath, ...] = ()
    mail_params: MailFromParams = field(default_factory=MailFromParams)
    notify: DsnNotify | None = None


def envelope_options(args: argparse.Namespace) -> EnvelopeOptions:
    """Read the envelope options.

    Raises:
        UsageError: --dsn-notify has an unknown word.
        ValidationError: an invalid address or parameter.
    """
    recipients = tuple(ForwardPath(address) for text in args.to for address in addresses(text))
    sender = None
    if args.sender is not None:
        sender = ReversePath("".join(addresses(args.sender)) if _is_path(args.sender) else "")
    return EnvelopeOptions(
        sender,
        recipients,
        MailFromParams(ret=args.dsn_ret and DsnRet(args.dsn_ret), envid=args.envid),
        _notify(args.dsn_notify),
    )


def addresses(text: str) -> list[str]:
    """The addresses in a comma-separated list, without display names.

    Raises:
        ValidationError: the list is empty, or has something else in it.
    """
    # A line break is not allowed here, although it may be a fold in a header field.
    found = read_addresses(text, allow_gaps=False) if text.isprintable() else []
    if not found:
        raise ValidationError(f"not an address, nor a list of them: {text!r:.80}")
    return found


def _is_path(text: str) -> bool:
    """Whether the text is not the null reverse-path, which is empty or ``<>``."""
    return text.strip() not in ("", "<>")


def _notify(names: str | None) -> DsnNotify | None:
    if names is None:
        return None
    notify = DsnNotify(0)
    for name in names.upper().split(","):
        if name.strip() not in DsnNotify.__members__:
            raise UsageError(
                f"--dsn-notify is never, or some of success,failure,delay; not {name!r:.40}"
            )
        notify |= DsnNotify[name.strip()]
    return notify


def envelope_of(
    sender: ReversePath,
    recipients: tuple[ForwardPath, ...],
    message: Message,
    options: EnvelopeOptions,
    size: int | None = None,
) -> Envelope:
    """Make an envelope; ``size`` is that of a stream, if it is known."""
    params = options.mail_params if size is None else replace(options.mail_params, size=size)
    each = RcptToParams(notify=options.notify)
    return Envelope(
        sender,
        recipients,
        message,
        params,
        None if options.notify is None else [each] * len(recipients),
    )


# Composed messages


def compose(
    args: argparse.Namespace, options: EnvelopeOptions
) -> tuple[ReversePath, tuple[ForwardPath, ...], bytes]:
    """Compose a message from the options; returns its sender, its recipients and its bytes.

    Raises:
        UsageError: an invalid header field, or a file that cannot be read.
        ValidationError: there is no sender, or no recipient.
    """
    message = EmailMessage()
    message["Date"] = formatdate(localtime=True)
    if options.sender is not None and str(options.sender):
        message["From"] = str(options.sender)
    if options.recipients:
        message["To"] = ", ".join(map(str, options.recipients))
    message["Subject"] = f"test {formatdate(localtime=True)}"
    message["Message-ID"] = make_msgid(domain=_domain(options.sender))
    message.set_content(_body(args.body))
    for name in args.attach:
        _attach(message, name.removeprefix("@"))
    _set_headers(message, args.header)
    sender = options.sender if options.sender is not None else sender_of(message)
    recipients = options.recipients or tuple(recipients_of(message))
    utf8 = needs_smtputf8(sender, recipients)
    # For a server without extensions: in 7 bits, which every server accepts.
    return sender, recipients, serialize(message, ServerCapabilities(), smtputf8=utf8)


def _domain(sender: ReversePath | None) -> str:
    domain = str(sender).rpartition("@")[2] if sender is not None else ""
    return domain if domain.isascii() and domain and not domain.startswith("[") else "localhost"


def _body(text: str | None) -> str:
    if text is None:
        return "This is a test mailing.\n"
    if text.startswith("@"):
        return _bytes_of(text[1:]).decode("utf-8", "surrogateescape")
    return text + "\n"


def _attach(message: EmailMessage, name: str) -> None:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    main, _, sub = kind.partition("/")
    if main not in ("application", "audio", "image", "video"):
        # A text file is attached as binary data, because its encoding is not known.
        main, sub = "application", "octet-stream"
    content = _bytes_of(name)
    message.add_attachment(content, maintype=main, subtype=sub, filename=Path(name).name)


def _set_headers(message: EmailMessage, headers: Iterable[str]) -> None:
    """Add header fields; the first of each name replaces the fields of that name."""
    replaced: set[str] = set()
    for text in headers:
        name, colon, value = text.partition(":")
        try:
            if not colon or not _FIELD_NAME.fullmatch(name):
                raise ValueError("its name is missing or invalid")
            if name.lower() not in replaced:
                del message[name]
            replaced.add(name.lower())
            message[name] = value.strip()
        except (ValueError, TypeError, IndexError) as error:
            raise UsageError(f"--header needs 'Name: value', not {text!r:.80}: {error}") from None


def _unreadable(name: str, error: OSError) -> UsageError:
    """Make the error for a file that cannot be read."""
    return UsageError(f"{name}: {error.strerror}", os.EX_NOINPUT)


def _bytes_of(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise _unreadable(name, error) from None
