"""``smtpconn check``: the report, against servers of every kind."""

from __future__ import annotations

import re
import ssl
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
import trustme

from smtpconn.cli.check import read_certificate
from smtpconn.cli.output import milliseconds, size
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import SERVER_NAMES, Certificates
from tests.realservers.dovecot import Dovecot, oauth_token
from tests.realservers.exim import Exim
from tests.realservers.postfix import Postfix
from tests.support.command_runner import Runner, RunResult


def rows(ran: RunResult) -> dict[str, str]:
    """The report's lines by their names; what has no name belongs to the one above."""
    found: dict[str, str] = {}
    name = ""
    for line in ran.out.splitlines():
        name = line[:13].strip() or name
        found[name] = f"{found[name]}\n{line[14:]}" if name in found else line[14:]
    return found


def test_a_report_in_clear(smtpconn: Runner, server: SmtpServer) -> None:
    """The report has everything that the session shows; standard error stays empty."""
    ran = smtpconn("check", server.url)
    assert (ran.code, ran.err) == (0, "")
    found = rows(ran)
    assert found["server"] == f"127.0.0.1:{server.port}, SMTP, in clear"
    assert found["banner"] == "220 mx.example.test ESMTP"
    assert found["name"] == "mx.example.test"
    assert "SIZE 10485760 (10.5 MB)" in found["offers"].splitlines()
    assert re.match(r"[\d.]+ ms \(fastest [\d.]+ ms, slowest [\d.]+ ms\)", found["NOOP"])
    assert re.match(r"connect [\d.]+ ms, banner [\d.]+ ms, EHLO [\d.]+ ms$", found["times"])
    assert found["result"] == "ok"
    assert not {"TLS", "certificate", "login", "note"} & set(found)
    assert server.connections[0].commands[1:] == ["NOOP"] * 3 + ["QUIT"]


def test_a_report_under_tls(
    smtpconn: Runner, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS, the certificate and the login are in it."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    with SmtpServer(users={"me": "sesame"}, tls_context=certificates.server_context()) as server:
        ran = smtpconn(
            "check", f"smtp+starttls://me@localhost:{server.port}",
            "--tls-ca-path", certificates.ca_file,
        )  # fmt: skip
    found = rows(ran)
    assert ran.code == 0
    assert found["TLS"].startswith("TLSv1.3, TLS_")
    assert found["TLS"].endswith("bits), certificate verified")
    assert "CN=mx.example.test" in found["certificate"]
    assert found["for"] == "localhost, mx.example.test, 127.0.0.1"
    assert re.search(r"\d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d, \d+ days left", found["valid"])
    assert len(found["SHA-256"].split(":")) == 32
    assert found["login"] == "me, by PLAIN"
    assert "TLS " in found["times"]
    assert "login " in found["times"]
    assert found["note"] == "the server takes passwords in clear (AUTH without TLS)"


def test_a_report_as_json(smtpconn: Runner, certificates: Certificates) -> None:
    """The report is one object, and has the same keys after a failure."""
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=True) as server:
        found = smtpconn(
            "check", f"smtps://localhost:{server.port}", "--tls-ca-path", certificates.ca_file,
            "--json",
        ).object  # fmt: skip
    nothing = smtpconn("check", "localhost:1", "--json").object
    assert set(found) == set(nothing)
    assert found["command"] == "check"
    assert found["server"] == {
        "host": "localhost", "port": server.port, "protocol": "smtp", "tls": "implicit",
        "user": None,
    }  # fmt: skip
    assert found["banner"] == ["220 mx.example.test ESMTP"]
    assert found["name"] == "mx.example.test"
    assert {"keyword": "SIZE", "parameters": ["10485760"]} in found["extensions"]
    assert found["size_limit"] == 10485760
    assert found["auth_mechanisms"] == []
    assert found["tls"]["version"] == "TLSv1.3"
    assert found["tls"]["verified"] is True
    assert found["tls"]["certificate"]["names"] == ["localhost", "mx.example.test", "127.0.0.1"]
    assert found["tls"]["certificate"]["days_left"] > 0
    assert found["login"] is None
    assert 0 < found["noop"]["min"] <= found["noop"]["median"] <= found["noop"]["max"]
    assert found["times"]["tls"] > 0
    assert found["error"] is None
    assert nothing["error"]["class"] == "TransportError"
    assert nothing["error"]["phase"] == "connect"
    assert nothing["error"]["transient"] is True


