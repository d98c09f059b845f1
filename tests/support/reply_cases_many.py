"""The expected outcomes of several messages in one call when one reply is replaced.

A case is a reply in the transaction of one message. `tests.support.reply_cases` has the outcome of
that message alone; this module has those of the messages before and after it.

1. Messages before it are delivered: their replies have arrived.
2. The message itself has the outcome that it has alone.
3. If the connection is still usable, later messages are delivered; else they were certainly not
   sent: a ConnectionClosedError.
4. An extra reply shifts all replies after it in its round trip. If the content of one message is
   sent with the envelope of the next, an extra reply after that to the content is found at the next
   DATA; if each command waits, it is found before the next command is sent.
5. An extra reply before the first command makes the call fail, and nothing is sent.

With `Pipelining.EAGER` everything is sent before the first reply, and other rules apply:

6. 4xx and 5xx refuse one message, and later ones are delivered. But after a refused RSET the sender
   and recipients of the next content are uncertain: if the server accepts it, both sides are out of
   sync.
7. 421, replies out of sync and invalid replies end the connection: all later messages are unknown,
   because their content was sent. So is the message itself, unless 421 refused its sender, or was
   its final reply and not a notice of the server's end (X.3.2).
8. An extra reply is found at the end of the round trip. It may belong to any command, so all
   messages without an outcome are unknown.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from smtpconn import (
    ConnectionClosedError,
    ParseError,
    PermanentError,
    Phase,
    Pipelining,
    ProtocolError,
    SmtpError,
    TransientError,
)
from tests.support.reply_cases import (
    EHLO,
    LHLO,
    NO_REPLY,
    RSET,
    SHUTDOWNS,
    Exchange,
    Kind,
    Outcome,
    Place,
    ReplyCase,
    content,
    data,
    mail,
    outcome,
)
from tests.support.sessions import DeliveryStatus, phase_of


class Way(enum.StrEnum):
    """How the messages are sent; each way has its own round trips."""

    AUTO = "pipelined"
    ONE_BY_ONE = "one by one"
    LMTP = "lmtp, pipelined"
    LMTP_ONE_BY_ONE = "lmtp, one by one"
    EAGER = "eager"
    EAGER_BDAT = "eager, one send_bdat"

    @property
    def messages(self) -> int:
        """The number of messages."""
        return 1 if self is Way.EAGER_BDAT else 3

    @property
    def is_lmtp(self) -> bool:
        """Whether they are sent over LMTP."""
        return self in (Way.LMTP, Way.LMTP_ONE_BY_ONE)

    @property
    def is_eager(self) -> bool:
        """Whether everything is sent before the first reply."""
        return self in (Way.EAGER, Way.EAGER_BDAT)

    @property
    def is_pipelined(self) -> bool:
        """Whether commands are sent in groups."""
        return self not in (Way.ONE_BY_ONE, Way.LMTP_ONE_BY_ONE)


REFUSALS = frozenset({Kind.TRANSIENT, Kind.PERMANENT, Kind.UNKNOWN_COMMAND})


@dataclass(frozen=True, slots=True)
class BatchReplyCase:
    """A place in the transaction of one of several messages, and the replacement of its reply.

    Attributes:
        way: how the messages are sent.
        number: the number of the message, from 0.
        alone: the case of this message without the others.
    """

    way: Way
    number: int
    alone: ReplyCase

    def __str__(self) -> str:
        return f"{self.way}, message {self.number}: {self.alone}"


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The expected outcomes of a case: of each message, and of the connection."""

    messages: tuple[Outcome, ...]
    is_usable: bool


def cases(way: Way) -> Iterator[BatchReplyCase]:
    """Every reply to every message, with every possible replacement."""
    for number in range(way.messages):
        exchange = _transaction(way, number)
        for turn in exchange.in_turns(pipelining=way.is_pipelined):
            for place in turn:
                for kind in Kind:
                    case = BatchReplyCase(
                        way, number, ReplyCase(exchange, place, kind, way.is_pipelined)
                    )
                    if _can_be(case):
                        yield case


def _transaction(way: Way, number: int) -> Exchange:
    """The transaction of one message."""
    answers = 2 if way.is_lmtp else 1
    contents = tuple(content(number * answers + i) for i in range(answers))
    # Each message but the first has an RSET, so the number is one less than the message's.
    reset = Place("RSET", 250, number - 1, RSET.is_exact)
    first = (reset,) if number and way.is_pipelined else ()
    greeting = LHLO if way.is_lmtp else EHLO
    envelope = (*first, *(mail(number) if way.is_eager else data(number)))
    return Exchange(
        f"many, message {number}",
        ((*envelope, *contents),) if way.is_eager else (envelope, contents),
        content(number * answers - 1) if number else greeting,
        Phase.MAIL,
        "LMTP" if way.is_lmtp else "SMTP",
        answers,
        Pipelining.EAGER if way.is_eager else Pipelining.AUTO,
    )


