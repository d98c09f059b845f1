"""Where in a piece of code an exception from outside can strike, and where it cannot.

The interpreter looks for signals behind calls and jumps only, and the compiler relies on it: what
lies between the end of a ``with`` body and the call of ``__exit__`` is not protected, nor is the
bookkeeping of an exception. To have an exception strike there would prove nothing about the code.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType

_HANDLING = frozenset({"PUSH_EXC_INFO", "WITH_EXCEPT_START", "POP_EXCEPT", "RERAISE"})
_safe: dict[CodeType, frozenset[int]] = {}


def is_safe(code: CodeType, offset: int) -> bool:
    """Whether nothing can strike at this bytecode."""
    if code not in _safe:
        _safe[code] = frozenset(_find_safe(code))
    return offset in _safe[code]


def _find_safe(code: CodeType) -> Iterator[int]:
    leaving: list[int] = []
    previous = 0
    for instruction in dis.get_instructions(code):
        name, offset = instruction.opname, instruction.offset
        if name in _HANDLING:
            yield from (previous, offset)
        is_none = name == "LOAD_CONST" and instruction.argval is None
        if is_none or name in ("NOP", "SWAP", "PRECALL"):
            leaving.append(offset)
        else:
            if name == "CALL" and len(leaving) >= 3:
                yield from (*leaving, offset)
            leaving = []
        previous = offset
