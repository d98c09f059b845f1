"""The Flask extension, against the installed Flask, and with the messages of Flask-Mail."""

from __future__ import annotations

import copy
import email
import email.policy
import logging
import pickle
import smtplib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

import pytest
from flask import Flask
from werkzeug.local import LocalProxy

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionPool,
    PasswordCredentials,
    SendResult,
    TlsMode,
    ValidationError,
)
from smtpconn.contrib.flask import Mail, email_dispatched
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.realservers.postfix import Postfix
from tests.support.flask_mail_import import flask_mail
from tests.support.forks import in_child
from tests.support.threads import run_in_threads

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

ME, YOU, SHE = "me@example.com", "you@example.net", "she@example.net"
MakeApp = Callable[..., Flask]


@pytest.fixture
def mail() -> Mail:
    """An extension that no application has yet."""
    return Mail()


@pytest.fixture
def make_app(server: SmtpServer, mail: Mail) -> Iterator[MakeApp]:
    """Makes applications for the server, and closes their pools at the end."""
    with ExitStack() as stack:

        def make(**config: Any) -> Flask:
            app = Flask("app")
            app.config.update({"MAIL_SERVER": server.host, "MAIL_PORT": server.port} | config)
            mail.init_app(app)
            stack.callback(close_pool, app, mail)
            app.add_url_rule("/send", "send", lambda: said(mail.send(message())))
            return app

        yield make


def said(result: SendResult) -> str:
    """Whether a message was really sent."""
    return "kept" if "Not sent" in str(result.response) else "sent"


def close_pool(app: Flask, mail: Mail) -> None:
    """Close an application's pool."""
    with app.app_context():
        mail.pool.close()


def message(to: str = YOU, sender: str | None = ME) -> EmailMessage:
    """A short message."""
    made = EmailMessage()
    made["Subject"], made["To"] = "hello", to
    if sender is not None:
        made["From"] = sender
    made.set_content("Hello!\n")
    return made


# --- Sending --------------------------------------------------------------------------------------


