"""Addresses as people write them, and what counts as sent."""

from __future__ import annotations

import pytest

from smtpconn import ConnectionPool, ReversePath, UnsupportedExtensionError, ValidationError
from smtpconn.contrib.delivery import bare_address, deliver, forward_paths
from smtpconn.testing import SmtpServer


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("jane@example.com", "jane@example.com"),
        ("Jane <jane@example.com>", "jane@example.com"),
        ("<jane@example.com>", "jane@example.com"),
        ('"Doe, Jane" <jane@example.com>', "jane@example.com"),
        ('"jane doe"@example.com', '"jane doe"@example.com'),
        ("jane@[192.0.2.1]", "jane@[192.0.2.1]"),
        ("jane@öäü.com", "jane@xn--4ca9at.com"),
        ("Jäne <jane@xn--4ca9at.com>", "jane@xn--4ca9at.com"),
        ("jäne@example.com", "jäne@example.com"),
    ],
)
def test_the_address_alone(text: str, address: str) -> None:
    """Without display name and brackets, its domain in A-labels; it can be sent as it is."""
    assert bare_address(text) == address
    assert str(*forward_paths([text])) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jane",
        "jane@",
        "@example.com",
        "<>",
        "a@example.com, b@example.com",
        "a@example.com b@example.com",
        "Jane\n <jane@example.com>",
        "jane@example.com\r\nRSET",
        "jane@a..example",
        "jane@" + "ü" * 70 + ".example",
        "jane@exa\x00mple.com",
    ],
)
def test_what_is_no_single_address(text: str) -> None:
    """It is refused, whatever the email package makes of it."""
    with pytest.raises(ValidationError):
        forward_paths([text])


def test_what_the_server_lacks_besides_8bitmime_stays_an_error() -> None:
    """Only eight bits are mended; a server without AUTH is no reason to read the message again."""
    with (
        SmtpServer(extensions=[]) as server,
        ConnectionPool(f"smtp://user:password@{server.host}:{server.port}") as pool,
    ):
        with pytest.raises(UnsupportedExtensionError, match="AUTH"):
            deliver(pool, ReversePath(""), forward_paths(["a@example.com"]), "ü".encode())
        assert len(server.connections) == 1
