"""Every failure of the server or the network has its own precise error.

In every case it happens within the deadline, the error names the phase, the connection is closed
and not half-used, and only a message that may have arrived is said to.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smtpconn import (
    AuthError,
    ConnectionClosedError,
    ParseError,
    PermanentError,
    Phase,
    ProtocolError,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    StartTlsUnavailableError,
    TlsError,
    TlsMode,
    TransientError,
    TransportError,
)
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.error_classes import kind_of

ME = "me@example.com"
YOU = "you@example.com"
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"
TIMEOUT = 5.0
SHORT = 0.15
SLACK = 0.5

Call = Callable[[SmtpConnection], object]


def send(connection: SmtpConnection) -> object:
    """Send a message."""
    return connection.send(ME, YOU, MESSAGE)


def send_bdat(connection: SmtpConnection) -> object:
    """Send a message with BDAT."""
    return connection.send_bdat(ME, YOU, MESSAGE)


def auth(connection: SmtpConnection) -> None:
    """Log in."""
    connection.auth_plain("user", "secret")


def auth_login(connection: SmtpConnection) -> None:
    """Log in, answering challenges."""
    connection.auth_login("user", "secret")


OPERATIONS: list[tuple[str, Phase, Call]] = [
    ("EHLO", Phase.EHLO, SmtpConnection.rehlo),
    ("AUTH", Phase.AUTH, auth),
    ("CHALLENGE", Phase.AUTH, auth_login),
    ("MAIL", Phase.MAIL, send),
    ("RCPT", Phase.RCPT, send),
    ("DATA", Phase.DATA, send),
    ("CONTENT", Phase.CONTENT, send),
    ("CONTENT", Phase.CONTENT, send_bdat),
    ("RSET", Phase.RSET, SmtpConnection.reset),
    ("NOOP", Phase.NOOP, SmtpConnection.noop),
    ("VRFY", Phase.VRFY, lambda c: c.vrfy("someone")),
    ("EXPN", Phase.EXPN, lambda c: c.expn("list")),
    ("HELP", Phase.HELP, lambda c: c.help()),
]

OPENINGS: list[tuple[str, Phase, TlsMode]] = [
    ("CONNECT", Phase.GREETING, TlsMode.NONE),
    ("EHLO", Phase.EHLO, TlsMode.NONE),
    ("CONNECT", Phase.GREETING, TlsMode.STARTTLS),
    ("STARTTLS", Phase.STARTTLS, TlsMode.STARTTLS),
    ("HANDSHAKE", Phase.TLS, TlsMode.STARTTLS),
    ("HANDSHAKE", Phase.TLS, TlsMode.IMPLICIT),
    ("CONNECT", Phase.GREETING, TlsMode.IMPLICIT),
]

each_operation = pytest.mark.parametrize(("step", "phase", "call"), OPERATIONS)
each_opening = pytest.mark.parametrize(("step", "phase", "mode"), OPENINGS)
with_and_without_pipelining = pytest.mark.parametrize(
    "extensions", [["PIPELINING", "CHUNKING"], ["CHUNKING"]], ids=["pipelining", "one by one"]
)


@contextmanager
def met(certificates: Certificates, mode: TlsMode, **settings: Any) -> Iterator[SmtpServer]:
    """A server that is to be met in ``mode``."""
    context = None if mode is TlsMode.NONE else certificates.server_context()
    implicit = mode is TlsMode.IMPLICIT
    with SmtpServer(tls_context=context, implicit_tls=implicit, **settings) as server:
        yield server


def connect(server: SmtpServer, timeout: float = TIMEOUT) -> SmtpConnection:
    """Connect in clear."""
    return SmtpConnection.connect(server.host, server.port, TlsMode.NONE, timeout)


def connect_by(
    certificates: Certificates,
    port: int,
    mode: TlsMode,
    timeout: float = TIMEOUT,
    host: str = "localhost",
    context: ssl.SSLContext | None = None,
) -> SmtpConnection:
    """Connect in some mode, trusting the tests' CA."""
    return SmtpConnection.connect(
        host, port, mode, timeout, tls_context=context or certificates.client_context()
    )


