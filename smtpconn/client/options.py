"""The options of connecting, and the checks of them that need no server.

Also the default name for EHLO (RFC 5321 4.1.4).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable
from enum import StrEnum
from typing import TypedDict, TypeVar

from smtpconn.model.addresses import AddressLiteral, Domain
from smtpconn.model.errors import ValidationError
from smtpconn.model.modes import Pipelining, TlsMode
from smtpconn.net.happy_eyeballs import SocketFactory

Choice = TypeVar("Choice", bound=StrEnum)

_CONTEXT = ssl.SSLContext.__mro__[-2]
"""The base class of all kinds of `ssl.SSLContext`: gevent's, and the one that gevent replaces."""


class ConnectOptions(TypedDict, total=False):
    """The keyword options of `smtpconn.SmtpConnection.connect`, which documents them."""

    ehlo_domain: str | None
    source_address: tuple[str, int] | None
    pipelining: Pipelining
    ignore_extensions: Iterable[str]
    allow_cleartext_auth: bool
    socket_factory: SocketFactory | None
    tls_session: ssl.SSLSession | None
    tls_server_name: str | None
    cafile: str | None


def check_server(host: str, port: int) -> None:
    """Check the host and the port.

    Raises:
        ValidationError: the host is empty, a URL or has an invalid character, or the port is
            invalid.
    """
    if not isinstance(host, str) or not host:
        raise ValidationError(f"a host is a name, an IP address or a path, not {host!r:.80}")
    if not host.startswith("/"):
        _check_host(host)
    if any(c <= " " or c == "\x7f" for c in host):
        raise ValidationError(f"not a host name, IP address or path: {host!r:.80}")
    is_port = isinstance(port, int) and not isinstance(port, bool) and 1 <= port <= 65535
    if not is_port and not host.startswith("/"):
        raise ValidationError(f"a port is 1 to 65535, not {port!r:.20}")


def _check_host(host: str) -> None:
    if "/" in host or "@" in host:
        # Not quoted: a URL may contain a password.
        raise ValidationError(
            "the host is a name or an IP address without scheme, user and port; a URL goes to "
            "ServerConfig.from_url or ConnectionPool"
        )
    if ":" not in host or _is_ip(host):
        return
    name, _, port = host.rpartition(":")
    if host.endswith("]"):
        name, port = host, ""
    name = name.removeprefix("[").removesuffix("]")
    apart = f", port={port:.20}" if port else ""
    raise ValidationError(
        f"a host has no brackets, and the port is a separate argument: host={name!r:.80}{apart}"
    )


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def check_flag(name: str, value: object) -> None:
    """Check a flag.

    Raises:
        ValidationError: it is not a bool. The text "False" would count as true.
    """
    if not isinstance(value, bool):
        raise ValidationError(f"{name} is True or False, not {value!r:.40}")


def extension_names(given: Iterable[str]) -> frozenset[str]:
    """The keywords of extensions in upper case; a str is split at commas and spaces.

    Raises:
        ValidationError: an item is not a str.
    """
    if isinstance(given, str):
        return frozenset(given.upper().replace(",", " ").split())
    try:
        return frozenset(keyword.upper() for keyword in given)
    except (TypeError, AttributeError):
        raise ValidationError(
            f"ignore_extensions are keywords such as ['CHUNKING'], not {given!r:.40}"
        ) from None


def check_choice(name: str, value: str, kind: type[Choice]) -> Choice:
    """The member of an enum, which may be given as its name.

    Raises:
        ValidationError: ``value`` is not a member.
    """
    try:
        return kind(value)
    except ValueError:
        raise ValidationError(f"{name} is one of {', '.join(kind)}, not {value!r:.40}") from None


def check_tls_mode(mode: TlsMode) -> TlsMode:
    """Check a TLS mode; raises as `check_choice`."""
    return check_choice("tls_mode", mode, TlsMode)


def check_names(given: Iterable[str]) -> None:
    """Refuse keywords that `smtpconn.SmtpConnection.connect` does not have.

    Raises:
        ValidationError: a keyword does not exist.
    """
    if unknown := sorted(given - ConnectOptions.__annotations__.keys()):
        names = ", ".join(["tls_context", *ConnectOptions.__annotations__])
        raise ValidationError(
            f"unknown: {', '.join(unknown)}; connect takes {names}, and credentials go to "
            f"authenticate"
        )


def check_socket_options(
    source_address: tuple[str, int] | None, factory: SocketFactory | None
) -> None:
    """Check the options about the socket.

    Raises:
        ValidationError: an invalid value.
    """
    if source_address is not None and not _is_socket_address(source_address):
        raise ValidationError(
            f"source_address is an address and a port, such as ('192.0.2.1', 0), not "
            f"{source_address!r:.40}"
        )
    if factory is not None and not callable(factory):
        raise ValidationError(
            f"socket_factory is called as socket_factory(host, port, timeout), and "
            f"{factory!r:.40} cannot be called"
        )


def _is_socket_address(value: object) -> bool:
    # A tuple, because configurations are hashable; more than two items in the form for IPv6.
    return (
        isinstance(value, tuple)
        and len(value) in (2, 3, 4)
        and isinstance(value[0], str)
        and all(isinstance(each, int) and not isinstance(each, bool) for each in value[1:])
    )


def check_ehlo_domain(domain: str) -> None:
    """Check the client's name in EHLO (RFC 5321 4.1.1.1).

    Raises:
        ValidationError: it is neither an ASCII domain nor an address literal.
    """
    if not isinstance(domain, str):
        raise ValidationError(f"ehlo_domain is a str, not {type(domain).__name__}")
    try:
        is_ascii = (AddressLiteral if domain.startswith("[") else Domain)(domain).is_ascii
    except ValidationError as error:
        raise ValidationError(f"ehlo_domain: {error}") from None
    if not is_ascii:
        raise ValidationError(f"ehlo_domain has to be ASCII: {domain!r:.80}")


def check_tls_options(
    context: ssl.SSLContext | None, cafile: str | None, server_name: str | None
) -> None:
    """Check the options about certificates.

    Raises:
        ValidationError: an invalid value, or both ``context`` and ``cafile``.
    """
    if not isinstance(context, _CONTEXT | None):
        raise ValidationError(f"tls_context is an ssl.SSLContext, not a {type(context).__name__}")
    if cafile is not None:
        if not isinstance(cafile, str) or not cafile:
            raise ValidationError(f"cafile is the path of a file, not {cafile!r:.80}")
        if context is not None:
            raise ValidationError("of cafile and tls_context only one may be set")
    if server_name is not None and (
        not isinstance(server_name, str)
        or not server_name
        or any(c <= " " or c in "/\x7f" for c in server_name)
    ):
        raise ValidationError(f"tls_server_name is a host name, not {server_name!r:.80}")


def default_ehlo_domain(local_ip: str | None) -> str:
    """This machine's full name if it is known without DNS, else its address (RFC 5321 4.1.4).

    ``socket.getfqdn`` is not used because it queries DNS, which can take half a minute.
    """
    name = socket.gethostname()
    try:
        if "." in name.strip("."):
            check_ehlo_domain(name)
            return name
    except ValidationError:
        pass  # the machine's name is not valid in EHLO
    return "localhost" if local_ip is None else str(AddressLiteral.from_ip(local_ip))
