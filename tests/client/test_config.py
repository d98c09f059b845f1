"""`ServerConfig`: what a URL means, what may be in one, and that connecting cleans up."""

from __future__ import annotations

import dataclasses
import math
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest

from smtpconn import (
    AuthError,
    OAuthCredentials,
    PasswordCredentials,
    Phase,
    Pipelining,
    Protocol,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TlsMode,
    TransportError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.net.deadline import Deadline
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates

SECRET = "tops3cret"


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that knows one user."""
    with SmtpServer(users={"user": "right"}) as running:
        yield running


@pytest.mark.parametrize(
    ("scheme", "protocol", "tls_mode", "port"),
    [
        ("smtp", Protocol.SMTP, TlsMode.NONE, 25),
        ("smtp+starttls", Protocol.SMTP, TlsMode.STARTTLS, 587),
        ("smtps", Protocol.SMTP, TlsMode.IMPLICIT, 465),
        ("lmtp", Protocol.LMTP, TlsMode.NONE, 24),
        ("lmtp+starttls", Protocol.LMTP, TlsMode.STARTTLS, 24),
        ("lmtps", Protocol.LMTP, TlsMode.IMPLICIT, 24),
    ],
)
def test_each_scheme(scheme: str, protocol: Protocol, tls_mode: TlsMode, port: int) -> None:
    """A scheme says the protocol, the protection and the usual port; case does not matter."""
    config = ServerConfig.from_url(f"{scheme}://mx.example.com")
    assert config == ServerConfig("mx.example.com", port, tls_mode, protocol=protocol)
    assert ServerConfig.from_url(f"{scheme.upper()}://mx.example.com/") == config
    assert ServerConfig.from_url(f"{scheme}://mx.example.com:2525").port == 2525
    assert str(config) == f"mx.example.com:{port}"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("lmtp+unix:///run/dovecot/lmtp", "/run/dovecot/lmtp"),
        ("lmtp+unix:///run/100%25/lmtp", "/run/100%/lmtp"),
    ],
)
def test_a_unix_socket(url: str, path: str) -> None:
    """``lmtp+unix`` is followed by a path."""
    config = ServerConfig.from_url(url)
    assert (config.host, config.protocol, config.tls_mode) == (path, Protocol.LMTP, TlsMode.NONE)
    assert str(config) == path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://user:p%40ss@h", {"credentials": PasswordCredentials("user", "p@ss")}),
        (
            "smtp://user%40example.com:p@h",
            {"credentials": PasswordCredentials("user@example.com", "p")},
        ),
        (
            "smtp://user:a%3Ab%2Fc%23d%25@h",
            {"credentials": PasswordCredentials("user", "a:b/c#d%")},
        ),
        ("smtp://user:p%C3%A4ss@h", {"credentials": PasswordCredentials("user", "p\u00e4ss")}),
        ("smtp://user:a+b@h", {"credentials": PasswordCredentials("user", "a+b")}),
        ("smtp://user:a:b@h", {"credentials": PasswordCredentials("user", "a:b")}),
        ("smtp://user@h", {"credentials": PasswordCredentials("user", "")}),
        ("smtp://h", {"credentials": None, "timeout": 60.0, "ehlo_domain": None}),
        ("smtp://[2001:db8::1]:2525", {"host": "2001:db8::1", "port": 2525}),
        ("smtp://[::1]", {"host": "::1", "port": 25}),
        ("smtp://192.0.2.1", {"host": "192.0.2.1"}),
        ("smtp://h?timeout=2.5", {"timeout": 2.5}),
        ("smtp://h?ehlo_domain=me.example.com", {"ehlo_domain": "me.example.com"}),
        (
            "smtp://h/?timeout=3&ehlo_domain=%5B192.0.2.1%5D",
            {"timeout": 3.0, "ehlo_domain": "[192.0.2.1]"},
        ),
    ],
)
def test_what_a_url_says(url: str, expected: dict[str, Any]) -> None:
    """User, password, address and query are read, percent-decoded."""
    config = ServerConfig.from_url(url)
    assert {name: getattr(config, name) for name in expected} == expected


def test_options_go_before_the_url() -> None:
    """What is given beside the URL wins over what the URL says."""
    token = OAuthCredentials("me", "token")
    config = ServerConfig.from_url(
        "smtp://user:password@h?timeout=5", timeout=7.0, credentials=token
    )
    assert (config.timeout, config.credentials) == (7.0, token)


@pytest.mark.parametrize("option", ["host", "port", "tls_mode", "protocol"])
def test_every_attribute_is_an_option(option: str) -> None:
    """Any attribute can be given beside the URL, as the documentation says."""
    values = {
        "host": "other.example.com",
        "port": 26,
        "tls_mode": TlsMode.STARTTLS,
        "protocol": Protocol.LMTP,
    }
    config = ServerConfig.from_url("smtp://mx.example.com", **{option: values[option]})
    assert getattr(config, option) == values[option]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mx.example.com",
        "//mx.example.com",
        "http://user:tops3cret@h",
        "smtp:user:tops3cret@h",
        "smtp://",
        "smtp://user:tops3cret@",
        "smtp://user:tops3cret@h:port",
        "smtp://user:tops3cret@h:0",
        "smtp://user:tops3cret@h:65536",
        "smtp://user:tops3cret@h:-1",
        "smtp://user:tops3cret@[::1",
        "smtp://user:tops3cret@[no-address]",
        "smtp://user:tops3cret@h/path",
        "smtp://user:tops3cret@h#fragment",
        "smtp://user:tops3cret@h\r\n",
        "smtp://us er:tops3cret@h",
        "smtp://user:tops3cret\x00@h",
        "smtp://user:tops3cret%00@h",
        "smtp://user:tops3cret%FF@h",
        "smtp://%FF:tops3cret@h",
        "smtp://user:tops3cret@h%20name",
        "smtp://user:tops3cret@h?timeout=soon",
        "smtp://user:tops3cret@h?timeout=0",
        "smtp://user:tops3cret@h?timeout=-1",
        "smtp://user:tops3cret@h?timeout=inf",
        "smtp://user:tops3cret@h?timeout=nan",
        "smtp://user:tops3cret@h?ehlo_domain=-",
        "smtp://user:tops3cret@h?ehlo_domain=",
        "smtp://user:tops3cret@h?password=tops3cret",
        "smtp://:tops3cret@h",
        "smtp://user:tops3cret/more@h",
        "smtp://user:tops3cret?x@h",
        "smtp://user:tops3cret#x@h",
        "smtp://user:12#tops3cret@h",
        "smtp://user:12?tops3cret@h",
        "smtp://user:12/tops3cret@h",
        "lmtp+unix://run/lmtp",
        "lmtp+unix:",
        "lmtp+unix://user:tops3cret@host/run/lmtp",
    ],
)
def test_bad_urls(url: str) -> None:
    """What is no server's URL is refused, in words that never quote the password."""
    with pytest.raises(ValidationError) as caught:
        ServerConfig.from_url(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("url", [None, b"smtp://h", 25])
def test_what_is_no_str_is_no_url(url: object) -> None:
    """Bytes, None and numbers are refused as any bad URL."""
    with pytest.raises(ValidationError):
        ServerConfig.from_url(url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"host": ""},
        {"host": "a b"},
        {"host": None},
        {"port": 0},
        {"port": 65536},
        {"port": True},
        {"port": "25"},
        {"tls_mode": "tls"},
        {"protocol": "http"},
        {"pipelining": "always"},
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": math.inf},
        {"timeout": None},
        {"ehlo_domain": "caf\u00e9.example"},
        {"ehlo_domain": "a\r\nRSET"},
    ],
)
def test_values_that_cannot_be(changes: dict[str, Any]) -> None:
    """A wrong value is refused when the configuration is made, not when it is used."""
    config = ServerConfig("mx.example.com", 25, TlsMode.NONE)
    with pytest.raises(ValidationError):
        config.replace(**changes)


