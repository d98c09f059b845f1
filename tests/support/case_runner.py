"""Runs many cells, each of which has to be without fault.

What only a deadline ends runs many at a time, because each takes as long as its deadline. A machine
that is busy can make a client late, or have it give up before the server came to the cut; so what
went wrong in the crowd is run again in a smaller one, and at last twice alone: what a client does
wrong it does each time. All else runs one by one, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

Cell = TypeVar("Cell")

RUNNER_THREADS = 64
"""Cells that wait for their deadlines at the same time."""

_CROWDS = (RUNNER_THREADS, 8, 1, 1)


def run_all(
    cells: Sequence[Cell], problems: Callable[[Cell], list[str]], *, in_a_crowd: bool
) -> None:
    """Run all cells and fail if anything is wrong with any, saying what with the first ones."""
    wrong = [(cell, [""]) for cell in cells]
    for size in _CROWDS if in_a_crowd else (1,):
        wrong = _wrong([cell for cell, _ in wrong], problems, size)
    lines = [f"{cell}: {'; '.join(found)}" for cell, found in wrong]
    if lines:
        pytest.fail("\n".join([f"{len(lines)} of {len(cells)}", *lines[:10]]), pytrace=False)


def _wrong(
    cells: Sequence[Cell], problems: Callable[[Cell], list[str]], size: int
) -> list[tuple[Cell, list[str]]]:
    if size == 1:
        results = list(map(problems, cells))
    else:
        with ThreadPoolExecutor(size) as clients:
            results = list(clients.map(problems, cells))
    return [(cell, found) for cell, found in zip(cells, results, strict=True) if found]
