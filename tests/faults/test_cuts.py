"""Whole sessions against a server that stops at byte n, for every n.

What is cut, and what has to come of it, is told in `tests.support.cutting_server` and
`tests.support.sessions`, what is played in `tests.support.session_list`; here is only what is run:
all bytes of the protocol, on both sides, in every way of stopping, in clear and inside TLS; and of
the bytes of TLS itself every seventh for what ends a connection, and fewer for what only the
deadline tells of (`STRIDES`). With SMTPCONN_EVERY_BYTE=1 it is all of those, too, which takes
minutes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from smtpconn.model import content
from smtpconn.protocol import pipelined
from tests.faults.conftest import Count, WasLate
from tests.support.case_runner import RUNNER_THREADS, run_all
from tests.support.cutting_server import Cut, How, Layer, Side
from tests.support.session_list import LARGE_SESSIONS, SESSIONS, TLS_SESSIONS
from tests.support.sessions import (
    SILENT,
    SLACK,
    Contexts,
    DeliveryStatus,
    Record,
    SessionCase,
    overshoot,
    play,
    shortfalls,
)

EVERY_BYTE = os.environ.get("SMTPCONN_EVERY_BYTE") == "1"

STRIDES = {How.CLOSE: 7, How.RESET: 7, How.STALL: 19, How.SILENCE: 19}
"""Every how many bytes of TLS itself it is cut; primes, so that each record is cut elsewhere."""

each_side = pytest.mark.parametrize("side", list(Side))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams go out in several BDATs although they are short, and three messages fill a window."""
    monkeypatch.setattr(content, "CHUNK", 3)
    monkeypatch.setattr(pipelined, "MAX_IN_FLIGHT", 2)


@dataclass(frozen=True, slots=True)
class CutRunner:
    """The servers, the TLS contexts, and the record of late operations."""

    servers: Executor
    contexts: Contexts
    was_late: WasLate


@pytest.fixture
def runner(contexts: Contexts, was_late: WasLate) -> Iterator[CutRunner]:
    """With threads for the servers of many cases."""
    with ThreadPoolExecutor(RUNNER_THREADS) as servers:
        yield CutRunner(servers, contexts, was_late)


def reference(case: SessionCase, runner: CutRunner) -> Record:
    """The session uncut, in which everything is delivered."""
    record = play(case, None, runner.servers, runner.contexts)
    assert record.error is None
    assert record.statuses == [DeliveryStatus.DELIVERED] * len(record.witness.stored)
    assert record.taken == record.witness.read
    return record


def run(case: SessionCase, cuts: Sequence[Cut], runner: CutRunner) -> None:
    """Run a session once for each cut."""
    uncut = reference(case, runner)
    run_all(
        cuts,
        lambda cut: problems(case, cut, uncut, runner),
        concurrently=cuts[0].how in SILENT,
    )


def problems(case: SessionCase, cut: Cut, uncut: Record, runner: CutRunner) -> list[str]:
    """The differences from the expected result of a session with this cut."""
    record = play(case, cut, runner.servers, runner.contexts)
    found = list(shortfalls(uncut, record, cut))
    late = overshoot(record, cut)
    runner.was_late(late)
    if late > SLACK:
        found.append(f"{late:.2f} s late")
    return found


def everywhere(uncut: Record, side: Side, how: How) -> list[Cut]:
    """A cut after each byte of the protocol."""
    last = uncut.witness.written if side is Side.REPLIES else uncut.witness.read
    return [Cut(how, side, position) for position in range(last + 1)]


@each_side
@pytest.mark.parametrize("how", [How.CLOSE, How.RESET, How.STALL, How.SILENCE])
@pytest.mark.parametrize("case", SESSIONS, ids=lambda v: v.name)
def test_a_cut_at_every_byte(
    case: SessionCase, how: How, side: Side, runner: CutRunner, count: Count
) -> None:
    """Each message is said to be what it is, in time, and the connection is closed."""
    cuts = everywhere(reference(case, runner), side, how)
    run(case, cuts, runner)
    count("cut points in clear", len(cuts))


@each_side
@pytest.mark.parametrize("how", [How.CLOSE, How.FAREWELL, How.RESET, How.SILENCE])
@pytest.mark.parametrize("case", TLS_SESSIONS, ids=lambda v: v.name)
def test_a_cut_at_every_byte_inside_tls(
    case: SessionCase, how: How, side: Side, runner: CutRunner, count: Count
) -> None:
    """The same with TLS, cut between what TLS transports."""
    cuts = everywhere(reference(case, runner), side, how)
    run(case, cuts, runner)
    count("cut points inside TLS", len(cuts))


@pytest.mark.timeout(600 if EVERY_BYTE else 20)
@each_side
@pytest.mark.parametrize("how", list(STRIDES))
@pytest.mark.parametrize("case", [TLS_SESSIONS[0], TLS_SESSIONS[2]], ids=lambda v: v.name)
def test_a_cut_of_tls_itself(
    case: SessionCase, how: How, side: Side, runner: CutRunner, count: Count
) -> None:
    """The same, cut in the handshake and in the midst of records."""
    witness = reference(case, runner).witness
    last = witness.socket_written if side is Side.REPLIES else witness.socket_read
    positions = range(0, last + 1, 1 if EVERY_BYTE else STRIDES[how])
    cuts = [Cut(how, side, position, Layer.SOCKET) for position in positions]
    run(case, cuts, runner)
    count("cut points of TLS itself", len(cuts))


@pytest.mark.parametrize("how", [How.CLOSE, How.RESET, How.STALL, How.SILENCE])
@pytest.mark.parametrize("case", LARGE_SESSIONS, ids=lambda v: v.name)
def test_a_cut_while_the_client_is_writing(
    case: SessionCase, how: How, runner: CutRunner, count: Count
) -> None:
    """The same with a content that does not fit into the sockets' buffers."""
    stored = reference(case, runner).witness.stored[0]
    begin, end = stored.content_end - len(stored.message.content), stored.content_end
    positions = (*range(begin, end, 4999), *range(end - 8, end + 1))
    run(case, [Cut(how, Side.COMMANDS, position) for position in positions], runner)
    count("cut points while writing", len(positions))
