"""The workers of `ConnectionPool.send_many`: they stream messages over borrowed connections.

With one lease of a connection a worker sends a message and those that are ready after it.

Rule 1: no worker holds a connection while it waits for a message, for ``max_rate`` or for the
        input. A lease ends when no message is ready, when ``max_rate`` does not allow the next
        message yet, when the connection has reached ``max_messages`` or ``max_lifetime``, and when
        a caller outside the batch waits for a connection.
Rule 2: after a connection was lost, messages that were not begun are sent over another one. The
        message in flight is sent once more if `ConnectionPool.send` would do so: the connection had
        been used before, and was lost, or closed with 421, before the content was begun. Every
        other outcome is final: a message that may have been delivered is never sent again.
Rule 3: a worker that gets no connection waits while other workers of its run have one. If none has
        one, the error is the outcome of the worker's message. If the error is that too many callers
        wait (``max_waiting``), the worker first retries until the message's deadline.
Rule 4: an exception of other code (`smtpconn.model.origin`) ends the run. It is raised after the
        outcomes of all messages that the worker has taken.
"""

from __future__ import annotations

import contextvars
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import cast

from smtpconn.client.config import ServerConfig
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.email_message import AnyMessage, is_message
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    PoolClosedError,
    PoolOverloadedError,
    SmtpError,
    TransportError,
)
from smtpconn.model.origin import is_own
from smtpconn.model.response_errors import ResponseError, TransientError
from smtpconn.model.results import AnyOutcome, Envelope, SendOutcome
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.forking import reset_if_forked
from smtpconn.pool.bulk import Job, Run
from smtpconn.pool.core import PoolCore, recipient_counts
from smtpconn.pool.events import NO_EVENTS, Action, OperationEvents
from smtpconn.pool.lease import Lease
from smtpconn.pool.pool_log import log
from smtpconn.pool.rate_limit import RateLimiter
from smtpconn.protocol import pipelined
from smtpconn.protocol.mail_request import (
    MailRequest,
    MessageRequest,
    Outcome,
    check_item,
    request_of,
)
from smtpconn.protocol.transaction import never_begun, outcome_so_far

RETRY_AFTER = 1.0
"""Seconds after which a worker that got no connection tries again."""

MAX_OUTCOMES_TOGETHER = 32
"""The maximum number of outcomes that a worker passes to the caller at once."""

UNKNOWN_SIZE = 64 * 1024
"""The size in bytes that is assumed for a message in a file, an iterable or the email package."""

_BEFORE_CONTENT = frozenset({Phase.IDLE, Phase.RSET, Phase.MAIL, Phase.RCPT, Phase.DATA})


class MailJob(Job[AnyOutcome]):
    """One envelope, and how far its sending is.

    Attributes:
        envelope: the envelope as the caller gave it.
        request: the request made from it; an error if it cannot be sent; None until it is made.
        events: the events of the message, for the hook.
        has_begun: whether these events have begun.
        needs_rate: whether ``max_rate`` has not allowed the message yet.
        is_retry: whether the message is sent for the second time.
        limit_refusal: the refusal that led to this retry, which may be due to a session limit.
    """

    __slots__ = (
        "_context",
        "envelope",
        "events",
        "has_begun",
        "is_retry",
        "limit_refusal",
        "needs_rate",
        "request",
    )

    def __init__(
        self, envelope: Envelope, request: MailRequest | MessageRequest | SmtpError | None
    ) -> None:
        message = envelope.message
        is_in_memory = isinstance(message, (bytes, bytearray, memoryview))
        super().__init__(len(message) if is_in_memory else UNKNOWN_SIZE)  # type: ignore[arg-type]
        self.envelope = envelope
        self.request = request
        self.events: OperationEvents = NO_EVENTS
        self.has_begun = False
        self.needs_rate = True
        self.is_retry = False
        self.limit_refusal: ResponseError | None = None
        self._context: contextvars.Context | None = None

    def never_begun(self) -> AnyOutcome:
        if isinstance(self.request, SmtpError):
            return SendOutcome(self.envelope, None, self.request)
        return SendOutcome(self.envelope, None, never_begun("sending was stopped"))

    def begin(self, events: OperationEvents, context: contextvars.Context) -> None:
        """Report the beginning to the hook, which runs in a copy of the caller's context."""
        self.has_begun = True
        if events is not NO_EVENTS:
            self.events, self._context = events, context.copy()
            self._context.run(events.begin)

    @property
    def has_hook(self) -> bool:
        """Whether a hook gets the events of the message."""
        return self._context is not None

    def set_server(self, server: ServerConfig) -> None:
        """Report the server to the hook."""
        if self._context is not None:
            self._context.run(self.events.set_server, server)

    def report(self, outcome: Outcome) -> None:
        """Report the outcome to the hook."""
        if self._context is None:
            return
        if isinstance(outcome, SmtpError):
            self._context.run(self.events.failed, outcome)
        else:
            self._context.run(self.events.done, *recipient_counts(outcome))


