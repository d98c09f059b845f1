"""The ways of sending: the mail transactions of `SmtpConnection` (RFC 5321 3.3, 3030, 2033).

Rule: all of them come down to `send_request` or `deliver_request`, which run the one transaction in
`smtpconn.protocol.transaction`; what differs is only what it is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace

from smtpconn.client.channel import Operations
from smtpconn.model.addresses import ReversePath
from smtpconn.model.content import Message
from smtpconn.model.email_message import (
    AnyMessage,
)
from smtpconn.model.errors import Phase, SmtpError
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.parameters import MailFromParams, RcptToParams
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.results import (
    AnyOutcome,
    Envelope,
    LmtpSendResult,
    Recipients,
    SendOutcome,
    SendResult,
)
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.forking import current_process
from smtpconn.protocol import pipelined
from smtpconn.protocol.envelope_probe import envelope_probe
from smtpconn.protocol.mail_request import (
    MailRequest,
    Outcome,
    check_item,
    make_message_request,
    make_request,
    request_of,
)
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import lmtp_transaction, outcome_so_far, transaction


class Sending(Operations):
    """The mail transactions; users meet them on `SmtpConnection`."""

    def send(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message with DATA (RFC 5321 3.3).

        Args:
            sender: where bounces go; "" for the null reverse-path.
            recipients: one address, or an iterable of some, but no mapping.
            message: bytes, a binary file or an iterable of bytes; line ends may be any. Otherwise
                it is sent as it is, also with lines of more than 998 octets.

        Raises:
            ValidationError: an address or message that may not be sent; nothing was.
            UnsupportedExtensionError, SmtpUtf8RequiredError: the server lacks what it needs.
            AllRecipientsFailedError: every recipient was refused.
            TransientError, PermanentError: the sender or the message was refused.
            ProtocolError: the connection speaks LMTP.
        """
        return self.send_with_all_params(sender, recipients, message, None, None, timeout)

    def send_with_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None,
        timeout: float | None = None,
    ) -> SendResult:
        """The same as `send`, with parameters for MAIL."""
        return self.send_with_all_params(sender, recipients, message, params, None, timeout)

    def send_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> SendResult:
        """The same as `send`, with parameters for MAIL and for each RCPT.

        Raises:
            ProtocolError: ``rcpt_params`` has another length than ``recipients``; nothing was sent.
        """
        deadline = self._channel.deadline(timeout)
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.send_request(request, deadline)

    def send_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message with BDAT (RFC 3030); arguments as `send`.

        With ``params.body`` BINARYMIME the octets go untouched.

        Raises:
            UnsupportedExtensionError: the server does not offer CHUNKING; nothing was sent.
            SmtpError: as `send`.
        """
        return self.send_bdat_with_all_params(sender, recipients, message, params, None, timeout)

    def send_bdat_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> SendResult:
        """The same as `send_bdat`, with parameters for each RCPT too."""
        deadline = self._channel.deadline(timeout)
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.send_request(request, deadline, chunking=True)

    def send_lmtp(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None = None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """Deliver a message over LMTP with DATA (RFC 2033); arguments as `send`.

        Returns one result per accepted recipient, in the order given. If the connection is lost
        after some of the answers came, the others' results have no response: unknown.

        Raises:
            SmtpError: as `send`, but a refusal of the content is in the results.
            ProtocolError: the connection speaks SMTP.
        """
        return self.send_lmtp_with_all_params(sender, recipients, message, params, None, timeout)

    def send_lmtp_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """The same as `send_lmtp`, with parameters for each RCPT too."""
        deadline = self._channel.deadline(timeout)
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.deliver_request(request, deadline)

    def send_lmtp_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None = None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """The same as `send_lmtp`, with BDAT; needs CHUNKING as `send_bdat` does."""
        return self.send_lmtp_bdat_with_all_params(
            sender, recipients, message, params, None, timeout
        )

    def send_lmtp_bdat_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """The same as `send_lmtp_bdat`, with parameters for each RCPT."""
        deadline = self._channel.deadline(timeout)
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.deliver_request(request, deadline, chunking=True)

    def send_message(
        self,
        message: AnyMessage,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message of the email package, over SMTP or LMTP, whichever is spoken.

        Over LMTP the result is an `LmtpSendResult`.

        Args:
            message: an `email.message.EmailMessage`, or one of the older API; it stays as it is,
                and several threads may send it at once. Bcc does not leave. Date and Message-ID
                are added where they are missing. Parts are encoded where they have eight bits and
                the server does not offer 8BITMIME, or lines of more than 998 octets.
            sender, recipients: None for those the headers name (Sender or From; To, Cc and Bcc; or
                their Resent- forms).

        Raises:
            ValidationError: the headers name none, or one that may not be sent.
            SmtpUtf8RequiredError: an address is not ASCII and the server does not offer SMTPUTF8.
            SmtpError: as `send`.
        """
        deadline = self._channel.deadline(timeout)
        made = make_message_request(message, sender, recipients)
        request = made.for_server(self._session.capabilities)
        if self._session.is_lmtp:
            return self.deliver_request(request, deadline)
        return self.send_request(request, deadline)

    def try_envelope(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        mail_params: MailFromParams | None = None,
        rcpt_params: Sequence[RcptToParams] | None = None,
        timeout: float | None = None,
    ) -> tuple[SmtpResponse, ...]:
        """Ask whether the server would take mail: MAIL and RCPT, then RSET, and no message.

        Args:
            sender, recipients, mail_params, rcpt_params: as `send_with_all_params`; without any
                recipient the sender alone is tried.

        Returns the server's replies to the recipients, in the order given. A 2xx is no promise:
        many servers look closer when the message is there.

        Raises:
            TransientError, PermanentError: the sender was refused.
            ValidationError, ProtocolError, UnsupportedExtensionError, SmtpUtf8RequiredError: as
                `send_with_all_params`.
        """
        deadline = self._channel.deadline(timeout)
        request = make_request(
            sender, recipients, b"", mail_params, rcpt_params, needs_recipient=False
        )
        return self._channel.operate(envelope_probe(self._session, request), deadline, Phase.MAIL)

    def send_many(
        self, envelopes: Iterable[Envelope | AnyMessage], timeout: float | None = None
    ) -> Iterator[AnyOutcome]:
        """Send many messages with as few turns as the server allows, going on after failures.

        With PIPELINING one turn per message (RFC 2920 3.1); with `Pipelining.EAGER` and CHUNKING
        far fewer. Works over LMTP too. The connection is this call's alone until its iterator ends;
        an iterator that is closed early closes the connection if the server was waiting for more.

        Args:
            envelopes: what to send, envelopes or messages of the email package; may be a generator.
                It is read ahead of the outcomes, and what
                was taken from it may wait there for more, so it should give what is ready. A
                message that is a file or an iterable has been read when the next is asked for.
            timeout: seconds for each message from its first octet to its final reply, not counting
                the time spent in ``envelopes`` and by who takes the outcomes.

        Yields:
            An outcome for every envelope, in their order. After the connection was lost each
            further one has a `ConnectionClosedError`.

        What other code raises meanwhile (a signal handler, Ctrl-C) comes out of ``next`` as it is
        and ends the sending: the connection is closed and no further envelope is taken. The
        iterator goes on with the outcomes of those that were taken: so ``for`` over the same
        iterator again, or ``list`` of it, gives them. Each says what is true of its message, by
        the replies that had come: delivered, certainly not, or that it may have been.

        Raises:
            SmtpError: the connection could not be used at all; nothing was sent.
            TypeError: something that is no envelope and no message; nothing behind it is taken.
            Exception: what ``envelopes`` itself raised, after the outcomes of what it gave.
        """
        deadline = StreamDeadline(self._channel.timeout if timeout is None else timeout)
        source = _Source(
            envelopes, self._session, deadline, self._watch_source, self._channel.driver.mark_idle
        )
        exchange = pipelined.stream(self._session, source.requests())
        return _Outcomes(self._channel.stream(exchange, deadline, Phase.MAIL), source)

    def send_request(
        self,
        request: MailRequest,
        deadline: Deadline,
        *,
        chunking: bool = False,
        is_probed: bool = False,
    ) -> SendResult:
        """Send over SMTP what `make_request` has checked; for the pool, which may do it twice.

        Args:
            request, deadline: what to send, and by when.
            chunking: with BDAT.
            is_probed: whether `probe` has just found the connection good.
        """
        if request.content.is_stream:
            self._watch_source(request, deadline)
        exchange = transaction(self._session, request, chunking=chunking)
        return self._channel.operate(exchange, deadline, Phase.MAIL, is_probed=is_probed)

    def deliver_request(
        self,
        request: MailRequest,
        deadline: Deadline,
        *,
        chunking: bool = False,
        is_probed: bool = False,
    ) -> LmtpSendResult:
        """The same over LMTP."""
        if request.content.is_stream:
            self._watch_source(request, deadline)
        exchange = lmtp_transaction(self._session, request, chunking=chunking)
        return self._channel.operate(exchange, deadline, Phase.MAIL, is_probed=is_probed)

    def _watch_source(self, request: MailRequest, deadline: Deadline) -> None:
        """Have the deadline looked at between the blocks of a message that is a stream."""
        peer = self._channel.peer
        request.content.on_block = lambda: deadline.check(Phase.CONTENT, peer)


