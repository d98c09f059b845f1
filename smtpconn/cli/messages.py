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
import mimetypes
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import HeaderParser
from email.utils import formatdate, getaddresses, make_msgid
from pathlib import Path
from typing import BinaryIO

from smtpconn.address import ForwardPath, ReversePath
from smtpconn.cli.exits import UsageError
from smtpconn.content import Message
from smtpconn.envelope import Envelope
from smtpconn.errors import ValidationError
from smtpconn.message import needs_smtputf8, recipients_of, sender_of
from smtpconn.parameters import DsnNotify, DsnRet, MailFromParams, RcptToParams

WHOLE = 1024 * 1024
"""Octets up to which a message is read whole. Its header has to end within them."""

_END_OF_HEADER = re.compile(rb"(?:\A|\r?\n)\r?\n")
_BCC = re.compile(
    rb"^(?:Resent-)?Bcc[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
)
_MBOX_LINE = re.compile(rb"\AFrom [^\n]*\n")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the options say of every message's envelope; None for what the headers say.

    Attributes:
        sender, recipients: in place of those the headers name.
        mail_params, notify: parameters of MAIL, and NOTIFY of each RCPT.
    """

    sender: ReversePath | None = None
    recipients: tuple[ForwardPath, ...] = ()
    mail_params: MailFromParams = field(default_factory=MailFromParams)
    notify: DsnNotify | None = None


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


def wishes_of(given: argparse.Namespace) -> Wishes:
    """What the options say of envelopes.

    Raises:
        ValidationError: an address or parameter that may not be sent.
    """
    recipients = tuple(ForwardPath(address) for text in given.to for address in addresses(text))
    sender = None
    if given.sender is not None:
        sender = ReversePath("".join(addresses(given.sender)) if _is_path(given.sender) else "")
    return Wishes(
        sender,
        recipients,
        MailFromParams(ret=given.dsn_ret and DsnRet(given.dsn_ret), envid=given.envid),
        _notify(given.dsn_notify),
    )


def addresses(text: str) -> list[str]:
    """The addresses in a list with commas, without display names.

    Raises:
        ValidationError: there is none, or something that is none.
    """
    found = [address for _, address in getaddresses([text])]
    if not found or not all(found):
        raise ValidationError(f"not an address, nor a list of them: {text!a:.80}")
    return found


def _is_path(text: str) -> bool:
    """Whether it is more than the null reverse-path."""
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


def sources_of(given: argparse.Namespace, files: Sequence[str]) -> list[Source]:
    """The messages that the options name, in their order.

    Raises:
        UsageError: they say both that there is a message and that one is to be composed.
        ValidationError: as `wishes_of`.
    """
    wishes = wishes_of(given)
    names = [*files, *([given.data] if given.data is not None else [])]
    composes = bool(given.header or given.attach or given.body is not None)
    if composes and names:
        raise UsageError(
            "--header, --body and --attach compose a message; with a file there is one"
        )
    if names.count("-") > 1:
        raise UsageError("standard input can be read only once")
    if names:
        return [_source(name, wishes) for name in names]
    if composes or sys.stdin is None or sys.stdin.isatty():
        return [Source("message", lambda: compose(given, wishes))]
    return [_source("-", wishes)]


def _source(name: str, wishes: Wishes) -> Source:
    if name == "-":
        return Source("standard input", lambda: _read("standard input", sys.stdin.buffer, wishes))
    return Source(name, lambda: _open(name, wishes))


def _open(name: str, wishes: Wishes) -> Outgoing:
    file = open(name, "rb")  # noqa: SIM115 - closed when it was sent
    try:
        return _read(name, file, wishes, file)
    except BaseException:
        file.close()
        raise


def _read(name: str, file: BinaryIO, wishes: Wishes, to_close: BinaryIO | None = None) -> Outgoing:
    """Read a message as far as its envelope needs, and all of it if it is small."""
    begin = _read_up_to(file, WHOLE + 1)
    if not begin.strip():
        raise UsageError(f"{name}: there is no message in it", os.EX_NOINPUT)
    begin = _MBOX_LINE.sub(b"", begin)
    end = _END_OF_HEADER.search(begin)
    if end is None and len(begin) > WHOLE:
        raise UsageError(f"{name}: no end of the header within {WHOLE} octets", os.EX_DATAERR)
    header = begin if end is None else begin[: end.start()]
    # Its last line has an end, too.
    header = header if header.endswith(b"\n") or not header else header + b"\r\n"
    rest = b"" if end is None else begin[end.start() :].removeprefix(b"\r").removeprefix(b"\n")
    if not header:
        rest = begin
    sender, recipients = _parties(header, wishes)
    whole = _BCC.sub(b"", header) + rest
    if len(begin) <= WHOLE:
        text: bytes | None = whole
        message: Message = whole
    else:
        text, message = None, _stream(whole, file)
    size = None if text is not None else _size(file, len(whole))
    return Outgoing(name, _envelope(sender, recipients, message, wishes, size), text, to_close)


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


def _parties(header: bytes, wishes: Wishes) -> tuple[ReversePath, tuple[ForwardPath, ...]]:
    """Sender and recipients: of the options, else of the header."""
    fields = HeaderParser(policy=email.policy.default).parsestr(
        header.decode("utf-8", "surrogateescape")
    )
    sender = wishes.sender if wishes.sender is not None else sender_of(fields)
    return sender, wishes.recipients or tuple(recipients_of(fields))


def _envelope(
    sender: ReversePath,
    recipients: tuple[ForwardPath, ...],
    message: Message,
    wishes: Wishes,
    size: int | None = None,
) -> Envelope:
    params = wishes.mail_params
    if size is not None:
        params = MailFromParams(ret=params.ret, envid=params.envid, size=size)
    each = RcptToParams(notify=wishes.notify)
    return Envelope(
        sender,
        recipients,
        message,
        params,
        None if wishes.notify is None else [each] * len(recipients),
    )


def compose(given: argparse.Namespace, wishes: Wishes) -> Outgoing:
    """Make a message of the options; what they leave out is what swaks writes.

    Raises:
        UsageError: a header that can be none, or a file that cannot be read.
        ValidationError: there is no sender, or no recipient.
    """
    message = EmailMessage()
    message["Date"] = formatdate(localtime=True)
    if wishes.sender is not None and str(wishes.sender):
        message["From"] = str(wishes.sender)
    if wishes.recipients:
        message["To"] = ", ".join(map(str, wishes.recipients))
    message["Subject"] = f"test {formatdate(localtime=True)}"
    message["Message-ID"] = make_msgid(domain=_domain(wishes.sender))
    message.set_content(_body(given.body))
    for name in given.attach:
        _attach(message, name.removeprefix("@"))
    _set_headers(message, given.header)
    sender = wishes.sender if wishes.sender is not None else sender_of(message)
    recipients = wishes.recipients or tuple(recipients_of(message))
    del message["Bcc"]
    utf8 = needs_smtputf8(sender, recipients)
    policy = email.policy.SMTP.clone(cte_type="7bit", utf8=utf8)
    text = message.as_bytes(policy=policy)
    return Outgoing("message", _envelope(sender, recipients, text, wishes), text)


def _domain(sender: ReversePath | None) -> str:
    domain = str(sender).rpartition("@")[2] if sender is not None else ""
    return domain if domain.isascii() and domain and not domain.startswith("[") else "localhost"


def _body(text: str | None) -> str:
    if text is None:
        return "This is a test mailing.\n"
    if text.startswith("@"):
        return Path(text[1:]).read_bytes().decode("utf-8", "surrogateescape")
    return text + "\n"


def _attach(message: EmailMessage, name: str) -> None:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    main, _, sub = kind.partition("/")
    if main not in ("application", "audio", "image", "video"):
        # As octets: text of any encoding arrives as it is.
        main, sub = "application", "octet-stream"
    content = Path(name).read_bytes()
    message.add_attachment(content, maintype=main, subtype=sub, filename=Path(name).name)


def _set_headers(message: EmailMessage, headers: Iterable[str]) -> None:
    """Set headers; the first of a name takes the place of what stands there."""
    replaced: set[str] = set()
    for text in headers:
        name, colon, value = text.partition(":")
        try:
            if not colon or not name.strip():
                raise ValueError("it has no name")
            if name.lower() not in replaced:
                del message[name]
            replaced.add(name.lower())
            message[name] = value.strip()
        except (ValueError, TypeError, IndexError) as error:
            raise UsageError(f"--header is 'Name: value': {text!a:.80}: {error}") from None
