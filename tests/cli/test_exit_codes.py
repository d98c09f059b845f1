"""ExitCode codes: where it went wrong, by swaks's numbers or those of sysexits(3)."""

from __future__ import annotations

import os

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    ConnectionClosedError,
    ForwardPath,
    PermanentError,
    Phase,
    PoolTimeoutError,
    ProtocolError,
    RejectedRecipient,
    SmtpError,
    SmtpResponse,
    SmtpTimeoutError,
    StartTlsUnavailableError,
    TlsError,
    TransientError,
    TransportError,
    ValidationError,
)
from smtpconn.cli.exit_codes import (
    CommandResult,
    ExitCode,
    UsageError,
    exit_code_of,
    sysexit_of,
    table,
    text_of,
)

NO, LATER = SmtpResponse(550, ("no",)), SmtpResponse(450, ("later",))


def refused(*replies: SmtpResponse) -> AllRecipientsFailedError:
    """All recipients refused, with these replies."""
    return AllRecipientsFailedError([RejectedRecipient(ForwardPath("a@b.c"), r) for r in replies])


@pytest.mark.parametrize(
    ("error", "code", "sysexit"),
    [
        (TransportError("x", phase=Phase.CONNECT), ExitCode.CONNECT, os.EX_TEMPFAIL),
        (SmtpTimeoutError("x", phase=Phase.CONNECT), ExitCode.CONNECT, os.EX_TEMPFAIL),
        (PoolTimeoutError("x"), ExitCode.CONNECT, os.EX_TEMPFAIL),
        (ConnectionClosedError("x", phase=Phase.RCPT), ExitCode.CLOSED, os.EX_TEMPFAIL),
        (PermanentError(NO, phase=Phase.GREETING), ExitCode.BANNER, os.EX_UNAVAILABLE),
        (ProtocolError("x", phase=Phase.GREETING), ExitCode.BANNER, os.EX_UNAVAILABLE),
        (TransientError(LATER, phase=Phase.EHLO), ExitCode.EHLO, os.EX_TEMPFAIL),
        (PermanentError(NO, phase=Phase.MAIL), ExitCode.MAIL, os.EX_UNAVAILABLE),
        (refused(NO), ExitCode.RCPT, os.EX_UNAVAILABLE),
        (refused(LATER, LATER), ExitCode.RCPT, os.EX_TEMPFAIL),
        (TransientError(LATER, phase=Phase.DATA), ExitCode.DATA, os.EX_TEMPFAIL),
        (PermanentError(NO, phase=Phase.CONTENT), ExitCode.CONTENT, os.EX_UNAVAILABLE),
        (AuthError(SmtpResponse(535, ("no",))), ExitCode.AUTH, os.EX_NOPERM),
        (AuthError(SmtpResponse(454, ("no",))), ExitCode.AUTH, os.EX_TEMPFAIL),
        (TlsError("x", phase=Phase.TLS), ExitCode.TLS, os.EX_UNAVAILABLE),
        (TlsError("x", phase=Phase.MAIL), ExitCode.TLS, os.EX_UNAVAILABLE),
        (StartTlsUnavailableError("x"), ExitCode.TLS, os.EX_UNAVAILABLE),
        (PermanentError(NO, phase=Phase.NOOP), ExitCode.COMMAND, os.EX_UNAVAILABLE),
        (ValidationError("x"), ExitCode.USAGE, os.EX_DATAERR),
        (UsageError("x"), ExitCode.USAGE, os.EX_USAGE),
        (UsageError("x", os.EX_NOINPUT), ExitCode.USAGE, os.EX_NOINPUT),
        (FileNotFoundError(2, "gone", "f"), ExitCode.USAGE, os.EX_OSERR),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, 130),
    ],
)
def test_an_error_and_its_codes(error: BaseException, code: ExitCode, sysexit: int) -> None:
    """Each error has the code of where it happened; 75 only where sending again is right."""
    assert exit_code_of(error) is code
    assert sysexit_of(code, error) == sysexit


def test_what_may_have_been_delivered_is_never_a_reason_to_send_again() -> None:
    """An error that is transient and unknown is no EX_TEMPFAIL."""
    error = SmtpTimeoutError("x", phase=Phase.CONTENT, may_have_been_delivered=True)
    assert error.is_transient
    assert sysexit_of(exit_code_of(error), error) == os.EX_PROTOCOL
    assert sysexit_of(ExitCode.SOME_UNKNOWN, None) == os.EX_PROTOCOL


def test_what_has_no_error() -> None:
    """Success is 0 and a bug is EX_SOFTWARE, with and without an error."""
    assert CommandResult.of(None, {}) == CommandResult(ExitCode.OK)
    assert sysexit_of(ExitCode.OK, None) == 0
    assert sysexit_of(ExitCode.BUG, ValueError()) == os.EX_SOFTWARE
    assert sysexit_of(ExitCode.SOME_REFUSED, None) == os.EX_UNAVAILABLE


def test_errors_are_one_line() -> None:
    """The text has the name of the file, and is never empty."""
    assert text_of(FileNotFoundError(2, "gone", "f.eml")) == "f.eml: gone"
    assert text_of(OSError(28, "no space")) == "no space"
    assert text_of(SmtpError("what")) == "what"
    assert text_of(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_the_table_has_every_code_once() -> None:
    """What --help shows is complete."""
    numbers = [int(line.split()[0]) for line in table().splitlines()]
    assert numbers == sorted(numbers)
    assert numbers == [code.value for code in ExitCode]
    assert len(set(numbers)) == len(numbers)
