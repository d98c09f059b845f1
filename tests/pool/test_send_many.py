"""`ConnectionPool.send_many`: an outcome for each envelope, nothing twice, and nothing kept."""

from __future__ import annotations

import contextvars
import itertools
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import cast

import pytest

from benchmarks import batch_account
from smtpconn import (
    AllRecipientsFailedError,
    ConnectionPool,
    Envelope,
    LmtpSendResult,
    MailFromParams,
    PermanentError,
    Pipelining,
    PoolClosedError,
    PoolOverloadedError,
    PoolTimeoutError,
    RetryableError,
    SendOutcome,
    SendResult,
    ServerConfig,
    TransientError,
    ValidationError,
)
from smtpconn.model.parameters import BodyType
from smtpconn.pool.connection_pool import MESSAGES_AHEAD
from smtpconn.pool.events import Action, PoolEvent, Stage
from smtpconn.testing import SmtpServer
from tests.support.error_classes import kind_of
from tests.support.waiting import wait_until

SENDER = "me@example.com"


def body(number: int) -> bytes:
    """A message that can be told from the others."""
    return b"Subject: %d\r\n\r\nHello!\r\n" % number


def number_of(content: bytes) -> int:
    """Which message this is."""
    return int(content.split(b"\r\n", 1)[0].removeprefix(b"Subject: "))


def broken_stream(number: int) -> Iterator[bytes]:
    """A message whose end cannot be read."""
    yield body(number)
    raise OSError("the disk is gone")


def good(number: int) -> Envelope:
    """An envelope like any other."""
    return Envelope(SENDER, [f"user{number}@example.com"], body(number))


def partly(number: int) -> Envelope:
    """One with a recipient the server does not know."""
    people = [f"user{number}@example.com", f"unknown{number}@example.com"]
    return Envelope(SENDER, people, body(number))


def refused(number: int) -> Envelope:
    """An envelope whose recipients are unknown to the server."""
    return Envelope(SENDER, [f"unknown{number}@example.com"], body(number))


def wrong(number: int) -> Envelope:
    """One with what is no address."""
    return Envelope(SENDER, ["no address"], body(number))


def unreadable(number: int) -> Envelope:
    """One whose message breaks half-way."""
    return Envelope(SENDER, [f"user{number}@example.com"], broken_stream(number))


KINDS: tuple[Callable[[int], Envelope], ...] = (
    good, partly, good, refused, wrong, good, unreadable, good, good, good,
)  # fmt: skip


def check(kind: Callable[[int], Envelope], outcome: SendOutcome) -> None:
    """Check that an outcome is the expected one for this kind of envelope."""
    result, error = outcome.result, outcome.error
    if kind in (good, partly):
        assert error is None
        assert isinstance(result, SendResult)
        assert len(result.accepted_recipients) == 1
        assert len(result.rejected_recipients) == (kind is partly)
        assert result.response.code == 250
        return
    assert result is None
    assert error is not None
    assert not error.may_have_been_delivered
    if kind is refused:
        assert isinstance(error, AllRecipientsFailedError)
        assert [r.response.code for r in error.rejected_recipients] == [550]
    else:
        assert isinstance(error, ValidationError)
    if kind is unreadable:
        assert "the disk is gone" in str(error)
        assert isinstance(error.__cause__, OSError)


@pytest.mark.parametrize("max_size", [1, 5])
def test_every_envelope_has_its_outcome(max_size: int) -> None:
    """Of 500 envelopes of all kinds each has the one right outcome, and none is sent twice."""
    count = 500
    with SmtpServer(recipient_known=lambda path: not path.startswith("unknown")) as server:
        envelopes = [KINDS[n % len(KINDS)](n) for n in range(count)]
        numbers = {id(envelope): n for n, envelope in enumerate(envelopes)}
        with ConnectionPool(server.url, max_size=max_size) as pool:
            outcomes = list(pool.send_many(envelopes))
            stats = pool.stats()
        assert sorted(numbers[id(o.envelope)] for o in outcomes) == list(range(count))
        for outcome in outcomes:
            check(KINDS[numbers[id(outcome.envelope)] % len(KINDS)], outcome)
        arrived = [number_of(m.content) for m in server.messages]
        delivered = [n for n in range(count) if KINDS[n % len(KINDS)] in (good, partly)]
        assert sorted(arrived) == delivered
        assert all(len(m.recipients) == 1 for m in server.messages)
    assert (stats.messages, stats.in_use) == (len(delivered), 0)
    # A wrong address is found before anything begins, so it is no message that failed.
    assert stats.failed_messages == count * (KINDS.count(refused) + KINDS.count(unreadable)) // 10
    assert stats.unknown_messages == 0


