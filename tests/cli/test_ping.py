"""``smtpconn ping``: latency through a pool."""

from __future__ import annotations

import itertools
import re

import pytest

from smtpconn.cli.ping import Summary, histogram
from smtpconn.testing import SmtpServer
from tests.realservers.exim import Exim
from tests.support.command_runner import Runner


def test_a_report(smtpconn: Runner, server: SmtpServer) -> None:
    """The report has a line per ping, the steps of the first, figures and a histogram."""
    ran = smtpconn("ping", server.url, "-c", 4, "-i", "0.001")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"PING 127.0.0.1:{server.port}, SMTP"
    assert all(
        re.fullmatch(rf"{n}: connection [\d.]+ ms, NOOP [\d.]+ ms", lines[n]) for n in range(1, 5)
    )
    assert lines[5].startswith("first         connect ")
    assert re.match(r"NOOP          min .* ms, median .* ms, p95 .* ms, max .* ms", lines[7])
    assert lines[-1] == "answered      4 of 4, over 1 connections"
    assert server.connections[0].commands.count("NOOP") == 4


def test_a_connection_is_replaced_before_the_limit(smtpconn: Runner, server: SmtpServer) -> None:
    """A connection is replaced after eight NOOPs."""
    ran = smtpconn("ping", server.url, "-c", 20, "-i", "0.001")
    assert ran.code == 0
    assert "20 of 20, over 3 connections" in ran.out
    assert [c.commands.count("NOOP") for c in server.connections] == [8, 8, 4]


def test_exim(smtpconn: Runner, exim: Exim) -> None:
    """Exim, which limits commands that do not belong to a message, answers every ping."""
    found = smtpconn("ping", f"smtp://localhost:{exim.port}", "-c", 18, "-i", "0.001", "--json")
    assert found.code == 0
    assert found.object["answered"] == 18


def test_as_json(smtpconn: Runner, server: SmtpServer) -> None:
    """The same figures in seconds; the same keys where there was no server."""
    found = smtpconn("ping", server.url, "-c", 3, "-i", "0.001", "--json").object
    nothing = smtpconn("ping", "localhost:1", "--json").object
    assert set(found) == set(nothing)
    assert len(found["noops"]) == found["answered"] == 3
    assert found["noop"]["min"] == min(found["noops"])
    assert found["noop"]["max"] == max(found["noops"])
    assert found["first"]["connect"] > 0
    assert found["first"]["tls"] is None
    assert found["connections"] == 1
    assert nothing["noop"] is None
    assert (nothing["answered"], nothing["failed"]) == (0, 1)
    assert nothing["errors"][0]["phase"] == "connect"


def test_no_server(smtpconn: Runner) -> None:
    """Without a server there is one error and no further ping."""
    ran = smtpconn("ping", "localhost:1", "-c", 100)
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "answered      0 of 1" in ran.out


def test_an_answer_that_does_not_come(smtpconn: Runner, server: SmtpServer) -> None:
    """A failed ping is counted, and the others follow."""
    server.fault("NOOP", close=True, skip=1)
    ran = smtpconn("ping", server.url, "-c", 3, "-i", "0.001")
    assert ran.code == 6
    assert "answered      2 of 3, over 2 connections" in ran.out


def test_ctrl_c(smtpconn: Runner, server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the pings, and the report has the figures so far."""
    sleeps = itertools.count(1)

    def sleep(seconds: float) -> None:
        if next(sleeps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("smtpconn.cli.ping.time.sleep", sleep)
    ran = smtpconn("ping", server.url, "-c", 100)
    assert ran.code == 130
    assert "answered      3 of 3" in ran.out
    assert ran.err == "smtpconn: interrupted\n"


def test_figures() -> None:
    """Of a hundred values the 95th is the p95; of one it is the one."""
    values = [n / 100 for n in range(100, 0, -1)]
    assert Summary.of(values) == Summary(0.01, 0.505, 0.95, 1.0)
    assert Summary.of([2.0]) == Summary(2.0, 2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([0.001], [1]),
        ([0.001, 0.001, 0.001], [3]),
        ([0.0], [1]),
        ([0.001, 0.002], [1, 1]),
        ([0.001] * 98 + [0.0011, 1.0], [99, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_a_histogram(values: list[float], counts: list[int]) -> None:
    """Every value is counted once, also beside a very slow one."""
    lines = histogram(values)
    assert [int(line.split(" ms ")[2].split()[0]) for line in lines] == counts
    longest = max(line.count("#") for line in lines)
    assert longest == 40
    assert all(("#" in line) == (count > 0) for line, count in zip(lines, counts, strict=True))
