"""One mail transaction: MAIL, RCPT, the content, and its outcome (RFC 5321 3.3).

One generator serves DATA and BDAT, SMTP and LMTP, with and without PIPELINING; its arguments select
among these. The methods of `Transaction` serve many
transactions in a row too (`smtpconn.protocol.pipelined`).

Rule 1: every mistake that can be found without the server is found before the first byte is sent.
Rule 2: with PIPELINING the envelope is sent as one group that ends in DATA (RFC 2920 3.1); without,
        command by command, until a refusal makes the rest pointless. Only if
        `SessionState.may_send_eagerly` is a short message sent with its envelope, by BDAT.
Rule 3: a transaction that does not end in success sets `SessionState.needs_reset`, and the next
        one begins with RSET in the same group: servers keep parts of a refused transaction
        (`smtpconn.protocol.quirks.STALE_TRANSACTION`).
Rule 4: a 354 that is not followed by a message is answered with a lone dot (RFC 2920 3.1), but only
        where every recipient was refused: an accepted one would get an empty message.
Rule 5: one refusal is reported, the one that explains the others. A reply out of sync comes first,
        because after it no reply can be trusted; then 421; then refusals in the order of their
        causes.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Self, cast

from smtpconn.model.addresses import ForwardPath
from smtpconn.model.content import END_OF_DATA, Chunk
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    PoolError,
    ProtocolError,
    SmtpError,
    TransportError,
)
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.parameters import check_size, is_too_big
from smtpconn.model.replies import SHUTTING_DOWN, SmtpResponse
from smtpconn.model.response_errors import (
    AllRecipientsFailedError,
    ResponseError,
    TransientError,
    explain,
    refusal,
)
from smtpconn.model.results import LmtpSendResult, RecipientResult, RejectedRecipient, SendResult
from smtpconn.protocol.command import Command, cached_command, command
from smtpconn.protocol.exchange import (
    CommandGroup,
    Exchange,
    ExchangeAction,
    Payload,
    Piece,
    WaitFor,
)
from smtpconn.protocol.mail_request import MailRequest, MessageRequest, Outcome, envelope_commands
from smtpconn.protocol.quirks import BAD_SEQUENCE, means_too_many_recipients
from smtpconn.protocol.session import SessionState

EAGER_CAP = 256 * 1024
"""Bytes of a message above which its content is sent only after the replies to RCPT: if all
recipients were refused, the bytes sent in vain would cost more than a round trip."""

MAX_JOINED = 16 * 1024
"""Bytes of a message up to which it may be written together with others (`exchange.Burst`)."""

DATA = command(Phase.DATA, "DATA")
RSET = command(Phase.RSET, "RSET")
_bdat = cached_command(Phase.CONTENT, replies=0)
_code_of = operator.attrgetter("code")
CONTENT_WITHOUT_RECIPIENT = "the server waits for content that nobody is to get"
EMPTY_DATA = Payload((END_OF_DATA,), size=len(END_OF_DATA), ends_message=False, log=".")


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
    """Send one message: RSET if needed, MAIL, RCPT, the content; return the result.

    With ``is_first_try=False`` the message's timeout is not restarted.
    """
    message = Transaction.begin(session, request, chunking=chunking)
    if chunking and is_sent_with_envelope(session, request):
        return (yield from message.send_at_once())
    replies = yield from message.send_envelope(begins_message=is_first_try)
    failure = message.process_envelope_replies(replies)
    if failure is not None:
        if message.wants_content(replies) and not session.must_close:
            if message.may_send_empty_data(failure):
                yield CommandGroup((EMPTY_DATA,))
            else:
                session.must_close = CONTENT_WITHOUT_RECIPIENT
        raise failure
    if chunking:
        group = yield from message.send_chunks()
    else:
        payload = message.content_payload()
        group = CommandGroup((payload,))
        group.join(payload)
    message.sent_in = group
    try:
        yield group
    except SmtpError as error:
        # In LMTP replies may have come before the connection was lost.
        if not (is_own(error) and has_partial_results(group.pieces[-1], group.replies, group)):
            raise
    return message.conclude(group.replies)


class Transaction:
    """A transaction that has begun.

    Args:
        session: where it takes place.
        request: what is to be sent.
        sent_to: the recipients that RCPT is sent for: in LMTP each of them once.
        commands: its envelope, and DATA unless it is sent in chunks; RSET is inserted before them
            if it is needed.
        chunking: whether it is sent in chunks.
        reset: whether RSET goes before it even if nothing seems to need it.

    Raises:
        ConnectionClosedError: the server does not accept another RSET.

    Attributes:
        accepted, rejected: the recipients by their replies, set by `process_envelope_replies`.
        sent_in: the group with the end of the content, from before it is sent.
    """

    accepted: tuple[ForwardPath, ...] = ()
    rejected: tuple[RejectedRecipient, ...] = ()
    sent_in: CommandGroup | None = None

    def __init__(
        self,
        session: SessionState,
        request: MailRequest,
        sent_to: tuple[ForwardPath, ...],
        commands: list[Command],
        chunking: bool,
        reset: bool = False,
    ) -> None:
        self.session = session
        # Not the request itself, which refers to this: a cycle would stay until it is collected.
        self.sender = request.sender
        self.recipients = request.recipients
        self.content = request.content
        self.is_binary = request.is_binary
        self.sent_to = sent_to
        self.commands = commands
        self.chunking = chunking
        self._note_begun(session, reset)

    def _note_begun(self, session: SessionState, reset: bool) -> None:
        """Note that the transaction begins, and insert RSET if it is needed.

        Raises:
            ConnectionClosedError: the server does not accept another RSET; nothing is noted then.
        """
        if session.needs_reset or reset:
            session.check_reset()
            self.commands.insert(0, RSET)
        session.needs_reset = True
        session.transactions += 1

    @classmethod
    def begin(
        cls, session: SessionState, request: MailRequest, *, chunking: bool, reset: bool = False
    ) -> Self:
        """Check a request against what the server offers, and begin its transaction.

        Args:
            session: what it is to be sent in.
            request: what is to be sent.
            chunking, reset: as in the constructor.

        Raises:
            As `envelope_commands` and the constructor; nothing is noted then.
        """
        sent_to = request.recipients
        if session.is_lmtp and len(sent_to) > 1:
            if request.rcpt_params:
                distinct = dict(zip(sent_to, request.rcpt_params, strict=True))
                params = tuple(distinct.values())
                once = replace(request, recipients=tuple(distinct), rcpt_params=params)
            else:
                once = replace(request, recipients=tuple(dict.fromkeys(sent_to)))
            sent_to = once.recipients
            commands = envelope_commands(session, once, chunking=chunking)
        else:
            commands = envelope_commands(session, request, chunking=chunking)
        if not chunking:
            commands.append(DATA)
        request.attempt = begun = cls(session, request, sent_to, commands, chunking, reset)
        return begun

    def send_envelope(
        self, *, begins_message: bool
    ) -> Generator[ExchangeAction, None, list[SmtpResponse]]:
        """Send the commands in one group where PIPELINING is in use, else one by one.

        Args:
            begins_message: whether a message's time begins with its MAIL.

        Returns the replies; fewer than commands if a refusal made the rest pointless.
        """
        replies: list[SmtpResponse] = []
        try:
            if self.session.may_pipeline:
                group = CommandGroup(tuple(self.commands), begins_message)
                group.join()
                replies = group.replies
                yield group
            else:
                yield from _send_one_by_one(self.commands, replies, begins_message=begins_message)
        except SmtpError as error:
            refused = self.refusal_before_loss(error, replies)
            if refused is not None:
                raise refused from error
            self.explain_refusal(error, replies)
            raise
        return replies

    def process_envelope_replies(self, replies: Sequence[SmtpResponse]) -> SmtpError | None:
        """Process the replies to the envelope; returns why no content may follow, or None."""
        if self.session.limits_nonmail and self.commands[0] is RSET:
            self.session.note_reset()
        failure: SmtpError | None = None
        # Fast path for the usual case: everything was accepted.
        if (
            len(replies) == len(self.commands)
            and (self.chunking or replies[-1].code == 354)
            and max(map(_code_of, replies if self.chunking else replies[:-1])) < 300
        ):
            self.accepted = self.sent_to
        else:
            self.accepted, self.rejected = _sort_recipients(self.sent_to, self.commands, replies)
            failure = _why_refused(self.commands, replies, self.accepted, self.rejected)
            if isinstance(failure, ResponseError) and failure.phase is Phase.RSET:
                failure = self._reset_refused(failure)
        if failure is None:
            self.session.has_reset = False
        else:
            self.explain_refusal(failure, replies)
        return failure

    def refusal_before_loss(
        self, error: Exception, replies: Sequence[SmtpResponse]
    ) -> SmtpError | None:
        """Why the message was refused before the connection was lost; None if it was not.

        Some servers close the connection behind a refusal, without a reply to the rest of the
        group (`smtpconn.protocol.quirks.REFUSED_AND_CLOSED`).

        Args:
            error: what ended the group, which had no content.
            replies: those that came before.
        """
        if not (isinstance(error, ConnectionClosedError | TransportError) and is_own(error)):
            return None
        answered = list(zip(self.commands, replies, strict=False))
        if any(each.phase is Phase.RSET and not reply.is_success for each, reply in answered):
            return None
        # 503 may be about the place of MAIL in the group (`quirks.NOT_STREAMABLE`).
        is_sender_refused = any(
            each.phase is Phase.MAIL and reply.code >= 400 and reply.code != BAD_SEQUENCE
            for each, reply in answered
        )
        _, rejected = _sort_recipients(self.sent_to, self.commands, replies)
        if not (is_sender_refused or len(rejected) == len(self.sent_to)):
            return None
        failure = _why_refused(self.commands, replies, (), rejected)
        if failure is None or isinstance(failure, ProtocolError):
            return None
        self.explain_refusal(failure, replies)
        return failure

    def explain_refusal(self, error: SmtpError, replies: Sequence[SmtpResponse]) -> None:
        """Add to the error of a transaction which sender and recipients it is about."""
        _, rejected = _sort_recipients(self.sent_to, self.commands, replies)
        sender, name = self.sender.text, self.session.ehlo_domain
        explain(error, ehlo_domain=name, sender=sender, rejected=rejected)

    def wants_content(self, replies: Sequence[SmtpResponse]) -> bool:
        """Whether the server waits for content now, even if no recipient was accepted."""
        return len(replies) == len(self.commands) and replies[-1].code == 354

    def may_send_empty_data(self, failure: SmtpError) -> bool:
        """Whether that 354 may be answered with a lone dot; if not, the session cannot continue.

        Not in LMTP, where the dot would have no reply without an accepted recipient. Not if a
        recipient may have been accepted, which would get an empty message.
        """
        has_no_recipient = not self.accepted and not isinstance(failure, ProtocolError)
        return has_no_recipient and not self.session.is_lmtp

    def content_payload(self) -> Payload:
        """The content in the form that follows DATA."""
        content, session = self.content, self.session
        replies = len(self.accepted) if session.is_lmtp else 1
        if (data := content.short_data()) is not None:
            return Payload((data,), replies, len(data), data)
        buffers = content.as_data(seven_bit_only=not session.capabilities.supports_8bitmime)
        return Payload(buffers, replies, content=content)

    def bdat_pieces(self) -> tuple[Command, Payload]:
        """BDAT and the chunk that follows it, for the whole content; not of a stream."""
        text = None if self.is_binary else self.content.short_text
        if text is None:
            chunk = self.content.whole_chunk(is_binary=self.is_binary)
            assert chunk is not None
            if not self.content.has_at_most(MAX_JOINED):
                return _bdat_command(chunk.size), Payload(chunk.buffers, size=chunk.size)
            text = b"".join(chunk.buffers)
        size = len(text)
        return _bdat_command(size), Payload((text,), 1, size, text)

    def send_at_once(self) -> Generator[ExchangeAction, None, SendResult | LmtpSendResult]:
        """Send the envelope and the content in one group, as one BDAT."""
        bdat, chunk = self.bdat_pieces()
        self.sent_in = group = CommandGroup((*self.commands, bdat, chunk), begins_message=True)
        group.join(chunk)
        try:
            yield group
        except SmtpError as error:
            if not is_own(error):
                raise
            # If replies are out of sync, those that came cannot be trusted.
            is_out_of_sync = type(error) is ProtocolError
            failure = None if is_out_of_sync else self.certain_refusal()
            if failure is not None:
                raise failure from None
            error.may_have_been_delivered |= is_out_of_sync and not group.missing
            raise
        return self.conclude_eager()

    def send_chunks(self) -> Generator[ExchangeAction, None, CommandGroup]:
        """One BDAT for bytes, several for a stream (RFC 3030 2); returns the last one, to be sent.

        With PIPELINING a chunk is sent before the reply to the previous one has come; the last one
        only when all replies before it have come. A chunk that exceeds the server's SIZE is never
        sent (`smtpconn.protocol.quirks.REST_AS_COMMANDS`).
        """
        previous: CommandGroup | None = None
        size = 0
        for chunk in self._chunks():
            size += chunk.size
            is_end = chunk.is_last or is_too_big(size, self.session.capabilities)
            if previous is not None and (is_end or not self.session.may_pipeline):
                yield from _check_chunk(previous)
                previous = None
            check_size(size, self.session.capabilities, Phase.CONTENT)
            has_several = chunk.is_last and self.session.is_lmtp
            payload = Payload(
                chunk.buffers,
                replies=len(self.accepted) if has_several else 1,
                ends_message=chunk.is_last,
                size=chunk.size,
            )
            bdat = _bdat_command(chunk.size, is_last=chunk.is_last)
            group = CommandGroup((bdat, payload), waits=chunk.is_last)
            if chunk.is_last:
                return group
            yield group
            if previous is not None:
                yield from _check_chunk(previous, group)
            previous = group
        raise AssertionError("a message has a last chunk")

    def conclude(self, replies: Sequence[SmtpResponse]) -> SendResult | LmtpSendResult:
        """The result of a message, from its final replies.

        Raises:
            TransientError, PermanentError, ProtocolError: it was refused (not in LMTP, where each
                recipient has a reply), or the reply makes no sense.
        """
        if self.session.is_lmtp:
            return self._conclude_lmtp(replies)
        reply = replies[0]
        if reply.code >= 300:
            raise _content_refusal(reply)
        self.session.needs_reset = False
        return SendResult(reply, self.accepted, self.rejected)

    def conclude_eager(self) -> SendResult | LmtpSendResult:
        """The result of a message that was sent with its envelope, from all its replies.

        Raises:
            As `transaction`.
        """
        group = self.sent_in
        assert group is not None
        *replies, final = group.replies
        failure = self.process_envelope_replies(replies)
        if failure is None:
            self.session.is_out_of_sync |= final.is_intermediate
            return self.conclude((final,))
        # The content was sent, and replies out of sync do not tell whether it was delivered. What
        # looks like a refusal of RSET may refuse content that the server read as commands.
        if final.is_success:
            self.session.must_close = "the server took a message that it had refused"
        is_in_doubt = isinstance(failure, ProtocolError)
        failure.may_have_been_delivered = bool(self.session.must_close) or is_in_doubt
        self.session.is_out_of_sync |= failure.may_have_been_delivered
        raise failure

    def certain_refusal(self) -> SmtpError | None:
        """Why a message that was sent with its envelope and has no final reply was not delivered.

        None unless the replies that did come leave no doubt: each of its recipients was refused, or
        MAIL was answered with 421. After any other refusal of MAIL a server may still accept the
        next command, and some answer 421 to a RCPT and continue.
        """
        group = self.sent_in
        assert group is not None
        answered = zip(self.commands, group.replies, strict=False)
        is_shut_down = any(c.phase is Phase.MAIL and r.code == SHUTTING_DOWN for c, r in answered)
        if len(group.replies) < len(self.commands) and not is_shut_down:
            return None
        failure = self.process_envelope_replies(group.replies)
        return None if self.accepted or isinstance(failure, ProtocolError) else failure

    def outcome(self, cause: BaseException) -> Outcome:
        """The outcome of the message after other code has interrupted the exchange at any point.

        It is derived only from matched replies and counted bytes: the final reply if that came,
        else whether the message may have been delivered.
        """
        group = self.sent_in
        if group is None:
            return broken_off(cause, was_sent=False)
        try:
            if group.is_eager:
                if self.session.is_out_of_sync:
                    was_sent = group.may_have_been_delivered or not group.missing
                    return broken_off(cause, was_sent=was_sent)
                if not group.missing:
                    return self.conclude_eager()
                if (refused := self.certain_refusal()) is not None:
                    return refused
            else:
                payload = next(piece for piece in group.pieces if isinstance(piece, Payload))
                replies = group.replies[: payload.replies]
                if len(replies) == payload.replies or has_partial_results(payload, replies, group):
                    return self.conclude(replies)
        except SmtpError as error:
            return error
        return broken_off(cause, was_sent=group.may_have_been_delivered)

    def _reset_refused(self, refused: ResponseError) -> SmtpError:
        """The error for a message whose RSET was refused: the connection is at fault, and not the
        message (`smtpconn.protocol.quirks.RSET_REFUSED`)."""
        if refused.response.code == SHUTTING_DOWN:
            return refused
        error = self.session.note_reset_refused(refused.response)
        error.__cause__ = refused
        return error

    def _conclude_lmtp(self, replies: Sequence[SmtpResponse]) -> LmtpSendResult:
        self.session.needs_reset = not all(reply.is_success for reply in replies)
        # After a 3xx no reply can be trusted; those before it are valid.
        credible = list(itertools.takewhile(lambda reply: not reply.is_intermediate, replies))
        if not credible:
            raise _content_refusal(replies[0])
        if len(credible) < len(replies):
            self.session.must_close = f"the content was answered with {replies[len(credible)]}"
        answers = dict(zip(self.accepted, credible, strict=False))
        refusals = {rejected.recipient: rejected for rejected in self.rejected}
        recipients = self.recipients
        return LmtpSendResult(
            tuple(_result(r, answers.get(r)) for r in recipients if r not in refusals),
            tuple(replace(refusals[r], recipient=r) for r in recipients if r in refusals),
        )

    def _chunks(self) -> Iterator[Chunk]:
        if self.is_binary:
            return self.content.binary_chunks()
        seven_bit_only = not self.session.capabilities.supports_8bitmime
        return self.content.text_chunks(seven_bit_only=seven_bit_only)


def is_sent_with_envelope(session: SessionState, request: MailRequest) -> bool:
    """Whether a message is sent before the replies to its envelope have come (rule 2)."""
    return session.may_send_eagerly and request.content.has_at_most(EAGER_CAP)


def _result(recipient: ForwardPath, reply: SmtpResponse | None) -> RecipientResult:
    return RecipientResult(recipient, reply, reply is not None and reply.is_success)


def _send_one_by_one(
    envelope: list[Command], replies: list[SmtpResponse], *, begins_message: bool
) -> Generator[ExchangeAction, None, None]:
    """Send command by command; stop when a refusal makes the rest pointless.

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


