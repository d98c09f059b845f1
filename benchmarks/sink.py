"""A server that throws mail away, in a process of its own: `sink.c`, or Python without a compiler.

The C program is built on the spot, once, into a directory that is gone with the process. Both count
what they got, so that a measurement can be checked: `Sink.stop` returns it.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Received:
    """What a sink got: messages, octets of content, and how often it had to answer."""

    messages: int
    octets: int
    turns: int


@functools.cache
def _compiled() -> str | None:
    """The C program; None where nothing compiles."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    scratch = Path(tempfile.mkdtemp(prefix="smtpconn-sink-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    program = scratch / "sink"
    subprocess.run([compiler, "-O2", "-o", program, HERE / "sink.c"], check=True)
    return str(program)


class Sink:
    """A running sink; a context manager.

    Args:
        pause_ms: milliseconds it waits for more before it answers, to count turns; 0 to be fast.
        in_python: whether to do without a compiler.

    Attributes:
        port: where it listens on 127.0.0.1.
        pid: of its process.
        is_compiled: whether it is the C program.
    """

    def __init__(self, pause_ms: int = 0, *, in_python: bool = False) -> None:
        program = None if in_python else _compiled()
        self.is_compiled = program is not None
        command = [sys.executable, str(HERE / "slow_sink.py")] if program is None else [program]
        self._process = subprocess.Popen(
            [*command, str(pause_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> Received:
        """End it and return what it got."""
        answer, _ = self._process.communicate()
        return Received(*map(int, answer.split()))

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self.stop()
