"""The e-mail backend of Django, against the installed Django, by each way to configure it.

Every deliberate difference that ``docs/django.md`` lists has its test here.
"""

from __future__ import annotations

import copy
import email
import email.policy
import functools
import logging
import os
import pickle
import re
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django import VERSION
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils.log import AdminEmailHandler

from smtpconn import (
    AllRecipientsFailedError,
    PasswordCredentials,
    PoolTimeoutError,
    SmtpTimeoutError,
)
from smtpconn.contrib.django import EmailBackend
from smtpconn.testing import SmtpServer
from tests.realservers.base import wait_until
from tests.realservers.certificates import Certificates
from tests.realservers.postfix import Postfix
from tests.support.django_mail import HAS_MAILERS, WAYS, Mailing, connections, message
from tests.support.forks import in_child
from tests.support.threads import run_in_threads

pytestmark = [
    # The EMAIL_* settings and get_connection, from Django 6.1 on; they are to work until they go.
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

YOU, SHE = "you@example.net", "she@example.net"


@pytest.fixture(params=WAYS)
def mailing(request: pytest.FixtureRequest) -> Iterator[Mailing]:
    """Django's mail, configured each way there is."""
    made = Mailing(request.param)
    yield made
    made.end()


def send_view(request: HttpRequest) -> HttpResponse:
    """A view that sends mail, as they all do."""
    sent = mail.send_mail("hello", "Hello!", "me@example.com", [request.GET["to"]])
    return HttpResponse(f"{sent} sent")


urlpatterns = [path("send", send_view)]


# --- Sending --------------------------------------------------------------------------------------


def test_a_message_arrives(server: SmtpServer, mailing: Mailing) -> None:
    """The envelope is from_email and everyone it goes to; Bcc is in the envelope only."""
    backend = mailing.use(server)
    sent = mail.EmailMultiAlternatives(
        "grüße", "Hello!", "Me <me@example.com>", [YOU], ["hidden@example.net"], cc=[SHE]
    )
    sent.attach_alternative("<p>Hello!</p>", "text/html")
    assert backend.send_messages([sent]) == 1
    (received,) = server.messages
    assert received.sender == "me@example.com"
    assert received.recipients == (YOU, SHE, "hidden@example.net")
    assert b"From: Me <me@example.com>\r\n" in received.content
    assert b"<p>Hello!</p>" in received.content
    assert b"Message-ID: <" in received.content
    assert b"hidden" not in received.content
    assert b"\n" not in received.content.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    ("written", "recipient"),
    [
        ("Example.com <noreply@example.com>", "noreply@example.com"),
        ("Jane Q. Public <you@example.net>", YOU),
        ("Acme Inc. <you@example.net>", YOU),
        ("you@a_b.example", "you@a_b.example"),
        ("one..two@docomo.example", '"one..two"@docomo.example'),
        ("One <one.@docomo.example>", '"one."@docomo.example'),
        (f"{'l' * 65}@example.com", f"{'l' * 65}@example.com"),
        (" you@example.net\t", YOU),
    ],
)
def test_names_with_a_full_stop(
    server: SmtpServer, mailing: Mailing, written: str, recipient: str
) -> None:
    """As sender and as recipient, as Django's own backend takes them."""
    backend = mailing.use(server)
    sent = mail.EmailMessage("s", "b", written, [written, "postmaster"])
    assert backend.send_messages([sent]) == 1
    (received,) = server.messages
    assert (received.sender, received.recipients) == (recipient, (recipient, "postmaster"))


def test_a_url_in_a_header_stays_whole(server: SmtpServer, mailing: Mailing) -> None:
    """However long; no encoded word stands in a structured field (RFC 2047 5, RFC 8058)."""
    backend = mailing.use(server)
    url = f"<https://example.com/{'u' * 120}>"
    sent = mail.EmailMessage("s", "x" * 3000, "me@example.com", [YOU])
    sent.extra_headers = {"List-Unsubscribe": url}
    if VERSION < (6, 1):  # which refuses it
        sent.extra_headers["Bcc"] = "hidden@example.net"
    assert backend.send_messages([sent]) == 1
    (received,) = server.messages
    assert f"List-Unsubscribe: {url}\r\n".encode() in received.content
    assert max(map(len, received.content.split(b"\r\n"))) <= 998
    assert b"hidden" not in received.content


def test_an_address_that_cannot_be_sent_is_its_messages_error(
    server: SmtpServer, mailing: Mailing
) -> None:
    """The others are sent; then it is raised, or silently it is not counted."""
    backend = mailing.use(server)
    letters = [
        mail.EmailMessage("s", "b", "me@example.com", [to]) for to in (YOU, "no address", SHE)
    ]
    with pytest.raises(ValueError, match="no address"):
        backend.send_messages(letters)
    backend.fail_silently = True
    assert backend.send_messages(letters) == 2
    assert [m.recipients for m in server.messages] == [(YOU,), (SHE,)] * 2


def test_twenty_requests_use_one_connection(server: SmtpServer, mailing: Mailing) -> None:
    """A view that calls send_mail makes a backend each time; the connection stays."""
    mailing.use(server)
    client = Client()
    for _ in range(20):
        assert client.get("/send", {"to": YOU}).content == b"1 sent"
    assert len(server.messages) == 20
    assert connections(server) == 1


