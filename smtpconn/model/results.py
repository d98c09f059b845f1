"""Envelopes and what became of them: the values that go into a send and come out of it.

Rule: plain values, compared by value, without behaviour beyond convenience. How a transaction
arrives at them is in `smtpconn.protocol.transaction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.content import Message
from smtpconn.model.errors import SmtpError
from smtpconn.model.parameters import MailFromParams, RcptToParams
from smtpconn.model.replies import SmtpResponse


@dataclass(frozen=True, slots=True)
class RejectedRecipient:
    """A recipient the server refused at RCPT.

    Attributes:
        recipient: whom.
        response: what the server said; its class tells whether to try again later.
    """

    recipient: ForwardPath
    response: SmtpResponse


@dataclass(frozen=True, slots=True)
class SendResult:
    """A message the server has taken responsibility for (RFC 5321 4.2.5).

    Attributes:
        response: the server's whole final reply, often with its queue id.
        accepted_recipients: those it was accepted for, in the order given.
        rejected_recipients: those the server refused; the message was not sent to them.
    """

    response: SmtpResponse
    accepted_recipients: tuple[ForwardPath, ...]
    rejected_recipients: tuple[RejectedRecipient, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What became of a message for one recipient of an LMTP delivery (RFC 2033 4.2).

    Attributes:
        recipient: whom it is about.
        response: the server's reply for this recipient; None if the connection was lost before
            it came, and then whether the message was delivered is unknown.
        delivered: True only after a 2xx reply.
    """

    recipient: ForwardPath
    response: SmtpResponse | None
    delivered: bool


@dataclass(frozen=True, slots=True)
class LmtpSendResult:
    """The outcome of an LMTP delivery (RFC 2033 4.2).

    Attributes:
        results: one per recipient that was accepted at RCPT, in the order given.
        rejected_recipients: those the server refused at RCPT; the message was not sent to them.
    """

    results: tuple[RecipientResult, ...]
    rejected_recipients: tuple[RejectedRecipient, ...] = ()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its sender and recipients, for sending many.

    Attributes:
        sender, recipients, message: as `SmtpConnection.send` takes them.
        mail_params, rcpt_params: as `SmtpConnection.send_with_all_params` takes them.
    """

    sender: str | ReversePath
    recipients: Sequence[str | ForwardPath]
    message: Message
    mail_params: MailFromParams | None = None
    rcpt_params: Sequence[RcptToParams] | None = None


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """What became of one envelope.

    Attributes:
        envelope: the very object that was given.
        result: as from `SmtpConnection.send`, or `SmtpConnection.send_lmtp` over LMTP; None if it
            ended with an error.
        error: the error it ended with, else None.
    """

    envelope: Envelope
    result: SendResult | LmtpSendResult | None
    error: SmtpError | None
