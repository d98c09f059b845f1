"""The real servers by themselves: each starts, takes a message, stores it, and leaves nothing.

The standard library's client is used here and not smtpconn, so that a failure in this file means
that a fixture is broken, and a failure elsewhere that smtpconn is.
"""

import base64
import contextlib
import os
import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.realservers.base import HOSTNAME, PASSWORDS, RealServer
from tests.realservers.certificates import Certificates
from tests.realservers.cyrus import ADMIN, Cyrus
from tests.realservers.dovecot import Dovecot, oauth_token
from tests.realservers.exim import Exim
from tests.realservers.fixtures import require
from tests.realservers.opensmtpd import OpenSMTPD
from tests.realservers.postfix import Postfix
from tests.realservers.redis import RedisServer
from tests.realservers.smtpsink import SmtpSink

SENDER = "sender@client.example.test"
ALICE = "alice@example.test"
MESSAGE = (
    f"From: <{SENDER}>\r\nTo: <{ALICE}>\r\nMessage-ID: <1@client.example.test>\r\n"
    "Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nSubject: test\r\n\r\n.leading dot\r\nend\r\n"
).encode()


def has_message(stored: bytes) -> bool:
    """Whether the message is in what a server has stored, whichever line ends it prefers."""
    return MESSAGE.replace(b"\r\n", b"\n") in stored.replace(b"\r\n", b"\n")


def log_in(client: smtplib.SMTP) -> None:
    """Log in as alice by AUTH PLAIN, and by nothing else."""
    client.user, client.password = "alice", PASSWORDS["alice"]
    code, _ = client.auth("PLAIN", client.auth_plain)
    assert code == 235


@contextlib.contextmanager
def starttls(server: RealServer, certificates: Certificates) -> Iterator[smtplib.SMTP]:
    """A client which has switched to TLS and believes the server to be who it should be."""
    with smtplib.SMTP("localhost", server.port) as client:
        client.starttls(context=certificates.client_context())
        client.ehlo()
        yield client


@contextlib.contextmanager
def over_tls(port: int, certificates: Certificates) -> Iterator[smtplib.SMTP]:
    """A client which speaks TLS from the start."""
    context = certificates.client_context()
    with smtplib.SMTP_SSL("localhost", port, context=context) as client:
        client.ehlo()
        yield client


def processes_below(root: Path) -> list[str]:
    """The command lines of the processes which work in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(root):
                found.append((process / "cmdline").read_text())
    return found


def children() -> set[int]:
    """The processes whose parent is this one, zombies included."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.add(int(stat.parent.name))
    return found


def assert_leaves_nothing(server: RealServer, children_before: set[int]) -> None:
    """Stop a server and look for what it should have cleaned away."""
    root, descriptors = server.root, len(os.listdir("/proc/self/fd"))
    assert processes_below(root)
    server.stop()
    assert not root.exists()
    assert processes_below(root) == []
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert children() <= children_before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))


def test_postfix_stores_a_message(postfix: Postfix) -> None:
    """Postfix delivers a message to its recipient's mailbox and empties its queue."""
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
        assert not client.has_extn("auth")
    [stored] = postfix.wait_for_stored(1)
    assert has_message(stored)
    postfix.wait_until_queue_empty()
    assert postfix.stored("alice") == [stored]
    assert postfix.stored("bob") == []
    postfix.wait_for_log("status=sent")


def test_postfix_discards_foreign_mail(postfix: Postfix) -> None:
    """Postfix accepts mail for any domain but sends none anywhere."""
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.sendmail(SENDER, ["someone@elsewhere.test"], MESSAGE)
    postfix.wait_until_queue_empty()
    assert postfix.stored() == []
    postfix.wait_for_log("only local mail")


def test_postfix_starttls_verifies(postfix: Postfix, certificates: Certificates) -> None:
    """Postfix switches to TLS with a certificate of our CA for localhost."""
    with starttls(postfix, certificates) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
    postfix.wait_for_stored(1)


