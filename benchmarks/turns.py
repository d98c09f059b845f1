"""How often each way waits for the server, counted, not timed.

The sink answers only when the client has paused, so each of its answers is a round trip, and a way
that waits less often cannot look better or worse than it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.bare import Way
from benchmarks.sink import Received, Sink

PAUSE_MS = 20


def count_turns(ways: Mapping[str, Way], content: bytes, messages: int) -> dict[str, float]:
    """Round trips a message of each way; what connecting and leaving take is not counted."""
    found = {}
    for name, way in ways.items():
        before, after = (_received(way, content, count) for count in (0, messages))
        if after.messages - before.messages != messages:
            raise RuntimeError(f"{name}: {after.messages} of {messages} messages arrived")
        found[name] = (after.turns - before.turns) / messages
    return found


def _received(way: Way, content: bytes, messages: int) -> Received:
    with Sink(PAUSE_MS) as sink:
        with way(sink.port) as send_many:
            send_many(content, messages)
        return sink.stop()
