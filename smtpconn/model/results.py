"""Envelopes and results: the values that a send takes and returns.

Rule: plain values, compared by value, without behaviour beyond convenience. How a transaction
produces them is in `smtpconn.protocol.transaction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.content import Message
from smtpconn.model.email_message import AnyMessage, is_message, recipients_of, sender_of
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.frozen import setters
from smtpconn.model.parameters import MailFromParams, RcptToParams
from smtpconn.model.pickling import reduce_value
from smtpconn.model.replies import SmtpResponse

if TYPE_CHECKING:
    # With defaults (PEP 696), which `typing.TypeVar` does not support before Python 3.13.
    ResultT = TypeVar(
        "ResultT", bound="SendResult | None", default="SendResult | None", covariant=True
    )
    ErrorT = TypeVar("ErrorT", bound=SmtpError | None, default=SmtpError | None, covariant=True)
else:
    ResultT = TypeVar("ResultT")
    ErrorT = TypeVar("ErrorT")

Recipients: TypeAlias = str | ForwardPath | Iterable[str | ForwardPath]
"""One address or several; at least one, and no mapping."""

_SHOWN = 5
"""Recipients that the repr of an envelope shows."""


@dataclass(frozen=True, slots=True)
class RejectedRecipient:
    """A recipient the server refused at RCPT.

    Attributes:
        recipient: the refused recipient.
        response: the server's reply to RCPT.
        is_too_many: whether it says that there were too many recipients, whatever its class is:
            552 after an accepted recipient (RFC 5321 4.5.3.1.10).
    """

    __reduce_ex__ = reduce_value

    recipient: ForwardPath
    response: SmtpResponse
    is_too_many: bool = False

    @property
    def is_transient(self) -> bool:
        """Whether to try again later, with a transaction of its own if there were too many."""
        return self.response.is_transient or self.is_too_many


@dataclass(frozen=True, slots=True, init=False)
class SendResult:
    """A message the server has taken responsibility for (RFC 5321 4.2.5).

    Attributes:
        response: the server's whole final reply, often with its queue id.
        accepted_recipients: those it was accepted for, in the order given.
        rejected_recipients: those the server refused; the message was not sent to them.
    """

    __reduce_ex__ = reduce_value

    response: SmtpResponse
    accepted_recipients: tuple[ForwardPath, ...]
    rejected_recipients: tuple[RejectedRecipient, ...] = ()

    def __init__(
        self,
        response: SmtpResponse,
        accepted_recipients: tuple[ForwardPath, ...],
        rejected_recipients: tuple[RejectedRecipient, ...] = (),
    ) -> None:
        _set_response(self, response)
        _set_accepted(self, accepted_recipients)
        _set_rejected(self, rejected_recipients)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The accepted recipients, as the caller wrote them."""
        return tuple(path.written for path in self.accepted_recipients)

    @property
    def refused(self) -> dict[str, SmtpResponse]:
        """The server's reply for each refused recipient; the keys are as the caller wrote them."""
        return {each.recipient.written: each.response for each in self.rejected_recipients}


_set_response, _set_accepted, _set_rejected = setters(SendResult)


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """The result of a message for one recipient of an LMTP delivery (RFC 2033 4.2).

    Attributes:
        recipient: as the caller wrote it.
        response: the server's reply for this recipient; None if the connection was lost, or the
            server shut down, before it came, and then whether the message was delivered is unknown.
        delivered: True only after a 2xx reply.
    """

    __reduce_ex__ = reduce_value

    recipient: ForwardPath
    response: SmtpResponse | None
    delivered: bool


@dataclass(frozen=True, slots=True, init=False)
class LmtpSendResult(SendResult):
    """The outcome of an LMTP delivery, where each recipient has a reply (RFC 2033 4.2).

    Made from ``results`` and ``rejected_recipients``; the other attributes are derived from them
    and read like those of a `SendResult`. But it is possible that no recipient got the message.

    Attributes:
        results: one per recipient that was accepted at RCPT, in the order given.
        rejected_recipients: those the server refused at RCPT; the message was not sent to them.
        response: the reply for the first recipient who got it; if none did, the first refusal; if
            there is no reply at all, one with code 451 that smtpconn makes.
        accepted_recipients: those who got it, in the order given.
    """

    __reduce_ex__ = reduce_value

    __match_args__ = ("results", "rejected_recipients")

    response: SmtpResponse = field(init=False, repr=False, compare=False)
    accepted_recipients: tuple[ForwardPath, ...] = field(init=False, repr=False, compare=False)
    rejected_recipients: tuple[RejectedRecipient, ...] = ()
    results: tuple[RecipientResult, ...] = ()

    def __init__(
        self,
        results: tuple[RecipientResult, ...],
        rejected_recipients: tuple[RejectedRecipient, ...] = (),
    ) -> None:
        accepted = tuple(each.recipient for each in results if each.delivered)
        replies = [each.response for each in results if each.delivered]
        replies += [each.response for each in results]
        replies += [each.response for each in rejected_recipients]
        first_reply = next((reply for reply in replies if reply is not None), _NO_REPLY)
        SendResult.__init__(self, first_reply, accepted, rejected_recipients)
        object.__setattr__(self, "results", results)

    @property
    def refused(self) -> dict[str, SmtpResponse]:
        """Who was refused, at RCPT or after the content, as the caller wrote them.

        Recipients with an unknown result (``response`` is None in ``results``) are neither here nor
        in `accepted`.
        """
        refused = {each.recipient.written: each.response for each in self.rejected_recipients}
        for each in self.results:
            if not each.delivered and each.response is not None:
                refused[each.recipient.written] = each.response
        return refused


