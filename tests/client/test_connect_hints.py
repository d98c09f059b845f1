"""Hints for a TLS mode that does not fit the port, and for an untrusted certificate."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from smtpconn import (
    ConnectionClosedError,
    ParseError,
    PermanentError,
    Phase,
    Protocol,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpResponse,
    SmtpTimeoutError,
    TlsError,
    TlsMode,
)
from smtpconn.client.connect_hints import with_hint
from smtpconn.net.happy_eyeballs import SocketFactory
from smtpconn.testing import SmtpServer

TIMEOUT = 5.0


@pytest.fixture(autouse=True)
def nobody_names_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names none, unless a test says otherwise."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def to(server: SmtpServer) -> SocketFactory:
    """Connects to this server, whatever host and port are wanted."""
    return lambda host, port, seconds: socket.create_connection((server.host, server.port), seconds)


@contextmanager
def silence() -> Iterator[tuple[str, int]]:
    """An address that takes connections and says nothing, as a TLS server does at first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.mark.parametrize("protocol", list(Protocol))
def test_tls_from_the_first_byte_where_the_server_begins_in_clear(protocol: Protocol) -> None:
    """The error names the place, what was expected of it, and the schemes to try."""
    scheme = protocol.lower()
    with SmtpServer(protocol=protocol) as server:
        url = f"{scheme}s://127.0.0.1:{server.port}"
        with pytest.raises(TlsError) as caught:
            ServerConfig.from_url(url).connect(TIMEOUT)
    where = f"127.0.0.1:{server.port}"
    assert f"TLS was expected from the first byte at {where}" in str(caught.value)
    assert f"try {scheme}+starttls://{where} (or {scheme}://{where} without TLS)" in str(
        caught.value
    )
    assert caught.value.phase is Phase.TLS
    assert isinstance(caught.value.__cause__, ssl.SSLError)


@pytest.mark.parametrize("mode", [TlsMode.NONE, TlsMode.STARTTLS])
def test_in_clear_where_the_server_begins_with_tls(mode: TlsMode) -> None:
    """Both wait for each other; the time-out says what the server may have waited for."""
    with SmtpServer(tls="implicit") as server, pytest.raises(SmtpTimeoutError) as caught:
        SmtpConnection.connect("127.0.0.1", server.port, mode, 0.1)
    where = f"127.0.0.1:{server.port}"
    assert f"a greeting in clear was expected at {where}" in str(caught.value)
    assert f"try smtps://{where}" in str(caught.value)
    assert caught.value.phase is Phase.GREETING


def test_port_465_is_not_waited_for_until_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """In clear at port 465 silence means TLS, so the hint comes long before the deadline."""
    monkeypatch.setattr("smtpconn.client.connect.GREETING_TIMEOUT", 0.05)
    with SmtpServer(tls="implicit") as server:
        begun = time.monotonic()
        with pytest.raises(SmtpTimeoutError, match=r"try smtps://mx\.example\.com:465") as caught:
            SmtpConnection.connect(
                "mx.example.com", 465, TlsMode.STARTTLS, 60, socket_factory=to(server)
            )
        assert time.monotonic() - begun < TIMEOUT
    assert "mx.example.com:465 sent nothing within 0.05 seconds" in str(caught.value)


def test_port_465_in_clear_works_if_the_server_speaks() -> None:
    """A port is no proof: who greets in clear there is talked to in clear."""
    with SmtpServer() as server:
        SmtpConnection.connect(
            "mx.example.com", 465, TlsMode.NONE, TIMEOUT, socket_factory=to(server)
        ).quit()


@pytest.mark.parametrize("port", [25, 587])
def test_tls_at_once_at_a_port_that_begins_in_clear(port: int) -> None:
    """At ports 25 and 587 any failed handshake has the hint, a server that hangs up included."""
    with SmtpServer() as server, pytest.raises(TlsError) as caught:
        SmtpConnection.connect(
            "mx.example.com", port, TlsMode.IMPLICIT, TIMEOUT, socket_factory=to(server)
        )
    assert f"try smtp+starttls://mx.example.com:{port}" in str(caught.value)
    assert ("without TLS" in str(caught.value)) is (port == 25)
    with silence() as address, pytest.raises(SmtpTimeoutError) as silent:
        SmtpConnection.connect(
            "mx.example.com",
            port,
            TlsMode.IMPLICIT,
            0.1,
            socket_factory=lambda host, port, seconds: socket.create_connection(address),
        )
    assert f"try smtp+starttls://mx.example.com:{port}" in str(silent.value)


def test_an_ipv6_address_is_written_as_urls_have_it() -> None:
    """What is to be tried can be copied into a URL."""
    error = SmtpTimeoutError("silence", phase=Phase.GREETING)
    hinted = with_hint(error, "::1", 2525, Protocol.SMTP, TlsMode.NONE, False, None)
    assert str(hinted).startswith("silence; ")
    assert "try smtps://[::1]:2525; " in str(hinted)


