"""Bytes in and out of one socket: full duplex, deadlines, probes and interrupts."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from smtpconn import (
    ConnectionClosedError,
    Phase,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    TransportError,
)
from smtpconn.net.deadline import Deadline
from smtpconn.net.transport import Transport, as_smtp_error, wait_for_sockets
from tests.realservers.certificates import Certificates
from tests.support.error_classes import kind_of
from tests.support.sockets import read_all

TIMEOUT = 5.0
SHORT = 0.1
SMALL = 16 * 1024

Ends = tuple[Transport, socket.socket]


@contextmanager
def small_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets with small buffers."""
    left, right = socket.socketpair()
    with left, right:
        for sock in (left, right):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            sock.settimeout(TIMEOUT)
        yield left, right


@contextmanager
def plain_ends() -> Iterator[Ends]:
    """A transport and its peer, in clear."""
    with small_pair() as (left, right):
        transport = Transport(left)
        try:
            yield transport, right
        finally:
            transport.close()


class OtherSocket(socket.socket):
    """A socket of another class than the standard one, which the kernel is not told to bound.

    Remembers the options it was given.
    """

    options: tuple[tuple[int, int], ...] = ()

    def setsockopt(self, *given: Any) -> None:
        """Set it, and remember that."""
        self.options += (given[:2],)
        super().setsockopt(*given)


@contextmanager
def other_ends() -> Iterator[Ends]:
    """A transport whose socket is of another class, and its peer."""
    with small_pair() as (left, right):
        transport = Transport(OtherSocket(fileno=left.detach()))
        try:
            yield transport, right
        finally:
            transport.close()


@contextmanager
def tls_ends(certificates: Certificates) -> Iterator[Ends]:
    """A transport and its peer, under TLS."""
    with small_pair() as (left, right), ThreadPoolExecutor(1) as executor:
        peer = executor.submit(certificates.server_context().wrap_socket, right, server_side=True)
        transport = Transport(left)
        transport.start_tls(certificates.client_context(), "localhost", Deadline(TIMEOUT))
        with peer.result() as tls:
            try:
                yield transport, tls
            finally:
                transport.close()


@pytest.fixture(params=["clear", "other", "tls"])
def ends(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Ends]:
    """A transport and its peer, in clear by both ways of waiting, and under TLS."""
    if request.param == "tls":
        kind = tls_ends(certificates)
    else:
        kind = plain_ends() if request.param == "clear" else other_ends()
    with kind as made:
        yield made


def test_a_reset_while_tls_is_put_on_leaves_no_descriptor(certificates: Certificates) -> None:
    """Python's TLS socket takes the descriptor before it stumbles; it is closed nevertheless."""

    class ResetWhileWrapping(ssl.SSLSocket):
        """A TLS socket whose connection is reset while it is made."""

        def getpeername(self) -> Any:
            """It was reset."""
            raise ConnectionResetError(errno.ECONNRESET, "reset")

    context = certificates.client_context()
    context.sslsocket_class = ResetWhileWrapping
    with small_pair() as (left, right):
        transport = Transport(left)
        with pytest.raises(ConnectionResetError):
            transport.start_tls(context, "localhost", Deadline(TIMEOUT))
        assert right.recv(1) == b""


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="this system has no TCP_QUICKACK")
def test_the_rest_of_an_answer_is_not_held_up() -> None:
    """Waiting for more, with nothing sent since the last bytes came, acknowledges these at once.

    A peer with Nagle's algorithm would keep the rest back for 40 ms.
    """
    acknowledged = (socket.IPPROTO_TCP, socket.TCP_QUICKACK)
    with socket.create_server(("127.0.0.1", 0)) as listener, OtherSocket() as sock:
        sock.connect(listener.getsockname())
        peer, _ = listener.accept()
        transport = Transport(sock)
        with peer:
            for _ in range(2):
                transport.write(b"MAIL\r\n", Deadline(TIMEOUT), ignore, ignore)
                peer.sendall(b"250 o")
                assert transport.receive(Deadline(TIMEOUT)) == b"250 o"
                assert acknowledged not in sock.options
                peer.sendall(b"k\r\n")
                assert transport.receive(Deadline(TIMEOUT)) == b"k\r\n"
                assert acknowledged in sock.options
                sock.options = ()


