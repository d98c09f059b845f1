"""The loops that no client can beat: a socket, the bytes of a message, and its turns.

Nothing is checked, parsed or decided, so what a loop costs is the system calls and the kernel.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

HOST, ME, YOU = "127.0.0.1", "me@example.com", "you@example.com"

SendMany: TypeAlias = Callable[[bytes, int], None]
"""Send a message so many times."""

Way: TypeAlias = Callable[[int], AbstractContextManager[SendMany]]
"""Connect to a port; the context is the connection's life."""

ENVELOPE = f"MAIL FROM:<{ME}>\r\nRCPT TO:<{YOU}>\r\n".encode()
STREAMED = 100
"""Messages that are streamed before their replies are read."""
BLOCK = 65536


@contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(4096)
        sock.sendall(b"EHLO bare\r\n")
        sock.recv(4096)
        yield sock


def _of_turns(turns: Callable[[bytes], list[bytes]]) -> Way:
    """Write the turns of a message, and read once after each."""

    @contextmanager
    def way(port: int) -> Iterator[SendMany]:
        with _connected(port) as sock:

            def send(content: bytes, count: int) -> None:
                written = turns(content)
                for _ in range(count):
                    for turn in written:
                        sock.sendall(turn)
                        sock.recv(4096)

            yield send

    return way


two_turns = _of_turns(lambda content: [ENVELOPE + b"DATA\r\n", content + b".\r\n"])
"""The turns of `send`: the envelope, then the content by DATA."""

one_turn = _of_turns(lambda content: [ENVELOPE + b"BDAT %d LAST\r\n" % len(content) + content])
"""The turn of `send_bdat` under EAGER."""


@contextmanager
def overlapping(port: int) -> Iterator[SendMany]:
    """The turns of `send_many`: each content with the envelope of the next message."""
    with _connected(port) as sock:

        def send(content: bytes, count: int) -> None:
            first, last = ENVELOPE + b"DATA\r\n", content + b".\r\n"
            turns = [first, *[last + first] * (count - 1), last] if count else []
            for turn in turns:
                sock.sendall(turn)
                sock.recv(4096)

        yield send


@contextmanager
def streaming(port: int) -> Iterator[SendMany]:
    """The turns of `send_many` under EAGER: one for a hundred messages."""
    with _connected(port) as sock:

        def send(content: bytes, count: int) -> None:
            message = ENVELOPE + b"BDAT %d LAST\r\n" % len(content) + content
            while count:
                number = min(count, STREAMED)
                sock.sendall(message * number)
                replies = 0
                while replies < 3 * number:
                    replies += sock.recv(65536).count(b"\n")
                count -= number

        yield send


@contextmanager
def one_chunk(port: int) -> Iterator[SendMany]:
    """The turns of `send_bdat` with a large message: the content is not copied."""
    with _connected(port) as sock:

        def send(content: bytes, count: int) -> None:
            for _ in range(count):
                sock.sendall(ENVELOPE)
                sock.recv(4096)
                sock.sendall(b"BDAT %d LAST\r\n" % len(content))
                sock.sendall(content)
                sock.recv(4096)

        yield send


@contextmanager
def one_chunk_looked_at(port: int) -> Iterator[SendMany]:
    """The same, where each byte is looked at once, by the fastest means that Python has."""
    with one_chunk(port) as send_unseen:

        def send(content: bytes, count: int) -> None:
            for _ in range(count):
                decoder = io.IncrementalNewlineDecoder(None, translate=False)
                for start in range(0, len(content), BLOCK):
                    decoder.decode(str(content[start : start + BLOCK], "latin-1"))
                send_unseen(content, 1)

        yield send
