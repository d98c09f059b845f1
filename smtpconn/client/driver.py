"""The only driver: it runs an exchange over a transport, under a deadline.

It writes what the exchange asks for, reads until the awaited replies have come, and resumes the
exchange. It decides nothing about SMTP. Any I/O failure closes the transport first, so that no
half-used connection remains. Then it is thrown into the generator, which may still use replies
already received.

An exception of other code (`smtpconn.model.origin`: a signal handler, a logging filter) is neither
converted nor thrown in. It closes the transport and is raised to the caller unchanged; the command
groups note which messages may have been delivered.

Which thread may run an exchange, and under which deadline, is decided in `smtpconn.client.channel`.
"""

from __future__ import annotations

import itertools
import logging
import math
import ssl
import time
from collections.abc import Generator
from typing import TypeVar

from smtpconn.model.content import Buffer
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    ProtocolError,
    SmtpError,
    SmtpTimeoutError,
    SmtpUtf8RequiredError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.model.origin import is_own
from smtpconn.model.replies import SmtpResponse, printable
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError
from smtpconn.net import forking
from smtpconn.net.deadline import Deadline
from smtpconn.net.transport import Transport, as_smtp_error, closed_by_peer
from smtpconn.protocol.command import Command
from smtpconn.protocol.exchange import (
    ACTIONS,
    Burst,
    CommandGroup,
    Exchange,
    ExchangeAction,
    Payload,
    WaitFor,
)
from smtpconn.protocol.quirks import PIPELINING_OFF
from smtpconn.protocol.reply_matcher import ReplyMatcher
from smtpconn.protocol.session import SessionState

T = TypeVar("T")
Item = TypeVar("Item")

DRAIN_TIMEOUT = 0.1
"""Seconds for reading data that has already arrived, when no reply is awaited. Bounds the time that
a server which never stops sending can take."""

WRITE_BUFFER = 64 * 1024
"""Bytes up to which pieces are copied together, so that a round trip needs one write."""

IDLE_AFTER = 1.0
"""Seconds of silence after which no content is sent before the server has replied to something."""

# Phases of the commands that follow MAIL in a group.
_AFTER_MAIL = frozenset({Phase.RCPT, Phase.DATA})

# Stay silent unless the application configures logging.
logging.getLogger("smtpconn").addHandler(logging.NullHandler())
_connection_log = logging.getLogger("smtpconn.connection")
_wire_log = logging.getLogger("smtpconn.wire")
_numbers = itertools.count(1)

# An exchange that ends with one of these leaves client and server in sync.
RECOVERABLE_ERRORS = (
    ResponseError,
    AllRecipientsFailedError,
    UnsupportedExtensionError,
    SmtpUtf8RequiredError,
    ValidationError,
)


