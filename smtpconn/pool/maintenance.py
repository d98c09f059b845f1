"""The keeper: one daemon thread per process that looks after the idle connections of all pools.

It says NOOP on those that were silent for long and closes those whose time is over. It lives only
while something is idle, is never joined, holds pools by weak references only, and takes part in
nothing else: every pool is right without it, as a pool with ``keepalive=None`` is.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import Protocol

from smtpconn.net.forking import forget_in_child

_log = logging.getLogger("smtpconn.pool")


class Kept(Protocol):
    """What the keeper needs of a pool."""

    def look_after_idle(self) -> float | None:
        """Do what is due; return when to look again (monotonic), None while nothing is idle."""


class Keeper:
    """The thread, and the pools it looks after."""

    def __init__(self) -> None:
        self.forget()
        forget_in_child(self)

    def forget(self) -> None:
        """Begin anew in a forked child, in which the thread does not exist."""
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._pools: dict[int, tuple[weakref.ref[Kept]]] = {}
        self._next_look = 0.0
        self._is_running = False

    def watch(self, pool: Kept, due: float) -> None:
        """See to it that ``pool`` is looked after by ``due`` (monotonic)."""
        with self._lock:
            self._pools[id(pool)] = (weakref.ref(pool),)
            if not self._is_running:
                self._is_running = True
                self._next_look = due
                self._bell.clear()
                self._start()
            elif due < self._next_look:
                self._next_look = due
                self._bell.set()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="smtpconn-keeper", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            # No thread is to be had, or no more of them because the interpreter ends. Whoever gives
            # a connection back is not to fail for it: their message may be delivered.
            self._is_running = False
            _log.info("idle connections are not looked after: %s", error)

    def ring(self) -> None:
        """Look again now, because there is less to look after."""
        with self._lock:
            if self._is_running:
                self._next_look = 0.0
                self._bell.set()

    def _run(self) -> None:
        while True:
            seconds = self._next_look - time.monotonic()
            if seconds > 0:
                self._bell.wait(seconds)
            with self._lock:
                self._bell.clear()
                pools = dict(self._pools)
                # Until the round is over, whoever comes is to ring.
                self._next_look = float("inf")
            moments = [
                due for key, entry in pools.items() if (due := self._look(key, entry)) is not None
            ]
            if not self._goes_on(min(moments, default=None)):
                return

    def _look(self, key: int, entry: tuple[weakref.ref[Kept]]) -> float | None:
        pool = entry[0]()
        due = None
        if pool is not None:
            try:
                due = pool.look_after_idle()
            except Exception:
                _log.exception("looking after idle connections failed")
        if due is None:
            with self._lock:
                # Unless it came again meanwhile, in an entry of its own.
                if self._pools.get(key) is entry:
                    del self._pools[key]
        return due

    def _goes_on(self, due: float | None) -> bool:
        with self._lock:
            if due is None and not self._pools:
                self._is_running = False
                return False
            if due is not None:
                self._next_look = min(self._next_look, due)
            return True


keeper = Keeper()
