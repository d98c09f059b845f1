"""`SmtpConnection`: one SMTP session that any thread may use.

Every method is one operation: it gives one exchange to the connection's `smtpconn.client.channel`,
which runs it alone and under one deadline. What an exchange says is in `smtpconn.dialogue`; how
octets move is in `smtpconn.client.driver`. This file is the public face and how a connection is
made, nothing else; its many ways of sending and of logging in are in `smtpconn.client.sending` and
`smtpconn.client.logging_in`.

A connection is used once: when it is closed, by whatever, it stays closed.
"""

from __future__ import annotations

import logging
import socket
import ssl
from types import TracebackType
from typing import NoReturn, Self, TypeVar, Unpack

from smtpconn.client.channel import Channel, Operations
from smtpconn.client.connect_hints import IMPLICIT_TLS_PORT, with_hint
from smtpconn.client.driver import Driver
from smtpconn.client.logging_in import LoggingIn
from smtpconn.client.options import (
    ConnectOptions,
    check_ehlo_domain,
    check_flag,
    check_server,
    check_tls_mode,
    check_tls_options,
    default_ehlo_domain,
    extension_names,
)
from smtpconn.client.sending import Sending
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import (
    Phase,
    ProtocolError,
    SmtpError,
    SmtpTimeoutError,
    ValidationError,
)
from smtpconn.model.modes import Pipelining, Protocol, TlsMode
from smtpconn.model.origin import is_own
from smtpconn.model.replies import SmtpResponse, printable
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import from_factory, open_socket
from smtpconn.net.tls import TlsInfo, shared_context
from smtpconn.net.transport import Transport, as_smtp_error
from smtpconn.protocol import handshake, single_command
from smtpconn.protocol.exchange import Exchange
from smtpconn.protocol.quirks import ServerQuirks
from smtpconn.protocol.session import SessionState

QUIT_TIMEOUT = 2.0
"""Seconds that leaving a ``with`` block waits for the server's farewell."""

QUIT_NOWAIT_TIMEOUT = 0.1
"""Seconds that `SmtpConnection.quit_nowait` has to get six octets into the socket's buffer."""

GREETING_TIMEOUT = 5.0
"""Seconds to wait for a greeting in clear at the port where TLS begins with the first octet."""

T = TypeVar("T")

_log = logging.getLogger("smtpconn.connection")


