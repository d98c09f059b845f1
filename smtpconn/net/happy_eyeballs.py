"""From a host name to a connected socket: resolve it, then race its addresses (RFC 8305).

A name often has several addresses, and the first may be dead. If an address has not answered after
250 ms, the next one is tried too, while the first may still win. So a dead address costs 250 ms and
not the whole timeout.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from smtpconn.model.errors import Phase, SmtpError, SmtpTimeoutError, TransportError
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import close_in_child
from smtpconn.net.resolver import Address, resolve
from smtpconn.net.transport import as_smtp_error, wait_for_sockets

ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried (RFC 8305 5)."""

FIRST_PAUSE = 0.001
MAX_PAUSE = 0.05
"""The shortest and the longest pause, in seconds, before connecting again to a UNIX socket whose
backlog is full."""

SocketFactory: TypeAlias = Callable[[str, int, float], socket.socket]
"""Returns a connected stream socket for a host, a port and the seconds left, such as a proxy's."""

_IN_PROGRESS = frozenset({0, errno.EINPROGRESS, getattr(errno, "WSAEWOULDBLOCK", 0)})


def open_socket(
    host: str, port: int, deadline: Deadline, source_address: tuple[str, int] | None = None
) -> socket.socket:
    """Connect to a host name, an IP address or the path of a UNIX socket (begins with "/").

    Args:
        host, port: the server; ``port`` is not used for a path.
        deadline: the deadline of the operation.
        source_address: the local (address, port) to bind to, port 0 for any.

    Raises:
        SmtpError: connecting failed. If several addresses failed, it has the class of the first
            one's error, and its text names all of them.
    """
    peer = host if host.startswith("/") else f"{host}:{port}"
    try:
        if host.startswith("/"):
            return _connect_unix(host, deadline)
        addresses = _interleave(resolve(host, port, deadline))
        return HappyEyeballs(deadline, source_address, peer).run(addresses)
    except OSError as error:
        if isinstance(error, SmtpError) or not is_own(error):
            raise
        raise as_smtp_error(error, Phase.CONNECT, deadline, peer) from error


def _connect_unix(path: str, deadline: Deadline) -> socket.socket:
    """Connect to a UNIX socket; if its backlog is full, wait for room in it.

    A non-blocking connect(2) then fails with EAGAIN, and the kernel does not signal when there is
    room, so connecting is repeated.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return HappyEyeballs(deadline, None, path).run(
                [(socket.AF_UNIX, socket.SOCK_STREAM, 0, path)]
            )
        except BlockingIOError:
            time.sleep(min(pause, deadline.check(Phase.CONNECT, path)))
            pause = min(2 * pause, MAX_PAUSE)


def _interleave(addresses: Iterable[Address]) -> list[Address]:
    """Alternate the address families, starting with that of the first address (RFC 8305 4)."""
    by_family: dict[int, list[Address]] = {}
    for address in addresses:
        by_family.setdefault(address[0], []).append(address)
    rounds = itertools.zip_longest(*by_family.values())
    return [address for each in rounds for address in each if address is not None]


class HappyEyeballs:
    """Concurrent non-blocking connects; the first to succeed wins and the others are closed."""

    def __init__(
        self, deadline: Deadline, source_address: tuple[str, int] | None, peer: str
    ) -> None:
        self._deadline = deadline
        self._peer = peer
        self._source_address = source_address
        self._running: dict[socket.socket, str] = {}
        self._errors: list[tuple[str, OSError]] = []

    def run(self, addresses: list[Address]) -> socket.socket:
        waiting = list(addresses)
        try:
            while waiting or self._running:
                if waiting and not self._start(waiting.pop(0)):
                    continue
                winner = self._wait(ATTEMPT_DELAY if waiting else None)
                if winner is not None:
                    del self._running[winner]
                    return winner
        finally:
            for sock in self._running:
                sock.close()
        # The application may have replaced a function of the socket module. `is_own` would find it
        # in the traceback and ignore the error, which is always an error of connecting here.
        raise self._failure().with_traceback(None)

    def _start(self, address: Address) -> bool:
        """Begin to connect to an address; return False if that failed at once."""
        family, type_, proto, sockaddr = address
        name = sockaddr if isinstance(sockaddr, str) else str(sockaddr[0])
        try:
            sock = socket.socket(family, type_, proto)
        except OSError as error:
            if is_of_signal_handler(error):
                raise
            self._errors.append((name, error))
            return False
        self._running[sock] = name
        try:
            close_in_child(sock)
            sock.settimeout(0)
            if self._source_address is not None:
                sock.bind(self._source_address)
            code = sock.connect_ex(sockaddr)
            if code not in _IN_PROGRESS:
                self._record_failure(sock, OSError(code, os.strerror(code)))
        except OSError as error:
            if is_of_signal_handler(error):
                raise
            self._record_failure(sock, error)
        return sock in self._running

    def _wait(self, limit: float | None) -> socket.socket | None:
        """Wait for a connect to succeed; None when one failed or ``limit`` seconds passed."""
        if not self._running:
            return None
        remaining = self._deadline.check(Phase.CONNECT, self._peer)
        seconds = remaining if limit is None else min(limit, remaining)
        for sock in wait_for_sockets(dict.fromkeys(self._running, (False, True)), seconds):
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                return sock
            self._record_failure(sock, OSError(code, os.strerror(code)))
        return None

    def _record_failure(self, sock: socket.socket, error: OSError) -> None:
        self._errors.append((self._running.pop(sock), error))
        sock.close()

    def _failure(self) -> Exception:
        first = self._errors[0][1]
        if len(self._errors) == 1:
            return first
        others = "; ".join(f"{name}: {error.strerror or error}" for name, error in self._errors)
        failure = TransportError(
            f"no address could be reached: {others}", phase=Phase.CONNECT, cause=first
        )
        failure.__cause__ = first
        return failure


def from_factory(factory: SocketFactory, host: str, port: int, deadline: Deadline) -> socket.socket:
    """Call the caller's own function to connect.

    Raises:
        SmtpError: the function raised an Exception, which is the cause, or returned no socket. The
            error is transient and its phase is "connect", whatever the exception was.
    """
    peer = f"{host}:{port}"
    try:
        sock = factory(host, port, deadline.check(Phase.CONNECT, peer))
    except Exception as error:
        if is_of_signal_handler(error):
            raise
        # Not stored in a variable: that would be a reference cycle with this frame, which would
        # keep the caller's lease alive.
        raise _as_connect_error(error, deadline, peer) from error
    # Not isinstance: sockets of gevent, or made before it replaced the class, have another class.
    if not (hasattr(sock, "fileno") and hasattr(sock, "settimeout")):
        raise TransportError(
            f"no connection to {peer}: socket_factory returned {type(sock).__name__}, no socket",
            phase=Phase.CONNECT,
        )
    return sock


def _as_connect_error(error: Exception, deadline: Deadline, peer: str) -> SmtpError:
    text = f"no connection to {peer}: socket_factory raised {type(error).__name__}: {error}"
    if isinstance(error, TimeoutError) and error.errno is None and deadline.remaining():
        # Its own timeout: that of the operation has not passed.
        return SmtpTimeoutError(text, phase=Phase.CONNECT, cause=error)
    if isinstance(error, OSError) and not isinstance(error, SmtpError):
        converted = as_smtp_error(error, Phase.CONNECT, deadline, peer)
        converted.is_transient = True
        return converted
    return TransportError(text, phase=Phase.CONNECT, cause=error)
