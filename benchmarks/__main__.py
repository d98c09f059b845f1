"""The performance of smtpconn beside its peers: prints a table, and writes docs/performance.md.

    python -m benchmarks [--quick] [--only PART] [--against COMMIT] [--write]

Other measurements have commands of their own: ``python -m benchmarks.pool`` (the pool beside other
pools) and ``python -m benchmarks.chaos`` (a server that misbehaves for a minute).
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.machine import description
from benchmarks.parts import PARTS, Effort
from benchmarks.table import Chart, Row, write

BASELINE = "c1bcd9e"


def main(arguments: list[str]) -> None:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="few messages: to see that it works")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--rounds", type=int, default=5, help="times each way has its turn")
    parser.add_argument(
        "--against",
        default=BASELINE,
        metavar="COMMIT",
        help="a commit, or a directory with sources, to compare the cost in Python with\n"
        f"(default: {BASELINE})",
    )
    options = parser.parse_args(arguments)
    effort = Effort(options.quick, options.rounds, options.against)
    rows: list[Row] = []
    charts: list[Chart] = []
    print(f"{description()}\n")
    for name, part in PARTS.items():
        if options.only not in (None, name):
            continue
        for one in part(effort):
            if isinstance(one, Chart):
                charts.append(one)
                continue
            rows.append(one)
            print(
                f"{'!' if one.verdict else ' '} {one.what:70} {one.goal:14} {one.found}", flush=True
            )
    if options.write:
        write(rows, charts)


if __name__ == "__main__":
    main(sys.argv[1:])