@contextmanager
def listening(accept_queue: int = 5) -> Iterator[socket.socket]:
    """A listening socket without accept(); the kernel completes connects all the same."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(accept_queue)
        yield listener


def fails(call: Call, connection: SmtpConnection) -> SmtpError:
    """Have an operation fail; return its error after checking that the connection is closed."""
    with pytest.raises(SmtpError) as caught:
        call(connection)
    assert not connection.is_open
    with pytest.raises(ConnectionClosedError, match="is closed"):
        connection.noop()
    return caught.value


# --- No connection --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(TlsMode))
def test_a_refused_port(mode: TlsMode) -> None:
    """A port without a listener is a TransportError at once."""
    with listening() as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportError, match="refused") as caught:
        SmtpConnection.connect("127.0.0.1", port, mode, TIMEOUT)
    assert kind_of(caught.value) is TransportError
    assert caught.value.phase is Phase.CONNECT
    assert caught.value.is_transient


def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the resolver does not know is a TransportError that quotes the name."""

    def unknown(*args: object, **kwargs: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(TransportError, match=r"mail\.example\.test cannot be resolved") as caught:
        SmtpConnection.connect("mail.example.test", 25, TlsMode.NONE, TIMEOUT)
    assert caught.value.phase is Phase.CONNECT
    assert isinstance(caught.value.__cause__, socket.gaierror)


def test_a_missing_unix_socket() -> None:
    """A path that does not exist is a TransportError that quotes the path."""
    with pytest.raises(TransportError, match="/nowhere/lmtp") as caught:
        SmtpConnection.connect_lmtp("/nowhere/lmtp", 0, TlsMode.NONE, TIMEOUT)
    assert caught.value.phase is Phase.CONNECT


# --- Silence --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "phase"),
    [
        (TlsMode.NONE, Phase.GREETING),
        (TlsMode.STARTTLS, Phase.GREETING),
        (TlsMode.IMPLICIT, Phase.TLS),
    ],
)
def test_a_server_that_never_accepts(mode: TlsMode, phase: Phase) -> None:
    """A server whose kernel connects but that says nothing is a timeout of the greeting or TLS."""
    with listening() as listener:
        start = time.monotonic()
        with pytest.raises(SmtpTimeoutError) as caught:
            SmtpConnection.connect("127.0.0.1", listener.getsockname()[1], mode, SHORT)
        assert SHORT <= time.monotonic() - start < SHORT + SLACK
        assert caught.value.phase is phase


@each_opening
def test_silence_while_connecting(
    certificates: Certificates, step: str, phase: Phase, mode: TlsMode
) -> None:
    """Silence at any step of connecting is a timeout of that step, in time."""
    with met(certificates, mode) as server:
        server.fault(step, hang=True)
        start = time.monotonic()
        with pytest.raises(SmtpTimeoutError) as caught:
            connect_by(certificates, server.port, mode, SHORT)
        assert SHORT <= time.monotonic() - start < SHORT + SLACK
        assert caught.value.phase is phase
        assert not caught.value.may_have_been_delivered


@with_and_without_pipelining
@each_operation
def test_silence(step: str, phase: Phase, call: Call, extensions: list[str]) -> None:
    """Silence at any step of an operation is a timeout of that step, in time."""
    with (
        SmtpServer(extensions=extensions, users={"user": "secret"}) as server,
        connect(server) as connection,
    ):
        connection.timeout = SHORT
        server.fault(step, hang=True)
        start = time.monotonic()
        error = fails(call, connection)
        assert SHORT <= time.monotonic() - start < SHORT + SLACK
        assert kind_of(error) is SmtpTimeoutError
        assert error.phase is phase
        assert error.may_have_been_delivered is (step == "CONTENT")
        assert server.messages == []


