"""Every exchange against its scripts: the commands, their groups, and the result."""

from __future__ import annotations

import base64
import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    AuthMechanism,
    BodyType,
    ConnectionClosedError,
    DsnNotify,
    MailFromParams,
    PermanentError,
    Phase,
    Pipelining,
    Protocol,
    ProtocolError,
    RcptToParams,
    SendResult,
    ServerCapabilities,
    SmtpResponse,
    SmtpUtf8RequiredError,
    StartTlsUnavailableError,
    TransientError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.auth.mechanisms import (
    CramMd5,
    External,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
)
from smtpconn.auth.scram import Scram
from smtpconn.model.content import Content
from smtpconn.protocol import auth, handshake, single_command
from smtpconn.protocol.exchange import CommandGroup, Exchange
from smtpconn.protocol.mail_request import MailRequest, make_request
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import lmtp_transaction, transaction
from tests.support.error_classes import kind_of
from tests.support.exchanges import request, session
from tests.support.script import TLS, Script, fails, run_script

GREETING = "220 mx.example.test ready\n"
EHLO = "EHLO client.example\n"


# Opening


@pytest.mark.parametrize("code", [421, 450, 554])
def test_an_unfriendly_greeting(code: int) -> None:
    """A greeting that is a refusal is raised as one, after QUIT (RFC 5321 3.1)."""
    # After a 421 the server closes the connection itself.
    farewell: Script = [("QUIT\n", "")] if code != 421 else []
    script: Script = [("", f"{code} no\n"), *farewell]
    error = fails(lambda: handshake.handshake(SessionState(), starttls=False), script)
    assert isinstance(error, TransientError if code < 500 else PermanentError)
    assert error.phase == "greeting"


@pytest.mark.parametrize("code", [200, 250, 354])
def test_a_greeting_that_makes_no_sense(code: int) -> None:
    """Success of another kind is no greeting."""
    error = fails(
        lambda: handshake.handshake(SessionState(), starttls=False), [("", f"{code} hm\n")]
    )
    assert isinstance(error, ProtocolError)


def test_the_offers_are_learnt() -> None:
    """EHLO's lines are the capabilities."""
    made = SessionState(ehlo_domain="client.example", ignore_extensions=frozenset({"DSN"}))
    script: Script = [
        ("", GREETING),
        (EHLO, "250-mx.example.test hi\n250-SIZE 10\n250-DSN\n250 HELP\n"),
    ]
    run_script(lambda: handshake.handshake(made, starttls=False), script)
    assert [str(e) for e in made.capabilities.extensions] == ["SIZE 10", "HELP"]


def test_the_greeting_is_kept() -> None:
    """All its lines, also where STARTTLS makes everything else be forgotten."""
    made = SessionState(ehlo_domain="client.example")
    script: Script = [("", "220-mx.example.test\n220 ready\n"), (EHLO, "250 mx\n")]
    run_script(lambda: handshake.handshake(made, starttls=False), script)
    made.reset_after_starttls()
    assert made.greeting == SmtpResponse(220, ("mx.example.test", "ready"))


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 550, 554])
def test_helo_is_said_where_ehlo_is_refused(code: int) -> None:
    """The old greeting, without any extension, whatever the code is."""
    made = SessionState(ehlo_domain="client.example")
    script: Script = [
        ("", GREETING),
        (EHLO, f"{code} what?\n"),
        ("HELO client.example\n", "251 old.example\n"),
    ]
    run_script(lambda: handshake.handshake(made, starttls=False), script)
    assert made.capabilities == ServerCapabilities("old.example")


def test_a_server_that_hangs_up_on_helo_had_refused_ehlo() -> None:
    """The error is the refusal of EHLO."""
    exchange = handshake.hello(SessionState(ehlo_domain="client.example"))
    ehlo = next(exchange)
    assert isinstance(ehlo, CommandGroup)
    ehlo.replies.append(SmtpResponse(554, ("go away",)))
    next(exchange)
    with pytest.raises(PermanentError, match="554 go away"):
        exchange.throw(ConnectionClosedError("closed", phase=Phase.EHLO))


@pytest.mark.parametrize("code", [200, 251, 299])
def test_any_success_answers_ehlo(code: int) -> None:
    """The first digit counts (RFC 5321 4.2)."""
    made = SessionState(ehlo_domain="client.example")
    script: Script = [("", GREETING), (EHLO, f"{code}-mx\n{code} SIZE 10\n")]
    run_script(lambda: handshake.handshake(made, starttls=False), script)
    assert made.capabilities.size_limit == 10


