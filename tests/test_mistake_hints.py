"""Wrong guesses of new users: each error says what to write instead.

Written as a new user would, with the public names only. Every guess here was really made.
"""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

import smtpconn
from smtpconn import (
    ConnectionPool,
    Envelope,
    OAuthCredentials,
    PasswordCredentials,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    TlsMode,
)
from smtpconn.testing import SmtpServer

ME, YOU, SHE = "me@example.com", "you@example.net", "she@example.net"
TEXT = b"Subject: hello\r\n\r\nHello!\r\n"


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that takes everything."""
    with SmtpServer() as running:
        yield running


@pytest.fixture
def pool(server: SmtpServer) -> Iterator[ConnectionPool]:
    """A pool for it."""
    with ConnectionPool(server.url) as made:
        yield made


def answer(guess: Callable[[], object]) -> str:
    """The text of the error that a guess ends with; it is one of ours, or a TypeError."""
    with pytest.raises((SmtpError, TypeError)) as caught:
        guess()
    return str(caught.value)


def on_a_connection(pool: ConnectionPool, call: Callable[[Any], object]) -> object:
    """Call something with a connection of the pool."""
    with pool.connection() as connection:
        return call(connection)


ADDRESSES: dict[str, tuple[Callable[[ConnectionPool], object], str]] = {
    "a name and an address as recipient": (
        lambda pool: pool.send(ME, ["You <you@example.net>"], TEXT),
        "you@example.net",
    ),
    "a name and an address as sender": (
        lambda pool: pool.send("Me <me@example.com>", [YOU], TEXT),
        "me@example.com",
    ),
    "several recipients in one string": (
        lambda pool: pool.send(ME, f"{YOU}, {SHE}", TEXT),
        f"['{YOU}', '{SHE}']",
    ),
    "no sender": (lambda pool: pool.send(None, [YOU], TEXT), '""'),  # type: ignore[arg-type]
    "no recipient": (lambda pool: pool.send(ME, [], TEXT), "there is no recipient"),
    "a mapping of recipients": (
        lambda pool: pool.send(ME, {YOU: "You"}, TEXT),
        "an address or several",
    ),
    "text for a message": (
        lambda pool: pool.send(ME, [YOU], "Hello!"),  # type: ignore[arg-type]
        "bytes",
    ),
    "a message of the email package to send": (
        lambda pool: pool.send_message(TEXT),  # type: ignore[arg-type]
        "send takes bytes",
    ),
    "one envelope to send_many": (
        lambda pool: pool.send_many(Envelope(ME, [YOU], TEXT)),  # type: ignore[arg-type]
        "takes a list",
    ),
    "one message to send_many": (
        lambda pool: pool.send_many(EmailMessage()),  # type: ignore[arg-type]
        "takes a list",
    ),
    "one message to send_many of a connection": (
        lambda pool: on_a_connection(pool, lambda c: c.send_many(EmailMessage())),
        "takes a list",
    ),
    "several recipients in one string, with blanks": (
        lambda pool: pool.send(ME, f"{YOU} {SHE}", TEXT),
        f"['{YOU}', '{SHE}']",
    ),
    "a dict of parameters": (
        lambda pool: pool.send(ME, [YOU], TEXT, mail_params={"ret": "FULL"}),  # type: ignore[arg-type]
        "MailFromParams(...)",
    ),
    "bytes among many messages": (
        lambda pool: list(pool.send_many([TEXT])),  # type: ignore[list-item]
        "Envelopes and messages of the email package",
    ),
}


@pytest.mark.parametrize("guess", ADDRESSES)
def test_wrong_guesses_at_addresses_and_messages(
    pool: ConnectionPool, server: SmtpServer, guess: str
) -> None:
    """The error shows what to pass; nothing was sent."""
    call, spelling = ADDRESSES[guess]
    assert spelling in answer(lambda: call(pool))
    assert server.messages == []


SETTINGS: dict[str, tuple[Callable[[], object], str]] = {
    "a pair as credentials": (
        lambda: ServerConfig(
            "h.example",
            587,
            TlsMode.STARTTLS,
            credentials=("u", "p"),  # type: ignore[arg-type]
        ),
        "PasswordCredentials",
    ),
    "a URL as host": (
        lambda: ServerConfig("smtp://h.example", 25, TlsMode.NONE),
        "from_url",
    ),
    "a port behind the host": (lambda: ServerConfig("h.example:25", 25, TlsMode.NONE), "port"),
    "bytes as URL": (lambda: ConnectionPool(b"smtp://h.example"), "str"),  # type: ignore[arg-type]
    "a password that is not encoded": (
        lambda: ConnectionPool("smtp://user:pa/ss@h.example"),
        "percent-encode",
    ),
    "None for a limit": (
        lambda: ConnectionPool("smtp://h.example", max_idle=None),  # type: ignore[arg-type]
        "max_idle",
    ),
    "a number as text": (
        lambda: ConnectionPool("smtp://h.example", max_size="10"),  # type: ignore[arg-type]
        "max_size",
    ),
    "an unknown option": (
        lambda: ServerConfig.from_url("smtp://h.example", retries=3),
        "retries",
    ),
    "a password given to connect": (
        lambda: SmtpConnection.connect(
            "h.example",
            25,
            TlsMode.NONE,
            5,
            password="p",  # type: ignore[call-arg]
        ),
        "authenticate",
    ),
    "an address alone to connect from": (
        lambda: ServerConfig(
            "h.example",
            25,
            TlsMode.NONE,
            source_address="192.0.2.1",  # type: ignore[arg-type]
        ),
        "('192.0.2.1', 0)",
    ),
    "a function's name as hook": (
        lambda: ConnectionPool("smtp://h.example", on_event="log"),  # type: ignore[arg-type]
        "on_event(event)",
    ),
    "two servers for get_pool": (
        lambda: smtpconn.get_pool(["smtp://a.example", "smtp://b.example"]),  # type: ignore[arg-type]
        "ConnectionPool",
    ),
    "a host alone": (lambda: ConnectionPool("smtp.example.com"), "lmtp+unix, and ://"),
    "a host and a port": (lambda: ConnectionPool("smtp.example.com:587"), "lmtp+unix, and ://"),
    "a scheme of its own": (lambda: ServerConfig.from_url("mail://h.example"), "smtp+starttls"),
    "an unknown TLS mode": (
        lambda: ServerConfig("h.example", 25, "TLS"),  # type: ignore[arg-type]
        "STARTTLS",
    ),
    "the class instead of connect": (
        lambda: SmtpConnection("h.example", 25),
        "connect",
    ),
    "a token function that takes arguments": (
        lambda: OAuthCredentials("user", lambda server, scope: "token"),
        "force_refresh",
    ),
}


@pytest.mark.parametrize("guess", SETTINGS)
def test_wrong_guesses_at_settings(guess: str) -> None:
    """They are refused where they are made, and the error names the valid ones."""
    call, spelling = SETTINGS[guess]
    assert spelling in answer(call)


def explained() -> list[re.Pattern[str]]:
    """The texts in the tables of docs/errors.md, where ``...`` stands for anything."""
    page = (Path(__file__).parent.parent / "docs" / "errors.md").read_text()
    found = re.search(r"## From the text to the line to change\n(.*?)\n## ", page, re.DOTALL)
    assert found is not None
    cells = [line.split("|")[1] for line in found[1].splitlines() if line.startswith("| `")]
    texts = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    return [re.compile(".+".join(map(re.escape, text.strip(". ").split("...")))) for text in texts]


@pytest.mark.parametrize("guess", [*ADDRESSES, *SETTINGS])
def test_the_page_of_errors_explains_each(pool: ConnectionPool, guess: str) -> None:
    """Who has the text finds the line to change."""
    text = answer((lambda: ADDRESSES[guess][0](pool)) if guess in ADDRESSES else SETTINGS[guess][0])
    assert any(row.search(text) for row in explained()), text


def test_except_clauses_of_smtplib_go_on_to_work(server: SmtpServer) -> None:
    """Each refusal is caught by the class that smtplib has for it, with its attributes."""

    def refused(step: str, reply: str) -> Any:
        server.fault(step, reply=reply, close=step == "CONNECT")
        with ConnectionPool(server.url) as pool, pytest.raises(smtplib.SMTPException) as caught:
            pool.send(ME, [YOU], TEXT)
        return caught.value

    sender = refused("MAIL", "550 5.7.1 not you")
    assert isinstance(sender, smtplib.SMTPSenderRefused)
    assert (sender.smtp_code, sender.sender) == (550, ME)
    recipient = refused("RCPT", "550 5.1.1 unknown")
    assert isinstance(recipient, smtplib.SMTPRecipientsRefused)
    assert list(recipient.recipients) == [YOU]
    assert isinstance(refused("CONTENT", "554 5.6.0 no"), smtplib.SMTPDataError)
    assert isinstance(refused("EHLO", "521 5.3.2 no mail here"), smtplib.SMTPHeloError)
    assert isinstance(refused("CONNECT", "554 5.3.2 go away"), smtplib.SMTPConnectError)


def test_built_in_classes_are_caught_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection and an untrusted certificate have the standard library's classes."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    with SmtpServer() as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError) as refused:
        SmtpConnection.connect("127.0.0.1", port, TlsMode.NONE, timeout=5)
    assert refused.value.errno
    with SmtpServer(tls="implicit") as server, pytest.raises(ssl.SSLCertVerificationError) as tls:
        SmtpConnection.connect("localhost", server.port, TlsMode.IMPLICIT, timeout=5)
    assert "cafile" in str(tls.value)
    assert tls.value.verify_code


def test_what_is_safe_to_send_again_has_a_class(server: SmtpServer) -> None:
    """Greylisting of the only recipient is one; an unknown outcome is not."""
    server.fault("RCPT", reply="450 4.2.0 try later", times=1)
    with ConnectionPool(server.url) as pool:
        with pytest.raises(smtpconn.RetryableError):
            pool.send(ME, [YOU], TEXT)
        server.fault("CONTENT", close=True)
        with pytest.raises(SmtpError) as unknown:
            pool.send(ME, [YOU], TEXT)
    assert unknown.value.may_have_been_delivered
    assert not isinstance(unknown.value, smtpconn.RetryableError)


def test_the_hour_ends_well(server: SmtpServer) -> None:
    """What the errors said to write is taken."""
    with ConnectionPool(server.url, timeout=5, max_size=2) as pool:
        result = pool.send(ME, [YOU, SHE], TEXT)
        assert YOU in result.accepted_recipients
        (outcome,) = pool.send_many([Envelope(ME, [YOU], TEXT)])
        assert outcome.error is None
    config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "a/b?c#d"))
    assert config.credentials is not None
    assert [len(message.recipients) for message in server.messages] == [2, 1]
