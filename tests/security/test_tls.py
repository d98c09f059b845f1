"""TLS: once asked for it is there, or there is no connection; what was said before it is nothing.

On record: STARTTLS taken out on the way (CVE-2016-0772), bytes put in front of the
handshake ("NO STARTTLS", USENIX Security 2021; CVE-2021-22947, CVE-2011-0411), extensions found in
the wrong place, going on in clear, certificates believed by default, sockets left in clear.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest

from smtpconn import (
    PasswordCredentials,
    ProtocolError,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    StartTlsUnavailableError,
    TlsError,
    TlsMode,
    UnsupportedExtensionError,
)
from smtpconn.net.happy_eyeballs import SocketFactory
from smtpconn.net.tls import shared_context
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.recording_servers import (
    ME,
    MESSAGE,
    TIMEOUT,
    YOU,
    Reader,
    Script,
    connect,
    peer,
    recorded,
)

SECRET = "correct-horse"
GREETING = b"220 mx.example.com\r\n"
EHLO = b"250-mx.example.com\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n"
CLIENT_HELLO = b"\x16\x03"


def log_in_under_starttls(factory: SocketFactory, **settings: Any) -> SmtpConnection:
    """Do what users do: a URL's worth of settings, with a password."""
    config = ServerConfig(
        "mx.example.com",
        587,
        TlsMode.STARTTLS,
        credentials=PasswordCredentials("user", SECRET),
        ehlo_domain="client.example.com",
        socket_factory=factory,
        timeout=TIMEOUT,
        **settings,
    )
    return config.connect()


def in_clear(raw: bytes) -> bytes:
    """What came after STARTTLS and is no handshake."""
    _, starttls, rest = raw.partition(b"STARTTLS\r\n")
    assert starttls
    return b"" if rest.startswith(CLIENT_HELLO) else rest


@pytest.mark.parametrize("allowed", [False, True])
def test_starttls_taken_out_of_the_list(allowed: bool) -> None:
    """If STARTTLS is not offered nothing more is said, whatever else is allowed in clear."""
    script = Script(GREETING, b"250-mx.example.com\r\n250 AUTH PLAIN LOGIN\r\n")
    with peer(script.serve) as factory, pytest.raises(StartTlsUnavailableError):
        log_in_under_starttls(factory, allow_cleartext_auth=allowed)
    assert bytes(script.raw) == b"EHLO client.example.com\r\n"


@pytest.mark.parametrize("code", [221, 235, 250, 251, 334, 354, 421, 450, 454, 500, 501, 502, 554])
def test_starttls_answered_with_anything_but_220(code: int) -> None:
    """Only 220 is a yes to STARTTLS (CVE-2016-0772); after any other reply nothing more is said."""
    script = Script(GREETING, EHLO, b"%d 2.0.0 go on\r\n" % code, EHLO, b"235 welcome\r\n")
    with peer(script.serve) as factory, pytest.raises(SmtpError):
        log_in_under_starttls(factory, allow_cleartext_auth=True)
    assert in_clear(bytes(script.raw)) == b""
    assert CLIENT_HELLO not in script.raw


@pytest.mark.parametrize(
    "injected",
    [
        b"250-mx\r\n250 AUTH PLAIN\r\n",
        b"235 2.7.0 welcome\r\n",
        b"250 ok\r\n" * 20,
        b"2",
        b"\r\n",
        b"\0",
        b"421 bye\r\n",
        b"\x16\x03\x03",
    ],
)
def test_bytes_in_front_of_the_handshake(injected: bytes) -> None:
    """What comes with the 220 was not sent under TLS; it is an attack, not a reply to keep."""
    script = Script(GREETING, EHLO, b"220 go\r\n" + injected)
    with peer(script.serve) as factory, pytest.raises(SmtpError):
        log_in_under_starttls(factory)
    assert in_clear(bytes(script.raw)) == b""
    assert CLIENT_HELLO not in script.raw


def test_a_handshake_that_fails_is_no_reason_to_go_on_in_clear() -> None:
    """A server that goes on in clear after its 220 gets a handshake and nothing else."""
    heard = bytearray()

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        for reply in (GREETING, EHLO, b"220 go\r\n"):
            sock.sendall(reply)
            heard.extend(reader.until(b"\r\n" if reply != b"220 go\r\n" else CLIENT_HELLO))
        sock.sendall(EHLO + b"235 2.7.0 welcome\r\n")
        while received := sock.recv(65536):
            heard.extend(received)

    with peer(serve) as factory, pytest.raises(SmtpError):
        log_in_under_starttls(factory, allow_cleartext_auth=True)
    assert heard.startswith(b"EHLO client.example.comSTARTTLS")
    assert b"EHLO" not in heard[4:]
    assert b"AUTH" not in heard


