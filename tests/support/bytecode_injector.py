"""`BytecodeInjector`: raises an exception at one bytecode of the pool's code."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Any

from benchmarks.bytecodes import is_safe
from smtpconn.pool import connection_pool, connector, core, lease, state

_MODULES = (lease, core, connector, connection_pool, state)
_FILES = frozenset(str(module.__file__) for module in _MODULES)


class Injected(BaseException):
    """The exception that `BytecodeInjector` raises."""


class BytecodeInjector:
    """Raises `Injected` at one bytecode of the pool's code in this thread, counted from 0.

    Attributes:
        seen: the number of bytecodes that were counted.
        where: the place at which it was raised; "" if it was not.
        on_call: called with the name of each function of the pool that is entered.
    """

    def __init__(self, point: int, on_call: Callable[[str], None]) -> None:
        self._point = point
        self._on_call = on_call
        self._thread = threading.get_ident()
        self.seen = 0
        self.where = ""

    def __enter__(self) -> BytecodeInjector:
        if sys.version_info >= (3, 12):
            self._monitor(self._at_start, self._at_instruction, on=True)
        else:
            self._before = sys.gettrace()
            sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if sys.version_info >= (3, 12):
            self._monitor(None, None, on=False)
        else:
            sys.settrace(self._before)

    def _monitor(self, start: object, instruction: object, *, on: bool) -> None:
        """Use monitoring (PEP 669), because tracing misses many bytecodes since Python 3.12."""
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        tool, events = monitoring.DEBUGGER_ID, monitoring.events
        if on:
            monitoring.use_tool_id(tool, "smtpconn bytecode injector")
        monitoring.register_callback(tool, events.PY_START, start)
        monitoring.register_callback(tool, events.INSTRUCTION, instruction)
        for code in _CODES:
            monitoring.set_local_events(
                tool, code, events.PY_START | events.INSTRUCTION if on else 0
            )
        if not on:
            monitoring.free_tool_id(tool)

    def _at_start(self, code: CodeType, offset: int) -> None:
        if threading.get_ident() == self._thread:
            self._on_call(code.co_name)

    def _at_instruction(self, code: CodeType, offset: int) -> None:
        if threading.get_ident() == self._thread:
            self._arrive(code, offset)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename not in _FILES:
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            self._on_call(frame.f_code.co_name)
        elif event == "opcode":
            self._arrive(frame.f_code, frame.f_lasti)
        return self._trace

    def _arrive(self, code: CodeType, offset: int) -> None:
        if self.seen >= self._point and not self.where and not is_safe(code, offset):
            self.where = f"{code.co_qualname} +{offset}"
            self._inject(self.where)
        self.seen += 1

    def _inject(self, where: str) -> None:
        raise Injected(where)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _codes_of(module: ModuleType) -> Iterator[CodeType]:
    """The code of every function and method the module defines."""
    for owner in (module, *(c for c in vars(module).values() if isinstance(c, type))):
        for value in vars(owner).values():
            function = value.fget if isinstance(value, property) else value
            code = getattr(function, "__code__", None)
            if code is not None and code.co_filename == module.__file__:
                yield from _codes(code)


_CODES = [code for module in _MODULES for code in _codes_of(module)]
