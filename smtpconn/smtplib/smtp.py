"""`SMTP`: the class of the standard library's ``smtplib`` over smtpconn.

It is a subclass of the standard library's class, with the same signatures, attributes and return
values, and overrides everything that uses the connection. Commands go through
`smtpconn.smtplib.connection`; `sendmail` uses the same transaction as the rest of smtpconn.

An object is in one of three states:

* *real*: it has a connection of its own, as in ``smtplib``;
* *planned*: it is pooled, and has no connection yet (`_plan` describes the one it needs);
* *borrowed*: it is pooled, and holds a connection from a pool until it is closed.

Raw commands, access to the socket, a login by the caller's own function and an open transaction
leave the connection in an unknown state. It is then closed instead of returned to its pool.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.message import Message
from types import TracebackType
from typing import IO, Any, NoReturn, Self, TypeVar, cast

from smtpconn.auth.credentials import PasswordCredentials
from smtpconn.client.options import default_ehlo_domain
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.content import Content
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    PoolClosedError,
    ProtocolError,
    RetryableError,
    SmtpError,
    StartTlsUnavailableError,
    TransportError,
)
from smtpconn.model.modes import Protocol
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import open_socket
from smtpconn.protocol import raw_command
from smtpconn.protocol.mail_request import MailRequest
from smtpconn.protocol.transaction import transact
from smtpconn.smtplib import settings
from smtpconn.smtplib.connection import CommandConnection
from smtpconn.smtplib.errors import Translated, as_smtplib, refused, with_given_addresses
from smtpconn.smtplib.paths import (
    forward_path,
    mail_options,
    rcpt_words,
    refuse_line_ends,
    reverse_path,
)
from smtpconn.smtplib.pool_key import Address, Key, credential_hash
from smtpconn.smtplib.pools import Borrowed, Pools
from smtpconn.smtplib.replies import Reply, pair, response_of, text_of
from smtpconn.smtplib.sendmail import AnyResult, envelope_of, make_request, refused_recipients
from smtpconn.smtplib.server import Server
from smtpconn.smtplib.values import (
    addr_only,
    answer_bytes,
    as_bytes,
    features,
    serialised,
)

T = TypeVar("T")

DEFAULT_TIMEOUT: Any = cast(Any, socket)._GLOBAL_DEFAULT_TIMEOUT

UNLIMITED = 600.0
"""Seconds for an operation if there is no timeout: the longest one in RFC 5321 4.5.3.2."""

_MAX_CHALLENGES = 5
_BEFORE_CONTENT = frozenset({Phase.IDLE, Phase.RSET, Phase.MAIL, Phase.RCPT, Phase.DATA})
_LOGIN_METHODS = ("auth", "auth_cram_md5", "auth_plain", "auth_login")
_GOODBYE = SmtpResponse(221, ("Bye",))


@dataclass(frozen=True, slots=True)
class _Plan:
    """The settings of a pooled object that has no connection yet.

    Attributes:
        pools, server: where its connection will come from.
        context: the current TLS context; None without TLS.
        has_own_context: whether the context was given by the caller.
    """

    pools: Pools
    server: Server
    context: ssl.SSLContext | None
    has_own_context: bool


class SMTP(smtplib.SMTP):
    """``smtplib.SMTP`` over smtpconn; the methods are documented there.

    Args:
        host, port, local_hostname, timeout, source_address: as ``smtplib.SMTP`` takes them.
            ``timeout`` limits each operation as a whole.
        pool: the pools to borrow a connection from; None for those of `pooled`, if it was called;
            False for no pool.

    Raises:
        SmtpError: where ``smtplib.SMTP`` raises an error; it is also an instance of the class that
            ``smtplib`` raises, or of the operating system's.
    """

    _connection: CommandConnection | None = None
    _borrowed: Borrowed | None = None
    _plan: _Plan | None = None
    _plan_of_borrowed: _Plan | None = None
    _ehlo_name = ""
    _pool: Pools | bool | None = None
    source_address: tuple[str, int] | None
    _server_address: tuple[str, int] = ("", 0)
    _uses = 0
    _has_open_transaction = False
    _is_tainted = False
    _gives_out_socket = False
    _accepted = 0
    _login: bytes | None = None
    _offered_auth: str | None = None

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        local_hostname: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        source_address: tuple[str, int] | None = None,
        *,
        pool: Pools | bool | None = None,
    ) -> None:
        if pool not in (None, False) and not isinstance(pool, Pools):
            raise TypeError(f"pool is what Pools() or pooled() returns, not {pool!r:.80}")
        self._host = host
        self._pool = pool
        self.timeout = timeout
        self.esmtp_features = {}
        self.command_encoding = "ascii"
        self.source_address = source_address
        self._auth_challenge_count = 0
        self.local_hostname = local_hostname or default_ehlo_domain("127.0.0.1")
        if host:
            code, message = self.connect(host, port)
            if code != 220:
                self.close()
                raise refused(
                    response_of((code, message)), Phase.GREETING, smtplib.SMTPConnectError
                )
        if local_hostname is None:
            self.local_hostname = self._default_hostname()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        try:
            if exc_type is not None and not issubclass(exc_type, Exception):
                self._is_tainted = True  # the state of the session is unknown
            elif self._is_connected():
                code, message = self._quit()
                if code != 221 and exc_type is None:
                    raise smtplib.SMTPResponseException(code, message)
        except smtplib.SMTPServerDisconnected:
            pass
        finally:
            self.close()

    # Connecting

    def connect(  # type: ignore[override]  # typeshed allows any socket address
        self,
        host: str = "localhost",
        port: int = 0,
        source_address: tuple[str, int] | None = None,
    ) -> Reply:
        """Connect; if pooled, borrow a connection when a command needs it. Returns the greeting."""
        if source_address:
            self.source_address = source_address
        host, port = self._host_and_port(host, port)
        sys.audit("smtplib.connect", self, host, port)
        self._release()
        self._forget_hello()
        self._server_address = (host, port)
        self._timeout_seconds()
        pools = self._pools()
        if pools is not None:
            return self._connect_planned(pools, host, port)
        return self._connect_now(host, port)

    def _host_and_port(self, host: str, port: int | str | None) -> tuple[str, int]:
        if not port and host.find(":") == host.rfind(":") and ":" in host:
            host, _, port = host.partition(":")
        try:
            return host, int(port or 0) or self.default_port
        except ValueError:
            raise OSError("nonnumeric port") from None

    def _connect_planned(self, pools: Pools, host: str, port: int) -> Reply:
        context, has_own = self._first_context()
        address = Address(
            type(self), host, port, self._protocol, self.source_address, context,
            settings.current.allow_cleartext_auth,
        )  # fmt: skip
        server = pools.server(address)
        with Translated():
            greeting = server.get_greeting(lambda: pools.is_alive(address), self._deadline())
        self._show("connect:", f"to {(host, port)}, pooled")
        self._show("reply:", repr(pair(greeting)))
        if greeting.code == 220:
            self._plan = _Plan(pools, server, context, has_own)
        return pair(greeting)

    def _connect_now(self, host: str, port: int) -> Reply:
        deadline = self._deadline()
        with Translated():
            sock = self._get_socket(host, port, self.timeout)
            self._take_over(sock, deadline)
            assert self._connection is not None
            greeting = self._connection.read_greeting(deadline)
        self._show("connect:", repr(text_of(greeting)))
        return pair(greeting)

    def _take_over(self, sock: socket.socket, deadline: Deadline) -> None:
        host, port = self._server_address
        self._connection = CommandConnection.over(
            sock,
            host,
            port,
            self._protocol,
            deadline.timeout,
            is_direct=self._connects_itself(),
            allow_cleartext_auth=settings.current.allow_cleartext_auth,
        )
        self._uses = 0
        self._show_commands(self._connection)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """A connected socket; a subclass may connect differently (IPv4 only, a proxy)."""
        self._show("connect:", f"to {(host, port)} {self.source_address}")
        return open_socket(host, port, self._deadline(), self.source_address)

    def _first_context(self) -> tuple[ssl.SSLContext | None, bool]:
        """The context for TLS from the first byte, and whether it was given by the caller."""
        return None, False

    @property
    def _protocol(self) -> Protocol:
        return Protocol.LMTP if self.ehlo_msg == "lhlo" else Protocol.SMTP

    def _pools(self) -> Pools | None:
        """The pools to use; None without pools, or if a subclass connects differently."""
        chosen = settings.current.pools if self._pool is None else self._pool
        if not isinstance(chosen, Pools) or chosen.is_closed:
            return None
        return chosen if self._connects_itself() else None

    def _connects_itself(self) -> bool:
        """Whether `_get_socket` is this package's, not overridden by a subclass."""
        home = getattr(type(self)._get_socket, "__module__", "")
        return "_get_socket" not in vars(self) and home.startswith(f"{__package__}.")

    # The session

    def helo(self, name: str = "") -> Reply:
        """Send HELO."""
        connection = self._require_raw_connection()
        reply = self._hello(connection, "helo", name or self.local_hostname)
        self.helo_resp = text_of(reply)
        return pair(reply)

    def ehlo(self, name: str = "") -> Reply:
        """Send EHLO or LHLO; if pooled, a remembered reply may be returned instead."""
        name = name or self.local_hostname
        self.esmtp_features = {}
        if self._starttls_may_be_stripped():
            self._replan()
        plan = self._plan
        if plan is not None:
            self._check_hello(self.ehlo_msg, name)
            with Translated():
                answer = plan.server.hello(plan.context, self.ehlo_msg, name, self._deadline())
            if isinstance(answer, SmtpResponse):
                self._show("reply:", repr(pair(answer)))
                self._ehlo_name = name
                return self._note_hello(answer)
            self._become_real(answer)
            assert answer.last_reply is not None
            return self._note_hello(answer.last_reply)
        if self._borrowed is not None and name != self._borrowed.connection.ehlo_name:
            self._is_tainted = True
        return self._note_hello(self._hello(self._require_connection(), self.ehlo_msg, name))

    def _hello(self, connection: CommandConnection, verb: str, name: str) -> SmtpResponse:
        self._check_hello(verb, name)
        return self._run(lambda: connection.send_hello(verb, name, self._deadline()))

    def _check_hello(self, verb: str, name: str) -> None:
        refuse_line_ends(f"{verb} {name}")
        name.encode("ascii")

    def _note_hello(self, reply: SmtpResponse) -> Reply:
        self.ehlo_resp = text_of(reply)
        if reply.code == 250:
            self.does_esmtp = True
            self.esmtp_features = features(ServerCapabilities.from_ehlo(reply))
            self._offered_auth = self.esmtp_features.get("auth")
        return pair(reply)

    def _forget_hello(self) -> None:
        self.helo_resp = self.ehlo_resp = cast(Any, None)
        self.esmtp_features = {}
        self.does_esmtp = False
        self._ehlo_name = ""

    def ehlo_or_helo_if_needed(self) -> None:
        """Send EHLO, or HELO if the server refuses it, unless that was done before."""
        if self.helo_resp is None and self.ehlo_resp is None and not 200 <= self.ehlo()[0] <= 299:
            code, message = self.helo()
            if not 200 <= code <= 299:
                raise refused(response_of((code, message)), Phase.EHLO, smtplib.SMTPHeloError)

    def has_extn(self, opt: str) -> bool:
        """Whether the server offers an extension."""
        if opt.lower() == "starttls" and self._starttls_may_be_stripped():
            self.ehlo(self._hello_name())
        return super().has_extn(opt)

    def _starttls_may_be_stripped(self) -> bool:
        """Whether only an EHLO reply to an earlier object says that STARTTLS is not offered.

        That reply came without TLS, so an attacker may have removed STARTTLS from it. This object
        then sends EHLO on another connection.
        """
        connection, borrowed = self._connection, self._borrowed
        return (
            borrowed is not None
            and connection is not None
            and borrowed.was_reused
            and self._is_returnable()
            and self._login is None
            and connection.tls is None
            and not connection.capabilities.supports_starttls
        )

    def _start_tls(self, context: ssl.SSLContext, *, has_own_context: bool) -> Reply:
        if self._borrowed is not None and self._is_returnable():
            self._replan()
        plan = self._plan
        if plan is not None and plan.context is None:
            with Translated():
                reply = plan.server.start_tls(
                    context, self.ehlo_msg, self._hello_name(), self._deadline()
                )
            self._plan = replace(plan, context=context, has_own_context=has_own_context)
        else:
            self.ehlo_or_helo_if_needed()
            if not self.has_extn("starttls"):
                raise as_smtplib(
                    StartTlsUnavailableError("STARTTLS extension not supported by server.")
                )
            connection = self._require_raw_connection()
            reply = self._run(lambda: connection.start_tls(context, self._deadline()))
            if reply.code != 220:
                raise refused(reply, Phase.STARTTLS, smtplib.SMTPResponseException)
        self._forget_hello()
        return pair(reply)

    if sys.version_info >= (3, 12):

        def starttls(self, *, context: ssl.SSLContext | None = None) -> Reply:
            """Put TLS on the connection; without a context the certificate is verified."""
            return self._start_tls(
                context or settings.current.context(), has_own_context=context is not None
            )

    else:

        def starttls(  # type: ignore[override]  # the two overloads as one
            self,
            keyfile: str | None = None,
            certfile: str | None = None,
            context: ssl.SSLContext | None = None,
        ) -> Reply:
            """Put TLS on the connection; without a context the certificate is verified."""
            settings.check_files(context, keyfile, certfile)
            return self._start_tls(
                context or settings.current.context(certfile, keyfile),
                has_own_context=context is not None,
            )

    def login(self, user: str, password: str, *, initial_response_ok: bool = True) -> Reply:
        """Log in with the strongest mechanism that both sides support."""
        is_ours = not any(
            name in vars(self) or getattr(type(self), name) is not getattr(SMTP, name)
            for name in _LOGIN_METHODS
        )
        # A program may have changed `esmtp_features` to choose the mechanism.
        is_chosen = self.esmtp_features.get("auth", self._offered_auth) != self._offered_auth
        if not is_ours or not initial_response_ok or is_chosen:
            return self._log_in_by_methods(user, password, initial_response_ok)
        if self._borrowed is not None and self._is_returnable() and self._login is None:
            self._replan()
        self.user, self.password = user, password
        credentials = PasswordCredentials(user, password)
        credential = credential_hash(user, password)
        if self._plan is not None and self._borrow(credentials):
            reply = self._require_connection().login_reply
            assert reply is not None
        else:
            connection = self._require_connection()
            if self._login == credential:
                return 503, b"already authenticated"
            self.ehlo_or_helo_if_needed()
            if not self.has_extn("auth"):
                raise smtplib.SMTPNotSupportedError("SMTP AUTH extension not supported by server.")
            self._is_tainted = True
            reply = self._run(lambda: connection.log_in(credentials, self._deadline()))
        self._login = credential
        return pair(reply)

    def _log_in_by_methods(self, user: str, password: str, initial_response_ok: bool) -> Reply:
        """Log in with the object's ``auth_*`` methods, in the order of ``smtplib``."""
        self.ehlo_or_helo_if_needed()
        if not self.has_extn("auth"):
            raise smtplib.SMTPNotSupportedError("SMTP AUTH extension not supported by server.")
        offered = self.esmtp_features["auth"].split()
        self.user, self.password = user, password
        failure: smtplib.SMTPException = smtplib.SMTPException(
            "No suitable authentication method found."
        )
        for mechanism in ("CRAM-MD5", "PLAIN", "LOGIN"):
            if mechanism in offered:
                method = getattr(self, "auth_" + mechanism.lower().replace("-", "_"))
                try:
                    return self.auth(mechanism, method, initial_response_ok=initial_response_ok)
                except smtplib.SMTPAuthenticationError as error:
                    failure = error
        raise failure

    def auth(
        self,
        mechanism: str,
        authobject: Callable[..., Any],
        *,
        initial_response_ok: bool = True,
    ) -> Reply:
        """Log in with a mechanism; the function ``authobject`` computes the answers."""
        mechanism = mechanism.upper()
        refuse_line_ends(f"AUTH {mechanism}")
        connection = self._require_raw_connection()
        first = authobject() if initial_response_ok else None
        self._auth_challenge_count = 1 if first is not None else 0

        def answer(challenge: bytes) -> bytes:
            self._auth_challenge_count += 1
            return answer_bytes(authobject(challenge))

        reply = self._run(
            lambda: connection.run(
                lambda session: raw_command.authenticate_with(
                    session,
                    mechanism,
                    None if first is None else answer_bytes(first),
                    answer,
                    _MAX_CHALLENGES,
                ),
                Phase.AUTH,
            )
        )
        if reply.code == 334:
            raise smtplib.SMTPException(
                f"Server AUTH mechanism infinite loop. Last response: {pair(reply)!r}"
            )
        if reply.code in (235, 503):
            return pair(reply)
        raise smtplib.SMTPAuthenticationError(reply.code, text_of(reply))

    # Commands

    def noop(self) -> Reply:
        """Send NOOP."""
        return self._send_command("noop")

    def rset(self) -> Reply:
        """Send RSET."""
        self.command_encoding = "ascii"
        reply = self._send_command("rset")
        if reply[0] == 250:
            self._has_open_transaction = False
        return reply

    def _rset(self) -> None:
        try:
            self.rset()
        except SmtpError:
            pass  # `sendmail` raises its own error; a lost connection makes the next command fail

    def help(self, args: str = "") -> Any:
        """Send HELP."""
        return self._send_command("help", args)[1]

    def verify(self, address: str) -> Reply:
        """Send VRFY."""
        refuse_line_ends(f"vrfy {address}")
        return self._send_command("vrfy", addr_only(address))

    vrfy = verify

    def expn(self, address: str) -> Reply:
        """Send EXPN."""
        refuse_line_ends(f"expn {address}")
        return self._send_command("expn", addr_only(address))

    def mail(self, sender: str, options: Sequence[str] = ()) -> Reply:
        """Send MAIL."""
        words = ""
        self._require_connection()
        if options and self.does_esmtp:
            words = " " + " ".join(options)
            if any(option.lower() == "smtputf8" for option in options):
                if not self.has_extn("smtputf8"):
                    raise smtplib.SMTPNotSupportedError("SMTPUTF8 not supported by server")
                self.command_encoding = "utf-8"
            refuse_line_ends(f"mail{words}")
            mail_options(options)
        text = f"mail from:<{reverse_path(sender)}>{words}"
        text.encode(self.command_encoding)
        self._has_open_transaction = True
        self._accepted = 0
        return self._send_command(text)

    def rcpt(self, recip: str, options: Sequence[str] = ()) -> Reply:
        """Send RCPT."""
        self._require_connection()
        words = rcpt_words(options) if options and self.does_esmtp else ""
        text = f"rcpt to:<{forward_path(recip)}>{words}"
        text.encode(self.command_encoding)
        self._has_open_transaction = True
        reply = self._send_command(text)
        self._accepted += 200 <= reply[0] < 300
        return reply

    def data(self, msg: Any) -> Reply:
        """Send DATA and a message; returns the final reply (LMTP: the highest code)."""
        content = Content(as_bytes(msg))
        content.refuse_nul()
        connection = self._require_connection()
        count = self._accepted if self._protocol is Protocol.LMTP else 1
        if not count:
            raise ProtocolError("DATA without an accepted recipient has no reply in LMTP")
        replies = self._run(
            lambda: connection.run(
                lambda session: raw_command.send_data(session, content, count), Phase.DATA
            )
        )
        if len(replies) == 1:
            raise refused(replies[0], Phase.DATA, smtplib.SMTPDataError)
        self._has_open_transaction = False
        return pair(max(replies[1:], key=lambda reply: reply.code))

    # Sending

    def sendmail(
        self,
        from_addr: str,
        to_addrs: str | Sequence[str],
        msg: Any,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Reply]:
        """Send a message; returns the refused recipients and the reply to each."""
        given = [to_addrs] if isinstance(to_addrs, str) else list(to_addrs)
        data = as_bytes(msg)
        deadline = self._deadline()
        if self._plan is None:
            self.ehlo_or_helo_if_needed()
        else:
            self._borrow(None, deadline)
        if not given:
            raise as_smtplib(AllRecipientsFailedError(()))
        paths = ((forward_path(each), each) for each in given)
        recipients = {text: each for path, each in paths for text in (path.text, path.written)}

        def make(connection: CommandConnection) -> MailRequest:
            options = (mail_options, rcpt_options) if self.does_esmtp else ((), ())
            return make_request(connection.capabilities, from_addr, given, data, *options)

        try:
            result = self._transact(make, deadline)
        except SmtpError as error:
            with_given_addresses(error, from_addr, recipients)
            if isinstance(error, (ResponseError, AllRecipientsFailedError)):
                self._rset()
            raise
        return refused_recipients(result, recipients)

    def _transact(
        self, make: Callable[[CommandConnection], MailRequest], deadline: Deadline
    ) -> AnyResult:
        """Run the transaction; repeat it if a reused connection was dead and that is safe."""
        connection = self._require_connection()
        try:
            return self._run_transaction(connection, make(connection), deadline)
        except SmtpError as error:
            if not self._may_renew(error):
                raise
        assert self._borrowed is not None
        with Translated():
            self._borrowed.renew(deadline)
        connection = self._adopt_borrowed()
        return self._run_transaction(connection, make(connection), deadline)

    def _run_transaction(
        self, connection: CommandConnection, request: MailRequest, deadline: Deadline
    ) -> AnyResult:
        result = self._run(
            lambda: connection.run(lambda session: transact(session, request), Phase.MAIL, deadline)
        )
        self._uses += 1
        self._has_open_transaction = False
        return result

    def send_message(
        self,
        msg: Message,
        from_addr: str | None = None,
        to_addrs: str | Sequence[str] | None = None,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, Reply]:
        """Send a message of the email package, by default to the recipients in its header."""
        if self._plan is not None:
            self._borrow(None)
        self.ehlo_or_helo_if_needed()
        from_addr, to_addrs = envelope_of(msg, from_addr, to_addrs)
        utf8 = not "".join([from_addr, *to_addrs]).isascii()
        if utf8 and not self.has_extn("smtputf8"):
            raise smtplib.SMTPNotSupportedError(
                "One or more source or delivery addresses require internationalized email support, "
                "but the server does not advertise the required SMTPUTF8 capability"
            )
        if utf8:
            mail_options = (*mail_options, "SMTPUTF8", "BODY=8BITMIME")
        flat = serialised(msg, allows_8bit=self.has_extn("8bitmime") or utf8, utf8=utf8)
        return self.sendmail(from_addr, to_addrs, flat, mail_options, rcpt_options)

    # Raw access

    def send(self, s: Any) -> None:
        """Send bytes or text unchanged."""
        connection = self._require_raw_connection()
        data = s.encode(self.command_encoding) if isinstance(s, str) else bytes(s)
        sys.audit("smtplib.send", self, data)
        self._run(lambda: connection.write_bytes(data))

    def putcmd(self, cmd: str, args: str = "") -> None:
        """Send a command; `getreply` reads the reply."""
        text = self._command_line(cmd, args)
        connection = self._require_raw_connection()
        self._run(lambda: connection.write(text))

    def getreply(self) -> Reply:
        """Wait for a reply, and return it."""
        connection = self._require_raw_connection()
        return pair(self._run(connection.read_reply))

    def docmd(self, cmd: str, args: str = "") -> Reply:
        """Send a command and return the reply."""
        text = self._command_line(cmd, args)
        connection = self._require_raw_connection()
        return pair(self._run(lambda: connection.send_command(text)))

    @property
    def sock(self) -> socket.socket | None:
        """The socket; None without a connection. Access ends the reuse of a pooled connection."""
        if self._plan is None and not self._is_connected():
            return None
        connection = self._require_raw_connection()
        if not connection.probe():
            return None
        self._gives_out_socket = True
        sock = connection.sock
        sock.settimeout(self._timeout_seconds())
        return sock

    @sock.setter
    def sock(self, sock: socket.socket | None) -> None:
        features = self.ehlo_resp, self.helo_resp, self.esmtp_features, self.does_esmtp
        if self._connection is None or self._connection.sock is not sock:
            place = self._server_address
            self._release()
            self._server_address = place
            if sock is not None:
                self._gives_out_socket = True
                self._take_over(sock, self._deadline())
        self.ehlo_resp, self.helo_resp, self.esmtp_features, self.does_esmtp = features

    @property
    def file(self) -> IO[bytes] | None:
        """None: only `getreply` reads replies."""
        return None

    @file.setter
    def file(self, file: object) -> None:
        """Changes nothing; programs set it to None after they have replaced `sock`."""

    # Ending

    def close(self) -> None:
        """Close the connection, or return it to its pool."""
        self._release()

    def quit(self) -> Reply:
        """Send QUIT and close the connection, or return it to its pool."""
        if not self._is_connected():
            self._not_connected()
        try:
            reply = self._quit()
        except BaseException:
            self._release()
            raise
        self._release()
        self._forget_hello()
        return reply

    # Internals

    def _is_connected(self) -> bool:
        if self._plan is not None:
            return True
        return self._connection is not None and self._connection.is_open

    def _quit(self) -> Reply:
        """Send QUIT, unless the connection is returned to its pool."""
        connection = self._connection
        if self._plan is not None or (self._borrowed is not None and self._is_returnable()):
            return pair(_GOODBYE)
        if connection is None:
            self._not_connected()
        return pair(self._run(lambda: connection.send_command("quit")))

    def _release(self) -> None:
        """Return or close the connection."""
        connection, self._connection = self._connection, None
        borrowed, self._borrowed = self._borrowed, None
        plan, self._plan = self._plan, None
        keep = not (self._has_open_transaction or self._is_tainted)
        self._has_open_transaction = self._is_tainted = self._gives_out_socket = False
        self._login = None
        if borrowed is not None:
            borrowed.release(keep=keep)
        elif connection is not None:
            connection.close()
        elif plan is not None:
            plan.server.close()

    def _is_returnable(self) -> bool:
        connection = self._connection
        return (
            not (self._has_open_transaction or self._is_tainted)
            and connection is not None
            and connection.is_open
        )

    def _replan(self) -> None:
        """Return the connection to its pool; the object is *planned* again."""
        borrowed, self._borrowed = self._borrowed, None
        assert borrowed is not None
        self._connection = None
        self._plan = self._plan_of_borrowed
        borrowed.release(keep=True)

    def _require_connection(self) -> CommandConnection:
        """The connection; borrowed now if the object is *planned*.

        Raises:
            ConnectionClosedError: the object is not connected.
        """
        if self._plan is not None:
            self._borrow(None)
        connection = self._connection
        if connection is None:
            self._not_connected()
        connection.timeout = self._timeout_seconds()
        return connection

    def _require_raw_connection(self) -> CommandConnection:
        """The connection, for use after which its state is unknown; it is not pooled any more."""
        connection = self._require_connection()
        self._is_tainted = True
        return connection

    def _borrow(
        self, credentials: PasswordCredentials | None, deadline: Deadline | None = None
    ) -> bool:
        """Borrow a connection; if the pools are closed, open one of its own, without a login.

        Returns whether the connection was borrowed.
        """
        plan = self._plan
        assert plan is not None
        deadline = deadline or self._deadline()
        credential = b""
        if credentials is not None:
            credential = credential_hash(credentials.user, credentials.password)
        name = self._hello_name()
        self._check_hello(self.ehlo_msg, name)
        key = Key(plan.server.address, name, plan.context, credential)
        server = plan.server
        with Translated():
            try:
                self._borrowed = plan.pools.borrow(
                    server, key, credentials, deadline, has_own_context=plan.has_own_context
                )
            except PoolClosedError:
                connection = server.connect(plan.context, server.verb, name, deadline, None)
                self._become_real(connection)
                self._adopt_hello(connection)
                return False
        self._plan_of_borrowed, self._plan = plan, None
        self._adopt_borrowed()
        return True

    def _adopt_borrowed(self) -> CommandConnection:
        assert self._borrowed is not None
        self._connection = connection = self._borrowed.connection
        self._uses = int(self._borrowed.was_reused)
        self._adopt_hello(connection)
        return connection

    def _become_real(self, connection: CommandConnection) -> None:
        """Continue with a connection of its own."""
        self._plan = None
        self._connection = connection

    def _adopt_hello(self, connection: CommandConnection) -> None:
        hello = connection.hello
        if hello is not None and connection.is_extended:
            self._note_hello(hello)
        elif hello is not None:
            self.helo_resp = text_of(hello)

    def _hello_name(self) -> str:
        """The client's name in EHLO."""
        return self._ehlo_name or self.local_hostname

    def _default_hostname(self) -> str:
        if self._plan is not None:
            return self._plan.server.default_ehlo_name()
        if self._connection is not None:
            return self._connection.ehlo_name
        return self.local_hostname

    def _may_renew(self, error: SmtpError) -> bool:
        """Whether an error only shows that a reused connection was dead."""
        is_reused = self._borrowed is not None and self._uses > 0
        is_loss = isinstance(error, (ConnectionClosedError, TransportError)) or (
            isinstance(error, ResponseError) and error.smtp_code == 421
        )
        return (
            is_reused
            and is_loss
            and isinstance(error, RetryableError)
            and error.phase in _BEFORE_CONTENT
            and not self._has_open_transaction
        )

    def _send_command(self, cmd: str, args: str = "") -> Reply:
        text = self._command_line(cmd, args)
        connection = self._require_connection()
        return pair(self._run(lambda: connection.send_command(text)))

    def _command_line(self, cmd: str, args: str = "") -> str:
        text = f"{cmd} {args}" if args else cmd
        refuse_line_ends(text)
        text.encode(self.command_encoding)
        return text

    def _run(self, operation: Callable[[], T]) -> T:
        """Run an operation of the connection; `as_smtplib` converts its errors."""
        connection = self._connection
        if connection is not None:
            self._show_commands(connection)
        self._set_socket_timeout(connection, blocks=False)
        try:
            with Translated():
                return operation()
        finally:
            self._set_socket_timeout(connection, blocks=True)

    def _set_socket_timeout(self, connection: CommandConnection | None, *, blocks: bool) -> None:
        if self._gives_out_socket and connection is not None and connection.is_open:
            seconds = self._timeout_seconds() if blocks else 0
            # The program may have closed it; then the operation fails, as a lost connection.
            with contextlib.suppress(OSError):
                connection.sock.settimeout(seconds)

    def _not_connected(self) -> NoReturn:
        raise as_smtplib(ConnectionClosedError("please run connect() first", phase=Phase.IDLE))

    def _deadline(self) -> Deadline:
        return Deadline(self._timeout_seconds())

    def _timeout_seconds(self) -> float:
        """The seconds for an operation.

        Raises:
            ValueError: the timeout is 0.
        """
        timeout: float | None = self.timeout
        if timeout is DEFAULT_TIMEOUT:
            timeout = socket.getdefaulttimeout()
        if timeout is None:
            return UNLIMITED
        if not timeout:
            raise ValueError("Non-blocking socket (timeout=0) is not supported")
        return timeout

    def _show_commands(self, connection: CommandConnection) -> None:
        connection.set_debug_output(self._show if self.debuglevel else None)

    def _show(self, what: str, text: str) -> None:
        if self.debuglevel:
            cast(Any, self)._print_debug(what, text)  # a subclass may override it
