"""From options to a server."""

from __future__ import annotations

import argparse
import io
import ssl
from pathlib import Path

import certifi
import pytest

from smtpconn import OAuthCredentials, PasswordCredentials, Pipelining, Protocol, TlsMode
from smtpconn.cli import options
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.output import Output
from smtpconn.cli.target import Target, target_of
from smtpconn.model.errors import UnsupportedExtensionError, ValidationError
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.command_runner import Runner


def parsed(*arguments: str) -> argparse.Namespace:
    """The options as a command reads them."""
    parser = options.Parser(prog="smtpconn check")
    options.target_argument(parser)
    options.server(parser)
    return parser.parse_args(arguments)


def target(*arguments: str) -> Target:
    """The server these options name."""
    return target_of(parsed(*arguments), Output(stdout=io.StringIO(), stderr=io.StringIO()))


@pytest.mark.parametrize(
    ("arguments", "host", "port", "mode", "protocol"),
    [
        (["smtp://mx"], "mx", 25, TlsMode.NONE, Protocol.SMTP),
        (["smtp+starttls://mx"], "mx", 587, TlsMode.STARTTLS, Protocol.SMTP),
        (["smtps://mx:99"], "mx", 99, TlsMode.IMPLICIT, Protocol.SMTP),
        (["lmtp+unix:///run/lmtp"], "/run/lmtp", 0, TlsMode.NONE, Protocol.LMTP),
        (["smtp://mx", "--tls"], "mx", 25, TlsMode.STARTTLS, Protocol.SMTP),
        (["smtps://mx", "--no-tls", "-p", "26"], "mx", 26, TlsMode.NONE, Protocol.SMTP),
        (["mx"], "mx", 25, TlsMode.NONE, Protocol.SMTP),
        (["mx:2525"], "mx", 2525, TlsMode.NONE, Protocol.SMTP),
        (["-s", "mx"], "mx", 25, TlsMode.NONE, Protocol.SMTP),
        (["-s", "mx:465"], "mx", 465, TlsMode.IMPLICIT, Protocol.SMTP),
        (["-s", "mx", "-p", "587"], "mx", 587, TlsMode.STARTTLS, Protocol.SMTP),
        (["-s", "mx:587", "--no-tls"], "mx", 587, TlsMode.NONE, Protocol.SMTP),
        (["-s", "mx", "--tls"], "mx", 25, TlsMode.STARTTLS, Protocol.SMTP),
        (["-s", "mx", "-tlsc"], "mx", 465, TlsMode.IMPLICIT, Protocol.SMTP),
        (["-s", "mx", "--protocol", "lmtp"], "mx", 24, TlsMode.NONE, Protocol.LMTP),
        (["-s", "[::1]:2525"], "::1", 2525, TlsMode.NONE, Protocol.SMTP),
        (["-s", "::1"], "::1", 25, TlsMode.NONE, Protocol.SMTP),
        (["--socket", "/run/smtp"], "/run/smtp", 25, TlsMode.NONE, Protocol.SMTP),
        (["--socket", "/run/lmtp", "--protocol", "LMTP"], "/run/lmtp", 24, TlsMode.NONE,
         Protocol.LMTP),
    ],
)  # fmt: skip
def test_servers(
    arguments: list[str], host: str, port: int, mode: TlsMode, protocol: Protocol
) -> None:
    """URLs, hosts and sockets have swaks's default ports; options override the URL."""
    found = target(*arguments)
    assert (found.host, found.port, found.tls_mode, found.protocol) == (host, port, mode, protocol)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """SMTPCONN_URL is the default; an argument overrides it."""
    monkeypatch.setenv("SMTPCONN_URL", "smtp://there")
    assert target().host == "there"
    assert target("here").host == "here"


