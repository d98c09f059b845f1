"""Each part of the protocol against a real server that offers it: Postfix, Exim, Dovecot, Cyrus,
OpenSMTPD and smtp-sink. What they store is compared with what was sent, byte by byte.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    AuthMechanism,
    BodyType,
    ConnectionClosedError,
    ConnectionPool,
    DsnNotify,
    DsnRet,
    LmtpSendResult,
    MailFromParams,
    OAuthCredentials,
    PasswordCredentials,
    PermanentError,
    ProtocolError,
    RcptToParams,
    ServerConfig,
    SmtpConnection,
    SmtpUtf8RequiredError,
    TlsMode,
    TransientError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.net.deadline import Deadline
from tests.realservers import cyrus as cyrus_module
from tests.realservers.certificates import Certificates
from tests.realservers.cyrus import Cyrus
from tests.realservers.dovecot import Dovecot, oauth_token
from tests.realservers.exim import Exim
from tests.realservers.fixtures import require
from tests.realservers.opensmtpd import OpenSMTPD
from tests.realservers.postfix import Postfix
from tests.realservers.smtpsink import SmtpSink
from tests.support.numbered_messages import (
    ALICE,
    BOB,
    CAROL,
    NOBODY,
    SENDER,
    as_stored,
    config,
    identities,
    message,
    send_until_known,
)
from tests.support.waiting import wait_until

BODIES = {
    "dots": b".\r\n..\r\n.leading\r\n\r\n.",
    "long line": b"x" * 100_000 + b"\r\n",
    "no final line end": b"the end",
    "bare line feeds": b"one\ntwo\n.\n",
    "eight bits": "gr\u00fc\u00dfe\r\n".encode(),
}


def normalised(text: bytes) -> bytes:
    """The text with CRLF at every line's end."""
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return (lines if lines.endswith(b"\n") else lines + b"\n").replace(b"\n", b"\r\n")


# LMTP: Dovecot, which stores bytes as they come (mail_save_crlf)


@pytest.fixture(params=["starttls", "implicit", "unix"])
def lmtp(
    request: pytest.FixtureRequest, dovecot: Dovecot, certificates: Certificates
) -> Iterator[SmtpConnection]:
    """An LMTP connection to Dovecot, by each way there is."""
    context = certificates.client_context()
    if request.param == "unix":
        path = str(dovecot.socket_path)
        made = SmtpConnection.connect_lmtp(path, 0, TlsMode.NONE, 10)
    elif request.param == "implicit":
        made = SmtpConnection.connect_lmtp_with_tls_config(
            "localhost", dovecot.tls_port, TlsMode.IMPLICIT, 10, context
        )
    else:
        made = SmtpConnection.connect_lmtp(
            "localhost", dovecot.port, TlsMode.STARTTLS, 10, tls_context=context
        )
    with made:
        yield made


Deliver = Callable[..., LmtpSendResult]


def by_data(connection: SmtpConnection) -> Deliver:
    """With DATA."""
    return connection.send_lmtp


def by_bdat(connection: SmtpConnection) -> Deliver:
    """With BDAT."""
    return connection.send_lmtp_bdat


@pytest.mark.parametrize("way", [by_data, by_bdat])
def test_each_recipient_has_its_own_result(
    lmtp: SmtpConnection, way: Callable[[SmtpConnection], Deliver]
) -> None:
    """A good, an unknown, a full and a repeated mailbox, in the order given."""
    result = way(lmtp)(SENDER, [ALICE, NOBODY, CAROL, ALICE], message("one"))
    codes = [(str(r.recipient), r.response and r.response.code) for r in result.results]
    assert codes == [(ALICE, 250), (CAROL, 552), (ALICE, 250)]
    assert [r.delivered for r in result.results] == [True, False, True]
    assert [str(r.recipient) for r in result.rejected_recipients] == [NOBODY]
    with pytest.raises(AllRecipientsFailedError):
        way(lmtp)(SENDER, [NOBODY], message("two"))
    assert way(lmtp)(SENDER, [BOB], message("three")).results[0].delivered