def test_postfix_tls_verifies(postfix: Postfix, certificates: Certificates) -> None:
    """Postfix speaks TLS from the start on its other port."""
    with over_tls(postfix.tls_port, certificates) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
    postfix.wait_for_stored(1)


def test_postfix_is_not_trusted_by_default(postfix: Postfix) -> None:
    """The certificate is not trusted without our CA."""
    with (
        smtplib.SMTP("localhost", postfix.port) as client,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        client.starttls(context=ssl.create_default_context())


def test_postfix_serves_a_unix_socket(postfix: Postfix) -> None:
    """Postfix greets on its UNIX socket too."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(postfix.socket_path))
        assert connection.recv(512).startswith(f"220 {HOSTNAME} ESMTP".encode())


def test_postfix_restarts_in_place(postfix: Postfix, certificates: Certificates) -> None:
    """A restart keeps ports, stored messages and the queue, and ends all connections."""
    ports = postfix.ports()
    with smtplib.SMTP(postfix.host, postfix.port) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
        stored = postfix.wait_for_stored(1)
        postfix.wait_until_queue_empty()
        postfix.restart()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            client.noop()
    assert postfix.ports() == ports
    assert postfix.stored() == stored
    with over_tls(postfix.tls_port, certificates) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
    assert len(postfix.wait_for_stored(2)) == 2


@pytest.mark.realserver
def test_postfix_keeps_its_queue(certificates: Certificates) -> None:
    """What is on hold when Postfix stops is still queued when it runs again."""
    require(Postfix)
    hold = "smtpd_end_of_data_restrictions = check_client_access static:HOLD\n"
    with Postfix(certificates, main_cf=hold) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            client.sendmail(SENDER, [ALICE], MESSAGE)
        server.restart()
        with pytest.raises(AssertionError, match="still queued"):
            server.wait_until_queue_empty(timeout=0)
        assert server.stored() == []


def test_postfix_takes_a_login(postfix_with_auth: Postfix, certificates: Certificates) -> None:
    """Postfix lets alice in by AUTH PLAIN, as Dovecot knows her."""
    with starttls(postfix_with_auth, certificates) as client:
        log_in(client)
        client.sendmail(SENDER, [ALICE], MESSAGE)
    assert has_message(postfix_with_auth.wait_for_stored(1)[0])
    with smtplib.SMTP(postfix_with_auth.host, postfix_with_auth.port) as client:
        client.ehlo()
        code, _ = client.docmd("AUTH PLAIN", base64.b64encode(b"\0alice\0wrong").decode())
        assert code == 535


def test_postfix_takes_a_token(postfix_with_auth: Postfix) -> None:
    """Postfix lets alice in by XOAUTH2 with a token, unless it has been tampered with."""
    with smtplib.SMTP(postfix_with_auth.host, postfix_with_auth.port) as client:
        client.ehlo()
        for token, expected in ((oauth_token() + "x", 334), (oauth_token(), 235)):
            response = f"user=alice\x01auth=Bearer {token}\x01\x01"
            code, _ = client.docmd("AUTH XOAUTH2", base64.b64encode(response.encode()).decode())
            assert code == expected
            if code == 334:
                assert client.docmd("")[0] == 535


def test_dovecot_stores_what_it_was_sent(dovecot: Dovecot) -> None:
    """Dovecot stores a message byte for byte, below its own header lines."""
    with smtplib.LMTP(dovecot.host, dovecot.port) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
    assert dovecot.wait_for_stored(1, user="alice")[0].endswith(MESSAGE)


def test_dovecot_serves_a_unix_socket(dovecot: Dovecot) -> None:
    """Dovecot takes mail on its UNIX socket, and answers for each recipient by itself."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(dovecot.socket_path))
        with connection.makefile("rb") as replies:
            commands = ["LHLO localhost", f"MAIL FROM:<{SENDER}>"]
            commands += [f"RCPT TO:<{user}@example.test>" for user in ("carol", "alice")]
            commands.append(f"BDAT {len(MESSAGE)} LAST")
            connection.sendall("".join(f"{line}\r\n" for line in commands).encode() + MESSAGE)
            connection.sendall(b"QUIT\r\n")
            codes = [line[:3] for line in replies if line[3:4] == b" "]
    assert codes == [b"220", b"250", b"250", b"250", b"250", b"552", b"250", b"221"]
    assert len(dovecot.wait_for_stored(1)) == 1


def test_dovecot_tls_verifies(dovecot: Dovecot, certificates: Certificates) -> None:
    """Dovecot speaks TLS from the start on its other LMTP port."""
    context = certificates.client_context()
    address = ("localhost", dovecot.tls_port)
    with (
        socket.create_connection(address, timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as secure,
    ):
        assert secure.recv(512).startswith(b"220 ")


def test_dovecot_reload_ends_idle_connections(dovecot: Dovecot) -> None:
    """A reload says 421 to idle connections; new ones are welcome."""
    with socket.create_connection((dovecot.host, dovecot.port), timeout=10) as connection:
        assert connection.recv(512).startswith(b"220 ")
        dovecot.reload()
        assert connection.recv(512).startswith(b"421 ")
        assert connection.recv(512) == b""
    with smtplib.LMTP(dovecot.host, dovecot.port) as client:
        assert client.noop()[0] == 250


def test_dovecot_submission_relays(
    dovecot_submission: Dovecot, postfix: Postfix, certificates: Certificates
) -> None:
    """Mail submitted to Dovecot after a login is stored by Postfix."""
    with over_tls(dovecot_submission.submission_tls_port, certificates) as client:
        log_in(client)
        client.sendmail(SENDER, [ALICE], MESSAGE)
    assert has_message(postfix.wait_for_stored(1)[0])


def test_exim_stores_a_message(exim: Exim, certificates: Certificates) -> None:
    """Exim accepts a login over TLS and delivers a message."""
    with over_tls(exim.tls_port, certificates) as client:
        assert client.has_extn("pipeconnect")
        log_in(client)
        client.sendmail(SENDER, [ALICE], MESSAGE)
    assert has_message(exim.wait_for_stored(1, user="alice")[0])
    exim.wait_for_log(f"=> alice <{ALICE}>")


def test_exim_knows_the_client_certificate(exim: Exim, certificates: Certificates) -> None:
    """Exim accepts AUTH EXTERNAL with the client certificate."""
    with smtplib.SMTP("localhost", exim.port) as client:
        client.starttls(context=certificates.client_context(with_certificate=True))
        client.ehlo()
        assert client.docmd("AUTH EXTERNAL", "=")[0] == 235


def test_cyrus_stores_a_message(cyrus: Cyrus) -> None:
    """Cyrus delivers a message to a mailbox which comes into being with it."""
    with smtplib.LMTP(cyrus.host, cyrus.port) as client:
        client.sendmail(SENDER, ["alice"], MESSAGE)
    assert has_message(cyrus.wait_for_stored(1, user="alice")[0])


def test_cyrus_offers_channel_binding(cyrus: Cyrus, certificates: Certificates) -> None:
    """Cyrus offers SCRAM with channel binding over TLS, and lets its administrator in."""
    with smtplib.LMTP("localhost", cyrus.auth_port) as client:
        client.ehlo()
        assert "SCRAM-SHA-256-PLUS" not in client.esmtp_features["auth"]
        client.starttls(context=certificates.client_context())
        client.ehlo()
        assert "SCRAM-SHA-256-PLUS" in client.esmtp_features["auth"]
        client.user, client.password = ADMIN
        assert client.auth("PLAIN", client.auth_plain)[0] == 235


def test_opensmtpd_stores_a_message(opensmtpd: OpenSMTPD) -> None:
    """OpenSMTPD delivers a message and does not offer pipelining."""
    with smtplib.SMTP(opensmtpd.host, opensmtpd.port) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
        assert not client.has_extn("pipelining")
    assert has_message(opensmtpd.wait_for_stored(1, user="alice")[0])


def test_smtp_sink_stores_a_message(smtp_sink: SmtpSink) -> None:
    """smtp-sink dumps a message below its envelope."""
    with smtplib.SMTP(smtp_sink.host, smtp_sink.port) as client:
        client.sendmail(SENDER, [ALICE], MESSAGE)
    stored = smtp_sink.wait_for_stored(1)[0]
    assert has_message(stored)
    assert f"X-Rcpt-Args: <{ALICE}>".encode() in stored


def test_redis_keeps_what_it_is_told(redis_server: RedisServer) -> None:
    """Redis, which is asked in its own protocol, begins empty and stores."""
    with socket.create_connection((redis_server.host, redis_server.port), timeout=10) as client:
        answers = client.makefile("rb")
        with answers:
            for command, answer in (("DBSIZE", ":0"), ("SET a 1", "+OK"), ("DBSIZE", ":1")):
                client.sendall(f"{command}\r\n".encode())
                assert answers.readline() == f"{answer}\r\n".encode()


@pytest.mark.realserver
def test_smtp_sink_fails_on_demand() -> None:
    """smtp-sink hangs up where it is told to."""
    require(SmtpSink)
    with (
        SmtpSink("-q", "RCPT", "-n", "1") as server,
        smtplib.SMTP(server.host, server.port) as client,
        pytest.raises(smtplib.SMTPServerDisconnected),
    ):
        client.sendmail(SENDER, [ALICE], MESSAGE)


@pytest.mark.realserver
@pytest.mark.parametrize("kind", [Postfix, Dovecot, Exim, Cyrus])
def test_leaves_nothing(
    kind: type[Postfix | Dovecot | Exim | Cyrus], certificates: Certificates
) -> None:
    """A stopped server leaves no process, zombie, descriptor, directory or listener."""
    require(kind)
    before = children()
    with kind(certificates) as server:
        assert children() > before
        assert_leaves_nothing(server, before)


@pytest.mark.realserver
@pytest.mark.parametrize("kind", [OpenSMTPD, SmtpSink, RedisServer])
def test_leaves_nothing_without_tls(kind: type[OpenSMTPD | SmtpSink | RedisServer]) -> None:
    """The servers without TLS leave nothing either."""
    require(kind)
    before = children()
    with kind() as server:
        assert children() > before
        assert_leaves_nothing(server, before)


@pytest.mark.realserver
def test_restarts_in_place(certificates: Certificates) -> None:
    """Every server can be restarted on its ports."""
    for kind in (Dovecot, Exim, Cyrus):
        require(kind)
        with kind(certificates) as server:
            server.restart()
            with socket.create_connection((server.host, server.port), timeout=10) as connection:
                assert connection.recv(512).startswith(b"220 ")


@pytest.mark.realserver
def test_failure_to_start_is_explained(certificates: Certificates) -> None:
    """A server which cannot start says why and removes its directory."""
    require(Exim)
    server = Exim(certificates, main_conf="no_such_setting = 1\n")
    with pytest.raises(RuntimeError, match="no_such_setting"):
        server.start()
    with pytest.raises(RuntimeError, match="has not been started"):
        server.root  # noqa: B018


def test_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server which is not there skips the test with the reason, or fails it if required."""
    absent = Path("/nonexistent/smtp-sink")
    monkeypatch.setattr(SmtpSink, "programs", (absent,))
    assert SmtpSink.missing() == f"smtp-sink is not installed: no {absent}"
    monkeypatch.delenv("SMTPCONN_REQUIRE_SERVERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no /nonexistent"):
        require(SmtpSink)
    monkeypatch.setenv("SMTPCONN_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="no /nonexistent"):
        require(SmtpSink)