def _check_chunk(
    group: CommandGroup, following: CommandGroup | None = None
) -> Generator[ExchangeAction, None, None]:
    """Raise the refusal of a chunk, after the reply to the next chunk, if one was sent."""
    yield WaitFor(group)
    if not group.replies[0].is_success:
        if following is not None:
            yield WaitFor(following)
        raise refusal(group.replies[0], Phase.CONTENT)


def _bdat_command(size: int, *, is_last: bool = True) -> Command:
    """The command that is followed by a chunk of so many bytes (RFC 3030 2)."""
    return _bdat(f"BDAT {size} LAST" if is_last else f"BDAT {size}")


def has_partial_results(
    payload: Piece, replies: Sequence[SmtpResponse], group: CommandGroup
) -> bool:
    """Whether some final replies of an LMTP message came before the connection was lost."""
    # False if the content was not sent completely: then it was certainly not delivered.
    return payload.replies > 1 and bool(replies) and group.may_have_been_delivered


def _content_refusal(reply: SmtpResponse) -> SmtpError:
    error = refusal(reply, Phase.CONTENT)
    # A refusal is certain; after a 3xx to the whole message the outcome is unknown.
    error.may_have_been_delivered = isinstance(error, ProtocolError)
    return error


def _sort_recipients(
    recipients: Sequence[ForwardPath], envelope: list[Command], replies: Sequence[SmtpResponse]
) -> tuple[tuple[ForwardPath, ...], tuple[RejectedRecipient, ...]]:
    rcpt_replies = [r for c, r in zip(envelope, replies, strict=False) if c.phase is Phase.RCPT]
    accepted: list[ForwardPath] = []
    rejected: list[RejectedRecipient] = []
    for path, reply in zip(recipients, rcpt_replies, strict=False):
        if reply.is_success:
            accepted.append(path)
        else:
            is_too_many = bool(accepted) and means_too_many_recipients(reply)
            rejected.append(RejectedRecipient(path, reply, is_too_many))
    return tuple(accepted), tuple(rejected)