class _Unsent(bytearray):
    """The write buffer. Its repr hides the content, because error reports show local variables."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes to be sent>"


class Driver:
    """Runs exchanges over one transport.

    Args:
        transport: connected; the driver closes it.
        session: the state that exchanges share.
        host: the name that the server's certificate must have.
        peer: ``host:port`` for messages and logs.
        context: the TLS settings; None if TLS is never started.
        tls_session: of an earlier connection, to resume.

    Attributes:
        transport, peer: as given.
        number: identifies the connection in the logs of this process.
    """

    def __init__(
        self,
        transport: Transport,
        session: SessionState,
        host: str,
        peer: str,
        context: ssl.SSLContext | None,
        tls_session: ssl.SSLSession | None = None,
    ) -> None:
        self.transport = transport
        self.number = next(_numbers)
        self._closed_because = ""
        self._session = session
        self._host = host
        self.peer = peer
        self._context = context
        self._tls_session = tls_session
        self._matcher = ReplyMatcher()
        self._unsent = _Unsent()
        self._last_reply_at = 0.0
        self._shows_wire = False
        self._has_begun = False
        self._interrupted = False

    @property
    def shutdown_reply(self) -> SmtpResponse | None:
        """The 421 the server sent; None if it sent none."""
        return self._matcher.shutdown_reply

    @property
    def closed_because(self) -> str:
        """Why the transport is closed; "" while it is open."""
        if self.transport.is_inherited:
            return "the process was forked, and the connection is the parent's"
        return self._closed_because

    def run(self, exchange: Exchange[T], deadline: Deadline) -> T:
        """Run an exchange to its end and return its result.

        Raises:
            SmtpError: what the exchange or the connection failed with. The transport is closed
                unless client and server are still in sync.
        """
        failure: Exception | None = None
        is_settled = False
        self._begin()
        try:
            action = next(exchange)
            self._has_begun = True
            while True:
                failure = self._perform(action, deadline)
                action = next(exchange) if failure is None else exchange.throw(failure)
        except StopIteration as stop:
            if self._session.must_close or not self._matcher.is_reusable:
                self._close_unless_in_sync()
            result: T = stop.value
            is_settled = True
            return result
        except BaseException as error:
            self._fail(error)
            is_settled = True
            raise
        finally:
            failure = None  # its traceback refers to this frame
            # Here and not in a handler: another one does not catch what interrupts a handler.
            if not is_settled:
                self._break_off()

    def stream(
        self, exchange: Generator[ExchangeAction | Item, None, T], deadline: Deadline
    ) -> Generator[Item, None, T]:
        """Run an exchange that also yields results, and yield those.

        Raises:
            As `run`.
        """
        failure: Exception | None = None
        is_settled = False
        self._begin()
        try:
            action = next(exchange)
            while True:
                if isinstance(action, ACTIONS):
                    self._has_begun = True
                    failure = self._perform(action, deadline)
                    action = next(exchange) if failure is None else exchange.throw(failure)
                else:
                    yield action
                    if self._session.is_eager:
                        self.mark_idle()
                    action = next(exchange)
        except StopIteration as stop:
            self._close_unless_in_sync()
            result: T = stop.value
            is_settled = True
            return result
        except GeneratorExit:
            # The caller closed the iterator.
            self._mark_in_doubt()
            exchange.close()
            self._close_unless_in_sync()
            is_settled = True
            raise
        except BaseException as error:
            self._fail(error)
            is_settled = True
            raise
        finally:
            failure = None  # its traceback refers to this frame
            if not is_settled:
                self._break_off()

    def _begin(self) -> None:
        self._shows_wire = _wire_log.isEnabledFor(logging.DEBUG)
        self._has_begun = False
        session, quirks = self._session, self._session.quirks
        if quirks.partial_groups or quirks.pipelining_off_until or session.is_pipelining_broken:
            session.note_pipelining(is_broken=quirks.is_pipelining_broken(time.monotonic()))
        if session.is_eager:
            self.mark_idle()

    def _fail(self, error: BaseException) -> None:
        """Close after an exchange failed, unless client and server are still in sync."""
        if isinstance(error, SmtpError) and is_own(error):
            if isinstance(error, RECOVERABLE_ERRORS):
                self._close_unless_in_sync(error)
            elif self._has_begun or not isinstance(error, ProtocolError):
                self.close(f"after {type(error).__name__}")
        else:
            self._break_off(error)

    def _break_off(self, error: BaseException | None = None) -> None:
        """Close because other code raised an exception, perhaps between a system call and the
        record of its result.

        Args:
            error: the exception; None if it interrupted the handler of another one.
        """
        self._mark_in_doubt(is_interrupted=True)
        self.close(f"after {'an interruption' if error is None else type(error).__name__}")

    def _mark_in_doubt(self, *, is_interrupted: bool = False) -> bool:
        """Note which messages may have been delivered; returns whether there are any.

        Args:
            is_interrupted: as of `ReplyMatcher.mark_possibly_delivered`.
        """
        if type(self._matcher.failure) is ProtocolError:
            self._session.is_out_of_sync = True
        return self._matcher.mark_possibly_delivered(is_interrupted=is_interrupted)

    def mark_idle(self) -> None:
        """Note whether the server has been silent for longer than `IDLE_AFTER`."""
        if self._session.is_eager:
            self._session.recently_active = time.monotonic() - self._last_reply_at < IDLE_AFTER

    def _mark_active(self) -> None:
        """Note that an awaited reply has just come."""
        self._last_reply_at = time.monotonic()
        self._session.recently_active = True

    def use_context(self, context: ssl.SSLContext, host: str) -> None:
        """Have the next `StartTls` use these settings, and check the certificate against a name."""
        self._context, self._host = context, host

    def probe(self) -> SmtpError | None:
        """Check between operations, without waiting, whether the connection is still usable.

        Returns None if it is; else it is closed, and the reason is returned.
        """
        if self._session.has_unread_replies:
            return None  # data that has arrived may be the reply the caller will read next
        error: SmtpError | None = None
        try:
            if self.transport.is_silent():
                return None
            self._matcher.settle()
            deadline = Deadline(DRAIN_TIMEOUT)
            while error is None and (data := self.transport.receive_now()) is not None:
                if data and not deadline.remaining():
                    break
                if data:
                    self._pair(data)
                    if self._matcher.failure is not None:
                        error = self._matcher.error()
                else:
                    error = closed_by_peer(Phase.IDLE, self.peer)
            if error is None and not self._matcher.is_reusable:
                error = ProtocolError(
                    "the server began to send a reply that no command awaits", phase=Phase.IDLE
                )
        except BaseException as raised:
            if not (isinstance(raised, OSError) and is_own(raised)):
                self._break_off(raised)
                raise
            error = as_smtp_error(raised, Phase.IDLE, Deadline(1), self.peer)
        if error is not None:
            self.close(str(error))
        return error

    def start_tls(self, deadline: Deadline) -> None:
        """Start TLS on the transport.

        Raises:
            TlsError, ConnectionClosedError, SmtpTimeoutError, TransportError: the handshake failed.
            ValidationError: a certificate cannot be checked against ``host``.
            ValidationError: the TLS settings were made before gevent replaced the ssl module.
            ProtocolError: there are no TLS settings.
        """
        if self._context is None:
            raise ProtocolError("there are no TLS settings", phase=Phase.TLS)
        if not isinstance(self._context, ssl.SSLContext):
            # Its methods would call gevent's replacements in the ssl module, and fail at any point.
            raise ValidationError(
                "the TLS context was made before gevent replaced the ssl module, so it cannot be "
                "used: make it after that"
            )
        try:
            self.transport.start_tls(self._context, self._host, deadline, self._tls_session)
        except (OSError, ValueError) as error:
            if not self._is_of_connection(error, deadline):
                raise
            if isinstance(error, OSError):
                raise as_smtp_error(error, Phase.TLS, deadline, self.peer) from error
            raise ValidationError(f"TLS cannot check {self._host!r}: {error}") from error
        _wire_log.debug("#%d == TLS from here on", self.number)

    def close(self, because: str) -> None:
        """Close the transport; never waits and never fails."""
        if self.transport.is_open:
            self._closed_because = self._closed_because or because
            self.transport.close()
            _connection_log.debug("#%d %s: closed: %s", self.number, self.peer, because)

    def interrupt(self) -> None:
        """Make another thread's operation fail at once, which then closes the transport."""
        self._interrupted = True
        self._closed_because = "close() was called"
        self.transport.interrupt()

    def closed_error(self, phase: Phase) -> ConnectionClosedError:
        """The error for an operation on a connection that is closed or being closed."""
        return ConnectionClosedError(
            f"the connection to {self.peer} is closed: {self.closed_because}", phase=phase
        )

    def _closed_during_operation(self, phase: Phase) -> ConnectionClosedError:
        """The error for an operation during which the connection was closed."""
        error = self.closed_error(phase)
        # After a fork the parent continues the operation, and may deliver the message.
        error.may_have_been_delivered = self.transport.is_inherited
        return error

    def _perform(self, action: ExchangeAction, deadline: Deadline) -> Exception | None:
        """Do one action; returns the error to be thrown into the exchange, if it failed.

        Raises:
            BaseException: what other code raised, which ends the exchange.
        """
        try:
            if not self.transport.is_open:
                self._mark_in_doubt()  # what was sent before may have no reply yet
                return self._closed_during_operation(Phase.IDLE)
            if self._matcher.failure is not None:
                raise self._matcher.error()
            if isinstance(action, CommandGroup):
                self._write_group(action, deadline)
                if action.waits:
                    self._read_replies(action, deadline)
            elif isinstance(action, Burst):
                self._write_burst(action, deadline)
            elif isinstance(action, WaitFor):
                self._flush(deadline)
                self._read_replies(action.group, deadline)
            else:
                self._change_to_tls(deadline)
            return None
        except Exception as error:
            if isinstance(error, SmtpError) and is_own(error):
                if self._mark_in_doubt():
                    error.may_have_been_delivered = True
                self.close(str(error))
                return None if self._are_replies_final(action, error) else error
            self._break_off(error)
            if isinstance(action, CommandGroup) and action.has_failed_to_read(error):
                return error
            raise
        except BaseException as error:
            self._break_off(error)
            raise

    def _are_replies_final(self, action: ExchangeAction, error: SmtpError) -> bool:
        """Whether a group was sent completely and all its replies came before the failure.

        Then the replies are the outcome, even if they arrived while the last bytes were written.
        An exception is a `ProtocolError` of a group that sent content with its envelope: only the
        number of replies shows there that one was too many, so none can be trusted.
        """
        if not isinstance(action, CommandGroup) or action.missing or not action.waits:
            return False
        is_in_doubt = action.is_eager and type(error) is ProtocolError
        return self._matcher.is_sent(action) and not is_in_doubt

    def _change_to_tls(self, deadline: Deadline) -> None:
        # Data that is already here was not sent under TLS and may be injected (CVE-2011-0411).
        try:
            data = self.transport.receive_now()
        except OSError as error:
            if not self._is_of_connection(error, deadline):
                raise
            raise as_smtp_error(error, Phase.TLS, deadline, self.peer) from error
        if data == b"":
            raise closed_by_peer(Phase.TLS, self.peer)
        if data is not None or not self._matcher.is_reusable:
            raise ProtocolError(
                "the server sent something between its answer to STARTTLS and the TLS handshake: "
                "this may be an attack",
                phase=Phase.STARTTLS,
            )
        self.start_tls(deadline)
        self._matcher.begin_tls()

    def _read_replies(self, group: CommandGroup, deadline: Deadline) -> None:
        matcher, session, last_reply_at = self._matcher, self._session, math.inf
        while group.missing:
            if matcher.failure is not None:
                raise matcher.error()
            try:
                data = self.transport.receive(deadline)
            except OSError as error:
                if not self._is_of_connection(error, deadline):
                    raise
                smtp_error = self._to_smtp_error(error, deadline)
                if group.missing:
                    if isinstance(smtp_error, SmtpTimeoutError):
                        self._note_timeout(group, smtp_error, last_reply_at, deadline)
                    raise smtp_error from error
                # Keep replies that arrived with the error, or an accepted message would be reported
                # as undelivered.
                if not isinstance(smtp_error, SmtpTimeoutError):
                    self.close(str(smtp_error))
                break
            if data and not self._shows_wire:
                matcher.received(data)
            else:
                self._received(data)
            if group.missing and group.replies:
                last_reply_at = time.monotonic()
        if session.ends_lines_with_lf is not matcher.ends_lines_with_lf:
            session.note_line_ends(is_lf=matcher.ends_lines_with_lf)
        if session.quirks.partial_groups:
            self._note_answered(group)
        failure = matcher.failure
        if failure is not None and group.is_eager and type(failure) is ProtocolError:
            raise matcher.error()
        if session.is_eager:
            self._mark_active()

    def _note_timeout(
        self, group: CommandGroup, error: SmtpTimeoutError, last_reply_at: float, deadline: Deadline
    ) -> None:
        """Add the number of replies to the error of a pipelined group, and note a sign of broken
        PIPELINING.

        Slow replies alone are no such sign (`quirks.BROKEN_PIPELINING`): after its last reply the
        server must have been silent for half of the time.
        """
        quirks, came = self._session.quirks, len(group.replies)
        if not group.is_pipelined:
            quirks.note_single_timeout()
            return
        error._text += (
            f" ({came} of {came + group.missing} replies to a group of commands came; "
            f"try pipelining=Pipelining.OFF)"
        )
        if came and time.monotonic() - last_reply_at >= deadline.timeout / 2:
            quirks.partial_groups += 1

    def _note_answered(self, group: CommandGroup) -> None:
        """Note that a group was answered in full after partial answers.

        See `quirks.BROKEN_PIPELINING`.
        """
        quirks = self._session.quirks
        if group.is_pipelined:
            quirks.partial_groups = 0
        elif group.pieces[-1].phase in _AFTER_MAIL and quirks.note_single_reply(time.monotonic()):
            _connection_log.warning(
                "#%d %s: answers only some of the commands of a group: one command at a time for "
                "the next %d seconds",
                self.number,
                self.peer,
                PIPELINING_OFF,
            )

    def _write_group(self, group: CommandGroup, deadline: Deadline) -> None:
        """Write a group, together with earlier groups that did not wait for replies."""
        if self._shows_wire:
            self._log_pieces(group)
        unsent, matcher = self._unsent, self._matcher
        matcher.expect((group,), len(unsent))
        wire = group.wire
        if wire is None:
            self._write_pieces(group, deadline)
            group.ends_at = matcher.queued + len(unsent)
        else:
            if group.begins_message:
                deadline.begin_messages()
            if group.waits and not unsent:
                self._write(wire, deadline)
                return
            unsent += wire
        if unsent and (group.waits or len(unsent) > WRITE_BUFFER):
            self._flush(deadline)

    def _write_pieces(self, group: CommandGroup, deadline: Deadline) -> None:
        """Write the pieces of a group, or add them to the write buffer."""
        begins = group.begins_message
        for piece in group.pieces:
            if isinstance(piece, Command):
                if begins:
                    # Not earlier: the previous message's content may be written first.
                    deadline.begin_messages()
                    begins = False
                # Not kept in a local variable: error reports would show the bytes, with secrets.
                self._unsent += piece.wire
            else:
                # Set before the write if the size is known, because replies may arrive during it.
                group.payload_size = piece.size
                group.payload_size = self._write_payload(piece, deadline)

    def _write_burst(self, burst: Burst, deadline: Deadline) -> None:
        """Write groups whose bytes are known, together with those that were not written yet."""
        if self._shows_wire:
            for group in burst.groups:
                self._log_pieces(group)
        deadline.begin_messages(len(burst.groups))
        unsent = self._unsent
        self._matcher.expect(burst.groups, len(unsent))
        unsent += burst.wire
        if len(unsent) > WRITE_BUFFER:
            self._flush(deadline)

    def _log_pieces(self, group: CommandGroup) -> None:
        for piece in group.pieces:
            _wire_log.debug("#%d -> %s", self.number, piece.log)

    def _write_payload(self, payload: Payload, deadline: Deadline) -> int:
        """Write content, or add it to the write buffer; returns its size in bytes."""
        unsent, written = self._unsent, 0
        for buffer in payload.buffers:
            size = len(buffer)
            written += size
            if len(unsent) + size <= WRITE_BUFFER:
                unsent += buffer
                continue
            self._flush(deadline)
            if size <= WRITE_BUFFER:
                unsent += buffer
            else:
                self._write(buffer, deadline)
        return written

    def _flush(self, deadline: Deadline) -> None:
        if self._unsent:
            self._write(self._unsent, deadline)
            self._unsent.clear()

    def _write(self, data: Buffer, deadline: Deadline) -> None:
        matcher = self._matcher
        # The message's own iterable, or a signal handler, may have forked.
        if not forking.same_process[0]:
            forking.reset_if_forked()
        if self.transport.is_inherited:
            raise self._closed_during_operation(matcher.phase)
        matcher.queued += len(data)
        try:
            self.transport.write(data, deadline, matcher.note_sent, self._received_while_writing)
        except OSError as error:
            if isinstance(error, SmtpError) or not self._is_of_connection(error, deadline):
                raise
            raise self._to_smtp_error(error, deadline) from error

    def _received_while_writing(self, data: bytes) -> None:
        self._received(data)
        if self._matcher.failure is not None:
            raise self._matcher.error()
        self._mark_active()

    def _received(self, data: bytes) -> None:
        if data:
            self._pair(data)
        elif self._interrupted:
            raise self.closed_error(self._matcher.phase)
        else:
            raise closed_by_peer(self._matcher.phase, self.peer)

    def _pair(self, data: bytes) -> None:
        if self._shows_wire:
            for line in data.decode("utf-8", "backslashreplace").splitlines():
                _wire_log.debug("#%d <- %s", self.number, printable(line))
        self._matcher.received(data)

    def _is_of_connection(self, error: Exception, deadline: Deadline) -> bool:
        """Whether an exception that was just caught is the socket's, or that of its deadline."""
        is_timeout = isinstance(error, TimeoutError) and error.errno is None
        return is_own(error) and not (is_timeout and deadline.remaining())

    def _to_smtp_error(self, error: OSError, deadline: Deadline) -> SmtpError:
        """Convert an error; if the server sent 421 before it closed, that is the error."""
        if self._interrupted or self.transport.is_inherited:
            return self._closed_during_operation(self._matcher.phase)
        self._drain()
        if self._matcher.failure is not None:
            return self._matcher.error()
        return as_smtp_error(error, self._matcher.phase, deadline, self.peer)

    def _drain(self) -> None:
        deadline = Deadline(DRAIN_TIMEOUT)
        try:
            while (data := self.transport.receive_now()) and deadline.remaining():
                self._pair(data)
        except OSError as error:
            if not is_own(error):
                raise
            # Ignored: the caller already reports that the connection is lost.

    def _close_unless_in_sync(self, error: SmtpError | None = None) -> None:
        failure = self._matcher.failure
        if failure is not None:
            self.close(str(failure))
        elif self._session.must_close:
            self.close(self._session.must_close)
        elif not self._matcher.is_reusable and not self._session.has_unread_replies:
            self.close(str(error) if error is not None else "the protocol is out of sync")
