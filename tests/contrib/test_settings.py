"""From settings to a configuration and a pool: precedence, and invalid values."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from smtpconn import ConnectionPool, PasswordCredentials, Protocol, TlsMode, ValidationError
from smtpconn.contrib.settings import MailSettings, own_settings, read_settings
from tests.realservers.certificates import Certificates


@pytest.mark.parametrize(
    ("tls", "port", "mode"),
    [
        ({}, 25, TlsMode.NONE),
        ({"use_tls": True}, 587, TlsMode.STARTTLS),
        ({"use_ssl": True}, 465, TlsMode.IMPLICIT),
    ],
)
def test_the_kind_of_tls_and_its_port(tls: dict[str, Any], port: int, mode: TlsMode) -> None:
    """Without a port the default is used; a given port may be text."""
    config = MailSettings(host="mx.example.com", **tls).config()
    assert (config.host, config.port, config.tls_mode) == ("mx.example.com", port, mode)
    assert MailSettings(host="h", port="2525", **tls).config().port == 2525


def test_a_login_takes_a_user_name_and_a_password() -> None:
    """Either alone is none; credentials that are given go before both."""
    both = PasswordCredentials("user", "password")
    other = PasswordCredentials("other", "secret")
    assert read_settings({"host": "h", "username": "user"}).config().credentials is None
    named = {"host": "h", "username": "user", "password": "password"}
    assert read_settings(named).config().credentials == both
    assert read_settings(named, {"credentials": other}).config().credentials == other


def test_the_first_source_that_has_a_setting_decides() -> None:
    """None is no setting; False, 0 and "" are."""
    settings = read_settings(
        {"host": None, "use_tls": False, "username": ""},
        {"host": "first", "use_tls": True, "pool": {"max_size": 2}},
        {"host": "second", "username": "user", "password": "password", "timeout": "7.5"},
    )
    config = settings.config()
    assert (config.host, config.tls_mode, config.timeout) == ("first", TlsMode.NONE, 7.5)
    assert config.credentials is None
    assert settings.pool == {"max_size": 2}


def test_a_url_stands_for_the_frameworks_own_server() -> None:
    """What it says is not looked up in the last source; the rest is."""
    url = "smtps://user:password@mx.example.com"
    own: dict[str, Any] = {"host": "localhost", "port": 25, "use_tls": True, "username": "x"}
    config = read_settings({"url": url}, {**own, "timeout": 3}).config()
    assert (config.host, config.port, config.timeout) == ("mx.example.com", 465, 3)
    assert config.credentials == PasswordCredentials("user", "password")
    assert read_settings({}, own).config().host == "localhost"


def test_a_password_may_come_from_elsewhere_than_the_url() -> None:
    """User name and password beside a URL go before those in it."""
    found = {"url": "smtps://mx.example.com", "username": "user", "password": "p@ss"}
    assert read_settings(found).config().credentials == PasswordCredentials("user", "p@ss")


def test_what_else_a_configuration_has() -> None:
    """Attributes of `ServerConfig` may stand beside the settings."""
    config = read_settings(
        {"host": "/run/lmtp", "protocol": "LMTP", "ehlo_domain": "me.example"}
    ).config()
    assert (config.protocol, config.ehlo_domain) == (Protocol.LMTP, "me.example")


def test_equal_settings_get_the_same_pool(certificates: Certificates) -> None:
    """Also under TLS; a client's certificate has one context until its files change."""
    files = {
        "ssl_certfile": str(certificates.client_file),
        "ssl_keyfile": str(certificates.client_key_file),
    }
    for more in ({}, {"use_tls": True}, {"use_ssl": True, **files}):
        found = {"host": "mx.example.com", "pool": {"max_size": 2}, **more}
        pool = read_settings(found).get_pool()
        assert read_settings(found).get_pool() is pool
        assert read_settings({**found, "pool": {"max_size": 3}}).get_pool() is not pool
        assert (pool.config.tls_context is None) is ("ssl_certfile" not in more)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"host": "h", "use_tls": True, "use_ssl": True}, "mutually exclusive"),
        ({"url": "smtp://h", "host": "h"}, "or the URL"),
        ({"host": "h", "ssl_certfile": "f", "tls_context": object()}, "mutually exclusive"),
        ({"host": "smtp://u:pw@h"}, "host is a name or an IP address; a URL goes into url"),
        ({"host": "h", "colour": "red"}, "settings: unknown colour; there are host, "),
        ({"host": "h", "pool": {"max_sise": 1}}, "pool: unknown max_sise; there are acquire"),
        ({"host": "h", "pool": [1]}, "pool is a dict, not list"),
        ({"host": "h", "port": "smtp"}, "port is a number, not 'smtp'"),
        ({"host": "h", "timeout": "soon"}, "timeout is a number"),
        ({"host": "h", "timeout": 0}, "timeout"),
        ({}, "host"),
    ],
)
def test_what_cannot_be(found: dict[str, Any], text: str) -> None:
    """It is a ValidationError that names what is wrong, before anything is connected to."""
    with pytest.raises(ValidationError, match=text):
        read_settings(found).config()


