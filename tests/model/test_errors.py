"""Errors: what each is besides an SmtpError, what it tells, and that it survives a process."""

from __future__ import annotations

import concurrent.futures
import copy
import itertools
import json
import multiprocessing
import pickle
import smtplib
import socket
import ssl
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest

import smtpconn
from smtpconn.contrib.delivery import local_recipients
from smtpconn.model import errors, response_errors
from smtpconn.model.addresses import ForwardPath
from smtpconn.model.errors import (
    ConnectionClosedError,
    ParseError,
    Phase,
    PoolClosedError,
    PoolError,
    PoolOverloadedError,
    PoolTimeoutError,
    ProtocolError,
    RetryableError,
    SmtpError,
    SmtpTimeoutError,
    SmtpUtf8RequiredError,
    StartTlsUnavailableError,
    TlsError,
    TransportError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import (
    AllRecipientsFailedError,
    AuthError,
    PermanentError,
    ResponseError,
    TransientError,
    explain,
    refusal,
)
from smtpconn.model.results import RejectedRecipient
from tests.support.error_classes import kind_of

ROOT = Path(__file__).parent.parent.parent
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
    RetryableError: (SmtpError,),
    TransportError: (SmtpError, ConnectionError),
    TlsError: (TransportError, ssl.SSLError),
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
    UnsupportedExtensionError: (ProtocolError, smtplib.SMTPNotSupportedError),
    PoolError: (SmtpError,),
    PoolTimeoutError: (PoolError, TimeoutError),
    PoolOverloadedError: (PoolError,),
    PoolClosedError: (PoolError,),
    ValidationError: (SmtpError, ValueError),
}