def test_many_over_lmtp() -> None:
    """Where the configuration says LMTP each envelope has its recipients' results."""
    with SmtpServer(protocol="LMTP") as server, ConnectionPool(server.url) as pool:
        for outcome in pool.send_many(good(n) for n in range(30)):
            assert isinstance(outcome.result, LmtpSendResult)
            assert all(r.delivered for r in outcome.result.results)
        assert len(server.messages) == 30


def test_all_connections_are_used() -> None:
    """As many messages are in progress at once as the pool has connections."""
    together, size = threading.Barrier(4), 4

    def content(number: int) -> Iterator[bytes]:
        yield body(number)
        # Only here is a connection in use: the first piece is read before one is taken.
        together.wait(10)

    envelopes = (Envelope(SENDER, ["you@example.com"], content(n)) for n in range(8))
    with SmtpServer() as server, ConnectionPool(server.url, max_size=size) as pool:
        assert all(o.error is None for o in pool.send_many(envelopes))
        assert len(server.connections) == size


def test_envelopes_are_taken_as_outcomes_are_wanted() -> None:
    """Memory is bounded: an endless input is read no further than the threads need."""
    taken, size = 0, 3

    def endless() -> Iterator[Envelope]:
        nonlocal taken
        while True:
            taken += 1
            yield good(taken)

    with SmtpServer() as server, ConnectionPool(server.url, max_size=size) as pool:
        outcomes = pool.send_many(endless())
        assert taken == 0
        for received in range(1, 50):
            assert next(outcomes).error is None
            # Of each connection one is in flight, some outcomes come and some lie ready.
            assert taken <= received + MESSAGES_AHEAD * size
        rest = outcomes.close()
        # What was begun was finished, and what was not says so.
        never = [o.error for o in rest if o.error is not None]
        assert all(e.never_begun and e.is_safe_to_retry for e in never)
        assert received + len(rest) == taken
        assert len(server.messages) == taken - len(never) == pool.stats().messages
        assert pool.stats().in_use == 0


def test_an_input_that_breaks() -> None:
    """Its error comes out behind the outcomes of all envelopes it gave."""

    def breaking() -> Iterator[Envelope]:
        yield from (good(n) for n in range(20))
        raise OSError("the database is gone")

    outcomes: list[SendOutcome] = []
    with SmtpServer() as server, ConnectionPool(server.url) as pool:
        with pytest.raises(OSError, match="the database is gone"):
            outcomes.extend(pool.send_many(breaking()))
        assert len(outcomes) == len(server.messages) == 20


def test_no_envelopes() -> None:
    """Nothing to send needs no server."""
    with ConnectionPool("smtp://127.0.0.1:1") as pool:
        assert list(pool.send_many([])) == []
        assert pool.stats().connects == 0


def test_a_closed_pool_has_an_outcome_for_each_envelope() -> None:
    """The pool being closed is each envelope's error, and surely nothing was delivered."""
    pool = ConnectionPool("smtp://127.0.0.1:1")
    pool.close()
    outcomes = list(pool.send_many(good(n) for n in range(7)))
    assert len(outcomes) == 7
    assert all(isinstance(o.error, PoolClosedError) for o in outcomes)
    assert not any(o.error.may_have_been_delivered for o in outcomes if o.error)


