"""Dialogs of servers that deviate from the RFCs, over sockets, and smtplib with the same server.

docs/protocol.md lists them ("Deviations we accept"). What smtplib gets through, smtpconn has to get
through as well; where smtplib is wrong, it is not asked.
"""

from __future__ import annotations

import base64
import itertools
import smtplib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    ConnectionClosedError,
    ConnectionPool,
    Envelope,
    ParseError,
    PasswordCredentials,
    PermanentError,
    Pipelining,
    Protocol,
    ProtocolError,
    SendOutcome,
    SendResult,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsUnavailableError,
    TlsMode,
    TransientError,
)
from smtpconn import smtplib as drop_in
from smtpconn.model.results import AnyOutcome
from tests.support.error_classes import kind_of
from tests.support.peculiar_servers import HarakaLike, PacketFilter, PostscreenLike
from tests.support.scripted_server import CLOSE, Lines, ScriptedServer
from tests.support.waiting import wait_until

ME, YOU, MESSAGE = "me@example.com", ["you@example.net"], b"Subject: hi\r\n\r\nHi\r\n"
TIMEOUT = 5.0
PIPELINING = b"250-mx.example\r\n250 PIPELINING\r\n"


def connect(server: ScriptedServer, timeout: float = TIMEOUT, **options: Any) -> SmtpConnection:
    """Connect in clear."""
    return SmtpConnection.connect("127.0.0.1", server.port, TlsMode.NONE, timeout, **options)


def pool_for(server: ScriptedServer, **options: Any) -> ConnectionPool:
    """A pool of one connection at a time."""
    config = {"timeout": TIMEOUT} | {k: options.pop(k) for k in ("timeout",) if k in options}
    made = ServerConfig("127.0.0.1", server.port, TlsMode.NONE, **config)
    return ConnectionPool(made, max_size=1, keepalive=None, **options)


def send_by_smtplib(server: ScriptedServer, to: list[str] = YOU) -> dict[str, tuple[int, bytes]]:
    """Send the message with the standard library."""
    with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=TIMEOUT) as theirs:
        return theirs.sendmail(ME, to, MESSAGE)


# Logging in


def auth(*mechanisms: str, word: str = "AUTH ") -> bytes:
    """A reply to EHLO that offers mechanisms."""
    return b"250-mx.example\r\n250 " + f"{word}{' '.join(mechanisms)}\r\n".encode()


def b64(text: str) -> bytes:
    """As it stands in an AUTH dialog."""
    return base64.b64encode(text.encode())


def prompts(*texts: bytes, then: bytes = b"235 ok\r\n") -> dict[str, Any]:
    """The first reply to AUTH, and to each answer: 334 with these texts, and the last word."""
    said = [b"334 " + text + b"\r\n" for text in texts] + [then] * 3
    return {"AUTH": said[0], "ANSWER": lambda line, nth: said[nth + 1]}


def refuses(mechanism: str, reply: bytes) -> dict[str, Any]:
    """Refuse a mechanism after its challenge, if it has one, and accept every other one."""

    def begin(line: bytes, nth: int) -> bytes:
        is_refused = line.split()[1] == mechanism.encode()
        return b"334 " + b64("<1.2@mx>") + b"\r\n" if is_refused else b"235 ok\r\n"

    return {"AUTH": begin, "ANSWER": reply}


USER, PASSWORD = "me", "sesame"
PLAIN = b64(f"\0{USER}\0{PASSWORD}").decode()

LOGGED_IN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "LOGIN in two steps": (
        {"EHLO": auth("LOGIN"), **prompts(b64("Username:"), b64("Password:"))},
        ["AUTH LOGIN", b64(USER).decode(), b64(PASSWORD).decode()],
    ),
    "LOGIN asks for the user twice": (
        {"EHLO": auth("LOGIN"), **prompts(b64("User Name"), b64("User Name"), b64("Password"))},
        ["AUTH LOGIN", *[b64(USER).decode()] * 2, b64(PASSWORD).decode()],
    ),
    "PLAIN is overlooked on its line": (
        {"EHLO": auth("PLAIN"), **prompts(b"")},
        [f"AUTH PLAIN {PLAIN}", PLAIN],
    ),
    "PLAIN is overlooked, without a space": (
        {"EHLO": auth("PLAIN"), "AUTH": b"334\r\n", "ANSWER": b"235 ok\r\n"},
        [f"AUTH PLAIN {PLAIN}", PLAIN],
    ),
    "the old form of AUTH": (
        {"EHLO": auth("PLAIN", word="AUTH="), "AUTH": b"235 ok\r\n"},
        [f"AUTH PLAIN {PLAIN}"],
    ),
    "CRAM-MD5 is offered and dead": (
        {"EHLO": auth("CRAM-MD5", "PLAIN"), **refuses("CRAM-MD5", b"535 5.7.8 no\r\n")},
        ["AUTH CRAM-MD5", "*", f"AUTH PLAIN {PLAIN}"],
    ),
    "CRAM-MD5 is offered and unknown": (
        {"EHLO": auth("CRAM-MD5", "PLAIN"), **refuses("CRAM-MD5", b"504 5.5.4 what?\r\n")},
        ["AUTH CRAM-MD5", "*", f"AUTH PLAIN {PLAIN}"],
    ),
}


