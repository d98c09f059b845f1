"""What each error is for smtplib, the socket and ssl: provoked on the wire, and as docs/errors.md
says."""

from __future__ import annotations

import ast
import errno
import importlib
import re
import smtplib
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

import smtpconn
from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    ConnectionClosedError,
    ConnectionPool,
    Envelope,
    PasswordCredentials,
    PermanentError,
    Phase,
    Pipelining,
    PoolTimeoutError,
    RetryableError,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    TlsMode,
    TransientError,
    TransportError,
)
from smtpconn.model.errors import variants
from smtpconn.testing import SmtpServer
from tests.support.error_classes import kind_of

ME, YOU, THEM = "me@example.com", "you@example.net", "them@example.net"
TEXT = b"Subject: hi\r\n\r\nHi\r\n"

SMTPLIB = (
    smtplib.SMTPConnectError,
    smtplib.SMTPHeloError,
    smtplib.SMTPSenderRefused,
    smtplib.SMTPRecipientsRefused,
    smtplib.SMTPDataError,
    smtplib.SMTPServerDisconnected,
    smtplib.SMTPAuthenticationError,
)

REFUSALS = [
    ("CONNECT", "554 5.7.1 no", PermanentError, smtplib.SMTPConnectError, Phase.GREETING),
    ("CONNECT", "421 4.3.2 busy", TransientError, smtplib.SMTPConnectError, Phase.GREETING),
    ("EHLO", "521 5.7.1 no", PermanentError, smtplib.SMTPHeloError, Phase.EHLO),
    ("EHLO", "451 4.7.1 later", TransientError, smtplib.SMTPHeloError, Phase.EHLO),
    ("EHLO", "421 4.7.1 later", TransientError, smtplib.SMTPHeloError, Phase.EHLO),
    ("MAIL", "550 5.1.8 no", PermanentError, smtplib.SMTPSenderRefused, Phase.MAIL),
    ("MAIL", "451 4.7.1 later", TransientError, smtplib.SMTPSenderRefused, Phase.MAIL),
    ("MAIL", "421 4.7.1 bye", TransientError, smtplib.SMTPSenderRefused, Phase.MAIL),
    ("RCPT", "550 5.1.1 no", AllRecipientsFailedError, smtplib.SMTPRecipientsRefused, Phase.RCPT),
    ("RCPT", "450 4.2.0 busy", AllRecipientsFailedError, smtplib.SMTPRecipientsRefused, Phase.RCPT),
    ("RCPT", "421 4.7.1 bye", TransientError, smtplib.SMTPRecipientsRefused, Phase.RCPT),
    ("DATA", "554 5.7.1 no", PermanentError, smtplib.SMTPDataError, Phase.DATA),
    ("DATA", "451 4.7.1 later", TransientError, smtplib.SMTPDataError, Phase.DATA),
    ("DATA", "421 4.7.1 bye", TransientError, smtplib.SMTPDataError, Phase.DATA),
    ("CONTENT", "554 5.7.1 no", PermanentError, smtplib.SMTPDataError, Phase.CONTENT),
    ("CONTENT", "452 4.3.1 full", TransientError, smtplib.SMTPDataError, Phase.CONTENT),
    ("CONTENT", "421 4.3.1 bye", TransientError, smtplib.SMTPDataError, Phase.CONTENT),
]


def ways(server: SmtpServer, pipelining: Pipelining) -> list[SmtpError]:
    """What each way of sending fails with."""
    config = ServerConfig(server.host, server.port, TlsMode.NONE, timeout=5, pipelining=pipelining)
    errors = []

    def connected() -> None:
        with SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, 5, pipelining=pipelining
        ) as connection:
            connection.send(ME, [YOU], TEXT)

    def pooled() -> None:
        with ConnectionPool(config) as pool:
            pool.send(ME, [YOU], TEXT)

    def many_pooled() -> None:
        with ConnectionPool(config) as pool:
            (outcome,) = pool.send_many([Envelope(ME, [YOU], TEXT)])
            if outcome.error is not None:
                raise outcome.error

    def many() -> None:
        with SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, 5, pipelining=pipelining
        ) as connection:
            (outcome,) = connection.send_many([Envelope(ME, [YOU], TEXT)])
            if outcome.error is not None:
                raise outcome.error

    for way in (connected, pooled, many_pooled, many):
        with pytest.raises(SmtpError) as caught:
            way()
        errors.append(caught.value)
    return errors


