"""Servers that do what a known product does, where the product itself is not at hand.

Each does one peculiar thing and is an `ScriptedServer` in all else.
"""

from __future__ import annotations

import select
import socket
from collections import Counter
from typing import Literal

from tests.support.scripted_server import CLOSE, Lines, Say, ScriptedServer

PIPELINING = b"250-mx.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n"


class HarakaLike(ScriptedServer):
    """Haraka 3: it refuses what arrives in one packet with the end of the content, behind it."""

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
    """A filter that lets through one command of each packet, while the server offers PIPELINING.

    Args:
        passes: which command of a packet is answered.
    """

    def __init__(self, passes: Literal["first", "last"], **replies: Say) -> None:
        super().__init__(b"220 mx.example ESMTP\r\n", **{"EHLO": PIPELINING, **replies})
        self._passes = passes

    def _answer(self, line: bytes, counts: Counter[str], lines: Lines) -> bytes:
        is_passed = lines.is_first if self._passes == "first" else lines.is_last
        return super()._answer(line, counts, lines) if is_passed or line == b"CONTENT" else b""


class PostscreenLike(ScriptedServer):
    """Postfix's postscreen before a server: who is unknown is looked at first.

    It says a part of its greeting and waits. Who speaks then, or sends commands in one packet
    without PIPELINING being offered, is refused. Others get 450 to every recipient on their first
    connection, and the server itself on later ones.

    Args:
        wait: seconds between the parts of the greeting.
        listed: whether the client is on a blocklist: it is refused behind the first part.
    """

    def __init__(self, wait: float = 0.05, *, listed: bool = False) -> None:
        super().__init__()
        self._wait, self._listed = wait, listed

    def _greet(self, sock: socket.socket) -> bool:
        if len(self.dialogs) > 1 and not self._listed:
            return super()._greet(sock)
        self._say(sock, b"220-mx.example\r\n")
        if select.select([sock], [], [], self._wait)[0]:
            return self._say(sock, b"521 5.5.1 Protocol error\r\n" + CLOSE)
        if self._listed:
            return self._say(sock, b"521 5.7.1 Service unavailable; client blocked\r\n" + CLOSE)
        return self._say(sock, b"220 mx.example ESMTP\r\n")

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