def test_a_wait_longer_than_one_poll(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded wait that ended without bytes goes on until the deadline, and not beyond."""
    monkeypatch.setattr("smtpconn.net.transport.MAX_WAIT", 0.01)
    transport, peer = ends
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        transport.receive(Deadline(SHORT))
    assert time.monotonic() - begun >= SHORT
    peer.sendall(b"x")
    assert transport.receive(Deadline(TIMEOUT)) == b"x"


def ignore(_: object) -> None:
    """Nothing is to be done about it."""


# --- Writing and reading --------------------------------------------------------------------------


def test_full_duplex(ends: Ends) -> None:
    """A peer that writes 100 KiB before it reads anything makes no deadlock."""
    transport, peer = ends
    replies, content = b"250 Ok\r\n" * 12_800, bytes(range(256)) * 2000
    counts: list[int] = []
    arrived: list[bytes] = []

    def talk_first() -> bytes:
        peer.sendall(replies)
        return read_all(peer, len(content))

    with ThreadPoolExecutor(1) as executor:
        talking = executor.submit(talk_first)
        transport.write(content, Deadline(TIMEOUT), counts.append, arrived.append)
        assert talking.result() == content
    while sum(map(len, arrived)) < len(replies):
        arrived.append(transport.receive(Deadline(TIMEOUT)))
    assert b"".join(arrived) == replies
    assert sum(counts) == len(content)
    assert all(count > 0 for count in counts)


def test_a_partial_write_is_told_exactly() -> None:
    """When the deadline ends a write, what was told as sent is what the peer can read."""
    with plain_ends() as (transport, peer):
        content = bytes(range(256)) * 8000
        counts: list[int] = []
        start = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            transport.write(content, Deadline(SHORT), counts.append, ignore)
        assert caught.value.errno is None
        assert SHORT <= time.monotonic() - start < SHORT + 0.5
        transport.close()
        received = bytearray()
        while piece := peer.recv(65536):
            received += piece
        assert 0 < len(received) == sum(counts) < len(content)
        assert content.startswith(received)


def test_a_partial_write_under_tls(certificates: Certificates) -> None:
    """Under TLS a write that does not end tells whole records only, never more than has left."""
    with tls_ends(certificates) as (transport, peer):
        content = bytes(range(256)) * 8000
        counts: list[int] = []
        with pytest.raises(TimeoutError):
            transport.write(content, Deadline(SHORT), counts.append, ignore)
        transport.close()
        received = bytearray()
        try:
            while piece := peer.recv(65536):
                received += piece
        except ssl.SSLError:
            pass  # the last record was cut
        assert sum(counts) <= len(received) < len(content)
        assert content.startswith(received)


def test_a_write_may_be_stopped(ends: Ends) -> None:
    """An exception of the receiver of early replies ends the write."""
    transport, peer = ends

    def refuse(data: bytes) -> None:
        raise ZeroDivisionError(data)

    peer.sendall(b"500 no\r\n")
    with pytest.raises(ZeroDivisionError, match="500 no"):
        transport.write(bytes(1_000_000), Deadline(TIMEOUT), ignore, refuse)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_can_be_written(ends: Ends, kind: Callable[[bytes], bytes]) -> None:
    """Any bytes-like object is written whole; an empty one is nothing."""
    transport, peer = ends
    transport.write(kind(b""), Deadline(TIMEOUT), ignore, ignore)
    transport.write(kind(b"NOOP\r\n"), Deadline(TIMEOUT), ignore, ignore)
    assert read_all(peer, 6) == b"NOOP\r\n"


def test_reading_waits_for_bytes(ends: Ends) -> None:
    """``receive`` waits until something has come."""
    transport, peer = ends
    with ThreadPoolExecutor(1) as executor:
        reading = executor.submit(transport.receive, Deadline(TIMEOUT))
        peer.sendall(b"250 Ok\r\n")
        assert reading.result() == b"250 Ok\r\n"


def test_reading_has_a_deadline(ends: Ends) -> None:
    """``receive`` waits only so long; its TimeoutError has no errno, unlike the kernel's."""
    transport, _ = ends
    start = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        transport.receive(Deadline(SHORT))
    assert SHORT <= time.monotonic() - start < SHORT + 0.5
    assert caught.value.errno is None


def test_the_end_of_the_stream() -> None:
    """The end reads as b"", and goes on doing so."""
    with plain_ends() as (transport, peer):
        peer.sendall(b"421 bye\r\n")
        peer.close()
        assert transport.receive(Deadline(TIMEOUT)) == b"421 bye\r\n"
        assert transport.receive(Deadline(TIMEOUT)) == b""
        assert transport.receive_now() == b""


def test_a_record_read_in_part(certificates: Certificates) -> None:
    """What TLS holds back of a record is found although the socket is silent."""
    with tls_ends(certificates) as (transport, peer):
        peer.sendall(b"250 Ok\r\n")
        assert transport.tls is not None
        transport.wait(Deadline(TIMEOUT), write=False)
        first = b""
        while not first:
            try:
                first = transport.tls.recv(3)
            except ssl.SSLWantReadError:  # the session tickets came first
                transport.wait(Deadline(TIMEOUT), write=False)
        assert not transport.is_silent()
        assert first + transport.receive(Deadline(TIMEOUT)) == b"250 Ok\r\n"


@pytest.mark.parametrize("ends_how", ["closed", "reset", "not at all"])
def test_an_end_whose_reason_a_signal_handler_took(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, ends_how: str
) -> None:
    """Python runs a handler before it asks OpenSSL why; the socket still says that it has ended."""
    error = ssl.SSLError(ssl.SSL_ERROR_SSL, "A failure in the SSL library occurred (_ssl.c:2580)")
    error.reason = None  # type: ignore[assignment]  # as Python leaves it then

    # As if Python's own module had raised it: an error of other code is not the connection's.
    module = {"__name__": "ssl", "error": error}
    exec("def read(size): raise error", module)

    with tls_ends(certificates) as (transport, peer):
        while transport.receive_now() is not None:
            pass
        if ends_how == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if ends_how != "not at all":
            peer.close()
            transport.wait(Deadline(TIMEOUT), write=False)
        monkeypatch.setattr(transport._sock, "read", module["read"])
        if ends_how == "not at all":
            with pytest.raises(ssl.SSLError):
                transport.receive_now()
        else:
            assert transport.receive_now() == b""


# --- Probing --------------------------------------------------------------------------------------


def test_a_silent_socket() -> None:
    """While nothing has come the transport is silent, and reading finds nothing."""
    with plain_ends() as (transport, peer):
        assert transport.is_silent()
        assert transport.receive_now() is None
        peer.sendall(b"421 bye\r\n")
        assert not transport.is_silent()
        assert transport.receive_now() == b"421 bye\r\n"
        assert transport.is_silent()
        peer.close()
        assert not transport.is_silent()
        assert transport.receive_now() == b""


def test_tickets_are_no_bytes(certificates: Certificates) -> None:
    """After a TLS 1.3 handshake a healthy socket is readable, but nothing can be read."""
    with tls_ends(certificates) as (transport, _):
        transport.wait(Deadline(TIMEOUT), write=False)
        assert not transport.is_silent()
        assert transport.receive_now() is None
        assert transport.is_silent()


class ProxySocket(socket.socket):
    """A socket without TLS, whose class has a handshake of its own, as one with a proxy."""

    def do_handshake(self) -> None:
        """Greet the proxy."""


def test_a_class_with_a_handshake_of_its_own_is_not_tls() -> None:
    """Only the classes of the ssl module are, so that no password is sent in clear by mistake."""
    with small_pair() as (left, right):
        transport = Transport(ProxySocket(fileno=left.detach()))
        try:
            assert (transport.is_tls, transport.tls) == (False, None)
            assert transport.is_silent()
            transport.interrupt()
            assert right.recv(1) == b""
        finally:
            transport.close()


# --- Ending ---------------------------------------------------------------------------------------


def test_an_interrupt(ends: Ends) -> None:
    """An interrupt makes a reader in another thread see the end at once."""
    transport, _ = ends
    begun = threading.Event()

    def read() -> bytes | None:
        begun.set()
        try:
            return transport.receive(Deadline(TIMEOUT))
        except OSError:
            return None

    with ThreadPoolExecutor(1) as executor:
        reading = executor.submit(read)
        assert begun.wait(TIMEOUT)
        start = time.monotonic()
        transport.interrupt()
        assert not reading.result()
        assert time.monotonic() - start < 1
    assert transport.is_open


def test_closing_twice(ends: Ends) -> None:
    """Closing and interrupting what is closed is no error."""
    transport, _ = ends
    transport.close()
    assert not transport.is_open
    transport.close()
    transport.interrupt()


def test_the_addresses_of_a_unix_socket() -> None:
    """A UNIX socket has no address, and its peer is on this machine."""
    with plain_ends() as (transport, _):
        assert transport.local_ip is None
        assert transport.peer_is_local
        assert transport.tls is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1"])
def test_the_addresses_of_a_tcp_socket(host: str) -> None:
    """A TCP socket knows its own address, and a loopback peer is local; Nagle is off."""
    with (
        socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ) as listener,
        socket.create_connection(listener.getsockname()[:2], TIMEOUT) as sock,
    ):
        transport = Transport(sock)
        assert transport.local_ip == sock.getsockname()[0]
        assert transport.peer_is_local
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport.close()