class SmtpConnection(Sending, LoggingIn):
    """One SMTP session over TCP, TLS or a UNIX socket; get one from `connect`.

    Every method may be called from any thread. ``timeout`` is in seconds and for the whole
    operation, waiting for other threads' operations included; None means the one given to
    `connect`. Every method may raise `SmtpTimeoutError`, `ConnectionClosedError`,
    `TransportError`, `TlsError` and `ProtocolError`, after which the connection is closed. After
    a refusal (`ResponseError`, `AllRecipientsFailedError`) it can be used on.

    Calling the class, with whatever is ``given`` and whatever ``options``, is a `TypeError`.
    """

    def __init__(self, *given: object, **options: object) -> None:
        """Refused: connections are made by `connect` and its kin.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "connections are made by SmtpConnection.connect(host, port, tls_mode, timeout), for "
            'instance connect("mx.example.com", 587, TlsMode.STARTTLS, 30)'
        )

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        tls_mode: TlsMode,
        timeout: float,
        *,
        tls_context: ssl.SSLContext | None = None,
        **options: Unpack[ConnectOptions],
    ) -> Self:
        """Connect, greet and, if asked for, start TLS (RFC 5321 3.1, RFC 3207, RFC 8314).

        Args:
            host: a name, an IP address, or the path of a UNIX socket (begins with "/").
            port: 1 to 65535; 465 is usual for IMPLICIT, 587 for STARTTLS, 25 between servers.
            tls_mode: how the connection is protected.
            timeout: seconds for all of connecting, and for later operations by default.
            tls_context: TLS settings; None checks the name ``host``, and trusts the authorities of
                ``cafile``; without that those in the environment's ``SSL_CERT_FILE`` and
                ``SSL_CERT_DIR``; without these the system's and certifi's.
            ehlo_domain: how we name ourselves, a domain or an address literal; None for this
                machine's full name if it has one, else our address.
            source_address: our own (address, port) to connect from, port 0 for any.
            pipelining: how far commands run ahead of their replies.
            ignore_extensions: keywords to treat as if the server had not offered them.
            allow_cleartext_auth: let passwords travel without TLS to other machines.
            socket_factory: called with host, port and the seconds left instead of connecting,
                for a proxy; returns a connected socket.
            tls_session: the `ssl.SSLSession` of an earlier connection with the same settings
                (``connection.tls.session``); resumed if the server will, which saves time. One of
                another context is not offered, and if the handshake fails, it is tried once
                without, on a new connection.
            tls_server_name: the name in the server's certificate, if it is not ``host``.
            cafile: the authorities to trust and no others, a file in PEM.

        Raises:
            ValidationError: an argument that cannot be; nothing was sent.
            TransportError, TlsError, SmtpTimeoutError, ConnectionClosedError: it did not work.
            StartTlsUnavailableError: STARTTLS was asked for and is not offered.
            TransientError, PermanentError, ProtocolError: the server does not want us, or is none.
        """
        deadline, mode = Deadline(timeout), check_tls_mode(tls_mode)
        return cls._connect(Protocol.SMTP, host, port, mode, deadline, tls_context, options)

    @classmethod
    def connect_with_tls_config(
        cls,
        host: str,
        port: int,
        tls_mode: TlsMode,
        timeout: float,
        tls_config: ssl.SSLContext,
        **options: Unpack[ConnectOptions],
    ) -> Self:
        """The same as `connect` with ``tls_context=tls_config``."""
        return cls.connect(host, port, tls_mode, timeout, tls_context=tls_config, **options)

    @classmethod
    def connect_lmtp(
        cls,
        host: str,
        port: int,
        tls_mode: TlsMode,
        timeout: float,
        *,
        tls_context: ssl.SSLContext | None = None,
        **options: Unpack[ConnectOptions],
    ) -> Self:
        """Connect to an LMTP server (RFC 2033); arguments and errors as for `connect`.

        A ``host`` that begins with "/" is the path of a UNIX socket, and ``port`` is not used.
        """
        deadline, mode = Deadline(timeout), check_tls_mode(tls_mode)
        return cls._connect(Protocol.LMTP, host, port, mode, deadline, tls_context, options)

    @classmethod
    def connect_lmtp_with_tls_config(
        cls,
        host: str,
        port: int,
        tls_mode: TlsMode,
        timeout: float,
        tls_config: ssl.SSLContext,
        **options: Unpack[ConnectOptions],
    ) -> Self:
        """The same as `connect_lmtp` with ``tls_context=tls_config``."""
        return cls.connect_lmtp(host, port, tls_mode, timeout, tls_context=tls_config, **options)

    @classmethod
    def _connect(
        cls,
        protocol: Protocol,
        host: str,
        port: int,
        tls_mode: TlsMode,
        deadline: Deadline,
        context: ssl.SSLContext | None,
        options: ConnectOptions,
    ) -> Self:
        check_server(host, port)
        cafile, tls_session = options.get("cafile"), options.get("tls_session")
        check_tls_options(context, cafile, options.get("tls_server_name"))
        used = context
        if context is None and tls_mode is not TlsMode.NONE:
            used = shared_context(cafile, seconds=deadline.remaining())
        try:
            try:
                return cls._connect_once(
                    protocol, host, port, tls_mode, deadline, used, tls_session, options
                )
            except SmtpError as error:
                # The session offered may be what the handshake failed of.
                is_over = error.phase is not Phase.TLS or not deadline.remaining()
                if tls_session is None or is_over:
                    raise
                _log.debug("%s: again without a TLS session: %s", host, str(error))
            return cls._connect_once(protocol, host, port, tls_mode, deadline, used, None, options)
        except SmtpError as error:
            hinted = with_hint(error, host, port, protocol, tls_mode, context is not None, cafile)
            if hinted is error:
                raise
            raise hinted from hinted.__cause__

    @classmethod
    def _connect_once(
        cls,
        protocol: Protocol,
        host: str,
        port: int,
        tls_mode: TlsMode,
        deadline: Deadline,
        context: ssl.SSLContext | None,
        tls_session: ssl.SSLSession | None,
        options: ConnectOptions,
    ) -> Self:
        session = _new_session(protocol, options)
        factory = options.get("socket_factory")
        if factory is None:
            sock = open_socket(host, port, deadline, options.get("source_address"))
        else:
            sock = from_factory(factory, host, port, deadline)
        peer = host if host.startswith("/") else f"{host}:{port}"
        open_end: socket.socket | Transport = sock
        try:
            # TLS puts another socket in the place of this one; the transport knows which.
            open_end = transport = Transport(sock)
            session.ehlo_domain = session.ehlo_domain or default_ehlo_domain(transport.local_ip)
            # Behind a caller's own socket there may be a proxy, so its peer says nothing.
            session.is_local = factory is None and transport.peer_is_local
            session.is_private = (
                tls_mode is TlsMode.IMPLICIT
                or transport.tls is not None
                or options.get("allow_cleartext_auth", False)
                or session.is_local
            )
            tls_name = options.get("tls_server_name") or host.rstrip(".")
            driver = Driver(transport, session, tls_name, peer, context, tls_session)
            _log.debug("#%d %s: connected", driver.number, peer)
            if tls_mode is TlsMode.IMPLICIT:
                driver.start_tls(deadline)
            elif port == IMPLICIT_TLS_PORT and transport.tls is None:
                _wait_for_greeting(transport, peer, deadline)
            driver.run(
                handshake.handshake(session, starttls=tls_mode is TlsMode.STARTTLS), deadline
            )
        except BaseException as error:
            open_end.close()
            if isinstance(error, OSError) and not isinstance(error, SmtpError) and is_own(error):
                raise as_smtp_error(error, Phase.CONNECT, deadline, peer) from error
            raise
        connection = cls.__new__(cls)
        Operations.__init__(connection, Channel(driver, peer, deadline.timeout), session)
        return connection

    def reset(self, timeout: float | None = None) -> None:
        """Say RSET: abort whatever transaction is under way (RFC 5321 4.1.1.5)."""
        self._operate(single_command.reset(self._session), timeout, Phase.RSET)

    def noop(self, timeout: float | None = None) -> None:
        """Say NOOP: is the server still there (RFC 5321 4.1.1.9)? Servers punish many of them."""
        self._operate(single_command.noop(self._session), timeout, Phase.NOOP)

    def rehlo(self, timeout: float | None = None) -> None:
        """Ask again what the server offers, for instance after logging in (RFC 5321 4.1.4)."""
        self._operate(handshake.hello(self._session), timeout, Phase.EHLO)

    def vrfy(self, address: str, timeout: float | None = None) -> SmtpResponse:
        """Ask whether an address exists (RFC 5321 3.5); most servers answer 252: they do not say.

        Returns:
            The server's reply, whatever it is: 250 or 251, 252, a 5xx such as 550 (no such
            address) or 502 (the server does not answer this), a 4xx.

        Raises:
            TransientError: 421, the server closes the connection.
            SmtpUtf8RequiredError: it is not ASCII and the server does not offer SMTPUTF8; a domain
                alone is sent in A-labels then.
        """
        return self._operate(
            single_command.ask(self._session, Phase.VRFY, address), timeout, Phase.VRFY
        )

    def expn(self, list_name: str, timeout: float | None = None) -> SmtpResponse:
        """Ask who is on a mailing list (RFC 5321 3.5); raises as `vrfy`."""
        return self._operate(
            single_command.ask(self._session, Phase.EXPN, list_name), timeout, Phase.EXPN
        )

    def help(self, topic: str | None = None, timeout: float | None = None) -> SmtpResponse:
        """Ask for help, on a topic or at all (RFC 5321 4.1.1.8); raises as `vrfy`."""
        return self._operate(
            single_command.ask(self._session, Phase.HELP, topic or ""), timeout, Phase.HELP
        )

    def set_ehlo_domain(self, domain: str) -> None:
        """Name ourselves ``domain`` from the next `rehlo` on.

        Raises:
            ProtocolError: it is empty, no ASCII domain and no address literal; a `ValidationError`
                as well.
        """
        try:
            check_ehlo_domain(domain)
        except ValidationError as error:
            raise ProtocolError(str(error), phase=Phase.EHLO, cause=error) from None
        self._session.ehlo_domain = domain

    def quit(self, timeout: float | None = None) -> None:
        """Say QUIT, wait for the answer and close (RFC 5321 4.1.1.10).

        A server that does not answer it well is no error: everything acknowledged before stays so.

        Raises:
            SmtpTimeoutError: another thread's operation did not end in time; nothing was done.
        """
        self._channel.quit(single_command.quit_(self._session), self._channel.deadline(timeout))

    def quit_nowait(self) -> None:
        """Say QUIT, close without waiting for the answer; never fails, hardly ever waits."""
        try:
            self._channel.quit(
                single_command.quit_(self._session, wait=False), Deadline(QUIT_NOWAIT_TIMEOUT)
            )
        except SmtpTimeoutError:
            self.close()  # another thread is busy with it; closing ends that

    def close(self) -> None:
        """Close at once, without QUIT; an operation of another thread ends with an error."""
        self._channel.close()

    def probe(self) -> bool:
        """Whether the connection is good as far as can be told without a round trip.

        Reads what the server may have sent while nobody listened; a 421, anything else unasked for
        or the end of the stream closes the connection. True while another thread uses it.
        """
        return self._channel.probe()

    def close_after_fork(self) -> None:
        """Close the descriptor and nothing else: for a forked child, whose parent goes on."""
        self._channel.close_after_fork()

    @property
    def capabilities(self) -> ServerCapabilities:
        """What the server offered last."""
        return self._session.capabilities

    @property
    def greeting(self) -> SmtpResponse:
        """The server's first reply, a 220 with its name and often its software (RFC 5321 4.3.1).

        With STARTTLS it came before TLS, and somebody on the way may have written it.
        """
        greeting = self._session.greeting
        assert greeting is not None  # there is no connection without one
        return greeting

    @property
    def is_shutting_down(self) -> bool:
        """Whether the server has said 421."""
        return self._channel.driver.shutdown_reply is not None

    @property
    def is_authenticated(self) -> bool:
        """Whether a login succeeded."""
        return self._session.is_authenticated

    @property
    def auth_mechanism(self) -> str | None:
        """The name of the mechanism that logged in, such as ``SCRAM-SHA-256``; None before."""
        return self._session.auth_mechanism

    @property
    def is_open(self) -> bool:
        """Whether it can still be used, as far as is known."""
        return self._channel.is_open

    @property
    def is_idle(self) -> bool:
        """Whether it is open and no operation is under way, in this or another thread."""
        return self._channel.is_idle

    @property
    def prefers_chunking(self) -> bool:
        """Whether BDAT saves a turn: `Pipelining.EAGER`, over SMTP, and CHUNKING is offered."""
        session = self._session
        return (
            session.pipelining is Pipelining.EAGER
            and session.protocol is Protocol.SMTP
            and session.may_pipeline
            and session.capabilities.supports_chunking
        )

    @property
    def transactions(self) -> int:
        """How many mail transactions were begun on it."""
        return self._session.transactions

    @property
    def timeout(self) -> float:
        """Seconds for an operation that names no timeout."""
        return self._channel.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        Deadline(seconds)
        self._channel.timeout = seconds

    @property
    def protocol(self) -> Protocol:
        """SMTP or LMTP."""
        return self._session.protocol

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS socket, to ask for version, cipher and certificate; None in clear."""
        return self._channel.driver.transport.tls

    @property
    def tls_info(self) -> TlsInfo | None:
        """TLS version, cipher and the server's certificate; None in clear and when closed."""
        tls = self.tls
        return TlsInfo.from_socket(tls) if tls is not None and self.is_open else None

    def __repr__(self) -> str:
        state = self._channel.unless_busy(self._describe) or "<locked>"
        return f"<SmtpConnection {self._channel.peer} {self.protocol} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an SmtpConnection is neither pickled nor copied: it holds a socket")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Whatever was interrupted is over; but a refusal is no reason to leave without a word.
        if kind is None or issubclass(kind, Exception):
            try:
                self.quit(min(QUIT_TIMEOUT, self._channel.timeout))
            except (SmtpTimeoutError, ProtocolError):
                # Another thread is busy with it, or an iterator of send_many was left in the
                # middle; closing ends that.
                pass
        self.close()

    def _operate(self, exchange: Exchange[T], timeout: float | None, phase: Phase) -> T:
        return self._channel.operate(exchange, self._channel.deadline(timeout), phase)

    @property
    def _quirks(self) -> ServerQuirks:
        """What is learnt of the server; for the pool."""
        return self._session.quirks

    def _share(self, quirks: ServerQuirks) -> None:
        """Know, and tell, what a pool's other connections to the server learn; for `Connector`."""
        self._session.quirks = quirks

    def _describe(self) -> str:
        if not self._channel.driver.transport.is_open:
            return f"closed: {self._channel.driver.closed_because}"
        tls = self._channel.driver.transport.tls
        return " ".join(
            (
                (tls.version() or "TLS") if tls is not None else "clear",
                "authenticated" if self.is_authenticated else "anonymous",
                *(printable(str(extension)) for extension in self.capabilities.extensions),
            )
        )


def _wait_for_greeting(transport: Transport, peer: str, deadline: Deadline) -> None:
    """Wait for a first octet in clear where TLS is usual, and not until the deadline.

    Raises:
        SmtpTimeoutError: there was none.
    """
    seconds = min(GREETING_TIMEOUT, deadline.check(Phase.GREETING))
    try:
        transport.wait(Deadline(seconds), write=False)
    except TimeoutError:
        raise SmtpTimeoutError(
            f"{peer} said nothing within {seconds:.3g} seconds", phase=Phase.GREETING
        ) from None


def _new_session(protocol: Protocol, options: ConnectOptions) -> SessionState:
    """The memory of a session that is about to begin; "" for a name that is not known yet."""
    ehlo_domain = options.get("ehlo_domain")
    if ehlo_domain is not None:
        check_ehlo_domain(ehlo_domain)
    check_flag("allow_cleartext_auth", options.get("allow_cleartext_auth", False))
    return SessionState(
        protocol=protocol,
        pipelining=options.get("pipelining", Pipelining.AUTO),
        ignore_extensions=extension_names(options.get("ignore_extensions", ())),
        ehlo_domain=ehlo_domain or "",
    )
