"""No deadlock: a server that writes much before it reads on, and a long message on its way to it.

Both ends have buffers of 4 KiB, so next to nothing of what one says fits in before the other reads
(RFC 2920 3.1). The server is the worst there can be: it answers what it has read with up to 100 KiB
and does not read a byte more before all of them are taken. A client that writes first and reads
later waits for ever.
"""

from __future__ import annotations

import socket
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from smtpconn import Envelope, Pipelining, SmtpConnection, TlsMode
from tests.realservers.certificates import Certificates

pytestmark = pytest.mark.timeout(60)

BUFFER = 4096
MIB = 1024 * 1024
LARGE = 50 * MIB
REPLY = 25 * 1024
"""Bytes of each reply, and there are four to a message: RSET or DATA, MAIL, RCPT, BDAT."""

MESSAGE = (b"x" * 1022 + b"\r\n") * (LARGE // 1024)
ME, YOU = "me@example.com", "you@example.com"


@dataclass
class SlowReader:
    """A server on one socket that reads no further while it has something to say.

    Attributes:
        reply: what it says to everything.
        bytes, crc: of all content so far.
    """

    sock: socket.socket
    reply: bytes
    size: int = 0
    crc: int = 0
    _input: bytearray = field(default_factory=bytearray)

    def serve(self) -> None:
        """Talk until the client takes its leave."""
        self._say(b"220 mx.example.test\r\n")
        line = b""
        while line != b"QUIT\r\n":
            line = self._line()
            if line.startswith(b"EHLO"):
                self._say(b"250-mx.example.test\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
            elif line.startswith(b"BDAT"):
                self._take(int(line.split()[1]))
                self._say(self.reply)
            else:
                self._say(self.reply)

    def _say(self, data: bytes) -> None:
        # In pieces, so that TLS does not make one record of more than fits.
        for start in range(0, len(data), BUFFER):
            self.sock.sendall(data[start : start + BUFFER])

    def _line(self) -> bytes:
        while (end := self._input.find(b"\r\n") + 2) < 2:
            self._input += self._read(BUFFER)
        line = bytes(self._input[:end])
        del self._input[:end]
        return line

    def _take(self, size: int) -> None:
        while size:
            piece = bytes(self._input[:size]) or self._read(min(size, MIB))
            del self._input[:size]
            size -= len(piece)
            self.size += len(piece)
            self.crc = zlib.crc32(piece, self.crc)

    def _read(self, size: int) -> bytes:
        data = self.sock.recv(size)
        assert data
        return data


def reply(size: int) -> bytes:
    """One reply of so many KiB, in as many lines (RFC 5321 4.2.1)."""
    text = b"x" * 1018 + b"\r\n"
    return (b"250-" + text) * (size // 1024 - 1) + b"250 " + text


Send = Callable[[SmtpConnection, pytest.MonkeyPatch], None]


def as_one(connection: SmtpConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction in one go: its envelope is answered while the content is on its way."""
    monkeypatch.setattr("smtpconn.protocol.transaction.EAGER_CAP", LARGE)
    many = [f"you{n}@example.com" for n in range(3)]
    assert connection.send_bdat(ME, many, MESSAGE).accepted_recipients


def as_chunks(connection: SmtpConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream: each chunk is answered while the next one is on its way."""
    pieces = (MESSAGE[start : start + MIB] for start in range(0, LARGE, MIB))
    assert connection.send_bdat(ME, YOU, pieces).accepted_recipients


def as_many(connection: SmtpConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many messages, together as long: each is answered while the next one is on its way."""
    part = LARGE // 200
    envelopes = (Envelope(ME, [YOU], MESSAGE[n : n + part]) for n in range(0, LARGE, part))
    assert [o.error for o in connection.send_many(envelopes) if o.error is not None] == []


def small_ends() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection with small buffers; the client's first."""
    with socket.socket() as listener, ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        for sock in (listener, client):
            # Before they connect, because the window is agreed on then; who accepts inherits them.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        stack.pop_all()
    server.settimeout(30)
    return client, server


@pytest.mark.parametrize("tls_mode", [TlsMode.NONE, TlsMode.IMPLICIT])
@pytest.mark.parametrize(
    ("send", "reply_bytes"), [(as_one, REPLY), (as_chunks, 2 * REPLY), (as_many, REPLY)]
)
def test_no_deadlock(
    send: Send,
    reply_bytes: int,
    tls_mode: TlsMode,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """50 MiB arrive whole, and every reply."""
    # On a busy machine a second may pass without a word.
    monkeypatch.setattr("smtpconn.client.driver.IDLE_AFTER", 60.0)
    client, accepted = small_ends()

    def serve() -> SlowReader:
        with accepted, in_tls(accepted, tls_mode, certificates) as sock:
            server = SlowReader(sock, reply(reply_bytes))
            server.serve()
            return server

    with ThreadPoolExecutor(1) as executor:
        serving = executor.submit(serve)
        with SmtpConnection.connect(
            "localhost",
            25,
            tls_mode,
            30,
            tls_context=certificates.client_context(),
            pipelining=Pipelining.EAGER,
            socket_factory=lambda host, port, timeout: client,
        ) as connection:
            send(connection, monkeypatch)
        server = serving.result()
    assert (server.size, server.crc) == (LARGE, zlib.crc32(MESSAGE))


def in_tls(sock: socket.socket, mode: TlsMode, certificates: Certificates) -> socket.socket:
    """The socket as the server is to use it."""
    if mode is TlsMode.NONE:
        return sock
    return certificates.server_context().wrap_socket(sock, server_side=True)
