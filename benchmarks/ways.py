"""The ways of sending over one connection that are compared: libraries, and methods of smtpconn."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import itertools
import math
import smtplib
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from benchmarks import bare
from benchmarks.bare import HOST, ME, YOU, SendMany, Way
from smtpconn import (
    ConnectionPool,
    Envelope,
    MailFromParams,
    Pipelining,
    ServerConfig,
    SmtpConnection,
    TlsMode,
)
from smtpconn.model.parameters import BodyType

HAS_AIOSMTPLIB = importlib.util.find_spec("aiosmtplib") is not None
FIRST = b"Subject: first\r\n\r\n"


@contextmanager
def with_smtplib(port: int) -> Iterator[SendMany]:
    """The standard library."""
    with smtplib.SMTP(HOST, port) as smtp:

        def send(content: bytes, count: int) -> None:
            for _ in range(count):
                smtp.sendmail(ME, [YOU], content)

        yield send


def smtplib_in_threads(size: int) -> Way:
    """The standard library in so many threads, each with a connection."""

    @contextmanager
    def way(port: int) -> Iterator[SendMany]:
        with contextlib.ExitStack() as stack:
            sends = [stack.enter_context(with_smtplib(port)) for _ in range(size)]
            executor = stack.enter_context(ThreadPoolExecutor(size))

            def send(content: bytes, count: int) -> None:
                each = math.ceil(count / size)
                list(executor.map(lambda send_one: send_one(content, each), sends))

            yield send

    return way


def with_aiosmtplib(size: int) -> Way:
    """aiosmtplib, with so many connections in an event loop."""

    @contextmanager
    def way(port: int) -> Iterator[SendMany]:
        aiosmtplib: Any = importlib.import_module("aiosmtplib")
        clients = [
            aiosmtplib.SMTP(hostname=HOST, port=port, use_tls=False, start_tls=False)
            for _ in range(size)
        ]

        async def send_over(client: Any, content: bytes, count: int) -> None:
            for _ in range(count):
                await client.sendmail(ME, [YOU], content)

        async def all_of(calls: Iterable[Coroutine[Any, Any, object]]) -> None:
            await asyncio.gather(*calls)

        def send(content: bytes, count: int) -> None:
            each = math.ceil(count / size)
            runner.run(all_of(send_over(client, content, each) for client in clients))

        with asyncio.Runner() as runner:
            runner.run(all_of(client.connect() for client in clients))
            try:
                yield send
            finally:
                runner.run(all_of(client.quit() for client in clients))

    return way


def one_by_one(name: str, pipelining: Pipelining = Pipelining.AUTO) -> Way:
    """A method of `SmtpConnection` that sends one message."""

    @contextmanager
    def way(port: int) -> Iterator[SendMany]:
        with _connected(port, pipelining) as connection:
            send_one = getattr(connection, name)

            def send(content: bytes, count: int) -> None:
                for _ in range(count):
                    send_one(ME, [YOU], content)

            yield send

    return way


def streamed(pipelining: Pipelining, *, is_new: bool = False) -> Way:
    """`SmtpConnection.send_many`; with ``is_new`` each recipient has not been seen before."""
    numbers = itertools.count()

    @contextmanager
    def way(port: int) -> Iterator[SendMany]:
        def envelope(content: bytes) -> Envelope:
            return Envelope(ME, [f"you{next(numbers)}@example.com" if is_new else YOU], content)

        with _connected(port, pipelining) as connection:

            def send(content: bytes, count: int) -> None:
                for outcome in connection.send_many(envelope(content) for _ in range(count)):
                    if outcome.error is not None:
                        raise outcome.error

            yield send

    return way


@contextmanager
def _connected(port: int, pipelining: Pipelining) -> Iterator[SmtpConnection]:
    with SmtpConnection.connect(HOST, port, TlsMode.NONE, 60, pipelining=pipelining) as connection:
        # The first one after connecting is not streamed ahead of its replies.
        connection.send(ME, [YOU], FIRST)
        yield connection


@contextmanager
def lf_line_ends(port: int) -> Iterator[SendMany]:
    """`send` with line ends as `email.message.Message.as_bytes` has them."""
    with one_by_one("send")(port) as send_right:
        yield lambda content, count: send_right(content.replace(b"\r\n", b"\n"), count)


@contextmanager
def pool_of(
    size: int, port: int, pipelining: Pipelining = Pipelining.AUTO
) -> Iterator[ConnectionPool]:
    """A pool whose connections are made and have sent a message each."""
    config = ServerConfig(HOST, port, TlsMode.NONE, timeout=60, pipelining=pipelining)
    with ConnectionPool(config, max_size=size, max_messages=10**9) as pool:
        with contextlib.ExitStack() as stack:
            for connection in [stack.enter_context(pool.connection()) for _ in range(size)]:
                connection.send(ME, [YOU], FIRST)
        yield pool


@contextmanager
def pool_send(port: int) -> Iterator[SendMany]:
    """`ConnectionPool.send`."""
    with pool_of(1, port) as pool:

        def send(content: bytes, count: int) -> None:
            for _ in range(count):
                pool.send(ME, [YOU], content)

        yield send


def pool_streamed(pipelining: Pipelining, size: int = 1) -> Way:
    """`ConnectionPool.send_many`."""

    @contextmanager
    def way(port: int) -> Iterator[SendMany]:
        with pool_of(size, port, pipelining) as pool:

            def send(content: bytes, count: int) -> None:
                envelope = Envelope(ME, [YOU], content)
                for outcome in pool.send_many(envelope for _ in range(count)):
                    if outcome.error is not None:
                        raise outcome.error

            yield send

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


AUTO, EAGER = Pipelining.AUTO, Pipelining.EAGER

SMALL: dict[str, Way] = {
    "smtplib": with_smtplib,
    **({"aiosmtplib": with_aiosmtplib(1)} if HAS_AIOSMTPLIB else {}),
    "send": one_by_one("send"),
    "send, LF line ends": lf_line_ends,
    "pool.send": pool_send,
    "send_bdat EAGER": one_by_one("send_bdat", EAGER),
    "send_many AUTO": streamed(AUTO),
    "send_many EAGER": streamed(EAGER),
    "send_many EAGER, each recipient new": streamed(EAGER, is_new=True),
}

BARE: dict[str, Way] = {
    "send": bare.two_turns,
    "pool.send": bare.two_turns,
    "send_bdat EAGER": bare.one_turn,
    "send_many AUTO": bare.overlapping,
    "send_many EAGER": bare.streaming,
}
"""The loop with the turns of each way."""

LARGE: dict[str, Way] = {
    "bare sendall": bare.one_chunk,
    "bare sendall, each byte looked at": bare.one_chunk_looked_at,
    "smtplib": with_smtplib,
    "send": one_by_one("send"),
    "send_bdat": one_by_one("send_bdat"),
    "send_bdat BINARYMIME": binary_chunk,
}

LATE: dict[str, Way] = {
    **{
        name: SMALL[name]
        for name in ("smtplib", "send", "send_bdat EAGER", "send_many AUTO", "send_many EAGER")
    },
    "pool.send_many AUTO": pool_streamed(AUTO),
    "pool.send_many EAGER": pool_streamed(EAGER),
}


def together(size: int) -> dict[str, Way]:
    """The ways of sending a batch over so many connections at once."""
    return {
        "smtplib in threads": smtplib_in_threads(size),
        **({"aiosmtplib": with_aiosmtplib(size)} if HAS_AIOSMTPLIB else {}),
        "pool.send_many AUTO": pool_streamed(AUTO, size),
        "pool.send_many EAGER": pool_streamed(EAGER, size),
    }
