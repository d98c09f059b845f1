"""``smtpconn serve``: a mail sink, as a process of its own and inside this one."""

from __future__ import annotations

import itertools
import json
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path

import pytest

from smtpconn import OAuthCredentials, PasswordCredentials, ServerConfig, TlsMode
from smtpconn.auth.credentials import Credentials
from smtpconn.cli.output import Output
from smtpconn.cli.serve import MessageSink, decoded_lines, store
from smtpconn.testing import ReceivedMessage
from tests.realservers.certificates import Certificates
from tests.support.command_runner import Runner

MESSAGE = "From: a@b.c\r\nSubject: caught\r\n\r\nHello \x1b[2J\r\n.dot\r\n"
RECEIVED = ReceivedMessage("a@b.c", ("d@e.f",), MESSAGE.encode(), ("SIZE=9",), ((),))


@dataclass(slots=True)
class Served:
    """A process that serves."""

    process: subprocess.Popen[str]
    port: int
    before: list[str]
    out: str = ""
    err: str = ""

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal, and wait; what it wrote is in ``out`` and ``err`` then."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends."""
        self.out, self.err = self.process.communicate(timeout=15)
        return self.process.returncode


@contextmanager
def serving(*arguments: object) -> Iterator[Served]:
    """Start ``python -m smtpconn serve`` and wait until it listens."""
    words = [str(argument) for argument in arguments]
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "smtpconn", "serve", "-p", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            before: list[str] = []
            found = None
            while found is None:
                line = process.stderr.readline()
                assert line, before
                before.append(line.rstrip())
                found = re.search(r"listening on \S+:(\d+) ", line)
            yield Served(process, int(found[1]), before)
        finally:
            process.kill()


def send(port: int, *recipients: str) -> dict[str, tuple[int, bytes]]:
    """Send a message with the standard library."""
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        return client.sendmail("a@b.c", list(recipients) or ["d@e.f"], MESSAGE)


def test_messages_are_printed_until_ctrl_c() -> None:
    """Messages are printed with their envelopes, without control characters, until Ctrl-C."""
    with serving() as served:
        send(served.port, "d@e.f", "g@h.i")
        send(served.port)
        assert served.end() == 0
    assert served.err == "smtpconn: 2 messages\n"
    lines = served.out.splitlines()
    assert lines[:4] == [
        "---------- message 1 ----------",
        f"X-Mail-From: <a@b.c> size={len(MESSAGE)}",
        "X-Rcpt-To: <d@e.f>",
        "X-Rcpt-To: <g@h.i>",
    ]
    assert "Subject: caught" in lines
    assert r"Hello \x1b[2J" in lines
    assert ".dot" in lines
    assert lines.count("------------ end ------------") == 2
    assert "\x1b" not in served.out


def test_sigterm() -> None:
    """SIGTERM ends the command like Ctrl-C."""
    with serving() as served:
        assert served.end(signal.SIGTERM) == 0
    assert served.err == "smtpconn: 0 messages\n"


def test_messages_are_stored(tmp_path: Path) -> None:
    """Each message is an .eml file with the bytes that came, with a .json beside it."""
    directory = tmp_path / "new" / "mail"
    with serving("--store", directory, "--count", 2) as served:
        send(served.port)
        send(served.port)
        assert served.wait() == 0
    names = sorted(path.name for path in directory.iterdir())
    assert len(names) == 4
    for path in directory.glob("*.eml"):
        assert path.read_bytes() == MESSAGE.encode()
        about = json.loads(path.with_suffix(".json").read_text())
        assert about["sender"] == "a@b.c"
        assert about["recipients"] == ["d@e.f"]
        assert about["file"] == str(path)
        assert str(path) in served.out


def test_the_last_message_is_acknowledged() -> None:
    """The command ends only after the client has its reply."""
    for _ in range(5):
        with serving("--count", 1) as served:
            assert send(served.port) == {}
            assert served.wait() == 0


def test_clients_at_the_end() -> None:
    """A silent client is disconnected at once, one in the middle of a command after a second."""
    with (
        serving() as served,
        socket.create_connection(("127.0.0.1", served.port), timeout=10) as silent,
        socket.create_connection(("127.0.0.1", served.port), timeout=10) as talking,
    ):
        assert silent.recv(100).startswith(b"220")
        assert talking.recv(100).startswith(b"220")
        talking.sendall(b"NO")
        assert served.end() == 0
        assert silent.recv(100) == b""
    assert served.err == "smtpconn: 0 messages\n"


