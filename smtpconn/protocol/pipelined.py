"""Many transactions in a row over one session, with as few round trips as the server allows.

Rule 1: the content of one message and the envelope of the next are sent together: one round trip
        a message (RFC 2920 3.1). If `SessionState.may_send_eagerly`, whole transactions are sent
        one after the other within a window, and their replies are read while others are written;
        short ones that are ready at the same time are written together (`Burst`).
Rule 2: RSET is sent before every MAIL, which costs six bytes and no round trip
        (`quirks.STALE_TRANSACTION`). But Exim counts RSETs (`quirks.NONMAIL_LIMIT`) and other
        servers refuse them (`quirks.RSET_REFUSED`): with those, a message is finished before the
        next is begun, so that RSET is needed only after a refusal.
Rule 3: a message that cannot be streamed is sent alone, in its position between the others.
Rule 4: one outcome per message, in order. A refusal concerns only its own message. When the
        connection is lost, a message in flight has its final reply as its outcome if that came,
        else an error that says whether it may have been delivered. Later messages were certainly
        not sent.
Rule 5: after replies out of sync no further reply is trusted, and nothing more is sent.
Rule 6: an exception of other code (`smtpconn.model.origin`) ends the run at once and is not handled
        here. The outcomes of the messages are then found by `MailRequest.attempt`.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import TypeAlias

from smtpconn.model.errors import (
    Phase,
    ProtocolError,
    SmtpError,
)
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.replies import SHUTTING_DOWN, SmtpResponse
from smtpconn.model.response_errors import ResponseError
from smtpconn.protocol.eager_message import EagerMessage
from smtpconn.protocol.exchange import Burst, CommandGroup, ExchangeAction, Piece, WaitFor
from smtpconn.protocol.mail_request import MailRequest, Outcome, unreadable
from smtpconn.protocol.quirks import AVOID_RSET_FROM, BAD_SEQUENCE
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import (
    CONTENT_WITHOUT_RECIPIENT,
    EMPTY_DATA,
    MAX_JOINED,
    Transaction,
    has_partial_results,
    is_group_failure,
    is_sent_with_envelope,
    not_sent,
    shutdown_in,
    transact,
)

WINDOW = 256 * 1024
"""Bytes of commands and content without a final reply after which no more are written."""

MAX_BURST = 64 * 1024
"""Bytes of commands and content after which no more messages are written together with these."""

MAX_IN_FLIGHT = 256
"""Messages in flight at most."""

Requests: TypeAlias = Sequence[MailRequest | SmtpError]
"""Messages to send. An error stands for one that cannot be sent, and is its outcome."""

Stream: TypeAlias = Generator[ExchangeAction | list[Outcome], None, None]


def stream(session: SessionState, requests: Iterator[Requests]) -> Stream:
    """Send each request and yield the outcomes in order, in lists of those known at the same time.

    Args:
        session: of a connection that this run alone uses.
        requests: what to send, in lists of what is ready at the same time.
    """
    return _Streaming(session).run(requests)


class _Streaming:
    """One run, and what is in flight in it.

    At any moment exactly one of these is true: the server waits for the content of one transaction
    (``_open``); it waits for a lone dot (``_must_send_empty_data``); whole transactions are in the
    window; nothing is in flight.
    """

    def __init__(self, session: SessionState) -> None:
        self._session = session
        self._open: Transaction | None = None
        self._must_send_empty_data = False
        self._must_send_again = False
        # Messages that were sent with their envelopes and have no outcome yet, oldest first.
        self._window: deque[EagerMessage] = deque()
        self._bytes_in_flight: float = 0
        self._lost: Exception | None = None

    def run(self, ready: Iterator[Requests]) -> Stream:
        for requests in ready:
            left = deque(requests)
            while left:
                if self._session.is_eager and (burst := self._begin_burst(left)):
                    yield from self._write_eagerly(Burst(burst))
                else:
                    yield from self._send(left.popleft())
        yield from self._finish()

    def _send(self, request: MailRequest | SmtpError) -> Stream:
        """How to send a message that is not part of a burst."""
        if isinstance(request, SmtpError):
            return self._decline(request)
        if self._lost is not None:
            return self._decline(not_sent(self._lost))
        if is_sent_with_envelope(self._session, request):
            return self._send_eagerly(request)
        if self._can_stream(request):
            return self._send_streamed(request)
        return self._send_alone(request)

    def _send_alone(self, request: MailRequest) -> Stream:
        yield from self._finish()
        yield [(yield from self._send_plainly(request))]

    def _can_stream(self, request: MailRequest) -> bool:
        session = self._session
        return session.may_pipeline and session.quirks.is_streamable and not request.is_binary

    def _finish(self) -> Stream:
        """Send and await what the messages in flight still lack, and yield their outcomes."""
        while self._window:
            yield from self._take_oldest()
        if self._open is not None or self._must_send_empty_data:
            yield from self._round_trip(None)

    def _send_plainly(
        self, request: MailRequest, *, is_first_try: bool = True
    ) -> Generator[ExchangeAction, None, Outcome]:
        if self._lost is not None:
            return not_sent(self._lost)
        chunking = request.is_binary
        begun = self._session.transactions
        outcome: Outcome
        try:
            outcome = yield from transact(
                self._session, request, chunking=chunking, is_first_try=is_first_try
            )
        except Exception as error:
            if error is request.content.read_error and not is_of_signal_handler(error):
                self._lost = error
                return unreadable(error)
            if not (isinstance(error, SmtpError) and is_own(error)):
                raise
            outcome = error
        # If the connection was lost, the outcomes of the next messages say so.
        if self._session.transactions > begun:
            self._note_session_end(outcome)
            self._lost = self._lost or shutdown_in(outcome)
        return outcome

    def _begin(self, request: MailRequest, *, reset: bool) -> Transaction | SmtpError:
        """Begin a transaction; the error if that is not possible."""
        if self._lost is not None:
            return not_sent(self._lost)
        try:
            return Transaction.begin(self._session, request, chunking=False, reset=reset)
        except SmtpError as error:
            if not is_own(error):
                raise
            return error

    def _decline(self, error: SmtpError) -> Stream:
        """Yield why a message cannot be sent, after the outcomes of those in flight."""
        yield from self._finish()
        self._note_session_end(None)
        yield [error]

    # Streamed: the content of one message together with the envelope of the next.

    def _send_streamed(self, request: MailRequest) -> Stream:
        while self._window:
            yield from self._take_oldest()
        if self._session.avoid_rset:
            yield from self._finish()
        follows_content = self._open is not None or self._must_send_empty_data
        following = self._begin(request, reset=follows_content)
        if isinstance(following, SmtpError):
            yield from self._decline(following)
            return
        yield from self._round_trip(following)
        if self._must_send_again:
            self._must_send_again = False
            yield [(yield from self._send_plainly(request, is_first_try=False))]
        elif request.content.whole_size is None:
            # The caller may close its file when the next message is requested.
            yield from self._finish()

    def _round_trip(self, following: Transaction | None) -> Stream:
        """Make one round trip: send the open transaction's content and the next one's envelope.

        Yields the outcome of the message whose content was sent, if any, and that of the next
        message if its envelope was refused.
        """
        transaction, self._open = self._open, None
        payload = EMPTY_DATA if self._must_send_empty_data else None
        if transaction is not None:
            payload = transaction.content_payload()
        self._must_send_empty_data = False
        commands = () if following is None else following.commands
        pieces: tuple[Piece, ...] = (*commands,) if payload is None else (payload, *commands)
        count = 0 if payload is None else payload.replies
        begins_message = following is not None
        group = CommandGroup(pieces, begins_message)
        group.join(payload)
        if transaction is not None:
            transaction.sent_in = group
        try:
            yield group
        except Exception as error:
            if not is_group_failure(error, group):
                raise
            self._lost = error
            if transaction is not None:
                yield [self._conclude_lost(transaction, group, error)]
            if following is not None:
                # The envelope failed, unless the reply to the content before it is missing too.
                is_next = len(group.replies) >= count
                replies = group.replies[count:]
                yield [self._why_lost(following, error, replies) if is_next else not_sent(error)]
            return
        self._session.must_close = ""
        outcome = (
            None if transaction is None else self._conclude(transaction, group.replies[:count])
        )
        self._note_session_end(outcome)
        refused = None
        if following is not None:
            refused = self._process_envelope_replies(
                following, group.replies[count:], is_first=not count
            )
        self._note_unsent_content()
        if outcome is not None:
            yield [outcome]
        if refused is not None:
            yield [refused]

    def _process_envelope_replies(
        self, following: Transaction, replies: Sequence[SmtpResponse], *, is_first: bool
    ) -> SmtpError | None:
        """Process the replies to an envelope; returns the error if it was refused."""
        if self._lost is not None:
            return not_sent(self._lost)
        session, was_reset_needed = self._session, self._session.needs_reset
        session.needs_reset = True
        if not is_first and replies[0].code == BAD_SEQUENCE:
            session.quirks.is_streamable = False
            if all(reply.code == BAD_SEQUENCE for reply in replies):
                session.transactions -= 1
                self._must_send_again = True
                return None
        if not (is_first or was_reset_needed) and _is_refused(replies[0]):
            # A refused RSET refuses no message that did not need it.
            if replies[0].code != BAD_SEQUENCE:
                session.quirks.avoid_rset = True
            del following.commands[0]
            replies = replies[1:]
        failure = following.process_envelope_replies(replies)
        if failure is None:
            self._open = following
        elif following.wants_content(replies):
            self._must_send_empty_data = following.may_send_empty_data(failure)
            if not self._must_send_empty_data:
                self._session.must_close = CONTENT_WITHOUT_RECIPIENT
        self._note_session_end(failure)
        return failure

    def _note_session_end(self, outcome: Outcome | None) -> None:
        """After replies out of sync, or if the session must close, note that no more is sent."""
        if isinstance(outcome, ProtocolError):
            self._session.must_close = str(outcome)
        if self._session.must_close and self._lost is None:
            self._lost = ProtocolError(self._session.must_close, phase=Phase.IDLE)

    def _note_unsent_content(self) -> None:
        """Note that the connection must be closed if the run ends before content that is due."""
        if self._lost is None:
            is_data_open = self._open is not None or self._must_send_empty_data
            self._session.must_close = "a message was begun and not sent" if is_data_open else ""

    def _conclude(self, transaction: Transaction, replies: Sequence[SmtpResponse]) -> Outcome:
        try:
            return transaction.conclude(replies)
        except SmtpError as error:
            if not is_own(error):
                raise
            self._session.needs_reset = True
            return error

    def _conclude_lost(
        self, transaction: Transaction, group: CommandGroup, error: Exception
    ) -> Outcome:
        payload = group.pieces[0]
        replies = group.replies[: payload.replies]
        if group.has_failed_to_read(error) or not isinstance(error, SmtpError):
            return unreadable(error)
        if len(replies) == payload.replies or has_partial_results(payload, replies, group):
            return self._conclude(transaction, replies)
        return error

    # Whole transactions through a window.

    def _begin_burst(self, left: deque[MailRequest | SmtpError]) -> list[EagerMessage]:
        """Begin the next messages, as far as they may be written together, and put them in the
        window.

        Args:
            left: the messages that are ready; those that have begun are removed.
        """
        session, burst, size = self._session, list[EagerMessage](), 0.0
        is_data_open = self._open is not None or self._must_send_empty_data
        if self._lost is not None or is_data_open or not session.may_send_bursts:
            return burst
        while left and size < MAX_BURST:
            request = left[0]
            if (
                not isinstance(request, MailRequest)
                or not request.content.has_at_most(MAX_JOINED)
                or len(self._window) >= MAX_IN_FLIGHT
            ):
                break
            message = self._begin_eagerly(request)
            if not isinstance(message, EagerMessage):
                # It is begun once more behind the burst. If another connection has just learnt that
                # the server refuses RSET, it needs none there.
                session.must_close = ""
                break
            burst.append(message)
            size += message.size
            del left[0]
        return burst

    def _begin_eagerly(self, request: MailRequest) -> EagerMessage | SmtpError:
        """Begin a message and put it in the window; the error if that is not possible."""
        if self._lost is not None:
            return not_sent(self._lost)
        try:
            message = EagerMessage(self._session, request, bool(self._window))
        except SmtpError as error:
            if not is_own(error):
                raise
            return error
        self._window.append(message)
        self._bytes_in_flight += message.size
        return message

    def _send_eagerly(self, request: MailRequest) -> Stream:
        if self._open is not None or self._must_send_empty_data or self._session.avoid_rset:
            yield from self._finish()
        message = self._begin_eagerly(request)
        if isinstance(message, SmtpError):
            yield from self._decline(message)
        else:
            yield from self._write_eagerly(message)

    def _write_eagerly(self, action: Burst | EagerMessage) -> Stream:
        """Write messages; yield the outcomes that are known, and wait if the window is full."""
        window = self._window
        try:
            yield action
        except SmtpError as error:
            if not is_own(error):
                raise
            yield from self._report_lost(error)
            return
        if window and not window[0].missing:
            yield from self._conclude_answered()
        most = self._max_in_flight() if self._session.limits_nonmail else MAX_IN_FLIGHT
        if self._bytes_in_flight > WINDOW or len(window) > most:
            # Emptied by half, so that the next messages need not each wait for a reply.
            while self._bytes_in_flight > WINDOW // 2 or len(window) > most // 2:
                yield from self._take_oldest()

    def _max_in_flight(self) -> int:
        """Messages in flight at most where RSETs are counted: each needs one if it is refused."""
        return min(MAX_IN_FLIGHT, max(0, AVOID_RSET_FROM - self._session.nonmail_commands))

    def _take_oldest(self) -> Stream:
        """Wait for the oldest message; yield its outcome, and others that are complete by then."""
        oldest = self._window[0]
        if oldest.missing:
            try:
                yield WaitFor(oldest)
            except SmtpError as error:
                if not is_own(error):
                    raise
                yield from self._report_lost(error)
                return
        yield from self._conclude_answered()

    def _conclude_answered(self) -> Stream:
        """Yield the outcomes of the oldest messages whose replies have all come."""
        window, session, outcomes = self._window, self._session, list[Outcome]()
        while window and not window[0].missing and self._lost is None:
            message = window.popleft()
            self._bytes_in_flight -= message.size
            outcome = self._conclude_eagerly(message)
            outcomes.append(outcome)
            session.needs_reset = is_refused = isinstance(outcome, SmtpError)
            if is_refused or session.must_close:
                self._note_session_end(outcome)
        if outcomes:
            yield outcomes
        if self._lost is not None:
            yield from self._report_lost(self._lost, are_groups_marked=False)

    def _conclude_eagerly(self, message: EagerMessage) -> Outcome:
        try:
            return message.conclude_eager()
        except SmtpError as error:
            if not is_own(error):
                raise
            return error

    def _report_lost(self, error: Exception, *, are_groups_marked: bool = True) -> Stream:
        """Yield the outcomes of the messages in the window after the connection was lost.

        If replies are out of sync, none of those that came is trusted.

        Args:
            error: why it was lost.
            are_groups_marked: whether the driver raised ``error``, and so has set
                ``may_have_been_delivered`` of the groups.
        """
        self._lost = error
        is_out_of_sync = type(error) is ProtocolError
        window = tuple(self._window)
        self._window.clear()
        self._bytes_in_flight = 0
        first_unanswered = next((message for message in window if message.missing), None)
        outcomes: list[Outcome] = []
        for message in window:
            was_sent = message.may_have_been_delivered or not message.missing
            if is_out_of_sync and (was_sent or not are_groups_marked):
                outcomes.append(_unknown(error))
            elif not message.missing:
                outcomes.append(self._conclude_eagerly(message))
            elif was_sent:
                outcomes.append(message.certain_refusal() or _unknown(error))
            elif message is first_unanswered:
                outcomes.append(self._why_lost(message, error, message.replies))
            else:
                outcomes.append(not_sent(error))
        if outcomes:
            yield outcomes

    def _why_lost(
        self, transaction: Transaction, error: Exception, replies: Sequence[SmtpResponse]
    ) -> SmtpError:
        """The outcome of the message whose reply was awaited next; ``replies`` are those it got."""
        # A refusal that ended the connection answered the message before this one.
        is_for_earlier = isinstance(error, ResponseError) and not replies
        if is_for_earlier or not isinstance(error, SmtpError):
            return not_sent(error)
        refused = transaction.refusal_before_loss(error, replies)
        if refused is not None:
            refused.__cause__ = error
            return refused
        transaction.explain_refusal(error, replies)
        return error


def _unknown(error: Exception) -> SmtpError:
    """The outcome of a message that was sent completely when the connection was lost."""
    unknown = copy.copy(error) if isinstance(error, SmtpError) else not_sent(error)
    unknown.may_have_been_delivered = True
    unknown.never_begun = False
    return unknown


def _is_refused(reply: SmtpResponse) -> bool:
    """Whether a reply refuses one command; 421 refuses the whole session."""
    return reply.code != SHUTTING_DOWN and (reply.is_transient or reply.is_permanent)
