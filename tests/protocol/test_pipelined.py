"""Many transactions in a row: the commands of each round trip, and the outcome of each message."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    BodyType,
    ConnectionClosedError,
    LmtpSendResult,
    PermanentError,
    Pipelining,
    Protocol,
    ProtocolError,
    SendResult,
    SmtpError,
    TransientError,
    ValidationError,
)
from smtpconn.protocol.mail_request import Outcome
from smtpconn.protocol.quirks import ServerQuirks
from smtpconn.protocol.session import SessionState
from tests.support.error_classes import kind_of
from tests.support.exchanges import session
from tests.support.pipelined import (
    FIRST,
    GO,
    NO,
    OFFERS,
    Asked,
    Many,
    content,
    envelope,
    kinds,
    letter,
    many,
    reset,
)
from tests.support.script import Script, Wire, run_many, run_script_many, scripted
from tests.support.strict_server import Plan, StrictServer

pytestmark = pytest.mark.usefixtures("burst")

# AUTO: the content of one and the envelope of the next


def test_one_turn_a_message() -> None:
    """The content of one, RSET, and the envelope of the next leave together; then the last."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "250 one\n" + GO),
        (content(2) + reset(3), "250 two\n" + GO),
        (content(3), "250 three\n"),
    ]
    assert kinds(run_script_many(many(1, 2, 3), script)) == ["one", "two", "three"]


def test_one_and_none() -> None:
    """A single message is a transaction like any other; none is nothing."""
    assert kinds(run_script_many(many(1), [(envelope(1), FIRST), (content(1), "250 one\n")])) == [
        "one"
    ]
    made, _ = many()()
    assert run_many(made, [], scripted([])).outcomes == []
    assert not made.transactions


