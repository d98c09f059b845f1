"""Logging in over sockets: what other clients manage, and when to stop.

Which mechanism may follow another is looked at without a socket in `tests.auth.test_credentials`,
what is said in `tests.protocol.test_exchanges`; here they are together, with TLS and a pool.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from smtpconn import (
    AuthError,
    ConnectionPool,
    PasswordCredentials,
    PermanentError,
    ProtocolError,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    TlsMode,
    TransientError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.testing import SmtpServer
from smtpconn.testing.session import SaslExchange

ME, YOU, MESSAGE = "me@example.com", ["you@example.com"], b"Subject: hello\r\n\r\nHello!\r\n"
USERS = {"u": "p"}


def dead() -> Generator[bytes, bytes, str | None]:
    """A mechanism that refuses every login, as CRAM-MD5 behind saslauthd does."""
    yield b"<1.2@mx.example>"
    return None


def serving(
    mechanism: str = "CRAM-MD5", exchange: SaslExchange = dead, **options: Any
) -> SmtpServer:
    """A server whose strongest mechanism is out of order and whose PLAIN is not."""
    settings: dict[str, Any] = {"tls": "implicit", "users": USERS, "require_auth": True}
    return SmtpServer(**(settings | options), sasl={mechanism: exchange})


def config_of(server: SmtpServer, **options: Any) -> ServerConfig:
    """How to log in to it."""
    if server.url.startswith("smtps"):
        options = {"tls_context": server.client_context, **options}
    return ServerConfig.from_url(server.url_for("u"), **options)


def logins(server: SmtpServer) -> list[list[str]]:
    """The mechanisms that were begun, by connection."""
    return [
        [line.split()[1] for line in c.commands if line.startswith("AUTH ")]
        for c in server.connections
    ]


def test_a_dead_mechanism_is_followed_by_plain_and_remembered() -> None:
    """With a checked certificate, once; later connections of the pool begin with what worked.

    wader/postfix-relay 220, MailKit 393, PHPMailer 1224; smtplib gets the mail through, too.
    """
    with serving() as server, ConnectionPool(config_of(server)) as pool:
        for _ in range(2):
            pool.send(ME, YOU, MESSAGE)
            pool.drain()
        assert logins(server) == [["CRAM-MD5", "PLAIN"], ["PLAIN"]]
        with smtplib.SMTP_SSL(server.host, server.port, context=server.client_context) as theirs:
            theirs.login("u", "p")
            theirs.sendmail(ME, YOU, MESSAGE)
        assert len(server.messages) == 3


def test_a_memory_that_is_wrong_by_now_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What worked and is refused is no longer begun with; but no other is tried at once."""
    monkeypatch.setattr("smtpconn.pool.failover.LOGIN_BACKOFF", 0.0)
    monkeypatch.setattr("smtpconn.pool.failover.FIRST_BACKOFF", 0.0)
    with serving() as server, ConnectionPool(config_of(server)) as pool:
        pool.send(ME, YOU, MESSAGE)
        pool.drain()
        server.fault("AUTH", reply="535 5.7.8 not today", match="PLAIN")
        with pytest.raises(AuthError):
            pool.send(ME, YOU, MESSAGE)
        pool.send(ME, YOU, MESSAGE)
        assert logins(server) == [["CRAM-MD5", "PLAIN"], ["PLAIN"], ["CRAM-MD5", "PLAIN"]]


@pytest.mark.parametrize("how", ["loopback", "checked", "name not checked", "not checked at all"])
def test_to_whom_a_password_is_shown_after_a_refusal(how: str) -> None:
    """To this machine, or under TLS with a checked certificate; else the error says what to do."""
    options: dict[str, Any] = {} if how != "loopback" else {"tls": None}
    with serving(**options) as server:
        config = config_of(server, socket_factory=None if how == "loopback" else _connect)
        if config.tls_context is not None and how != "checked":
            config.tls_context.check_hostname = False
            if how == "not checked at all":
                config.tls_context.verify_mode = ssl.CERT_NONE
        if how in ("loopback", "checked"):
            with config.connect() as connection:
                connection.send(ME, YOU, MESSAGE)
            assert logins(server) == [["CRAM-MD5", "PLAIN"]]
            return
        with pytest.raises(AuthError, match=r'not tried.*mechanisms=\("PLAIN",\)'):
            config.connect()
        assert logins(server) == [["CRAM-MD5"]]
        with config.replace(mechanisms=("PLAIN",)).connect() as connection:
            connection.send(ME, YOU, MESSAGE)


def test_a_unix_socket_is_private(tmp_path: Path) -> None:
    """A password may be sent over a UNIX socket, as over the loopback."""
    path = str(tmp_path / "smtp")
    with (
        serving(tls=None, unix_path=path) as server,
        SmtpConnection.connect(path, 0, TlsMode.NONE, 5) as connection,
    ):
        connection.authenticate(PasswordCredentials("u", "p"))
        assert logins(server) == [["CRAM-MD5", "PLAIN"]]


