"""The lock of a connection: one operation at a time, and closing from any thread.

Each operation takes the lock, runs one exchange under one deadline, which includes the wait for the
lock, and releases it. So operations of several threads run one after the other, and each gets its
own replies.

Only the lock holder closes the socket; `Channel.close` never waits, and interrupts an operation of
another thread.

In a forked child the connection is closed, because it belongs to the parent. Every method calls
`smtpconn.net.forking.reset_if_forked` first: the lock may be held by a thread that does not exist
in the child, and interrupting an operation there would end the parent's session.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

from smtpconn.client.driver import Driver
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    ProtocolError,
    SmtpError,
    SmtpTimeoutError,
)
from smtpconn.model.replies import SmtpResponse
from smtpconn.net import forking
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.protocol.exchange import Exchange, ExchangeAction

T = TypeVar("T")
Item = TypeVar("Item")

_log = logging.getLogger("smtpconn.connection")


class Channel:
    """The lock around a driver.

    Args:
        driver: runs the exchanges.
        peer: ``host:port`` for messages.
        timeout: seconds for operations without a timeout of their own.
    """

    def __init__(self, driver: Driver, peer: str, timeout: float) -> None:
        self.driver = driver
        self.peer = peer
        self.timeout = timeout
        self._close_requested = False
        self.reset_after_fork()
        forking.reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Replace the lock in a forked child. The transport closes itself."""
        self._lock = threading.Lock()
        self._owner = 0

    @property
    def is_open(self) -> bool:
        """Whether it can still be used, as far as is known without looking at the socket."""
        forking.reset_if_forked()
        return self.driver.transport.is_open and not self._close_requested

    @property
    def tls(self) -> ssl.SSLSocket | None:
        """The TLS socket; None without TLS."""
        return self.driver.transport.tls

    @property
    def shutdown_reply(self) -> SmtpResponse | None:
        """The 421 the server sent; None if it sent none."""
        return self.driver.shutdown_reply

    @property
    def closed_because(self) -> str:
        """Why the transport is closed; "" while it is open."""
        return self.driver.closed_because

    def deadline(self, timeout: float | Deadline | None) -> Deadline:
        """The deadline of an operation that begins now; None for the channel's own timeout.

        A `Deadline` is returned unchanged.

        Raises:
            ValidationError: ``timeout`` is not a positive, finite number.
        """
        if timeout is None:
            return Deadline(self.timeout)
        return timeout if isinstance(timeout, Deadline) else Deadline(timeout)

    def operate(
        self,
        exchange: Exchange[T],
        deadline: Deadline,
        phase: Phase,
        *,
        is_probed: bool = False,
    ) -> T:
        """Run one exchange while holding the lock.

        Args:
            exchange: not started yet.
            deadline: of all of it.
            phase: for an error before the exchange has started.
            is_probed: whether `probe` has just found the connection usable; then it is not checked
                again.

        Raises:
            SmtpError: what the exchange or the connection failed with.
        """
        if not forking.same_process[0]:
            forking.reset_if_forked()
        me = threading.get_ident()
        if self._owner == me:
            raise self._reentered(phase)
        try:
            self._acquire(deadline, phase)
            transport = self.driver.transport
            if not transport.is_open or not (is_probed or transport.is_silent()):
                self._check_usable(phase)
            return self.driver.run(exchange, deadline)
        finally:
            if self._owner == me:
                self._release(self._lock)

    def stream(
        self,
        exchange: Generator[ExchangeAction | list[Item], None, None],
        deadline: StreamDeadline,
        phase: Phase,
    ) -> Generator[list[Item], None, None]:
        """Run one exchange that yields results, one for each message, holding the lock until it
        has ended.

        Args:
            exchange: not started yet.
            deadline: the deadline of the messages.
            phase: for an error before the exchange has started.

        Raises:
            As `operate`.
            ConnectionClosedError: the process was forked since the exchange started. The child
                does nothing more, because the parent continues.
        """
        process = forking.current_process()
        if self._owner == threading.get_ident():
            raise self._reentered(phase)
        running = self.driver.stream(exchange, deadline)
        self._acquire(deadline, phase)
        lock = self._lock
        try:
            self._check_usable(phase)
            for items in running:
                if forking.current_process() != process:
                    raise self._forked(phase)
                deadline.end_messages(len(items))
                deadline.pause()
                yield items
                if forking.current_process() != process:
                    raise self._forked(phase)
                deadline.resume()
        finally:
            # This may run in another thread than the start, or in a forked child.
            try:
                # Garbage collection would close it, too, but lose what a signal handler raises.
                running.close()
            finally:
                self._release(lock)

    def quit(self, exchange: Exchange[None], deadline: Deadline) -> None:
        """Run QUIT, if the channel is open, and close whether it succeeds or fails.

        Raises:
            SmtpTimeoutError: another thread held the lock until the deadline; nothing was done.
        """
        forking.reset_if_forked()
        me = threading.get_ident()
        if self._owner == me:
            raise self._reentered(Phase.QUIT)
        try:
            self._acquire(deadline, Phase.QUIT)
            if self.driver.transport.is_open:
                self._send_quit(exchange, deadline)
        finally:
            if self._owner == me:
                self._release(self._lock)

    def close(self) -> None:
        """Close at once; an operation of another thread ends with an error."""
        # Otherwise a lock inherited from the parent would look like another thread's operation.
        forking.reset_if_forked()
        self._close_requested = True
        if self._lock.acquire(blocking=False):
            try:
                self.driver.close("close() was called")
            finally:
                self._lock.release()
        else:
            self.driver.interrupt()

    @property
    def is_idle(self) -> bool:
        """Whether it is open and no operation is running."""
        return (
            self.driver.transport.is_open and not self._close_requested and not self._lock.locked()
        )

    def probe(self) -> bool:
        """Whether the channel is usable, as far as that can be told without a round trip."""
        if not forking.same_process[0]:
            forking.reset_if_forked()
        # Checking for data needs no lock; reading the data does, and so does TLS.
        transport = self.driver.transport
        is_open = transport.is_open and not self._close_requested
        if is_open and not transport.is_tls and transport.is_silent():
            return True
        if not self._lock.acquire(blocking=False):
            return True
        try:
            return self.is_open and self.driver.probe() is None
        finally:
            self._lock.release()

    def close_after_fork(self) -> None:
        """Close only the descriptor: for a forked child, whose parent still uses the connection."""
        # Without the lock: the thread that holds it may not exist in this process.
        self.driver.transport.reset_after_fork()

    def unless_busy(self, look: Callable[[], T]) -> T | None:
        """Call ``look`` while holding the lock; return None at once if an operation is running."""
        forking.reset_if_forked()
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return look()
        finally:
            self._lock.release()

    def _forked(self, phase: Phase) -> ConnectionClosedError:
        return ConnectionClosedError(
            f"the process was forked while messages were sent to {self.peer}: "
            "the parent goes on with them",
            phase=phase,
            may_have_been_delivered=True,
        )

    def _check_usable(self, phase: Phase) -> None:
        if not self.driver.transport.is_open:
            raise self.driver.closed_error(phase)
        # The server may have closed the connection or sent a 421 since the last operation.
        if (error := self.driver.probe()) is not None:
            raise error

    def _send_quit(self, exchange: Exchange[None], deadline: Deadline) -> None:
        try:
            self.driver.run(exchange, deadline)
        except SmtpError as error:
            # Nothing depends on the reply: it cannot undo what was acknowledged before.
            _log.debug("#%d %s: QUIT: %s", self.driver.number, self.peer, str(error))
        finally:
            self.driver.close("QUIT was sent")

    def _reentered(self, phase: Phase) -> ProtocolError:
        return ProtocolError(
            "this connection was called from inside one of its own operations "
            "(from the iterable that yields the message, or the loop over send_many?)",
            phase=phase,
        )

    def _acquire(self, deadline: Deadline, phase: Phase) -> None:
        lock = self._lock
        if not (
            lock.acquire(blocking=False) or lock.acquire(timeout=deadline.check(phase, self.peer))
        ):
            raise SmtpTimeoutError(
                f"another thread's operation held the connection to {self.peer} for all of the "
                f"timeout of {deadline} seconds; nothing was sent",
                phase=phase,
            )
        self._owner = threading.get_ident()

    def _release(self, lock: threading.Lock) -> None:
        # In a forked child the lock was replaced.
        if lock is self._lock:
            self._owner = 0
        lock.release()
        # A close() during the operation could not close the descriptor itself.
        if self._close_requested:
            self.close()
