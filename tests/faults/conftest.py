"""Counts what was injected, and tells it at the end of the run.

A test that loops over points which it computed itself could loop over none and pass; so each counts
what it ran, and the sums are printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

Count = Callable[[str, int], None]

_COUNTS = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Begin at nothing."""
    config.stash[_COUNTS] = Counter()


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Count:
    """Adds to the sums: ``count("cut points", 400)``."""
    counts = request.config.stash[_COUNTS]

    def add(what: str, how_many: int) -> None:
        assert how_many > 0, f"no {what} were run"
        counts[what] += how_many

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the sums."""
    counts = config.stash[_COUNTS]
    if counts:
        terminalreporter.section("faults injected")
        for what, how_many in sorted(counts.items()):
            terminalreporter.write_line(f"{how_many:7d} {what}")