# --- Hanging up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@each_opening
def test_hanging_up_while_connecting(
    certificates: Certificates, step: str, phase: Phase, mode: TlsMode, how: str
) -> None:
    """A server that hangs up while we connect is a ConnectionClosedError of that step."""
    with met(certificates, mode) as server:
        server.fault(step, close=how == "close", reset=how == "reset")
        with pytest.raises(ConnectionClosedError) as caught:
            connect_by(certificates, server.port, mode)
        assert kind_of(caught.value) is ConnectionClosedError
        # A connection that is gone as soon as it is made may be noticed before it is read from.
        early = {Phase.CONNECT} if step == "CONNECT" or mode is TlsMode.IMPLICIT else set()
        assert caught.value.phase in {phase} | early
        assert caught.value.is_transient


@pytest.mark.parametrize("how", ["close", "reset"])
@with_and_without_pipelining
@each_operation
def test_hanging_up(step: str, phase: Phase, call: Call, extensions: list[str], how: str) -> None:
    """A server that hangs up is a ConnectionClosedError of that step."""
    with (
        SmtpServer(extensions=extensions, users={"user": "secret"}) as server,
        connect(server) as connection,
    ):
        server.fault(step, close=how == "close", reset=how == "reset")
        error = fails(call, connection)
        assert kind_of(error) is ConnectionClosedError
        assert error.phase is phase
        assert error.may_have_been_delivered is (step == "CONTENT")
        assert not connection.is_shutting_down


@pytest.mark.parametrize("how", ["close", "reset"])
def test_hanging_up_under_tls(certificates: Certificates, how: str) -> None:
    """Under TLS, an end of the stream without TLS's own farewell is a ConnectionClosedError too."""
    mode = TlsMode.IMPLICIT
    with (
        met(certificates, mode) as server,
        connect_by(certificates, server.port, mode) as connection,
    ):
        server.fault("CONTENT", close=how == "close", reset=how == "reset")
        error = fails(send, connection)
        assert kind_of(error) is ConnectionClosedError
        assert error.phase is Phase.CONTENT
        assert error.may_have_been_delivered


@pytest.mark.parametrize("reply", [None, "421 4.3.2 Shutting down", "250 2.0.0 hello"])
def test_a_421_between_commands(reply: str | None) -> None:
    """What a server says or does while nothing is asked of it ends the connection, unsent mail."""
    with SmtpServer() as server, connect(server) as connection:
        server.close_idle(reply)
        server.wait_for(lambda: server.connections[0].closed)
        error = fails(send, connection)
        kind = ProtocolError if reply is not None and reply[0] == "2" else ConnectionClosedError
        assert kind_of(error) is kind
        assert error.phase is Phase.IDLE
        assert not error.may_have_been_delivered
        assert connection.is_shutting_down is (reply is not None and reply.startswith("421"))
        assert len(server.connections[0].commands) == 1


def test_a_reply_too_many() -> None:
    """A reply that nothing asked for is never taken for the next command's."""
    with SmtpServer() as server, connect(server) as connection:
        server.fault("NOOP", after=b"250 2.0.0 one more\r\n")
        connection.noop()
        assert not connection.is_open
        error = fails(send, connection)
        assert kind_of(error) is ConnectionClosedError
        assert len(server.connections[0].commands) == 2


@pytest.mark.parametrize("reply", ["421 4.3.2 Shutting down", None])
def test_a_probe_finds_what_came_unasked(reply: str | None) -> None:
    """``probe`` finds a farewell without a round trip, and closes."""
    with SmtpServer() as server, connect(server) as connection:
        assert connection.probe()
        server.close_idle(reply)
        server.wait_for(lambda: server.connections[0].closed)
        assert not connection.probe()
        assert not connection.is_open
        assert connection.is_shutting_down is (reply is not None)


# --- 421 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hangs_up", [True, False])
@with_and_without_pipelining
@each_operation
def test_421(step: str, phase: Phase, call: Call, extensions: list[str], hangs_up: bool) -> None:
    """421 to anything is that command's transient refusal, and the end of the connection."""
    with (
        SmtpServer(extensions=extensions, users={"user": "secret"}) as server,
        connect(server) as connection,
    ):
        server.fault(step, reply="421 4.7.0 Too much", close=hangs_up)
        error = fails(call, connection)
        assert isinstance(error, TransientError | AuthError)
        assert error.response.code == 421
        assert error.is_transient
        assert error.phase is phase
        assert not error.may_have_been_delivered
        assert connection.is_shutting_down
        assert server.messages == []


