"""What a pool is for, measured beside its peers: prints a table.

    python -m benchmarks.pool

Counting bytecodes needs Python 3.11; later ones do not trace every one of them. (The tests strike
at every bytecode on these too, by other means: tests/pool/test_lease.py.)
"""

from __future__ import annotations

import gc
import logging
import select
import socket
import sys
import threading
import time
import timeit
from collections.abc import Callable
from types import FrameType
from typing import Any

from benchmarks.bytecodes import is_safe
from benchmarks.peers import Peer, peers
from smtpconn import ConnectionPool, SmtpError, TransportError
from smtpconn.testing import SmtpServer


class Struck(BaseException):
    """What strikes at one bytecode."""


def bytecodes(peer: Peer) -> str:
    """At how many bytecodes of one take and give an exception loses capacity, of how many."""
    point = lost = 0
    while True:
        struck, is_lost = _strike(peer, point)
        if not struck:
            return f"{lost} of {point}"
        lost += is_lost
        point += 1


def _strike(peer: Peer, point: int) -> tuple[bool, bool]:
    """Have an exception strike at one bytecode: whether there was one, and capacity was lost."""
    with peer.make(1, 0.02) as (take, give):
        # The first take makes the connection; what is measured is the life after it.
        give(take())
        strike = _Lightning(peer.files, point)
        sys.settrace(strike.trace)
        try:
            give(take())
        except Struck:
            pass
        except BaseException:
            if not strike.struck:
                raise
        finally:
            sys.settrace(None)
        if not strike.struck:
            return False, False
        gc.collect()
        return True, not _in_time(lambda: give(take()), 2.0)


class _Lightning:
    def __init__(self, files: str, point: int) -> None:
        self._files = files
        self._left = point
        self.struck = False

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._files):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode" and not self.struck:
            if self._left <= 0 and not is_safe(frame.f_code, frame.f_lasti):
                self.struck = True
                raise Struck
            self._left -= 1
        return self.trace


def _in_time(call: Callable[[], object], seconds: float) -> bool:
    """Whether a call in another thread comes to a good end in time."""
    done: list[bool] = []

    def run() -> None:
        try:
            call()
            done.append(True)
        except BaseException:
            done.append(False)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return done == [True]


def fairness(peer: Peer) -> str:
    """20 threads, 2 connections, 5 ms hold, 2 s: most over fewest checkouts of a thread."""
    counts = [0] * 20
    with peer.make(2, 10.0) as (take, give):
        end = time.monotonic() + 2

        def work(number: int) -> None:
            while time.monotonic() < end:
                connection = take()
                time.sleep(0.005)
                give(connection)
                counts[number] += 1

        threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return f"{max(counts) / min(counts):.2f} ({min(counts)} to {max(counts)})"


def speed(peer: Peer) -> str:
    """Microseconds of an uncontended take and give; the best of 5 rounds."""
    with peer.make(1, 1.0) as (take, give):
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(2000):
                give(take())
            best = min(best, (time.perf_counter() - begun) / 2000)
    return f"{best * 1e6:.1f} us"


def probing() -> str:
    """Of that, the call that asks whether it died: the peers ask nothing."""
    one, other = socket.socketpair()
    with one, other:
        poll = select.poll()
        poll.register(one, select.POLLIN)
        best = min(timeit.repeat(lambda: poll.poll(0), number=2000, repeat=5)) / 2000
    return f"{best * 1e6:.1f} us"


def dead_idle() -> str:
    """10 idle connections, all dead: how long the next checkout takes beside a plain connect."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=10) as pool:
        pool.warm(10)
        begun = time.perf_counter()
        with ConnectionPool(server.url) as other, other.connection():
            plain = time.perf_counter() - begun
        server.kill()
        begun = time.perf_counter()
        with pool.connection():
            took = time.perf_counter() - begun
    return f"{took * 1e3:.1f} ms (one connect {plain * 1e3:.1f} ms)"


def freed_capacity() -> str:
    """A connect fails while another caller waits for the permit: how soon that one goes on."""
    moments: dict[str, float] = {}
    with SmtpServer() as server:
        server.fault("CONNECT", delay=0.3, close=True)
        with ConnectionPool(server.url, max_size=1) as pool:

            def first() -> None:
                try:
                    with pool.connection():
                        raise AssertionError("the first connect was to fail")
                except SmtpError:
                    moments["failed"] = time.perf_counter()

            thread = threading.Thread(target=first)
            thread.start()
            server.wait_for(lambda: len(server.connections) == 1)
            with pool.connection():
                moments["went on"] = time.perf_counter()
            thread.join()
    return f"{(moments['went on'] - moments['failed']) * 1e3:.1f} ms"


def threads_started() -> str:
    """Threads that a pool without keep-alive has started after some use."""
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:
        pool.send("a@example.com", "b@example.com", b"hello\r\n")
        names = [t.name for t in threading.enumerate() if t.name.startswith("smtpconn")]
        return str(sum(name != "smtpconn-test-server" for name in names))


def refused_connect() -> str:
    """The error of a pool whose server is down: what a caller is told, and how soon."""
    pool = ConnectionPool("smtp://127.0.0.1:1")
    begun = time.perf_counter()
    try:
        with pool.connection():
            return "connected"
    except TransportError as error:
        return f"{type(error).__name__} after {(time.perf_counter() - begun) * 1e3:.1f} ms"


def main() -> None:
    """Measure and print."""
    logging.disable(logging.CRITICAL)
    compared = peers()
    print(f"{'':52}" + "".join(f"{peer.name:>22}" for peer in compared))
    for measure in (bytecodes, fairness, speed):
        title = str(measure.__doc__).partition(":")[0].partition(";")[0].rstrip(".")[:50]
        cells = "".join(f"{measure(peer):>22}" for peer in compared)
        print(f"{title:52}{cells}", flush=True)
    for alone in (probing, dead_idle, freed_capacity, threads_started, refused_connect):
        title = str(alone.__doc__).partition(":")[0].rstrip(".")[:50]
        print(f"{title:52}{alone():>22}", flush=True)


if __name__ == "__main__":
    main()
