"""Which server to connect to next, of those a pool was given; pure decisions, time passed in.

Rule 1: the first one that is healthy and has room. One that failed rests, longer each time; mail
        moves on at once and comes back by itself.
Rule 2: when a rest is over, ONE caller asks whether the server is back; to all others it stays the
        last choice until that caller knows.
Rule 3: a server is never given up for good. When none is healthy, all with room are tried in order,
        because the caller is waiting now.
Rule 4: a server that takes no more connections keeps those it has, and gets no more for a while;
        that is no concern of the other servers.
Rule 5: a refused login is different: trying again may lock the account. Until its long rest is
        over, callers get the same refusal without the server being asked.

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
"""Seconds a server rests after its first failure; doubled with each further one."""

MAX_BACKOFF = 60.0
"""Seconds it rests at most."""

LOGIN_BACKOFF = 60.0
"""Seconds after a refused login in which the server is not asked again."""

LOWERED_FOR = 60.0
"""Seconds for which a server that said "too many connections" gets no more than it has."""

TRIAL_TIMEOUT = 5.0
"""Seconds a server has to answer while there are others to turn to."""


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A server of a pool at one moment.

    Attributes:
        server: ``host:port``.
        is_healthy: whether its last connect succeeded, or none was tried.
        failures: connects that failed in a row.
        last_error: what the last failed one failed with; None after a success.
    """

    __reduce_ex__ = reduce_value

    server: str
    is_healthy: bool
    failures: int
    last_error: SmtpError | None


@dataclass(slots=True)
class _Server:
    config: ServerConfig
    failures: int = 0
    rests: int = 0
    backoff_until: float = 0.0
    trial_until: float = 0.0
    login_backoff_until: float = 0.0
    last_error: SmtpError | None = None
    login_error: SmtpError | None = None
    # How many connections it takes, until then; 0.0 while no limit is known.
    capacity: int = 0
    lowered_until: float = 0.0


class ServerSelector:
    """The servers of a pool, in the order of preference.

    Args:
        configs: their configurations.
        connections_to: how many connections the pool has to the server of an index, idle or lent.
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
        """The servers with room, in the order to try them: the healthy and rested ones first."""
        with_room = [i for i in range(len(self._servers)) if self._has_room(i, now)]
        return sorted(with_room, key=lambda i: not self._is_ready(i, now))

    def begin_trials(self, order: Sequence[int], now: float) -> None:
        """Have nobody else ask the servers that are about to be asked whether they are back.

        Those at the head of ``order``, up to the first that is known to be; the last one of all is
        no trial.
        """
        for index in order[:-1]:
            server = self._servers[index]
            met_a_limit = bool(server.lowered_until) and now >= server.lowered_until
            if not self._is_ready(index, now) or not (server.failures or met_a_limit):
                break
            self.begin_trial(index, now)

    def begin_trial(self, index: int, now: float) -> None:
        """Have nobody else ask a server for now. A trial that is cut off ends by itself."""
        self._servers[index].trial_until = now + TRIAL_TIMEOUT

    def better_to_try(self, index: int, now: float) -> int | None:
        """A server preferred to this one whose trial is due; None if there is none."""
        for better in range(index):
            if self._is_ready(better, now) and self._has_room(better, now):
                return better
        return None

    def has_better(self, index: int) -> bool:
        """Whether a server preferred to this one is known to be back and to have room.

        Where a limit was met and its time is over, that has to be asked first.
        """
        return any(
            not server.failures
            and (not server.lowered_until or self._connections_to(better) < server.capacity)
            for better, server in enumerate(self._servers[:index])
        )

    def retry_at(self, now: float) -> float:
        """When the first of them has rested and has room."""
        return min(
            max(
                server.backoff_until,
                now if self._has_room(index, now) else server.lowered_until,
            )
            for index, server in enumerate(self._servers)
        )

    def login_refusal(self, index: int, now: float) -> SmtpError | None:
        """The refusal a caller gets while the login rests (rule 5)."""
        server = self._servers[index]
        if now < server.login_backoff_until and server.login_error is not None:
            return copy.copy(server.login_error)
        return None

    def succeeded(self, index: int, now: float) -> None:
        """Note that a connection was made."""
        server = self._servers[index]
        if now >= server.lowered_until:
            server.lowered_until = 0.0
        server.failures = server.rests = 0
        server.backoff_until = server.trial_until = server.login_backoff_until = 0.0
        server.last_error = server.login_error = None

    def failed(self, index: int, error: SmtpError, now: float) -> None:
        """Note that none could be made, and let the server rest.

        Also if the caller was in a hurry: the first rest is short, and who comes then may have more
        time. Only if nobody has, it grows.
        """
        server = self._servers[index]
        server.failures += 1
        server.trial_until = 0.0
        # What fails while it rests was begun before, or because there is no other server: ten
        # callers that meet one failure together are no ten failures.
        if now >= server.backoff_until:
            # Not 2 to the power of weeks of failures: that would be too large for a float.
            server.backoff_until = now + min(
                MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(server.rests, 32)
            )
            server.rests += 1
        # A copy, which holds no traceback and so keeps no frame alive.
        server.last_error = copy.copy(error)
        if isinstance(error, AuthError) and not error.is_transient:
            server.login_error = server.last_error
            server.login_backoff_until = now + LOGIN_BACKOFF
            server.login_error = server.last_error
            # Nor is mail moved back to it before.
            server.backoff_until = max(server.backoff_until, server.login_backoff_until)

    def met_limit(self, index: int, now: float) -> None:
        """Note that a server takes no more connections than the pool has to it (rule 4).

        If it has none, that is no limit but a refusal, for which the server rests.
        """
        if count := self._connections_to(index):
            server = self._servers[index]
            server.capacity, server.lowered_until = count, now + LOWERED_FOR

    def last_error(self) -> SmtpError | None:
        """The most recent thing that went wrong with the most preferred server that has trouble."""
        return next((s.last_error for s in self._servers if s.last_error is not None), None)

    def stats(self) -> tuple[ServerStats, ...]:
        """How each stands."""
        return tuple(
            ServerStats(str(s.config), s.failures == 0, s.failures, s.last_error)
            for s in self._servers
        )

    def _is_ready(self, index: int, now: float) -> bool:
        server = self._servers[index]
        return server.backoff_until <= now and server.trial_until <= now

    def _has_room(self, index: int, now: float) -> bool:
        server = self._servers[index]
        return now >= server.lowered_until or self._connections_to(index) < server.capacity
