"""A way to a server that takes its time: a proxy that hands everything on after a delay.

Only the delay is added; as many octets as the ends can manage are on their way at once.

    python -m benchmarks.latency PORT SECONDS

prints its own port, and ends with its standard input.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

BLOCK = 256 * 1024


class Delay:
    """A proxy in a process of its own; a context manager.

    Args:
        port: of the server, on 127.0.0.1.
        seconds: the delay each way; a round trip takes twice as long.

    Attributes:
        port: where it listens on 127.0.0.1.
    """

    def __init__(self, port: int, seconds: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.latency", str(port), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Delay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()


@contextmanager
def reached(port: int, seconds: float) -> Iterator[int]:
    """The port by which a server is reached with so much delay each way."""
    if not seconds:
        yield port
        return
    with Delay(port, seconds) as delay:
        yield delay.port


def hand_on(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Hand on all that comes, each block when its time has come."""
    late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        block = b"x"
        while block:
            due, block = late.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                target.sendall(block) if block else target.shutdown(socket.SHUT_WR)
            except OSError:
                return

    threading.Thread(target=deliver, daemon=True).start()
    block = b"x"
    while block:
        try:
            block = source.recv(BLOCK)
        except OSError:
            block = b""
        late.put((time.monotonic() + seconds, block))


def main() -> None:
    """Listen, and hand on until the standard input ends."""
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=hand_on, args=(*ends, seconds), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
