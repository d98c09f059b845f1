"""`ConnectionPool`: connections that are made once and used many times, by any thread.

This file has the public class, and decides whether `ConnectionPool.send` may send a message again.
`smtpconn.pool.state` decides which caller gets which connection, `smtpconn.pool.core` carries that
out, and a `smtpconn.pool.lease.Lease` is the caller's hold on the connection.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import NoReturn, Unpack

from smtpconn.client.config import ServerConfig, ServerSettings
from smtpconn.model.addresses import ReversePath
from smtpconn.model.content import Message
from smtpconn.model.email_message import AnyMessage
from smtpconn.model.errors import (
    Phase,
    PoolTimeoutError,
    SmtpError,
    ValidationError,
)
from smtpconn.model.modes import Pipelining
from smtpconn.model.origin import is_own
from smtpconn.model.parameters import MailFromParams, RcptToParams
from smtpconn.model.replies import printable
from smtpconn.model.response_errors import ResponseError
from smtpconn.model.results import (
    AnyOutcome,
    Envelope,
    Recipients,
    SendResult,
)
from smtpconn.model.secret import Secret
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_if_forked
from smtpconn.pool.bulk import JobLimit, Outcomes
from smtpconn.pool.bulk_sender import (
    BulkSender,
    count_messages,
    is_stale,
    mail_jobs,
    note_if_refused_again,
    refused_at_limit,
)
from smtpconn.pool.core import PoolCore, recipient_counts
from smtpconn.pool.events import Action, EventHook, OperationEvents
from smtpconn.pool.lease import Lease
from smtpconn.pool.options import PoolKeywords, PoolOptions, check_count, check_other_options
from smtpconn.pool.rate_limit import RateLimiter
from smtpconn.pool.stats import PoolStats
from smtpconn.protocol.mail_request import (
    MailRequest,
    MessageRequest,
    check_items,
    make_message_request,
    make_request,
)
from smtpconn.protocol.transaction import outcome_so_far

MESSAGES_AHEAD, MESSAGES_AHEAD_EAGER = 4, 512
"""The number of messages per connection that `ConnectionPool.send_many` takes from its input before
their outcomes are taken; the second one with `Pipelining.EAGER`."""

BYTES_AHEAD = 512 * 1024
"""The size in bytes that these messages may have together, if they are more than two."""

_log = logging.getLogger("smtpconn.pool")
_numbers = itertools.count(1)


class ConnectionPool:
    """A pool of connections to one server, or to the first healthy one of several.

    Args:
        config: a `ServerConfig`, or a URL as `ServerConfig.from_url` takes it; or a sequence of
            them, of which the first healthy one is used.
        max_size: the maximum number of connections, in use and idle together. A hard limit.
        acquire_timeout: seconds a caller waits for a connection by default; None for as long as
            its operation may take, which for `connection` is the configuration's timeout.
        max_waiting: callers that may wait; one more gets `PoolOverloadedError` at once. None for
            no limit.
        max_idle: seconds after which an unused connection is closed.
        max_lifetime: seconds after which a connection is closed when it is returned.
        max_messages: messages after which a connection is closed when it is returned.
        keepalive: seconds of silence after which an idle connection gets a NOOP (RFC 5321
            4.1.1.9), at most 8 times in its life; None for no NOOPs and no background thread.
        max_connecting: the maximum number of connections made at the same time.
        max_rate: messages per second that `send`, `send_message` and `send_many` send together;
            None for no limit.
        burst: how many messages may be sent at once after a pause.
        leak_after: seconds after which a lease is reported in the log with the stack of its
            checkout; None for no report. Recording a stack costs some microseconds per checkout.
        on_event: called with a `PoolEvent` for each operation that begins, ends or fails.
        name: for logs, events and statistics; None for a numbered one, such as ``pool-1``.
        options: attributes of `ServerConfig`, such as ``credentials``, for each server.

    A pool may be used by any thread, and in a forked child. There it begins without connections,
    and the connections of the parent are not affected.

    Raises:
        ValidationError: an invalid limit, no server, or an unknown option.
    """

    def __init__(
        self,
        config: ServerConfig | str | Sequence[ServerConfig | str],
        *,
        max_size: int = 5,
        acquire_timeout: float | None = None,
        max_waiting: int | None = None,
        max_idle: float = 60.0,
        max_lifetime: float = 900.0,
        max_messages: int = 100,
        keepalive: float | None = 20.0,
        max_connecting: int = 2,
        max_rate: float | None = None,
        burst: int = 1,
        leak_after: float | None = None,
        on_event: EventHook | None = None,
        name: str | None = None,
        **options: Unpack[ServerSettings],
    ) -> None:
        given = with_secret_urls(config)
        del config
        configs = make_configs(given, options)
        self._configs = configs
        # None if there are several: then the connection decides the server of a message.
        self._only_server = configs[0] if len(configs) == 1 else None
        self._acquire_timeout = acquire_timeout
        limits = PoolOptions(
            max_size=max_size,
            acquire_timeout=acquire_timeout,
            max_waiting=max_waiting,
            max_idle=max_idle,
            max_lifetime=max_lifetime,
            max_messages=max_messages,
            keepalive=keepalive,
            max_connecting=max_connecting,
            leak_after=leak_after,
        )
        check_other_options(burst, on_event, name)
        self._rate_limiter = RateLimiter(max_rate, burst) if max_rate is not None else None
        self.name = name if name is not None else f"pool-{next(_numbers)}"
        self._core = PoolCore(configs, limits, self.name, on_event)

    @property
    def config(self) -> ServerConfig:
        """The server this pool prefers."""
        return self._configs[0]

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._core.is_closed

    def connection(self, timeout: float | None = None) -> Lease:
        """Borrow a connection: ``with pool.connection() as c:`` binds it to ``c``.

        The connection is checked out, and errors are raised, when the block is entered.

        Args:
            timeout: seconds to wait for a connection, which includes making one; None for
                ``acquire_timeout``, or else the configuration's timeout.

        Raises:
            PoolTimeoutError: no connection became free in time; the text has the number in use.
            PoolOverloadedError: ``max_waiting`` callers wait already; or a signal handler or a
                destructor calls while its own thread is inside the pool, and the pool is full.
            PoolClosedError: the pool is closed.
            SmtpError: a new connection could not be made; the class of the error says why.
        """
        if timeout is None:
            seconds = self._acquire_timeout
            return Lease(self._core, self.config.timeout if seconds is None else seconds)
        return Lease(self._core, Deadline(timeout).timeout)

    def send(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        mail_params: MailFromParams | None = None,
        rcpt_params: Sequence[RcptToParams] | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message over a connection of the pool; arguments as `SmtpConnection.send`.

        If a connection that was used before turns out to be dead, or its server replies 421,
        before the content was begun, the message is sent once more over another connection, which
        is new or was returned since. The same happens after some refusals of MAIL or DATA that may
        be due to a limit on the session (docs/protocol.md). In no other case is anything sent
        twice. An exception of other code (a signal handler, Ctrl-C) is raised unchanged; the
        message may or may not have been delivered then. With LMTP the result is an
        `LmtpSendResult`.

        Args:
            timeout: seconds for the whole call, waiting for a connection included; None for the
                configuration's timeout, of which ``acquire_timeout`` may be spent waiting.

        Raises:
            SmtpError: as `connection` and `SmtpConnection.send_with_all_params`.
        """
        deadline = Deadline(self._configs[0].timeout if timeout is None else timeout)
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self._send(request, deadline)

    def send_message(
        self,
        message: AnyMessage,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        *,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message of the email package; arguments as `SmtpConnection.send_message`.

        Retries, ``timeout`` and errors are as for `send`. A Date and a Message-ID that are added
        stay the same at every attempt.
        """
        deadline = Deadline(self.config.timeout if timeout is None else timeout)
        return self._send(make_message_request(message, sender, recipients), deadline)

    def _send(self, request: MailRequest | MessageRequest, deadline: Deadline) -> SendResult:
        core = self._core
        events = core.events.operation(Action.SEND, self._only_server) if core.has_hook else None
        try:
            if events is not None:
                events.begin()
            if self._rate_limiter is not None:
                self._rate_limiter.wait(deadline)
            result = self._send_with_retry(request, deadline, events)
        except BaseException as error:
            reset_if_forked()
            # An exception of other code does not say whether the message was delivered; the state
            # of the transaction does.
            if isinstance(error, SmtpError) and is_own(error):
                count_messages(core, [error])
            else:
                count_messages(core, [outcome_so_far(request, error)])
            if events is not None:
                events.failed(error)
            raise
        core.count_sent(result)
        if events is not None:
            events.done(*recipient_counts(result))
        return result

    def send_many(
        self, envelopes: Iterable[Envelope | AnyMessage], *, timeout: float | None = None
    ) -> Outcomes[AnyOutcome]:
        """Send many messages over all connections of the pool, and continue after failures.

        Each connection streams as `SmtpConnection.send_many` does: with PIPELINING one round trip
        per message (RFC 2920 3.1), with `Pipelining.EAGER` and CHUNKING far fewer. A separate
        thread takes a limited number of envelopes ahead of the outcomes, so that memory stays
        bounded. Messages are sent once more in the cases of `send`, and in no other. All threads
        run with the context variables of the caller. Other callers of the pool are served within
        the time of one message.

        Args:
            envelopes: envelopes or messages of the email package; may be a generator.
            timeout: seconds for each message, as in `send`, from when ``max_rate`` allows it.

        Yields:
            An outcome per envelope, as soon as it is known; not in the order of the envelopes.

        Raises:
            TypeError: an item is no envelope and no message; no item after it is taken.
            BaseException: an exception of ``envelopes``, or of other code in one of the threads (a
                logging filter, a hook). It is raised after the outcomes of all messages that were
                taken; the outcome of the message in flight then says what is known of it.

        A message that was not begun when its connection was lost is sent over another one. A
        message that gets no connection waits as long as other messages of this call have one.

        Several threads may take outcomes. If an exception (Ctrl-C, or one of a signal handler)
        interrupts one of them, no outcome is lost: the next call of ``next`` continues. After
        `Outcomes.stop` no message is begun. Messages in flight are finished, and ``next`` yields
        their outcomes, and then those of messages that were taken and not begun, whose errors have
        ``never_begun``. `Outcomes.close` stops too, waits, and returns the outcomes not yet taken.
        At the end of the process, messages in flight are finished, too.
        """
        check_items(envelopes)
        workers = self.stats().max_size
        is_eager = any(config.pipelining is Pipelining.EAGER for config in self._configs)
        sender = BulkSender(
            self._core,
            self._configs,
            self._rate_limiter,
            Deadline(self.config.timeout if timeout is None else timeout).timeout,
            self._acquire_timeout,
        )
        ahead = MESSAGES_AHEAD_EAGER if is_eager else MESSAGES_AHEAD
        limit = JobLimit(ahead * workers, BYTES_AHEAD * workers)
        return Outcomes(sender.send, mail_jobs(envelopes), workers, limit)

    def warm(self, count: int) -> None:
        """Make connections in advance, until there are ``count`` (at most ``max_size``).

        They are made one after the other, and callers can use each one as soon as it is made.

        Raises:
            ValidationError: ``count`` is no int, or negative.
            SmtpError: as `connection`.
        """
        check_count("count", count, 0)
        seconds = self._acquire_timeout
        self._core.warm(count, self.config.timeout if seconds is None else seconds)

    def drain(self) -> None:
        """Close every connection: idle ones now, those in use when they are returned.

        Later callers get new connections.
        """
        self._core.drain()

    def leaks(self) -> list[tuple[float, str]]:
        """The leases older than ``leak_after``: age in seconds, and the stack of the checkout."""
        return self._core.leaks()

    def stats(self) -> PoolStats:
        """A snapshot of the pool's statistics."""
        return self._core.stats()

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: refuse new and waiting callers, send QUIT, and wait for leases.

        Args:
            timeout: seconds to wait for connections in use; those that are not returned in time
                are closed when they are returned. 0 does not wait.

        Raises:
            ValidationError: ``timeout`` is no number of seconds from 0; the pool stays open.
        """
        if timeout != 0:
            Deadline(timeout)  # raises the error
        self._core.close(timeout)

    def __enter__(self) -> ConnectionPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ConnectionPool is neither pickled nor copied, it holds sockets and locks: make one "
            "in each process, with get_pool for instance"
        )

    def __repr__(self) -> str:
        if not hasattr(self, "_core"):
            # A report of an error in the constructor may show the repr of this object.
            return "<ConnectionPool not made>"
        stats = self.stats()
        closed = "closed " if self.is_closed else ""
        name, server = printable(self.name), printable(str(self.config))
        return (
            f"<ConnectionPool {name} {server} {closed}in_use={stats.in_use} idle={stats.idle} "
            f"waiting={stats.waiting} max_size={stats.max_size}>"
        )

    def _send_with_retry(
        self,
        request: MailRequest | MessageRequest,
        deadline: Deadline,
        events: OperationEvents | None,
    ) -> SendResult:
        """Send over a connection, and once more over another one if that is safe."""
        if not deadline.remaining():
            deadline.check(Phase.POOL, str(self.config))
        acquire_timeout = self._acquire_timeout
        lease = Lease(
            self._core, deadline if acquire_timeout is None else deadline.at_most(acquire_timeout)
        )
        with lease as connection:
            if events is not None:
                events.set_server(self._configs[lease.server])
            try:
                return connection.send_request(request, deadline)
            except SmtpError as error:
                # An SmtpError of other code (a signal handler that sends mail) is no evidence.
                if not (lease.was_reused and is_own(error)):
                    raise
                limit_refusal = None if is_stale(error) else refused_at_limit(connection, error)
                if limit_refusal is not None:
                    self._wait_for_rate(deadline, error)
                elif not is_stale(error):
                    raise
                _log.info(
                    "%s: a reused connection was %s (%s): retrying over another one",
                    self.name,
                    "dead" if limit_refusal is None else "at its limit",
                    str(error),
                )
            self._core.count(retries=1)
            connection = lease.renew(deadline)
            if events is not None:
                events.set_server(self._configs[lease.server])
            try:
                return connection.send_request(request, deadline)
            except ResponseError as error:
                if limit_refusal is not None:
                    note_if_refused_again(connection, limit_refusal, error)
                raise

    def _wait_for_rate(self, deadline: Deadline, error: SmtpError) -> None:
        """Wait until ``max_rate`` allows a retry; raise ``error`` if the deadline is earlier."""
        try:
            if self._rate_limiter is not None:
                self._rate_limiter.wait(deadline)
        except PoolTimeoutError:
            raise error from None


def with_secret_urls(
    config: ServerConfig | str | Sequence[ServerConfig | str],
) -> tuple[ServerConfig | Secret, ...]:
    """The given servers as a tuple, with each URL wrapped in `Secret`: it may hold a password.

    Raises:
        ValidationError: ``config`` is no server and no sequence of servers, or it is empty.
    """
    several: tuple[object, ...] = (config,)
    if isinstance(config, Iterable) and not isinstance(config, (str, bytes, bytearray, dict)):
        several = tuple(config)
    kinds = {type(each).__name__ for each in several if not isinstance(each, (ServerConfig, str))}
    found = tuple(
        Secret(each) if isinstance(each, str) else each
        for each in several
        if isinstance(each, (ServerConfig, str))
    )
    del config, several
    if kinds:
        raise ValidationError(
            f"a server is a ServerConfig or a URL such as smtps://user:password@host, a str, "
            f"not {', '.join(sorted(kinds))}"
        )
    if not found:
        raise ValidationError("a pool needs a server")
    return found


def make_configs(
    given: Iterable[ServerConfig | Secret], options: ServerSettings
) -> tuple[ServerConfig, ...]:
    """The configurations of the given servers, with the attributes in ``options`` changed.

    Raises:
        ValidationError: a URL that cannot be read, or an unknown option.
    """
    if unknown := sorted(options.keys() - ServerSettings.__annotations__.keys()):
        raise ValidationError(
            f"unknown: {', '.join(unknown)}; a pool has {', '.join(PoolKeywords.__annotations__)}, "
            f"and its servers have {', '.join(sorted(ServerSettings.__annotations__))}"
        )
    return tuple(
        ServerConfig.from_url(each.reveal(), **options)
        if isinstance(each, Secret)
        else each.replace(**options)
        for each in given
    )
