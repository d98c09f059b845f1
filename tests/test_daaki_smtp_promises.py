"""What an SMTP connection promises, sentence by sentence, in the order of the page that says it.

The page is that of ``SmtpConnection`` in the Rust crate daaki-smtp. Each test names the method
it is about in its docstring. Where smtpconn differs on purpose, the docstring says how.
"""

from __future__ import annotations

import base64
import inspect
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from smtpconn import (
    AuthError,
    BodyType,
    ConnectionClosedError,
    DsnNotify,
    ForwardPath,
    MailFromParams,
    PermanentError,
    Pipelining,
    ProtocolError,
    RcptToParams,
    ReversePath,
    ServerCapabilities,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsUnavailableError,
    TlsMode,
    TransientError,
    ValidationError,
)
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates

ME, YOU, MESSAGE = "me@example.com", ["you@example.net"], b"Subject: hi\r\n\r\nHi\r\n"
TWO = ["one@example.net", "two@example.net"]
USERS = {"u": "p"}
SENDER = ReversePath(ME)
MAIL_PARAMS = MailFromParams(body=BodyType.EIGHTBITMIME, smtputf8=True)
RCPT_PARAMS = [RcptToParams(notify=DsnNotify.NEVER)]
NO_CHUNKING = ["PIPELINING", "8BITMIME"]


def connect(server: SmtpServer, **options: Any) -> SmtpConnection:
    """Connect in clear."""
    make = SmtpConnection.connect_lmtp if options.pop("lmtp", False) else SmtpConnection.connect
    return make(server.host, server.port, TlsMode.NONE, 5, allow_cleartext_auth=True, **options)


@contextmanager
def session(lmtp: bool = False, **settings: Any) -> Iterator[tuple[SmtpServer, SmtpConnection]]:
    """A server and a connection to it."""
    protocol = "LMTP" if lmtp else "SMTP"
    with (
        SmtpServer(protocol=protocol, **settings) as server,
        connect(server, lmtp=lmtp) as connection,
    ):
        yield server, connection


def said(server: SmtpServer, verb: str) -> list[str]:
    """The commands of the first connection with a verb."""
    return [c for c in server.connections[0].commands if c.split(" ")[0].upper() == verb]


def b64(text: str) -> str:
    """As it stands in an AUTH line."""
    return base64.b64encode(text.encode()).decode()


# The connection


def test_there_is_no_hard_coded_timeout_per_operation() -> None:
    """Every operation of `SmtpConnection` takes a timeout, and that ends it."""
    operations = (
        *("auth_plain", "auth_plain_with_authzid", "auth_xoauth2", "auth_login"),
        *("auth_oauthbearer", "send_bdat", "send_bdat_with_all_params", "send_lmtp"),
        *("send_lmtp_with_all_params", "send_lmtp_bdat", "send_lmtp_bdat_with_all_params"),
        *("send", "send_with_params", "send_with_all_params", "reset", "noop", "vrfy", "expn"),
        *("help", "quit", "rehlo"),
    )
    for name in operations:
        assert "timeout" in inspect.signature(getattr(SmtpConnection, name)).parameters
    with session() as (server, connection):
        server.fault("NOOP", hang=True)
        begun = time.monotonic()
        with pytest.raises(SmtpTimeoutError):
            connection.noop(0.1)
        assert time.monotonic() - begun < 3


def test_a_connection_is_shared_without_a_lock_of_the_callers() -> None:
    """`SmtpConnection.noop` and `send` from many threads: each has its own answer, in turn."""
    with session() as (server, connection), ThreadPoolExecutor(8) as threads:
        work = [threads.submit(connection.noop) for _ in range(20)]
        sends = [threads.submit(connection.send, ME, YOU, MESSAGE) for _ in range(20)]
        for each in work:
            each.result()
        assert all(each.result().response.code == 250 for each in sends)
        assert len(server.messages) == 20
        assert len(server.connections) == 1


def test_the_caller_provides_the_message() -> None:
    """`SmtpConnection.send` delivers the bytes it is given, and adds none."""
    with session() as (server, connection):
        connection.send(ME, YOU, b"X: 1\r\n\r\n.dot\r\n..\r\n")
        assert server.messages[0].content == b"X: 1\r\n\r\n.dot\r\n..\r\n"


# Logging in