@pytest.mark.parametrize(
    ("step", "phase", "mode"), [each for each in OPENINGS if each[0] != "HANDSHAKE"]
)
def test_421_while_connecting(
    certificates: Certificates, step: str, phase: Phase, mode: TlsMode
) -> None:
    """421 while we connect is the transient refusal of that step."""
    with met(certificates, mode) as server:
        server.fault(step, reply="421 4.3.2 Too busy")
        with pytest.raises(TransientError, match="Too busy") as caught:
            connect_by(certificates, server.port, mode)
        assert caught.value.response.code == 421
        assert caught.value.phase is phase


# --- Replies that are none ------------------------------------------------------------------------

GARBAGE = [
    b"hello\r\n",
    b"\r\n",
    b"25 ok\r\n",
    b"2500 ok\r\n",
    b"650 ok\r\n",
    b"250-one\r\n251 two\r\n",
    b"\x16\x03\x01\x00\r\n",
    b"\0" * 10000,
    b"250 " + b"x" * 9000 + b"\r\n",
    b"250-more\r\n" * 200,
]


@pytest.mark.parametrize("reply", GARBAGE, ids=lambda r: ascii(r[:12]))
@pytest.mark.parametrize(
    ("step", "phase", "call"),
    [o for o in OPERATIONS if o[0] in ("EHLO", "MAIL", "CONTENT", "NOOP", "AUTH")],
)
def test_garbage(step: str, phase: Phase, call: Call, reply: bytes) -> None:
    """What is no reply, or an endless one, is a ParseError and the end of the connection."""
    with SmtpServer(users={"user": "secret"}) as server, connect(server) as connection:
        server.fault(step, reply=reply, hang=False)
        error = fails(call, connection)
        assert type(error) is ParseError
        assert error.phase is phase
        assert error.may_have_been_delivered is (step == "CONTENT")


@pytest.mark.parametrize("reply", GARBAGE, ids=lambda r: ascii(r[:12]))
def test_a_greeting_that_is_none(reply: bytes) -> None:
    """A server that does not greet as SMTP has it is a ParseError of the greeting."""
    with SmtpServer() as server:
        server.fault("CONNECT", reply=reply)
        with pytest.raises(ParseError) as caught:
            connect(server)
        assert caught.value.phase is Phase.GREETING


@pytest.mark.parametrize(
    ("step", "phase", "call", "reply"),
    [
        ("EHLO", Phase.EHLO, SmtpConnection.rehlo, "354 go on"),
        ("MAIL", Phase.MAIL, send, "354 go on"),
        ("RCPT", Phase.RCPT, send, "334 go on"),
        ("DATA", Phase.DATA, send, "250 Ok"),
        ("CONTENT", Phase.CONTENT, send, "354 go on"),
        ("NOOP", Phase.NOOP, SmtpConnection.noop, "354 go on"),
        ("RSET", Phase.RSET, SmtpConnection.reset, "354 go on"),
        ("AUTH", Phase.AUTH, auth, "250 Ok"),
    ],
)
def test_a_reply_that_makes_no_sense(step: str, phase: Phase, call: Call, reply: str) -> None:
    """A reply of a kind the command cannot have means both sides are out of sync: it is over."""
    with SmtpServer(users={"user": "secret"}) as server, connect(server) as connection:
        server.fault(step, reply=reply)
        error = fails(call, connection)
        assert type(error) is ProtocolError
        assert error.phase is phase
        assert error.may_have_been_delivered is (step == "CONTENT")


