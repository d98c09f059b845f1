"""Servers over a socket pair that keep every byte the client sent, and are not helpful.

`smtpconn.testing.SmtpServer` parses what it gets; here it matters what was sent before anybody
parsed it, and a server may do what no server does.
"""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from smtpconn import SmtpConnection, TlsMode
from smtpconn.net.happy_eyeballs import SocketFactory

TIMEOUT = 5.0

ME = "me@example.com"
YOU = "you@example.com"
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"

EXTENSIONS = (
    "PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING",
    "BINARYMIME", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "REQUIRETLS",
    "AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-256 XOAUTH2 OAUTHBEARER EXTERNAL",
)  # fmt: skip

_CHALLENGE = b"334 " + base64.b64encode(b"<1896.697170952@mx.example.com>") + b"\r\n"


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[SocketFactory]:
    """A socket factory for one connection, whose other end ``serve`` has in a thread.

    What ``serve`` raises, but for a connection that ended, fails the test.
    """
    ours, theirs = socket.socketpair()
    theirs.settimeout(TIMEOUT)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            serve(theirs)
        except (ConnectionError, EOFError):
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            theirs.close()

    thread = threading.Thread(target=run, name="peer")
    thread.start()
    try:
        yield lambda host, port, timeout: ours
    finally:
        ours.close()
        thread.join()
    if errors:
        raise errors[0]


def connect(factory: SocketFactory, **options: Any) -> SmtpConnection:
    """Connect to a peer without TLS, and allow passwords in clear."""
    settings: dict[str, Any] = {"allow_cleartext_auth": True, "ehlo_domain": "client.example.com"}
    settings |= options
    timeout: float = settings.pop("timeout", TIMEOUT)
    make: Callable[..., SmtpConnection] = settings.pop("make", SmtpConnection.connect)
    return make("mx.example.com", 25, TlsMode.NONE, timeout, socket_factory=factory, **settings)


class Reader:
    """Reads a socket up to a mark or by the number of bytes; keeps all that it has read."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.raw = bytearray()

    def until(self, mark: bytes) -> bytes:
        """Read up to the mark, and return the bytes before it."""
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def exactly(self, length: int) -> bytes:
        """Read and return the next ``length`` bytes."""
        while len(self._buffer) < length:
            self._more()
        found, self._buffer = self._buffer[:length], self._buffer[length:]
        return found

    def _more(self) -> None:
        received = self._sock.recv(65536)
        if not received:
            raise EOFError
        self.raw += received
        self._buffer += received


class Script:
    """A server that sends fixed replies, one for each line it receives, and then stays silent.

    Args:
        replies: the greeting, and the reply to each line.

    Attributes:
        raw: every byte it received.
    """

    def __init__(self, *replies: bytes) -> None:
        self.raw = bytearray()
        self._replies = replies

    def serve(self, sock: socket.socket) -> None:
        """Serve one connection; for `peer`."""
        reader = Reader(sock)
        self.raw = reader.raw
        for number, reply in enumerate(self._replies):
            if number:
                reader.until(b"\r\n")
            sock.sendall(reply)
        while True:
            reader.exactly(len(reader.raw) + 1)


class Recorder:
    """A server that accepts every command; a line ends only with CRLF (RFC 5321 2.3.8).

    Attributes:
        commands: the lines, without their CRLF, whatever else is in them.
        contents: what followed each DATA, with its dots, or each BDAT.
        raw: every byte.

    Args:
        extensions: what it offers.
        auth: the answer to a login; nothing: it hangs up instead.
    """

    def __init__(
        self, extensions: tuple[str, ...] = EXTENSIONS, auth: bytes = b"235 2.7.0 welcome\r\n"
    ) -> None:
        self.commands: list[bytes] = []
        self.contents: list[bytes] = []
        self.raw = bytearray()
        self._extensions = extensions
        self._auth = auth
        self._recipients = 0
        self._is_lmtp = False
        self._answers_challenge = False

    def serve(self, sock: socket.socket) -> None:
        """Serve one connection; for `peer`."""
        reader = Reader(sock)
        self.raw = reader.raw
        sock.sendall(b"220 mx.example.com\r\n")
        while True:
            line = reader.until(b"\r\n")
            self.commands.append(line)
            sock.sendall(self._answer(line, reader, sock))
            if line.upper() == b"QUIT":
                return

    @property
    def verbs(self) -> list[bytes]:
        """The first word of each line."""
        return [line.partition(b" ")[0] for line in self.commands]

    def _answer(self, line: bytes, reader: Reader, sock: socket.socket) -> bytes:
        if self._answers_challenge:
            self._answers_challenge = False
            return self._welcome()
        verb, _, argument = line.upper().partition(b" ")
        if verb in (b"EHLO", b"LHLO"):
            self._is_lmtp = verb == b"LHLO"
            lines = ["mx.example.com", *self._extensions]
            return b"".join(
                f"250{' ' if n == len(lines) else '-'}{text}\r\n".encode()
                for n, text in enumerate(lines, 1)
            )
        if verb == b"AUTH":
            self._answers_challenge = b" " not in argument or argument.startswith(b"LOGIN")
            return _CHALLENGE if self._answers_challenge else self._welcome()
        if verb == b"MAIL":
            self._recipients = 0
        elif verb == b"RCPT":
            self._recipients += 1
        elif verb == b"DATA":
            sock.sendall(b"354 go on\r\n")
            self.contents.append(_up_to_the_dot(reader))
            return self._taken()
        elif verb == b"BDAT":
            size, _, last = argument.partition(b" ")
            self.contents.append(reader.exactly(int(size)))
            return self._taken() if last else b"250 2.0.0 chunk\r\n"
        return b"221 2.0.0 bye\r\n" if verb == b"QUIT" else b"250 2.0.0 ok\r\n"

    def _welcome(self) -> bytes:
        if not self._auth:
            raise EOFError
        return self._auth

    def _taken(self) -> bytes:
        return b"250 2.0.0 taken\r\n" * (self._recipients if self._is_lmtp else 1)


@contextmanager
def recorded(
    extensions: tuple[str, ...] = EXTENSIONS, **options: Any
) -> Iterator[tuple[Recorder, SmtpConnection]]:
    """A recorder and a connection to it, which is closed without a QUIT."""
    recorder = Recorder(extensions)
    with peer(recorder.serve) as factory:
        connection = connect(factory, **options)
        try:
            yield recorder, connection
        finally:
            connection.close()


def _up_to_the_dot(reader: Reader) -> bytes:
    """The content with its final dot."""
    content = b""
    while True:
        line = reader.until(b"\r\n") + b"\r\n"
        content += line
        if line == b".\r\n":
            return content
