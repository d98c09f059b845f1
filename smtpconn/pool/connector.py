"""Making connections for a pool: to which server, in how much time, with which TLS session.

Which server is worth trying is decided in `smtpconn.pool.failover`; here it is tried. A failure
moves on to the next one within the same deadline, and each gets its share of the time, so that a
silent one cannot use up what the others need.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Sequence

from smtpconn.client.config import ServerConfig
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import Phase, SmtpError, SmtpTimeoutError, TransientError
from smtpconn.net.deadline import Deadline
from smtpconn.pool.events import Action, Teller
from smtpconn.pool.failover import ServerSelector, ServerStats
from smtpconn.protocol.session import ServerQuirks

MIN_CONNECT_ATTEMPT = 1.0
"""Seconds that a server has to have had before it rests for its silence: a caller in a hurry must
not take it from all others."""

_log = logging.getLogger("smtpconn.pool")


class Connector:
    """Makes connections, and remembers how that went.

    Args:
        configs: the servers, the preferred one first.
        lock: the pool's; held for decisions, never while connecting.
        teller: who is told of it.

    Attributes:
        connects, errors: connections made, and attempts that failed.
        seconds: spent on those made.
    """

    def __init__(
        self, configs: Sequence[ServerConfig], lock: threading.RLock, teller: Teller
    ) -> None:
        self.connects = 0
        self.errors = 0
        self.seconds = 0.0
        self._configs = configs
        self._lock = lock
        self._teller = teller
        self._servers = ServerSelector(configs)
        self._tls_sessions: dict[int, ssl.SSLSession] = {}
        self._quirks = [ServerQuirks() for _ in configs]

    def connect(
        self, deadline: Deadline, is_to_wait: Callable[[SmtpError], bool]
    ) -> tuple[SmtpConnection, int] | None:
        """Connect to the first server that can be had.

        Args:
            deadline: by when.
            is_to_wait: asked when a server says that there are too many connections already;
                True to give up for now.

        Returns the connection and its server's place in the order; None if it is given up.

        Raises:
            SmtpError: what the last server failed with.
        """
        with self._lock:
            order = self._servers.to_try(time.monotonic())
        for position, index in enumerate(order):
            share = deadline.check(Phase.CONNECT) / (len(order) - position)
            try:
                return self._connect_to(index, share), index
            except SmtpError as error:
                if _is_too_many(error) and is_to_wait(error):
                    return None
                if position == len(order) - 1:
                    raise
                name, server = self._teller.pool, self._configs[index]
                _log.info("%s: moving on from %s: %s", name, server, str(error))
        raise AssertionError("there is at least one server")

    def keep_tls_session(self, connection: SmtpConnection, index: int) -> None:
        """Keep what the next connection to this server can resume.

        With TLS 1.3 it comes some time after the handshake, so not before the first use.
        """
        tls = connection.tls
        if tls is not None and tls.session is not None:
            self._tls_sessions[index] = tls.session

    def has_better(self, index: int, now: float) -> bool:
        """Whether a server that is preferred to this one is worth trying again."""
        with self._lock:
            return index > 0 and self._servers.preferred(now) < index

    def last_error(self) -> SmtpError | None:
        """What went wrong last with the most preferred server that has trouble."""
        return self._servers.last_error()

    def stats(self) -> tuple[ServerStats, ...]:
        """How each server stands."""
        return self._servers.stats()

    def _connect_to(self, index: int, seconds: float) -> SmtpConnection:
        begun = time.monotonic()
        config = self._configs[index]
        telling = self._teller.about(Action.CONNECT, config)
        try:
            telling.begin()
            connection = self._try(index, min(config.timeout, seconds))
        except BaseException as error:
            telling.failed(error)
            raise
        connection._share(self._quirks[index])
        with self._lock:
            self.connects += 1
            self.seconds += time.monotonic() - begun
            self._servers.succeeded(index)
        telling.done()
        return connection

    def _try(self, index: int, seconds: float) -> SmtpConnection:
        with self._lock:
            refusal = self._servers.login_refusal(index, time.monotonic())
        if refusal is not None:
            raise refusal
        try:
            return self._configs[index].connect(seconds, tls_session=self._tls_sessions.get(index))
        except SmtpError as error:
            with self._lock:
                self.errors += 1
                was_fair = seconds >= MIN_CONNECT_ATTEMPT or not isinstance(error, SmtpTimeoutError)
                self._servers.failed(index, error, time.monotonic(), rests=was_fair)
            raise


def _is_too_many(error: SmtpError) -> bool:
    """Whether a refusal at connecting may mean that there are too many connections already."""
    return isinstance(error, TransientError) and error.response.code in (421, 432, 451)
