"""The delivery status of messages, and the report of it."""

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
from smtpconn.cli import results
from smtpconn.cli.exit_codes import ExitCode, sysexit_of
from smtpconn.cli.messages import OutgoingMessage
from smtpconn.cli.output import Output
from smtpconn.cli.results import DeliveryStatus, MessageResult

OK, NO, LATER = (SmtpResponse(c, (t,)) for c, t in ((250, "ok"), (550, "no"), (450, "later")))
A, B = ForwardPath("a@example.com"), ForwardPath("b@example.com")
ENVELOPE = Envelope("me@example.com", ["a@example.com", "b@example.com"], b"")
OUTGOING = OutgoingMessage("m.eml", ENVELOPE, b"")
LOST = ConnectionClosedError("lost", phase=Phase.CONTENT, may_have_been_delivered=True)


def judged(
    result: SendResult | LmtpSendResult | None, error: SmtpError | None = None
) -> MessageResult:
    """What became of a message with two recipients."""
    return results.result_of(OUTGOING, SendOutcome(ENVELOPE, result, error))


def lmtp(*replies: SmtpResponse | None) -> LmtpSendResult:
    """An answer for each recipient."""
    return LmtpSendResult(
        tuple(
            RecipientResult(path, reply, reply is not None and reply.is_success)
            for path, reply in zip((A, B), replies, strict=True)
        )
    )


@pytest.mark.parametrize(
    ("result", "status", "accepted"),
    [
        (judged(SendResult(OK, (A, B))), DeliveryStatus.DELIVERED, 2),
        (judged(SendResult(OK, (A,), (RejectedRecipient(B, NO),))), DeliveryStatus.PARTLY, 1),
        (judged(lmtp(OK, OK)), DeliveryStatus.DELIVERED, 2),
        (judged(lmtp(OK, NO)), DeliveryStatus.PARTLY, 1),
        (judged(lmtp(LATER, NO)), DeliveryStatus.REFUSED, 0),
        (judged(lmtp(OK, None)), DeliveryStatus.UNKNOWN, 1),
        (judged(None, LOST), DeliveryStatus.UNKNOWN, 0),
        (judged(None, PermanentError(NO, phase=Phase.MAIL)), DeliveryStatus.REFUSED, 0),
        (
            judged(None, AllRecipientsFailedError([RejectedRecipient(A, NO)])),
            DeliveryStatus.REFUSED,
            0,
        ),
        (judged(None, PermanentError(NO, phase=Phase.GREETING)), DeliveryStatus.FAILED, 0),
        (judged(None, TransportError("no", phase=Phase.CONNECT)), DeliveryStatus.FAILED, 0),
    ],
)
def test_a_status(result: MessageResult, status: DeliveryStatus, accepted: int) -> None:
    """The status follows from the replies; a missing reply makes it unknown."""
    assert result.status is status
    assert result.accepted == accepted


def test_a_status_in_words() -> None:
    """The text has the reply, and each refused recipient with its reply."""
    result = judged(SendResult(OK, (A,), (RejectedRecipient(B, NO),)))
    assert str(result) == "m.eml: to 1 of 2 recipients: 250 ok; not to b@example.com: 550 no"
    assert "not to b@example.com: no answer" in str(judged(lmtp(OK, None)))
    assert str(judged(None, LOST)) == "m.eml: lost"
    assert (
        str(MessageResult("m", DeliveryStatus.FAILED, error=OSError(5, "broken", "m")))
        == "m: broken"
    )


def shown(*found: MessageResult) -> list[str]:
    """The report."""
    stdout = io.StringIO()
    results.show(found, Output(stdout=stdout, stderr=io.StringIO()), 2.0)
    return stdout.getvalue().splitlines()


DELIVERED = judged(SendResult(OK, (A, B)))
REFUSED = judged(None, PermanentError(NO, phase=Phase.MAIL))
UNKNOWN = judged(None, LOST)
DEFERRED = judged(None, TransientError(LATER, phase=Phase.MAIL))


def test_a_report_of_many() -> None:
    """Failures come first, then the counts; the unknown messages are the last lines."""
    lines = shown(DELIVERED, REFUSED, UNKNOWN, DELIVERED)
    assert lines == [
        "refused       m.eml: the server refused mail: 550 no",
        "delivered          2",
        "refused            1",
        "unknown            1",
        "4 messages in 2.00 s, 2 per second",
        "unknown: these may have been delivered: do not send them again blindly",
        "unknown       m.eml: lost",
    ]


def test_a_report_of_one_error_for_all() -> None:
    """It is not repeated for each message; the error itself is the last line."""
    error = TransportError("no server", phase=Phase.CONNECT)
    lines = shown(
        *[MessageResult(f"{n}.eml", DeliveryStatus.FAILED, error=error) for n in range(1000)]
    )
    assert lines[0] == "delivered          0"
    assert "failed          1000" in lines


@pytest.mark.parametrize(
    ("found", "code", "sysexit"),
    [
        ([DELIVERED], ExitCode.OK, 0),
        ([DELIVERED, DELIVERED], ExitCode.OK, 0),
        ([REFUSED], ExitCode.MAIL, os.EX_UNAVAILABLE),
        ([UNKNOWN], ExitCode.SOME_UNKNOWN, os.EX_PROTOCOL),
        ([judged(lmtp(OK, NO))], ExitCode.SOME_REFUSED, os.EX_UNAVAILABLE),
        ([judged(lmtp(NO, NO))], ExitCode.CONTENT, os.EX_UNAVAILABLE),
        ([judged(lmtp(LATER, LATER))], ExitCode.CONTENT, os.EX_TEMPFAIL),
        ([judged(lmtp(OK, None))], ExitCode.SOME_UNKNOWN, os.EX_PROTOCOL),
        ([DELIVERED, REFUSED], ExitCode.SOME_REFUSED, os.EX_UNAVAILABLE),
        ([DELIVERED, DEFERRED], ExitCode.SOME_REFUSED, os.EX_TEMPFAIL),
        ([DEFERRED, REFUSED], ExitCode.SOME_REFUSED, os.EX_UNAVAILABLE),
        ([DELIVERED, REFUSED, UNKNOWN], ExitCode.SOME_UNKNOWN, os.EX_PROTOCOL),
    ],
)
def test_exit_codes(found: list[MessageResult], code: ExitCode, sysexit: int) -> None:
    """One message has the code of its error; with many, unknown goes before refused."""
    ending = results.command_result(found, {})
    assert ending.code is code
    assert sysexit_of(ending.code, ending.error) == sysexit
    assert (ending.error is None) == (code is ExitCode.OK)


def test_a_status_as_json() -> None:
    """Every status has the same keys."""
    found = [result.as_json() for result in (DELIVERED, REFUSED, judged(lmtp(OK, None)))]
    assert len({tuple(each) for each in found}) == 1
    assert found[0]["reply"] == {"code": 250, "enhanced_status": None, "lines": ["ok"]}
    assert found[2]["refused"] == [{"recipient": "b@example.com", "reply": None}]
    assert results.as_json([DELIVERED, UNKNOWN], 1.5)["counts"] == {
        "unknown": 1, "refused": 0, "failed": 0, "partly": 0, "delivered": 1,
    }  # fmt: skip
