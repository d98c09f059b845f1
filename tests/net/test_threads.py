"""Starting a thread: interrupted by a signal handler, or by one."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from smtpconn.net.threads import start_thread


class Interruption(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("error", [Interruption("now"), KeyError("other"), KeyboardInterrupt()])
def test_an_exception_of_a_signal_handler_is_raised_as_it_is(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Also where the thread runs already, and Python's own code fails at that."""
    ran = threading.Event()
    # What `threading.Thread.start` calls, from Python 3.13 on and before.
    name = "_start_joinable_thread"
    name = name if hasattr(threading, name) else "_start_new_thread"
    start = getattr(threading, name)

    def start_and_raise(*args: object, **options: object) -> NoReturn:
        start(*args, **options)
        assert ran.wait(10)
        raise error

    monkeypatch.setattr(threading, name, start_and_raise)
    with pytest.raises(type(error)) as raised:
        start_thread(threading.Thread(target=ran.set, daemon=True))
    assert raised.value is error


@pytest.mark.timeout(10)
def test_inside_the_start_of_another_thread() -> None:
    """A signal handler that would wait for the thread in vain is told that it cannot be started."""
    thread = threading.Thread(target=bool)
    lock = threading._active_limbo_lock  # type: ignore[attr-defined]
    with lock, pytest.raises(RuntimeError, match="starting another one"):
        start_thread(thread)
    start_thread(thread)
    thread.join(10)
