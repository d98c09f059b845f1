"""A driver that several threads may use: the lock, and closing from any thread.

Each operation takes the lock, runs one exchange under one deadline, the wait for the lock
included, and gives the lock back. So operations of several threads stand in line, and each gets its
own replies.

Closing never waits: where another thread is busy, its operation is made to fail and that thread
closes the descriptor, because only who holds the lock may.

In a forked child the connection is closed, because it is the parent's. Whatever is called there
asks `smtpconn.pool.connection_pool.forking` first: the lock may be held by a thread that the child
does not have, and closing while somebody is busy would end the parent's session.
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
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.forking import current_process, forget_in_child, reset_if_forked
from smtpconn.protocol.exchange import Exchange, ExchangeAction

T = TypeVar("T")
Item = TypeVar("Item")

_log = logging.getLogger("smtpconn.connection")


class Channel:
    """The lock around a driver.

    Args:
        driver: what runs the conversations.
        peer: ``host:port`` for messages.
        timeout: seconds for an operation that names no timeout.
    """

    def __init__(self, driver: Driver, peer: str, timeout: float) -> None:
        self.driver = driver
        self.peer = peer
        self.timeout = timeout
        self._close_requested = False
        self._begin()
        forget_in_child(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0

    @property
    def is_open(self) -> bool:
        """Whether it can still be used, as far as is known without asking."""
        reset_if_forked()
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

    def mark_idle(self) -> None:
        """Note how long the server has been silent, before more is sent; see `Driver.mark_idle`."""
        self.driver.mark_idle()

    def deadline(self, timeout: float | Deadline | None) -> Deadline:
        """The deadline of an operation that begins now; None for the channel's own timeout.

        A deadline that runs already is returned as it is.

        Raises:
            ValidationError: it is no timeout.
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
        """Run one exchange as the only one.

        Args:
            exchange: not yet begun.
            deadline: by when all of it has ended.
            phase: what to name in an error if it does not come to begin.
            is_probed: whether `probe` has just found the connection good, so that this need not
                look again.

        Raises:
            SmtpError: what the exchange or the connection failed with.
        """
        reset_if_forked()
        self._refuse_reentry(phase)
        try:
            self._acquire(deadline, phase)
            if not (is_probed and self.driver.transport.is_open):
                self._check_good(phase)
            return self.driver.run(exchange, deadline)
        finally:
            self._release()

    def stream(
        self,
        exchange: Generator[ExchangeAction | Item, None, None],
        deadline: StreamDeadline,
        phase: Phase,
    ) -> Generator[Item, None, None]:
        """Run one exchange that has results on its way, as the only one from first to last.

        Args:
            exchange: not yet begun.
            deadline: of the messages.
            phase: what to name in an error if it does not come to begin.

        Raises:
            As `operate`.
            ConnectionClosedError: the process was forked since it was begun. Nothing further is
                done then in the child, because the parent does it.
        """
        process = current_process()
        self._refuse_reentry(phase)
        self._acquire(deadline, phase)
        lock = self._lock
        try:
            self._check_good(phase)
            for item in self.driver.stream(exchange, deadline):
                self._check_process(process, phase)
                deadline.end_message()
                deadline.pause()
                yield item
                self._check_process(process, phase)
                deadline.go_on()
        finally:
            # Perhaps in another thread than the one it was begun in; and in a forked child, where
            # the lock is another one.
            if lock is self._lock:
                self._owner = 0
            self._give_up(lock)

    def quit(self, farewell: Exchange[None], deadline: Deadline) -> None:
        """Run the last exchange, if the channel is open, and close whatever comes of it.

        Raises:
            SmtpTimeoutError: another thread was busy for all of the timeout; nothing was done.
        """
        reset_if_forked()
        self._refuse_reentry(Phase.QUIT)
        try:
            self._acquire(deadline, Phase.QUIT)
            if self.driver.transport.is_open:
                self._send_quit(farewell, deadline)
        finally:
            self._release()

    def close(self) -> None:
        """Close at once; an operation of another thread ends with an error."""
        # Or what looks like an operation of another thread would be one of the parent's.
        reset_if_forked()
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
        """Whether it is open and no operation is under way."""
        return (
            self.driver.transport.is_open and not self._close_requested and not self._lock.locked()
        )

    def probe(self) -> bool:
        """Whether the channel is good as far as can be told without a round trip."""
        reset_if_forked()
        # Whether something came can be asked without the lock; reading it, and TLS, need that.
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
        """Close the descriptor and nothing else: for a forked child, whose parent goes on."""
        # Not through the lock: the thread that holds it may not exist in this process.
        self.driver.transport.forget()

    def forget(self) -> None:
        """Take a new lock in a forked child. The transport closes by itself."""
        self._begin()

    def unless_busy(self, look: Callable[[], T]) -> T | None:
        """Call ``look`` while no operation is under way; None, without waiting, if one is."""
        reset_if_forked()
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return look()
        finally:
            self._lock.release()

    def _check_process(self, begun_in: int, phase: Phase) -> None:
        if current_process() != begun_in:
            raise ConnectionClosedError(
                f"the process was forked while messages were sent to {self.peer}: "
                "the parent goes on with them",
                phase=phase,
                may_have_been_delivered=True,
            )

    def _check_good(self, phase: Phase) -> None:
        if not self.driver.transport.is_open:
            raise self.driver.closed_error(phase)
        # Before anything is spent on it: has the server hung up, or said 421, meanwhile?
        if (error := self.driver.probe()) is not None:
            raise error

    def _send_quit(self, farewell: Exchange[None], deadline: Deadline) -> None:
        try:
            self.driver.run(farewell, deadline)
        except SmtpError as error:
            # Nothing depends on the answer; above all it cannot undo what was acknowledged.
            _log.debug("#%d %s: QUIT: %s", self.driver.number, self.peer, str(error))
        finally:
            self.driver.close("QUIT was sent")

    def _refuse_reentry(self, phase: Phase) -> None:
        if self._owner == threading.get_ident():
            raise ProtocolError(
                "this connection was called from inside one of its own operations "
                "(from the iterable that yields the message, or the loop over send_many?)",
                phase=phase,
            )

    def _acquire(self, deadline: Deadline, phase: Phase) -> None:
        seconds = deadline.remaining() or deadline.check(phase, self.peer)
        if not self._lock.acquire(timeout=seconds):
            raise SmtpTimeoutError(
                f"another thread's operation held the connection to {self.peer} for all of the "
                f"timeout of {deadline} seconds; nothing was sent",
                phase=phase,
            )
        self._owner = threading.get_ident()

    def _release(self) -> None:
        if self._owner != threading.get_ident():
            return  # not acquired
        self._owner = 0
        self._give_up(self._lock)

    def _give_up(self, lock: threading.Lock) -> None:
        lock.release()
        # A close() that came while we were busy could not close the descriptor itself.
        if self._close_requested:
            self.close()
