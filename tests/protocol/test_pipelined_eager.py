"""Whole transactions through a window (`Pipelining.EAGER`), and ending a run early."""

from __future__ import annotations

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    BodyType,
    Pipelining,
    Protocol,
    ProtocolError,
    SendResult,
    SmtpError,
    TransientError,
    ValidationError,
)
from smtpconn.protocol import pipelined
from smtpconn.protocol.mail_request import Outcome
from smtpconn.protocol.transaction import EAGER_CAP
from tests.support.pipelined import (
    FIRST,
    GO,
    TAKEN,
    content,
    eager,
    envelope,
    kinds,
    letter,
    many,
    reset,
    whole,
)
from tests.support.script import Script, Wire, run_many, run_script_many, scripted
from tests.support.strict_server import Plan, StrictServer

pytestmark = pytest.mark.usefixtures("burst")


def test_whole_transactions_in_one_turn() -> None:
    """A RSET between them, and all the replies at the end."""
    said = whole(1, behind=False) + whole(2) + whole(3)
    replies = (
        "250 s\n250 c\n250 one\n250 r\n250 s\n250 c\n250 two\n250 r\n250 s\n250 c\n250 three\n"
    )
    assert kinds(run_script_many(eager(1, 2, 3), [(said, replies)])) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ("250 r\n550 s\n503 c\n503 x\n", "PermanentError"),
        ("250 r\n250 s\n550 c\n554 x\n", "AllRecipientsFailedError"),
        ("250 r\n250 s\n250 c\n452 x\n", "TransientError"),
    ],
)
def test_a_refusal_inside(replies: str, kind: str) -> None:
    """It is that message's alone; the connection is good for more, and a single one is reset."""
    said = whole(1, behind=False) + whole(2) + whole(3)
    one, two, three = run_script_many(eager(1, 2, 3), [(said, TAKEN + replies + "250 r\n" + TAKEN)])
    assert kinds([one, two, three]) == ["taken", kind, "taken"]
    assert isinstance(two, SmtpError)
    assert not two.may_have_been_delivered


def test_some_recipients_refused() -> None:
    """The message goes to the others."""
    said = whole(1, "a", "b", behind=False)
    make = eager(lambda: letter(1, "a", "b"))
    (one,) = run_script_many(make, [(said, "250 s\n550 a\n250 b\n250 taken\n")])
    assert isinstance(one, SendResult)
    assert [str(r.recipient)[0] for r in one.rejected_recipients] == ["a"]


def test_the_mark_of_a_failure_at_the_end() -> None:
    """The next operation begins with RSET after it, and only then."""
    for replies, needs_reset in ((TAKEN, False), ("250 s\n550 c\n554 x\n", True)):
        made, requests = eager(1)()
        run_many(made, requests, scripted([(whole(1, behind=False), replies)]))
        assert made.needs_reset == needs_reset


