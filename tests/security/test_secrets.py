"""Secrets: they are in no log, error or repr, are not sent in clear, and are used for one login.

On record: transcripts with passwords, logins talked down to a weaker one,
connections used again with other credentials or weaker settings.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import errno
import functools
import logging
import os
import pickle
import pprint
import queue
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from logging.handlers import QueueHandler
from typing import Any
from urllib.parse import quote

import pytest

from smtpconn import (
    ConnectionPool,
    Envelope,
    OAuthCredentials,
    PasswordCredentials,
    Pipelining,
    PoolEvent,
    Protocol,
    ProtocolError,
    SendOutcome,
    ServerConfig,
    SmtpError,
    TlsMode,
    UnsupportedExtensionError,
    ValidationError,
    get_pool,
)
from smtpconn.auth.mechanisms import Plain
from smtpconn.contrib.logging import PooledSmtpHandler
from smtpconn.contrib.settings import MailSettings, read_settings
from smtpconn.model.secret import Secret
from smtpconn.protocol.command import Command, secret_command
from smtpconn.testing import SmtpServer
from tests.support.recording_servers import TIMEOUT, Recorder, connect, peer, recorded

SECRET = "correct-horse-battery"
CALLS: dict[str, Callable[[Any, str], object]] = {
    "plain": lambda c, s: c.auth_plain("user", s),
    "plain with authzid": lambda c, s: c.auth_plain_with_authzid("other", "user", s),
    "login": lambda c, s: c.auth_login("user", s),
    "cram-md5": lambda c, s: c.auth_cram_md5("user", s),
    "scram": lambda c, s: c.auth_scram("user", s),
    "xoauth2": lambda c, s: c.auth_xoauth2("user", s),
    "oauthbearer": lambda c, s: c.auth_oauthbearer(s),
    "authenticate": lambda c, s: c.authenticate(PasswordCredentials("user", s)),
    "authenticate with a token": lambda c, s: c.authenticate(OAuthCredentials("user", s)),
    "authenticate with a function": lambda c, s: c.authenticate(
        OAuthCredentials("user", lambda force_refresh=False: s)
    ),
}
ANSWERS = {
    "yes": b"235 2.7.0 welcome\r\n",
    "no": b"535 5.7.8 no\r\n",
    "later": b"454 4.7.0 later\r\n",
    "bye": b"421 4.3.2 bye\r\n",
    "nonsense": b"354 go on\r\n",
    "garbage": b"\0\xff\r\n",
    "a challenge": b"334 VXNlcm5hbWU6\r\n",
    "hanging up": b"",
}
BAD = {
    "NUL": SECRET + "\0",
    "Ctrl-A": SECRET + "\x01",
    "a surrogate": SECRET + "\ud800",
    "no end": SECRET * 1000,
    "a space": SECRET + " ",
    "a control character": SECRET + "\x07\x85",
    "no character of Unicode": SECRET + "\ufffe\ue000",
}


def forms(secret: str) -> list[str]:
    """The ways a secret may be read in a text: itself, in hexadecimal, in a URL, in base64."""
    data = secret.encode()
    found = [secret, data.hex(), quote(secret), repr(secret)[1:-1]]
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data).decode()
        # Less the ends, which depend on what stands beside it.
        found.append(encoded[4 if before else 0 : -4])
    return found


FORMS = forms(SECRET)


def shows(*texts: object) -> list[str]:
    """The texts that show the secret."""
    return [text for text in map(str, texts) if any(form in text for form in FORMS)]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that a report of it shows as causes, and those it would not show, too."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def local_variables(error: BaseException) -> Iterator[str]:
    """What reports show of smtpconn's frames (Sentry, Django's error page, capture_locals)."""
    for frame in traceback.TracebackException.from_exception(error, capture_locals=True).stack:
        is_ours = f"{os.sep}smtpconn{os.sep}" in frame.filename or frame.filename == "<string>"
        for name, value in (frame.locals or {}).items() if is_ours else ():
            yield f"{frame.filename}:{frame.lineno} {name}={value}"


def check_error(error: BaseException) -> None:
    """Nothing of an error shows the secret: text, arguments, attributes, report, local variables
    of the frames it came through, or pickle."""
    for each in chain(error):
        assert not shows(each, repr(each), each.args, vars(each))
        assert not shows(*traceback.format_exception(each))
        assert not shows(*local_variables(each))
    assert not shows(pickle.dumps(error), pickle.dumps(error).decode("latin-1"))


@pytest.fixture
def logs() -> Iterator[None]:
    """Log everything there is, and fail if any of it shows the secret."""
    log, records = logging.getLogger("smtpconn"), queue.SimpleQueue[logging.LogRecord]()
    handler, level = QueueHandler(records), log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    kept = [records.get() for _ in range(records.qsize())]
    assert any(record.name == "smtpconn.wire" for record in kept)
    for record in kept:
        assert not shows(record.getMessage(), record.args, vars(record))


def test_the_forms_are_found() -> None:
    """The test of these tests: each way of showing the secret is noticed."""
    assert shows(f"x{SECRET}")
    for before in ("", "a", "ab", "\0user\0", "n,,\x01auth=Bearer "):
        assert shows(base64.b64encode(f"{before}{SECRET}\x01".encode()).decode())


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("logs")
def test_no_login_shows_its_secret(call: str, answer: str) -> None:
    """However a login ends: not in the transcript, the error, its causes, its pickle, or a repr."""
    recorder = Recorder(auth=ANSWERS[answer])
    error: SmtpError | None = None
    with peer(recorder.serve) as factory, connect(factory) as connection:
        try:
            CALLS[call](connection, SECRET)
        except SmtpError as caught:
            error = caught
        assert not shows(repr(connection), str(connection), connection.capabilities)
        assert connection.is_authenticated is (error is None)
    if error is not None:
        check_error(error)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("logs")
def test_no_secret_is_quoted_for_being_bad(call: str, bad: str) -> None:
    """An invalid secret is refused without being shown, and nothing of it is sent."""
    error: SmtpError | None = None
    with recorded() as (_, connection):
        try:
            CALLS[call](connection, BAD[bad])
        except SmtpError as caught:
            error = caught
        connection.close()
    if error is not None:
        check_error(error)
    else:
        assert bad in ("a space", "a control character", "no character of Unicode", "no end")


@pytest.mark.usefixtures("logs")
def test_no_pool_shows_its_secret() -> None:
    """Neither do a pool, its figures, its events, its errors and the errors behind those."""
    events: list[PoolEvent] = []
    recorder = Recorder(auth=ANSWERS["no"])
    with peer(recorder.serve) as factory:
        config = ServerConfig(
            "mx.example.com",
            25,
            TlsMode.NONE,
            credentials=PasswordCredentials("user", SECRET),
            socket_factory=factory,
            allow_cleartext_auth=True,
            timeout=TIMEOUT,
        )
        with ConnectionPool(config, on_event=events.append, keepalive=None) as pool:
            for _ in range(2):
                with pytest.raises(SmtpError) as caught, pool.connection():
                    pass
                check_error(caught.value)
            assert not shows(pool, repr(pool), pool.stats(), pool.config, pool.leaks())
    assert events
    assert not shows(*events)
    assert not shows(config, repr(config), str(config), repr(config.credentials))


@pytest.mark.parametrize(
    "url",
    [
        f"smtp://user:{SECRET}@",
        f"smtp://user:{SECRET}",
        f"smtp://user:{SECRET}@mx.example.com:x",
        f"smtp://user:{SECRET}@mx.example.com:99999",
        f"smtp://user:{SECRET}/@mx.example.com",
        f"smtp://user:/{SECRET}@mx.example.com",
        f"smtp://user:?{SECRET}@mx.example.com",
        f"smtp://user:#{SECRET}@mx.example.com",
        f"smtp://user:[{SECRET}@mx.example.com",
        f"smtp://user:]{SECRET}@mx.example.com",
        f"smtp://user:{SECRET}@mx.example.com?timeout=x",
        f"smtp://user:{SECRET}@mx.example.com?timeout=0",
        f"smtp://user:{SECRET}@mx.example.com?ehlo_domain=a_b",
        f"smtp://user:{SECRET}@mx.example.com?unknown=1",
        f"smtp://user:{SECRET}@mx example.com",
        f"smtp://user:{SECRET} @mx.example.com",
        f"smtp://user:{SECRET}\n@mx.example.com",
        f"smtp://user:{SECRET}\uff0f@mx.example.com",
        f"smtp://user:{SECRET}@mx\uff03example.com",
        f"smtp://user:{SECRET}%00@mx.example.com",
        f"smtp://user:{SECRET}@mx.example.com/path",
        f"smtp://user%3A{SECRET}",
        f"smtp://{SECRET}%20",
        f"smtp://:{SECRET}@mx.example.com",
        f"lmtp+unix://user:{SECRET}@/run/lmtp",
        f"http://user:{SECRET}@mx.example.com",
        f"user:{SECRET}@mx.example.com",
        f"smtp:user:{SECRET}@mx.example.com",
    ],
)
def test_no_url_is_quoted(url: str) -> None:
    """An invalid URL is not quoted, wherever it contains the password."""
    with pytest.raises(ValidationError) as caught:
        ServerConfig.from_url(url)
    check_error(caught.value)


# --- Weaker logins --------------------------------------------------------------------------------

SHOWS_SECRET = ["plain", "plain with authzid", "login", "xoauth2", "oauthbearer"]


@pytest.mark.parametrize("call", SHOWS_SECRET)
def test_no_secret_goes_in_clear(call: str) -> None:
    """A mechanism that shows the secret is not used in clear unless that is allowed in words."""
    with recorded(allow_cleartext_auth=False) as (recorder, connection):
        with pytest.raises(ProtocolError, match="TLS"):
            CALLS[call](connection, SECRET)
        connection.noop()
        assert recorder.verbs == [b"EHLO", b"NOOP"]


@pytest.mark.parametrize("offered", ["PLAIN", "LOGIN", "LOGIN PLAIN", "XOAUTH2", "OAUTHBEARER"])
def test_no_offer_talks_a_secret_out(offered: str) -> None:
    """A list without the strong mechanisms, perhaps by an attacker, does not show the secret."""
    with recorded((f"AUTH {offered}",), allow_cleartext_auth=False) as (recorder, connection):
        for credentials in (PasswordCredentials("u", SECRET), OAuthCredentials("u", SECRET)):
            with pytest.raises((ProtocolError, UnsupportedExtensionError)):
                connection.authenticate(credentials)
        connection.noop()
        assert recorder.verbs == [b"EHLO", b"NOOP"]


@pytest.mark.parametrize("answer", ["no", "later", "bye", "nonsense", "garbage", "hanging up"])
@pytest.mark.parametrize("offered", ["PLAIN CRAM-MD5 LOGIN", "LOGIN PLAIN", "LOGIN CRAM-MD5"])
def test_a_refusal_is_not_answered_with_less(offered: str, answer: str) -> None:
    """The strongest mechanism goes first, and after a refusal no weaker one is tried."""
    strongest = b"CRAM-MD5" if "CRAM" in offered else b"PLAIN"
    recorder = Recorder((f"AUTH {offered}",), auth=ANSWERS[answer])
    with peer(recorder.serve) as factory, connect(factory) as connection:
        with pytest.raises(SmtpError):
            connection.authenticate(PasswordCredentials("user", SECRET))
        connection.close()
    logins = [line for line in recorder.commands if line.startswith(b"AUTH")]
    assert [line.split(b" ")[1] for line in logins] == [strongest]


def test_a_server_that_knows_nothing_is_not_believed() -> None:
    """With SCRAM the server has to prove that it knows the password; a mere yes is no login."""
    pytest.importorskip("scramp")
    with recorded(("AUTH SCRAM-SHA-256",)) as (_, connection):
        with pytest.raises(ProtocolError):
            connection.auth_scram("user", SECRET)
        assert not connection.is_authenticated


def test_a_second_login_is_refused() -> None:
    """A connection with a login is not used for another login (RFC 4954 4)."""
    with recorded() as (recorder, connection):
        connection.auth_plain("user", SECRET)
        with pytest.raises(ProtocolError, match="already"):
            connection.auth_plain("other", SECRET)
        connection.noop()
        assert recorder.verbs == [b"EHLO", b"AUTH", b"NOOP"]


# --- Other people's connections -------------------------------------------------------------------

CONFIG = ServerConfig("mx.example.com", 25, TlsMode.NONE)
CHANGES: dict[str, Any] = {
    "host": "mx.example.net",
    "port": 26,
    "tls_mode": TlsMode.STARTTLS,
    "timeout": 61.0,
    "protocol": Protocol.LMTP,
    "credentials": PasswordCredentials("user", SECRET),
    "mechanisms": ("PLAIN",),
    "tls_context": ssl.create_default_context(),
    "ehlo_domain": "client.example.com",
    "source_address": ("127.0.0.1", 0),
    "pipelining": Pipelining.OFF,
    "ignore_extensions": ["CHUNKING"],
    "allow_cleartext_auth": True,
    "socket_factory": lambda host, port, timeout: None,
    "tls_server_name": "mx.example.net",
    "cafile": "ca.pem",
}


def test_every_setting_is_part_of_the_key() -> None:
    """A new field of `ServerConfig` is put into the table above by who adds it."""
    assert {each.name for each in dataclasses.fields(ServerConfig)} == CHANGES.keys()


@pytest.mark.parametrize("name", CHANGES)
def test_no_pool_is_shared_across_settings(name: str) -> None:
    """Whatever setting differs, the pool and so its connections are others."""
    pools = {get_pool(CONFIG), get_pool(CONFIG.replace(**{name: CHANGES[name]}))}
    assert len(pools) == 2
    for pool in pools:
        pool.close(0)


def test_no_pool_is_shared_across_credentials() -> None:
    """Not a password, a user, nor a function for tokens is taken for another."""
    credentials = [
        None,
        PasswordCredentials("user", "one"),
        PasswordCredentials("user", "two"),
        PasswordCredentials("other", "one"),
        OAuthCredentials("user", "one"),
        OAuthCredentials("user", "two"),
        OAuthCredentials("user", lambda: "one"),
        OAuthCredentials("user", lambda: "one"),
    ]
    pools = [get_pool(CONFIG.replace(credentials=each)) for each in credentials]
    assert len(set(pools)) == len(credentials)
    assert [pool.config.credentials for pool in pools] == credentials
    for pool in pools:
        pool.close(0)


def test_a_configuration_cannot_be_changed_under_a_pool() -> None:
    """A configuration is frozen: what a pool was found by is what it connects with."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.credentials = PasswordCredentials("user", SECRET)  # type: ignore[misc]