def test_auth_plain_omits_the_authorization_identity() -> None:
    """`SmtpConnection.auth_plain`: NUL, user, NUL, password on the AUTH line (RFC 4616)."""
    with session(users=USERS) as (server, connection):
        connection.auth_plain("u", "p")
        assert said(server, "AUTH") == [f"AUTH PLAIN {b64(chr(0) + 'u' + chr(0) + 'p')}"]


Login = Callable[[SmtpConnection], object]

LOGINS: dict[str, Login] = {
    "PLAIN": lambda c: c.auth_plain("u", "p"),
    "XOAUTH2": lambda c: c.auth_xoauth2("u", "t"),
    "LOGIN": lambda c: c.auth_login("u", "p"),
    "OAUTHBEARER": lambda c: c.auth_oauthbearer("t"),
}


@pytest.mark.parametrize("mechanism", LOGINS)
@pytest.mark.parametrize(("code", "is_transient"), [(454, True), (535, False)])
def test_a_refused_login_has_the_whole_response(
    mechanism: str, code: int, is_transient: bool
) -> None:
    """`SmtpConnection.auth_*` raise `AuthError` with the reply, 454 transient, 535 not."""
    with session(accept_any_login=True) as (server, connection):
        server.fault("AUTH", reply=f"{code}-4.7.0 one\r\n{code} two")
        with pytest.raises(AuthError) as caught:
            LOGINS[mechanism](connection)
        assert caught.value.response.code == code
        assert caught.value.response.lines == ("4.7.0 one", "two")
        assert caught.value.is_transient is is_transient


def _endless(said: list[bytes]) -> Generator[bytes, bytes, str | None]:
    while True:
        said.append((yield b"what else?"))


def test_an_unexpected_challenge_to_plain_is_cancelled() -> None:
    """`SmtpConnection.auth_plain`: 334 is answered with ``*`` (RFC 4954 4), and it goes on."""
    heard: list[bytes] = []
    with session(sasl={"PLAIN": lambda: _endless(heard)}) as (server, connection):
        with pytest.raises(AuthError) as caught:
            connection.auth_plain("u", "p")
        assert caught.value.response.code == 501
        assert "*" in server.connections[0].commands
        connection.noop()


def test_a_login_too_long_for_the_line_takes_two_steps() -> None:
    """`SmtpConnection.auth_plain`: up to 512 bytes the response is on the AUTH line."""
    with session(users={"u": "x" * 400}) as (server, connection):
        connection.auth_plain("u", "x" * 400)
        assert said(server, "AUTH") == ["AUTH PLAIN"]
        assert connection.is_authenticated


def test_auth_plain_with_authzid() -> None:
    """`SmtpConnection.auth_plain_with_authzid`: authzid NUL authcid NUL password (RFC 4616 2)."""
    with session(accept_any_login=True) as (server, connection):
        connection.auth_plain_with_authzid("z", "u", "p")
        assert said(server, "AUTH") == [f"AUTH PLAIN {b64('z' + chr(0) + 'u' + chr(0) + 'p')}"]


@pytest.mark.parametrize("authzid", ["", "a\0b"])
def test_an_authorization_identity_is_not_empty_and_has_no_nul(authzid: str) -> None:
    """`SmtpConnection.auth_plain_with_authzid`: nothing is sent."""
    with session(accept_any_login=True) as (server, connection):
        with pytest.raises(ValidationError):
            connection.auth_plain_with_authzid(authzid, "u", "p")
        assert said(server, "AUTH") == []


def test_auth_xoauth2() -> None:
    """`SmtpConnection.auth_xoauth2` in one step. Its error challenge is answered with an empty line
    and not cancelled, so that the server's own 535 is the error."""
    with session(accept_any_login=True) as (server, connection):
        connection.auth_xoauth2("u", "t")
        response = "user=u\x01auth=Bearer t\x01\x01"
        assert said(server, "AUTH") == [f"AUTH XOAUTH2 {b64(response)}"]


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_too_long_for_the_line_takes_two_steps(mechanism: str) -> None:
    """`SmtpConnection.auth_xoauth2` and `auth_oauthbearer`: as `auth_plain`."""
    with session(accept_any_login=True) as (server, connection):
        if mechanism == "XOAUTH2":
            connection.auth_xoauth2("u", "t" * 400)
        else:
            connection.auth_oauthbearer("t" * 400)
        assert said(server, "AUTH") == [f"AUTH {mechanism}"]
        assert connection.is_authenticated


def test_auth_login_has_two_steps() -> None:
    """`SmtpConnection.auth_login`: AUTH LOGIN, the user to the first prompt, the password to the
    second."""
    with session(users=USERS) as (server, connection):
        connection.auth_login("u", "p")
        assert server.connections[0].commands[1:] == ["AUTH LOGIN", b64("u"), b64("p")]


