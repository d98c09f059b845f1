"""Addresses as people write them, and what counts as sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from smtpconn import ConnectionPool, ReversePath, UnsupportedExtensionError, ValidationError
from smtpconn.contrib.delivery import (
    bare_address,
    deliver,
    forward_path,
    forward_paths,
    reverse_path,
)
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
        ("Example.com <noreply@example.com>", "noreply@example.com"),
        ("Jane Q. Public <jane@example.com>", "jane@example.com"),
        ("Acme Inc. <jane@example.com>", "jane@example.com"),
        ("postmaster", "postmaster"),
        ("The Postmaster <postmaster>", "postmaster"),
        (" jane@example.com\t", "jane@example.com"),
        ("u@a_b.example", "u@a_b.example"),
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


@pytest.mark.parametrize("one", [forward_path, reverse_path])
def test_several_addresses_for_one(one: Callable[[str], object]) -> None:
    """The error has the list to pass."""
    with pytest.raises(ValidationError) as refused:
        one("Acme Inc. <a@x.example>, b@y.example")
    assert str(refused.value).endswith("pass a list, ['a@x.example', 'b@y.example']")


def test_dots_that_need_quotes() -> None:
    """They leave quoted, whatever stands around the address."""
    (path,) = forward_paths(["Docomo <a..b@docomo.example>"])
    assert str(path) == '"a..b"@docomo.example'


@pytest.mark.parametrize(
    "text",
    ["x@[", ":;x@y", "(" * 600, 'a"' * 32_768, "<" * 65_536, "a@b " * 16_384, "\ud800@x", "\0"],
    ids=lambda text: ascii(text[:8]),
)
def test_nothing_but_a_validation_error_comes_of_any_text(text: str) -> None:
    """At once, and without the email package's own accidents."""
    started = time.perf_counter()
    with pytest.raises(ValidationError):
        forward_paths([text])
    assert time.perf_counter() - started < 2


def test_a_line_of_any_length_is_sent() -> None:
    """What no server has to take is encoded on the way (RFC 5321 4.5.3.1.6)."""
    data = b"Subject: long\r\n\r\n" + b"x" * 5000 + b"\r\n"
    with SmtpServer() as server, ConnectionPool(server.url) as pool:
        deliver(pool, ReversePath("me@example.com"), forward_paths(["a@example.com"]), data)
        (message,) = server.messages
    assert max(map(len, message.content.split(b"\r\n"))) <= 998
    assert message.email.get_content().strip() == "x" * 5000


def test_a_handler_that_mails_which_recipients_were_refused() -> None:
    """If its own mail has refused recipients as well, that is not mailed again."""
    texts: list[str] = []

    class Mailer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())
            send()

    def send() -> None:
        recipients = forward_paths(["a@example.com", "b@example.com"])
        deliver(pool, ReversePath(""), recipients, b"Subject: x\r\n\r\n")

    logger, mailer = logging.getLogger("smtpconn.contrib"), Mailer()
    with SmtpServer() as server, ConnectionPool(server.url) as pool:
        server.fault("RCPT", reply="550 5.1.1 No such user", match="b@example.com", times=None)
        logger.addHandler(mailer)
        try:
            send()
        finally:
            logger.removeHandler(mailer)
        assert texts == ["1 of 2 recipients were refused; the first with 550 5.1.1"]
        assert len(server.messages) == 2


def test_what_the_server_lacks_besides_8bitmime_stays_an_error() -> None:
    """Only eight bits are mended; a server without AUTH is no reason to read the message again."""
    with (
        SmtpServer(extensions=[]) as server,
        ConnectionPool(f"smtp://user:password@{server.host}:{server.port}") as pool,
    ):
        with pytest.raises(UnsupportedExtensionError, match="AUTH"):
            deliver(pool, ReversePath(""), forward_paths(["a@example.com"]), "ü".encode())
        assert len(server.connections) == 1