@pytest.mark.parametrize("name", LOGGED_IN)
def test_a_login_succeeds(name: str) -> None:
    """Also with smtplib; "*" stands for an answer that is new each time."""
    replies, expected = LOGGED_IN[name]
    with ScriptedServer(**replies) as server:
        credentials = PasswordCredentials(USER, PASSWORD)
        with connect(server, ehlo_domain="client.example") as connection:
            connection.authenticate(credentials)
            assert connection.send(ME, YOU, MESSAGE).response.code == 250
        said = server.dialogs[0][1 : 1 + len(expected)]
        assert [a if e != "*" else e for a, e in zip(said, expected, strict=True)] == expected
        with smtplib.SMTP("127.0.0.1", server.port, timeout=TIMEOUT) as theirs:
            assert theirs.login(USER, PASSWORD)[0] == 235
            theirs.sendmail(ME, YOU, MESSAGE)
        assert len(server.messages) == 2


def test_login_asks_for_the_password_first() -> None:
    """It gets what it asks for; smtplib shows it the password as a user name."""
    asked = prompts(b64("Password:"), b64("Username:"))
    with ScriptedServer(EHLO=auth("LOGIN"), **asked) as server:
        with connect(server) as connection:
            connection.auth_login(USER, PASSWORD)
        assert server.dialogs[0][2:4] == [b64(PASSWORD).decode(), b64(USER).decode()]


def test_xoauth2_hears_why_it_is_refused() -> None:
    """The error challenge is answered with an empty line; the server's last word is the error."""
    why = prompts(b64('{"status":"401"}'), then=b"535 5.7.3 Authentication unsuccessful\r\n")
    with ScriptedServer(EHLO=auth("XOAUTH2"), **why) as server, connect(server) as connection:
        with pytest.raises(AuthError, match="Authentication unsuccessful") as caught:
            connection.auth_xoauth2(USER, "token")
        assert caught.value.response.code == 535
        assert "401" in str(caught.value)
        assert server.dialogs[0][-1] == ""
        assert connection.send(ME, YOU, MESSAGE).response.code == 250


@pytest.mark.parametrize(
    ("mechanism", "challenge"),
    [
        ("CRAM-MD5", b"not base64!"),
        ("CRAM-MD5", b"YQ"),
        ("PLAIN", b64("what?")),
        ("SCRAM-SHA-256", b64("r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")),
        ("SCRAM-SHA-256", b64("r=")),
    ],
)
def test_a_challenge_that_makes_no_sense_is_cancelled(mechanism: str, challenge: bytes) -> None:
    """With ``*`` (RFC 4954 4), no other mechanism follows, and the connection is in step."""
    replies = prompts(challenge, then=b"501 5.7.0 cancelled\r\n")
    offered = auth(mechanism, "LOGIN")
    with ScriptedServer(EHLO=offered, **replies) as server, connect(server) as connection:
        with pytest.raises(AuthError):
            connection.authenticate(PasswordCredentials(USER, PASSWORD))
        assert server.dialogs[0][2:] == ["*"]
        assert connection.send(ME, YOU, MESSAGE).response.code == 250


@pytest.mark.parametrize("then", [b"", b"334 eA==\r\n", b"235 ok\r\n", b"250 ok\r\n"])
def test_a_cancelled_login_does_not_succeed(then: bytes) -> None:
    """Whatever is said to ``*`` that is no refusal: the connection is not used again."""
    replies = prompts(b"not base64!", then=then or b"garbage\r\n")
    with ScriptedServer(EHLO=auth("CRAM-MD5"), **replies) as server, connect(server) as connection:
        with pytest.raises(ProtocolError):
            connection.authenticate(PasswordCredentials(USER, PASSWORD))
        assert not connection.is_authenticated
        assert not connection.is_open


def test_a_session_that_is_logged_in_already() -> None:
    """503 to AUTH says so and the connection can be used; smtplib takes it for a success."""
    said = b"503 5.5.1 already authenticated\r\n"
    with ScriptedServer(EHLO=auth("PLAIN"), AUTH=said) as server:
        with connect(server) as connection:
            with pytest.raises(AuthError, match="logged in already") as caught:
                connection.authenticate(PasswordCredentials(USER, PASSWORD))
            assert not caught.value.is_transient
            assert connection.send(ME, YOU, MESSAGE).response.code == 250
        with smtplib.SMTP("127.0.0.1", server.port, timeout=TIMEOUT) as theirs:
            assert theirs.login(USER, PASSWORD)[0] == 503


@pytest.mark.parametrize(
    "replies",
    [
        {"greeting": b"554 5.7.1 go away\r\n"},
        {"EHLO": b"550 no\r\n", "HELO": b"550 no\r\n"},
        {"EHLO": b"450 later\r\n"},
        {"EHLO": auth("PLAIN"), "AUTH": b"535 5.7.8 no\r\n"},
        {"EHLO": auth("GSSAPI")},
    ],
)
def test_a_refused_session_is_ended_with_quit(replies: dict[str, Any]) -> None:
    """At the greeting, EHLO and the login; smtplib hangs up.

    Where STARTTLS is refused nothing more is said in clear.
    """
    login = PasswordCredentials(USER, PASSWORD)
    with ScriptedServer(**replies) as server:
        config = ServerConfig("127.0.0.1", server.port, TlsMode.NONE, credentials=login)
        with pytest.raises(SmtpError):
            config.connect(TIMEOUT)
    assert server.verbs()[-1] == "QUIT"


# Reading what servers say

LF = {
    "greeting": b"220 old.example\n",
    "EHLO": b"250-old.example\n250 8BITMIME\n",
    "MAIL": b"250 ok\n",
    "RCPT": b"250 ok\n",
    "DATA": b"354 go\n",
    "CONTENT": b"250 queued\n",
    "QUIT": b"221 bye\n<close>",
}