@pytest.mark.parametrize(
    ("reply", "kind"), [("554 5.7.1 no", PermanentError), ("450 4.7.1 later", TransientError)]
)
def test_a_greeting_that_refuses(reply: str, kind: type[SmtpError]) -> None:
    """A server that refuses in its greeting gets QUIT and nothing else."""
    with SmtpServer() as server:
        server.fault("CONNECT", reply=reply)
        with pytest.raises(kind) as caught:
            connect(server)
        assert caught.value.phase is Phase.GREETING
        server.wait_for(lambda: server.connections[0].closed)
        assert server.connections[0].commands == ["QUIT"]


# --- Slow drips -----------------------------------------------------------------------------------

ENDLESS = b"".join(b"250-" + b"x" * 70 + b"\r\n" for _ in range(100))


@pytest.mark.parametrize(
    ("step", "phase", "call"),
    [o for o in OPERATIONS if o[0] in ("EHLO", "MAIL", "CONTENT", "NOOP", "AUTH")],
)
def test_a_slow_drip(step: str, phase: Phase, call: Call) -> None:
    """A server that drips byte by byte cannot stretch the deadline."""
    with SmtpServer(users={"user": "secret"}) as server, connect(server) as connection:
        connection.timeout = SHORT
        server.fault(step, reply=ENDLESS, split=1)
        start = time.monotonic()
        error = fails(call, connection)
        assert time.monotonic() - start < SHORT + SLACK
        assert kind_of(error) is SmtpTimeoutError
        assert error.phase is phase
        assert error.may_have_been_delivered is (step == "CONTENT")


@pytest.mark.parametrize("step", ["CONNECT", "EHLO"])
def test_a_slow_drip_while_connecting(step: str) -> None:
    """Nor can it while we connect."""
    with SmtpServer() as server:
        server.fault(step, reply=ENDLESS, split=1)
        start = time.monotonic()
        with pytest.raises(SmtpTimeoutError):
            connect(server, SHORT)
        assert time.monotonic() - start < SHORT + SLACK


def test_a_slow_but_correct_server() -> None:
    """Replies that arrive byte by byte are read like whole ones."""
    with SmtpServer() as server:
        server.fault("*", split=1, times=None)
        with connect(server) as connection:
            send(connection)
        assert len(server.messages) == 1


# --- STARTTLS and TLS -----------------------------------------------------------------------------


def test_starttls_is_not_offered(certificates: Certificates) -> None:
    """A server that does not offer STARTTLS is left without anything said in clear."""
    with SmtpServer() as server:
        with pytest.raises(StartTlsUnavailableError) as caught:
            connect_by(certificates, server.port, TlsMode.STARTTLS)
        assert caught.value.phase is Phase.STARTTLS
        server.wait_for(lambda: server.connections[0].closed)
        assert [c.partition(" ")[0] for c in server.connections[0].commands] == ["EHLO"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("454 4.7.0 TLS not available", TransientError),
        ("501 5.5.4 Syntax error", PermanentError),
        ("250 2.0.0 Ok", ProtocolError),
        ("354 go on", ProtocolError),
    ],
)
def test_starttls_is_refused(certificates: Certificates, reply: str, kind: type[SmtpError]) -> None:
    """Any answer to STARTTLS but 220 ends the connection; nothing more is said in clear."""
    mode = TlsMode.STARTTLS
    with met(certificates, mode) as server:
        server.fault("STARTTLS", reply=reply, close=True)
        with pytest.raises(kind) as caught:
            connect_by(certificates, server.port, mode)
        assert kind_of(caught.value) is kind
        assert caught.value.phase is Phase.STARTTLS
        server.wait_for(lambda: server.connections[0].closed)
        assert server.connections[0].commands[1:] == ["STARTTLS"]