def _why_refused(
    envelope: list[Command],
    replies: Sequence[SmtpResponse],
    accepted: tuple[ForwardPath, ...],
    rejected: tuple[RejectedRecipient, ...],
) -> SmtpError | None:
    """Why no content may follow; None when it may."""
    errors = [
        refusal(reply, each.phase)
        for each, reply in zip(envelope, replies, strict=False)
        if not _is_wanted(each, reply)
    ]
    # A reply out of sync has priority over every refusal, because no other reply can be trusted
    # then; so has 421, which refuses the whole session (RFC 5321 3.8).
    for error in errors:
        if isinstance(error, ProtocolError) or _is_shutdown(error):
            return error
    # Refusals in the order of their causes: what follows a refused MAIL was refused because of it.
    for phase in (Phase.RSET, Phase.MAIL):
        for error in errors:
            if error.phase is phase:
                return error
    if not accepted:
        return AllRecipientsFailedError(rejected)
    return next((error for error in errors if error.phase is Phase.DATA), None)


def _is_shutdown(error: SmtpError) -> bool:
    return isinstance(error, TransientError) and error.response.code == SHUTTING_DOWN


def shutdown_in(outcome: object) -> SmtpError | None:
    """The 421 in a message's outcome, as an error: its own, or one of an LMTP result's replies."""
    if isinstance(outcome, LmtpSendResult):
        replies = [result.response for result in outcome.results if result.response is not None]
        shutdowns = [reply for reply in replies if reply.code == SHUTTING_DOWN]
        return refusal(shutdowns[0], Phase.CONTENT) if shutdowns else None
    return outcome if isinstance(outcome, SmtpError) and _is_shutdown(outcome) else None