def mail_jobs(items: Iterable[Envelope | AnyMessage]) -> Iterator[MailJob]:
    """Make a job for each item, one at a time.

    A message of the email package, or in a buffer, is copied here, not when it is sent: the caller
    may change it for the next recipient as soon as the next item is requested.

    Raises:
        TypeError: something that is no envelope and no message.
    """
    for item in items:
        check_item(item)
        envelope = item if isinstance(item, Envelope) else Envelope("", (), item)
        request: MailRequest | MessageRequest | SmtpError | None = None
        message = envelope.message
        is_buffer = isinstance(message, (bytearray, memoryview))
        if is_buffer or is_message(message):
            try:
                if not isinstance(item, Envelope):
                    envelope = Envelope.from_message(item)
                request = request_of(_with_bytes(envelope) if is_buffer else envelope)
            except SmtpError as error:
                if not is_own(error):
                    raise
                request = error
        yield MailJob(envelope, request)


def _with_bytes(envelope: Envelope) -> Envelope:
    return replace(envelope, message=bytes(cast("bytearray | memoryview", envelope.message)))


class BulkSender:
    """Sends the messages of one run.

    Args:
        core: the pool.
        configs: the servers of the pool.
        rate_limiter: the rate limiter of the pool, if it has one.
        timeout: seconds for each message, from when ``max_rate`` allows it.
        acquire_timeout: how many of these seconds may be spent waiting for a connection; None for
            all of them.
    """

    def __init__(
        self,
        core: PoolCore,
        configs: Sequence[ServerConfig],
        rate_limiter: RateLimiter | None,
        timeout: float,
        acquire_timeout: float | None,
    ) -> None:
        self.core = core
        self.configs = configs
        self.rate_limiter = rate_limiter
        self.timeout = timeout
        self.acquire_timeout = acquire_timeout
        # The workers that have a connection.
        self.holders: set[_Worker] = set()
        # Held by the worker that waits for ``max_rate``.
        self.rate_lock = threading.Lock()

    def send(self, job: MailJob, run: Run[MailJob]) -> None:
        """Send a message and those that are ready after it; each gets its outcome."""
        _Worker(self, run, job).send()


