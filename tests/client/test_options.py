"""The options of connecting: wrong ones are refused, and the default name for EHLO."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn import ServerConfig, SmtpConnection, TlsMode, TransportError, ValidationError
from smtpconn.client.options import default_ehlo_domain


@pytest.mark.parametrize(
    ("host", "address", "name"),
    [
        ("mail.example.com", "192.0.2.1", "mail.example.com"),
        ("mail", "192.0.2.1", "[192.0.2.1]"),
        ("mail.", "2001:db8::1", "[IPv6:2001:db8::1]"),
        ("my_host.example.com", "192.0.2.1", "[192.0.2.1]"),
        ("a\r\nb.example.com", "192.0.2.1", "[192.0.2.1]"),
        ("mail", None, "localhost"),
    ],
)
def test_the_default_name(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str | None, name: str
) -> None:
    """The machine's full name if it has one that may be said, else our address; no DNS."""

    def no_dns(*_: object) -> None:
        raise AssertionError("DNS was asked")

    monkeypatch.setattr(socket, "gethostname", lambda: host)
    for function in ("getfqdn", "getaddrinfo", "gethostbyname", "gethostbyaddr"):
        monkeypatch.setattr(socket, function, no_dns)
    assert default_ehlo_domain(address) == name


def no_socket(*_: object) -> socket.socket:
    raise AssertionError("a connection was begun")


def connect(**options: Any) -> object:
    return SmtpConnection.connect("h.example", 25, TlsMode.NONE, 5, **options)


def connect_lmtp(**options: Any) -> object:
    return SmtpConnection.connect_lmtp("h.example", 24, TlsMode.NONE, 5, **options)


def configure(**options: Any) -> object:
    return ServerConfig("h.example", 25, TlsMode.NONE, **options)


@pytest.mark.parametrize("make", [connect, connect_lmtp, configure])
@pytest.mark.parametrize(
    ("option", "wrong", "said"),
    [
        ("source_address", "192.0.2.1", "source_address is an address and a port"),
        ("source_address", ("192.0.2.1",), "source_address is an address and a port"),
        ("source_address", ("192.0.2.1", "0"), "source_address is an address and a port"),
        ("source_address", ["192.0.2.1", 0], "source_address is an address and a port"),
        ("source_address", 25, "source_address is an address and a port"),
        ("socket_factory", "proxy", "socket_factory is called as"),
        ("pipelining", "eager", "pipelining is one of OFF, AUTO, EAGER"),
        ("pipelining", None, "pipelining is one of OFF, AUTO, EAGER"),
        ("tls_context", "cert.pem", "tls_context is an ssl.SSLContext"),
        ("tls_context", True, "tls_context is an ssl.SSLContext"),
        ("ehlo_domain", "", "ehlo_domain: "),
        ("ehlo_domain", "my host", "ehlo_domain: "),
        ("ehlo_domain", "[x", "ehlo_domain: "),
        ("ehlo_domain", "bücher.example", "ehlo_domain has to be ASCII"),
    ],
)
def test_wrong_options(make: Callable[..., object], option: str, wrong: object, said: str) -> None:
    """They are refused by name before anything is connected, wherever they are given."""
    socket_factory = {} if option == "socket_factory" else {"socket_factory": no_socket}
    with pytest.raises(ValidationError) as refused:
        make(**socket_factory, **{option: wrong})
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize("make", [connect, connect_lmtp])
@pytest.mark.parametrize("name", ["retries", "credentials", "tls_contxt", "ignore_extension"])
def test_unknown_options_of_connect(make: Callable[..., object], name: str) -> None:
    """They are refused, not ignored, and the error has the names that exist."""
    with pytest.raises(ValidationError, match=rf"^unknown: {name}; .*tls_context.*authenticate"):
        make(socket_factory=no_socket, **{name: None})


@pytest.mark.parametrize("mechanisms", [5, True, [5], [None]])
def test_mechanisms_that_are_no_names(mechanisms: Any) -> None:
    """The error has the names that exist."""
    with pytest.raises(ValidationError, match="PLAIN, LOGIN"):
        configure(mechanisms=mechanisms)


@pytest.mark.parametrize("mode", ["EAGER", "OFF"])
def test_a_mode_may_be_given_as_its_name(mode: str) -> None:
    """What `ServerConfig` takes, `connect` takes."""
    with pytest.raises(TransportError, match="a connection was begun"):
        connect(socket_factory=no_socket, pipelining=mode)
