"""Calls that many tests of the pool make: send one message, borrow one connection."""

from __future__ import annotations

from smtpconn import ConnectionPool, ServerConfig
from smtpconn.testing import SmtpServer

SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"


def configs(*servers: SmtpServer, timeout: float = 10.0) -> list[ServerConfig]:
    """The configurations of a pool with these servers."""
    return [ServerConfig.from_url(s.url, timeout=timeout) for s in servers]


def send(pool: ConnectionPool) -> None:
    """Send a message."""
    pool.send(SENDER, RECIPIENTS, MESSAGE)


def take(pool: ConnectionPool, timeout: float | None = None) -> None:
    """Borrow a connection and return it."""
    with pool.connection(timeout):
        pass
