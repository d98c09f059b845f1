"""`Interruption`: calls a handler at one line of some files, as a signal would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


class Interruption:
    """Calls a handler at one line of these files in this thread, counted from 0.

    Args:
        line: the number of the executed line.
        handler: the function to call.
        files: paths of files, or prefixes of paths.

    Attributes:
        where: the line; "" if fewer lines were executed.
        function: the name of the function that contains it.
    """

    def __init__(self, line: int, handler: Callable[[], object], files: tuple[str, ...]) -> None:
        self._left = line
        self._handler = handler
        self._files = files
        self.where = self.function = ""

    def __enter__(self) -> Interruption:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._files):
            return None
        if event == "line" and not self.where:
            if self._left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.function = frame.f_code.co_name
                sys.settrace(None)
                self._handler()
            self._left -= 1
        return self._trace