def test_what_was_offered_before_tls_is_forgotten(certificates: Certificates) -> None:
    """A mechanism that was offered in clear only is not offered (RFC 3207 4.2)."""
    with SmtpServer(tls_context=certificates.server_context(), extensions=["8BITMIME"]) as server:
        server.fault("EHLO", reply="250-mx\n250-STARTTLS\n250-CHUNKING\n250 AUTH PLAIN")
        with SmtpConnection.connect(
            "localhost",
            server.port,
            TlsMode.STARTTLS,
            TIMEOUT,
            tls_context=certificates.client_context(),
        ) as connection:
            with pytest.raises(UnsupportedExtensionError):
                connection.auth_plain("user", SECRET)
            with pytest.raises(UnsupportedExtensionError):
                connection.send_bdat(ME, YOU, MESSAGE)
        verbs = [line.partition(" ")[0] for line in server.connections[0].commands]
        assert verbs == ["EHLO", "STARTTLS", "EHLO", "QUIT"]


@pytest.mark.parametrize(
    "lines",
    [
        ["mx STARTTLS"],
        ["STARTTLS"],
        ["mx", "X-STARTTLS"],
        ["mx", "NO STARTTLS"],
        ["mx", "STARTTLS-NOT-REALLY"],
        ["mx", "STARTTLS=no"],
        ["mx", "AUTH STARTTLS"],
        ["mx", "\u017ftarttls"],
        ["mx", "STARTTLS\u00a0"],
        ["mx", "\u3000STARTTLS"],
    ],
)
def test_starttls_in_the_wrong_place(lines: list[str]) -> None:
    """An extension is the first word of its own line; elsewhere the word means nothing."""
    reply = "".join(f"250{' ' if n == len(lines) else '-'}{t}\r\n" for n, t in enumerate(lines, 1))
    script = Script(GREETING, reply.encode())
    with peer(script.serve) as factory, pytest.raises(StartTlsUnavailableError):
        log_in_under_starttls(factory)
    assert bytes(script.raw) == b"EHLO client.example.com\r\n"


def test_there_is_no_opportunistic_mode() -> None:
    """TLS is off, on, or by STARTTLS; there is no "if possible" that could be talked out of it."""
    assert {mode.name for mode in TlsMode} == {"NONE", "IMPLICIT", "STARTTLS"}


def test_certificates_are_verified_by_default() -> None:
    """The default settings check the certificate and the name, from TLS 1.2 on."""
    context = shared_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats()["x509_ca"] > 50


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_an_unknown_certificate_is_refused_by_default(
    certificates: Certificates, mode: TlsMode
) -> None:
    """A server whose authority is unknown gets no login, with no settings given at all."""
    with SmtpServer(
        tls_context=certificates.server_context(),
        implicit_tls=mode is TlsMode.IMPLICIT,
        users={"user": SECRET},
    ) as server:
        config = ServerConfig(
            "localhost", server.port, mode, credentials=PasswordCredentials("user", SECRET)
        )
        with pytest.raises(TlsError):
            config.connect(TIMEOUT)
        server.wait_for(lambda: all(connection.closed for connection in server.connections))
        assert not any("AUTH" in c for link in server.connections for c in link.commands)


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_a_socket_of_the_callers_is_put_under_tls(
    certificates: Certificates, mode: TlsMode
) -> None:
    """A socket from a factory is not taken for a protected one: the mode asked for is enforced."""
    with SmtpServer(
        tls_context=certificates.server_context(),
        implicit_tls=mode is TlsMode.IMPLICIT,
        users={"user": SECRET},
    ) as server:
        config = ServerConfig(
            "localhost",
            server.port,
            mode,
            credentials=PasswordCredentials("user", SECRET),
            tls_context=certificates.client_context(),
            socket_factory=lambda host, port, timeout: socket.create_connection(
                (server.host, server.port), timeout
            ),
        )
        with config.connect(TIMEOUT) as connection:
            assert isinstance(connection.tls, ssl.SSLSocket)
            connection.send(ME, YOU, MESSAGE)
        assert server.messages[0].tls
        assert server.messages[0].user == "user"


def test_a_socket_of_the_callers_is_not_private_by_itself() -> None:
    """Behind a factory's socket there may be a proxy: no password in clear, loopback or not."""
    with recorded(allow_cleartext_auth=False) as (recorder, connection):
        with pytest.raises(ProtocolError, match="TLS"):
            connection.auth_plain("user", SECRET)
        assert recorder.verbs == [b"EHLO"]


def test_a_password_in_clear_needs_a_word() -> None:
    """Where a password may go in clear is said by the caller, in as many words."""
    script = Script(GREETING, b"250-mx\r\n250 AUTH PLAIN\r\n", b"235 2.7.0 ok\r\n")
    with peer(script.serve) as factory, connect(factory) as connection:
        connection.auth_plain("user", SECRET)
        assert connection.is_authenticated
        connection.close()
