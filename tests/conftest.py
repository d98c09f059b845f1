"""What every test has: the fixtures of the servers, and the check that nothing is left behind.

A test that leaves a thread or a descriptor is a failed test, because the library would do the same
to its users.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.realservers.fixtures", "pytester"]

_DESCRIPTORS = Path("/proc/self/fd")


def pytest_configure() -> None:
    """Have Ctrl-C work in this process and in those that tests start.

    A shell starts what runs in the background with SIGINT ignored, and that is inherited.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a real server."""
    # Not at the top: pytest has to load its plugins first, to rewrite their assertions.
    from tests.realservers.fixtures import mark_real_server_tests

    mark_real_server_tests(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape lone surrogates in what was captured: pytest-xdist sends reports as UTF-8."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True, scope="module")
def older_objects_are_not_collected() -> None:
    """Leave what is there when a module begins out of its garbage collections.

    The collected tests, and what earlier ones imported, live to the end. A full collection takes
    half a second with them, and some tests collect hundreds of times.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor behind."""
    # Asked for here, so that what lives for the whole session is made before the count.
    if "certificates" in request.fixturenames:
        request.getfixturevalue("certificates")
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    end = time.monotonic() + 2
    while (left := _left(threads, descriptors)) and time.monotonic() < end:
        gc.collect()
        time.sleep(0.005)  # for threads that are about to end; the condition is what counts
    assert not left


def _descriptors() -> set[str]:
    # Under pytest's own capture the numbers stay, so what they are is compared as well.
    if not _DESCRIPTORS.exists():
        return set()
    found = set()
    for entry in os.listdir(_DESCRIPTORS):
        try:
            found.add(f"{entry} {os.readlink(_DESCRIPTORS / entry)}")
        except OSError:
            pass  # the directory's own, gone by now
    return found


def _left(threads: set[threading.Thread], descriptors: set[str]) -> list[str]:
    new_threads = [f"thread {t.name}" for t in threading.enumerate() if t not in threads]
    new_descriptors = [d for d in _descriptors() - descriptors if "/proc/" not in d]
    return new_threads + [f"descriptor {d}" for d in new_descriptors]
