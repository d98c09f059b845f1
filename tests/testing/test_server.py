"""`SmtpServer` by itself: it speaks SMTP and LMTP by the RFCs, records, and fails on demand."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from smtpconn import PasswordCredentials, ServerConfig, TlsError
from smtpconn.testing import ReceivedMessage, SmtpServer
from tests.realservers.certificates import Certificates

MESSAGE = b"Subject: one\r\n\r\n.dot\r\n"


class Peer:
    """A client that says exactly what it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def say(self, text: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(text)

    def reply(self) -> list[str]:
        """The lines of the next reply; none if the connection is over."""
        lines = []
        while line := self._file.readline():
            lines.append(line.decode().rstrip("\r\n"))
            if line[3:4] != b"-":
                break
        return lines

    def ask(self, text: bytes) -> str:
        """Send a line and return the last line of the reply."""
        self.say(text + b"\r\n")
        return self.reply()[-1]

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self.sock.close()


@contextmanager
def connected(server: SmtpServer) -> Iterator[Peer]:
    """A peer that has heard the greeting and said EHLO."""
    peer = Peer(socket.create_connection((server.host, server.port), 10))
    try:
        assert peer.reply()[-1].startswith("220 ")
        assert peer.ask(b"EHLO client.example").startswith("250 ")
        yield peer
    finally:
        peer.close()


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server with everything it can do by default."""
    with SmtpServer() as running:
        yield running


def test_a_message_is_recorded_as_it_came(server: SmtpServer) -> None:
    """Sender, recipients, parameters and content are recorded before the 250 is sent."""
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@b.example", ["c@d.example", "e@d.example"], MESSAGE, ["BODY=8BITMIME"])
    assert server.messages == [
        ReceivedMessage(
            "a@b.example",
            ("c@d.example", "e@d.example"),
            MESSAGE,
            (f"size={len(MESSAGE)}", "BODY=8BITMIME"),
            ((), ()),
            connection=1,
        )
    ]
    server.wait_for(lambda: server.connections[0].closed)
    assert server.connections[0].commands[-1].upper() == "QUIT"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([b"RCPT TO:<c@d.example>"], "503"),
        ([b"DATA"], "503"),
        ([b"MAIL FROM:<a@b.example>", b"DATA"], "554"),
        ([b"MAIL FROM:<a@b.example>", b"MAIL FROM:<a@b.example>"], "503"),
        ([b"MAIL FROM:<a@b.example> SIZE=99999999999"], "552"),
        ([b"MAIL FROM:a@b.example"], "501"),
        ([b"MAIL FROM:<>", b'RCPT TO:<"a>b"@d.example>'], "250"),
        ([b"BDAT x"], "501"),
        ([b"BDAT 0 LAST"], "503"),
        ([b"STARTTLS"], "503"),
        ([b"AUTH PLAIN AAAA"], "504"),
        ([b"VRFY someone"], "252"),
        ([b"HELP"], "214"),
        ([b"NONSENSE"], "500"),
        ([b"noop"], "250"),
        ([b"QUIT"], "221"),
    ],
)
def test_commands_are_answered_by_the_rfc(
    server: SmtpServer, said: list[bytes], expected: str
) -> None:
    """A command that is out of order, unknown or wrong is refused with the right code."""
    with connected(server) as peer:
        *before, last = said
        for line in before:
            assert peer.ask(line).startswith("250 ")
        assert peer.ask(last).startswith(expected)


def test_pipelined_commands_are_answered_in_one_write(server: SmtpServer) -> None:
    """A group of commands has one write of replies (RFC 2920)."""
    with connected(server) as peer:
        turns = server.connections[0].turns
        peer.say(b"MAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        assert [peer.reply()[0][:3] for _ in range(3)] == ["250", "250", "354"]
        assert server.connections[0].turns == turns + 1


def test_pauses_count_round_trips() -> None:
    """With a pause, commands that come in pieces without waiting have one write of replies."""
    with SmtpServer(answer_after_pause=0.05) as server, connected(server) as peer:
        turns = server.connections[0].turns
        for piece in (b"MAIL FR", b"OM:<>\r\nRCPT TO:<c", b"@d.example>\r\n"):
            peer.say(piece)
        assert [peer.reply()[0][:3] for _ in range(2)] == ["250", "250"]
        assert server.connections[0].turns == turns + 1


def test_chunks_are_read_even_when_refused(server: SmtpServer) -> None:
    """BDAT reads its bytes even when it is refused; accepted chunks are joined (RFC 3030)."""
    with connected(server) as peer:
        assert peer.ask(b"BDAT 6 LAST\r\nQUIT").startswith("503")
        assert peer.ask(b"MAIL FROM:<>").startswith("250")
        assert peer.ask(b"RCPT TO:<c@d.example>").startswith("250")
        peer.say(b"BDAT 3\r\nabc")
        assert peer.reply()[0].startswith("250")
        peer.say(b"BDAT 3 LAST\r\ndef")
        assert peer.reply()[0].startswith("250")
    assert [(m.content, m.via) for m in server.messages] == [(b"abcdef", "BDAT")]


def test_lmtp_answers_once_per_recipient() -> None:
    """Each accepted recipient has its own reply and its own message (RFC 2033 4.2)."""
    known = {"c@d.example", "e@d.example"}
    with SmtpServer(protocol="LMTP", recipient_known=known.__contains__) as server:
        server.fault("CONTENT", reply="452 4.2.2 full", match="e@d.example")
        with connected(server) as peer:
            peer.ask(b"MAIL FROM:<>")
            for recipient in (b"c@d.example", b"nobody@d.example", b"e@d.example"):
                peer.ask(b"RCPT TO:<%s>" % recipient)
            assert peer.ask(b"DATA").startswith("354")
            peer.say(b"hello\r\n.\r\n")
            assert [peer.reply()[0][:3] for _ in range(2)] == ["250", "452"]
        assert [m.recipients for m in server.messages] == [("c@d.example",)]


@pytest.mark.parametrize("implicit", [True, False])
def test_tls(certificates: Certificates, implicit: bool) -> None:
    """The server supports implicit TLS and STARTTLS."""
    context, trusting = certificates.server_context(), certificates.client_context()
    with SmtpServer(tls_context=context, implicit_tls=implicit) as server:
        client: smtplib.SMTP
        if implicit:
            client = smtplib.SMTP_SSL("localhost", server.port, context=trusting)
        else:
            client = smtplib.SMTP("localhost", server.port)
            client.starttls(context=trusting)
        with client:
            client.sendmail("a@b.example", "c@d.example", MESSAGE)
        assert server.messages[0].tls
        assert server.url.startswith("smtps://" if implicit else "smtp+starttls://")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("at_once", [True, False])
def test_logins(mechanism: str, at_once: bool) -> None:
    """PLAIN and LOGIN work with and without initial response; a wrong password is 535."""
    with SmtpServer(users={"user": "right"}, require_auth=True) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            client.ehlo()
            with pytest.raises(smtplib.SMTPSenderRefused):
                client.sendmail("a@b.example", "c@d.example", MESSAGE)
            client.user, client.password = "user", "wrong"
            function = client.auth_plain if mechanism == "PLAIN" else client.auth_login
            with pytest.raises(smtplib.SMTPAuthenticationError):
                client.auth(mechanism, function, initial_response_ok=at_once)
            client.password = "right"
            client.auth(mechanism, function, initial_response_ok=at_once)
            client.sendmail("a@b.example", "c@d.example", MESSAGE)
        assert server.messages[0].user == "user"


@pytest.mark.parametrize(
    ("login", "user"),
    [
        (b"AUTH PLAIN AG1lAGFueXRoaW5n", "me"),
        (b"AUTH XOAUTH2 dXNlcj1tZQFhdXRoPUJlYXJlciB4AQE=", "me"),
        (b"AUTH OAUTHBEARER bixhPW1lLAFhdXRoPUJlYXJlciB4AQE=", "me"),
        (b"AUTH OAUTHBEARER biwsAWF1dGg9QmVhcmVyIHgBAQ==", ""),
    ],
)
def test_any_login_is_accepted(login: bytes, user: str) -> None:
    """Every secret is accepted, the user is recorded, and no login is required."""
    with SmtpServer(accept_any_login=True) as server, connected(server) as peer:
        assert peer.ask(b"MAIL FROM:<>").startswith("250")
        assert peer.ask(b"RSET").startswith("250")
        assert peer.ask(login).startswith("235")
        assert server.connections[0].user == user


@pytest.mark.parametrize("name", ["PLAIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"])
def test_any_login_has_to_be_one(name: str) -> None:
    """An answer that does not follow the mechanism is refused."""
    with SmtpServer(accept_any_login=True) as server, connected(server) as peer:
        assert peer.ask(f"AUTH {name}".encode()).startswith("334")
        assert peer.ask(b"bWU=").startswith("535")
        assert server.connections[0].user is None


def test_any_login_beside_users() -> None:
    """Users and accept_any_login contradict each other."""
    with pytest.raises(ValueError, match="exclude each other"):
        SmtpServer(accept_any_login=True, users={"me": "x"})


def test_a_server_without_ehlo() -> None:
    """A server without EHLO knows HELO."""
    with SmtpServer(ehlo=False) as server, smtplib.SMTP(server.host, server.port) as client:
        assert client.ehlo()[0] == 502
        assert client.helo()[0] == 250


def test_faults_replace_a_reply_and_its_effect(server: SmtpServer) -> None:
    """A recipient that a fault refuses is not part of the transaction; the next one is."""
    server.fault("RCPT", reply=["450 4.2.0 later", "ignored"][0], match="c@d")
    with connected(server) as peer:
        peer.ask(b"MAIL FROM:<>")
        assert peer.ask(b"RCPT TO:<c@d.example>") == "450 4.2.0 later"
        assert peer.ask(b"DATA").startswith("554")
        assert peer.ask(b"RCPT TO:<c@d.example>").startswith("250")
        assert peer.ask(b"DATA").startswith("354")


def test_faults_can_be_skipped_repeated_and_glued(server: SmtpServer) -> None:
    """``skip`` delays a fault, ``times`` repeats it, ``after`` adds bytes to the same write."""
    server.fault("NOOP", skip=1, times=2, after=b"421 4.3.2 bye\r\n", split=3)
    with connected(server) as peer:
        assert peer.ask(b"NOOP") == "250 2.0.0 Ok"
        for _ in range(2):
            assert peer.ask(b"NOOP") == "250 2.0.0 Ok"
            assert peer.reply() == ["421 4.3.2 bye"]
        peer.say(b"NOOP\r\nQUIT\r\n")
        assert [peer.reply()[0][:3] for _ in range(2)] == ["250", "221"]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_faults_hang_up(server: SmtpServer, how: str) -> None:
    """A fault closes or resets its connection; other connections stay."""
    if how == "close":
        server.fault("MAIL", close=True)
    else:
        server.fault("MAIL", reset=True)
    with connected(server) as other, connected(server) as peer:
        peer.say(b"MAIL FROM:<>\r\n")
        if how == "close":
            assert peer.reply() == []
        else:
            with pytest.raises(ConnectionResetError):
                peer.reply()
        assert other.ask(b"NOOP").startswith("250")


def test_a_hanging_connection_ends_with_the_server() -> None:
    """After ``hang`` there is no reply; stopping the server ends the connection."""
    with SmtpServer() as server:
        server.fault("NOOP", hang=True)
        with connected(server) as peer:
            peer.say(b"NOOP\r\n")
            server.wait_for(lambda: server.connections[0].commands[-1:] == ["NOOP"])
            peer.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                peer.sock.recv(1)
            server.stop()


def test_an_unknown_step_is_refused(server: SmtpServer) -> None:
    """A misspelt step is an error, because the fault would never apply."""
    with pytest.raises(ValueError, match="RCTP"):
        server.fault("RCTP", reply="550 no")


def test_killing_and_restarting(server: SmtpServer) -> None:
    """Open connections are reset; the port and the messages stay."""
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@b.example", "c@d.example", MESSAGE)
    port = server.port
    with connected(server) as peer:
        server.kill()
        with pytest.raises(ConnectionResetError):
            peer.reply()
    server.restart()
    assert server.port == port
    with connected(server):
        assert len(server.messages) == 1


def test_a_killed_server_says_nothing_under_tls() -> None:
    """There is no alert in front of the reset, as if the client had broken TLS."""
    with SmtpServer(tls="implicit") as server:
        for _ in range(5):
            with socket.create_connection((server.host, server.port), 10) as plain:
                sock = server.client_context.wrap_socket(plain, server_hostname=server.host)
                assert sock.recv(100).startswith(b"220 ")
                server.kill()
                with sock, pytest.raises(ConnectionResetError):
                    socket.socket.recv(sock, 100)  # beneath TLS


def test_close_idle(server: SmtpServer) -> None:
    """``close_idle`` sends its line and closes the connection."""
    with connected(server) as peer:
        server.close_idle()
        assert peer.reply() == ["421 4.3.2 Shutting down"]
        assert peer.reply() == []


def test_a_unix_socket(tmp_path: Path) -> None:
    """The server listens on its path, has it in its URL, and removes it at the end."""
    path = tmp_path / "lmtp"
    with SmtpServer(protocol="LMTP", unix_path=str(path)) as server:
        assert server.url == f"lmtp+unix://{path}"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert sock.recv(100).startswith(b"220 ")
    assert not path.exists()


def test_waiting_until_the_timeout(server: SmtpServer) -> None:
    """A missing message is a TimeoutError with the count."""
    with pytest.raises(TimeoutError, match="0 of 1 messages"):
        server.wait_for_messages(1, timeout=0.01)


def test_clear_forgets(server: SmtpServer) -> None:
    """Messages, ended connections and faults are removed."""
    with smtplib.SMTP(server.host, server.port) as client:
        client.sendmail("a@b.example", "c@d.example", MESSAGE)
    server.wait_for(lambda: server.connections[0].closed)
    server.fault("NOOP", reply="500 no")
    server.clear()
    assert (server.messages, server.connections) == ([], [])
    with connected(server) as peer:
        assert peer.ask(b"NOOP").startswith("250")


def test_a_broken_server_is_not_silent() -> None:
    """An error of the server in the thread of a connection is raised by stop()."""

    def broken(path: str) -> bool:
        raise ZeroDivisionError(path)

    server = SmtpServer(recipient_known=broken).start()
    with connected(server) as peer:
        peer.ask(b"MAIL FROM:<>")
        peer.say(b"RCPT TO:<c@d.example>\r\n")
        assert peer.reply() == []
    with pytest.raises(ZeroDivisionError):
        server.stop()


@pytest.mark.parametrize("settings", [{"host": "192.0.2.1"}, {"unix_path": "/no/such/socket"}])
def test_an_address_that_cannot_be_used(settings: dict[str, str]) -> None:
    """Starting fails and leaves no descriptor behind."""
    with pytest.raises(OSError, match=r"annot assign|No such file"):
        SmtpServer(**settings).start()  # type: ignore[arg-type]


def test_messages_may_go_to_a_function() -> None:
    """The function gets each message before it is acknowledged, and the server keeps none."""
    got: list[ReceivedMessage] = []
    with SmtpServer(on_message=got.append) as server:
        with smtplib.SMTP(server.host, server.port) as client:
            client.sendmail("a@b.example", "c@d.example", MESSAGE)
            assert [message.recipients for message in got] == [("c@d.example",)]
        assert server.messages == []


def test_with_a_function_it_may_run_for_long() -> None:
    """Messages and ended connections are not kept; connections are still counted."""
    got: list[ReceivedMessage] = []
    with SmtpServer(on_message=got.append) as server:
        for _ in range(5):
            with smtplib.SMTP(server.host, server.port) as client:
                client.sendmail("a@b.c", "c@d.example", MESSAGE)
        server.wait_for(lambda: server.connections == [])
    assert [message.connection for message in got] == [1, 2, 3, 4, 5]


def test_a_function_that_raises() -> None:
    """The client gets no reply, so the message is not acknowledged."""

    def full(message: ReceivedMessage) -> None:
        raise OSError("no space")

    server = SmtpServer(on_message=full).start()
    with (
        smtplib.SMTP(server.host, server.port) as client,
        pytest.raises(smtplib.SMTPServerDisconnected),
    ):
        client.sendmail("a@b.example", "c@d.example", MESSAGE)
    with pytest.raises(OSError, match="no space"):
        server.stop()


def test_the_context_of_a_client_is_not_trusted_by_default(certificates: Certificates) -> None:
    """A failed handshake is not an error of the server."""
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=True) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL("localhost", server.port, context=ssl.create_default_context())
        server.wait_for(lambda: server.connections[0].closed)


def test_a_refusal_instead_of_a_challenge_ends_the_login() -> None:
    """The next line is a command again, and not an answer to a challenge."""
    with SmtpServer(users={"user": "secret"}) as server, connected(server) as peer:
        server.fault("CHALLENGE", reply="454 4.7.0 later")
        assert peer.ask(b"AUTH LOGIN") == "454 4.7.0 later"
        assert peer.ask(b"NOOP") == "250 2.0.0 Ok"


# What makes tests of mail code short


@pytest.mark.parametrize(("tls", "scheme"), [("starttls", "smtp+starttls"), ("implicit", "smtps")])
def test_a_server_with_a_certificate_of_its_own(
    tls: Literal["starttls", "implicit"], scheme: str
) -> None:
    """A client that trusts its authority connects by name and by address."""
    with SmtpServer(tls=tls) as server:
        assert server.url == f"{scheme}://127.0.0.1:{server.port}"
        file = Path(server.ca_file)
        for host in ("127.0.0.1", "localhost"):
            config = ServerConfig.from_url(
                server.url.replace("127.0.0.1", host), tls_context=server.client_context
            )
            config.connect().quit()
        with pytest.raises(TlsError):
            ServerConfig.from_url(server.url).connect()
        server.restart()
        assert file.exists()
    assert not file.exists()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.ca_file


def test_wrong_tls_arguments() -> None:
    """An unknown kind of TLS, two contexts, and a missing certificate are errors."""
    with pytest.raises(ValueError, match="not 'STARTTLS'"):
        SmtpServer(tls="STARTTLS")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without a tls_context"):
        SmtpServer(tls="implicit", tls_context=ssl.create_default_context())
    with pytest.raises(RuntimeError, match="no certificate"):
        _ = SmtpServer().client_context
    with pytest.raises(RuntimeError, match="no certificate"):
        _ = SmtpServer().ca_file


def test_the_url_of_a_user() -> None:
    """The URL of a user has the credentials, percent-encoded."""
    with SmtpServer(users={"a@b": "p:/ä"}) as server:
        config = ServerConfig.from_url(server.url_for("a@b"))
        assert config.credentials == PasswordCredentials("a@b", "p:/ä")
        config.connect().quit()
        assert server.connections[0].user == "a@b"
        with pytest.raises(KeyError):
            server.url_for("nobody")


def test_a_message_as_its_reader_sees_it() -> None:
    """``email`` has the decoded header and text."""
    message = ReceivedMessage("", (), b"Subject: =?utf-8?q?Gr=C3=B6=C3=9Fe?=\r\n\r\nHello!\r\n")
    assert message.email["Subject"] == "Größe"
    assert message.email.get_content() == "Hello!\r\n"


def test_a_refused_recipient_is_that_one_alone() -> None:
    """It is refused always or some times; an address with the same end is accepted."""
    with SmtpServer() as server, ServerConfig.from_url(server.url).connect() as client:
        server.refuse_recipient("me@example.com", "452 4.2.2 Full", times=1)
        result = client.send("", ["me@example.com", "not.me@example.com"], MESSAGE)
        assert [r.response.code for r in result.rejected_recipients] == [452]
        assert len(result.accepted_recipients) == 1
        assert len(client.send("", ["me@example.com"], MESSAGE).accepted_recipients) == 1


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\t", "\x1b", "\x7f"])
@pytest.mark.parametrize(
    "command", ["MAIL FROM:<a{}b@c.example>", "VRFY a{}b", "NOOP {}", "{}NOOP"]
)
def test_control_characters_are_refused(server: SmtpServer, command: str, character: str) -> None:
    """A control character in a command is refused, as by strict servers."""
    with connected(server) as peer:
        assert peer.ask(command.format(character).encode()).startswith("500 ")
        assert peer.ask(b"RCPT TO:<d@e.example>").startswith("503 ")
        assert peer.ask(b"NOOP").startswith("250 ")


def test_control_characters_in_content_are_kept(server: SmtpServer) -> None:
    """Control characters in the content are recorded unchanged."""
    with connected(server) as peer:
        for line in (b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>"):
            assert peer.ask(line).startswith("250 ")
        assert peer.ask(b"DATA").startswith("354 ")
        assert peer.ask(b"one\rtwo\nthree\0\r\n.").startswith("250 ")
    assert [message.content for message in server.messages] == [b"one\rtwo\nthree\0\r\n"]