def test_names_stand_for_modes() -> None:
    """Modes can be given by name, as they come from a settings file."""
    config = ServerConfig("h", 25, "STARTTLS", pipelining="OFF")  # type: ignore[arg-type]
    assert config.tls_mode is TlsMode.STARTTLS
    assert config.pipelining is Pipelining.OFF


def test_it_is_a_value() -> None:
    """Equal configurations are equal and hash alike; none can be changed."""
    url = "smtps://user:password@mx.example.com"
    one = ServerConfig.from_url(url, ignore_extensions=["size", "dsn"])
    other = ServerConfig.from_url(url, ignore_extensions=("DSN", "SIZE"))
    assert one == other
    assert hash(one) == hash(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "changes",
    [
        {"credentials": PasswordCredentials("user", "another")},
        {"credentials": None},
        {"tls_context": ssl.create_default_context()},
        {"port": 26},
        {"tls_mode": TlsMode.STARTTLS},
        {"allow_cleartext_auth": True},
        {"ehlo_domain": "me.example.com"},
        {"tls_server_name": "mx.example.net"},
        {"cafile": "ca.pem"},
        {"source_address": ("192.0.2.1", 0)},
        {"ignore_extensions": ["CHUNKING"]},
        {"timeout": 1.0},
    ],
)
def test_replace(changes: dict[str, Any]) -> None:
    """`replace` changes what it is told, and that makes another configuration."""
    config = ServerConfig.from_url("smtp://user:password@mx.example.com")
    changed = config.replace(**changes)
    assert changed != config
    assert changed.host == config.host
    assert config.replace() == config