@pytest.mark.parametrize("way", [by_data, by_bdat])
def test_dovecot_stores_every_byte(
    dovecot: Dovecot, way: Callable[[SmtpConnection], Deliver]
) -> None:
    """Dots, long lines, eight bits and missing line ends: byte for byte."""
    with SmtpConnection.connect_lmtp(dovecot.host, dovecot.port, TlsMode.NONE, 10) as connection:
        for name, body in BODIES.items():
            sent = message(name.replace(" ", "-"), body)
            assert way(connection)(SENDER, [ALICE], sent).results[0].delivered
    stored = dovecot.wait_for_stored(len(BODIES), user="alice")
    for name, body in BODIES.items():
        sent = normalised(message(name.replace(" ", "-"), body))
        assert any(text.endswith(sent) for text in stored), name


def test_a_stream_in_several_chunks(dovecot: Dovecot) -> None:
    """An iterable of more than two megabytes arrives whole, with lines cut anywhere."""
    sent = message("stream", b"".join(b".line %d\r\n" % n for n in range(200_000)))
    pieces = (sent[start : start + 99_991] for start in range(0, len(sent), 99_991))
    with SmtpConnection.connect_lmtp(dovecot.host, dovecot.port, TlsMode.NONE, 10) as connection:
        assert connection.send_lmtp_bdat(SENDER, [ALICE], pieces).results[0].delivered
    (stored,) = dovecot.wait_for_stored(1, user="alice")
    assert stored.endswith(sent)


def test_a_pool_over_a_unix_socket(dovecot: Dovecot) -> None:
    """The URL names the path; results are those of LMTP."""
    with ConnectionPool(f"lmtp+unix://{dovecot.socket_path}") as pool:
        result = pool.send(SENDER, [ALICE, NOBODY], message("one"))
    assert isinstance(result, LmtpSendResult)
    assert [r.delivered for r in result.results] == [True]


def test_a_reload_is_no_error(dovecot: Dovecot) -> None:
    """Dovecot says 421 to idle connections when it reloads; the pool makes new ones silently."""
    # Not the UNIX socket: that one is away for a moment, and there would be nothing to connect to.
    with ConnectionPool(f"lmtp://{dovecot.host}:{dovecot.port}") as pool:
        pool.send(SENDER, ALICE, message("one"))
        with pool.connection() as connection:
            connection.noop()  # a process that is not done with a message keeps its connection
        dovecot.reload()
        # Before this, the old process still takes messages, and may answer one of them with 421.
        wait_until(lambda: "Shutting down" in dovecot.logs())
        for number in range(3):
            pool.send(SENDER, ALICE, message(f"after-{number}"))
        assert pool.stats().failed_messages == 0
    assert len(dovecot.wait_for_stored(4, user="alice")) == 4


def test_a_message_struck_by_a_reload_is_never_reported_wrongly(dovecot: Dovecot) -> None:
    """Dovecot may answer 421 to content that it stores while it shuts down: that is unknown."""
    delivered, unknown = set[str](), set[str]()
    with ConnectionPool(f"lmtp://{dovecot.host}:{dovecot.port}") as pool:
        for number in range(32):
            send_until_known(pool, f"reload-{number}", delivered, unknown)
            if number % 4 == 0:
                dovecot.reload()
    stored = identities(dovecot.wait_for_stored(len(delivered), user="alice"))
    assert stored.total() == len(stored)
    assert delivered <= set(stored) <= delivered | unknown


def test_the_other_protocols_sends_are_refused(dovecot: Dovecot, postfix: Postfix) -> None:
    """SMTP's on LMTP and LMTP's on SMTP: an error, and the connection is as it was."""
    with SmtpConnection.connect_lmtp(dovecot.host, dovecot.port, TlsMode.NONE, 10) as connection:
        for smtp in (connection.send, connection.send_bdat):
            with pytest.raises(ProtocolError, match="send_lmtp"):
                smtp(SENDER, [ALICE], message("never"))
        assert connection.send_lmtp(SENDER, [ALICE], message("one")).results[0].delivered
    with SmtpConnection.connect(postfix.host, postfix.port, TlsMode.NONE, 10) as connection:
        for deliver in (connection.send_lmtp, connection.send_lmtp_bdat):
            with pytest.raises(ProtocolError, match="use send"):
                deliver(SENDER, [ALICE], message("never"))
        connection.send(SENDER, [ALICE], message("one"))


