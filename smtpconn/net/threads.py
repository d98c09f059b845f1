"""How to start a thread safely when a signal handler may interrupt the start, or makes it."""

from __future__ import annotations

import sys
import threading

from smtpconn.net.forking import keep_in_child


def start_thread(thread: threading.Thread) -> None:
    """Start a thread.

    If anything but a `RuntimeError` is raised, the thread may run nevertheless.

    Raises:
        RuntimeError: it cannot be started: there are too many threads, the interpreter ends, or a
            signal handler makes this call while its own thread starts another one.
        BaseException: what a signal handler raised during the call.
    """
    # A new thread takes this lock before it does anything. A signal handler that interrupts another
    # `start`, which holds the lock, would wait forever for the new thread.
    lock = getattr(threading, "_active_limbo_lock", None)
    is_owned = getattr(lock, "_is_owned", None)  # gevent's lock has none
    if is_owned is not None and is_owned():
        raise RuntimeError("this thread is starting another one")
    # Destructors may run while the interpreter ends. Before Python 3.12 a thread that is started
    # then never runs, and `start` waits for it forever.
    if sys.is_finalizing():
        raise RuntimeError("a thread cannot be started while the interpreter ends")
    keep_in_child(thread)
    interruption: BaseException | None = None
    try:
        thread.start()
    except KeyError as error:
        # After an exception `Thread.start` removes the thread from a dict. That fails if the thread
        # already runs and has removed itself. The first exception is the context of this one.
        if error.args != (thread,):
            raise
        interruption = error.__context__
    if interruption is not None:
        raise interruption
