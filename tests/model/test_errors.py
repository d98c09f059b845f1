"""Errors: what each is besides an SmtpError, what it tells, and that it survives a process."""

from __future__ import annotations

import copy
import pickle
import smtplib
import traceback

import pytest

from smtpconn.model import errors
from smtpconn.model.addresses import ForwardPath
from smtpconn.model.errors import (
    AllRecipientsFailedError,
    AuthError,
    ConnectionClosedError,
    ParseError,
    PermanentError,
    Phase,
    PoolClosedError,
    PoolError,
    PoolOverloadedError,
    PoolTimeoutError,
    ProtocolError,
    ResponseError,
    SmtpError,
    SmtpTimeoutError,
    SmtpUtf8RequiredError,
    StartTlsUnavailableError,
    TlsError,
    TransientError,
    TransportError,
    UnsupportedExtensionError,
    ValidationError,
    refusal,
)
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.results import RejectedRecipient

BUSY = SmtpResponse(451, ("4.3.0 try", "later"))
NO = SmtpResponse(550, ("5.1.1 gr\udcfcn",))
GONE = SmtpResponse(550, ("5.1.1 gone",))
LATER = SmtpResponse(450, ("4.2.0 grün",))


def refused(*responses: SmtpResponse) -> AllRecipientsFailedError:
    """The error for recipients that got these replies."""
    return AllRecipientsFailedError(
        [
            RejectedRecipient(ForwardPath(f"u{number}@example.com"), response)
            for number, response in enumerate(responses)
        ]
    )


TREE: dict[type[SmtpError], tuple[type[BaseException], ...]] = {
    SmtpError: (smtplib.SMTPException, OSError),
    TransportError: (SmtpError, ConnectionError),
    TlsError: (TransportError,),
    ConnectionClosedError: (SmtpError, smtplib.SMTPServerDisconnected, ConnectionError),
    SmtpTimeoutError: (SmtpError, TimeoutError),
    ProtocolError: (SmtpError,),
    ParseError: (ProtocolError,),
    ResponseError: (SmtpError, smtplib.SMTPResponseException),
    TransientError: (ResponseError,),
    PermanentError: (ResponseError,),
    AuthError: (ResponseError, smtplib.SMTPAuthenticationError),
    AllRecipientsFailedError: (SmtpError, smtplib.SMTPRecipientsRefused),
    StartTlsUnavailableError: (SmtpError, smtplib.SMTPNotSupportedError),
    SmtpUtf8RequiredError: (SmtpError, smtplib.SMTPNotSupportedError),
    UnsupportedExtensionError: (SmtpError, smtplib.SMTPNotSupportedError),
    PoolError: (SmtpError,),
    PoolTimeoutError: (PoolError, TimeoutError),
    PoolOverloadedError: (PoolError,),
    PoolClosedError: (PoolError,),
    ValidationError: (SmtpError, ValueError),
}

TRANSIENT = {
    TransportError,
    ConnectionClosedError,
    SmtpTimeoutError,
    PoolTimeoutError,
    PoolOverloadedError,
}
"""The plain errors after which the same call may succeed later."""

PLAIN = [kind for kind in TREE if not issubclass(kind, (ResponseError, AllRecipientsFailedError))]

ERRORS: list[SmtpError] = [
    *(kind("what happened") for kind in PLAIN),
    *(kind("ünïcode \udcff", phase=Phase.CONTENT, may_have_been_delivered=True) for kind in PLAIN),
    SmtpError(),
    ResponseError(SmtpResponse(354, ("go",)), phase=Phase.MAIL),
    TransientError(BUSY, phase=Phase.DATA),
    PermanentError(NO, phase=Phase.RCPT),
    AuthError(SmtpResponse(535, ("5.7.8 no",))),
    AuthError(SmtpResponse(454, ("4.7.0 later",)), server_error='{"status":"401"}'),
    refused(GONE),
    refused(GONE, BUSY),
    refused(BUSY, LATER),
    refused(),
]


def state(error: SmtpError) -> dict[str, object]:
    """Everything an error tells."""
    names = [
        *("phase", "is_transient", "may_have_been_delivered", "args"),
        *("response", "smtp_code", "smtp_error", "server_error"),
        *("rejected_recipients", "recipients", "count", "responses"),
    ]
    told = {name: getattr(error, name, None) for name in names}
    return told | vars(error) | {"type": type(error), "str": str(error)}


def test_the_tree_has_every_error() -> None:
    """A new error has to be added to the table above."""
    found = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, SmtpError)
    }
    assert found == set(TREE)


