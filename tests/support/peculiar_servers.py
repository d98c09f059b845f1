"""Servers that imitate one peculiarity of a known product that the tests cannot run.

In everything else each is a `ScriptedServer`.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from typing import Literal

from tests.support.scripted_server import CLOSE, Lines, Say, ScriptedServer

PIPELINING = b"250-mx.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n"


class HarakaLike(ScriptedServer):
    """Haraka 3: it refuses commands that arrive in one packet with the end of the content."""

    def __init__(self, **replies: Say) -> None:
        greeting = b"220 mx.example ESMTP Haraka ready\r\n"
        super().__init__(greeting, **{"EHLO": PIPELINING, **replies})

    def _answer(self, line: bytes, counts: Counter[str], lines: Lines) -> bytes:
        if line == b"CONTENT":
            counts["at the end"] = not lines.is_last
        elif lines.is_first:
            counts["at the end"] = False
        elif counts["at the end"]:
            return b"503 Bad sequence of commands - pipelined after end of DATA\r\n"
        return super()._answer(line, counts, lines)


class PacketFilter(ScriptedServer):
    """A filter that passes one command of each packet, while the server offers PIPELINING.

    Args:
        passes: which command of a packet is passed.
    """

    def __init__(self, passes: Literal["first", "last"], **replies: Say) -> None:
        super().__init__(b"220 mx.example ESMTP\r\n", **{"EHLO": PIPELINING, **replies})
        self._passes = passes

    def _answer(self, line: bytes, counts: Counter[str], lines: Lines) -> bytes:
        is_passed = lines.is_first if self._passes == "first" else lines.is_last
        return super()._answer(line, counts, lines) if is_passed or line == b"CONTENT" else b""


class PostscreenLike(ScriptedServer):
    """Postfix's postscreen before a server: it tests unknown clients first.

    It sends the first line of its greeting and waits. A client that sends anything then, or that
    sends several commands in one packet although PIPELINING is not offered, is refused. Other
    clients get 450 for every recipient on their first connection, and the server on later ones.

    Args:
        wait: seconds between the lines of the greeting.
        listed: whether the client is on a blocklist, so that it is refused after the first line.
    """

    def __init__(self, wait: float = 0.05, *, listed: bool = False) -> None:
        super().__init__()
        self._wait, self._listed = wait, listed

    def _greet(self, sock: socket.socket) -> bool:
        if len(self.dialogs) > 1 and not self._listed:
            return super()._greet(sock)
        self._send(sock, b"220-mx.example\r\n")
        if select.select([sock], [], [], self._wait)[0]:
            return self._send(sock, b"521 5.5.1 Protocol error\r\n" + CLOSE)
        if self._listed:
            return self._send(sock, b"521 5.7.1 Service unavailable; client blocked\r\n" + CLOSE)
        return self._send(sock, b"220 mx.example ESMTP\r\n")

    def _answer(self, line: bytes, counts: Counter[str], lines: Lines) -> bytes:
        if len(self.dialogs) > 1:
            return super()._answer(line, counts, lines)
        if not (lines.is_first and lines.is_last):
            return b"521 5.5.1 Protocol error\r\n" + CLOSE
        said = super()._answer(line, counts, lines)
        if line.upper().startswith(b"RCPT"):
            counts["accepted"] = 0
            return b"450 4.3.2 Service currently unavailable\r\n"
        return said
