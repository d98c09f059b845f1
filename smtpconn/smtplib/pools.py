"""The pools of ``smtplib``'s API: one for each set of settings that a shared connection must have.

A pooled `SMTP` object does not connect at once. It collects the program's settings (host, TLS,
login), and at the first command that needs the server it borrows a connection with these settings.
Three rules make that safe:

* `Key` holds everything that a server sees of a caller, including the whole credential (as a keyed
  hash), and the identity of the TLS context. A connection made for other settings is never used.
* `smtpconn.smtplib.server.Server` answers EHLO and STARTTLS with a remembered reply only where that
  is as safe as asking the server.
* The number of pools is limited: the least recently used ones are closed first. The limit is lower
  for pools with a TLS context of the caller, because a program that makes a context for each call
  never uses such a pool again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, Unpack

from smtpconn.auth.credentials import PasswordCredentials
from smtpconn.model.errors import Phase, PoolClosedError
from smtpconn.model.modes import TlsMode
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_if_forked, reset_in_child
from smtpconn.pool.connection_pool import ConnectionPool
from smtpconn.pool.lease import Lease
from smtpconn.pool.options import PoolKeywords
from smtpconn.smtplib.connection import CommandConnection
from smtpconn.smtplib.pool_key import Address, Key
from smtpconn.smtplib.pooled_server import PooledServer
from smtpconn.smtplib.server import Server

MAX_POOLS = 64
"""Limit of pools; unused ones beyond it are closed, and pools in use are always kept."""

MAX_POOLS_OF_OWN_CONTEXTS = 4
"""Limit of pools to one server whose TLS contexts were given by callers."""

UNUSED_AFTER = 300.0
"""Seconds after which an unused pool is closed."""

DEFAULTS: PoolKeywords = {"max_size": 10, "acquire_timeout": 60.0}
"""Default options. An `SMTP` object holds its connection until it is closed, so others may have to
wait for one; they wait as long as programs usually wait for a slow greeting."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A pool, and how it is used.

    Attributes:
        has_own_context: whether its TLS context was given by the caller.
        used_at: the time of the last borrow or return (monotonic clock).
    """

    pool: ConnectionPool
    has_own_context: bool
    used_at: float = 0.0

    @property
    def is_in_use(self) -> bool:
        """Whether a connection is borrowed, or a caller waits for one."""
        stats = self.pool.stats()
        return bool(stats.in_use or stats.waiting)


class Pools:
    """The pools of programs that use ``smtplib``'s API.

    Pass it to ``SMTP(..., pool=pools)``, or use `pooled` for the whole process.

    Args:
        options: for each pool, as `smtpconn.ConnectionPool` takes them; ``max_size`` is 10 and
            ``acquire_timeout`` 60 seconds unless given.
    """

    def __init__(self, **options: Unpack[PoolKeywords]) -> None:
        self._options: PoolKeywords = {**DEFAULTS, **options}
        # Raises now if an option is invalid.
        ConnectionPool("smtp://localhost", **self._options).close(0)
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._servers: OrderedDict[Address, Server] = OrderedDict()
        self._when_closed: Callable[[], None] = lambda: None
        self.is_closed = False
        self.reset_after_fork()
        reset_in_child(self)

    def when_closed(self, call: Callable[[], None]) -> None:
        """Call a function at `close`."""
        self._when_closed = call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def reset_after_fork(self) -> None:
        """Create a new lock in a forked child; pools and servers reset themselves."""
        self._lock = threading.Lock()

    def server(self, address: Address) -> Server:
        """The `Server` of an address; created at the first call."""
        reset_if_forked()
        with self._lock:
            server = self._servers.get(address)
            if server is None:
                server = self._servers[address] = Server(address)
            self._servers.move_to_end(address)
            dropped = self._drop_servers(address)
        for old in dropped:
            old.close()
        return server

    def _drop_servers(self, wanted: Address) -> list[Server]:
        """Remove servers beyond the limits, the least recently used first."""
        # A program may create a TLS context for each `SMTP_SSL`, and contexts are large.
        alike = [
            each
            for each in self._servers
            if each.context is not None and _is_same_server(each, wanted)
        ]
        dropped = [self._servers.pop(each) for each in alike[:-MAX_POOLS_OF_OWN_CONTEXTS]]
        while len(self._servers) > MAX_POOLS:
            dropped.append(self._servers.popitem(last=False)[1])
        return dropped

    def is_alive(self, address: Address) -> bool:
        """Whether pools have connections to an address, idle or in use."""
        with self._lock:
            entries = list(self._entries.items())
        pools = [entry.pool for key, entry in entries if key.address == address]
        return any(stats.idle or stats.in_use for stats in map(ConnectionPool.stats, pools))

    def borrow(
        self,
        server: Server,
        key: Key,
        credentials: PasswordCredentials | None,
        deadline: Deadline,
        *,
        has_own_context: bool,
    ) -> Borrowed:
        """Borrow a connection for a key.

        Raises:
            PoolClosedError: these pools are closed.
            SmtpError: as `smtpconn.ConnectionPool.connection`.
        """
        reset_if_forked()
        while True:
            entry = self._entry(server, key, credentials, deadline, has_own_context)
            seconds, limit = deadline.check(Phase.POOL), self._options["acquire_timeout"]
            seconds = seconds if limit is None else min(seconds, limit)
            lease = entry.pool.connection(seconds)
            try:
                return Borrowed(entry, lease, lease.__enter__())
            except PoolClosedError:
                # Another thread has closed the pool because it was unused.
                if self.is_closed:
                    raise

    def close(self) -> None:
        """Close all pools; connections in use are closed when they are returned."""
        reset_if_forked()
        self._when_closed()
        with self._lock:
            self.is_closed = True
            entries, servers = list(self._entries.values()), list(self._servers.values())
            self._entries.clear()
            self._servers.clear()
        for server in servers:
            server.close()
        for entry in entries:
            entry.pool.close(0)

    def pools(self) -> list[ConnectionPool]:
        """The current pools; for monitoring."""
        with self._lock:
            entries = list(self._entries.values())
        return [entry.pool for entry in entries]

    def _entry(
        self,
        server: Server,
        key: Key,
        credentials: PasswordCredentials | None,
        deadline: Deadline,
        has_own_context: bool,
    ) -> _Entry:
        now = time.monotonic()
        with self._lock:
            if self.is_closed:
                raise PoolClosedError("the pools are closed", phase=Phase.POOL)
            entry = self._entries.get(key)
            if entry is None:
                config = PooledServer(
                    key.address.host,
                    key.address.port or 0,
                    TlsMode.NONE,
                    timeout=deadline.timeout,
                    protocol=key.address.protocol,
                    credentials=credentials,
                    server=server,
                    key=key,
                )
                pool = ConnectionPool(config, **self._options)
                entry = self._entries[key] = _Entry(pool, has_own_context)
            entry.used_at = now
            self._entries.move_to_end(key)
            dropped = self._drop_unused(key, now)
        for each in dropped:
            each.pool.close(0)
        return entry

    def _drop_unused(self, wanted: Key, now: float) -> list[_Entry]:
        """Remove unused pools that are too old or beyond a limit, least recently used first."""
        dropped, address = [], wanted.address
        own = sum(
            entry.has_own_context and _is_same_server(key.address, address)
            for key, entry in self._entries.items()
        )
        for key, entry in list(self._entries.items()):
            is_own = entry.has_own_context and _is_same_server(key.address, address)
            is_one_too_many = own > MAX_POOLS_OF_OWN_CONTEXTS and is_own
            is_old = now - entry.used_at >= UNUSED_AFTER
            is_unwanted = is_old or is_one_too_many or len(self._entries) > MAX_POOLS
            if is_unwanted and key != wanted and not entry.is_in_use:
                dropped.append(self._entries.pop(key))
                own -= is_own
        return dropped


class Borrowed:
    """A connection that an `SMTP` object has borrowed from a pool."""

    __slots__ = ("_entry", "_lease", "connection")

    def __init__(self, entry: _Entry, lease: Lease, connection: object) -> None:
        assert isinstance(connection, CommandConnection)
        self.connection = connection
        self._entry = entry
        self._lease = lease

    @property
    def was_reused(self) -> bool:
        """Whether the connection had been used before it was borrowed."""
        return self._lease.was_reused

    def renew(self, deadline: Deadline) -> None:
        """Replace the connection, which turned out to be dead."""
        connection = self._lease.renew(deadline)
        assert isinstance(connection, CommandConnection)
        self.connection = connection

    def release(self, *, keep: bool) -> None:
        """Return the connection; close it unless it may be kept."""
        self.connection.set_debug_output(None)
        if not keep:
            self.connection.close()
        self._lease.__exit__(None, None, None)
        self._entry.used_at = time.monotonic()


def _is_same_server(one: Address, other: Address) -> bool:
    return one.host == other.host and one.port == other.port
