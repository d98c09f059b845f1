"""A connection from outside: how it is made, what it tells about itself, and how it is left.

What goes wrong on the way is in `tests.pool.test_failures`; how threads share one in
`tests.client.test_channel`.
"""

from __future__ import annotations

import math
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from smtpconn import (
    AuthError,
    ConnectionClosedError,
    ForwardPath,
    MailFromParams,
    PermanentError,
    Phase,
    Pipelining,
    Protocol,
    ProtocolError,
    RcptToParams,
    SmtpConnection,
    SmtpError,
    SmtpResponse,
    SmtpUtf8RequiredError,
    TlsMode,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.error_classes import kind_of

ME = "me@example.com"
YOU = "you@example.com"
THREE = ["one@example.com", "two@example.com", "three@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"
TIMEOUT = 5.0

Call = Callable[[SmtpConnection], object]


def connect(server: SmtpServer, **options: Any) -> SmtpConnection:
    """Connect in clear."""
    return SmtpConnection.connect(server.host, server.port, TlsMode.NONE, TIMEOUT, **options)


def secure_server(certificates: Certificates, mode: TlsMode, **settings: Any) -> SmtpServer:
    """A server that is to be met in ``mode``."""
    return SmtpServer(
        tls_context=certificates.server_context(),
        implicit_tls=mode is TlsMode.IMPLICIT,
        **settings,
    )


# --- Connecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_a_message_goes_under_tls(certificates: Certificates, mode: TlsMode) -> None:
    """With TLS asked for, the message arrives under TLS and the connection says so."""
    with (
        secure_server(certificates, mode) as server,
        SmtpConnection.connect(
            "localhost", server.port, mode, TIMEOUT, tls_context=certificates.client_context()
        ) as connection,
    ):
        connection.send(ME, YOU, MESSAGE)
        assert connection.tls is not None
        assert connection.tls.version() == "TLSv1.3"
        assert server.messages[0].tls
        assert server.messages[0].content == MESSAGE


def test_a_message_goes_in_clear() -> None:
    """Without TLS the message arrives in clear and the connection says so."""
    with SmtpServer() as server, connect(server) as connection:
        connection.send(ME, YOU, MESSAGE)
        assert connection.tls is None
        assert not server.messages[0].tls


@pytest.mark.parametrize("mode", list(TlsMode))
@pytest.mark.parametrize("protocol", list(Protocol))
def test_the_settings_may_be_a_positional_argument(
    certificates: Certificates, mode: TlsMode, protocol: Protocol
) -> None:
    """The ``..._with_tls_config`` forms are the same as connecting with ``tls_context``."""
    make = {
        Protocol.SMTP: SmtpConnection.connect_with_tls_config,
        Protocol.LMTP: SmtpConnection.connect_lmtp_with_tls_config,
    }[protocol]
    with (
        secure_server(certificates, mode, protocol=protocol.upper()) as server,
        make("localhost", server.port, mode, TIMEOUT, certificates.client_context()) as connection,
    ):
        assert connection.protocol is protocol
        assert (connection.tls is not None) is (mode is not TlsMode.NONE)


@pytest.mark.parametrize("mode", ["NONE", "STARTTLS", "IMPLICIT"])
def test_a_mode_may_be_given_by_its_name(certificates: Certificates, mode: str) -> None:
    """A `TlsMode` is a str, so its value will do."""
    given: Any = mode
    with (
        secure_server(certificates, TlsMode(mode)) as server,
        SmtpConnection.connect(
            "localhost", server.port, given, TIMEOUT, tls_context=certificates.client_context()
        ) as connection,
    ):
        assert (connection.tls is not None) is (mode != "NONE")


def test_a_trailing_dot_of_the_host_is_not_checked(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fully qualified name with its root dot matches the certificate without it."""
    with secure_server(certificates, TlsMode.IMPLICIT) as server:
        address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (server.host, server.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [address])
        with SmtpConnection.connect(
            "mx.example.test.",
            server.port,
            TlsMode.IMPLICIT,
            TIMEOUT,
            tls_context=certificates.client_context(),
        ) as connection:
            assert connection.tls is not None


def test_a_tls_session_is_resumed(certificates: Certificates) -> None:
    """A TLS session of an earlier connection saves the next one the full handshake."""
    context = certificates.client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with secure_server(certificates, TlsMode.IMPLICIT) as server:
        session = None
        resumed = []
        for _ in range(2):
            with SmtpConnection.connect(
                "localhost",
                server.port,
                TlsMode.IMPLICIT,
                TIMEOUT,
                tls_context=context,
                tls_session=session,
            ) as connection:
                assert connection.tls is not None
                session = connection.tls.session
                resumed.append(connection.tls.session_reused)
        assert resumed == [False, True]


def test_lmtp_over_a_unix_socket(tmp_path: Path) -> None:
    """A host that begins with a slash is a path, and the port is of no interest."""
    path = str(tmp_path / "lmtp")
    with (
        SmtpServer(protocol="LMTP", unix_path=path),
        SmtpConnection.connect_lmtp(path, 0, TlsMode.NONE, TIMEOUT) as connection,
    ):
        result = connection.send_lmtp(ME, THREE, MESSAGE)
        assert [r.delivered for r in result.results] == [True, True, True]
        assert connection.protocol is Protocol.LMTP
        assert path in repr(connection)


def test_helo_if_the_server_does_not_know_ehlo() -> None:
    """A server that refuses EHLO is greeted with HELO and held to offer nothing."""
    with (
        SmtpServer(ehlo=False) as server,
        connect(server, ehlo_domain="client.example.com") as connection,
    ):
        connection.send(ME, YOU, MESSAGE)
        assert server.connections[0].commands[:2] == [
            "EHLO client.example.com",
            "HELO client.example.com",
        ]
        assert connection.capabilities.extensions == ()
        assert connection.capabilities.greeting_name == "mx.example.test"


def test_capabilities_are_forgotten_after_starttls(certificates: Certificates) -> None:
    """What the server offered in clear counts for nothing under TLS (RFC 3207 4.2)."""
    with secure_server(certificates, TlsMode.STARTTLS, extensions=["SIZE 5"]) as server:
        server.fault("EHLO", reply="250-mx\n250-STARTTLS\n250-CHUNKING\n250 AUTH PLAIN")
        with SmtpConnection.connect(
            "localhost",
            server.port,
            TlsMode.STARTTLS,
            TIMEOUT,
            tls_context=certificates.client_context(),
        ) as connection:
            assert [str(e) for e in connection.capabilities.extensions] == ["SIZE 5"]
            assert not connection.capabilities.supports_chunking
            assert not connection.capabilities.supports_auth("PLAIN")
        verbs = [line.partition(" ")[0] for line in server.connections[0].commands]
        assert verbs == ["EHLO", "STARTTLS", "EHLO", "QUIT"]


def test_extensions_may_be_ignored() -> None:
    """An ignored keyword, in any case, is as if the server had not offered it."""
    with (
        SmtpServer() as server,
        connect(server, ignore_extensions=["pipelining", "CHUNKING"]) as connection,
    ):
        assert not connection.capabilities.supports_pipelining
        assert not connection.capabilities.supports_chunking
        assert connection.capabilities.supports_8bitmime


@pytest.mark.parametrize("pipelining", list(Pipelining))
def test_a_message_arrives_however_far_commands_run_ahead(pipelining: Pipelining) -> None:
    """Every kind of pipelining delivers the same."""
    with SmtpServer() as server, connect(server, pipelining=pipelining) as connection:
        connection.send(ME, THREE, MESSAGE)
        assert server.messages[0].recipients == tuple(THREE)


@pytest.mark.parametrize(
    ("extensions", "pipelining", "expected"),
    [
        (["PIPELINING"], Pipelining.AUTO, 2),
        ([], Pipelining.AUTO, 6),
        (["PIPELINING"], Pipelining.OFF, 6),
    ],
)
def test_round_trips_of_a_message_to_three(
    extensions: Sequence[str], pipelining: Pipelining, expected: int
) -> None:
    """With PIPELINING the envelope and the content cost two; without, each command costs one."""
    with (
        SmtpServer(extensions=extensions, answer_after_pause=0.02) as server,
        connect(server, pipelining=pipelining) as connection,
    ):
        before = server.connections[0].turns
        connection.send(ME, THREE, MESSAGE)
        assert server.connections[0].turns - before == expected


# --- Our own name ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["client.example.com", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
def test_the_ehlo_domain_is_told(name: str) -> None:
    """The server hears the name it is to hear, a domain or an address literal."""
    with SmtpServer() as server, connect(server, ehlo_domain=name):
        assert server.connections[0].commands == [f"EHLO {name}"]


def test_a_new_name_is_told_at_the_next_rehlo() -> None:
    """``set_ehlo_domain`` sends nothing; ``rehlo`` says the new name and learns anew."""
    with SmtpServer() as server, connect(server, ehlo_domain="one.example.com") as connection:
        connection.set_ehlo_domain("two.example.com")
        assert server.connections[0].commands == ["EHLO one.example.com"]
        server.fault("EHLO", reply="250-mx\n250 HELP")
        connection.rehlo()
        assert server.connections[0].commands[1:] == ["EHLO two.example.com"]
        assert [str(e) for e in connection.capabilities.extensions] == ["HELP"]


@pytest.mark.parametrize("name", ["", "a\r\nMAIL FROM:<>", "a\nb", "a b", "münchen.example", "[x]"])
def test_a_name_that_may_not_be_said_is_refused(name: str) -> None:
    """Neither connecting nor ``set_ehlo_domain`` takes what is no ASCII domain or literal."""
    with SmtpServer() as server:
        with pytest.raises(ValidationError):
            connect(server, ehlo_domain=name)
        assert server.connections == []
        with connect(server, ehlo_domain="good.example.com") as connection:
            with pytest.raises(ValidationError):
                connection.set_ehlo_domain(name)
            connection.rehlo()
            assert server.connections[0].commands == ["EHLO good.example.com"] * 2


# --- Simple commands ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda c: c.noop(), "NOOP"),
        (lambda c: c.reset(), "RSET"),
        (lambda c: c.vrfy("someone"), "VRFY someone SMTPUTF8"),
        (lambda c: c.expn("list"), "EXPN list SMTPUTF8"),
        (lambda c: c.help(), "HELP"),
        (lambda c: c.help("MAIL"), "HELP MAIL"),
    ],
)
def test_simple_commands(call: Call, line: str) -> None:
    """Each says its one line, and the connection is good for a message afterwards."""
    with SmtpServer() as server, connect(server) as connection:
        call(connection)
        assert server.connections[0].commands[1:] == [line]
        connection.send(ME, YOU, MESSAGE)
        assert len(server.messages) == 1


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("NOOP", lambda c: c.noop()),
        ("RSET", lambda c: c.reset()),
        ("EHLO", lambda c: c.rehlo()),
    ],
)
def test_a_refused_command_leaves_the_connection_usable(step: str, call: Call) -> None:
    """A plain 5xx is an error and nothing more; 521 to EHLO, because others lead to HELO."""
    code = 521 if step == "EHLO" else 555
    with SmtpServer() as server, connect(server) as connection:
        server.fault(step, reply=f"{code} 5.5.1 no")
        with pytest.raises(PermanentError) as caught:
            call(connection)
        assert caught.value.response.code == code
        assert caught.value.phase == step.lower()
        connection.send(ME, YOU, MESSAGE)
        assert len(server.messages) == 1


@pytest.mark.parametrize("code", [555, 451])
@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("VRFY", lambda c: c.vrfy("someone")),
        ("EXPN", lambda c: c.expn("list")),
        ("HELP", lambda c: c.help()),
    ],
)
def test_a_refused_question_is_answered(step: str, call: Call, code: int) -> None:
    """VRFY, EXPN and HELP return a refusal as they return any answer (RFC 5321 3.5)."""
    with SmtpServer() as server, connect(server) as connection:
        # Each time: a question with SMTPUTF8 is asked again without it after 501, 504 and 555.
        server.fault(step, reply=f"{code} {code // 100}.5.1 no", times=None)
        answer = call(connection)
        assert isinstance(answer, SmtpResponse)
        assert answer.code == code
        connection.send(ME, YOU, MESSAGE)
        assert len(server.messages) == 1


# --- What it tells about itself -------------------------------------------------------------------


def test_properties_of_an_open_connection() -> None:
    """The properties tell how things stand, without I/O."""
    with SmtpServer(users={"user": "secret"}) as server, connect(server) as connection:
        assert connection.protocol is Protocol.SMTP
        assert connection.is_open
        assert connection.is_idle
        assert not connection.is_shutting_down
        assert connection.timeout == TIMEOUT
        before = (connection.is_authenticated, connection.transactions)
        assert connection.capabilities.greeting_name == "mx.example.test"
        connection.auth_plain("user", "secret")
        connection.send(ME, YOU, MESSAGE)
        after = (connection.is_authenticated, connection.transactions)
        assert (before, after) == ((False, 0), (True, 1))
        assert len(server.connections[0].commands) == 5


def test_the_greeting_is_the_servers_first_reply(certificates: Certificates) -> None:
    """Before and after STARTTLS, with every line; and on a closed connection."""
    with secure_server(certificates, TlsMode.STARTTLS) as server:
        server.fault("CONNECT", reply="220-mx.example.test ESMTP\n220 No spam")
        with SmtpConnection.connect(
            "localhost", server.port, TlsMode.STARTTLS, TIMEOUT,
            tls_context=certificates.client_context(),
        ) as client:  # fmt: skip
            assert client.tls is not None
        assert client.greeting == SmtpResponse(220, ("mx.example.test ESMTP", "No spam"))


def test_the_mechanism_is_that_of_the_login_that_worked() -> None:
    """A refused login leaves none behind."""
    with SmtpServer(users={"me": "sesame"}) as server, connect(server) as client:
        assert client.auth_mechanism is None
        with pytest.raises(AuthError):
            client.auth_plain("me", "wrong")
        assert [client.auth_mechanism, client.is_authenticated] == [None, False]
        client.auth_login("me", "sesame")
        assert [client.auth_mechanism, client.is_authenticated] == ["LOGIN", True]


def test_the_usual_timeout_may_be_changed() -> None:
    """A new timeout is checked as the first one was, and a bad one changes nothing."""
    with SmtpServer() as server, connect(server) as connection:
        connection.timeout = 7
        with pytest.raises(ValidationError):
            connection.timeout = 0
        assert connection.timeout == 7


def test_repr_of_an_open_connection(certificates: Certificates) -> None:
    """An open connection's repr has host, port, protocol, TLS, login and capabilities."""
    with secure_server(
        certificates, TlsMode.IMPLICIT, users={"user": "secret"}, extensions=["SIZE 10"]
    ) as server:
        with SmtpConnection.connect(
            "localhost",
            server.port,
            TlsMode.IMPLICIT,
            TIMEOUT,
            tls_context=certificates.client_context(),
        ) as connection:
            start = f"<SmtpConnection localhost:{server.port} SMTP"
            assert repr(connection) == f"{start} TLSv1.3 anonymous SIZE 10 AUTH PLAIN LOGIN>"
            connection.auth_plain("user", "secret")
            assert repr(connection) == f"{start} TLSv1.3 authenticated SIZE 10 AUTH PLAIN LOGIN>"
        assert repr(connection) == f"{start} closed: QUIT was sent>"


def test_repr_of_a_closed_connection() -> None:
    """A closed connection's repr says why it is."""
    with SmtpServer() as server:
        connection = connect(server)
        connection.close()
        assert "closed: close() was called" in repr(connection)


def test_repr_of_a_busy_connection() -> None:
    """While another thread is in an operation, repr says so and does not wait."""
    with SmtpServer() as server, connect(server) as connection:
        server.fault("NOOP", hang=True)
        errors: list[BaseException] = []

        def noop() -> None:
            try:
                connection.noop()
            except SmtpError as error:
                errors.append(error)

        thread = threading.Thread(target=noop)
        thread.start()
        server.wait_for(lambda: "NOOP" in server.connections[0].commands)
        assert repr(connection) == f"<SmtpConnection {server.host}:{server.port} SMTP <locked>>"
        assert not connection.is_idle
        assert connection.is_open
        assert connection.probe()
        connection.close()
        thread.join()
        assert isinstance(errors[0], ConnectionClosedError)


# --- Leaving --------------------------------------------------------------------------------------


def test_leaving_the_block_says_quit() -> None:
    """A ``with`` block ends in QUIT and a closed connection."""
    with SmtpServer() as server:
        with connect(server) as connection:
            pass
        assert not connection.is_open
        assert server.connections[0].commands[-1] == "QUIT"


@pytest.mark.parametrize(
    "leave", [SmtpConnection.quit, SmtpConnection.close, SmtpConnection.quit_nowait]
)
def test_leaving_twice_is_no_error(leave: Call) -> None:
    """A closed connection may be left again, and every operation on it says it is closed."""
    with SmtpServer() as server:
        connection = connect(server)
        leave(connection)
        leave(connection)
        assert not connection.is_open
        assert not connection.probe()
        with pytest.raises(ConnectionClosedError, match="is closed"):
            connection.noop()
        server.wait_for(lambda: server.connections[0].closed)
        said_quit = server.connections[0].commands[1:] == ["QUIT"]
        assert said_quit is (leave is not SmtpConnection.close)


def test_an_exception_leaves_with_quit() -> None:
    """An ordinary exception in the block is propagated, after a polite QUIT."""
    with SmtpServer() as server:
        with pytest.raises(ZeroDivisionError), connect(server) as connection:
            raise ZeroDivisionError
        assert not connection.is_open
        assert server.connections[0].commands[-1] == "QUIT"


def test_an_interrupt_leaves_without_quit() -> None:
    """A KeyboardInterrupt in the block closes at once."""
    with SmtpServer() as server:
        with pytest.raises(KeyboardInterrupt), connect(server) as connection:
            raise KeyboardInterrupt
        assert not connection.is_open
        server.wait_for(lambda: server.connections[0].closed)
        assert "QUIT" not in server.connections[0].commands


@pytest.mark.parametrize(
    "fault",
    [
        {"close": True},
        {"reset": True},
        {"reply": "500 5.5.1 no"},
        {"reply": "421 4.3.2 going"},
        {"reply": b"garbage\r\n"},
        {"hang": True},
    ],
    ids=str,
)
def test_a_fault_at_quit_is_no_error(fault: dict[str, Any]) -> None:
    """Whatever the server makes of QUIT, a delivered message stays delivered."""
    with SmtpServer() as server:
        server.fault("QUIT", **fault)
        with SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 0.3) as connection:
            result = connection.send(ME, YOU, MESSAGE)
        assert result.accepted_recipients == (ForwardPath(YOU),)
        assert not connection.is_open
        assert len(server.messages) == 1


def test_a_server_that_has_gone_is_left_in_peace() -> None:
    """Leaving a connection that the server has closed is no error."""
    with SmtpServer() as server:
        with connect(server) as connection:
            server.close_idle()
            server.wait_for(lambda: server.connections[0].closed)
        assert not connection.is_open


# --- Bad input ------------------------------------------------------------------------------------


def send_headers(*headers: tuple[str, str]) -> Call:
    """Send an email message with these headers."""

    def call(connection: SmtpConnection) -> object:
        message = EmailMessage()
        for name, value in headers:
            message[name] = value
        message.set_content("hello")
        return connection.send_message(message)

    return call


NOT_A_MESSAGE: Any = "a str"
NOT_AN_ADDRESS: Any = 5
NOT_AN_EMAIL_MESSAGE: Any = b"bytes"

BAD_CALLS: list[tuple[type[SmtpError], Call]] = [
    (ValidationError, lambda c: c.send("me\r\nRSET@example.com", YOU, MESSAGE)),
    (ValidationError, lambda c: c.send("me@exa mple.com", YOU, MESSAGE)),
    (ValidationError, lambda c: c.send("no-domain", YOU, MESSAGE)),
    (ValidationError, lambda c: c.send(NOT_AN_ADDRESS, YOU, MESSAGE)),
    (ValidationError, lambda c: c.send(ForwardPath(YOU), YOU, MESSAGE)),  # type: ignore[arg-type]
    (ValidationError, lambda c: c.send(ME, "", MESSAGE)),
    (ValidationError, lambda c: c.send(ME, [], MESSAGE)),
    (ValidationError, lambda c: c.send(ME, [YOU, "you\n@example.com"], MESSAGE)),
    (ValidationError, lambda c: c.send(ME, [YOU, "you\0@example.com"], MESSAGE)),
    (ValidationError, lambda c: c.send(ME, [YOU, NOT_AN_ADDRESS], MESSAGE)),
    (ValidationError, lambda c: c.send(ME, YOU, NOT_A_MESSAGE)),
    (ValidationError, lambda c: c.send(ME, YOU, MESSAGE, timeout=0)),
    (ValidationError, lambda c: c.send(ME, YOU, MESSAGE, timeout=-1)),
    (ValidationError, lambda c: c.send(ME, YOU, MESSAGE, timeout=math.nan)),
    (SmtpUtf8RequiredError, lambda c: c.send(ME, "jürgen@example.com", MESSAGE)),
    (SmtpUtf8RequiredError, lambda c: c.send("jürgen@example.com", YOU, MESSAGE)),
    (UnsupportedExtensionError, lambda c: c.send(ME, YOU, "ü\r\n".encode())),
    (UnsupportedExtensionError, lambda c: c.send_bdat(ME, YOU, MESSAGE)),
    (
        UnsupportedExtensionError,
        lambda c: c.send_with_params(ME, YOU, MESSAGE, MailFromParams(envid="a")),
    ),
    (ProtocolError, lambda c: c.send_lmtp(ME, YOU, MESSAGE)),
    (ProtocolError, lambda c: c.send_with_all_params(ME, [YOU], MESSAGE, None, [])),
    (
        ProtocolError,
        lambda c: c.send_with_all_params(ME, [YOU], MESSAGE, None, [RcptToParams()] * 2),
    ),
    (ValidationError, lambda c: c.send_with_params(ME, YOU, MESSAGE, MailFromParams(auth="a\n"))),
    (
        ValidationError,
        lambda c: c.send_with_all_params(ME, YOU, MESSAGE, None, [RcptToParams(orcpt="a\r\nb")]),
    ),
    (ValidationError, lambda c: c.send_message(NOT_AN_EMAIL_MESSAGE)),
    (ValidationError, send_headers(("To", YOU))),
    (ValidationError, send_headers(("From", ME))),
    (ValidationError, send_headers(("From", "me"), ("To", YOU))),
    (ValidationError, lambda c: c.vrfy("a\r\nRSET")),
    (ValidationError, lambda c: c.expn("a\0")),
    (ValidationError, lambda c: c.help("x" * 3000)),
    (SmtpUtf8RequiredError, lambda c: c.vrfy("jürgen")),
    (ValidationError, lambda c: c.noop(timeout=0)),
    (ProtocolError, lambda c: c.set_ehlo_domain("a\r\nb")),
    (UnsupportedExtensionError, lambda c: c.auth_plain("user", "secret")),
]


@pytest.mark.parametrize(("error", "call"), BAD_CALLS)
def test_what_may_not_be_sent_is_not(error: type[SmtpError], call: Call) -> None:
    """Bad input has its precise error, nothing has left, and the connection can be used on."""
    with SmtpServer(extensions=[]) as server, connect(server) as connection:
        with pytest.raises(error) as caught:
            call(connection)
        assert kind_of(caught.value) is error
        assert not caught.value.may_have_been_delivered
        assert connection.is_open
        connection.noop()
        assert server.connections[0].commands[1:] == ["NOOP"]


@pytest.mark.parametrize("protocol", ["SMTP", "LMTP"])
@pytest.mark.parametrize("pipelining", [Pipelining.OFF, Pipelining.AUTO, Pipelining.EAGER])
def test_no_more_of_a_stream_is_sent_than_the_server_takes(
    protocol: str, pipelining: Pipelining
) -> None:
    """With BDAT it ends before the chunk that is too much, and the connection goes on."""
    piece = b"x" * 1_048_574 + b"\r\n"
    connect = SmtpConnection.connect if protocol == "SMTP" else SmtpConnection.connect_lmtp
    with (
        SmtpServer(protocol=protocol, size_limit=len(piece) * 3) as server,
        connect(server.host, server.port, TlsMode.NONE, 10, pipelining=pipelining) as connection,
    ):
        send = connection.send_bdat if protocol == "SMTP" else connection.send_lmtp_bdat
        for count, is_taken in ((3, True), (4, False), (5, False), (2, True)):
            pieces = iter([piece] * count)
            if is_taken:
                send("a@b.example", ["c@d.example"], pieces)
                continue
            with pytest.raises(ValidationError, match=r"4194304 bytes .* at most 3145728") as info:
                send("a@b.example", ["c@d.example"], pieces)
            assert info.value.phase is Phase.CONTENT
            assert not info.value.may_have_been_delivered
        assert connection.is_open
    assert [len(m.content) // len(piece) for m in server.messages] == [3, 2]


def test_too_large_a_message_is_not_sent() -> None:
    """A message above the server's SIZE is refused here, before anything has left."""
    with SmtpServer(size_limit=100) as server, connect(server) as connection:
        with pytest.raises(SmtpError) as caught:
            connection.send(ME, YOU, b"x" * 99 + b"\r\n")
        assert caught.value.phase in (Phase.MAIL, Phase.INPUT)
        assert len(server.connections[0].commands) == 1
        connection.send(ME, YOU, b"x" * 98 + b"\r\n")


NOT_A_PORT: Any = "25"
NOT_A_MODE: Any = "tls"
NOT_A_HOST: Any = None

BAD_SERVERS: list[tuple[Any, Any, Any, Any]] = [
    ("", 25, TlsMode.NONE, 5),
    ("local\rhost", 25, TlsMode.NONE, 5),
    ("local host", 25, TlsMode.NONE, 5),
    ("localhost\0", 25, TlsMode.NONE, 5),
    ("/run/x\n", 25, TlsMode.NONE, 5),
    (NOT_A_HOST, 25, TlsMode.NONE, 5),
    ("localhost", 0, TlsMode.NONE, 5),
    ("localhost", -1, TlsMode.NONE, 5),
    ("localhost", 65536, TlsMode.NONE, 5),
    ("localhost", True, TlsMode.NONE, 5),
    ("localhost", NOT_A_PORT, TlsMode.NONE, 5),
    ("localhost", 25, NOT_A_MODE, 5),
    ("localhost", 25, TlsMode.NONE, 0),
    ("localhost", 25, TlsMode.NONE, -0.5),
    ("localhost", 25, TlsMode.NONE, math.inf),
    ("localhost", 25, TlsMode.NONE, math.nan),
    ("localhost", 25, TlsMode.NONE, None),
]


@pytest.mark.parametrize("make", [SmtpConnection.connect, SmtpConnection.connect_lmtp])
@pytest.mark.parametrize(("host", "port", "mode", "timeout"), BAD_SERVERS)
def test_a_server_that_cannot_be_is_refused(
    make: Callable[..., SmtpConnection], host: Any, port: Any, mode: Any, timeout: Any
) -> None:
    """An invalid host, port, mode or timeout is refused before a socket is created."""

    def factory(host: str, port: int, seconds: float) -> Any:
        raise AssertionError("a socket was asked for")

    with pytest.raises(ValidationError):
        make(host, port, mode, timeout, socket_factory=factory)
