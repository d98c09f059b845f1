"""``smtpconn ping``: how long does it take to get a connection and an answer?

Each ping borrows a connection from a pool, as a request handler would, and says NOOP. The first one
makes the connection, so its steps are told apart; the others show what a pool saves.

Servers count NOOPs: Exim hangs up at the eleventh command that is no mail. So a connection is
replaced before that, and how many were made is part of the report.
"""

from __future__ import annotations

import argparse
import bisect
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from smtpconn.cli import options, transcript
from smtpconn.cli.asjson import Json, of_error, of_server
from smtpconn.cli.exit_codes import CommandResult, ExitCode
from smtpconn.cli.output import BAD, HEAD, Output
from smtpconn.cli.report import milliseconds
from smtpconn.cli.target import Target, target_of
from smtpconn.cli.transcript import Steps
from smtpconn.model.errors import SmtpError
from smtpconn.pool.connection_pool import ConnectionPool

COUNT = 5
NOOPS_PER_CONNECTION = 8
BARS = 8
"""Lines of the histogram at most."""

WIDTH = 40
"""Characters of its longest bar."""


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    options.target_argument(parser)
    options.server(parser)
    group = parser.add_argument_group("ping")
    group.add_argument(
        "-c", "--count", type=options.count, default=COUNT, metavar="N",
        help=f"how often (default: {COUNT})",
    )  # fmt: skip
    group.add_argument(
        "-i", "--interval", type=options.seconds, default=0.2, metavar="SECONDS",
        help="between two of them (default: 0.2)",
    )  # fmt: skip
    options.transcript(parser)
    options.common(parser)


@dataclass(slots=True)
class Pings:
    """What was measured, in seconds.

    Attributes:
        checkouts: until there was a connection, for each ping that was answered.
        noops: until the NOOP was answered.
        errors: what the others ended with.
        connects: connections made.
        first: the steps of making the first one.
    """

    checkouts: list[float] = field(default_factory=list)
    noops: list[float] = field(default_factory=list)
    errors: list[SmtpError] = field(default_factory=list)
    connects: int = 0
    first: Steps = field(default_factory=Steps)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Ping a server and report."""
    target = target_of(args, out)
    out.line(f"PING {target}, {target.protocol}", HEAD)
    pings = Pings()
    interrupted: KeyboardInterrupt | None = None
    with transcript.Recorder(out.teller(args)) as recorder:
        begun = time.monotonic()
        try:
            _ping(target, args.count, args.interval, pings, out)
        except KeyboardInterrupt as error:
            interrupted = error
    pings.first = transcript.steps(recorder.lines, begun)
    _show(pings, out)
    result: dict[str, Json] = {"server": of_server(target), **_as_json(pings)}
    if interrupted is not None:
        return CommandResult(ExitCode.INTERRUPTED, interrupted, result)
    return CommandResult.of(pings.errors[-1] if pings.errors else None, result)


def _ping(target: Target, count: int, interval: float, pings: Pings, out: Output) -> None:
    with ConnectionPool(target, max_size=1, acquire_timeout=target.timeout, keepalive=None) as pool:
        for number in range(1, count + 1):
            if number > 1:
                time.sleep(interval)
                if (number - 1) % NOOPS_PER_CONNECTION == 0:
                    pool.drain()
            try:
                _ping_once(pool, number, pings, out)
            except SmtpError as error:
                pings.errors.append(error)
                out.transcript_error(str(error))
                out.line(f"{number}: {error}", BAD)
                if not pings.noops:
                    # Nothing was ever answered: more of the same would only take long.
                    break
            pings.connects = pool.stats().connects


def _ping_once(pool: ConnectionPool, number: int, pings: Pings, out: Output) -> None:
    begun = time.monotonic()
    with pool.connection() as connection:
        had = time.monotonic()
        connection.noop()
        answered = time.monotonic()
    pings.checkouts.append(had - begun)
    pings.noops.append(answered - had)
    out.line(
        f"{number}: connection {milliseconds(had - begun)}, NOOP {milliseconds(answered - had)}"
    )


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of some durations in seconds."""

    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Sum up; there has to be one."""
        ordered = sorted(values)
        # The smallest value that 95 of 100 do not exceed.
        p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
        return cls(ordered[0], statistics.median(ordered), p95, ordered[-1])

    def __str__(self) -> str:
        return (
            f"min {milliseconds(self.least)}, median {milliseconds(self.median)}, "
            f"p95 {milliseconds(self.p95)}, max {milliseconds(self.most)}"
        )

    def as_json(self) -> dict[str, Json]:
        """The same as JSON."""
        return {"min": self.least, "median": self.median, "p95": self.p95, "max": self.most}


def histogram(values: Sequence[float]) -> list[str]:
    """Durations as bars, one line each; the steps grow, so that one slow answer hides nothing."""
    # No clock is finer than this.
    least, most = max(min(values), 1e-9), max(*values, 1e-9)
    bars = min(BARS, len(values)) if most > least else 1
    step = (most / least) ** (1 / bars)
    bounds = [least * step**n for n in range(bars)] + [most]
    counts = [0] * bars
    for value in values:
        counts[max(0, min(bars, bisect.bisect_right(bounds, value)) - 1)] += 1
    longest = max(counts)
    return [
        f"{milliseconds(low):>10} - {milliseconds(high):<10} "
        f"{count:>4} {'#' * math.ceil(WIDTH * count / longest)}".rstrip()
        for low, high, count in zip(bounds, bounds[1:], counts, strict=False)
    ]


def _show(pings: Pings, out: Output) -> None:
    first = pings.first
    named = (
        ("connect", first.connect),
        ("banner", first.banner),
        ("EHLO", first.ehlo),
        ("TLS", first.tls),
        ("login", first.login),
    )
    steps = ", ".join(f"{name} {milliseconds(s)}" for name, s in named if s is not None)
    if steps:
        out.row("first", steps)
    if pings.noops:
        out.row("connection", str(Summary.of(pings.checkouts)))
        out.row("NOOP", str(Summary.of(pings.noops)))
        for line in histogram(pings.noops):
            out.line(line)
    out.row(
        "answered", f"{len(pings.noops)} of {len(pings.noops) + len(pings.errors)}, "
        f"over {pings.connects} connections",
    )  # fmt: skip


def _as_json(pings: Pings) -> dict[str, Json]:
    first = pings.first
    return {
        "first": {
            "connect": first.connect,
            "banner": first.banner,
            "ehlo": first.ehlo,
            "tls": first.tls,
            "login": first.login,
        },
        "checkout": Summary.of(pings.checkouts).as_json() if pings.checkouts else None,
        "noop": Summary.of(pings.noops).as_json() if pings.noops else None,
        "noops": pings.noops,
        "answered": len(pings.noops),
        "failed": len(pings.errors),
        "connections": pings.connects,
        "errors": [of_error(error) for error in pings.errors],
    }
