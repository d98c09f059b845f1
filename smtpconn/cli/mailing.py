"""Sending many messages: opened one by one, carried to the server, and told of.

How they are carried is one of two ways. Over a pool, which goes on after failures and never sends
anything twice; or with BDAT, one after the other over one connection.

Ctrl-C begins no further message and waits for those under way, because tearing them off would leave
it unknown whether they arrived. A second one does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from smtpconn.cli import results
from smtpconn.cli.exit_codes import CommandError, UsageError
from smtpconn.cli.messages import Outgoing, Source
from smtpconn.cli.output import Output
from smtpconn.cli.results import DeliveryStatus, MessageResult
from smtpconn.cli.target import Target
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.modes import Protocol
from smtpconn.model.results import Envelope, SendOutcome
from smtpconn.pool.connection_pool import ConnectionPool

Carry = Callable[[Target, Iterable[Envelope]], AbstractContextManager[Iterator[SendOutcome]]]
"""Opens a way to the server, and yields the outcomes of what is sent on it."""


class Mailing:
    """The messages of one run: opened one by one, sent, and told of.

    Attributes:
        sources: where they come from.
        was_interrupted: whether the user had enough.
    """

    def __init__(self, sources: Sequence[Source], out: Output) -> None:
        self.sources = sources
        self.was_interrupted = False
        self._out = out
        self._tolds: list[MessageResult] = []
        # What is under way, by its envelope, which may not be hashable.
        self._open: dict[int, Outgoing] = {}
        self._begun = 0

    def send(self, target: Target, carry: Carry) -> list[MessageResult]:
        """Send them all, going on after failures."""
        with self._out.progress(len(self.sources), "sending") as bar:
            try:
                with carry(target, self._envelopes()) as outcomes:
                    while (outcome := self._next(outcomes)) is not None:
                        self._tell(outcome)
                        bar.advance()
            except SmtpError as error:
                self._tell_of_all(error)
            except KeyboardInterrupt:
                self.was_interrupted = True
        self._tell_the_rest()
        return self._tolds

    def _next(self, outcomes: Iterator[SendOutcome]) -> SendOutcome | None:
        """The next outcome; None if there is none.

        Raises:
            KeyboardInterrupt: the user does not want to wait for it.
        """
        while True:
            try:
                return next(outcomes, None)
            except KeyboardInterrupt:
                if self.was_interrupted:
                    raise
                self.was_interrupted = True
                self._out.warning("interrupted: waiting for what is under way (Ctrl-C gives up)")

    def content(self) -> Iterator[str]:
        """The lines of what is under way."""
        for outgoing in list(self._open.values()):
            # What is streamed is not here.
            yield from (outgoing.text or b"").decode("utf-8", "backslashreplace").splitlines()

    def close(self) -> None:
        """Close the files of what is under way."""
        for outgoing in self._open.values():
            outgoing.close()

    def _envelopes(self) -> Iterator[Envelope]:
        for source in self.sources:
            if self.was_interrupted:
                return
            self._begun += 1
            try:
                outgoing = source.open()
            except (OSError, UsageError, SmtpError) as error:
                self._tolds.append(MessageResult(source.name, DeliveryStatus.FAILED, error=error))
                continue
            self._open[id(outgoing.envelope)] = outgoing
            yield outgoing.envelope

    def _tell(self, outcome: SendOutcome) -> None:
        outgoing = self._open.pop(id(outcome.envelope))
        outgoing.close()
        if outcome.error is not None:
            self._out.transcript_error(str(outcome.error))
        self._tolds.append(results.judge(outgoing, outcome))

    def _tell_of_all(self, error: SmtpError) -> None:
        """Nothing can be sent at all."""
        left = self.sources[self._begun :]
        self._tolds += [
            MessageResult(source.name, DeliveryStatus.FAILED, error=error) for source in left
        ]
        self._begun = len(self.sources)

    def _tell_the_rest(self) -> None:
        for outgoing in list(self._open.values()):
            error = CommandError("the answer was not waited for", 0)
            self._tolds.append(MessageResult(outgoing.name, DeliveryStatus.UNKNOWN, error=error))
        for source in self.sources[self._begun :]:
            error = CommandError("not begun", 0)
            self._tolds.append(MessageResult(source.name, DeliveryStatus.FAILED, error=error))


def over_pool(connections: int) -> Carry:
    """Send over a pool of so many connections."""

    @contextmanager
    def carry(target: Target, envelopes: Iterable[Envelope]) -> Iterator[Iterator[SendOutcome]]:
        pool = ConnectionPool(
            target, max_size=connections, acquire_timeout=target.timeout, keepalive=None
        )
        try:
            if connections > 1:
                # Where there is no server, a thousand messages have one error.
                pool.warm(1)
            # Not a generator of ours: one that is interrupted is at its end, and so would be all
            # that is under way.
            yield pool.send_many(envelopes)
        finally:
            pool.close(0)

    return carry


@contextmanager
def over_connection(
    target: Target, envelopes: Iterable[Envelope]
) -> Iterator[Iterator[SendOutcome]]:
    """Send with BDAT, over a connection that is made anew when it was lost."""
    outcomes = _send_in_turn(target, envelopes)
    try:
        yield outcomes
    finally:
        outcomes.close()


def _send_in_turn(
    target: Target, envelopes: Iterable[Envelope]
) -> Generator[SendOutcome, None, None]:
    connection: SmtpConnection | None = None
    try:
        for envelope in envelopes:
            try:
                if connection is None or not connection.is_open:
                    connection = target.connect()
                yield _send_bdat(connection, envelope)
            except SmtpError as error:
                yield SendOutcome(envelope, None, error)
            except OSError as error:
                named = ValidationError(f"the message could not be read: {error}")
                yield SendOutcome(envelope, None, named)
    finally:
        if connection is not None:
            connection.quit_nowait()


def _send_bdat(connection: SmtpConnection, envelope: Envelope) -> SendOutcome:
    is_lmtp = connection.protocol is Protocol.LMTP
    send = (
        connection.send_lmtp_bdat_with_all_params
        if is_lmtp
        else connection.send_bdat_with_all_params
    )
    result = send(
        envelope.sender,
        envelope.recipients,
        envelope.message,
        envelope.mail_params,
        envelope.rcpt_params,
    )
    return SendOutcome(envelope, result, None)