class _Worker:
    """One worker: it holds the messages that it has taken and that have no outcome yet."""

    def __init__(self, sender: BulkSender, run: Run[MailJob], job: MailJob) -> None:
        self._sender = sender
        self._core = sender.core
        self._run = run
        # Each with the oldest first: jobs not yet given to a connection, jobs given to one, and
        # jobs that must be given to another one.
        self._waiting = deque([job])
        self._in_flight: deque[MailJob] = deque()
        self._requeued: deque[MailJob] = deque()
        # The deadlines of the first waiting job, if the pool has refused it a connection before.
        self._deadlines: tuple[Deadline, Deadline] | None = None
        # Jobs that are done and not passed on yet.
        self._done: list[MailJob] = []
        # The state of the current stream: whether a message may be sent once more, because the
        # connection had been used before; whether the connection is lost; whether the stream has
        # no more messages; its first message; the error because of which one is sent once more.
        self._may_retry = self._is_lost = False
        self._is_at_end = False
        self._first: MailJob | None = None
        self._retry_cause: SmtpError | None = None

    def send(self) -> None:
        """Send the waiting messages, and those that may follow on the same connections."""
        try:
            while self._waiting and not self._run.is_over:
                self._send_first()
        except BaseException as error:
            reset_if_forked()
            for job in [*self._in_flight, *self._requeued, *self._waiting]:
                self._settle(job, outcome_so_far(job.request, error))
            raise
        # The run is over: no further message is begun.
        for job in self._waiting:
            invalid = job.request if isinstance(job.request, SmtpError) else None
            self._settle(job, invalid or never_begun("sending was stopped"))

    def _send_first(self) -> None:
        """Send the first waiting message, and those that may follow on its connection."""
        job = self._waiting[0]
        lease: Lease | None = None
        try:
            self._make_request(job)
            if isinstance(job.request, SmtpError):
                self._settle(self._waiting.popleft(), job.request)
                return
            if not self._wait_for_rate(job):
                return
            deadline, within = self._deadlines or self._new_deadlines()
            self._deadlines = None
            lease = Lease(self._core, within, self._run)
            with lease as connection:
                self._sender.holders.add(self)
                try:
                    self._stream_with_retry(lease, connection, deadline)
                finally:
                    self._sender.holders.discard(self)
        except SmtpError as error:
            if not is_own(error) or self._in_flight or not self._waiting:
                raise
            may_wait = lease is not None and not isinstance(error, PoolClosedError)
            if may_wait and self._sender.holders:
                self._run.sleep(RETRY_AFTER)
            elif isinstance(error, PoolOverloadedError) and (seconds := within.remaining()):
                # The pool refused a place in its queue (``max_waiting``) at once, but the message
                # has time left (rule 3).
                self._deadlines = deadline, within
                self._run.sleep(min(RETRY_AFTER, seconds))
            else:
                self._settle(self._waiting.popleft(), error)

    # Before a message is sent.

    def _new_deadlines(self) -> tuple[Deadline, Deadline]:
        """The deadline of a message, and that of its wait for a connection."""
        deadline, acquire_timeout = Deadline(self._sender.timeout), self._sender.acquire_timeout
        return deadline, deadline if acquire_timeout is None else deadline.at_most(acquire_timeout)

    def _make_request(self, job: MailJob) -> None:
        """Make the request of a message, or store the error that prevents it."""
        if job.request is None:
            try:
                job.request = request_of(job.envelope)
            except SmtpError as error:
                if not is_own(error):
                    raise
                job.request = error

    def _wait_for_rate(self, job: MailJob) -> bool:
        """Begin a message and wait until ``max_rate`` allows it; False if the run ended first.

        The wait has no limit. One worker waits at a time, so that a run reserves one slot and not
        one for each worker: other callers of the pool would wait for all of them.
        """
        if not job.has_begun:
            self._begin(job)
        if job.needs_rate and (limiter := self._sender.rate_limiter) is not None:
            with self._sender.rate_lock:
                if self._run.is_over:
                    return False
                # A closed pool fails the message anyway, so it need not wait.
                if not self._core.is_closed:
                    seconds = limiter.reserve(time.monotonic(), math.inf)
                    if seconds and not self._run.sleep(seconds):
                        return False
        job.needs_rate = False
        return True

    def _rate_allows_now(self) -> bool:
        """Reserve a slot of ``max_rate`` if one is free now; False if none is."""
        limiter = self._sender.rate_limiter
        return limiter is None or limiter.reserve(time.monotonic(), 0.0) is not None

    def _begin(self, job: MailJob) -> None:
        configs = self._sender.configs
        # With several servers the connection decides which one the message goes to.
        server = configs[0] if len(configs) == 1 else None
        job.begin(self._core.events.operation(Action.SEND, server), self._run.context)

    # On a connection.

    def _stream_with_retry(
        self, lease: Lease, connection: SmtpConnection, deadline: Deadline
    ) -> None:
        """Stream over a borrowed connection, and over another one if it turns out to be dead."""
        self._may_retry, first = lease.was_reused, self._waiting[0]
        while not self._run.is_over:
            self._stream(lease, connection, StreamDeadline(self._sender.timeout, deadline))
            if self._retry_cause is None or self._run.is_over:
                return
            if self._waiting[0] is not first:
                deadline = Deadline(self._sender.timeout)
            if not self._wait_to_retry(self._waiting[0], deadline):
                return
            word = "dead" if self._waiting[0].limit_refusal is None else "at its limit"
            text = "%s: a reused connection was %s (%s): retrying over another one"
            log(logging.INFO, text, self._core.name, word, str(self._retry_cause))
            self._core.count(retries=1)
            connection, self._may_retry = lease.renew(deadline), False

    def _wait_to_retry(self, job: MailJob, deadline: Deadline) -> bool:
        """Wait until ``max_rate`` allows a retry; False if the deadline or the end is earlier."""
        try:
            if job.needs_rate and (limiter := self._sender.rate_limiter) is not None:
                seconds = limiter.reserve_within(deadline)
                if seconds and not self._run.sleep(seconds):
                    return False
            job.needs_rate = False
            deadline.check(Phase.POOL, str(self._sender.configs[0]))
            return True
        except SmtpError as error:
            if not is_own(error):
                raise
            self._settle(self._waiting.popleft(), job.limit_refusal or error)
            return False

    def _stream(self, lease: Lease, connection: SmtpConnection, deadline: StreamDeadline) -> None:
        self._first = self._retry_cause = None
        self._is_lost = self._is_at_end = False
        try:
            requests = self._requests(lease, connection, deadline)
            with closing(_stream_over(connection, requests, deadline)) as known:
                for outcomes in known:
                    for outcome in outcomes:
                        self._conclude(self._in_flight.popleft(), outcome, connection)
        except SmtpError as error:
            if not is_own(error) or self._first is not None:
                raise
            # The connection failed before the first message was begun.
            if not self._is_retried(self._waiting[0], error):
                raise
        finally:
            self._pass_on()
            while self._requeued:
                self._waiting.appendleft(self._requeued.pop())

    def _requests(
        self, lease: Lease, connection: SmtpConnection, deadline: StreamDeadline
    ) -> Iterator[pipelined.Requests]:
        """The requests of the stream, each made for the server of the connection."""
        server = self._sender.configs[lease.server]
        while (job := self._next_job(lease, connection, deadline)) is not None:
            job.set_server(server)
            yield [self._request_for(job, connection, deadline)]
        self._is_at_end = True

    def _next_job(
        self, lease: Lease, connection: SmtpConnection, deadline: StreamDeadline
    ) -> MailJob | None:
        """Put the next message of the stream in flight; None if the stream ends here."""
        if self._done:
            self._pass_on()
        is_first = self._first is None
        if not is_first and (self._is_lost or not connection.is_open or not lease.may_follow):
            return None
        if self._run.is_over:
            return None
        if not self._waiting:
            if (job := self._run.take_ready()) is None:
                return None
            self._waiting.append(job)
        job = self._waiting[0]
        if job.request is None:
            # This may read the message from a file or iterable of the caller, whose time does not
            # count.
            deadline.pause()
            self._make_request(job)
            deadline.resume()
        if not isinstance(job.request, SmtpError):
            if job.needs_rate and not self._rate_allows_now():
                return None
            job.needs_rate = False
            if not job.has_begun:
                self._begin(job)
        if is_first:
            self._first = job
        self._in_flight.append(self._waiting.popleft())
        return job

    def _request_for(
        self, job: MailJob, connection: SmtpConnection, deadline: Deadline
    ) -> MailRequest | SmtpError:
        request = job.request
        assert request is not None
        if isinstance(request, SmtpError):
            return request
        # Drop the state of an attempt on a lost connection.
        if isinstance(request, MessageRequest):
            request.made = None
        else:
            request.attempt = None
        try:
            made = request.for_server(connection.capabilities)
        except SmtpError as error:
            if not is_own(error):
                raise
            return error
        if made.content.is_stream:
            # The deadline is checked between the blocks of the content.
            peer = connection._channel.peer
            made.content.on_block = lambda: deadline.check(Phase.CONTENT, peer)
        return made

    def _conclude(self, job: MailJob, outcome: Outcome, connection: SmtpConnection) -> None:
        """Store the outcome of a message, or requeue it for another connection."""
        if isinstance(outcome, SmtpError):
            # Not the first message: a stream that settles or retries none makes no progress.
            if outcome.never_begun and job is not self._first:
                self._is_lost = True
                self._requeued.append(job)
                return
            if self._is_retried(job, outcome) or self._may_be_session_limit(
                job, outcome, connection
            ):
                self._requeued.append(job)
                return
        self._may_retry = self._may_retry or connection.is_open
        self._note(job, outcome)
        if self._is_at_end or len(self._done) >= MAX_OUTCOMES_TOGETHER:
            self._pass_on()

    def _is_retried(self, job: MailJob, error: SmtpError) -> bool:
        """Whether the message is sent once more because its connection was lost (rule 2)."""
        if not self._may_retry or job.is_retry or not is_stale(error):
            return False
        job.is_retry, self._is_lost, self._retry_cause = True, True, error
        return True

    def _may_be_session_limit(
        self, job: MailJob, error: SmtpError, connection: SmtpConnection
    ) -> bool:
        """Whether a refusal may be due to a session limit, so that the message is retried."""
        if job.limit_refusal is not None and isinstance(error, ResponseError):
            note_if_refused_again(connection, job.limit_refusal, error)
        if not self._may_retry or job.is_retry:
            return False
        if (refused_first := refused_at_limit(connection, error)) is None:
            return False
        job.is_retry = job.needs_rate = self._is_lost = True
        job.limit_refusal = self._retry_cause = refused_first
        return True

    # After a message is done.

    def _settle(self, job: MailJob, outcome: Outcome) -> None:
        """Store the outcome of a message, and pass it to the caller."""
        self._note(job, outcome)
        self._pass_on()

    def _note(self, job: MailJob, outcome: Outcome) -> None:
        """Store the outcome of a message; with a hook, pass it on at once."""
        if isinstance(outcome, SmtpError):
            job.outcome = SendOutcome(job.envelope, None, outcome)
        else:
            job.outcome = SendOutcome(job.envelope, outcome, None)
        self._done.append(job)
        if job.has_hook:
            self._pass_on()

    def _pass_on(self) -> None:
        """Count the messages that are done, report them to the hook and pass them to the caller."""
        done, self._done = self._done, []
        if not done:
            return
        try:
            # An invalid message that was never begun does not count as failed.
            count_messages(self._core, [outcome_of(job) for job in done if job.has_begun])
            for job in done:
                job.report(outcome_of(job))
        finally:
            self._run.settle(*done)


