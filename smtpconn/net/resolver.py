"""Name resolution with a deadline, in a bounded number of threads.

``getaddrinfo`` has no timeout, so it runs in its own thread, which is abandoned if the deadline
passes first. While a name server hangs, each attempt to connect would abandon one more thread. So
callers that want the same name share a lookup, and the number of lookups per process is limited.
Callers beyond the limit wait for a lookup to end, under their own deadline.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TypeAlias

from smtpconn.model.errors import Phase, TransportError
from smtpconn.model.origin import is_of_signal_handler
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import current_process
from smtpconn.net.threads import start_thread

MAX_LOOKUPS = 16
"""Concurrent lookups in a process."""

MAX_LOOKUPS_OF_A_NAME = 4
"""Concurrent lookups of one name, so that a name that hangs leaves room for others."""

JOIN_TIMEOUT = 5.0
"""Seconds after which a caller starts a second lookup of a name, if it may, instead of joining the
first: the time that the resolver waits for a name server (resolv.conf(5)). So callers notice that a
name server works again."""

Address: TypeAlias = tuple[int, int, int, tuple[object, ...] | str]
"""Family, type, protocol and socket address."""


def resolve(host: str, port: int, deadline: Deadline) -> list[Address]:
    """The addresses of a host.

    Raises:
        SmtpTimeoutError: the deadline has passed.
        TransportError: the name cannot be resolved; the resolver's exception is its cause.
    """
    try:
        # An address needs no resolver, and no thread to wait for one.
        return _getaddrinfo(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError) as error:
        # `is_own` does not apply: applications may replace the resolver with their own function.
        if is_of_signal_handler(error):
            raise
    # One per process: a forked child inherits lookups without their threads, and perhaps a lock
    # that is never released.
    process = current_process()
    resolver = _resolvers.get(process) or _resolvers.setdefault(process, _Resolver())
    outcome = resolver.resolve(host, port, deadline)
    if isinstance(outcome, Exception):
        why = getattr(outcome, "strerror", None) or outcome
        raise TransportError(
            f"the name {host} cannot be resolved: {why}", phase=Phase.CONNECT, cause=outcome
        ) from outcome
    return outcome


class _Lookup:
    """One call of the resolver, shared by any number of callers."""

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
                self.outcome = OSError("the lookup was interrupted")


class _Resolver:
    """The running lookups of a process, oldest first, and the callers that wait for them."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may send mail while its own thread holds the lock.
        self._lock = threading.RLock()
        self._running: list[_Lookup] = []
        self._waiting: set[threading.Lock] = set()

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[Address] | Exception:
        """The outcome of a lookup, which may be shared with other callers.

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
                # Each lookup that ends wakes all callers: its slot may be for any of them.
                if not wakeup.acquire(timeout=deadline.check(Phase.CONNECT, peer)):
                    raise deadline.error(Phase.CONNECT, peer)
        finally:
            self._waiting.discard(wakeup)

    def _lookups_of(self, name: tuple[str, int]) -> list[_Lookup]:
        """The running lookups of a name, but those that have ended: their answer is too old."""
        return [each for each in self._running if each.name == name and each.outcome is None]

    def _join_or_begin(self, host: str, port: int) -> _Lookup | None:
        """Join or start a lookup of the name; None while too many other lookups run."""
        with self._lock:
            same = self._lookups_of((host, port))
            is_full = len(self._running) >= MAX_LOOKUPS or len(same) >= MAX_LOOKUPS_OF_A_NAME
            if same and (is_full or time.monotonic() - same[-1].began_at < JOIN_TIMEOUT):
                return same[-1]
            if is_full:
                return None
            lookup = _Lookup(host, port)
            try:
                thread = threading.Thread(
                    target=self._run, args=[lookup], name="smtpconn-resolver", daemon=True
                )
                start_thread(thread)
            except RuntimeError:
                pass
            else:
                self._running.append(lookup)
                return lookup
        # Threads cannot be started (limit reached; interpreter shutdown, when log records may still
        # be mailed; a subinterpreter without daemon threads, in which not even the object can be
        # made). Resolve in this thread; only the resolver's own timeout applies.
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