@pytest.mark.parametrize("pipelining", Pipelining)
@pytest.mark.parametrize(("step", "reply", "kind", "for_smtplib", "phase"), REFUSALS)
def test_a_refusal_is_what_smtplib_has_for_its_phase(
    step: str,
    reply: str,
    kind: type[SmtpError],
    for_smtplib: type[smtplib.SMTPException],
    phase: Phase,
    pipelining: Pipelining,
) -> None:
    """It has that class and no other of smtplib's, and the attributes that one has."""
    code, text = int(reply[:3]), reply[4:].encode()
    # Where BDAT is offered, EAGER would say that instead.
    offers = ("PIPELINING",) if step == "DATA" else None
    with SmtpServer(extensions=offers) as server:
        server.fault(step, reply=reply, times=None)
        for error in ways(server, pipelining):
            assert kind_of(error) is kind
            assert [each for each in SMTPLIB if isinstance(error, each)] == [for_smtplib]
            assert error.phase is phase
            assert isinstance(error, RetryableError) is (code < 500)
            assert not error.may_have_been_delivered
            if isinstance(error, smtplib.SMTPResponseException):
                assert (error.smtp_code, error.smtp_error) == (code, text)
            if isinstance(error, smtplib.SMTPSenderRefused):
                assert error.sender == ME
            if isinstance(error, smtplib.SMTPRecipientsRefused):
                assert error.recipients == {YOU: (code, text)}


@pytest.mark.parametrize("pipelining", [Pipelining.OFF, Pipelining.AUTO])
def test_a_421_in_the_middle_of_the_recipients(pipelining: Pipelining) -> None:
    """``recipients`` has those refused so far, as smtplib has it, and none that was accepted."""
    with SmtpServer() as server:
        server.fault("RCPT", reply="550 5.1.1 no", match="you@")
        server.fault("RCPT", reply="421 4.7.1 bye", match="them@")
        with (
            ConnectionPool(server.url + "?timeout=5") as pool,
            pytest.raises(smtplib.SMTPRecipientsRefused) as caught,
        ):
            pool.send(ME, ["first@example.net", YOU, THEM, "last@example.net"], TEXT)
    assert caught.value.recipients == {YOU: (550, b"5.1.1 no"), THEM: (421, b"4.7.1 bye")}


def a_port_where_nobody_listens() -> int:
    """A port that was just in use, so that no other process has it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1", "127.0.0.1"]])
def test_a_refused_connection(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    """It is a ConnectionRefusedError with its errno, whether a name has one address or several."""
    port = a_port_where_nobody_listens()
    real = socket.getaddrinfo

    def resolve(host: str, *_: object, flags: int = 0, **__: object) -> Sequence[object]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        return [real(each, port, type=socket.SOCK_STREAM)[0] for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ConnectionRefusedError) as caught:
        SmtpConnection.connect("mx.example.test", port, TlsMode.NONE, 5)
    error = caught.value
    assert kind_of(error) is TransportError
    assert (error.errno, error.strerror) == (errno.ECONNREFUSED, "Connection refused")
    assert isinstance(error, RetryableError)
    assert isinstance(error.__cause__, OSError)
    assert "[Errno" not in str(error)


def test_an_unknown_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a socket.gaierror with the resolver's number."""

    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(socket.gaierror) as caught:
        ConnectionPool("smtp://mx.example.test").send(ME, [YOU], TEXT)
    error = caught.value
    assert kind_of(error) is TransportError
    assert error.errno == socket.EAI_NONAME
    assert str(error) == "the name mx.example.test cannot be resolved: Name or service not known"
    assert not isinstance(error, ConnectionRefusedError)


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_a_certificate_that_is_not_trusted(tls: Literal["implicit", "starttls"]) -> None:
    """It is an ssl.SSLCertVerificationError with OpenSSL's numbers, and nothing to try again."""
    mode = TlsMode.IMPLICIT if tls == "implicit" else TlsMode.STARTTLS
    with SmtpServer(tls=tls) as server, pytest.raises(ssl.SSLCertVerificationError) as caught:
        SmtpConnection.connect(server.host, server.port, mode, 5)
    error = caught.value
    assert kind_of(error) is TlsError
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert error.verify_code == error.__cause__.verify_code != 0
    assert error.verify_message == error.__cause__.verify_message
    assert error.reason == "CERTIFICATE_VERIFY_FAILED"
    assert not isinstance(error, RetryableError)


