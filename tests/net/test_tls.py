"""TLS settings and trusted authorities, sessions, and the result of a handshake."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest

from smtpconn import (
    ConnectionClosedError,
    ConnectionPool,
    Phase,
    ServerConfig,
    SmtpConnection,
    TlsError,
    TlsInfo,
    TlsMode,
    ValidationError,
)
from smtpconn.net import forking, tls
from smtpconn.net.tls import new_context, shared_context
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.parametrize_ids import stable_repr

TIMEOUT = 5.0


def connect(server: SmtpServer, context: ssl.SSLContext) -> SmtpConnection:
    """Connect with STARTTLS."""
    return SmtpConnection.connect(
        "localhost", server.port, TlsMode.STARTTLS, TIMEOUT, tls_context=context
    )


def test_version_cipher_and_certificate(certificates: Certificates) -> None:
    """A connection under TLS has version, cipher and certificate; a closed one has none."""
    with SmtpServer(tls_context=certificates.server_context()) as server:
        connection = connect(server, certificates.client_context())
        info = connection.tls_info
        assert info is not None
        assert info.version == "TLSv1.3"
        assert info.cipher.startswith("TLS_")
        assert info.bits >= 128
        assert info.is_verified
        assert not info.is_resumed
        assert info.certificate is not None
        pem = ssl.DER_cert_to_PEM_cert(info.certificate)
        assert pem.strip() in certificates.server_file.read_text()
        assert info == dataclasses.replace(info)
        assert str(info.certificate) not in repr(info)
        connection.quit()
        assert connection.tls_info is None


def test_an_unverified_certificate(certificates: Certificates) -> None:
    """The certificate is available, and marked as not verified."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        SmtpServer(tls_context=certificates.server_context()) as server,
        connect(server, context) as connection,
    ):
        info = connection.tls_info
        assert info is not None
        assert not info.is_verified
        assert info.certificate is not None


def test_in_clear_there_is_none() -> None:
    """Without TLS there is nothing to tell."""
    with (
        SmtpServer() as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, TIMEOUT) as connection,
    ):
        assert connection.tls_info is None


def test_before_the_handshake_there_is_none() -> None:
    """A TLS socket that has not shaken hands tells nothing."""
    with ssl.create_default_context().wrap_socket(
        socket.socket(), server_hostname="localhost"
    ) as sock:
        assert TlsInfo.from_socket(sock) is None


@pytest.fixture(autouse=True)
def nobody_names_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names none, unless a test says otherwise."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_a_missing_file_of_the_client_is_named(certificates: Certificates, missing: str) -> None:
    """The error has the name of the file, as that of `open` has."""
    files = [str(certificates.client_file), str(certificates.client_key_file)]
    files[missing == "key"] = "/no/such.pem"
    with pytest.raises(FileNotFoundError, match=r"/no/such\.pem"):
        shared_context(None, *files)


@pytest.mark.parametrize("make", [shared_context, new_context])
def test_a_context_checks_names_and_needs_tls_1_2(make: Callable[[], ssl.SSLContext]) -> None:
    """Without settings, certificates are verified."""
    context = make()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.get_ca_certs()


def test_a_new_context_is_the_callers_own() -> None:
    """Changing one context does not change another."""
    assert new_context() is not new_context()
    assert shared_context() is shared_context()


def count(context: ssl.SSLContext) -> int:
    """How many authorities it has read so far."""
    return context.cert_store_stats()["x509_ca"]


def test_the_default_trusts_the_systems_authorities_and_certifis() -> None:
    """Both count together, in a context of one's own and in the shared one."""
    system = ssl.create_default_context()
    system.load_verify_locations(certifi.where())
    assert count(new_context()) == count(shared_context()) == count(system) > 100