@pytest.mark.parametrize(
    ("step", "reply", "kind"),
    [
        ("MAIL", "451 4.7.1 Later", TransientError),
        ("CONTENT", "550 5.7.1 Spam", PermanentError),
        ("CONTENT", "452 4.3.1 Full", TransientError),
    ],
)
def test_a_refusal_is_one_envelopes_alone(step: str, reply: str, kind: type[Exception]) -> None:
    """A refused message has its refusal as outcome, and the others go on."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=3) as pool:
        server.fault(step, reply=reply, skip=10, times=5)
        outcomes = list(pool.send_many(good(n) for n in range(50)))
        errors = [o.error for o in outcomes if o.error is not None]
        assert [kind_of(e) for e in errors] == [kind] * 5
        assert len(server.messages) == 45
        assert len(server.connections) <= 3


def test_a_server_that_kills_connections() -> None:
    """Whatever dies in between, what was acknowledged arrived once, and the rest tells the truth.

    Acknowledged messages are there exactly once; messages that failed are not, unless their error
    says that they may be.
    """
    outcomes: list[SendOutcome] = []
    over, count = threading.Event(), 500
    with SmtpServer() as server:

        def interrupt() -> None:
            killed_at = 0
            while not over.is_set():
                try:
                    server.wait_for_messages(killed_at + 20, 0.05)
                except TimeoutError:
                    continue
                killed_at = len(server.messages)
                server.kill()

        killer = threading.Thread(target=interrupt)
        with ConnectionPool(server.url, max_size=4) as pool:
            killer.start()
            try:
                for outcome in pool.send_many((good(n) for n in range(count)), timeout=10):
                    outcomes.append(outcome)
            finally:
                over.set()
                killer.join(10)
            stats = pool.stats()
            with pool.connection() as connection:
                connection.noop()
        server.wait_for(lambda: all(c.closed for c in server.connections))
        stored = Counter(number_of(m.content) for m in server.messages)
        connections = len(server.connections)

    def numbers(wanted: Callable[[SendOutcome], bool]) -> set[int]:
        return {number_of(cast("bytes", o.envelope.message)) for o in outcomes if wanted(o)}

    acknowledged = numbers(lambda o: o.error is None)
    unknown = numbers(lambda o: o.error is not None and o.error.may_have_been_delivered)
    failed = numbers(lambda o: o.error is not None and not o.error.may_have_been_delivered)
    assert len(outcomes) == count == len(acknowledged) + len(unknown) + len(failed)
    assert set(stored) - unknown == acknowledged
    assert max(stored.values()) == 1
    assert failed & set(stored) == set()
    assert connections > 8
    assert len(acknowledged) > count / 2
    assert stats.messages == len(acknowledged)
    assert (stats.failed_messages, stats.unknown_messages) == (
        len(failed) + len(unknown),
        len(unknown),
    )


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
def test_the_account_of_a_batch(pipelining: Pipelining) -> None:
    """Killed every 100 messages, stopped in the middle and resumed: every message has its end.

    What is acknowledged is stored, what is stored is acknowledged or unknown, none twice, and each
    envelope has an outcome. Resumed is what was certainly not delivered.
    """
    account = batch_account.run(1500, pipelining)
    assert not any(account.imbalances().values()), account.imbalances()
    assert len(account.acknowledged) + len(account.unknown) == 1500
    assert account.acknowledged <= set(account.stored) <= account.acknowledged | account.unknown
    assert max(account.stored.values()) == 1


@pytest.mark.parametrize("size", [1, 3])
def test_one_round_trip_per_message(size: int) -> None:
    """The content of one message and the envelope of the next leave together."""
    count = 120
    with SmtpServer() as server, ConnectionPool(server.url, max_size=size) as pool:
        # The server takes its time, as a network does: else nothing lies ready in time.
        server.fault("CONTENT", delay=0.005, times=None)
        assert all(o.error is None for o in pool.send_many(good(n) for n in range(count)))
        told = [line for record in server.connections for line in record.commands]
    assert sum(line.startswith("MAIL") for line in told) == count
    # RSET goes before each MAIL that leaves behind a content, and before no other. So the other
    # messages have a round trip more.
    assert (2 * count - told.count("RSET")) / count <= 1.05


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
def test_what_was_never_begun_on_a_lost_connection_goes_over_another(
    pipelining: Pipelining,
) -> None:
    """Only a message that may have been delivered has an error; the others are sent again."""
    with SmtpServer() as server:
        config = ServerConfig.from_url(server.url, pipelining=pipelining)
        server.fault("CONTENT", close=True, skip=10, times=1)
        with ConnectionPool(config, max_size=1) as pool:
            outcomes = list(pool.send_many(good(n) for n in range(60)))
            errors = [o.error for o in outcomes if o.error is not None]
            assert all(e.may_have_been_delivered and not e.never_begun for e in errors)
            assert len(errors) == 1 or pipelining is Pipelining.EAGER
            assert len(errors) >= 1
            assert len(server.messages) >= 60 - len(errors)
            assert len(outcomes) == 60
            # With EAGER all of them may have left at once.
            assert len(server.connections) == 2 or pipelining is Pipelining.EAGER


def test_a_connection_that_died_in_a_run_is_replaced() -> None:
    """The message that was interrupted before its content was begun goes once more."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1) as pool:
        server.fault("MAIL", close=True, skip=10, times=1)
        assert all(o.error is None for o in pool.send_many(good(n) for n in range(30)))
        assert len(server.messages) == 30
        assert (len(server.connections), pool.stats().failed_messages) == (2, 0)


