"""Starting a thread where a signal handler may interrupt it, or may be what starts it."""

from __future__ import annotations

import threading


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    If anything but a `RuntimeError` is raised, the thread may run nevertheless.

    Raises:
        RuntimeError: it cannot be started: there are too many, the interpreter ends, or this call
            interrupts the start of another thread by the same one.
        BaseException: what a signal handler raised during the call.
    """
    # A new thread takes this lock before it does anything. A signal handler that interrupts another
    # `start`, which holds the lock, would wait forever for the new thread.
    lock = getattr(threading, "_active_limbo_lock", None)
    is_owned = getattr(lock, "_is_owned", None)  # gevent's lock has none
    if is_owned is not None and is_owned():
        raise RuntimeError("this thread is starting another one")
    interruption: BaseException | None = None
    try:
        thread.start()
    except KeyError as error:
        # After an exception `Thread.start` removes the thread from a dict, and fails if the thread
        # runs already and has done so itself. What was raised at first is the context.
        if error.args != (thread,):
            raise
        interruption = error.__context__
    if interruption is not None:
        raise interruption