@pytest.mark.parametrize(
    ("error", "host", "port", "mode"),
    [
        (SmtpTimeoutError("x", phase=Phase.CONNECT), "h", 465, TlsMode.NONE),
        (SmtpTimeoutError("x", phase=Phase.EHLO), "h", 465, TlsMode.NONE),
        (SmtpTimeoutError("x", phase=Phase.GREETING), "/run/smtp", 0, TlsMode.NONE),
        (SmtpTimeoutError("x", phase=Phase.TLS), "h", 465, TlsMode.IMPLICIT),
        (ConnectionClosedError("x", phase=Phase.GREETING), "h", 25, TlsMode.NONE),
        (ConnectionClosedError("x", phase=Phase.TLS), "h", 587, TlsMode.STARTTLS),
        (ParseError("x", phase=Phase.GREETING), "h", 25, TlsMode.NONE),
        (TlsError("x", phase=Phase.TLS), "h", 465, TlsMode.IMPLICIT),
        (
            PermanentError(SmtpResponse(554, ("no",)), phase=Phase.GREETING),
            "h",
            465,
            TlsMode.NONE,
        ),
    ],
    ids=repr,
)
def test_nothing_is_guessed(error: SmtpError, host: str, port: int, mode: TlsMode) -> None:
    """An error that has other reasons is as it was."""
    assert with_hint(error, host, port, Protocol.SMTP, mode, False, None) is error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionClosedError("x", phase=Phase.GREETING),
        ParseError("x", phase=Phase.GREETING),
    ],
    ids=repr,
)
def test_port_465_in_clear_whatever_goes_wrong_at_the_greeting(error: SmtpError) -> None:
    """A TLS server may hang up on who says nothing, or answer with an alert."""
    hinted = with_hint(error, "h", 465, Protocol.SMTP, TlsMode.STARTTLS, False, None)
    assert type(hinted) is type(error)
    assert hinted.phase is error.phase
    assert "try smtps://h:465" in str(hinted)


# Certificates


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
def test_an_unknown_authority(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting that configured the authorities."""
    with SmtpServer(tls=mode) as server, SmtpServer(tls=mode) as other:  # type: ignore[arg-type]
        url = server.url
        strange = ssl.create_default_context()

        def refused(**options: object) -> str:
            with pytest.raises(TlsError) as caught:
                ServerConfig.from_url(url, **options).connect(TIMEOUT)
            assert str(server.port) in str(caught.value)
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            return str(caught.value)

        assert "set cafile= (?cafile= in a URL) or SSL_CERT_FILE" in refused()
        assert "load its authority into the tls_context given" in refused(tls_context=strange)
        # Another process's authority, in a file.
        import trustme

        pem = trustme.CA().cert_pem
        with pem.tempfile() as path:
            named = refused(cafile=path)
            assert f"only the authorities named by cafile={path} are trusted" in named
            monkeypatch.setenv("SSL_CERT_FILE", path)
            assert f"only the authorities named by SSL_CERT_FILE={path} are" in refused()
        monkeypatch.setenv("SSL_CERT_FILE", other.ca_file)
        ServerConfig.from_url(url).connect(TIMEOUT).quit()


@pytest.mark.parametrize("host", ["other.example.com", "192.0.2.1"])
def test_a_certificate_for_another_name(host: str) -> None:
    """The error names the option for servers that are reached under another name."""
    with SmtpServer(tls="implicit") as server:
        for name, is_right in ((None, False), ("mx.example.test", True)):
            config = ServerConfig(
                host,
                server.port,
                TlsMode.IMPLICIT,
                cafile=server.ca_file,
                socket_factory=to(server),
                tls_server_name=name,
            )
            if is_right:
                config.connect(TIMEOUT).quit()
            else:
                with pytest.raises(TlsError, match=r"set tls_server_name= \(\?tls_server_name="):
                    config.connect(TIMEOUT)


# TLS that is wanted later


@pytest.mark.parametrize(
    ("reply", "wants_tls"),
    [
        ("530 5.7.0 Must issue a STARTTLS command first", True),
        ("530 Must issue a starttls command first", True),
        ("538 5.7.11 Encryption required for requested authentication mechanism", True),
        ("530 5.7.0 Authentication required", False),
        ("550 5.7.1 STARTTLS is nice", False),
    ],
)
def test_a_server_that_wants_tls_at_mail(reply: str, wants_tls: bool) -> None:
    """The refusal has the kind of TLS to try behind the server's own words (RFC 3207 4)."""
    with SmtpServer() as server:
        server.fault("MAIL", reply=reply)
        with SmtpConnection.connect(server.host, server.port, TlsMode.NONE, TIMEOUT) as c:
            with pytest.raises(PermanentError) as caught:
                c.send("me@example.com", ["you@example.com"], b"x")
            c.noop()
    assert reply.partition(" ")[2] in str(caught.value)
    assert ("try TlsMode.STARTTLS, in a URL smtp+starttls://" in str(caught.value)) is wants_tls
