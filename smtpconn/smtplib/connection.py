"""`CommandConnection`: an `SmtpConnection` whose caller sends single commands.

It is created over a connected socket and sends nothing by itself, not even EHLO. Its commands go
through the same channel, driver and exchanges as those of every `SmtpConnection`. In addition, it
stores the last reply, because ``smtplib`` returns replies where `SmtpConnection` returns their
meaning, and it passes each command and reply to a function for debug output.
"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from collections.abc import Callable, Generator
from typing import Self, TypeVar

from smtpconn.auth.credentials import Credentials
from smtpconn.client.channel import Channel
from smtpconn.client.connect import driver_over
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import Phase, SmtpError, ValidationError
from smtpconn.model.modes import Protocol
from smtpconn.model.replies import SmtpResponse
from smtpconn.net.deadline import Deadline
from smtpconn.net.transport import Transport, as_smtp_error
from smtpconn.protocol import raw_command
from smtpconn.protocol.command import Command, command, secret_command
from smtpconn.protocol.exchange import CommandGroup, Exchange, ExchangeAction
from smtpconn.protocol.session import SessionState

T = TypeVar("T")

_PHASES = {phase.upper(): phase for phase in Phase} | {"HELO": Phase.EHLO, "LHLO": Phase.EHLO}


class WatchedChannel(Channel):
    """A channel that stores the last reply, and passes commands and replies to a debug function.

    Attributes:
        last_reply: the last reply; None before the first one.
        show: called with the kind and the text of each command and reply; None for no output.
    """

    last_reply: SmtpResponse | None = None
    show: Callable[[str, str], None] | None = None

    def operate(
        self, exchange: Exchange[T], deadline: Deadline, phase: Phase, *, is_probed: bool = False
    ) -> T:
        """As `Channel.operate`."""
        return super().operate(self._watched(exchange), deadline, phase, is_probed=is_probed)

    def _watched(self, exchange: Exchange[T]) -> Exchange[T]:
        error: Exception | None = None
        while True:
            try:
                action = next(exchange) if error is None else exchange.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            self._show_sent(action)
            error = None
            try:
                yield action
            except Exception as raised:
                error = raised
            self._note_replies(action)

    def _show_sent(self, action: ExchangeAction) -> None:
        if self.show is not None and isinstance(action, CommandGroup):
            for piece in action.pieces:
                if isinstance(piece, Command):
                    self.show("send:", ascii(f"{piece.log}\r\n"))
                elif piece.ends_message:
                    self.show("send:", piece.log)

    def _note_replies(self, action: ExchangeAction) -> None:
        group = action if isinstance(action, CommandGroup) else getattr(action, "group", None)
        if group is None or not group.replies:
            return
        self.last_reply = group.replies[-1]
        if self.show is not None:
            for reply in group.replies:
                text = "\n".join(reply.lines).encode("utf-8", "surrogateescape")
                self.show("reply:", f"retcode ({reply.code}); Msg: {text!a}")


class CommandConnection(SmtpConnection):
    """A connection over a connected socket; created by `over`.

    Attributes:
        hello: the last 250 reply to EHLO, LHLO or HELO; None before it and after STARTTLS.
        is_extended: whether `hello` answers EHLO or LHLO.
        login_reply: the last reply to the login.
    """

    hello: SmtpResponse | None = None
    is_extended = False
    login_reply: SmtpResponse | None = None

    _channel: WatchedChannel
    _host: str
    _written: deque[CommandGroup]

    @classmethod
    def over(
        cls,
        sock: socket.socket,
        host: str,
        port: int,
        protocol: Protocol,
        timeout: float,
        *,
        is_direct: bool = True,
        allow_cleartext_auth: bool = False,
        context: ssl.SSLContext | None = None,
        tls_session: ssl.SSLSession | None = None,
    ) -> Self:
        """Take over a connected socket.

        Args:
            sock: the socket, with or without TLS; closed if this fails.
            host, port: the server's.
            protocol: SMTP or LMTP.
            timeout: seconds for an operation without a timeout of its own.
            is_direct: whether the peer is the server and not a proxy.
            allow_cleartext_auth: as `SmtpConnection.connect` takes it.
            context, tls_session: for a `start_tls` without a context.
        """
        session = SessionState(protocol=protocol, ehlo_domain="")
        driver = driver_over(
            sock,
            host,
            port,
            session,
            Deadline(timeout),
            is_direct=is_direct,
            is_private=allow_cleartext_auth,
            context=context,
            tls_session=tls_session,
        )
        connection = cls.__new__(cls)
        connection._channel = WatchedChannel(driver, driver.peer, timeout)
        connection._session = session
        connection._host = host.rstrip(".")
        connection._written = deque()
        return connection

    @property
    def last_reply(self) -> SmtpResponse | None:
        """The last reply."""
        return self._channel.last_reply

    @property
    def sock(self) -> socket.socket:
        """The socket, which is non-blocking while an operation runs."""
        return self._channel.driver.transport.sock

    @property
    def local_ip(self) -> str | None:
        """The local address; None on a UNIX socket."""
        return self._channel.driver.transport.local_ip

    @property
    def ehlo_name(self) -> str:
        """The client's name for EHLO."""
        return self._session.ehlo_domain

    def set_debug_output(self, show: Callable[[str, str], None] | None) -> None:
        """Pass each command and reply to a function for debug output; None to stop."""
        self._channel.show = show

    def read_greeting(self, timeout: float | Deadline | None = None) -> SmtpResponse:
        """Wait for the greeting; its code is not checked."""
        # No check for unexpected data before it: the greeting may have arrived already.
        return self._channel.operate(
            raw_command.read_greeting(self._session),
            self._channel.deadline(timeout),
            Phase.GREETING,
            is_probed=True,
        )

    def send_hello(
        self, verb: str, name: str, timeout: float | Deadline | None = None
    ) -> SmtpResponse:
        """Send EHLO, LHLO or HELO."""
        hello = command(Phase.EHLO, f"{verb} {name}")
        exchange = raw_command.send_hello(self._session, hello, name)
        reply = self._run(exchange, Phase.EHLO, timeout)
        if reply.code == 250:
            self.hello, self.is_extended = reply, verb.lower() != "helo"
        return reply

    def start_tls(
        self, context: ssl.SSLContext, timeout: float | Deadline | None = None
    ) -> SmtpResponse:
        """Send STARTTLS, and do the TLS handshake with ``context`` if the reply is 220."""
        self._channel.driver.use_context(context, self._host)
        reply = self._run(raw_command.start_tls(self._session), Phase.STARTTLS, timeout)
        if reply.code == 220:
            self.hello = None
        return reply

    def log_in(
        self, credentials: Credentials, timeout: float | Deadline | None = None
    ) -> SmtpResponse:
        """Log in as `SmtpConnection.authenticate` does, and return the final reply."""
        self._log_in_as(credentials, credentials.mechanisms, timeout)
        assert self.last_reply is not None
        self.login_reply = self.last_reply
        return self.last_reply

    def send_command(self, text: str) -> SmtpResponse:
        """Send any one command, and return the reply."""
        return self._run(
            raw_command.send_command(self._session, self._command(text)), _phase(text), None
        )

    def write(self, text: str) -> None:
        """Write one command without waiting for the reply."""
        self._write(CommandGroup((self._command(text),), waits=False))

    def write_bytes(self, data: bytes) -> None:
        """Write bytes unchanged."""
        self._write(raw_command.raw_bytes((data,)))

    def read_reply(self) -> SmtpResponse:
        """Wait for the reply to the oldest written command that has none yet."""
        group = self._written[0] if self._written else None
        self._session.has_unread_replies = True
        reply = self._run(raw_command.read(self._session, group), Phase.IDLE, None)
        if group is not None:
            self._written.popleft()
        self._session.has_unread_replies = bool(self._written)
        return reply

    def run(
        self,
        exchange: Callable[[SessionState], Exchange[T]],
        phase: Phase,
        deadline: Deadline | None = None,
    ) -> T:
        """Run an exchange in this session."""
        return self._run(exchange(self._session), phase, deadline)

    def _write(self, group: CommandGroup) -> None:
        self._run(raw_command.write(self._session, group), Phase.IDLE, None)
        if group.missing:
            self._written.append(group)

    def _command(self, text: str) -> Command:
        verb, *rest = text.split()[:2] or [""]
        if verb.upper() == "AUTH" and rest:
            return secret_command(text, f"{verb} {rest[0]} <secret>")
        if self._may_be_answer():
            return secret_command(text, "<secret>")
        return command(_phase(text), text)

    def _may_be_answer(self) -> bool:
        """Whether a line may answer a SASL challenge, which may not have been read yet."""
        if self._written:
            return any(
                isinstance(piece, Command) and piece.phase is Phase.AUTH
                for group in self._written
                for piece in group.pieces
            )
        return self.last_reply is not None and self.last_reply.code == 334

    def _run(
        self,
        exchange: Exchange[T] | Generator[ExchangeAction, None, T],
        phase: Phase,
        timeout: float | Deadline | None,
    ) -> T:
        return self._channel.operate(exchange, self._channel.deadline(timeout), phase)


def wrap_in_tls(
    sock: socket.socket,
    context: ssl.SSLContext,
    host: str,
    deadline: Deadline,
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    """Start TLS on a connected socket; the socket is closed on failure (RFC 8314 3).

    Raises:
        SmtpError: the handshake failed.
        ValidationError: a certificate cannot contain the name ``host``.
    """
    to_close: socket.socket | Transport = sock
    try:
        to_close = transport = Transport(sock)
        transport.start_tls(context, host.rstrip("."), deadline, session)
    except BaseException as error:
        to_close.close()
        if isinstance(error, OSError) and not isinstance(error, SmtpError):
            raise as_smtp_error(error, Phase.TLS, deadline, host) from error
        if isinstance(error, ValueError):
            raise ValidationError(f"TLS cannot check {host!r}: {error}") from error
        raise
    tls = transport.tls
    assert tls is not None
    return tls


def _phase(text: str) -> Phase:
    """The phase of a command; IDLE if its verb is unknown."""
    return _PHASES.get(text.partition(" ")[0].upper(), Phase.IDLE)
