"""A monotonic clock that a test advances instead of waiting."""

import time

import pytest


class Clock:
    """Replaces `time.monotonic` by a clock that can be advanced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._offset = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self._offset)

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self._offset += seconds
