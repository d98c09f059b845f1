"""Which of a pool's servers to connect to next: decisions only; the caller passes the time.

Rule 1: the first server that is healthy and has room is used. After a failure a server is skipped
        for a backoff that grows with each failure. Mail uses the next server meanwhile.
Rule 2: after the backoff one caller tries the server; for all others it stays the last choice until
        that trial has ended.
Rule 3: no server is excluded for ever. If none is healthy, all that have room are tried in order,
        even during their backoff, because a caller waits.
Rule 4: a server that accepts no more connections keeps those it has and gets no more for a while.
        This does not affect the other servers.
Rule 5: a refused login is different, because trying again may lock the account. During its long
        backoff, callers get the same refusal without a connect.

The caller holds the pool's lock.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import SmtpError
from smtpconn.model.pickling import reduce_value
from smtpconn.model.response_errors import AuthError

FIRST_BACKOFF = 1.0
"""Seconds of backoff after a server's first failure; doubled with each further one."""

MAX_BACKOFF = 60.0
"""The longest backoff in seconds."""

LOGIN_BACKOFF = 60.0
"""Seconds after a refused login without another attempt to log in."""

SERVER_LIMIT_DURATION = 60.0
"""Seconds for which a server that replied "too many connections" gets no further connection."""

TRIAL_TIMEOUT = 5.0
"""Seconds that a connect may take while the pool has other servers to try."""


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A server of a pool at one moment.

    Attributes:
        server: ``host:port``.
        is_healthy: whether its last connect succeeded, or none was tried.
        failures: the number of consecutive failed connects.
        last_error: the error of the last one; None after a success.
    """

    __reduce_ex__ = reduce_value

    server: str
    is_healthy: bool
    failures: int
    last_error: SmtpError | None


class _Server:
    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.failures = 0
        self.backoffs = 0
        self.backoff_until = 0.0
        self.trial_until = 0.0
        self.login_backoff_until = 0.0
        self.last_error: SmtpError | None = None
        self.login_error: SmtpError | None = None
        # The number of connections it accepts until that time; 0.0 while no limit is known.
        self.capacity = 0
        self.limited_until = 0.0


class ServerSelector:
    """The servers of a pool, in the order of preference.

    Args:
        configs: their configurations.
        connections_to: the number of connections, idle or borrowed, to the server with an index.
    """

    def __init__(
        self,
        configs: Sequence[ServerConfig],
        connections_to: Callable[[int], int] = lambda index: 0,
    ) -> None:
        self._servers = [_Server(config) for config in configs]
        self._connections_to = connections_to

    def __len__(self) -> int:
        return len(self._servers)

    def config(self, index: int) -> ServerConfig:
        """The configuration of a server."""
        return self._servers[index].config

    def to_try(self, now: float) -> list[int]:
        """The servers with room, in the order to try them: those not in backoff first."""
        with_room = [i for i in range(len(self._servers)) if self._has_room(i, now)]
        return sorted(with_room, key=lambda i: not self._is_ready(i, now))

    def begin_trials(self, order: Sequence[int], now: float) -> None:
        """Mark the servers that the caller is about to try, so that no other caller tries them.

        These are the first ones of ``order``, up to the first healthy one. The last server of all
        is never marked.
        """
        for index in order[:-1]:
            server = self._servers[index]
            met_a_limit = bool(server.limited_until) and now >= server.limited_until
            if not self._is_ready(index, now) or not (server.failures or met_a_limit):
                break
            self.begin_trial(index, now)

    def begin_trial(self, index: int, now: float) -> None:
        """Mark a server as being tried. The mark expires if the trial is interrupted."""
        self._servers[index].trial_until = now + TRIAL_TIMEOUT

    def better_to_try(self, index: int, now: float) -> int | None:
        """A server preferred to this one that is due for a trial; None if there is none."""
        for better in range(index):
            if self._is_ready(better, now) and self._has_room(better, now):
                return better
        return None

    def has_better(self, index: int) -> bool:
        """Whether a server preferred to this one is known to be healthy and to have room.

        A server whose limit has expired must be tried first.
        """
        return any(
            not server.failures
            and (not server.limited_until or self._connections_to(better) < server.capacity)
            for better, server in enumerate(self._servers[:index])
        )

    def retry_at(self, now: float) -> float:
        """The earliest time at which a server's backoff is over and it has room."""
        return min(
            max(
                server.backoff_until,
                now if self._has_room(index, now) else server.limited_until,
            )
            for index, server in enumerate(self._servers)
        )

    def login_refusal(self, index: int, now: float) -> SmtpError | None:
        """The refusal that callers get during the backoff of the login (rule 5)."""
        server = self._servers[index]
        if now < server.login_backoff_until and server.login_error is not None:
            return copy.copy(server.login_error)
        return None

    def succeeded(self, index: int, now: float) -> None:
        """Record a successful connect."""
        server = self._servers[index]
        if now >= server.limited_until:
            server.limited_until = 0.0
        server.failures = server.backoffs = 0
        server.backoff_until = server.trial_until = server.login_backoff_until = 0.0
        server.last_error = server.login_error = None

    def failed(self, index: int, error: SmtpError, now: float) -> None:
        """Record a failed connect, and start a backoff.

        A timeout counts even if the caller's own timeout was short: the first backoff is short,
        and the next caller may have more time.
        """
        server = self._servers[index]
        server.failures += 1
        server.trial_until = 0.0
        # A failure during the backoff belongs to a connect that began before it, or there is no
        # other server. Ten concurrent callers must not count as ten failures.
        if now >= server.backoff_until:
            # Limited, because 2 to the power of many failures would be too large for a float.
            server.backoff_until = now + min(
                MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(server.backoffs, 32)
            )
            server.backoffs += 1
        # A copy without traceback, so that it keeps no frame alive.
        server.last_error = copy.copy(error)
        if isinstance(error, AuthError) and not error.is_transient:
            server.login_error = server.last_error
            server.login_backoff_until = now + LOGIN_BACKOFF
            server.login_error = server.last_error
            # The server is not tried again before that.
            server.backoff_until = max(server.backoff_until, server.login_backoff_until)

    def met_limit(self, index: int, now: float) -> None:
        """Record that a server accepts no more connections than the pool has to it (rule 4).

        If the pool has none, nothing is recorded: the refusal counts as a failure only.
        """
        if count := self._connections_to(index):
            server = self._servers[index]
            server.capacity, server.limited_until = count, now + SERVER_LIMIT_DURATION

    def last_error(self) -> SmtpError | None:
        """The last error of the most preferred server that has failed."""
        return next((s.last_error for s in self._servers if s.last_error is not None), None)

    def stats(self) -> tuple[ServerStats, ...]:
        """The state of each server."""
        return tuple(
            ServerStats(str(s.config), s.failures == 0, s.failures, s.last_error)
            for s in self._servers
        )

    def _is_ready(self, index: int, now: float) -> bool:
        server = self._servers[index]
        return server.backoff_until <= now and server.trial_until <= now

    def _has_room(self, index: int, now: float) -> bool:
        server = self._servers[index]
        return now >= server.limited_until or self._connections_to(index) < server.capacity