_NO_REPLY = SmtpResponse(451, ("no answer for any recipient",))
"""The response of a result that has no reply at all."""


@dataclass(frozen=True, slots=True, init=False)
class Envelope:
    """A message with its sender and recipients, for ``send_many``.

    Attributes:
        sender, recipients: as `SmtpConnection.send` takes them.
        message: as `SmtpConnection.send` takes it; or one of the email package, which becomes
            bytes when it is sent, as `SmtpConnection.send_message` does it.
        mail_params, rcpt_params: as `SmtpConnection.send_with_all_params` takes them.
    """

    __reduce_ex__ = reduce_value

    sender: str | ReversePath
    recipients: Iterable[str | ForwardPath]
    message: Message | AnyMessage
    mail_params: MailFromParams | None = None
    rcpt_params: Sequence[RcptToParams] | None = None

    def __init__(
        self,
        sender: str | ReversePath,
        recipients: Iterable[str | ForwardPath],
        message: Message | AnyMessage,
        mail_params: MailFromParams | None = None,
        rcpt_params: Sequence[RcptToParams] | None = None,
    ) -> None:
        _set_sender(self, sender)
        _set_recipients(self, recipients)
        _set_message(self, message)
        _set_mail_params(self, mail_params)
        _set_rcpt_params(self, rcpt_params)

    @classmethod
    def from_message(
        cls,
        message: AnyMessage,
        sender: str | ReversePath | None = None,
        recipients: Iterable[str | ForwardPath] | None = None,
        *,
        mail_params: MailFromParams | None = None,
        rcpt_params: Sequence[RcptToParams] | None = None,
    ) -> Self:
        """The envelope of an `email.message.EmailMessage`, or of a message of the older API.

        Nothing is serialised yet, because the bytes depend on the server. Bcc is not sent,
        and a missing Date or Message-ID is added, as `SmtpConnection.send_message` does.

        Args:
            message: the message; it is not changed.
            sender, recipients: None for those the header fields name (Sender or From; To, Cc and
                Bcc; or their Resent- forms).
            mail_params, rcpt_params: as `SmtpConnection.send_with_all_params` takes them.

        Raises:
            ValidationError: it is not such a message, or its fields name no sender or recipient,
                or one that may not be sent.
        """
        if not is_message(message):
            raise ValidationError(
                f"from_message takes an email.message.EmailMessage, not {type(message).__name__}; "
                f"an Envelope takes bytes"
            )
        return cls(
            sender_of(message) if sender is None else sender,
            tuple(recipients_of(message)) if recipients is None else recipients,
            message,
            mail_params,
            rcpt_params,
        )

    def __repr__(self) -> str:
        parts = [f"sender={_path(self.sender)}", f"recipients={_paths(self.recipients)}"]
        parts.append(f"message={_size(self.message)}")
        for name in ("mail_params", "rcpt_params"):
            if getattr(self, name) is not None:
                parts.append(f"{name}={getattr(self, name)!r}")
        return f"Envelope({', '.join(parts)})"


_set_sender, _set_recipients, _set_message, _set_mail_params, _set_rcpt_params = setters(Envelope)


def _path(path: object) -> str:
    return repr(str(path)) if isinstance(path, (str, ReversePath, ForwardPath)) else "?"


def _paths(paths: object) -> str:
    if not isinstance(paths, (list, tuple)):
        return _path(paths)
    more = f", ... {len(paths)} in all" if len(paths) > _SHOWN else ""
    return f"[{', '.join(map(_path, paths[:_SHOWN]))}{more}]"


def _size(message: object) -> str:
    """How a message is shown: never its content, and a stream is not read."""
    if isinstance(message, (bytes, bytearray, memoryview)):
        return f"<{memoryview(message).nbytes} bytes>"
    return f"<{type(message).__name__}>"


@dataclass(frozen=True, slots=True, init=False)
class SendOutcome(Generic[ResultT, ErrorT]):
    """The outcome of one envelope.

    Attributes:
        envelope: the envelope that the caller passed, the same object; for a message, the envelope
            made from it.
        result: as from `SmtpConnection.send`, or `SmtpConnection.send_lmtp` over LMTP; None if it
            ended with an error.
        error: the error it ended with, else None.
    """

    __reduce_ex__ = reduce_value

    envelope: Envelope
    result: ResultT
    error: ErrorT

    def __init__(self, envelope: Envelope, result: ResultT, error: ErrorT) -> None:
        _set_envelope(self, envelope)
        _set_result(self, result)
        _set_error(self, error)


_set_envelope, _set_result, _set_error = setters(SendOutcome)


AnyOutcome: TypeAlias = SendOutcome[SendResult, None] | SendOutcome[None, SmtpError]
"""What ``send_many`` yields; type checkers know that one without an ``error`` has a ``result``."""
