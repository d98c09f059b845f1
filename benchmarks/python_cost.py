"""What a message costs in Python, beside what it cost at an earlier commit, in one run.

Each tree runs `answering.py` in a process of its own, in turn, so that what disturbs the machine
disturbs both.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.answering import WAYS
from benchmarks.sink import Sink

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Cost:
    """What a message costs.

    Attributes:
        microseconds: of Python, the best of all rounds.
        ratio: to the other tree, the median of the rounds; None if that could not be measured.
    """

    microseconds: float
    ratio: float | None


def python_cost(against: str, rounds: int, repeats: int = 80) -> dict[str, Cost]:
    """The cost of each way of sending.

    Args:
        against: a directory with the sources to compare with, or a commit of this repository.
        rounds: how often each tree has its turn.
        repeats: how often it sends a hundred messages then, in each way; the best counts.
    """
    ours: list[list[float]] = []
    others: list[list[float]] = []
    with Sink() as sink, sources(against) as other:
        for _ in range(rounds):
            ours.append(_microseconds(HERE.parent, sink.port, repeats))
            if other is not None:
                others.append(_microseconds(other, sink.port, repeats))
    return {
        way: Cost(
            min(of_round[number] for of_round in ours),
            statistics.median(a[number] / b[number] for a, b in zip(ours, others, strict=True))
            if others
            else None,
        )
        for number, way in enumerate(WAYS)
    }


@contextmanager
def sources(of: str) -> Iterator[Path | None]:
    """A directory with the package as of a commit; None if the repository has no such commit."""
    if Path(of).is_dir():
        yield Path(of)
        return
    command = ["git", "archive", "--format=tar", of, "smtpconn"]
    try:
        packed = subprocess.run(command, capture_output=True, check=True, cwd=HERE.parent).stdout
    except (OSError, subprocess.CalledProcessError):
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(directory, filter="data")
        yield Path(directory)


def _microseconds(tree: Path, port: int, repeats: int) -> list[float]:
    done = subprocess.run(
        [sys.executable, HERE / "answering.py", str(port), str(repeats)],
        env={**os.environ, "PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(line) for line in done.stdout.split()]