def test_what_was_left_behind_is_reset_first() -> None:
    """By an earlier operation that did not end in success."""
    make = many(1, needs_reset=True)
    run_script_many(make, [(reset(1), GO), (content(1), "250 one\n")])


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ("250 r\n550 sender\n503 x\n503 x\n", PermanentError),
        ("250 r\n451 sender\n503 x\n503 x\n", TransientError),
        ("250 r\n250 s\n550 nobody\n503 no recipients\n", AllRecipientsFailedError),
        ("250 r\n250 s\n550 nobody\n554 no recipients\n", AllRecipientsFailedError),
        ("250 r\n250 s\n250 c\n451 not now\n", TransientError),
    ],
)
def test_a_refused_envelope_in_between(replies: str, kind: type[SmtpError]) -> None:
    """It is its message's alone; the next envelope leaves with nothing before it but RSET."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "250 one\n" + replies),
        (reset(3), GO),
        (content(3), "250 three\n"),
    ]
    one, two, three = run_script_many(many(1, 2, 3), script)
    assert kinds([one, three]) == ["one", "three"]
    assert isinstance(two, SmtpError)
    assert kind_of(two) is kind
    assert not two.may_have_been_delivered


def test_a_354_without_recipients_is_answered_in_the_next_turn() -> None:
    """With a lone dot before the RSET; its reply is not reported."""
    script: Script = [
        (envelope(1), "250 s\n550 nobody\n354 go\n"),
        (".\n" + reset(2), "554 no valid recipients\n250 r\n250 s\n550 nobody\n354 go\n"),
        (".\n" + reset(3), "250 taken\n" + GO),
        (content(3) + reset(4), "250 three\n250 r\n250 s\n550 nobody\n354 go\n"),
        (".\n", "554 no\n"),
    ]
    outcomes = run_script_many(many(1, 2, 3, 4), script)
    nobody = "AllRecipientsFailedError"
    assert kinds(outcomes) == [nobody, nobody, "three", nobody]


def test_some_recipients_refused() -> None:
    """The message goes to the others."""
    script: Script = [
        (envelope(1, "a", "b", "c"), "250 s\n250 a\n550 b\n250 c\n354 go\n"),
        (content(1) + reset(2, "a", "b"), "250 one\n250 r\n250 s\n450 a\n250 b\n354 go\n"),
        (content(2), "250 two\n"),
    ]
    make = many(lambda: letter(1, "a", "b", "c"), lambda: letter(2, "a", "b"))
    one, two = run_script_many(make, script)
    assert isinstance(one, SendResult)
    assert isinstance(two, SendResult)
    assert [str(r.recipient)[0] for r in one.rejected_recipients] == ["b"]
    assert [str(r)[0] for r in one.accepted_recipients] == ["a", "c"]
    assert [r.response.code for r in two.rejected_recipients] == [450]


def test_refused_content_in_between() -> None:
    """It is that message's error, and the next one's envelope stands."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "554 spam\n" + GO),
        (content(2), "452 full\n"),
    ]
    one, two = run_script_many(many(1, 2), script)
    assert isinstance(one, PermanentError)
    assert isinstance(two, TransientError)
    assert not one.may_have_been_delivered
    assert not two.may_have_been_delivered


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (lambda: ValidationError("no recipient"), None),
        (lambda: letter(2, body=BodyType.SEVENBIT, message=b"\xff"), None),
        (lambda: letter(2, body=BodyType.BINARYMIME, message=b"2\n"), "plain"),
    ],
)
def test_what_cannot_be_streamed_goes_in_its_place(
    between: Callable[[], Asked], said: str | None
) -> None:
    """What is in flight ends before it; an error that needs no server costs nothing."""
    plain: Script = []
    if said is not None:
        binary = "MAIL FROM:<2@b.example> BODY=BINARYMIME\nRCPT TO:<c@d.example>\n"
        plain = [(binary, "250 s\n250 c\n"), (b"BDAT 2 LAST\r\n2\n", "250 two\n")]
    script: Script = [
        (envelope(1), FIRST),
        (content(1), "250 one\n"),
        *plain,
        (envelope(3), FIRST),
        (content(3), "250 three\n"),
    ]
    one, two, three = run_script_many(many(1, between, 3), script)
    assert kinds([one, three]) == ["one", "three"]
    assert kinds([two]) == ["two"] if said else isinstance(two, ValidationError)


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
def test_one_too_many_for_the_server(pipelining: Pipelining) -> None:
    """LIMITS (RFC 9422): each that is too many is told so, and the connection is as it was."""
    script: Script = [(envelope(1), FIRST), (content(1), "250 one\n")]
    offers = "PIPELINING;LIMITS MAILMAX=1"
    one, *others = run_script_many(many(1, 2, 3, offers=offers, pipelining=pipelining), script)
    assert isinstance(one, SendResult)
    assert [type(outcome) for outcome in others] == [ProtocolError] * 2


def test_an_owed_dot_goes_before_what_is_plain() -> None:
    """Otherwise its commands would be taken for the content."""
    binary = "RSET\nMAIL FROM:<2@b.example> BODY=BINARYMIME\nRCPT TO:<c@d.example>\n"
    script: Script = [
        (envelope(1), "250 s\n550 nobody\n354 go\n"),
        (".\n", "554 no\n"),
        (binary, "250 r\n250 s\n250 c\n"),
        (b"BDAT 2 LAST\r\n2\n", "250 two\n"),
    ]
    two = lambda: letter(2, body=BodyType.BINARYMIME, message=b"2\n")  # noqa: E731
    assert kinds(run_script_many(many(1, two), script))[1] == "two"


@pytest.mark.parametrize("facts", [{"offers": "8BITMIME"}, {"pipelining": Pipelining.OFF}])
def test_without_pipelining(facts: dict[str, object]) -> None:
    """ExchangeAction by step, as single transactions."""
    script: Script = [
        ("MAIL FROM:<1@b.example>\n", "250 s\n"),
        ("RCPT TO:<c@d.example>\n", "550 nobody\n"),
        ("RSET\n", "250 r\n"),
        ("MAIL FROM:<2@b.example>\n", "250 s\n"),
        ("RCPT TO:<c@d.example>\n", "250 c\n"),
        ("DATA\n", "354 go\n"),
        (content(2), "250 two\n"),
    ]
    make = many(1, 2, **facts)  # type: ignore[arg-type]
    assert kinds(run_script_many(make, script)) == ["AllRecipientsFailedError", "two"]


