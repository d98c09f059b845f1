"""What the options of ``send`` say of every message's envelope (RFC 5321 3.3, RFC 3461)."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace

from smtpconn.cli.exits import UsageError
from smtpconn.model.address_list import read_addresses
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.content import Message
from smtpconn.model.errors import ValidationError
from smtpconn.model.parameters import DsnNotify, DsnRet, MailFromParams, RcptToParams
from smtpconn.model.results import Envelope


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
    # A line break is looked for here: in a header field it may be a fold.
    found = read_addresses(text, allow_gaps=False) if text.isprintable() else []
    if not found:
        raise ValidationError(f"not an address, nor a list of them: {text!r:.80}")
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


def envelope_of(
    sender: ReversePath,
    recipients: tuple[ForwardPath, ...],
    message: Message,
    wishes: Wishes,
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