def test_messages_as_json() -> None:
    """Each message is an object in a line, and the result is the last one."""
    with serving("--json", "--count", 1) as served:
        send(served.port)
        assert served.wait() == 0
    first, last = map(json.loads, served.out.splitlines())
    assert first["number"] == 1
    assert first["content"] == MESSAGE
    assert first["mail_parameters"] == [f"size={len(MESSAGE)}"]
    assert last == {"command": "serve", "ok": True, "exit": 0, "error": None, "messages": 1}


def test_tls_and_a_login(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a certificate STARTTLS is offered; with a user the login is required."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    with (
        serving(
            "--tls-cert", certificates.server_file, "--tls-key", certificates.server_key_file,
            "--user", "me", "--count", 1,
        ) as served,
        smtplib.SMTP("localhost", served.port, timeout=10) as client,
    ):  # fmt: skip
        client.starttls(context=certificates.client_context())
        with pytest.raises(smtplib.SMTPSenderRefused):
            client.sendmail("a@b.c", "d@e.f", MESSAGE)
        client.login("me", "sesame")
        client.sendmail("a@b.c", "d@e.f", MESSAGE)
        assert served.wait() == 0
    assert "X-User: me" in served.out
    assert "under TLS" in served.out
    assert "sesame" not in served.out + served.err


def test_implicit_tls(certificates: Certificates) -> None:
    """--tlsc uses TLS from the first byte."""
    with serving(
        "--tls-cert", certificates.server_file, "--tls-key", certificates.server_key_file, "--tlsc"
    ) as served:
        context: ssl.SSLContext = certificates.client_context()
        with smtplib.SMTP_SSL("localhost", served.port, context=context) as client:
            assert client.noop()[0] == 250
        assert served.end() == 0


