"""The benchmarks run and count right; how fast anything is, is not tested."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import dropin
from benchmarks.anatomy import parts
from benchmarks.answering import WAYS
from benchmarks.bare import Way
from benchmarks.charts import bars
from benchmarks.latency import Delay
from benchmarks.machine import Mode, modes
from benchmarks.python_cost import python_cost
from benchmarks.sink import Received, Sink
from benchmarks.speed import compare, message
from benchmarks.table import Chart, at_least, at_most, write
from benchmarks.turns import count_turns
from benchmarks.ways import BARE, LARGE, LATE, SMALL, together
from smtpconn import Envelope, Pipelining, SmtpConnection, TlsMode
from tests.realservers.dovecot import Dovecot
from tests.realservers.fixtures import require
from tests.realservers.postfix import Postfix

ROOT = Path(__file__).parent.parent
ME, YOU = "me@example.com", ["you@example.com"]
AWKWARD = b"Subject: dots\r\n\r\n.\r\nends with a dot.\r\n.\r\n" + b"x" * 3000 + b".\r\n"


@pytest.fixture(params=["compiled", "in Python"])
def sink(request: pytest.FixtureRequest) -> Sink:
    """A sink of each kind."""
    made = Sink(in_python=request.param == "in Python")
    if request.param == "compiled" and not made.is_compiled:
        made.stop()
        pytest.skip("there is no C compiler here")
    return made


def test_the_sink_counts_what_it_gets(sink: Sink) -> None:
    """Messages and bytes, by DATA and BDAT, one by one and streamed."""
    with SmtpConnection.connect(
        "127.0.0.1", sink.port, TlsMode.NONE, 10, pipelining=Pipelining.EAGER
    ) as connection:
        connection.send(ME, YOU, AWKWARD)
        connection.send_bdat(ME, YOU, AWKWARD)
        connection.send_bdat(ME, YOU, iter([AWKWARD] * 1000))
        outcomes = list(connection.send_many(Envelope(ME, YOU, AWKWARD) for _ in range(50)))
    assert all(outcome.error is None for outcome in outcomes)
    received = sink.stop()
    assert received.messages == 53
    # Dots that were doubled for DATA are counted as they come.
    doubled = received.octets - 1052 * len(AWKWARD)
    assert doubled == 2


def test_the_sink_counts_turns() -> None:
    """One that waits for more before it answers is answered to in two turns for a message."""
    with Sink(20) as sink:
        with SmtpConnection.connect("127.0.0.1", sink.port, TlsMode.NONE, 10) as connection:
            for _ in range(3):
                connection.send(ME, YOU * 3, AWKWARD)
        received = sink.stop()
    # EHLO and QUIT have one each.
    assert received.turns == 2 + 3 * 2


def test_turns_of_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two for `send`, one for EAGER's BDAT, eleven for ten of AUTO's many, one for EAGER's."""
    # On a busy machine a second may pass before the first.
    monkeypatch.setattr("smtpconn.client.driver.IDLE_AFTER", 60.0)
    names = ("send", "send_bdat EAGER", "send_many AUTO", "send_many EAGER")
    assert count_turns({name: LATE[name] for name in names}, message(1000), 10) == {
        "send": 2.0,
        "send_bdat EAGER": 1.0,
        "send_many AUTO": 1.1,
        "send_many EAGER": 0.1,
    }


def test_a_bare_loop_has_the_turns_of_the_way_that_it_is_compared_with() -> None:
    """The bare loop waits as often as the client it is compared with."""
    counted = count_turns(BARE, message(1000), 10)
    assert counted == {
        "send": 2.0,
        "pool.send": 2.0,
        "send_bdat EAGER": 1.0,
        "send_many AUTO": 1.1,
        "send_many EAGER": 0.1,
    }


def test_the_proxy_adds_its_delay() -> None:
    """A round trip through it takes at least twice its delay."""
    with Sink() as sink, Delay(sink.port, 0.02) as delay:
        with SmtpConnection.connect("127.0.0.1", delay.port, TlsMode.NONE, 10) as connection:
            begun = time.monotonic()
            connection.noop()
            assert time.monotonic() - begun >= 0.04
        assert sink.stop() == Received(0, 0, 3)


@pytest.mark.parametrize(
    "ways", [SMALL, LARGE, BARE, together(1), together(3)], ids=lambda ways: ", ".join(ways)
)
def test_every_way_delivers(ways: dict[str, Way]) -> None:
    """Whatever is compared sends all that it is given, or the comparison fails."""
    assert set(compare(ways, message(2000), 3, 1)) == set(ways)


@pytest.mark.parametrize("mode", modes())
def test_the_machine_is_left_as_it_was(mode: Mode) -> None:
    """A measurement that pins or wakes processors frees them again."""
    before = os.sched_getaffinity(0)
    compare({"send": SMALL["send"]}, message(1000), 3, 1, mode=mode)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("against", [str(ROOT), "no such commit"])
def test_the_cost_in_python_beside_other_sources(against: str) -> None:
    """Each way has its cost, and a ratio to other sources if they are to be had."""
    found = python_cost(against, 1, 1)
    assert set(found) == set(WAYS)
    assert all(cost.microseconds > 0 for cost in found.values())
    assert all((cost.ratio is None) is (against != str(ROOT)) for cost in found.values())


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    """The table says of a goal that it was not reached only if there is a figure."""
    assert at_most("a", 2.0, 1.5).verdict == "not reached"
    assert at_least("a", 2.0, 1.5).verdict == ""
    row = at_most("a", None, 1.5)
    assert (row.found, row.verdict) == ("not measured", "")


def test_only_the_figures_of_the_page_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands around the marks stays; the table and the charts are between them."""
    page = tmp_path / "performance.md"
    page.write_text("before <!-- figures --> old <!-- end of figures --> after")
    monkeypatch.setattr("benchmarks.table.DOCS", tmp_path)
    write([at_most("speed", 1.0, 1.5, "the network")], [Chart("x", "Speed", "/s", {"send": 1.0})])
    text = page.read_text()
    assert text.startswith("before <!-- figures -->")
    assert text.endswith("<!-- end of figures --> after")
    assert "| speed | <= 1.5 | 1.00 |  | the network |" in text
    assert "old" not in text
    assert (tmp_path / "performance-x.svg").exists()


def test_charts_are_well_formed() -> None:
    """A chart is XML, with a bar for each value, and names may hold anything."""
    chart = ElementTree.fromstring(bars("a & b", "<unit>", [("one", 1.0), ("send", 20.0)]))
    assert len(chart.findall("{http://www.w3.org/2000/svg}rect")) == 2


def test_the_command_prints_a_table() -> None:
    """`python -m benchmarks` measures a part and prints goals beside what was found."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "memory"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "<= 16 MiB" in done.stdout


def test_the_anatomy_of_a_send_has_all_its_parts() -> None:
    """Each part is a piece of the whole, which sends for real."""
    found = parts(number=3, rounds=1)
    assert found.keys() > {"four replies parsed", "all of it"}
    assert all(microseconds > 0 for microseconds in found.values())


@pytest.mark.realserver
def test_the_loop_of_programs_over_postfix() -> None:
    """Each way sends, and takes some time for it."""
    for server in (Postfix, Dovecot):
        require(server)
    found = dropin.compare(2, 0.001)
    assert len(found) == 3
    assert all(seconds > 0 for seconds in found.values())