@pytest.mark.parametrize(
    "facts",
    [
        {"pipelining": Pipelining.AUTO},
        {"offers": "PIPELINING;8BITMIME"},
        {"protocol": Protocol.LMTP},
    ],
)
def test_when_it_is_not_done(facts: dict[str, object]) -> None:
    """Not unless asked for, not without CHUNKING, never in LMTP."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "250 one\n" + GO),
        (content(2), "250 two\n"),
    ]
    made = many(1, 2, **{"pipelining": Pipelining.EAGER, **facts})  # type: ignore[arg-type]
    assert len(run_script_many(made, script)) == 2


def test_the_first_after_an_idle_spell_proves_the_connection() -> None:
    """Its content waits for the replies; those behind it need not."""
    made, requests = eager(1, 2, 3)()
    script: Script = [
        (envelope(1), FIRST),
        (content(1), "250 one\n"),
        (whole(2, behind=False) + whole(3), TAKEN + "250 r\n" + TAKEN),
    ]
    run = run_many(made, requests, scripted(script), is_fresh=False)
    assert kinds(run.outcomes) == ["one", "taken", "taken"]


def test_a_long_message_waits_for_its_recipients() -> None:
    """And those before and behind it do not."""
    script: Script = [
        (whole(1, behind=False), TAKEN),
        (envelope(2), FIRST),
        (b"x" * EAGER_CAP + b"\r\n.\r\n", "250 two\n"),
        (whole(3, behind=False), TAKEN),
    ]
    make = eager(1, lambda: letter(2, message=b"x" * EAGER_CAP + b"\r\n"), 3)
    assert kinds(run_script_many(make, script)) == ["taken", "two", "taken"]


def test_the_longest_message_that_leaves_at_once() -> None:
    """Of exactly the cap."""
    data = b"x" * (EAGER_CAP - 2) + b"\r\n"
    said = envelope(1, verb="").replace("\n", "\r\n").encode()
    script: Script = [(said + b"BDAT %d LAST\r\n" % EAGER_CAP + data, TAKEN)]
    run_script_many(eager(lambda: letter(1, message=data)), script)


def test_what_is_no_text_and_what_is_nothing() -> None:
    """BINARYMIME goes untouched; an error that needs no server comes in its place."""
    binary = "RSET\nMAIL FROM:<3@b.example> BODY=BINARYMIME\nRCPT TO:<c@d.example>\n"
    script: Script = [
        (whole(1, behind=False), TAKEN),
        (
            binary[5:].replace("\n", "\r\n").encode()
            + b"BDAT 2 LAST\r\n\0\n"
            + whole(4).replace("\n", "\r\n").encode(),
            TAKEN + "250 r\n" + TAKEN,
        ),
    ]
    invalid = lambda: ValidationError("no recipient")  # noqa: E731
    binary_letter = lambda: letter(3, message=b"\0\n", body=BodyType.BINARYMIME)  # noqa: E731
    outcomes = run_script_many(eager(1, invalid, binary_letter, 4), script)
    assert kinds(outcomes) == ["taken", "ValidationError", "taken", "taken"]


def test_an_owed_dot_goes_first() -> None:
    """What is begun before the connection was proven is ended before the window opens."""
    made, requests = eager(1, 2)()
    script: Script = [
        (envelope(1), "250 s\n550 c\n354 go\n"),
        (".\n", "554 no\n"),
        (whole(2), "250 r\n" + TAKEN),
    ]
    run = run_many(made, requests, scripted(script), is_fresh=False)
    assert kinds(run.outcomes) == ["AllRecipientsFailedError", "taken"]


@pytest.mark.parametrize("limit", ["WINDOW", "MAX_IN_FLIGHT"])
def test_the_window_bounds_what_is_in_flight(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """The window is limited in bytes and in messages; a full one is emptied by half."""
    monkeypatch.setattr(pipelined, limit, 680 if limit == "WINDOW" else 10)
    server = StrictServer([Plan(number) for number in range(10, 70)])
    made, _ = eager()()
    asked = 0
    answered: list[int] = []

    def requests() -> object:
        nonlocal asked
        for number in range(10, 70):
            asked += 1
            answered.append(asked - len(outcomes))
            yield letter(number, message=b"x\r\n")

    outcomes: list[Outcome] = []
    wire = Wire(server.answer)
    run = run_many(made, requests(), wire, outcomes=outcomes)  # type: ignore[arg-type]
    assert len(run.outcomes) == 60
    assert max(answered) <= 13
    assert wire.turns <= 60 / 10 + 3


# Replies out of sync


@pytest.mark.parametrize(
    "replies",
    [
        "250 s\n354 c\n250 one\n250 r\n250 s\n250 c\n250 two\n",
        "250 s\n250 c\n354 go\n250 r\n250 s\n250 c\n250 two\n",
        "250 s\n550 c\n250 one\n250 r\n250 s\n250 c\n250 two\n",
        "250 s\n550 c\n250 one\n250 r\n250 s\n550 c\n550 two\n",
    ],
)
def test_replies_out_of_sync(replies: str) -> None:
    """What has left is unknown, the rest is not sent, and the connection is closed."""
    made, requests = eager(1, 2)()
    script: Script = [(whole(1, behind=False) + whole(2), replies)]
    run = run_many(made, requests, scripted(script))
    for outcome in run.outcomes:
        assert isinstance(outcome, SmtpError)
        assert outcome.may_have_been_delivered
    assert isinstance(run.outcomes[0], AllRecipientsFailedError | ProtocolError)
    assert isinstance(run.outcomes[1], ProtocolError)
    assert not run.driver.transport.is_open


@pytest.mark.parametrize(
    "replies",
    [
        "250 s\n250 c\n552 early\n250 one\n",
        "250 s\n250 c\n250 extra\n552 full\n",
        "250 s\n550 c\n554 nobody\n500 what\n",
        "250 s\n250 c\n250 one\n250 extra\n",
    ],
)
def test_a_reply_too_many(replies: str) -> None:
    """The message of that reply is not known, so no outcome is certain."""
    made, requests = eager(1)()
    script: Script = [(whole(1, behind=False), replies)]
    run = run_many(made, requests, scripted(script))
    (outcome,) = run.outcomes
    assert type(outcome) is ProtocolError
    assert outcome.may_have_been_delivered
    assert not run.driver.transport.is_open


def test_nothing_is_sent_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not eagerly, not by what follows, whatever that is."""
    monkeypatch.setattr(pipelined, "MAX_IN_FLIGHT", 1)
    long = lambda: letter(4, message=b"x" * (EAGER_CAP + 1))  # noqa: E731
    made, requests = eager(1, 2, 3, long)()
    script: Script = [(whole(1, behind=False) + whole(2), "354 s\n250 c\n250 one\n250 r\n" + TAKEN)]
    run = run_many(made, requests, scripted(script))
    assert kinds(run.outcomes)[2:] == ["ConnectionClosedError"] * 2
    assert not any(o.may_have_been_delivered for o in run.outcomes[2:] if isinstance(o, SmtpError))


