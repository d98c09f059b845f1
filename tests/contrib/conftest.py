"""What the tests of the adapters share: a server, and pools that are closed at the end."""

from __future__ import annotations

import email.charset
from collections.abc import Iterator

import pytest

from smtpconn.testing import SmtpServer

_CHARSETS = dict(email.charset.CHARSETS)


@pytest.fixture(autouse=True)
def untouched_charsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flask-Mail changes how the whole process encodes UTF-8 when it is imported; undone here."""
    monkeypatch.setattr(email.charset, "CHARSETS", dict(_CHARSETS))


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that can do everything."""
    with SmtpServer() as running:
        yield running