def test_what_was_found_before_it_failed(smtpconn: Runner, certificates: Certificates) -> None:
    """An untrusted certificate is a failure; what came before is in the report."""
    with SmtpServer(tls_context=certificates.server_context()) as server:
        ran = smtpconn("check", f"smtp+starttls://localhost:{server.port}", "-v")
    found = rows(ran)
    assert ran.code == 29
    assert "is not trusted: unable to get local issuer certificate" in ran.err
    assert ran.err.count("\n") == 1
    assert found["banner"] == "220 mx.example.test ESMTP"
    assert "STARTTLS" in found["offers"].splitlines()
    assert found["result"] == "failed"
    assert "*** the certificate of" in ran.out
    assert "--insecure shows a certificate" in found["note"]


def test_advice_about_certificates_only_where_one_failed(
    smtpconn: Runner, server: SmtpServer
) -> None:
    """A server that begins in clear has no certificate to trust; the error has the right URL."""
    ran = smtpconn("check", f"smtps://127.0.0.1:{server.port}")
    assert ran.code == 29
    assert "try smtp+starttls://" in ran.err
    assert "note" not in rows(ran)


def a_server_whose_certificate_ends(days: float) -> SmtpServer:
    """In so many days."""
    end = datetime.now(UTC) + timedelta(days=days, minutes=1)
    start = datetime.now(UTC) - timedelta(days=400)
    made = trustme.CA().issue_cert("localhost", not_after=end, not_before=start)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.configure_cert(context)
    return SmtpServer(tls_context=context, implicit_tls=True)


@pytest.mark.parametrize(
    ("days", "note"),
    [
        (-3, "the certificate expired 3 days ago"),
        (12, "the certificate is valid for only 12 more days"),
        (90, None),
    ],
)
def test_a_certificate_that_expires(smtpconn: Runner, days: int, note: str | None) -> None:
    """A certificate that expires soon gets a note, also if it is not checked."""
    with a_server_whose_certificate_ends(days) as server:
        ran = smtpconn("check", f"smtps://localhost:{server.port}", "--insecure")
    assert ran.code == 0
    assert f"{days} days left" in ran.out
    assert "certificate NOT verified" in ran.out
    assert "the certificate was not checked (--insecure)" in ran.out
    is_noted = re.search(r"note +the certificate (is|expired)", ran.out) is not None
    assert is_noted == (note is not None)
    assert note is None or note in ran.out


@pytest.mark.parametrize(("least", "code"), [(12, 0), (13, 29)])
def test_min_days(smtpconn: Runner, least: int, code: int) -> None:
    """With --min-days a certificate that ends too soon is a failure, for monitoring."""
    with a_server_whose_certificate_ends(12) as server:
        url = f"smtps://localhost:{server.port}"
        ran = smtpconn("check", url, "--insecure", "--min-days", least)
    assert ran.code == code
    assert ("valid for 12 more days, fewer than 13" in ran.err) == (code != 0)