# A server that takes nothing behind the end of DATA


@pytest.mark.parametrize("dot_owed", [False, True])
def test_503_behind_the_end_of_data(dot_owed: bool) -> None:
    """It is remembered: that message goes again the plain way, and so do all that follow."""
    first: Script = [(envelope(1), FIRST), (content(1) + reset(2), "250 one\n" + NO * 4)]
    if dot_owed:
        nobody = "250 s\n550 nobody\n354 go\n"
        first = [(envelope(1), nobody), (".\n" + reset(2), "554 no\n" + NO * 4)]
    script: Script = [
        *first,
        (reset(2), GO),
        (content(2), "250 two\n"),
        (envelope(3), FIRST),
        (content(3), "250 three\n"),
    ]
    sessions: list[SessionState] = []

    def make() -> tuple[SessionState, list[Asked]]:
        made, requests = many(1, 2, 3)()
        sessions.append(made)
        return made, requests

    assert kinds(run_script_many(make, script))[1:] == ["two", "three"]
    assert all(not made.quirks.is_streamable and made.transactions == 3 for made in sessions)


def test_503_to_what_came_before_the_content_was_looked_at() -> None:
    """Where the server looked at RSET too early and at the rest in time, the message goes on."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "250 one\n" + NO + FIRST),
        (content(2), "250 two\n"),
        (envelope(3), FIRST),
        (content(3), "250 three\n"),
    ]
    assert kinds(run_script_many(many(1, 2, 3), script)) == ["one", "two", "three"]


def test_a_lone_dot_is_no_empty_message() -> None:
    """RSET refused where it is needed, recipients accepted, 354: a dot would be delivered, so
    nothing more is said."""
    made, requests = many(1, 2, 3)()
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "554 no\n502 no RSET\n" + FIRST),
    ]
    run = run_many(made, requests, scripted(script))
    assert kinds(run.outcomes) == ["PermanentError", *["ConnectionClosedError"] * 2]
    assert not any(o.may_have_been_delivered for o in run.outcomes if isinstance(o, SmtpError))
    assert not run.driver.transport.is_open


@pytest.mark.parametrize("refusal", ["502 no", "503 no", "451 no"])
def test_a_refused_optional_rset_refuses_no_message(refusal: str) -> None:
    """The message before it was delivered, so the next one is sent; later RSETs are avoided."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), f"250 one\n{refusal}\n" + FIRST),
        (content(2), "250 two\n"),
        (envelope(3), FIRST),
        (content(3), "250 three\n"),
    ]
    assert kinds(run_script_many(many(1, 2, 3), script)) == ["one", "two", "three"]


def test_a_server_that_refuses_rset_is_left_where_it_is_needed() -> None:
    """Behind a refused message, and before anything is said: what follows was not sent."""
    made, requests = many(1, 2, 3)()
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "250 one\n502 no RSET\n250 s\n250 c\n554 no\n"),
    ]
    run = run_many(made, requests, scripted(script))
    assert kinds(run.outcomes) == ["one", "PermanentError", "ConnectionClosedError"]
    assert all(o.is_safe_to_retry for o in run.outcomes[2:] if isinstance(o, SmtpError))
    assert not run.driver.transport.is_open


def test_503_to_the_first_is_its_answer() -> None:
    """Nothing was before it that could be the reason."""
    script: Script = [(envelope(1), NO * 3), (reset(2), "250 r\n" + NO * 3)]
    assert kinds(run_script_many(many(1, 2), script)) == ["PermanentError", "PermanentError"]


# Replies out of sync


