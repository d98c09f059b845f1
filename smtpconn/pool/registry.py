"""`get_pool`: one pool per process for each server configuration and set of limits.

Frameworks such as Django make a new backend object for every use, so a pool stored on such an
object would never be reused; it is stored here. Pools are never evicted, because one in use must
not be closed.
"""

from __future__ import annotations

import threading
from typing import Unpack, cast

from smtpconn.client.config import ServerConfig, ServerSettings
from smtpconn.model.errors import ValidationError
from smtpconn.net.forking import reset_if_forked, reset_in_child
from smtpconn.pool.connection_pool import ConnectionPool, make_configs, with_secret_urls
from smtpconn.pool.options import PoolKeywords


class GetPoolKeywords(PoolKeywords, ServerSettings, total=False):
    """The keyword arguments of `get_pool`: those of `ConnectionPool`."""


class _Registry:
    """The pools of this process."""

    def __init__(self) -> None:
        self._pools: dict[object, ConnectionPool] = {}
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Take a new lock in a forked child; the pools reset themselves."""
        self._lock = threading.RLock()

    def get(self, config: ServerConfig, options: PoolKeywords) -> ConnectionPool:
        reset_if_forked()
        key = (config, frozenset(options.items()))
        with self._lock:
            pool = self._pools.get(key)
            if pool is not None and not pool.is_closed:
                return pool
            made = ConnectionPool(config, **options)
            # A signal handler may have stored a pool in between; that one is kept.
            if pool is not None and self._pools.get(key) is pool:
                del self._pools[key]
            return self._pools.setdefault(key, made)

    def open_pools(self) -> list[ConnectionPool]:
        reset_if_forked()
        with self._lock:
            pools = tuple(self._pools.values())
        return [pool for pool in pools if not pool.is_closed]


_registry = _Registry()


def get_pool(config: ServerConfig | str, **options: Unpack[GetPoolKeywords]) -> ConnectionPool:
    """The process's pool for this server and these limits, created at the first call.

    Args:
        config: a `ServerConfig`, or a URL as `ServerConfig.from_url` takes it.
        options: as `ConnectionPool` takes them.

    Raises:
        ValidationError: as `ConnectionPool` and `ServerConfig.from_url`.
    """
    given = with_secret_urls(config)
    del config
    if len(given) != 1:
        raise ValidationError(
            f"get_pool takes one server, not {len(given)}: a pool over several is a ConnectionPool"
        )
    limits = {k: v for k, v in options.items() if k in PoolKeywords.__annotations__}
    others = {k: v for k, v in options.items() if k not in limits}
    (settings,) = make_configs(given, cast(ServerSettings, others))
    return _registry.get(settings, cast(PoolKeywords, limits))


def open_pools() -> list[ConnectionPool]:
    """The open pools that `get_pool` has made in this process; for monitoring."""
    return _registry.open_pools()