SENT_ALL_THE_SAME: dict[str, dict[str, Any]] = {
    **{
        f"EHLO refused with {code}": {"EHLO": b"%d no\r\n" % code}
        for code in (500, 501, 502, 503, 504, 550, 554)
    },
    "EHLO answered with 251": {"EHLO": b"251 mx\r\n"},
    "every line ends with LF": LF,
    "CR CR LF": {"greeting": b"220 mx\r\r\n", "EHLO": b"250-mx\r\r\n250 x\r\r\n"},
    "a lone LF at EHLO": {"EHLO": b"250 mx\n"},
    "a lone LF at MAIL": {"MAIL": b"250 ok\n"},
    "a lone LF at the end": {"CONTENT": b"250 queued\n"},
    "control characters": {"greeting": b"220 mx \x1b[1m\r\n", "CONTENT": b"250 \x07ok\r\n"},
}


@pytest.mark.parametrize("name", SENT_ALL_THE_SAME)
def test_a_message_gets_through(name: str) -> None:
    """Also with smtplib."""
    with ScriptedServer(**SENT_ALL_THE_SAME[name]) as server:
        with connect(server) as connection:
            assert connection.send(ME, YOU, MESSAGE).response.code == 250
        assert send_by_smtplib(server) == {}
        assert server.messages == [MESSAGE] * 2


@pytest.mark.parametrize("code", [200, 251, 299])
def test_any_success_answers_a_command(code: int) -> None:
    """The first digit counts (RFC 5321 4.2), for NOOP and RSET as well."""
    reply = b"%d ok\r\n" % code
    with ScriptedServer(EHLO=reply, NOOP=reply, RSET=reply, MAIL=reply, RCPT=reply) as server:
        with connect(server) as connection:
            connection.noop()
            connection.reset()
            connection.send(ME, YOU, MESSAGE)
        assert server.verbs() == ["EHLO", "NOOP", "RSET", "MAIL", "RCPT", "DATA", "QUIT"]


@pytest.mark.parametrize("greeting", [b"200 mx\r\n", b"250 mx\r\n", b"354 mx\r\n"])
def test_only_220_is_a_greeting(greeting: bytes) -> None:
    """Some other service may be there."""
    with ScriptedServer(greeting) as server, pytest.raises(ProtocolError):
        connect(server)


def test_starttls_stays_required_behind_helo() -> None:
    """A server that refuses EHLO offers no STARTTLS, and nothing is sent in clear."""
    with ScriptedServer(EHLO=b"502 no\r\n") as server:
        with pytest.raises(StartTlsUnavailableError):
            SmtpConnection.connect("127.0.0.1", server.port, TlsMode.STARTTLS, TIMEOUT)
        assert "MAIL" not in server.verbs()


def test_empty_lines_behind_the_greeting() -> None:
    """They are skipped; smtplib loses its place in the dialog."""
    with ScriptedServer(b"220 mx\r\n\r\n\r\n") as server, connect(server) as connection:
        assert connection.send(ME, YOU, MESSAGE).response.code == 250


def test_a_connection_is_not_used_again_behind_a_lone_lf_after_content() -> None:
    """The message is delivered; what the server may have reflected is not waited for."""
    with ScriptedServer(CONTENT=b"250 queued\n") as server, pool_for(server) as pool:
        for _ in range(2):
            pool.send(ME, YOU, MESSAGE)
        assert len(server.dialogs) == 2
        assert len(server.messages) == 2


def test_reflected_text_never_becomes_a_reply() -> None:
    """``554 rejected: <LF>250 ok`` is no reply and one to the next command, but an error."""
    reflected = b"554 rejected: x\n250 ok\r\n"
    for pipelining in (b"", b"250 PIPELINING\r\n"):
        ehlo = b"250-mx\r\n" + (pipelining or b"250 HELP\r\n")
        with ScriptedServer(EHLO=ehlo, CONTENT=reflected) as server, connect(server) as connection:
            with pytest.raises(ParseError) as caught:
                connection.send(ME, YOU, MESSAGE)
            assert caught.value.may_have_been_delivered
            assert not connection.is_open


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "CONTENT"])
@pytest.mark.parametrize("ehlo", [PIPELINING, b"250 mx\r\n"], ids=["pipelined", "one by one"])
def test_the_rest_of_reflected_text_is_no_reply_when_it_comes_late(ehlo: bytes, verb: str) -> None:
    """A refusal that ends with a bare LF is the last thing that is read on a connection.

    A server that writes line by line sends what stands behind the LF in a packet of its own. It
    would be the reply to the next command, of the same message or of the next one.
    """

    def reflect(line: bytes, nth: int) -> bytes:
        return b"550 rejected: x\n<pause>250 ok\n<pause>354 go\n<pause>250 queued\r\n"

    replies: dict[str, Any] = {"EHLO": ehlo, verb: reflect}
    envelopes = [Envelope(ME, [f"{who}@example.net", *YOU], MESSAGE) for who in "ab"]
    with ScriptedServer(**replies) as server, connect(server) as connection:
        first, second = connection.send_many(envelopes)
        assert isinstance(first.error, SmtpError)
        assert isinstance(second.error, ConnectionClosedError)
        assert second.error.is_safe_to_retry
        assert not server.messages
        assert not connection.is_open
        assert len([line for line in server.dialogs[0] if line.startswith("RCPT")]) <= 2
        assert not any(line.startswith("Subject") for line in server.dialogs[0])


LF_PIPELINING = {**LF, "EHLO": b"250-old.example\n250-PIPELINING\n250 CHUNKING\n"}