@pytest.mark.parametrize("value", ["smtp://user:s3cret@h", ["smtp://h"], 5])
def test_smtpconn_is_a_dict(value: object) -> None:
    """Anything else in the setting ``SMTPCONN`` is an error that shows its form, and no secret."""
    with pytest.raises(ValidationError, match=r"SMTPCONN is a dict, such as \{'url': ") as caught:
        own_settings(value)
    assert "s3cret" not in str(caught.value)
    assert own_settings(None) == own_settings({}) == own_settings("") == {}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"host": "mx.example.com:25"}, "EMAIL_HOST: .*host='mx.example.com', port=25"),
        ({"host": "two words"}, "EMAIL_HOST: "),
        ({"port": 99999}, "EMAIL_PORT: a port is 1 to 65535, not 99999"),
        ({"timeout": 0}, "EMAIL_TIMEOUT: a timeout is a number of seconds above 0"),
        ({"timeout": "-1"}, "EMAIL_TIMEOUT: a timeout is a number of seconds above 0"),
        ({"host": 5}, "EMAIL_HOST is a name or an IP address, not int"),
        ({"host": None, "url": "mx.example.com:25"}, "EMAIL_URL: a URL begins with"),
        ({"host": None, "url": "smtp://u:s3cret/@h"}, "EMAIL_URL: the server's URL cannot be"),
        ({"host": None, "url": 5}, "EMAIL_URL: a URL is a str, not int"),
        ({"username": 5, "password": "s3cret"}, "EMAIL_USER, password: user is a str, not int"),
        ({"username": "user", "password": b"s3cret"}, "password is a str, not bytes"),
    ],
)
def test_a_refused_value_is_named_as_the_framework_names_it(
    found: dict[str, Any], text: str
) -> None:
    """The text leads to the setting to change."""
    names = {"host": "EMAIL_HOST", "port": "EMAIL_PORT", "timeout": "EMAIL_TIMEOUT"}
    names |= {"url": "EMAIL_URL", "username": "EMAIL_USER"}
    with pytest.raises(ValidationError, match=text) as caught:
        MailSettings(**{"host": "localhost", **found}, names=names).config()
    assert "s3cret" not in f"{caught.value!r}{caught.value.__context__!r}"


def test_a_refused_value_without_a_setting_keeps_its_text() -> None:
    """What no single setting is at fault for is raised as it is."""
    for server in ({"host": "localhost"}, {"url": "smtp://localhost"}):
        with pytest.raises(ValidationError, match=r"^ehlo_domain: 'two words' may not be"):
            read_settings({**server, "ehlo_domain": "two words"}).config()


def test_a_key_without_a_certificate() -> None:
    """It is of no use, which is said when it is needed."""
    with pytest.raises(ValidationError, match="ssl_keyfile"):
        read_settings({"host": "h", "use_tls": True, "ssl_keyfile": "key.pem"}).get_pool()


