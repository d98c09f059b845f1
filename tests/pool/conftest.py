"""What the tests of the pool share."""

import pytest

from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock to put forward between operations."""
    return Clock(monkeypatch)
