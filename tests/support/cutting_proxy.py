"""A proxy in front of a real server that cuts each connection somewhere, by a plan that is drawn.

Bytes pass through it unread, both ways. After so many of one side the connection is over on both
ends, closed or reset, whatever was in progress: the server may have got the end of a message and
    its
answer not come through. The same seed draws the same plans, in the order of connections.
"""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.cutting_server import Side

_LINGER_NOT = struct.pack("ii", 1, 0)
_RECEIVE = 65536


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to one connection: it ends after ``position`` bytes of a side."""

    side: Side
    position: int
    is_reset: bool


class CuttingProxy:
    """A listening socket whose connections go on to a server and end early; a context manager.

    Args:
        server: host and port to go on to.
        seed: for the plans.
        most: bytes after which a connection is over at the latest.

    Attributes:
        port: where it listens.
        cuts: how many connections it has ended.
    """

    host = "127.0.0.1"

    def __init__(self, server: tuple[str, int], seed: int, most: int) -> None:
        self.cuts = 0
        self._server = server
        self._chance = random.Random(seed)
        self._most = most
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, name="proxy")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # It wakes who waits in accept(), which closing does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client, self._draw()), name="proxy")
            self._threads.append(thread)
            thread.start()

    def _draw(self) -> Plan:
        chance = self._chance
        side = chance.choice(list(Side))
        return Plan(side, chance.randrange(self._most), chance.random() < 0.5)

    def _serve(self, client: socket.socket, plan: Plan) -> None:
        with client, socket.create_connection(self._server) as server:
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                was_cut = _pass_on(client, server, plan)
            except OSError:
                return  # one of them has hung up
            if was_cut:
                with self._lock:
                    self.cuts += 1
                if plan.is_reset:
                    for sock in (client, server):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def _pass_on(client: socket.socket, server: socket.socket, plan: Plan) -> bool:
    """Let bytes pass until one side is at its end, or the plan acts; whether it did."""
    ways = {client: server, server: client}
    counted = client if plan.side is Side.COMMANDS else server
    room = plan.position
    while room:
        for sock in select.select(list(ways), [], [])[0]:
            data = sock.recv(min(room, _RECEIVE) if sock is counted else _RECEIVE)
            if not data:
                return False
            ways[sock].sendall(data)
            if sock is counted:
                room -= len(data)
    return True
