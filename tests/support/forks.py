"""Run a function in a forked child and report what it returned."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable


def in_child(work: Callable[[], object]) -> str:
    """Call ``work`` in a forked child, and return what it returned or raised, as text."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        try:
            os.write(sending, text.encode())
        finally:
            os._exit(0)
    os.close(sending)
    try:
        if not select.select([receiving], [], [], 10)[0]:
            os.kill(child, signal.SIGKILL)
        return os.read(receiving, 65536).decode() or "the child hung or died"
    finally:
        os.close(receiving)
        os.waitpid(child, 0)