@pytest.mark.parametrize(("kind", "bases"), TREE.items())
def test_an_error_is_what_its_users_catch(
    kind: type[SmtpError], bases: tuple[type[BaseException], ...]
) -> None:
    """Each error is caught by the classes that code for smtplib and sockets catches already."""
    assert kind.__bases__ == bases or set(bases) <= set(kind.__mro__)
    for base in bases:
        with pytest.raises(base):
            raise kind.__new__(kind)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (SmtpTimeoutError, ConnectionError),
        (ProtocolError, ConnectionError),
        (ValidationError, ConnectionError),
        (ResponseError, ConnectionError),
        (PoolError, ConnectionError),
        (PoolOverloadedError, TimeoutError),
        (TransportError, TimeoutError),
        (TransportError, smtplib.SMTPServerDisconnected),
        (PermanentError, TransientError),
        (AuthError, PermanentError),
        (AuthError, TransientError),
        (ProtocolError, ValueError),
    ],
)
def test_an_error_is_nothing_else(kind: type[SmtpError], base: type[BaseException]) -> None:
    """An error is not caught by a class that means something different."""
    assert not issubclass(kind, base)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_pickle(error: SmtpError, protocol: int) -> None:
    """An error arrives in another process with everything it tells."""
    same = pickle.loads(pickle.dumps(error, protocol))
    assert type(same) is type(error)
    assert state(same) == state(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_copy(error: SmtpError) -> None:
    """A copied error tells the same."""
    assert state(copy.copy(error)) == state(error)
    assert state(copy.deepcopy(error)) == state(error)


def test_notes_survive() -> None:
    """What a caller adds to an error goes with it."""
    error = ProtocolError("x")
    error.add_note("while sending invoice 5")
    assert pickle.loads(pickle.dumps(error)).__notes__ == ["while sending invoice 5"]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_can_be_shown(error: SmtpError) -> None:
    """Every error has a text, a repr and a traceback."""
    assert isinstance(str(error), str)
    assert type(error).__name__ in repr(error)
    assert type(error).__name__ in "".join(traceback.format_exception_only(error))


@pytest.mark.parametrize("kind", PLAIN)
def test_what_a_plain_error_tells(kind: type[SmtpError]) -> None:
    """An error tells where it happened, whether to try again and whether that could double."""
    error = kind("what happened")
    assert str(error) == "what happened"
    assert isinstance(error.phase, Phase)
    assert error.is_transient is (kind in TRANSIENT)
    assert error.may_have_been_delivered is False
    told = kind("x", phase=Phase.CONTENT, may_have_been_delivered=True)
    assert told.phase is Phase.CONTENT
    assert told.may_have_been_delivered is True
    assert kind("x").may_have_been_delivered is False


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        (StartTlsUnavailableError, Phase.STARTTLS),
        (PoolTimeoutError, Phase.POOL),
        (PoolClosedError, Phase.POOL),
        (ValidationError, Phase.INPUT),
    ],
)
def test_phases_that_go_without_saying(kind: type[SmtpError], phase: Phase) -> None:
    """Where it happened is known where it can only be one place."""
    assert kind("x").phase is phase


@pytest.mark.parametrize(
    "error",
    [
        ResponseError(NO, phase=Phase.MAIL),
        PermanentError(NO, phase=Phase.RCPT),
        TransientError(LATER, phase=Phase.DATA),
        AuthError(NO),
    ],
)
def test_what_a_refusal_tells(error: ResponseError) -> None:
    """A refusal has the whole reply, and the same for those who know smtplib."""
    assert error.response in (NO, LATER)
    assert error.smtp_code == error.response.code
    assert error.smtp_error in (b"5.1.1 gr\xfcn", "4.2.0 grün".encode())
    assert error.is_transient is error.response.is_transient
    assert str(error.response) in str(error)
    assert str(error.phase) in str(error)
    assert str(error).encode()


def test_lines_of_a_refusal() -> None:
    """Several lines read as one in the text and are joined as smtplib joins them."""
    error = TransientError(BUSY, phase=Phase.DATA)
    assert str(error) == "the server refused data: 451 4.3.0 try / later"
    assert error.smtp_error == b"4.3.0 try\nlater"


def test_what_a_refused_login_tells() -> None:
    """A refused login is transient for a 454 only, and has what the server said of a token."""
    assert not AuthError(SmtpResponse(535, ("no",))).is_transient
    assert AuthError(SmtpResponse(454, ("later",))).is_transient
    assert AuthError(SmtpResponse(535)).server_error == ""
    error = AuthError(SmtpResponse(535, ("no",)), server_error='{"status":"\x1b[2J"}' + "x" * 9999)
    assert error.phase is Phase.AUTH
    assert "status" in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 700


@pytest.mark.parametrize(
    ("responses", "is_transient"),
    [((NO,), False), ((BUSY,), True), ((BUSY, LATER), True), ((BUSY, NO), False)],
)
def test_what_all_refused_tells(responses: tuple[SmtpResponse, ...], is_transient: bool) -> None:
    """All recipients refused is transient only if each may be accepted later."""
    error = refused(*responses)
    assert error.is_transient is is_transient
    assert error.count == len(responses) == len(error.rejected_recipients)
    assert error.responses == responses
    assert error.phase is Phase.RCPT
    assert not error.may_have_been_delivered
    assert "u0@example.com" in str(error)
    assert error.recipients == {
        f"u{number}@example.com": (
            response.code,
            "\n".join(response.lines).encode("utf-8", "surrogateescape"),
        )
        for number, response in enumerate(responses)
    }


def test_refused_text_that_is_no_utf8() -> None:
    """A refusal in Latin-1 does not turn the error into another one."""
    assert refused(NO).recipients == {"u0@example.com": (550, b"5.1.1 gr\xfcn")}


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (250, ProtocolError),
        (354, ProtocolError),
        (400, TransientError),
        (499, TransientError),
        (500, PermanentError),
        (599, PermanentError),
    ],
)
def test_refusal(code: int, kind: type[SmtpError]) -> None:
    """A refusal is the error for its class; a reply that is none stands in the wrong place."""
    error = refusal(SmtpResponse(code, ("text",)), Phase.DATA)
    assert type(error) is kind
    assert error.phase is Phase.DATA
    assert f"{code} text" in str(error)


def test_phases_read_well() -> None:
    """A phase is a word in lower case, each another one."""
    words = [str(phase) for phase in Phase]
    assert all(word.isalpha() and word.islower() for word in words)
    assert len(set(words)) == len(words)
    assert f"{Phase.STARTTLS}" == "starttls"
