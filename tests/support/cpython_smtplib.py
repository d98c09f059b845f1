"""Runs CPython's own ``test_smtplib`` against `smtpconn.smtplib`, in a process of its own.

    python -m tests.support.cpython_smtplib

prints what became of each test as JSON. Left out are the classes that put a mock in the place of
the socket module: they test how CPython's module calls it.
"""

from __future__ import annotations

import importlib
import json
import sys
import unittest
import warnings
from collections.abc import Iterator

MOCKED = ("SMTPGeneralTests", "LMTPGeneralTests", "BadHELOServerTests")


def main() -> None:
    """Run all of them."""
    warnings.simplefilter("ignore")
    sys.modules["smtplib"] = importlib.import_module("smtpconn.smtplib")
    module = importlib.import_module("test.test_smtplib")
    results = {}
    for test in tests_in(unittest.defaultTestLoader.loadTestsFromModule(module)):
        kind = type(test).__name__
        if kind in MOCKED:
            continue
        result = unittest.TestResult()
        test.run(result)
        trouble = [text for _, text in (*result.failures, *result.errors)]
        skipped = [f"skipped: {reason}" for _, reason in result.skipped]
        results[f"{kind}.{test.id().rpartition('.')[2]}"] = "\n".join(trouble + skipped)
    print(json.dumps(results))


def tests_in(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of a suite and of those in it."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from tests_in(each)
        else:
            yield each


if __name__ == "__main__":
    main()
