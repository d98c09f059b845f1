"""From options to a server: `Target`, a `ServerConfig` that also knows how to log in.

A URL says everything at once; an option goes before what the URL says. What neither says has
swaks's default: port 25 in clear, except that port 465 means TLS from the first octet and port 587
means STARTTLS.
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
from smtpconn.cli import secret
from smtpconn.cli.exits import UsageError
from smtpconn.cli.output import Output
from smtpconn.cli.pem import load_certificate, trusting
from smtpconn.client.config import ServerConfig
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.capabilities import AuthMechanism
from smtpconn.model.errors import Phase, ValidationError
from smtpconn.model.modes import Pipelining, Protocol, TlsMode
from smtpconn.net.deadline import Deadline
from smtpconn.protocol.quirks import ServerQuirks

URL_VARIABLE = "SMTPCONN_URL"
DEFAULT_TIMEOUT = 30.0

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM", "XOAUTH2", "OAUTHBEARER", "EXTERNAL")
"""What ``--auth`` knows. SCRAM is the strongest SCRAM that is offered."""

_BY_TOKEN = frozenset({"XOAUTH2", "OAUTHBEARER"})
_ANY_ADDRESS = {4: ("0.0.0.0", 0), 6: ("::", 0)}
"""An address of our own of one family lets only addresses of that family be connected to."""

_TLS_OF_PORT = {465: TlsMode.IMPLICIT, 587: TlsMode.STARTTLS}


@dataclass(frozen=True, slots=True)
class Target(ServerConfig):
    """A server, logged in to with the first of the mechanisms that it offers, where some are named;
    a mechanism that the credentials do not serve is an error and not passed over."""

    def connect(
        self,
        timeout: float | Deadline | None = None,
        *,
        tls_session: ssl.SSLSession | None = None,
        quirks: ServerQuirks | None = None,
    ) -> SmtpConnection:
        """Connect and log in as the user wants; raises as `ServerConfig.connect`."""
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
        """Whom to log in as; None not to, or as whom the TLS certificate says."""
        return self.credentials.user if self.credentials is not None else None

    def _log_in_with_first(self, connection: SmtpConnection, deadline: Deadline) -> None:
        offers = connection.capabilities
        names = tuple(self.mechanisms or ())
        offered = [name for name in names if _is_offered(name, offers.auth_mechanisms)]
        # If none is, trying the first one says so.
        name = offered[0] if offered else names[0]
        _WAYS[name](connection, self.credentials, deadline)


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
        # It goes before all others there, and with the user's name, which some servers want.
        return connection.authenticate(who, timeout)
    return connection.auth_oauthbearer(_token(who)[1], timeout)


# What is handed to them as their timeout is the deadline itself, so that an error shows the figure
# the user gave; the public methods promise seconds only.
_Way = Callable[[SmtpConnection, Credentials | None, Any], None]
_WAYS: dict[str, _Way] = {
    AuthMechanism.PLAIN: lambda c, who, t: c.auth_plain(*_password(who), t),
    AuthMechanism.LOGIN: lambda c, who, t: c.auth_login(*_password(who), t),
    AuthMechanism.CRAM_MD5: lambda c, who, t: c.auth_cram_md5(*_password(who), t),
    "SCRAM": lambda c, who, t: c.auth_scram(*_password(who), t),
    AuthMechanism.XOAUTH2: lambda c, who, t: c.auth_xoauth2(*_token(who), t),
    AuthMechanism.OAUTHBEARER: _oauthbearer,
    AuthMechanism.EXTERNAL: lambda c, who, t: c.auth_external(timeout=t),
}


def target_of(options: argparse.Namespace, out: Output) -> Target:
    """The server the options name.

    Raises:
        UsageError: they name none, or contradict each other, or a file of theirs is no use.
        ValidationError: a value that cannot be.
    """
    settings = _settings(options)
    where = _where(options)
    if "://" in where:
        target = Target.from_url(where, **settings)
        if options.port is not None:
            target = target.replace(port=options.port)
    else:
        target = _from_host(where, options.port, settings)
    if "timeout" not in settings and "timeout=" not in where:
        target = target.replace(timeout=DEFAULT_TIMEOUT)
    if (context := _tls_context(options, target, out)) is not None:
        target = target.replace(tls_context=context, cafile=None)
    if options.allow_cleartext_auth and target.tls_mode is TlsMode.NONE:
        out.warning("--allow-cleartext-auth: everybody on the way can read the password")
        target = target.replace(allow_cleartext_auth=True)
    target = _with_credentials(target, options, out)
    # Last: they have to fit the credentials.
    return target.replace(mechanisms=options.auth) if options.auth else target


def _where(options: argparse.Namespace) -> str:
    """The URL, host or path, from the one place that has it."""
    given = [text for text in (options.url, options.server, options.socket) if text is not None]
    if len(given) > 1:
        raise UsageError("a URL, --server and --socket exclude each other")
    if options.socket is not None and not options.socket.startswith("/"):
        return str(Path(options.socket).absolute())
    where = given[0] if given else os.environ.get(URL_VARIABLE, "")
    if not where:
        raise UsageError(f"which server? Give a URL or --server, or set {URL_VARIABLE}")
    return str(where)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The attributes of `ServerConfig` that options name."""
    settings: dict[str, Any] = {
        "timeout": options.timeout,
        "ehlo_domain": options.ehlo,
        "protocol": options.protocol and Protocol(options.protocol),
        "tls_mode": options.tls and TlsMode(options.tls),
        "pipelining": options.pipelining and Pipelining(options.pipelining),
    }
    if options.local_interface is not None:
        settings["source_address"] = (options.local_interface, 0)
    elif options.family is not None:
        settings["source_address"] = _ANY_ADDRESS[options.family]
    if options.socket is not None and "source_address" in settings:
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