def test_no_secret_is_shown() -> None:
    """Neither ``repr`` nor ``str`` show the password or a token."""
    config = ServerConfig.from_url(f"smtp://user:{SECRET}@mx.example.com")
    token = config.replace(credentials=OAuthCredentials("user", SECRET))
    for each in (config, token):
        assert SECRET not in f"{each!r} {each}"
        assert "user" in repr(each)
    assert str(config) == "mx.example.com:25"


def test_connect_logs_in(server: SmtpServer) -> None:
    """`connect` returns a connection that is logged in, with the configuration's timeout."""
    config = ServerConfig.from_url(
        server.url, credentials=PasswordCredentials("user", "right"), timeout=7.0
    )
    with config.connect(5.0) as connection:
        assert connection.is_authenticated
        assert connection.timeout == 7.0
    assert server.connections[0].user == "user"


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps", "lmtp", "lmtps"])
def test_connect_in_every_way(certificates: Certificates, scheme: str) -> None:
    """What a URL says is how it is connected."""
    context = certificates.server_context() if "s" in scheme.removeprefix("smtp") else None
    with SmtpServer(
        protocol=scheme[:4].upper(), tls_context=context, implicit_tls=scheme.endswith("tps")
    ) as server:
        assert server.url.startswith(f"{scheme}://")
        url = server.url.replace("127.0.0.1", "localhost")
        config = ServerConfig.from_url(url, tls_context=certificates.client_context())
        with config.connect(5.0) as connection:
            connection.noop()
            assert (connection.tls is not None) == (context is not None)
        assert server.connections[0].tls == (context is not None)


def test_connect_over_a_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    """``lmtp+unix`` connects to the path."""
    path = tmp_path_factory.mktemp("u") / "lmtp"
    with (
        SmtpServer(protocol="LMTP", unix_path=str(path)) as server,
        ServerConfig.from_url(server.url).connect(5.0) as connection,
    ):
        assert connection.protocol is Protocol.LMTP
        connection.noop()


def test_options_reach_the_connection(server: SmtpServer) -> None:
    """The options of `SmtpConnection.connect` are passed on."""
    config = ServerConfig.from_url(
        server.url + "?ehlo_domain=me.example.com",
        ignore_extensions=["chunking"],
        source_address=("127.0.0.1", 0),
    )
    with config.connect() as connection:
        assert not connection.capabilities.supports_chunking
    assert server.connections[0].commands[0] == "EHLO me.example.com"


