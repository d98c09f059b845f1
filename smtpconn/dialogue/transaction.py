"""One mail transaction: MAIL, RCPT, the content, and what became of it (RFC 5321 3.3).

One generator serves DATA and BDAT, SMTP and LMTP, with and without PIPELINING; the choices are
made by what it is given, never by copies of it.

Rule 1: everything that can be found wrong without the server is found before the first octet.
Rule 2: with PIPELINING the envelope leaves as one group that ends in DATA (RFC 2920 3.1); without,
        command by command, and not further than makes sense.
Rule 3: a transaction that does not end in success leaves a mark, and the next one begins with RSET
        in the same group. Servers differ in what a refused transaction leaves behind: Exim
        delivers the next message under the refused one's sender, Postfix goes on answering 552.
Rule 4: a 354 that is not followed by a message is answered with a lone dot (RFC 2920 3.1).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from smtpconn.address import ForwardPath, ReversePath
from smtpconn.commands import Command, command
from smtpconn.content import END_OF_DATA, Content, Message
from smtpconn.dialogue.batch import Batch, Conversation, Payload, Step, single
from smtpconn.dialogue.session import Protocol, Session
from smtpconn.envelope import RejectedRecipient, SendResult
from smtpconn.errors import (
    AllRecipientsFailedError,
    Phase,
    ProtocolError,
    SmtpError,
    SmtpUtf8RequiredError,
    UnsupportedExtensionError,
    ValidationError,
    refusal,
)
from smtpconn.parameters import (
    BodyType,
    MailFromParams,
    RcptToParams,
    mail_parameters,
    rcpt_parameters,
)
from smtpconn.reply import SmtpResponse


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What a caller wants sent: valid in itself, not yet held against a server's offers."""

    sender: ReversePath
    recipients: tuple[ForwardPath, ...]
    content: Content
    mail_params: MailFromParams
    rcpt_params: tuple[RcptToParams, ...]


def make_request(
    sender: str | ReversePath,
    recipients: str | ForwardPath | Sequence[str | ForwardPath],
    message: Message | Content,
    mail_params: MailFromParams | None = None,
    rcpt_params: Sequence[RcptToParams] | None = None,
) -> Request:
    """Check what a caller gave.

    Raises:
        ValidationError: an address that may not be sent, no recipient, a message that is no bytes.
        ProtocolError: ``rcpt_params`` has another length than ``recipients``.
    """
    given = (recipients,) if isinstance(recipients, (str, ForwardPath)) else tuple(recipients)
    if not given:
        raise ValidationError("there is no recipient")
    if rcpt_params is not None and len(rcpt_params) != len(given):
        raise ProtocolError(
            f"there are {len(given)} recipients and {len(rcpt_params)} parameters for them",
            phase=Phase.INPUT,
        )
    return Request(
        sender if isinstance(sender, ReversePath) else ReversePath(sender),
        tuple(r if isinstance(r, ForwardPath) else ForwardPath(r) for r in given),
        message if isinstance(message, Content) else Content(message),
        mail_params if mail_params is not None else MailFromParams(),
        tuple(rcpt_params) if rcpt_params is not None else (RcptToParams(),) * len(given),
    )


def transaction(session: Session, request: Request) -> Conversation[SendResult]:
    """Send one message with DATA.

    Raises:
        TransientError, PermanentError: the sender, DATA or the message was refused.
        AllRecipientsFailedError: every recipient was.
        UnsupportedExtensionError, SmtpUtf8RequiredError, ValidationError: the server does not
            offer what the message needs; nothing was sent.
        ProtocolError: a reply that makes no sense.
    """
    if session.protocol is Protocol.LMTP:
        raise ProtocolError("this is an LMTP connection: use send_lmtp", phase=Phase.MAIL)
    envelope = _envelope(session, request)
    envelope.append(command(Phase.DATA, "DATA"))
    if session.needs_reset:
        envelope.insert(0, command(Phase.RSET, "RSET"))
    session.needs_reset = True
    session.transactions += 1
    replies = yield from _send_envelope(envelope, in_one_group=session.may_pipeline)
    accepted, rejected = _sort_recipients(request.recipients, envelope, replies)
    failure = _failure(envelope, replies, accepted, rejected)
    if failure is not None:
        if _is_open_for_data(envelope, replies):
            yield Batch((Payload((END_OF_DATA,), ends_message=False, log="."),))
        raise failure
    seven_bit_only = not session.capabilities.supports_8bitmime
    payload = Payload(request.content.as_data(seven_bit_only=seven_bit_only))
    batch = Batch((payload,))
    yield batch
    return _result(session, batch.replies[0], accepted, rejected)


