"""Code written for the Rust crate daaki-smtp reads the same here.

Its README's examples are ported line by line, and each of its methods is called by its name.
"""

from __future__ import annotations

from smtpconn import (
    DsnNotify,
    ForwardPath,
    MailFromParams,
    RcptToParams,
    ReversePath,
    SmtpConnection,
    TlsMode,
)
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates

USERS = {"user@example.com": "password"}
MESSAGE = (
    b"From: user@example.com\r\n"
    b"To: recipient@example.com\r\n"
    b"Subject: Hello\r\n"
    b"\r\n"
    b"Hello, world!\r\n"
)
SENDER, RECIPIENTS = ReversePath("user@example.com"), [ForwardPath("recipient@example.com")]


def test_the_quick_start_of_its_readme(certificates: Certificates) -> None:
    """Connect, authenticate, send a message, quit."""
    timeout = 30.0
    with SmtpServer(
        users=USERS, tls_context=certificates.server_context(), implicit_tls=True
    ) as server:
        connection = SmtpConnection.connect_with_tls_config(
            "localhost", server.port, TlsMode.IMPLICIT, timeout, certificates.client_context()
        )
        connection.auth_plain("user@example.com", "password", timeout)
        connection.send(SENDER, RECIPIENTS, MESSAGE, timeout)
        connection.quit(timeout)
        (message,) = server.messages
    assert message.content == MESSAGE
    assert message.user == "user@example.com"


def test_the_lmtp_example_of_its_readme() -> None:
    """Deliver over LMTP and look at each recipient's result."""
    timeout = 30.0
    with SmtpServer(protocol="LMTP") as server:
        connection = SmtpConnection.connect_lmtp(server.host, server.port, TlsMode.NONE, timeout)
        result = connection.send_lmtp(SENDER, RECIPIENTS, MESSAGE, None, timeout)
        for each in result.results:
            assert each.delivered
            assert each.recipient == RECIPIENTS[0]
        connection.quit(timeout)


def test_each_smtp_method_by_its_name() -> None:
    """Every way of sending, asking and leaving takes the same arguments in the same order."""
    timeout = 10.0
    mail, rcpt = MailFromParams(envid="id"), [RcptToParams(notify=DsnNotify.NEVER)]
    with SmtpServer() as server:
        c = SmtpConnection.connect(server.host, server.port, TlsMode.NONE, timeout)
        results = [
            c.send(SENDER, RECIPIENTS, MESSAGE, timeout),
            c.send_with_params(SENDER, RECIPIENTS, MESSAGE, mail, timeout),
            c.send_with_all_params(SENDER, RECIPIENTS, MESSAGE, mail, rcpt, timeout),
            c.send_bdat(SENDER, RECIPIENTS, MESSAGE, mail, timeout),
            c.send_bdat_with_all_params(SENDER, RECIPIENTS, MESSAGE, mail, rcpt, timeout),
        ]
        c.reset(timeout)
        c.noop(timeout)
        c.set_ehlo_domain("client.example.com")
        c.rehlo(timeout)
        assert c.vrfy("someone", timeout).code == 252
        assert c.expn("list", timeout).code == 250
        assert c.help("MAIL", timeout).code == 214
        assert c.help(None, timeout).code == 214
        assert not c.is_shutting_down
        assert c.capabilities.supports_chunking
        c.quit(timeout)
        assert [m.content for m in server.messages] == [MESSAGE] * len(results)
        assert [m.via for m in server.messages] == ["DATA"] * 3 + ["BDAT"] * 2
        assert server.messages[2].recipient_parameters == (("NOTIFY=NEVER",),)


def test_each_lmtp_method_by_its_name() -> None:
    """The four ways of delivering over LMTP."""
    timeout = 10.0
    mail, rcpt = MailFromParams(), [RcptToParams()]
    with SmtpServer(protocol="LMTP") as server:
        c = SmtpConnection.connect_lmtp(server.host, server.port, TlsMode.NONE, timeout)
        for result in (
            c.send_lmtp(SENDER, RECIPIENTS, MESSAGE, mail, timeout),
            c.send_lmtp_with_all_params(SENDER, RECIPIENTS, MESSAGE, mail, rcpt, timeout),
            c.send_lmtp_bdat(SENDER, RECIPIENTS, MESSAGE, mail, timeout),
            c.send_lmtp_bdat_with_all_params(SENDER, RECIPIENTS, MESSAGE, mail, rcpt, timeout),
        ):
            assert [r.delivered for r in result.results] == [True]
        c.close()
        assert len(server.messages) == 4