def test_auth_oauthbearer() -> None:
    """`SmtpConnection.auth_oauthbearer`: ``n,,`` and the token (RFC 7628 3.1)."""
    with session(accept_any_login=True) as (server, connection):
        connection.auth_oauthbearer("t")
        response = "n,,\x01auth=Bearer t\x01\x01"
        assert said(server, "AUTH") == [f"AUTH OAUTHBEARER {b64(response)}"]


# BDAT


def test_send_bdat_sends_one_last_chunk_without_dot_stuffing() -> None:
    """`SmtpConnection.send_bdat`: MAIL, RCPT, BDAT n LAST (RFC 3030 2)."""
    with session() as (server, connection):
        connection.send_bdat(ME, YOU, b"X: 1\r\n\r\n.dot\r\n")
        assert [c.split()[0] for c in server.connections[0].commands[1:4]] == [
            "MAIL",
            "RCPT",
            "BDAT",
        ]
        assert said(server, "BDAT") == ["BDAT 14 LAST"]
        assert server.messages[0].content == b"X: 1\r\n\r\n.dot\r\n"


def test_send_bdat_takes_parameters_of_mail_and_tells_the_size() -> None:
    """`SmtpConnection.send_bdat`: BODY and SMTPUTF8 as given, SIZE by itself (RFC 1870 3)."""
    with session() as (server, connection):
        connection.send_bdat(ME, YOU, MESSAGE, MailFromParams(body=BodyType.BINARYMIME))
        assert set(server.messages[0].mail_parameters) == {
            f"SIZE={len(MESSAGE)}",
            "BODY=BINARYMIME",
        }


@pytest.mark.parametrize("name", ["send_bdat", "send_bdat_with_all_params"])
def test_bdat_needs_chunking(name: str) -> None:
    """`SmtpConnection.send_bdat` and its kin raise `ProtocolError` where it is not offered."""
    more: tuple[Any, ...] = (None, RCPT_PARAMS) if "all" in name else ()
    with session(extensions=NO_CHUNKING) as (server, connection):
        with pytest.raises(ProtocolError) as caught:
            getattr(connection, name)(ME, YOU, MESSAGE, *more)
        assert not caught.value.may_have_been_delivered
        assert said(server, "MAIL") == []


def test_send_bdat_with_all_params() -> None:
    """`SmtpConnection.send_bdat_with_all_params`: NOTIFY and ORCPT per recipient (RFC 3461 4)."""
    with session() as (server, connection):
        connection.send_bdat_with_all_params(SENDER, YOU, MESSAGE, MailFromParams(), RCPT_PARAMS)
        assert server.messages[0].recipient_parameters == (("NOTIFY=NEVER",),)


@pytest.mark.parametrize(
    ("name", "lmtp"),
    [
        ("send_with_all_params", False),
        ("send_bdat_with_all_params", False),
        ("send_lmtp_with_all_params", True),
        ("send_lmtp_bdat_with_all_params", True),
    ],
)
def test_parameters_are_as_many_as_recipients(name: str, lmtp: bool) -> None:
    """`SmtpConnection.send_with_all_params` and its kin raise `ProtocolError` if not."""
    with session(lmtp=lmtp) as (server, connection):
        with pytest.raises(ProtocolError):
            getattr(connection, name)(ME, TWO, MESSAGE, None, RCPT_PARAMS)
        assert said(server, "MAIL") == []


# Our own name


def test_set_ehlo_domain() -> None:
    """`SmtpConnection.set_ehlo_domain`: a domain or an address literal, from the next EHLO on."""
    with session() as (server, connection):
        for name in ("client.example.com", "[192.0.2.1]"):
            connection.set_ehlo_domain(name)
            connection.rehlo()
        assert said(server, "EHLO")[1:] == ["EHLO client.example.com", "EHLO [192.0.2.1]"]


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb", "bücher.example", "a\x7fb", "\t"])
def test_an_empty_or_unprintable_domain_is_refused(name: str) -> None:
    """`SmtpConnection.set_ehlo_domain` raises `ProtocolError`, which is a `ValidationError` too."""
    with session() as (server, connection):
        with pytest.raises(ProtocolError) as caught:
            connection.set_ehlo_domain(name)
        assert isinstance(caught.value, ValidationError)
        connection.rehlo()
        assert len(set(said(server, "EHLO"))) == 1