@pytest.mark.parametrize("injected", [b"250 injected\r\n", b"2", b"\r\n", b"421 4.3.2 bye\r\n"])
def test_injected_bytes_before_the_handshake(certificates: Certificates, injected: bytes) -> None:
    """Whatever stands between the 220 and the handshake was not sent under TLS: an attack."""
    mode = TlsMode.STARTTLS
    with met(certificates, mode) as server:
        server.fault("STARTTLS", after=injected)
        with pytest.raises(SmtpError) as caught:
            connect_by(certificates, server.port, mode)
        assert isinstance(caught.value, ProtocolError | ConnectionClosedError)
        server.wait_for(lambda: server.connections[0].closed)
        assert not server.connections[0].tls
        assert server.connections[0].commands[1:] == ["STARTTLS"]


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_an_untrusted_authority(certificates: Certificates, mode: TlsMode) -> None:
    """By default only certifi's authorities are trusted."""
    with met(certificates, mode) as server:
        with pytest.raises(TlsError, match="is not trusted") as caught:
            SmtpConnection.connect("localhost", server.port, mode, TIMEOUT)
        assert caught.value.phase is Phase.TLS
        assert not caught.value.is_transient


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_a_wrong_host_name(
    certificates: Certificates, mode: TlsMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of another name is not taken, though its authority is trusted."""
    with met(certificates, mode) as server:
        address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", server.port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [address])
        with pytest.raises(TlsError, match="is not trusted") as caught:
            connect_by(certificates, server.port, mode, host="other.example.test")
        assert caught.value.phase is Phase.TLS
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


def test_tls_spoken_to_a_plain_port(certificates: Certificates) -> None:
    """A server that greets in clear where TLS was expected is a TlsError."""
    with SmtpServer() as server:
        with pytest.raises(TlsError) as caught:
            connect_by(certificates, server.port, TlsMode.IMPLICIT)
        assert caught.value.phase is Phase.TLS
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.STARTTLS])
def test_a_tls_port_spoken_to_in_clear(certificates: Certificates, mode: TlsMode) -> None:
    """A server that waits for a TLS handshake says nothing: a timeout of the greeting."""
    with met(certificates, TlsMode.IMPLICIT) as server:
        start = time.monotonic()
        with pytest.raises(SmtpTimeoutError) as caught:
            connect_by(certificates, server.port, mode, SHORT)
        assert time.monotonic() - start < SHORT + SLACK
        assert caught.value.phase is Phase.GREETING


def test_a_tls_version_that_is_too_old(certificates: Certificates) -> None:
    """Two sides without a version in common is a TlsError."""
    old, new = certificates.server_context(), certificates.client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    with SmtpServer(tls_context=old, implicit_tls=True) as server:
        with pytest.raises(TlsError) as caught:
            connect_by(certificates, server.port, TlsMode.IMPLICIT, context=new)
        assert caught.value.phase is Phase.TLS


# --- Delivered or not -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", [send, send_bdat])
@pytest.mark.parametrize(
    ("fault", "unknown"),
    [
        ({"close": True}, True),
        ({"reset": True}, True),
        ({"reply": b"garbage\r\n"}, True),
        ({"reply": b"250-2.0.0 Ok", "close": True}, True),
        ({"reply": "450 4.2.0 later"}, False),
        ({"reply": "554 5.7.1 spam"}, False),
        ({"reply": "421 4.7.0 too much mail"}, False),
        ({"reply": "421 no code"}, False),
        ({"reply": "421 4.3.2 Shutting down"}, True),
    ],
    ids=str,
)
def test_may_have_been_delivered(call: Call, fault: dict[str, Any], unknown: bool) -> None:
    """Only a message without a final reply may have been delivered; a refused one was not.

    A server that shuts down may say so in the place of its reply (`STORED_AND_SHUT_DOWN`).
    """
    with SmtpServer() as server, connect(server) as connection:
        server.fault("CONTENT", **fault)
        with pytest.raises(SmtpError) as caught:
            call(connection)
        assert caught.value.may_have_been_delivered is unknown
        assert caught.value.phase is Phase.CONTENT


def test_an_acknowledged_message_stays_so() -> None:
    """A message whose 250 came in front of garbage was delivered; the connection is over."""
    with SmtpServer() as server, connect(server) as connection:
        server.fault("CONTENT", after=b"garbage\r\n")
        assert connection.send(ME, YOU, MESSAGE).response.code == 250
        assert not connection.is_open
        assert len(server.messages) == 1
