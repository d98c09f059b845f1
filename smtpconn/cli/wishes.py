"""What the options of ``send`` say of every message's envelope (RFC 5321 3.3, RFC 3461)."""

from __future__ import annotations

import argparse
import email.policy
from dataclasses import dataclass, field, replace
from email.errors import HeaderParseError
from email.headerregistry import BaseHeader

from smtpconn.cli.exit_codes import UsageError
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.content import Message
from smtpconn.model.errors import ValidationError
from smtpconn.model.parameters import DsnNotify, DsnRet, MailFromParams, RcptToParams
from smtpconn.model.results import Envelope


@dataclass(frozen=True, slots=True)
class EnvelopeOptions:
    """What the options say of every message's envelope; None for what the headers say.

    Attributes:
        sender, recipients: in place of those the headers name.
        mail_params, notify: parameters of MAIL, and NOTIFY of each RCPT.
    """

    sender: ReversePath | None = None
    recipients: tuple[ForwardPath, ...] = ()
    mail_params: MailFromParams = field(default_factory=MailFromParams)
    notify: DsnNotify | None = None


def envelope_options(args: argparse.Namespace) -> EnvelopeOptions:
    """What the options say of envelopes.

    Raises:
        ValidationError: an address or parameter that may not be sent.
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
    """The addresses in a list with commas, without display names.

    Raises:
        ValidationError: there is none, or something that is none.
    """
    try:
        header = email.policy.default.header_factory("To", text)
    except (HeaderParseError, IndexError):
        # IndexError is what the email package says to "to@".
        header = None
    # A line break is looked for here: the email package reads on behind it.
    if header is None or not header.addresses or not text.isprintable() or _has_defects(header):
        raise ValidationError(f"not an address, nor a list of them: {text!a:.80}")
    return [address.addr_spec for address in header.addresses]


def _has_defects(header: BaseHeader) -> bool:
    # An address need not be ASCII (RFC 6531).
    return any("non-ASCII" not in str(defect) for defect in header.defects)


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


def envelope_of(
    sender: ReversePath,
    recipients: tuple[ForwardPath, ...],
    message: Message,
    wishes: EnvelopeOptions,
    size: int | None = None,
) -> Envelope:
    """An envelope with the parameters that are wished for; ``size`` where only we know it."""
    params = wishes.mail_params if size is None else replace(wishes.mail_params, size=size)
    each = RcptToParams(notify=wishes.notify)
    return Envelope(
        sender,
        recipients,
        message,
        params,
        None if wishes.notify is None else [each] * len(recipients),
    )