WAYS: dict[str, Callable[[ScriptedServer, Pipelining, list[Envelope]], list[AnyOutcome]]] = {
    "send": lambda server, pipelining, envelopes: send_each(
        lambda: connect(server, pipelining=pipelining), envelopes
    ),
    "send_many": lambda server, pipelining, envelopes: send_together(
        lambda: connect(server, pipelining=pipelining), envelopes
    ),
    "pool.send": lambda server, pipelining, envelopes: send_each(
        lambda: pool_for(server, pipelining=pipelining), envelopes
    ),
    "pool.send_many": lambda server, pipelining, envelopes: send_together(
        lambda: pool_for(server, pipelining=pipelining), envelopes
    ),
}


def send_each(
    make: Callable[[], SmtpConnection | ConnectionPool], envelopes: list[Envelope]
) -> list[AnyOutcome]:
    """Send the messages one by one."""
    outcomes: list[AnyOutcome] = []
    with make() as sender:
        for envelope in envelopes:
            try:
                result = sender.send(ME, envelope.recipients, MESSAGE)
                outcomes.append(SendOutcome(envelope, result, None))
            except SmtpError as error:
                outcomes.append(SendOutcome(envelope, None, error))
    return outcomes


def send_together(
    make: Callable[[], SmtpConnection | ConnectionPool], envelopes: list[Envelope]
) -> list[AnyOutcome]:
    """Send them with `send_many`."""
    with make() as sender:
        return list(sender.send_many(envelopes))


class PacketWatcher(ScriptedServer):
    """Notes the commands behind which another one stood in the same packet."""

    def __init__(self, greeting: bytes, **replies: Any) -> None:
        super().__init__(greeting, **replies)
        self.pipelined: list[bytes] = []

    def _answer(self, line: bytes, counts: Counter[str], lines: Lines) -> bytes:
        if not lines.is_last:
            self.pipelined.append(line)
        return super()._answer(line, counts, lines)


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
@pytest.mark.parametrize("way", WAYS)
def test_a_server_that_ends_lines_with_lf_gets_one_command_at_a_time(
    way: str, pipelining: Pipelining
) -> None:
    """Whatever it offers: in a group, text that it repeats could count as the next reply."""
    envelopes = [Envelope(ME, ["a@example.net", "b@example.net"], MESSAGE) for _ in range(3)]
    with PacketWatcher(**LF_PIPELINING) as server:
        outcomes = WAYS[way](server, pipelining, envelopes)
        assert [outcome.error for outcome in outcomes] == [None] * 3
        assert server.messages == [MESSAGE] * 3
        assert not server.pipelined


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
@pytest.mark.parametrize("way", WAYS)
def test_text_reflected_by_a_server_that_ends_lines_with_lf_answers_no_command(
    way: str, pipelining: Pipelining
) -> None:
    """The reflected ``250`` and ``354`` belong to no recipient, and no content leaves for them."""

    def reflect(line: bytes, nth: int) -> bytes:
        return b"550 no such user: x\n250 ok\n354 go\n<pause>" if b"bad@" in line else b"550 no\n"

    replies: dict[str, Any] = {**LF_PIPELINING, "RCPT": reflect}
    envelopes = [Envelope(ME, ["bad@example.net", "b@example.net"], MESSAGE)]
    with PacketWatcher(**replies) as server:
        (outcome,) = WAYS[way](server, pipelining, envelopes)
        assert isinstance(outcome.error, SmtpError)
        assert not outcome.error.may_have_been_delivered
        assert not server.messages
        assert not any(line.startswith("Subject") for dialog in server.dialogs for line in dialog)


def test_the_drop_in_sends_one_command_at_a_time_to_a_server_that_ends_lines_with_lf() -> None:
    """There the greeting, EHLO and the message are operations of their own."""
    with PacketWatcher(**LF_PIPELINING) as server:
        with drop_in.SMTP("127.0.0.1", server.port, "client.example", timeout=TIMEOUT) as smtp:
            assert smtp.sendmail(ME, ["a@example.net", "b@example.net"], MESSAGE) == {}
        assert server.messages == [MESSAGE]
        assert not server.pipelined


def test_a_refused_recipient_behind_a_bare_lf_is_reported_as_refused() -> None:
    """The refusal itself stands."""
    with ScriptedServer(RCPT=b"550 no\n") as server, connect(server) as connection:
        with pytest.raises(AllRecipientsFailedError, match="550 no"):
            connection.send(ME, YOU, MESSAGE)
        assert not connection.is_open


@pytest.mark.parametrize("verb", ["VRFY", "EXPN", "HELP"])
def test_an_answer_that_ends_with_a_bare_lf_is_the_last(verb: str) -> None:
    """It repeats what others have written, and is returned all the same."""
    with ScriptedServer(**{verb: b"250 x\n"}) as server, connect(server) as connection:
        ask: Callable[[str], Any] = getattr(connection, verb.lower())
        assert ask("u").code == 250
        assert not connection.is_open


@pytest.mark.parametrize(
    ("greeting", "kind"),
    [
        (b"220-teaser\r\n521 5.7.1 no\r\n<close>", PermanentError),
        (b"220-teaser\r\n450 4.3.2 later\r\n<close>", TransientError),
        (b"220-teaser\r\n421 4.3.2 later\r\n<close>", TransientError),
        (b"220-teaser\r\n250 ok\r\n", ParseError),
    ],
)
def test_a_refusal_behind_a_teaser(greeting: bytes, kind: type[SmtpError]) -> None:
    """As postscreen sends it; a success is never believed there."""
    with ScriptedServer(greeting) as server:
        with pytest.raises(SmtpError) as caught:
            connect(server)
        assert kind_of(caught.value) is kind
        assert "EHLO" not in server.verbs()


