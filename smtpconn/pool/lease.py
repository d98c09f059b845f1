"""`Lease`: a caller's right to a connection of a pool, and how it is returned.

A lease is returned when its ``with`` block ends, whether by an exception or not, and as a last
resort when it is collected as garbage. Returning it twice is harmless. An exception between any two
bytecodes here may cost a connection, but never a lease.
"""

from __future__ import annotations

import weakref
from collections import deque
from types import TracebackType
from typing import NoReturn, Protocol

from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import ConnectionClosedError, Phase, PoolError
from smtpconn.net import forking
from smtpconn.net.deadline import Deadline
from smtpconn.pool.state import Waiter


class Lender(Protocol):
    """The methods of a pool that a lease calls.

    Attributes:
        deferred: returned leases whose clean-up the next call of the pool has to finish.
    """

    deferred: deque[Waiter | LeaseReference]

    def checkout(self, waiter: Waiter, timeout: float | Deadline) -> SmtpConnection:
        """Get a usable connection, waiting for one if necessary."""

    def renew(self, waiter: Waiter, deadline: Deadline) -> SmtpConnection:
        """Replace a connection that turned out to be dead."""

    def may_follow(self, waiter: Waiter) -> bool:
        """Whether another message of the same batch may follow on the connection."""

    def check_in(self, waiter: Waiter, keep: bool) -> None:
        """Take back the connection and the lease; called again if it was interrupted."""

    def abandoned(self, waiter: Waiter) -> None:
        """As `check_in`, but called from ``__del__``: must not block or call other code."""


class LeaseReference(weakref.ref["Lease"]):
    """A weak reference that is added to `Lender.deferred` if its lease is collected while in use.

    The destructor alone is not enough: an exception of a signal handler may interrupt it, and it is
    never called again. The callback of this reference is a function in C, which nothing interrupts.

    Attributes:
        waiter: the waiter of the lease; None if `Lease.begin` was interrupted before setting it.
    """

    waiter: Waiter | None = None


class Lease:
    """A borrowed connection: a context manager that returns it, however its block ends.

    Get one from `smtpconn.ConnectionPool.connection`. The connection is kept if it is still in sync
    with the server. It is closed if the block ends by an exception that is no `Exception` (Ctrl-C,
    a killed greenlet), because the state of the session is unknown then.

    In a forked child a lease of the parent has no effect: its connection is closed, and returning
    it changes nothing.
    """

    __slots__ = ("__weakref__", "_batch", "_pool", "_process", "_timeout", "_waiter")

    def __init__(
        self, pool: Lender, timeout: float | Deadline, batch: object | None = None
    ) -> None:
        # None if the lease belongs to no batch; see `PoolState.may_follow`.
        self._batch = batch
        self._waiter: Waiter | None = None
        self._process = 0
        self._pool = pool
        self._timeout = timeout

    def __enter__(self) -> SmtpConnection:
        waiter = self.begin()
        try:
            return self._pool.checkout(waiter, self._timeout)
        except BaseException:
            self.__exit__(BaseException, None, None)
            raise

    def begin(self) -> Waiter:
        """Start the lease and return its waiter; the garbage collector returns it at the latest."""
        if self._waiter is not None:
            raise PoolError("this lease is in use: call pool.connection() for each with block")
        if not forking.same_process[0]:
            forking.reset_if_forked()
        self._process = forking.process_number
        self._waiter = waiter = Waiter()
        if self._batch is not None:
            waiter.batch = self._batch
        reference = LeaseReference(self, self._pool.deferred.append)
        reference.waiter = waiter
        waiter.lease = reference
        return waiter

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # If an exception interrupts this method, another call does the remaining steps.
        if (waiter := self._waiter) is not None:
            if not forking.same_process[0]:
                forking.reset_if_forked()
            if self._process == forking.process_number:
                self._pool.check_in(waiter, kind is None or issubclass(kind, Exception))
            waiter.lease = self._waiter = None

    def __repr__(self) -> str:
        return f"<Lease {'not in use' if self._waiter is None else 'in use'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Lease is neither pickled nor copied: it holds a connection")

    def __del__(self) -> None:
        # The attribute is missing if the constructor was interrupted.
        waiter = getattr(self, "_waiter", None)
        if waiter is not None and forking.is_current_process(self._process):
            self._pool.abandoned(waiter)

    @property
    def was_reused(self) -> bool:
        """Whether the connection had been used before it was borrowed."""
        waiter = self._waiter
        return waiter is not None and waiter.pooled is not None and waiter.pooled.uses > 0

    @property
    def server(self) -> int:
        """The index of the connection's server among those of the pool; 0 while not in use."""
        waiter = self._waiter
        return 0 if waiter is None or waiter.pooled is None else waiter.pooled.server

    @property
    def may_follow(self) -> bool:
        """Whether another message of the same batch may follow on the connection."""
        waiter = self._waiter
        return waiter is not None and self._pool.may_follow(waiter)

    def renew(self, deadline: Deadline) -> SmtpConnection:
        """Replace the connection, which is dead, before ``deadline``.

        Raises:
            PoolError: the lease is not in use.
            ConnectionClosedError: it belongs to the parent of this forked process.
            SmtpError: as `smtpconn.ConnectionPool.connection`.
        """
        if self._waiter is None:
            raise PoolError("this lease is not in use")
        if self._process != forking.current_process():
            raise ConnectionClosedError(
                "the process was forked, and this lease is the parent's", phase=Phase.POOL
            )
        return self._pool.renew(self._waiter, deadline)