class _Taken:
    """An envelope that was taken and whose outcome nobody has yet."""

    __slots__ = ("envelope", "outcome", "request")

    def __init__(self, envelope: Envelope, request: MailRequest | SmtpError) -> None:
        self.envelope = envelope
        self.request = request
        self.outcome: AnyOutcome | None = None


class _Outcomes(Iterator[AnyOutcome]):
    """The outcomes of `Sending.send_many`, in order.

    An exception of other code may strike between any two steps here, and the next call goes on from
    what is noted: an envelope is forgotten in the moment in which its outcome is handed over.
    """

    def __init__(self, items: Generator[Outcome, None, None], source: _Source) -> None:
        self._items = items
        self._source = source
        self._cause: BaseException = GeneratorExit("it was closed")
        # None until the first outcome is asked for; then the messages are that process's.
        self._process: int | None = None

    def __next__(self) -> AnyOutcome:
        taken = self._source.taken
        oldest: _Taken | None = None
        if self._process is None:
            self._process = current_process()
        try:
            if not taken or (outcome := taken[0].outcome) is None:
                if (item := next(self._items, None)) is None:
                    item = self._at_the_end()
                outcome = taken[0].outcome = _outcome(taken[0].envelope, item)
            oldest = taken[0]
            del taken[0]
            return outcome
        except StopIteration:
            raise
        except BaseException as error:
            if self._process != current_process():
                # Nothing is known here: the parent goes on with them.
                taken.clear()
            elif oldest is not None and not (taken and taken[0] is oldest):
                taken.appendleft(oldest)
            self._cause = error
            self._items.close()
            raise

    def close(self) -> None:
        """Take no further envelope; closes the connection if the server was waiting for more."""
        self._items.close()

    def _at_the_end(self) -> Outcome:
        """What is true of the oldest message if the sending was broken off.

        Raises:
            StopIteration: all messages have their outcomes.
        """
        if taken := self._source.taken:
            return outcome_so_far(taken[0].request, self._cause)
        error, self._source.error = self._source.error, None
        raise StopIteration if error is None else error


