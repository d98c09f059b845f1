"""The sink where there is no compiler: what `sink.c` does, in Python and more slowly.

python slow_sink.py [milliseconds to wait for more before answering]
"""

from __future__ import annotations

import asyncio
import sys

EHLO = (
    b"250-sink\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
    b"250-BINARYMIME\r\n250 CHUNKING\r\n"
)


class Counts:
    """What was received."""

    messages = octets = turns = 0


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, counts: Counts, pause: float) -> None:
        self._counts = counts
        self._pause = pause
        self._held = bytearray()
        self._said = bytearray()
        self._left = 0
        self._is_last = False
        self._mode = "command"
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._held += data
        while self._step():
            pass
        if self._timer is not None:
            self._timer.cancel()
        if self._pause:
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        if self._said:
            self._counts.turns += 1
            self._transport.write(bytes(self._said))
            self._said.clear()

    def _step(self) -> bool:
        if self._mode == "chunk":
            return self._take_chunk()
        if self._mode == "data":
            return self._take_data()
        line, newline, rest = self._held.partition(b"\n")
        if not newline:
            return False
        self._held = rest
        self._obey(bytes(line).upper())
        return True

    def _take_chunk(self) -> bool:
        taken = min(self._left, len(self._held))
        del self._held[:taken]
        self._left -= taken
        self._counts.octets += taken
        if self._left:
            return False
        self._mode = "command"
        self._counts.messages += self._is_last
        self._said += b"250 2.0.0 Ok\r\n"
        return True

    def _take_data(self) -> bool:
        end = -2 if self._held.startswith(b".\r\n") else self._held.find(b"\r\n.\r\n")
        if end == -1:
            return False
        self._counts.octets += end + 2
        del self._held[: end + 5]
        self._counts.messages += 1
        self._mode = "command"
        self._said += b"250 2.0.0 Ok: queued\r\n"
        return True

    def _obey(self, line: bytes) -> None:
        verb = line[:4]
        if verb in (b"EHLO", b"LHLO"):
            self._said += EHLO
        elif verb == b"DATA":
            self._said += b"354 End data with <CR><LF>.<CR><LF>\r\n"
            self._mode = "data"
        elif verb == b"BDAT":
            self._left, self._is_last = int(line.split()[1]), b"LAST" in line
            self._mode = "chunk"
        elif verb == b"QUIT":
            self._said += b"221 2.0.0 Bye\r\n"
            self._answer()
            self._transport.close()
        else:
            self._said += b"250 2.0.0 Ok\r\n"


async def serve(pause: float) -> None:
    """Serve until the standard input ends, and say what was received."""
    loop, counts, over = asyncio.get_running_loop(), Counts(), asyncio.Event()
    server = await loop.create_server(lambda: Client(counts, pause), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    print(counts.messages, counts.octets, counts.turns, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]) / 1000 if len(sys.argv) > 1 else 0.0))
