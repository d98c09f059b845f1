"""Fork with and without Python's hooks, and report what a function returns in the child."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeAlias, cast
from unittest import mock

from smtpconn.testing import connection, server

Fork: TypeAlias = Callable[[], int]


def fork_in_c() -> int:
    """Fork as a C library does, so that Python does not run its hooks.

    ``PyDLL`` keeps the GIL, as a fork of a running interpreter must. If a thread of the parent
    waits for the GIL at that moment, the child inherits a condition variable with a waiter that
    does not exist, and hangs sooner or later, because without the hooks it does not reinitialise
    its GIL. Such a child is killed, and another one is forked. The threads of test servers wake a
    hundred times a second, often enough to make most children unsound, so they wake less often now.
    """
    with ExitStack() as pause:
        for module in (connection, server):
            pause.enter_context(mock.patch.object(module, "TICK", 0.2))
        time.sleep(0.03)
        return _fork_until_sound()


def _fork_until_sound() -> int:
    while True:
        receiving, sending = os.pipe()
        waiting, releasing = os.pipe()
        child = cast(int, ctypes.PyDLL(None).fork())
        if child == 0:
            os.close(receiving)
            os.close(releasing)
            # If the garbage of the parent has a thread in it, freeing it here may crash: Python
            # 3.13 detaches the native thread, which does not exist in the child.
            gc.freeze()
            _contend_for_the_gil()
            os.write(sending, b"!")
            os.close(sending)
            # The parent may have lost patience meanwhile, and fork another child for the same work.
            if not os.read(waiting, 1):
                os._exit(0)
            os.close(waiting)
            return 0
        is_sound = False
        try:
            os.close(sending)
            os.close(waiting)
            is_ready = bool(select.select([receiving], [], [], 1)[0])
            is_sound = is_ready and os.read(receiving, 1) == b"!"
            if is_sound:
                os.write(releasing, b"!")
        finally:
            # Done also if a signal handler raises, because only this code knows the child.
            if not is_sound:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            os.close(receiving)
            os.close(releasing)
        if is_sound:
            return child


def _contend_for_the_gil() -> None:
    """Hand the GIL over between waiting threads until each state of its condition was met."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=_run_for, args=(0.01,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)


def _run_for(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def in_child(work: Callable[[], object], fork: Fork = os.fork) -> str:
    """Call ``work`` in a forked child, and return what it returned or raised, as text.

    Of a child that hangs or dies: how it ended, and where its main thread was.
    """
    receiving, sending = os.pipe()
    child = fork()
    if child == 0:
        # The trace is written by a signal handler in C, which needs no GIL. Not of all threads: the
        # interpreter lists those of the parent, too, whose stacks are used anew.
        faulthandler.enable(file=sending, all_threads=False)
        faulthandler.register(signal.SIGUSR1, file=sending, all_threads=False)
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
        text = ""
        if is_over := bool(select.select([receiving], [], [], 10)[0]):
            text = os.read(receiving, 65536).decode()
            if text and not text.startswith("Fatal Python error"):
                return text
        else:
            os.kill(child, signal.SIGUSR1)
            time.sleep(0.5)
            os.kill(child, signal.SIGKILL)
        text += b"".join(iter(lambda: os.read(receiving, 65536), b"")).decode()
    finally:
        os.close(receiving)
        _, status = os.waitpid(child, 0)
    return f"the child {'died' if is_over else 'hung'}, wait status {status}: {text}"
