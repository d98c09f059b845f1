"""Redis, the queue of the tests of Celery: no mail server, but started and ended like one.

It keeps nothing on disk. `url` is what Celery and redis-py take.
"""

import socket
from pathlib import Path

from tests.realservers.base import RealServer

REDIS_SERVER = Path("/usr/bin/redis-server")


class RedisServer(RealServer):
    """Redis on `port`, with nothing in it."""

    name = "redis"
    programs = (REDIS_SERVER,)
    needs_root = False

    @property
    def url(self) -> str:
        """Its first database."""
        return f"redis://{self.host}:{self.port}/0"

    def configure(self) -> None:
        """Nothing: all of it stands in the command."""

    def command(self) -> list[str]:
        nothing_kept = ["--save", "", "--appendonly", "no", "--dir", str(self.root)]
        address = ["--bind", self.host, "--port", str(self.port)]
        return [str(REDIS_SERVER), *address, *nothing_kept, "--daemonize", "no"]

    def is_ready(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
