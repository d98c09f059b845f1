"""The server's end of one connection: lines and octets in, replies out, TLS.

Replies gather until the server has nothing more to read, and leave in one write: one turn. With a
``pause`` the server also waits until the client has been silent for that long, so that the number
of writes is the number of times the client waited for an answer.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time

from smtpconn.testing.records import ServerConnection

TICK = 0.01
"""Seconds between looks at whether the server wants something of a connection that is silent."""

MAX_LINE = 16 * 1024


class Gone(Exception):
    """The connection is over, for whatever reason."""


class Link:
    """One accepted connection.

    Args:
        sock: accepted; closed by `close`.
        pause: seconds of the client's silence before replies leave.
        record: where to count the turns.

    Attributes:
        farewell: set by other threads to have this said, and the connection closed, when the
            client is silent; b"" to close without a word.
    """

    def __init__(self, sock: socket.socket, pause: float, record: ServerConnection) -> None:
        self._record = record
        self._writes = 0
        self.farewell: bytes | None = None
        self._sock = sock
        self._pause = pause
        self._input = bytearray()
        self._output = bytearray()
        self._ended = threading.Event()
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_line(self) -> bytes:
        """The next line without its CRLF; a bare line feed ends none.

        Raises:
            Gone: there is none, or it is longer than 16 KiB.
        """
        while (end := self._input.find(b"\r\n")) < 0:
            if len(self._input) > MAX_LINE:
                self.send(b"500 5.5.2 Line too long\r\n")
                self.flush()
                raise Gone
            self._fill()
        line = bytes(self._input[:end])
        del self._input[: end + 2]
        return line

    def read_exactly(self, octets: int) -> bytes:
        """So many octets."""
        while len(self._input) < octets:
            self._fill()
        data = bytes(self._input[:octets])
        del self._input[:octets]
        return data

    def read_data(self) -> bytes:
        """The content up to the final dot, unstuffed (RFC 5321 4.5.2)."""
        lines: list[bytes] = []
        while (line := self._data_line()) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def send(self, data: bytes) -> None:
        """Put octets into the next write."""
        self._output += data

    def send_split(self, data: bytes, size: int) -> None:
        """Write octets now, ``size`` at a time, each in a segment of its own."""
        self.flush()
        self._count_turn()
        for start in range(0, len(data), size):
            self._send_now(data[start : start + size])
            time.sleep(0.001)  # so that the kernel does not put them together

    def flush(self) -> None:
        """Write what was gathered."""
        if self._output:
            self._count_turn()
            data, self._output = bytes(self._output), bytearray()
            self._send_now(data)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the handshake; what was sent in clear behind STARTTLS is thrown away."""
        self._input.clear()
        try:
            self._sock = context.wrap_socket(
                self._sock, server_side=True, do_handshake_on_connect=False
            )
            self._sock.settimeout(0)
            self._do_handshake(self._sock)
            self._sock.settimeout(None)
        except (OSError, ValueError) as error:
            raise Gone from error

    def _do_handshake(self, sock: ssl.SSLSocket) -> None:
        while not self._ended.is_set():
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                select.select([sock], [], [], TICK)
            except ssl.SSLWantWriteError:
                select.select([], [sock], [], TICK)
        raise Gone

    def hang(self) -> None:
        """Say nothing and read nothing until the connection is ended by the server or the peer."""
        self.flush()
        while not self._ended.wait(TICK):
            pass
        raise Gone

    def end(self, *, reset: bool = False) -> None:
        """End it from any thread: with a reset, or as soon as its own thread has seen it."""
        try:
            if reset:
                # Its thread sees it within a tick. A shutdown would wake it up at once, but OpenSSL
                # takes that for the peer's end, and sends an alert ahead of the reset.
                self.reset_on_close()
            else:
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            pass  # over already
        self._ended.set()

    def reset_on_close(self) -> None:
        """Have the connection end with RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def close(self) -> None:
        """Close the descriptor; only the connection's own thread may."""
        self._sock.close()

    def _count_turn(self) -> None:
        """The first write is the greeting, which answers nothing."""
        self._record.turns = self._writes
        self._writes += 1

    def _data_line(self) -> bytes:
        while (end := self._input.find(b"\r\n")) < 0:
            self._fill()
        line = bytes(self._input[: end + 2])
        del self._input[: end + 2]
        return line

    def _fill(self) -> None:
        """Read some octets, writing what was gathered before waiting for them."""
        if self._output and self._pause and self._is_readable(self._pause):
            return self._receive()
        self.flush()
        while not self._is_readable(TICK):
            if self.farewell is not None and not self._input:
                self._send_now(self.farewell)
                raise Gone
            if self._ended.is_set():
                raise Gone
        return self._receive()

    def _is_readable(self, seconds: float) -> bool:
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        return bool(select.select([self._sock], [], [], seconds)[0])

    def _receive(self) -> None:
        if self._ended.is_set():
            raise Gone
        try:
            data = self._sock.recv(65536)
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self._input += data

    def _send_now(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise Gone from error
