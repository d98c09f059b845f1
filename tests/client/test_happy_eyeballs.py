"""Connecting races the addresses of a name (RFC 8305), within one deadline."""

from __future__ import annotations

import time

import pytest

from smtpconn import SmtpConnection, SmtpTimeoutError, TlsMode, TransportError
from smtpconn.testing import SmtpServer
from tests.support.addresses import NAME, dead, refusing, resolve_to


def test_a_dead_first_address_costs_one_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """250 ms and not the timeout; the dead attempt is closed."""
    with SmtpServer() as server, dead() as first:
        resolve_to(monkeypatch, [first, (server.host, server.port)])
        begun = time.monotonic()
        with SmtpConnection.connect(NAME, 25, TlsMode.NONE, 10):
            assert 0.2 < time.monotonic() - begun < 3


def test_a_refused_first_address_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is tried at once."""
    with SmtpServer() as server:
        resolve_to(monkeypatch, [refusing(), (server.host, server.port)])
        with SmtpConnection.connect(NAME, 25, TlsMode.NONE, 10) as connection:
            connection.noop()


def test_all_addresses_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names each."""
    resolve_to(monkeypatch, [refusing(), refusing()])
    with pytest.raises(TransportError, match=r"127\.0\.0\.1: .*refused; 127\.0\.0\.1: .*refused"):
        SmtpConnection.connect(NAME, 25, TlsMode.NONE, 10)


def test_all_addresses_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline ends it, and nothing is left open."""
    with dead() as first, dead() as second:
        resolve_to(monkeypatch, [first, second])
        begun = time.monotonic()
        with pytest.raises(SmtpTimeoutError):
            SmtpConnection.connect(NAME, 25, TlsMode.NONE, 0.4)
        assert time.monotonic() - begun < 0.9