def test_threads_share_a_pool_and_even_a_backend(server: SmtpServer, mailing: Mailing) -> None:
    """8 threads send 80 messages over at most 3 connections, on backends of their own or one."""
    shared = mailing.use(server, pool={"max_size": 3})
    backends = [shared if n % 2 else mailing.again() for n in range(8)]

    def work(number: int) -> None:
        for _ in range(10):
            assert backends[number].send_messages([message(YOU)]) == 1

    run_in_threads(8, work)
    assert len(server.messages) == 80
    assert connections(server) <= 3
    assert {backend.pool for backend in backends} == {shared.pool}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_each_process_of_a_preforking_server_has_one_connection(
    server: SmtpServer, mailing: Mailing
) -> None:
    """Workers forked after the parent has sent use one connection each, and not the parent's."""
    parent = mailing.use(server)
    parent.send_messages([message(YOU)])

    def worker() -> int:
        return sum(mailing.again().send_messages([message(YOU)]) for _ in range(5))

    assert [in_child(worker) for _ in range(2)] == ["5", "5"]
    parent.send_messages([message(YOU)])
    assert len(server.messages) == 12
    assert connections(server) == 3
    assert [m.connection for m in server.messages if m.connection == 1] == [1, 1]


def test_a_dead_idle_connection_is_replaced(server: SmtpServer, mailing: Mailing) -> None:
    """The server closed it between two requests; the pool replaces it."""
    backend = mailing.use(server)
    assert backend.send_messages([message(YOU)]) == 1
    server.close_idle()
    server.wait_for(lambda: server.connections[0].closed)
    assert backend.send_messages([message(YOU)]) == 1
    assert connections(server) == 2


# --- open and close -------------------------------------------------------------------------------


def test_open_and_close(server: SmtpServer, mailing: Mailing) -> None:
    """True the first time, False while open; close may be called at any time."""
    backend = mailing.use(server)
    backend.close()
    assert mailing.again().connection is None
    assert backend.open() is True
    assert backend.connection is not None
    assert backend.connection.pool is backend.pool
    assert backend.open() is False
    assert backend.send_messages([message(YOU)]) == 1
    assert backend.open() is False
    backend.close()
    assert backend.open() is True
    backend.close()
    assert connections(server) == 1


def test_the_block(server: SmtpServer, mailing: Mailing) -> None:
    """``with backend`` opens and closes; mail may be sent in it any number of times."""
    with mailing.use(server) as backend:
        assert backend.open() is False
        assert backend.send_messages([message(YOU)] * 2) == 2
        assert backend.send_messages([message(YOU)]) == 1
    assert backend.connection is None
    assert connections(server) == 1


def test_an_open_backend_holds_no_connection(server: SmtpServer, mailing: Mailing) -> None:
    """An open backend holds no connection: with one at most, two that are open both send."""
    first = mailing.use(server, pool={"max_size": 1, "acquire_timeout": 0.5})
    second = mailing.again()
    with first, second:
        assert first.send_messages([message(YOU)]) == 1
        assert second.send_messages([message(YOU)]) == 1
    assert connections(server) == 1


def test_opening_does_not_wait(server: SmtpServer, mailing: Mailing) -> None:
    """If all connections are in use, `open` does not wait; a message waits once."""
    backend = mailing.use(server, pool={"max_size": 1, "acquire_timeout": 5})
    pool = backend.pool
    with pool.connection():
        assert backend.open() is True
        backend.close()
        sending = threading.Thread(target=backend.send_messages, args=([message(YOU)],))
        sending.start()
        assert wait_until(lambda: pool.stats().waiting == 1, 5)
    sending.join()
    assert len(server.messages) == 1
    assert pool.stats().waits == 1
    assert connections(server) == 1


def test_nothing_to_send(server: SmtpServer, mailing: Mailing) -> None:
    """Without messages nothing is connected to; one without recipients is not sent."""
    backend = mailing.use(server)
    assert backend.send_messages([]) == 0
    assert connections(server) == 0
    assert backend.send_messages([message(), message(YOU), message("")]) == 1
    assert message().send() == 0
    assert len(server.messages) == 1


# --- Errors, silent or not ------------------------------------------------------------------------


def test_a_server_that_is_down(server: SmtpServer, mailing: Mailing) -> None:
    """An OSError; silently None from open and 0 from send_messages."""
    server.stop()
    backend = mailing.use(server)
    for call in (backend.open, lambda: backend.send_messages([message(YOU)])):
        with pytest.raises(ConnectionError) as caught:
            call()
        assert isinstance(caught.value, smtplib.SMTPException)
    with pytest.raises(OSError, match="refused"), backend:
        raise AssertionError("never reached")
    silent = mailing.use(server, fail_silently=True)
    assert silent.open() is None
    assert silent.connection is None
    assert silent.send_messages([message(YOU)] * 3) == 0
    with silent:
        pass