def test_starttls_stays_required_where_only_helo_is_known() -> None:
    """HELO offers nothing, so the session ends."""
    made = SessionState(ehlo_domain="client.example")
    helo: Script = [("HELO client.example\n", "250 old.example\n")]
    script: Script = [("", GREETING), (EHLO, "554 no\n"), *helo]
    error = fails(lambda: handshake.handshake(made, starttls=True), script)
    assert isinstance(error, StartTlsUnavailableError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(421, TransientError), (450, TransientError), (521, PermanentError), (530, PermanentError)],
)
def test_other_refusals_of_ehlo_are_refusals(code: int, kind: type[Exception]) -> None:
    """What would not be otherwise with HELO does not lead to it."""
    made = SessionState(ehlo_domain="client.example")
    farewell: Script = [("QUIT\n", "")] if code != 421 else []
    script: Script = [("", GREETING), (EHLO, f"{code} no\n"), *farewell]
    assert kind_of(fails(lambda: handshake.handshake(made, starttls=False), script)) is kind


def test_lmtp_has_no_helo() -> None:
    """LHLO or nothing (RFC 2033 4.1)."""
    made = SessionState(ehlo_domain="client.example", protocol=Protocol.LMTP)
    lhlo = "LHLO client.example\n"
    script: Script = [("", GREETING), (lhlo, "500 what?\n"), ("QUIT\n", "")]
    assert isinstance(
        fails(lambda: handshake.handshake(made, starttls=False), script), PermanentError
    )


def test_starttls_forgets_what_was_said_before() -> None:
    """After the handshake EHLO is said again, and only its answer counts."""
    made = SessionState(ehlo_domain="client.example")
    script: Script = [
        ("", GREETING),
        (EHLO, "250-mx\n250-STARTTLS\n250 AUTH PLAIN\n"),
        ("STARTTLS\n", "220 go\n"),
        (TLS, ""),
        (EHLO, "250-mx\n250 AUTH LOGIN\n"),
    ]
    run_script(lambda: handshake.handshake(made, starttls=True), script)
    assert made.capabilities.auth_mechanisms == ("LOGIN",)
    assert not made.capabilities.supports_starttls
    assert made.is_private


def test_starttls_not_offered() -> None:
    """No further command is sent."""
    script: Script = [("", GREETING), (EHLO, "250 mx says STARTTLS\n")]
    made = SessionState(ehlo_domain="client.example")
    error = fails(lambda: handshake.handshake(made, starttls=True), script)
    assert isinstance(error, StartTlsUnavailableError)


@pytest.mark.parametrize(
    ("code", "kind"), [(454, TransientError), (501, PermanentError), (250, ProtocolError)]
)
def test_starttls_refused(code: int, kind: type[Exception]) -> None:
    """There is no way on in clear."""
    script: Script = [
        ("", GREETING),
        (EHLO, "250-mx\n250 STARTTLS\n"),
        ("STARTTLS\n", f"{code} no\n"),
    ]
    made = SessionState(ehlo_domain="client.example")
    assert kind_of(fails(lambda: handshake.handshake(made, starttls=True), script)) is kind


# AUTH


def b64(text: str) -> str:
    """As it stands in an AUTH line."""
    return base64.b64encode(text.encode()).decode()


PLAIN_LINE = f"AUTH PLAIN {b64(chr(0) + 'u' + chr(0) + 'p')}\n"
OFFERS = "AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2 OAUTHBEARER"


def test_plain_in_one_step() -> None:
    """The initial response stands on the AUTH line."""
    made = session(OFFERS)
    run_script(
        lambda: auth.authenticate(_anonymous(made), Plain("u", "p")),
        [(PLAIN_LINE, "235 2.7.0 ok\n")],
    )
    assert made.is_authenticated
    assert made.auth_mechanism == "PLAIN"


def _anonymous(made: SessionState) -> SessionState:
    made.auth_mechanism = None
    return made


@pytest.mark.parametrize(("size", "in_one_step"), [(372, True), (373, False)])
def test_the_longest_line_has_512_bytes(size: int, in_one_step: bool) -> None:
    """With CRLF; a longer one waits for the empty challenge (RFC 4954 4)."""
    password = "x" * (size - 3)
    response = b64(f"\0u\0{password}")
    assert (len(f"AUTH PLAIN {response}\r\n") <= 512) == in_one_step
    made = session(OFFERS)
    script: Script = (
        [(f"AUTH PLAIN {response}\n", "235 ok\n")]
        if in_one_step
        else [("AUTH PLAIN\n", "334 \n"), (f"{response}\n", "235 ok\n")]
    )
    run_script(lambda: auth.authenticate(_anonymous(made), Plain("u", password)), script)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("VXNlcm5hbWU6", "UGFzc3dvcmQ6"),
        ("VXNlciBOYW1lAA==", "UGFzc3dvcmQA"),
        ("", ""),
        ("whatever", "you say"),
        ("Username:", "Password:"),
    ],
)
def test_login_answers_two_prompts_whatever_they_say(first: str, second: str) -> None:
    """Nothing on the line, the user name at the first prompt, the password at the second."""
    made = session(OFFERS)
    script: Script = [
        ("AUTH LOGIN\n", f"334 {first}\n"),
        (f"{b64('u')}\n", f"334 {second}\n"),
        (f"{b64('p')}\n", "235 ok\n"),
    ]
    run_script(lambda: auth.authenticate(_anonymous(made), Login("u", "p")), script)


