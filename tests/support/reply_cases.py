"""The replies of each operation, their replacements, and the expected outcomes; without sockets.

An `Exchange` is one operation and its replies, in turns: the replies of a turn answer one write.
With PIPELINING a turn is a group of commands, without it one command; the replies of LMTP to a
content are always one turn.

`outcome` returns the expected outcome of a case, by these rules and their exceptions:

1. 421 refuses the command and ends the connection (RFC 5321 3.8). In the place of the reply to the
   content, 421 with X.3.2 refuses nothing: whether the message was delivered is unknown.
2. 4xx and 5xx refuse only that command; the connection stays usable (RFC 5321 4.2.1). For VRFY,
   EXPN and HELP they are results, and EHLO refused with 5xx leads to HELO. If a recipient is
   refused, the message goes to the others (RFC 5321 3.3).
3. An unusual 2xx is a success (RFC 5321 4.2), except for the greeting, AUTH and STARTTLS, which
   have one valid code (`Place.is_exact`).
4. An unexpected 3xx means that both sides are out of sync: a ProtocolError; the connection is
   closed.
5. An invalid reply is a ParseError; the connection is closed.
6. An unsolicited reply ends the connection: the operation that finds it fails, in particular after
   the reply to STARTTLS (RFC 3207 4.1); a completed operation does not. Inside a group it shifts
   the following replies, and is found at DATA.
7. A message is delivered by a 2xx; it is unknown if its content was sent and the reply is none of
   2xx, 4xx and 5xx; otherwise it is certainly not delivered. In LMTP this holds for each recipient.
8. QUIT never fails.
9. An extra challenge is cancelled, and the reply to that is the refusal (RFC 4954 4).
10. A refused RSET refuses no message: the connection is closed. Replies about recipients before it
    remain valid.

To add a way of sending: one more `Exchange` with its turns, and its call in
`tests.faults.test_codes`. If content is sent before the replies to its recipients, or several
messages are sent in one call, `tests.support.reply_cases_many` has the rules.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from smtpconn import (
    AuthError,
    ConnectionClosedError,
    ParseError,
    PermanentError,
    Phase,
    Pipelining,
    ProtocolError,
    SmtpError,
    StartTlsUnavailableError,
    TransientError,
)
from tests.support.sessions import DeliveryStatus, phase_of


class Kind(enum.StrEnum):
    """The replacement of a reply."""

    SHUTTING_DOWN = "421"
    SHUTDOWN_NOTICE = "421 X.3.2"
    TRANSIENT = "4xx"
    PERMANENT = "5xx"
    UNKNOWN_COMMAND = "502"
    OTHER_SUCCESS = "2xx"
    OTHER_INTERMEDIATE = "3xx"
    OTHER_CODE_INSIDE = "another code inside"
    EMPTY_LINE = "an empty line"
    GARBAGE = "binary garbage"
    ENDLESS_LINE = "an endless line"
    ENDLESS_REPLY = "an endless reply"
    ANOTHER_CHALLENGE = "334"
    TWICE = "twice"
    EARLY = "before the command"


SHUTDOWNS = frozenset({Kind.SHUTTING_DOWN, Kind.SHUTDOWN_NOTICE})

NO_REPLY = frozenset(
    {
        Kind.OTHER_CODE_INSIDE,
        Kind.EMPTY_LINE,
        Kind.GARBAGE,
        Kind.ENDLESS_LINE,
        Kind.ENDLESS_REPLY,
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """One reply of an exchange.

    Attributes:
        step: the step of the test server; see `smtpconn.testing.SmtpServer.fault`.
        code: the usual code.
        nth: the number of earlier replies to this step.
        is_exact: whether it is the only valid positive code.
    """

    step: str
    code: int
    nth: int = 0
    is_exact: bool = True


Turns = tuple[tuple[Place, ...], ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One operation and the replies to it.

    Attributes:
        name: the name in the tests' ids; `tests.faults.test_codes` has the call for each name.
        turns: the replies with PIPELINING, by round trip.
        before: the last reply of what precedes the operation on its connection; None if it is
            connecting itself.
        begins_in: the phase of the error if the operation finds the connection closed.
        protocol: "SMTP" or "LMTP".
        answers: the number of final replies to the content.
        runs_ahead: the client's use of PIPELINING.
    """

    name: str
    turns: Turns
    before: Place | None
    begins_in: Phase
    protocol: str = "SMTP"
    answers: int = 0
    runs_ahead: Pipelining = Pipelining.AUTO

    def in_turns(self, *, pipelining: bool) -> Turns:
        """The replies as they come."""
        if pipelining:
            return self.turns
        apart = (
            (turn,) if turn[0].step == "CONTENT" else ((p,) for p in turn) for turn in self.turns
        )
        return tuple(turn for turns in apart for turn in turns)