def test_one_of_two_recipients_is_refused(
    server: SmtpServer, mailing: Mailing, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent to the other, counts as sent, and a warning says so without the address."""
    server.fault("RCPT", reply="550 5.1.1 no such user she@example.net", match=SHE)
    with caplog.at_level(logging.WARNING, "smtpconn.contrib"):
        assert mailing.use(server).send_messages([message(YOU, SHE)]) == 1
    assert server.messages[0].recipients == (YOU,)
    assert caplog.messages == ["1 of 2 recipients were refused; the first with 550 5.1.1"]


def test_all_recipients_are_refused(server: SmtpServer, mailing: Mailing) -> None:
    """smtplib's error with its attribute; with ``fail_silently`` the next message is sent."""
    server.fault("RCPT", reply="550 5.1.1 no", match=SHE, times=None)
    backend = mailing.use(server)
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        backend.send_messages([message(SHE), message(YOU)])
    assert caught.value.recipients == {SHE: (550, b"5.1.1 no")}
    assert server.messages == []
    silent = mailing.use(server, fail_silently=True)
    assert silent.send_messages([message(SHE), message(YOU), message(SHE)]) == 1
    assert connections(server) == 1


@pytest.mark.parametrize("step", ["MAIL", "DATA", "CONTENT"])
def test_the_server_says_no(server: SmtpServer, mailing: Mailing, step: str) -> None:
    """The class that Django's own backend raises, with its attributes; silently not counted."""
    server.fault(step, reply="554 5.7.1 no spam", times=2)
    backend = mailing.use(server)
    with pytest.raises(smtplib.SMTPResponseException) as caught:
        backend.send_messages([message(YOU)])
    assert (caught.value.smtp_code, caught.value.smtp_error) == (554, b"5.7.1 no spam")
    kind = smtplib.SMTPSenderRefused if step == "MAIL" else smtplib.SMTPDataError
    assert isinstance(caught.value, kind)
    silent = mailing.use(server, fail_silently=True)
    assert silent.send_messages([message(YOU), message(YOU)]) == 1


def test_a_message_the_server_has_no_room_for(mailing: Mailing) -> None:
    """It is refused before it is sent; and silently, although that is a ValidationError."""
    with SmtpServer(size_limit=1000) as server:
        big = mail.EmailMessage("big", "x\n" * 1000, "me@example.com", [YOU])
        with pytest.raises(smtplib.SMTPException, match="1000"):
            mailing.use(server).send_messages([big])
        silent = mailing.use(server, fail_silently=True)
        assert silent.send_messages([big, message(YOU)]) == 1


def test_when_no_connection_can_be_had_the_rest_is_given_up(
    server: SmtpServer, mailing: Mailing
) -> None:
    """Silently, the server going away costs one attempt, not one for each message."""
    server.fault("CONTENT", close=True)
    server.fault("CONNECT", reply="554 5.3.2 closed", skip=1, times=None)
    silent = mailing.use(server, fail_silently=True)
    assert silent.send_messages([message(YOU)] * 50) == 0
    assert connections(server) == 2


def test_a_server_that_never_answers(server: SmtpServer, mailing: Mailing) -> None:
    """The timeout is for a message as a whole, and a TimeoutError."""
    server.fault("MAIL", hang=True)
    backend = mailing.use(server, timeout=0.3)
    with pytest.raises(TimeoutError) as caught:
        backend.send_messages([message(YOU)])
    assert isinstance(caught.value, SmtpTimeoutError)
    assert not caught.value.may_have_been_delivered


def test_no_connection_becomes_free(server: SmtpServer, mailing: Mailing) -> None:
    """The pool's own error is an OSError too, and hidden by ``fail_silently``."""
    limits = {"max_size": 1, "acquire_timeout": 0.05}
    backend = mailing.use(server, pool=limits)
    silent = mailing.use(server, pool=limits, fail_silently=True)
    with backend.pool.connection(timeout=10):
        with pytest.raises(OSError, match="max_size") as caught:
            backend.send_messages([message(YOU)])
        assert isinstance(caught.value, PoolTimeoutError)
        assert silent.send_messages([message(YOU)]) == 0


def test_admins_are_told_of_errors(server: SmtpServer, mailing: Mailing) -> None:
    """The log handler sends; by settings it is silent when the server is down, as Django's is."""
    mailing.use(server)
    record = logging.makeLogRecord({"levelname": "ERROR", "msg": "it broke"})
    old, new = [("Root", "root@example.com")], ["root@example.com"]
    with override_settings(ADMINS=old if VERSION < (6, 0) else new):
        AdminEmailHandler().emit(record)
        assert b"it broke" in server.messages[0].content
        server.stop()
        if mailing.way == "settings":
            AdminEmailHandler().emit(record)
        else:
            with pytest.raises(OSError, match=r"refused|closed"):
                AdminEmailHandler().emit(record)


# --- Addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "to@",
        "@example.com",
        "to@a.example@b.example",
        "a@example.com, b@example.com",
        "to\nevil@example.com",
        '"evil@example.com\r\nto"@example.com',
        "to@example.com> ORCPT=rfc822;x",
        "tester",
    ],
)
def test_an_address_that_cannot_be(server: SmtpServer, mailing: Mailing, address: str) -> None:
    """A ValueError and an SMTPException, so silent as those are; nothing of it is sent.

    It often comes from a setting, such as SERVER_EMAIL, and queues put off what is an OSError.
    """
    backend = mailing.use(server)
    for wrong in (message(YOU, address), mail.EmailMessage("", "", address, [YOU])):
        backend.fail_silently = False
        with pytest.raises(ValueError, match="Invalid address") as caught:
            backend.send_messages([wrong])
        assert isinstance(caught.value, smtplib.SMTPException)
        backend.fail_silently = True
        assert backend.send_messages([wrong]) == 0
    assert all("MAIL" not in command for c in server.connections for command in c.commands)


def test_a_line_break_in_a_header_field(server: SmtpServer, mailing: Mailing) -> None:
    """Django's own ValueError comes through."""
    backend = mailing.use(server, fail_silently=True)
    wrong = mail.EmailMessage("hello\nBcc: x@example.com", "", "me@example.com", [YOU])
    with pytest.raises(ValueError, match=r"newline|linefeed"):
        backend.send_messages([wrong])
    assert server.messages == []