# --- What else can be written down ----------------------------------------------------------------

PASSWORD = PasswordCredentials("user", SECRET)
URL = f"smtp://user:{SECRET}@mx.example.com"
HOLDERS: dict[str, Callable[[], Any]] = {
    "password": lambda: PASSWORD,
    "token": lambda: OAuthCredentials("user", SECRET),
    "function": lambda: OAuthCredentials("user", functools.partial(str, SECRET)),
    "configuration": lambda: CONFIG.replace(credentials=PASSWORD),
    "configuration of a URL": lambda: ServerConfig.from_url(URL),
    "settings": lambda: MailSettings(host="mx", username="user", password=SECRET),
    "settings with a URL": lambda: MailSettings(url=URL),
    "settings as they are read": lambda: read_settings({"url": URL}, {"password": SECRET}),
    "settings with credentials": lambda: read_settings({"host": "mx", "credentials": PASSWORD}),
    "mechanism": lambda: Plain("user", SECRET),
    "command": lambda: secret_command(SECRET, "<secret>"),
    "secret": lambda: Secret(SECRET),
    "test server": lambda: SmtpServer(users={"user": SECRET}),
    "test server's settings": lambda: SmtpServer(users={"user": SECRET})._settings,
    "envelope": lambda: Envelope("a@x.example", ["b@x.example"], SECRET.encode()),
    "envelope with a stream": lambda: Envelope("a@x.example", ["b@x.example"], [SECRET.encode()]),
    "outcome": lambda: SendOutcome(
        Envelope("a@x.example", ["b@x.example"], SECRET.encode()), None, SmtpError("no")
    ),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_holds_a_secret_does_not_show_it(name: str) -> None:
    """In one line of repr, str or a log; by itself, in others, in copies."""
    holder = HOLDERS[name]()
    if name == "function":
        holder = OAuthCredentials("user", lambda: SECRET)
    for each in (holder, copy.copy(holder)):
        shown = [repr(each), str(each), f"{each}", f"{[each]}", f"{ {'x': each} }", f"{each!a}"]
        assert not shows(*shown, pprint.pformat(each))
        assert all("\n" not in text for text in shown)


@pytest.mark.parametrize("name", [n for n in HOLDERS if "server" not in n and "envelope" not in n])
def test_what_is_made_of_a_secret_does_not_show_it(name: str) -> None:
    """A configuration as a dict contains no password."""
    holder = HOLDERS[name]()
    if dataclasses.is_dataclass(holder) and not isinstance(holder, (type, Command, SendOutcome)):
        assert not shows(dataclasses.asdict(holder), dataclasses.astuple(holder))
    assert not shows(getattr(holder, "__dict__", ""), copy.deepcopy(holder) if name else "")


def test_credentials_that_are_none_are_not_shown() -> None:
    """A tuple, as other clients take it, is refused by name where it is given."""
    for given in [("user", SECRET), f"user:{SECRET}", {"password": SECRET}]:
        for make in (
            lambda g: ServerConfig("mx", 25, TlsMode.NONE, credentials=g),
            lambda g: ServerConfig.from_url("smtp://mx", credentials=g),
            lambda g: ConnectionPool("smtp://mx", credentials=g),
            lambda g: get_pool("smtp://mx", credentials=g),
            lambda g: MailSettings(host="mx", server={"credentials": g}).config(),
        ):
            with pytest.raises(ValidationError, match="PasswordCredentials") as caught:
                make(given)
            assert not shows(caught.value, repr(caught.value), vars(caught.value))


@pytest.mark.parametrize(
    "host", [URL, f"user:{SECRET}@mx.example.com", f"https://{SECRET}/", f"{SECRET}/"]
)
def test_a_host_that_is_a_url_is_not_quoted(host: str) -> None:
    """It says what to do with a URL."""
    with pytest.raises(ValidationError, match="from_url") as caught:
        ServerConfig(host, 25, TlsMode.NONE)
    assert not shows(caught.value)


def test_a_login_that_cannot_be_written() -> None:
    """A connection that fails while the password leaves: the frames of that show no bytes."""

    class Broken(socket.socket):
        """A method of a socket: what other code raises is no error of the connection."""

        def send(self, *args: object) -> int:
            """Fail."""
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    with recorded() as (_, connection):
        transport = connection._channel.driver.transport
        transport._sock = Broken(fileno=transport._sock.detach())
        with pytest.raises(SmtpError) as caught:
            connection.auth_plain("user", SECRET)
        assert any("to be sent" in text for text in local_variables(caught.value))
        check_error(caught.value)


@pytest.mark.parametrize("url", [f"smtp://user:{SECRET}@mx:x", f"{URL}?x=1", f"http:{SECRET}"])
def test_no_url_is_shown_by_those_who_take_one(url: str) -> None:
    """A pool, the pools of the process, and the settings of frameworks."""
    for make in (
        ConnectionPool,
        lambda u: ConnectionPool([u, u]),
        get_pool,
        lambda u: read_settings({"url": u}).config(),
    ):
        with pytest.raises(ValidationError) as caught:
            make(url)
        check_error(caught.value)


@pytest.mark.parametrize("end", ["", "/x", "?x", "#x", "[x"])
def test_a_password_that_is_not_percent_encoded(end: str) -> None:
    """The error says how to encode the password, and does not show it."""
    url = f"smtp://user:{SECRET}{end}@mx.example.com" + ("" if end else "/path")
    with pytest.raises(ValidationError, match="percent-encoded: / is %2F") as caught:
        ServerConfig.from_url(url)
    check_error(caught.value)


@pytest.mark.parametrize("copying", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_holds_sockets_is_not_pickled(copying: Callable[[Any], object]) -> None:
    """A pool, a connection and a lease say so themselves; no lock is to blame."""
    with ConnectionPool(CONFIG.replace(credentials=PASSWORD)) as pool, recorded() as (_, c):
        for each, text in ((pool, "get_pool"), (c, "socket"), (pool.connection(), "connection")):
            with pytest.raises(TypeError, match=text) as caught:
                copying(each)
            assert "RLock" not in str(caught.value)
    for closed in (pool, pool.connection(), c):
        assert "\n" not in repr(closed)
        assert not shows(repr(closed))
    assert "closed" in repr(pool)


def test_a_secret_is_not_pickled_by_itself() -> None:
    """Only with the credentials it belongs to, by those who pickle those."""
    for secret in (Secret(SECRET), [Secret(SECRET)], MailSettings(host="mx", password=SECRET)):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(secret)
    assert Secret("a") == Secret("a") != Secret("b")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != "a"
    assert not Secret("")


def test_no_handler_shows_its_secret() -> None:
    """Neither a URL nor a pair that a logging handler was given."""
    for given in (
        {"mailhost": f"smtp://user:{SECRET}@mx:x"},
        {"mailhost": "m x", "credentials": ("user", SECRET)},
        {"mailhost": "mx", "credentials": ("", SECRET), "toaddrs": ["a b"]},
    ):
        arguments: dict[str, Any] = {"toaddrs": ["you@example.com"], **given}
        with pytest.raises(ValidationError) as caught:
            PooledSmtpHandler(fromaddr="me@example.com", subject="x", **arguments)
        check_error(caught.value)
