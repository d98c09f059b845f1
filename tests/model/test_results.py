"""Envelopes and results: plain values."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from email.message import EmailMessage
from email.mime.text import MIMEText

import pytest

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.errors import ProtocolError, SmtpError, ValidationError
from smtpconn.model.parameters import DsnNotify, MailFromParams, RcptToParams
from smtpconn.model.replies import EnhancedStatusCode, SmtpResponse
from smtpconn.model.results import (
    Envelope,
    LmtpSendResult,
    RecipientResult,
    RejectedRecipient,
    SendOutcome,
    SendResult,
)

OK = SmtpResponse(250, ("2.0.0 queued as 5",), EnhancedStatusCode(2, 0, 0))
NO = SmtpResponse(550, ("no",))
A, B = ForwardPath("a@example.com"), ForwardPath("b@example.com")
REJECTED = RejectedRecipient(B, NO)
ENVELOPE = Envelope(
    ReversePath(""),
    (A, "b@example.com"),
    b"x\r\n",
    MailFromParams(envid="1"),
    (RcptToParams(),) * 2,
)

VALUES: list[object] = [
    REJECTED,
    SendResult(OK, (A,)),
    SendResult(OK, (A,), (REJECTED,)),
    RecipientResult(A, OK, True),
    RecipientResult(A, None, False),
    LmtpSendResult((RecipientResult(A, OK, True),), (REJECTED,)),
    ENVELOPE,
    SendOutcome(ENVELOPE, SendResult(OK, (A,)), None),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_they_are_values(value: object) -> None:
    """They compare by value, hash, copy and pickle."""
    for same in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert same == value
        assert hash(same) == hash(value)
        assert repr(same) == repr(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_they_cannot_be_changed(value: object) -> None:
    """They are frozen and have no room for anything else."""
    assert dataclasses.is_dataclass(value)
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
    assert not hasattr(value, "__dict__")


def test_what_may_be_left_out() -> None:
    """The parameters of an envelope and the rejected recipients of a result may be left out."""
    envelope = Envelope("a@example.com", ["b@example.com"], b"")
    assert envelope.mail_params is None
    assert envelope.rcpt_params is None
    assert SendResult(OK, (A,)).rejected_recipients == ()
    assert LmtpSendResult(()).rejected_recipients == ()


def test_different_values_differ() -> None:
    """Every field counts."""
    envelope = Envelope("a@example.com", ["b@example.com"], b"")
    changes: list[dict[str, object]] = [
        {"sender": "x@example.com"},
        {"recipients": []},
        {"message": b"x"},
        {"mail_params": MailFromParams()},
        {"rcpt_params": [RcptToParams(notify=DsnNotify.NEVER)]},
    ]
    for change in changes:
        assert dataclasses.replace(envelope, **change) != envelope  # type: ignore[arg-type]


def test_an_envelope_holds_what_it_was_given() -> None:
    """An envelope neither copies nor reads nor checks: a stream stays unread until it is sent."""
    message = iter([b"x"])
    recipients = ["not checked"]
    envelope = Envelope("not checked", recipients, message)
    assert envelope.message is message
    assert envelope.recipients is recipients
    assert next(message) == b"x"


def test_results_are_read_by_what_the_caller_wrote() -> None:
    """However the address is sent; and addresses compare as the text they are sent as."""
    paths = [ForwardPath(text) for text in (" a@example.com", "<b@example.com>", "c..d@e.f")]
    result = SendResult(OK, (paths[0],), tuple(RejectedRecipient(path, NO) for path in paths[1:]))
    assert result.accepted == (" a@example.com",)
    assert result.refused == {"<b@example.com>": NO, "c..d@e.f": NO}
    assert "a@example.com" in result.accepted_recipients
    assert result.rejected_recipients[1].recipient == '"c..d"@e.f'


def test_a_result_of_lmtp_is_read_in_the_same_way() -> None:
    """Recipients are delivered, refused at RCPT or later, or unknown."""
    texts = ("<a@example.com>", " b@example.com", "c@example.com", "d..e@example.com")
    got, refused, unknown, rejected = map(ForwardPath, texts)
    result = LmtpSendResult(
        (
            RecipientResult(refused, NO, False),
            RecipientResult(got, OK, True),
            RecipientResult(unknown, None, False),
        ),
        (RejectedRecipient(rejected, NO),),
    )
    assert isinstance(result, SendResult)
    assert result.accepted == ("<a@example.com>",)
    assert [str(path) for path in result.accepted_recipients] == ["a@example.com"]
    assert result.refused == {" b@example.com": NO, "d..e@example.com": NO}
    assert result.response is OK
    assert LmtpSendResult((RecipientResult(refused, NO, False),)).response is NO
    assert LmtpSendResult((), result.rejected_recipients).response is NO
    assert dataclasses.replace(result, results=()) == LmtpSendResult((), result.rejected_recipients)
    match result:
        case LmtpSendResult(results, rejected_recipients):
            assert (results, rejected_recipients) == (result.results, result.rejected_recipients)


def letter() -> EmailMessage:
    """A message to two recipients, one of them in Bcc."""
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "a@x.example", "B <b@x.example>", "c@x.example"
    message.set_content("hi\n")
    return message


def test_the_envelope_of_a_message() -> None:
    """Sender and recipients are those of the header fields, or those that are given."""
    message = letter()
    envelope = Envelope.from_message(message)
    both = (ForwardPath("b@x.example"), ForwardPath("c@x.example"))
    assert envelope == Envelope(ReversePath("a@x.example"), both, message)
    assert envelope.message is message
    params = MailFromParams(envid="1")
    given = Envelope.from_message(message, "", ["d@x.example"], mail_params=params)
    assert (given.sender, given.recipients, given.mail_params) == ("", ["d@x.example"], params)
    old = MIMEText("hi")
    old["From"] = old["To"] = "a@x.example"
    assert Envelope.from_message(old).recipients == ("a@x.example",)


def test_what_has_no_envelope() -> None:
    """Bytes, and a message without recipients in its header."""
    with pytest.raises(ValidationError, match="from_message takes"):
        Envelope.from_message(b"From: a@x")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="From"):
        Envelope.from_message(EmailMessage())


def test_an_outcome_can_have_an_error() -> None:
    """The outcome of an envelope that failed has the error and no result."""
    error = ProtocolError("x")
    outcome = SendOutcome(ENVELOPE, None, error)
    assert outcome.result is None
    assert outcome.error is error
    assert str(pickle.loads(pickle.dumps(outcome)).error) == "x"


@pytest.mark.parametrize(
    ("envelope", "shown"),
    [
        (
            Envelope("a@x.example", ["b@y.example"], b"secret\r\n"),
            "Envelope(sender='a@x.example', recipients=['b@y.example'], message=<8 bytes>)",
        ),
        (
            Envelope("a@x.example", "b@y.example", memoryview(b"secret")),
            "Envelope(sender='a@x.example', recipients='b@y.example', message=<6 bytes>)",
        ),
        (
            Envelope(ReversePath(""), [ForwardPath("b@y.example")] * 7, iter([b"secret"])),
            "Envelope(sender='', recipients=['b@y.example', 'b@y.example', 'b@y.example', "
            "'b@y.example', 'b@y.example', ... 7 in all], message=<list_iterator>)",
        ),
        (
            Envelope("a@x.example\n", ["b"], b"", MailFromParams(envid="x")),
            "Envelope(sender='a@x.example\\n', recipients=['b'], message=<0 bytes>, mail_params=",
        ),
    ],
)
def test_the_repr_of_an_envelope(envelope: Envelope, shown: str) -> None:
    """One line, with the addresses and the size, and nothing of what is in the message."""
    assert repr(envelope).startswith(shown)
    for text in (repr(envelope), repr(SendOutcome(envelope, None, SmtpError("a\nb")))):
        assert "\n" not in text
        assert "secret" not in text
