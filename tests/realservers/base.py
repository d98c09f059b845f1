"""What all real servers have in common: a directory, ports, a process group, stored messages.

A server is a directory under /tmp with its configuration, spool and mailboxes, and a process which
runs on it.  The directory is made by the first `start()` and removed by `stop()`; `restart()`
replaces only the process, so ports, queue and mailboxes stay.

Three rules keep the fixtures dependable:

* The directory has mode 0755.  The daemons drop privileges and could not enter pytest's tmp_path,
  which is closed to all but its owner, and some die of that without a word.
* The process leads a session of its own.  Whatever is left of the group is killed at the end, and
  since this process adopts orphans (it is a "subreaper"), it can wait for each of them: when
  `stop()` returns there are no processes left, no zombies, and the ports are free.
* A server is ready when it greets, not when it has been started.
"""

import abc
import contextlib
import ctypes
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

HOST = "127.0.0.1"
HOSTNAME = "mx.example.test"
DOMAIN = "example.test"
PASSWORDS = {"alice": "wonderland", "bob": "builder", "carol": "singer"}
SERVERS_DIR = Path(os.environ.get("SMTPCONN_SERVERS_DIR", "/opt/smtpconn-servers"))

NOBODY = 65534
START_TIMEOUT = 30.0
PR_SET_CHILD_SUBREAPER = 36

# Below the range from which the kernel takes the ports of outgoing connections, so that none of
# those can occupy the port of a server which is just being restarted.
PORTS = range(20000, 30000)
# Each process of pytest-xdist has its own.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = PORTS[_WORKER :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
_ports_given: set[int] = set()


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free port, never the same one twice."""
    for port in random.sample(_PORTS, len(_PORTS)):
        if port not in _ports_given and is_free(port):
            _ports_given.add(port)
            return port
    raise RuntimeError(f"no free port in {PORTS}")


def fill(template: str, **values: object) -> str:
    """Replace each @{name} of a configuration by its value; all else is the server's own syntax."""
    return re.sub(r"@\{(\w+)\}", lambda match: str(values[match[1]]), template)


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.005) -> bool:
    """Poll until the condition holds; False when it still does not after the timeout."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def greets(address: tuple[str, int] | Path) -> bool:
    """Whether a server at the address sends its banner."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.connect(str(address) if isinstance(address, Path) else address)
        if connection.recv(512).startswith(b"220"):
            # The end of input, and then the server's: no half-served connection of ours is left
            # when a test begins to count.  (QUIT would do, but Exim takes 200 ms to answer it.)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(512):
                pass
            return True
    return False


class RealServer(abc.ABC):
    """One server with a directory and ports of its own; a context manager."""

    name: ClassVar[str]
    programs: ClassVar[tuple[Path, ...]]
    accounts: ClassVar[tuple[str, ...]] = ()
    needs_root: ClassVar[bool] = True
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    log_files: ClassVar[tuple[str, ...]] = ("output",)
    # Where messages end up, as a pattern relative to the root; {user} is a mailbox or `*`.
    mailbox: ClassVar[str] = "mail/{user}/new/*"

    host: str = HOST

    def __init__(self) -> None:
        self.port = free_port()
        self._root: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def missing(cls) -> str | None:
        """Why this server cannot run here, or None when it can."""
        if cls.needs_root and os.geteuid() != 0:
            return f"{cls.name} needs root"
        for program in cls.programs:
            if not os.access(program, os.X_OK):
                return f"{cls.name} is not installed: no {program}"
        for account in cls.accounts:
            try:
                pwd.getpwnam(account)
            except KeyError:
                return f"{cls.name} is not installed: no account {account}"
        return None

    @abc.abstractmethod
    def configure(self) -> None:
        """Write the configuration and the directories, once, before the first start."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command which runs the server in the foreground."""

    def environment(self) -> dict[str, str]:
        """What the server needs in its environment besides what is there."""
        return {}

    def ports(self) -> list[int]:
        """All ports the server listens on."""
        return [self.port]

    def is_ready(self) -> bool:
        """Whether the server serves."""
        return greets((self.host, self.port))

    @property
    def root(self) -> Path:
        """The server's directory; exists from the first start until `stop()`."""
        if self._root is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._root

    def start(self) -> Self:
        """Start the server and return when it is ready."""
        try:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix=f"smtpconn-{self.name}-", dir="/tmp"))
                self._root.chmod(0o755)
                self.configure()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def restart(self) -> None:
        """Stop the process and start it again: same ports, queue and mailboxes."""
        self.halt()
        self.start()

    def halt(self) -> None:
        """Stop the process and all its children; the directory stays for another start."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self.stop_signal)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._end_group(process.pid)

    def stop(self) -> None:
        """Stop the process and remove everything; harmless when done already."""
        self.halt()
        root, self._root = self._root, None
        if root is not None:
            shutil.rmtree(root)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        self._process.send_signal(number)

    def logs(self) -> str:
        """What the server has logged so far."""
        return "".join(
            path.read_text(errors="replace")
            for pattern in self.log_files
            for path in sorted(self.root.glob(pattern))
        )

    def stored(self, user: str = "*") -> list[bytes]:
        """The messages delivered so far, to one user or to all, oldest first."""
        paths = self.root.glob(self.mailbox.format(user=user))
        return [
            path.read_bytes() for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)
        ]

    def wait_for_stored(self, count: int, timeout: float = 10.0, user: str = "*") -> list[bytes]:
        """Wait until at least so many messages are delivered, and return all there are."""
        pattern = self.mailbox.format(user=user)
        if not wait_until(lambda: len(list(self.root.glob(pattern))) >= count, timeout):
            raise AssertionError(
                f"{self.name} stored {len(self.stored(user))} of {count} messages"
                f" within {timeout} s\n{self.logs()}"
            )
        return self.stored(user)

    def wait_for_log(self, text: str, timeout: float = 10.0) -> None:
        """Wait until the text is in the logs, which some servers write behind their replies."""
        if not wait_until(lambda: text in self.logs(), timeout):
            raise AssertionError(f"not logged within {timeout} s: {text}\n{self.logs()}")

    def make_directories(
        self, *names: str, owner: int = -1, group: int = -1, mode: int = 0o755
    ) -> None:
        """Make directories below the root; -1 leaves the owner or group as it is."""
        for name in names:
            path = self.root / name
            path.mkdir(parents=True, exist_ok=True)
            os.chown(path, owner, group)
            path.chmod(mode)

    def write(self, name: str, text: str) -> Path:
        """Write a file below the root which every account can read."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
        return path

    def _launch(self) -> None:
        """Start the process and wait until it is ready."""
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with (self.root / "output").open("ab") as output:
            process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.root,
                env=os.environ | self.environment(),
                start_new_session=True,
            )
        self._process = process
        settled = wait_until(
            lambda: process.poll() is not None or self.is_ready(), timeout=START_TIMEOUT
        )
        if not settled or process.returncode is not None:
            raise RuntimeError(
                f"{self.name} did not start (exit status {process.returncode})\n{self.logs()}"
            )

    def _end_group(self, leader: int) -> None:
        """Kill what the main process has left behind, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-leader, 0)
        if not wait_until(lambda: all(map(is_free, self.ports())), timeout=5):
            raise RuntimeError(f"{self.name} still listens on one of {self.ports()}")
