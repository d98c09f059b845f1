"""Fixtures for the tests of the pool."""

from collections.abc import Iterator

import pytest

from smtpconn.testing import SmtpServer
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that a test advances between operations."""
    return Clock(monkeypatch)


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that offers every extension; the preferred one where a pool has two."""
    with SmtpServer() as running:
        yield running


@pytest.fixture
def backup() -> Iterator[SmtpServer]:
    """The second server of a pool."""
    with SmtpServer() as running:
        yield running
