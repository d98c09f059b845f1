"""`get_pool`: the same pool for the same server and limits, another one for anything else."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn import (
    ConnectionPool,
    PasswordCredentials,
    PoolClosedError,
    ServerConfig,
    TlsMode,
    ValidationError,
    get_pool,
)
from smtpconn.pool.registry import open_pools
from smtpconn.testing import SmtpServer

URL = "smtp://user:password@mx.example.com"
CONFIG = ServerConfig.from_url(URL)


def test_the_same_pool_for_the_same_server() -> None:
    """A URL and the configuration it stands for get one pool."""
    pool = get_pool(URL)
    assert isinstance(pool, ConnectionPool)
    assert get_pool(URL) is pool
    assert get_pool(CONFIG) is pool
    assert get_pool(CONFIG.replace()) is pool
    assert pool.config == CONFIG


def test_the_order_of_options_does_not_matter() -> None:
    """The same options are the same options."""
    pool = get_pool(URL, max_size=3, max_idle=9.0)
    assert get_pool(URL, max_idle=9.0, max_size=3) is pool
    assert pool.stats().max_size == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"credentials": PasswordCredentials("user", "another")},
        {"credentials": None},
        {"tls_context": ssl.create_default_context()},
        {"tls_mode": TlsMode.STARTTLS},
        {"port": 26},
        {"allow_cleartext_auth": True},
    ],
)
def test_another_pool_for_another_configuration(changes: dict[str, Any]) -> None:
    """Who logs in differently or trusts others never shares a connection."""
    changed = CONFIG.replace(**changes)
    assert get_pool(changed) is not get_pool(CONFIG)
    assert get_pool(changed) is get_pool(CONFIG.replace(**changes))


@pytest.mark.parametrize("options", [{"max_size": 2}, {"name": "mail"}, {"keepalive": None}])
def test_another_pool_for_other_options(options: dict[str, Any]) -> None:
    """A pool with other limits is another pool."""
    assert get_pool(URL, **options) is not get_pool(URL)
    assert get_pool(URL, **options) is get_pool(URL, **options)


def test_a_new_pool_after_close(server: SmtpServer) -> None:
    """A pool that was closed is replaced, and the new one works."""
    old = get_pool(server.url)
    with old.connection():
        pass
    old.close()
    new = get_pool(server.url)
    assert new is not old
    with new.connection() as connection:
        connection.noop()
    new.close()
    with pytest.raises(PoolClosedError), old.connection():
        raise AssertionError("never reached")


def test_threads_get_the_same_pool() -> None:
    """Twenty concurrent threads get one pool."""
    barrier, pools = threading.Barrier(20), list[ConnectionPool]()

    def ask() -> None:
        barrier.wait(10)
        pools.append(get_pool("smtp://threads.example.com", max_size=7))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(pools) == 20
    assert len(set(map(id, pools))) == 1


@pytest.mark.parametrize(("url", "options"), [("http://h", {}), (URL, {"max_size": 0})])
def test_what_cannot_be_is_refused(url: str, options: dict[str, Any]) -> None:
    """A bad URL or limit raises, and the next call with it too."""
    for _ in range(2):
        with pytest.raises(ValidationError):
            get_pool(url, **options)


def test_the_open_pools() -> None:
    """Monitoring finds every pool of the registry until it is closed, and no other."""
    pool = get_pool("smtp://monitored.example.com")
    with ConnectionPool("smtp://private.example.com") as other:
        assert pool in open_pools()
        assert other not in open_pools()
    pool.close()
    assert pool not in open_pools()


@pytest.mark.parametrize("make", [ConnectionPool, get_pool])
def test_options_of_the_server_beside_a_url(make: Callable[..., ConnectionPool]) -> None:
    """A pool takes what `ServerConfig` takes, and refuses by name what neither knows."""
    login = PasswordCredentials("user", "password")
    with make("smtp://mx", credentials=login, timeout=7.0, max_size=3, tls_mode="STARTTLS") as pool:
        assert pool.config == ServerConfig(
            "mx", 25, TlsMode.STARTTLS, timeout=7.0, credentials=login
        )
        assert pool.stats().max_size == 3
    with make(ServerConfig("mx", 25, TlsMode.NONE), ehlo_domain="me.example.com") as pool:
        assert pool.config.ehlo_domain == "me.example.com"
    with pytest.raises(ValidationError, match=r"unknown: max_sice; .*max_size.*credentials"):
        make("smtp://mx", max_sice=3)


@pytest.mark.parametrize("make", [ConnectionPool, get_pool])
@pytest.mark.parametrize("given", [b"smtp://mx", None, 25, {"host": "mx"}, ["smtp://mx", None]])
def test_what_is_no_server(make: Callable[..., ConnectionPool], given: Any) -> None:
    """An invalid server is refused at once, with the valid forms."""
    with pytest.raises(ValidationError, match="a server is a ServerConfig or a URL such as"):
        make(given)


@pytest.mark.parametrize("name", ["max_idle", "max_lifetime", "acquire_timeout", "keepalive"])
def test_limits_are_refused_by_name(name: str) -> None:
    """Also where a text stands for a number of seconds, or None where it has no meaning."""
    has_none = name in ("acquire_timeout", "keepalive")
    for bad in ("10", 0, *([] if has_none else [None])):
        with pytest.raises(ValidationError, match=f"{name} is a number of seconds above 0"):
            ConnectionPool("smtp://mx", **{name: bad})  # type: ignore[arg-type]
