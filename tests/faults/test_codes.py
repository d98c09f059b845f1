"""Every reply of every exchange, replaced by everything a server could say instead.

What has to come of it is in `tests.support.reply_cases`; here each case is played by the public API
against the test server, over a pair of sockets. Besides the outcome, what the server has stored has
to agree with it, and a connection that is said to be usable has to deliver the next message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field

import pytest

from smtpconn import ConnectionClosedError, SmtpConnection, SmtpError, SmtpResponse
from smtpconn.model import content
from tests.faults.conftest import Count
from tests.support.case_runner import run_all
from tests.support.cutting_server import Witness, serve, socket_pair
from tests.support.error_classes import kind_of
from tests.support.reply_case_server import LONG, connect_to, faults, settings
from tests.support.reply_cases import (
    EXCHANGES,
    SHUTDOWNS,
    Exchange,
    Kind,
    Outcome,
    ReplyCase,
    cases,
    outcome,
)
from tests.support.sessions import LONG_TIMEOUT, ME, TWO, Contexts, DeliveryStatus, statuses_of

Call = Callable[[SmtpConnection], object]

MESSAGE, NEXT = b"hello\r\n", b"next\r\n"


def _send_lmtp_or_not(connection: SmtpConnection) -> object:
    if connection.protocol == "LMTP":
        return connection.send_lmtp(ME, TWO, NEXT)
    return connection.send(ME, TWO, NEXT)


def _send_again(connection: SmtpConnection) -> object:
    with pytest.raises(SmtpError, match="not this time"):
        connection.send(ME, TWO, b"refused\r\n")
    return connection.send(ME, TWO, MESSAGE)


def _send_lmtp_again(connection: SmtpConnection) -> object:
    refused = connection.send_lmtp(ME, TWO, b"refused\r\n").results
    assert not any(result.delivered for result in refused)
    return connection.send_lmtp(ME, TWO, MESSAGE)


@dataclass(frozen=True, slots=True)
class Tried:
    """What `SmtpConnection.try_envelope` returns, by the name results have."""

    rejected_recipients: tuple[SmtpResponse, ...]


def _try_envelope(connection: SmtpConnection) -> object:
    return Tried(tuple(r for r in connection.try_envelope(ME, TWO) if not r.is_success))


CALLS: dict[str, Call] = {
    "auth plain": lambda c: c.auth_plain("u", "p"),
    "auth plain, long": lambda c: c.auth_plain("long", LONG),
    "auth login": lambda c: c.auth_login("u", "p"),
    "auth cram-md5": lambda c: c.auth_cram_md5("u", "p"),
    "auth scram": lambda c: c.auth_scram("u", "p"),
    "auth oauthbearer": lambda c: c.auth_oauthbearer("p"),
    "auth external": lambda c: c.auth_external(),
    "auth xoauth2": lambda c: c.auth_xoauth2("u", "p"),
    "send": lambda c: c.send(ME, TWO, MESSAGE),
    "send again": _send_again,
    "send bdat": lambda c: c.send_bdat(ME, TWO, iter([MESSAGE])),
    "send lmtp": lambda c: c.send_lmtp(ME, TWO, MESSAGE),
    "send lmtp again": _send_lmtp_again,
    "send lmtp bdat": lambda c: c.send_lmtp_bdat(ME, TWO, MESSAGE),
    "try envelope": _try_envelope,
    "rehlo": SmtpConnection.rehlo,
    "reset": SmtpConnection.reset,
    "noop": SmtpConnection.noop,
    "vrfy": lambda c: c.vrfy("someone"),
    "expn": lambda c: c.expn("list"),
    "help": lambda c: c.help(),
    "quit": SmtpConnection.quit,
}
"""What is called for each exchange that is not connecting."""


@pytest.fixture(autouse=True)
def two_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of the message's length goes out in two BDATs."""
    monkeypatch.setattr(content, "CHUNK", 4)


# --- Playing a case -------------------------------------------------------------------------------


@dataclass(slots=True)
class Record:
    """What came of a case.

    Attributes:
        error: what the operation ended with.
        statuses: what it says of each final reply.
        rejected: recipients refused.
        is_usable: whether the connection is open afterwards.
        after: what the next message came to; None if there was no connection for it.
        is_shutting_down: whether a 421 was seen.
        witness: the server's side.
    """

    error: SmtpError | None = None
    statuses: tuple[DeliveryStatus, ...] = ()
    rejected: int = 0
    is_usable: bool = False
    is_shutting_down: bool = False
    after: list[DeliveryStatus] | None = None
    witness: Witness = field(default_factory=Witness)