def test_requests_that_start_together_share_a_pool(certificates: Certificates) -> None:
    """Concurrent first requests of a process get one pool with one context."""
    found = {
        "host": f"mx{time.monotonic_ns()}.example.com",
        "use_tls": True,
        "cafile": str(certificates.ca_file),
        "ssl_certfile": str(certificates.client_file),
        "ssl_keyfile": str(certificates.client_key_file),
    }
    for file in (certificates.client_file, certificates.client_key_file):
        os.utime(file)  # so that the files have no context yet
    start, pools = threading.Barrier(8), list[ConnectionPool]()

    def request() -> None:
        start.wait()
        pools.append(read_settings(found).get_pool())

    threads = [threading.Thread(target=request) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pools) == 8
    assert len(set(map(id, pools))) == 1


def test_authorities_beside_a_clients_certificate(certificates: Certificates) -> None:
    """``cafile`` counts alone there, too."""
    files = {
        "ssl_certfile": str(certificates.client_file),
        "ssl_keyfile": str(certificates.client_key_file),
        "cafile": str(certificates.ca_file),
    }
    config = read_settings({"host": "h", "use_tls": True, **files}).config_with_tls()
    assert config.tls_context is not None
    assert config.tls_context.cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("True", TlsMode.STARTTLS),
        ("1", TlsMode.STARTTLS),
        (" yes ", TlsMode.STARTTLS),
        (1, TlsMode.STARTTLS),
        ("False", TlsMode.NONE),
        ("false", TlsMode.NONE),
        ("0", TlsMode.NONE),
        ("off", TlsMode.NONE),
        ("", TlsMode.NONE),
        (0, TlsMode.NONE),
    ],
)
def test_true_and_false_from_the_environment(text: Any, mode: TlsMode) -> None:
    """Everything there is a text; "False" is no."""
    assert MailSettings(host="h", use_tls=text).config().tls_mode is mode
    allowed = read_settings({"host": "h", "allow_cleartext_auth": text}).config()
    assert allowed.allow_cleartext_auth is (mode is TlsMode.STARTTLS)
    with pytest.raises(ValidationError, match="use_ssl is True or False"):
        MailSettings(host="h", use_ssl="perhaps")


def test_what_the_environment_does_not_have() -> None:
    """An empty text is no port and no timeout, and blanks around a host are none of its name."""
    found = {"host": " mx.example.com\n", "port": "", "timeout": " ", "username": "", "use_tls": ""}
    config = read_settings(found).config()
    assert (config.host, config.port, config.timeout) == ("mx.example.com", 25, 60.0)
    assert not read_settings({"host": " \n", "timeout": ""}).names_server
    assert read_settings({"url": " smtp://mx.example.com\n"}).config().host == "mx.example.com"
    assert not read_settings({"url": "\n"}).names_server


def test_limits_from_the_environment() -> None:
    """Numbers that are texts, and None where a limit can be switched off."""
    given = {"max_size": "7", "max_idle": "2.5", "keepalive": "None", "max_rate": "", "burst": "3"}
    settings = read_settings({"host": "h", "pool": given})
    assert settings.pool == {
        "max_size": 7, "max_idle": 2.5, "keepalive": None, "max_rate": None, "burst": 3,
    }  # fmt: skip
    for name, bad in (("max_size", "many"), ("max_idle", "soon"), ("max_size", "2.5")):
        with pytest.raises(ValidationError, match=f"{name} is a number"):
            read_settings({"host": "h", "pool": {name: bad}})


@pytest.mark.parametrize("given", ["LOGIN,PLAIN", "login plain", ["LOGIN", "PLAIN"]])
def test_mechanisms(given: Any) -> None:
    """As a text or a list; those that serve no password are refused beside one."""
    named = {"host": "h", "username": "u", "password": "p", "mechanisms": given}
    assert read_settings(named).config().mechanisms == ("LOGIN", "PLAIN")
    with pytest.raises(ValidationError, match="XOAUTH2"):
        read_settings(named | {"mechanisms": "XOAUTH2"}).config()
    with pytest.raises(ValidationError, match="CRAM-MD5"):
        read_settings(named | {"mechanisms": "GSSAPI"}).config()
