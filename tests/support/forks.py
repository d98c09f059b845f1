"""Fork with and without Python's hooks, and report what a function returns in the child."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import TypeAlias, cast

Fork: TypeAlias = Callable[[], int]


def fork_in_c() -> int:
    """Fork as a C library does, so that Python does not hear of it.

    ``PyDLL`` keeps the GIL, as a fork of a running interpreter must. If a thread of the parent
    waits for the GIL at that moment, the child's interpreter hangs sooner or later, whatever
    it runs: nobody has told it to make its GIL anew. Such a child is of no use and is forked again.
    """
    while True:
        receiving, sending = os.pipe()
        child = cast(int, ctypes.PyDLL(None).fork())
        if child == 0:
            _pass_the_gil_around()
            os.write(sending, b"!")
        is_sound = child == 0
        try:
            is_sound = is_sound or bool(select.select([receiving], [], [], 1)[0])
        finally:
            # Also if a signal handler raises: only this code knows the child.
            if not is_sound:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            os.close(receiving)
            os.close(sending)
        if is_sound:
            return child


def _pass_the_gil_around() -> None:
    there, back = threading.Semaphore(0), threading.Semaphore(0)

    def answer() -> None:
        for _ in range(50):
            there.acquire()
            back.release()

    thread = threading.Thread(target=answer)
    thread.start()
    for _ in range(50):
        there.release()
        back.acquire()
    thread.join()


def in_child(work: Callable[[], object], fork: Fork = os.fork) -> str:
    """Call ``work`` in a forked child, and return what it returned or raised, as text."""
    receiving, sending = os.pipe()
    child = fork()
    if child == 0:
        try:
            text = str(work())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        try:
            os.write(sending, text.encode())
        finally:
            os._exit(0)
    os.close(sending)
    try:
        if not select.select([receiving], [], [], 10)[0]:
            os.kill(child, signal.SIGKILL)
        return os.read(receiving, 65536).decode() or "the child hung or died"
    finally:
        os.close(receiving)
        os.waitpid(child, 0)
