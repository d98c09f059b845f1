"""The programs of examples/ as processes: under gunicorn, or as workers of Celery.

They are started and ended as the real servers are (see `tests.realservers.base`): in a directory of
their own, up when they say so, and nothing of them left behind.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.realservers.base import RealServer, wait_until

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 30.0


class Program(RealServer):
    """A program that Python runs, with the project importable and settings in its environment."""

    programs = (Path(sys.executable),)
    needs_root = False

    def __init__(self, *arguments: str, **settings: str) -> None:
        super().__init__()
        self.arguments = arguments
        self.settings = settings

    def configure(self) -> None:
        """Nothing: its settings are in the environment."""

    def environment(self) -> dict[str, str]:
        home = {"HOME": str(self.root), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        return home | self.settings


class Gunicorn(Program):
    """gunicorn, on `port`."""

    name = "gunicorn"

    def command(self) -> list[str]:
        address = f"{self.host}:{self.port}"
        return [sys.executable, "-m", "gunicorn", "--bind", address, *self.arguments]

    def is_ready(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def post(self, path: str) -> tuple[int, str]:
        """What the application answers: the status and the text."""
        request = urllib.request.Request(f"http://{self.host}:{self.port}{path}", data=b"")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


class CeleryWorker(Program):
    """A worker of examples/celery_tasks.py, as `tests.examples.worker` sets it up."""

    name = "celery"

    def command(self) -> list[str]:
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = ["worker", "--loglevel", "INFO", *alone, *self.arguments]
        return [sys.executable, "-m", "celery", "-A", "tests.examples.worker", *worker]

    def ports(self) -> list[int]:
        return []

    def is_ready(self) -> bool:
        return " ready." in self.logs()

    def kill(self) -> None:
        """Kill the worker and its processes at once, as when the machine dies."""
        if self._process is None:
            raise RuntimeError("the worker is not running")
        os.killpg(self._process.pid, signal.SIGKILL)
        self.halt()


def wait_for(condition: Callable[[], bool], what: str, program: Program) -> None:
    """Wait until the condition holds; else fail with the program's logs."""
    if not wait_until(condition, TIMEOUT, 0.02):
        raise AssertionError(f"{what}: not within {TIMEOUT} s\n{program.logs()}")