def test_an_internationalised_domain(server: SmtpServer, mailing: Mailing) -> None:
    """It leaves in A-labels, in the envelope as in the header."""
    sent = mail.EmailMessage("", "", "Mé <from@öäü.com>", ["Yöu <to@öäü.com>"], cc=["b@ß.example"])
    assert mailing.use(server).send_messages([sent]) == 1
    (received,) = server.messages
    assert received.sender == "from@xn--4ca9at.com"
    assert received.recipients == ("to@xn--4ca9at.com", "b@ss.example")
    assert "SMTPUTF8" not in received.mail_parameters
    assert b"<to@xn--4ca9at.com>" in received.content
    assert b"b@ss.example" in received.content


def test_an_internationalised_local_part(server: SmtpServer, mailing: Mailing) -> None:
    """Django cannot send to it; here it is sent with SMTPUTF8 where the server offers that."""
    sent = message("jürgen@example.net")
    assert mailing.use(server).send_messages([sent]) == 1
    assert server.messages[0].recipients == ("jürgen@example.net",)
    assert "SMTPUTF8" in server.messages[0].mail_parameters
    with SmtpServer(extensions=["8BITMIME"]) as old:
        with pytest.raises(smtplib.SMTPNotSupportedError):
            mailing.use(old).send_messages([sent])
        assert old.messages == []


# --- Bytes ---------------------------------------------------------------------------------------


def test_a_server_without_8bitmime_gets_seven_bits(mailing: Mailing) -> None:
    """The text is encoded, where Django would leave eight bits; a line with From stays as it is."""
    sent = mail.EmailMessage("hello", "From here: grüße\n", "me@example.com", [YOU])
    with SmtpServer(extensions=["PIPELINING"]) as server:
        assert mailing.use(server).send_messages([sent]) == 1
        assert server.messages[0].content.isascii()
        received = mail_text(server.messages[0].content)
    assert received.rstrip() == "From here: grüße"


def mail_text(content: bytes) -> str:
    """The text of a message."""
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    text = parsed.get_content()
    assert isinstance(text, str)
    return text


def test_bcc_among_the_extra_headers(server: SmtpServer, mailing: Mailing) -> None:
    """Django 5.2 would send it, later ones refuse it; it never leaves."""
    sent = message(YOU, headers={"bcc": "hidden@example.net", "X-Other": "stays"})
    try:
        mailing.use(server).send_messages([sent])
    except ValueError:
        assert server.messages == []
    else:
        assert b"hidden" not in server.messages[0].content
        assert b"X-Other: stays\r\n" in server.messages[0].content


def test_a_message_of_ones_own_is_serialised_by_itself(
    server: SmtpServer, mailing: Mailing
) -> None:
    """What signs in as_bytes, as DKIM packages do, is asked for its bytes."""

    class Signed(mail.EmailMessage):  # type: ignore[misc]
        def message(self, **options: Any) -> Any:
            made = super().message(**options)
            plain = made.as_bytes
            made.as_bytes = lambda **form: b"DKIM-Signature: yes\r\n" + plain(**form)
            return made

    mailing.use(server).send_messages([Signed("hello", "Hello!", "me@example.com", [YOU])])
    assert server.messages[0].content.startswith(b"DKIM-Signature: yes\r\n")


# --- Logging in and TLS ---------------------------------------------------------------------------


def test_logging_in(mailing: Mailing) -> None:
    """With user name and password it logs in, once; a wrong password is smtplib's error."""
    with SmtpServer(users={"app": "s3cret"}, require_auth=True) as server:
        backend = mailing.use(server, username="app", password="s3cret")
        assert backend.send_messages([message(YOU)] * 3) == 3
        assert {m.user for m in server.messages} == {"app"}
        assert sum("AUTH" in c for c in server.connections[0].commands) == 1
        wrong = mailing.use(server, username="app", password="wrong")
        with pytest.raises(smtplib.SMTPAuthenticationError):
            wrong.open()
        assert (
            mailing.use(server, username="app", password="wrong", fail_silently=True).open() is None
        )


def test_a_login_with_other_credentials(mailing: Mailing) -> None:
    """auth_user and auth_password of send_mail go before what is configured."""
    with SmtpServer(users={"app": "s3cret", "other": "secret"}) as server:
        mailing.use(server, username="app", password="s3cret")
        letter = ("hello", "Hello!", "me@example.com", [YOU])
        assert mail.send_mail(*letter) == 1
        assert mail.send_mail(*letter, auth_user="other", auth_password="secret") == 1
        assert [m.user for m in server.messages] == ["app", "other"]
        other = mail.get_connection(username="other", password="secret")
        other.pool.close()


def test_a_user_name_without_password_does_not_log_in(mailing: Mailing) -> None:
    """As in Django, both are needed."""
    with SmtpServer(users={"app": "s3cret"}) as server:
        mailing.use(server, username="app", password="").send_messages([message(YOU)])
        assert server.messages[0].user is None


def test_no_password_in_clear(mailing: Mailing) -> None:
    """Django would send it to any machine; here that takes TLS, or an option that says so."""
    with SmtpServer(users={"app": "s3cret"}) as server:
        options: dict[str, Any] = {
            "username": "app",
            "password": "s3cret",
            # Behind a socket of one's own there may be any machine.
            "socket_factory": lambda host, port, timeout: socket.create_connection((host, port)),
        }
        with pytest.raises(smtplib.SMTPException, match="allow_cleartext_auth"):
            mailing.use(server, **options).send_messages([message(YOU)])
        backend = mailing.use(server, **options, allow_cleartext_auth=True)
        assert backend.send_messages([message(YOU)]) == 1