def _can_be(case: BatchReplyCase) -> bool:
    """Whether the case is possible: there is no challenge, and EARLY needs a pause before."""
    alone = case.alone
    if alone.kind is Kind.ANOTHER_CHALLENGE:
        return False
    if alone.kind is not Kind.EARLY:
        return True
    # A reply in the middle of a round trip has no pause before it.
    begins_turn = alone.place is alone.turn[0]
    follows_content = case.way.is_pipelined and case.number and alone.place.step != "CONTENT"
    return begins_turn and not follows_content


def outcomes(case: BatchReplyCase) -> Outcomes:
    """The expected outcomes of a case, by the rules above."""
    if case.alone.kind is Kind.EARLY and case.alone.previous in (EHLO, LHLO):
        return Outcomes((_not_sent(case, Phase.MAIL),) * case.way.messages, is_usable=False)
    if case.alone.kind is Kind.TWICE and case.way.is_eager:
        doubt = _failed(case, ProtocolError, Phase.IDLE, DeliveryStatus.UNKNOWN)
        return Outcomes((doubt,) * case.way.messages, is_usable=False)
    affected = _affected_eagerly(case) if case.way.is_eager else _affected(case)
    behind = _behind(case, affected)
    before = (_delivered(case),) * case.number
    return Outcomes((*before, affected, *behind), affected.is_usable)


def _affected(case: BatchReplyCase) -> Outcome:
    alone = case.alone
    if alone.kind is Kind.EARLY:
        return _failed(case, ProtocolError, Phase.IDLE)
    if alone.place.step == "RSET" and alone.kind in REFUSALS:
        # All messages before it were delivered, so the RSET is not needed.
        return _delivered(case)
    return outcome(alone)


def _behind(case: BatchReplyCase, affected: Outcome) -> tuple[Outcome, ...]:
    count = case.way.messages - case.number - 1
    if affected.is_usable:
        return (_delivered(case),) * count
    if case.way.is_eager:
        assert affected.error is not None
        is_421 = case.alone.kind in SHUTDOWNS
        in_doubt = (
            case.alone.place.step == "RSET" and affected.error is not ParseError and not is_421
        )
        error = ProtocolError if in_doubt else affected.error
        return (_failed(case, error, None, DeliveryStatus.UNKNOWN),) * count
    moved = case.alone.kind is Kind.TWICE and case.alone.place.step == "CONTENT"
    lost = [_not_sent(case, None)] * count
    if moved and lost:
        lost[0] = _failed(case, ProtocolError, Phase.DATA if case.way.is_pipelined else Phase.IDLE)
    return tuple(lost)


def _affected_eagerly(case: BatchReplyCase) -> Outcome:
    kind, step = case.alone.kind, case.alone.place.step
    phase = phase_of(step)
    if kind is Kind.OTHER_SUCCESS:
        return _delivered(case)
    if kind is Kind.OTHER_INTERMEDIATE:
        return _failed(case, ProtocolError, phase, DeliveryStatus.UNKNOWN)
    if kind in NO_REPLY:
        return _failed(case, ParseError, phase, DeliveryStatus.UNKNOWN)
    error = PermanentError if kind in (Kind.PERMANENT, Kind.UNKNOWN_COMMAND) else TransientError
    if kind in SHUTDOWNS:
        refuses_content = step == "CONTENT" and kind is Kind.SHUTTING_DOWN
        is_certain = step == "MAIL" or refuses_content
        status = DeliveryStatus.NOT_DELIVERED if is_certain else DeliveryStatus.UNKNOWN
        is_notice = step == "CONTENT" and not is_certain
        return _failed(case, ConnectionClosedError if is_notice else error, phase, status)
    if step == "RCPT":
        return _delivered(case, rejected=1)
    if step == "RSET":
        return _failed(case, ConnectionClosedError, phase, DeliveryStatus.UNKNOWN)
    return _failed(case, error, phase, is_usable=True)


def _delivered(case: BatchReplyCase, *, rejected: int = 0) -> Outcome:
    statuses = (DeliveryStatus.DELIVERED,) * case.alone.exchange.answers
    return Outcome(None, None, statuses, True, rejected)


def _not_sent(case: BatchReplyCase, phase: Phase | None) -> Outcome:
    return _failed(case, ConnectionClosedError, phase)


def _failed(
    case: BatchReplyCase,
    error: type[SmtpError],
    phase: Phase | None,
    status: DeliveryStatus = DeliveryStatus.NOT_DELIVERED,
    *,
    is_usable: bool = False,
) -> Outcome:
    """The expected outcome of a failed message; ``phase`` is None if any phase is valid."""
    return Outcome(error, phase, (status,) * case.alone.exchange.answers, is_usable)