# Connecting


@pytest.mark.parametrize("mode", TlsMode)
def test_connect_does_the_first_ehlo(mode: TlsMode, certificates: Certificates) -> None:
    """`SmtpConnection.connect`: TLS at once, or EHLO, STARTTLS and EHLO again, or in clear."""
    context = None if mode is TlsMode.NONE else certificates.server_context()
    implicit = mode is TlsMode.IMPLICIT
    with SmtpServer(tls_context=context, implicit_tls=implicit) as server:
        with SmtpConnection.connect_with_tls_config(
            "localhost", server.port, mode, 5, certificates.client_context()
        ) as connection:
            assert connection.capabilities.supports_chunking
            assert (connection.tls is not None) is (mode is not TlsMode.NONE)
        verbs = [command.split()[0] for command in server.connections[0].commands]
        starttls = ["EHLO", "STARTTLS", "EHLO", "QUIT"]
        assert verbs == (starttls if mode is TlsMode.STARTTLS else ["EHLO", "QUIT"])


def test_starttls_is_required_where_asked_for() -> None:
    """`SmtpConnection.connect` with STARTTLS never goes on in clear."""
    with SmtpServer() as server, pytest.raises(StartTlsUnavailableError):
        SmtpConnection.connect(server.host, server.port, TlsMode.STARTTLS, 5)


def test_connect_lmtp_says_lhlo(certificates: Certificates) -> None:
    """`SmtpConnection.connect_lmtp` and `connect_lmtp_with_tls_config` (RFC 2033 4.1)."""
    with session(lmtp=True) as (server, _):
        assert len(said(server, "LHLO")) == 1
    context = certificates.server_context()
    with SmtpServer(protocol="LMTP", tls_context=context, implicit_tls=True) as server:
        SmtpConnection.connect_lmtp_with_tls_config(
            "localhost", server.port, TlsMode.IMPLICIT, 5, certificates.client_context()
        ).close()
        assert len(said(server, "LHLO")) == 1


# What a connection tells of itself


def test_capabilities_are_a_snapshot() -> None:
    """`SmtpConnection.capabilities`: a snapshot; a later EHLO does not change it."""
    with session() as (server, connection):
        before = connection.capabilities
        assert isinstance(before, ServerCapabilities)
        assert before.supports_chunking
        assert before.supports_8bitmime
        server.fault("EHLO", reply="250 mx")
        connection.rehlo()
        assert before.supports_chunking
        assert connection.capabilities.extensions == ()


def test_is_shutting_down_after_421() -> None:
    """`SmtpConnection.is_shutting_down`: True after 421, and what is sent then fails at once."""
    with session() as (server, connection):
        seen = [connection.is_shutting_down]
        server.fault("NOOP", reply="421 4.3.2 bye")
        with pytest.raises(TransientError):
            connection.noop()
        seen.append(connection.is_shutting_down)
        assert seen == [False, True]
        with pytest.raises(ConnectionClosedError):
            connection.send(ME, YOU, MESSAGE)
        assert said(server, "MAIL") == []


def test_is_authenticated() -> None:
    """`SmtpConnection.is_authenticated`: whether a login has succeeded."""
    with session(users=USERS) as (_, connection):
        assert not connection.is_authenticated
        connection.auth_plain("u", "p")
        assert connection.is_authenticated


# LMTP

LMTP_WAYS: dict[str, tuple[Any, ...]] = {
    "send_lmtp": (),
    "send_lmtp_with_all_params": (None, [RcptToParams(), RcptToParams()]),
    "send_lmtp_bdat": (),
    "send_lmtp_bdat_with_all_params": (None, [RcptToParams(), RcptToParams()]),
}


@pytest.mark.parametrize("name", LMTP_WAYS)
def test_lmtp_has_a_result_per_recipient(name: str) -> None:
    """`SmtpConnection.send_lmtp` and its kin: one answer per accepted recipient (RFC 2033 4.2)."""
    with session(lmtp=True) as (server, connection):
        server.fault("CONTENT", reply="452 4.2.2 full")
        result = getattr(connection, name)(ME, TWO, MESSAGE, *LMTP_WAYS[name])
        assert [each.delivered for each in result.results] == [False, True]
        assert [str(each.recipient) for each in result.results] == TWO
        assert server.messages[0].via == ("BDAT" if "bdat" in name else "DATA")