def play(case: ReplyCase, servers: Executor, contexts: Contexts) -> Record:
    """Play a case, and send one more message if that is possible."""
    near, far = socket_pair(tcp=False)
    server = servers.submit(serve, far, settings(case, contexts), None, faults(case))
    record = Record()
    connection: SmtpConnection | None = None
    try:
        connection = connect_to(case, near, contexts)
        _operate(case, connection, record)
    except SmtpError as error:
        record.error = error
        record.statuses = tuple(statuses_of(error, case.exchange.answers))
    if connection is not None:
        record.is_usable = connection.is_open
        record.is_shutting_down = connection.is_shutting_down
        _use_again(connection, record)
        connection.close()
    record.witness = server.result(LONG_TIMEOUT)
    return record


def _operate(case: ReplyCase, connection: SmtpConnection, record: Record) -> None:
    call = CALLS.get(case.exchange.name)
    if call is not None:
        result = call(connection)
        record.statuses = tuple(statuses_of(result, case.exchange.answers))
        record.rejected = len(getattr(result, "rejected_recipients", ()))


def _use_again(connection: SmtpConnection, record: Record) -> None:
    if not connection.is_open:
        with pytest.raises(ConnectionClosedError):
            connection.noop()
        return
    try:
        record.after = statuses_of(_send_lmtp_or_not(connection), 1)
    except SmtpError as error:
        record.after = statuses_of(error, 1)


def problems(case: ReplyCase, servers: Executor, contexts: Contexts) -> list[str]:
    """The differences from the expected outcome."""
    due, record = outcome(case), play(case, servers, contexts)
    return [*_wrong_outcome(due, record, case), *_wrong_truth(due, record, case)]


def _wrong_outcome(due: Outcome, record: Record, case: ReplyCase) -> Iterator[str]:
    error = record.error
    if kind_of(error) is not due.error:
        yield f"{error!r} instead of {due.error}"
    elif error is not None:
        if error.phase is not due.phase:
            yield f"phase {error.phase} instead of {due.phase}"
        is_transient = due.is_transient or case.kind in {Kind.TRANSIENT, *SHUTDOWNS}
        if error.is_transient is not is_transient:
            yield f"is_transient is {error.is_transient}"
    if record.statuses != due.statuses:
        yield f"says {record.statuses}, has to say {due.statuses}"
    if record.rejected != due.rejected:
        yield f"{record.rejected} recipients were rejected"
    is_connected = error is None or not _is_connecting(case.exchange)
    if record.is_usable is not (due.is_usable and is_connected):
        yield f"usable: {record.is_usable}"
    if record.is_shutting_down and case.kind not in SHUTDOWNS:
        yield "says that the server is shutting down"


def _wrong_truth(due: Outcome, record: Record, case: ReplyCase) -> Iterator[str]:
    stored = [s.message.content for s in record.witness.stored]
    delivered, unknown = (
        due.statuses.count(f) for f in (DeliveryStatus.DELIVERED, DeliveryStatus.UNKNOWN)
    )
    if not delivered <= stored.count(MESSAGE) <= delivered + unknown:
        yield f"stored {stored.count(MESSAGE)} times"
    if strange := set(stored) - {MESSAGE, NEXT}:
        yield f"stored {strange}, which was not sent"
    if record.is_usable:
        answers = 2 if case.exchange.protocol == "LMTP" else 1
        if record.after != [DeliveryStatus.DELIVERED] * answers or stored.count(NEXT) != answers:
            yield f"the next message: {record.after}, stored {stored.count(NEXT)} times"


def _is_connecting(exchange: Exchange) -> bool:
    return exchange.name not in CALLS


@pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda c: c.name)
def test_every_reply_is_replaced_by_everything(
    exchange: Exchange,
    pipelining: bool,
    servers: Executor,
    contexts: Contexts,
    count: Count,
) -> None:
    """Each case has the outcome the rules give it, and the server's storage agrees."""
    every = list(cases(exchange, pipelining=pipelining))
    run_all(every, lambda case: problems(case, servers, contexts), concurrently=False)
    count("reply cases", len(every))
