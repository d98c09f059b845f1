"""Fork with and without Python's hooks, and report what a function returns in the child."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import select
import signal
import threading
import time
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
    """Call ``work`` in a forked child, and return what it returned or raised, as text.

    Of a child that hangs or dies: how it ended, and where its threads were.
    """
    receiving, sending = os.pipe()
    child = fork()
    if child == 0:
        # The trace is written by a signal handler in C, which needs no GIL.
        faulthandler.register(signal.SIGUSR1, file=sending)
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
        if is_over := bool(select.select([receiving], [], [], 10)[0]):
            text = os.read(receiving, 65536).decode()
            if text:
                return text
        else:
            os.kill(child, signal.SIGUSR1)
            time.sleep(0.5)
            os.kill(child, signal.SIGKILL)
        trace = b"".join(iter(lambda: os.read(receiving, 65536), b"")).decode()
    finally:
        os.close(receiving)
        _, status = os.waitpid(child, 0)
    return f"the child {'died' if is_over else 'hung'}, wait status {status}: {trace}"