def test_dovecot_submission(dovecot_submission: Dovecot, postfix: Postfix) -> None:
    """Log in, send, be refused, send again: without RSET it would panic at the last."""
    server = dovecot_submission
    with SmtpConnection.connect(server.host, server.submission_port, TlsMode.NONE, 10) as c:
        c.auth_scram("alice", "wonderland")
        c.rehlo()
        assert c.capabilities.size_limit == 41943040
        c.send(SENDER, [ALICE], message("one"))
        with pytest.raises(AllRecipientsFailedError):
            c.send(SENDER, [NOBODY], message("never"))
        c.send_bdat(SENDER, [BOB], message("two"))
        c.send(SENDER, [BOB], message("three"))
    assert identities(postfix.wait_for_stored(3)) == {"one": 1, "two": 1, "three": 1}


# Postfix


def test_bdat_to_postfix(postfix: Postfix, certificates: Certificates) -> None:
    """Whole and in chunks, after refusals too; what is stored is what was sent."""
    sent = message("one", b".\r\n.dots are not stuffed\r\n")
    with config(postfix, certificates, TlsMode.STARTTLS).connect() as connection:
        assert connection.send_bdat(SENDER, [NOBODY, ALICE], sent).rejected_recipients
        with pytest.raises(AllRecipientsFailedError):
            connection.send_bdat(SENDER, [NOBODY], sent)
        big = message("two", b"x" * 70 * 40_000)
        connection.send_bdat(SENDER, [ALICE], iter([big[:1_500_000], big[1_500_000:]]))
        with pytest.raises(UnsupportedExtensionError, match="BINARYMIME"):
            connection.send_bdat(SENDER, [ALICE], sent, MailFromParams(body=BodyType.BINARYMIME))
    first, second = sorted(postfix.wait_for_stored(2), key=len)
    assert first.endswith(as_stored(sent))
    assert second.endswith(as_stored(big))


def test_bdat_needs_chunking(postfix: Postfix, certificates: Certificates) -> None:
    """A server that does not offer it is not tried."""
    server = config(postfix, certificates, TlsMode.NONE).replace(ignore_extensions=["CHUNKING"])
    with server.connect() as connection:
        with pytest.raises(UnsupportedExtensionError, match="CHUNKING"):
            connection.send_bdat(SENDER, [ALICE], message("never"))
        connection.send(SENDER, [ALICE], message("one"))


def test_internationalised_addresses(postfix: Postfix, certificates: Certificates) -> None:
    """SMTPUTF8 where offered; else A-labels for a domain, and an error for a local part."""
    with config(postfix, certificates, TlsMode.NONE).connect() as connection:
        connection.send("j\u00f6rg@example.test", [ALICE], message("one"))
    (stored,) = postfix.wait_for_stored(1)
    assert "Return-Path: <j\u00f6rg@example.test>".encode() in stored
    server = config(postfix, certificates, TlsMode.NONE).replace(ignore_extensions=["SMTPUTF8"])
    with server.connect() as connection:
        with pytest.raises(SmtpUtf8RequiredError):
            connection.send("j\u00f6rg@example.test", [ALICE], message("never"))
        connection.send("j@b\u00fccher.example", [BOB], message("two"))
    assert any(b"<j@xn--bcher-kva.example>" in text for text in postfix.wait_for_stored(2))


def test_delivery_status_notifications(postfix: Postfix, certificates: Certificates) -> None:
    """A report on success comes back to the sender, with the envelope's identifier in it."""
    mail = MailFromParams(ret=DsnRet.HDRS, envid="QQ+314=x")
    rcpt = [RcptToParams(DsnNotify.SUCCESS | DsnNotify.FAILURE, "rfc822;orig+inal@example.test")]
    with config(postfix, certificates, TlsMode.NONE).connect() as connection:
        connection.send_with_all_params(BOB, [ALICE], message("one"), mail, rcpt)
    (report,) = postfix.wait_for_stored(1, user="bob")
    assert b"Original-Envelope-Id: QQ+314=x" in report
    assert b"Original-Recipient: rfc822;orig+inal@example.test" in report


