"""`ServerConfig`: everything about a server in one value, from code or from a URL.

Rule: it is frozen and hashable, because pools are found by it: two configurations that differ in
anything that matters for security (TLS settings, credentials) never share a connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from smtpconn.auth.credentials import Credentials, PasswordCredentials
from smtpconn.client.connection import SmtpConnection
from smtpconn.client.options import (
    ConnectOptions,
    check_ehlo_domain,
    check_server,
    check_tls_options,
)
from smtpconn.model.errors import ValidationError
from smtpconn.model.modes import Pipelining, Protocol, TlsMode
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import SocketFactory

_SCHEMES = {
    "smtp": (Protocol.SMTP, TlsMode.NONE, 25),
    "smtp+starttls": (Protocol.SMTP, TlsMode.STARTTLS, 587),
    "smtps": (Protocol.SMTP, TlsMode.IMPLICIT, 465),
    "lmtp": (Protocol.LMTP, TlsMode.NONE, 24),
    "lmtp+starttls": (Protocol.LMTP, TlsMode.STARTTLS, 24),
    "lmtps": (Protocol.LMTP, TlsMode.IMPLICIT, 24),
    "lmtp+unix": (Protocol.LMTP, TlsMode.NONE, 0),
}
_TEXTS = ("ehlo_domain", "cafile", "tls_server_name")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where a server is and how to talk to it.

    Attributes:
        host, port, tls_mode: as `SmtpConnection.connect` takes them.
        timeout: seconds for connecting with logging in, and for each later operation by default.
        protocol: SMTP or LMTP.
        credentials: whom to log in as; None not to.
        tls_context, cafile, tls_server_name, ehlo_domain, source_address, pipelining,
        ignore_extensions, allow_cleartext_auth, socket_factory: as `SmtpConnection.connect` takes
            them.

    Raises:
        ValidationError: a value that cannot be.
    """

    host: str
    port: int
    tls_mode: TlsMode
    _: KW_ONLY
    timeout: float = 60.0
    protocol: Protocol = Protocol.SMTP
    credentials: Credentials | None = None
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
        for name, kind in (
            ("tls_mode", TlsMode),
            ("protocol", Protocol),
            ("pipelining", Pipelining),
        ):
            try:
                object.__setattr__(self, name, kind(getattr(self, name)))
            except ValueError:
                raise ValidationError(
                    f"{name} is one of {', '.join(kind)}, not {getattr(self, name)!r:.40}"
                ) from None
        object.__setattr__(
            self, "ignore_extensions", frozenset(k.upper() for k in self.ignore_extensions)
        )

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Read a URL such as ``smtps://user:p%40ss@smtp.example.com``.

        Schemes and their ports: smtp (25), smtp+starttls (587), smtps (465), lmtp,
        lmtp+starttls, lmtps (24) and lmtp+unix, which has a path. User name and password are
        percent-decoded and become `PasswordCredentials`. ``?timeout=`` (seconds),
        ``?ehlo_domain=``, ``?cafile=`` and ``?tls_server_name=`` may follow, joined by ``&``.

        Args:
            url: the URL.
            options: any attribute of `ServerConfig`; goes before what the URL says.

        Raises:
            ValidationError: it is no such URL. The message never quotes a password.
        """
        parts = _split(url)
        if parts.scheme not in _SCHEMES:
            raise ValidationError(
                f"a URL begins with one of {', '.join(_SCHEMES)}, not {parts.scheme!r:.40}"
            )
        protocol, tls_mode, default_port = _SCHEMES[parts.scheme]
        host, port = _where(parts, default_port)
        settings: dict[str, Any] = {
            "host": host,
            "port": port,
            "tls_mode": tls_mode,
            "protocol": protocol,
            **_query(parts.query),
        }
        if parts.username is not None:
            settings["credentials"] = PasswordCredentials(
                unquote(parts.username), unquote(parts.password or "")
            )
        return cls(**(settings | options))

    def replace(self, **changes: Any) -> Self:
        """The same configuration with some attributes changed."""
        return replace(self, **changes)

    def __str__(self) -> str:
        return self.host if self.host.startswith("/") else f"{self.host}:{self.port}"

    def connect(
        self, timeout: float | Deadline | None = None, *, tls_session: ssl.SSLSession | None = None
    ) -> SmtpConnection:
        """Connect and log in, within one timeout.

        Args:
            timeout: seconds; None for the configuration's. A pool hands its own deadline down.
            tls_session: as `SmtpConnection.connect` takes it.

        Raises:
            SmtpError: as `SmtpConnection.connect` and `SmtpConnection.authenticate`; the
                connection is then closed.
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
            if self.credentials is not None:
                connection._authenticate(self.credentials, deadline)
        except BaseException:
            connection.close()
            raise
        connection.timeout = self.timeout
        return connection


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise ValidationError(f"a URL is a str, not {type(url).__name__}")
    parts: SplitResult | None = None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = None
    if parts is None:
        # Not in the except clause: that error quotes what may be the password, and "from None"
        # only hides it from those who print tracebacks the usual way.
        raise ValidationError("the server's URL cannot be read; is its port a number?")
    if any(c <= " " or c == "\x7f" for c in url):
        raise ValidationError("the server's URL holds a space or a control character")
    return parts


def _where(parts: SplitResult, default_port: int) -> tuple[str, int]:
    if parts.scheme == "lmtp+unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise ValidationError("lmtp+unix is followed by :// and a path that begins with /")
        return unquote(parts.path), 0
    if not parts.hostname or parts.path not in ("", "/") or parts.fragment:
        raise ValidationError("a server's URL is scheme://user:password@host:port and no more")
    return unquote(parts.hostname), parts.port if parts.port is not None else default_port


def _query(query: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "timeout":
            try:
                known[name] = float(value)
            except ValueError:
                raise ValidationError("?timeout= is a number of seconds") from None
        elif name in _TEXTS:
            known[name] = value
        else:
            # Not quoted: a "?" that was not encoded may have put a password here.
            raise ValidationError(
                f"behind the ? of a URL may stand timeout=, {'=, '.join(_TEXTS)}="
            )
    return known
