"""The performance of smtpconn beside its peers: prints a table, and writes docs/performance.md.

    python -m benchmarks [--quick] [--only PART] [--awake] [--write]

Other measurements have commands of their own: ``python -m benchmarks.pool`` (the pool beside other
pools) and ``python -m benchmarks.chaos`` (a server that misbehaves for a minute).
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.charts import bars
from benchmarks.footprint import import_seconds, streaming_memory
from benchmarks.sink import Sink
from benchmarks.speed import LARGE, LATE, SMALL, Measured, compare, message
from benchmarks.turns import count_turns

DOCS = Path(__file__).parent.parent / "docs"
ROUND_TRIP = 0.02


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what, the goal, and what was found."""

    what: str
    goal: str
    found: str
    is_reached: bool


Part = Callable[[argparse.Namespace], Iterator[Row]]
Chart = tuple[str, str, list[tuple[str, float]]]
charts: dict[str, Chart] = {}


def _ratio(what: str, value: float, goal: float, *, at_most: bool = False) -> Row:
    sign, reached = ("<=", value <= goal) if at_most else (">=", value >= goal)
    return Row(what, f"{sign} {goal:g}", f"{value:.2f}", reached)


def small(options: argparse.Namespace) -> Iterator[Row]:
    """1 KiB messages over one connection, without a delay."""
    found = compare(SMALL, message(1024), 300 if options.quick else 3000, options.rounds)
    library, bare = found["smtplib"], found["bare socket, same turns as send"]
    per_second = [(name, 1 / one.seconds) for name, one in found.items()]
    charts["throughput"] = ("Messages of 1 KiB a second, one connection", "/s", per_second)
    for name, goal in (
        ("send", 3),
        ("send_bdat EAGER", 4),
        ("send_many AUTO", 4),
        ("send_many EAGER", 20),
    ):
        yield _ratio(
            f"`{name}`, messages/s over smtplib's", library.seconds / found[name].seconds, goal
        )
    yield Row(
        "for comparison: the bare loop over smtplib's",
        "",
        f"{library.seconds / bare.seconds:.2f}",
        True,
    )
    send = found["send"]
    yield _ratio(
        "CPU per message of `send` over the bare loop with the same turns",
        send.cpu_seconds / bare.cpu_seconds,
        1.5,
        at_most=True,
    )
    yield Row("CPU per message", "", _microseconds(found), True)


def _microseconds(found: dict[str, Measured]) -> str:
    return ", ".join(f"{name} {one.cpu_seconds * 1e6:.0f} us" for name, one in found.items())


def large(options: argparse.Namespace) -> Iterator[Row]:
    """25 MiB messages."""
    found = compare(LARGE, message(25 * 1024 * 1024), 1 if options.quick else 4, options.rounds)
    megabytes = [(name, 25 / one.seconds) for name, one in found.items()]
    charts["large"] = ("Messages of 25 MiB, one connection", "MiB/s", megabytes)
    bare, library = found["bare sendall"], found["smtplib"]
    for name in ("send_bdat", "send_bdat BINARYMIME"):
        yield _ratio(
            f"25 MiB by `{name}`, throughput over bare sendall",
            bare.seconds / found[name].seconds,
            0.9,
        )
    yield _ratio("25 MiB by `send` over smtplib's", library.seconds / found["send"].seconds, 3)


def late(options: argparse.Namespace) -> Iterator[Row]:
    """1 KiB messages with a round trip of 20 ms."""
    goals = {"send": 2.0, "send_bdat EAGER": 1.0, "send_many AUTO": 1.0, "send_many EAGER": 0.1}
    found = compare(LATE, message(1024), 30 if options.quick else 100, 1, ROUND_TRIP / 2)
    trips = {name: one.seconds / ROUND_TRIP for name, one in found.items()}
    charts["round-trips"] = (
        "Round trips a message, at 20 ms each",
        "round trips",
        list(trips.items()),
    )
    for name, goal in goals.items():
        reached = trips[name] <= goal * 1.1
        limit = f"<= {goal:g}" if goal < 1 else f"{goal:g}, within 10 %"
        yield Row(f"`{name}`: round trips a message", limit, f"{trips[name]:.2f}", reached)