@pytest.mark.parametrize("name", LMTP_WAYS)
def test_lmtp_is_not_sent_over_smtp(name: str) -> None:
    """`SmtpConnection.send_lmtp` and its kin raise `ProtocolError` there."""
    with session() as (server, connection):
        with pytest.raises(ProtocolError):
            getattr(connection, name)(ME, TWO, MESSAGE, *LMTP_WAYS[name])
        assert said(server, "MAIL") == []


@pytest.mark.parametrize("name", ["send_lmtp_bdat", "send_lmtp_bdat_with_all_params"])
def test_lmtp_bdat_needs_chunking(name: str) -> None:
    """`SmtpConnection.send_lmtp_bdat` and its kin raise `ProtocolError` without it."""
    with session(lmtp=True, extensions=NO_CHUNKING) as (server, connection):
        with pytest.raises(ProtocolError):
            getattr(connection, name)(ME, TWO, MESSAGE, *LMTP_WAYS[name])
        assert said(server, "MAIL") == []


def test_lmtp_takes_parameters_of_mail() -> None:
    """`SmtpConnection.send_lmtp`: BODY and SMTPUTF8 as given, SIZE by itself."""
    with session(lmtp=True) as (server, connection):
        connection.send_lmtp(ME, YOU, MESSAGE, MAIL_PARAMS)
        assert set(server.messages[0].mail_parameters) == {
            f"SIZE={len(MESSAGE)}",
            "BODY=8BITMIME",
            "SMTPUTF8",
        }


# Sending


def test_send_says_mail_rcpt_data() -> None:
    """`SmtpConnection.send` (RFC 5321 3.3)."""
    with session(extensions=["8BITMIME"]) as (server, connection):
        connection.send(ME, TWO, MESSAGE)
        assert [command.split()[0] for command in server.connections[0].commands] == [
            *("EHLO", "MAIL", "RCPT", "RCPT", "DATA"),
        ]


def test_commands_are_batched_where_pipelining_is_offered() -> None:
    """`SmtpConnection.send`: the envelope leaves in one write (RFC 2920)."""
    turns = {}
    for pipelining in (Pipelining.AUTO, Pipelining.OFF):
        with (
            SmtpServer(answer_after_pause=0.02) as server,
            connect(server, pipelining=pipelining) as connection,
        ):
            before = server.connections[0].turns
            connection.send(ME, TWO, MESSAGE)
            turns[pipelining] = server.connections[0].turns - before
    assert turns == {Pipelining.AUTO: 2, Pipelining.OFF: 5}


def test_refused_recipients_are_in_the_result() -> None:
    """`SmtpConnection.send`: the others get the message (RFC 5321 3.3)."""
    with session(recipient_known=lambda path: "two" not in path) as (server, connection):
        result = connection.send(ME, TWO, MESSAGE)
        assert [str(each.recipient) for each in result.rejected_recipients] == TWO[1:]
        assert server.messages[0].recipients == tuple(TWO[:1])


def test_addresses_are_checked_by_their_types() -> None:
    """`ReversePath` and `ForwardPath` (RFC 5321 4.1.2), before anything is sent."""
    for kind in (ReversePath, ForwardPath):
        with pytest.raises(ValidationError):
            kind("a@b\r\nRSET")


def test_the_timeout_is_for_the_whole_operation() -> None:
    """`SmtpConnection.send`: one deadline, however many replies come in between."""
    with session(extensions=["8BITMIME"]) as (server, connection):
        for step in ("MAIL", "RCPT", "DATA"):
            server.fault(step, delay=0.2)
        begun = time.monotonic()
        with pytest.raises(SmtpTimeoutError):
            connection.send(ME, YOU, MESSAGE, 0.3)
        assert time.monotonic() - begun < 3


def test_send_with_params() -> None:
    """`SmtpConnection.send_with_params`: BODY and SMTPUTF8 as given, SIZE by itself."""
    with session() as (server, connection):
        connection.send_with_params(ME, YOU, MESSAGE, MAIL_PARAMS)
        assert set(server.messages[0].mail_parameters) == {
            f"SIZE={len(MESSAGE)}",
            "BODY=8BITMIME",
            "SMTPUTF8",
        }


def test_send_with_all_params() -> None:
    """`SmtpConnection.send_with_all_params`: parameters of each recipient (RFC 3461 4)."""
    with session() as (server, connection):
        parameters = [RcptToParams(), *RCPT_PARAMS]
        connection.send_with_all_params(ME, TWO, MESSAGE, None, parameters)
        assert server.messages[0].recipient_parameters == ((), ("NOTIFY=NEVER",))