@pytest.mark.parametrize("code", [521, 554, 450])
def test_a_refusal_behind_another_code_at_ehlo(code: int) -> None:
    """It is the refusal, and HELO is not tried: where the next reply begins is not certain."""
    with ScriptedServer(EHLO=b"250-mx\r\n%d no\r\n" % code) as server:
        with pytest.raises((PermanentError, TransientError), match=str(code)):
            connect(server)
        assert server.verbs()[:2] in (["EHLO"], ["EHLO", "QUIT"])


def test_two_codes_behind_content_stay_unknown() -> None:
    """There nothing else is safe."""
    with ScriptedServer(CONTENT=b"250-a\r\n554 no\r\n") as server, connect(server) as connection:
        with pytest.raises(ParseError) as caught:
            connection.send(ME, YOU, MESSAGE)
        assert caught.value.may_have_been_delivered


@pytest.mark.parametrize(("code", "verb"), [(250, "VRFY"), (550, "VRFY"), (502, "EXPN")])
def test_an_answer_to_a_question_is_returned(code: int, verb: str) -> None:
    """As smtplib returns it."""
    with ScriptedServer(**{verb: b"%d x\r\n" % code}) as server:
        with connect(server) as connection:
            ask: Callable[[str], Any] = getattr(connection, verb.lower())
            assert ask("u").code == code
        with smtplib.SMTP("127.0.0.1", server.port, timeout=TIMEOUT) as theirs:
            assert getattr(theirs, verb.lower())("u")[0] == code


# A server that has had enough of a connection


@pytest.mark.parametrize("farewell", [b"421 4.4.2 idle", b"451 4.4.2 idle", b"554 5.4.0 idle"])
def test_a_421_between_commands(farewell: bytes) -> None:
    """Whatever code it has, the error is that of a closed connection, transient."""
    both = b"250 ok\r\n" + farewell + b"\r\n<close>"
    with ScriptedServer(NOOP=both) as server, connect(server) as connection:
        connection.noop()
        with pytest.raises(ConnectionClosedError) as caught:
            connection.send(ME, YOU, MESSAGE)
        assert caught.value.is_transient
        assert not caught.value.may_have_been_delivered


@pytest.mark.parametrize("end", [b"\r\n", b"\r\n<close>"], ids=["stays", "closes"])
@pytest.mark.parametrize("farewell", [b"421 4.4.2 idle", b"451 4.4.2 idle", b"554 5.4.0 idle"])
def test_a_pool_replaces_a_connection_whose_server_took_leave(farewell: bytes, end: bytes) -> None:
    """Also if the server leaves it open; the next message has a new one, without a second try."""
    with ScriptedServer(CONTENT=b"250 queued\r\n<pause>" + farewell + end) as server:
        with pool_for(server) as pool:
            for _ in range(3):
                pool.send(ME, YOU, MESSAGE)
                wait_until(lambda: server.said.count(farewell + b"\r\n") == len(server.messages))
            assert pool.stats().retries == 0
        assert len(server.messages) == len(server.dialogs) == 3


@pytest.mark.parametrize("farewell", [b"421 4.4.2 idle", b"451 4.4.2 idle"])
def test_a_421_that_crosses_mail(farewell: bytes) -> None:
    """The pool sends the message over a new connection, as it does after 421."""

    def mail(line: bytes, nth: int) -> bytes:
        return farewell + b"\r\n<close>" if nth else b"250 ok\r\n"

    with ScriptedServer(MAIL=mail) as server, pool_for(server) as pool:
        for _ in range(3):
            pool.send(ME, YOU, MESSAGE)
        assert len(server.messages) == 3


@pytest.mark.parametrize("text", ["too many recipients", "5.5.3 too many recipients"])
def test_552_to_a_recipient_too_many(text: str) -> None:
    """Behind an accepted one it means 452 (RFC 5321 4.5.3.1.10)."""

    def rcpt(line: bytes, nth: int) -> bytes:
        return b"552 " + text.encode() + b"\r\n" if nth else b"250 ok\r\n"

    with ScriptedServer(RCPT=rcpt) as server, connect(server) as connection:
        result = connection.send(ME, [*YOU, "two@example.net"], MESSAGE)
        (refused,) = result.rejected_recipients
        assert refused.is_transient
        assert refused.response.code == 552
        assert send_by_smtplib(server, [*YOU, "two@example.net"]).keys() == {"two@example.net"}


def test_552_to_the_first_recipient_or_for_its_size_is_permanent() -> None:
    """So is a full mailbox."""

    def rcpt(line: bytes, nth: int) -> bytes:
        return b"552 5.2.2 full\r\n" if nth else b"250 ok\r\n"

    with ScriptedServer(RCPT=rcpt) as server, connect(server) as connection:
        result = connection.send(ME, [*YOU, "two@example.net"], MESSAGE)
        assert not result.rejected_recipients[0].is_transient
    with ScriptedServer(RCPT=b"552 no\r\n") as server, connect(server) as connection:
        with pytest.raises(SmtpError) as caught:
            connection.send(ME, YOU, MESSAGE)
        assert not caught.value.is_transient


def bad_rcpt(line: bytes, nth: int) -> bytes:
    """Refuse unknown recipients."""
    return b"550 5.1.1 no such user\r\n" if b"bad" in line else b"250 ok\r\n"


