"""Sending many to a server that refuses at will over a connection that breaks anywhere: what is
reported is what the server has, however the two were cut off from each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpconn import (
    BodyType,
    LmtpSendResult,
    MailFromParams,
    Pipelining,
    Protocol,
    SendResult,
    SmtpError,
    TransientError,
    ValidationError,
)
from smtpconn.client import driver as driver_module
from smtpconn.protocol import pipelined, transaction
from smtpconn.protocol.mail_request import MailRequest, make_request
from tests.support.exchanges import session
from tests.support.script import Run, Wire, run_many
from tests.support.strict_server import Plan, StrictServer

pytestmark = pytest.mark.usefixtures("burst")

OFFERS = "PIPELINING;8BITMIME;CHUNKING;BINARYMIME"
KINDS = ("short", "dotted", "long", "stream", "binary", "invalid")


@dataclass(frozen=True)
class Letter:
    """A message and what the server is to say to it."""

    plan: Plan
    kind: str = "short"

    @property
    def content(self) -> bytes:
        """Its bytes; no two messages have the same."""
        number = b"%d\r\n" % self.plan.number
        return {"dotted": b".\r\n" + number, "long": number * 60}.get(self.kind, number)

    def request(self) -> MailRequest | SmtpError:
        """What is to be sent."""
        if self.kind == "invalid":
            return ValidationError("no recipient")
        names = [f"{name}@d.example" for name, _ in self.plan.recipients]
        binary = MailFromParams(body=BodyType.BINARYMIME) if self.kind == "binary" else None
        content = iter([self.content]) if self.kind == "stream" else self.content
        return make_request(f"{self.plan.number}@b.example", names, content, binary)


def run(
    letters: Sequence[Letter],
    server: StrictServer,
    pipelining: Pipelining,
    *,
    size: int = 1_000_000,
    blocks: int = 1_000_000,
    takes: float = math.inf,
    gives: float = math.inf,
) -> Run:
    """Send the messages to a server."""
    protocol = Protocol.LMTP if server.lmtp else Protocol.SMTP
    made = session(OFFERS, pipelining=pipelining, protocol=protocol)
    wire = Wire(server.answer, size=size, blocks=blocks, takes=takes, gives=gives)
    return run_many(made, [letter.request() for letter in letters], wire)


def check(letters: Sequence[Letter], server: StrictServer, outcomes: Sequence[object]) -> None:
    """Hold what was reported against what the server has."""
    assert len(outcomes) == len(letters)
    numbers = [int(stored.sender) for stored in server.stored]
    assert numbers == sorted(numbers)
    for letter, outcome in zip(letters, outcomes, strict=True):
        sender = str(letter.plan.number)
        stored = [s for s in server.stored if s.sender == sender]
        assert all(s.content == letter.content for s in stored)
        names = [name for s in stored for name in s.recipients]
        assert len(names) == len(set(names))
        _check_one(sender, outcome, names, server)


def _check_one(sender: str, outcome: object, names: list[str], server: StrictServer) -> None:
    if isinstance(outcome, SendResult) and not isinstance(outcome, LmtpSendResult):
        assert names == [_name(r) for r in outcome.accepted_recipients]
    elif isinstance(outcome, LmtpSendResult):
        delivered = {_name(r.recipient) for r in outcome.results if r.delivered}
        unknown = {_name(r.recipient) for r in outcome.results if r.response is None}
        assert delivered <= set(names) <= delivered | unknown
        assert not unknown or sender in server.heard
    else:
        assert isinstance(outcome, SmtpError)
        if outcome.may_have_been_delivered:
            # What left behind the command that a 421 answers was hardly looked at; but who knows.
            assert sender in server.heard or server.has_left
        else:
            assert not names


def _name(path: object) -> str:
    return str(path).partition("@")[0]


def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and buffers that a few short messages fill."""
    monkeypatch.setattr(pipelined, "WINDOW", 20)
    monkeypatch.setattr(pipelined, "MAX_IN_FLIGHT", 4)
    monkeypatch.setattr(transaction, "EAGER_CAP", 100)
    monkeypatch.setattr(driver_module, "WRITE_BUFFER", 150)


codes = st.sampled_from([250, 250, 250, 250, 450, 550])


@st.composite
def plans(draw: st.DrawFn, number: int) -> Plan:
    """What the server says to a message."""
    names = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    return Plan(
        number,
        draw(codes),
        tuple((name, draw(codes)) for name in names),
        draw(st.sampled_from([354, 354, 354, 354, 451])),
        draw(codes),
    )


@st.composite
def many_letters(draw: st.DrawFn) -> list[Letter]:
    """Up to nine messages of all kinds."""
    count = draw(st.integers(0, 9))
    return [
        Letter(draw(plans(number)), draw(st.sampled_from(("short",) * 4 + KINDS)))
        for number in range(1, count + 1)
    ]


cuts = st.one_of(st.just(math.inf), st.integers(1, 1500))


