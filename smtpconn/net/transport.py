"""Bytes in and out of one socket (TCP, TLS or UNIX), always under a deadline.

No call waits longer than its deadline allows, whatever the peer does. While a write is blocked,
incoming data is read and handed over. Otherwise two peers that both write before they read would
wait for each other for ever (RFC 2920 3.1), however large their buffers are.

The socket is non-blocking; waiting is done by `Transport.wait`, which calls ``poll``. A blocking
read that the kernel bounds (SO_RCVTIMEO) would save a system call. But a handled signal interrupts
it, and Python restarts it with the whole time (PEP 475), so a series of signals could postpone the
deadline for ever. For ``poll`` Python computes the remaining time.

Loops check the clock even while bytes are moving, so neither a slow trickle nor a flood of data can
extend an operation.

`Transport` raises plain `OSError`s; only `as_smtp_error` converts them. This module knows nothing
about replies. It calls functions through their module (``select.poll``, not ``poll``), so that
gevent can replace them.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import ssl
from collections.abc import Callable
from typing import cast

from smtpconn.model.content import Buffer
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    TransportError,
)
from smtpconn.model.origin import is_own
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_in_child

_RECEIVE = 64 * 1024
_TLS_SEND = 16 * 1024
"""One TLS record. A larger write cannot be abandoned half-way, and it would be unknown how much of
it was sent."""

_SEND = 1024 * 1024
"""Bytes per call without TLS. A call with more could last as long as a fast peer reads, and the
deadline is checked only between calls."""

MAX_WAIT = 1_000_000.0
"""Seconds per wait at most: the kernel counts milliseconds in an int, which holds 24 days."""

_CLOSED_ERRORS = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)


class Transport:
    """A connected socket.

    Args:
        sock: connected; the transport owns it from now on.

    Attributes:
        is_tls: whether the socket uses TLS.
        is_open: False once it was closed.
        is_inherited: whether it was closed in a forked child, because it belongs to the parent.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.is_tls = _is_tls(type(sock))
        self.is_open = True
        self.is_inherited = False
        # Whether TLS must write before it can read more (renegotiation, KeyUpdate), according to
        # the last read that returned nothing.
        self._read_wants_write = False
        sock.settimeout(0)
        is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        if is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Waiting to read is the most frequent wait, so its poll object is made once. It stays valid
        # under TLS, which keeps the descriptor.
        self._read_poll = select.poll() if hasattr(select, "poll") else None
        if self._read_poll is not None:
            self._read_poll.register(sock, select.POLLIN)
        # A second one, because only one thread at a time can use a poll object.
        self._probe_poll = select.poll() if hasattr(select, "poll") else None
        if self._probe_poll is not None:
            self._probe_poll.register(sock, select.POLLIN)
        self._quick_ack = getattr(socket, "TCP_QUICKACK", None) if is_tcp else None
        self._owes_ack = False
        reset_in_child(self)

    @property
    def local_ip(self) -> str | None:
        """The local IP address; None on a UNIX socket."""
        return _ip(self._sock.getsockname())

    @property
    def peer_is_local(self) -> bool:
        """Whether the peer is this machine, so that nobody else can read the traffic."""
        if self._sock.family not in (socket.AF_INET, socket.AF_INET6):
            return True
        ip = _ip(self._sock.getpeername())
        return ip is not None and ipaddress.ip_address(ip).is_loopback

    @property
    def sock(self) -> socket.socket:
        """The socket; it must stay non-blocking while the transport is used."""
        return self._sock

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS socket, for its version, cipher and certificate; None without TLS."""
        return cast(ssl.SSLSocket, self._sock) if self.is_tls else None

    def start_tls(
        self,
        context: ssl.SSLContext,
        host: str,
        deadline: Deadline,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """Do the handshake (RFC 3207 4), checking the certificate against ``host``.

        Args:
            context: the TLS settings.
            host: the name that the certificate must have.
            deadline: the deadline of the handshake.
            session: the TLS session of an earlier connection, resumed if the server agrees; it is
                offered only with the context it came from.

        Raises:
            OSError: the handshake failed; `as_smtp_error` converts it.
            ValueError: ``host`` is no name that a certificate can have.
        """
        # wrap_socket() leaks the descriptor if it fails; check its preconditions first: the
        # connection was not reset, and the name is valid.
        self._sock.getpeername()
        host.encode("idna")
        # A handshake inside wrap_socket() would ignore the deadline.
        try:
            tls = context.wrap_socket(
                self._sock, server_hostname=host, do_handshake_on_connect=False
            )
        except BaseException as error:
            # It still fails if the connection was reset since the check above.
            _close_leaked_socket(error)
            raise
        self._sock, self.is_tls = tls, True
        tls.settimeout(0)
        if session is not None:
            try:
                tls.session = session
            except ValueError:
                pass  # not offered: it is from another context, which may trust other authorities
        while True:
            try:
                return tls.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if not is_own(error):
                    raise
                wants_read = isinstance(error, ssl.SSLWantReadError)
                self.wait(deadline, read=wants_read, write=not wants_read)

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
            deadline: the deadline of the whole write.
            sent: called with the number of bytes each time the kernel has accepted some.
            received: called with data that arrives while the write is blocked, b"" at the end of
                the stream; may raise to stop the write.

        Raises:
            OSError: the connection failed.
            TimeoutError: the deadline passed; its ``errno`` is None.
        """
        max_size = _TLS_SEND if self.is_tls else _SEND
        unsent: Buffer = data
        while unsent:
            if not deadline.remaining():
                raise TimeoutError
            try:
                block = unsent if len(unsent) <= max_size else memoryview(unsent)[:max_size]
                count = self._sock.send(block)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if not is_own(error):
                    raise
                # Renegotiation: TLS must read a record of the peer before it can write.
                wants_read = isinstance(error, ssl.SSLWantReadError)
            else:
                self._owes_ack = False
                sent(count)
                if count == len(unsent):
                    return
                unsent = memoryview(unsent)[count:]
                continue
            if (arrived := self.receive_now()) is not None:
                received(arrived)
            elif self._read_wants_write:
                # The last read reported that TLS must write before it can read.
                self.wait(deadline, read=False)
            else:
                self.wait(deadline, write=not wants_read)

    def receive(self, deadline: Deadline) -> bytes:
        """Wait for bytes and return them; b"" at the end of the stream.

        Raises:
            OSError: the connection failed.
            TimeoutError: the deadline passed; its ``errno`` is None.
        """
        # Part of a TLS record may be in OpenSSL's buffer, which poll() cannot see: read first.
        if self.is_tls and deadline.remaining() and (data := self.receive_now()) is not None:
            return data
        poll = self._read_poll
        while seconds := deadline.remaining():
            if (self._owes_ack or self.is_tls) and self._quick_ack is not None:
                # The data received so far is not acknowledged yet, and no data of ours is in flight
                # that would carry the ACK. A peer with Nagle's algorithm holds back the rest until
                # the delayed ACK (40 ms). With TLS there may be records that are invisible here,
                # such as session tickets.
                self._sock.setsockopt(socket.IPPROTO_TCP, self._quick_ack, 1)
            if poll is None or self._read_wants_write:
                write = self._read_wants_write
                self.wait(deadline, read=not write, write=write)
            elif not poll.poll(1000 * (seconds if seconds < MAX_WAIT else MAX_WAIT)):
                continue
            if (data := self.receive_now()) is not None:
                return data
        raise TimeoutError

    def is_silent(self) -> bool:
        """Whether it is certain that nothing has arrived, neither bytes nor the end of the stream.

        A cheap first check. False proves nothing: after a TLS 1.3 handshake a healthy socket
        is readable (session tickets), and only `receive_now` can tell. Without TLS this may be
        called while another thread waits for bytes.
        """
        if self._probe_poll is None or (self.is_tls and self._has_pending()):
            return False
        try:
            return not self._probe_poll.poll(0)
        except RuntimeError:
            return False  # another thread is using the poll object

    def receive_now(self) -> bytes | None:
        """Return what has arrived, without waiting; None for nothing, b"" for the end.

        Raises:
            OSError: the connection failed.
        """
        try:
            data = self._sock.recv(_RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            if not is_own(error):
                raise
            self._read_wants_write = isinstance(error, ssl.SSLWantWriteError)
            return None
        except ssl.SSLError as error:
            if _lacks_reason(error) and is_own(error) and self._has_ended():
                return b""
            raise
        self._owes_ack = True
        return data

    def _has_ended(self) -> bool:
        """Whether the peer has ended the connection beneath TLS."""
        try:
            return _class_beneath_tls(self._sock).recv(self._sock, 1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True  # reset

    def wait(self, deadline: Deadline, *, read: bool = True, write: bool = True) -> None:
        """Wait until the socket can be read or written.

        Raises:
            TimeoutError: the deadline passed; without errno, unlike the kernel's own.
        """
        # A wait may end before the deadline, because MAX_WAIT bounds it.
        while seconds := deadline.remaining():
            if self._is_ready(read, write, seconds):
                return
        raise TimeoutError

    def interrupt(self) -> None:
        """Make another thread's operation on this transport fail at once.

        The descriptor is not closed: the kernel could reuse its number while that thread still uses
        it. ``SSLSocket.shutdown`` is not called: that thread would continue without TLS.
        """
        try:
            _class_beneath_tls(self._sock).shutdown(self._sock, socket.SHUT_RDWR)
        except OSError as error:
            if not is_own(error):
                raise
            # The socket is not connected any more, which is the goal.

    def close(self) -> None:
        """Close the descriptor, without TLS shutdown or waiting; a forked child may do it too."""
        # In this order: if an exception occurs between the two, the next call closes again.
        self._sock.close()
        self.is_open = False

    def reset_after_fork(self) -> None:
        """Close the descriptor in a forked child; the parent still uses the connection."""
        self.is_inherited = self.is_inherited or self.is_open
        self.close()

    def _is_ready(self, read: bool, write: bool, seconds: float) -> bool:
        return bool(wait_for_sockets({self._sock: (read, write)}, seconds))

    def _has_pending(self) -> bool:
        return (tls := self.tls) is not None and tls.pending() > 0


def _is_tls(kind: type[object]) -> bool:
    # After gevent has replaced the classes of the ssl module, older contexts still make sockets of
    # the original class. `do_handshake` is no criterion: a caller's class may have one without TLS.
    made_by = (vars(each).get("sslsocket_class") for each in ssl.SSLContext.__mro__)
    return issubclass(kind, tuple(made for made in made_by if made is not None))


def _class_beneath_tls(sock: socket.socket) -> type[socket.socket]:
    """The class beneath TLS: the ``socket`` module's, or gevent's."""
    return next(kind for kind in type(sock).__mro__ if not _is_tls(kind))


def _close_leaked_socket(error: BaseException) -> None:
    """Close the TLS socket that a failed wrap_socket() left in its frames; nothing else has it."""
    traceback = error.__traceback__
    while traceback is not None:
        for value in traceback.tb_frame.f_locals.values():
            if _is_tls(type(value)):
                value.close()
        traceback = traceback.tb_next


def wait_for_sockets(
    interests: dict[socket.socket, tuple[bool, bool]], seconds: float
) -> list[socket.socket]:
    """Wait until a socket is ready to be read or written, as its (read, write) pair asks.

    Returns the sockets that are ready or have failed; none after ``seconds`` (or `MAX_WAIT`).
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
    # Rounded up: a wait of 0 ms would make the caller spin until the deadline.
    return int(min(seconds, MAX_WAIT) * 1000) + 1 if seconds else 0


def _lacks_reason(error: ssl.SSLError) -> bool:
    """Whether Python found no reason for the error in OpenSSL's error queue.

    Python runs signal handlers before it reads the queue, and a handler that uses TLS empties it.
    Then only the socket can tell the end of the stream from a broken record.
    """
    return error.errno == ssl.SSL_ERROR_SSL and error.reason is None


def as_smtp_error(error: OSError, phase: Phase, deadline: Deadline, peer: str) -> SmtpError:
    """Convert an error of the socket or of TLS; raise the result ``from`` the original.

    Args:
        error: what was caught; an `SmtpError` is returned unchanged.
        phase: what was in progress.
        deadline: the deadline of the operation.
        peer: ``host:port`` for the error text.
    """
    if isinstance(error, SmtpError):
        return error
    if isinstance(error, TimeoutError) and error.errno is None:
        return deadline.error(phase, peer)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return closed_by_peer(phase, peer)
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"the certificate of {peer} is not trusted: {error.verify_message}",
            phase=phase,
            cause=error,
        )
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        reason = getattr(error, "reason", None) or error
        text = f"TLS with {peer} failed during {phase}: {reason}"
        return TlsError(text, phase=phase, cause=error)
    if isinstance(error, _CLOSED_ERRORS) or error.errno in (errno.ENOTCONN, errno.ESHUTDOWN):
        return closed_by_peer(phase, peer, "reset", error)
    if isinstance(error, TimeoutError):
        return SmtpTimeoutError(f"{peer} does not answer during {phase}", phase=phase, cause=error)
    return TransportError(
        f"the connection to {peer} failed during {phase}: {error.strerror or error}",
        phase=phase,
        cause=error,
    )


def closed_by_peer(
    phase: Phase, peer: str, how: str = "closed", cause: OSError | None = None
) -> ConnectionClosedError:
    """The error for a connection that the peer ended."""
    text = f"{peer} {how} the connection during {phase}"
    return ConnectionClosedError(text, phase=phase, cause=cause)


def _ip(name: object) -> str | None:
    if isinstance(name, tuple) and name and isinstance(name[0], str):
        return name[0].partition("%")[0] or None
    return None
