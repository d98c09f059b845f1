"""What the tests of the adapters share: a server, and pools that are closed at the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smtpconn.testing import SmtpServer


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that can do everything."""
    with SmtpServer() as running:
        yield running