@pytest.mark.parametrize(
    ("replies", "unknown"),
    [
        ("421 s\n", False),
        ("421 s\n503 a\n503 b\n503 no\n", False),
        ("250 s\n421 a\n", True),
        ("250 s\n421 a\n250 b\n250 taken\n", True),
        ("250 s\n550 a\n421 b\n", False),
        ("250 s\n250 a\n250 b\n421 no\n", False),
    ],
)
def test_a_421_to_a_recipient_may_not_be_the_end(replies: str, unknown: bool) -> None:
    """A server that continues after a 421 to a recipient may accept the message for others."""
    made, requests = eager(lambda: letter(1, "a", "b"))()
    run = run_many(made, requests, scripted([(whole(1, "a", "b", behind=False), replies)]))
    (outcome,) = run.outcomes
    assert isinstance(outcome, TransientError | AllRecipientsFailedError)
    assert outcome.may_have_been_delivered is unknown
    assert not run.driver.transport.is_open


# Ending a run early


@pytest.mark.parametrize(
    ("script", "take", "is_open"),
    [
        ([(envelope(1), FIRST), (content(1) + reset(2), "250 one\n" + GO)], 1, False),
        ([(envelope(1), FIRST), (content(1) + reset(2), "250 one\n250 r\n550 s\n503 x\n503 x\n")],
         1, True),
        ([(envelope(1), "250 s\n550 c\n354 go\n")], 1, False),
        ([(envelope(1), "250 s\n550 c\n554 no\n")], 1, True),
    ],
)  # fmt: skip
def test_ending_early(script: Script, take: int, is_open: bool) -> None:
    """The connection is closed if the server waits for content; if not, the next is reset."""
    made, requests = many(1, 2)()
    run = run_many(made, requests, scripted(script), take=take)
    assert run.driver.transport.is_open == is_open
    assert made.needs_reset


def test_ending_early_after_the_last() -> None:
    """Nothing is owed."""
    made, requests = many(1)()
    script: Script = [(envelope(1), FIRST), (content(1), "250 one\n")]
    run = run_many(made, requests, scripted(script), take=1)
    assert run.driver.transport.is_open
    assert not made.needs_reset


def test_ending_early_with_a_window() -> None:
    """Replies are still to come: closed, unless all of them have."""
    for replies, take, is_open in ((TAKEN, 1, True), (TAKEN + "250 r\n", 1, False)):
        numbers = [1] if is_open else [1, 2]
        made, requests = eager(*numbers)()
        said = whole(1, behind=False) + ("" if is_open else whole(2))
        run = run_many(made, requests, scripted([(said, replies)]), take=take)
        assert kinds(run.outcomes) == ["taken"]
        assert run.driver.transport.is_open == is_open


def test_an_iterator_that_is_never_read_sends_nothing() -> None:
    """No command was sent, so the connection stays open."""
    made, requests = many(1)()
    run = run_many(made, requests, scripted([]), take=0)
    assert run.driver.transport.is_open
