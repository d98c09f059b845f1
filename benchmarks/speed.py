"""How fast messages go: the workloads that `python -m benchmarks` compares.

Each way of sending gets its own connection to a sink on this machine and sends the same message
many times. The ways take turns, so that what disturbs the machine disturbs all of them; a figure is
the median of the rounds, and a goal is about ratios within one run. What the sink got is counted,
so a way that loses messages is found out.
"""

from __future__ import annotations

import importlib
import importlib.util
import smtplib
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.latency import Delay
from benchmarks.sink import Sink
from smtpconn import Envelope, MailFromParams, Pipelining, SmtpConnection, TlsMode
from smtpconn.model.parameters import BodyType

HOST, ME, YOU = "127.0.0.1", "me@example.com", "you@example.com"
LINE = b"x" * 76 + b"\r\n"
HEADER = b"Subject: hello\r\n\r\n"

SendMany: TypeAlias = Callable[[bytes, int], None]
"""Send a message so many times."""

Way: TypeAlias = Callable[[int], AbstractContextManager[SendMany]]
"""Connect to a port; the context is the connection's life."""


def message(octets: int) -> bytes:
    """A message of about so many octets, in lines as they should be."""
    return HEADER + LINE * max(1, (octets - len(HEADER)) // len(LINE))


@contextmanager
def bare(port: int) -> Iterator[SendMany]:
    """A socket and nothing else: what two turns cost."""
    with socket.create_connection((HOST, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(4096)
        sock.sendall(b"EHLO bare\r\n")
        sock.recv(4096)

        def send(content: bytes, count: int) -> None:
            envelope = b"MAIL FROM:<%b> SIZE=%d\r\nRCPT TO:<%b>\r\nDATA\r\n" % (
                ME.encode(),
                len(content),
                YOU.encode(),
            )
            data = content + b".\r\n"
            for _ in range(count):
                sock.sendall(envelope)
                sock.recv(4096)
                sock.sendall(data)
                sock.recv(4096)

        yield send


@contextmanager
def bare_chunk(port: int) -> Iterator[SendMany]:
    """The same with BDAT and its content in one sendall."""
    with socket.create_connection((HOST, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.recv(4096)
        sock.sendall(b"EHLO bare\r\n")
        sock.recv(4096)

        def send(content: bytes, count: int) -> None:
            for _ in range(count):
                sock.sendall(b"MAIL FROM:<%b>\r\nRCPT TO:<%b>\r\n" % (ME.encode(), YOU.encode()))
                sock.recv(4096)
                sock.sendall(b"BDAT %d LAST\r\n" % len(content))
                sock.sendall(content)
                sock.recv(4096)

        yield send


@contextmanager
def with_smtplib(port: int) -> Iterator[SendMany]:
    """The standard library."""
    with smtplib.SMTP(HOST, port) as smtp:

        def send(content: bytes, count: int) -> None:
            for _ in range(count):
                smtp.sendmail(ME, [YOU], content)

        yield send


@contextmanager
def with_aiosmtplib(port: int) -> Iterator[SendMany]:
    """aiosmtplib, in an event loop of its own."""
    asyncio = importlib.import_module("asyncio")
    aiosmtplib: Any = importlib.import_module("aiosmtplib")
    with asyncio.Runner() as runner:
        client = aiosmtplib.SMTP(hostname=HOST, port=port, use_tls=False, start_tls=False)
        runner.run(client.connect())

        async def send_all(content: bytes, count: int) -> None:
            for _ in range(count):
                await client.sendmail(ME, [YOU], content)

        try:
            yield lambda content, count: runner.run(send_all(content, count))
        finally:
            runner.run(client.quit())


def ours(name: str, pipelining: Pipelining = Pipelining.AUTO) -> Way:
    """A method of `SmtpConnection`."""

    @contextmanager
    def way(port: int) -> Iterator[SendMany]:
        with SmtpConnection.connect(HOST, port, TlsMode.NONE, 60, pipelining=pipelining) as c:
            # The first one after connecting is not streamed ahead of its replies.
            c.send(ME, YOU, HEADER)

            def send(content: bytes, count: int) -> None:
                for _ in range(count):
                    getattr(c, name)(ME, [YOU], content)

            def send_many(content: bytes, count: int) -> None:
                envelope = Envelope(ME, [YOU], content)
                for outcome in c.send_many(envelope for _ in range(count)):
                    if outcome.error is not None:
                        raise outcome.error

            yield send_many if name == "send_many" else send

    return way


@contextmanager
def binary_chunk(port: int) -> Iterator[SendMany]:
    """`send_bdat` with BODY=BINARYMIME, whose octets nobody looks at."""
    with SmtpConnection.connect(HOST, port, TlsMode.NONE, 60) as c:
        params = MailFromParams(body=BodyType.BINARYMIME)

        def send(content: bytes, count: int) -> None:
            for _ in range(count):
                c.send_bdat(ME, [YOU], content, params)

        yield send


SMALL: dict[str, Way] = {
    "bare socket, same turns as send": bare,
    "smtplib": with_smtplib,
    **({"aiosmtplib": with_aiosmtplib} if importlib.util.find_spec("aiosmtplib") else {}),
    "send": ours("send"),
    "send_bdat EAGER": ours("send_bdat", Pipelining.EAGER),
    "send_many AUTO": ours("send_many"),
    "send_many EAGER": ours("send_many", Pipelining.EAGER),
}

LARGE: dict[str, Way] = {
    "bare sendall": bare_chunk,
    "smtplib": with_smtplib,
    "send": ours("send"),
    "send_bdat": ours("send_bdat"),
    "send_bdat BINARYMIME": binary_chunk,
}

LATE: dict[str, Way] = {
    name: SMALL[name]
    for name in ("smtplib", "send", "send_bdat EAGER", "send_many AUTO", "send_many EAGER")
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a way took for a message, as the median of the rounds.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of this thread.
    """

    seconds: float
    cpu_seconds: float


def compare(
    ways: dict[str, Way], content: bytes, count: int, rounds: int, delay: float = 0.0
) -> dict[str, Measured]:
    """Have each way send a message ``count`` times, ``rounds`` times in turn.

    Raises:
        RuntimeError: a sink has not got everything.
    """
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(_measure(way, content, count, delay))
    return {
        name: Measured(
            statistics.median(one.seconds for one in all_),
            statistics.median(one.cpu_seconds for one in all_),
        )
        for name, all_ in found.items()
    }


def _measure(way: Way, content: bytes, count: int, delay: float) -> Measured:
    with Sink() as sink:
        near = Delay(sink.port, delay) if delay else _near(sink.port)
        with near as there, way(there.port) as send:
            send(content, max(1, count // 10))
            begun, cpu_begun = time.perf_counter(), time.thread_time()
            send(content, count)
            seconds = (time.perf_counter() - begun) / count
            cpu_seconds = (time.thread_time() - cpu_begun) / count
        received = sink.stop()
    if received.octets < len(content) * count:
        raise RuntimeError(f"messages were lost: {received}")
    return Measured(seconds, cpu_seconds)


@dataclass(frozen=True, slots=True)
class _Near:
    """No proxy."""

    port: int


@contextmanager
def _near(port: int) -> Iterator[_Near]:
    yield _Near(port)
