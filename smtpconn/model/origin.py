"""Whether an exception belongs to this package or to other code that ran in between.

Other code runs between any two of our lines, and inside system calls: signal handlers, logging
filters, the caller's own iterables. It may raise any class, even an `OSError` (the example in
Python's documentation of ``signal`` does) or an `SmtpError` (a handler that sends mail). Such an
exception says nothing about our connection. So it is never converted to an error of the connection,
and never a reason to send again.

The class cannot tell the two apart, but the traceback can. An exception is our own if every frame
from the catching function to the raising line is of this package or of the socket that it called.
A function of other code that raises has its own frame there.
"""

from __future__ import annotations

import signal
import smtplib
from types import CodeType, FrameType, TracebackType

_OURS = frozenset({"smtpconn", "ssl", "socket", "_socket", "gevent", "eventlet"})
"""Packages whose exceptions, if our code called them, are errors of the connection."""


def is_own(error: BaseException) -> bool:
    """Whether this package, or a call of its socket, raised an exception that was just caught.

    Args:
        error: caught by the calling function, which is the first frame of its traceback.
    """
    traceback = error.__traceback__
    last: TracebackType | None = None
    while traceback is not None:
        if not _is_ours(traceback.tb_frame):
            return False
        last, traceback = traceback, traceback.tb_next
    # A failed system call has an errno. An exception without one, and without a frame of its own,
    # was set from outside (PyThreadState_SetAsyncExc). Our own timeouts have no errno either; for
    # those the caller checks the clock.
    is_system_error = isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException)
    if is_system_error and error.errno is None and not isinstance(error, TimeoutError):  # type: ignore[attr-defined]
        return last is not None and _package(last.tb_frame) != "smtpconn"
    return True


def is_of_signal_handler(error: BaseException) -> bool:
    """Whether a signal handler raised the exception while a function of the caller ran.

    The function's own exceptions are handled as its failure. One that a signal handler raises
    while the function runs is for the application, and is passed on.
    """
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _is_ours(frame: FrameType) -> bool:
    if _package(frame) in _OURS:
        return True
    # A method of a socket that a caller's `socket_factory` made.
    kinds = type(frame.f_locals.get("self")).__mro__[:-1]
    return any(kind.__module__.partition(".")[0] in _OURS for kind in kinds)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _code_of(handler: object) -> CodeType | None:
    """The code of a handler that is a function, a method, or an object with ``__call__``."""
    function = getattr(handler, "__func__", handler)
    if not hasattr(function, "__code__") and callable(handler):
        function = type(handler).__call__
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None