def test_the_name_in_the_greeting(server: SmtpServer, mailing: Mailing) -> None:
    """It may be given; by itself no name is looked up."""
    mailing.use(server, ehlo_domain="web.example.com").send_messages([message(YOU)])
    assert server.connections[0].commands[0] == "EHLO web.example.com"


@pytest.mark.parametrize("option", ["use_tls", "use_ssl"])
def test_tls(mailing: Mailing, certificates: Certificates, option: str) -> None:
    """STARTTLS and implicit TLS, with a context of one's own."""
    context = certificates.server_context()
    trusting = certificates.client_context()
    with SmtpServer(tls_context=context, implicit_tls=option == "use_ssl") as server:
        options: dict[str, Any] = {option: True, "tls_context": trusting}
        assert mailing.use(server, **options).send_messages([message(YOU)] * 2) == 2
        assert all(m.tls for m in server.messages)
        assert connections(server) == 1


def test_an_untrusted_certificate(mailing: Mailing, certificates: Certificates) -> None:
    """It is an error, an OSError with OpenSSL's own as its cause; nothing is sent."""
    with SmtpServer(tls_context=certificates.server_context()) as server:
        backend = mailing.use(server, use_tls=True)
        with pytest.raises(OSError, match="certificate") as caught:
            backend.send_messages([message(YOU)])
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert server.messages == []


def test_a_client_certificate_and_the_systems_authorities(
    mailing: Mailing,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The files are read, what OpenSSL's environment names is trusted, the pool stays the same."""
    certfile, keyfile = tmp_path / "client.pem", tmp_path / "client.key"
    shutil.copy(certificates.client_file, certfile)
    shutil.copy(certificates.client_key_file, keyfile)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    context = certificates.server_context()
    context.load_verify_locations(certificates.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    files: dict[str, Any] = {"ssl_certfile": str(certfile), "ssl_keyfile": str(keyfile)}
    with SmtpServer(tls_context=context) as server:
        backend = mailing.use(server, use_tls=True, **files)
        assert backend.send_messages([message(YOU)]) == 1
        assert mailing.again().send_messages([message(YOU)]) == 1
        assert connections(server) == 1
        assert mailing.again().pool is backend.pool
        before = backend.pool
        os.utime(certfile, (1, 1))
        assert backend.pool is not before
        before.close()


def test_a_certificate_file_that_is_not_there(server: SmtpServer, mailing: Mailing) -> None:
    """An OSError when it is needed, not before; silent as in Django."""
    for silent in (False, True):
        backend = mailing.use(server, use_tls=True, ssl_certfile="/nowhere", fail_silently=silent)
        try:
            if silent:
                assert backend.open() is None
                assert backend.send_messages([message(YOU)]) == 0
            else:
                with pytest.raises(FileNotFoundError):
                    backend.open()
        finally:
            backend.ssl_certfile = None


# --- Settings -------------------------------------------------------------------------------------


def test_a_url(mailing: Mailing) -> None:
    """A URL stands for the server and who logs in."""
    with SmtpServer(users={"app": "s3cret"}) as server:
        backend = mailing.use(url=f"smtp://app:s3cret@{server.host}:{server.port}", timeout=7)
        assert backend.send_messages([message(YOU)]) == 1
        assert server.messages[0].user == "app"
        assert backend.pool.config.timeout == 7


def test_the_ports_without_one(mailing: Mailing) -> None:
    """By ``MAILERS`` it is the usual one for the kind of TLS; EMAIL_PORT is 25 unless set."""
    backend = mailing.use(host="mx.example.com", use_ssl=True)
    assert backend.port == (465 if mailing.way == "mailers" else 25)
    assert (backend.use_tls, backend.use_ssl) == (False, True)


def test_attributes_may_be_changed_before_use(server: SmtpServer, mailing: Mailing) -> None:
    """Subclasses that set the host or the user afterwards are heard."""
    backend = mailing.use(host="nowhere.invalid")
    backend.host, backend.port = server.host, server.port
    assert backend.send_messages([message(YOU)]) == 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"host": "h", "use_tls": True, "use_ssl": True}, "mutually exclusive|incompatible"),
    ({"host": "h", "pool": {"max_sise": 3}}, "max_sise"),
    ({"host": "h", "pool": 5}, "pool is a dict"),
    ({"host": "h", "port": "twenty"}, "(?i)port is a number"),
    ({"host": "a b"}, "host"),
    ({"url": "http://mx.example.com"}, "smtp"),
    ({"host": "smtp://h"}, r"URL goes into (SMTPCONN\['url'\]|url)"),
    ({"host": "h", "max_size": 3}, "max_size belongs in 'pool'"),
]


@pytest.mark.parametrize(("options", "text"), WRONG, ids=[text for _, text in WRONG])
def test_settings_that_cannot_be(mailing: Mailing, options: dict[str, Any], text: str) -> None:
    """A ValueError when the backend is made, silent or not; by ``MAILERS`` an InvalidMailer."""
    kind: type[Exception] = ImproperlyConfigured if mailing.way == "mailers" else ValueError
    for silent in (False, True):
        with pytest.raises(kind, match=text):
            mailing.use(**options, fail_silently=silent)


