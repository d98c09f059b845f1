"""A proxy in front of a real server that cuts each connection at a random place.

It passes bytes in both directions without reading them. After a number of bytes of one side it
closes or resets both connections, so the server may have got the end of a message although its
reply was not passed on. The same seed gives the same plans, in the order of connections.
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
    """The cut of one connection: it ends after ``position`` bytes of a side."""

    side: Side
    position: int
    is_reset: bool


class CuttingProxy:
    """A listening socket whose connections are passed to a server and end early.

    Args:
        server: host and port of the server.
        seed: the seed of the plans.
        most: the maximum number of bytes before a cut.

    Attributes:
        port: the port it listens on.
        cuts: the number of connections it has ended.
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
