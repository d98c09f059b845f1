"""The command line of the fuzzers; see `fuzz`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.harness import TARGETS, fuzz, fuzz_all, replay


def main() -> int:
    """Run what the command line names; 0 if nothing broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=(*TARGETS, "all"))
    parser.add_argument("--seconds", type=int, default=600, help="for each target (600)")
    parser.add_argument("--replay", type=Path, help="check this one input, without atheris")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        replay(arguments.target, arguments.replay.read_bytes())
        return 0
    if arguments.target != "all":
        fuzz(arguments.target, arguments.seconds)
        return 0
    outcomes = fuzz_all(arguments.seconds)
    for outcome in outcomes:
        print(
            f"{outcome.target:<12} {outcome.runs:>12,} runs in {outcome.seconds:>6,} s"
            f"{'  BROKEN' if outcome.broken else ''}"
        )
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