def test_limits_that_cannot_be(server: SmtpServer, mailing: Mailing) -> None:
    """An invalid limit is found at the first use, as an error of opening."""
    backend = mailing.use(server, pool={"max_size": 0})
    with pytest.raises(ValueError, match="max_size"):
        backend.send_messages([message(YOU)])
    backend.fail_silently = True
    assert backend.send_messages([message(YOU)]) == 0


@pytest.mark.parametrize("host", ["", " ", None])
def test_an_empty_host(
    mailing: Mailing, host: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """An unset environment variable is an error of opening, which names the setting."""
    if mailing.way == "mailers" and host is None:
        pytest.skip("Django itself refuses a mailer without a host")
    backend = mailing.use(host=host)
    for call in (backend.open, lambda: backend.send_messages([message(YOU)])):
        with pytest.raises(
            OSError, match="EMAIL_HOST is empty" if mailing.way == "settings" else "host is empty"
        ):
            call()
    silent = mailing.use(host=host, fail_silently=True)
    assert silent.open() is None
    assert silent.send_messages([message(YOU)]) == 0
    assert "is empty" in caplog.text
    assert pickle.loads(pickle.dumps(silent)).open() is None


@pytest.mark.parametrize("url", ["", None])
def test_an_empty_url_is_none(server: SmtpServer, mailing: Mailing, url: str | None) -> None:
    """As where the environment does not have it: the other settings count."""
    backend = mailing.use(server, url=url)
    assert backend.send_messages([message(YOU)]) == 1


@pytest.mark.parametrize(
    ("wrong", "sender"), [({"host": ""}, "root@localhost"), ({}, "webmaster"), ({}, "")]
)
def test_admins_settings_that_cannot_be_used(
    server: SmtpServer, mailing: Mailing, wrong: dict[str, Any], sender: str
) -> None:
    """The page that reports an error to the admins does not fail over them."""
    # With settings the handler asks for silence; a mailer's options do.
    silent = mailing.way == "mailers"
    mailing.use(None if wrong else server, fail_silently=silent, **wrong)
    record = logging.makeLogRecord({"levelname": "ERROR", "msg": "it broke"})
    admins = [("Root", "root@example.com")] if VERSION < (6, 0) else ["root@example.com"]
    with override_settings(ADMINS=admins, SERVER_EMAIL=sender):
        AdminEmailHandler().emit(record)
    assert len(server.messages) == (1 if sender == "" else 0)


def test_no_deprecation_is_ours(server: SmtpServer) -> None:
    """With EMAIL_* settings nothing warns of what a site cannot change, so -W error works."""
    mailing = Mailing("settings")
    try:
        mailing.use(server)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert message(YOU).send() == 1
            assert mail.get_connection() is not None
        ours = [w for w in caught if "smtpconn/contrib" in w.filename or "EMAIL_" in str(w.message)]
        assert ours == []
    finally:
        mailing.end()


def test_words_are_those_of_the_settings(mailing: Mailing) -> None:
    """Errors that lead to another kind of TLS name the setting, not the enum."""
    with SmtpServer(users={"app": "s3cret"}) as server:
        backend = mailing.use(server, use_tls=True)
        with pytest.raises(OSError, match="STARTTLS") as caught:
            backend.open()
        assert "TlsMode" not in str(caught.value)
        assert ("EMAIL_USE_SSL" if mailing.way == "settings" else "use_ssl") in str(caught.value)
        with pytest.raises(OSError, match="try smtp") as caught:
            mailing.use(server, use_ssl=True).open()
        assert "TlsMode" not in str(caught.value)
        assert ("EMAIL_USE_TLS" if mailing.way == "settings" else "use_tls") in str(caught.value)


def test_what_code_for_djangos_backend_reads(server: SmtpServer, mailing: Mailing) -> None:
    """timeout, ssl_context, prep_address, and sendmail of an open backend's connection."""
    backend = mailing.use(server, timeout=7)
    assert isinstance(backend.ssl_context, ssl.SSLContext)
    assert backend.prep_address("Mé <me@öäü.com>") == "me@xn--4ca9at.com"
    with backend:
        connection = backend.connection
        assert connection is not None
        assert connection.timeout == 7
        assert connection.sendmail("Me <me@example.com>", YOU, b"Subject: s\r\n\r\nb\r\n") == {}
        server.fault("RCPT", reply="550 5.1.1 no", match=SHE)
        refused = connection.sendmail("me@example.com", [YOU, SHE], b"Subject: s\r\n\r\nb\r\n")
        assert refused == {SHE: (550, b"5.1.1 no")}
        assert connection.noop()[0] == 250
        assert connection.stats().messages == 2
        connection.quit()
    assert len(server.messages) == 2
    assert connections(server) == 1


def test_a_subclass_that_sends_by_itself(server: SmtpServer, mailing: Mailing) -> None:
    """As packages for DKIM and others do: ``_send`` with what it finds as ``connection``."""
    mailing.use(server)

    class Signing(EmailBackend):
        def _send(self, email_message: mail.EmailMessage) -> bool:
            assert self.connection is not None
            signed = b"X-Signed: yes\r\n" + email_message.message().as_bytes()
            self.connection.sendmail(email_message.from_email, email_message.recipients(), signed)
            return True

    backend = Signing(host=server.host, port=server.port, **alias(mailing))
    assert backend.send_messages([message(YOU)]) == 1
    backend.pool.close()
    assert server.messages[0].content.startswith(b"X-Signed: yes\r\n")


def test_a_subclass_with_a_context_of_its_own(mailing: Mailing, certificates: Certificates) -> None:
    """The recipe of overriding ``ssl_context``; the pool stays the same one for all backends."""
    mailing.use(host="mx.example.com")

    class Trusting(EmailBackend):
        @functools.cached_property
        def ssl_context(self) -> ssl.SSLContext:
            return certificates.client_context()

    with SmtpServer(tls_context=certificates.server_context()) as server:
        pools = set()
        for _ in range(2):
            backend = Trusting(host="localhost", port=server.port, use_tls=True, **alias(mailing))
            assert backend.send_messages([message(YOU)]) == 1
            pools.add(backend.pool)
        assert len(pools) == 1
        assert connections(server) == 1
        pools.pop().close()


def test_a_context_may_be_set(mailing: Mailing, certificates: Certificates) -> None:
    """On a backend, before it is used."""
    with SmtpServer(tls_context=certificates.server_context()) as server:
        backend = mailing.use(host="localhost", port=server.port, use_tls=True)
        backend.ssl_context = certificates.client_context()
        assert backend.send_messages([message(YOU)]) == 1
        assert backend.ssl_context is backend.pool.config.tls_context


def alias(mailing: Mailing) -> dict[str, Any]:
    """What Django gives a mailer beside its options."""
    return {"alias": "default"} if mailing.way == "mailers" else {}


@pytest.mark.skipif(not HAS_MAILERS, reason="MAILERS came with Django 6.1")
def test_what_mailers_do_not_know() -> None:
    """An unknown option, a missing host and an alias among the options are InvalidMailer."""
    mailing = Mailing("mailers")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"host": "h", "colour": "red"}, r"MAILERS\['default'\]: Unknown options 'colour'"),
        ({"host": "h", "max_size": 5}, "max_size belongs in 'pool'"),
        ({}, r"MAILERS\['default'\]: OPTIONS must define 'host'"),
    ]
    for options, text in wrong:
        with pytest.raises(mail.InvalidMailer, match=text):
            mailing.use(**options)
    mailing.end()


