"""Many transactions in a row over one session, with as few round trips as the server allows.

Rule 1: the content of one message and the envelope of the next leave together: one round trip a
        message (RFC 2920 3.1). Where `SessionState.may_send_eagerly`, whole transactions leave
        one behind the other through a window, and their replies are read while others are written.
Rule 2: a RSET goes before every MAIL: six bytes and no round trip (`quirks.STALE_TRANSACTION`). But
        Exim counts them (`quirks.NONMAIL_LIMIT`) and other servers refuse them
        (`quirks.RSET_REFUSED`): there a message is ended before the next is begun, so that RSET is
        needed after refusals only.
Rule 3: what cannot be streamed goes the plain way, between the others and in its place.
Rule 4: one outcome per message, in order. A refusal is its message's alone. When the connection is
        lost, each message that was in flight gets what is true of it: its final reply if that came,
        else whether it may have been delivered; those that come later were certainly not sent.
Rule 5: replies out of sync end it: none of those that follow is believed, and nothing more is
        said.
Rule 6: what other code raises in between (`smtpconn.model.origin`) ends it at once and is not
        handled here. What is true of the messages then, their requests tell
        (`MailRequest.attempt`).
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
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import ResponseError
from smtpconn.protocol.exchange import CommandGroup, ExchangeAction, Piece, WaitFor
from smtpconn.protocol.mail_request import MailRequest, Outcome, unreadable
from smtpconn.protocol.quirks import BAD_SEQUENCE, SPARE_NONMAIL_FROM
from smtpconn.protocol.reply_matcher import SHUTTING_DOWN
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import (
    EMPTY_DATA,
    NOBODY,
    Transaction,
    farewell_in,
    is_told,
    may_leave_with_envelope,
    not_sent,
    tells_something,
    transact,
)

WINDOW = 256 * 1024
"""Bytes of messages that may be in flight without a final reply."""

MAX_IN_FLIGHT = 256
"""Messages that may be."""

Stream: TypeAlias = Generator[ExchangeAction | Outcome, None, None]


def stream(session: SessionState, requests: Iterator[MailRequest | SmtpError]) -> Stream:
    """Send each request and yield its outcome, in order.

    Args:
        session: of a connection that this run alone uses.
        requests: what to send; an error is passed on in its place.
    """
    return _Streaming(session).run(requests)


class _Streaming:
    """One run, and what is in flight in it.

    At any moment the server waits for the content of one transaction, or for a lone dot, or it has
    whole transactions in the window, or none of these.
    """

    def __init__(self, session: SessionState) -> None:
        self._session = session
        self._open: Transaction | None = None
        self._owes_empty_data = False
        self._must_send_again = False
        # Transactions that left whole, with the groups of their replies.
        self._window: deque[tuple[Transaction, CommandGroup]] = deque()
        self._bytes_in_flight = 0
        self._lost: Exception | None = None

    def run(self, requests: Iterator[MailRequest | SmtpError]) -> Stream:
        for request in requests:
            if isinstance(request, SmtpError):
                yield from self._finish()
                yield request
            elif self._lost is not None:
                yield not_sent(self._lost)
            elif self._session.may_send_eagerly and may_leave_with_envelope(request):
                yield from self._send_eagerly(request)
            elif self._can_stream(request):
                yield from self._send_behind(request)
            else:
                yield from self._finish()
                yield (yield from self._send_plainly(request))
        yield from self._finish()

    def _can_stream(self, request: MailRequest) -> bool:
        session = self._session
        return session.may_pipeline and session.quirks.is_streamable and not request.is_binary

    def _finish(self) -> Stream:
        """End what is in flight."""
        while self._window:
            yield from self._take_oldest()
        if self._open is not None or self._owes_empty_data:
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
        # If it cost the connection, the next one will be told.
        if self._session.transactions > begun:
            self._look_for_the_end(outcome)
            self._lost = self._lost or farewell_in(outcome)
        return outcome

    def _begin(
        self, request: MailRequest, *, chunking: bool, reset: bool
    ) -> Transaction | SmtpError:
        """Begin a transaction; the error if that is not possible."""
        if self._lost is not None:
            return not_sent(self._lost)
        try:
            return Transaction.begin(self._session, request, chunking=chunking, reset=reset)
        except SmtpError as error:
            if not is_own(error):
                raise
            return error

    def _decline(self, error: SmtpError) -> Stream:
        """Yield why a transaction cannot begin, behind what is in flight."""
        yield from self._finish()
        self._look_for_the_end(None)
        yield error

    # The content of one and the envelope of the next.

    def _send_behind(self, request: MailRequest) -> Stream:
        while self._window:
            yield from self._take_oldest()
        if self._session.avoid_rset:
            yield from self._finish()
        is_behind = self._open is not None or self._owes_empty_data
        following = self._begin(request, chunking=False, reset=is_behind)
        if isinstance(following, SmtpError):
            yield from self._decline(following)
            return
        yield from self._round_trip(following)
        if self._must_send_again:
            self._must_send_again = False
            yield (yield from self._send_plainly(request, is_first_try=False))
        elif request.content.whole_size is None:
            # Its file may be closed as soon as the next message is asked for.
            yield from self._finish()

    def _round_trip(self, following: Transaction | None) -> Stream:
        """One round trip; yields the outcome of the message whose content was sent in it, if any,
        and of the next one if it was refused."""
        transaction, self._open = self._open, None
        pieces: list[Piece] = []
        if transaction is not None:
            pieces.append(transaction.content_payload())
        elif self._owes_empty_data:
            pieces.append(EMPTY_DATA)
        self._owes_empty_data = False
        behind = pieces[0].replies if pieces else 0
        if following is not None:
            pieces += following.commands
        group = CommandGroup(tuple(pieces), begins_message=following is not None)
        if transaction is not None:
            transaction.sent_in = group
        try:
            yield group
        except Exception as error:
            if not is_told(error, group):
                raise
            self._lost = error
            if transaction is not None:
                yield self._conclude_lost(transaction, group, error)
            if following is not None:
                # What failed was this envelope, unless an answer before it is missing as well.
                is_next = len(group.replies) >= behind
                replies = group.replies[behind:]
                yield self._why_lost(following, error, replies) if is_next else not_sent(error)
            return
        self._session.must_close = ""
        outcome = (
            None if transaction is None else self._conclude(transaction, group.replies[:behind])
        )
        self._look_for_the_end(outcome)
        refused = None
        if following is not None:
            refused = self._judge(following, group.replies[behind:], is_first=not behind)
        self._note_what_is_owed()
        if outcome is not None:
            yield outcome
        if refused is not None:
            yield refused

    def _judge(
        self, following: Transaction, replies: Sequence[SmtpResponse], *, is_first: bool
    ) -> SmtpError | None:
        """Go by what the server said of an envelope; why it was refused, if it was."""
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
        failure = following.judge(replies)
        if failure is None:
            self._open = following
        elif following.wants_content(replies):
            self._owes_empty_data = following.may_send_empty_data(failure)
            if not self._owes_empty_data:
                self._session.must_close = NOBODY
        self._look_for_the_end(failure)
        return failure

    def _look_for_the_end(self, outcome: Outcome | None) -> None:
        """Say nothing more after replies out of sync, or when the dialog cannot go on."""
        if isinstance(outcome, ProtocolError):
            self._session.must_close = str(outcome)
        if self._session.must_close and self._lost is None:
            self._lost = ProtocolError(self._session.must_close, phase=Phase.IDLE)

    def _note_what_is_owed(self) -> None:
        """If the run ends now, the server must not be left waiting for content."""
        if self._lost is None:
            is_owed = self._open is not None or self._owes_empty_data
            self._session.must_close = "a message was begun and not sent" if is_owed else ""

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
        if len(replies) == payload.replies or tells_something(payload, replies, group):
            return self._conclude(transaction, replies)
        return error

    # Whole transactions through a window.

    def _send_eagerly(self, request: MailRequest) -> Stream:
        session, window = self._session, self._window
        if self._open is not None or self._owes_empty_data or session.avoid_rset:
            yield from self._finish()
        transaction = self._begin(request, chunking=True, reset=bool(window))
        if isinstance(transaction, SmtpError):
            yield from self._decline(transaction)
            return
        pieces: tuple[Piece, ...] = (*transaction.commands, transaction.whole_chunk())
        transaction.sent_in = group = CommandGroup(pieces, waits=False, begins_message=True)
        window.append((transaction, group))
        self._bytes_in_flight += request.content.whole_size or 0
        try:
            yield group
        except SmtpError as error:
            if not is_own(error):
                raise
            yield from self._report_lost(error)
            return
        if window and not window[0][1].missing:
            yield from self._conclude_answered()
        most = self._max_in_flight() if session.limits_nonmail else MAX_IN_FLIGHT
        if self._bytes_in_flight > WINDOW or len(window) > most:
            # By half, so that it is not filled and emptied message by message.
            while self._bytes_in_flight > WINDOW // 2 or len(window) > most // 2:
                yield from self._take_oldest()

    def _max_in_flight(self) -> int:
        """Messages that may be where RSETs are counted: so few that all of them may be refused."""
        return min(MAX_IN_FLIGHT, max(0, SPARE_NONMAIL_FROM - self._session.nonmail_commands))

    def _take_oldest(self) -> Stream:
        """Yield the outcome of the oldest message, and of others whose replies are here then."""
        group = self._window[0][1]
        if group.missing:
            try:
                yield WaitFor(group)
            except SmtpError as error:
                if not is_own(error):
                    raise
                yield from self._report_lost(error)
                return
        yield from self._conclude_answered()

    def _conclude_answered(self) -> Stream:
        """Yield the outcomes of the oldest messages, as far as their replies are here."""
        window = self._window
        while window and not window[0][1].missing:
            yield self._conclude_oldest()
            if self._lost is not None:
                yield from self._report_lost(self._lost, was_told=False)
                return

    def _conclude_oldest(self) -> Outcome:
        transaction, group = self._window.popleft()
        self._bytes_in_flight -= transaction.content.whole_size or 0
        outcome = self._conclude_eagerly(transaction, group)
        is_refused = isinstance(outcome, SmtpError)
        self._session.needs_reset = is_refused
        if is_refused or self._session.must_close:
            self._look_for_the_end(outcome)
        return outcome

    def _conclude_eagerly(self, transaction: Transaction, group: CommandGroup) -> Outcome:
        try:
            return transaction.conclude_eager(group)
        except SmtpError as error:
            if not is_own(error):
                raise
            return error

    def _report_lost(self, error: Exception, *, was_told: bool = True) -> Stream:
        """Yield what became of the window; ``was_told``: whether by the driver, with all it knows.

        Where replies are out of sync, none of those that came is believed.
        """
        self._lost = error
        is_out_of_sync = type(error) is ProtocolError
        window = tuple(self._window)
        self._window.clear()
        self._bytes_in_flight = 0
        struck = next((group for _, group in window if group.missing), None)
        for transaction, group in window:
            has_left = group.may_have_been_delivered or not group.missing
            if is_out_of_sync and (has_left or not was_told):
                yield _unknown(error)
            elif not group.missing:
                yield self._conclude_eagerly(transaction, group)
            elif has_left:
                yield transaction.refused_for_certain(group) or _unknown(error)
            elif group is struck:
                yield self._why_lost(transaction, error, group.replies)
            else:
                yield not_sent(error)

    def _why_lost(
        self, transaction: Transaction, error: Exception, replies: Sequence[SmtpResponse]
    ) -> SmtpError:
        """The outcome of a message whose reply was the next to come; it has these so far."""
        # A refusal that ends the connection is about what it answers: the message before.
        is_of_another = isinstance(error, ResponseError) and not replies
        if is_of_another or not isinstance(error, SmtpError):
            return not_sent(error)
        transaction.explain_refusal(error, replies)
        return error


def _unknown(error: Exception) -> SmtpError:
    """The outcome of a message that had left when the connection was lost."""
    unknown = copy.copy(error) if isinstance(error, SmtpError) else not_sent(error)
    unknown.may_have_been_delivered = True
    unknown.never_begun = False
    return unknown


def _is_refused(reply: SmtpResponse) -> bool:
    """Whether a reply refuses what it answers, and nothing else; 421 refuses everything."""
    return reply.code != SHUTTING_DOWN and (reply.is_transient or reply.is_permanent)