def test_questions(postfix: Postfix, certificates: Certificates) -> None:
    """Postfix does not say who exists, and knows neither EXPN nor HELP."""
    with config(postfix, certificates, TlsMode.NONE).connect() as connection:
        assert connection.vrfy(ALICE).code == 252
        for ask in (connection.expn, connection.help):
            assert ask("staff").code // 100 == 5
        connection.noop()


@pytest.mark.parametrize(
    "log_in",
    [
        lambda c: c.auth_plain("alice", "wonderland"),
        lambda c: c.auth_plain_with_authzid("alice", "alice", "wonderland"),
        lambda c: c.auth_login("alice", "wonderland"),
        lambda c: c.auth_cram_md5("alice", "wonderland"),
        lambda c: c.auth_scram("alice", "wonderland"),
        lambda c: c.auth_xoauth2("alice", oauth_token("alice")),
        lambda c: c.authenticate(PasswordCredentials("alice", "wonderland")),
        lambda c: c.authenticate(OAuthCredentials("alice", oauth_token("alice"))),
    ],
    ids=["PLAIN", "PLAIN authzid", "LOGIN", "CRAM-MD5", "SCRAM", "XOAUTH2", "password", "token"],
)
def test_logins(
    postfix_with_auth: Postfix, certificates: Certificates, log_in: Callable[[SmtpConnection], None]
) -> None:
    """Every mechanism of Dovecot's SASL that smtpconn has."""
    with config(postfix_with_auth, certificates, TlsMode.STARTTLS).connect() as connection:
        log_in(connection)
        assert connection.is_authenticated
        connection.send(SENDER, [ALICE], message("one"))


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_scram_by_its_name(
    postfix_with_auth: Postfix, certificates: Certificates, mechanism: str
) -> None:
    """Both hashes; and the wrong password is a refusal, not a broken server."""
    from smtpconn.auth.scram import Scram

    with config(postfix_with_auth, certificates, TlsMode.STARTTLS).connect() as connection:
        with pytest.raises(AuthError):
            connection._log_in(Scram(AuthMechanism(mechanism), "alice", "wrong"), Deadline(10))
        connection._log_in(Scram(AuthMechanism(mechanism), "alice", "wonderland"), Deadline(10))
        assert connection.is_authenticated


def test_bad_tokens(postfix_with_auth: Postfix, certificates: Certificates) -> None:
    """What is wrong with the token is in the error; a function is asked once for a better one."""
    asked: list[bool] = []

    def token(force_refresh: bool = False) -> str:
        asked.append(force_refresh)
        return oauth_token("alice") if force_refresh else oauth_token("alice") + "x"

    with config(postfix_with_auth, certificates, TlsMode.STARTTLS).connect() as connection:
        with pytest.raises(AuthError) as caught:
            connection.auth_xoauth2("alice", oauth_token("alice") + "x")
        assert '"status":"401"' in caught.value.server_error
        # This Dovecot wants a user in the header, which the bare form does not have.
        with pytest.raises(AuthError):
            connection.auth_oauthbearer(oauth_token("alice"))
        connection.authenticate(OAuthCredentials("alice", token))
        assert asked == [False, True]
        connection.send(SENDER, [ALICE], message("one"))


def email() -> EmailMessage:
    """A message of the email package with eight bits and a blind copy."""
    made = EmailMessage()
    made["From"] = f"Sender <{SENDER}>"
    made["To"] = f"Alice <{ALICE}>"
    made["Bcc"] = BOB
    made["Subject"] = "Gr\u00fc\u00dfe"
    made["Message-ID"] = "<one@client.example>"
    made.set_content("Gr\u00fc\u00dfe aus K\u00f6ln\n", cte="8bit")
    return made


