"""How a machine is kept while it measures.

A processor that has nothing to do while a turn is in flight goes to sleep, in a virtual machine
deeply. It takes a while to wake, and begins with empty caches. A process that is moved to another
processor finds empty caches, too.
"""

from __future__ import annotations

import enum
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Mode(enum.Enum):
    """How the machine is kept.

    Attributes:
        AS_IS: as programs meet it.
        PINNED: the client has a processor, and the server has another one.
        AWAKE: no processor sleeps.
    """

    AS_IS = "as it is"
    PINNED = "pinned"
    AWAKE = "awake"


def modes() -> list[Mode]:
    """Those that this machine can be kept in."""
    can_pin = hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1
    return [mode for mode in Mode if can_pin or mode is not Mode.PINNED]


@contextmanager
def pinned(server: int) -> Iterator[None]:
    """Have this thread on the first processor, and the process ``server`` on the last one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(server, {max(before)})
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def awake() -> Iterator[None]:
    """Have a process for each processor count for ever, at the lowest priority."""
    program = "import os; os.nice(19)\nwhile True: pass"
    counting = [
        subprocess.Popen([sys.executable, "-c", program]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def description() -> str:
    """The interpreter, the system and the number of processors."""
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{os.cpu_count()} cores"
    )
