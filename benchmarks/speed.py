"""How fast messages go, one connection at a time.

Each way of sending gets its own connection to a sink on this machine and sends the same message
many times. The ways take turns, so that what disturbs the machine disturbs all of them. A figure is
the best of the rounds, because whatever else a machine does only adds time, and a goal is a ratio
within one run. What the sink got is counted, so a way that loses messages is found out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from benchmarks.bare import Way
from benchmarks.latency import reached
from benchmarks.machine import Mode, awake, pinned
from benchmarks.sink import Sink

LINE = b"x" * 76 + b"\r\n"
HEADER = b"Subject: hello\r\n\r\n"


def message(octets: int) -> bytes:
    """A message of about so many octets, in lines as they should be."""
    return HEADER + LINE * max(1, (octets - len(HEADER)) // len(LINE))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a way took for a message, in the best of the rounds.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of this process.
    """

    seconds: float
    cpu_seconds: float


def compare(
    ways: Mapping[str, Way],
    content: bytes,
    count: int,
    rounds: int,
    *,
    delay: float = 0.0,
    mode: Mode = Mode.AS_IS,
) -> dict[str, Measured]:
    """Have each way send a message ``count`` times, ``rounds`` times in turn.

    Args:
        ways: what is compared.
        content: the message.
        count: messages of each way in a round.
        rounds: how often each way has its turn.
        delay: seconds of latency each way; a round trip takes twice as long.
        mode: how the machine is kept meanwhile.

    Raises:
        RuntimeError: a sink has not got everything.
    """
    found: dict[str, list[Measured]] = {name: [] for name in ways}
    with awake() if mode is Mode.AWAKE else nullcontext():
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(_measure(way, content, count, delay, mode))
    return {
        name: Measured(
            min(one.seconds for one in all_),
            min(one.cpu_seconds for one in all_),
        )
        for name, all_ in found.items()
    }


def _measure(way: Way, content: bytes, count: int, delay: float, mode: Mode) -> Measured:
    with Sink() as sink:
        placed = pinned(sink.pid) if mode is Mode.PINNED else nullcontext()
        with placed, reached(sink.port, delay) as port, way(port) as send:
            send(content, max(1, count // 10))
            begun, cpu_begun = time.perf_counter(), time.process_time()
            send(content, count)
            seconds = (time.perf_counter() - begun) / count
            cpu_seconds = (time.process_time() - cpu_begun) / count
        received = sink.stop()
    if received.octets < len(content) * count:
        raise RuntimeError(f"messages were lost: {received}")
    return Measured(seconds, cpu_seconds)
