"""`SmtpConnection.send_many`: envelopes are checked as they are taken, outcomes come in order.

`EnvelopeSource` reads the caller's envelopes and remembers each until its outcome was handed out.
`OutcomeIterator` is the iterator the caller gets. What is sent when is decided in
`smtpconn.protocol.pipelined`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import cast

from smtpconn.model.email_message import AnyMessage
from smtpconn.model.errors import SmtpError
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.results import AnyOutcome, Envelope, SendOutcome
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.forking import current_process
from smtpconn.protocol.mail_request import MailRequest, Outcome, check_item, request_of
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import outcome_so_far


class _Pending:
    """An envelope that was taken from the caller and whose outcome was not returned yet."""

    __slots__ = ("envelope", "outcome", "request")

    def __init__(self, envelope: Envelope, request: MailRequest | SmtpError) -> None:
        self.envelope = envelope
        self.request = request
        self.outcome: AnyOutcome | None = None


class EnvelopeSource:
    """The caller's envelopes, checked one by one as they are taken.

    Args:
        envelopes: the caller's iterable.
        session: whose extensions decide how a message is encoded.
        deadline: paused while the caller's iterable runs.
        watch: makes a request whose content is a stream check the deadline while it is read.
        mark_idle: called after each envelope, because the iterable may have taken long.

    Attributes:
        pending: envelopes that were taken and whose outcome was not handed out, oldest first.
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
        self.pending: deque[_Pending] = deque()
        self.error: Exception | None = None
        self._envelopes = envelopes
        self._session = session
        self._deadline = deadline
        self._watch = watch
        self._mark_idle = mark_idle

    def requests(self) -> Iterator[MailRequest | SmtpError]:
        """Yield a request for each envelope, or the error that forbids sending it."""
        self._deadline.pause()
        try:
            for item in self._envelopes:
                if not isinstance(item, Envelope):
                    check_item(item)
                envelope, request = self._request(item)
                if isinstance(request, MailRequest) and request.content.is_stream:
                    self._watch(request, self._deadline)
                self.pending.append(_Pending(envelope, request))
                self._deadline.resume()
                self._mark_idle()
                yield request
                self._deadline.pause()
        except Exception as error:
            if is_of_signal_handler(error):
                raise
            # The messages in flight are finished before the caller gets this error.
            self.error = error
        self._deadline.resume()

    def _request(self, item: Envelope | AnyMessage) -> tuple[Envelope, MailRequest | SmtpError]:
        envelope = item if isinstance(item, Envelope) else Envelope("", (), item)
        try:
            if not isinstance(item, Envelope):
                envelope = Envelope.from_message(item)
            is_buffer = isinstance(envelope.message, (bytearray, memoryview))
            request = request_of(_snapshot(envelope) if is_buffer else envelope)
            return envelope, request.for_server(self._session.capabilities)
        except SmtpError as error:
            if not is_own(error):
                raise
            return envelope, error


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
        oldest: _Pending | None = None
        if self._process is None:
            self._process = current_process()
        try:
            if not pending or pending[0].outcome is None or current_process() != self._process:
                items = next(self._items, None) or [self._at_the_end()]
                for each, item in zip(pending, items, strict=False):
                    if isinstance(item, SmtpError):
                        each.outcome = SendOutcome(each.envelope, None, item)
                    else:
                        each.outcome = SendOutcome(each.envelope, item, None)
            oldest = pending[0]
            del pending[0]
            return cast(AnyOutcome, oldest.outcome)
        except StopIteration:
            raise
        except BaseException as error:
            if self._process != current_process():
                # A forked child cannot know the outcomes: the parent continues with the messages.
                pending.clear()
            elif oldest is not None and not (pending and pending[0] is oldest):
                pending.appendleft(oldest)
            self._cause = error
            self._items.close()
            raise

    def close(self) -> None:
        """Take no more envelopes; closes the connection if the server awaits more of a message."""
        self._items.close()

    def _at_the_end(self) -> Outcome:
        """The outcome of the oldest message after sending was interrupted.

        Raises:
            StopIteration: all outcomes were handed out.
        """
        if pending := self._source.pending:
            return outcome_so_far(pending[0].request, self._cause)
        error, self._source.error = self._source.error, None
        raise StopIteration if error is None else error


def _snapshot(envelope: Envelope) -> Envelope:
    """Copy a message in a mutable buffer, which the caller may refill before it was sent."""
    message = envelope.message
    is_mutable = isinstance(message, bytearray) or (
        isinstance(message, memoryview) and not isinstance(message.obj, bytes)
    )
    return replace(envelope, message=bytes(message)) if is_mutable else envelope  # type: ignore[arg-type]
