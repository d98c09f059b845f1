"""Which tests of a `unittest` run failed, kept for another process to read."""

from __future__ import annotations

import json
import unittest
from pathlib import Path


class RecordingResult(unittest.TextTestResult):
    """A result that can be written down."""

    @staticmethod
    def name_of(test: unittest.TestCase) -> str:
        """As it stands in the documentation: the class and the method."""
        # What unittest uses for a failed setUpClass has no method.
        case = getattr(test, "test_case", test)  # a failure of subTest is one of its test
        return ".".join(case.id().split(".")[-2:])

    def write(self, path: Path) -> None:
        """Write down how many tests there were, and which of them failed."""
        failed = {self.name_of(test) for test, _ in self.failures + self.errors}
        failed |= {self.name_of(test) for test in self.unexpectedSuccesses}
        skipped = {self.name_of(test) for test, _ in self.skipped} - failed
        found = {"total": self.testsRun, "failed": sorted(failed), "skipped": sorted(skipped)}
        path.write_text(json.dumps(found))


def run_module_tests(suite: unittest.TestSuite, path: Path) -> None:
    """Run ``suite`` and write down what became of it."""
    runner = unittest.TextTestRunner(resultclass=RecordingResult, verbosity=2)  # type: ignore[arg-type]
    result = runner.run(suite)
    assert isinstance(result, RecordingResult)
    result.write(path)