def test_a_server_that_never_takes_anything_ends_the_run() -> None:
    """One that hangs up at each MAIL: each message has its error, none is tried for ever."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=2) as pool:
        server.fault("MAIL", reply="421 4.3.2 Going down", close=True, times=None)
        outcomes = list(pool.send_many(good(n) for n in range(12)))
        assert len(outcomes) == 12
        assert all(o.error is not None and o.error.is_safe_to_retry for o in outcomes)
        assert server.messages == []


def test_connections_have_their_messages_and_no_more() -> None:
    """A connection that has had ``max_messages`` is given back, and another one goes on."""
    with SmtpServer() as server:
        with ConnectionPool(server.url, max_size=2, max_messages=10) as pool:
            assert all(o.error is None for o in pool.send_many(good(n) for n in range(100)))
            assert pool.stats().discards["max_messages"] >= 8
        per_connection = [sum(c.startswith("MAIL") for c in r.commands) for r in server.connections]
    assert max(per_connection) == 10
    assert sum(per_connection) == 100


def test_a_server_that_limits_messages_gets_no_more() -> None:
    """LIMITS MAILMAX (RFC 9422) is kept: no connection has more transactions than it says."""
    with SmtpServer(extensions=["PIPELINING", "LIMITS MAILMAX=7"]) as server:
        with ConnectionPool(server.url, max_size=2) as pool:
            assert all(o.error is None for o in pool.send_many(good(n) for n in range(70)))
        per_connection = [sum(c.startswith("MAIL") for c in r.commands) for r in server.connections]
    assert max(per_connection) == 7
    assert sum(per_connection) == 70


def test_a_connection_that_has_had_its_time_is_replaced() -> None:
    """``max_lifetime`` ends the stream over a connection; it continues over the next one."""
    with SmtpServer() as server:
        server.fault("CONTENT", delay=0.01, times=None)
        with ConnectionPool(server.url, max_size=1, max_lifetime=0.1) as pool:
            assert all(o.error is None for o in pool.send_many(good(n) for n in range(40)))
            assert pool.stats().discards["max_lifetime"] >= 2
        assert len(server.messages) == 40


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
def test_the_next_server_goes_on(pipelining: Pipelining) -> None:
    """A server that goes down in a run: what it never began is sent to the other one."""
    with SmtpServer() as first, SmtpServer() as second:
        first.fault("CONTENT", delay=0.005, times=None)
        servers = [ServerConfig.from_url(s.url, pipelining=pipelining) for s in (first, second)]
        with ConnectionPool(servers, max_size=2) as pool:
            outcomes = pool.send_many(good(n) for n in range(200))
            told = [next(outcomes) for _ in range(10)]
            first.stop()
            told += outcomes
        stored = [number_of(m.content) for m in (*first.messages, *second.messages)]
    assert len(told) == 200
    sent = [number_of(cast("bytes", o.envelope.message)) for o in told if o.error is None]
    assert len(set(stored)) == len(stored)
    assert set(sent) <= set(stored)
    lost = [outcome.error for outcome in told if outcome.error is not None]
    assert all(error.may_have_been_delivered for error in lost)
    assert len(second.messages) >= 200 - len(first.messages) - len(lost)


def test_a_server_that_closes_after_some_messages() -> None:
    """421 to the eleventh MAIL of a connection: another connection takes that message."""
    with SmtpServer() as server:
        for connection in range(1, 10):
            server.fault("MAIL", reply="421 4.7.0 enough", close=True, skip=10 * connection)
        with ConnectionPool(server.url, max_size=1) as pool:
            outcomes = list(pool.send_many(good(n) for n in range(100)))
        assert [outcome.error for outcome in outcomes] == [None] * 100
        assert sorted(number_of(m.content) for m in server.messages) == list(range(100))


def test_a_pool_that_is_drained_replaces_the_connections_of_a_run() -> None:
    """The connection in use is given back behind the messages in flight."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1) as pool:
        for number, outcome in enumerate(pool.send_many(good(n) for n in range(60))):
            assert outcome.error is None
            if number == 20:
                pool.drain()
        assert len(server.connections) == 2
        assert pool.stats().discards["drained"] == 1


