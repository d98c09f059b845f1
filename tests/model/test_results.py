"""Envelopes and results: plain values."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.errors import ProtocolError
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


def test_an_outcome_can_have_an_error() -> None:
    """The outcome of an envelope that failed has the error and no result."""
    error = ProtocolError("x")
    outcome = SendOutcome(ENVELOPE, None, error)
    assert outcome.result is None
    assert outcome.error is error
    assert str(pickle.loads(pickle.dumps(outcome)).error) == "x"
