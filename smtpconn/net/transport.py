"""Octets in and out of one socket: TCP, TLS or UNIX, always under a deadline.

Nothing here waits longer than the deadline allows, whatever the peer does. While a write is
blocked, what arrives is read and handed over; two peers that both insist on writing first would
otherwise wait for each other for ever (RFC 2920 3.1), however large their buffers are.

There are two ways to wait for octets. The general one is a non-blocking socket and
`Transport.wait`. Where the kernel can bound a blocking read by itself (a plain socket on Linux),
the read is the wait: one system call where there would be two, for what is done most.

Plain `OSError`s come out of `Transport`; `as_smtp_error` is the one place that gives them names.
Which reply belongs to what is not known here. Modules are used through their names at call time
(``select.poll``, not ``poll``), so that gevent can replace what they hold.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable

from smtpconn.model.content import Buffer
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    TransportError,
)
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import forget_in_child

_RECEIVE = 64 * 1024
_TLS_SEND = 16 * 1024
"""A TLS record's worth. A larger piece could not be taken back half-way, nor could its part that
has left be told."""

MAX_READ = 1.0
"""Seconds that one blocking read may take. The deadline is looked at in between; so the kernel has
to be told another number only when less than this is left."""

MAX_WAIT = 1_000_000.0
"""Seconds one wait may take; the kernel counts milliseconds in an int, which is 24 days."""

_CLOSED_ERRORS = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


class Transport:
    """A connected socket.

    Args:
        sock: connected; the transport owns it from now on.

    Attributes:
        is_tls: whether TLS is on it.
        is_open: whether it was not closed.
        is_inherited: whether it was closed because it is the socket of the process that this one
            was forked from.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.is_tls = isinstance(sock, ssl.SSLSocket)
        self.is_open = True
        self.is_inherited = False
        self._reads_block = _can_bound_reads(sock)
        self._read_bound = 0.0
        # Flags of a call that must not block although the socket does.
        self._now = socket.MSG_DONTWAIT if self._reads_block else 0
        sock.settimeout(None if self._reads_block else 0)
        is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Waiting to read is what is done most: made once, for the descriptor, which TLS keeps.
        self._read_poll = select.poll() if hasattr(select, "poll") else None
        if self._read_poll is not None:
            self._read_poll.register(sock, select.POLLIN)
        # Another one, because a poll is for one thread at a time.
        self._probe_poll = select.poll() if hasattr(select, "poll") else None
        if self._probe_poll is not None:
            self._probe_poll.register(sock, select.POLLIN)
        self._quick_ack = getattr(socket, "TCP_QUICKACK", None) if is_tcp else None
        self._owes_ack = False
        forget_in_child(self)

    @property
    def local_ip(self) -> str | None:
        """Our own address; None on a UNIX socket."""
        return _ip(self._sock.getsockname())

    @property
    def peer_is_local(self) -> bool:
        """Whether the peer is this machine, so that nobody is on the way to it."""
        if self._sock.family not in (socket.AF_INET, socket.AF_INET6):
            return True
        ip = _ip(self._sock.getpeername())
        return ip is not None and ipaddress.ip_address(ip).is_loopback

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS socket, to ask for its version, cipher and certificate; None in clear."""
        return self._sock if isinstance(self._sock, ssl.SSLSocket) else None

    def start_tls(
        self,
        context: ssl.SSLContext,
        host: str,
        deadline: Deadline,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """Do the handshake (RFC 3207 4), checking the certificate against ``host``.

        Args:
            context, host, deadline: the settings, the name, and by when.
            session: of an earlier connection, to resume if the server will; it is offered only
                with the context it came from.

        Raises:
            OSError: it failed; `as_smtp_error` names it.
            ValueError: ``host`` is no name a certificate can have.
        """
        # What wrapping would stumble over is asked first, because when it stumbles it has taken
        # the descriptor already and does not close it: a reset connection, a name that is none.
        self._sock.getpeername()
        host.encode("idna")
        # Not the handshake on wrapping: it would block without regard to the deadline.
        try:
            tls = context.wrap_socket(
                self._sock, server_hostname=host, do_handshake_on_connect=False
            )
        except BaseException as error:
            # A connection that is reset within these microseconds makes it stumble all the same.
            _close_half_made(error)
            raise
        self._sock, self.is_tls = tls, True
        self._reads_block, self._now = False, 0
        tls.settimeout(0)
        if session is not None:
            try:
                tls.session = session
            except ValueError:
                pass  # of another context, perhaps of another trust: it is not offered
        while True:
            try:
                return tls.do_handshake()
            except ssl.SSLWantReadError:
                self.wait(deadline, write=False)
            except ssl.SSLWantWriteError:
                self.wait(deadline, read=False)

    def write(
        self,
        data: Buffer,
        deadline: Deadline,
        sent: Callable[[int], None],
        received: Callable[[bytes], None],
    ) -> None:
        """Send all of ``data``.

        Args:
            data: what to send.
            deadline: by when.
            sent: told how many octets the kernel has taken, each time it has.
            received: given what arrives while the write is blocked, b"" for its end; may raise
                to stop the write.

        Raises:
            OSError: the connection failed, or `TimeoutError` without errno: the deadline passed.
        """
        view = memoryview(data)
        while view:
            if taken := self._send(view[:_TLS_SEND] if self.is_tls else view):
                sent(taken)
                view = view[taken:]
            elif (arrived := self.receive_now()) is not None:
                received(arrived)
            else:
                self.wait(deadline)

    def receive(self, deadline: Deadline) -> bytes:
        """Wait for octets and return them; b"" at the end of the stream.

        Raises:
            OSError: the connection failed, or `TimeoutError` without errno: the deadline passed.
        """
        # A TLS record may have been read in part, which no poll would tell; so ask TLS first.
        if self.is_tls and (data := self.receive_now()) is not None:
            return data
        while True:
            if (self._owes_ack or self.is_tls) and self._quick_ack is not None:
                # What came so far is not acknowledged yet, and nothing of ours is under way that
                # would do it; a peer with Nagle's algorithm keeps the rest back until then (40 ms).
                # In TLS something may have come that we never see, such as a session ticket.
                self._sock.setsockopt(socket.IPPROTO_TCP, self._quick_ack, 1)
            if self._reads_block:
                data = self._read(deadline.remaining())
            else:
                self.wait(deadline, write=False)
                data = self.receive_now()
            if data is not None:
                return data

    def is_silent(self) -> bool:
        """Whether certainly nothing has arrived, neither octets nor the end of the stream.

        The cheap half of a probe. False says nothing yet: after a TLS 1.3 handshake a healthy
        socket is readable (session tickets); only `receive_now` tells. In clear it may be asked
        while another thread waits for octets.
        """
        if self._probe_poll is None or (self.is_tls and self._has_pending()):
            return False
        try:
            return not self._probe_poll.poll(0)
        except RuntimeError:
            return False  # another thread is asking at this moment

    def receive_now(self) -> bytes | None:
        """Return what has arrived without waiting; None for nothing, b"" for the end.

        Raises:
            OSError: the connection failed.
        """
        try:
            data = self._sock.recv(_RECEIVE, self._now)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        self._owes_ack = True
        return data

    def _read(self, seconds: float) -> bytes | None:
        """Read as `receive_now`, but wait for it, at most so long and at most `MAX_READ`."""
        if not seconds:
            raise TimeoutError
        bound = seconds if seconds < MAX_READ else MAX_READ
        if bound != self._read_bound:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(bound))
            self._read_bound = bound
        try:
            data = self._sock.recv(_RECEIVE)
        except BlockingIOError:
            return None
        self._owes_ack = True
        return data

    def wait(self, deadline: Deadline, *, read: bool = True, write: bool = True) -> None:
        """Wait until the socket can be read or written.

        Raises:
            TimeoutError: the deadline passed; it has no errno, unlike the kernel's own.
        """
        while not self._is_ready(read, write, deadline.remaining()):
            # One wait is bounded (MAX_WAIT), so it may end before the deadline.
            if not deadline.remaining():
                raise TimeoutError

    def interrupt(self) -> None:
        """Make whoever waits on this transport in another thread fail at once.

        Closing the descriptor would let the kernel give its number to somebody else while that
        thread still uses it; ``SSLSocket.shutdown`` would make it go on in clear.
        """
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more, which is what was wanted

    def close(self) -> None:
        """Close the descriptor: no TLS shutdown and no waiting, so that a forked child may too."""
        self.is_open = False
        self._sock.close()

    def forget(self) -> None:
        """Close the descriptor in a forked child, whose parent goes on with the connection."""
        self.is_inherited = self.is_inherited or self.is_open
        self.close()

    def _is_ready(self, read: bool, write: bool, seconds: float) -> bool:
        if read and not write and self._read_poll is not None:
            return bool(self._read_poll.poll(_milliseconds(seconds)))
        return bool(wait_for_sockets({self._sock: (read, write)}, seconds))

    def _has_pending(self) -> bool:
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _send(self, data: Buffer) -> int:
        try:
            taken = self._sock.send(data, self._now)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        self._owes_ack = False
        return taken


def _can_bound_reads(sock: socket.socket) -> bool:
    """Whether the kernel can be told how long a blocking read of this socket may take.

    Not where the class was replaced (gevent's socket never blocks the thread, and so knows nothing
    of the kernel's bound), nor with TLS (OpenSSL would go on reading).
    """
    is_plain = type(sock) is socket.socket and socket.socket.__module__ == "socket"
    return is_plain and sys.platform == "linux"


def _close_half_made(error: BaseException) -> None:
    """Close the TLS socket that was being made when an error struck; nobody else knows of it."""
    traceback = error.__traceback__
    while traceback is not None:
        for value in traceback.tb_frame.f_locals.values():
            if isinstance(value, ssl.SSLSocket):
                value.close()
        traceback = traceback.tb_next


def _timeval(seconds: float) -> bytes:
    # Not 0, which would be for ever.
    microseconds = max(1, math.ceil(seconds * 1e6))
    return struct.pack("ll", *divmod(microseconds, 1_000_000))


def wait_for_sockets(
    interests: dict[socket.socket, tuple[bool, bool]], seconds: float
) -> list[socket.socket]:
    """Wait until one of the sockets can be read or written, as its (read, write) asks.

    Returns those that can, or have failed; none if ``seconds`` (or `MAX_WAIT`) have passed.
    """
    if hasattr(select, "poll"):
        poll = select.poll()
        by_descriptor = {}
        for sock, (read, write) in interests.items():
            by_descriptor[sock.fileno()] = sock
            poll.register(sock, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
        return [by_descriptor[fd] for fd, _ in poll.poll(_milliseconds(seconds))]
    readers = [s for s, (read, _) in interests.items() if read]
    writers = [s for s, (_, write) in interests.items() if write]
    ready = select.select(readers, writers, writers, min(seconds, MAX_WAIT))
    return list({*ready[0], *ready[1], *ready[2]})


def _milliseconds(seconds: float) -> int:
    # Rounded up: waits of 0 ms would spin until the deadline.
    return int(min(seconds, MAX_WAIT) * 1000) + 1 if seconds else 0


def as_smtp_error(error: OSError, phase: Phase, deadline: Deadline, peer: str) -> SmtpError:
    """Name an error of the socket or of TLS; the original becomes its cause where raised ``from``.

    Args:
        error: what was caught; an `SmtpError` is returned as it is.
        phase: what was under way.
        deadline: the operation's.
        peer: ``host:port`` for the message.
    """
    if isinstance(error, SmtpError):
        return error
    if isinstance(error, TimeoutError) and error.errno is None:
        return deadline.error(phase)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return closed_by_peer(phase, peer)
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"the certificate of {peer} is not to be trusted: {error.verify_message}", phase=phase
        )
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        reason = getattr(error, "reason", None) or error
        return TlsError(f"TLS with {peer} failed during {phase}: {reason}", phase=phase)
    if isinstance(error, _CLOSED_ERRORS) or error.errno in (errno.ENOTCONN, errno.ESHUTDOWN):
        return closed_by_peer(phase, peer, "reset")
    if isinstance(error, TimeoutError):
        return SmtpTimeoutError(f"{peer} does not answer during {phase}", phase=phase)
    return TransportError(
        f"the connection to {peer} failed during {phase}: {error.strerror or error}", phase=phase
    )


def closed_by_peer(phase: Phase, peer: str, how: str = "closed") -> ConnectionClosedError:
    """The error for a connection that the peer ended."""
    return ConnectionClosedError(f"{peer} {how} the connection during {phase}", phase=phase)


def _ip(name: object) -> str | None:
    if isinstance(name, tuple) and name and isinstance(name[0], str):
        return name[0].partition("%")[0] or None
    return None
