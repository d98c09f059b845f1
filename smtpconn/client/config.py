"""`ServerConfig`: all settings of a server in one value, made in code or read from a URL.

It is frozen and hashable, because it is the key of a shared pool: configurations that differ in
TLS settings or credentials never share a connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import Any, Self, TypedDict
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from smtpconn.auth.credentials import (
    Credentials,
    PasswordCredentials,
    check_credentials,
    mechanism_names,
    serve,
)
from smtpconn.client.connection import SmtpConnection
from smtpconn.client.options import (
    ConnectOptions,
    check_choice,
    check_ehlo_domain,
    check_flag,
    check_server,
    check_socket_options,
    check_tls_options,
    extension_names,
)
from smtpconn.model.errors import Phase, ValidationError
from smtpconn.model.modes import Pipelining, Protocol, TlsMode
from smtpconn.model.pickling import reduce_value
from smtpconn.model.secret import Secret
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import SocketFactory
from smtpconn.protocol.quirks import ServerQuirks

_SCHEMES = {
    "smtp": (Protocol.SMTP, TlsMode.NONE, 25),
    "smtp+starttls": (Protocol.SMTP, TlsMode.STARTTLS, 587),
    "smtps": (Protocol.SMTP, TlsMode.IMPLICIT, 465),
    "lmtp": (Protocol.LMTP, TlsMode.NONE, 24),
    "lmtp+starttls": (Protocol.LMTP, TlsMode.STARTTLS, 24),
    "lmtps": (Protocol.LMTP, TlsMode.IMPLICIT, 24),
    "lmtp+unix": (Protocol.LMTP, TlsMode.NONE, 0),
}
_TEXT_PARAMETERS = ("ehlo_domain", "cafile", "tls_server_name")


class ServerOptions(TypedDict, total=False):
    """The attributes of `ServerConfig` that frameworks have no settings for."""

    credentials: Credentials
    mechanisms: Iterable[str]
    tls_context: ssl.SSLContext
    tls_server_name: str
    cafile: str
    ehlo_domain: str
    source_address: tuple[str, int]
    pipelining: Pipelining
    ignore_extensions: tuple[str, ...]
    allow_cleartext_auth: bool
    protocol: Protocol
    socket_factory: SocketFactory


class ServerSettings(ServerOptions, total=False):
    """The attributes of `ServerConfig` except host and port."""

    tls_mode: TlsMode
    timeout: float


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A server's address and how to connect to it.

    Attributes:
        host, port, tls_mode: as `SmtpConnection.connect` takes them.
        timeout: seconds for connecting including the login, and for each later operation by
            default.
        protocol: SMTP or LMTP.
        credentials: for the login; None for no login.
        mechanisms: the only mechanisms to log in with, in this order, unless the credentials have
            their own; None for all, the strongest first. "SCRAM" stands for each SCRAM. EXTERNAL
            needs no credentials, but a TLS client certificate.
        tls_context, cafile, tls_server_name, ehlo_domain, source_address, pipelining,
        ignore_extensions, allow_cleartext_auth, socket_factory: as `SmtpConnection.connect` takes
            them.

    Raises:
        ValidationError: an invalid value.
    """

    __reduce_ex__ = reduce_value

    host: str
    port: int
    tls_mode: TlsMode
    _: KW_ONLY
    timeout: float = 60.0
    protocol: Protocol = Protocol.SMTP
    credentials: Credentials | None = None
    mechanisms: Iterable[str] | None = None
    tls_context: ssl.SSLContext | None = field(default=None, repr=False)
    ehlo_domain: str | None = None
    source_address: tuple[str, int] | None = None
    pipelining: Pipelining = Pipelining.AUTO
    ignore_extensions: Iterable[str] = ()
    allow_cleartext_auth: bool = False
    socket_factory: SocketFactory | None = None
    tls_server_name: str | None = None
    cafile: str | None = None

    def __post_init__(self) -> None:
        check_server(self.host, self.port)
        Deadline(self.timeout)
        if self.ehlo_domain is not None:
            check_ehlo_domain(self.ehlo_domain)
        check_tls_options(self.tls_context, self.cafile, self.tls_server_name)
        check_socket_options(self.source_address, self.socket_factory)
        for name, kind in (
            ("tls_mode", TlsMode),
            ("protocol", Protocol),
            ("pipelining", Pipelining),
        ):
            object.__setattr__(self, name, check_choice(name, getattr(self, name), kind))
        object.__setattr__(self, "ignore_extensions", extension_names(self.ignore_extensions))
        check_flag("allow_cleartext_auth", self.allow_cleartext_auth)
        self._check_login()

    def _check_login(self) -> None:
        names = mechanism_names(self.mechanisms)
        object.__setattr__(self, "mechanisms", names)
        if self.credentials is None:
            return
        check_credentials(self.credentials)
        if names is not None and not serve(names, self.credentials):
            raise ValidationError(
                f"none of the mechanisms {', '.join(names)} can be used with "
                f"{type(self.credentials).__name__}",
                phase=Phase.AUTH,
            )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Read a URL such as ``smtps://user:p%40ss@smtp.example.com``.

        Schemes and their ports: smtp (25), smtp+starttls (587), smtps (465), lmtp,
        lmtp+starttls, lmtps (24) and lmtp+unix, which has a path. User name and password are
        percent-decoded and become `PasswordCredentials`. ``?timeout=`` (seconds),
        ``?ehlo_domain=``, ``?auth=`` (mechanisms, separated by commas), ``?cafile=`` and
        ``?tls_server_name=`` may follow, joined by ``&``.

        Args:
            url: the URL.
            options: any attribute of `ServerConfig`; overrides the URL.

        Raises:
            ValidationError: the URL or an option is invalid. The text never quotes a password.
        """
        secret = Secret(url)
        del url
        read = _parse_url(secret)
        if isinstance(read, ValidationError):
            raise read
        unknown = sorted(options.keys() - {each.name for each in fields(cls)})
        if unknown:
            raise ValidationError(
                f"unknown: {', '.join(unknown)}; a server's configuration has "
                f"{', '.join(each.name for each in fields(cls))}"
            )
        return cls(**(read | options))

    def replace(self, **changes: Any) -> Self:
        """The same configuration with some attributes changed."""
        return replace(self, **changes)

    def __str__(self) -> str:
        return self.host if self.host.startswith("/") else f"{self.host}:{self.port}"

    def connect(
        self,
        timeout: float | Deadline | None = None,
        *,
        tls_session: ssl.SSLSession | None = None,
        quirks: ServerQuirks | None = None,
    ) -> SmtpConnection:
        """Connect and log in, within one timeout.

        Args:
            timeout: seconds; None for the configuration's. A pool passes its own deadline.
            tls_session: as `SmtpConnection.connect` takes it.
            quirks: what a pool knows about the server; the connection adds to it.

        Raises:
            SmtpError: as `SmtpConnection.connect` and `SmtpConnection.authenticate`; the
                connection is then closed, after a QUIT if the server refused.
        """
        deadline = Deadline.of(timeout, self.timeout)
        options: ConnectOptions = {
            "ehlo_domain": self.ehlo_domain,
            "source_address": self.source_address,
            "pipelining": self.pipelining,
            "ignore_extensions": self.ignore_extensions,
            "allow_cleartext_auth": self.allow_cleartext_auth,
            "socket_factory": self.socket_factory,
            "tls_session": tls_session,
            "tls_server_name": self.tls_server_name,
            "cafile": self.cafile,
        }
        connection = SmtpConnection._connect(
            self.protocol, self.host, self.port, self.tls_mode, deadline, self.tls_context, options
        )
        try:
            if quirks is not None:
                connection._share(quirks)
            self._log_in(connection, deadline)
        except Exception:
            # After a refusal both sides are in sync, so QUIT can be sent.
            connection.quit_nowait()
            raise
        except BaseException:
            connection.close()
            raise
        connection.timeout = self.timeout
        return connection

    def _log_in(self, connection: SmtpConnection, deadline: Deadline) -> None:
        names = mechanism_names(self.mechanisms)
        if self.credentials is not None:
            names = self.credentials.mechanisms or names
        elif names is None or "EXTERNAL" not in names:
            return
        connection._log_in_as(self.credentials, names, deadline)


_PERCENT = (
    "a user name or password in a URL is percent-encoded: / is %2F, ? is %3F, # is %23, [ is %5B, "
    "] is %5D, @ is %40, : is %3A, % is %25"
)


def _parse_url(secret: Secret) -> dict[str, Any] | ValidationError:
    """Parse a URL into attributes; an error is returned, not raised, to keep the URL out of its
    traceback."""
    url = secret.reveal()
    try:
        parts = _split_url(url)
        if parts.scheme not in _SCHEMES:
            # "host:port" and "host" have no scheme, whatever stands before the colon.
            scheme = f"not {parts.scheme!r:.40}" if "://" in url else "and ://"
            raise ValidationError(f"a URL begins with one of {', '.join(_SCHEMES)}, {scheme}")
        protocol, tls_mode, default_port = _SCHEMES[parts.scheme]
        host, port = _host_and_port(parts, default_port)
        known: dict[str, Any] = {
            "host": host,
            "port": port,
            "tls_mode": tls_mode,
            "protocol": protocol,
            **_parse_query(parts.query),
        }
        if not _is_server(host, port):
            # Not quoted: without an "@" this may be a password.
            raise ValidationError(
                "the host in a URL is a name or an IP address, and its port 1 to 65535"
            )
        if parts.username is not None:
            known["credentials"] = PasswordCredentials(
                _unquote(parts.username), _unquote(parts.password or "")
            )
        return known
    except ValidationError as error:
        # The text after the first "@" may be the end of a password that was not encoded.
        hint = f" ({_PERCENT})" if isinstance(url, str) and "@" in url else ""
        text = f"{error}{hint}"
        phase = error.phase
    return ValidationError(text, phase=phase)


def _unquote(text: str) -> str:
    """Undo percent-encoding; bytes that are not UTF-8 are surrogate-escaped, as in a path."""
    # By default they would be replaced: a password would be wrong, and nothing would say why.
    return unquote(text, errors="surrogateescape")


def _is_server(host: str, port: int) -> bool:
    try:
        check_server(host, port)
    except ValidationError:
        return False
    return True


def _split_url(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise ValidationError(f"a URL is a str, not {type(url).__name__}")
    parts: SplitResult | None = None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None:
        # Outside the except clause: that error may quote the password, and "from None" would keep
        # it in __context__.
        raise ValidationError("the server's URL cannot be read; is its port from 1 to 65535?")
    if any(c <= " " or c == "\x7f" for c in url):
        raise ValidationError("the server's URL holds a space or a control character")
    return parts


def _host_and_port(parts: SplitResult, default_port: int) -> tuple[str, int]:
    if parts.scheme == "lmtp+unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise ValidationError("lmtp+unix is followed by :// and a path that begins with /")
        return _unquote(parts.path), 0
    if not parts.hostname or parts.path not in ("", "/") or parts.fragment:
        raise ValidationError("a server's URL is scheme://user:password@host:port and no more")
    return unquote(parts.hostname), parts.port if parts.port is not None else default_port


def _parse_query(query: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "timeout":
            try:
                known[name] = float(value)
            except ValueError:
                raise ValidationError("?timeout= is a number of seconds") from None
        elif name in _TEXT_PARAMETERS:
            known[name] = value
        elif name == "auth":
            known["mechanisms"] = mechanism_names(value)
        else:
            # Not quoted: after a "?" that was not encoded this may be part of a password.
            raise ValidationError(
                f"after its ?, a URL may have timeout=, auth=, {'=, '.join(_TEXT_PARAMETERS)}="
            )
    return known