@pytest.mark.parametrize(
    ("behind_content", "unknown"),
    [
        ("354 what\n" + GO, True),
        ("250 one\n250 r\n354 go\n250 c\n354 go\n", False),
        ("250 one\n250 r\n250 s\n250 c\n250 taken\n", False),
        ("250 one\n250 r\n250 s\n354 c\n250 taken\n", False),
    ],
)
def test_replies_out_of_sync_end_it(behind_content: str, unknown: bool) -> None:
    """Nothing more is said to a server whose replies cannot be believed."""
    made, requests = many(1, 2, 3)()
    script: Script = [(envelope(1), FIRST), (content(1) + reset(2), behind_content)]
    run = run_many(made, requests, scripted(script))
    one, two, three = run.outcomes
    if unknown:
        assert isinstance(one, ProtocolError)
        assert one.may_have_been_delivered
    else:
        assert isinstance(one, SendResult)
        assert isinstance(two, ProtocolError)
    for later in (two, three):
        assert isinstance(later, SmtpError)
        assert not later.may_have_been_delivered
    assert isinstance(three, ConnectionClosedError)
    assert not run.driver.transport.is_open


def test_replies_out_of_sync_to_what_went_plainly() -> None:
    """The same where nothing is streamed."""
    made, requests = many(1, 2, pipelining=Pipelining.OFF)()
    run = run_many(made, requests, scripted([("MAIL FROM:<1@b.example>\n", "354 go\n")]))
    assert kinds(run.outcomes) == ["ProtocolError", "ConnectionClosedError"]
    assert not run.driver.transport.is_open


# LMTP


def lmtp(*requests: Callable[[], Asked] | int, **facts: object) -> Many:
    """The same as `many` for LMTP."""
    return many(*requests, protocol=Protocol.LMTP, **facts)  # type: ignore[arg-type]


def codes(outcome: Outcome) -> list[int | None]:
    """The reply to each recipient."""
    assert isinstance(outcome, LmtpSendResult), outcome
    return [None if r.response is None else r.response.code for r in outcome.results]


def test_lmtp_has_an_answer_for_each() -> None:
    """As many as were accepted; who was given twice is asked once and reported twice."""
    make = lmtp(lambda: letter(1, "a", "b", "a"), lambda: letter(2, "a", "b"), 3)
    script: Script = [
        (envelope(1, "a", "b"), "250 s\n250 a\n250 b\n354 go\n"),
        (
            content(1) + reset(2, "a", "b"),
            "250 a\n452 b\n250 r\n250 s\n550 a\n250 b\n354 go\n",
        ),
        (content(2) + reset(3), "250 b\n" + GO),
        (content(3), "550 c\n"),
    ]
    one, two, three = run_script_many(make, script)
    assert [codes(one), codes(two), codes(three)] == [[250, 452, 250], [250], [550]]


@pytest.mark.parametrize("is_streamable", [True, False])
def test_lmtp_354_without_recipients(is_streamable: bool) -> None:
    """A dot there would have no answer: nothing more is said, and the connection is closed."""
    made, requests = lmtp(1, 2, quirks=ServerQuirks(is_streamable=is_streamable))()
    run = run_many(made, requests, scripted([(envelope(1), "250 s\n550 c\n354 go\n")]))
    assert kinds(run.outcomes) == ["AllRecipientsFailedError", "ConnectionClosedError"]
    assert not run.driver.transport.is_open


@pytest.mark.parametrize("replies", range(3))
def test_lmtp_lost_among_the_answers(replies: int) -> None:
    """Those that came stand, the others are unknown; before any came, the whole message is."""
    answers = "".join(["250 a\n", "250 b\n"][:replies])
    make = lmtp(lambda: letter(1, "a", "b"), 2)
    script: Script = [
        (envelope(1, "a", "b"), "250 s\n250 a\n250 b\n354 go\n"),
        (content(1) + reset(2), answers),
    ]
    made, requests = make()
    gives = sum(len(said.replace("\n", "\r\n")) for _, said in script)
    one, two = run_many(made, requests, scripted(script, gives=gives)).outcomes
    if replies:
        assert codes(one) == [250, 250 if replies == 2 else None]
    else:
        assert isinstance(one, ConnectionClosedError)
        assert one.may_have_been_delivered
    assert isinstance(two, ConnectionClosedError)
    assert not two.may_have_been_delivered