def drop_in(options: argparse.Namespace) -> Iterator[Row]:
    """A loop with a connection for each message, over a real Postfix, at a round trip of 20 ms."""
    # Not above: it needs the servers of the tests.
    from benchmarks import dropin

    if dropin.missing() is not None:
        return
    found = dropin.compare(10 if options.quick else 50, ROUND_TRIP / 2)
    library = found["smtplib"]
    yield _ratio(
        "`smtpconn.smtplib` pooled, messages/s over smtplib's: connect, STARTTLS, login, send",
        library / found["smtpconn.smtplib, pooled"],
        5,
    )
    per_second = ", ".join(f"{name} {1 / seconds:.1f}/s" for name, seconds in found.items())
    yield Row("for comparison: messages a second", "", per_second, True)


def turns(options: argparse.Namespace) -> Iterator[Row]:
    """The same without a clock: a sink that answers when the client has paused counts its turns."""
    found = count_turns(LATE, message(1024), 10 if options.quick else 100)
    for name, counted in found.items():
        yield Row(f"`{name}`: turns counted a message", "", f"{counted:.2f}", True)


def memory(options: argparse.Namespace) -> Iterator[Row]:
    """A streamed file."""
    octets = 2**26 if options.quick else 2**30
    mebibytes = streaming_memory(octets)
    what = f"memory for a streamed file of {octets // 2**20} MiB, over an idle connection"
    yield Row(what, "<= 16 MiB", f"{mebibytes:.1f} MiB", mebibytes <= 16)


def imports(options: argparse.Namespace) -> Iterator[Row]:
    """Importing."""
    found = import_seconds(5 if options.quick else 25)
    yield _ratio(
        "`import smtpconn` over `import smtplib` + `import ssl`",
        found["smtpconn"] / found["smtplib + ssl"],
        1.5,
        at_most=True,
    )
    everything = found["ConnectionPool"] / found["smtplib + ssl"]
    what = "for comparison: `from smtpconn import ConnectionPool`, which loads all that a pool uses"
    yield Row(what, "", f"{everything:.2f}", True)


def smtp_source(options: argparse.Namespace) -> Iterator[Row]:
    """Postfix's own load generator, where it is installed, against the same sink."""
    program = shutil.which("smtp-source") or shutil.which("/usr/sbin/smtp-source")
    if program is None:
        return
    count = 300 if options.quick else 3000
    with Sink() as sink:
        begun = time.perf_counter()
        subprocess.run(
            [program, "-d", "-s", "1", "-m", str(count), "-l", "1024", f"127.0.0.1:{sink.port}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - begun
    what = "for comparison: Postfix's smtp-source, one session"
    yield Row(what, "", f"{count / seconds:.0f}/s", True)


PARTS: dict[str, Part] = {
    "small": small,
    "source": smtp_source,
    "large": large,
    "late": late,
    "smtplib": drop_in,
    "turns": turns,
    "memory": memory,
    "imports": imports,
}


def _machine() -> str:
    return (
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{os.cpu_count()} cores"
    )


def _write(rows: list[Row]) -> None:
    page = (DOCS / "performance.md").read_text()
    head, mark, rest = page.partition("<!-- figures -->")
    _, end, tail = rest.partition("<!-- end of figures -->")
    lines = ["", "", f"{_machine()}:", "", "| | goal | found | |", "|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.goal} | {row.found} | {'' if row.is_reached else 'not reached'} |"
        for row in rows
    ]
    for name, (title, unit, values) in charts.items():
        (DOCS / f"performance-{name}.svg").write_text(bars(title, unit, values))
        lines += ["", f"![{title}](performance-{name}.svg)"]
    (DOCS / "performance.md").write_text(head + mark + "\n".join([*lines, "", ""]) + end + tail)


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Have so many processes count for ever, at the lowest priority.

    A processor that has nothing to do while a turn is under way goes to sleep, in a virtual machine
    deeply; it then takes a while to wake, and begins with empty caches.
    """
    program = "import os; os.nice(19)\nwhile True: pass"
    counting = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


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
        "--awake", action="store_true", help="keep the processors from sleeping between turns"
    )
    options = parser.parse_args(arguments)
    with _busy(os.cpu_count() or 1 if options.awake else 0):
        _run(options)


def _run(options: argparse.Namespace) -> None:
    rows: list[Row] = []
    print(f"{_machine()}\n")
    for name, part in PARTS.items():
        if options.only not in (None, name):
            continue
        for row in part(options):
            rows.append(row)
            mark = " " if row.is_reached else "!"
            print(f"{mark} {row.what:70} {row.goal:18} {row.found}", flush=True)
    if options.write:
        _write(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
