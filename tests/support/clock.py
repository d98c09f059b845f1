"""A monotonic clock that a test puts forward instead of waiting."""

import time

import pytest


class Clock:
    """The monotonic clock, which can be put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._offset = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self._offset)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._offset += seconds
