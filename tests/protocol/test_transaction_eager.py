"""One transaction sent whole, including its content, before the first reply (EAGER)."""

from __future__ import annotations

import math

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionClosedError,
    PermanentError,
    Phase,
    Pipelining,
    Protocol,
    ProtocolError,
    SendResult,
    SmtpError,
    TransientError,
)
from smtpconn.client.driver import Driver
from smtpconn.net.deadline import Deadline
from smtpconn.protocol.exchange import Exchange
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import EAGER_CAP, lmtp_transaction, transaction
from tests.support.error_classes import kind_of
from tests.support.exchanges import session
from tests.support.pipelined import envelope, kinds, letter
from tests.support.script import OffScript, Script, Wire, fails, run_many, run_script

SAID = envelope(1, "a", "b", verb="BDAT 3 LAST\n1\n")


def eager(**facts: object) -> SessionState:
    """A session that may send eagerly."""
    facts = {"pipelining": Pipelining.EAGER, "recently_active": True, **facts}
    return session("PIPELINING;CHUNKING;8BITMIME", **facts)


def at_once(made: SessionState) -> Exchange[SendResult]:
    """A message to two in this session."""
    return transaction(made, letter(1, "a", "b"), chunking=True)


def test_everything_in_one_turn() -> None:
    """MAIL, RCPT, BDAT and the content; who was refused is told."""
    result = run_script(lambda: at_once(eager()), [(SAID, "250 s\n550 a\n250 b\n250 taken\n")])
    assert [str(path) for path in result.accepted_recipients] == ["b@d.example"]
    assert [r.response.code for r in result.rejected_recipients] == [550]


def test_reset_goes_first_after_a_failure() -> None:
    """In the same turn."""
    script: Script = [("RSET\n" + SAID, "250 r\n250 s\n250 a\n250 b\n250 taken\n")]
    run_script(lambda: at_once(eager(needs_reset=True)), script)


@pytest.mark.parametrize(
    ("replies", "kind", "phase"),
    [
        ("550 s\n503 a\n503 b\n503 x\n", PermanentError, Phase.MAIL),
        ("250 s\n450 a\n550 b\n554 x\n", AllRecipientsFailedError, Phase.RCPT),
        ("250 s\n250 a\n550 b\n452 x\n", TransientError, Phase.CONTENT),
        ("250 s\n250 a\n550 b\n552 x\n", PermanentError, Phase.CONTENT),
    ],
)
def test_a_refusal(replies: str, kind: type[SmtpError], phase: Phase) -> None:
    """It is certain, and the connection may go on, with RSET before the next."""
    sessions: list[SessionState] = []

    def again() -> Exchange[SendResult]:
        sessions.append(eager())
        return at_once(sessions[-1])

    error = fails(again, [(SAID, replies)])
    assert kind_of(error) is kind
    assert isinstance(error, SmtpError)
    assert error.phase is phase
    assert not error.may_have_been_delivered
    assert all(made.needs_reset and not made.must_close for made in sessions)


@pytest.mark.parametrize(
    "rest", ["250 s\n250 a\n250 b\n250 taken\n", "503 s\n503 a\n503 b\n503 x\n"]
)
def test_a_refused_reset_leaves_it_unknown(rest: str) -> None:
    """The content has left behind it, for whatever transaction the server has open."""
    octets = f"502 r\n{rest}".replace("\n", "\r\n").encode()
    wire = Wire(lambda said: octets)
    made = eager(needs_reset=True)
    driver = Driver(wire, made, "mx.example.test", "mx.example.test:25", None)
    driver._last_reply_at = math.inf
    with pytest.raises(ConnectionClosedError, match="the server refuses RSET") as caught:
        driver.run(at_once(made), Deadline(10))
    assert caught.value.may_have_been_delivered
    assert made.quirks.avoid_rset
    assert not wire.is_open


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ("250 s\n550 a\n550 b\n250 taken all the same\n", AllRecipientsFailedError),
        ("250 s\n354 a\n250 b\n250 taken\n", ProtocolError),
        ("250 s\n250 a\n250 b\n354 go\n", ProtocolError),
        ("550 s\n250 a\n250 b\n250 taken\n", PermanentError),
    ],
)
def test_replies_that_do_not_line_up(replies: str, kind: type[SmtpError]) -> None:
    """They tell nothing of the content, which has left; the connection is not used again."""
    data = replies.replace("\n", "\r\n").encode()
    wire = Wire(lambda said: data)
    driver = Driver(wire, made := eager(), "mx.example.test", "mx.example.test:25", None)
    driver._last_reply_at = math.inf
    with pytest.raises(kind) as caught:
        driver.run(at_once(made), Deadline(10))
    assert kind_of(caught.value) is kind
    assert caught.value.may_have_been_delivered
    assert not wire.is_open