def test_a_pool_that_is_closed_in_a_run() -> None:
    """What is in flight is finished; each further message has the pool's being closed as error."""
    with SmtpServer() as server:
        pool = ConnectionPool(server.url, max_size=2)
        outcomes = pool.send_many(good(n) for n in range(60))
        told = [next(outcomes) for _ in range(10)]
        pool.close()
        told += outcomes
        assert len(told) == 60
        failed = [o.error for o in told if o.error is not None]
        assert {kind_of(e) for e in failed} == {PoolClosedError}
        assert len(server.messages) == 60 - len(failed)


def test_the_rate_is_kept_exactly() -> None:
    """No message begins earlier than ``max_rate`` lets it, however many connections there are."""
    rate, count = 200.0, 40
    begun: list[float] = []

    def hook(event: PoolEvent) -> None:
        if event.action is Action.SEND and event.stage is Stage.DONE:
            begun.append(time.monotonic())

    with (
        SmtpServer() as server,
        ConnectionPool(server.url, max_size=4, max_rate=rate, on_event=hook) as pool,
    ):
        start = time.monotonic()
        assert all(o.error is None for o in pool.send_many(good(n) for n in range(count)))
        seconds = time.monotonic() - start
    assert seconds >= (count - 1) / rate
    assert all(at - start >= n / rate for n, at in enumerate(sorted(begun)))


def in_a_thread(outcomes: Iterator[SendOutcome], into: list[SendOutcome]) -> threading.Thread:
    """Take all outcomes in another thread."""
    thread = threading.Thread(target=lambda: into.extend(outcomes))
    thread.start()
    return thread


def test_a_batch_waits_where_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """``max_waiting`` refuses a worker at once; its message has its time all the same."""
    monkeypatch.setattr("smtpconn.pool.bulk_sender.RETRY_AFTER", 0.02)
    outcomes: list[SendOutcome] = []
    with SmtpServer() as server, ConnectionPool(server.url, max_size=3, max_waiting=1) as pool:
        with pool.connection(), pool.connection(), pool.connection():
            taking = in_a_thread(pool.send_many(map(good, range(50))), outcomes)
            wait_until(lambda: pool.stats().overloads >= 4)
            assert outcomes == []
        taking.join(20)
    assert [outcome.error for outcome in outcomes] == [None] * 50


