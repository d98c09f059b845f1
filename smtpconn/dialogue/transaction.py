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

import functools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from smtpconn.address import ForwardPath, ReversePath
from smtpconn.commands import Command, command
from smtpconn.content import END_OF_DATA, Content, Message
from smtpconn.dialogue.batch import Batch, Conversation, Payload, Step, single
from smtpconn.dialogue.pairing import SHUTTING_DOWN
from smtpconn.dialogue.session import Protocol, Session
from smtpconn.envelope import LmtpSendResult, RecipientResult, RejectedRecipient, SendResult
from smtpconn.errors import (
    AllRecipientsFailedError,
    Phase,
    ProtocolError,
    SmtpError,
    SmtpUtf8RequiredError,
    TransientError,
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

# Applications send from few addresses and often to the same ones.
_reverse_path = functools.lru_cache(maxsize=256)(ReversePath)
_forward_path = functools.lru_cache(maxsize=1024)(ForwardPath)

Path = TypeVar("Path")


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
        _reverse_path(sender) if isinstance(sender, str) else _checked(sender, ReversePath),
        tuple(_forward_path(r) if isinstance(r, str) else _checked(r, ForwardPath) for r in given),
        message if isinstance(message, Content) else Content(message),
        mail_params if mail_params is not None else MailFromParams(),
        tuple(rcpt_params) if rcpt_params is not None else (RcptToParams(),) * len(given),
    )


@dataclass(frozen=True, slots=True)
class _Delivery:
    """What the server said to a transaction that came to its content."""

    accepted: tuple[ForwardPath, ...]
    rejected: tuple[RejectedRecipient, ...]
    replies: tuple[SmtpResponse, ...]


def _checked(path: Path, kind: type[Path]) -> Path:
    if not isinstance(path, kind):
        raise ValidationError(f"an address is a str or a {kind.__name__}: {path!r:.80}")
    return path


def transaction(
    session: Session, request: Request, *, chunking: bool = False
) -> Conversation[SendResult]:
    """Send one message with DATA, or with BDAT if ``chunking`` (RFC 5321 3.3, RFC 3030).

    Raises:
        TransientError, PermanentError: the sender, DATA or the message was refused.
        AllRecipientsFailedError: every recipient was.
        UnsupportedExtensionError, SmtpUtf8RequiredError, ValidationError: the server does not
            offer what the message needs; nothing was sent.
        ProtocolError: this is an LMTP session, or a reply that makes no sense.
    """
    if session.protocol is not Protocol.SMTP:
        raise ProtocolError("this is an LMTP connection: use send_lmtp", phase=Phase.MAIL)
    delivery = yield from _transaction(session, request, chunking=chunking)
    reply = delivery.replies[0]
    if not reply.is_success:
        raise _content_refusal(reply)
    session.needs_reset = False
    return SendResult(reply, delivery.accepted, delivery.rejected)


def lmtp_transaction(
    session: Session, request: Request, *, chunking: bool = False
) -> Conversation[LmtpSendResult]:
    """The same for LMTP, which answers the content once per accepted recipient (RFC 2033 4.2).

    Recipients given twice are sent once, because servers answer duplicates differently, and
    reported wherever they stand. If the connection is lost after some of the answers, those are
    reported as they are and the others as unknown (``response`` None); if before any, it raises.

    Raises:
        As `transaction`; but a refusal of the content is in the results.
    """
    if session.protocol is not Protocol.LMTP:
        raise ProtocolError("this is an SMTP connection: use send", phase=Phase.MAIL)
    distinct = dict(zip(request.recipients, request.rcpt_params, strict=True))
    once = replace(request, recipients=tuple(distinct), rcpt_params=tuple(distinct.values()))
    delivery = yield from _transaction(session, once, chunking=chunking)
    session.needs_reset = not all(reply.is_success for reply in delivery.replies)
    for reply in delivery.replies:
        if reply.is_intermediate:
            raise _content_refusal(reply)
    answers = dict(zip(delivery.accepted, delivery.replies, strict=False))
    refusals = {rejected.recipient: rejected for rejected in delivery.rejected}
    return LmtpSendResult(
        tuple(_result(r, answers.get(r)) for r in request.recipients if r not in refusals),
        tuple(refusals[r] for r in request.recipients if r in refusals),
    )


