"""The default name for EHLO (RFC 5321 4.1.4)."""

from __future__ import annotations

import socket

import pytest

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