@pytest.mark.parametrize("mode", ["--tls", "--tlsc"])
def test_a_certificate_made_at_start(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is printed at start makes clients trust it; it is gone at the end."""
    with serving(mode, "--auth", "any", "--count", 1) as served:
        (line,) = (line for line in served.before if line.startswith("SSL_CERT_FILE="))
        ca_file = line.partition("=")[2]
        context = ssl.create_default_context(cafile=ca_file)
        assert context.check_hostname
        if mode == "--tls":
            client = smtplib.SMTP("127.0.0.1", served.port, timeout=10)
            client.starttls(context=context)
        else:
            client = smtplib.SMTP_SSL("localhost", served.port, timeout=10, context=context)
        with client:
            client.login("anybody", "anything")
            client.sendmail("a@b.c", "d@e.f", MESSAGE)
        assert served.wait() == 0
    assert "X-User: anybody" in served.out
    assert "under TLS" in served.out
    assert not Path(ca_file).exists()


def test_a_certificate_for_another_address() -> None:
    """It is valid for the address of --host, too."""
    with serving("--tls", "--host", "127.0.0.2") as served:
        (line,) = (line for line in served.before if line.startswith("SSL_CERT_FILE="))
        context = ssl.create_default_context(cafile=line.partition("=")[2])
        with smtplib.SMTP("127.0.0.2", served.port, timeout=10) as client:
            assert client.starttls(context=context)[0] == 220
        assert served.end() == 0


@pytest.mark.parametrize(
    "credentials",
    [
        PasswordCredentials("me", "sesame"),
        PasswordCredentials("j\u00f6rg", "\u00fc"),
        OAuthCredentials("me@example.com", "token"),
    ],
)
def test_every_login_is_accepted(credentials: Credentials) -> None:
    """By password and by token, in clear, with every mechanism that is offered."""
    with serving("--auth", "any") as served:
        config = ServerConfig("127.0.0.1", served.port, TlsMode.NONE, credentials=credentials)
        with config.connect() as client:
            assert client.is_authenticated
            offered = client.capabilities.auth_mechanisms
        assert offered == ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")
        send(served.port)  # no login is required
        assert served.end() == 0
    assert "1 messages" in served.err


def settings_of(lines: list[str], heading: str) -> dict[str, object]:
    """The settings after a heading, executed as the Python that they are."""
    begin = next(n for n, line in enumerate(lines) if line.startswith(heading)) + 1
    block = itertools.takewhile(lambda line: " = " in line, lines[begin:])
    settings: dict[str, object] = {}
    exec("\n".join(block), {}, settings)
    return settings


def test_settings_to_copy(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are Python, and name what was asked for: address, kind of TLS, user."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "sesame")
    with serving("--host", "0.0.0.0") as served:
        django = settings_of(served.before, "# Django")
        assert django == {"EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": served.port}
    with serving(
        "--tls-cert", certificates.server_file, "--tls-key", certificates.server_key_file,
        "--user", "me",
    ) as served:  # fmt: skip
        django, flask = (settings_of(served.before, name) for name in ("# Django", "# Flask"))
        assert django["EMAIL_USE_TLS"] is flask["MAIL_USE_TLS"] is True
        assert django["EMAIL_HOST_USER"] == flask["MAIL_USERNAME"] == "me"
        assert "sesame" not in "".join(served.before)
        assert not any("SSL_CERT_FILE" in line for line in served.before)
    with serving("--tlsc") as served:
        django, flask = (settings_of(served.before, name) for name in ("# Django", "# Flask"))
        assert django["EMAIL_USE_SSL"] is flask["MAIL_USE_SSL"] is True
        assert flask["MAIL_PORT"] == served.port
    with serving("--json") as served:
        assert len(served.before) == 1


def test_without_trustme(smtpconn: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    monkeypatch.setattr("smtpconn.testing.certificates._authorities", {})
    ran = smtpconn("serve", "--tls", "-p", "0")
    assert ran.code == 1
    assert "pip install 'smtpconn[cli]'" in ran.err


# What is shown of a message


def decoded(message: EmailMessage) -> list[str]:
    """The lines that are printed for a message."""
    return decoded_lines(ReceivedMessage("a@b.c", ("d@e.f",), message.as_bytes(policy=SMTP)))


def test_text_and_header_are_decoded() -> None:
    """No base64, no quoted-printable, no encoded words."""
    message = EmailMessage()
    message["Subject"] = "Gr\u00fc\u00dfe aus K\u00f6ln"
    message["From"] = "K\u00e4the <k@example.com>"
    message.set_content("Sch\u00f6n!\nBis bald.\n", cte="base64")
    lines = decoded(message)
    assert "Subject: Gr\u00fc\u00dfe aus K\u00f6ln" in lines
    assert "From: K\u00e4the <k@example.com>" in lines
    assert lines[-3:] == ["", "Sch\u00f6n!", "Bis bald."]


def test_attachments_are_named() -> None:
    """With their type and size; the HTML beside a text is not shown, nor an attached message."""
    message = EmailMessage()
    message.set_content("text\n")
    message.add_alternative("<p>html</p>\n", subtype="html")
    message.add_attachment(b"x" * 2500, maintype="image", subtype="png", filename="\u00fc.png")
    inner = EmailMessage()
    inner.set_content("inner\n")
    message.add_attachment(inner)
    assert decoded(message)[-4:] == [
        "text",
        "[another part (text/html, 13 bytes)]",
        "[attachment: \u00fc.png (image/png, 2.5 kB)]",
        f"[another part (message/rfc822, {len(bytes(inner))} bytes)]",
    ]


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"Content-Type: text/html\r\n\r\n<p>only</p>\r\n", "<p>only</p>"),
        (b"Content-Type: text/plain; charset=no-such\r\n\r\n\xc3\xbc\r\n", "\u00fc"),
        (b"Subject: x\r\n\r\n\xff\r\n", "\\xff"),
        (b"Content-Type: application/pdf\r\n\r\n%PDF\r\n", "[another part (application/pdf"),
        (b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno part\r\n", "no part"),
        (b"To: \"\r\nFrom: (((\r\nDate: x\r\n\r\nhi\r\n", "hi"),
        (b"no header at all", "no header at all"),
        (b"Subject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nx\r\n", "Subject: Gr\u00fc\u00dfe"),
        (b"", ""),
    ],
)  # fmt: skip
def test_malformed_messages_are_shown(content: bytes, shown: str) -> None:
    """Every message is shown, because a mailbox for development gets malformed ones."""
    lines = decoded_lines(ReceivedMessage("a@b.c", ("d@e.f",), content))
    assert shown in "\n".join(lines)


def test_raw_messages() -> None:
    """With --raw nothing is decoded."""
    with serving("--raw", "--count", 1) as served:
        with smtplib.SMTP("127.0.0.1", served.port, timeout=10) as client:
            client.sendmail("a@b.c", "d@e.f", "Subject: =?utf-8?q?=C3=BC?=\r\n\r\nhi\r\n")
        assert served.wait() == 0
    assert "Subject: =?utf-8?q?=C3=BC?=" in served.out.splitlines()


def test_faults_on_demand() -> None:
    """A fault applies every time."""
    with serving("--refuse", "no@e.f", "--fault", "DATA=451 4.3.0 later") as served:
        for _ in range(2):
            with pytest.raises(smtplib.SMTPDataError, match="later"):
                send(served.port, "d@e.f", "no@e.f")
        assert served.end() == 0


def test_the_default_address_is_loopback(smtpconn: Runner) -> None:
    """It listens on loopback; another address gets a warning."""
    with serving() as served, socket.create_connection(("127.0.0.1", served.port)) as peer:
        assert peer.getpeername()[0] == "127.0.0.1"
        served.process.kill()
    ran = smtpconn("serve", "--host", "192.0.2.1")
    assert ran.code == 7
    assert "warning: listening on 192.0.2.1: every host" in ran.err
    assert "smtpconn: cannot listen on 192.0.2.1:8025: Cannot assign" in ran.err


def test_a_port_that_is_taken(smtpconn: Runner) -> None:
    """A port that is in use is an error of one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = smtpconn("serve", "-p", taken.getsockname()[1], "--json")
    assert ran.code == 7
    assert "Address already in use" in ran.err
    assert ran.err.count("\n") == 1
    assert ran.object["messages"] == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tls-key", "k"], "needs --tls-cert"),
        (["--auth", "any", "--user", "me"], "exclude each other"),
        (["--auth", "all"], "invalid choice"),
        (["--tls-cert", "/no/such"], "cannot be used: No such file"),
        (["--user", "me"], "there is no password for me"),
        (["--store", "/dev/null/x"], "--store /dev/null/x: "),
    ],
)
def test_mistakes_in_options(smtpconn: Runner, arguments: list[str], text: str) -> None:
    """A mistake in the options is an error before the server listens."""
    ran = smtpconn("serve", *arguments)
    assert ran.code == 1
    assert text in ran.err


