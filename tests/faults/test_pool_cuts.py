"""A pool whose servers stop at byte n: at most one silent retry, nothing twice, no capacity lost.

The pool has room for one connection, so that a lost lease would block the next message.
The first message goes over an unharmed connection; the cut acts while that is used again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from smtpconn import (
    ConnectionClosedError,
    ConnectionPool,
    Protocol,
    ServerConfig,
    SmtpError,
    SmtpTimeoutError,
    TlsMode,
)
from tests.faults.conftest import Count
from tests.support.case_runner import RUNNER_THREADS, run_all
from tests.support.cutting_server import Cut, How, Side, Stored, Witness, serve, socket_pair
from tests.support.error_classes import kind_of
from tests.support.session_list import FIRST, SECOND, THIRD
from tests.support.sessions import (
    LONG_TIMEOUT,
    ME,
    SHORT_TIMEOUT,
    SILENT,
    SLACK,
    TWO,
    CountedSocket,
    DeliveryStatus,
    SessionCase,
    settings,
    statuses_of,
)

HOWS = [How.CLOSE, How.RESET, How.STALL]

# The operations are the pool's own.
SESSIONS = [
    SessionCase("data", ()),
    SessionCase("data, one by one", (), extensions=()),
    SessionCase("lmtp", (), "LMTP"),
]

each_case = pytest.mark.parametrize("case", SESSIONS, ids=lambda v: v.name)


@dataclass(slots=True)
class Servers:
    """What a pool connects to: servers of which the first ones are cut.

    Attributes:
        cuts: one for each connection; those beyond are not cut.
        sockets: the client's ends, in order.
    """

    case: SessionCase
    executor: Executor
    cuts: list[Cut]
    sockets: list[CountedSocket] = field(default_factory=list)
    running: list[Future[Witness]] = field(default_factory=list)

    def connect(self, host: str, port: int, seconds: float) -> socket.socket:
        """Connect to the next server; the pool's socket factory."""
        number = len(self.sockets)
        cut = self.cuts[number] if number < len(self.cuts) else None
        near, far = socket_pair(tcp=cut is not None and cut.how is How.RESET)
        self.sockets.append(CountedSocket(fileno=near.detach()))
        self.running.append(self.executor.submit(serve, far, settings(self.case, None), cut))
        return self.sockets[-1]


@dataclass(slots=True)
class Record:
    """What came of three messages: what was said of each, and what the servers have done.

    Attributes:
        connections: how many were made when each message was over.
    """

    statuses: list[list[DeliveryStatus]] = field(default_factory=list)
    errors: list[SmtpError | None] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    retries: int = 0
    in_use: int = 0
    taken: int = 0
    witnesses: list[Witness] = field(default_factory=list)

    def stored(self, content: bytes) -> list[Stored]:
        """The times a content was stored, over all connections."""
        everything = [s for w in self.witnesses for s in w.stored]
        return [s for s in everything if s.message.content == content]


@pytest.fixture
def executor() -> Iterator[Executor]:
    """Threads for the servers."""
    with ThreadPoolExecutor(2 * RUNNER_THREADS) as running:
        yield running


def play(case: SessionCase, cuts: list[Cut], executor: Executor) -> Record:
    """Send three messages through a pool."""
    is_silent = any(cut.how in SILENT for cut in cuts)
    servers, record = Servers(case, executor, cuts), Record()
    config = ServerConfig(
        "localhost",
        25,
        TlsMode.NONE,
        timeout=SHORT_TIMEOUT if is_silent else LONG_TIMEOUT,
        protocol=Protocol(case.protocol),
        ehlo_domain="c",
        socket_factory=servers.connect,
    )
    with ConnectionPool(config, max_size=1, keepalive=None) as pool:
        for content in (FIRST, SECOND, THIRD):
            _send(pool, case, content, record)
            record.connections.append(len(servers.sockets))
        stats = pool.stats()
        record.retries, record.in_use = stats.retries, stats.in_use
    record.taken = servers.sockets[0].taken
    record.witnesses = [server.result(LONG_TIMEOUT) for server in servers.running]
    return record


def _send(pool: ConnectionPool, case: SessionCase, content: bytes, record: Record) -> None:
    begun = time.monotonic()
    outcome: object
    try:
        outcome = pool.send(ME, TWO, content)
    except SmtpError as error:
        outcome = error
    record.seconds.append(time.monotonic() - begun)
    record.statuses.append(statuses_of(outcome, 2 if case.protocol == "LMTP" else 1))
    record.errors.append(outcome if isinstance(outcome, SmtpError) else None)


