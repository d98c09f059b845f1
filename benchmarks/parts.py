"""The parts of the table: what is measured, with which goal, and what bounds it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks import anatomy, batch_account
from benchmarks.footprint import import_seconds, streaming_memory
from benchmarks.machine import Mode, modes
from benchmarks.python_cost import python_cost
from benchmarks.sink import Sink
from benchmarks.speed import Measured, compare, message
from benchmarks.table import Chart, Row, at_least, at_most, compared
from benchmarks.turns import count_turns
from benchmarks.ways import BARE, LARGE, LATE, SMALL, together
from smtpconn import Pipelining

ROUND_TRIP = 0.02
TWO_TURNS, ONE_TURN = "two turns of the kernel", "one turn of the kernel"
PYTHON, NETWORK = "Python", "the network"


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        is_quick: few messages, to see that it works.
        rounds: how often each way has its turn.
        against: a commit, or a directory with sources, for costs in Python.
    """

    is_quick: bool
    rounds: int
    against: str

    def of(self, quick: int, full: int) -> int:
        """A number of messages."""
        return quick if self.is_quick else full


Part: TypeAlias = Callable[[Effort], Iterator[Row | Chart]]


def small(effort: Effort) -> Iterator[Row | Chart]:
    """1 KiB messages over one connection, without a delay."""
    ways = {"bare socket, same turns as send": BARE["send"], **SMALL}
    found = compare(ways, message(1024), effort.of(300, 3000), effort.rounds)
    library = found["smtplib"].seconds
    for name, goal, floor in (
        ("send", 3, TWO_TURNS),
        ("pool.send", 3, TWO_TURNS),
        ("send, LF line ends", 3, TWO_TURNS),
        ("send_bdat EAGER", 4, ONE_TURN),
        ("send_many AUTO", 4, ONE_TURN),
        ("send_many EAGER", 28, PYTHON),
        ("send_many EAGER, each recipient new", 15, PYTHON),
    ):
        what = f"`{name}`, messages/s over smtplib's"
        yield at_least(what, library / found[name].seconds, goal, floor)
    bare = found["bare socket, same turns as send"].seconds
    yield compared(
        "the bare loop with the turns of `send`, over smtplib's", f"{library / bare:.2f}"
    )
    per_second = {name: 1 / one.seconds for name, one in found.items()}
    yield Chart("throughput", "Messages of 1 KiB a second, one connection", "/s", per_second)


def over_bare(effort: Effort) -> Iterator[Row | Chart]:
    """CPU of each way over the bare loop with the same turns."""
    ours = {name: SMALL[name] for name in BARE}
    loops = {f"bare {name}": way for name, way in BARE.items()}
    ratios: dict[str, dict[Mode, float]] = {name: {} for name in BARE}
    for mode in modes():
        found = compare(
            {**loops, **ours}, message(1024), effort.of(300, 3000), effort.rounds, mode=mode
        )
        for name, by_mode in ratios.items():
            by_mode[mode] = found[name].cpu_seconds / found[f"bare {name}"].cpu_seconds
        yield compared(f"CPU per message, {mode.value}", _microseconds(found))
    yield at_most(
        "CPU of `send` over the bare loop with the same turns, awake",
        ratios["send"][Mode.AWAKE],
        1.5,
        "1: the bare loop",
    )
    for name, by_mode in ratios.items():
        listed = ", ".join(f"{mode.value} {ratio:.2f}" for mode, ratio in by_mode.items())
        yield compared(f"CPU of `{name}` over the bare loop with the same turns", listed)


def _microseconds(found: dict[str, Measured]) -> str:
    return ", ".join(f"{name} {one.cpu_seconds * 1e6:.0f} us" for name, one in found.items())


