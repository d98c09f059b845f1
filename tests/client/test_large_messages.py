"""Large messages: what they cost in memory, whatever they come in, and what is told of their size.

The server is `benchmarks.sink`, in a process of its own, so that what is measured here is the
client's alone.
"""

from __future__ import annotations

import io
import mmap
import ssl
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.footprint import streaming_memory
from benchmarks.sink import Sink
from smtpconn import Pipelining, SmtpConnection, TlsMode
from smtpconn.model.content import CHUNK, Buffer
from smtpconn.net.deadline import Deadline
from smtpconn.net.transport import Transport
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates

MIB = 1024 * 1024
LARGE = 8 * MIB
ME, YOU = "me@example.com", "you@example.com"
GOOD = (b"x" * 62 + b"\r\n") * (LARGE // 64)
DOTTED = (b"." + b"x" * 61 + b"\r\n") * (LARGE // 64)
UNIX = (b"x" * 63 + b"\n") * (LARGE // 64)


def send_data(connection: SmtpConnection, message: Any) -> object:
    """With DATA."""
    return connection.send(ME, YOU, message)


def send_bdat(connection: SmtpConnection, message: Any) -> object:
    """With BDAT."""
    return connection.send_bdat(ME, YOU, message)


Send = Callable[[SmtpConnection, Any], object]


@pytest.fixture
def connection() -> Iterator[SmtpConnection]:
    """A connection to a server that throws everything away."""
    with Sink() as sink, SmtpConnection.connect("127.0.0.1", sink.port, TlsMode.NONE, 20) as made:
        yield made


def as_file(text: bytes) -> io.BufferedRandom:
    """A file on disk."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(text)
    file.seek(0)
    return file


def as_map(text: bytes) -> mmap.mmap:
    """A file mapped into memory."""
    with as_file(text) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def in_pieces(text: bytes) -> Iterator[bytes]:
    """A generator of small pieces."""
    return (text[start : start + 600] for start in range(0, len(text), 600))


@pytest.mark.parametrize("send", [send_data, send_bdat])
@pytest.mark.parametrize("text", [GOOD, DOTTED, UNIX], ids=["good", "dotted", "line feeds"])
@pytest.mark.parametrize("kind", [bytes, memoryview, as_file, as_map, in_pieces])
def test_no_second_copy(
    connection: SmtpConnection, kind: Callable[[bytes], Any], text: bytes, send: Send
) -> None:
    """Of 8 MiB no more than a few blocks are held, or the three chunks of a stream that
    are read, sent and answered."""
    is_in_chunks = send is send_bdat and kind not in (bytes, memoryview)
    message = kind(text)
    tracemalloc.start()
    try:
        send(connection, message)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        if hasattr(message, "close"):
            message.close()
    assert peak < MIB // 2 + (3 * CHUNK if is_in_chunks else 0)


@pytest.mark.parametrize("send", [send_data, send_bdat])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_the_socket_gets_is_the_callers_buffer(
    connection: SmtpConnection,
    monkeypatch: pytest.MonkeyPatch,
    kind: Callable[[bytes], Any],
    send: Send,
) -> None:
    """Right as it is, it is handed to the transport as it was given."""
    written: list[Buffer] = []
    write = Transport.write

    def noted(self: Transport, data: Buffer, deadline: Deadline, *told: Any) -> None:
        written.append(data)
        write(self, data, deadline, *told)

    monkeypatch.setattr(Transport, "write", noted)
    message = kind(GOOD)
    send(connection, message)
    assert any(data is message for data in written)
    assert sum(len(data) for data in written if data is not message) < 1000


def test_under_tls_too(certificates: Certificates) -> None:
    """TLS takes the caller's buffer a record at a time."""
    with (
        SmtpServer(
            tls_context=certificates.server_context(), implicit_tls=True, size_limit=None
        ) as server,
        SmtpConnection.connect(
            "localhost",
            server.port,
            TlsMode.IMPLICIT,
            20,
            tls_context=certificates.client_context(),
        ) as connection,
    ):
        tls = connection.tls
        assert tls is not None
        given: list[tuple[int, bool]] = []

        # A method of a socket, or its "would block" would count as an error of other code.
        class Noted(ssl.SSLSocket):
            def send(self, data: Any, flags: int = 0) -> int:
                given.append((len(data), isinstance(data, memoryview) and data.obj is GOOD))
                return super().send(data, flags)

        tls.__class__ = Noted
        connection.send_bdat(ME, YOU, GOOD)
    assert max(length for length, _ in given) <= 16 * 1024
    assert sum(length for length, is_his in given if not is_his) < 1000


@pytest.mark.timeout(60)
def test_a_file_of_a_quarter_of_a_gibibyte() -> None:
    """Sent with DATA and with BDAT it takes less than 16 MiB more than an idle connection.

    `python -m benchmarks --only memory` measures the same with a whole one.
    """
    assert streaming_memory(256 * MIB) <= 16


# SIZE (RFC 1870)


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
@pytest.mark.parametrize("send", [send_data, send_bdat])
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: as_file(b"Subject: one\r\n\r\nhello\r\n"), 23),
        (lambda: io.BytesIO(b"Subject: one\r\n\r\nhello\r\n"), 23),
        (lambda: skipped(as_file(b"From a@b\r\nSubject: one\r\n\r\nhello\r\n"), 10), 23),
        (lambda: as_map(b"Subject: one\r\n\r\nhello\r\n"), 23),
        (lambda: b"Subject: one\n\nhello", 23),
        (lambda: in_pieces(b"Subject: one\r\n\r\nhello\r\n"), None),
    ],
    ids=["file", "BytesIO", "rest of a file", "mmap", "bytes", "generator"],
)
def test_the_size_is_told_where_it_is_known(
    make: Callable[[], Any], size: int | None, send: Send, pipelining: Pipelining
) -> None:
    """From the position of a file to its end; an unknown size is not declared."""
    message = make()
    with (
        SmtpServer() as server,
        SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, 10, pipelining=pipelining
        ) as connection,
    ):
        send(connection, message)
    if hasattr(message, "close"):
        message.close()
    (received,) = server.messages
    assert received.content == b"Subject: one\r\n\r\nhello\r\n"
    sizes = [word for word in received.mail_parameters if word.startswith("SIZE=")]
    assert sizes == ([] if size is None else [f"SIZE={size}"])


def skipped(file: io.BufferedRandom, length: int) -> io.BufferedRandom:
    """The file, standing behind its first bytes."""
    file.seek(length)
    return file


def test_a_file_is_read_as_it_is_sent(
    connection: SmtpConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ahead: what has been read and not sent is never more than a few blocks."""
    read = sent = 0
    most = 0

    class Watched(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            nonlocal read, most
            left = min(len(buffer), LARGE - read)
            buffer[:left] = GOOD[read : read + left]
            read += left
            most = max(most, read - sent)
            return left

    write = Transport.write

    def counted(self: Transport, data: Buffer, *more: Any) -> None:
        nonlocal sent
        write(self, data, *more)
        sent += len(data)

    monkeypatch.setattr(Transport, "write", counted)
    connection.send(ME, YOU, Watched())
    assert read == LARGE
    assert most < MIB