def test_a_batch_does_not_wait_for_ever_where_too_many_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the time that a caller may wait, the refusal is the outcome of the message."""
    monkeypatch.setattr("smtpconn.pool.bulk_sender.RETRY_AFTER", 0.02)
    outcomes: list[SendOutcome] = []
    with (
        SmtpServer() as server,
        ConnectionPool(server.url, max_size=2, max_waiting=1, acquire_timeout=0.2) as pool,
        pool.connection(timeout=10),
        pool.connection(timeout=10),
    ):
        begun = time.monotonic()
        taking = in_a_thread(pool.send_many(map(good, range(6))), outcomes)
        taking.join(20)
        assert time.monotonic() - begun >= 0.55
    assert len(outcomes) == 6
    assert {kind_of(o.error) for o in outcomes} <= {PoolOverloadedError, PoolTimeoutError}


def test_a_batch_waits_for_its_rate() -> None:
    """The timeout of a message begins when ``max_rate`` lets it go, however long that takes."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=4, max_rate=10) as pool:
        begun = time.monotonic()
        outcomes = list(pool.send_many(map(good, range(16)), timeout=1.2))
        took = time.monotonic() - begun
    assert [outcome.error for outcome in outcomes] == [None] * 16
    assert took >= 1.5


def test_a_batch_with_a_rate_whose_pool_is_closed() -> None:
    """Nothing waits for its moment only to hear that the pool is closed."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=3, max_rate=2) as pool:
        outcomes = pool.send_many(map(good, range(50)))
        assert next(outcomes).error is None
        pool.close()
        begun = time.monotonic()
        errors = [outcome.error for outcome in outcomes]
        assert time.monotonic() - begun < 5
    assert {kind_of(error) for error in errors} == {PoolClosedError}


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_batch_that_waits_for_its_rate_is_stopped(how: str) -> None:
    """It ends at once: what waits was never begun."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=3, max_rate=0.01) as pool:
        outcomes = pool.send_many(map(good, range(50)))
        assert next(outcomes).error is None
        begun = time.monotonic()
        if how == "stop":
            outcomes.stop()
        rest = outcomes.close() if how == "close" else list(outcomes)
        assert time.monotonic() - begun < 5
    assert rest
    assert all(outcome.error is not None and outcome.error.never_begun for outcome in rest)


def test_others_have_their_turn_of_the_rate() -> None:
    """A batch has one moment of ``max_rate`` reserved at a time, not one for each connection."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=5, max_rate=2) as pool:
        with pool.send_many(map(good, range(100))) as outcomes:
            assert next(outcomes).error is None
            # Behind the one that is reserved: a second at most.
            pool.send(SENDER, ["other@example.com"], body(1000), timeout=1.9)
            outcomes.stop()
        assert ("other@example.com",) in [message.recipients for message in server.messages]


def test_others_are_served_within_one_message() -> None:
    """A caller that waits gets a connection of the run as soon as its message is sent."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1) as pool:
        letters = itertools.count()
        outcomes = pool.send_many(good(next(letters)) for _ in range(2000))
        arrived = 0
        done = threading.Event()

        def take() -> None:
            nonlocal arrived
            for outcome in outcomes:
                arrived += outcome.error is None
            done.set()

        taking = threading.Thread(target=take)
        taking.start()
        try:
            server.wait_for_messages(10)
            for n in range(20):
                pool.send(SENDER, ["other@example.com"], body(10_000 + n), timeout=5)
                assert not done.is_set()
            order = [number_of(m.content) for m in server.messages]
        finally:
            outcomes.stop()
            taking.join(10)
    assert arrived > 10
    # They came between those of the run, and not behind it.
    assert sum(n >= 10_000 for n in order) == 20
    assert len(order) < 1000


def test_many_threads_on_a_small_pool() -> None:
    """By default a caller waits as long as its operation may take, however many others do."""
    errors: list[BaseException] = []
    with SmtpServer() as server, ConnectionPool(server.url, max_size=2) as pool:

        def send(number: int) -> None:
            try:
                pool.send(SENDER, ["you@example.com"], body(number))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=send, args=(n,)) for n in range(150)]
        with pool.connection(), pool.connection():
            for thread in threads:
                thread.start()
            wait_until(lambda: pool.stats().waiting == 150)
        for thread in threads:
            thread.join(30)
        assert errors == []
        assert len(server.messages) == 150
        assert (pool.stats().timeouts, pool.stats().overloads) == (0, 0)