@pytest.mark.skipif(not HAS_MAILERS, reason="MAILERS came with Django 6.1")
def test_several_mailers(server: SmtpServer) -> None:
    """``using`` chooses; each has its own server and pool; nothing in it is deprecated."""
    backend = "smtpconn.contrib.django.EmailBackend"
    with SmtpServer() as other:
        mailers = {
            name: {"BACKEND": backend, "OPTIONS": {"host": each.host, "port": each.port}}
            for name, each in (("default", server), ("bulk", other))
        }
        with override_settings(MAILERS=mailers), warnings.catch_warnings():
            warnings.simplefilter("error")
            mail.send_mail("hello", "Hello!", "me@example.com", [YOU])
            mail.send_mail("hello", "Hello!", "me@example.com", [YOU], using="bulk")
            mail.send_mail("hello", "Hello!", "me@example.com", [YOU], using="bulk")
            for name in mailers:
                mail.mailers[name].pool.close()
    assert (len(server.messages), len(other.messages)) == (1, 2)
    assert (connections(server), connections(other)) == (1, 1)


def test_arguments_go_before_settings(server: SmtpServer, mailing: Mailing) -> None:
    """What the constructor is given counts; the positions are those of Django's own backend."""
    mailing.use(host="nowhere.invalid", username="app", password="s3cret")
    if mailing.way == "mailers":
        return
    backend = EmailBackend(server.host, server.port, "", "", False, True)
    assert backend.fail_silently is True
    assert backend.send_messages([message(YOU)]) == 1
    backend.pool.close()


# --- LMTP -----------------------------------------------------------------------------------------


def test_over_lmtp(mailing: Mailing) -> None:
    """It counts as sent if a recipient got it; else smtplib's error is raised."""
    with SmtpServer(protocol="LMTP") as server:
        backend = mailing.use(url=server.url)
        server.fault("CONTENT", reply="552 5.2.2 full", match=SHE, times=None)
        assert backend.send_messages([message(YOU, SHE)]) == 1
        with pytest.raises(AllRecipientsFailedError, match="full"):
            backend.send_messages([message(SHE)])
        server.fault("CONTENT", close=True)
        with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
            backend.send_messages([message(YOU)])
        assert getattr(caught.value, "may_have_been_delivered", None) is True


# --- The document ---------------------------------------------------------------------------------


def test_every_difference_names_a_test_that_exists() -> None:
    """Each row of the table in docs/django.md."""
    root = Path(__file__).parent.parent.parent
    table = (root / "docs" / "django.md").read_text().rpartition("## What differs")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        names = re.findall(r"`((?:tests/\S+::)?test_\w+)`", row.rpartition(" | ")[2])
        assert names, row
        for name in names:
            file, _, function = name.rpartition("::")
            source = (root / (file or "tests/contrib/test_django.py")).read_text()
            assert f"\ndef {function}(" in source, name


# --- The house ------------------------------------------------------------------------------------


def test_nothing_of_smtpconn_imports_a_framework() -> None:
    """Neither the package nor what adapters share imports Django or Flask."""
    program = (
        "import smtpconn, smtpconn.contrib, smtpconn.contrib.backend, sys;"
        "print([name for name in ('django', 'flask', 'flask_mailman') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=15, check=True
    )
    assert done.stdout.strip() == "[]"


# --- A real server --------------------------------------------------------------------------------


