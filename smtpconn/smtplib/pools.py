"""Pools behind ``smtplib``'s API: one for each set of settings that a shared connection must have.

A pooled `SMTP` object does not connect at once. It collects the program's settings (host, TLS,
login), and at the first command that needs the server it borrows a connection with these settings.
Three rules make that safe:

* `Key` holds everything that a server sees of a caller, including the whole credential (as a keyed
  hash), and the identity of the TLS context. A connection made for other settings is never used.
* `Server` answers EHLO and STARTTLS from memory only if the answer makes nothing less safe: an EHLO
  in clear that does not offer STARTTLS is never remembered. If an answer is not remembered, the
  program's command is sent on a real connection. That connection is then *parked*, and a pool that
  needs a new connection to the server continues with it.
* The number of pools is limited: the least recently used ones are closed first. The limit is lower
  for pools with a TLS context of the caller, because a program that makes a context for each call
  never uses such a pool again.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import ssl
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from smtplib import SMTPConnectError, SMTPHeloError, SMTPResponseException
from types import TracebackType
from typing import Self, Unpack

from smtpconn.auth.credentials import PasswordCredentials
from smtpconn.client.config import ServerConfig
from smtpconn.client.options import default_ehlo_domain
from smtpconn.model.errors import Phase, PoolClosedError, SmtpError, StartTlsUnavailableError
from smtpconn.model.modes import Protocol, TlsMode
from smtpconn.model.replies import SmtpResponse
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_if_forked, reset_in_child
from smtpconn.net.happy_eyeballs import open_socket
from smtpconn.pool.connection_pool import ConnectionPool
from smtpconn.pool.lease import Lease
from smtpconn.pool.options import PoolKeywords
from smtpconn.pool.wakeup import Wakeup
from smtpconn.protocol.quirks import ServerQuirks
from smtpconn.smtplib.connection import CommandConnection, wrap_in_tls
from smtpconn.smtplib.errors import refused

MAX_POOLS = 64
"""Pools that are kept at most; pools in use are always kept."""

MAX_POOLS_OF_OWN_CONTEXTS = 4
"""Of these, pools to one server with TLS contexts of callers."""

UNUSED_AFTER = 300.0
"""Seconds after which an unused pool is closed."""

PARKED_FOR = 30.0
"""Seconds for which a parked connection may be used."""

DEFAULTS: PoolKeywords = {"max_size": 10, "acquire_timeout": 60.0}
"""Default limits. An object holds its connection until it is closed, and waits for one as long as
programs wait for a slow greeting."""

_secret = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Address:
    """The server of an object, and how to connect to it.

    Attributes:
        kind: the object's class.
        host, port, protocol, source_address: of the server.
        context: the context for TLS from the first byte; None to begin in clear.
        allow_cleartext_auth: whether a password may travel in clear.
    """

    kind: type
    host: str
    port: int
    protocol: Protocol
    source_address: tuple[str, int] | None
    context: ssl.SSLContext | None
    allow_cleartext_auth: bool


@dataclass(frozen=True, slots=True)
class Key:
    """The settings that must be equal for a connection to be shared.

    Attributes:
        address: the server.
        ehlo_name: the name for EHLO.
        context: the TLS settings, by identity; None in clear.
        credential: a keyed hash of user and password; b"" without a login.
    """

    address: Address
    ehlo_name: str
    context: ssl.SSLContext | None
    credential: bytes


def credential_hash(user: str, password: str) -> bytes:
    """A keyed hash of a whole credential; the key is random for each process."""
    parts = [part.encode("utf-8", "surrogatepass") for part in (user, password)]
    whole = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.digest(_secret, whole, "sha256")


class Server:
    """The remembered replies of one address, and its parked connection."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.greeting: SmtpResponse | None = None
        self.local_ip: str | None = None
        self.start_tls_reply: SmtpResponse | None = None
        # By TLS context, None in clear, and by the name for EHLO.
        self._hellos: OrderedDict[tuple[ssl.SSLContext | None, str], SmtpResponse] = OrderedDict()
        self._parked: tuple[CommandConnection, ssl.SSLContext | None, float] | None = None
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Take new locks in a forked child; the connection is closed by `close_in_child`."""
        self._lock = threading.Lock()
        self._asking = _Turn()
        self._parked = None

    def greet(self, is_alive: Callable[[], bool], deadline: Deadline) -> SmtpResponse:
        """The server's greeting: the last one while connections to it exist, else a new one.

        One thread at a time connects; the others use its greeting.
        """
        with _Held(self._asking, deadline):
            known = self.greeting
            if known is not None and (self._parked is not None or is_alive()):
                return known
            self.greeting = None
            connection, greeting = self._greeted(deadline)
            if greeting.code == 220:
                self.greeting = greeting
                self._park(connection, self.address.context)
            else:
                connection.close()
            return greeting

    def hello(
        self, context: ssl.SSLContext | None, verb: str, name: str, deadline: Deadline
    ) -> SmtpResponse | CommandConnection:
        """The reply to EHLO at a stage of the session.

        Args:
            context: of the current TLS; None in clear.
            verb, name: the command.
            deadline: of the operation.

        Returns the connection itself if the reply may not be remembered.
        """
        known = self._known_hello(context, name)
        if known is not None:
            return known
        with _Held(self._asking, deadline):
            known = self._known_hello(context, name)
            if known is not None:
                return known
            connection = self.take_parked(context) or self._new(context, name, deadline)
            reply = connection.say_hello(verb, name, deadline)
            if self.note_hello(context, name, reply, connection):
                self._park(connection, context)
                return reply
        return connection

    def start_tls(
        self, context: ssl.SSLContext, verb: str, name: str, deadline: Deadline
    ) -> SmtpResponse:
        """The reply to STARTTLS: remembered if TLS with this context has succeeded.

        Raises:
            StartTlsUnavailableError: it is not offered.
            smtplib.SMTPResponseException: it was refused.
        """
        with _Held(self._asking, deadline):
            reply = self.start_tls_reply
            if reply is not None and self._known_hello(context, name) is not None:
                return reply
            connection = self.take_parked(None) or self._greeted_connection(deadline)
            try:
                reply = upgrade(connection, context, verb, name, deadline)
            except BaseException:
                connection.close()
                raise
            self.start_tls_reply = reply
            if connection.hello is not None:
                self.note_hello(context, name, connection.hello, connection)
            self._park(connection, context)
            return reply

    def note_hello(
        self,
        context: ssl.SSLContext | None,
        name: str,
        reply: SmtpResponse,
        connection: CommandConnection,
    ) -> bool:
        """Remember a reply to EHLO if that is safe; whether it is."""
        if reply.code != 250 or (context is None and not connection.capabilities.supports_starttls):
            return False
        with self._lock:
            self._hellos[context, name] = reply
            self._hellos.move_to_end((context, name))
            if len(self._hellos) > 2 * MAX_POOLS_OF_OWN_CONTEXTS:
                self._hellos.popitem(last=False)
        return True

    def forget_hellos(self) -> None:
        """Forget the replies to EHLO: the server has changed."""
        with self._lock:
            self._hellos.clear()
            self.greeting = None

    def take_parked(self, context: ssl.SSLContext | None) -> CommandConnection | None:
        """The parked connection, if it is at this stage and alive."""
        with self._lock:
            parked = self._parked
            if parked is None or parked[1] is not context:
                return None
            self._parked = None
        connection, _, since = parked
        if time.monotonic() - since < PARKED_FOR and connection.probe():
            return connection
        connection.quit_nowait()
        return None

    def close(self) -> None:
        """Close the parked connection, if there is one."""
        with self._lock:
            parked, self._parked = self._parked, None
        if parked is not None:
            parked[0].quit_nowait()

    def connect(
        self,
        context: ssl.SSLContext | None,
        verb: str,
        name: str,
        deadline: Deadline,
        tls_session: ssl.SSLSession | None,
    ) -> CommandConnection:
        """A connection after greeting, TLS and EHLO, ready to log in or to send."""
        connection = self.take_parked(context)
        if connection is not None and connection.ehlo_name == name and connection.hello is not None:
            return connection
        if connection is None and context is not None and self.address.context is None:
            connection = self.take_parked(None)
        if connection is None:
            connection = self._greeted_connection(deadline, tls_session)
        try:
            if context is not None and connection.tls is None:
                reply = upgrade(connection, context, verb, name, deadline)
                self.start_tls_reply = reply
            if connection.hello is None or connection.ehlo_name != name:
                introduce(connection, verb, name, deadline)
        except BaseException:
            connection.close()
            raise
        if connection.hello is not None:
            self.note_hello(context, name, connection.hello, connection)
        return connection

    def _known_hello(self, context: ssl.SSLContext | None, name: str) -> SmtpResponse | None:
        with self._lock:
            return self._hellos.get((context, name))

    def _new(
        self, context: ssl.SSLContext | None, name: str, deadline: Deadline
    ) -> CommandConnection:
        connection = self._greeted_connection(deadline)
        if context is not None and connection.tls is None:
            try:
                upgrade(connection, context, self.verb, name, deadline)
            except BaseException:
                connection.close()
                raise
        return connection

    @property
    def verb(self) -> str:
        """The command that begins a session: EHLO or LHLO."""
        return "lhlo" if self.address.protocol is Protocol.LMTP else "ehlo"

    def _greeted_connection(
        self, deadline: Deadline, tls_session: ssl.SSLSession | None = None
    ) -> CommandConnection:
        connection, greeting = self._greeted(deadline, tls_session)
        if greeting.code != 220:
            connection.close()
            raise refused(greeting, Phase.GREETING, SMTPConnectError)
        return connection

    def _greeted(
        self, deadline: Deadline, tls_session: ssl.SSLSession | None = None
    ) -> tuple[CommandConnection, SmtpResponse]:
        address = self.address
        connection = CommandConnection.over(
            self._open_socket(deadline, tls_session),
            address.host,
            address.port,
            address.protocol,
            deadline.timeout,
            allow_cleartext_auth=address.allow_cleartext_auth,
            tls_session=tls_session,
        )
        try:
            self.local_ip = connection.local_ip
            return connection, connection.greet(deadline)
        except BaseException:
            connection.close()
            raise

    def _open_socket(self, deadline: Deadline, tls_session: ssl.SSLSession | None) -> socket.socket:
        address = self.address
        sock = open_socket(address.host, address.port, deadline, address.source_address)
        if address.context is None:
            return sock
        return wrap_in_tls(sock, address.context, address.host, deadline, tls_session)

    def _park(self, connection: CommandConnection, context: ssl.SSLContext | None) -> None:
        with self._lock:
            before, self._parked = self._parked, (connection, context, time.monotonic())
        if before is not None and before[0] is not connection:
            before[0].quit_nowait()

    def default_ehlo_name(self) -> str:
        """The default name for EHLO."""
        return default_ehlo_domain(self.local_ip or "127.0.0.1")


def introduce(connection: CommandConnection, verb: str, name: str, deadline: Deadline) -> None:
    """Send EHLO, or HELO if that is refused, as ``smtplib`` does.

    Raises:
        smtplib.SMTPHeloError: both are refused.
    """
    reply = connection.say_hello(verb, name, deadline)
    if not reply.is_success:
        reply = connection.say_hello("helo", name, deadline)
    if not reply.is_success:
        raise refused(reply, Phase.EHLO, SMTPHeloError)


def upgrade(
    connection: CommandConnection,
    context: ssl.SSLContext,
    verb: str,
    name: str,
    deadline: Deadline,
) -> SmtpResponse:
    """Send EHLO if necessary, STARTTLS, and EHLO again; return the reply to STARTTLS.

    Raises:
        StartTlsUnavailableError: it is not offered; no further command was sent.
        smtplib.SMTPResponseException: it was refused.
    """
    if connection.hello is None:
        introduce(connection, verb, name, deadline)
    if not connection.capabilities.supports_starttls:
        raise StartTlsUnavailableError("STARTTLS extension not supported by server.")
    reply = connection.start_tls(context, deadline)
    if reply.code != 220:
        raise refused(reply, Phase.STARTTLS, SMTPResponseException)
    introduce(connection, verb, name, deadline)
    return reply


@dataclass(frozen=True, slots=True)
class _PooledServer(ServerConfig):
    """The server configuration with which a pool makes connections for a `Key`."""

    _: KW_ONLY
    server: Server = field(repr=False, compare=False)
    key: Key = field(repr=False)

    def connect(
        self,
        timeout: float | Deadline | None = None,
        *,
        tls_session: ssl.SSLSession | None = None,
        quirks: ServerQuirks | None = None,
    ) -> CommandConnection:
        """Connect or use the parked connection, and log in; as `ServerConfig.connect`."""
        deadline = Deadline.of(timeout, self.timeout)
        try:
            connection = self._ready(deadline, tls_session)
        except SmtpError as error:
            # The offered TLS session may be the reason for the failed handshake.
            if tls_session is None or error.phase is not Phase.TLS or not deadline.remaining():
                self.server.forget_hellos()
                raise
            connection = self._ready(deadline, None)
        try:
            if quirks is not None:
                connection._share(quirks)
            if self.credentials is not None:
                connection.log_in(self.credentials, deadline)
        except Exception:
            connection.quit_nowait()
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _ready(self, deadline: Deadline, tls_session: ssl.SSLSession | None) -> CommandConnection:
        server, key = self.server, self.key
        return server.connect(key.context, server.verb, key.ehlo_name, deadline, tls_session)


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
        """Take a new lock in a forked child; pools and servers reset themselves."""
        self._lock = threading.Lock()

    def server(self, address: Address) -> Server:
        """The `Server` of an address."""
        reset_if_forked()
        dropped: list[Server] = []
        with self._lock:
            server = self._servers.get(address)
            if server is None:
                server = self._servers[address] = Server(address)
            self._servers.move_to_end(address)
            while len(self._servers) > MAX_POOLS:
                dropped.append(self._servers.popitem(last=False)[1])
        for each in dropped:
            each.close()
        return server

    def is_alive(self, address: Address) -> bool:
        """Whether there are connections to an address, idle or in use."""
        with self._lock:
            pools = [entry.pool for key, entry in self._entries.items() if key.address == address]
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
                # Another thread has closed the pool as unused.
                if self.is_closed:
                    raise

    def close(self) -> None:
        """Close all pools; connections in use are closed when they come back."""
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
            return [entry.pool for entry in self._entries.values()]

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
            entry = self._entries.get(key)
            if entry is None:
                config = _PooledServer(
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
        """Remove pools that are unused for too long or too many, the least recently used first."""
        dropped, address = [], wanted.address
        own = sum(
            entry.has_own_context and _same_place(key.address, address)
            for key, entry in self._entries.items()
        )
        for key, entry in list(self._entries.items()):
            is_own = entry.has_own_context and _same_place(key.address, address)
            is_one_too_many = own > MAX_POOLS_OF_OWN_CONTEXTS and is_own
            is_old = now - entry.used_at >= UNUSED_AFTER
            is_unwanted = is_old or is_one_too_many or len(self._entries) > MAX_POOLS
            if is_unwanted and key != wanted and not entry.is_in_use:
                dropped.append(self._entries.pop(key))
                own -= is_own
        return dropped


class Borrowed:
    """A connection borrowed by an object."""

    __slots__ = ("_entry", "_lease", "connection")

    def __init__(self, entry: _Entry, lease: Lease, connection: object) -> None:
        assert isinstance(connection, CommandConnection)
        self.connection = connection
        self._entry = entry
        self._lease = lease

    @property
    def was_reused(self) -> bool:
        """Whether the connection had been used before."""
        return self._lease.was_reused

    def renew(self, deadline: Deadline) -> None:
        """Replace the dead connection by a new one."""
        connection = self._lease.renew(deadline)
        assert isinstance(connection, CommandConnection)
        self.connection = connection

    def give_back(self, *, keep: bool) -> None:
        """Return the connection; close it unless it may be kept."""
        self.connection.show_to(None)
        if not keep:
            self.connection.close()
        self._lease.__exit__(None, None, None)
        self._entry.used_at = time.monotonic()


def _same_place(one: Address, other: Address) -> bool:
    return one.host == other.host and one.port == other.port


class _Turn:
    """What one thread has at a time, and others wait for."""

    def __init__(self) -> None:
        # One item, in here or with the holder; a `threading.Lock` could be older than gevent's.
        self._free: deque[None] = deque([None])
        self._freed = Wakeup()

    def take(self, to: deque[None]) -> bool:
        """Take it if it is free; whether it was. Nothing cuts this in two."""
        try:
            to.extend(map(deque.pop, (self._free,)))
        except IndexError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until it may be free, at most so long; whether it may."""
        return self._freed.wait(seconds)

    def give_back(self, taken: deque[None]) -> None:
        """Give back what was taken, if anything was; again does no harm."""
        while taken:
            try:
                self._free.extend(map(deque.pop, (taken,)))
            finally:
                self._freed.set()


class _Held:
    """Hold a turn that is waited for until a deadline, and no longer.

    It is released once, however the block is interrupted: at the latest when this object is
    garbage-collected.
    """

    def __init__(self, turn: _Turn, deadline: Deadline) -> None:
        self._turn = turn
        self._deadline = deadline
        self._taken: deque[None] = deque()

    def __enter__(self) -> None:
        seconds = self._deadline.check(Phase.CONNECT)
        while not self._turn.take(self._taken):
            if not self._turn.wait(seconds):
                raise self._deadline.error(Phase.CONNECT)
            seconds = self._deadline.remaining()

    def __exit__(self, *error: object) -> None:
        self._turn.give_back(self._taken)

    def __del__(self) -> None:
        if hasattr(self, "_taken"):
            self._turn.give_back(self._taken)
