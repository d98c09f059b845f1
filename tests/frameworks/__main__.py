"""Run a framework's own tests with smtpconn in its place: ``python -m tests.frameworks django``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.frameworks.suites import SUITES, run


def main() -> int:
    """Run the suite, print its output and what failed; 0 unless it could not be run."""
    parser = argparse.ArgumentParser(prog="python -m tests.frameworks", description=__doc__)
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument(
        "--sources", type=Path, help="keep source distributions here, and look for them here first"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = run(options.suite, Path(options.sources or scratch))
    print(result.output)
    for name in sorted(result.failed):
        print(f"not passed: {name}")
    print(f"{result.passed} of {result.total} passed, {len(result.skipped)} skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
