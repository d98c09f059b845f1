"""Sends into which an exception is injected, and the check of each message's outcome.

The check compares the outcome that was reported with what the server stored: a message reported as
delivered is stored, one reported as certainly not delivered is not, and none is stored twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from smtpconn import (
    ConnectionPool,
    Envelope,
    LmtpSendResult,
    Pipelining,
    SendOutcome,
    ServerConfig,
    SmtpConnection,
    TlsMode,
)
from smtpconn.testing import SmtpServer
from tests.support.exception_injector import ExceptionInjector, forget_new_threads

CONNECTION = (
    "net/transport.py",
    "client/driver.py",
    "client/connection.py",
    "client/login.py",
    "client/send_many.py",
    "model/content.py",
    "protocol/reply_matcher.py",
    "protocol/pipelined.py",
    "protocol/transaction.py",
)
POOL = (
    "net/transport.py",
    "client/driver.py",
    "protocol/reply_matcher.py",
    "pool/connection_pool.py",
    "pool/core.py",
    "pool/lease.py",
)
MODES = [Pipelining.OFF, Pipelining.AUTO, Pipelining.EAGER]
PEOPLE = ["one@x.example", "two@x.example"]
TIMEOUT = 10.0


class StoringServer:
    """A server that counts how often each message was stored, in each run."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self._number = 0

    def letters(self, count: int) -> list[Envelope]:
        """New messages, different from those of all other runs."""
        self._number += count
        numbers = range(self._number - count, self._number)
        return [Envelope("me@x.example", PEOPLE, b"Subject: %d\r\n\r\n" % n) for n in numbers]

    def stored(self) -> Counter[bytes]:
        """The number of recipients that got each content; waits for the end of all connections."""
        self.server.wait_for(lambda: all(c.closed for c in self.server.connections))
        found: Counter[bytes] = Counter()
        for message in self.server.messages:
            found[message.content] += len(message.recipients)
        self.server.clear()
        return found


def content_of(outcome: SendOutcome) -> bytes:
    """The message of an outcome."""
    assert isinstance(outcome.envelope.message, bytes)
    return outcome.envelope.message


def check(stored: int, outcome: SendOutcome, where: str | None) -> None:
    """Check an outcome against the number of recipients that got the message."""
    assert stored in (0, len(PEOPLE)), where
    if outcome.error is not None:
        assert stored == 0 or outcome.error.may_have_been_delivered, (where, outcome.error)
    elif isinstance(outcome.result, LmtpSendResult):
        assert all(r.delivered or r.response is None for r in outcome.result.results), where
        assert stored, where
    else:
        assert stored, where


def send_many_on_a_connection(
    storing_server: StoringServer, mode: Pipelining, *, lmtp: bool = False
) -> Callable[[ExceptionInjector, BaseException], None]:
    """Send three messages over one connection, be interrupted, and read the remaining outcomes."""
    connect = SmtpConnection.connect_lmtp if lmtp else SmtpConnection.connect

    def scenario(injector: ExceptionInjector, error: BaseException) -> None:
        letters, taken = storing_server.letters(3), list[Envelope]()

        def source() -> Iterator[Envelope]:
            for letter in letters:
                taken.append(letter)
                yield letter

        server = storing_server.server
        connection = connect(server.host, server.port, TlsMode.NONE, TIMEOUT, pipelining=mode)
        outcomes = []
        raised: BaseException | None = None
        with injector:
            try:
                stream = connection.send_many(source())
                for outcome in stream:
                    outcomes.append(outcome)
            except BaseException as caught:
                raised = caught
        where = injector.where
        assert raised is (error if where else None), where
        if raised is not None and taken:
            outcomes += stream
            if connection.is_open:
                # The client took the error for one of the source, after which it keeps the
                # connection.
                connection.noop()
            # A message that was interrupted before it was recorded has no outcome; nothing of it
            # was sent.
            assert len(outcomes) in (len(taken), len(taken) - 1), where
        connection.close()
        assert [o.envelope for o in outcomes] == letters[: len(outcomes)], where
        stored = storing_server.stored()
        for outcome in outcomes:
            check(stored.pop(content_of(outcome), 0), outcome, where)
        assert not stored, where

    return scenario


def send_on_a_reused_connection(
    storing_server: StoringServer, mode: Pipelining
) -> Callable[[ExceptionInjector, BaseException], None]:
    """Sends a second message over a pool, which must not retry it because of a foreign error."""
    config = ServerConfig.from_url(storing_server.server.url, pipelining=mode)

    def scenario(injector: ExceptionInjector, error: BaseException) -> None:
        first, second = (letter.message for letter in storing_server.letters(2))
        assert isinstance(first, bytes)
        assert isinstance(second, bytes)
        raised: BaseException | None = None
        with ConnectionPool(config, max_size=1, keepalive=None) as pool:
            pool.send("me@x.example", PEOPLE, first)
            with injector:
                try:
                    pool.send("me@x.example", PEOPLE, second)
                except BaseException as caught:
                    raised = caught
            where = injector.where
            assert raised is (error if where else None), where
            # The traceback holds the frames of the call, and so the connection borrowed in them.
            error.__traceback__ = error.__context__ = raised = None
            with pool.connection(1) as connection:
                connection.noop()
            stats = pool.stats()
        stored = storing_server.stored()[second]
        assert stored in (0, len(PEOPLE)), where
        assert stats.in_use == 0
        assert stats.retries == 0, where
        if stored:
            # The message is counted correctly, unless counting itself was interrupted.
            is_known = stats.messages == 2 or stats.unknown_messages == 1
            assert is_known or not stats.failed_messages, where

    return scenario


def send_many_over_a_pool(
    storing_server: StoringServer, mode: Pipelining
) -> Callable[[ExceptionInjector, BaseException], None]:
    """Sends three messages over a pool, one of whose threads is interrupted."""
    config = ServerConfig.from_url(storing_server.server.url, pipelining=mode)

    def scenario(injector: ExceptionInjector, error: BaseException) -> None:
        letters, taken = storing_server.letters(3), list[Envelope]()

        def source() -> Iterator[Envelope]:
            for letter in letters:
                taken.append(letter)
                yield letter

        outcomes = []
        raised: BaseException | None = None
        with ConnectionPool(config, max_size=1, keepalive=None) as pool:
            injector.in_new_threads()
            try:
                for outcome in pool.send_many(source()):
                    outcomes.append(outcome)
            except BaseException as caught:
                raised = caught
            finally:
                forget_new_threads()
            where = injector.where
            assert raised is (error if where else None), where
            # The traceback holds the frames of the call, and so the connection borrowed in them.
            error.__traceback__ = error.__context__ = raised = None
            assert pool.stats().in_use == 0
        # A message that was interrupted before it was begun may have no outcome.
        assert [o.envelope for o in outcomes] in (taken, taken[:-1]), where
        stored = storing_server.stored()
        for outcome in outcomes:
            check(stored.pop(content_of(outcome), 0), outcome, where)
        assert not stored, where

    return scenario