def test_a_message_arrives(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """The envelope is what the headers name; Bcc does not leave; the message stays as it was."""
    sent = message()
    sent["Bcc"] = "hidden@example.net"
    before = sent.as_bytes()
    with make_app().app_context():
        result = mail.send(sent)
    assert isinstance(result, SendResult)
    (received,) = server.messages
    assert (received.sender, received.recipients) == (ME, (YOU, "hidden@example.net"))
    assert b"hidden" not in received.content
    assert b"\r\nDate: " in received.content
    assert b"@example.com>\r\n" in received.content.partition(b"\r\nMessage-ID: <")[2]
    assert sent.as_bytes() == before


def test_what_a_message_has_is_kept(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """From, Date and Message-ID of its own stay; sender and recipients may be given."""
    sent = message()
    sent["Date"], sent["Message-ID"] = "Mon, 23 Nov 2026 10:00:00 +0000", "<1@example.com>"
    with make_app(MAIL_DEFAULT_SENDER="default@example.com").app_context():
        mail.send(sent, "bounces@example.com", [SHE])
        mail.send(sent, recipients=SHE)
    assert [(m.sender, m.recipients) for m in server.messages] == [
        ("bounces@example.com", (SHE,)),
        (ME, (SHE,)),
    ]
    assert b"Date: Mon, 23 Nov 2026 10:00:00 +0000\r\n" in server.messages[0].content
    assert server.messages[0].content.count(b"Message-ID:") == 1
    assert b"default@" not in server.messages[0].content


@pytest.mark.parametrize(
    "default", ["Default <default@example.com>", ("Default", "default@example.com")]
)
def test_the_default_sender(
    server: SmtpServer, mail: Mail, make_app: MakeApp, default: str | tuple[str, str]
) -> None:
    """A message without From gets it, as Flask-Mail's do; text or a pair."""
    with make_app(MAIL_DEFAULT_SENDER=default).app_context():
        mail.send(message(sender=None))
    assert server.messages[0].sender == "default@example.com"
    assert b"From: Default <default@example.com>\r\n" in server.messages[0].content


def test_without_any_sender(mail: Mail, make_app: MakeApp) -> None:
    """It is an error that says what to do."""
    with make_app().app_context(), pytest.raises(ValidationError, match="From"):
        mail.send(message(sender=None))


def test_requests_and_threads_share_connections(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """20 requests one after the other use one connection; 40 from 4 threads at most two."""
    app = make_app(SMTPCONN={"pool": {"max_size": 2}})
    client = app.test_client()
    assert {client.get("/send").data for _ in range(20)} == {b"sent"}
    assert len(server.connections) == 1

    def requests(thread: int) -> None:
        for _ in range(10):
            app.test_client().get("/send")

    run_in_threads(4, requests)
    assert len(server.messages) == 60
    assert len(server.connections) <= 2


def test_forked_workers_have_connections_of_their_own(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """An application that is loaded and used before the fork works in each child."""
    app = make_app()
    app.test_client().get("/send")

    def worker() -> list[bytes]:
        return [app.test_client().get("/send").data for _ in range(3)]

    assert [in_child(worker) for _ in range(2)] == [str([b"sent"] * 3)] * 2
    assert len(server.messages) == 7
    assert len(server.connections) == 3


def test_several_applications(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """One extension serves them; equal settings share a pool, others do not."""
    with SmtpServer() as other:
        first, second = make_app(), make_app()
        third = make_app(MAIL_PORT=other.port)
        pools: list[ConnectionPool] = []
        for app in (first, second, third):
            with app.app_context():
                mail.send(message())
                pools.append(mail.pool)
        assert pools[0] is pools[1]
        assert pools[0] is not pools[2]
        assert (len(server.messages), len(other.messages)) == (2, 1)
        pools[2].close()


def test_outside_of_any_application(server: SmtpServer, make_app: MakeApp) -> None:
    """The application that was given at once counts; without one it is a RuntimeError."""
    make_app()
    with pytest.raises(RuntimeError, match="no current application"):
        Mail().send(message())
    with Flask("other").app_context(), pytest.raises(RuntimeError, match="was not set up"):
        Mail().send(message())
    app = Flask("own")
    app.config["MAIL_URL"] = server.url
    mail = Mail(app)
    assert mail.send(message()) is not None
    mail.pool.close()


def test_connect(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """``with mail.connect() as connection`` sends many, over one connection."""
    with make_app().app_context(), mail.connect() as connection:
        assert len(server.connections) == 1
        for _ in range(5):
            connection.send(message())
        connection.send(message(), ("Bounces", "bounces@example.com"))
    assert len(server.messages) == 6
    assert server.messages[5].sender == "bounces@example.com"
    assert len(server.connections) == 1


# --- Errors ---------------------------------------------------------------------------------------


def test_a_server_that_is_down(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """An OSError and an SMTPException, from send and already from connect."""
    app = make_app()
    server.stop()
    with app.app_context():
        with pytest.raises(ConnectionError), mail.connect():
            raise AssertionError("never reached")
        with pytest.raises(smtplib.SMTPException), mail.record_messages() as outbox:
            mail.send(message())
    assert outbox == []


def test_refusals(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """Some refused: in the result; all refused: smtplib's error; over LMTP the same."""
    server.fault("RCPT", reply="550 5.1.1 no", match=SHE, times=None)
    with make_app().app_context():
        result = mail.send(message(f"{YOU}, {SHE}"))
        assert result is not None
        assert [str(r.recipient) for r in result.rejected_recipients] == [SHE]
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            mail.send(message(SHE))
    with SmtpServer(protocol="LMTP") as lmtp:
        lmtp.fault("CONTENT", reply="552 5.2.2 full")
        app = make_app(MAIL_URL=lmtp.url, MAIL_SERVER=None, MAIL_PORT=None)
        with app.app_context():
            with pytest.raises(AllRecipientsFailedError, match="full"):
                mail.send(message())
            mail.pool.close()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"MAIL_USE_TLS": True, "MAIL_USE_SSL": True}, "MAIL_USE_TLS/MAIL_USE_SSL"),
    ({"SMTPCONN": "smtp://h"}, "SMTPCONN is a dict"),
    ({"MAIL_SERVER": "smtp://h"}, "MAIL_SERVER is a name .* goes into MAIL_URL"),
    ({"MAIL_URL": "smtp://other.example"}, "or the URL"),
    ({"SMTPCONN": {"pool": {"max_sise": 1}}}, "max_sise"),
    ({"SMTPCONN": {"colour": "red"}}, "colour"),
    ({"MAIL_PORT": "smtp"}, "MAIL_PORT is a number"),
    ({"MAIL_MAX_EMAILS": "many"}, "MAIL_MAX_EMAILS is a number"),
    ({"MAIL_SUPPRESS_SEND": "perhaps"}, "MAIL_SUPPRESS_SEND is True or False"),
    ({"SMTPCONN": {"max_size": 3}}, "max_size belongs in 'pool'"),
]


@pytest.mark.parametrize(("config", "text"), WRONG, ids=[text for _, text in WRONG])
def test_settings_that_cannot_be(make_app: MakeApp, config: dict[str, Any], text: str) -> None:
    """They are a ValueError when the application is set up."""
    with pytest.raises(ValueError, match=text):
        make_app(**config)


# --- Settings -------------------------------------------------------------------------------------


def test_the_settings_of_flask_mail(certificates: Certificates) -> None:
    """Every name means what it means there; SMTPCONN has what it has no name for."""
    app = Flask("app")
    app.config.update(
        MAIL_SERVER="mx.example.com",
        MAIL_USE_TLS=True,
        MAIL_USERNAME="user",
        MAIL_PASSWORD="password",
        MAIL_TIMEOUT=7,
        MAIL_MAX_EMAILS=10,
        MAIL_SSL_CERTFILE=str(certificates.client_file),
        MAIL_SSL_KEYFILE=str(certificates.client_key_file),
        SMTPCONN={"ehlo_domain": "me.example", "pool": {"max_size": 2}},
    )
    pool = Mail(app).pool
    config = pool.config
    assert (config.host, config.port, config.tls_mode) == ("mx.example.com", 587, TlsMode.STARTTLS)
    assert config.credentials == PasswordCredentials("user", "password")
    assert (config.timeout, config.ehlo_domain) == (7, "me.example")
    assert config.tls_context is not None
    assert pool.stats().max_size == 2
    del app.config["SMTPCONN"]
    assert Mail(app).pool is not pool


def test_without_settings_it_is_this_machine() -> None:
    """As in Flask-Mail: 127.0.0.1, port 25, in clear."""
    config = Mail(Flask("app")).pool.config
    assert (config.host, config.port, config.tls_mode) == ("127.0.0.1", 25, TlsMode.NONE)


def test_a_password_from_the_environment(server: SmtpServer, mail: Mail) -> None:
    """A URL in one setting, user name and password in others."""
    with SmtpServer(users={"user": "p@ss"}, require_auth=True) as strict:
        app = Flask("app")
        app.config.update(MAIL_URL=strict.url, MAIL_USERNAME="user", MAIL_PASSWORD="p@ss")
        mail.init_app(app)
        with app.app_context():
            mail.send(message())
            mail.pool.close()
        assert strict.messages[0].user == "user"


# --- Suppressing and recording --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "arrives"),
    [
        ({"TESTING": True}, False),
        ({"MAIL_SUPPRESS_SEND": True}, False),
        ({"TESTING": True, "MAIL_SUPPRESS_SEND": False}, True),
        ({}, True),
    ],
    ids=str,
)
def test_nothing_leaves_while_testing(
    server: SmtpServer, mail: Mail, make_app: MakeApp, config: dict[str, bool], arrives: bool
) -> None:
    """Under TESTING or MAIL_SUPPRESS_SEND nothing is connected to, and all is recorded."""
    with make_app(**config).app_context(), mail.record_messages() as outbox:
        result = mail.send(message())
        with mail.connect() as connection:
            connection.send(message())
    assert [m["Subject"] for m in outbox if isinstance(m, EmailMessage)] == ["hello"] * 2
    assert (result.response.code, result.accepted) == (250, (YOU,))
    assert ("Not sent" in str(result.response)) is not arrives
    assert len(server.messages) == 2 * arrives
    assert len(server.connections) == arrives


def test_testing_may_be_set_late(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """Flask-Mail reads it when it is set up, and then sends real mail; here nothing leaves."""
    app = make_app()
    app.config["TESTING"] = True
    with mail.record_messages() as outbox:
        assert app.test_client().get("/send").data == b"kept"
    assert len(outbox) == 1
    assert server.connections == []


def test_suppressed_messages_are_checked(mail: Mail, make_app: MakeApp) -> None:
    """What could not be sent fails in tests too."""
    with make_app(TESTING=True).app_context(), mail.record_messages() as outbox:
        with pytest.raises(ValidationError):
            mail.send(message("no address"))
        with pytest.raises(ValidationError):
            mail.send(message(), "me@example.com\r\nRSET")
    assert outbox == []


def test_recording(mail: Mail, make_app: MakeApp) -> None:
    """It records what is sent inside its block, in every thread, also in blocks within blocks."""
    app = make_app(TESTING=True)
    dispatched: list[object] = []

    def receive(sender: Flask, message: object) -> None:
        dispatched.append((sender, message))

    def request(thread: int = 0) -> None:
        app.test_client().get("/send")

    with email_dispatched.connected_to(receive), mail.record_messages() as outer:
        run_in_threads(3, request)
        with mail.record_messages() as inner:
            request()
        request()
    request()
    assert (len(outer), len(inner), len(dispatched)) == (5, 1, 5)
    assert dispatched[0] == (app, outer[0])


# --- The messages of Flask-Mail -------------------------------------------------------------------


def test_the_messages_of_flask_mail(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """They are sent as they are: default sender, pairs as addresses, Bcc, attachments."""
    with make_app(MAIL_DEFAULT_SENDER=("Me", ME)).app_context():
        sent = flask_mail.Message(
            "grüße", [("Yöu", YOU)], "Hello!", bcc=["hidden@example.net"], cc=[f"She <{SHE}>"]
        )
        sent.attach("data.bin", "application/octet-stream", b"\x00\x01")
        with mail.record_messages() as outbox:
            mail.send(sent)
            with mail.connect() as connection:
                sent.send(connection)  # type: ignore[arg-type]
    assert outbox == [sent, sent]
    received = server.messages[0]
    assert received.sender == ME
    assert sorted(received.recipients) == ["hidden@example.net", SHE, YOU]
    assert b"hidden" not in received.content
    assert b"data.bin" in received.content
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("person", "field"),
    [
        ("[Shop] Support <one@example.com>", '"[Shop] Support" <one@example.com>'),
        (("[Shop] Support", "one@example.com"), '"[Shop] Support" <one@example.com>'),
        ("[Läden] <one@example.com>", '"[Läden]" <one@example.com>'),
        ("Dr. Who (the) <one@example.com>", '"Dr. Who (the)" <one@example.com>'),
        ("Läden <one@example.com>", "Läden <one@example.com>"),
        ("one@example.com", "one@example.com"),
    ],
)
def test_names_that_flask_mail_cannot_read(
    server: SmtpServer, mail: Mail, make_app: MakeApp, person: Any, field: str
) -> None:
    """Flask-Mail makes an empty From of a name in brackets; the fields name who gets it."""
    message = flask_mail.Message(
        "hello", [person], "Hello!", sender=person, cc=[person], reply_to=_as_text(person)
    )
    with make_app().app_context():
        mail.send(message)
    (stored,) = server.messages
    assert (stored.sender, set(stored.recipients)) == ("one@example.com", {"one@example.com"})
    read = email.message_from_bytes(stored.content, policy=email.policy.default)
    for name in ("From", "To", "Cc", "Reply-To"):
        assert str(read[name]) == field
    assert message.sender in (person, _as_text(person))


@pytest.mark.parametrize("old", [False, True], ids=["email", "flask_mail"])
@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("Example.com <one@example.com>", "one@example.com"),
        ("Acme Inc. <one@example.com>", "one@example.com"),
        ("Jane Q. Public <one@example.com>", "one@example.com"),
        ("one..two@docomo.example", '"one..two"@docomo.example'),
        ("One <one.@docomo.example>", '"one."@docomo.example'),
        ("one@under_score.example", "one@under_score.example"),
        (f"{'l' * 65}@example.com", f"{'l' * 65}@example.com"),
        (" one@example.com\t", "one@example.com"),
    ],
)
def test_addresses_that_are_in_use(
    server: SmtpServer, mail: Mail, make_app: MakeApp, written: str, address: str, old: bool
) -> None:
    """As sender and as recipient, in the messages of both packages; and postmaster."""
    with make_app().app_context():
        for recipient in (written, "postmaster"):
            if old:
                mail.send(flask_mail.Message("hi", [recipient], "Hi!", sender=written))
            else:
                mail.send(message(recipient, written))
    assert [each.sender for each in server.messages] == [address] * 2
    assert [each.recipients for each in server.messages] == [(address,), ("postmaster",)]


def test_a_url_in_a_header_of_flask_mails_stays_whole(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """However long; no encoded word stands in a structured field (RFC 2047 5, RFC 8058)."""
    url, ids = f"<https://example.com/{'u' * 120}>", f"<{'i' * 90}@example.com>"
    headers = {"List-Unsubscribe": url, "References": ids, "Bcc": "hidden@example.net"}
    sent = flask_mail.Message("hä", [YOU], "x" * 3000, sender=ME, extra_headers=headers)
    with make_app().app_context():
        mail.send(sent)
    (received,) = server.messages
    assert f"List-Unsubscribe: {url}\r\n".encode() in received.content
    assert received.email["References"] == ids
    assert received.email["Subject"] == "hä"
    assert max(map(len, received.content.split(b"\r\n"))) <= 998
    assert b"hidden" not in received.content


def test_a_flask_mail_message_may_write_its_own_bytes(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """As packages that sign messages do."""

    class Signed(flask_mail.Message):
        def as_bytes(self) -> bytes:
            return b"Signed: yes\r\n" + bytes(super().as_bytes())

    with make_app().app_context():
        mail.send(Signed("hi", [YOU], "Hi!", sender=ME))
    assert server.messages[0].email["Signed"] == "yes"


def _as_text(person: Any) -> str:
    return person if isinstance(person, str) else f"{person[0]} <{person[1]}>"


@pytest.mark.parametrize("testing", [True, False])
@pytest.mark.parametrize("address", ["jürgen@example.com", "Jürgen <jürgen@bücher.example>"])
def test_an_address_that_flask_mail_cannot_write(
    server: SmtpServer, mail: Mail, make_app: MakeApp, address: str, testing: bool
) -> None:
    """Flask-Mail's message raises; an EmailMessage to that address is sent."""
    theirs = flask_mail.Message("hi", [address], "Hi!", sender=ME)
    with make_app(TESTING=testing).app_context():
        with pytest.raises(ValidationError, match="give an EmailMessage"):
            mail.send(theirs)
        mail.send(message(address))
    assert len(server.messages) == (0 if testing else 1)


def test_mechanisms_of_a_login(mail: Mail, make_app: MakeApp) -> None:
    """Those of SMTPCONN, in that order and no others."""
    with SmtpServer(users={"app": "s3cret"}) as server:
        app = make_app(MAIL_USERNAME="app", MAIL_PASSWORD="s3cret", MAIL_PORT=server.port)
        app.config["SMTPCONN"] = {"mechanisms": "LOGIN,PLAIN"}
        with app.app_context():
            mail.send(message())
        assert [c for c in server.connections[0].commands if "AUTH" in c] == ["AUTH LOGIN"]


@pytest.mark.parametrize("testing", [True, False])
def test_a_reply_to_that_is_no_address(mail: Mail, make_app: MakeApp, testing: bool) -> None:
    """It would be empty, and answers would go to the sender."""
    reply_to = "John @ Home <john@example.com>"
    message = flask_mail.Message("hi", [YOU], "Hi!", sender=ME, reply_to=reply_to)
    with make_app(TESTING=testing).app_context(), pytest.raises(ValidationError):
        mail.send(message)


def test_send_message_makes_a_message_of_flask_mail(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """The shortcut of Flask-Mail, on the extension and on what connect returns."""
    with make_app(MAIL_DEFAULT_SENDER=ME).app_context():
        mail.send_message("one", recipients=[YOU], body="Hello!")
        with mail.connect() as connection:
            connection.send_message(subject="two", recipients=[SHE], body="Hello!")
    assert [(m.sender, m.recipients) for m in server.messages] == [(ME, (YOU,)), (ME, (SHE,))]
    assert b"Subject: two\r\n" in server.messages[1].content


def test_messages_of_flask_mail_that_are_refused(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """Line breaks in header fields, and unchecked options."""
    with make_app(MAIL_DEFAULT_SENDER=ME).app_context():
        for wrong in (
            flask_mail.Message("hello\r\nBcc: x@example.com", [YOU], "Hello!"),
            flask_mail.Message("hello", [YOU], "Hello!", mail_options=["BODY=8BITMIME"]),
            flask_mail.Message("hello", ["you@example.net\nRSET"], "Hello!"),
            flask_mail.Message("hello", [], "Hello!"),
        ):
            with pytest.raises(ValidationError):
                mail.send(wrong)
    assert server.messages == []


def test_beside_flask_mail(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """An application that has Flask-Mail too keeps it."""
    app = make_app()
    theirs = flask_mail.Mail(app)
    mail.init_app(app)
    assert app.extensions["mail"] is theirs.state
    app.test_client().get("/send")
    assert len(server.messages) == 1


# --- Where Flask-Mail stood -----------------------------------------------------------------------


def test_the_state_of_flask_mail(server: SmtpServer, make_app: MakeApp) -> None:
    """``app.extensions["mail"]`` sends, and its attributes may be read and set."""
    app = make_app(MAIL_DEFAULT_SENDER=ME, MAIL_MAX_EMAILS="50", MAIL_DEBUG=None)
    state = app.extensions["mail"]
    assert (state.server, state.port, state.app) == (server.host, server.port, app)
    assert (state.suppress, state.debug, state.max_emails) == (False, 0, 50)
    assert (state.use_tls, state.use_ssl, state.ascii_attachments) == (False, False, False)
    with app.app_context():
        assert state.send(message(sender=None)).response.code == 250
        state.send_message("one", recipients=[YOU], body="Hello!")
        with state.connect() as connection, state.record_messages() as outbox:
            connection.send(message())
            assert connection.num_emails == 1
            assert connection.host.sendmail(ME, [YOU], b"Subject: s\r\n\r\nb\r\n") == {}
        state.suppress = True
        state.send(message())
        state.suppress = False
        state.default_sender = SHE
        state.send(message(sender=None))
    assert len(outbox) == 1
    assert [m.sender for m in server.messages] == [ME, ME, ME, ME, SHE]
    with pytest.raises(AttributeError):
        _ = state.colour


def test_setting_the_server_of_a_state(server: SmtpServer, make_app: MakeApp) -> None:
    """The next mail goes there."""
    app = make_app()
    with SmtpServer() as other, app.app_context():
        state = app.extensions["mail"]
        state.port = other.port
        state.send(message())
        assert len(other.messages) == 1
        state.pool().close()
        del state.port
    assert server.messages == []


def test_attributes_and_init_app_of_mail(server: SmtpServer) -> None:
    """`Mail.state` is what init_app returns; what it has is an attribute of `Mail` too."""
    app = Flask("app")
    app.config.update(MAIL_SERVER=server.host, MAIL_PORT=server.port, MAIL_DEFAULT_SENDER=ME)
    mail = Mail(app)
    assert mail.state is app.extensions["mail"]
    assert mail.init_app(app) is not None
    assert (mail.app, mail.default_sender, mail.suppress) == (app, ME, False)
    assert Mail().state is None
    copied = copy.copy(mail)
    assert copied.server == server.host
    with pytest.raises(AttributeError):
        _ = mail.colour  # type: ignore[attr-defined]
    with app.app_context():
        other = mail.init_mail({"MAIL_SERVER": "mx.example.com"}, debug=True, testing=True)
        assert (other.server, other.debug, other.suppress) == ("mx.example.com", 1, True)


def test_connections_count(mail: Mail, make_app: MakeApp) -> None:
    """``num_emails`` begins again at MAIL_MAX_EMAILS, which the environment may give."""
    app = make_app(TESTING=True, MAIL_MAX_EMAILS="3")
    with app.app_context(), mail.connect() as connection:
        assert connection.host is None
        counts = []
        for _ in range(4):
            connection.send(message())
            counts.append(connection.num_emails)
    assert counts == [1, 2, 0, 1]


def test_false_from_the_environment_is_no(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """For what is either so or not; "0" emails are no limit."""
    app = make_app(MAIL_SUPPRESS_SEND="False", MAIL_USE_TLS="0", MAIL_DEBUG="", MAIL_MAX_EMAILS="0")
    with app.app_context():
        assert (mail.send(message()).response.code, mail.max_emails) == (250, None)
        assert mail.use_tls is False
    assert len(server.messages) == 1


def test_the_signal_of_flask_mail(mail: Mail, make_app: MakeApp) -> None:
    """A receiver that is connected to it, as its own record_messages is, sees the mail too."""
    app = make_app(TESTING=True, MAIL_DEFAULT_SENDER=ME)
    theirs = flask_mail.Mail()
    with app.app_context(), theirs.record_messages() as outbox, Mail().record_messages() as others:
        mail.send(message())
        mail.send_message("one", recipients=[YOU], body="Hello!")
    assert len(outbox) == len(others) == 2


@pytest.mark.parametrize("suppress", [True, False])
def test_a_message_is_checked_the_same(
    server: SmtpServer, mail: Mail, make_app: MakeApp, *, suppress: bool
) -> None:
    """Suppressed or not: no recipient, no sender, a line break; by the errors of Flask-Mail too."""
    import smtpconn.contrib.flask as ours

    with make_app(TESTING=suppress).app_context(), mail.record_messages() as outbox:
        nobody = message()
        del nobody["To"]
        for wrong in (
            nobody,
            message(sender=None),
            flask_mail.Message("s", [], "b", sender=ME),
            flask_mail.Message("s", [YOU], "b"),
        ):
            with pytest.raises(AssertionError) as caught:
                mail.send(wrong)
            assert isinstance(caught.value, ValidationError)
        for wrong in (
            flask_mail.Message("s\r\nBcc: x@example.com", [YOU], "b", sender=ME),
            flask_mail.Message("s", [YOU], "b", sender=ME, reply_to="a@example.com\nX: y"),
        ):
            with pytest.raises(flask_mail.BadHeaderError) as bad:
                mail.send(wrong)
            assert isinstance(bad.value, ours.BadHeaderError)
            assert isinstance(pickle.loads(pickle.dumps(bad.value)), ours.BadHeaderError)
        with pytest.raises(ValidationError):
            mail.send(flask_mail.Message("s", [YOU], "b", sender=ME, mail_options=["X"]))
    assert outbox == []
    assert server.messages == []


def test_the_date_of_a_message(mail: Mail, make_app: MakeApp) -> None:
    """A message of Flask-Mail has one once it was sent."""
    with make_app(TESTING=True).app_context():
        sent = flask_mail.Message("s", [YOU], "b", sender=ME)
        mail.send(sent)
    assert sent.date is not None


def test_lazy_addresses(server: SmtpServer, mail: Mail, make_app: MakeApp) -> None:
    """A LocalProxy looks like a str but is none; as sender, recipient, and in a pair."""
    me, you = LocalProxy(lambda: ME), LocalProxy(lambda: YOU)
    with make_app(MAIL_DEFAULT_SENDER=me).app_context():
        mail.send(message(sender=None), me, [you])  # type: ignore[arg-type,list-item]
        mail.send(message(), me, you)  # type: ignore[arg-type]
        mail.send(flask_mail.Message("s", [you, ("She", LocalProxy(lambda: SHE))], "b"))  # type: ignore[list-item]
    assert [(m.sender, sorted(m.recipients)) for m in server.messages] == [
        (ME, [YOU]),
        (ME, [YOU]),
        (ME, [SHE, YOU]),
    ]


def test_messages_of_the_older_email_package(
    server: SmtpServer, mail: Mail, make_app: MakeApp
) -> None:
    """MIMEText and MIMEMultipart, which old programs make."""
    text = MIMEText("grüße", "plain", "utf-8")
    text["Subject"], text["To"] = "text", YOU
    several = MIMEMultipart()
    several["Subject"], several["To"] = "several", SHE
    several.attach(MIMEText("one"))
    with make_app(MAIL_DEFAULT_SENDER=ME).app_context(), mail.record_messages() as outbox:
        mail.send(text)
        mail.send(several)
    assert [m.recipients for m in server.messages] == [(YOU,), (SHE,)]
    assert all(
        b"\r\nDate: " in m.content and b"From: " + ME.encode() in m.content for m in server.messages
    )
    assert len(outbox) == 2
    assert "From" not in text


def test_debug_shows_the_session_without_secrets(
    mail: Mail, capsys: pytest.CaptureFixture[str]
) -> None:
    """MAIL_DEBUG, as Flask-Mail has it, on standard error."""
    wire = logging.getLogger("smtpconn.wire")
    level, handlers, propagate = wire.level, list(wire.handlers), wire.propagate
    wire.propagate = False
    try:
        with SmtpServer(users={"app": "s3cret"}, require_auth=True) as server:
            app = Flask("app")
            app.config.update(MAIL_SERVER=server.host, MAIL_PORT=server.port, MAIL_DEBUG="1")
            app.config.update(MAIL_USERNAME="app", MAIL_PASSWORD="s3cret")
            mail.init_app(app)
            with app.app_context():
                mail.send(message())
                mail.pool.close()
        shown = capsys.readouterr().err
        assert f"RCPT TO:<{YOU}>" in shown
        assert "s3cret" not in shown
        assert "czNjcmV0" not in shown
    finally:
        wire.setLevel(level)
        wire.propagate = propagate
        for handler in set(wire.handlers) - set(handlers):
            wire.removeHandler(handler)


# --- A real server --------------------------------------------------------------------------------


def test_postfix(postfix: Postfix, mail: Mail, certificates: Certificates) -> None:
    """Requests that send over STARTTLS: stored once each, over one connection."""
    app = Flask("app")
    app.config.update(
        MAIL_URL=f"smtp+starttls://localhost:{postfix.port}",
        SMTPCONN={"tls_context": certificates.client_context()},
    )
    mail.init_app(app)
    app.add_url_rule("/send", "send", lambda: str(mail.send(message("alice@example.test"))))
    client = app.test_client()
    for _ in range(10):
        assert b"queued as" in client.get("/send").data
    assert len(postfix.wait_for_stored(10, user="alice")) == 10
    with app.app_context():
        assert mail.pool.stats().connects == 1
        mail.pool.close()