def test_login_with_the_prompts_the_other_way_round() -> None:
    """What is asked for is what is given."""
    script: Script = [
        ("AUTH LOGIN\n", "334 UGFzc3dvcmQ6\n"),
        (f"{b64('p')}\n", "334 VXNlcm5hbWU6\n"),
        (f"{b64('u')}\n", "235 ok\n"),
    ]
    made = session(OFFERS)
    run_script(lambda: auth.authenticate(_anonymous(made), Login("u", "p")), script)


def test_login_cancels_a_third_prompt() -> None:
    """Nothing is left to give."""
    script: Script = [
        ("AUTH LOGIN\n", "334 \n"),
        (f"{b64('u')}\n", "334 \n"),
        (f"{b64('p')}\n", "334 UGFzc3dvcmQ6\n"),
        ("*\n", "501 cancelled\n"),
    ]
    error = fails(lambda: auth.authenticate(session(OFFERS), Login("u", "p")), script)
    assert isinstance(error, AuthError)
    assert error.response.code == 501


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Plain("u", "p"), f"AUTH PLAIN {b64(chr(0) + 'u' + chr(0) + 'p')}"),
        (
            lambda: XOAuth2("u", "t"),
            f"AUTH XOAUTH2 {b64(chr(1).join(['user=u', 'auth=Bearer t', '', '']))}",
        ),
        (External, "AUTH EXTERNAL ="),
        (lambda: External("z"), f"AUTH EXTERNAL {b64('z')}"),
    ],
    ids=["PLAIN", "XOAUTH2", "EXTERNAL", "EXTERNAL z"],
)
def test_an_overlooked_initial_response_is_sent_once_more(
    make: Callable[[], SaslMechanism], line: str
) -> None:
    """A server that asks with an empty challenge has not read it (PLAIN at some appliances)."""
    made = session(f"{OFFERS} EXTERNAL")
    again = line.rpartition(" ")[2].removeprefix("=")
    script: Script = [(f"{line}\n", "334 \n"), (f"{again}\n", "235 ok\n")]
    run_script(lambda: auth.authenticate(_anonymous(made), make()), script)


@pytest.mark.parametrize("password", ["p", "x" * 400], ids=["on the line", "behind it"])
def test_an_initial_response_is_not_sent_a_third_time(password: str) -> None:
    """Asked for again, the exchange is cancelled."""
    response = b64(f"\0u\0{password}")
    line = f"AUTH PLAIN {response}\n" if len(password) == 1 else "AUTH PLAIN\n"
    script: Script = [
        (line, "334 \n"),
        (f"{response}\n", "334 \n"),
        ("*\n", "501 cancelled\n"),
    ]
    error = fails(lambda: auth.authenticate(session(OFFERS), Plain("u", password)), script)
    assert isinstance(error, AuthError)


@pytest.mark.parametrize("challenge", ["not base64!", "YQ", "ü"])
def test_a_challenge_that_is_not_base64_is_cancelled(challenge: str) -> None:
    """With an asterisk (RFC 4954 4); the error quotes it, and both sides are in sync."""
    script: Script = [
        ("AUTH CRAM-MD5\n", f"334 {challenge}\n"),
        ("*\n", "501 5.7.0 cancelled\n"),
    ]
    error = fails(lambda: auth.authenticate(session(OFFERS), CramMd5("u", "p")), script)
    assert isinstance(error, AuthError)
    assert "not base64" in str(error)
    assert error.because


