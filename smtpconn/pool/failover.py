"""Which server to connect to next, of those a pool was given; pure decisions, time passed in.

Rule 1: the first one that is healthy. One that failed rests, longer each time, and is then tried
        again; so mail moves on at once and comes back by itself.
Rule 2: a server is never given up for good. When all rest, all are tried in order, because the
        caller is waiting now.
Rule 3: a refused login is different: trying again may lock the account. Until its long rest is
        over, callers get the same refusal without the server being asked.

The caller holds the pool's lock.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import AuthError, SmtpError

FIRST_BACKOFF = 1.0
"""Seconds a server rests after its first failure; doubled with each further one."""

MAX_BACKOFF = 60.0
"""Seconds it rests at most."""

LOGIN_BACKOFF = 60.0
"""Seconds after a refused login in which the server is not asked again."""


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A server of a pool at one moment.

    Attributes:
        server: ``host:port``.
        is_healthy: whether its last connect succeeded, or none was tried.
        failures: connects that failed in a row.
        last_error: what the last failed one failed with; None after a success.
    """

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
    login_backoff_until: float = 0.0
    last_error: SmtpError | None = None


class ServerSelector:
    """The servers of a pool, in the order of preference."""

    def __init__(self, configs: Sequence[ServerConfig]) -> None:
        self._servers = [_Server(config) for config in configs]

    def __len__(self) -> int:
        return len(self._servers)

    def config(self, index: int) -> ServerConfig:
        """The configuration of a server."""
        return self._servers[index].config

    def to_try(self, now: float) -> list[int]:
        """The servers to try, in order: the healthy and rested ones first."""
        return sorted(range(len(self._servers)), key=lambda i: self._servers[i].backoff_until > now)

    def preferred(self, now: float) -> int:
        """The server that new connections go to."""
        return self.to_try(now)[0]

    def login_refusal(self, index: int, now: float) -> SmtpError | None:
        """The refusal a caller gets while the login rests (rule 3)."""
        server = self._servers[index]
        if now < server.login_backoff_until and server.last_error is not None:
            return copy.copy(server.last_error)
        return None

    def succeeded(self, index: int) -> None:
        """Note that a connection was made."""
        server = self._servers[index]
        server.failures = server.rests = 0
        server.backoff_until = server.login_backoff_until = 0.0
        server.last_error = None

    def failed(self, index: int, error: SmtpError, now: float, *, rests: bool = True) -> None:
        """Note that none could be made, and unless told otherwise let the server rest."""
        server = self._servers[index]
        server.failures += 1
        # What fails while it rests was begun before, or because there is no other server: ten
        # callers that meet one failure together are no ten failures.
        if rests and now >= server.backoff_until:
            # Not 2 to the power of weeks of failures: that would be too large for a float.
            server.backoff_until = now + min(
                MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(server.rests, 32)
            )
            server.rests += 1
        # A copy, which holds no traceback and so keeps no frame alive.
        server.last_error = copy.copy(error)
        if isinstance(error, AuthError) and not error.is_transient:
            server.login_backoff_until = now + LOGIN_BACKOFF
            # Nor is mail moved back to it before.
            server.backoff_until = max(server.backoff_until, server.login_backoff_until)

    def last_error(self) -> SmtpError | None:
        """The most recent thing that went wrong with the most preferred server that has trouble."""
        return next((s.last_error for s in self._servers if s.last_error is not None), None)

    def stats(self) -> tuple[ServerStats, ...]:
        """How each stands."""
        return tuple(
            ServerStats(str(s.config), s.failures == 0, s.failures, s.last_error)
            for s in self._servers
        )
