"""Wait for a condition by polling."""

from __future__ import annotations

import threading
from collections.abc import Callable


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; fail after about five seconds."""
    never = threading.Event()
    for _ in range(5000):
        if condition():
            return
        never.wait(0.001)
    raise AssertionError("the condition did not become true")
