"""`ExceptionInjector`: raises an exception at one line, or one bytecode, of the package.

The code runs in a thread of this process. An exception raised by a trace function has its own
frame, like that of a signal handler. `every_place` runs a scenario once for each place.
"""

from __future__ import annotations

import dis
import errno
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import smtpconn
from smtpconn import Phase, SmtpError, SmtpResponse, TransientError

PACKAGE = Path(smtpconn.__file__).parent


class SoftTimeLimit(Exception):
    """An Exception of a signal handler, such as Celery's."""


class Killed(BaseException):
    """A BaseException, such as KeyboardInterrupt or the end of a greenlet."""


def _sent_by_a_handler() -> SmtpError:
    """The error of a signal handler that sends mail."""
    return TransientError(SmtpResponse(421, ("4.3.2 another server",)), phase=Phase.MAIL)


ERRORS: tuple[Callable[[], BaseException], ...] = (
    SoftTimeLimit,
    lambda: OSError("Couldn't open device!"),
    lambda: OSError(errno.EIO, "the handler's file"),
    TimeoutError,
    lambda: TimeoutError(errno.ETIMEDOUT, "the handler's socket"),
    lambda: ConnectionResetError(errno.ECONNRESET, "the handler's socket"),
    lambda: BrokenPipeError(errno.EPIPE, "the handler's pipe"),
    lambda: BlockingIOError(errno.EAGAIN, "the handler's pipe"),
    _sent_by_a_handler,
    lambda: smtpconn.ConnectionClosedError("another's", phase=Phase.IDLE),
    Killed,
)
"""Errors of other code, of every class that could be confused with an error of smtpconn."""


class ExceptionInjector:
    """Raises ``error`` at the ``place``-th line of these modules, once.

    Args:
        modules: paths below the package.
        place: the number of the executed line, or bytecode, from 1.
        error: the exception to raise.
        opcodes: whether bytecodes are counted instead of lines.

    Attributes:
        where: the line at which it was raised; None if there were fewer.
    """

    def __init__(
        self,
        modules: tuple[str, ...],
        place: int,
        error: BaseException,
        *,
        opcodes: bool = False,
    ) -> None:
        self.where: str | None = None
        self._files = {str(PACKAGE / module) for module in modules}
        self._left = place
        self._error = error
        self._event = "opcode" if opcodes else "line"

    def __enter__(self) -> ExceptionInjector:
        # From 3.12 on no bytecode is traced unless a frame asked for it before the tracing began.
        sys._getframe().f_trace_opcodes = self._event == "opcode"
        sys.settrace(self._enter)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(None)

    def in_new_threads(self) -> ExceptionInjector:
        """Inject in threads that are started from now on, too, until `forget_new_threads`."""
        threading.settrace(self._enter)
        return self

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in self._files or self.where is not None:
            return None
        if _is_in_destructor(frame):
            return None  # the interpreter does not pass on exceptions from there
        frame.f_trace_opcodes = self._event == "opcode"
        return self._inside

    def _inside(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == self._event and self.where is None and not _is_leaving_with(frame):
            self._left -= 1
            if not self._left:
                file = Path(frame.f_code.co_filename)
                self.where = f"{file.name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise self._error
        return self._inside


def _is_leaving_with(frame: FrameType) -> bool:
    """Whether a ``with`` block is about to be left in the usual way.

    The interpreter runs no signal handler there, because ``__exit__`` would not be called; but it
    calls trace functions.
    """
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0)
    is_begun = dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("LOAD_FAST")
    return line.lstrip().startswith("with ") and not is_begun


def _is_in_destructor(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def forget_new_threads() -> None:
    """Undo `ExceptionInjector.in_new_threads`."""
    threading.settrace(None)


def every_place(
    scenario: Callable[[ExceptionInjector, BaseException], None],
    modules: tuple[str, ...],
    *,
    opcodes: bool = False,
    all_errors: bool = False,
    step: int = 1,
) -> int:
    """Run the scenario once for each place; return how many places there were.

    Args:
        scenario: runs the same code with the injector, and checks the result.
        modules: the modules of the places.
        opcodes: use bytecodes instead of lines.
        all_errors: raise every error at each place; else one of them in turn.
        step: use every ``step``-th place.
    """
    place = 1
    while True:
        for error in _errors_at(place // step, all_errors):
            injector = ExceptionInjector(modules, place, error, opcodes=opcodes)
            for _ in _apart(scenario, injector, error):
                pass
            if injector.where is None:
                return place - 1
        place += step


def _apart(
    scenario: Callable[[ExceptionInjector, BaseException], None],
    injector: ExceptionInjector,
    error: BaseException,
) -> Iterator[None]:
    """Run the scenario in a generator, which has an exception state of its own.

    An exception raised at the bytecodes that end an ``except`` block leaves the exception handled
    there as the thread's current one, and every later test would find it as ``__context__``.
    """
    scenario(injector, error)
    yield


def _errors_at(number: int, all_errors: bool) -> Iterator[BaseException]:
    if all_errors:
        yield from (make() for make in ERRORS)
    else:
        yield ERRORS[number % len(ERRORS)]()