def _tls_context(options: argparse.Namespace, target: Target, out: Output) -> ssl.SSLContext | None:
    """The TLS settings that options ask for; None for the library's own."""
    asked = (options.tls_ca_path, options.tls_cert, options.tls_key, options.insecure)
    if not any(asked):
        return None
    if target.tls_mode is TlsMode.NONE:
        raise UsageError("the options for TLS need --tls or --tlsc (or a URL with TLS)")
    if options.tls_key and not options.tls_cert:
        raise UsageError("--tls-key needs --tls-cert")
    context = trusting(options.tls_ca_path or target.cafile)
    if options.tls_cert:
        load_certificate(context, options.tls_cert, options.tls_key)
    if options.insecure:
        out.warning("--insecure: the server's certificate is NOT checked; anybody may be it")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _with_credentials(target: Target, options: argparse.Namespace, out: Output) -> Target:
    credentials = target.credentials
    user = options.auth_user
    if user is None and isinstance(credentials, PasswordCredentials):
        user = credentials.user
        if credentials.password:
            out.secrets.add(user, credentials.password)
            if options.url or options.server:
                out.warning(
                    f"every user of this machine can read the password in the URL; "
                    f"use {secret.PASSWORD_VARIABLE} or --auth-password-command"
                )
            return target
    wants_login = bool(options.auth or options.auth_password_command or options.auth_token_command)
    if user is None:
        if wants_login and options.auth != ("EXTERNAL",):
            raise UsageError("whom to log in as? Give --auth-user, or a URL with a user")
        return target
    return target.replace(credentials=_credentials(user, options, out))


def _credentials(user: str, options: argparse.Namespace, out: Output) -> Credentials:
    command = options.auth_token_command
    wants_token = bool(options.auth) and set(options.auth) <= _BY_TOKEN
    if command is not None or wants_token:
        return OAuthCredentials(user, _token_source(user, command, out))
    password = secret.password(user, options.auth_password_command)
    out.secrets.add(user, password)
    return PasswordCredentials(user, password)


def _token_source(user: str, command: str | None, out: Output) -> Callable[..., str]:
    """A function that gets a token; the library asks it again after a 535."""

    def token(*, force_refresh: bool = False) -> str:
        if command is not None:
            value = secret.output_of(command)
        else:
            value = os.environ.get(secret.TOKEN_VARIABLE, "")
        out.secrets.add(user, value)
        return value

    if command is None and not os.environ.get(secret.TOKEN_VARIABLE):
        raise UsageError(
            f"there is no token: set {secret.TOKEN_VARIABLE} or give --auth-token-command"
        )
    return token