@dataclass(frozen=True, slots=True)
class ReplyCase:
    """A reply of an exchange, and its replacement."""

    exchange: Exchange
    place: Place
    kind: Kind
    pipelining: bool

    def __str__(self) -> str:
        how = "pipelined" if self.pipelining else "one by one"
        place = f"{self.place.step} {self.place.nth}"
        return f"{self.exchange.name}, {how}, {place}: {self.kind}"

    @property
    def turns(self) -> Turns:
        """The replies as they come."""
        return self.exchange.in_turns(pipelining=self.pipelining)

    @property
    def turn(self) -> tuple[Place, ...]:
        """The place's turn."""
        return next(turn for turn in self.turns if self.place in turn)

    @property
    def previous(self) -> Place | None:
        """The reply before this one, that of an earlier operation included."""
        places = [p for turn in self.turns for p in turn]
        index = places.index(self.place)
        return places[index - 1] if index else self.exchange.before


@dataclass(frozen=True, slots=True)
class Outcome:
    """The expected outcome of a case.

    Attributes:
        error: the class of the error; None if the operation succeeds.
        phase: the phase of the error.
        statuses: the status for each final reply; () for operations that send no message.
        is_usable: whether another message can be sent over the connection.
        rejected: the number of recipients refused at RCPT.
    """

    error: type[SmtpError] | None
    phase: Phase | None
    statuses: tuple[DeliveryStatus, ...]
    is_usable: bool
    rejected: int = 0

    @property
    def is_transient(self) -> bool:
        """Whether the error is transient."""
        return self.error in (TransientError, ConnectionClosedError)


def outcome(case: ReplyCase) -> Outcome:
    """The expected outcome of a case, by the rules above."""
    kind, place = case.kind, case.place
    if place.step == "QUIT":
        return _success(case, is_usable=False)
    if kind is Kind.SHUTDOWN_NOTICE and place.step == "CONTENT":
        return _broken(case, ConnectionClosedError)
    if kind in SHUTDOWNS:
        return _refused(case, TransientError, is_usable=False)
    if kind is Kind.TRANSIENT:
        return _refused(case, TransientError, is_usable=True)
    if kind in (Kind.PERMANENT, Kind.UNKNOWN_COMMAND):
        return _refused(case, PermanentError, is_usable=True)
    if kind is Kind.OTHER_SUCCESS and _needs_starttls(case):
        return _failure(case, StartTlsUnavailableError, Phase.STARTTLS, is_usable=False)
    if kind is Kind.OTHER_SUCCESS:
        return _broken(case, ProtocolError) if place.is_exact else _success(case)
    if kind is Kind.OTHER_CODE_INSIDE and place.step == "EHLO" and place.code >= 400:
        return _failure(case, PermanentError, Phase.EHLO, is_usable=False)
    if kind is Kind.OTHER_INTERMEDIATE:
        return _broken(case, ProtocolError)
    if kind is Kind.ANOTHER_CHALLENGE:
        return _failure(case, AuthError, Phase.AUTH, is_usable=True)
    if kind in NO_REPLY:
        return _broken(case, ParseError)
    return _twice(case) if kind is Kind.TWICE else _early(case)


def _success(case: ReplyCase, *, is_usable: bool = True) -> Outcome:
    return Outcome(None, None, (DeliveryStatus.DELIVERED,) * case.exchange.answers, is_usable)


def _failure(case: ReplyCase, error: type[SmtpError], phase: Phase, *, is_usable: bool) -> Outcome:
    statuses = (DeliveryStatus.NOT_DELIVERED,) * case.exchange.answers
    return Outcome(error, phase, statuses, is_usable)


