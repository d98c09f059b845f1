"""Messages that differ in their Message-ID, and how often a server stored each."""

from __future__ import annotations

import re
from collections import Counter

from smtpconn import (
    ConnectionPool,
    PasswordCredentials,
    ServerConfig,
    SmtpError,
    TlsMode,
)
from tests.realservers.certificates import Certificates
from tests.realservers.postfix import Postfix

SENDER = "sender@client.example"


ALICE, BOB, NOBODY = "alice@example.test", "bob@example.test", "nobody@example.test"


CREDENTIALS = PasswordCredentials("alice", "wonderland")


HEADER = b"Message-ID: <%s@client.example>\r\nDate: Mon, 23 Nov 2026 10:00:00 +0000\r\n"


BODIES = {
    "plain": b"hello\r\n",
    "dots": b".\r\n..\r\n.leading\r\nin .the. middle\r\n\r\n.",
    "bare line feeds": b"one\ntwo\n.\nthree\n",
    "eight bits": "gr\u00fc\u00dfe \u2603\r\n".encode(),
    "long line": b"x" * 100_000 + b"\r\n",
    "many lines": b"".join(b"line %d\r\n" % i for i in range(20_000)),
    "no final line end": b"the end",
    "empty body": b"",
}


def message(identity: str, body: bytes = b"hello\r\n") -> bytes:
    """A message with its own Message-ID."""
    return HEADER % identity.encode() + b"From: <sender@client.example>\r\n\r\n" + body


def as_stored(sent: bytes) -> bytes:
    """A sent message as Postfix stores it in a Maildir: LF line ends, also after the last line."""
    text = sent.replace(b"\r\n", b"\n")
    return text if text.endswith(b"\n") else text + b"\n"


def identities(stored: list[bytes]) -> Counter[str]:
    """How often each message was stored."""
    return Counter(
        found[1].decode()
        for text in stored
        if (found := re.search(rb"(?mi)message-id[:=] ?<([^@]+)@", text)) is not None
    )


def config(postfix: Postfix, certificates: Certificates, mode: TlsMode) -> ServerConfig:
    """The configuration for the fixture's server."""
    return ServerConfig(
        "localhost",
        postfix.tls_port if mode is TlsMode.IMPLICIT else postfix.port,
        mode,
        timeout=10,
        tls_context=certificates.client_context(),
    )


def send_until_known(
    pool: ConnectionPool, identity: str, acknowledged: set[str], unknown: set[str]
) -> None:
    """Send a message again while it was certainly not delivered; note what became of it."""
    while True:
        try:
            pool.send(SENDER, [ALICE], message(identity))
        except SmtpError as error:
            if error.may_have_been_delivered:
                unknown.add(identity)
                return
        else:
            acknowledged.add(identity)
            return


CAROL = "carol@example.test"
"""Her mailbox is full."""
