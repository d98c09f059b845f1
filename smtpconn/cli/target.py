"""Makes a server of options: `Target`, the stages of a session, and PEM files.

An option overrides the URL. Settings in neither have swaks's defaults: port 25 in clear, except
that port 465 means TLS from the first byte and port 587 means STARTTLS.

The stages of ``--quit-after``, with swaks's names:

    connect   a connection, and no command
    ehlo      banner and EHLO; in clear even if TLS would follow by STARTTLS
    tls       with TLS, before the login
    auth      logged in
    mail      MAIL, then RSET
    rcpt      MAIL and RCPT, then RSET; nothing is sent
"""

from __future__ import annotations

import argparse
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtpconn.auth.credentials import Credentials, OAuthCredentials, PasswordCredentials
from smtpconn.cli import secrets
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.output import Output
from smtpconn.client.config import ServerConfig
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.capabilities import AuthMechanism
from smtpconn.model.errors import Phase, TlsError, ValidationError
from smtpconn.model.modes import Pipelining, Protocol, TlsMode
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import open_socket
from smtpconn.net.tls import Authorities, new_context
from smtpconn.protocol.quirks import ServerQuirks

URL_VARIABLE = "SMTPCONN_URL"
DEFAULT_TIMEOUT = 30.0

SESSION_STAGES = ("connect", "ehlo", "tls", "auth")
"""The stages of a session without a message."""

STAGES = (*SESSION_STAGES, "mail", "rcpt")
"""The stages of ``send``."""

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM", "XOAUTH2", "OAUTHBEARER", "EXTERNAL")
"""The values of ``--auth``. SCRAM stands for the strongest SCRAM that is offered."""

_BY_TOKEN = frozenset({"XOAUTH2", "OAUTHBEARER"})
_ANY_ADDRESS = {4: ("0.0.0.0", 0), 6: ("::", 0)}
"""A local address of one family restricts the connection to addresses of that family."""

_TLS_OF_PORT = {465: TlsMode.IMPLICIT, 587: TlsMode.STARTTLS}


@dataclass(frozen=True, slots=True)
class Target(ServerConfig):
    """A server, and how the command logs in to it.

    If `mechanisms` is set, the first one that the server offers is used. It is an error if that one
    does not fit the credentials; `ServerConfig` would try the next.
    """

    def connect(
        self,
        timeout: float | Deadline | None = None,
        *,
        tls_session: ssl.SSLSession | None = None,
        quirks: ServerQuirks | None = None,
    ) -> SmtpConnection:
        """Connect, and log in with the chosen mechanisms; errors as `ServerConfig.connect`."""
        if not self.mechanisms:
            return ServerConfig.connect(self, timeout, tls_session=tls_session, quirks=quirks)
        deadline = Deadline.of(timeout, self.timeout)
        plain = self.replace(mechanisms=None, credentials=None)
        connection = plain.connect(deadline, tls_session=tls_session, quirks=quirks)
        try:
            self._log_in_with_first(connection, deadline)
        except Exception:
            connection.quit_nowait()
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def user(self) -> str | None:
        """The user to log in as; None without a login, or for the identity of our certificate."""
        return self.credentials.user if self.credentials is not None else None

    def _log_in_with_first(self, connection: SmtpConnection, deadline: Deadline) -> None:
        offers = connection.capabilities
        names = tuple(self.mechanisms or ())
        offered = [name for name in names if _is_offered(name, offers.auth_mechanisms)]
        # If the server offers none of them, trying the first one raises the right error.
        name = offered[0] if offered else names[0]
        _LOGINS[name](connection, self.credentials, deadline)


def _is_offered(name: str, offered: tuple[str, ...]) -> bool:
    if name == "SCRAM":
        return any(each.startswith("SCRAM-") for each in offered)
    return name in offered


def _password(credentials: Credentials | None) -> tuple[str, str]:
    if not isinstance(credentials, PasswordCredentials):
        raise ValidationError("this login needs a user and a password", phase=Phase.AUTH)
    return credentials.user, credentials.password


def _token(credentials: Credentials | None) -> tuple[str, str]:
    if not isinstance(credentials, OAuthCredentials):
        raise ValidationError("this login needs a user and a token", phase=Phase.AUTH)
    return credentials.user, credentials.current_token()


def _oauthbearer(connection: SmtpConnection, who: Credentials | None, timeout: Any) -> None:
    if isinstance(who, OAuthCredentials) and connection.capabilities.supports_auth(
        AuthMechanism.OAUTHBEARER
    ):
        # authenticate() prefers OAUTHBEARER to all others, and sends the user name, which some
        # servers need (RFC 7628 3.1).
        return connection.authenticate(who, timeout)
    return connection.auth_oauthbearer(_token(who)[1], timeout)