@pytest.mark.parametrize("named_by", ["cafile", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_authorities_that_are_named_count_alone(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    """If a file or directory of authorities is given, only those are trusted (pinning)."""
    cafile = None
    if named_by == "cafile":
        cafile = str(certificates.ca_file)
    elif named_by == "SSL_CERT_FILE":
        monkeypatch.setenv(named_by, str(certificates.ca_file))
    else:
        # As OpenSSL wants it: each under the hash of its name, which ``openssl rehash`` makes.
        shutil.copy(certificates.ca_file, tmp_path / "ca.pem")
        subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
        monkeypatch.setenv(named_by, str(tmp_path))
    for context in (new_context(cafile), shared_context(cafile)):
        assert count(context) == (0 if named_by == "SSL_CERT_DIR" else 1)  # read when needed
        with SmtpServer(tls_context=certificates.server_context()) as server:
            connect(server, context).quit()
    with SmtpServer(tls="starttls") as stranger, pytest.raises(TlsError, match=named_by):
        SmtpConnection.connect("localhost", stranger.port, TlsMode.STARTTLS, TIMEOUT, cafile=cafile)


def test_cafile_goes_before_the_environment(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one connection names counts alone, whatever the environment names."""
    with SmtpServer(tls="starttls") as stranger:
        monkeypatch.setenv("SSL_CERT_FILE", stranger.ca_file)
        for cafile, is_trusted in ((None, True), (str(certificates.ca_file), False)):
            with pytest.raises(TlsError) if not is_trusted else contextlib.nullcontext():
                ServerConfig.from_url(stranger.url, cafile=cafile).connect(TIMEOUT).quit()


def test_cafile_in_a_url(certificates: Certificates) -> None:
    """``?cafile=`` and ``?tls_server_name=`` say the same as the options."""
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=True) as server:
        more = f"?cafile={certificates.ca_file}&tls_server_name=mx.example.test"
        config = ServerConfig.from_url(f"smtps://127.0.0.1:{server.port}{more}")
        assert config.tls_server_name == "mx.example.test"
        config.connect(TIMEOUT).quit()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["none", "empty", "bad"])
@pytest.mark.parametrize("named_by", ["cafile", "SSL_CERT_FILE"])
def test_authorities_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str, content: bytes | None
) -> None:
    """It is a TlsError that says who named them; others are not trusted instead."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    cafile = str(path) if named_by == "cafile" else None
    if cafile is None:
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    for make in (new_context, shared_context):
        with pytest.raises(TlsError, match=f"{named_by}={path} cannot be read") as caught:
            make(cafile)
        assert caught.value.phase is Phase.TLS


def test_a_file_that_changes_makes_another_context(
    certificates: Certificates, tmp_path: Path
) -> None:
    """The next connection trusts what is in it then; equal files have one context."""
    path = tmp_path / "ca.pem"
    shutil.copy(certificates.ca_file, path)
    first = shared_context(str(path))
    assert shared_context(str(path)) is first
    os.utime(path, (1, 1))
    second = shared_context(str(path))
    assert second is not first
    assert shared_context(str(path)) is second
    assert len([key for key in tls._contexts if key[0][0].cafile == str(path)]) == 1


def test_a_lock_that_is_never_released_costs_a_moment(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contexts are made also where a lock is held for ever, as in a forked child."""
    lock = threading.RLock()
    monkeypatch.setattr(tls, "LOCK_TIMEOUT", 0.01)
    monkeypatch.setitem(tls._locks, forking.current_process(), lock)
    monkeypatch.setattr(tls, "_contexts", {})
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            done.wait(TIMEOUT)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(TIMEOUT)
        context = shared_context(str(certificates.ca_file))
        assert shared_context(str(certificates.ca_file)) is context
    finally:
        done.set()
        thread.join()


def test_a_signal_handler_that_comes_in_the_middle(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes again while its own thread makes the context gets one, and it is the only one."""
    monkeypatch.setattr(tls, "_contexts", {})
    cafile, inner = str(certificates.ca_file), list[ssl.SSLContext]()
    make = tls.Authorities.new_context

    def interrupted(authorities: tls.Authorities) -> ssl.SSLContext:
        if not inner:
            inner.append(make(authorities))
            inner[0] = shared_context(cafile)
        return make(authorities)

    monkeypatch.setattr(tls.Authorities, "new_context", interrupted)
    assert shared_context(cafile) is inner[0]


def test_a_child_has_a_lock_of_its_own(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inherited lock may be held for ever; another process has another one."""
    monkeypatch.setattr(tls, "_contexts", {})
    monkeypatch.setattr(tls, "_locks", {})
    shared_context(str(certificates.ca_file))
    monkeypatch.setattr(forking, "process_number", forking.process_number + 1)
    tls._contexts.clear()
    shared_context(str(certificates.ca_file))
    assert len(set(map(id, tls._locks.values()))) == 2


# A name apart from the host


def test_a_name_apart_from_the_host(certificates: Certificates) -> None:
    """The certificate is checked against ``tls_server_name``, and the server is asked for it."""
    asked: list[str | None] = []
    context = certificates.server_context()
    context.sni_callback = lambda _, name, __: asked.append(name)
    with SmtpServer(tls_context=context) as server:
        SmtpConnection.connect(
            "127.0.0.1",
            server.port,
            TlsMode.STARTTLS,
            TIMEOUT,
            tls_context=certificates.client_context(),
            tls_server_name="mx.example.test",
        ).quit()
        with pytest.raises(TlsError, match="tls_server_name="):
            SmtpConnection.connect(
                "127.0.0.1",
                server.port,
                TlsMode.STARTTLS,
                TIMEOUT,
                cafile=str(certificates.ca_file),
                tls_server_name="other.example.test",
            )
    assert asked == ["mx.example.test", "other.example.test"]


def test_tls_over_a_unix_socket(certificates: Certificates, tmp_path: Path) -> None:
    """A path is no name a certificate has, so that one is given."""
    path = str(tmp_path / "lmtp")
    with SmtpServer(protocol="LMTP", unix_path=path, tls_context=certificates.server_context()):
        connection = SmtpConnection.connect_lmtp(
            path,
            0,
            TlsMode.STARTTLS,
            TIMEOUT,
            tls_context=certificates.client_context(),
            tls_server_name="mx.example.test",
        )
        assert connection.tls_info is not None
        connection.quit()


@pytest.mark.parametrize(
    "options",
    [
        {"tls_server_name": ""},
        {"tls_server_name": "two names"},
        {"tls_server_name": "/run/smtp"},
        {"tls_server_name": 7},
        {"cafile": ""},
        {"cafile": 7},
        {"cafile": "ca.pem", "tls_context": ssl.create_default_context()},
    ],
    ids=stable_repr,
)
def test_what_cannot_be_said_of_certificates(options: dict[str, Any]) -> None:
    """It is a ValidationError before anything is connected to."""
    with pytest.raises(ValidationError):
        SmtpConnection.connect("127.0.0.1", 1, TlsMode.STARTTLS, TIMEOUT, **options)
    with pytest.raises(ValidationError):
        ServerConfig("127.0.0.1", 1, TlsMode.STARTTLS, **options)


# Sessions


def test_a_session_of_another_context_is_not_offered(certificates: Certificates) -> None:
    """It costs a full handshake and nothing else."""
    with SmtpServer(tls_context=certificates.server_context()) as server:
        with connect(server, certificates.client_context()) as first:
            assert first.tls is not None
            first.noop()
            session = first.tls.session
        second = SmtpConnection.connect(
            "localhost",
            server.port,
            TlsMode.STARTTLS,
            TIMEOUT,
            tls_context=certificates.client_context(),
            tls_session=session,
        )
        assert second.tls is not None
        assert not second.tls.session_reused
        second.quit()


# A reset at once, without STARTTLS before it, may come before there is a handshake.
@pytest.mark.parametrize(
    ("implicit", "reset"),
    [(True, False), (False, False), (False, True)],
    ids=["smtps closed", "starttls closed", "starttls reset"],
)
def test_a_handshake_that_fails_with_a_session_is_tried_without(
    certificates: Certificates, implicit: bool, reset: bool
) -> None:
    """Once, on a new connection; the pool forgets the session and makes do with a new one."""
    client = certificates.client_context()
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=implicit) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        config = ServerConfig.from_url(url, tls_context=client)
        with ConnectionPool(config, max_size=1) as pool:
            pool.send("me@example.com", ["you@example.com"], b"first")
            pool.drain()
            server.fault("HANDSHAKE", close=not reset, reset=reset)
            pool.send("me@example.com", ["you@example.com"], b"second")
            assert len(server.connections) == 3
            assert pool.stats().connect_errors == 0
            pool.drain()
            with pool.connection() as third:
                assert third.tls is not None
                assert third.tls.session_reused


def test_a_handshake_that_fails_without_a_session_fails(certificates: Certificates) -> None:
    """There is nothing to try it without."""
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=True) as server:
        server.fault("HANDSHAKE", close=True)
        with pytest.raises(ConnectionClosedError):
            SmtpConnection.connect(
                "localhost",
                server.port,
                TlsMode.IMPLICIT,
                TIMEOUT,
                tls_context=certificates.client_context(),
            )
        assert len(server.connections) == 1