def test_a_server_without_tls() -> None:
    """Another failure of TLS is an ssl.SSLError, and none about certificates."""
    with SmtpServer() as server, pytest.raises(ssl.SSLError) as caught:
        SmtpConnection.connect(server.host, server.port, TlsMode.IMPLICIT, 5)
    assert kind_of(caught.value) is TlsError
    assert caught.value.reason
    assert not isinstance(caught.value, ssl.SSLCertVerificationError)


@pytest.mark.parametrize(
    ("step", "is_disconnected", "is_retryable"),
    [
        ("CONNECT", True, True),
        ("EHLO", True, True),
        ("MAIL", True, True),
        ("DATA", True, True),
        ("CONTENT", True, False),
    ],
)
def test_a_timeout(step: str, is_disconnected: bool, is_retryable: bool) -> None:
    """Within a session it is what smtplib raises then; and only before content worth a retry."""
    with SmtpServer() as server, ConnectionPool(server.url) as pool:
        server.fault(step, hang=True)
        with pytest.raises(TimeoutError) as caught:
            pool.send(ME, [YOU], TEXT, timeout=0.3)
    assert kind_of(caught.value) is SmtpTimeoutError
    assert isinstance(caught.value, smtplib.SMTPServerDisconnected) is is_disconnected
    assert isinstance(caught.value, RetryableError) is is_retryable


