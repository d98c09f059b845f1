"""Whose exception it is: one of this package, or one of other code that ran in between.

Other code runs between any two of our lines, and inside the system calls that we wait in: signal
handlers, logging filters, the caller's own iterables. What it raises may be of any class, also an
`OSError` (the example in Python's documentation of ``signal`` raises one) or an `SmtpError` (a
handler that sends mail). It says nothing of our connection, so it is never taken for an error of
it: not renamed, not answered by sending again.

The class cannot tell the two apart, so the traceback does. An error is our own if every frame
between us and the line that raised it is of this package or of the socket that it called. Where
another's function raised it, its frame is there, too.
"""

from __future__ import annotations

import signal
import smtplib
from types import CodeType, FrameType, TracebackType

_OURS = frozenset({"smtpconn", "ssl", "socket", "_socket", "gevent", "eventlet"})
"""Packages whose functions, called by ours, raise errors of the connection."""


def is_own(error: BaseException) -> bool:
    """Whether an exception that was just caught was raised by this package or by a call of its
    socket.

    Args:
        error: caught by the function that asks, which is the first frame of its traceback.
    """
    traceback = error.__traceback__
    last: TracebackType | None = None
    while traceback is not None:
        if not _is_ours(traceback.tb_frame):
            return False
        last, traceback = traceback, traceback.tb_next
    # A system call that failed has an errno. An exception without one, and without a frame of its
    # own, was set from outside (PyThreadState_SetAsyncExc). A time-out of ours has none either;
    # whether that is one, the clock tells.
    is_system_error = isinstance(error, OSError) and not isinstance(error, smtplib.SMTPException)
    if is_system_error and error.errno is None and not isinstance(error, TimeoutError):  # type: ignore[attr-defined]
        return last is not None and _package(last.tb_frame) != "smtpconn"
    return True


def is_of_signal_handler(error: BaseException) -> bool:
    """Whether an exception came through a signal handler; for errors of a caller's own function.

    What such a function raises is its own affair, but an exception that a handler raises while the
    function runs is meant for whoever called us.
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
    # A method of a socket that somebody's `socket_factory` made.
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
