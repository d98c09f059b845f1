"""``smtpconn ping``: how long does it take to get a connection and a reply?

Each ping takes a connection from a pool, as a request handler would, and sends NOOP. The first ping
opens the connection, and its steps are shown; the others show the time that a pool saves.

Servers limit NOOPs: Exim closes the connection at the eleventh command that does not belong to a
message (smtp_accept_max_nonmail). So ping replaces a connection before that; the report has the
number of connections.
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
from smtpconn.cli.exit_codes import CommandResult, ExitCode, Json, error_json, server_json
from smtpconn.cli.output import BAD, HEADING, Output, milliseconds
from smtpconn.cli.target import Target, target_of
from smtpconn.cli.transcript import Steps
from smtpconn.model.errors import SmtpError
from smtpconn.pool.connection_pool import ConnectionPool

COUNT = 5
NOOPS_PER_CONNECTION = 8
BARS = 8
"""The maximum number of lines of the histogram."""

WIDTH = 40
"""Characters of the longest bar."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    options.target_argument(parser)
    options.server(parser)
    group = parser.add_argument_group("ping")
    group.add_argument(
        "-c", "--count", type=options.count, default=COUNT, metavar="N",
        help=f"number of pings (default: {COUNT})",
    )  # fmt: skip
    group.add_argument(
        "-i", "--interval", type=options.seconds, default=0.2, metavar="SECONDS",
        help="between two pings (default: 0.2)",
    )  # fmt: skip
    options.transcript(parser)
    options.common(parser)


@dataclass(slots=True)
class Pings:
    """The measurements, in seconds.

    Attributes:
        checkouts: the time to get a connection, for each ping that was answered.
        noops: the time from NOOP to its reply.
        errors: the errors of the other pings.
        connects: the number of connections.
        first: the steps of opening the first connection.
    """

    checkouts: list[float] = field(default_factory=list)
    noops: list[float] = field(default_factory=list)
    errors: list[SmtpError] = field(default_factory=list)
    connects: int = 0
    first: Steps = field(default_factory=Steps)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Ping a server and report."""
    target = target_of(args, out)
    out.line(f"PING {target}, {target.protocol}", HEADING)
    pings = Pings()
    interrupted: KeyboardInterrupt | None = None
    with transcript.Recorder(out.transcript_writer(args)) as recorder:
        begun = time.monotonic()
        try:
            _ping(target, args.count, args.interval, pings, out)
        except KeyboardInterrupt as error:
            interrupted = error
    pings.first = transcript.steps(recorder.lines, begun)
    _show(pings, out)
    result: dict[str, Json] = {"server": server_json(target), **_as_json(pings)}
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
                    # Without a single reply, further pings would only take time.
                    break
            pings.connects = pool.stats().connects


def _ping_once(pool: ConnectionPool, number: int, pings: Pings, out: Output) -> None:
    begun = time.monotonic()
    with pool.connection() as connection:
        connected = time.monotonic()
        connection.noop()
        answered = time.monotonic()
    pings.checkouts.append(connected - begun)
    pings.noops.append(answered - connected)
    checkout, noop = milliseconds(connected - begun), milliseconds(answered - connected)
    out.line(f"{number}: connection {checkout}, NOOP {noop}")


@dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of durations, in seconds."""

    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarise at least one duration."""
        ordered = sorted(values)
        # The smallest value that 95 % of the values do not exceed.
        p95 = ordered[math.ceil(0.95 * len(ordered)) - 1]
        return cls(ordered[0], statistics.median(ordered), p95, ordered[-1])

    def __str__(self) -> str:
        return (
            f"min {milliseconds(self.least)}, median {milliseconds(self.median)}, "
            f"p95 {milliseconds(self.p95)}, max {milliseconds(self.most)}"
        )

    def as_json(self) -> dict[str, Json]:
        """The summary as JSON."""
        return {"min": self.least, "median": self.median, "p95": self.p95, "max": self.most}


def histogram(values: Sequence[float]) -> list[str]:
    """Draw durations as bars. The ranges grow, so that one slow reply does not hide the others."""
    # Durations of 0 count as a nanosecond, the clock's resolution, so that the ratio is finite.
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
        "errors": [error_json(error) for error in pings.errors],
    }