# These functions get the deadline itself as their timeout, so that an error shows the timeout that
# the user chose. The public methods promise to take seconds only.
_Login = Callable[[SmtpConnection, Credentials | None, Any], None]
_LOGINS: dict[str, _Login] = {
    AuthMechanism.PLAIN: lambda c, who, t: c.auth_plain(*_password(who), t),
    AuthMechanism.LOGIN: lambda c, who, t: c.auth_login(*_password(who), t),
    AuthMechanism.CRAM_MD5: lambda c, who, t: c.auth_cram_md5(*_password(who), t),
    "SCRAM": lambda c, who, t: c.auth_scram(*_password(who), t),
    AuthMechanism.XOAUTH2: lambda c, who, t: c.auth_xoauth2(*_token(who), t),
    AuthMechanism.OAUTHBEARER: _oauthbearer,
    AuthMechanism.EXTERNAL: lambda c, who, t: c.auth_external(timeout=t),
}


def target_of(args: argparse.Namespace, out: Output) -> Target:
    """The server that the options name.

    Raises:
        UsageError: there is no server, options exclude each other, or a file cannot be used.
        ValidationError: an invalid value.
    """
    settings = _settings(args)
    where = _where(args)
    if "://" in where:
        target = Target.from_url(where, **settings)
        if args.port is not None:
            target = target.replace(port=args.port)
    else:
        target = _from_host(where, args.port, settings)
    if "timeout" not in settings and "timeout=" not in where:
        target = target.replace(timeout=DEFAULT_TIMEOUT)
    if (context := _tls_context(args, target, out)) is not None:
        target = target.replace(tls_context=context, cafile=None)
    if args.allow_cleartext_auth and target.tls_mode is TlsMode.NONE:
        out.warning("--allow-cleartext-auth: others on the network can read the password")
        target = target.replace(allow_cleartext_auth=True)
    target = _with_credentials(target, args, out)
    # The mechanisms come last, because they are checked against the credentials.
    return target.replace(mechanisms=args.auth) if args.auth else target


def _where(args: argparse.Namespace) -> str:
    """The URL, host or socket path, from the option that has it."""
    given = [text for text in (args.url, args.server, args.socket) if text is not None]
    if len(given) > 1:
        raise UsageError("a URL, --server and --socket exclude each other")
    if args.socket is not None and not args.socket.startswith("/"):
        return str(Path(args.socket).absolute())
    where = given[0] if given else os.environ.get(URL_VARIABLE, "")
    if not where:
        raise UsageError(
            f"which server? Give a URL such as smtp://HOST, or --server HOST, or set {URL_VARIABLE}"
        )
    return str(where)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The attributes of `ServerConfig` that options set."""
    settings: dict[str, Any] = {
        "timeout": args.timeout,
        "ehlo_domain": args.ehlo,
        "tls_server_name": args.tls_server_name,
        "protocol": args.protocol and Protocol(args.protocol),
        "tls_mode": args.tls and TlsMode(args.tls),
        "pipelining": args.pipelining and Pipelining(args.pipelining),
    }
    if args.local_interface is not None:
        settings["source_address"] = (args.local_interface, 0)
    elif args.family is not None:
        settings["source_address"] = _ANY_ADDRESS[args.family]
    if args.socket is not None and "source_address" in settings:
        raise UsageError("-4, -6 and --local-interface are not for a UNIX socket")
    return {name: value for name, value in settings.items() if value is not None}


def _from_host(where: str, port: int | None, settings: dict[str, Any]) -> Target:
    host, at = (where, None) if where.startswith("/") else _split(where)
    port = port if port is not None else at
    protocol = settings.pop("protocol", Protocol.SMTP)
    mode = settings.pop("tls_mode", _TLS_OF_PORT.get(port or 0, TlsMode.NONE))
    if port is None:
        port = 24 if protocol is Protocol.LMTP else 465 if mode is TlsMode.IMPLICIT else 25
    return Target(host, port, mode, protocol=protocol, **settings)


def _split(where: str) -> tuple[str, int | None]:
    """Host and port of ``host``, ``host:port``, ``::1`` or ``[::1]:port``."""
    if where.startswith("["):
        host, _, rest = where[1:].partition("]")
        port = rest.removeprefix(":")
    elif where.count(":") == 1:
        host, _, port = where.partition(":")
    else:
        host, port = where, ""
    if port and not (port.isascii() and port.isdigit()):
        raise UsageError(f"a server is HOST or HOST:PORT, not {where!r:.80}")
    return host, int(port) if port else None


def _tls_context(args: argparse.Namespace, target: Target, out: Output) -> ssl.SSLContext | None:
    """The context for the TLS options; None without any, for the library's default."""
    used = (args.tls_ca_path, args.tls_cert, args.tls_key, args.insecure)
    if target.tls_mode is TlsMode.NONE and (any(used) or args.tls_server_name):
        raise UsageError("the options for TLS need --tls or --tlsc (or a URL with TLS)")
    if not any(used):
        return None
    if args.tls_key and not args.tls_cert:
        raise UsageError("--tls-key needs --tls-cert")
    context = _trusting(args.tls_ca_path or target.cafile)
    if args.tls_cert:
        load_certificate(context, args.tls_cert, args.tls_key)
    if args.insecure:
        out.warning("--insecure: the server's certificate is NOT checked; an attacker may answer")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _with_credentials(target: Target, args: argparse.Namespace, out: Output) -> Target:
    credentials = target.credentials
    user = args.auth_user
    if user is None and isinstance(credentials, PasswordCredentials):
        user = credentials.user
        if credentials.password:
            out.secrets.add(user, credentials.password)
            if args.url or args.server:
                out.warning(
                    f"every user of this machine can read the password in the URL; "
                    f"use {secrets.PASSWORD_VARIABLE} or --auth-password-command"
                )
            return target
    wants_login = bool(args.auth or args.auth_password_command or args.auth_token_command)
    if user is None:
        if wants_login and args.auth != ("EXTERNAL",):
            raise UsageError("no user to log in as: give --auth-user, or a URL with a user")
        return target
    return target.replace(credentials=_credentials(user, args, out))