def test_a_run_that_gets_fewer_connections_waits_for_its_own() -> None:
    """A worker without a connection does not fail its message while others of the run send."""
    with (
        SmtpServer() as server,
        ConnectionPool(server.url, max_size=3, acquire_timeout=0.05) as pool,
        pool.connection(timeout=10),
        pool.connection(timeout=10),
    ):
        with pool.connection(timeout=10):
            pass  # there is a third one
        server.fault("CONTENT", delay=0.02)
        assert all(o.error is None for o in pool.send_many(good(n) for n in range(20)))
        assert len(server.messages) == 20


def test_binary_messages() -> None:
    """BINARYMIME goes by BDAT as it is, between others."""
    content = b"Subject: 0\r\n\r\na\nb\0c"
    binary = Envelope(
        SENDER, ["you@example.com"], content, MailFromParams(body=BodyType.BINARYMIME)
    )
    extensions = ["PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME"]
    with (
        SmtpServer(extensions=extensions) as server,
        ConnectionPool(server.url, max_size=1) as pool,
    ):
        given = [good(1), binary, good(2), binary]
        assert [o.error for o in pool.send_many(given)] == [None] * 4
        assert [m.content for m in server.messages].count(content) == 2


@pytest.mark.parametrize("context", ["stop", "close"])
def test_what_was_never_begun_says_so(context: str) -> None:
    """Certainly not delivered, safe to send again, and no message that failed in the figures."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1) as pool:
        server.fault("MAIL", delay=0.2, times=1)
        outcomes = pool.send_many(good(n) for n in range(100))
        waiting = threading.Thread(target=lambda: told.extend(outcomes))
        told: list[SendOutcome] = []
        waiting.start()
        server.wait_for(
            lambda: any(c.startswith("MAIL") for r in server.connections for c in r.commands)
        )
        if context == "stop":
            outcomes.stop()
            waiting.join(10)
        else:
            told.extend(outcomes.close())
            waiting.join(10)
        never = [o.error for o in told if o.error is not None]
        assert never
        for error in never:
            assert isinstance(error, RetryableError)
            assert error.never_begun
            assert not error.may_have_been_delivered
            same = pickle.loads(pickle.dumps(error))
            assert same.never_begun
            assert same.is_safe_to_retry
        assert len(server.messages) == len(told) - len(never) == pool.stats().messages
        assert pool.stats().failed_messages == 0


def test_each_message_has_events_in_a_context_of_its_own() -> None:
    """What a hook sets for one message, another one does not see; all see the caller's."""
    trace = contextvars.ContextVar[str]("trace")
    trace.set("caller")
    seen: list[tuple[Stage, int, str]] = []

    def hook(event: PoolEvent) -> None:
        if event.action is Action.SEND:
            seen.append((event.stage, event.operation, trace.get()))
            if event.stage is Stage.STARTED:
                trace.set(str(event.operation))

    with SmtpServer() as server, ConnectionPool(server.url, max_size=2, on_event=hook) as pool:
        assert all(o.error is None for o in pool.send_many(good(n) for n in range(30)))
    started = {o: text for stage, o, text in seen if stage is Stage.STARTED}
    done = {o: text for stage, o, text in seen if stage is Stage.DONE}
    assert set(started.values()) == {"caller"}
    assert done == {o: str(o) for o in started}
    assert len(done) == 30


def test_what_a_server_does_not_take_is_known_to_all_its_connections() -> None:
    """One that says 503 to what follows the end of DATA is not told so again on another one."""
    letters = [Envelope("a@b.example", ["c@d.example"], b"%d\r\n" % n) for n in range(3)]
    with SmtpServer() as server, ConnectionPool(server.url, max_size=2) as pool:
        for verb in ("RSET", "MAIL", "RCPT", "DATA"):
            skip = 0 if verb == "RSET" else 1
            server.fault(verb, reply="503 5.5.1 pipelined after end of DATA", skip=skip)
        with pool.connection() as first, pool.connection() as second:
            for connection in (first, second):
                assert [o.error for o in connection.send_many(letters)] == [None] * 3
        pool.drain()
        with pool.connection() as third:
            assert [o.error for o in third.send_many(letters)] == [None] * 3
        told = [[line[:4] for line in record.commands[1:]] for record in server.connections]
    alone = ["MAIL", "RCPT", "DATA"]
    assert told[0][:11] == alone + ["RSET", *alone] * 2
    assert told[1][:9] == told[2][:9] == alone * 3


