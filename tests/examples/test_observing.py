"""The examples of logging, metrics and traces: what arrived, over how many connections."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run(example: str) -> str:
    """Run a program of examples/ as a user would, warnings being errors; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / example)],
        capture_output=True,
        text=True,
        timeout=15,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_hundred_errors_are_two_mails() -> None:
    """Nobody waits for them, and they are grouped."""
    printed = run("logging_handler.py")
    milliseconds = re.search(r"took the application (\d+) ms", printed)
    assert milliseconds is not None
    assert int(milliseconds[1]) < 1000
    assert printed.count("The shop has a problem (50 records): ") == 2
    assert printed.endswith("over 1 connection\n")


def test_metrics_are_what_happened() -> None:
    """Nine messages and a refused one, in the counters and in the histogram."""
    printed = run("metrics.py")
    lines = printed.splitlines()
    assert 'smtpconn_pool_messages_total{pool="mail",result="sent"} 9.0' in lines
    assert 'smtpconn_pool_messages_total{pool="mail",result="failed"} 1.0' in lines
    assert 'smtpconn_pool_connects_total{pool="mail",result="ok"} 1.0' in lines
    assert 'smtpconn_send_duration_seconds_count{pool="mail",result="ok"} 9.0' in lines
    assert "not sent: 550" in lines
    assert lines[-1] == "9 messages over 1 connection"


def test_spans_are_in_the_trace_of_the_request() -> None:
    """The connect in the first message, the messages in the request, the request in nothing."""
    *spans, summary = run("tracing.py").splitlines()
    found = [re.fullmatch(r"(\S+) (\S+) \[(\w+)\] (\w+) in (\w+)", span) for span in spans]
    told = [match.groups() for match in found if match is not None]
    assert [(name, error) for name, _, error, _, _ in told] == [
        ("connect", "ok"),
        ("send", "ok"),
        ("send", "550"),
        ("send", "ok"),
        ("POST", "ok"),
    ]
    connect, first, second, third, request = told
    assert connect[4] == first[3]
    assert first[4] == second[4] == third[4] == request[3]
    assert request[4] == "nothing"
    assert first[1] == connect[1]
    assert summary == "2 messages over 1 connection"