def test_a_message_that_cannot_be_stored_is_not_acknowledged(
    smtpconn: Runner, tmp_path: Path
) -> None:
    """The client gets no reply, and the command ends with the reason."""
    directory = tmp_path / "mail"
    with serving("--store", directory) as served:
        directory.rmdir()
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(served.port)
        assert served.wait() == 7
    assert "a message cannot be stored" in served.err
    assert "No such file or directory" in served.err
    assert "Traceback" not in served.err


def test_names_never_collide(tmp_path: Path) -> None:
    """Names differ however many messages come at once."""
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda _: store(tmp_path, RECEIVED), range(200)))
    assert len(set(paths)) == 200
    assert len(list(tmp_path.iterdir())) == 400


def test_a_name_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that another process has taken is not overwritten."""

    class Clock:
        @staticmethod
        def now(zone: object) -> Clock:
            return Clock()

        def strftime(self, form: str) -> str:
            return "then"

    monkeypatch.setattr("smtpconn.cli.serve.datetime", Clock)
    first, second = store(tmp_path, RECEIVED), store(tmp_path, RECEIVED)
    assert first != second
    assert first.exists()
    assert second.exists()


def test_a_socket(tmp_path: Path) -> None:
    """LMTP works on a UNIX socket, which is removed at the end."""
    path = tmp_path / "lmtp"
    caught: list[int] = []
    words = ["serve", "--socket", str(path), "--protocol", "lmtp", "--count", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "smtpconn", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert f"listening on {path} " in process.stderr.readline()
        with smtplib.LMTP(str(path)) as client:
            client.sendmail("a@b.c", ["d@e.f"], MESSAGE)
        process.communicate(timeout=15)
        caught.append(process.returncode)
    assert caught == [0]
    assert not path.exists()


def test_a_broken_pipe() -> None:
    """A broken pipe ends the sink, and the message is not acknowledged."""
    out = Output()
    sink = MessageSink(out, None, None)

    def broken(text: str, style: str = "") -> None:
        raise BrokenPipeError(32, "Broken pipe")

    out.line = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(BrokenPipeError):
        sink.take(RECEIVED)
    assert sink.is_over.is_set()
    assert sink.count == 0
