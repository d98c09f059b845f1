"""`Lease`: what a caller of a pool holds, a permit and a connection, and how it is given back.

Giving back is idempotent, happens when the ``with`` block ends however it ends, and as a last
resort when the lease is collected as garbage. An exception may strike between any two bytecodes
here; what it can cost is a connection, never the permit.
"""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Protocol

from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import ConnectionClosedError, Phase, PoolError
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import current_process, is_current_process
from smtpconn.pool.state import Ticket


class Lender(Protocol):
    """What a lease needs of a pool."""

    def checkout(self, ticket: Ticket, timeout: float | Deadline) -> SmtpConnection:
        """Get a connection that is good, standing in line if need be."""

    def renew(self, ticket: Ticket, deadline: Deadline) -> SmtpConnection:
        """Replace a connection that turned out to be dead by a new one."""

    def check_in(self, ticket: Ticket, keep: bool) -> None:
        """Take everything back; may be called again after it was cut off."""

    def orphan(self, ticket: Ticket) -> None:
        """Take everything back from a destructor, which may do next to nothing."""


class Lease:
    """A borrowed connection: a context manager that gives it back, however its block ends.

    Get one from `smtpconn.ConnectionPool.connection`. The connection is kept if it is still in step
    with the server; it is closed after anything else than an ordinary exception (Ctrl-C, a killed
    greenlet), because nobody can tell what was cut off.

    In a forked child a lease of the parent's is nothing: its connection is closed, and giving it
    back changes nothing, because the child's pool has not lent it.
    """

    __slots__ = ("_pool", "_process", "_ticket", "_timeout")

    def __init__(self, pool: Lender, timeout: float | Deadline) -> None:
        self._ticket: Ticket | None = None
        self._process = 0
        self._pool = pool
        self._timeout = timeout

    def __enter__(self) -> SmtpConnection:
        if self._ticket is not None:
            raise PoolError("this lease is in use: call pool.connection() for each with block")
        self._process = current_process()
        self._ticket = ticket = Ticket()
        try:
            return self._pool.checkout(ticket, self._timeout)
        except BaseException:
            self.__exit__(BaseException, None, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Again, and what is left of it, if it is cut off.
        if (ticket := self._ticket) is not None:
            if self._process == current_process():
                self._pool.check_in(ticket, kind is None or issubclass(kind, Exception))
            self._ticket = None

    def __repr__(self) -> str:
        return f"<Lease {'not in use' if self._ticket is None else 'in use'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Lease is neither pickled nor copied: it holds a connection")

    def __del__(self) -> None:
        # It has none if its making was cut off.
        ticket = getattr(self, "_ticket", None)
        if ticket is not None and is_current_process(self._process):
            self._pool.orphan(ticket)

    @property
    def was_reused(self) -> bool:
        """Whether the connection had been used before it was borrowed."""
        ticket = self._ticket
        return ticket is not None and ticket.pooled is not None and ticket.pooled.uses > 0

    @property
    def server(self) -> int:
        """The place of its server among those of the pool, while it is in use."""
        ticket = self._ticket
        return 0 if ticket is None or ticket.pooled is None else ticket.pooled.server

    def renew(self, deadline: Deadline) -> SmtpConnection:
        """Replace the connection, which is dead, by a new one, keeping the permit."""
        if self._ticket is None:
            raise PoolError("this lease is not in use")
        if self._process != current_process():
            raise ConnectionClosedError(
                "the process was forked, and this lease is the parent's", phase=Phase.POOL
            )
        return self._pool.renew(self._ticket, deadline)