def test_a_connect_that_times_out() -> None:
    """No session ever was, so none was disconnected."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        others = []
        try:
            for _ in range(3):
                others.append(sock := socket.socket())
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            with pytest.raises(SmtpTimeoutError) as caught:
                SmtpConnection.connect("127.0.0.1", full.getsockname()[1], TlsMode.NONE, 0.2)
        finally:
            for sock in others:
                sock.close()
    assert caught.value.phase in (Phase.CONNECT, Phase.GREETING)
    is_connect = caught.value.phase is Phase.CONNECT
    assert isinstance(caught.value, smtplib.SMTPServerDisconnected) is not is_connect
    assert isinstance(caught.value, RetryableError)


@pytest.mark.parametrize(
    ("step", "is_retryable"), [("MAIL", True), ("RCPT", True), ("DATA", True), ("CONTENT", False)]
)
@pytest.mark.parametrize("how", [{"close": True}, {"reset": True}], ids=["closed", "reset"])
def test_a_drop(step: str, is_retryable: bool, how: dict[str, bool]) -> None:
    """Before content it is safe to send again; after it the outcome is unknown."""
    with SmtpServer() as server, ConnectionPool(server.url) as pool:
        server.fault(step, times=None, **how)  # type: ignore[arg-type]
        with pytest.raises(smtplib.SMTPServerDisconnected) as caught:
            pool.send(ME, [YOU], TEXT)
    error = caught.value
    assert isinstance(error, ConnectionClosedError)
    assert isinstance(error, RetryableError) is is_retryable
    assert error.may_have_been_delivered is not is_retryable


def test_a_pool_without_a_connection_to_give() -> None:
    """A timeout while waiting for a connection is safe to retry, and is not a disconnect."""
    with (
        SmtpServer() as server,
        ConnectionPool(server.url, max_size=1) as pool,
        pool.connection(),
        pytest.raises(PoolTimeoutError) as caught,
    ):
        pool.connection(timeout=0.01).__enter__()
    assert isinstance(caught.value, RetryableError)
    assert not isinstance(caught.value, smtplib.SMTPServerDisconnected)


@pytest.mark.parametrize(("reply", "is_retryable"), [("535 5.7.8 no", False), ("454 4.7.0", True)])
def test_a_refused_login(reply: str, is_retryable: bool) -> None:
    """A login that could not be checked is worth another try, a refused one is not."""
    with SmtpServer(users={"u": "p"}) as server:
        server.fault("AUTH", reply=reply, times=None)
        config = ServerConfig(
            server.host, server.port, TlsMode.NONE, credentials=PasswordCredentials("u", "p")
        )
        with ConnectionPool(config) as pool:
            # The second comes from the pool's memory, while the login is in backoff.
            for _ in range(2):
                with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
                    pool.send(ME, [YOU], TEXT)
                assert kind_of(caught.value) is AuthError
                assert isinstance(caught.value, RetryableError) is is_retryable
                assert "'p'" not in repr(caught.value.args)


def test_our_name_is_named_when_a_server_complains_of_it() -> None:
    """Whether it does at EHLO or, as Postfix, not before RCPT."""
    for step, reply in (
        ("EHLO", "521 5.5.2 who is that"),
        ("RCPT", "504 5.5.2 <box>: Helo command rejected: need fully-qualified hostname"),
    ):
        with SmtpServer() as server:
            server.fault(step, reply=reply)
            url = f"{server.url}?ehlo_domain=box"
            with ConnectionPool(url) as pool, pytest.raises(SmtpError) as caught:
                pool.send(ME, [YOU], TEXT)
        assert "our EHLO name is box; set another with ehlo_domain=" in str(caught.value)


def tables() -> list[list[list[str]]]:
    """The tables of docs/errors.md: rows of cells."""
    text = (Path(__file__).parent.parent.parent / "docs" / "errors.md").read_text()
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip() for cell in row.strip("|").split("|")] for row in block if "---" not in row]
        for block in blocks
    ]


def table(*head: str) -> list[list[str]]:
    """The rows of the one table with these words at its head."""
    (found,) = [each[1:] for each in tables() if each[0] == list(head)]
    return found


def names_in(cell: str) -> list[str]:
    """The names in a cell, without links."""
    return re.findall(r"`([\w.]+)`", cell)


def class_of(name: str) -> type[BaseException]:
    """The class by the name that the page has for it."""
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module or "builtins"), last, None)
    kind: type[BaseException] = found or getattr(smtpconn, last)
    return kind


def test_the_page_tells_which_errors_may_be_about_a_delivered_message() -> None:
    """Its column is what an error that is rebuilt from its text alone says."""
    rows = table("class", "also caught as", "transient", "delivered?")
    listed = {names_in(row[0])[0]: row for row in rows}
    public = {n for n in smtpconn.__all__ if n.endswith("Error")} - {"SmtpError", "RetryableError"}
    assert set(listed) == public
    for name, (_, bases, _, delivered) in listed.items():
        kind = getattr(smtpconn, name)
        assert kind("x").may_have_been_delivered is (delivered == "possible")
        assert all(issubclass(kind, class_of(base)) for base in names_in(bases))


def test_the_page_has_every_class_that_an_error_may_be_besides() -> None:
    """The table phase x what happened -> classes is complete, and true."""
    rows = table("phase", "what happened", "`smtpconn`", "also")
    said: set[tuple[str, str]] = set()
    for phases, what, ours, besides in rows:
        assert what
        assert list(map(Phase, re.findall(r"\"(\w+)\"", phases))) or phases == "any"
        for name in names_in(ours):
            said |= {(name, base) for base in names_in(besides)}
    assert {name for name, _ in said} <= set(smtpconn.__all__)
    for kind in variants.values():
        others = [base for base in kind.__bases__ if not issubclass(base, SmtpError)]
        if not others or kind.__name__ == "ResponseError":
            continue  # only users raise the class itself
        (beside,) = others
        if (kind.__name__, beside) == ("PermanentError", smtplib.SMTPRecipientsRefused):
            continue  # nor is this one: a refused recipient is an AllRecipientsFailedError
        module = "" if beside.__module__ == "builtins" else f"{beside.__module__}."
        assert (kind.__name__, f"{module}{beside.__name__}") in said


def test_the_page_has_the_texts_as_they_are() -> None:
    """Each text that the page explains is one that smtpconn writes."""
    written = "\n".join(
        part.value
        for path in (Path(smtpconn.__file__).parent).rglob("*.py")
        for part in ast.walk(ast.parse(path.read_text()))
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )
    rows = [row for each in tables() if each[0][0] == "the text" for row in each[1:]]
    assert len(rows) > 30
    for row in rows:
        for text in re.findall(r"`([^`]+)`", row[0]):
            # Phases, replies, and words of OpenSSL and of the system are filled in.
            text = text.replace("... closed the", "... the")
            text = re.sub(rf"(during|refused) ({'|'.join(Phase)})\b", r"\1 ...", text)
            text = re.sub(r"\b([2-5]\d\d|[A-Z_]{9,}|Connection refused)$", "...", text)
            text = re.sub(r"\b[2-5]\d\d ", "... ", text)
            pieces = [piece.strip(" ;:") for piece in text.split("...")]
            assert [piece for piece in pieces if piece not in written] == [], text