def message_to(recipient: str) -> EmailMessage:
    """A message of the email package."""
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "me@example.com", recipient, "secret@x.example"
    message.set_content(f"Grüße an {recipient}\n", cte="8bit")
    return message


def test_a_message_is_encoded_for_the_server_it_goes_to() -> None:
    """Eight bits where they may stay, else seven; Bcc never."""
    for extensions in (["8BITMIME"], []):
        with SmtpServer(extensions=extensions) as server, ConnectionPool(server.url) as pool:
            given: list[Envelope | EmailMessage] = [message_to("a@x.example")]
            given.append(Envelope.from_message(message_to("b@x.example")))
            outcomes = list(pool.send_many(given))
            assert [outcome.error for outcome in outcomes] == [None, None]
            for message in server.wait_for_messages(2):
                assert message.content.isascii() is not bool(extensions)
                assert message.email.get_content().startswith("Grüße an ")
                assert "Bcc" not in message.email
                assert "secret@x.example" in message.recipients


def test_one_message_that_is_changed_for_each_recipient() -> None:
    """Each gets what it was when it was given, though threads send it later."""

    def changing() -> Iterator[EmailMessage]:
        message = message_to("nobody@x.example")
        for n in range(40):
            message.replace_header("To", f"{n}@x.example")
            message.set_content(f"for {n}\n")
            yield message

    with SmtpServer() as server, ConnectionPool(server.url, max_size=4) as pool:
        assert all(outcome.result for outcome in pool.send_many(changing()))
        messages = server.wait_for_messages(40)
    assert sorted((m.recipients[0], m.email.get_content()) for m in messages) == sorted(
        (f"{n}@x.example", f"for {n}\r\n") for n in range(40)
    )


def test_one_buffer_that_is_filled_anew_for_each_recipient() -> None:
    """Each gets what the buffer held when its envelope was given."""

    def changing() -> Iterator[Envelope]:
        buffer = bytearray(body(0))
        for n in range(40):
            buffer[:] = body(n)
            yield Envelope(SENDER, [f"{n}@x.example"], buffer)

    with SmtpServer() as server, ConnectionPool(server.url, max_size=4) as pool:
        assert all(outcome.result for outcome in pool.send_many(changing()))
        arrived = {m.recipients[0]: number_of(m.content) for m in server.messages}
    assert arrived == {f"{n}@x.example": n for n in range(40)}


def test_a_message_without_recipients_is_its_own_outcome() -> None:
    """The others are sent."""
    given = [EmailMessage(), message_to("a@x.example"), message_to("nobody at all")]
    with SmtpServer() as server, ConnectionPool(server.url) as pool:
        outcomes = {id(o.envelope.message): o for o in pool.send_many(given)}
        assert len(server.messages) == 1
    assert isinstance(outcomes[id(given[0])].error, ValidationError)
    assert outcomes[id(given[1])].error is None
    assert isinstance(outcomes[id(given[2])].error, ValidationError)


@pytest.mark.parametrize("wrong", [b"x", None, ("a@b", ["c@d"], b"x")])
def test_what_is_no_envelope(wrong: object) -> None:
    """A mistake in the program: nothing behind it is taken."""
    taken: list[object] = []

    def mixed() -> Iterator[Envelope]:
        for each in (wrong, *[Envelope("", ["a@x.example"], b"x")] * 20):
            taken.append(each)
            yield each  # type: ignore[misc]

    with SmtpServer() as server, ConnectionPool(server.url) as pool:
        with pytest.raises(TypeError, match=type(wrong).__name__):
            list(pool.send_many(mixed()))
        assert server.messages == []
    assert taken == [wrong]