def problems(case: SessionCase, cuts: list[Cut], uncut: Record, executor: Executor) -> list[str]:
    """What is wrong when the pool's connections are cut there."""
    record = play(case, cuts, executor)
    found = list(_shortfalls(record))
    if len(cuts) == 1:
        found += _unexpected(uncut, record, cuts[0])
    limit = (SHORT_TIMEOUT if cuts[-1].how in SILENT else LONG_TIMEOUT) + SLACK
    if max(record.seconds) > limit:
        found.append(f"took {record.seconds}")
    return found


def _shortfalls(record: Record) -> Iterator[str]:
    """What may not be, wherever it was cut."""
    first, second, third = record.statuses
    if {*first, *third} != {DeliveryStatus.DELIVERED}:
        yield f"the messages before and after: {first}, {third}"
    if record.in_use:
        yield f"{record.in_use} leases are missing"
    if record.retries > 1 or record.connections[1] > 2:
        yield f"{record.retries} retries, {record.connections} connections"
    stored = record.stored(SECOND)
    acknowledged = [m for w in record.witnesses for m in w.acknowledged if m.content == SECOND]
    if len(stored) > len(second):
        yield f"stored {len(stored)} times: {second}"
    if second.count(DeliveryStatus.DELIVERED) > len(acknowledged):
        yield f"{len(acknowledged)} acknowledged: {second}"
    if DeliveryStatus.NOT_DELIVERED in second and stored:
        yield f"stored: {second}"


def _unexpected(uncut: Record, record: Record, cut: Cut) -> Iterator[str]:
    """What may not be when only the first connection was cut."""
    written, said = record.witnesses[0].written, uncut.witnesses[0]
    again = [s for s in said.stored if s.message.content == SECOND]
    # The last thing said before the content was that it may come.
    invited = max(r.end for r in said.replies if r.step == "DATA" and r.end < again[0].answer_end)
    due = [
        DeliveryStatus.DELIVERED
        if s.answer_end <= written
        else DeliveryStatus.UNKNOWN
        if s.content_end <= record.taken
        else DeliveryStatus.NOT_DELIVERED
        for s in again
    ]
    is_retried = written < invited and cut.how not in SILENT
    if is_retried:
        due = [DeliveryStatus.DELIVERED] * len(due)
    if record.statuses[1] != due:
        yield f"says {record.statuses[1]}, has to say {due}"
    if record.connections[1] != 1 + is_retried:
        yield f"{record.connections} connections"
    error, kind = record.errors[1], SmtpTimeoutError if cut.how in SILENT else ConnectionClosedError
    if error is not None and kind_of(error) is not kind:
        yield f"{type(error).__name__} instead of {kind.__name__}"


def run(case: SessionCase, cases: Sequence[list[Cut]], uncut: Record, executor: Executor) -> None:
    """Send the messages once for each case, the cuts of the first connections."""
    run_all(
        cases,
        lambda cuts: problems(case, cuts, uncut, executor),
        concurrently=cases[0][-1].how in SILENT,
    )


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("how", HOWS)
@each_case
def test_a_reused_connection_is_cut_at_every_byte(
    case: SessionCase, how: How, side: Side, executor: Executor, count: Count
) -> None:
    """The message goes once more over a new connection if its content was not begun."""
    uncut = play(case, [], executor)
    (witness,) = uncut.witnesses
    assert record_is_clean(uncut)
    first, second = uncut.stored(FIRST)[-1], uncut.stored(SECOND)[-1]
    # The answer to the first is out; that to the second, whole, would leave the cut to the third.
    positions = {
        Side.REPLIES: range(first.answer_end, second.answer_end),
        Side.COMMANDS: range(first.content_end + 1, second.content_end + 1),
    }[side]
    run(case, [[Cut(how, side, position)] for position in positions], uncut, executor)
    assert witness.written >= second.answer_end
    count("cut points of pools", len(positions))


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("how", [How.CLOSE, How.STALL])
@pytest.mark.parametrize("case", [SESSIONS[0], SESSIONS[-1]], ids=lambda v: v.name)
def test_the_new_connection_is_cut_too(
    case: SessionCase, how: How, side: Side, executor: Executor, count: Count
) -> None:
    """There is no second retry, whatever byte the second connection is cut at."""
    uncut = play(case, [], executor)
    first = uncut.stored(FIRST)[-1]
    before = Cut(How.CLOSE, Side.COMMANDS, first.content_end + 1)
    last = first.answer_end if side is Side.REPLIES else first.content_end + 1
    cases = [[before, Cut(how, side, position)] for position in range(last)]
    run(case, cases, uncut, executor)
    count("cut points of pools", len(cases))


def record_is_clean(record: Record) -> bool:
    """Whether everything was delivered over one connection."""
    return not any(record.errors) and record.connections == [1, 1, 1] and not record.retries