@pytest.mark.parametrize(
    ("replies", "kind", "may_have_been_delivered"),
    [
        ("", ConnectionClosedError, True),
        ("250 s\n250 a\n", ConnectionClosedError, True),
        ("250 s\n550 a\n550 b\n", AllRecipientsFailedError, False),
        ("550 s\n503 a\n503 b\n", PermanentError, False),
        # There are servers that say it to one recipient and go on with the next.
        ("250 s\n421 a\n", TransientError, True),
        ("250 s\n550 a\n421 b\n", TransientError, False),
        ("421 bye\n", TransientError, False),
        # A sender that is refused has no recipients; but the server has not said so yet.
        ("550 s\n", ConnectionClosedError, True),
        ("550 s\n503 a\n", ConnectionClosedError, True),
        ("250 s\n250 a\n421 b\n", TransientError, True),
    ],
)
def test_a_connection_that_is_lost(
    replies: str, kind: type[SmtpError], may_have_been_delivered: bool
) -> None:
    """Unknown, unless what was answered leaves no doubt."""
    data = replies.replace("\n", "\r\n").encode()
    wire = Wire(lambda said: data + b"2", gives=len(data))
    driver = Driver(wire, made := eager(), "mx.example.test", "mx.example.test:25", None)
    driver._last_reply_at = math.inf
    with pytest.raises(kind) as caught:
        driver.run(at_once(made), Deadline(10))
    assert kind_of(caught.value) is kind
    assert caught.value.may_have_been_delivered is may_have_been_delivered
    assert not wire.is_open


@pytest.mark.parametrize(
    "facts",
    [{"recently_active": False}, {"pipelining": Pipelining.AUTO}],
    ids=["idle", "not asked for"],
)
def test_content_waits_for_the_recipients_otherwise(facts: dict[str, object]) -> None:
    """After an idle spell, which the replies end, and where it was not asked for."""
    script: Script = [
        (envelope(1, "a", "b", verb=""), "250 s\n250 a\n250 b\n"),
        ("BDAT 3 LAST\n1\n", "250 taken\n"),
    ]
    run_script(lambda: at_once(eager(**facts)), script)


def test_content_above_the_cap_waits() -> None:
    """Not a byte of it leaves for recipients that are refused."""
    long = letter(1, message=b"x" * EAGER_CAP + b"\r\n")
    script: Script = [(envelope(1, verb=""), "250 s\n550 c\n")]
    error = fails(lambda: transaction(eager(), long, chunking=True), script)
    assert isinstance(error, AllRecipientsFailedError)


def test_content_of_a_stream_waits() -> None:
    """The size of a stream is unknown, so it waits for the recipients' replies."""
    said = envelope(1, verb="").replace(">\nRCPT", "> BODY=8BITMIME\nRCPT")
    script: Script = [(said, "250 s\n550 c\n")]

    def stream() -> Exchange[SendResult]:
        return transaction(eager(), letter(1, message=iter([b"1\r\n"])), chunking=True)

    error = fails(stream, script)
    assert isinstance(error, AllRecipientsFailedError)


def test_content_waits_in_lmtp() -> None:
    """In LMTP some servers do not reply to a BDAT without a recipient (RFC 2033 4.3)."""
    script: Script = [(envelope(1, verb=""), "250 s\n550 c\n")]
    lmtp = {"protocol": Protocol.LMTP}
    error = fails(lambda: lmtp_transaction(eager(**lmtp), letter(1), chunking=True), script)
    assert isinstance(error, AllRecipientsFailedError)


def test_a_refusal_before_the_content_is_out() -> None:
    """Exim would run the rest of it as commands: it gets no more, and no next message."""
    said = bytearray()

    def answer(data: bytes) -> bytes:
        said.extend(data)
        if b"BDAT" not in data:
            raise OffScript(f"more was said: {data!r}")
        return b"250 s\r\n250 c\r\n552 too big\r\n"

    long = letter(1, message=b"x" * 198 + b"\r\n")
    run = run_many(eager(), [long, letter(2)], Wire(answer, blocks=100))
    assert kinds(run.outcomes) == ["PermanentError", "ConnectionClosedError"]
    assert not any(o.may_have_been_delivered for o in run.outcomes if isinstance(o, SmtpError))
    assert not run.driver.transport.is_open
    assert len(said) == 100
