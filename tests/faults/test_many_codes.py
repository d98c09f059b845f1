"""Every reply to several messages in one call, replaced by everything a server could say instead.

What has to come of it is in `tests.support.reply_cases_many`. The same is held against the outcomes as in
`tests.faults.test_codes`: the classes and phases of the errors, what is said of each message, what
the server has stored, and whether the connection delivers another message.
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
from tests.support.reply_cases_many import ManyCell, Outcomes, Way, cells, outcomes
from tests.support.sessions import LONG_TIMEOUT, ME, TWO, Contexts, Fate, fates_of

NEXT = b"next\r\n"


@dataclass(slots=True)
class Record:
    """What came of a cell: an outcome for each message, and what the server has done.

    Attributes:
        after: what the next message came to; None if there was no connection for it.
    """

    outcomes: list[SendOutcome] = field(default_factory=list)
    is_usable: bool = False
    after: list[Fate] | None = None
    witness: Witness = field(default_factory=Witness)


def messages(way: Way) -> list[Envelope]:
    """Messages no two of which are the same."""
    return [Envelope(ME, TWO, b"%d\r\n" % number) for number in range(way.messages)]


def play(cell: ManyCell, servers: Executor, contexts: Contexts) -> Record:
    """Play a cell, and send one more message if that is possible."""
    near, far = socket_pair(tcp=False)
    alone, record = cell.alone, Record()
    server = servers.submit(serve, far, settings(alone, contexts), None, faults(alone))
    connection = connect_to(alone, near, contexts)
    record.outcomes = _send(cell.way, connection)
    record.is_usable = connection.is_open
    if record.is_usable:
        send = connection.send_lmtp if cell.way.is_lmtp else connection.send
        try:
            record.after = fates_of(send(ME, TWO, NEXT), alone.conversation.answers)
        except SmtpError as error:
            record.after = fates_of(error, alone.conversation.answers)
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


def problems(cell: ManyCell, servers: Executor, contexts: Contexts) -> list[str]:
    """What is not as it has to be."""
    due, record = outcomes(cell), play(cell, servers, contexts)
    found = [*_wrong_connection(due, record, cell)]
    if len(record.outcomes) != len(due.messages):
        return [*found, f"{len(record.outcomes)} outcomes"]
    for number, (one, said) in enumerate(zip(due.messages, record.outcomes, strict=True)):
        wrong = [*_wrong_outcome(one, said, cell), *_wrong_truth(one, number, record)]
        found += [f"message {number}: {text}" for text in wrong]
    return found


def _wrong_outcome(due: Outcome, said: SendOutcome, cell: ManyCell) -> Iterator[str]:
    error = said.error
    if kind_of(error) is not due.error:
        yield f"{error!r} instead of {due.error}"
    elif error is not None:
        if due.phase is not None and error.phase is not due.phase:
            yield f"phase {error.phase} instead of {due.phase}"
        if error.is_transient is not due.is_transient:
            yield f"is_transient is {error.is_transient}"
    fates = tuple(fates_of(error or said.result, cell.alone.conversation.answers))
    if fates != due.fates[: len(fates)] or len(fates) < len(due.fates) - due.rejected:
        yield f"says {fates}, has to say {due.fates}"
    if len(getattr(said.result, "rejected_recipients", ())) != due.rejected:
        yield f"not {due.rejected} recipients were rejected"


def _wrong_truth(due: Outcome, number: int, record: Record) -> Iterator[str]:
    times = [s.message.content for s in record.witness.stored].count(b"%d\r\n" % number)
    delivered, unknown = (due.fates.count(fate) for fate in (Fate.DELIVERED, Fate.UNKNOWN))
    if not delivered <= times <= delivered + unknown:
        yield f"stored {times} times"


def _wrong_connection(due: Outcomes, record: Record, cell: ManyCell) -> Iterator[str]:
    if record.is_usable is not due.is_usable:
        yield f"usable: {record.is_usable}"
    stored = [s.message.content for s in record.witness.stored]
    if strange := set(stored) - {m.message for m in messages(cell.way)} - {NEXT}:
        yield f"stored {strange}, which nobody sent"
    if record.is_usable:
        answers = cell.alone.conversation.answers
        if record.after != [Fate.DELIVERED] * answers or stored.count(NEXT) != answers:
            yield f"the next message: {record.after}, stored {stored.count(NEXT)} times"


@pytest.mark.parametrize("way", list(Way))
def test_every_reply_to_many_is_replaced_by_everything(
    way: Way, servers: Executor, contexts: Contexts, count: Count
) -> None:
    """Each message has the outcome the rules give it, and the server's storage agrees."""
    every = list(cells(way))
    run_all(every, lambda cell: problems(cell, servers, contexts), in_a_crowd=False)
    count("reply cells of many messages in one call", len(every))