def source(effort: Effort) -> Iterator[Row | Chart]:
    """Postfix's own load generator, where it is installed, against the same sink."""
    program = shutil.which("smtp-source") or shutil.which("/usr/sbin/smtp-source")
    if program is None:
        return
    count = effort.of(300, 3000)
    with Sink() as sink:
        begun = time.perf_counter()
        subprocess.run(
            [program, "-d", "-s", "1", "-m", str(count), "-l", "1024", f"127.0.0.1:{sink.port}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - begun
    yield compared("Postfix's smtp-source, one session", f"{count / seconds:.0f}/s")


def python(effort: Effort) -> Iterator[Row | Chart]:
    """Python per message, over a transport that answers at once."""
    found = python_cost(effort.against, effort.rounds, effort.of(10, 80))
    for name, goal in (
        ("send", 11 / 17.3),
        ("send, LF line ends", 12.6 / 23.1),
        ("pool.send", 14 / 23.7),
        ("send_bdat EAGER", 11 / 16.0),
        ("send_many AUTO", 11 / 15.8),
        ("send_many EAGER", 8 / 16.1),
        ("send_many EAGER, each recipient new", 15 / 28.1),
    ):
        what = f"`{name}`: Python per message over commit {effort.against}'s"
        yield at_most(what, found[name].ratio, round(goal, 2), PYTHON)
    listed = ", ".join(f"{name} {cost.microseconds:.1f} us" for name, cost in found.items())
    yield compared("Python per message", listed)
    parts = anatomy.parts(effort.of(3, 500), effort.of(1, 60))
    whole = parts.pop("all of it")
    shares = ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in parts.items())
    yield compared("of `send`'s Python, the exchange and its driver apart", shares)


def large(effort: Effort) -> Iterator[Row | Chart]:
    """25 MiB messages."""
    found = compare(LARGE, message(25 * 1024 * 1024), effort.of(1, 4), effort.rounds)
    bare, looked_at = found["bare sendall"], found["bare sendall, each byte looked at"]
    seconds = {name: one.seconds for name, one in found.items()}
    for name, loop, goal, floor in (
        ("send", "smtplib", 7.5, "looking at each byte twice"),
        ("send_bdat", "bare sendall, each byte looked at", 0.9, "looking at each byte"),
        ("send_bdat BINARYMIME", "bare sendall", 0.95, "1: bare sendall"),
    ):
        what = f"25 MiB by `{name}`, throughput over {loop}"
        yield at_least(what, seconds[loop] / seconds[name], goal, floor)
    yield compared(
        "25 MiB by bare sendall with each byte looked at, over bare sendall",
        f"{bare.seconds / looked_at.seconds:.2f}",
    )
    megabytes = {name: 25 / one for name, one in seconds.items()}
    yield Chart("large", "Messages of 25 MiB, one connection", "MiB/s", megabytes)


def late(effort: Effort) -> Iterator[Row | Chart]:
    """1 KiB messages with a round trip of 20 ms."""
    found = compare(LATE, message(1024), effort.of(30, 100), 1, delay=ROUND_TRIP / 2)
    trips = {name: one.seconds / ROUND_TRIP for name, one in found.items()}
    for name, goal in (
        ("send", 2.0),
        ("send_bdat EAGER", 1.0),
        ("send_many AUTO", 1.0),
        ("send_many EAGER", 0.1),
    ):
        limit = f"<= {goal:g}" if goal < 1 else f"{goal:g}, within 10 %"
        what = f"`{name}`: round trips a message, at 20 ms"
        yield Row(what, limit, f"{trips[name]:.2f}", trips[name] <= goal * 1.1, NETWORK)
    yield Chart("round-trips", "Round trips a message, at 20 ms each", "round trips", trips)


def batches(effort: Effort) -> Iterator[Row | Chart]:
    """1 KiB messages over several connections at once."""
    text = message(1024)
    for delay in (0.0, ROUND_TRIP / 2):
        for size in (1, 2, 5):
            ways = together(size)
            eager = {"pool.send_many EAGER": ways.pop("pool.send_many EAGER")}
            rounds = 1 if delay else effort.rounds
            each = effort.of(10, 40) if delay else effort.of(100, 1000)
            found = compare(ways, text, each * size, rounds, delay=delay)
            found |= compare(eager, text, effort.of(1000, 10_000) * size, rounds, delay=delay)
            rates = {name: 1 / one.seconds for name, one in found.items()}
            label = f"{size} connection{'s' * (size > 1)}, round trip {2000 * delay:.0f} ms"
            yield compared(
                f"messages/s, {label}", ", ".join(f"{k} {v:,.0f}" for k, v in rates.items())
            )
            if delay and size == 5:
                library = rates["smtplib in threads"]
                for name, goal, floor in (("AUTO", 3.7, NETWORK), ("EAGER", 250, PYTHON)):
                    ratio = rates[f"pool.send_many {name}"] / library
                    what = f"`pool.send_many {name}`, {label}: messages/s over smtplib in threads"
                    yield at_least(what, ratio, goal, floor)
                title = "Messages of 1 KiB a second, 5 connections, round trip 20 ms"
                yield Chart("batches", title, "/s", rates)


def smtplib(effort: Effort) -> Iterator[Row | Chart]:
    """A loop with a connection for each message, over a real Postfix, at a round trip of 20 ms."""
    # Not above: it needs the servers of the tests.
    from benchmarks import dropin

    if dropin.missing() is not None:
        return
    found = dropin.compare(effort.of(10, 50), ROUND_TRIP / 2)
    ours, library = found["smtpconn.smtplib, pooled"], found["smtplib"]
    what = "`smtpconn.smtplib` pooled, messages/s over smtplib's: connect, STARTTLS, login, send"
    yield at_least(what, library / ours, 5, NETWORK)
    listed = ", ".join(f"{name} {1 / seconds:.1f}/s" for name, seconds in found.items())
    yield compared("messages/s of that loop", listed)


def turns(effort: Effort) -> Iterator[Row | Chart]:
    """The same without a clock: a sink that answers when the client has paused counts its turns."""
    text = message(1024)
    auto = {name: way for name, way in LATE.items() if name != "pool.send_many EAGER"}
    found = count_turns(auto, text, effort.of(25, 100))
    eager = {"pool.send_many EAGER": LATE["pool.send_many EAGER"]}
    found |= count_turns(eager, text, effort.of(1000, 3000))
    goals = {"pool.send_many AUTO": 1.05, "pool.send_many EAGER": 0.013}
    for name, counted in found.items():
        what = f"`{name}`: turns counted a message"
        if name in goals:
            yield at_most(what, counted, goals[name], "the protocol")
        else:
            yield compared(what, f"{counted:.2f}")


def memory(effort: Effort) -> Iterator[Row | Chart]:
    """A streamed file."""
    octets = effort.of(2**26, 2**30)
    mebibytes = streaming_memory(octets)
    what = f"memory for a streamed file of {octets // 2**20} MiB, over an idle connection"
    yield Row(what, "<= 16 MiB", f"{mebibytes:.1f} MiB", mebibytes <= 16, "two chunks")


def imports(effort: Effort) -> Iterator[Row | Chart]:
    """Importing."""
    found = import_seconds(effort.of(5, 25))
    for what, program, goal in (
        ("`import smtpconn`", "smtpconn", 1.5),
        ("`from smtpconn import ConnectionPool`", "ConnectionPool", 2.5),
    ):
        ratio = found[program] / found["smtplib + ssl"]
        yield at_most(f"{what} over `import smtplib, ssl`", ratio, goal, "the standard library")


def account(effort: Effort) -> Iterator[Row | Chart]:
    """A batch that is killed, stopped and resumed."""
    count = effort.of(500, 5000)
    for pipelining in (Pipelining.AUTO, Pipelining.EAGER):
        found = batch_account.run(count, pipelining)
        wrong = {what: number for what, number in found.imbalances().items() if number}
        what = (
            f"{count:,} messages by `pool.send_many` {pipelining.name}, all connections killed "
            "every 100, stopped, resumed: account"
        )
        listed = f"{len(found.acknowledged)} acknowledged, {len(found.unknown)} unknown"
        yield Row(what, "balanced", f"{listed}, {wrong or 'balanced'}", not wrong)


PARTS: dict[str, Part] = {
    "small": small,
    "bare": over_bare,
    "source": source,
    "python": python,
    "large": large,
    "late": late,
    "batches": batches,
    "smtplib": smtplib,
    "turns": turns,
    "memory": memory,
    "imports": imports,
    "account": account,
}
