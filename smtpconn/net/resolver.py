"""Resolving names in time: threads that can be left behind, and never many of them.

``getaddrinfo`` cannot be given a timeout, so it runs in a thread of its own, which is left behind
if the deadline passes first. While the name server hangs, every connection that is tried would
leave one behind; so callers that want the same name wait for the same lookup, and there is a
limit to the lookups of a process. Callers beyond it wait for one to end, like for any answer.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import TypeAlias

from smtpconn.model.errors import Phase, TransportError
from smtpconn.model.origin import is_of_signal_handler
from smtpconn.net.deadline import Deadline

MAX_LOOKUPS = 16
"""Lookups under way at a time in a process."""

MAX_LOOKUPS_OF_A_NAME = 4
"""Those of one name, so that one that hangs leaves room for the others."""

JOIN_TIMEOUT = 5.0
"""Seconds after which a lookup is joined no more while another one of the name may begin: what the
resolver gives a name server for its answer (resolv.conf(5)). So it is noticed when one is back."""

Address: TypeAlias = tuple[int, int, int, tuple[object, ...] | str]
"""Family, type, protocol and socket address."""


def resolve(host: str, port: int, deadline: Deadline) -> list[Address]:
    """The addresses of a host.

    Raises:
        SmtpTimeoutError: the deadline has passed.
        TransportError: the name cannot be resolved; what the resolver raised is its cause.
    """
    try:
        # An address needs no resolver, and no thread to wait for one.
        return _getaddrinfo(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError) as error:
        # Not by `is_own`: programs put functions of theirs in the place of the resolver.
        if is_of_signal_handler(error):
            raise
    # One per process id, because a forked child inherits lookups whose threads it does not have,
    # and perhaps a lock that nobody releases.
    pid = os.getpid()
    resolver = _resolvers.get(pid) or _resolvers.setdefault(pid, _Resolver())
    outcome = resolver.resolve(host, port, deadline)
    if isinstance(outcome, Exception):
        why = getattr(outcome, "strerror", None) or outcome
        raise TransportError(
            f"the name {host} cannot be resolved: {why}", phase=Phase.CONNECT, cause=outcome
        ) from outcome
    return outcome


class _Lookup:
    """One question to the resolver, for any number of callers."""

    def __init__(self, host: str, port: int) -> None:
        self.name = (host, port)
        self.began_at = time.monotonic()
        self.outcome: list[Address] | Exception | None = None

    def run(self) -> None:
        try:
            self.outcome = _getaddrinfo(*self.name, 0)
        except Exception as error:
            self.outcome = error
        finally:
            if self.outcome is None:
                self.outcome = OSError("the lookup was cut off")


class _Resolver:
    """The lookups of a process, the oldest first, and who waits for one to end."""

    def __init__(self) -> None:
        # Re-entrant, because a signal handler may send mail while its own thread is in here.
        self._lock = threading.RLock()
        self._running: list[_Lookup] = []
        self._waiting: set[threading.Lock] = set()

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address] | Exception:
        """The outcome of a lookup that ends in time.

        Raises:
            SmtpTimeoutError: the deadline has passed.
        """
        peer = f"{host}:{port}"
        wakeup = threading.Lock()
        lookup: _Lookup | None = None
        try:
            while True:
                wakeup.acquire(blocking=False)
                self._waiting.add(wakeup)
                if lookup is None:
                    lookup = self._join_or_begin(host, port)
                if lookup is not None and lookup.outcome is not None:
                    return lookup.outcome
                # Any lookup that ends wakes all: the slot that it leaves may be ours.
                if not wakeup.acquire(timeout=deadline.check(Phase.CONNECT, peer)):
                    raise deadline.error(Phase.CONNECT, peer)
        finally:
            self._waiting.discard(wakeup)

    def _join_or_begin(self, host: str, port: int) -> _Lookup | None:
        """A lookup of the name; None while there are too many of others."""
        with self._lock:
            # One that has ended is not joined: its answer is from before the caller asked.
            same = [
                lookup
                for lookup in self._running
                if lookup.name == (host, port) and lookup.outcome is None
            ]
            is_full = len(self._running) >= MAX_LOOKUPS or len(same) >= MAX_LOOKUPS_OF_A_NAME
            if same and (is_full or time.monotonic() - same[-1].began_at < JOIN_TIMEOUT):
                return same[-1]
            if is_full:
                return None
            lookup = _Lookup(host, port)
            thread = threading.Thread(
                target=self._run, args=[lookup], name="smtpconn-resolver", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                pass
            else:
                self._running.append(lookup)
                return lookup
        # Threads cannot be started: there are too many, or the interpreter ends, when log records
        # are still mailed. Then the resolver's own patience has to do.
        lookup.run()
        return lookup

    def _run(self, lookup: _Lookup) -> None:
        try:
            lookup.run()
        finally:
            with self._lock:
                if lookup in self._running:
                    self._running.remove(lookup)
                for wakeup in list(self._waiting):
                    if wakeup.locked():
                        wakeup.release()


_resolvers: dict[int, _Resolver] = {}


def _getaddrinfo(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, type_, proto, address) for family, type_, proto, _, address in found]