def _result(recipient: ForwardPath, reply: SmtpResponse | None) -> RecipientResult:
    return RecipientResult(recipient, reply, reply is not None and reply.is_success)


def _transaction(
    session: Session, request: Request, *, chunking: bool
) -> Generator[Step, None, _Delivery]:
    """The one script: RSET if needed, MAIL, RCPT, the content."""
    envelope = _envelope(session, request, chunking=chunking)
    if not chunking:
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
            yield from _send_lone_dot(session)
        raise failure
    how_many = len(accepted) if session.protocol is Protocol.LMTP else 1
    send_content = _send_chunks if chunking else _send_data
    return _Delivery(accepted, rejected, (yield from send_content(session, request, how_many)))


def _send_lone_dot(session: Session) -> Generator[Step, None, None]:
    if session.protocol is Protocol.LMTP:
        # It has one answer per accepted recipient: none to wait for, and nothing to go on with.
        session.must_close = "the server waits for content that nobody is to get"
    else:
        yield Batch((Payload((END_OF_DATA,), ends_message=False, log="."),))


def _send_data(
    session: Session, request: Request, how_many: int
) -> Generator[Step, None, tuple[SmtpResponse, ...]]:
    seven_bit_only = not session.capabilities.supports_8bitmime
    buffers = request.content.as_data(seven_bit_only=seven_bit_only)
    batch = Batch((Payload(buffers, replies=how_many),))
    return (yield from _final_replies(batch))


def _send_chunks(
    session: Session, request: Request, how_many: int
) -> Generator[Step, None, tuple[SmtpResponse, ...]]:
    """One BDAT for bytes, several for a stream; each waits for its reply (RFC 3030 2)."""
    if request.mail_params.body is BodyType.BINARYMIME:
        chunks = request.content.binary_chunks()
    else:
        seven_bit_only = not session.capabilities.supports_8bitmime
        chunks = request.content.text_chunks(seven_bit_only=seven_bit_only)
    for chunk in chunks:
        verb = f"BDAT {chunk.octets} LAST" if chunk.is_last else f"BDAT {chunk.octets}"
        bdat = command(Phase.CONTENT, verb, replies=0)
        payload = Payload(
            chunk.buffers,
            replies=how_many if chunk.is_last else 1,
            ends_message=chunk.is_last,
        )
        batch = Batch((bdat, payload))
        if chunk.is_last:
            return (yield from _final_replies(batch))
        yield batch
        if not batch.replies[0].is_success:
            raise refusal(batch.replies[0], Phase.CONTENT)
    raise AssertionError("a message has a last chunk")


def _final_replies(batch: Batch) -> Generator[Step, None, tuple[SmtpResponse, ...]]:
    """The replies to the whole message; in LMTP those that came before the connection was lost."""
    try:
        yield batch
    except SmtpError as error:
        # Not if the content did not even leave whole: then nobody has it, and that is certain.
        if batch.expected == 1 or not batch.replies or not error.may_have_been_delivered:
            raise
    return tuple(batch.replies)


def _envelope(session: Session, request: Request, *, chunking: bool) -> list[Command]:
    """MAIL and the RCPTs, held against what the server offers (rule 1)."""
    offers = session.capabilities
    if chunking and not offers.supports_chunking:
        raise UnsupportedExtensionError(
            "BDAT needs the extension CHUNKING, which the server does not offer", phase=Phase.MAIL
        )
    _check_limits(session, request)
    if not offers.supports_smtputf8:
        request = _without_utf8_domains(request)
    utf8 = _needs_smtputf8(request)
    if utf8 and not offers.supports_smtputf8:
        raise SmtpUtf8RequiredError(
            "an address is not ASCII, or SMTPUTF8 was asked for, and the server does not offer it",
            phase=Phase.MAIL,
        )
    content = request.content
    is_binary = request.mail_params.body is BodyType.BINARYMIME
    parameters = mail_parameters(
        request.mail_params,
        offers,
        size=content.binary_size if is_binary else content.size,
        body=_body(request, offers.supports_8bitmime, chunking),
        smtputf8=utf8,
    )
    mail = command(Phase.MAIL, f"MAIL FROM:<{request.sender}>{parameters}")
    return [mail] + [
        command(Phase.RCPT, f"RCPT TO:<{path}>{rcpt_parameters(p, offers, smtputf8=utf8)}")
        for path, p in zip(request.recipients, request.rcpt_params, strict=True)
    ]