def test_a_refused_login_closes_the_connection(server: SmtpServer) -> None:
    """`AuthError` is told, without the password, and nothing is left open."""
    config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", SECRET))
    with pytest.raises(AuthError) as caught:
        config.connect()
    assert SECRET not in f"{caught.value} {caught.value!r}"
    server.wait_for(lambda: server.connections[0].closed)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [({"close": True}, SmtpError), ({"reply": b"garbage\r\n"}, SmtpError)],
)
def test_a_failed_login_closes_the_connection(
    server: SmtpServer, fault: dict[str, Any], kind: type[SmtpError]
) -> None:
    """Whatever ends the login, nothing is left open."""
    server.fault("AUTH", **fault)
    config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "right"))
    with pytest.raises(kind):
        config.connect()
    server.wait_for(lambda: server.connections[0].closed)


def test_no_mechanism_in_common_closes_the_connection() -> None:
    """Who cannot log in is told, and nothing is left open."""
    with SmtpServer() as server:
        config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "p"))
        with pytest.raises(UnsupportedExtensionError):
            config.connect()
        server.wait_for(lambda: server.connections[0].closed)


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "AUTH"])
def test_one_deadline_for_connecting_and_logging_in(server: SmtpServer, step: str) -> None:
    """A server that falls silent anywhere costs the timeout once."""
    server.fault(step, hang=True)
    config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "right"))
    begun = time.monotonic()
    with pytest.raises(SmtpTimeoutError):
        config.connect(0.2)
    assert 0.15 < time.monotonic() - begun < 1.0


