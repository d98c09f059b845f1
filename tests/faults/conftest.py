"""What the tests of faults share: they count what was injected, and tell it at the end of the run.

A test that loops over points which it computed itself could loop over none and pass; so each counts
what it ran, and the sums are printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.realservers.certificates import Certificates
from tests.support.sessions import Contexts

Count = Callable[[str, int], None]
WasLate = Callable[[float], None]

AT_RANDOM = ("test_fuzz.py", "test_session_machine.py")
"""What tries some of all there is, and so takes seconds."""

_COUNTS = pytest.StashKey[Counter[str]]()
_LATE = pytest.StashKey[list[float]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin at nothing."""
    config.stash[_COUNTS] = Counter()
    config.stash[_LATE] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what goes through every byte, which takes a minute, so that a run may leave it out."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.name not in AT_RANDOM:
            item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(scope="module")
def contexts(certificates: Certificates) -> Contexts:
    """The TLS settings of both sides."""
    return Contexts(certificates.client_context(), certificates.server_context())


@pytest.fixture
def servers() -> Iterator[Executor]:
    """A thread for the server."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Count:
    """Adds to the sums: ``count("cut points", 400)``."""
    counts = request.config.stash[_COUNTS]

    def add(what: str, how_many: int) -> None:
        assert how_many > 0, f"no {what} were run"
        counts[what] += how_many

    return add


@pytest.fixture
def was_late(request: pytest.FixtureRequest) -> WasLate:
    """Notes by how many seconds something overshot its deadline."""
    return request.config.stash[_LATE].append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the sums."""
    counts = config.stash[_COUNTS]
    if counts:
        terminalreporter.section("faults injected")
        for what, how_many in sorted(counts.items()):
            terminalreporter.write_line(f"{how_many:7d} {what}")
    if late := config.stash[_LATE]:
        # Among it what a busy machine made late among many, and what was then on time alone.
        terminalreporter.write_line(f"{max(late):7.3f} s past its deadline at the latest")
