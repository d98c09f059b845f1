"""Every reply to several messages in one call, replaced by everything a server could say instead.

What has to come of it is in `tests.support.reply_cases_many`. The same is held against the outcomes
as in `tests.faults.test_codes`: the classes and phases of the errors, what is said of each message,
what the server has stored, and whether the connection delivers another message.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import cast

import pytest

from smtpconn import Envelope, SendOutcome, SmtpConnection, SmtpError
from tests.faults.conftest import Count
from tests.support.case_runner import run_all
from tests.support.cutting_server import Witness, serve, socket_pair
from tests.support.error_classes import kind_of
from tests.support.reply_case_server import connect_to, faults, settings
from tests.support.reply_cases import Outcome
from tests.support.reply_cases_many import BatchReplyCase, Outcomes, Way, cases, outcomes
from tests.support.sessions import LONG_TIMEOUT, ME, TWO, Contexts, DeliveryStatus, statuses_of

NEXT = b"next\r\n"


@dataclass(slots=True)
class Record:
    """What came of a case: an outcome for each message, and what the server has done.

    Attributes:
        after: what the next message came to; None if there was no connection for it.
    """

    outcomes: list[SendOutcome] = field(default_factory=list)
    is_usable: bool = False
    after: list[DeliveryStatus] | None = None
    witness: Witness = field(default_factory=Witness)


def messages(way: Way) -> list[Envelope]:
    """Messages no two of which are the same."""
    return [Envelope(ME, TWO, b"%d\r\n" % number) for number in range(way.messages)]


def play(case: BatchReplyCase, servers: Executor, contexts: Contexts) -> Record:
    """Play a case, and send one more message if that is possible."""
    near, far = socket_pair(tcp=False)
    alone, record = case.alone, Record()
    server = servers.submit(serve, far, settings(alone, contexts), None, faults(alone))
    connection = connect_to(alone, near, contexts)
    record.outcomes = _send(case.way, connection)
    record.is_usable = connection.is_open
    if record.is_usable:
        send = connection.send_lmtp if case.way.is_lmtp else connection.send
        try:
            record.after = statuses_of(send(ME, TWO, NEXT), alone.exchange.answers)
        except SmtpError as error:
            record.after = statuses_of(error, alone.exchange.answers)
    connection.close()
    record.witness = server.result(LONG_TIMEOUT)
    return record


def _send(way: Way, connection: SmtpConnection) -> list[SendOutcome]:
    envelopes = messages(way)
    try:
        if way is Way.EAGER_BDAT:
            (one,) = envelopes
            result = connection.send_bdat(one.sender, one.recipients, cast(bytes, one.message))
            return [SendOutcome(one, result, None)]
        return list(connection.send_many(envelopes))
    except SmtpError as error:
        # Nothing was sent, so this is true of each.
        return [SendOutcome(envelope, None, error) for envelope in envelopes]


def problems(case: BatchReplyCase, servers: Executor, contexts: Contexts) -> list[str]:
    """The differences from the expected outcomes."""
    due, record = outcomes(case), play(case, servers, contexts)
    found = [*_wrong_connection(due, record, case)]
    if len(record.outcomes) != len(due.messages):
        return [*found, f"{len(record.outcomes)} outcomes"]
    for number, (one, said) in enumerate(zip(due.messages, record.outcomes, strict=True)):
        wrong = [*_wrong_outcome(one, said, case), *_wrong_truth(one, number, record)]
        found += [f"message {number}: {text}" for text in wrong]
    return found


def _wrong_outcome(due: Outcome, said: SendOutcome, case: BatchReplyCase) -> Iterator[str]:
    error = said.error
    if kind_of(error) is not due.error:
        yield f"{error!r} instead of {due.error}"
    elif error is not None:
        if due.phase is not None and error.phase is not due.phase:
            yield f"phase {error.phase} instead of {due.phase}"
        if error.is_transient is not due.is_transient:
            yield f"is_transient is {error.is_transient}"
    statuses = tuple(statuses_of(error or said.result, case.alone.exchange.answers))
    if (
        statuses != due.statuses[: len(statuses)]
        or len(statuses) < len(due.statuses) - due.rejected
    ):
        yield f"says {statuses}, has to say {due.statuses}"
    if len(getattr(said.result, "rejected_recipients", ())) != due.rejected:
        yield f"not {due.rejected} recipients were rejected"


def _wrong_truth(due: Outcome, number: int, record: Record) -> Iterator[str]:
    times = [s.message.content for s in record.witness.stored].count(b"%d\r\n" % number)
    delivered, unknown = (
        due.statuses.count(status) for status in (DeliveryStatus.DELIVERED, DeliveryStatus.UNKNOWN)
    )
    if not delivered <= times <= delivered + unknown:
        yield f"stored {times} times"


def _wrong_connection(due: Outcomes, record: Record, case: BatchReplyCase) -> Iterator[str]:
    if record.is_usable is not due.is_usable:
        yield f"usable: {record.is_usable}"
    stored = [s.message.content for s in record.witness.stored]
    if strange := set(stored) - {m.message for m in messages(case.way)} - {NEXT}:
        yield f"stored {strange}, which was not sent"
    if record.is_usable:
        answers = case.alone.exchange.answers
        if record.after != [DeliveryStatus.DELIVERED] * answers or stored.count(NEXT) != answers:
            yield f"the next message: {record.after}, stored {stored.count(NEXT)} times"


@pytest.mark.parametrize("way", list(Way))
def test_every_reply_to_many_is_replaced_by_everything(
    way: Way, servers: Executor, contexts: Contexts, count: Count
) -> None:
    """Each message has the outcome the rules give it, and the server's storage agrees."""
    every = list(cases(way))
    run_all(every, lambda case: problems(case, servers, contexts), concurrently=False)
    count("reply cases of many messages in one call", len(every))
