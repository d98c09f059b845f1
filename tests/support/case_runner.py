"""Runs many cases, each of which has to be without fault.

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

Case = TypeVar("Case")

RUNNER_THREADS = 64
"""Cases that wait for their deadlines at the same time."""

_CONCURRENCY = (RUNNER_THREADS, 8, 1, 1)


def run_all(
    cases: Sequence[Case], problems: Callable[[Case], list[str]], *, concurrently: bool
) -> None:
    """Run all cases and fail if anything is wrong with any, saying what with the first ones."""
    wrong = [(case, [""]) for case in cases]
    for size in _CONCURRENCY if concurrently else (1,):
        wrong = _wrong([case for case, _ in wrong], problems, size)
    lines = [f"{case}: {'; '.join(found)}" for case, found in wrong]
    if lines:
        pytest.fail("\n".join([f"{len(lines)} of {len(cases)}", *lines[:10]]), pytrace=False)


def _wrong(
    cases: Sequence[Case], problems: Callable[[Case], list[str]], size: int
) -> list[tuple[Case, list[str]]]:
    if size == 1:
        results = list(map(problems, cases))
    else:
        with ThreadPoolExecutor(size) as clients:
            results = list(clients.map(problems, cases))
    return [(case, found) for case, found in zip(cases, results, strict=True) if found]