def _connect(host: str, port: int, timeout: float) -> Any:
    """Like a proxy: the peer behind it is unknown."""
    return socket.create_connection((host, port), timeout)


class _ProxySocket(socket.socket):
    """A socket without TLS, whose class has methods with the names of the ssl module's."""

    def do_handshake(self) -> None:
        """Greet the proxy."""


@pytest.mark.parametrize("way", ["auth_plain", "auth_login", "connect"])
def test_no_password_in_clear_over_a_socket_with_a_handshake_of_its_own(way: str) -> None:
    """A caller's socket counts as TLS by its class, not by the names of its methods."""

    def connect(host: str, port: int, timeout: float) -> socket.socket:
        return _ProxySocket(fileno=_connect(host, port, timeout).detach())

    def log_in(config: ServerConfig, way: str) -> None:
        if way == "connect":
            config.connect()
        with config.replace(credentials=None, mechanisms=None).connect() as connection:
            getattr(connection, way)("u", "p")

    with SmtpServer(users=USERS) as server:
        config = config_of(server, socket_factory=connect, mechanisms=("PLAIN",))
        with pytest.raises(ProtocolError, match="would show the secret"):
            log_in(config, way)
        assert logins(server) == [[]]


@pytest.mark.parametrize("give", ["credentials", "config", "url"])
def test_mechanisms_that_are_named(give: str) -> None:
    """On the credentials, in the configuration, in the URL: those and no others, in that order."""
    with serving() as server:
        config = config_of(server)
        if give == "credentials":
            named = PasswordCredentials("u", "p", mechanisms=["LOGIN", "PLAIN"])
            config = config.replace(credentials=named, mechanisms=["CRAM-MD5"])
        elif give == "config":
            config = config.replace(mechanisms=["LOGIN", "PLAIN"])
        else:
            url = f"{server.url_for('u')}?auth=login,PLAIN"
            config = ServerConfig.from_url(url, tls_context=server.client_context)
        with config.connect() as connection:
            connection.send(ME, YOU, MESSAGE)
        assert logins(server) == [["LOGIN"]]


def test_what_is_named_is_not_offered() -> None:
    """Nothing else is tried, and the error says what the server has."""
    with serving() as server:
        with pytest.raises(UnsupportedExtensionError, match="PLAIN LOGIN CRAM-MD5"):
            config_of(server, mechanisms="SCRAM-SHA-256").connect()
        assert logins(server) == [[]]


def test_external_needs_no_credentials() -> None:
    """If named, it logs in with the identity of the TLS certificate."""

    def external() -> Generator[bytes, bytes, str | None]:
        yield b""
        return "u"

    with serving("EXTERNAL", external) as server:
        config = config_of(server, credentials=None, mechanisms=["EXTERNAL", "PLAIN"])
        with config.connect() as connection:
            assert connection.is_authenticated
        with config.replace(mechanisms=None).connect() as connection:
            assert not connection.is_authenticated


@pytest.mark.parametrize("reply", ["454 4.7.0 later", "432 4.7.12 change it", "421 4.3.2 bye"])
def test_nothing_follows_what_is_transient(reply: str) -> None:
    """The server could not check just now."""
    with serving() as server:
        server.fault("AUTH", reply=reply)
        with pytest.raises(AuthError) as caught:
            config_of(server).connect()
        assert caught.value.is_transient
        assert logins(server) == [["CRAM-MD5"]]


def test_a_server_that_hangs_up_behind_a_refusal() -> None:
    """It was a refusal, whatever became of the connection: what is told is not that it is gone."""
    with serving() as server:
        server.fault("AUTH", reply="535 5.7.8 no", close=True)
        with pytest.raises(AuthError, match=r"tried CRAM-MD5: 535 5.7.8 no; PLAIN: ") as caught:
            config_of(server).connect()
        assert caught.value.response.code == 535
        assert not caught.value.is_transient


def test_a_server_that_hangs_up_behind_a_mechanism_it_does_not_have() -> None:
    """The login was not refused: it may succeed over the next connection."""
    with serving() as server:
        server.fault("AUTH", reply="504 5.5.4 what?", close=True)
        with pytest.raises(ConnectionError) as caught:
            config_of(server).connect()
        assert isinstance(caught.value, SmtpError)
        assert caught.value.is_transient


def test_a_wrong_proof_is_the_end() -> None:
    """A server that does not know the password gets nothing more, least of all the password."""
    pytest.importorskip("scramp")

    def liar() -> Generator[bytes, bytes, str | None]:
        first = yield b""
        nonce = first.rpartition(b"r=")[2]
        yield b"r=" + nonce + b"x,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        yield b"v=" + b"A" * 43 + b"="
        return "u"

    with serving("SCRAM-SHA-256", liar) as server:
        with pytest.raises(SmtpError, match="could not prove") as caught:
            config_of(server).connect()
        assert not isinstance(caught.value, AuthError)
        assert logins(server) == [["SCRAM-SHA-256"]]


