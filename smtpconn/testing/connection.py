"""The server's end of one connection: reading lines and bytes, sending replies, TLS.

Replies are collected until the server has nothing more to read, and sent in one write. With a
``pause`` the server also waits until the client has been silent for that long, so that the number
of writes is the number of times the client waited for a reply.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading

from smtpconn.testing.records import ServerConnection

TICK = 0.01
"""Seconds between two checks whether a silent connection must end."""

MAX_LINE = 16 * 1024


class Disconnected(Exception):
    """The connection has ended, for any reason."""


class Connection:
    """One accepted connection.

    Args:
        sock: the accepted socket; `close` closes it.
        pause: seconds of silence of the client before replies are sent.
        record: the record in which writes are counted.

    Attributes:
        farewell: another thread sets this to a reply that is sent when the client is silent, before
            the connection is closed; b"" closes it without a reply.
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
        # The socket does not block: the thread waits for one tick at most, and so notices `end`.
        sock.setblocking(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read_line(self) -> bytes:
        """Read a line, and return it without its CRLF. A bare line feed does not end a line.

        Raises:
            Disconnected: the connection ended, or the line is longer than 16 KiB.
        """
        while (end := self._input.find(b"\r\n")) < 0:
            if len(self._input) > MAX_LINE:
                self.send(b"500 5.5.2 Line too long\r\n")
                self.flush()
                raise Disconnected
            self._fill()
        line = bytes(self._input[:end])
        del self._input[: end + 2]
        return line

    def read_exactly(self, size: int) -> bytes:
        """Read ``size`` bytes."""
        while len(self._input) < size:
            self._fill()
        data = bytes(self._input[:size])
        del self._input[:size]
        return data

    def read_data(self) -> bytes:
        """Read the content up to the final dot, and remove the stuffed dots (RFC 5321 4.5.2)."""
        lines: list[bytes] = []
        while (line := self._data_line()) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    def send(self, data: bytes) -> None:
        """Add bytes to the next write."""
        self._output += data

    def send_split(self, data: bytes, size: int) -> None:
        """Write immediately, ``size`` bytes at a time, each piece in its own TCP segment."""
        self.flush()
        self._count_turn()
        for start in range(0, len(data), size):
            self._send_now(data[start : start + size])
            self.wait(0.001)  # so that the kernel does not join the pieces

    def flush(self) -> None:
        """Write what was collected."""
        if self._output:
            self._count_turn()
            data, self._output = bytes(self._output), bytearray()
            self._send_now(data)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the handshake; discard input sent in clear after STARTTLS (RFC 3207 4.2)."""
        self._input.clear()
        try:
            self._sock = context.wrap_socket(
                self._sock, server_side=True, do_handshake_on_connect=False
            )
            self._do_handshake(self._sock)
        except (OSError, ValueError) as error:
            raise Disconnected from error

    def wait(self, seconds: float) -> None:
        """Do nothing for some time.

        Raises:
            Disconnected: `end` was called during that time.
        """
        if self._ended.wait(seconds):
            raise Disconnected

    def _do_handshake(self, sock: ssl.SSLSocket) -> None:
        while not self._ended.is_set():
            try:
                return sock.do_handshake()
            except ssl.SSLWantReadError:
                select.select([sock], [], [], TICK)
            except ssl.SSLWantWriteError:
                select.select([], [sock], [], TICK)
        raise Disconnected

    def hang(self) -> None:
        """Send nothing and read nothing until `end` ends the connection."""
        self.flush()
        self._ended.wait()
        raise Disconnected

    def end(self, *, reset: bool = False) -> None:
        """End the connection from any thread; its own thread closes the descriptor."""
        try:
            if reset:
                # The connection's thread notices `_ended` within a tick. A shutdown would wake it
                # at once, but OpenSSL would take that for the end of the peer's data, and send an
                # alert before the reset.
                self.reset_on_close()
            else:
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            pass  # the connection has ended already
        self._ended.set()

    def reset_on_close(self) -> None:
        """End the connection with RST instead of FIN when it is closed."""
        linger = struct.pack("ii", 1, 0)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def close(self) -> None:
        """Close the descriptor; only the connection's own thread may do that."""
        self._sock.close()

    def _count_turn(self) -> None:
        """Count a write; the first one is the greeting, for which the client sent nothing."""
        self._record.turns = self._writes
        self._writes += 1

    def _data_line(self) -> bytes:
        while (end := self._input.find(b"\r\n")) < 0:
            self._fill()
        line = bytes(self._input[: end + 2])
        del self._input[: end + 2]
        return line

    def _fill(self) -> None:
        """Read some bytes; write the collected replies before waiting for them."""
        if self._output and self._pause and self._is_readable(self._pause):
            return self._receive()
        self.flush()
        while not self._is_readable(TICK):
            if self.farewell is not None and not self._input:
                self._send_now(self.farewell)
                raise Disconnected
            if self._ended.is_set():
                raise Disconnected
        return self._receive()

    def _is_readable(self, seconds: float) -> bool:
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return True
        return bool(select.select([self._sock], [], [], seconds)[0])

    def _receive(self) -> None:
        if self._ended.is_set():
            raise Disconnected
        try:
            data = self._sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return  # only a part of a TLS record has arrived
        except OSError as error:
            raise Disconnected from error
        if not data:
            raise Disconnected
        self._input += data

    def _send_now(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and not self._ended.is_set():
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                select.select([], [self._sock], [], TICK)
            except OSError as error:
                raise Disconnected from error
        if rest:
            raise Disconnected