# --- The handshake --------------------------------------------------------------------------------


def test_a_handshake_has_a_deadline(certificates: Certificates) -> None:
    """A peer that does not answer the handshake is a timeout."""
    with plain_ends() as (transport, _):
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            transport.start_tls(certificates.client_context(), "localhost", Deadline(SHORT))
        assert SHORT <= time.monotonic() - start < SHORT + 0.5


def test_a_handshake_with_a_closed_peer(certificates: Certificates) -> None:
    """A peer that hangs up during the handshake is an OSError."""
    with plain_ends() as (transport, peer):
        peer.close()
        with pytest.raises(OSError) as caught:  # noqa: PT011
            transport.start_tls(certificates.client_context(), "localhost", Deadline(TIMEOUT))
        named = as_smtp_error(caught.value, Phase.TLS, Deadline(TIMEOUT), "peer")
        assert kind_of(named) is ConnectionClosedError


def test_a_connection_that_is_reset_before_the_handshake(certificates: Certificates) -> None:
    """A reset before the handshake is an OSError, and closing leaves no descriptor behind."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = Transport(socket.create_connection(listener.getsockname(), TIMEOUT))
        peer, _ = listener.accept()
        with peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.wait(Deadline(TIMEOUT), write=False)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            transport.start_tls(certificates.client_context(), "localhost", Deadline(TIMEOUT))
        transport.close()
        named = as_smtp_error(caught.value, Phase.TLS, Deadline(TIMEOUT), "peer")
        assert kind_of(named) is ConnectionClosedError


# --- Names of errors ------------------------------------------------------------------------------

VERIFICATION = ssl.SSLCertVerificationError(1, "certificate verify failed")
VERIFICATION.verify_message = "self-signed certificate"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (TimeoutError(), SmtpTimeoutError, "timeout of 5 seconds has passed during noop"),
        (TimeoutError(110, "Connection timed out"), SmtpTimeoutError, "does not answer"),
        (ConnectionResetError(104, "reset"), ConnectionClosedError, "reset the connection"),
        (BrokenPipeError(32, "Broken pipe"), ConnectionClosedError, "the connection"),
        (ConnectionAbortedError(103, "abort"), ConnectionClosedError, "the connection"),
        (OSError(errno.ENOTCONN, "Not connected"), ConnectionClosedError, "the connection"),
        (ssl.SSLEOFError(8, "EOF occurred"), ConnectionClosedError, "closed the connection"),
        (ssl.SSLZeroReturnError(6, "closed"), ConnectionClosedError, "closed the connection"),
        (VERIFICATION, TlsError, "self-signed certificate"),
        (ssl.SSLError(1, "bad record"), TlsError, "bad record"),
        (ConnectionRefusedError(111, "Connection refused"), TransportError, "refused"),
        (OSError(113, "No route to host"), TransportError, "No route to host"),
        (OSError("no errno"), TransportError, "no errno"),
    ],
    ids=repr,
)
def test_every_error_has_a_name(error: OSError, kind: type[SmtpError], text: str) -> None:
    """Each error of the socket or of TLS has its class, phase and a text that names the peer."""
    named = as_smtp_error(error, Phase.NOOP, Deadline(5), "mx.example.test:25")
    assert kind_of(named) is kind
    assert text in str(named)
    assert named.phase is Phase.NOOP
    if kind is not SmtpTimeoutError or error.errno:
        assert "mx.example.test:25" in str(named)


def test_a_named_error_stays() -> None:
    """An SmtpError is returned as it is."""
    error = TransportError("its own")
    assert as_smtp_error(error, Phase.NOOP, Deadline(5), "peer") is error


# --- Waiting without poll -------------------------------------------------------------------------


@pytest.mark.parametrize("has_poll", [True, False])
def test_waiting_for_several_sockets(monkeypatch: pytest.MonkeyPatch, has_poll: bool) -> None:
    """Those that can be read or written are returned, with ``poll`` or with ``select``."""
    if not has_poll:
        monkeypatch.delattr("select.poll")
    with small_pair() as (left, right):
        assert wait_for_sockets({left: (True, False), right: (True, False)}, 0.01) == []
        assert wait_for_sockets({left: (True, True)}, 0.01) == [left]
        left.send(b"x")
        assert wait_for_sockets({left: (True, False), right: (True, False)}, 1) == [right]


def test_a_system_without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no ``poll``, reading, writing and probing work with ``select``."""
    monkeypatch.delattr("select.poll")
    with plain_ends() as (transport, peer):
        transport.write(b"NOOP\r\n", Deadline(TIMEOUT), ignore, ignore)
        assert read_all(peer, 6) == b"NOOP\r\n"
        with pytest.raises(TimeoutError):
            transport.receive(Deadline(0.02))
        peer.sendall(b"250 Ok\r\n")
        assert not transport.is_silent()
        assert transport.receive(Deadline(TIMEOUT)) == b"250 Ok\r\n"