@settings(max_examples=200, deadline=None)
@given(
    letters=many_letters(),
    pipelining=st.sampled_from(Pipelining),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    size=st.sampled_from([1, 7, 1_000_000]),
    blocks=st.sampled_from([1, 40, 1_000_000]),
    takes=cuts,
    gives=cuts,
    bye_at=st.one_of(st.just(-1), st.integers(0, 40)),
)
def test_what_is_acknowledged_is_stored(
    letters: list[Letter],
    pipelining: Pipelining,
    flags: tuple[bool, bool, bool, bool],
    size: int,
    blocks: int,
    takes: float,
    gives: float,
    bye_at: int,
) -> None:
    """Each message is stored once, with its sender, in order; others are undelivered or unknown."""
    lmtp, waits_for_nobody, refuses_behind_data, is_cut = flags
    if not is_cut:
        takes = gives = math.inf
        bye_at = -1
    server = StrictServer(
        [letter.plan for letter in letters], lmtp, waits_for_nobody, refuses_behind_data, bye_at
    )
    with pytest.MonkeyPatch.context() as patch:
        small_windows(patch)
        made = run(letters, server, pipelining, size=size, blocks=blocks, takes=takes, gives=gives)
    check(letters, server, made.outcomes)
    # A server that refuses what comes in one packet with the end of the content may refuse RSET
    # alone, if the packet ends there. Where that RSET was needed, the connection is replaced.
    is_replaced = refuses_behind_data and any("refuses RSET" in str(o) for o in made.outcomes)
    if is_replaced and not is_cut and pipelining is not Pipelining.EAGER:
        for letter, outcome in zip(letters, made.outcomes, strict=True):
            if letter.plan.is_taken and isinstance(outcome, SmtpError) and letter.kind != "invalid":
                assert outcome.is_safe_to_retry
    elif not is_replaced and not is_cut and not (lmtp and waits_for_nobody):
        assert made.driver.transport.is_open, made.driver.closed_because
        for letter, outcome in zip(letters, made.outcomes, strict=True):
            is_by_bdat = letter.kind == "binary" or pipelining is Pipelining.EAGER
            if letter.plan.data == 354 or not is_by_bdat:
                is_taken = letter.plan.is_taken and letter.kind != "invalid"
                assert _is_success(outcome) == is_taken


def test_a_packet_that_ends_behind_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """RSET alone is refused as pipelined; the messages behind it were certainly not sent."""
    letters = [Letter(Plan(1, content=450), "dotted"), Letter(Plan(2)), Letter(Plan(3))]
    server = StrictServer([letter.plan for letter in letters], refuses_behind_data=True)
    small_windows(monkeypatch)
    made = run(letters, server, Pipelining.AUTO, size=1, blocks=40)
    refused, *lost = made.outcomes
    assert isinstance(refused, TransientError)
    assert all(isinstance(error, SmtpError) and error.is_safe_to_retry for error in lost)
    assert not server.stored
    assert not made.driver.transport.is_open


def _is_success(outcome: object) -> bool:
    if isinstance(outcome, LmtpSendResult):
        return any(result.delivered for result in outcome.results)
    return isinstance(outcome, SendResult)


FIVE = [
    Letter(Plan(1)),
    Letter(Plan(2, recipients=(("a", 250), ("b", 550)))),
    Letter(Plan(3, recipients=(("a", 550),))),
    Letter(Plan(4, content=554), "dotted"),
    Letter(Plan(5)),
]


@pytest.mark.parametrize("pipelining", Pipelining)
@pytest.mark.parametrize("lmtp", [False, True])
def test_lost_at_every_byte_of_the_replies(pipelining: Pipelining, lmtp: bool) -> None:
    """The server has read everything, and the client learns only part of what it said."""
    whole = StrictServer([letter.plan for letter in FIVE], lmtp)
    length = 0

    def counted(said: bytes) -> bytes:
        nonlocal length
        reply = whole.answer(said)
        length += len(reply)
        return reply

    protocol = Protocol.LMTP if lmtp else Protocol.SMTP
    made = session(OFFERS, pipelining=pipelining, protocol=protocol)
    run_many(made, [letter.request() for letter in FIVE], Wire(counted))
    for gives in range(length + 1):
        server = StrictServer([letter.plan for letter in FIVE], lmtp)
        cut = run(FIVE, server, pipelining, gives=gives)
        check(FIVE, server, cut.outcomes)
        errors = [outcome for outcome in cut.outcomes if isinstance(outcome, SmtpError)]
        unknown = sum(error.may_have_been_delivered for error in errors)
        assert pipelining is Pipelining.EAGER or unknown <= 1
        if gives < length:
            assert not cut.driver.transport.is_open


@pytest.mark.parametrize("pipelining", Pipelining)
def test_lost_at_every_byte_of_the_commands(pipelining: Pipelining) -> None:
    """The server gets only part of what was said, and what it answered to that still arrives."""
    for takes in range(1, 400):
        server = StrictServer([letter.plan for letter in FIVE])
        check(FIVE, server, run(FIVE, server, pipelining, takes=takes).outcomes)


@pytest.mark.parametrize("pipelining", Pipelining)
@pytest.mark.parametrize("lmtp", [False, True])
def test_421_at_each_reply(pipelining: Pipelining, lmtp: bool) -> None:
    """It answers what is awaited and ends everything; the client waits for nothing more."""
    count = 0
    while True:
        server = StrictServer([letter.plan for letter in FIVE], lmtp, bye_at=count)
        made = run(FIVE, server, pipelining)
        check(FIVE, server, made.outcomes)
        if not server.has_left:
            break
        assert not made.driver.transport.is_open
        farewells = [o for o in made.outcomes if isinstance(o, TransientError)]
        assert all(o.response.code in (421, 450) for o in farewells)
        count += 1
    assert count >= 15
