"""What smtpconn costs in memory and at import, measured in fresh processes.

python -m benchmarks.footprint memory PORT OCTETS      (prints KiB above an idle connection; Linux)
"""

from __future__ import annotations

import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

from benchmarks.sink import Sink

ROOT = Path(__file__).parent.parent

IMPORTS = {
    "smtplib + ssl": "import smtplib, ssl",
    "smtpconn": "import smtpconn",
    "ConnectionPool": "from smtpconn import ConnectionPool",
}


def streaming_memory(octets: int) -> float:
    """MiB that streaming a file of so many octets takes above an idle connection."""
    with Sink() as sink:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.footprint", "memory", str(sink.port), str(octets)],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
    return float(done.stdout) / 1024


def import_seconds(rounds: int) -> dict[str, float]:
    """Seconds of CPU that importing takes, the interpreter's own start taken off.

    All modules have their .pyc files, as an installed package has.
    """
    found: dict[str, list[float]] = {name: [] for name in ("nothing", *IMPORTS)}
    with tempfile.TemporaryDirectory() as directory:
        # Some environments are set to write none.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": directory}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for program in IMPORTS.values():
            _cpu_of(program, environment)
        for _ in range(rounds):
            for name in found:
                found[name].append(_cpu_of(IMPORTS.get(name, "pass"), environment))
    nothing = statistics.median(found.pop("nothing"))
    return {name: statistics.median(all_) - nothing for name, all_ in found.items()}


def _cpu_of(program: str, environment: Mapping[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measure_memory(port: int, octets: int) -> None:
    from smtpconn import SmtpConnection, TlsMode

    with (
        tempfile.TemporaryFile() as file,
        SmtpConnection.connect("127.0.0.1", port, TlsMode.NONE, 120) as connection,
    ):
        # Sparse, so it costs no disk; but it is read like any other, as text without NULs.
        file.truncate(octets)
        text = _Text(file)
        connection.send("me@example.com", "you@example.com", b"Subject: first\r\n\r\n")
        idle = _peak_from_now_on()
        for send in (connection.send, connection.send_bdat):
            file.seek(0)
            send("me@example.com", "you@example.com", cast(BinaryIO, text))
        print(_peak() - idle)


class _Text(io.RawIOBase):
    """A file of NULs that reads as one of letters."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size).replace(b"\0", b"x")

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _peak_from_now_on() -> int:
    """Forget what was taken before, for instance by importing; KiB that are taken now."""
    # Else what comes might hide below what was (proc(5), clear_refs).
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The most KiB that this process has had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    _measure_memory(int(sys.argv[2]), int(sys.argv[3]))