def test_postfix_with_auth_under_starttls(
    postfix_with_auth: Postfix, certificates: Certificates, mailing: Mailing
) -> None:
    """20 messages with attachments, from threads, logged in: stored once each, two connections."""
    backend = mailing.use(
        host="localhost",
        port=postfix_with_auth.port,
        username="alice",
        password="wonderland",
        use_tls=True,
        tls_context=certificates.client_context(),
        pool={"max_size": 2},
    )

    def work(thread: int) -> None:
        for number in range(5):
            sent = mail.EmailMessage(
                f"grüße {thread}.{number}",
                "From here\n.\n",
                "me@client.example",
                ["Alice <alice@example.test>"],
                ["bob@example.test"],
            )
            sent.attach("data.bin", bytes(range(256)), "application/octet-stream")
            assert mailing.again().send_messages([sent]) == 1

    run_in_threads(4, work)
    stored = postfix_with_auth.wait_for_stored(20, user="alice")
    assert len(stored) == 20
    assert len(postfix_with_auth.wait_for_stored(20, user="bob")) == 20
    assert all(b"\nTo: Alice <alice@example.test>\n" in text for text in stored)
    assert all(b"\nFrom here\n.\n" in text and b"Bcc" not in text for text in stored)
    stats = backend.pool.stats()
    assert stats.messages == 20
    assert stats.connects <= 2


# --- Queues ---------------------------------------------------------------------------------------

SECRET = "correct-horse-battery"


def pickled(backend: EmailBackend) -> bytes:
    """A message that holds the backend, as Celery and django-mailer store it."""
    data = pickle.dumps(message(YOU, connection=backend))
    assert SECRET.encode() not in data
    return data


@pytest.mark.parametrize("is_used", [False, True])
def test_a_message_is_pickled_with_its_backend(mailing: Mailing, *, is_used: bool) -> None:
    """No password goes along; where it is sent, the settings there have it."""
    with SmtpServer(users={"app": SECRET}, require_auth=True) as server:
        backend = mailing.use(server, username="app", password=SECRET, timeout=7)
        if is_used:
            assert message(YOU, connection=backend).send() == 1
            backend.open()
        again = pickle.loads(pickled(backend))
        assert (again.connection.password, again.connection.timeout) == (None, 7)
        assert again.send() == 1
        assert again.connection.password == SECRET
        assert again.connection.pool is backend.pool
        assert pickle.loads(pickled(again.connection)).send() == 1
        assert SECRET not in f"{vars(backend)} {vars(again.connection)} {backend!r}"


@pytest.mark.parametrize("option", ["url", "credentials"])
def test_a_pickled_message_and_other_places_of_a_password(mailing: Mailing, option: str) -> None:
    """A URL and credentials are not pickled, like a password; other options are."""
    with SmtpServer(users={"app": SECRET}, require_auth=True) as server:
        found: Any = server.url_for("app")
        if option == "credentials":
            found = PasswordCredentials("app", SECRET)
        place = server if option == "credentials" else None
        backend = mailing.use(
            place, **{option: found}, ehlo_domain="me.example.com", pool={"max_size": 2}
        )
        again = pickle.loads(pickled(backend))
        assert again.send() == 1
        assert again.connection.pool is backend.pool
        assert server.connections[0].commands[0] == "EHLO me.example.com"


@pytest.mark.parametrize("other", [{"username": "other"}, {"port": 2}, {"host": "mx.invalid"}])
def test_a_pickled_message_never_gets_another_login(mailing: Mailing, other: Any) -> None:
    """A password of this process's settings does not go to another server or with another name."""
    with SmtpServer(users={"app": SECRET}) as server:
        mailing.use(server, username="app", password=SECRET)
        there = {"host": server.host, "port": server.port, "username": "app", "password": SECRET}
        data = pickled(EmailBackend(**(there | other)))
        with pytest.raises(ValueError, match="give the message a new connection"):
            pickle.loads(data).send()
        assert server.connections == []


def test_a_pickled_message_without_a_login(server: SmtpServer, mailing: Mailing) -> None:
    """What was given goes along whole, so it is the same wherever it is sent."""
    mailing.use(host="mx.invalid")
    data = pickle.dumps(message(YOU, connection=EmailBackend(server.host, server.port)))
    again = pickle.loads(data)
    assert again.send() == 1
    again.connection.pool.close()


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy])
def test_a_message_is_copied_with_its_backend(
    mailing: Mailing, copying: Callable[[Any], Any]
) -> None:
    """As the backend for tests does; the copy has the same settings and the same pool."""
    with SmtpServer(users={"app": SECRET}, require_auth=True) as server:
        backend = mailing.use(server, username="app", password=SECRET)
        backend.open()
        assert copying(message(YOU, connection=backend)).send() == 1
        assert copying(backend).pool is backend.pool


def test_mechanisms_of_a_login(mailing: Mailing) -> None:
    """An option, as a list or a text."""
    with SmtpServer(users={"app": SECRET}, require_auth=True) as server:
        backend = mailing.use(server, username="app", password=SECRET, mechanisms="LOGIN")
        assert backend.send_messages([message(YOU)]) == 1
        assert "AUTH LOGIN" in server.connections[0].commands


def test_false_from_the_environment_is_no(server: SmtpServer, mailing: Mailing) -> None:
    """``EMAIL_USE_TLS = os.environ["EMAIL_USE_TLS"]`` with "False" means no TLS."""
    backend = mailing.use(server, use_tls="False")
    assert backend.use_tls is False
    assert backend.send_messages([message(YOU)]) == 1
