"""The programs of examples/ as processes: under gunicorn or uWSGI, or as workers of a queue.

They are started and ended as the real servers are (see `tests.realservers.base`): in a directory of
their own, up when they say so, and nothing of them left behind.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests.realservers.base import RealServer, free_port, wait_until

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
        # Django asks for the machine's own name, for which a name server may be asked.
        return home | {"RES_OPTIONS": "timeout:1 attempts:1"} | self.settings


class Gunicorn(Program):
    """gunicorn, on `port`.

    Attributes:
        reload_log: what it logs when SIGHUP has it start new workers; "" for one that cannot.
    """

    name = "gunicorn"
    reload_log: ClassVar[str] = "Handling signal: hup"

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


class Waitress(Gunicorn):
    """waitress: one process, and threads that serve the requests."""

    name = "waitress"
    reload_log = ""

    @classmethod
    def missing(cls) -> str | None:
        try:
            importlib.metadata.version("waitress")
        except importlib.metadata.PackageNotFoundError:
            return "waitress is not installed: pip install waitress"
        return None

    def command(self) -> list[str]:
        address = f"{self.host}:{self.port}"
        return [sys.executable, "-m", "waitress", f"--listen={address}", *self.arguments]


class PlainUwsgi(Gunicorn):
    """uWSGI with one port for all its workers."""

    name = "uwsgi"
    reload_log = "gracefully killing workers"

    @classmethod
    def missing(cls) -> str | None:
        return Uwsgi.missing()

    def command(self) -> list[str]:
        (program,) = _scripts("uwsgi")
        command = [program, "--virtualenv", sys.prefix, "--master", "--die-on-term", "--need-app"]
        address = f"{self.host}:{self.port}"
        return [*command, "--disable-logging", "--http-socket", address, *self.arguments]


class Uwsgi(Program):
    """uWSGI, with a master that loads the application before it forks the workers.

    Each worker has a port of its own, so that a test can say which one is to answer.
    """

    name = "uwsgi"

    def __init__(self, workers: int, *arguments: str, **settings: str) -> None:
        super().__init__(*arguments, **settings)
        self._ports = [self.port, *(free_port() for _ in range(workers - 1))]
        self._stats_port = free_port()

    @classmethod
    def missing(cls) -> str | None:
        """Also if it is there, but for another Python."""
        return None if _scripts("uwsgi") else "uwsgi is not installed: pip install uwsgi"

    def command(self) -> list[str]:
        (program,) = _scripts("uwsgi")
        command = [program, "--virtualenv", sys.prefix, "--master", "--die-on-term", "--need-app"]
        command += ["--disable-logging", "--processes", str(len(self._ports))]
        for number, port in enumerate(self._ports):
            command += ["--http-socket", f"{self.host}:{port}"]
            command += ["--map-socket", f"{number}:{number + 1}"]
        command += ["--stats", f"{self.host}:{self._stats_port}"]
        return [*command, *self.arguments]

    def ports(self) -> list[int]:
        return [*self._ports, self._stats_port]

    def is_ready(self) -> bool:
        # Not by connecting: a worker that has not closed the others' sockets yet would accept it,
        # or wait for ever for a connection that another one has accepted.
        return self.logs().count("mapped socket ") == len(self._ports)

    def is_idle(self) -> bool:
        """Whether no worker is at a request, its end included: one that is ends without atexit."""
        with socket.create_connection((self.host, self._stats_port), timeout=TIMEOUT) as connection:
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        return all(worker["status"] == "idle" for worker in json.loads(answer)["workers"])

    def get(self, worker: int, path: str) -> str:
        """What the application answers in a worker; they are counted from 0 on."""
        url = f"http://{self.host}:{self._ports[worker]}{path}"
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            return str(response.read().decode())


def _scripts(distribution: str) -> list[str]:
    """The programs of a package that this Python has, by the name of the package."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [str(file.locate()) for file in files if file.name == distribution]


class QueueWorker(Program):
    """A worker of a queue, which listens to no port."""

    def ports(self) -> list[int]:
        return []


class RqWorker(QueueWorker):
    """A worker of examples/rq_jobs.py; its argument is the class of the worker."""

    name = "rq"

    def command(self) -> list[str]:
        of_redis = ["--url", self.settings["REDIS_URL"], "--with-scheduler"]
        kind = ["--worker-class", *self.arguments]
        return [sys.executable, "-m", "rq.cli", "worker", *of_redis, *kind, "mail"]

    def is_ready(self) -> bool:
        return "Listening on mail" in self.logs()


class DramatiqWorker(QueueWorker):
    """A worker of examples/dramatiq_actors.py."""

    name = "dramatiq"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "dramatiq", "examples.dramatiq_actors", *self.arguments]

    def is_ready(self) -> bool:
        return "is ready for action" in self.logs()


class CeleryWorker(QueueWorker):
    """A worker of examples/celery_tasks.py, as `tests.examples.worker` sets it up."""

    name = "celery"

    def command(self) -> list[str]:
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = ["worker", "--loglevel", "INFO", *alone, *self.arguments]
        return [sys.executable, "-m", "celery", "-A", "tests.examples.worker", *worker]

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


def queue_with(module: str, *addresses: str, **settings: str) -> None:
    """Queue a message for each, with the program that an example is when it is run."""
    done = subprocess.run(
        [sys.executable, "-m", module, *addresses],
        capture_output=True,
        timeout=TIMEOUT,
        env=os.environ | settings | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