@pytest.mark.parametrize("ignored", [(), ("8BITMIME", "SMTPUTF8")])
def test_messages_of_the_email_package(
    postfix: Postfix, certificates: Certificates, ignored: tuple[str, ...]
) -> None:
    """Envelope from the headers, no Bcc, eight bits or seven as the server can; the same text."""
    server = config(postfix, certificates, TlsMode.NONE).replace(ignore_extensions=ignored)
    made = email()
    with server.connect() as connection:
        connection.send_message(made)
    assert made["Bcc"] == BOB
    for user in ("alice", "bob"):
        (stored,) = postfix.wait_for_stored(1, user=user)
        parsed = BytesParser(policy=default).parsebytes(stored)
        assert isinstance(parsed, EmailMessage)
        assert parsed["Bcc"] is None
        assert parsed["Subject"] == "Gr\u00fc\u00dfe"
        assert parsed.get_content() == "Gr\u00fc\u00dfe aus K\u00f6ln\n"
        assert stored.isascii() == bool(ignored)


# Exim


def test_exim_knows_a_client_by_its_certificate(exim: Exim, certificates: Certificates) -> None:
    """EXTERNAL, and a message after it."""
    context = certificates.client_context(with_certificate=True)
    with SmtpConnection.connect(
        "localhost", exim.port, TlsMode.STARTTLS, 10, tls_context=context
    ) as connection:
        connection.auth_external()
        assert connection.is_authenticated
        connection.send(SENDER, [ALICE], message("one"))
    assert identities(exim.wait_for_stored(1)) == {"one": 1}


def test_exim_never_mixes_senders(exim: Exim, certificates: Certificates) -> None:
    """DATA and BDAT after a refusal each arrive under their own sender: RSET goes before them."""
    context = certificates.client_context()
    with SmtpConnection.connect(
        "localhost", exim.port, TlsMode.STARTTLS, 10, tls_context=context
    ) as connection:
        with pytest.raises(AllRecipientsFailedError):
            connection.send("first@client.example", [NOBODY], message("never"))
        connection.send("second@client.example", [ALICE], message("data"))
        with pytest.raises(AllRecipientsFailedError):
            connection.send_bdat("third@client.example", [NOBODY], message("never"))
        result = connection.send_bdat("fourth@client.example", [ALICE], message("bdat", b".\r\n"))
        assert len(result.response.lines) == 2
        rcpt = [RcptToParams(DsnNotify.NEVER)]
        connection.send_with_all_params(SENDER, [BOB], message("dsn"), None, rcpt)
    stored = exim.wait_for_stored(3)
    assert identities(stored) == {"data": 1, "bdat": 1, "dsn": 1}
    senders = {next(iter(identities([t]))): t.split(b"\n", 1)[0] for t in stored}
    assert b"<second@client.example>" in senders["data"]
    assert b"<fourth@client.example>" in senders["bdat"]


@pytest.mark.realserver
def test_a_stream_too_big_for_exim(certificates: Certificates) -> None:
    """It would run what does not fit as commands: it never gets it, and the next is delivered."""
    require(Exim)
    body = b"x" * 70 + b"\r\nRSET\r\nMAIL FROM:<evil@client.example>\r\n"
    with Exim(certificates, size_limit="2M") as exim:
        with SmtpConnection.connect(exim.host, exim.port, TlsMode.NONE, 10) as connection:
            pieces = (message("never", body * 1000) for _ in range(40))
            with pytest.raises(ValidationError, match="at most 2097152") as caught:
                connection.send_bdat(SENDER, [ALICE], pieces)
            assert not caught.value.may_have_been_delivered
            connection.send_bdat(SENDER, [ALICE], iter([message("one")]))
        assert identities(exim.wait_for_stored(1)) == {"one": 1}
        assert "evil" not in exim.logs()


def test_exim_keeps_the_connection_after_many_refusals(exim: Exim) -> None:
    """It ends a connection at the eleventh RSET too many; a good message goes over another one."""
    with ConnectionPool(f"smtp://{exim.host}:{exim.port}", max_size=1) as pool:
        for _ in range(14):
            with pytest.raises(AllRecipientsFailedError):
                pool.send(SENDER, [NOBODY], message("never"))
        pool.send(SENDER, [ALICE], message("one"))
        assert pool.stats().connects == 2
    assert identities(exim.wait_for_stored(1)) == {"one": 1}
    assert "too many nonmail commands" not in exim.logs()


