"""Runs many cases, each of which must pass.

Cases that end only by a deadline run in parallel, because each takes as long as its deadline. On a
busy machine a client may be late, or give up before the server reaches the cut. So failed cases run
again with fewer in parallel, and at last twice alone: a real error fails every time. Other cases
run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

Case = TypeVar("Case")

RUNNER_THREADS = 64
"""The number of cases that wait for their deadlines at the same time."""

_CONCURRENCY = (RUNNER_THREADS, 8, 1, 1)


def run_all(
    cases: Sequence[Case], problems: Callable[[Case], list[str]], *, concurrently: bool
) -> None:
    """Run all cases; fail if one has problems, with the problems of the first ones."""
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
