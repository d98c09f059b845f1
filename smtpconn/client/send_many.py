"""`SmtpConnection.send_many`: envelopes are checked as they are taken, outcomes come in order.

`EnvelopeSource` reads the caller's envelopes and remembers each until its outcome was handed out.
`OutcomeIterator` is the iterator the caller gets. What is sent when is decided in
`smtpconn.protocol.pipelined`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import TypeAlias

from smtpconn.model.email_message import AnyMessage
from smtpconn.model.errors import SmtpError
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.results import AnyOutcome, Envelope, SendOutcome
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.forking import current_process
from smtpconn.protocol.mail_request import MailRequest, Outcome, check_item, request_of
from smtpconn.protocol.pipelined import Requests
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import outcome_so_far

BURST_BYTES = 32 * 1024
"""Bytes of content after which no more messages are taken together, if they may be written so."""

BURST_MESSAGES = 32
"""Messages that are taken together at most."""

Pending: TypeAlias = tuple[Envelope, MailRequest | SmtpError]


class EnvelopeSource:
    """The caller's envelopes, checked one by one as they are taken.

    Args:
        envelopes: the caller's iterable.
        session: whose extensions decide how a message is encoded.
        deadline: paused while the caller's iterable runs.
        watch: makes a request whose content is a stream check the deadline while it is read.
        mark_idle: called before requests are yielded, because the iterable may have taken long.

    Attributes:
        pending: envelopes that were taken and whose outcome was not handed out, oldest first: each
            with its request, or the outcome in the place of both.
        error: what the iterable raised; raised again after the last outcome.
    """

    def __init__(
        self,
        envelopes: Iterable[Envelope | AnyMessage],
        session: SessionState,
        deadline: StreamDeadline,
        watch: Callable[[MailRequest, Deadline], None],
        mark_idle: Callable[[], None],
    ) -> None:
        self.pending: deque[Pending | AnyOutcome] = deque()
        self.error: Exception | None = None
        self._envelopes = envelopes
        self._session = session
        self._deadline = deadline
        self._watch = watch
        self._mark_idle = mark_idle

    def requests(self) -> Iterator[Requests]:
        """Yield a request for each envelope, or the error that forbids sending it.

        They come in lists of one, or of several that may be written together.
        """
        requests: list[MailRequest | SmtpError] = []
        bytes_left = self._burst_size()
        self._deadline.pause()
        try:
            for item in self._envelopes:
                if isinstance(item, Envelope):
                    envelope, request = item, self._request(item)
                else:
                    check_item(item)
                    envelope, request = self._from_message(item)
                self.pending.append((envelope, request))
                requests.append(request)
                if isinstance(request, MailRequest):
                    if request.content.is_stream:
                        self._watch(request, self._deadline)
                    bytes_left -= request.content.whole_size or bytes_left
                    if bytes_left > 0 and len(requests) < BURST_MESSAGES:
                        continue
                self._deadline.resume()
                self._mark_idle()
                # Cleared first: what is raised after the yield must not yield them once more.
                burst, requests = requests, []
                yield burst
                bytes_left = self._burst_size()
                self._deadline.pause()
        except Exception as error:
            if is_of_signal_handler(error):
                raise
            # The messages in flight are finished before the caller gets this error.
            self.error = error
        self._deadline.resume()
        if requests:
            self._mark_idle()
            yield requests

    def _burst_size(self) -> int:
        """Bytes of messages that are taken together; 0 if each is taken alone."""
        return BURST_BYTES if self._session.may_send_bursts else 0

    def _request(self, envelope: Envelope) -> MailRequest | SmtpError:
        try:
            if isinstance(envelope.message, (bytearray, memoryview)):
                envelope = _snapshot(envelope)
            return request_of(envelope).for_server(self._session.capabilities)
        except SmtpError as error:
            if not is_own(error):
                raise
            return error

    def _from_message(self, message: AnyMessage) -> tuple[Envelope, MailRequest | SmtpError]:
        """The envelope of a message by its header fields, and the request for it."""
        try:
            envelope = Envelope.from_message(message)
        except SmtpError as error:
            if not is_own(error):
                raise
            return Envelope("", (), message), error
        return envelope, self._request(envelope)


class OutcomeIterator(Iterator[AnyOutcome]):
    """The outcomes of `SmtpConnection.send_many`, in the order of the envelopes.

    An exception of other code, such as KeyboardInterrupt, may be raised between any two steps of
    ``__next__``. The next call resumes from `EnvelopeSource.pending`: an envelope is removed there
    in the same step that hands out its outcome.
    """

    def __init__(self, items: Generator[list[Outcome], None, None], source: EnvelopeSource) -> None:
        self._items = items
        self._source = source
        self._cause: BaseException = GeneratorExit("it was closed")
        # The process that asked for the first outcome; the messages belong to it.
        self._process: int | None = None

    def __next__(self) -> AnyOutcome:
        pending = self._source.pending
        oldest: Pending | AnyOutcome | None = None
        try:
            if (
                not pending
                or not isinstance(pending[0], SendOutcome)
                or current_process() != self._process
            ):
                self._add_outcomes()
            oldest = pending[0]
            del pending[0]
            return oldest  # type: ignore[return-value]  # not cast(): that would be a call
        except StopIteration:
            raise
        except BaseException as error:
            if self._process not in (None, current_process()):
                # A forked child cannot know the outcomes: the parent continues with the messages.
                pending.clear()
            elif oldest is not None and not (pending and pending[0] is oldest):
                pending.appendleft(oldest)
            self._cause = error
            self._items.close()
            raise

    def _add_outcomes(self) -> None:
        """Wait for the next outcomes, and put them in the place of their envelopes."""
        if self._process is None:
            self._process = current_process()
        pending, items = self._source.pending, next(self._items, None)
        for number, item in enumerate(items or self._at_the_end()):
            entry = pending[number]
            assert isinstance(entry, tuple)
            envelope = entry[0]
            if isinstance(item, SmtpError):
                pending[number] = SendOutcome(envelope, None, item)
            else:
                pending[number] = SendOutcome(envelope, item, None)

    def close(self) -> None:
        """Take no more envelopes; closes the connection if the server awaits more of a message."""
        self._items.close()

    def _at_the_end(self) -> list[Outcome]:
        """The outcome of the oldest message after sending has ended, if it is not known yet.

        Raises:
            StopIteration: all outcomes were handed out.
        """
        if pending := self._source.pending:
            oldest = pending[0]
            return [outcome_so_far(oldest[1], self._cause)] if isinstance(oldest, tuple) else []
        error, self._source.error = self._source.error, None
        raise StopIteration if error is None else error


def _snapshot(envelope: Envelope) -> Envelope:
    """Copy a message in a mutable buffer, which the caller may refill before it was sent."""
    message = envelope.message
    is_mutable = isinstance(message, bytearray) or (
        isinstance(message, memoryview) and not isinstance(message.obj, bytes)
    )
    return replace(envelope, message=bytes(message)) if is_mutable else envelope  # type: ignore[arg-type]