def test_a_relative_socket_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path becomes an absolute one."""
    monkeypatch.chdir(tmp_path)
    assert target("--socket", "lmtp").host == str(tmp_path / "lmtp")


def test_other_options() -> None:
    """The options for EHLO, timeout, pipelining and family set the configuration."""
    found = target("mx", "--ehlo", "me.example", "--timeout", "7", "--pipelining", "eager", "-4")
    assert found.ehlo_domain == "me.example"
    assert found.timeout == 7
    assert found.pipelining is Pipelining.EAGER
    assert found.source_address == ("0.0.0.0", 0)
    assert target("mx", "-6").source_address == ("::", 0)
    assert target("mx", "-li", "127.0.0.2").source_address == ("127.0.0.2", 0)


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [(["mx"], 30), (["smtp://mx?timeout=9"], 9), (["smtp://mx?timeout=9", "--timeout", "5"], 5)],
)
def test_the_timeout(arguments: list[str], seconds: float) -> None:
    """The default is half a minute; the URL and the option override it."""
    assert target(*arguments).timeout == seconds


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "a URL such as smtp://HOST, or --server HOST, or set SMTPCONN_URL"),
        (["mx", "-s", "mx"], "exclude each other"),
        (["-s", "mx", "--socket", "/x"], "exclude each other"),
        (["-s", "mx:port"], "HOST or HOST:PORT"),
        (["--socket", "/x", "-4"], "not for a UNIX socket"),
        (["mx", "--insecure"], "need --tls or --tlsc"),
        (["mx", "--tls-server-name", "mx"], "need --tls or --tlsc"),
        (["mx", "--tls", "--tls-key", "k"], "needs --tls-cert"),
        (["mx", "--tls", "--tls-cert", "/no/such"], "cannot be used: No such file"),
        (["mx", "--tls", "--tls-ca-path", "/no/such"], "cannot be used: No such file"),
        (["mx", "--tls", "--tls-ca-path", __file__], "holds no PEM that fits"),
        (["mx", "--tls", "--tls-cert", __file__], "holds no PEM that fits"),
        (["mx", "--auth", "PLAIN"], "no user to log in as"),
        (["mx", "-au", "me"], "there is no password for me"),
        (["mx", "-au", "me", "--auth", "XOAUTH2"], "there is no token"),
    ],
)
def test_mistakes_in_options(arguments: list[str], text: str) -> None:
    """Contradictions, missing options and unusable files are errors."""
    with pytest.raises(UsageError, match=text):
        target(*arguments)


@pytest.mark.parametrize("url", ["imap://mx", "smtp://mx:port", "smtp://", "smtp://a b"])
def test_invalid_urls(url: str) -> None:
    """An invalid URL raises the error of `ServerConfig.from_url`."""
    with pytest.raises(ValidationError):
        target(url)


def test_our_own_certificate_and_the_authorities_of_the_url(certificates: Certificates) -> None:
    """``?cafile=`` counts alone also beside --tls-cert."""
    own = ["--tls-cert", str(certificates.client_file), "--tls-key"]
    found = target(
        f"smtps://mx?cafile={certificates.ca_file}", *own, str(certificates.client_key_file)
    )
    assert found.tls_context is not None
    assert found.tls_context.cert_store_stats()["x509_ca"] == 1
    assert found.cafile is None
    assert target("smtps://mx?cafile=ca.pem").cafile == "ca.pem"


def test_insecure(certificates: Certificates) -> None:
    """--insecure prints a warning, and turns verification off."""
    stderr = io.StringIO()
    found = target_of(
        parsed("mx", "--tls", "--insecure"), Output(stdout=io.StringIO(), stderr=stderr)
    )
    assert "the server's certificate is NOT checked" in stderr.getvalue()
    assert found.tls_context is not None
    assert found.tls_context.verify_mode is ssl.CERT_NONE


@pytest.mark.parametrize(("arguments", "is_allowed"), [(["mx"], True), (["mx", "--tls"], False)])
def test_passwords_in_clear(arguments: list[str], is_allowed: bool) -> None:
    """They need an option, which prints a warning; under TLS it changes nothing."""
    stderr = io.StringIO()
    out = Output(stdout=io.StringIO(), stderr=stderr)
    found = target_of(parsed(*arguments, "--allow-cleartext-auth"), out)
    assert found.allow_cleartext_auth == is_allowed
    assert ("can read the password" in stderr.getvalue()) == is_allowed
    assert not target(*arguments).allow_cleartext_auth


def test_authorities_from_a_directory(certificates: Certificates) -> None:
    """--tls-ca-path may be a directory."""
    found = target("mx", "--tls", "--tls-ca-path", str(certificates.directory))
    assert found.tls_context is not None
    assert found.tls_context.verify_mode is ssl.CERT_REQUIRED
    assert found.tls_context.check_hostname


def test_the_authorities_of_the_environment(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that --tls-ca-path names count alone, as everywhere in the library."""
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    found = target("mx", "--tls", "--tls-ca-path", str(certificates.ca_file)).tls_context
    assert found is not None
    assert len(found.get_ca_certs()) == 1
    assert found.minimum_version is ssl.TLSVersion.TLSv1_2
    assert target("mx", "--tls").tls_context is None  # the library's own rule


