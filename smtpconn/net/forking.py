"""In a forked child, every object that holds connections or locks is reset.

A child has the parent's sockets, and its locks in the state they had at the fork, but not the
threads that would release them. So objects that hold connections or locks register here, and are
reset in a child. The parent is not affected: the child closes descriptors without a QUIT and
without a TLS shutdown, which would end the parent's session.

`os.fork` runs a hook in the child. A process that C code forks runs none: uWSGI forks its workers
this way, and so do some tracing agents and servers that embed Python. Therefore `reset_if_forked`
is called before a lock is taken or a socket is used that may be inherited. Its first call in a
child does the work of the hook.

A fork is detected by a page of memory that the kernel clears in a child. Reading it takes no system
call. Unlike a process id, it is never ambiguous: ids are reused, and start again in a container. On
systems without such pages the process id is compared.
"""

from __future__ import annotations

import mmap
import os
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

_MADV_WIPEONFORK = 18
"""Linux 4.14 and newer; the `mmap` module has no name for it."""


class Resettable(Protocol):
    """An object that can be reset in a forked child."""

    def reset_after_fork(self) -> None:
        """Drop what belongs to the parent, and replace the locks.

        Called in the child while no other thread uses the object; called again if an exception
        interrupted it. Must not log: the locks of the logging module may never be released.
        """


class ProcessIdMark:
    """Replaces the page on systems that have none: its first item is true until a fork."""

    def __init__(self) -> None:
        self._process_id = 0

    def __getitem__(self, index: int) -> int:
        return self._process_id == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._process_id = os.getpid() if value else 0


def _wiped_page() -> mmap.mmap | None:
    """A page that the kernel clears in every forked child; None if it cannot."""
    if not hasattr(mmap.mmap, "madvise") or not hasattr(mmap, "MAP_ANONYMOUS"):
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        # QEMU's user mode accepted any advice for years and ignored it. A system that accepts an
        # invalid advice is not trusted with a valid one.
        page.madvise(-1)
    except OSError:
        try:
            page.madvise(_MADV_WIPEONFORK)
        except OSError:
            return None
        return page
    return None


same_process: mmap.mmap | ProcessIdMark = _wiped_page() or ProcessIdMark()
"""Its first item is true in a process that was set up, and false in a new forked child.

Code that runs for every message reads it in place, because a call would cost more:
``if not forking.same_process[0]: forking.reset_if_forked()``.
"""

process_number = 0
"""What `current_process` returns, once the process is set up. Each forked child has a higher number
than its parent."""

# Dicts, not WeakSets: a fork may happen while another thread is in the middle of a change.
_sockets: dict[int, weakref.ref[socket.socket]] = {}
_holders: dict[int, weakref.ref[Resettable]] = {}
_threads: dict[int, weakref.ref[threading.Thread]] = {}

_inherited_threads: list[threading.Thread] = []


def reset_if_forked() -> None:
    """Reset all registered objects if this is a new forked child.

    Must be called before taking a lock or using a socket that may be older than this process. The
    first thread that calls it in a child does the reset; the others wait for it.
    """
    if not same_process[0]:
        # Each process has its own `_Reset`: a lock that is older than the process may never be
        # released. `dict.setdefault` is atomic.
        _resets.setdefault(os.getpid(), _Reset()).run()


def current_process() -> int:
    """A number for this process, for objects that cannot be used in its children."""
    if not same_process[0]:
        reset_if_forked()
    return process_number


def is_current_process(number: int) -> bool:
    """Whether `current_process` returned this number in this process; changes nothing.

    For destructors, which may run between any two steps of other code.
    """
    return bool(same_process[0]) and number == process_number


def reset_in_child(holder: Resettable) -> None:
    """Have ``holder.reset_after_fork()`` called in every child forked from now on."""
    _remember(_holders, holder)


def close_in_child(sock: socket.socket) -> None:
    """Have a socket closed, without QUIT, in every child forked from now on."""
    _remember(_sockets, sock)


def keep_in_child(thread: threading.Thread) -> None:
    """Have a thread object kept until the end of the process in every child forked from now on.

    When Python 3.13 or newer frees the object of a thread that has ended and was not joined, it
    detaches the native thread. In a child that C code forked there is none, and the process
    crashes then or later.
    """
    _remember(_threads, thread)


def _remember(table: dict[int, weakref.ref[T]], thing: T) -> None:
    # Without this, the first reset in a child would treat a new object as inherited.
    reset_if_forked()
    key = id(thing)

    def gone(reference: weakref.ref[T]) -> None:
        if table.get(key) is reference:
            del table[key]

    table[key] = weakref.ref(thing, gone)


def _alive(table: dict[int, weakref.ref[T]]) -> list[T]:
    return [thing for each in list(table.values()) if (thing := each()) is not None]


class _Reset:
    """Resets the registered objects of a child once, in the first thread that notices the fork."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler that sends mail may interrupt the reset. It then does the
        # remaining steps.
        self._lock = threading.RLock()
        self._remaining: list[Callable[[], None]] | None = None

    def run(self) -> None:
        global process_number
        with self._lock:
            if same_process[0]:
                return
            if self._remaining is not None:
                self._run_steps(self._remaining)
                return
            try:
                process_number += 1
                _inherited_threads.extend(_alive(_threads))
                # Sockets are closed first (the steps run from the end of the list), so that no
                # later step can write to them.
                self._remaining = [holder.reset_after_fork for holder in reversed(_alive(_holders))]
                self._remaining += [sock.close for sock in _alive(_sockets)]
                self._run_steps(self._remaining)
                same_process[0] = 1
                _resets.pop(os.getpid(), None)
            finally:
                self._remaining = None

    def _run_steps(self, remaining: list[Callable[[], None]]) -> None:
        while remaining:
            step = remaining[-1]
            try:
                step()
            except OSError:
                pass  # raised by close(); the socket is closed nevertheless
            if remaining and remaining[-1] is step:
                remaining.pop()


_resets: dict[int, _Reset] = {}


def _after_fork_in_child() -> None:
    same_process[0] = 0
    reset_if_forked()


same_process[0] = 1
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
