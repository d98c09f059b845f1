"""Errors as programs that know smtplib see them."""

from __future__ import annotations

import copy
import errno
import pickle
import smtplib
import ssl

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionClosedError,
    ParseError,
    Phase,
    SmtpError,
    SmtpResponse,
    TlsError,
    TransportError,
)
from smtpconn.model.response_errors import refusal
from smtpconn.smtplib.errors import as_smtplib, refused
from smtpconn.smtplib.replies import text_of

NO = SmtpResponse(550, ("5.7.1 no", " and no "))


@pytest.mark.parametrize(
    ("phase", "kind"),
    [
        (Phase.GREETING, smtplib.SMTPConnectError),
        (Phase.EHLO, smtplib.SMTPHeloError),
        (Phase.MAIL, smtplib.SMTPSenderRefused),
        (Phase.DATA, smtplib.SMTPDataError),
        (Phase.CONTENT, smtplib.SMTPDataError),
        (Phase.STARTTLS, smtplib.SMTPResponseException),
    ],
)
def test_a_refusal(phase: Phase, kind: type[Exception]) -> None:
    """Its class and args are those of smtplib; copies and pickles are smtpconn's error."""
    error = as_smtplib(refusal(NO, phase))
    assert isinstance(error, kind)
    sender = ("",) if phase is Phase.MAIL else ()
    assert error.args == (550, b"5.7.1 no\n and no ", *sender)
    assert as_smtplib(error) is error
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(other, kind)
        assert isinstance(other, SmtpError)
        assert (str(other), other.phase) == (str(error), phase)
        assert isinstance(other.args[1], dict)


def test_a_reply_that_is_no_refusal() -> None:
    """smtplib has a class for it all the same."""
    error = refused(SmtpResponse(354, ("hm",)), Phase.GREETING, smtplib.SMTPConnectError)
    assert type(error) is smtplib.SMTPConnectError
    assert error.args == (354, b"hm")


def test_a_reply_that_cannot_be_read() -> None:
    """It has a code, as smtplib makes one up."""
    error = as_smtplib(ParseError("too long", phase=Phase.NOOP))
    assert {ParseError, smtplib.SMTPResponseException} <= set(type(error).__mro__)
    assert error.args == (500, b"too long")
    greeting = as_smtplib(ParseError("too long", phase=Phase.GREETING))
    assert isinstance(greeting, smtplib.SMTPConnectError)
    assert type(pickle.loads(pickle.dumps(error))) is ParseError


def test_errors_of_the_system() -> None:
    """Their args are the number and its text."""
    cause = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    error = as_smtplib(TransportError("no", phase=Phase.CONNECT, cause=cause))
    assert isinstance(error, ConnectionRefusedError)
    assert error.args == (errno.ECONNREFUSED, "Connection refused")
    assert str(error) == "no"
    assert isinstance(as_smtplib(TlsError("no", phase=Phase.TLS)), ssl.SSLError)


@pytest.mark.parametrize("kind", [TransportError, TlsError])
def test_a_session_that_the_network_has_ended(kind: type[SmtpError]) -> None:
    """Every error of the socket is a lost connection, as in smtplib."""
    cause = OSError(errno.EHOSTUNREACH, "No route to host")
    error = as_smtplib(kind("no", phase=Phase.MAIL, cause=cause))
    assert isinstance(error, smtplib.SMTPServerDisconnected)
    assert (error.args, error.errno) == (("no",), errno.EHOSTUNREACH)
    assert type(pickle.loads(pickle.dumps(error))).__name__ == kind.__name__
    connecting = as_smtplib(kind("no", phase=Phase.CONNECT, cause=cause))
    assert not isinstance(connecting, smtplib.SMTPServerDisconnected)


def test_others() -> None:
    """Their text."""
    closed = as_smtplib(ConnectionClosedError("gone", phase=Phase.MAIL))
    assert closed.args == ("gone",)
    assert isinstance(closed, smtplib.SMTPServerDisconnected)
    nobody = as_smtplib(AllRecipientsFailedError(()))
    assert nobody.args == ({},)
    assert isinstance(nobody, SmtpError)


def test_words_can_be_added() -> None:
    """As programs do that set args; and what decides may still change."""
    error = as_smtplib(ConnectionClosedError("gone", phase=Phase.MAIL))
    error.args = ("gone, alas",)
    error.may_have_been_delivered = True
    assert (str(error), error.is_safe_to_retry) == ("gone, alas", False)


def test_the_text_of_a_reply() -> None:
    """Each line without the blanks around it, as smtplib has it; any bytes."""
    assert text_of(SmtpResponse(250, (" a ", "b\udcff"))) == b"a\nb\xff"
