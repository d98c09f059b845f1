"""Microseconds of Python that a message costs over a transport that answers at once.

    python benchmarks/answering.py PORT ROUNDS

prints a line for each of `WAYS`. It imports nothing of this package, so that it runs with the
sources of any commit (`benchmarks.python_cost`); PYTHONPATH names them.

Connections are made to a real sink on PORT. Then the methods of the transport are replaced: each
write is answered at once, without a system call.
"""

from __future__ import annotations

import sys
import time
import timeit
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TypeAlias
from unittest.mock import patch

from smtpconn import ConnectionPool, Envelope, Pipelining, SmtpConnection, TlsMode

ME, YOU = "me@example.com", ["you@example.com"]
END = b"the end\r\n"
TEXT = b"Subject: hello\r\n\r\n" + (b"x" * 76 + b"\r\n") * 12 + END
LF_TEXT = TEXT.replace(b"\r\n", b"\n")

OF_ENVELOPE = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n"
TO_DATA = OF_ENVELOPE + b"354 End data with <CR><LF>.<CR><LF>\r\n"
OF_CONTENT = b"250 2.0.0 Ok: queued\r\n"
OF_RSET = b"250 2.0.0 Ok\r\n"

NUMBER = 100
"""Messages in a round."""


Way: TypeAlias = Callable[[int, int], float]
"""Measures a way of sending, over a connection to a port, in so many rounds."""


@contextmanager
def answering(of_message: bytes) -> Iterator[None]:
    """Replace the methods of every transport; ``of_message`` answers the end of a content."""
    due: deque[bytes] = deque()

    def write(
        _self: object, data: bytes, _deadline: object, sent: Callable[[int], None], _: object
    ) -> None:
        sent(len(data))
        data = bytes(data)
        replies = of_message * data.count(END) + OF_RSET * data.count(b"RSET\r\n")
        if data.endswith(b"DATA\r\n"):
            replies += TO_DATA
        if replies:
            due.append(replies)

    def receive(_self: object, _deadline: object) -> bytes:
        return due.popleft()

    def receive_now(_self: object) -> bytes | None:
        return due.popleft() if due else None

    def is_silent(_self: object) -> bool:
        return not due

    # Where the class is depends on the commit.
    module = sys.modules.get("smtpconn.net.transport") or sys.modules["smtpconn.transport"]
    with patch.multiple(
        module.Transport,
        write=write,
        receive=receive,
        receive_now=receive_now,
        is_silent=is_silent,
    ):
        yield


def best(send: Callable[[int], object], rounds: int) -> float:
    """Microseconds of this thread per message, of a call that sends so many: the best round's."""
    send(NUMBER)
    seconds = timeit.repeat(lambda: send(NUMBER), timer=time.thread_time, number=1, repeat=rounds)
    return min(seconds) / NUMBER * 1e6


def one_by_one(name: str, pipelining: Pipelining, text: bytes, of_message: bytes) -> Way:
    """A method of `SmtpConnection` that sends one message."""

    def measure(port: int, rounds: int) -> float:
        with SmtpConnection.connect(
            "127.0.0.1", port, TlsMode.NONE, 60, pipelining=pipelining
        ) as connection:
            send = getattr(connection, name)
            send(ME, YOU, text)

            def send_all(number: int) -> None:
                for _ in range(number):
                    send(ME, YOU, text)

            with answering(of_message):
                return best(send_all, rounds)

    return measure


def of_pool(port: int, rounds: int) -> float:
    """`ConnectionPool.send`."""
    with ConnectionPool(f"smtp://127.0.0.1:{port}", max_messages=10**9) as pool:
        pool.send(ME, YOU, TEXT)

        def send_all(number: int) -> None:
            for _ in range(number):
                pool.send(ME, YOU, TEXT)

        with answering(OF_CONTENT):
            return best(send_all, rounds)


def streamed(pipelining: Pipelining, of_message: bytes, *, is_new: bool = False) -> Way:
    """`SmtpConnection.send_many`; with ``is_new`` each recipient has not been seen before."""
    numbers = count()

    def envelope() -> Envelope:
        return Envelope(ME, [f"you{next(numbers)}@example.com"] if is_new else YOU, TEXT)

    def measure(port: int, rounds: int) -> float:
        with SmtpConnection.connect(
            "127.0.0.1", port, TlsMode.NONE, 60, pipelining=pipelining
        ) as connection:
            connection.send(ME, YOU, TEXT)

            def send_all(number: int) -> None:
                for outcome in connection.send_many(envelope() for _ in range(number)):
                    if outcome.error is not None:
                        raise outcome.error

            with answering(of_message):
                return best(send_all, rounds)

    return measure


AUTO, EAGER = Pipelining.AUTO, Pipelining.EAGER
OF_BDAT = OF_ENVELOPE + OF_CONTENT

WAYS: dict[str, Way] = {
    "send": one_by_one("send", AUTO, TEXT, OF_CONTENT),
    "send, LF line ends": one_by_one("send", AUTO, LF_TEXT, OF_CONTENT),
    "pool.send": of_pool,
    "send_bdat EAGER": one_by_one("send_bdat", EAGER, TEXT, OF_BDAT),
    "send_many AUTO": streamed(AUTO, OF_CONTENT),
    "send_many EAGER": streamed(EAGER, OF_BDAT),
    "send_many EAGER, each recipient new": streamed(EAGER, OF_BDAT, is_new=True),
}


if __name__ == "__main__":
    for way in WAYS.values():
        print(way(int(sys.argv[1]), int(sys.argv[2])))
