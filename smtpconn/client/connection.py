"""`SmtpConnection`: one SMTP or LMTP session, usable from any thread.

Every method is one operation: it makes an exchange (`smtpconn.protocol`) and gives it to the
connection's `smtpconn.client.channel`, which runs one operation at a time under one deadline. Bytes
are moved by `smtpconn.client.driver`; how a connection is opened is in `smtpconn.client.connect`.

All ways of sending end in `_send`, all logins in `smtpconn.client.login`.

A connection is never reconnected: once closed it stays closed.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NoReturn, Self, TypeVar, Unpack

from smtpconn.auth.credentials import Credentials, check_credentials
from smtpconn.auth.mechanisms import (
    CramMd5,
    External,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
    check_credential,
)
from smtpconn.client.channel import Channel
from smtpconn.client.connect import open_channel
from smtpconn.client.login import Authenticator
from smtpconn.client.options import ConnectOptions, check_ehlo_domain, check_tls_mode
from smtpconn.client.send_many import EnvelopeSource, OutcomeIterator
from smtpconn.model.addresses import ReversePath
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.content import Message
from smtpconn.model.email_message import AnyMessage
from smtpconn.model.errors import (
    Phase,
    ProtocolError,
    SmtpTimeoutError,
    ValidationError,
)
from smtpconn.model.modes import Pipelining, Protocol, TlsMode
from smtpconn.model.parameters import MailFromParams, RcptToParams
from smtpconn.model.replies import SmtpResponse, printable
from smtpconn.model.results import AnyOutcome, Envelope, LmtpSendResult, Recipients, SendResult
from smtpconn.model.secret import Secret
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.tls import TlsInfo
from smtpconn.protocol import handshake, pipelined, single_command
from smtpconn.protocol.envelope_probe import envelope_probe
from smtpconn.protocol.exchange import Exchange
from smtpconn.protocol.mail_request import (
    MailRequest,
    MessageRequest,
    check_items,
    make_message_request,
    make_request,
)
from smtpconn.protocol.quirks import ServerQuirks
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import lmtp_transaction, transact, transaction

QUIT_TIMEOUT = 2.0
"""Seconds that leaving a ``with`` block waits for the reply to QUIT."""

QUIT_NOWAIT_TIMEOUT = 0.1
"""Seconds that `SmtpConnection.quit_nowait` may take to write QUIT."""

T = TypeVar("T")
Result = TypeVar("Result", bound=SendResult)


class SmtpConnection:
    """One SMTP session over TCP, TLS or a UNIX socket; get one from `connect`.

    Every method may be called from any thread. ``timeout`` is in seconds and for the whole
    operation, waiting for other threads' operations included; None means the one given to
    `connect`. Every method may raise `SmtpTimeoutError`, `ConnectionClosedError`,
    `TransportError`, `TlsError` and `ProtocolError`, after which the connection is closed. After
    a refusal (`ResponseError`, `AllRecipientsFailedError`) it stays usable.

    Calling the class raises `TypeError`, with any ``given`` and ``options``: use `connect`.
    """

    _channel: Channel
    _session: SessionState

    def __init__(self, *given: object, **options: object) -> None:
        """Always refused: use `connect` or `connect_lmtp`.

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
        """Connect, start TLS as ``tls_mode`` says, send EHLO (RFC 5321 3.1, RFC 3207, RFC 8314).

        Args:
            host: a name, an IP address, or the path of a UNIX socket (begins with "/").
            port: 1 to 65535; 465 is usual for IMPLICIT, 587 for STARTTLS, 25 between servers.
            tls_mode: how the connection is protected.
            timeout: seconds for all of connecting, and for later operations by default.
            tls_context: TLS settings. None checks that the certificate is for ``host`` and trusts
                the authorities of ``cafile``; without it those in the environment's
                ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``; without these the system's and certifi's.
            ehlo_domain: the client's name in EHLO, a domain or an address literal; None for this
                machine's full name if it has one, else its address.
            source_address: the local (address, port) to connect from, port 0 for any.
            pipelining: how many commands are sent before their replies have come.
            ignore_extensions: keywords to treat as if the server had not offered them.
            allow_cleartext_auth: allow passwords to be sent without TLS to other machines.
            socket_factory: called with host, port and the seconds left instead of connecting,
                for a proxy; returns a connected socket.
            tls_session: the `ssl.SSLSession` of an earlier connection with the same settings
                (``connection.tls.session``), which is resumed if the server agrees; that saves
                time. A session of another context is not offered. If the handshake fails, it is
                repeated once without the session, on a new connection.
            tls_server_name: the name in the server's certificate, if it is not ``host``.
            cafile: a PEM file with the only authorities to trust.

        Raises:
            ValidationError: an invalid argument; nothing was sent.
            TransportError, TlsError, SmtpTimeoutError, ConnectionClosedError: connecting failed.
            StartTlsUnavailableError: STARTTLS was asked for and is not offered.
            TransientError, PermanentError: the server refused the connection or EHLO.
            ProtocolError: the peer does not speak SMTP.
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
        connection = cls.__new__(cls)
        connection._channel, connection._session = open_channel(
            protocol, host, port, tls_mode, deadline, context, options
        )
        return connection

    def auth_plain(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with PLAIN (RFC 4616).

        Args:
            user, password: text that is sent as UTF-8.

        Raises:
            AuthError: refused; ``is_transient`` tells a 454 from a 535.
            UnsupportedExtensionError: not offered.
            ProtocolError: already logged in, or not over TLS (nothing was sent).
            ValidationError: a NUL character in an argument.
        """
        secret = Secret.of(password)
        del password
        self._log_in(Plain(user, secret), timeout)

    def auth_plain_with_authzid(
        self, authzid: str, user: str, password: str, timeout: float | None = None
    ) -> None:
        """Log in with PLAIN as ``user`` to act as ``authzid``; raises as `auth_plain`.

        Args:
            authzid: not empty (RFC 4616 2); to act as ``user`` there is `auth_plain`.
            user, password: text that is sent as UTF-8.
            timeout: seconds.
        """
        secret = Secret.of(password)
        del password
        check_credential("authzid", authzid, may_be_empty=False)
        self._log_in(Plain(user, secret, authzid), timeout)

    def auth_login(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with LOGIN, the only mechanism of some servers; raises as `auth_plain`."""
        secret = Secret.of(password)
        del password
        self._log_in(Login(user, secret), timeout)

    def auth_cram_md5(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with CRAM-MD5 (RFC 2195), which hides the password; raises as `auth_plain`."""
        secret = Secret.of(password)
        del password
        self._log_in(CramMd5(user, secret), timeout)

    def auth_scram(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with the strongest SCRAM the server offers, with -PLUS under TLS (RFC 5802).

        Needs the extra ``scram``. The server, too, must prove that it knows the password.

        Raises:
            ProtocolError: the server's proof is wrong, or the extra is missing.
            SmtpError: as `auth_plain`.
        """
        secret = Secret.of(password)
        del password
        deadline = self._channel.deadline(timeout)
        Authenticator(self._channel, self._session).log_in_by_scram(user, secret, deadline)

    def auth_external(self, authzid: str = "", timeout: float | None = None) -> None:
        """Log in by the TLS client certificate (RFC 4422 A); raises as `auth_plain`."""
        self._log_in(External(authzid), timeout)

    def auth_xoauth2(self, user: str, token: str, timeout: float | None = None) -> None:
        """Log in with a bearer token in Google's and Microsoft's form; raises as `auth_plain`.

        The server's explanation of a refusal is in the `AuthError`.
        """
        secret = Secret.of(token)
        del token
        self._log_in(XOAuth2(user, secret), timeout)

    def auth_oauthbearer(self, token: str, timeout: float | None = None) -> None:
        """Log in with a bearer token (RFC 7628); raises as `auth_xoauth2`."""
        secret = Secret.of(token)
        del token
        self._log_in(OAuthBearer(secret), timeout)

    def authenticate(self, credentials: Credentials, timeout: float | None = None) -> None:
        """Log in with the strongest mechanism both sides have; raises as `auth_plain`.

        If the server does not support it despite its offer, the next one is tried;
        `smtpconn.auth.credentials.LoginPlan` says when else another one may follow. If the token
        of `OAuthCredentials` comes from a function and is refused with 535, the function is called
        once more for a new one.

        Args:
            credentials: who logs in; their ``mechanisms``, if given, are the only ones used.
            timeout: seconds for all attempts together.

        Raises:
            TransportError: the token function raised an Exception, which is the cause.
        """
        check_credentials(credentials)
        self._log_in_as(credentials, credentials.mechanisms, timeout)

    def _log_in_as(
        self,
        credentials: Credentials | None,
        mechanisms: Sequence[str] | None,
        timeout: float | Deadline | None,
    ) -> None:
        """Log in with one of ``mechanisms``, None for any; without credentials with EXTERNAL."""
        deadline = self._channel.deadline(timeout)
        Authenticator(self._channel, self._session).log_in(credentials, mechanisms, deadline)

    def _log_in(self, mechanism: SaslMechanism, timeout: float | Deadline | None) -> None:
        deadline = self._channel.deadline(timeout)
        Authenticator(self._channel, self._session).log_in_with(mechanism, deadline)

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
            recipients: one address, or an iterable of addresses, but no mapping.
            message: bytes, a binary file or an iterable of bytes. Line ends become CRLF; nothing
                else is changed, not even lines of more than 998 bytes.

        Raises:
            ValidationError: an address or message that may not be sent; nothing was sent.
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
        return self._send(transaction(self._session, request), request, deadline)

    def send_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message with BDAT (RFC 3030); arguments as `send`.

        With ``params.body`` BINARYMIME the bytes are sent unchanged.

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
        exchange = transaction(self._session, request, chunking=True)
        return self._send(exchange, request, deadline)

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
        after some of the replies came, the results of the others have no response: unknown.

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
        return self._send(lmtp_transaction(self._session, request), request, deadline)

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
        exchange = lmtp_transaction(self._session, request, chunking=True)
        return self._send(exchange, request, deadline)

    def send_message(
        self,
        message: AnyMessage,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message of the email package over SMTP or LMTP.

        Over LMTP the result is an `LmtpSendResult`.

        Args:
            message: an `email.message.EmailMessage`, or one of the older API. It is not changed,
                and several threads may send it at once. Bcc is removed from what is sent. Missing
                Date and Message-ID are added. Parts with eight-bit content are encoded if the
                server does not offer 8BITMIME, and parts with lines of more than 998 bytes always.
            sender, recipients: None for those in the headers (Sender or From; To, Cc and Bcc; or
                their Resent- forms).

        Raises:
            ValidationError: the headers have no address, or one that may not be sent.
            SmtpUtf8RequiredError: an address is not ASCII and the server does not offer SMTPUTF8.
            SmtpError: as `send`.
        """
        deadline = self._channel.deadline(timeout)
        made = make_message_request(message, sender, recipients)
        request = made.for_server(self._session.capabilities)
        return self._send(transact(self._session, request), request, deadline)

    def try_envelope(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        mail_params: MailFromParams | None = None,
        rcpt_params: Sequence[RcptToParams] | None = None,
        timeout: float | None = None,
    ) -> tuple[SmtpResponse, ...]:
        """Ask whether the server would accept mail: MAIL and RCPT, then RSET, and no message.

        Args:
            sender, recipients, mail_params, rcpt_params: as `send_with_all_params`; without any
                recipient only the sender is tried.

        Returns the server's replies to the recipients, in the order given. A 2xx is no promise:
        many servers check more once they have the message.

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
        """Send many messages in as few round trips as the server allows; failures do not end it.

        With PIPELINING one round trip per message (RFC 2920 3.1); with `Pipelining.EAGER` and
        CHUNKING far fewer. Works over LMTP too. No other operation runs on the connection until the
        iterator ends. An iterator that is closed early closes the connection if the server was
        waiting for the rest of a message.

        Args:
            envelopes: what to send, envelopes or messages of the email package; may be a generator.
                It is read ahead of the outcomes, and an envelope may wait for the next one before
                it is sent, so the generator should yield what is ready: under `Pipelining.EAGER`
                up to 32 short ones are taken before any of them is sent, and those taken before
                may wait with them. A message that is a file or an iterable was read to its end
                when the next envelope is requested.
            timeout: seconds for each message from its first byte to its final reply, without the
                time spent in ``envelopes`` and in the code that takes the outcomes.

        Yields:
            One outcome per envelope, in their order. After the connection was lost each further
            outcome has a `ConnectionClosedError`.

        An exception of other code (a signal handler, Ctrl-C) is raised by ``next`` unchanged and
        ends the sending: the connection is closed and no further envelope is taken. The iterator
        can still be used: a new ``for`` over it, or ``list`` of it, yields the outcomes of the
        envelopes that were taken. Each says, by the replies that had come, whether its message was
        delivered, was not, or may have been.

        Raises:
            SmtpError: the connection could not be used at all; nothing was sent.
            TypeError: an item is no envelope and no message; no item after it is taken.
            Exception: what ``envelopes`` raised, after the outcomes of the items before.
        """
        check_items(envelopes)
        deadline = StreamDeadline(self._channel.timeout if timeout is None else timeout)
        source = EnvelopeSource(
            envelopes, self._session, deadline, self._watch_source, self._channel.driver.mark_idle
        )
        exchange = pipelined.stream(self._session, source.requests())
        return OutcomeIterator(self._channel.stream(exchange, deadline, Phase.MAIL), source)

    def send_request(self, request: MailRequest | MessageRequest, deadline: Deadline) -> SendResult:
        """Send a checked request over LMTP or SMTP, with BDAT or DATA; for the pool, after `probe`.

        BDAT is used only for BINARYMIME and where it saves a round trip, not wherever it is offered
        (`smtpconn.protocol.quirks.SILENT_BDAT`).

        Args:
            request: from `make_request` or `make_message_request`; the pool may send it again over
                another connection.
            deadline: the deadline of the whole operation.
        """
        session = self._session
        if not isinstance(request, MailRequest):
            request = request.for_server(session.capabilities)
        chunking = request.is_binary or (session.is_eager and self.prefers_chunking)
        exchange = transact(session, request, chunking=chunking)
        return self._send(exchange, request, deadline, is_probed=True)

    def _send(
        self,
        exchange: Exchange[Result],
        request: MailRequest,
        deadline: Deadline,
        *,
        is_probed: bool = False,
    ) -> Result:
        if request.content.is_stream:
            self._watch_source(request, deadline)
        return self._channel.operate(exchange, deadline, Phase.MAIL, is_probed=is_probed)

    def _watch_source(self, request: MailRequest, deadline: Deadline) -> None:
        """Check the deadline between the blocks of a message that is a stream."""
        peer = self._channel.peer
        request.content.on_block = lambda: deadline.check(Phase.CONTENT, peer)

    def reset(self, timeout: float | None = None) -> None:
        """Send RSET: abort the current mail transaction, if any (RFC 5321 4.1.1.5)."""
        self._operate(single_command.reset(self._session), timeout, Phase.RSET)

    def noop(self, timeout: float | None = None) -> None:
        """Send NOOP, to check that the server replies (RFC 5321 4.1.1.9).

        Some servers close a connection after several NOOPs.
        """
        self._operate(single_command.noop(self._session), timeout, Phase.NOOP)

    def rehlo(self, timeout: float | None = None) -> None:
        """Send EHLO again to refresh `capabilities`, as after a login (RFC 5321 4.1.4)."""
        self._operate(handshake.hello(self._session), timeout, Phase.EHLO)

    def vrfy(self, address: str, timeout: float | None = None) -> SmtpResponse:
        """Ask whether an address exists (RFC 5321 3.5); most servers reply 252: cannot verify.

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
        """Ask for help, on a topic or in general (RFC 5321 4.1.1.8); raises as `vrfy`."""
        return self._operate(
            single_command.ask(self._session, Phase.HELP, topic or ""), timeout, Phase.HELP
        )

    def set_ehlo_domain(self, domain: str) -> None:
        """Use ``domain`` as the client's name from the next `rehlo` on.

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
        """Send QUIT, wait for the reply and close (RFC 5321 4.1.1.10).

        A wrong or missing reply is no error: it cannot undo what was acknowledged before.

        Raises:
            SmtpTimeoutError: another thread's operation did not end in time; nothing was done.
        """
        self._channel.quit(single_command.quit_(self._session), self._channel.deadline(timeout))

    def quit_nowait(self) -> None:
        """Send QUIT and close without waiting for the reply; never fails, takes 0.1 s at most."""
        try:
            self._channel.quit(
                single_command.quit_(self._session, wait=False), Deadline(QUIT_NOWAIT_TIMEOUT)
            )
        except SmtpTimeoutError:
            self.close()  # another thread uses the connection; this ends its operation

    def close(self) -> None:
        """Close at once, without QUIT; an operation of another thread ends with an error."""
        self._channel.close()

    def probe(self) -> bool:
        """Whether the connection is usable, as far as that can be told without a round trip.

        Reads what the server may have sent since the last operation; a 421, any other unexpected
        data or the end of the stream closes the connection. True while another thread uses it.
        """
        return self._channel.probe()

    def close_after_fork(self) -> None:
        """Close only the descriptor: for a forked child, whose parent still uses the connection."""
        self._channel.close_after_fork()

    @property
    def capabilities(self) -> ServerCapabilities:
        """The extensions the server offered in its last reply to EHLO."""
        return self._session.capabilities

    @property
    def greeting(self) -> SmtpResponse:
        """The server's first reply, a 220 with its name and often its software (RFC 5321 4.3.1).

        With STARTTLS it came before TLS, so an attacker may have forged it.
        """
        greeting = self._session.greeting
        assert greeting is not None  # there is no connection without one
        return greeting

    @property
    def is_shutting_down(self) -> bool:
        """Whether the server has sent 421."""
        return self._channel.shutdown_reply is not None

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
        """Whether it is open and no operation is running, in this or another thread."""
        return self._channel.is_idle

    @property
    def prefers_chunking(self) -> bool:
        """Whether BDAT saves a round trip: over SMTP, `Pipelining.EAGER`, CHUNKING offered."""
        session = self._session
        return (
            session.pipelining is Pipelining.EAGER
            and session.protocol is Protocol.SMTP
            and session.may_pipeline
            and session.capabilities.supports_chunking
        )

    @property
    def transactions(self) -> int:
        """How many mail transactions were started on the connection."""
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
        """The TLS socket, for its version, cipher and certificate; None without TLS."""
        return self._channel.tls

    @property
    def tls_info(self) -> TlsInfo | None:
        """TLS version, cipher and the server's certificate; None without TLS or when closed."""
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
        # QUIT after ordinary exceptions, not after KeyboardInterrupt.
        if kind is None or issubclass(kind, Exception):
            try:
                self.quit(min(QUIT_TIMEOUT, self._channel.timeout))
            except (SmtpTimeoutError, ProtocolError):
                # Another thread uses the connection, or an iterator of send_many was not read to
                # its end. Closing ends both.
                pass
        self.close()

    def _operate(self, exchange: Exchange[T], timeout: float | None, phase: Phase) -> T:
        return self._channel.operate(exchange, self._channel.deadline(timeout), phase)

    @property
    def _quirks(self) -> ServerQuirks:
        """What was learnt about the server; for the pool."""
        return self._session.quirks

    def _share(self, quirks: ServerQuirks) -> None:
        """Share ``quirks`` with a pool's other connections to the server; for its `Connector`."""
        self._session.quirks = quirks

    def _describe(self) -> str:
        if closed_because := self._channel.closed_because:
            return f"closed: {closed_because}"
        tls = self._channel.tls
        return " ".join(
            (
                (tls.version() or "TLS") if tls is not None else "clear",
                "authenticated" if self.is_authenticated else "anonymous",
                *(printable(str(extension)) for extension in self.capabilities.extensions),
            )
        )
