"""Exiting without `close`: a process that does not close its pool ends at once, without output."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from smtpconn.testing import SmtpServer

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import sys, threading, time
from smtpconn import ConnectionPool, Envelope, get_pool

SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\\r\\n\\r\\nHello!"
url, how = sys.argv[1:]
pool = ConnectionPool(url, max_size=4, keepalive=None if how == "no keep-alive" else 0.01)
pool.warm(4)
pool.send(SENDER, RECIPIENTS, MESSAGE)
if how == "shared pool":
    shared = get_pool(url)
    shared.send(SENDER, RECIPIENTS, MESSAGE)
elif how == "lease out":
    lease = pool.connection()
    lease.__enter__()
elif how == "in a cycle":
    cycle = [pool]
    cycle.append(cycle)
    del pool
elif how == "many":
    outcomes = pool.send_many([])
elif how.startswith("outcomes"):
    def letters():
        for number in range(50):
            if number == 10 and how == "outcomes of a source that waits":
                threading.Event().wait()
            yield Envelope(SENDER, RECIPIENTS, MESSAGE)

    outcomes = pool.send_many(letters())
    next(outcomes)
    if how == "outcomes in a traceback":
        try:
            outcomes.no_such_attribute
        except AttributeError as error:
            sys.last_value = error
elif how == "waiting daemon":
    leases = [pool.connection() for _ in range(4)]
    for lease in leases:
        lease.__enter__()
    thread = threading.Thread(target=lambda: pool.connection(60).__enter__(), daemon=True)
    thread.start()
    while not pool.stats().waiting:
        time.sleep(0.001)
print(time.time(), flush=True)
"""

ENDINGS = [
    "idle",
    "no keep-alive",
    "shared pool",
    "lease out",
    "in a cycle",
    "many",
    "waiting daemon",
]


def run(server: SmtpServer, how: str, *options: str) -> tuple[float, str]:
    """Run the script; how many seconds it took to end, and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, *options, "-c", SCRIPT, server.url, how],
        capture_output=True,
        text=True,
        timeout=15,
        cwd=ROOT,
        check=False,
    )
    ended = time.time()
    assert done.returncode == 0, done.stderr
    return ended - float(done.stdout), done.stderr


@pytest.mark.parametrize("how", ENDINGS)
def test_exiting_without_close(how: str) -> None:
    """The interpreter ends within half a second, with success and without a word."""
    with SmtpServer() as server:
        seconds, said = run(server, how)
        print(f"{how}: {seconds * 1000:.0f} ms from the last statement to the end")
        assert said == ""
        assert seconds < 0.5
        assert len(server.messages) == 1 + (how == "shared pool")
        # The system closed what the process left open.
        server.wait_for(lambda: all(c.closed for c in server.connections))


@pytest.mark.parametrize(
    "how", ["outcomes", "outcomes in a traceback", "outcomes of a source that waits"]
)
def test_exiting_with_an_iterator_of_outcomes(how: str) -> None:
    """The process ends although `send_many` is not over; what was begun is sent to its end."""
    with SmtpServer() as server:
        server.fault("CONTENT", delay=0.05)
        seconds, said = run(server, how)
        assert said == ""
        assert seconds < 2
        server.wait_for(lambda: all(c.closed for c in server.connections))
        # Nothing was cut off: each message that a server saw is stored.
        begun = [c for r in server.connections for c in r.commands if c.startswith("MAIL")]
        assert len(server.messages) == len(begun) > 1


@pytest.mark.parametrize("how", ["idle", "lease out"])
def test_warnings_are_only_of_resources(how: str) -> None:
    """With warnings enabled, only sockets that were not closed are reported."""
    with SmtpServer() as server:
        _, said = run(server, how, "-W", "always::ResourceWarning")
    warnings = [line for line in said.splitlines() if "Warning" in line]
    assert all("ResourceWarning" in line for line in warnings)
    for word in ("Traceback", "Error", "Exception ignored", "Fatal"):
        assert word not in said


def test_an_exit_by_an_exception() -> None:
    """A script that dies while it has a connection shows its own traceback and nothing else."""
    script = SCRIPT + "\nwith pool.connection():\n    raise SystemExit(3)\n"
    with SmtpServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", script, server.url, "idle"],
            capture_output=True,
            text=True,
            timeout=15,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 3
    assert done.stderr == ""


LATE_SCRIPT = """
import os, sys
from smtpconn import ConnectionPool, Envelope

url, how = sys.argv[1:]
pool = ConnectionPool(url)

def keep():
    with pool.connection() as connection:
        try:
            yield connection
        except GeneratorExit:
            pass

class Late:
    def __del__(self, pool=pool, letter=Envelope("me@example.com", ["you@example.com"], b"")):
        try:
            list(pool.send_many([letter]))
        except RuntimeError:
            os.write(1, b"refused")

if how == "returns":
    kept = keep()
    next(kept)
else:
    late = Late()
"""


@pytest.mark.parametrize("how", ["returns", "sends many"])
def test_a_destructor_at_the_very_end(how: str) -> None:
    """It may return a connection, or send; no thread that can no longer run is waited for."""
    with SmtpServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", LATE_SCRIPT, server.url, how],
            capture_output=True,
            text=True,
            timeout=15,
            cwd=ROOT,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if how == "returns" else "refused")