def test_logging_in_has_what_connecting_left_of_the_time(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The login has the rest of the one deadline."""
    given: list[float] = []

    def log_in(self: SmtpConnection, who: object, names: object, deadline: Deadline) -> None:
        assert deadline.timeout == 5
        given.append(deadline.remaining())

    monkeypatch.setattr(SmtpConnection, "_log_in_as", log_in)
    server.fault("EHLO", delay=0.05)
    config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "right"))
    config.connect(5.0).close()
    assert 0 < given[0] <= 4.95


def test_a_callable_is_asked_for_each_connection() -> None:
    """A token that is a function is asked per connection, and its error is the cause of ours."""
    asked: list[bool] = []

    def token(*, force_refresh: bool = False) -> str:
        asked.append(force_refresh)
        raise LookupError("no token today")

    with SmtpServer(users={"user": "x"}, sasl={"XOAUTH2": _never}) as server:
        config = ServerConfig.from_url(server.url, credentials=OAuthCredentials("user", token))
        for _ in range(2):
            with pytest.raises(TransportError, match="LookupError") as caught:
                config.connect()
            assert isinstance(caught.value.__cause__, LookupError)
            assert caught.value.phase is Phase.AUTH
            assert "today" not in str(caught.value)
        server.wait_for(lambda: all(c.closed for c in server.connections))
    assert asked == [False, False]


@pytest.mark.parametrize("value", [None, b"token", 5])
def test_a_callable_that_returns_no_text(value: Any) -> None:
    """The error says so; what was returned is not shown, it may be a token."""
    with SmtpServer(users={"user": "x"}, sasl={"XOAUTH2": _never}) as server:
        credentials = OAuthCredentials("user", lambda: value)
        with pytest.raises(ValidationError) as caught:
            ServerConfig.from_url(server.url, credentials=credentials).connect()
    assert str(caught.value).endswith(f"for user returned {type(value).__name__}, no str")
    assert caught.value.phase is Phase.AUTH


def _never() -> Any:
    raise AssertionError("nothing is sent without a token")


# --- Wrong guesses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"host": "smtp://h"}, "ServerConfig.from_url"),
        ({"host": "user@h"}, "ServerConfig.from_url"),
        ({"host": "h:25"}, "host='h', port=25"),
        ({"host": "mx.example.com:submission"}, "port=submission"),
        ({"host": "[::1]"}, "no brackets.*host='::1'$"),
        ({"host": "[::1]:25"}, "port=25"),
        ({"host": b"h"}, "not b'h'"),
        ({"credentials": ("u", "p")}, r"PasswordCredentials\(user, password\).*not a tuple"),
        ({"credentials": PasswordCredentials}, "not a type"),
        ({"credentials": "u:p"}, "not a str"),
        ({"allow_cleartext_auth": "False"}, "allow_cleartext_auth is True or False"),
        ({"allow_cleartext_auth": None}, "allow_cleartext_auth is True or False"),
        ({"tls_context": True}, r"ssl\.SSLContext, not a bool"),
        ({"ignore_extensions": None}, r"\['CHUNKING'\]"),
        ({"ignore_extensions": [5]}, r"\['CHUNKING'\]"),
        ({"mechanisms": "NTLM"}, "PLAIN, LOGIN, .*SCRAM"),
        ({"mechanisms": []}, "name one or more"),
        ({"timeout": "10"}, "seconds"),
        ({"port": "25"}, "1 to 65535"),
        ({"tls_mode": True}, "NONE, IMPLICIT, STARTTLS"),
    ],
)
def test_wrong_guesses_are_answered_with_what_is_right(changes: dict[str, Any], told: str) -> None:
    """The constructor raises, and the text has the right spelling."""
    config = ServerConfig("mx.example.com", 25, TlsMode.NONE)
    with pytest.raises(ValidationError, match=told):
        config.replace(**changes)


@pytest.mark.parametrize("host", ["::1", "fe80::1%eth0", "2001:db8::", "/run/a:b/smtp", "a-b.c"])
def test_hosts_with_colons_that_are_hosts(host: str) -> None:
    """IPv6 addresses and paths."""
    assert ServerConfig(host, 25, TlsMode.NONE).host == host


def test_unknown_options_of_a_url() -> None:
    """They are refused by name, with those there are."""
    with pytest.raises(ValidationError, match=r"unknown: tiemout; .*timeout.*credentials"):
        ServerConfig.from_url("smtp://h", tiemout=5)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("chunking", {"CHUNKING"}),
        ("CHUNKING, dsn", {"CHUNKING", "DSN"}),
        (["Size"], {"SIZE"}),
        ([], set()),
    ],
)
def test_extensions_to_ignore(given: Any, names: set[str]) -> None:
    """A text is the names in it, not its letters."""
    config = ServerConfig("h", 25, TlsMode.NONE, ignore_extensions=given)
    assert config.ignore_extensions == frozenset(names)


def test_a_mechanism_that_does_not_fit_the_credentials() -> None:
    """A token is no password; EXTERNAL fits all, and who names none has them all."""
    password, token = PasswordCredentials("u", "p"), OAuthCredentials("u", "t")
    config = ServerConfig("h", 25, TlsMode.NONE, mechanisms="XOAUTH2 OAUTHBEARER")
    assert config.replace(credentials=token).mechanisms == ("XOAUTH2", "OAUTHBEARER")
    with pytest.raises(ValidationError, match="XOAUTH2, OAUTHBEARER"):
        config.replace(credentials=password)
    assert config.replace(credentials=password, mechanisms=["EXTERNAL"]).credentials is password


def test_mechanisms_of_a_url() -> None:
    """Names separated by commas; a wrong one is not quoted, because it may be a password's end."""
    config = ServerConfig.from_url("smtp://u:p@h?auth=cram-md5,PLAIN&timeout=3")
    assert (config.mechanisms, config.timeout) == (("CRAM-MD5", "PLAIN"), 3.0)
    for url in (f"smtp://u:1?auth={SECRET}@h", f"smtp://h?auth={SECRET}", "smtp://h?auth="):
        with pytest.raises(ValidationError, match="mechanisms: PLAIN, LOGIN") as caught:
            ServerConfig.from_url(url)
        assert SECRET not in str(caught.value)


def test_a_connection_is_not_made_by_its_class() -> None:
    """The error says how it is."""
    for given in (("h", 25), ("h",), (), ("h", 25, TlsMode.NONE)):
        with pytest.raises(TypeError, match=r"SmtpConnection\.connect\(host, port, tls_mode"):
            SmtpConnection(*given)
    with pytest.raises(ValidationError, match="allow_cleartext_auth is True or False"):
        SmtpConnection.connect("h", 25, TlsMode.NONE, 5, allow_cleartext_auth="no")  # type: ignore[arg-type]
