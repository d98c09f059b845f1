"""Octets in and out of one socket: TCP, TLS or UNIX, always under a deadline.

Nothing here waits longer than the deadline allows, whatever the peer does. While a write is
blocked, what arrives is read and handed over; two peers that both insist on writing first would
otherwise wait for each other for ever (RFC 2920 3.1), however large their buffers are.

The socket never blocks: waiting is `Transport.wait`, which is ``poll``. A blocking read that the
kernel bounds (SO_RCVTIMEO) would save a system call, but a handled signal ends it and Python begins
it again with the whole time (PEP 475): signals in a row would postpone the deadline for ever. Of a
poll Python computes the time that is left.

Progress is no excuse: the loops look at the clock also while octets move, so that neither a drip
nor a flood stretches an operation.

Plain `OSError`s come out of `Transport`; `as_smtp_error` is the one place that gives them names.
Which reply belongs to what is not known here. Modules are used through their names at call time
(``select.poll``, not ``poll``), so that gevent can replace what they hold.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import ssl
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
from smtpconn.model.origin import is_own
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import forget_in_child

_RECEIVE = 64 * 1024
_TLS_SEND = 16 * 1024
"""A TLS record's worth. A larger piece could not be taken back half-way, nor could its part that
has left be told."""

_SEND = 1024 * 1024
"""Octets for one call in clear: the kernel goes on taking more while a fast peer reads, and the
deadline is looked at in between."""

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
        # Whether TLS has to write before it can read on (renegotiation, KeyUpdate); as of the last
        # look that found nothing.
        self._read_wants_write = False
        sock.settimeout(0)
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
    def sock(self) -> socket.socket:
        """The socket, which is never to block while the transport is used."""
        return self._sock

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
        tls.settimeout(0)
        if session is not None:
            try:
                tls.session = session
            except ValueError:
                pass  # of another context, perhaps of another trust: it is not offered
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
            deadline: by when.
            sent: told how many octets the kernel has taken, each time it has.
            received: given what arrives while the write is blocked, b"" for its end; may raise
                to stop the write.

        Raises:
            OSError: the connection failed, or `TimeoutError` without errno: the deadline passed.
        """
        most = _TLS_SEND if self.is_tls else _SEND
        rest: Buffer = data
        while rest:
            if not deadline.remaining():
                raise TimeoutError
            try:
                taken = self._sock.send(rest if len(rest) <= most else memoryview(rest)[:most])
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                if not is_own(error):
                    raise
                # Renegotiation: a record of the peer's has to come first.
                wants_read = isinstance(error, ssl.SSLWantReadError)
            else:
                self._owes_ack = False
                sent(taken)
                if taken == len(rest):
                    return
                rest = memoryview(rest)[taken:]
                continue
            if (arrived := self.receive_now()) is not None:
                received(arrived)
            elif self._read_wants_write:
                # The newest word of TLS, which holds for sending too.
                self.wait(deadline, read=False)
            else:
                self.wait(deadline, write=not wants_read)

    def receive(self, deadline: Deadline) -> bytes:
        """Wait for octets and return them; b"" at the end of the stream.

        Raises:
            OSError: the connection failed, or `TimeoutError` without errno: the deadline passed.
        """
        # A TLS record may have been read in part, which no poll would tell; so ask TLS first.
        if self.is_tls and deadline.remaining() and (data := self.receive_now()) is not None:
            return data
        poll = self._read_poll
        while seconds := deadline.remaining():
            if (self._owes_ack or self.is_tls) and self._quick_ack is not None:
                # What came so far is not acknowledged yet, and nothing of ours is under way that
                # would do it; a peer with Nagle's algorithm keeps the rest back until then (40 ms).
                # In TLS something may have come that we never see, such as a session ticket.
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
            data = self._sock.recv(_RECEIVE)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            if not is_own(error):
                raise
            self._read_wants_write = isinstance(error, ssl.SSLWantWriteError)
            return None
        except ssl.SSLError as error:
            if _has_lost_its_reason(error) and is_own(error) and self._has_ended():
                return b""
            raise
        self._owes_ack = True
        return data

    def _has_ended(self) -> bool:
        """Whether the peer has ended the connection beneath TLS."""
        try:
            return socket.socket.recv(self._sock, 1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True  # reset
        except TypeError:
            return False  # a socket of gevent's, which is no standard one

    def wait(self, deadline: Deadline, *, read: bool = True, write: bool = True) -> None:
        """Wait until the socket can be read or written.

        Raises:
            TimeoutError: the deadline passed; it has no errno, unlike the kernel's own.
        """
        # One wait is bounded (MAX_WAIT), so it may end before the deadline.
        while seconds := deadline.remaining():
            if self._is_ready(read, write, seconds):
                return
        raise TimeoutError

    def interrupt(self) -> None:
        """Make whoever waits on this transport in another thread fail at once.

        Closing the descriptor would let the kernel give its number to somebody else while that
        thread still uses it; ``SSLSocket.shutdown`` would make it go on in clear.
        """
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError as error:
            if not is_own(error):
                raise
            # Else it is not connected any more, which is what was wanted.

    def close(self) -> None:
        """Close the descriptor: no TLS shutdown and no waiting, so that a forked child may too."""
        # In this order: what is cut off in between is closed again by the next who closes.
        self._sock.close()
        self.is_open = False

    def forget(self) -> None:
        """Close the descriptor in a forked child, whose parent goes on with the connection."""
        self.is_inherited = self.is_inherited or self.is_open
        self.close()

    def _is_ready(self, read: bool, write: bool, seconds: float) -> bool:
        return bool(wait_for_sockets({self._sock: (read, write)}, seconds))

    def _has_pending(self) -> bool:
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0


def _close_half_made(error: BaseException) -> None:
    """Close the TLS socket that was being made when an error struck; nobody else knows of it."""
    traceback = error.__traceback__
    while traceback is not None:
        for value in traceback.tb_frame.f_locals.values():
            if isinstance(value, ssl.SSLSocket):
                value.close()
        traceback = traceback.tb_next


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


def _has_lost_its_reason(error: ssl.SSLError) -> bool:
    """Whether Python found nothing in OpenSSL's list of errors.

    Before it looks there it runs signal handlers, and one that uses TLS itself empties the list.
    Then nothing tells the end of the stream from a broken record, but the socket does.
    """
    return error.errno == ssl.SSL_ERROR_SSL and error.reason is None


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
        return deadline.error(phase, peer)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return closed_by_peer(phase, peer)
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"the certificate of {peer} is not to be trusted: {error.verify_message}",
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