def _refused(case: ReplyCase, error: type[SmtpError], *, is_usable: bool) -> Outcome:
    place, is_421 = case.place, case.kind in SHUTDOWNS
    if place.step == "RCPT" and not is_421:
        delivered = (DeliveryStatus.DELIVERED,) * (
            case.exchange.answers if not _is_lmtp(case) else 1
        )
        return Outcome(None, None, delivered, is_usable, rejected=1)
    if place.step == "CONTENT" and _is_lmtp(case):
        # After a 421 there is no reply for the other recipients.
        behind = DeliveryStatus.UNKNOWN if is_421 else DeliveryStatus.DELIVERED
        return Outcome(None, None, _statuses(case, DeliveryStatus.NOT_DELIVERED, behind), is_usable)
    if place.step == "EHLO" and case.kind in (Kind.UNKNOWN_COMMAND, Kind.PERMANENT):
        # The client sends HELO to a server without ESMTP, which offers no extension (RFC 5321 3.2).
        if _needs_starttls(case):
            return _failure(case, StartTlsUnavailableError, Phase.STARTTLS, is_usable=False)
        return _success(case)
    if place.step in ("VRFY", "EXPN", "HELP") and not is_421:
        return _success(case)
    if place.step in ("AUTH", "CHALLENGE"):
        error = AuthError
    if place.step == "RSET" and not is_421:
        if case.exchange.name == "try envelope":
            return _success(case, is_usable=False)
        if case.exchange.name != "reset":
            return _failure(case, ConnectionClosedError, Phase.RSET, is_usable=False)
    return _failure(case, error, phase_of(place.step), is_usable=is_usable)


def _broken(case: ReplyCase, error: type[SmtpError]) -> Outcome:
    """Both sides are out of sync, so no later reply is valid."""
    phase = phase_of(case.place.step)
    if case.place.step != "CONTENT":
        return _failure(case, error, phase, is_usable=False)
    statuses = _statuses(case, DeliveryStatus.UNKNOWN, DeliveryStatus.UNKNOWN)
    if DeliveryStatus.DELIVERED in statuses:
        return Outcome(None, None, statuses, is_usable=False)
    return Outcome(error, phase, statuses, is_usable=False)


def _twice(case: ReplyCase) -> Outcome:
    place, turn, last = case.place, case.turn, case.turns[-1]
    if turn == last:
        return _success(case, is_usable=False)
    if place.code >= 400:
        # An unsolicited refusal announces the end of the connection. The server had refused EHLO.
        return _failure(case, PermanentError, Phase.EHLO, is_usable=False)
    if turn[-1].step == "DATA" and place != turn[-1]:
        return _failure(case, ProtocolError, Phase.DATA, is_usable=False)
    return _failure(case, ProtocolError, Phase.IDLE, is_usable=False)


def _early(case: ReplyCase) -> Outcome:
    if case.place.code >= 400:
        return _failure(case, ConnectionClosedError, Phase.IDLE, is_usable=False)
    if case.previous == case.exchange.before:
        begins_in = case.exchange.begins_in
        return _failure(case, ConnectionClosedError, begins_in, is_usable=False)
    return _failure(case, ProtocolError, Phase.IDLE, is_usable=False)


def _needs_starttls(case: ReplyCase) -> bool:
    """Whether the client needs STARTTLS next, which the replaced reply does not offer."""
    is_hello = case.place.step in ("EHLO", "LHLO") and not case.place.nth
    return is_hello and any(p.step == "STARTTLS" for turn in case.turns for p in turn)


def _is_lmtp(case: ReplyCase) -> bool:
    return case.exchange.protocol == "LMTP"


def _statuses(
    case: ReplyCase, here: DeliveryStatus, behind: DeliveryStatus
) -> tuple[DeliveryStatus, ...]:
    """The statuses of the replies to a content: ``here`` at the place, ``behind`` after it."""
    index = case.turn.index(case.place)
    after = case.exchange.answers - index - 1
    return (DeliveryStatus.DELIVERED,) * index + (here,) + (behind,) * after


# --- The exchanges ----------------------------------------------------------------------------

GREETING, STARTTLS = Place("CONNECT", 220), Place("STARTTLS", 220)
EHLO, EHLO_AGAIN = (Place("EHLO", 250, nth, is_exact=False) for nth in (0, 1))
LHLO, LHLO_AGAIN = (Place("LHLO", 250, nth, is_exact=False) for nth in (0, 1))
HELO = Place("HELO", 250, is_exact=False)
CHALLENGE, LOGGED_IN = Place("CHALLENGE", 334), Place("AUTH", 235)
CHALLENGE_AGAIN = Place("CHALLENGE", 334, 1)
RSET, NOOP = Place("RSET", 250, is_exact=False), Place("NOOP", 250, is_exact=False)


def mail(transaction: int = 0) -> tuple[Place, ...]:
    sender = Place("MAIL", 250, transaction, is_exact=False)
    return sender, *(Place("RCPT", 250, 2 * transaction + i, is_exact=False) for i in (0, 1))


def data(transaction: int = 0) -> tuple[Place, ...]:
    return *mail(transaction), Place("DATA", 354, transaction)


def content(nth: int = 0) -> Place:
    return Place("CONTENT", 250, nth, is_exact=False)


