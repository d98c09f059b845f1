"""Making connections for a pool: to which server, in how much time, with which TLS session.

Which server is tried is decided in `smtpconn.pool.failover`; here it is tried. After a failure,
"too many connections" included, the next server is tried within the same deadline. Each gets its
share of the time, so that a silent server cannot use up the time of the others.
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
    """Makes connections, and keeps the figures of the attempts.

    Args:
        configs: the servers, the preferred one first.
        lock: the pool's; held for decisions, never while connecting.
        emitter: emits the events of connecting.
        connections_to: how many connections the pool has to the server of an index, idle or lent.

    Attributes:
        connects, errors: connections made, and attempts that failed.
        seconds: the time that making the connections took.
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
        self, deadline: Deadline, is_to_wait: Callable[[SmtpError | None, float], bool]
    ) -> tuple[SmtpConnection, int] | None:
        """Connect to the first server that can be had.

        A server that hangs has `TRIAL_TIMEOUT` seconds while there are others, or connections that
        may come back; and the rest of the time once there are none.

        Args:
            deadline: by when.
            is_to_wait: asked when no server can be had and one has too many connections already;
                given its error (None if that was known before) and when to try again (monotonic);
                True to give up for now.

        Returns the connection and its server's place in the order; None if it is given up.

        Raises:
            SmtpError: what the last server failed with.
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
            is_last_hope = left == 1 and not others_are_full and too_many is None
            limit = math.inf if is_last_hope else TRIAL_TIMEOUT
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
                    _log.info("%s: moving on from %s: %s", name, server, str(error))
        if too_many is not None or others_are_full:
            with self._lock:
                retry_at = self._servers.retry_at(time.monotonic())
            if is_to_wait(too_many, retry_at):
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
            # All were full; the last connection to them has gone since, so there is room.
            return self.connect(deadline, is_to_wait)
        raise failure

    def connect_to_better(
        self, index: int, deadline: Deadline
    ) -> tuple[SmtpConnection, int] | None:
        """Ask whether a server preferred to this one is back, if it is this caller's turn to.

        For a caller that has a connection to the server ``index`` and falls back on it; so all
        others go on with theirs.

        Returns a connection to the better server and its place; None if there is none.
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
            _log.info("%s: staying away from %s: %s", name, server, str(error))
            return None

    def keep_tls_session(self, connection: SmtpConnection, index: int) -> None:
        """Keep what the next connection to this server can resume.

        With TLS 1.3 it comes some time after the handshake, so not before the first use.
        """
        tls = connection.tls
        if tls is not None and tls.session is not None:
            self._tls_sessions[index] = tls.session

    def has_better(self, index: int) -> bool:
        """Whether a server that is preferred to this one is known to be back, and has room."""
        with self._lock:
            return self._servers.has_better(index)

    def last_error(self) -> SmtpError | None:
        """What went wrong last with the most preferred server that has trouble."""
        return self._servers.last_error()

    def stats(self) -> tuple[ServerStats, ...]:
        """How each server stands."""
        return self._servers.stats()

    def _connect_to(self, index: int, deadline: Deadline) -> SmtpConnection:
        begun = time.monotonic()
        config = self._configs[index]
        events = self._emitter.about(Action.CONNECT, config)
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
    """Whether a refusal at connecting may mean that there are too many connections already."""
    return isinstance(error, TransientError) and error.response.code in TOO_MANY_CONNECTIONS_CODES
