"""What a TLS handshake came to, as a value."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from collections.abc import Callable

import pytest

from smtpconn import SmtpConnection, TlsInfo, TlsMode
from smtpconn.net.tls import default_context, new_context
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates

TIMEOUT = 5.0


def connect(server: SmtpServer, context: ssl.SSLContext) -> SmtpConnection:
    """Connect with STARTTLS."""
    return SmtpConnection.connect(
        "localhost", server.port, TlsMode.STARTTLS, TIMEOUT, tls_context=context
    )


def test_version_cipher_and_certificate(certificates: Certificates) -> None:
    """A connection under TLS tells what protects it; a closed one no longer does."""
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


def test_a_certificate_that_nobody_checked(certificates: Certificates) -> None:
    """It is there all the same, and marked as not verified."""
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


@pytest.mark.parametrize("make", [default_context, new_context])
def test_a_context_checks_names_and_needs_tls_1_2(make: Callable[[], ssl.SSLContext]) -> None:
    """What nobody gave settings for is verified."""
    context = make()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.get_ca_certs()


def test_a_new_context_is_the_callers_own() -> None:
    """Changing it changes nobody else's."""
    assert new_context() is not new_context()
    assert default_context() is default_context()
