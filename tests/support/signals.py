"""Signals that reliably interrupt a wait of the main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class RaisingHandler:
    """A signal handler that raises an exception, once."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self.has_run = threading.Event()

    def __call__(self, number: int, frame: object) -> None:
        """Handle the signal."""
        if not self.has_run.is_set():
            self.has_run.set()
            raise self._error


def to_main_thread(number: int) -> None:
    """Send a signal to the main thread."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


def send_until_handled(handler: RaisingHandler, send: Callable[[], None]) -> None:
    """Call ``send`` again and again until the handler of its signal has run.

    A signal that comes right before a system call does not interrupt it.
    """
    while not handler.has_run.is_set():
        send()
        handler.has_run.wait(0.1)


@contextmanager
def one_ctrl_c() -> Iterator[RaisingHandler]:
    """Have the first SIGINT raise KeyboardInterrupt, and ignore later ones."""
    handler = RaisingHandler(KeyboardInterrupt())
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield handler
    finally:
        signal.signal(signal.SIGINT, before)
