"""What became of messages, and how it is told."""

from __future__ import annotations

import io
import os

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionClosedError,
    Envelope,
    ForwardPath,
    LmtpSendResult,
    PermanentError,
    Phase,
    RecipientResult,
    RejectedRecipient,
    SendOutcome,
    SendResult,
    SmtpError,
    SmtpResponse,
    TransientError,
    TransportError,
)
from smtpconn.cli import fates
from smtpconn.cli.exits import Exit, sysexit_of
from smtpconn.cli.fates import Fate, Told
from smtpconn.cli.messages import Outgoing
from smtpconn.cli.output import Output

OK, NO, LATER = (SmtpResponse(c, (t,)) for c, t in ((250, "ok"), (550, "no"), (450, "later")))
A, B = ForwardPath("a@example.com"), ForwardPath("b@example.com")
ENVELOPE = Envelope("me@example.com", ["a@example.com", "b@example.com"], b"")
OUTGOING = Outgoing("m.eml", ENVELOPE, b"")
LOST = ConnectionClosedError("lost", phase=Phase.CONTENT, may_have_been_delivered=True)


def judged(result: SendResult | LmtpSendResult | None, error: SmtpError | None = None) -> Told:
    """What became of a message with two recipients."""
    return fates.judge(OUTGOING, SendOutcome(ENVELOPE, result, error))


def lmtp(*replies: SmtpResponse | None) -> LmtpSendResult:
    """An answer for each recipient."""
    return LmtpSendResult(
        tuple(
            RecipientResult(path, reply, reply is not None and reply.is_success)
            for path, reply in zip((A, B), replies, strict=True)
        )
    )


@pytest.mark.parametrize(
    ("told", "fate", "accepted"),
    [
        (judged(SendResult(OK, (A, B))), Fate.DELIVERED, 2),
        (judged(SendResult(OK, (A,), (RejectedRecipient(B, NO),))), Fate.PARTLY, 1),
        (judged(lmtp(OK, OK)), Fate.DELIVERED, 2),
        (judged(lmtp(OK, NO)), Fate.PARTLY, 1),
        (judged(lmtp(LATER, NO)), Fate.REFUSED, 0),
        (judged(lmtp(OK, None)), Fate.UNKNOWN, 1),
        (judged(None, LOST), Fate.UNKNOWN, 0),
        (judged(None, PermanentError(NO, phase=Phase.MAIL)), Fate.REFUSED, 0),
        (judged(None, AllRecipientsFailedError([RejectedRecipient(A, NO)])), Fate.REFUSED, 0),
        (judged(None, PermanentError(NO, phase=Phase.GREETING)), Fate.FAILED, 0),
        (judged(None, TransportError("no", phase=Phase.CONNECT)), Fate.FAILED, 0),
    ],
)
def test_a_fate(told: Told, fate: Fate, accepted: int) -> None:
    """By the server's answers, and unknown whenever one is missing that may be a yes."""
    assert told.fate is fate
    assert told.accepted == accepted


def test_a_fate_in_words() -> None:
    """The reply, whom it is not delivered to, and why."""
    told = judged(SendResult(OK, (A,), (RejectedRecipient(B, NO),)))
    assert str(told) == "m.eml: to 1 of 2 recipients: 250 ok; not to b@example.com: 550 no"
    assert "not to b@example.com: no answer" in str(judged(lmtp(OK, None)))
    assert str(judged(None, LOST)) == "m.eml: lost"
    assert str(Told("m", Fate.FAILED, error=OSError(5, "broken", "m"))) == "m: broken"


def shown(*tolds: Told) -> list[str]:
    """The report."""
    stdout = io.StringIO()
    fates.show(tolds, Output(stdout=stdout, stderr=io.StringIO()), 2.0)
    return stdout.getvalue().splitlines()


DELIVERED = judged(SendResult(OK, (A, B)))
REFUSED = judged(None, PermanentError(NO, phase=Phase.MAIL))
UNKNOWN = judged(None, LOST)
DEFERRED = judged(None, TransientError(LATER, phase=Phase.MAIL))


def test_a_report_of_many() -> None:
    """Failures first, unknown before all; counts; and what not to do."""
    lines = shown(DELIVERED, REFUSED, UNKNOWN, DELIVERED)
    assert lines == [
        "unknown       m.eml: lost",
        "refused       m.eml: the server refused mail: 550 no",
        "delivered          2",
        "refused            1",
        "unknown            1",
        "unknown: these may have been delivered: do not send them again blindly",
        "4 messages in 2.00 s, 2 per second",
    ]


def test_a_report_of_one_error_for_all() -> None:
    """Is not told a thousand times; the error itself is told at the end."""
    error = TransportError("no server", phase=Phase.CONNECT)
    lines = shown(*[Told(f"{n}.eml", Fate.FAILED, error=error) for n in range(1000)])
    assert lines[0] == "delivered          0"
    assert "failed          1000" in lines


@pytest.mark.parametrize(
    ("tolds", "code", "sysexit"),
    [
        ([DELIVERED], Exit.OK, 0),
        ([DELIVERED, DELIVERED], Exit.OK, 0),
        ([REFUSED], Exit.MAIL, os.EX_UNAVAILABLE),
        ([UNKNOWN], Exit.SOME_UNKNOWN, os.EX_PROTOCOL),
        ([judged(lmtp(OK, NO))], Exit.SOME_REFUSED, os.EX_UNAVAILABLE),
        ([judged(lmtp(NO, NO))], Exit.CONTENT, os.EX_UNAVAILABLE),
        ([judged(lmtp(LATER, LATER))], Exit.CONTENT, os.EX_TEMPFAIL),
        ([judged(lmtp(OK, None))], Exit.SOME_UNKNOWN, os.EX_PROTOCOL),
        ([DELIVERED, REFUSED], Exit.SOME_REFUSED, os.EX_UNAVAILABLE),
        ([DELIVERED, DEFERRED], Exit.SOME_REFUSED, os.EX_TEMPFAIL),
        ([DEFERRED, REFUSED], Exit.SOME_REFUSED, os.EX_UNAVAILABLE),
        ([DELIVERED, REFUSED, UNKNOWN], Exit.SOME_UNKNOWN, os.EX_PROTOCOL),
    ],
)
def test_exit_codes(tolds: list[Told], code: Exit, sysexit: int) -> None:
    """One message's own error; for many whether some were refused, and before that unknown."""
    ending = fates.ending(tolds, {})
    assert ending.code is code
    assert sysexit_of(ending.code, ending.error) == sysexit
    assert (ending.error is None) == (code is Exit.OK)


def test_a_fate_as_json() -> None:
    """With every key always."""
    found = [told.as_json() for told in (DELIVERED, REFUSED, judged(lmtp(OK, None)))]
    assert len({tuple(each) for each in found}) == 1
    assert found[0]["reply"] == {"code": 250, "enhanced_status": None, "lines": ["ok"]}
    assert found[2]["refused"] == [{"recipient": "b@example.com", "reply": None}]
    assert fates.as_json([DELIVERED, UNKNOWN], 1.5)["counts"] == {
        "unknown": 1, "refused": 0, "failed": 0, "partly": 0, "delivered": 1,
    }  # fmt: skip
