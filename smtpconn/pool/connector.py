"""Making connections for a pool: to which server, in how much time, with which TLS session.

`smtpconn.pool.failover` decides which servers are tried, and `Connector` tries them. After a
failure, "too many connections" included, it tries the next server within the same deadline. Each
server gets a share of the time, so that a silent one cannot use up the time of the others.
"""

from __future__ import annotations

import logging
import math
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from smtpconn.client.config import ServerConfig
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import Phase, SmtpError, SmtpTimeoutError
from smtpconn.model.origin import is_own
from smtpconn.model.response_errors import TransientError
from smtpconn.net.deadline import Deadline
from smtpconn.pool.events import Action, EventEmitter
from smtpconn.pool.failover import TRIAL_TIMEOUT, ServerSelector, ServerStats
from smtpconn.protocol.quirks import TOO_MANY_CONNECTIONS_CODES, ServerQuirks

_log = logging.getLogger("smtpconn.pool")


class Connector:
    """Makes connections, and counts the attempts.

    Args:
        configs: the servers, the preferred one first.
        lock: the pool's lock; held for decisions, never while connecting.
        emitter: emits the events of connecting.
        connections_to: returns the number of connections, idle or in use, that the pool has to the
            server with an index.

    Attributes:
        connects, errors: the numbers of successful and failed attempts.
        seconds: the total time of the successful ones.
    """

    def __init__(
        self,
        configs: Sequence[ServerConfig],
        lock: threading.RLock,
        emitter: EventEmitter,
        connections_to: Callable[[int], int],
    ) -> None:
        self.connects = 0
        self.errors = 0
        self.seconds = 0.0
        self._configs = configs
        self._lock = lock
        self._emitter = emitter
        self._servers = ServerSelector(configs, connections_to)
        self._tls_sessions: dict[int, ssl.SSLSession] = {}
        self._quirks = [ServerQuirks() for _ in configs]

    def connect(
        self, deadline: Deadline, should_wait: Callable[[SmtpError | None, float], bool]
    ) -> tuple[SmtpConnection, int] | None:
        """Connect to the first server that accepts a connection.

        A server gets at most `TRIAL_TIMEOUT` seconds while there are other servers to try, or
        connections in use that may be returned. If all of these fail, the servers that this limit
        cut short are tried again, with the rest of the time.

        Args:
            deadline: of all attempts together.
            should_wait: called when no server accepts a connection and one of them has too many
                already. Its arguments are the error of that server (None if its limit was known
                before) and the time to try again (monotonic clock). It returns True if the caller
                waits for a connection to be returned instead.

        Returns the connection and the index of its server; None if ``should_wait`` returned True.

        Raises:
            SmtpError: the error of the last server.
        """
        with self._lock:
            now = time.monotonic()
            order = self._servers.to_try(now)
            self._servers.begin_trials(order, now)
        others_are_full = len(order) < len(self._configs)
        too_many: SmtpError | None = None
        failure: SmtpError | None = None
        cut_short: list[int] = []
        for left in range(len(order), 0, -1):
            index = order[-left]
            is_last_option = left == 1 and not others_are_full and too_many is None
            limit = math.inf if is_last_option else TRIAL_TIMEOUT
            share = deadline.share(left + len(cut_short))
            is_cut_short = limit < share.remaining()
            try:
                return self._connect_to(index, share.share(1, limit)), index
            except SmtpError as error:
                if not is_own(error):
                    raise
                failure = error
                if _is_too_many(error):
                    too_many = error
                if is_cut_short and isinstance(error, SmtpTimeoutError):
                    cut_short.append(index)
                if left > 1:
                    name, server = self._emitter.pool, self._configs[index]
                    _log.info("%s: %s failed, trying the next server: %s", name, server, str(error))
        if too_many is not None or others_are_full:
            with self._lock:
                retry_at = self._servers.retry_at(time.monotonic())
            if should_wait(too_many, retry_at):
                return None
        while cut_short and deadline.remaining():
            index = cut_short.pop(0)
            share = deadline.share(1 + len(cut_short))
            try:
                return self._connect_to(index, share), index
            except SmtpError as error:
                if not is_own(error):
                    raise
                failure = error
        if failure is None:
            # All servers were at their limits, but the pool's last connection to them has been
            # closed since, so there is room.
            return self.connect(deadline, should_wait)
        raise failure

    def connect_to_better(
        self, index: int, deadline: Deadline
    ) -> tuple[SmtpConnection, int] | None:
        """Try to connect to a server that is preferred to the server ``index``, if one is due.

        The caller has a connection to the server ``index`` and uses it if this fails. A server is
        due for one caller at a time; other callers get None and keep their connections.

        Returns a connection to the preferred server and its index; None if there is none.
        """
        with self._lock:
            now = time.monotonic()
            better = self._servers.better_to_try(index, now)
            if better is None:
                return None
            self._servers.begin_trial(better, now)
        try:
            return self._connect_to(better, deadline.share(2, TRIAL_TIMEOUT)), better
        except SmtpError as error:
            if not is_own(error):
                raise
            name, server = self._emitter.pool, self._configs[better]
            _log.info("%s: the preferred server %s still fails: %s", name, server, str(error))
            return None

    def keep_tls_session(self, connection: SmtpConnection, index: int) -> None:
        """Keep the TLS session of a connection for the next connection to the same server.

        Called when the connection is first returned: with TLS 1.3 the session ticket arrives only
        after the handshake (RFC 8446 4.6.1).
        """
        tls = connection.tls
        if tls is not None and tls.session is not None:
            self._tls_sessions[index] = tls.session

    def has_better(self, index: int) -> bool:
        """Whether a server preferred to the server ``index`` is healthy and has room."""
        with self._lock:
            return self._servers.has_better(index)

    def last_error(self) -> SmtpError | None:
        """The last error of the most preferred server that fails; None if none does."""
        return self._servers.last_error()

    def stats(self) -> tuple[ServerStats, ...]:
        """The state of each server."""
        return self._servers.stats()

    def _connect_to(self, index: int, deadline: Deadline) -> SmtpConnection:
        begun = time.monotonic()
        config = self._configs[index]
        events = self._emitter.operation(Action.CONNECT, config)
        try:
            events.begin()
            connection = self._try(index, deadline.at_most(config.timeout))
        except BaseException as error:
            events.failed(error)
            raise
        with self._lock:
            self.connects += 1
            self.seconds += time.monotonic() - begun
            self._servers.succeeded(index, time.monotonic())
        events.done()
        return connection

    def _try(self, index: int, deadline: Deadline) -> SmtpConnection:
        deadline.check(Phase.CONNECT, str(self._configs[index]))
        with self._lock:
            refusal = self._servers.login_refusal(index, time.monotonic())
        if refusal is not None:
            raise refusal
        offered = self._tls_sessions.get(index)
        try:
            connection = self._configs[index].connect(
                deadline, tls_session=offered, quirks=self._quirks[index]
            )
        except SmtpError as error:
            if not is_own(error):
                raise
            with self._lock:
                self.errors += 1
                now = time.monotonic()
                self._servers.failed(index, error, now)
                if _is_too_many(error):
                    self._servers.met_limit(index, now)
            if error.phase is Phase.TLS:
                self._forget_tls_session(index, offered)
            raise
        if connection.tls is not None and not connection.tls.session_reused:
            self._forget_tls_session(index, offered)
        return connection

    def _forget_tls_session(self, index: int, offered: ssl.SSLSession | None) -> None:
        """Drop a TLS session that the server did not resume."""
        if self._tls_sessions.get(index) is offered:
            self._tls_sessions.pop(index, None)


def _is_too_many(error: SmtpError) -> bool:
    """Whether the server may have refused a connect because there are too many connections."""
    return isinstance(error, TransientError) and error.response.code in TOO_MANY_CONNECTIONS_CODES