def test_a_password_that_scram_cannot_take() -> None:
    """SASLprep forbids some characters; the server's PLAIN does not."""
    pytest.importorskip("scramp")
    with serving("SCRAM-SHA-256", dead, users={"u": "a\x07b"}) as server:
        config = config_of(server, credentials=PasswordCredentials("u", "a\x07b"))
        config.connect().close()
        assert logins(server) == [["PLAIN"]]


def test_md5_that_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without MD5 (FIPS) CRAM-MD5 is skipped."""

    def no_md5(*args: object) -> bytes:
        raise ValueError("[digital envelope routines] unsupported")

    with serving() as server:
        config = config_of(server)
        monkeypatch.setattr("hmac.digest", no_md5)
        config.connect().close()
        assert logins(server) == [["PLAIN"]]


# --- What ends a session --------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["CONNECT", "AUTH"])
@pytest.mark.parametrize("reply", ["554 5.7.1 go away", "454 4.7.0 later"])
def test_a_refusal_is_answered_with_quit(step: str, reply: str) -> None:
    """A server that refuses us at once or at the login hears QUIT (RFC 5321 3.1)."""
    with SmtpServer(users=USERS, auth_mechanisms=["PLAIN"]) as server:
        server.fault(step, reply=reply)
        with pytest.raises((PermanentError, TransientError, AuthError)):
            config_of(server).connect()
        server.wait_for(lambda: server.connections[0].closed)
        assert server.connections[0].commands[-1] == "QUIT"


@pytest.mark.parametrize("reply", ["421 4.3.2 bye", b"garbage\r\n", "250 hm"])
def test_what_is_no_refusal_is_not_answered(reply: str | bytes) -> None:
    """After a 421 the server has ended the session; after an invalid reply QUIT is not safe."""
    with SmtpServer() as server:
        server.fault("CONNECT", reply=reply)
        with pytest.raises(SmtpError):
            ServerConfig.from_url(server.url).connect()
        server.wait_for(lambda: server.connections[0].closed)
        assert "QUIT" not in server.connections[0].commands


# --- What servers say of themselves ---------------------------------------------------------------


def test_the_old_form_of_auth() -> None:
    """``250-AUTH=LOGIN PLAIN``, as old Exchange and many appliances have it, counts."""
    with SmtpServer(users=USERS) as server:
        server.fault("EHLO", reply="250-mx\n250 AUTH=LOGIN PLAIN")
        with config_of(server).connect() as connection:
            assert connection.is_authenticated


@pytest.mark.parametrize(
    "log_in",
    [
        lambda c: c.authenticate(PasswordCredentials("u", "p")),
        lambda c: c.auth_plain("u", "p"),
        lambda c: c.auth_scram("u", "p"),
    ],
)
def test_a_login_that_is_offered_behind_starttls(log_in: Callable[[SmtpConnection], None]) -> None:
    """The error says that STARTTLS is offered, and how to ask for it."""
    with SmtpServer(tls="starttls", users=USERS) as server:
        server.fault("EHLO", reply="250-mx\n250 STARTTLS")
        with (
            SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 5) as connection,
            pytest.raises(UnsupportedExtensionError, match=r"smtp\+starttls://"),
        ):
            log_in(connection)


def test_a_login_on_a_session_that_has_one_already() -> None:
    """The server says 503; the connection can be used."""
    with SmtpServer(users=USERS) as server:
        server.fault("AUTH", reply="503 5.5.1 already authenticated")
        with SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 5) as connection:
            with pytest.raises(AuthError, match="logged in already") as caught:
                connection.auth_plain("u", "p")
            assert not caught.value.is_transient
            connection.send(ME, YOU, MESSAGE)


def test_an_authorization_identity_is_not_empty() -> None:
    """Who names none uses `auth_plain` (RFC 4616 2)."""
    with (
        SmtpServer(users=USERS) as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 5) as connection,
    ):
        with pytest.raises(ValidationError, match="authzid is empty"):
            connection.auth_plain_with_authzid("", "u", "p")
        connection.auth_plain_with_authzid("u", "u", "p")


@pytest.mark.parametrize("given", [("u", "p-secret"), "u:p-secret", ["u", "p-secret"], 5])
def test_what_is_no_credentials(given: Any) -> None:
    """It is refused by name, and not shown: it may hold a password."""
    with (
        SmtpServer(users=USERS) as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 5) as connection,
        pytest.raises(ValidationError, match="PasswordCredentials") as caught,
    ):
        connection.authenticate(given)
    assert "p-secret" not in str(caught.value)