def test_smtp_is_not_sent_over_lmtp() -> None:
    """`SmtpConnection.send` raises `ProtocolError` there."""
    with session(lmtp=True) as (server, connection):
        for name in ("send", "send_bdat"):
            with pytest.raises(ProtocolError):
                getattr(connection, name)(ME, YOU, MESSAGE)
        assert said(server, "MAIL") == []


# Other commands


@pytest.mark.parametrize("name", ["reset", "noop"])
def test_commands_that_change_nothing(name: str) -> None:
    """`SmtpConnection.reset` and `noop` (RFC 5321 4.1.1.5, 4.1.1.9)."""
    with session() as (server, connection):
        getattr(connection, name)()
        assert server.connections[0].commands[1:] == [{"reset": "RSET"}.get(name, "NOOP")]
        connection.send(ME, YOU, MESSAGE)


@pytest.mark.parametrize("lmtp", [False, True])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("vrfy", code) for code in (250, 251, 252, 502, 550)),
        *(("expn", code) for code in (250, 502, 550)),
        *(("help", code) for code in (211, 214, 502)),
    ],
)
def test_questions_return_the_servers_response(name: str, code: int, lmtp: bool) -> None:
    """`SmtpConnection.vrfy`, `expn` and `help`: whatever it is, in SMTP and LMTP (RFC 5321 3.5)."""
    with session(lmtp=lmtp) as (server, connection):
        server.fault(name.upper(), reply=f"{code} x")
        assert getattr(connection, name)("u").code == code


@pytest.mark.parametrize("name", ["vrfy", "expn"])
def test_questions_about_other_letters_have_smtputf8(name: str) -> None:
    """`SmtpConnection.vrfy` and `expn` (RFC 6531 3.7.4.2)."""
    with session() as (server, connection):
        server.fault(name.upper(), reply="252 x")
        getattr(connection, name)("jürgen")
        (line,) = said(server, name.upper())
        assert line.startswith(f"{name.upper()} j")
        assert line.endswith(" SMTPUTF8")


def test_help_has_a_topic_or_none() -> None:
    """`SmtpConnection.help`: the topic is a String of RFC 5321 4.1.2."""
    with session() as (server, connection):
        connection.help()
        connection.help("MAIL")
        connection.help("MAIL FROM")
        assert said(server, "HELP") == ["HELP", "HELP MAIL", 'HELP "MAIL FROM"']


def test_quit_closes_the_connection() -> None:
    """`SmtpConnection.quit` (RFC 5321 4.1.1.10)."""
    with session() as (server, connection):
        connection.quit()
        assert not connection.is_open
        assert len(said(server, "QUIT")) == 1


@pytest.mark.parametrize("lmtp", [False, True])
def test_rehlo_refreshes_the_capabilities(lmtp: bool) -> None:
    """`SmtpConnection.rehlo`: EHLO, or LHLO, again (RFC 5321 4.1.1.1)."""
    with session(lmtp=lmtp) as (server, connection):
        hello = "LHLO" if lmtp else "EHLO"
        server.fault(hello, reply="250-mx\r\n250 X-NEW")
        connection.rehlo()
        assert [str(each) for each in connection.capabilities.extensions] == ["X-NEW"]
        assert len(said(server, hello)) == 2


def test_a_repr_shows_no_secret_and_does_not_wait() -> None:
    """`SmtpConnection.__repr__`: ``<locked>`` while another thread uses the connection."""
    with session(users=USERS) as (server, connection):
        connection.auth_plain("u", "p")
        assert "authenticated" in repr(connection)
        assert b64("\0u\0p") not in repr(connection)
        server.fault("NOOP", hang=True)
        thread = threading.Thread(target=_noop, args=(connection,))
        thread.start()
        while len(said(server, "NOOP")) == 0:
            time.sleep(0.001)
        assert "<locked>" in repr(connection)
        connection.close()
        thread.join()


def _noop(connection: SmtpConnection) -> None:
    with pytest.raises(SmtpError):
        connection.noop()


def test_a_refused_message_is_a_refusal() -> None:
    """`SmtpConnection.send`: the error has the server's response, and says what is certain."""
    with session() as (server, connection):
        server.fault("CONTENT", reply="554 5.6.0 no")
        with pytest.raises(PermanentError) as caught:
            connection.send(ME, YOU, MESSAGE)
        assert caught.value.response.code == 554
        assert not caught.value.may_have_been_delivered
