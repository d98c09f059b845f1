"""Sending many messages, and what Ctrl-C does to it."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest

from smtpconn import Envelope, SendOutcome, SendResult, SmtpResponse
from smtpconn.cli.mailing import Mailing
from smtpconn.cli.messages import Outgoing, Source
from smtpconn.cli.output import Output
from smtpconn.cli.results import DeliveryStatus
from smtpconn.cli.target import Target
from smtpconn.model.modes import TlsMode
from smtpconn.testing import SmtpServer


def mailing(count: int, stderr: io.StringIO) -> Mailing:
    """So many messages."""

    def opener(name: str) -> Outgoing:
        return Outgoing(name, Envelope("a@b.c", ["d@e.f"], b""), b"")

    def source(name: str) -> Source:
        return Source(name, lambda: opener(name))

    sources = [source(f"m{n}") for n in range(count)]
    return Mailing(sources, Output(stdout=io.StringIO(), stderr=stderr))


class Interrupted(Iterator[SendOutcome]):
    """Sends two messages at a time, and is interrupted where it is told."""

    def __init__(self, envelopes: Iterable[Envelope], *interrupts: int) -> None:
        self._envelopes = iter(envelopes)
        self._interrupts = list(interrupts)
        self._under_way = [next(self._envelopes)]
        self._calls = 0

    def __next__(self) -> SendOutcome:
        self._under_way += [envelope for envelope in [next(self._envelopes, None)] if envelope]
        self._calls += 1
        if self._calls in self._interrupts:
            raise KeyboardInterrupt
        if not self._under_way:
            raise StopIteration
        result = SendResult(SmtpResponse(250, ("ok",)), ())
        return SendOutcome(self._under_way.pop(0), result, None)


TARGET = Target("localhost", 25, TlsMode.NONE)


def test_ctrl_c_waits_for_what_is_under_way() -> None:
    """No further message is begun; what was begun is told as it is, the rest as not begun."""
    stderr = io.StringIO()
    these = mailing(10, stderr)
    results_ = these.send(
        TARGET, lambda _, envelopes: contextlib.nullcontext(Interrupted(envelopes, 3))
    )
    assert these.was_interrupted
    assert "waiting for what is under way" in stderr.getvalue()
    assert [told.fate for told in results_] == [DeliveryStatus.DELIVERED] * 4 + [
        DeliveryStatus.FAILED
    ] * 6
    assert {str(told).partition(": ")[2] for told in results_[4:]} == {"not begun"}
    assert {told.name for told in results_} == {f"m{n}" for n in range(10)}


def test_ctrl_c_twice_gives_up() -> None:
    """What was under way is unknown then."""
    these = mailing(10, io.StringIO())
    results_ = these.send(
        TARGET, lambda _, envelopes: contextlib.nullcontext(Interrupted(envelopes, 3, 4))
    )
    assert these.was_interrupted
    fates = [told.fate for told in results_]
    assert (
        fates
        == [DeliveryStatus.DELIVERED] * 2
        + [DeliveryStatus.UNKNOWN] * 2
        + [DeliveryStatus.FAILED] * 6
    )


@pytest.mark.parametrize("arguments", [[], ["--bdat"]])
def test_ctrl_c_in_the_middle(server: SmtpServer, files: list[str], arguments: list[str]) -> None:
    """A real SIGINT: what the server took is what is told as delivered, and 130 is the code.

    Over a pool the answers of those under way are waited for, so nothing is unknown.
    """
    server.fault("CONTENT", delay=0.5, times=None)
    command = [sys.executable, "-W", "error", "-m", "smtpconn", "send", server.url, "--json"]
    with subprocess.Popen(
        [*command, *arguments, *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # By then every connection is busy.
        busy = 1 if arguments else 4
        verb = "BDAT" if arguments else "DATA"
        server.wait_for(
            lambda: sum(verb in " ".join(c.commands) for c in server.connections) == busy
        )
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    found = json.loads(out)
    assert process.returncode == found["exit"] == 130
    assert err.endswith("smtpconn: interrupted\n")
    assert "Traceback" not in err
    counts = found["counts"]
    assert sum(counts.values()) == len(files)
    assert counts["failed"] > 0
    if arguments:
        assert counts["unknown"] == 1
    else:
        assert counts["unknown"] == 0
        assert counts["delivered"] == len(server.messages) > 0


def test_ctrl_c_twice_in_the_middle(server: SmtpServer, files: list[str]) -> None:
    """Does not wait for a server that never answers; what was under way is unknown."""
    server.fault("CONTENT", hang=True, times=None)
    command = [sys.executable, "-W", "error", "-m", "smtpconn", "send", server.url, "--json"]
    with subprocess.Popen(
        [*command, *files, "--connections", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        server.wait_for(lambda: sum("DATA" in c.commands for c in server.connections) == 2)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "waiting for what is under way" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    found = json.loads(out)
    assert process.returncode == 130
    assert err == "smtpconn: interrupted\n"
    assert found["counts"]["unknown"] == 2
    assert found["counts"]["failed"] == 8