def test_the_name_in_the_certificate(smtpconn: Runner, certificates: Certificates) -> None:
    """With --tls-server-name it is checked in place of the host."""
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=True) as server:
        url = f"smtps://127.0.0.1:{server.port}"
        arguments = ["--tls-ca-path", certificates.ca_file, "--tls-server-name"]
        assert smtpconn("check", url, *arguments, "mx.example.test").code == 0
        ran = smtpconn("check", url, *arguments, "other.example.test")
        assert ran.code == 29
        assert "other.example.test" in ran.err
        ran = smtpconn("check", url, *arguments, "mx.example.test", "-q", "ehlo")
        assert ran.code == 0


def test_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user comes from the URL or an option, the password from the environment."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    for arguments in (["smtp://me@mx"], ["mx", "-au", "me"], ["smtp://you:x@mx", "-au", "me"]):
        assert target(*arguments).credentials == PasswordCredentials("me", "sesame")
    assert target("smtp://me:mine@mx").credentials == PasswordCredentials("me", "mine")


def test_a_token_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mechanism that needs a token gets it from the environment."""
    monkeypatch.setenv("SMTPCONN_TOKEN", "ticket")
    found = target("mx", "-au", "me", "--auth", "xoauth2,oauthbearer")
    assert isinstance(found.credentials, OAuthCredentials)
    assert found.credentials.current_token() == "ticket"
    assert found.mechanisms == ("XOAUTH2", "OAUTHBEARER")


def test_a_token_from_a_command() -> None:
    """The command runs for every token, so that each is fresh."""
    found = target("mx", "-au", "me", "--auth-token-command", "/bin/echo ticket")
    assert isinstance(found.credentials, OAuthCredentials)
    assert found.credentials.current_token(force_refresh=True) == "ticket"


@pytest.mark.parametrize(
    ("wanted", "offered", "used"),
    [
        ("PLAIN", ("PLAIN", "LOGIN"), "PLAIN"),
        ("login", ("PLAIN", "LOGIN"), "LOGIN"),
        ("CRAM-MD5,LOGIN,PLAIN", ("PLAIN", "LOGIN"), "LOGIN"),
        ("SCRAM,PLAIN", ("PLAIN",), "PLAIN"),
    ],
)
def test_the_first_mechanism_that_is_offered(
    smtpconn: Runner,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    offered: tuple[str, ...],
    used: str,
) -> None:
    """The first mechanism of --auth that is offered is used."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    with SmtpServer(users={"me": "sesame"}, auth_mechanisms=offered) as server:
        ran = smtpconn("check", server.url, "-au", "me", "--auth", wanted)
    assert ran.code == 0
    assert f"login         me, by {used}" in ran.out


def test_no_mechanism_is_offered(smtpconn: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the mechanisms that are offered, and the connection is closed."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    with SmtpServer(users={"me": "sesame"}) as server:
        ran = smtpconn("check", server.url, "-au", "me", "--auth", "CRAM-MD5")
        assert ran.code == 28
        assert "it offers PLAIN LOGIN" in ran.err
        config = Target(
            server.host, server.port, TlsMode.NONE, credentials=PasswordCredentials("me", "x"),
            mechanisms=("SCRAM",),
        )  # fmt: skip
        with pytest.raises(UnsupportedExtensionError):
            config.connect()


def test_a_mechanism_for_other_credentials(
    smtpconn: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mechanism for tokens fails if there is only a password."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    with SmtpServer(users={"me": "sesame"}, sasl={"XOAUTH2": lambda: iter(())}) as server:  # type: ignore[dict-item, return-value]
        ran = smtpconn("check", server.url, "-au", "me", "--auth", "XOAUTH2,PLAIN")
    assert ran.code == 28
    assert "needs a user and a token" in ran.err