@pytest.mark.parametrize("ehlo", [PIPELINING, b"250 mx\r\n"], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("rset", [b"502 no\r\n", b"503 no\r\n", b"500 no\r\n", b"451 no\r\n"])
def test_rset_refused(rset: bytes, ehlo: bytes) -> None:
    """The message that needed it goes over a new connection, and RSET is not said again."""
    with ScriptedServer(EHLO=ehlo, RSET=rset, RCPT=bad_rcpt) as server:
        with pool_for(server) as pool:
            for who in ("a", "bad", "b", "c", "bad", "d"):
                try:
                    pool.send(ME, [f"{who}@example.net"], MESSAGE)
                except SmtpError:
                    assert who == "bad"
        assert len(server.messages) == 4
        assert sum(line == "RSET" for dialog in server.dialogs for line in dialog) == 1
        for who in ("a", "b"):
            send_by_smtplib(server, [f"{who}@example.net"])


@pytest.mark.parametrize("rset", [b"502 no\r\n", b"503 no\r\n", b"451 no\r\n"])
def test_rset_refused_between_streamed_messages(rset: bytes) -> None:
    """No recipient was refused, so all messages are delivered over one connection."""
    envelopes = [Envelope(ME, [f"{who}@example.net"], MESSAGE) for who in "abcd"]
    with ScriptedServer(EHLO=PIPELINING, RSET=rset) as server, connect(server) as connection:
        outcomes = list(connection.send_many(envelopes))
        assert [outcome.error for outcome in outcomes] == [None] * 4
        assert len(server.messages) == 4


def test_rset_refused_behind_a_refused_envelope() -> None:
    """What follows on that connection was certainly not sent; no message has another's sender."""
    envelopes = [Envelope(ME, [f"{who}@example.net"], MESSAGE) for who in ("a", "bad", "b")]
    with ScriptedServer(EHLO=PIPELINING, RSET=b"502 no\r\n", RCPT=bad_rcpt) as server:
        with connect(server) as connection:
            sent, refused, lost = connection.send_many(envelopes)
        assert isinstance(sent.result, SendResult)
        assert refused.error is not None
        assert isinstance(lost.error, ConnectionClosedError)
        assert lost.error.is_safe_to_retry
        assert len(server.messages) == 1


def test_rset_refused_at_the_end_of_try_envelope() -> None:
    """The answers about the recipients stand."""
    with ScriptedServer(RSET=b"502 no\r\n", RCPT=bad_rcpt) as server, connect(server) as connection:
        replies = connection.try_envelope(ME, ["a@example.net", "bad@example.net"])
        assert [reply.code for reply in replies] == [250, 550]
        assert not connection.is_open


AT_LIMIT = [
    ("DATA", b"452 4.4.5 Maximum number of messages per session exceeded"),
    ("MAIL", b"451 4.7.0 enough"),
    ("MAIL", b"530 authenticate first"),
    ("MAIL", b"554 no more"),
    ("MAIL", b"503 bad sequence"),
    ("MAIL", b"450 4.3.2 later"),
    ("MAIL", b"421 4.7.0 enough"),
]


@pytest.mark.parametrize("ehlo", [PIPELINING, b"250 mx\r\n"], ids=["pipelined", "one by one"])
@pytest.mark.parametrize(("verb", "reply"), AT_LIMIT)
def test_a_connection_at_its_limit_is_replaced(verb: str, reply: bytes, ehlo: bytes) -> None:
    """Every message gets through, two to a connection."""
    usual = b"354 go\r\n" if verb == "DATA" else b"250 ok\r\n"

    def limited(line: bytes, nth: int) -> bytes:
        return reply + b"\r\n" if nth >= 2 else usual

    replies: dict[str, Any] = {"EHLO": ehlo, verb: limited}
    with ScriptedServer(**replies) as server, pool_for(server) as pool:
        envelopes = (Envelope(ME, YOU, MESSAGE) for _ in range(7))
        assert all(outcome.error is None for outcome in pool.send_many(envelopes))
        assert len(server.messages) == 7
        assert len(server.dialogs) == 4


@pytest.mark.parametrize(
    ("verb", "reply"),
    [
        ("MAIL", b"501 5.5.4 x"),
        ("MAIL", b"553 5.1.8 no such sender"),
        ("MAIL", b"552 too big"),
        ("MAIL", b"451 4.7.1 greylisted"),
        ("MAIL", b"554 5.7.1 spam"),
        ("RCPT", b"450 4.2.0 greylisted"),
        ("RCPT", b"451 4.7.0 later"),
        ("CONTENT", b"452 4.4.5 no more"),
    ],
)
def test_what_is_about_the_message_costs_no_connection(verb: str, reply: bytes) -> None:
    """A bad sender must not cause a login for each try, and content is never sent twice."""

    def refuse(line: bytes, nth: int) -> bytes:
        return reply + b"\r\n" if nth else b"250 ok\r\n"

    replies: dict[str, Any] = {verb: refuse}
    with ScriptedServer(**replies) as server, pool_for(server) as pool:
        pool.send(ME, YOU, MESSAGE)
        for _ in range(3):
            with pytest.raises(SmtpError):
                pool.send(ME, YOU, MESSAGE)
        assert len(server.dialogs) == 1


@pytest.mark.parametrize(("verb", "reply"), AT_LIMIT)
def test_an_lmtp_connection_at_its_limit_is_replaced(verb: str, reply: bytes) -> None:
    """The same for single messages in LMTP."""
    usual = b"354 go\r\n" if verb == "DATA" else b"250 ok\r\n"

    def limited(line: bytes, nth: int) -> bytes:
        return reply + b"\r\n" if nth >= 2 else usual

    replies: dict[str, Any] = {"LHLO": PIPELINING, verb: limited}
    with ScriptedServer(**replies) as server:
        made = ServerConfig(
            "127.0.0.1", server.port, TlsMode.NONE, protocol=Protocol.LMTP, timeout=TIMEOUT
        )
        with ConnectionPool(made, max_size=1, keepalive=None) as pool:
            for _ in range(5):
                pool.send(ME, YOU, MESSAGE)
        assert len(server.messages) == 5
        assert len(server.dialogs) == 3


def test_a_server_that_refuses_new_connections_too_is_not_stormed() -> None:
    """What a new connection is refused as well leads to no other one for a minute."""
    is_limited = False

    def mail(line: bytes, nth: int) -> bytes:
        return b"451 4.7.0 enough\r\n" if is_limited else b"250 ok\r\n"

    with ScriptedServer(MAIL=mail) as server, pool_for(server) as pool:
        pool.send(ME, YOU, MESSAGE)
        is_limited = True
        for _ in range(5):
            with pytest.raises(TransientError):
                pool.send(ME, YOU, MESSAGE)
        assert len(server.dialogs) == 2


def test_a_server_that_gives_another_reason_each_time_is_not_stormed() -> None:
    """A new connection is no help either if it has another code of that kind."""
    codes = itertools.chain([b"250 ok"], itertools.cycle([b"451 4.7.0 a", b"452 4.3.1 b"]))

    def mail(line: bytes, nth: int) -> bytes:
        return next(codes) + b"\r\n"

    with ScriptedServer(MAIL=mail) as server, pool_for(server) as pool:
        pool.send(ME, YOU, MESSAGE)
        for _ in range(6):
            with pytest.raises(TransientError):
                pool.send(ME, YOU, MESSAGE)
        assert len(server.dialogs) <= 3


def test_the_second_try_counts_against_the_rate() -> None:
    """Where it would come too late, the refusal is the answer."""

    def mail(line: bytes, nth: int) -> bytes:
        return b"451 4.7.0 enough\r\n" if nth else b"250 ok\r\n"

    with ScriptedServer(MAIL=mail) as server, pool_for(server, max_rate=0.01, burst=2) as pool:
        pool.send(ME, YOU, MESSAGE)
        with pytest.raises(TransientError):
            pool.send(ME, YOU, MESSAGE, timeout=1)
        assert len(server.dialogs) == 1


# PIPELINING that is offered and broken

PASSES: list[Any] = ["first", "last"]


@pytest.mark.parametrize("passes", PASSES)
def test_broken_pipelining_is_found_out(passes: Any, caplog: pytest.LogCaptureFixture) -> None:
    """After two groups of which only a part was answered, one command at a time is used.

    The server stays as it is. smtplib, which always sends so, gets its message through.
    """
    with PacketFilter(passes) as server:
        with pool_for(server) as pool:
            for _ in range(2):
                with pytest.raises(
                    SmtpTimeoutError, match=r"1 of 3 replies .*pipelining=Pipelining\.OFF"
                ):
                    pool.send(ME, YOU, MESSAGE, timeout=0.3)
            for _ in range(3):
                pool.send(ME, YOU, MESSAGE)
                pool.drain()
            assert caplog.text.count("one command at a time for the next 3600 seconds") == 1
        assert send_by_smtplib(server) == {}
        assert len(server.messages) == 4


@pytest.mark.parametrize("passes", PASSES)
def test_broken_pipelining_is_found_out_by_many_messages(passes: Any) -> None:
    """The first ones fail with the hint, or nothing was begun; the others are delivered."""
    envelopes = (Envelope(ME, YOU, MESSAGE) for _ in range(6))
    with PacketFilter(passes) as server, pool_for(server, timeout=1.0) as pool:
        outcomes = list(pool.send_many(envelopes))
        failed = [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(failed) == 2
        assert all("Pipelining.OFF" in str(error) for error in failed)
        assert not any(error.may_have_been_delivered for error in failed)
        assert len(server.messages) == 4


def test_pipelining_is_tried_again_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter may have been repaired."""
    monkeypatch.setattr("smtpconn.protocol.quirks.PIPELINING_OFF", 0.2)
    with PacketFilter("first") as server, pool_for(server) as pool:
        for _ in range(2):
            with pytest.raises(SmtpTimeoutError):
                pool.send(ME, YOU, MESSAGE, timeout=0.2)
        pool.send(ME, YOU, MESSAGE)
        time.sleep(0.2)
        with pytest.raises(SmtpTimeoutError, match=r"pipelining=Pipelining\.OFF"):
            pool.send(ME, YOU, MESSAGE, timeout=0.2)


def test_silence_alone_is_no_broken_pipelining(caplog: pytest.LogCaptureFixture) -> None:
    """A server that answers nothing is slow; the text gives the hint all the same."""
    with ScriptedServer(EHLO=PIPELINING, MAIL=b"", RCPT=b"", DATA=b"") as server:
        with pool_for(server) as pool:
            for _ in range(3):
                with pytest.raises(SmtpTimeoutError, match="0 of 3 replies"):
                    pool.send(ME, YOU, MESSAGE, timeout=0.2)
        assert "one command at a time" not in caplog.text


def test_a_slow_recipient_is_no_broken_pipelining(caplog: pytest.LogCaptureFixture) -> None:
    """One that is looked up for longer than the deadline, while MAIL is answered at once."""
    is_slow = True

    def rcpt(line: bytes, nth: int) -> bytes:
        return b"" if is_slow else b"250 ok\r\n"

    with ScriptedServer(EHLO=PIPELINING, RCPT=rcpt) as server, pool_for(server) as pool:
        for _ in range(3):
            with pytest.raises(SmtpTimeoutError):
                pool.send(ME, YOU, MESSAGE, timeout=0.2)
        # The third one has shown that RCPT alone is slow as well.
        is_slow = False
        pool.send(ME, YOU, MESSAGE)
        assert "one command at a time" not in caplog.text


def test_a_server_that_answers_slowly_is_no_broken_pipelining(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its replies come, one after the other, and the deadline passes before the last."""

    def slow(line: bytes, nth: int) -> bytes:
        time.sleep(0.5)
        return b"250 ok\r\n"

    with ScriptedServer(EHLO=PIPELINING, MAIL=slow, RCPT=slow) as server, pool_for(server) as pool:
        for _ in range(3):
            with pytest.raises(SmtpTimeoutError, match="2 of 4 replies"):
                pool.send(ME, [*YOU, "two@example.net"], MESSAGE, timeout=1.2)
        assert "one command at a time" not in caplog.text


# Refusals that end the connection

REFUSED = b"550 5.7.1 blocked\r\n" + CLOSE


@pytest.mark.parametrize("ehlo", [PIPELINING, b"250 mx\r\n"], ids=["pipelined", "one by one"])
@pytest.mark.parametrize(
    ("verb", "to", "kind"),
    [
        ("MAIL", ["a@example.net", "b@example.net"], PermanentError),
        ("RCPT", ["a@example.net"], AllRecipientsFailedError),
    ],
)
def test_a_refusal_that_ends_the_connection(
    ehlo: bytes, verb: str, to: list[str], kind: type[SmtpError]
) -> None:
    """It is the error, as with smtplib, and not the lost connection: that would be transient."""
    replies: dict[str, Any] = {"EHLO": ehlo, verb: REFUSED}
    with ScriptedServer(**replies) as server:
        with connect(server) as connection:
            outcome, later = connection.send_many([Envelope(ME, to, MESSAGE)] * 2)
        for sender in (connect(server), pool_for(server)):
            with sender, pytest.raises(kind, match=r"550 5\.7\.1 blocked") as caught:
                sender.send(ME, to, MESSAGE)
            assert not caught.value.is_transient
        assert isinstance(outcome.error, kind)
        assert isinstance(later.error, ConnectionClosedError)
        assert later.error.is_safe_to_retry
        assert len(server.dialogs) == 3
        with pytest.raises((smtplib.SMTPSenderRefused, smtplib.SMTPRecipientsRefused)) as theirs:
            send_by_smtplib(server, to)
        assert isinstance(caught.value, type(theirs.value))


@pytest.mark.parametrize("ehlo", [PIPELINING, b"250 mx\r\n"], ids=["pipelined", "one by one"])
def test_a_refusal_of_one_recipient_that_ends_the_connection(ehlo: bytes) -> None:
    """The other one might be accepted, so it stays a lost connection, with the server's words."""
    with ScriptedServer(EHLO=ehlo, RCPT=REFUSED) as server, connect(server) as connection:
        with pytest.raises(ConnectionClosedError) as caught:
            connection.send(ME, ["a@example.net", "b@example.net"], MESSAGE)
        assert "before that it refused a@example.net: 550 5.7.1 blocked" in str(caught.value)
        assert caught.value.is_safe_to_retry


# Known products


def test_a_server_that_refuses_what_stands_behind_the_content() -> None:
    """Haraka's 503 refuses no message: the envelope goes again, and later ones alone."""
    senders = [f"{who}@example.com" for who in "abcdefgh"]
    envelopes = [Envelope(sender, YOU, MESSAGE) for sender in senders]
    with HarakaLike(RCPT=bad_rcpt) as server:
        with connect(server) as connection:
            assert [o.error for o in connection.send_many(envelopes)] == [None] * 8
        with pool_for(server) as pool:
            for _ in range(2):
                assert all(o.error is None for o in pool.send_many(envelopes))
                pool.drain()
        assert len(server.messages) == 24
        # The pool has learnt it of its first connection.
        repeated = [
            [sum(f"<{sender}>" in line for line in dialog) for sender in senders]
            for dialog in server.dialogs
        ]
        assert repeated == [[1, 2] + [1] * 6, [1, 2] + [1] * 6, [1] * 8]
        assert send_by_smtplib(server) == {}


def test_refused_messages_between_others_at_such_a_server() -> None:
    """Its 503 is not taken for the refusal of a recipient, nor the other way round."""
    names = ["a", "bad", "b", "bad", "bad", "c", "d"]
    envelopes = [Envelope(ME, [f"{who}@example.net"], MESSAGE) for who in names]
    with HarakaLike(RCPT=bad_rcpt) as server, connect(server) as connection:
        outcomes = list(connection.send_many(envelopes))
        refused = [isinstance(o.error, AllRecipientsFailedError) for o in outcomes]
        assert refused == [who == "bad" for who in names]
        assert len(server.messages) == 4


def test_a_client_that_is_looked_at_first() -> None:
    """We wait for the whole greeting of postscreen, and its 450 is greylisting.

    It costs no second connection; the next one is let through.
    """
    with PostscreenLike() as server:
        with pool_for(server) as pool:
            for _ in range(2):
                with pytest.raises(AllRecipientsFailedError) as caught:
                    pool.send(ME, YOU, MESSAGE)
                assert caught.value.is_transient
            assert len(server.dialogs) == 1
            pool.drain()
            pool.send(ME, YOU, MESSAGE)
        assert server.messages == [MESSAGE]
    with PostscreenLike() as server:
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            send_by_smtplib(server)
        assert send_by_smtplib(server) == {}


def test_a_client_that_is_on_a_list() -> None:
    """The refusal behind postscreen's teaser is permanent, and EHLO is not said."""
    with PostscreenLike(listed=True) as server:
        with pytest.raises(PermanentError, match=r"521 5\.7\.1 Service unavailable") as caught:
            connect(server)
        assert str(caught.value.response.enhanced_status) == "5.7.1"
        assert "EHLO" not in server.verbs()
        with pytest.raises(smtplib.SMTPConnectError, match="521"):
            send_by_smtplib(server)
