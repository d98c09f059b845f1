"""One mail transaction: MAIL, RCPT, the content, and what became of it (RFC 5321 3.3).

One generator serves DATA and BDAT, SMTP and LMTP, with and without PIPELINING; the choices are
made by what it is given, never by copies of it. Its parts (`begin`, `judge`, `content_of`,
`conclude`) serve many transactions in a row too, which are `smtpconn.protocol.pipelined`'s.

Rule 1: everything that can be found wrong without the server is found before the first octet.
Rule 2: with PIPELINING the envelope leaves as one group that ends in DATA (RFC 2920 3.1); without,
        command by command, and not further than makes sense. Only where
        `SessionState.may_send_eagerly` does a short message leave with its envelope, by BDAT.
Rule 3: a transaction that does not end in success leaves a mark, and the next one begins with RSET
        in the same group. Servers differ in what a refused transaction leaves behind: Exim
        delivers the next message under the refused one's sender, Postfix goes on answering 552.
Rule 4: a 354 that is not followed by a message is answered with a lone dot (RFC 2920 3.1), but only
        where every recipient was refused: to any other it would be an empty message.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from smtpconn.model.addresses import ForwardPath
from smtpconn.model.content import END_OF_DATA, Chunk
from smtpconn.model.errors import Phase, ProtocolError, SmtpError
from smtpconn.model.origin import is_own
from smtpconn.model.parameters import check_size, is_too_big
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import ResponseError, explain, refusal
from smtpconn.model.results import LmtpSendResult, RecipientResult, RejectedRecipient, SendResult
from smtpconn.protocol.command import Command, command
from smtpconn.protocol.exchange import (
    CommandGroup,
    Exchange,
    ExchangeAction,
    Payload,
    Piece,
    WaitFor,
)
from smtpconn.protocol.mail_request import MailRequest, Outcome, envelope_commands
from smtpconn.protocol.reply_matcher import SHUTTING_DOWN
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.verdict import broken_off, sort_recipients, why_refused

EAGER_CAP = 256 * 1024
"""Octets of a message above which its content waits for the recipients' replies: spending it on
nobody would cost more than the round trip."""

DATA = command(Phase.DATA, "DATA")
RSET = command(Phase.RSET, "RSET")
_bdat_command = functools.partial(command, Phase.CONTENT, replies=0)
_code_of = operator.attrgetter("code")
NOBODY = "the server waits for content that nobody is to get"
EMPTY_DATA = Payload((END_OF_DATA,), ends_message=False, log=".")


@dataclass(slots=True, eq=False)
class Transaction:
    """A transaction under way.

    Attributes:
        session: where it takes place.
        request: what is to be sent.
        sent_to: whom RCPT was said for: in LMTP every recipient once.
        commands: its envelope, and DATA unless it is sent in chunks.
        accepted, rejected: what the server said of the recipients, once `judge` has been told.
        sent_in: the group with the end of the content, from before it is sent.
    """

    session: SessionState
    request: MailRequest
    sent_to: tuple[ForwardPath, ...]
    commands: list[Command]
    chunking: bool
    accepted: tuple[ForwardPath, ...] = ()
    rejected: tuple[RejectedRecipient, ...] = ()
    sent_in: CommandGroup | None = None

    def outcome(self, cause: BaseException) -> Outcome:
        """What is true of the message now that other code has ended the dialogue anywhere.

        Nothing that was noted on the way is needed for it but replies that were paired and octets
        that were counted: its final reply if that came, else whether it may have been delivered.
        """
        group = self.sent_in
        if group is None:
            return broken_off(cause, has_left=False)
        try:
            if group.is_eager:
                if not group.missing:
                    return conclude_eager(self.session, self, group)
                if (refused := refused_for_certain(self.session, self, group)) is not None:
                    return refused
            else:
                payload = next(piece for piece in group.pieces if isinstance(piece, Payload))
                replies = group.replies[: payload.replies]
                if len(replies) == payload.replies or tells_something(payload, replies, group):
                    return conclude(self.session, self, replies)
        except SmtpError as error:
            return error
        return broken_off(cause, has_left=group.may_have_been_delivered)


def transaction(
    session: SessionState, request: MailRequest, *, chunking: bool = False
) -> Exchange[SendResult]:
    """Send one message with DATA, or with BDAT if ``chunking`` (RFC 5321 3.3, RFC 3030).

    Raises:
        TransientError, PermanentError: the sender, DATA or the message was refused.
        AllRecipientsFailedError: every recipient was.
        UnsupportedExtensionError, SmtpUtf8RequiredError, ValidationError: the server does not
            offer what the message needs; nothing was sent.
        ProtocolError: this is an LMTP session, or a reply that makes no sense.
    """
    if session.is_lmtp:
        raise ProtocolError("this is an LMTP connection: use send_lmtp", phase=Phase.MAIL)
    return transact(session, request, chunking=chunking)


def lmtp_transaction(
    session: SessionState, request: MailRequest, *, chunking: bool = False
) -> Exchange[LmtpSendResult]:
    """The same for LMTP, which answers the content once per accepted recipient (RFC 2033 4.2).

    Recipients given twice are sent once, because servers answer duplicates differently, and
    reported wherever they stand. If the connection is lost after some of the answers, those are
    reported as they are and the others as unknown (``response`` None); if before any, it raises.

    Raises:
        As `transaction`; but a refusal of the content is in the results.
    """
    if not session.is_lmtp:
        raise ProtocolError("this is an SMTP connection: use send", phase=Phase.MAIL)
    return cast("Exchange[LmtpSendResult]", transact(session, request, chunking=chunking))


def transact(
    session: SessionState,
    request: MailRequest,
    *,
    chunking: bool = False,
    is_first_try: bool = True,
) -> Exchange[SendResult | LmtpSendResult]:
    """The one script: RSET if needed, MAIL, RCPT, the content, and what came of it.

    With ``is_first_try=False`` the time of the message does not begin anew.
    """
    this = begin(session, request, chunking=chunking)
    if chunking and session.may_send_eagerly and may_leave_with_envelope(request):
        return (yield from _send_at_once(session, this))
    replies: list[SmtpResponse] = []
    try:
        if session.may_pipeline:
            group = CommandGroup(tuple(this.commands), begins_message=is_first_try)
            replies = group.replies
            yield group
        else:
            yield from send_in_turn(this.commands, replies, begins_message=is_first_try)
    except SmtpError as error:
        explain_refusal(session, this, error, replies)
        raise
    failure = judge(session, this, replies)
    if failure is not None:
        if wants_content(this, replies) and not session.must_close:
            if may_send_empty_data(session, this, failure):
                yield CommandGroup((EMPTY_DATA,))
            else:
                session.must_close = NOBODY
        raise failure
    final: Sequence[SmtpResponse]
    if chunking:
        final = yield from _send_chunks(session, this)
    else:
        this.sent_in = CommandGroup((content_of(session, this),))
        final = yield from final_replies(this.sent_in)
    return conclude(session, this, final)


def begin(
    session: SessionState, request: MailRequest, *, chunking: bool, reset: bool = False
) -> Transaction:
    """Hold a request against what the server offers, and note that its transaction begins.

    Args:
        session: what it is to be sent in.
        request: what is to be sent.
        chunking: whether with BDAT.
        reset: whether RSET goes before it even if nothing seems to need it.

    Raises:
        As `envelope_commands`; nothing is noted then.
        ConnectionClosedError: the server would hang up on the RSET.
    """
    sent_to = request.recipients
    if session.is_lmtp and len(sent_to) > 1:
        distinct = dict(zip(request.recipients, request.rcpt_params, strict=True))
        sent_to = tuple(distinct)
        once = replace(request, recipients=sent_to, rcpt_params=tuple(distinct.values()))
        commands = envelope_commands(session, once, chunking=chunking)
    else:
        commands = envelope_commands(session, request, chunking=chunking)
    if not chunking:
        commands.append(DATA)
    if session.needs_reset or reset:
        session.check_reset()
        commands.insert(0, RSET)
    session.needs_reset = True
    session.transactions += 1
    this = Transaction(session, request, sent_to, commands, chunking)
    request.attempt = this
    return this


def judge(
    session: SessionState, this: Transaction, replies: Sequence[SmtpResponse]
) -> SmtpError | None:
    """Note what the server said of the envelope; why no content may follow, None when it may."""
    if session.limits_nonmail and this.commands[0] is RSET:
        session.note_reset()
    if _are_all_wanted(this, replies):
        this.accepted = this.sent_to
        failure = None
    else:
        this.accepted, this.rejected = sort_recipients(this.sent_to, this.commands, replies)
        failure = why_refused(this.commands, replies, this.accepted, this.rejected)
        if isinstance(failure, ResponseError) and failure.phase is Phase.RSET:
            failure = _reset_refused(session, failure)
    if failure is None:
        session.has_reset = False
    else:
        explain_refusal(session, this, failure, replies)
    return failure


def _reset_refused(session: SessionState, refused: ResponseError) -> SmtpError:
    """The error for a message whose RSET was refused: the connection is at fault, not the message
    (`smtpconn.protocol.quirks.RSET_REFUSED`)."""
    if refused.response.code == SHUTTING_DOWN:
        return refused
    error = session.note_reset_refused(refused.response)
    error.__cause__ = refused
    return error


def explain_refusal(
    session: SessionState, this: Transaction, error: SmtpError, replies: Sequence[SmtpResponse]
) -> None:
    """Tell an error that a transaction ended with whom it is about."""
    _, rejected = sort_recipients(this.sent_to, this.commands, replies)
    sender, name = str(this.request.sender), session.ehlo_domain
    explain(error, ehlo_domain=name, sender=sender, rejected=rejected)


def _are_all_wanted(this: Transaction, replies: Sequence[SmtpResponse]) -> bool:
    """What nearly all envelopes come to, seen without looking at each command."""
    if len(replies) != len(this.commands):
        return False
    if this.chunking:
        return bool(max(map(_code_of, replies)) < 300)
    *codes, last = map(_code_of, replies)
    return last == 354 and bool(max(codes) < 300)


def wants_content(this: Transaction, replies: Sequence[SmtpResponse]) -> bool:
    """Whether the server waits for content now, whatever became of the recipients."""
    return len(replies) == len(this.commands) and replies[-1].code == 354


def may_send_empty_data(session: SessionState, this: Transaction, failure: SmtpError) -> bool:
    """Whether that 354 may be answered with a lone dot; if not, the dialogue cannot go on.

    In LMTP the dot has one answer per accepted recipient: none to wait for. And whom the server
    accepted, in spite of the failure or behind a reply out of sync, would get an empty message.
    """
    is_for_nobody = not this.accepted and not isinstance(failure, ProtocolError)
    return is_for_nobody and not session.is_lmtp


def content_of(session: SessionState, this: Transaction) -> Payload:
    """The content as DATA has it."""
    content = this.request.content
    buffers = content.as_data(seven_bit_only=_takes_seven_bits(session))
    return Payload(buffers, replies=_final_replies_of(session, this), content=content)


def may_leave_with_envelope(request: MailRequest) -> bool:
    """Whether a message is short enough to be spent on recipients that may all be refused."""
    size = request.content.whole_size
    return size is not None and size <= EAGER_CAP


def whole_chunk(this: Transaction) -> Payload:
    """The content as one BDAT with its command; not of a stream."""
    chunk = this.request.content.whole_chunk(is_binary=this.request.is_binary)
    assert chunk is not None
    bdat = _bdat(chunk).wire
    return Payload(
        (bdat, *chunk.buffers),
        log=f"BDAT {chunk.octets} LAST <content>",
        octets=len(bdat) + chunk.octets,
    )


def conclude(
    session: SessionState, this: Transaction, replies: Sequence[SmtpResponse]
) -> SendResult | LmtpSendResult:
    """What became of a message, by the final replies.

    Raises:
        TransientError, PermanentError, ProtocolError: it was refused (not in LMTP, where each
            recipient has a reply), or the reply makes no sense.
    """
    if session.is_lmtp:
        return _conclude_lmtp(session, this, replies)
    reply = replies[0]
    if not reply.is_success:
        raise _content_refusal(reply)
    session.needs_reset = False
    return SendResult(reply, this.accepted, this.rejected)


def _conclude_lmtp(
    session: SessionState, this: Transaction, replies: Sequence[SmtpResponse]
) -> LmtpSendResult:
    session.needs_reset = not all(reply.is_success for reply in replies)
    # From a 3xx on nothing can be believed; what came before it stands.
    credible = list(itertools.takewhile(lambda reply: not reply.is_intermediate, replies))
    if not credible:
        raise _content_refusal(replies[0])
    if len(credible) < len(replies):
        session.must_close = f"the content was answered with {replies[len(credible)]}"
    answers = dict(zip(this.accepted, credible, strict=False))
    refusals = {rejected.recipient: rejected for rejected in this.rejected}
    recipients = this.request.recipients
    return LmtpSendResult(
        tuple(_result(r, answers.get(r)) for r in recipients if r not in refusals),
        tuple(replace(refusals[r], recipient=r) for r in recipients if r in refusals),
    )


def _result(recipient: ForwardPath, reply: SmtpResponse | None) -> RecipientResult:
    return RecipientResult(recipient, reply, reply is not None and reply.is_success)


def _send_at_once(
    session: SessionState, this: Transaction
) -> Generator[ExchangeAction, None, SendResult | LmtpSendResult]:
    this.sent_in = group = CommandGroup((*this.commands, whole_chunk(this)), begins_message=True)
    try:
        yield group
    except SmtpError as error:
        if not is_own(error):
            raise
        # Where replies are out of sync, those that came tell nothing.
        is_out_of_step = type(error) is ProtocolError
        failure = None if is_out_of_step else refused_for_certain(session, this, group)
        if failure is not None:
            raise failure from None
        error.may_have_been_delivered |= is_out_of_step and not group.missing
        raise
    return conclude_eager(session, this, group)


def refused_for_certain(
    session: SessionState, this: Transaction, group: CommandGroup
) -> SmtpError | None:
    """Why a message that left with its envelope was not delivered, though its own reply never came.

    None unless the replies that did come leave no doubt: each of its recipients was refused, or the
    server took its leave at MAIL. Of any other refusal of MAIL a server might think better with
    the next command, and there are those that say 421 to a recipient and go on.
    """
    answered = zip(this.commands, group.replies, strict=False)
    has_left = any(c.phase is Phase.MAIL and r.code == SHUTTING_DOWN for c, r in answered)
    if len(group.replies) < len(this.commands) and not has_left:
        return None
    failure = judge(session, this, group.replies)
    return None if this.accepted or isinstance(failure, ProtocolError) else failure


def conclude_eager(
    session: SessionState, this: Transaction, group: CommandGroup
) -> SendResult | LmtpSendResult:
    """What became of a message that left with its envelope, by all its replies.

    Raises:
        As `transaction`.
    """
    *replies, final = group.replies
    failure = judge(session, this, replies)
    if failure is None:
        return conclude(session, this, (final,))
    # The content has left; what became of it such replies do not tell. A refused RSET may be a
    # refusal of something else, of content read as commands.
    if final.is_success:
        session.must_close = "the server took a message that it had refused"
    failure.may_have_been_delivered = bool(session.must_close) or isinstance(failure, ProtocolError)
    raise failure


def send_in_turn(
    envelope: list[Command], replies: list[SmtpResponse], *, begins_message: bool
) -> Generator[ExchangeAction, None, None]:
    """Send command by command; fewer replies than commands if the rest made no sense.

    Args:
        envelope: what to send.
        replies: filled with the replies as they come, also with those before a failure.
        begins_message: whether a message's time begins with its MAIL.
    """
    any_accepted = False
    for each in envelope:
        if each.phase is Phase.DATA and not any_accepted:
            break
        group = CommandGroup((each,), begins_message=begins_message and each.phase is Phase.MAIL)
        try:
            yield group
        finally:
            replies += group.replies
        reply = group.replies[0]
        if each.phase is Phase.RCPT:
            any_accepted = any_accepted or reply.is_success
        elif not reply.is_success:
            break


def _send_chunks(
    session: SessionState, this: Transaction
) -> Generator[ExchangeAction, None, Sequence[SmtpResponse]]:
    """One BDAT for bytes, several for a stream (RFC 3030 2).

    With PIPELINING a chunk leaves before the reply to the one before it has come. Not so the last
    one: what it ends is to be known to have arrived. What is more than the server takes never
    leaves, because Exim would run the rest of that chunk as commands.
    """
    behind: CommandGroup | None = None
    octets = 0
    for chunk in _chunks(session, this):
        octets += chunk.octets
        is_end = chunk.is_last or is_too_big(octets, session.capabilities)
        if behind is not None and (is_end or not session.may_pipeline):
            yield from _check_chunk(behind)
            behind = None
        check_size(octets, session.capabilities, Phase.CONTENT)
        payload = Payload(
            chunk.buffers,
            replies=_final_replies_of(session, this) if chunk.is_last else 1,
            ends_message=chunk.is_last,
            octets=chunk.octets,
        )
        group = CommandGroup((_bdat(chunk), payload), waits=chunk.is_last)
        if chunk.is_last:
            this.sent_in = group
            return (yield from final_replies(group))
        yield group
        if behind is not None:
            yield from _check_chunk(behind, group)
        behind = group
    raise AssertionError("a message has a last chunk")


def _check_chunk(
    group: CommandGroup, following: CommandGroup | None = None
) -> Generator[ExchangeAction, None, None]:
    """Raise the refusal of a chunk, once the one behind it was answered too."""
    yield WaitFor(group)
    if not group.replies[0].is_success:
        if following is not None:
            yield WaitFor(following)
        raise refusal(group.replies[0], Phase.CONTENT)


def _chunks(session: SessionState, this: Transaction) -> Iterator[Chunk]:
    if this.request.is_binary:
        return this.request.content.binary_chunks()
    return this.request.content.text_chunks(seven_bit_only=_takes_seven_bits(session))


def _bdat(chunk: Chunk) -> Command:
    return _bdat_command(f"BDAT {chunk.octets} LAST" if chunk.is_last else f"BDAT {chunk.octets}")


def _takes_seven_bits(session: SessionState) -> bool:
    return not session.capabilities.supports_8bitmime


def _final_replies_of(session: SessionState, this: Transaction) -> int:
    return len(this.accepted) if session.is_lmtp else 1


def final_replies(group: CommandGroup) -> Generator[ExchangeAction, None, Sequence[SmtpResponse]]:
    """The replies to the whole message; in LMTP those that came before the connection was lost."""
    try:
        yield group
    except SmtpError as error:
        if not (is_own(error) and tells_something(group.pieces[-1], group.replies, group)):
            raise
    return group.replies


def tells_something(payload: Piece, replies: Sequence[SmtpResponse], group: CommandGroup) -> bool:
    """Whether the final replies that came before the connection was lost are worth reporting."""
    # Not if the content did not even leave whole: then nobody has it, and that is certain.
    return payload.replies > 1 and bool(replies) and group.may_have_been_delivered


def _content_refusal(reply: SmtpResponse) -> SmtpError:
    error = refusal(reply, Phase.CONTENT)
    # A refusal is certain; a 3xx after the whole message is anybody's guess.
    error.may_have_been_delivered = isinstance(error, ProtocolError)
    return error