@pytest.mark.parametrize(
    ("turns", "answers", "lost"),
    [(1, 1, 0), (1, 2, 0), (2, 1, 1), (2, 2, 1), (2, 4, 1)],
)
def test_the_envelope_that_was_lost_is_told_how(turns: int, answers: int, lost: int) -> None:
    """The message whose reply is the first that is missing has the error itself, at its phase."""
    script: Script = [(envelope(1), FIRST), (content(1) + reset(2), "250 one\n" + GO)]
    said, last = script[turns - 1]
    script[turns - 1 :] = [(said, "".join(last.splitlines(keepends=True)[:answers]))]
    made, requests = many(1, 2, 3)()
    gives = sum(len(text.replace("\n", "\r\n")) for _, text in script)
    outcomes = run_many(made, requests, scripted(script, gives=gives)).outcomes
    interrupted, *behind = outcomes[lost:]
    awaited = (envelope(1) if turns == 1 else "CONTENT\n" + reset(2)).split("\n")[answers][:4]
    assert isinstance(interrupted, ConnectionClosedError)
    assert interrupted.phase == awaited.lower()
    assert "before this message" not in str(interrupted)
    assert behind
    assert all("before this message" in str(error) for error in behind)
    assert not any(o.may_have_been_delivered for o in outcomes if isinstance(o, SmtpError))


def test_a_421_refuses_the_command_it_answers() -> None:
    """421 to one message refuses that one; the next was only not sent."""
    made, requests = many(1, 2)()
    script: Script = [(envelope(1), FIRST), (content(1) + reset(2), "421 bye\n")]
    one, two = run_many(made, requests, scripted(script)).outcomes
    assert isinstance(one, TransientError)
    assert isinstance(two, ConnectionClosedError)
    assert not one.may_have_been_delivered
    assert not two.may_have_been_delivered


@pytest.mark.parametrize("answered", ["MAIL", "CONTENT"])
def test_a_421_without_streaming(answered: str) -> None:
    """The same with one command at a time: the next message does not get that refusal."""
    made, requests = many(1, 2, pipelining=Pipelining.OFF)()
    sender, recipient, data = envelope(1).splitlines(keepends=True)
    script: Script = [(sender, "250 s\n"), (recipient, "250 c\n"), (data, "354 go\n")]
    script = [(sender, "421 bye\n")] if answered == "MAIL" else [*script, (content(1), "421 bye\n")]
    one, two = run_many(made, requests, scripted(script)).outcomes
    assert isinstance(one, TransientError)
    assert isinstance(two, ConnectionClosedError)
    assert not one.may_have_been_delivered
    assert not two.may_have_been_delivered


@pytest.mark.parametrize("code", [354, 421])
def test_lmtp_out_of_sync_where_nothing_is_streamed(code: int) -> None:
    """An answer that makes no sense, or a farewell, is the last word also behind one that does."""
    make = lmtp(lambda: letter(1, "a", "b"), 2, pipelining=Pipelining.OFF)
    made, requests = make()
    replies = ["250 s\n", "250 a\n", "250 b\n", "354 go\n"]
    said = envelope(1, "a", "b").splitlines(keepends=True)
    script: Script = [*zip(said, replies, strict=True), (content(1), f"250 a\n{code} b\n")]
    one, two = run_many(made, requests, scripted(script)).outcomes
    assert codes(one) == [250, None if code == 354 else 421]
    assert isinstance(two, ConnectionClosedError)
    assert not two.may_have_been_delivered


def test_long_content_is_written_before_the_next_envelope() -> None:
    """Its time does not count for the next message; what grows on the way counts as long, too."""
    wire = Wire(StrictServer([Plan(10), Plan(11)]).answer)
    made = session(OFFERS)
    requests = [letter(10, message=b"\n" * 60000), letter(11)]
    assert len(run_many(made, requests, wire).outcomes) == 2
    (long,) = (data for data in wire.written if len(data) > 100_000)
    assert b"MAIL FROM" not in long