def test_without_cryptography(
    smtpconn: Runner, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a verified certificate ssl shows the same; a note names the extra."""
    arguments = ["--tls-ca-path", certificates.ca_file, "--json"]
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=True) as server:
        url = f"smtps://localhost:{server.port}"
        whole = smtpconn("check", url, *arguments).object
        monkeypatch.setitem(sys.modules, "cryptography", None)
        found = smtpconn("check", url, *arguments).object
        unverified = smtpconn("check", url, "--insecure", "--json").object
        ran = smtpconn("check", url, "--insecure", "--min-days", 1)
    assert found["tls"]["certificate"] == whole["tls"]["certificate"]
    assert any("pip install 'smtpconn[cli]'" in note for note in found["notes"])
    assert not any("smtpconn[cli]" in note for note in whole["notes"])
    assert unverified["tls"]["certificate"] is None
    assert unverified["ok"]
    assert ran.code == 29
    assert "pip install 'smtpconn[cli]'" in ran.err


def test_min_days_without_a_certificate(smtpconn: Runner, server: SmtpServer) -> None:
    """Without a certificate --min-days fails."""
    assert smtpconn("check", server.url, "--min-days", 5).code == 29


@pytest.mark.parametrize(
    ("stage", "commands"),
    [
        ("connect", []),
        ("ehlo", ["EHLO", "QUIT"]),
        ("tls", ["EHLO", "STARTTLS", "EHLO", "QUIT"]),
        ("auth", ["EHLO", "STARTTLS", "EHLO", "AUTH", "QUIT"]),
    ],
)
def test_quit_after_a_stage(
    smtpconn: Runner,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    commands: list[str],
) -> None:
    """With --quit-after no command of a later stage is sent."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    with SmtpServer(users={"me": "sesame"}, tls_context=certificates.server_context()) as server:
        ran = smtpconn(
            "check", f"smtp+starttls://me@localhost:{server.port}", "-q", stage,
            "--tls-ca-path", certificates.ca_file,
        )  # fmt: skip
        assert ran.code == 0
        server.wait_for(lambda: server.connections != [] and server.connections[0].closed)
        assert [line.split()[0] for line in server.connections[0].commands] == commands


@pytest.mark.parametrize("stage", ["tls", "auth"])
def test_a_stage_that_does_not_exist(smtpconn: Runner, server: SmtpServer, stage: str) -> None:
    """A stage that the session does not have is an error, and no connection is made."""
    assert smtpconn("check", server.url, "-q", stage).code == 1
    assert server.connections == []


@pytest.mark.parametrize(
    ("step", "reply", "code"),
    [
        ("CONNECT", "554 no service", 21),
        ("CONNECT", "HTTP/1.1 400", 21),
        ("EHLO", "451 later", 22),
        ("NOOP", "500 no", 30),
    ],
)
def test_exit_codes_of_failures(
    smtpconn: Runner, server: SmtpServer, step: str, reply: str, code: int
) -> None:
    """The exit code is that of the step, and standard error has one line."""
    server.fault(step, reply=reply)
    ran = smtpconn("check", server.url)
    assert ran.code == code
    assert ran.err.count("\n") == 1
    assert "result        failed" in ran.out


def test_a_server_that_says_nothing(smtpconn: Runner, server: SmtpServer) -> None:
    """The timeout ends the command."""
    server.fault("CONNECT", hang=True)
    ran = smtpconn("check", server.url, "--timeout", "0.1")
    assert ran.code == 21
    assert "0.1" in ran.err


def test_starttls_that_is_not_offered(smtpconn: Runner, server: SmtpServer) -> None:
    """The command fails, and does not go on in clear."""
    ran = smtpconn("check", "-s", f"{server.host}:{server.port}", "--tls")
    assert ran.code == 29
    assert "does not offer STARTTLS" in ran.err


def test_old_and_odd_servers(smtpconn: Runner, tmp_path: Path) -> None:
    """The report covers a server that knows only HELO, and LMTP on a UNIX socket."""
    with SmtpServer(ehlo=False) as server:
        found = rows(smtpconn("check", server.url))
        assert found["offers"] == "no extension"
        assert found["name"] == "mx.example.test"
    path = str(tmp_path / "lmtp")
    with SmtpServer(protocol="LMTP", unix_path=path) as server:
        found = rows(smtpconn("check", "--socket", path, "--protocol", "lmtp"))
        assert found["server"] == f"{path}, LMTP, in clear"
        assert found["result"] == "ok"


def test_a_family_of_addresses(smtpconn: Runner, server: SmtpServer) -> None:
    """With -4 the server on 127.0.0.1 is found under its name, with -6 it is not."""
    assert smtpconn("check", "-s", f"localhost:{server.port}", "-4").code == 0
    assert smtpconn("check", "-s", f"localhost:{server.port}", "-6").code == 2


def test_escape_sequences_are_escaped(smtpconn: Runner, server: SmtpServer) -> None:
    """A server cannot draw on the administrator's terminal."""
    server.fault("CONNECT", reply="220 mx \x1b[2J")
    ran = smtpconn("check", server.url, "-v")
    # A control character in a reply's text is harmless once it is escaped.
    assert ran.code == 0
    assert "\x1b" not in ran.everything
    assert r"220 mx \x1b[2J" in ran.out


def test_durations_and_sizes() -> None:
    """Durations and sizes are shown in units that are easy to read."""
    shown = [milliseconds(s) for s in (0.00012, 0.0123, 1.5)]
    assert shown == ["0.12 ms", "12.3 ms", "1500 ms"]
    assert [size(n) for n in (10, 2048, 10485760, 5 * 10**9)] == [
        "10 bytes", "2.0 kB", "10.5 MB", "5.0 GB",
    ]  # fmt: skip


def test_postfix(
    smtpconn: Runner,
    postfix_with_auth: Postfix,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A report of Postfix with Dovecot's SASL, by STARTTLS and a strong login."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "wonderland")
    ran = smtpconn(
        "check", f"smtp+starttls://alice@localhost:{postfix_with_auth.port}",
        "--tls-ca-path", certificates.ca_file,
    )  # fmt: skip
    found = rows(ran)
    assert (ran.code, ran.err) == (0, "")
    assert found["banner"] == "220 mx.example.test ESMTP Postfix"
    assert "PIPELINING" in found["offers"].splitlines()
    assert found["TLS"].endswith("certificate verified")
    assert found["login"] == "alice, by SCRAM-SHA-256"
    assert found["result"] == "ok"


def test_exim(
    smtpconn: Runner, exim: Exim, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report of Exim, by implicit TLS, with a password and with a certificate."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "wonderland")
    server = f"localhost:{exim.tls_port}"
    ran = smtpconn("check", f"smtps://alice@{server}", "--tls-ca-path", certificates.ca_file)
    found = rows(ran)
    assert ran.code == 0
    assert "ESMTP Exim" in found["banner"]
    assert "PRDR" in found["offers"].splitlines()
    assert found["login"] == "alice, by CRAM-MD5"
    ran = smtpconn(
        "check", "-s", server, "-tlsc", "--auth", "EXTERNAL",
        "--tls-ca-path", certificates.ca_file,
        "--tls-cert", certificates.client_file, "--tls-key", certificates.client_key_file,
    )  # fmt: skip
    assert ran.code == 0
    assert rows(ran)["login"] == "the certificate's name, by EXTERNAL"


def test_dovecot(
    smtpconn: Runner,
    dovecot_submission: Dovecot,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reports of Dovecot's LMTP, over TCP with STARTTLS and on its socket, and of its submission
    service with a token.
    """
    dovecot = dovecot_submission
    ran = smtpconn(
        "check", f"lmtp+starttls://localhost:{dovecot.port}", "--tls-ca-path", certificates.ca_file
    )
    assert ran.code == 0
    assert "Dovecot" in rows(ran)["banner"]
    assert rows(ran)["TLS"].endswith("certificate verified")
    ran = smtpconn("check", f"lmtp+unix://{dovecot.socket_path}")
    assert ran.code == 0
    assert "CHUNKING" in rows(ran)["offers"].splitlines()
    monkeypatch.setenv("SMTPCONN_TOKEN", oauth_token())
    ran = smtpconn(
        "check", f"smtp+starttls://alice@localhost:{dovecot.submission_port}",
        "--tls-ca-path", certificates.ca_file, "--auth", "OAUTHBEARER", "-v",
    )  # fmt: skip
    assert ran.code == 0
    assert "login         alice, by OAUTHBEARER" in ran.out
    assert oauth_token() not in ran.everything


# Certificates


def der(pem: bytes) -> bytes:
    """The DER of a certificate in PEM."""
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_a_servers_certificate(certificates: Certificates) -> None:
    """Names, issuer, dates and fingerprint are read."""
    pem = certificates.server_file.read_text().split("-----END CERTIFICATE-----")[0]
    found = read_certificate(ssl.PEM_cert_to_DER_cert(pem + "-----END CERTIFICATE-----"))
    assert set(found.names) == set(SERVER_NAMES)
    assert "CN=mx.example.test" in found.subject
    assert "O=trustme" in found.issuer
    assert not found.is_self_signed
    assert found.not_before < datetime.now(UTC) < found.not_after
    assert len(found.sha256.split(":")) == 32


def test_days_left() -> None:
    """The days that are left are whole days, and negative after the end."""
    end = datetime(2020, 1, 31, 12, tzinfo=UTC)
    pem = trustme.CA().issue_cert("mx.example.com", not_after=end).cert_chain_pems[0].bytes()
    found = read_certificate(der(pem))
    assert found.not_after == end
    assert found.days_left(end - timedelta(days=10, hours=1)) == 10
    assert found.days_left(end - timedelta(hours=1)) == 0
    assert found.days_left(end + timedelta(hours=1)) == -1


def test_addresses_and_wildcards() -> None:
    """IP addresses of both kinds and wildcards are names."""
    names = ["*.example.com", "192.0.2.7", "2001:db8::1"]
    found = read_certificate(der(trustme.CA().issue_cert(*names).cert_chain_pems[0].bytes()))
    assert set(found.names) == set(names)


def test_every_certificate_of_the_authorities() -> None:
    """OpenSSL and `read_certificate` agree on the dates and names of all authorities of certifi."""
    context = ssl.create_default_context(cafile=certifi.where())
    for content, theirs in zip(
        context.get_ca_certs(binary_form=True), context.get_ca_certs(), strict=True
    ):
        ours = read_certificate(content)
        not_after = theirs["notAfter"]
        assert isinstance(not_after, str)
        assert ours.not_after.timestamp() == ssl.cert_time_to_seconds(not_after)
        assert ours.is_self_signed == (theirs["subject"] == theirs["issuer"])
        for attributes in theirs["subject"]:
            assert isinstance(attributes, tuple)
            for name, value in attributes:  # type: ignore[str-unpack]
                assert name != "commonName" or f"CN={value}" in ours.subject


@pytest.mark.parametrize(
    "content", [b"", b"0", b"\x30\x03\x02\x01\x01", b"\x30\x82\xff\xff", b"a" * 99]
)
def test_garbage_is_not_a_certificate(content: bytes) -> None:
    """Garbage raises ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"not a certificate|unpack"):
        read_certificate(content)


def test_a_certificate_that_is_cut_off() -> None:
    """A certificate that is cut at any byte raises ValueError."""
    whole = der(trustme.CA().issue_cert("mx.example.com").cert_chain_pems[0].bytes())
    for end in range(len(whole)):
        with pytest.raises(ValueError):  # noqa: PT011 - which of its texts does not matter
            read_certificate(whole[:end])
