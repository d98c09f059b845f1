"""Messages composed of options, for trying something out; what they leave out is what swaks writes.

They leave in seven bits, so that every server takes them; only an address that is not ASCII needs
more (RFC 6531).
"""

from __future__ import annotations

import argparse
import email.policy
import mimetypes
import os
import re
from collections.abc import Iterable
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.wishes import EnvelopeOptions
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.email_message import needs_smtputf8, recipients_of, sender_of

_NAME = re.compile(r"[!-9;-~]+")


def compose(
    args: argparse.Namespace, wishes: EnvelopeOptions
) -> tuple[ReversePath, tuple[ForwardPath, ...], bytes]:
    """Make a message of the options, and its envelope.

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
    message.set_content(_body(args.body))
    for name in args.attach:
        _attach(message, name.removeprefix("@"))
    _set_headers(message, args.header)
    sender = wishes.sender if wishes.sender is not None else sender_of(message)
    recipients = wishes.recipients or tuple(recipients_of(message))
    del message["Bcc"]
    utf8 = needs_smtputf8(sender, recipients)
    policy = email.policy.SMTP.clone(cte_type="7bit", utf8=utf8)
    text = message.as_bytes(policy=policy)
    return sender, recipients, text


def _domain(sender: ReversePath | None) -> str:
    domain = str(sender).rpartition("@")[2] if sender is not None else ""
    return domain if domain.isascii() and domain and not domain.startswith("[") else "localhost"


def _body(text: str | None) -> str:
    if text is None:
        return "This is a test mailing.\n"
    if text.startswith("@"):
        return _octets_of(text[1:]).decode("utf-8", "surrogateescape")
    return text + "\n"


def _attach(message: EmailMessage, name: str) -> None:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    main, _, sub = kind.partition("/")
    if main not in ("application", "audio", "image", "video"):
        # As octets: text of any encoding arrives as it is.
        main, sub = "application", "octet-stream"
    content = _octets_of(name)
    message.add_attachment(content, maintype=main, subtype=sub, filename=Path(name).name)


def _set_headers(message: EmailMessage, headers: Iterable[str]) -> None:
    """Set headers; the first of a name takes the place of what stands there."""
    replaced: set[str] = set()
    for text in headers:
        name, colon, value = text.partition(":")
        try:
            if not colon or not _NAME.fullmatch(name):
                raise ValueError("it has no name, or one that cannot be")
            if name.lower() not in replaced:
                del message[name]
            replaced.add(name.lower())
            message[name] = value.strip()
        except (ValueError, TypeError, IndexError) as error:
            raise UsageError(f"--header is 'Name: value': {text!a:.80}: {error}") from None


def unreadable(name: str, error: OSError) -> UsageError:
    """The error for a file that cannot be read."""
    return UsageError(f"{name}: {error.strerror}", os.EX_NOINPUT)


def _octets_of(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise unreadable(name, error) from None