def _check_limits(session: Session, request: Request) -> None:
    """Keep within what the server said it takes (RFC 9422)."""
    recipients = session.capabilities.max_recipients
    if recipients is not None and len(request.recipients) > recipients:
        raise ValidationError(
            f"there are {len(request.recipients)} recipients and the server takes {recipients} "
            f"per message: send to them in groups",
            phase=Phase.RCPT,
        )
    transactions = session.capabilities.max_transactions
    if transactions is not None and session.transactions >= transactions:
        raise ProtocolError(
            f"the server takes {transactions} messages on a connection: connect anew",
            phase=Phase.MAIL,
        )


def _needs_smtputf8(request: Request) -> bool:
    addresses_are_ascii = request.sender.is_ascii and all(r.is_ascii for r in request.recipients)
    return request.mail_params.smtputf8 or not addresses_are_ascii


def _without_utf8_domains(request: Request) -> Request:
    """The same with domains in A-labels, for a server that does not offer SMTPUTF8.

    A local part that is not ASCII has no other form; such an address stays as it is.
    """

    def needs_it(path: ReversePath | ForwardPath) -> bool:
        mailbox = path.mailbox
        return mailbox is not None and mailbox.local_part.isascii() and not mailbox.domain.is_ascii

    if not needs_it(request.sender) and not any(map(needs_it, request.recipients)):
        return request
    sender = request.sender.to_ascii() if needs_it(request.sender) else request.sender
    recipients = tuple(r.to_ascii() if needs_it(r) else r for r in request.recipients)
    return replace(request, sender=sender, recipients=recipients)


def _body(request: Request, offers_8bitmime: bool, chunking: bool) -> BodyType | None:
    """The BODY to declare (RFC 6152 2)."""
    body, is_8bit = request.mail_params.body, request.content.is_8bit
    if body is BodyType.BINARYMIME and not chunking:
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
    errors = [
        refusal(reply, each.phase)
        for each, reply in zip(envelope, replies, strict=False)
        if not _is_wanted(each, reply)
    ]
    # A reply out of step goes before every refusal, because nothing else can be believed then;
    # and so does 421, which refuses not this recipient but everything (RFC 5321 3.8).
    for error in errors:
        if isinstance(error, ProtocolError) or _is_farewell(error):
            return error
    # Refusals in the order of their causes: what follows a refused MAIL was refused because of it.
    for phase in (Phase.RSET, Phase.MAIL):
        for error in errors:
            if error.phase is phase:
                return error
    if not accepted:
        return AllRecipientsFailedError(rejected)
    return next((error for error in errors if error.phase is Phase.DATA), None)


def _is_farewell(error: SmtpError) -> bool:
    return isinstance(error, TransientError) and error.response.code == SHUTTING_DOWN


def _is_wanted(each: Command, reply: SmtpResponse) -> bool:
    return reply.code == 354 if each.phase is Phase.DATA else reply.is_success


def _is_open_for_data(envelope: list[Command], replies: list[SmtpResponse]) -> bool:
    return len(replies) == len(envelope) and replies[-1].code == 354


def _content_refusal(reply: SmtpResponse) -> SmtpError:
    error = refusal(reply, Phase.CONTENT)
    # A refusal is certain; a 3xx after the whole message is anybody's guess.
    error.may_have_been_delivered = isinstance(error, ProtocolError)
    return error