def _credentials(user: str, args: argparse.Namespace, out: Output) -> Credentials:
    command = args.auth_token_command
    wants_token = bool(args.auth) and set(args.auth) <= _BY_TOKEN
    if command is not None or wants_token:
        return OAuthCredentials(user, _token_source(user, command, out))
    password = secrets.password(user, args.auth_password_command)
    out.secrets.add(user, password)
    return PasswordCredentials(user, password)


def _token_source(user: str, command: str | None, out: Output) -> Callable[..., str]:
    """A function that returns a token; the library calls it again after a 535."""

    def token(*, force_refresh: bool = False) -> str:
        if command is not None:
            value = secrets.output_of(command)
        else:
            value = os.environ.get(secrets.TOKEN_VARIABLE, "")
        out.secrets.add(user, value)
        return value

    if command is None and not os.environ.get(secrets.TOKEN_VARIABLE):
        raise UsageError(
            f"there is no token: set {secrets.TOKEN_VARIABLE} or give --auth-token-command"
        )
    return token


def _trusting(path: str | None) -> ssl.SSLContext:
    """A client context that trusts the authorities in a file or directory and no others.

    Args:
        path: None for those of `new_context`.

    Raises:
        UsageError: the file or directory cannot be read, or has no authority in it.
    """
    if path is None:
        return new_context()
    is_directory = Path(path).is_dir()
    try:
        return Authorities(
            None if is_directory else path, path if is_directory else None, path
        ).new_context()
    except TlsError as error:
        raise UsageError(
            f"--tls-ca-path {path} cannot be used: {_reason(error.__cause__)}"
        ) from None


def load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Load our own certificate into a context.

    Args:
        certificate: a PEM file.
        key: a PEM file with the key; None if that is in the same file.

    Raises:
        UsageError: a file cannot be read, or has no certificate or key in it.
    """
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        # The errors of OpenSSL do not name the file.
        raise UsageError(f"--tls-cert {certificate} cannot be used: {_reason(error)}") from None


def _reason(error: BaseException | None) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it holds no PEM that fits ({error.reason or 'unreadable'})"
    return str(getattr(error, "strerror", None) or error)


def check_stage(target: Target, stage: str | None) -> None:
    """Refuse a stage that this session does not reach.

    Raises:
        UsageError: there is no TLS, or no login.
    """
    if stage == "tls" and target.tls_mode is TlsMode.NONE:
        raise UsageError("--quit-after tls: this session has no TLS (see --tls, --tlsc)")
    if stage == "auth" and not (target.credentials or target.mechanisms):
        raise UsageError("--quit-after auth: this session has no login (see --auth-user)")


def connect_only(target: Target) -> None:
    """Connect and close the connection.

    Raises:
        SmtpError: there is no connection.
    """
    deadline = Deadline(target.timeout)
    open_socket(target.host, target.port, deadline, target.source_address).close()


def open_session(target: Target, stage: str | None) -> SmtpConnection:
    """Connect, up to a stage of `SESSION_STAGES` after "connect"; None for the whole session.

    Raises:
        SmtpError: as `ServerConfig.connect`.
    """
    if stage in ("ehlo", "tls"):
        target = target.replace(credentials=None, mechanisms=None)
    if stage == "ehlo" and target.tls_mode is TlsMode.STARTTLS:
        target = target.replace(tls_mode=TlsMode.NONE, tls_server_name=None)
    return target.connect()