@pytest.mark.parametrize("first", ["", "x", "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", "e=no"])
def test_a_scram_message_that_is_wrong_is_cancelled(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a challenge that is not base64 is; an empty one asks for the first message again."""
    core = pytest.importorskip("scramp.core")
    monkeypatch.setattr(core.Nonce, "create", lambda: core.Nonce("n"))
    ours = b64("n,,n=u,r=n")
    script: Script = [(f"AUTH SCRAM-SHA-256 {ours}\n", f"334 {b64(first)}\n")]
    if not first:
        script.append((f"{ours}\n", "334 \n"))
    script.append(("*\n", "501 5.7.0 cancelled\n"))
    made = session("AUTH SCRAM-SHA-256")
    error = fails(
        lambda: auth.authenticate(made, Scram(AuthMechanism.SCRAM_SHA_256, "u", "p")), script
    )
    assert isinstance(error, AuthError)
    assert "SCRAM message is wrong" in error.because


@pytest.mark.parametrize("text", ["5.5.1 already authenticated", "5.5.1 Error: already logged in"])
def test_a_session_that_is_logged_in_already(text: str) -> None:
    """The server says 503 (RFC 4954 4): the error says what that means, and it will stay so."""
    script: Script = [(PLAIN_LINE, f"503 {text}\n")]
    error = fails(lambda: auth.authenticate(session(OFFERS), Plain("u", "p")), script)
    assert isinstance(error, AuthError)
    assert "this session is logged in already: it can be used as it is" in str(error)
    assert not error.is_transient


def test_cram_md5_by_its_rfc() -> None:
    """The example of RFC 2195 2."""
    made = session(OFFERS)
    challenge = b64("<1896.697170952@postoffice.reston.mci.net>")
    answer = b64("tim b913a602c7eda7a495b4e6e7334d3890")
    script: Script = [("AUTH CRAM-MD5\n", f"334 {challenge}\n"), (f"{answer}\n", "235 ok\n")]
    run_script(
        lambda: auth.authenticate(_anonymous(made), CramMd5("tim", "tanstaaftanstaaf")), script
    )


@pytest.mark.parametrize(("code", "is_transient"), [(454, True), (535, False), (534, False)])
def test_refused_logins(code: int, is_transient: bool) -> None:
    """The whole reply, and whether it may be different tomorrow; never the secret."""
    error = fails(
        lambda: auth.authenticate(session(OFFERS), Plain("u", "s3cret")),
        [(f"AUTH PLAIN {b64(chr(0) + 'u' + chr(0) + 's3cret')}\n", f"{code}-5.7.8 no\n{code} x\n")],
    )
    assert isinstance(error, AuthError)
    assert error.response.lines == ("5.7.8 no", "x")
    assert error.is_transient == is_transient
    assert "s3cret" not in f"{error!r}{error.__dict__}"


def test_an_unexpected_challenge_is_cancelled() -> None:
    """With an asterisk (RFC 4954 4)."""
    script: Script = [(PLAIN_LINE, "334 bW9yZQ==\n"), ("*\n", "501 cancelled\n")]
    error = fails(lambda: auth.authenticate(session(OFFERS), Plain("u", "p")), script)
    assert isinstance(error, AuthError)
    assert error.response.code == 501


def test_xoauth2_errors_are_told() -> None:
    """The JSON of the 334 is in the error."""
    line = f"AUTH XOAUTH2 {b64(chr(1).join(['user=u', 'auth=Bearer t', '', '']))}\n"
    script: Script = [(line, f"334 {b64('{status: 400}')}\n"), ("\n", "535 5.7.8 no\n")]
    error = fails(lambda: auth.authenticate(session(OFFERS), XOAuth2("u", "t")), script)
    assert isinstance(error, AuthError)
    assert error.server_error == "{status: 400}"
    assert "{status: 400}" in str(error)
    assert error.response.lines == ("5.7.8 no",)


def test_oauthbearer_errors_are_acknowledged() -> None:
    """With one Ctrl-A (RFC 7628 3.2.3); header and payload are exactly those of the RFC."""
    line = f"AUTH OAUTHBEARER {b64(chr(1).join(['n,,', 'auth=Bearer t', '', '']))}\n"
    script: Script = [(line, f"334 {b64('{invalid_token}')}\n"), ("AQ==\n", "535 no\n")]
    error = fails(lambda: auth.authenticate(session(OFFERS), OAuthBearer("t")), script)
    assert isinstance(error, AuthError)
    assert error.server_error == "{invalid_token}"


@pytest.mark.parametrize("code", [250, 354, 200])
def test_a_login_is_235_and_nothing_else(code: int) -> None:
    """Another 2xx reply to AUTH is a protocol error."""
    error = fails(
        lambda: auth.authenticate(session(OFFERS), Plain("u", "p")), [(PLAIN_LINE, f"{code} ok\n")]
    )
    assert isinstance(error, ProtocolError)


def test_endless_challenges_end() -> None:
    """After ten rounds."""

    class EndlessLogin(Login):
        """Answers for ever."""

        def answer(self, challenge: str) -> bytes:
            return b"x"

    rounds: Script = [("eA==\n", "334 \n")] * 10
    script: Script = [("AUTH LOGIN\n", "334 \n"), *rounds]
    error = fails(lambda: auth.authenticate(session(OFFERS), EndlessLogin("u", "p")), script)
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (session("AUTH LOGIN"), UnsupportedExtensionError),
        (session(OFFERS, is_private=False), ProtocolError),
        (session(OFFERS, auth_mechanism="PLAIN"), ProtocolError),
    ],
)
def test_what_is_refused_before_a_word(made: SessionState, kind: type[Exception]) -> None:
    """Not offered, not private, already logged in."""
    assert type(fails(lambda: auth.authenticate(made, Plain("u", "p")), [])) is kind


# Transactions

ENVELOPE = "MAIL FROM:<a@b.example> SIZE=4\nRCPT TO:<c@d.example>\nDATA\n"
TWO = "MAIL FROM:<a@b.example> SIZE=4\nRCPT TO:<c@d.example>\nRCPT TO:<e@d.example>\nDATA\n"
BARE = "MAIL FROM:<a@b.example>\n"


def test_a_message_in_two_groups() -> None:
    """The envelope up to DATA, then the content."""
    made = session()
    script: Script = [(ENVELOPE, "250 ok\n250 ok\n354 go\n"), ("hi\n.\n", "250 2.0.0 queued\n")]
    result = run_script(lambda: transaction(made, request()), script)
    assert str(result.response.enhanced_status) == "2.0.0"
    assert [str(r) for r in result.accepted_recipients] == ["c@d.example"]
    assert not made.needs_reset


@pytest.mark.parametrize("answer", ["250 2.0.0 queued\n", "550 no\n"])
def test_a_message_is_freed_when_its_transaction_ends(answer: str) -> None:
    """No cycle of objects is left for the garbage collector, whatever became of the message."""
    made = session()
    script: Script = [(ENVELOPE, "250 ok\n250 ok\n354 go\n"), ("hi\n.\n", answer)]
    contents: list[weakref.ref[Content]] = []

    def make() -> Exchange[SendResult]:
        one = request()
        contents.append(weakref.ref(one.content))
        made.needs_reset = False
        return transaction(made, one)

    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(PermanentError):
            run_script(make, script)
        assert [content() for content in contents] == [None] * len(contents)
    finally:
        gc.enable()


@pytest.mark.parametrize("how", [session(""), session(pipelining=Pipelining.OFF)])
def test_a_message_step_by_step(how: SessionState) -> None:
    """Without PIPELINING each command waits for its answer."""
    mail = "MAIL FROM:<a@b.example>" + (" SIZE=4" if how.capabilities.supports_size else "") + "\n"
    script: Script = [
        (mail, "250 ok\n"),
        ("RCPT TO:<c@d.example>\n", "250 ok\n"),
        ("RCPT TO:<e@d.example>\n", "550 no\n"),
        ("DATA\n", "354 go\n"),
        ("hi\n.\n", "250 ok\n"),
    ]
    result = run_script(lambda: transaction(how, request("c@d.example", "e@d.example")), script)
    assert [r.response.code for r in result.rejected_recipients] == [550]


def test_some_recipients_refused() -> None:
    """The message goes to the others."""
    script: Script = [(TWO, "250 ok\n450 later\n250 ok\n354 go\n"), ("hi\n.\n", "250 ok\n")]
    result = run_script(
        lambda: transaction(session(), request("c@d.example", "e@d.example")), script
    )
    assert [str(r) for r in result.accepted_recipients] == ["e@d.example"]
    assert [str(r.recipient) for r in result.rejected_recipients] == ["c@d.example"]


@pytest.mark.parametrize(
    ("answers", "more"),
    [
        ("250 ok\n550 no\n450 no\n354 go\n", [(".\n", "554 nobody\n")]),
        ("250 ok\n550 no\n450 no\n554 nobody\n", []),
        ("250 ok\n550 no\n450 no\n503 nobody\n", []),
    ],
)
def test_all_recipients_refused(answers: str, more: Script) -> None:
    """A 354 is answered with a lone dot; a refused DATA with nothing."""
    made = session()
    error = fails(
        lambda: transaction(_clean(made), request("c@d.example", "e@d.example")),
        [(TWO, answers), *more],
    )
    assert isinstance(error, AllRecipientsFailedError)
    assert [r.code for r in error.responses] == [550, 450]
    assert not error.may_have_been_delivered
    assert made.needs_reset


def _clean(made: SessionState) -> SessionState:
    made.needs_reset = False
    return made


@pytest.mark.parametrize(
    ("answers", "more", "phase"),
    [
        ("550 no\n503 x\n503 x\n", [], "mail"),
        ("450 no\n503 x\n354 go\n", [(".\n", "554 x\n")], "mail"),
        ("250 ok\n250 ok\n450 later\n", [], "data"),
        ("250 ok\n250 ok\n354 go\n", [("hi\n.\n", "552 too much\n")], "content"),
    ],
)
def test_refused_messages(answers: str, more: Script, phase: str) -> None:
    """The first refusal is the reason; nothing was delivered; RSET goes before the next MAIL."""
    made = session()
    error = fails(lambda: transaction(_clean(made), request()), [(ENVELOPE, answers), *more])
    assert isinstance(error, (TransientError, PermanentError))
    assert error.phase == phase
    assert not error.may_have_been_delivered
    script: Script = [
        ("RSET\n" + ENVELOPE, "250 ok\n250 ok\n250 ok\n354 go\n"),
        ("hi\n.\n", "250 ok\n"),
    ]
    assert made.needs_reset

    def again() -> SessionState:
        made.needs_reset = True
        return made

    run_script(lambda: transaction(again(), request()), script)


@pytest.mark.parametrize(
    ("answers", "more", "may_have_been_delivered"),
    [
        ("354 go\n250 ok\n354 go\n", [], False),
        ("250 ok\n354 go\n354 go\n", [], False),
        ("250 ok\n250 ok\n250 ok\n", [], False),
        ("250 ok\n250 ok\n354 go\n", [("hi\n.\n", "354 more\n")], True),
    ],
)
def test_replies_out_of_sync(answers: str, more: Script, may_have_been_delivered: bool) -> None:
    """No reply can be believed any more; only after the content is anything uncertain."""
    error = fails(lambda: transaction(session(), request()), [(ENVELOPE, answers), *more])
    assert isinstance(error, ProtocolError)
    assert error.may_have_been_delivered == may_have_been_delivered


@pytest.mark.parametrize("replies_before", range(4))
def test_421_anywhere(replies_before: int) -> None:
    """It answers what is awaited, and ends everything."""
    answers = "".join(["250 ok\n", "250 ok\n", "354 go\n"][:replies_before])
    script: Script = [(ENVELOPE, answers)]
    if replies_before == 3:
        script.append(("hi\n.\n", "421 bye\n"))
    else:
        script[0] = (ENVELOPE, answers + "421 bye\n")
    error = fails(lambda: transaction(session(), request()), script)
    assert isinstance(error, TransientError)
    assert error.phase == ["mail", "rcpt", "data", "content"][replies_before]
    assert not error.may_have_been_delivered


def test_421_to_rcpt_step_by_step() -> None:
    """It refuses not this recipient but everything."""
    script: Script = [(BARE, "250 ok\n"), ("RCPT TO:<c@d.example>\n", "421 bye\n")]
    error = fails(lambda: transaction(session(""), request()), script)
    assert isinstance(error, TransientError)


def test_content_is_stuffed() -> None:
    """Dots are doubled and line ends are CRLF."""
    script: Script = [
        (ENVELOPE.replace("SIZE=4", "SIZE=10"), "250 ok\n250 ok\n354 go\n"),
        ("..\n..a\nb\n.\n", "250 ok\n"),
    ]
    run_script(lambda: transaction(session(), request(message=b".\n.a\rb")), script)


def test_parameters_go_where_they_belong() -> None:
    """MAIL's behind the sender, RCPT's behind each recipient."""
    made = make_request(
        "",
        ["c@d.example"],
        "h\u00e9\r\n".encode(),
        MailFromParams(envid="a+b"),
        [RcptToParams(DsnNotify.SUCCESS | DsnNotify.DELAY, "rfc822;o@d.example")],
    )
    said = (
        "MAIL FROM:<> BODY=8BITMIME SIZE=5 ENVID=a+2Bb\n"
        "RCPT TO:<c@d.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@d.example\nDATA\n"
    )
    script: Script = [(said, "250 ok\n250 ok\n354 go\n"), ("h\u00e9\n.\n", "250 ok\n")]
    run_script(lambda: transaction(session(), made), script)


@pytest.mark.parametrize(
    ("offers", "made", "kind"),
    [
        ("PIPELINING", request(message=b"\xff"), UnsupportedExtensionError),
        ("8BITMIME", request("\u00e9@d.example"), SmtpUtf8RequiredError),
        ("SIZE 3", request(), ValidationError),
        ("LIMITS RCPTMAX=1", request("a@d.example", "b@d.example"), ValidationError),
        ("PIPELINING", request(envid="x"), UnsupportedExtensionError),
        ("BINARYMIME", request(body=BodyType.BINARYMIME), ProtocolError),
        ("8BITMIME", request(message=b"\xff", body=BodyType.SEVENBIT), ValidationError),
    ],
)
def test_what_the_server_cannot_take_is_not_sent(
    offers: str, made: MailRequest, kind: type[Exception]
) -> None:
    """The error comes before the first command."""
    assert type(fails(lambda: transaction(session(offers), made), [])) is kind


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (request("a@d.example", "\u00e9@d.example"), "and '\u00e9@d.example' is not ASCII"),
        (request("\ufeffa@d.example"), r"and '\ufeffa@d.example' is not ASCII"),
        (request(smtputf8=True), "and it was asked for"),
    ],
)
def test_what_needs_smtputf8_is_named(made: MailRequest, told: str) -> None:
    """Among many recipients, or where it cannot be seen, as a byte order mark."""
    error = fails(lambda: transaction(session("8BITMIME"), made), [])
    assert str(error) == f"the server does not offer SMTPUTF8, {told}"


def test_domains_become_a_labels_where_utf8_is_not_offered() -> None:
    """Only the domain is not ASCII, so the address has another form (extra idna)."""
    pytest.importorskip("idna")
    made = request("c@b\u00fccher.example")
    script: Script = [
        (BARE, "250 ok\n"),
        ("RCPT TO:<c@xn--bcher-kva.example>\n", "250 ok\n"),
        ("DATA\n", "354 go\n"),
        ("hi\n.\n", "250 ok\n"),
    ]
    result = run_script(lambda: transaction(session(""), made), script)
    assert [str(r) for r in result.accepted_recipients] == ["c@b\u00fccher.example"]


# BDAT and LMTP

BDAT = ENVELOPE.replace("DATA\n", "")


def test_bdat_in_two_groups() -> None:
    """The envelope, then BDAT and the content in one go; no dot is stuffed."""
    made = request(message=b".hi\r\n")
    script: Script = [
        (BDAT.replace("=4", "=5"), "250 ok\n250 ok\n"),
        ("BDAT 5 LAST\n.hi\n", "250-5 octets\n250 ok\n"),
    ]
    result = run_script(lambda: transaction(session(), made, chunking=True), script)
    assert result.response.lines == ("5 octets", "ok")


def test_bdat_untouched() -> None:
    """BINARYMIME content is not split into lines."""
    made = request(message=b"\0\n.\r\xff", body=BodyType.BINARYMIME)
    script: Script = [
        (
            "MAIL FROM:<a@b.example> BODY=BINARYMIME SIZE=5\nRCPT TO:<c@d.example>\n",
            "250 ok\n250 ok\n",
        ),
        (b"BDAT 5 LAST\r\n\0\n.\r\xff", "250 ok\n"),
    ]
    run_script(lambda: transaction(session(), made, chunking=True), script)


def test_nothing_is_sent_behind_a_refused_bdat_envelope() -> None:
    """All recipients refused: no BDAT at all."""
    script: Script = [(BDAT, "250 ok\n550 no\n")]
    error = fails(lambda: transaction(session(), request(), chunking=True), script)
    assert isinstance(error, AllRecipientsFailedError)


def test_bdat_needs_chunking() -> None:
    """And says so before the first command."""
    error = fails(lambda: transaction(session("PIPELINING"), request(), chunking=True), [])
    assert isinstance(error, UnsupportedExtensionError)


def lmtp() -> SessionState:
    """An LMTP session."""
    return session(protocol=Protocol.LMTP)


def test_lmtp_has_an_answer_for_each_recipient() -> None:
    """Duplicates are sent once and reported wherever they stand."""
    made = request("c@d.example", "e@d.example", "c@d.example")
    script: Script = [
        (TWO, "250 ok\n250 ok\n250 ok\n354 go\n"),
        ("hi\n.\n", "250 saved\n452 full\n"),
    ]
    result = run_script(lambda: lmtp_transaction(lmtp(), made), script)
    assert [(str(r.recipient)[0], r.delivered) for r in result.results] == [
        ("c", True),
        ("e", False),
        ("c", True),
    ]


def test_each_protocol_has_its_own_transaction() -> None:
    """The other's is refused before the first command."""
    assert isinstance(fails(lambda: transaction(lmtp(), request()), []), ProtocolError)
    assert isinstance(fails(lambda: lmtp_transaction(session(), request()), []), ProtocolError)


# Simple commands


def test_noop_and_reset() -> None:
    """Any 2xx is success, as for MAIL (RFC 5321 4.2)."""
    for code in (200, 250, 251):
        made = session(needs_reset=True)
        run_script(lambda: single_command.noop(session()), [("NOOP\n", f"{code} ok\n")])
        run_script(lambda: single_command.reset(made), [("RSET\n", f"{code} ok\n")])  # noqa: B023
        assert not made.needs_reset
    refused = fails(lambda: single_command.noop(session()), [("NOOP\n", "554 too many\n")])
    assert isinstance(refused, PermanentError)
    out_of_sync = fails(lambda: single_command.noop(session()), [("NOOP\n", "354 go\n")])
    assert isinstance(out_of_sync, ProtocolError)


@pytest.mark.parametrize("phase", [Phase.VRFY, Phase.EXPN, Phase.HELP])
@pytest.mark.parametrize("code", [214, 250, 252, 450, 502, 550])
def test_every_answer_to_a_question_is_returned(phase: Phase, code: int) -> None:
    """A refusal is an answer too: there is no such user, or the server does not say."""
    answer = run_script(
        lambda: single_command.ask(session(""), phase, "u"),
        [(f"{phase.upper()} u\n", f"{code} x\n")],
    )
    assert answer.code == code


@pytest.mark.parametrize(("code", "kind"), [(421, TransientError), (354, ProtocolError)])
def test_what_answers_no_question_is_raised(code: int, kind: type[Exception]) -> None:
    """421 ends the session, and a 3xx asks for something that is not there."""
    error = fails(
        lambda: single_command.ask(session(""), Phase.VRFY, "u"), [("VRFY u\n", f"{code} x\n")]
    )
    assert kind_of(error) is kind


@pytest.mark.parametrize(
    ("phase", "extensions", "argument", "line"),
    [
        (Phase.VRFY, "SMTPUTF8", "u", "VRFY u SMTPUTF8"),
        (Phase.VRFY, "SMTPUTF8", "é@bücher.example", "VRFY é@bücher.example SMTPUTF8"),
        (Phase.EXPN, "SMTPUTF8", "staff", "EXPN staff SMTPUTF8"),
        (Phase.VRFY, "", "u", "VRFY u"),
        (Phase.VRFY, "", "u@bücher.example", "VRFY u@xn--bcher-kva.example"),
        (Phase.EXPN, "", "Staff <u@bücher.example>", "EXPN Staff <u@xn--bcher-kva.example>"),
        (Phase.HELP, "SMTPUTF8", "", "HELP"),
        (Phase.HELP, "SMTPUTF8", "MAIL", "HELP MAIL"),
        (Phase.HELP, "SMTPUTF8", "é", "HELP é"),
        (Phase.HELP, "", "MAIL FROM", 'HELP "MAIL FROM"'),
        (Phase.HELP, "", "a.b", 'HELP "a.b"'),
        (Phase.HELP, "", 'say "a\\b"', r'HELP "say \"a\\b\""'),
    ],
)
def test_how_a_question_is_asked(phase: Phase, extensions: str, argument: str, line: str) -> None:
    """VRFY and EXPN with SMTPUTF8 if offered, else with A-labels; HELP with a topic."""
    if "xn--" in line:
        pytest.importorskip("idna")
    run_script(
        lambda: single_command.ask(session(extensions), phase, argument),
        [(f"{line}\n", "250 x\n")],
    )


@pytest.mark.parametrize("code", [500, 501, 504, 555])
@pytest.mark.parametrize("phase", [Phase.VRFY, Phase.EXPN])
def test_a_question_is_asked_again_where_its_parameter_is_unknown(phase: Phase, code: int) -> None:
    """As Exim does; the second answer counts. An argument that is not ASCII needs the parameter."""
    verb = phase.upper()
    script: Script = [(f"{verb} u SMTPUTF8\n", f"{code} no\n"), (f"{verb} u\n", "250 <u@x>\n")]
    answer = run_script(lambda: single_command.ask(session("SMTPUTF8"), phase, "u"), script)
    assert answer.code == 250
    script = [(f"{verb} é SMTPUTF8\n", f"{code} no\n")]
    answer = run_script(lambda: single_command.ask(session("SMTPUTF8"), phase, "é"), script)
    assert answer.code == code


@pytest.mark.parametrize("argument", ["é", "é@x.example", "é@bücher.example"])
def test_what_needs_smtputf8_is_not_asked_without_it(argument: str) -> None:
    """Nothing leaves."""
    error = fails(lambda: single_command.ask(session(""), Phase.VRFY, argument), [])
    assert isinstance(error, SmtpUtf8RequiredError)


# Requests


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("a@b.example", [], b""), ValidationError),
        (("a@b.example", ["no-at"], b""), ValidationError),
        (("no-at", ["c@d.example"], b""), ValidationError),
        (("a@b.example", ["c@d.example"], "text"), ValidationError),
        (("a@b.example", ["c@d.example"], b"", None, []), ProtocolError),
        ((5, ["c@d.example"], b""), ValidationError),
        (("a@b.example\r\nRSET", ["c@d.example"], b""), ValidationError),
    ],
)
def test_bad_input_is_refused_at_once(arguments: tuple[object, ...], kind: type[Exception]) -> None:
    """Before there is a connection in sight."""
    with pytest.raises(kind):
        make_request(*arguments)  # type: ignore[arg-type]


def test_one_recipient_may_be_a_str() -> None:
    """As with smtplib."""
    assert [str(r) for r in make_request("", "c@d.example", b"").recipients] == ["c@d.example"]
