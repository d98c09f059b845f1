"""`Lease`: what a caller of a pool holds, the right to a connection, and how it is given back.

Giving back is idempotent, happens when the ``with`` block ends however it ends, and as a last
resort when the lease is collected as garbage. An exception may strike between any two bytecodes
here; what it can cost is a connection, never the right to one.
"""

from __future__ import annotations

import weakref
from collections import deque
from types import TracebackType
from typing import NoReturn, Protocol

from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import ConnectionClosedError, Phase, PoolError
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import current_process, is_current_process
from smtpconn.pool.state import Waiter


class Lender(Protocol):
    """What a lease needs of a pool.

    Attributes:
        deferred: what the next call of the pool has to finish.
    """

    deferred: deque[Waiter | LeaseReference]

    def checkout(self, waiter: Waiter, timeout: float | Deadline) -> SmtpConnection:
        """Get a good connection, waiting for one if need be."""

    def renew(self, waiter: Waiter, deadline: Deadline) -> SmtpConnection:
        """Replace a connection that turned out to be dead."""

    def may_follow(self, waiter: Waiter) -> bool:
        """Whether another message of the same batch may follow on the connection."""

    def check_in(self, waiter: Waiter, keep: bool) -> None:
        """Take everything back; may be called again after it was cut off."""

    def abandoned(self, waiter: Waiter) -> None:
        """Take everything back; called from ``__del__``: must not block or run code of others."""


class LeaseReference(weakref.ref["Lease"]):
    """Gets into `Lender.deferred` when a lease is collected before it was given back.

    The destructor alone is not enough: an exception of a signal handler may cut it off, and it is
    never called again. What puts this into the deque is a function in C, which nothing interrupts.

    Attributes:
        waiter: the lease's; None if entering it was cut off before it had one.
    """

    waiter: Waiter | None = None


class Lease:
    """A borrowed connection: a context manager that gives it back, however its block ends.

    Get one from `smtpconn.ConnectionPool.connection`. The connection is kept if it is still in sync
    with the server; it is closed after anything else than an ordinary exception (Ctrl-C, a killed
    greenlet), because nobody can tell what was cut off.

    In a forked child a lease of the parent's is nothing: its connection is closed, and giving it
    back changes nothing, because the child's pool has not lent it.
    """

    __slots__ = ("__weakref__", "_batch", "_pool", "_process", "_timeout", "_waiter")

    def __init__(
        self, pool: Lender, timeout: float | Deadline, batch: object | None = None
    ) -> None:
        # What several leases belong to that do not give way to each other; None for nothing.
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
        """Be responsible for a new caller, and give back what it gets, at the latest as garbage."""
        if self._waiter is not None:
            raise PoolError("this lease is in use: call pool.connection() for each with block")
        self._process = current_process()
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
        # Again, and what is left of it, if it is cut off.
        if (waiter := self._waiter) is not None:
            if self._process == current_process():
                self._pool.check_in(waiter, kind is None or issubclass(kind, Exception))
            waiter.lease = self._waiter = None

    def __repr__(self) -> str:
        return f"<Lease {'not in use' if self._waiter is None else 'in use'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Lease is neither pickled nor copied: it holds a connection")

    def __del__(self) -> None:
        # It has none if its making was cut off.
        waiter = getattr(self, "_waiter", None)
        if waiter is not None and is_current_process(self._process):
            self._pool.abandoned(waiter)

    @property
    def was_reused(self) -> bool:
        """Whether the connection had been used before it was borrowed."""
        waiter = self._waiter
        return waiter is not None and waiter.pooled is not None and waiter.pooled.uses > 0

    @property
    def server(self) -> int:
        """The place of its server among those of the pool, while it is in use."""
        waiter = self._waiter
        return 0 if waiter is None or waiter.pooled is None else waiter.pooled.server

    @property
    def may_follow(self) -> bool:
        """Whether another message of the same batch may follow on the connection."""
        waiter = self._waiter
        return waiter is not None and self._pool.may_follow(waiter)

    def renew(self, deadline: Deadline) -> SmtpConnection:
        """Replace the connection, which is dead."""
        if self._waiter is None:
            raise PoolError("this lease is not in use")
        if self._process != current_process():
            raise ConnectionClosedError(
                "the process was forked, and this lease is the parent's", phase=Phase.POOL
            )
        return self._pool.renew(self._waiter, deadline)