def test_exim_without_a_certificate(exim: Exim) -> None:
    """CRAM-MD5, VRFY, EXPN and HELP."""
    with SmtpConnection.connect(exim.host, exim.port, TlsMode.NONE, 10) as connection:
        connection.auth_cram_md5("alice", "wonderland")
        assert connection.vrfy(ALICE).code == 250
        assert connection.help().code == 214
        assert connection.expn("staff").code // 100 == 5


# Cyrus


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_scram_with_channel_binding(
    cyrus: Cyrus, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    """SCRAM-SHA-256-PLUS under both versions of TLS; the wrong password is refused."""
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = version
    with SmtpConnection.connect_lmtp(
        "localhost", cyrus.auth_port, TlsMode.STARTTLS, 10, tls_context=context
    ) as connection:
        assert connection.capabilities.supports_auth("SCRAM-SHA-256-PLUS")
        user, password = cyrus_module.ADMIN
        with pytest.raises(AuthError):
            connection.auth_scram(user, password + "x")
        connection.auth_scram(user, password)
        assert connection.send_lmtp(SENDER, ["alice@example.test"], message("one")).results


def test_cyrus(cyrus: Cyrus) -> None:
    """DATA alone; NULs are refused before anything is sent."""
    with SmtpConnection.connect_lmtp(cyrus.host, cyrus.port, TlsMode.NONE, 10) as connection:
        with pytest.raises(UnsupportedExtensionError):
            connection.send_lmtp_bdat(SENDER, [ALICE], message("never"))
        with pytest.raises(ValidationError, match="NUL"):
            connection.send_lmtp(SENDER, [ALICE], message("nul", b"a\0b\r\n"))
        assert connection.send_lmtp(SENDER, [ALICE], message("one")).accepted == (ALICE,)


# OpenSMTPD and smtp-sink


def test_a_server_that_forbids_pipelining(opensmtpd: OpenSMTPD) -> None:
    """OpenSMTPD hangs up at the second command in a segment; it never sees one."""
    with SmtpConnection.connect(opensmtpd.host, opensmtpd.port, TlsMode.NONE, 10) as connection:
        connection.send(SENDER, [ALICE], message("one"))
        with pytest.raises(AllRecipientsFailedError):
            connection.send(SENDER, [NOBODY], message("never"))
        connection.send(SENDER, [ALICE, BOB], message("two"))
    assert identities(opensmtpd.wait_for_stored(3)) == {"one": 1, "two": 2}


@pytest.mark.realserver
@pytest.mark.parametrize(
    ("options", "kind", "phase"),
    [
        (("-f", "MAIL"), PermanentError, "mail"),
        (("-r", "MAIL"), TransientError, "mail"),
        (("-f", "RCPT"), AllRecipientsFailedError, "rcpt"),
        (("-r", "DATA"), TransientError, "data"),
        (("-r", "."), TransientError, "content"),
        (("-q", "RCPT"), ConnectionClosedError, "rcpt"),
        (("-Q", "MAIL"), TransientError, "mail"),
        (("-q", "."), ConnectionClosedError, "content"),
    ],
)
def test_faults_of_smtp_sink(options: tuple[str, ...], kind: type[Exception], phase: str) -> None:
    """Refused, told to go away or hung up on, at each command."""
    require(SmtpSink)
    with SmtpSink(*options) as sink:
        connection = SmtpConnection.connect(sink.host, sink.port, TlsMode.NONE, 10)
        with pytest.raises(kind) as caught:
            connection.send(SENDER, [ALICE], message("one"))
        error = caught.value
        assert getattr(error, "phase", None) == phase
        is_unknown = kind is ConnectionClosedError and phase == "content"
        assert getattr(error, "may_have_been_delivered", None) == is_unknown
        assert connection.is_open == (options[0] in ("-f", "-r"))
        connection.close()


@pytest.mark.realserver
def test_a_server_without_esmtp() -> None:
    """HELO, and no extension."""
    require(SmtpSink)
    with SmtpSink("-e") as sink:
        server = ServerConfig(sink.host, sink.port, TlsMode.NONE, timeout=10)
        with server.connect() as connection:
            assert connection.capabilities.extensions == ()
            connection.send(SENDER, [ALICE], message("one"))