BDAT = Place("BDAT", 250, is_exact=False)
EXCHANGES = [
    Exchange("connect", ((GREETING,), (EHLO,)), None, Phase.GREETING),
    Exchange(
        "connect, helo",
        ((GREETING,), (Place("EHLO", 502),), (HELO,)),
        None,
        Phase.GREETING,
    ),
    Exchange(
        "connect, starttls", ((GREETING,), (EHLO,), (STARTTLS,), (EHLO_AGAIN,)), None, Phase.TLS
    ),
    Exchange("connect, lmtp", ((GREETING,), (LHLO,)), None, Phase.GREETING, "LMTP"),
    Exchange(
        "connect, lmtp, starttls",
        ((GREETING,), (LHLO,), (STARTTLS,), (LHLO_AGAIN,)),
        None,
        Phase.TLS,
        "LMTP",
    ),
    Exchange("auth plain", ((LOGGED_IN,),), EHLO, Phase.AUTH),
    # A response too long for the line of AUTH is sent after an empty challenge (RFC 4954 4).
    Exchange("auth plain, long", ((CHALLENGE,), (LOGGED_IN,)), EHLO, Phase.AUTH),
    Exchange("auth login", ((CHALLENGE,), (CHALLENGE_AGAIN,), (LOGGED_IN,)), EHLO, Phase.AUTH),
    Exchange("auth cram-md5", ((CHALLENGE,), (LOGGED_IN,)), EHLO, Phase.AUTH),
    Exchange("auth scram", ((CHALLENGE,), (CHALLENGE_AGAIN,), (LOGGED_IN,)), EHLO, Phase.AUTH),
    Exchange("auth xoauth2", ((LOGGED_IN,),), EHLO, Phase.AUTH),
    Exchange("auth oauthbearer", ((LOGGED_IN,),), EHLO, Phase.AUTH),
    Exchange("auth external", ((LOGGED_IN,),), EHLO, Phase.AUTH),
    Exchange("send", (data(), (content(),)), EHLO, Phase.MAIL, answers=1),
    # After a message whose content was refused.
    Exchange(
        "send again",
        ((RSET, *data(1)), (content(1),)),
        content(),
        Phase.MAIL,
        answers=1,
    ),
    Exchange("send bdat", (mail(), (BDAT,), (content(),)), EHLO, Phase.MAIL, answers=1),
    Exchange("send lmtp", (data(), (content(), content(1))), LHLO, Phase.MAIL, "LMTP", 2),
    Exchange("send lmtp bdat", (mail(), (content(), content(1))), LHLO, Phase.MAIL, "LMTP", 2),
    Exchange(
        "send lmtp again",
        ((RSET, *data(1)), (content(2), content(3))),
        content(1),
        Phase.MAIL,
        "LMTP",
        2,
    ),
    Exchange("try envelope", (mail(), (RSET,)), EHLO, Phase.MAIL),
    Exchange("rehlo", ((EHLO_AGAIN,),), EHLO, Phase.EHLO),
    Exchange("reset", ((RSET,),), EHLO, Phase.RSET),
    Exchange("noop", ((NOOP,),), EHLO, Phase.NOOP),
    Exchange("vrfy", ((Place("VRFY", 252, is_exact=False),),), EHLO, Phase.VRFY),
    Exchange("expn", ((Place("EXPN", 250, is_exact=False),),), EHLO, Phase.EXPN),
    Exchange("help", ((Place("HELP", 214, is_exact=False),),), EHLO, Phase.HELP),
    Exchange("quit", ((Place("QUIT", 221),),), EHLO, Phase.QUIT),
]


def cases(exchange: Exchange, *, pipelining: bool) -> Iterator[ReplyCase]:
    """Every reply, with every possible replacement."""
    for turn in exchange.in_turns(pipelining=pipelining):
        for place in turn:
            for kind in Kind:
                case = ReplyCase(exchange, place, kind, pipelining)
                if _can_be(case):
                    yield case


def _can_be(case: ReplyCase) -> bool:
    if case.kind is Kind.ANOTHER_CHALLENGE:
        return case.place is LOGGED_IN
    # After the greeting the client skips an empty line, and would wait for ever for the reply.
    if case.kind is Kind.EMPTY_LINE and case.previous is GREETING:
        return False
    # A server that does not support EHLO accepts no MAIL after it, even if its reply is replaced.
    if case.kind is Kind.OTHER_SUCCESS and case.place.step == "EHLO" and case.place.code >= 400:
        return False
    # There is no reply before the greeting, and no pause before a reply within a round trip.
    is_first = case.previous is not None and case.place is case.turn[0]
    return case.kind is not Kind.EARLY or is_first