def _envelope(session: Session, request: Request) -> list[Command]:
    """MAIL and the RCPTs, held against what the server offers (rule 1)."""
    offers = session.capabilities
    utf8 = _needs_smtputf8(request)
    if utf8 and not offers.supports_smtputf8:
        raise SmtpUtf8RequiredError(
            "an address is not ASCII, or SMTPUTF8 was asked for, and the server does not offer it",
            phase=Phase.MAIL,
        )
    parameters = mail_parameters(
        request.mail_params,
        offers,
        size=request.content.size,
        body=_body(request, offers_8bitmime=offers.supports_8bitmime),
        smtputf8=utf8,
    )
    mail = command(Phase.MAIL, f"MAIL FROM:<{request.sender}>{parameters}")
    return [mail] + [
        command(Phase.RCPT, f"RCPT TO:<{path}>{rcpt_parameters(p, offers, smtputf8=utf8)}")
        for path, p in zip(request.recipients, request.rcpt_params, strict=True)
    ]


def _needs_smtputf8(request: Request) -> bool:
    addresses_are_ascii = request.sender.is_ascii and all(r.is_ascii for r in request.recipients)
    return request.mail_params.smtputf8 or not addresses_are_ascii


def _body(request: Request, *, offers_8bitmime: bool) -> BodyType | None:
    """The BODY to declare (RFC 6152 2)."""
    body, is_8bit = request.mail_params.body, request.content.is_8bit
    if body is BodyType.BINARYMIME:
        raise ProtocolError("BINARYMIME needs BDAT: use send_bdat (RFC 3030 3)", phase=Phase.MAIL)
    if body is BodyType.SEVENBIT and is_8bit:
        raise ValidationError("the message holds octets above 127, which 7BIT does not allow")
    if body is not None or is_8bit is False:
        return body
    if offers_8bitmime:
        # Also for a stream: declaring 8BITMIME for a message that turns out to be ASCII is legal.
        return BodyType.EIGHTBITMIME
    if is_8bit:
        raise UnsupportedExtensionError(
            "the message holds octets above 127 and the server does not offer 8BITMIME: "
            "encode it as quoted-printable or base64",
            phase=Phase.MAIL,
        )
    return None


def _send_envelope(
    envelope: list[Command], *, in_one_group: bool
) -> Generator[Step, None, list[SmtpResponse]]:
    """Send the commands and return the replies, fewer than commands if the rest made no sense."""
    if in_one_group:
        batch = Batch(tuple(envelope))
        yield batch
        return batch.replies
    replies: list[SmtpResponse] = []
    any_accepted = False
    for each in envelope:
        if each.phase is Phase.DATA and not any_accepted:
            break
        reply = yield from single(each)
        replies.append(reply)
        if each.phase is Phase.RCPT:
            any_accepted = any_accepted or reply.is_success
        elif not reply.is_success:
            break
    return replies


def _sort_recipients(
    recipients: Sequence[ForwardPath], envelope: list[Command], replies: list[SmtpResponse]
) -> tuple[tuple[ForwardPath, ...], tuple[RejectedRecipient, ...]]:
    rcpt_replies = [r for c, r in zip(envelope, replies, strict=False) if c.phase is Phase.RCPT]
    answered = list(zip(recipients, rcpt_replies, strict=False))
    accepted = tuple(path for path, reply in answered if reply.is_success)
    rejected = tuple(RejectedRecipient(p, reply) for p, reply in answered if not reply.is_success)
    return accepted, rejected


def _failure(
    envelope: list[Command],
    replies: list[SmtpResponse],
    accepted: tuple[ForwardPath, ...],
    rejected: tuple[RejectedRecipient, ...],
) -> SmtpError | None:
    """Why no content may follow; None when it may."""
    refused: SmtpError | None = None
    for each, reply in zip(envelope, replies, strict=False):
        wanted = reply.code == 354 if each.phase is Phase.DATA else reply.is_success
        if wanted:
            continue
        error = refusal(reply, each.phase)
        # A reply out of step goes before every refusal: nothing else can be believed.
        if isinstance(error, ProtocolError):
            return error
        if refused is None and each.phase is not Phase.RCPT:
            # What follows a refused MAIL is refused because of it; what follows refused
            # recipients likewise.
            if each.phase is Phase.DATA and not accepted:
                refused = AllRecipientsFailedError(rejected)
            else:
                refused = error
    if refused is None and not accepted:
        refused = AllRecipientsFailedError(rejected)
    return refused


def _is_open_for_data(envelope: list[Command], replies: list[SmtpResponse]) -> bool:
    return len(replies) == len(envelope) and replies[-1].code == 354


def _result(
    session: Session,
    reply: SmtpResponse,
    accepted: tuple[ForwardPath, ...],
    rejected: tuple[RejectedRecipient, ...],
) -> SendResult:
    if reply.is_success:
        session.needs_reset = False
        return SendResult(reply, accepted, rejected)
    error = refusal(reply, Phase.CONTENT)
    # A refusal is certain; a 3xx after the whole message is anybody's guess.
    error.may_have_been_delivered = isinstance(error, ProtocolError)
    raise error