def _is_wanted(each: Command, reply: SmtpResponse) -> bool:
    return reply.code == 354 if each.phase is Phase.DATA else 200 <= reply.code < 300


def not_sent(error: BaseException) -> SmtpError:
    """The outcome of a message that was not sent because the connection had been lost before."""
    lost = ConnectionClosedError(
        f"the connection was lost before this message was sent: {error}", phase=Phase.MAIL
    )
    lost.__cause__ = error
    lost.never_begun = True
    return lost


def never_begun(why: str) -> SmtpError:
    """The outcome of a message whose sending was never begun.

    Args:
        why: as a text that follows "this message was never begun: ".
    """
    error = PoolError(f"this message was never begun: {why}", phase=Phase.POOL)
    error.is_transient = True
    error.never_begun = True
    return error


def broken_off(cause: BaseException, *, was_sent: bool) -> SmtpError:
    """The outcome of a message that lacks its final reply because other code raised something.

    Args:
        cause: what was raised; it is no error of the connection.
        was_sent: whether the message may have been sent to its last byte.
    """
    where = "before its final reply came" if was_sent else "before it was sent"
    error = ConnectionClosedError(
        f"sending this message was broken off {where}, by {type(cause).__name__}: {cause}",
        phase=Phase.CONTENT if was_sent else Phase.MAIL,
        may_have_been_delivered=was_sent,
    )
    error.__cause__ = cause
    return error


def is_group_failure(error: Exception, group: CommandGroup) -> bool:
    """Whether the driver raised an error because a group failed, and not other code in between.

    It is an error of the connection, or one that the message's file or iterable raised.
    """
    if group.has_failed_to_read(error):
        return not is_of_signal_handler(error)
    return isinstance(error, SmtpError) and is_own(error)


def outcome_so_far(
    request: MailRequest | MessageRequest | SmtpError | None, cause: BaseException
) -> Outcome:
    """The outcome of a message whose sending other code has interrupted at any point.

    Args:
        request: the message's request; the error if it is invalid; None if it was not made yet.
        cause: what was raised.
    """
    if isinstance(request, SmtpError):
        return request
    if request is None or request.attempt is None:
        return broken_off(cause, was_sent=False)
    return request.attempt.outcome(cause)
