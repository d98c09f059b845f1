"""`smtpconn.smtplib` without pooling: what ``smtplib`` does, and what is done more safely."""

from __future__ import annotations

import inspect
import io
import pickle
import smtplib as original
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from email.message import EmailMessage, Message
from pathlib import Path

import pytest

from smtpconn import (
    ConnectionClosedError,
    ProtocolError,
    SmtpError,
    TlsError,
    ValidationError,
    smtplib,
)
from smtpconn.testing import SmtpServer

ME, YOU, SHE = "me@example.com", "you@example.net", "she@example.net"
TEXT = "Subject: hello\n\nHello!\n"
Factory = Callable[..., SmtpServer]


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that can do everything in clear."""
    with SmtpServer(users={"user": "pass word"}) as running:
        yield running


@pytest.fixture
def smtp(server: SmtpServer) -> Iterator[smtplib.SMTP]:
    """An object that is connected."""
    with smtplib.SMTP(server.host, server.port, "client.example", timeout=5) as connected:
        yield connected


# What it is


@pytest.mark.parametrize("name", [*sorted(original.__all__), "LMTP", "SMTP_PORT", "LMTP_PORT"])
def test_everything_of_the_original_is_there(name: str) -> None:
    """Every public name exists; exceptions, functions and constants are the same objects."""
    mine, theirs = getattr(smtplib, name), getattr(original, name)
    if name in ("SMTP", "SMTP_SSL", "LMTP"):
        assert issubclass(mine, theirs)
    else:
        assert mine is theirs


@pytest.mark.parametrize("name", ["SMTP", "SMTP_SSL", "LMTP"])
def test_every_method_has_the_signature_of_the_original(name: str) -> None:
    """The same parameters, in the same order and with the same defaults; but one more, by name."""
    mine, theirs = getattr(smtplib, name), getattr(original, name)
    for method, function in inspect.getmembers(theirs, inspect.isfunction):
        if method.startswith("_") and method != "__init__":
            continue
        ours = inspect.signature(getattr(mine, method)).parameters
        expected = inspect.signature(function).parameters
        names = [each for each in ours if each != "pool"]
        assert names == list(expected), method
        for each in names:
            assert ours[each].kind == expected[each].kind, (method, each)
            assert ours[each].default == expected[each].default, (method, each)


def test_a_block_may_be_left_by_hand(server: SmtpServer) -> None:
    """Programs call __exit__ with any number of arguments, which the original takes as well."""
    for arguments in ((), (None,), (None, None, None)):
        smtplib.SMTP(server.host, server.port).__exit__(*arguments)
    assert [c.commands for c in server.connections] == [["quit"]] * 3


def test_private_names_are_there_too() -> None:
    """Programs use some of them."""
    assert smtplib._MAXLINE == original._MAXLINE  # type: ignore[attr-defined]
    assert smtplib.socket is socket  # type: ignore[attr-defined]


# Sending


def test_sendmail(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Text and bytes arrive, and the refused recipients are told by the names they were given."""
    server.refuse_recipient("she@example.net")
    refused = smtp.sendmail(ME, [YOU, f"She <{SHE}>"], TEXT)
    assert {k: code for k, (code, _) in refused.items()} == {f"She <{SHE}>": 550}
    assert smtp.sendmail(f"Me <{ME}>", YOU, TEXT.encode()) == {}
    first, second = server.messages
    assert first.content == second.content == b"Subject: hello\r\n\r\nHello!\r\n"
    assert (first.sender, first.recipients) == (second.sender, second.recipients) == (ME, (YOU,))