def _outcome(envelope: Envelope, item: Outcome) -> AnyOutcome:
    if isinstance(item, SmtpError):
        return SendOutcome(envelope, None, item)
    return SendOutcome(envelope, item, None)


class _Source:
    """The envelopes on their way in, each checked as it is taken."""

    def __init__(
        self,
        envelopes: Iterable[Envelope | AnyMessage],
        session: SessionState,
        deadline: StreamDeadline,
        watch: Callable[[MailRequest, Deadline], None],
        mark_idle: Callable[[], None],
    ) -> None:
        self.taken: deque[_Taken] = deque()
        self.error: Exception | None = None
        self._envelopes = envelopes
        self._session = session
        self._deadline = deadline
        self._watch = watch
        self._mark_idle = mark_idle

    def requests(self) -> Iterator[MailRequest | SmtpError]:
        self._deadline.pause()
        try:
            for item in self._envelopes:
                check_item(item)
                envelope, request = self._request(item)
                if isinstance(request, MailRequest) and request.content.is_stream:
                    self._watch(request, self._deadline)
                self.taken.append(_Taken(envelope, request))
                self._deadline.go_on()
                self._mark_idle()
                yield request
                self._deadline.pause()
        except Exception as error:
            if is_of_signal_handler(error):
                raise
            # Whoever is under way is to end first.
            self.error = error
        self._deadline.go_on()

    def _request(self, item: Envelope | AnyMessage) -> tuple[Envelope, MailRequest | SmtpError]:
        envelope = item if isinstance(item, Envelope) else Envelope("", (), item)
        try:
            if not isinstance(item, Envelope):
                envelope = Envelope.from_message(item)
            request = request_of(_as_it_is_now(envelope))
            return envelope, request.for_server(self._session.capabilities)
        except SmtpError as error:
            if not is_own(error):
                raise
            return envelope, error


def _as_it_is_now(envelope: Envelope) -> Envelope:
    """With a copy of what may be filled anew for the next envelope, before this one has left."""
    message = envelope.message
    changes = isinstance(message, bytearray) or (
        isinstance(message, memoryview) and not isinstance(message.obj, bytes)
    )
    return replace(envelope, message=bytes(message)) if changes else envelope  # type: ignore[arg-type]
