"""What happens in a forked child: everything that holds connections forgets them.

A child has the parent's sockets, and its locks as they were at that moment, but not the threads
that would release them. So whoever holds connections or locks registers here and is told to begin
anew. The parent notices nothing: the child closes descriptors and says nothing on them, no QUIT and
no TLS shutdown, which would end the parent's session.

`os.fork` runs a hook in the child. A process that is forked by C code runs none: uWSGI forks its
workers so, and so do some tracing agents and servers that embed Python. Therefore whoever is about
to take a lock or to use a socket that may be inherited calls `reset_if_forked` first. The first
call in a child does what the hook would have done.

How a fork is noticed: by a page of memory that the kernel clears in a child. To look at it takes no
system call, and it cannot be deceived by process ids, which are used again and begin anew in a
container. Where there is no such page, the process id is compared.
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


class Forgetful(Protocol):
    """Something that can begin anew in a child."""

    def forget(self) -> None:
        """Drop what belongs to the parent, and replace the locks.

        Called in the child while no other thread uses the object. May be called again if it was cut
        off. Must not log: the locks of the logging module may be held for ever.
        """


class ProcessIdMark:
    """A mark like the first octet of the page, for systems without one: true until a fork."""

    def __init__(self) -> None:
        self._process_id = 0

    def __getitem__(self, index: int) -> int:
        return self._process_id == os.getpid()

    def __setitem__(self, index: int, value: int) -> None:
        self._process_id = os.getpid() if value else 0


def _wiped_page() -> mmap.mmap | None:
    """A page of zeros that is zeros again in every forked child; None where there is none."""
    if not hasattr(mmap.mmap, "madvise") or not hasattr(mmap, "MAP_ANONYMOUS"):
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        # QEMU's user mode accepted any advice for years and did nothing. Where nonsense is
        # accepted, nothing is believed.
        page.madvise(-1)
    except OSError:
        try:
            page.madvise(_MADV_WIPEONFORK)
        except OSError:
            return None
        return page
    return None


_mark: mmap.mmap | ProcessIdMark = _wiped_page() or ProcessIdMark()
"""Its first item is true in the process that has settled here, and false in a forked child."""

_process = 0
"""How many forks lie between the process that imported this module and this one, at least."""

# Dicts and not WeakSets: a fork may come while another thread is half-way through a change.
_sockets: dict[int, weakref.ref[socket.socket]] = {}
_holders: dict[int, weakref.ref[Forgetful]] = {}


def reset_if_forked() -> None:
    """See to it that nothing is used that was inherited by a fork.

    To be called before a lock is taken or a socket is used that may be older than this process. The
    first thread that calls it in a child has everything begin anew; the others wait for that.
    """
    if not _mark[0]:
        # Every process has a reset of its own, because a lock that is older than the process may be
        # held for ever. `dict.setdefault` is one step for all threads.
        _resets.setdefault(os.getpid(), _Reset()).run()


def current_process() -> int:
    """A number of this process, for objects that are of no use in its children."""
    if not _mark[0]:
        reset_if_forked()
    return _process


def is_current_process(number: int) -> bool:
    """Whether `current_process` gave this number in this process; changes nothing.

    For destructors, which may run in the middle of anything.
    """
    return bool(_mark[0]) and number == _process


def forget_in_child(holder: Forgetful) -> None:
    """See to it that ``holder.forget()`` is called in every child forked from now on."""
    _remember(_holders, holder)


def close_in_child(sock: socket.socket) -> None:
    """See to it that the socket is closed in every child forked from now on, without a word."""
    _remember(_sockets, sock)


def _remember(table: dict[int, weakref.ref[T]], thing: T) -> None:
    # Or the first reset would take what is made in a child for inherited.
    reset_if_forked()
    key = id(thing)

    def gone(reference: weakref.ref[T]) -> None:
        if table.get(key) is reference:
            del table[key]

    table[key] = weakref.ref(thing, gone)


def _living(table: dict[int, weakref.ref[T]]) -> list[T]:
    return [thing for each in list(table.values()) if (thing := each()) is not None]


class _Reset:
    """How a child begins anew: once, by the first thread that notices."""

    def __init__(self) -> None:
        # A signal handler that sends may run in the middle of it. It finishes what is left to do.
        self._lock = threading.RLock()
        self._left: list[Callable[[], None]] | None = None

    def run(self) -> None:
        global _process
        with self._lock:
            if _mark[0]:
                return
            if self._left is not None:
                self._do(self._left)
                return
            try:
                _process += 1
                # Sockets first: whatever comes after cannot write to them.
                self._left = [holder.forget for holder in reversed(_living(_holders))]
                self._left += [sock.close for sock in _living(_sockets)]
                self._do(self._left)
                _mark[0] = 1
                _resets.pop(os.getpid(), None)
            finally:
                self._left = None

    def _do(self, left: list[Callable[[], None]]) -> None:
        while left:
            step = left[-1]
            try:
                step()
            except OSError:
                pass  # a socket; closing one fails only if it is closed
            if left and left[-1] is step:
                left.pop()


_resets: dict[int, _Reset] = {}


def _after_fork_in_child() -> None:
    _mark[0] = 0
    reset_if_forked()


_mark[0] = 1
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