def test_no_bare_line_end_leaves(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Bytes with bare CR and LF, which smtplib sends as they are, become lines."""
    smtp.sendmail(ME, YOU, b"Subject: x\n\n.\r\rMAIL FROM:<evil@example.org>\n.\n")
    (message,) = server.messages
    expected = b"Subject: x\r\n\r\n.\r\n\r\nMAIL FROM:<evil@example.org>\r\n.\r\n"
    assert message.content == expected


def test_send_message(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """The headers name sender and recipients; Bcc does not leave."""
    message = EmailMessage()
    message["From"], message["To"] = f"Me <{ME}>", YOU
    message["Bcc"], message["Subject"] = SHE, "Grüße"
    message.set_content("Grüße")
    assert smtp.send_message(message) == {}
    (arrived,) = server.messages
    assert set(arrived.recipients) == {YOU, SHE}
    assert arrived.email["Subject"] == "Grüße"
    assert "Bcc" not in arrived.email
    assert message["Bcc"] == SHE


@pytest.mark.parametrize("kind", [EmailMessage, Message])
@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("undisclosed-recipients:;", set()),
        ("Undisclosed recipients: ;", set()),
        (f"None: ;, {YOU}", {YOU}),
        (f"Team: {ME}, You <{YOU}>;", {ME, YOU}),
        (f", {YOU},", {YOU}),
    ],
)
def test_groups_of_recipients(
    server: SmtpServer, smtp: smtplib.SMTP, kind: type[Message], field: str, named: set[str]
) -> None:
    """Most mailing programs that use Bcc write an empty group into To; it names nobody."""
    message = kind()
    message["From"], message["To"], message["Bcc"] = ME, field, SHE
    message.set_payload("Hello!")
    assert smtp.send_message(message) == {}
    assert set(server.messages[0].recipients) == named | {SHE}


def test_an_unreadable_recipient_is_not_skipped(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Nobody gets a message that somebody would not get."""
    message = Message()
    message["From"], message["To"], message["Cc"] = ME, "undisclosed-recipients:;", f"{YOU}; {SHE}"
    with pytest.raises(ValidationError, match="Cc cannot be read"):
        smtp.send_message(message)
    assert not server.messages


def test_a_message_for_a_server_without_8bitmime() -> None:
    """Eight bits are encoded, where smtplib sends them to a server that does not know of them."""
    message = EmailMessage()
    message["From"], message["To"] = ME, YOU
    message.set_content("Grüße")
    with SmtpServer(extensions=()) as server:
        with smtplib.SMTP(server.host, server.port) as smtp:
            smtp.send_message(message)
        (arrived,) = server.messages
    assert arrived.content.isascii()
    assert arrived.email.get_content().strip() == "Grüße"


def test_fields_that_are_no_good_go_as_smtplib_sends_them(
    server: SmtpServer, smtp: smtplib.SMTP
) -> None:
    """A message with a To field without an address is sent."""
    message = EmailMessage()
    message["From"], message["To"] = ME, "Everybody"
    message.set_content("Hello!")
    assert smtp.send_message(message, to_addrs=[YOU]) == {}
    assert server.messages[0].email["To"] == "Everybody"


def test_options_travel(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Those that smtpconn knows, those that it does not, and two in one text."""
    smtp.sendmail(
        ME, YOU, TEXT, ["BODY=8BITMIME", "RET=HDRS ENVID=x", "size=1"], ["NOTIFY=FAILURE,DELAY"]
    )
    (message,) = server.messages
    assert set(message.mail_parameters) == {"BODY=8BITMIME", "RET=HDRS", "ENVID=x", "SIZE=26"}
    assert message.recipient_parameters == (("NOTIFY=FAILURE,DELAY",),)


@pytest.mark.parametrize(
    "option", ["RET=HDRS\r\nRCPT TO:<x@y.example>", "RET=A\nB", "A=\x00", "=x", "A>B", "A=\x7f"]
)
def test_an_option_is_an_option(server: SmtpServer, smtp: smtplib.SMTP, option: str) -> None:
    """Nothing else can be smuggled in by it."""
    for send in (
        lambda: smtp.sendmail(ME, YOU, TEXT, [option]),
        lambda: smtp.sendmail(ME, YOU, TEXT, (), [option]),
        lambda: smtp.mail(ME, [option]),
    ):
        smtp.ehlo_or_helo_if_needed()
        with pytest.raises(ValueError):  # noqa: PT011  # what smtplib raises
            send()
    assert not any("MAIL" in line.upper() for line in server.connections[0].commands)


@pytest.mark.parametrize(
    "address",
    [
        "a@b.example> SIZE=1",
        "a@b.example\r\nRSET",
        "a\nb",
        "<a@b.example> ORCPT=x",
        "a b",
        "a\x00@b.example",
        "a>b",
        "\ud800",
    ],
)
def test_an_address_is_an_address(server: SmtpServer, smtp: smtplib.SMTP, address: str) -> None:
    """What could end its place in the command is refused before anything is sent; or quoted."""
    try:
        smtp.sendmail(address, YOU, TEXT)
        smtp.sendmail(ME, [address], TEXT)
    except ValueError:
        pass
    for line in server.connections[0].commands:
        assert "RSET" not in line
        if line.upper().startswith(("MAIL", "RCPT")):
            assert line.count(">") == 1
            assert "ORCPT" not in line


def test_white_space_around_an_address_is_dropped(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Lines of a file end with a line break, which smtplib drops."""
    assert smtp.sendmail(f" {ME}\n", [f"{YOU}\r\n", f"She <{SHE}>\n"], TEXT) == {}
    assert server.messages[0].recipients == (YOU, SHE)


@pytest.mark.parametrize("message", [b"a\r\n\0.\r\nMAIL FROM:<x@y>\r\n", "a\n\0.\nRSET\n"])
def test_no_nul_reaches_a_server(
    server: SmtpServer, smtp: smtplib.SMTP, message: bytes | str
) -> None:
    """There are servers that drop NULs, and then the dot behind one may end the message."""
    with pytest.raises(ValidationError, match="NUL"):
        smtp.sendmail(ME, YOU, message)
    letter = EmailMessage()
    letter["From"], letter["To"] = ME, YOU
    letter.set_content("hello\n\0.\nRSET\n")
    with pytest.raises(ValidationError, match="NUL"):
        smtp.send_message(letter)
    smtp.mail(ME)
    smtp.rcpt(YOU)
    with pytest.raises(ValidationError, match="NUL"):
        smtp.data(message)
    assert "DATA" not in server.connections[0].commands
    assert smtp.data(TEXT)[0] == 250


@pytest.mark.parametrize("address", ["John", "john.", "x@under_score.example"])
def test_what_is_no_address_is_the_servers_to_judge(
    server: SmtpServer, smtp: smtplib.SMTP, address: str
) -> None:
    """It is sent as it is, as smtplib does."""
    smtp.ehlo()
    smtp.mail(ME)
    smtp.rcpt(address)
    assert f"rcpt to:<{address}>" in server.connections[0].commands


def test_command_by_command(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """mail, rcpt and data, whose replies are returned as they are."""
    assert smtp.ehlo()[0] == 250
    assert smtp.has_extn("Size")
    assert smtp.mail(ME, ["BODY=8BITMIME"])[0] == 250
    assert smtp.rcpt(YOU)[0] == 250
    assert smtp.data(b".x\n.y") == (250, b"2.0.0 Ok: queued")
    assert server.messages[0].content == b".x\r\n.y\r\n"
    with pytest.raises(original.SMTPDataError):
        smtp.data(b"x")
    assert smtp.rset()[0] == smtp.noop()[0] == 250
    assert smtp.vrfy(f"You <{YOU}>")[0] == 252
    assert "VRFY you@example.net" in [c.replace("vrfy", "VRFY") for c in commands(server)]
    assert isinstance(smtp.help(), bytes)
    assert smtp.expn("list")[0] in (250, 252, 502)


def test_raw_commands(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """putcmd and getreply may be apart, several may be in progress, and bytes may be sent."""
    smtp.putcmd("ehlo", "client.example")
    assert smtp.getreply()[0] == 250
    smtp.putcmd("noop")
    smtp.putcmd("vrfy", "x")
    assert [smtp.getreply()[0], smtp.getreply()[0]] == [250, 252]
    assert smtp.docmd("noop")[0] == 250
    smtp.send("noop\r\n")
    assert smtp.getreply()[0] == 250
    smtp.putcmd("noop")
    assert smtp.noop()[0] == 250
    assert smtp.getreply()[0] == 250


def commands(server: SmtpServer) -> list[str]:
    """What the first connection was told."""
    return server.connections[0].commands


# Refusals


def test_a_refused_sender(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """The error has the class, attributes and args of smtplib, and says more; RSET follows."""
    server.fault("MAIL", reply="552 5.2.2 no room", times=1)
    with pytest.raises(original.SMTPSenderRefused) as raised:
        smtp.sendmail(f"Me <{ME}>", YOU, TEXT)
    error = raised.value
    assert error.args == (552, b"5.2.2 no room", f"Me <{ME}>")
    assert isinstance(error, SmtpError)
    assert not error.may_have_been_delivered
    assert smtp.sendmail(ME, YOU, TEXT) == {}
    assert "rset" in commands(server)


def test_refused_recipients(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """All of them: a dict by the names they were given."""
    server.fault("RCPT", reply="450 4.2.0 later", times=2)
    with pytest.raises(original.SMTPRecipientsRefused) as raised:
        smtp.sendmail(ME, [YOU, f"<{SHE}>"], TEXT)
    expected = {YOU: (450, b"4.2.0 later"), f"<{SHE}>": (450, b"4.2.0 later")}
    assert raised.value.recipients == expected
    assert raised.value.args == (expected,)


@pytest.mark.parametrize("step", ["DATA", "CONTENT"])
def test_refused_data(server: SmtpServer, smtp: smtplib.SMTP, step: str) -> None:
    """Before the content or behind it."""
    server.fault(step, reply="554 5.6.0 spam", times=1)
    with pytest.raises(original.SMTPDataError) as raised:
        smtp.sendmail(ME, YOU, TEXT)
    assert raised.value.args == (554, b"5.6.0 spam")


def test_a_refused_greeting(smtp_server_factory: Factory) -> None:
    """Where the constructor is called."""
    server = smtp_server_factory()
    server.fault("CONNECT", reply="554 5.3.2 go away")
    with pytest.raises(original.SMTPConnectError) as raised:
        smtplib.SMTP(server.host, server.port)
    assert raised.value.args == (554, b"5.3.2 go away")


def test_a_refused_login(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Where login is called."""
    with pytest.raises(original.SMTPAuthenticationError) as raised:
        smtp.login("user", "wrong")
    assert raised.value.smtp_code == 535
    assert smtp.login("user", "pass word") == (235, b"2.7.0 Authentication successful")
    assert smtp.login("user", "pass word")[0] == 503


def test_no_listener() -> None:
    """The operating system's error, as smtplib has it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError) as raised:
        smtplib.SMTP("127.0.0.1", port)
    assert raised.value.errno == raised.value.args[0]
    with pytest.raises(socket.gaierror):
        smtplib.SMTP("no-such-host.invalid", 25)


def test_the_server_hangs_up(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """The connection is lost with the final reply: the outcome is unknown."""
    server.fault("CONTENT", close=True)
    with pytest.raises(original.SMTPServerDisconnected) as raised:
        smtp.sendmail(ME, YOU, TEXT)
    assert isinstance(raised.value, SmtpError)
    assert raised.value.may_have_been_delivered
    assert smtp.sock is None
    with pytest.raises(original.SMTPServerDisconnected):
        smtp.noop()


def test_a_server_that_is_silent(server: SmtpServer) -> None:
    """The timeout is for an operation, and a lost connection to programs that know smtplib."""
    server.fault("NOOP", hang=True)
    smtp = smtplib.SMTP(server.host, server.port, timeout=0.2)
    with pytest.raises(original.SMTPServerDisconnected) as raised:
        smtp.noop()
    assert isinstance(raised.value, TimeoutError)
    smtp.close()


def test_an_error_travels(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Pickled, it comes out as smtpconn's own error."""
    server.fault("MAIL", reply="452 4.3.1 full", times=1)
    with pytest.raises(SmtpError) as raised:
        smtp.sendmail(ME, YOU, TEXT)
    error = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(error, original.SMTPSenderRefused)
    assert isinstance(error, SmtpError)
    assert (error.smtp_code, error.sender) == (452, ME)
    assert error.is_transient


# TLS and logging in


def test_starttls_verifies(monkeypatch: pytest.MonkeyPatch, smtp_server_factory: Factory) -> None:
    """Without a context the certificate is verified, unless that was switched off."""
    server = smtp_server_factory(tls="starttls")
    with smtplib.SMTP(server.host, server.port) as smtp, pytest.raises(ssl.SSLError) as raised:
        smtp.starttls()
    assert isinstance(raised.value, TlsError)
    monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
    with smtplib.SMTP(server.host, server.port) as smtp:
        assert smtp.starttls()[0] == 220
        assert smtp.esmtp_features == {}
        smtp.sendmail(ME, YOU, TEXT)
    monkeypatch.delenv("SSL_CERT_FILE")
    smtplib.configure(verify=False)
    try:
        with smtplib.SMTP(server.host, server.port) as smtp:
            smtp.starttls()
            smtp.sendmail(ME, YOU, TEXT)
    finally:
        smtplib.configure()
    assert [m.tls for m in server.messages] == [True, True]


def test_tls_from_the_first_byte(smtp_server_factory: Factory) -> None:
    """SMTP_SSL, with the caller's own context or verified."""
    server = smtp_server_factory(tls="implicit", users={"user": "secret"})
    context = server.client_context
    with smtplib.SMTP_SSL(server.host, server.port, context=context) as smtp:
        assert isinstance(smtp, original.SMTP_SSL)
        smtp.login("user", "secret")
        smtp.sendmail(ME, YOU, TEXT)
        assert isinstance(smtp.sock, ssl.SSLSocket)
        assert smtp.sock.version()
        assert smtp.noop()[0] == 250
    with pytest.raises(ssl.SSLCertVerificationError):
        smtplib.SMTP_SSL(server.host, server.port)
    assert server.messages[0].user == "user"


def test_starttls_is_not_offered(smtp: smtplib.SMTP) -> None:
    """As smtplib: an error, and the connection goes on."""
    with pytest.raises(original.SMTPNotSupportedError):
        smtp.starttls()
    assert smtp.noop()[0] == 250


def test_a_password_does_not_travel_in_clear(
    monkeypatch: pytest.MonkeyPatch, server: SmtpServer
) -> None:
    """To another machine it is refused, unless that was allowed."""
    monkeypatch.setattr("smtpconn.net.transport.Transport.peer_is_local", False)
    with smtplib.SMTP(server.host, server.port) as smtp, pytest.raises(SmtpError) as raised:
        smtp.login("user", "pass word")
    assert "pass word" not in str(raised.value)
    smtplib.configure(allow_cleartext_auth=True)
    try:
        with smtplib.SMTP(server.host, server.port) as smtp:
            assert smtp.login("user", "pass word")[0] == 235
    finally:
        smtplib.configure()


@pytest.mark.parametrize("is_pooled", [False, True])
@pytest.mark.parametrize(
    "log_in",
    [
        lambda smtp: smtp.login("user", "pass word", initial_response_ok=False),
        lambda smtp: smtp.auth("plain", lambda challenge=None: "\0user\0pass word"),
        lambda smtp: smtp.auth("XOAUTH2", lambda challenge=None: "user=user\1auth=Bearer x\1\1"),
    ],
    ids=["login", "PLAIN", "XOAUTH2"],
)
def test_nor_does_it_by_the_callers_own_function(
    monkeypatch: pytest.MonkeyPatch,
    server: SmtpServer,
    log_in: Callable[[smtplib.SMTP], object],
    is_pooled: bool,
) -> None:
    """The rule is about the mechanism, whoever computes the answers."""
    monkeypatch.setattr("smtpconn.net.transport.Transport.peer_is_local", False)
    with (
        smtplib.Pools(keepalive=None) as pools,
        smtplib.SMTP(server.host, server.port, pool=pools if is_pooled else False) as smtp,
    ):
        smtp.ehlo()
        with pytest.raises(ProtocolError, match="show the secret"):
            log_in(smtp)
        assert smtp.noop()[0] == 250
    assert not any("AUTH" in line.upper() for line in commands(server))


@pytest.mark.parametrize("is_pooled", [False, True])
def test_a_program_chooses_the_mechanism(server: SmtpServer, is_pooled: bool) -> None:
    """By changing what the server offered, for a server whose better one does not work."""
    with (
        smtplib.Pools(keepalive=None) as pools,
        smtplib.SMTP(server.host, server.port, pool=pools if is_pooled else False) as smtp,
    ):
        smtp.ehlo()
        assert smtp.esmtp_features["auth"].split() == ["PLAIN", "LOGIN"]
        smtp.esmtp_features["auth"] = "LOGIN"
        assert smtp.login("user", "pass word")[0] == 235
    assert [line for line in commands(server) if line.startswith("AUTH")] == ["AUTH LOGIN dXNlcg=="]


def test_a_second_login(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """As the same user nothing is sent; as another one it would seem to succeed, and is refused."""
    smtp.login("user", "pass word")
    assert smtp.login("user", "pass word")[0] == 503
    with pytest.raises(ProtocolError, match="already logged in"):
        smtp.login("other", "hidden")
    assert sum(line.startswith("AUTH") for line in commands(server)) == 1


def test_a_function_answers_challenges(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """With and without an initial response; its own error comes out as it is."""
    smtp.user, smtp.password = "user", "pass word"
    smtp.ehlo()

    def breaks(challenge: bytes | None = None) -> str:
        raise LookupError("no token")

    with pytest.raises(LookupError):
        smtp.auth("PLAIN", breaks)
    assert smtp.auth("LOGIN", smtp.auth_login, initial_response_ok=False)[0] == 235


def test_a_subclass_with_its_own_way_to_log_in(server: SmtpServer) -> None:
    """login uses the methods of a subclass."""

    class Shouting(smtplib.SMTP):
        def auth_plain(self, challenge: object = None) -> str:
            return super().auth_plain().replace("PASS", "pass")

    with Shouting(server.host, server.port) as smtp:
        assert smtp.login("user", "PASS word")[0] == 235


def test_debugging_shows_no_secret(server: SmtpServer) -> None:
    """Commands and replies are on standard error, but for what holds a password."""
    smtp = smtplib.SMTP()
    smtp.set_debuglevel(2)
    with redirect_stderr(io.StringIO()) as shown:
        smtp.connect(server.host, server.port)
        smtp.login("user", "pass word")
        smtp.docmd("AUTH", "PLAIN AHVzZXIAcGFzcyB3b3Jk")
        smtp.sendmail(ME, YOU, TEXT)
        smtp.quit()
    text = shown.getvalue()
    assert "send: 'AUTH PLAIN <secret>" in text
    assert f"MAIL FROM:<{ME}>" in text
    assert "retcode (250)" in text
    assert "AHVzZXIAcGFzcyB3b3Jk" not in text


def test_debugging_shows_no_secret_of_raw_commands(server: SmtpServer) -> None:
    """However AUTH is written, and when answers leave before the challenges were read."""
    with (
        redirect_stderr(io.StringIO()) as shown,
        smtplib.SMTP(server.host, server.port) as smtp,
    ):
        smtp.set_debuglevel(1)
        smtp.docmd(" AUTH  PLAIN", "c2VjcmV0")
        smtp.ehlo()
        for line in ("AUTH LOGIN", "dXNlcg==", "c2VjcmV0"):
            smtp.putcmd(line)
        assert [smtp.getreply()[0] for _ in range(3)] == [334, 334, 535]
        smtp.noop()
    assert "c2VjcmV0" not in shown.getvalue()
    assert "dXNlcg==" not in shown.getvalue()
    assert "send: 'noop" in shown.getvalue()


def test_debugging_by_the_attribute(server: SmtpServer) -> None:
    """Programs also set debuglevel itself, or have the lines written elsewhere."""
    shown: list[object] = []

    class Logged(smtplib.SMTP):
        def _print_debug(self, *args: object) -> None:
            shown.extend(args)

    with Logged(server.host, server.port) as smtp:
        assert shown == []
        smtp.debuglevel = 1
        smtp.noop()
        smtp.debuglevel = 0
        smtp.noop()
    assert shown[:2] == ["send:", "'noop\\r\\n'"]
    assert shown[2] == "reply:"
    assert len(shown) == 4


# Sockets and life


def test_a_subclass_that_connects_in_its_own_way(server: SmtpServer) -> None:
    """By IPv4 alone, say, or through a proxy."""
    made = []

    class Ipv4(smtplib.SMTP):
        def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
            made.append((host, port, timeout))
            return socket.create_connection((host, port), timeout, self.source_address)

    with Ipv4(server.host, server.port, timeout=5) as smtp:
        assert smtp.sendmail(ME, YOU, TEXT) == {}
    assert made == [(server.host, server.port, 5)]


def test_starttls_by_hand(smtp_server_factory: Factory) -> None:
    """Old programs replace the socket."""
    server = smtp_server_factory(tls="starttls")
    with smtplib.SMTP(server.host, server.port, timeout=5) as smtp:
        smtp.ehlo()
        assert smtp.docmd("STARTTLS")[0] == 220
        assert smtp.sock is not None
        smtp.sock = server.client_context.wrap_socket(smtp.sock, server_hostname=server.host)
        smtp.file = None
        smtp.ehlo()
        smtp.sendmail(ME, YOU, TEXT)
    assert server.messages[0].tls


def test_the_source_address(server: SmtpServer) -> None:
    """It is bound."""
    with smtplib.SMTP(server.host, server.port, source_address=("127.0.0.1", 0)) as smtp:
        assert smtp.sock is not None
        assert smtp.sock.getsockname()[0] == "127.0.0.1"


def test_not_connected() -> None:
    """Every command says so."""
    smtp = smtplib.SMTP()
    assert smtp.sock is None
    for call in (smtp.noop, smtp.quit, smtp.ehlo, lambda: smtp.login("a", "b"), smtp.getreply):
        with pytest.raises(original.SMTPServerDisconnected):
            call()


@pytest.mark.parametrize("port", [None, "", 0])
def test_no_port_is_the_usual_one(
    server: SmtpServer, port: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with smtplib, for programs that pass a setting which is not set."""
    monkeypatch.setattr(smtplib.SMTP, "default_port", server.port)
    with smtplib.SMTP(server.host, port) as smtp:  # type: ignore[arg-type]
        assert smtp.noop()[0] == 250


@pytest.mark.parametrize(("user", "password"), [(None, None), ("user", None), (b"user", "pass")])
@pytest.mark.parametrize("is_pooled", [False, True])
def test_a_login_that_is_no_text(
    server: SmtpServer, user: object, password: object, *, is_pooled: bool
) -> None:
    """A setting that is missing is named."""
    pools = smtplib.Pools()
    smtp = smtplib.SMTP(server.host, server.port, pool=pools if is_pooled else False)
    with smtp, pytest.raises(ValidationError, match=r"(user|password) is a str, not"):
        smtp.login(user, password)  # type: ignore[arg-type]
    pools.close()


def test_a_socket_that_the_program_has_closed(server: SmtpServer) -> None:
    """It ends the session, and the block without an error."""
    with smtplib.SMTP(server.host, server.port) as smtp:
        assert smtp.sock is not None
        smtp.sock.close()
    smtp.connect(server.host, server.port)
    smtp.sock.close()
    with pytest.raises(original.SMTPServerDisconnected):
        smtp.noop()


def test_it_connects_again(server: SmtpServer) -> None:
    """An object may be used for one connection after the other."""
    smtp = smtplib.SMTP()
    for _ in range(2):
        assert smtp.connect(server.host, server.port)[0] == 220
        smtp.sendmail(ME, YOU, TEXT)
        assert smtp.quit()[0] == 221
        assert not smtp.has_extn("size")
    assert smtp.connect(f"{server.host}:{server.port}")[0] == 220
    smtp.close()
    assert len(server.connections) == 3


def test_leaving_with_an_error_keeps_it(server: SmtpServer) -> None:
    """A QUIT that is refused does not hide what went wrong in the block."""
    server.fault("QUIT", reply="421 no")
    with pytest.raises(LookupError), smtplib.SMTP(server.host, server.port):
        raise LookupError
    server.fault("QUIT", reply="421 no")
    with pytest.raises(original.SMTPResponseException), smtplib.SMTP(server.host, server.port):
        pass


def test_a_large_message_to_a_server_that_answers_while_it_reads(server: SmtpServer) -> None:
    """Neither end waits for the other for ever."""
    body = b"x" * 70 + b"\r\n"
    with smtplib.SMTP(server.host, server.port, timeout=10) as smtp:
        assert smtp.sendmail(ME, YOU, b"Subject: x\r\n\r\n" + body * 20000) == {}
    assert len(server.messages[0].content) > 1_400_000


def test_a_timeout_of_zero() -> None:
    """Refused as smtplib does."""
    with pytest.raises(ValueError, match="timeout=0"):
        smtplib.SMTP("127.0.0.1", 25, timeout=0)


def test_two_threads_of_one_object(server: SmtpServer, smtp: smtplib.SMTP) -> None:
    """Operations stand in line, and each gets its own reply."""
    smtp.ehlo()
    codes: list[int] = []

    def ask() -> None:
        codes.extend(smtp.noop()[0] for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [250] * 80


# LMTP


def test_lmtp_reads_every_final_reply(tmp_path: Path) -> None:
    """One per recipient: who was refused behind the content is in the result."""
    with SmtpServer(protocol="LMTP", unix_path=str(tmp_path / "lmtp")) as server:
        server.fault("CONTENT", reply="452 4.2.2 full", times=1)
        with smtplib.LMTP(str(tmp_path / "lmtp")) as lmtp:
            assert lmtp.sendmail(ME, [YOU, SHE], TEXT) == {YOU: (452, b"4.2.2 full")}
            assert lmtp.noop()[0] == 250
            server.fault("CONTENT", reply="552 5.2.2 full", times=2)
            with pytest.raises(original.SMTPDataError):
                lmtp.sendmail(ME, [YOU, SHE], TEXT)
            assert lmtp.ehlo()[0] == 250
            lmtp.mail(ME)
            lmtp.rcpt(YOU)
            lmtp.rcpt(SHE)
            assert lmtp.data(TEXT)[0] == 250
            lmtp.mail(ME)
            with pytest.raises(ProtocolError):
                lmtp.data(TEXT)


def test_lmtp_lost_in_the_middle(tmp_path: Path) -> None:
    """After some of the answers: unknown, and said so."""
    with SmtpServer(protocol="LMTP", unix_path=str(tmp_path / "lmtp")) as server:
        server.fault("CONTENT", close=True, skip=1)
        with smtplib.LMTP(str(tmp_path / "lmtp")) as lmtp:
            with pytest.raises(ConnectionClosedError) as raised:
                lmtp.sendmail(ME, [YOU, SHE], TEXT)
            assert raised.value.may_have_been_delivered


def test_a_ehlo_name_is_no_command(server: SmtpServer) -> None:
    """Nor is anything else that is put into one."""
    with smtplib.SMTP(server.host, server.port) as smtp:
        for call in (
            lambda: smtp.ehlo("a\r\nMAIL FROM:<x>"),
            lambda: smtp.helo("a\nb"),
            lambda: smtp.docmd("noop\r\nrset"),
            lambda: smtp.putcmd("noop", "x\nrset"),
            lambda: smtp.vrfy("a\r\nrset"),
            lambda: smtp.help("a\nrset"),
            lambda: smtp.auth("PLAIN\r\nRSET", lambda: "x"),
        ):
            with pytest.raises(ValueError, match="newline"):
                call()
        with pytest.raises(ValidationError):
            smtp.docmd("noop\x00")
        smtp.ehlo()
    assert commands(server) == ["ehlo " + smtp.local_hostname, "quit"]