def outcome_of(job: MailJob) -> Outcome:
    """The outcome of a message that is done, without its envelope."""
    assert job.outcome is not None
    outcome: Outcome | None = job.outcome.result or job.outcome.error
    assert outcome is not None
    return outcome


def _stream_over(
    connection: SmtpConnection,
    requests: Iterator[pipelined.Requests],
    deadline: StreamDeadline,
) -> Generator[list[Outcome], None, None]:
    exchange = pipelined.stream(connection._session, requests)
    return connection._channel.stream(exchange, deadline, Phase.MAIL)


def count_messages(core: PoolCore, outcomes: Sequence[Outcome]) -> None:
    """Count messages in the statistics of the pool."""
    messages = accepted = rejected = failed = unknown = 0
    for outcome in outcomes:
        if isinstance(outcome, SmtpError):
            failed += 1
            unknown += outcome.may_have_been_delivered
        else:
            counts = recipient_counts(outcome)
            messages += 1
            accepted += counts[0]
            rejected += counts[1]
    if messages:
        core.count(messages=messages, accepted_recipients=accepted, rejected_recipients=rejected)
    if failed:
        core.count(failed_messages=failed, unknown_messages=unknown)


def is_stale(error: SmtpError) -> bool:
    """Whether an error only shows that a connection became unusable since its last use."""
    return (
        isinstance(error, (ConnectionClosedError, TransportError, TransientError))
        and (not isinstance(error, TransientError) or error.response.code == 421)
        and error.phase in _BEFORE_CONTENT
        and not error.may_have_been_delivered
    )


def refused_at_limit(connection: SmtpConnection, error: SmtpError) -> ResponseError | None:
    """Return the error if it is a refusal that may be due to a session limit, else None.

    See `smtpconn.protocol.quirks.SESSION_LIMIT`.
    """
    if not isinstance(error, ResponseError) or error.may_have_been_delivered:
        return None
    now = time.monotonic()
    is_worth_it = connection._quirks.is_worth_reconnecting(error.phase, error.response, now)
    return error if is_worth_it else None


def note_if_refused_again(
    connection: SmtpConnection, refused_first: ResponseError, error: ResponseError
) -> None:
    """Note that a retry got the same kind of refusal, if so: it is not due to a session limit.

    Args:
        connection: the new connection.
        refused_first: the refusal on the connection that had been used before.
        error: the refusal on the new connection.
    """
    if refused_first.phase is not error.phase:
        return
    now, quirks = time.monotonic(), connection._quirks
    if refused_first.response.code == error.response.code or quirks.is_worth_reconnecting(
        error.phase, error.response, now
    ):
        quirks.note_refused_again(refused_first.phase, refused_first.response, now)
        quirks.note_refused_again(error.phase, error.response, now)