TRANSIENT = {
    RetryableError,
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
        for value in (vars(errors) | vars(response_errors)).values()
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
    error = kind("what happened", phase=Phase.MAIL)
    assert str(error) == "what happened"
    assert error.phase is Phase.MAIL
    assert error.is_transient is (kind in TRANSIENT)
    assert error.may_have_been_delivered is False
    told = kind("x", phase=Phase.CONTENT, may_have_been_delivered=True)
    assert told.phase is Phase.CONTENT
    assert told.may_have_been_delivered is True
    assert kind("x", phase=Phase.MAIL).may_have_been_delivered is False
    assert isinstance(kind("x").phase, Phase)


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


def test_refused_recipients_are_named_as_the_caller_wrote_them() -> None:
    """As smtplib names them; and they arrive so in another process."""
    texts = ("<u@example.com>", " v@example.com", "a..b@example.com")
    error = AllRecipientsFailedError([RejectedRecipient(ForwardPath(text), BUSY) for text in texts])
    same: AllRecipientsFailedError = pickle.loads(pickle.dumps(error))
    for each in (error, same):
        assert tuple(each.recipients) == texts
        assert tuple(r.recipient.written for r in each.rejected_recipients) == texts
        assert each.rejected_recipients == error.rejected_recipients


def test_refused_names_without_a_domain_survive_pickle() -> None:
    """Adapters can send to them; no path can be made of their text."""
    (path,) = local_recipients(["root"])
    error = AllRecipientsFailedError(
        [RejectedRecipient(path, NO), RejectedRecipient(ForwardPath("u@example.com"), NO)]
    )
    assert list(pickle.loads(pickle.dumps(error)).recipients) == ["root", "u@example.com"]


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
    assert kind_of(error) is kind
    assert error.phase is Phase.DATA
    assert f"{code} text" in str(error)


def test_phases_read_well() -> None:
    """A phase is a word in lower case, each another one."""
    words = [str(phase) for phase in Phase]
    assert all(word.isalpha() and word.islower() for word in words)
    assert len(set(words)) == len(words)
    assert f"{Phase.STARTTLS}" == "starttls"


EVERY_PUBLIC = list(TREE)
POSSIBLE = {
    SmtpError,
    TransportError,
    TlsError,
    ConnectionClosedError,
    SmtpTimeoutError,
    ProtocolError,
    ParseError,
}
"""The classes whose errors may be about a message of which it is unknown whether it arrived."""

OF_THE_SYSTEM: list[SmtpError] = [
    TransportError("x", phase=Phase.CONNECT, cause=ConnectionRefusedError(111, "refused")),
    TransportError("x", phase=Phase.CONNECT, cause=socket.gaierror(-2, "unknown")),
    TlsError("x", phase=Phase.TLS, cause=ssl.SSLError(1, "[SSL: X] x")),
    TlsError("x", phase=Phase.TLS, cause=ssl.SSLCertVerificationError(1, "untrusted")),
    ConnectionClosedError("x", phase=Phase.MAIL, cause=ConnectionResetError(104, "reset")),
    SmtpTimeoutError("x", phase=Phase.MAIL, cause=TimeoutError(110, "timed out")),
]


def with_everything() -> ResponseError:
    """A 421 at RCPT with the refused recipients."""
    error = TransientError(SmtpResponse(421, ("4.3.2 gr\udcfcn",)), phase=Phase.RCPT)
    explain(
        error,
        ehlo_domain="me.example",
        rejected=[RejectedRecipient(ForwardPath("u@example.com"), error.response)],
    )
    return error


def refused_sender() -> ResponseError:
    """A refused sender."""
    error = PermanentError(NO, phase=Phase.MAIL)
    explain(error, ehlo_domain="me.example", sender="bad@example.com")
    return error


TRAVELLERS = [*ERRORS, *OF_THE_SYSTEM, with_everything(), refused_sender()]
"""Errors with everything an error can tell."""


def through_json(args: tuple[Any, ...]) -> list[Any]:
    """What JSON makes of these arguments."""
    made: list[Any] = json.loads(json.dumps(args))
    return made


def described(error: SmtpError) -> dict[str, object]:
    """Everything an error tells, the system's numbers included."""
    names = ("errno", "strerror", "reason", "library", "verify_code", "verify_message", "sender")
    return state(error) | {name: getattr(error, name, None) for name in names}


@pytest.mark.parametrize("error", TRAVELLERS, ids=lambda error: type(error).__qualname__)
def test_errors_survive_json(error: SmtpError) -> None:
    """Rebuilt from its name and its arguments, as serialisers do it, an error is the same."""
    named = getattr(smtpconn, type(error).__qualname__)
    same = named(*through_json(error.args))
    assert type(same) is type(error)
    assert described(same) == described(error)
    assert described(pickle.loads(pickle.dumps(error))) == described(error)


@pytest.mark.parametrize("error", TRAVELLERS, ids=lambda error: type(error).__qualname__)
@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle"])
def test_errors_survive_celery(error: SmtpError, serializer: str) -> None:
    """A result backend of Celery's gives the caller the same error, whatever it serialises with."""
    if serializer == "yaml":
        pytest.importorskip("yaml")
    backend = celery.Celery(
        "test",
        backend="cache+memory://",
        set_as_current=False,
        result_serializer=serializer,
        result_accept_content=[serializer],
    ).backend
    sent = backend.encode(backend.prepare_exception(error))
    same = backend.exception_to_python(backend.decode(sent))
    assert described(same) == described(error)


@pytest.mark.parametrize("error", TRAVELLERS, ids=lambda error: type(error).__qualname__)
def test_errors_survive_the_name_of_their_documented_class(error: SmtpError) -> None:
    """Rebuilt as the class that logs name, an error tells the same and is as safe to retry."""
    same = getattr(smtpconn, type(error).__name__)(*through_json(error.args))
    assert described(same) | {"type": 0} == described(error) | {"type": 0}
    assert isinstance(same, RetryableError) is isinstance(error, RetryableError)


@pytest.mark.parametrize("kind", EVERY_PUBLIC)
def test_a_bare_text_is_never_a_false_certainty(kind: type[SmtpError]) -> None:
    """Rebuilt from its text alone, an error does not claim what it cannot know."""
    error = kind("what happened")
    assert str(error) == "what happened"
    assert error.may_have_been_delivered is (kind in POSSIBLE)
    assert isinstance(error, RetryableError) is error.is_safe_to_retry
    assert described(pickle.loads(pickle.dumps(error))) == described(error)


@pytest.mark.parametrize("kind", EVERY_PUBLIC)
@pytest.mark.parametrize(
    "facts",
    [
        "{'phase': 'content'}",
        7,
        ["content", True],
        {},
        {"phase": "nowhere", "is_transient": True, "may_have_been_delivered": False},
        {"phase": "content", "is_transient": True},
        {"phase": "content", "may_have_been_delivered": False},
        {"reply": [550, ["no"], None], "rejected_recipients": [["no address", [550, [], None]]]},
    ],
    ids=repr,
)
def test_damaged_facts_are_never_a_false_certainty(kind: type[SmtpError], facts: object) -> None:
    """What came damaged is as if it had not come."""
    error = kind("what happened", facts)
    assert str(error) == "what happened"
    assert error.may_have_been_delivered is (kind in POSSIBLE)


@pytest.mark.parametrize("kind", EVERY_PUBLIC)
def test_what_damaged_facts_still_say_of_delivery_counts(kind: type[SmtpError]) -> None:
    """Whether it may have been delivered is believed even if nothing else can be read."""
    flags = {"phase": "content", "is_transient": True, "may_have_been_delivered": True}
    error = kind("what happened", flags | {"reply": "550", "rejected_recipients": 5})
    assert error.may_have_been_delivered
    assert not isinstance(error, RetryableError)
    assert error.phase is Phase.CONTENT


def test_an_address_that_cannot_be_read_is_no_reason_to_fail() -> None:
    """An error about recipients is rebuilt even if one of them is no address (any more)."""
    text, facts = through_json(refused(NO).args)
    facts["rejected_recipients"][0][0] = "<<"
    error = AllRecipientsFailedError(text, facts)
    assert str(error) == text
    assert error.rejected_recipients == ()


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickles_name_no_module_but_the_public_one(protocol: int) -> None:
    """A pickle is still read when a file of smtpconn has moved."""
    for error in TRAVELLERS:
        assert b"smtpconn." not in pickle.dumps(error, protocol)


@pytest.mark.parametrize("kind", [*EVERY_PUBLIC, *errors.variants.values()])
def test_every_class_is_where_it_says(kind: type[SmtpError]) -> None:
    """Each class is importable by its module and qualified name, and pickles."""
    assert kind.__module__ == "smtpconn"
    assert getattr(smtpconn, kind.__qualname__) is kind
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert getattr(smtpconn, kind.__name__) in EVERY_PUBLIC


def test_what_a_caller_adds_to_the_text_keeps_the_facts() -> None:
    """Code that puts words before an exception's text does it through ``args``."""
    error = ConnectionClosedError("gone", phase=Phase.CONTENT, may_have_been_delivered=True)
    error.args = (f"invoice 5: {error.args[0]}", *error.args[1:])
    same = ConnectionClosedError(*through_json(error.args))
    assert str(same) == "invoice 5: gone"
    assert (same.phase, same.may_have_been_delivered) == (Phase.CONTENT, True)


class UserSubclass(TransientError):
    """A user's subclass with its own constructor."""

    def __init__(self, invoice: int) -> None:
        super().__init__(BUSY, phase=Phase.MAIL)
        self.invoice = invoice


def test_a_class_of_a_user() -> None:
    """It stays what it is, and pickles with what it has."""
    error = UserSubclass(5)
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is type(copy.copy(error)) is type(error) is UserSubclass
    assert (same.invoice, same.response, same.phase) == (5, BUSY, Phase.MAIL)
    assert UserSubclass.__module__ == __name__


def fail_with(number: int) -> None:
    """Raise one of the errors above; in another process."""
    raise TRAVELLERS[number]


def check_processes() -> None:
    """Have each error raised in a worker process, and look at what comes out."""
    context = multiprocessing.get_context("spawn")
    with (
        concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor,
        context.Pool(1) as pool,
    ):
        for number, error in enumerate(TRAVELLERS):
            for same in (
                executor.submit(fail_with, number).exception(30),
                caught(pool.apply_async(fail_with, (number,)).get, 30),
            ):
                assert isinstance(same, SmtpError)
                assert described(same) == described(error), (same, error)


def caught(call: Callable[[float], object], timeout: float) -> BaseException | None:
    """What a call raises."""
    try:
        call(timeout)
    except SmtpError as error:
        return error
    return None


def test_errors_survive_processes() -> None:
    """An error raised in a worker process comes out of multiprocessing and concurrent.futures."""
    program = (
        "from tests.model.test_errors import check_processes as c\nif __name__ == '__main__': c()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=19)


FLAGS = list(itertools.product(list(Phase), [True, False], [True, False]))


@pytest.mark.parametrize("kind", EVERY_PUBLIC)
def test_an_error_is_retryable_exactly_if_it_is_safe(kind: type[SmtpError]) -> None:
    """Whatever its attributes are and become, its class never contradicts them."""
    error: SmtpError = kind("x")
    for phase, is_transient, unknown in FLAGS:
        error.phase, error.is_transient, error.may_have_been_delivered = (
            phase,
            is_transient,
            unknown,
        )
        assert error.is_safe_to_retry is (is_transient and not unknown)
        assert isinstance(error, RetryableError) is error.is_safe_to_retry
        assert isinstance(error, kind) or kind is RetryableError
        assert (error.phase, error.is_transient) == (phase, is_transient)
        assert getattr(smtpconn, type(error).__name__) in {kind, SmtpError, RetryableError}


def test_an_error_that_turns_out_to_be_unknown_while_it_is_raised() -> None:
    """Who catches it sees what is true then."""
    went: list[str] = []
    try:
        try:
            raise ConnectionClosedError("gone", phase=Phase.CONTENT)
        except RetryableError as error:
            error.may_have_been_delivered = True
            raise
    except RetryableError:
        went.append("again")
    except ConnectionClosedError:
        went.append("unknown")
    assert went == ["unknown"]


@pytest.mark.parametrize(
    ("phase", "is_disconnected"),
    [(phase, phase not in ("connect", "tls", "pool", "input")) for phase in Phase],
)
def test_a_timeout_within_a_session_is_a_disconnect(phase: Phase, is_disconnected: bool) -> None:
    """As with smtplib, where a session that did not answer is over; a connect never began one."""
    error = SmtpTimeoutError("x", phase=phase)
    assert isinstance(error, smtplib.SMTPServerDisconnected) is is_disconnected
    assert isinstance(error, TimeoutError)
    assert not isinstance(PoolTimeoutError("x", phase=phase), smtplib.SMTPServerDisconnected)


@pytest.mark.parametrize("error", OF_THE_SYSTEM, ids=lambda error: type(error).__qualname__)
def test_numbers_of_the_system(error: SmtpError) -> None:
    """``errno`` and ``strerror`` are those of the error behind it."""
    assert error.errno
    assert error.strerror


def test_what_tls_says() -> None:
    """A failed verification has OpenSSL's reason and number, as ``ssl`` has them."""
    incoming = ssl.MemoryBIO()
    incoming.write(b"220 mx.example.com ESMTP\r\n")
    session = ssl.create_default_context().wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="mx")
    with pytest.raises(ssl.SSLError) as caught:
        session.do_handshake()
    error = TlsError("x", phase=Phase.TLS, cause=caught.value)
    assert error.reason == caught.value.reason == "WRONG_VERSION_NUMBER"
    assert (error.verify_code, error.verify_message) == (0, "")
    cause = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
    cause.verify_code, cause.verify_message = 18, "self-signed certificate"
    error = TlsError("x", phase=Phase.TLS, cause=cause)
    assert isinstance(error, ssl.SSLCertVerificationError)
    assert (error.verify_code, error.verify_message) == (18, "self-signed certificate")
    assert not isinstance(error, RetryableError)


def test_repr_is_one_short_line() -> None:
    """It has the class that is documented and the text, not the facts."""
    assert repr(refused_sender()) == (
        "PermanentError('the server refused mail: 550 5.1.1 gr\\\\udcfcn')"
    )


@pytest.mark.parametrize(
    ("response", "phase", "names_it"),
    [
        (SmtpResponse(550, ("5.7.1 go away",)), Phase.EHLO, True),
        (SmtpResponse(421, ("4.3.2 too many connections",)), Phase.EHLO, False),
        (SmtpResponse(504, ("5.5.2 <x>: Helo command rejected: need FQDN",)), Phase.RCPT, True),
        (SmtpResponse(550, ("5.7.1", "EHLO name is bogus")), Phase.MAIL, True),
        (SmtpResponse(550, ("5.1.1 helots are not welcome",)), Phase.MAIL, False),
    ],
)
def test_a_complaint_about_our_name(response: SmtpResponse, phase: Phase, names_it: bool) -> None:
    """The text says which name we gave, and how to give another, if the server refused that."""
    errors_: list[SmtpError] = [ResponseError(response, phase=phase)]
    errors_ += [] if phase is Phase.EHLO else [refused(response)]
    for error in errors_:
        explain(error, ehlo_domain="host.localdomain")
        assert ("host.localdomain" in str(error)) is names_it
        assert ("ehlo_domain=" in str(error)) is names_it
