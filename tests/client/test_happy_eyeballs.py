"""Connecting races the addresses of a name (RFC 8305), within one deadline."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from smtpconn import SmtpConnection, SmtpTimeoutError, TlsMode, TransportError
from smtpconn.testing import SmtpServer


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port where connecting neither succeeds nor fails: the backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Have any name resolve to these ports of this machine, in order."""

    def getaddrinfo(host: str, port: int, **options: object) -> list[object]:
        if options.get("flags"):
            raise socket.gaierror("not numeric")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", p)) for p in ports]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def closed_port() -> int:
    """A port without a listener."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_a_dead_first_address_costs_one_delay(
    monkeypatch: pytest.MonkeyPatch, dead_port: int
) -> None:
    """250 ms and not the timeout; the dead attempt is closed."""
    with SmtpServer() as server:
        resolve_to(monkeypatch, dead_port, server.port)
        begun = time.monotonic()
        with SmtpConnection.connect("mail.example", 25, TlsMode.NONE, 10):
            assert 0.2 < time.monotonic() - begun < 3


def test_a_refused_first_address_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is tried at once."""
    with SmtpServer() as server:
        resolve_to(monkeypatch, closed_port(), server.port)
        with SmtpConnection.connect("mail.example", 25, TlsMode.NONE, 10) as connection:
            connection.noop()


def test_all_addresses_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names each."""
    resolve_to(monkeypatch, closed_port(), closed_port())
    with pytest.raises(TransportError, match=r"127\.0\.0\.1: .*refused; 127\.0\.0\.1: .*refused"):
        SmtpConnection.connect("mail.example", 25, TlsMode.NONE, 10)


def test_all_addresses_dead(monkeypatch: pytest.MonkeyPatch, dead_port: int) -> None:
    """The deadline ends it, and nothing is left open."""
    resolve_to(monkeypatch, dead_port, dead_port)
    begun = time.monotonic()
    with pytest.raises(SmtpTimeoutError):
        SmtpConnection.connect("mail.example", 25, TlsMode.NONE, 0.4)
    assert time.monotonic() - begun < 0.9
