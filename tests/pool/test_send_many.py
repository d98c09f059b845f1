"""`ConnectionPool.send_many`: an outcome for each envelope, nothing twice, and nothing kept."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from email.message import EmailMessage
from typing import cast

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionPool,
    Envelope,
    LmtpSendResult,
    PermanentError,
    PoolClosedError,
    SendOutcome,
    SendResult,
    TransientError,
    ValidationError,
)
from smtpconn.testing import SmtpServer
from tests.support.kinds import kind_of

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
    """One with nobody the server knows."""
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
    """See that an outcome is the one that kind of envelope has."""
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
    """As many messages are under way at once as the pool has connections."""
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
            # Each thread has one in hand, and as many outcomes lie ready.
            assert taken <= received + 2 * size
        cast("Generator[SendOutcome, None, None]", outcomes).close()
        # What was begun was finished.
        assert len(server.messages) == taken == pool.stats().messages
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

        def strike() -> None:
            killed_at = 0
            while not over.is_set():
                try:
                    server.wait_for_messages(killed_at + 20, 0.05)
                except TimeoutError:
                    continue
                killed_at = len(server.messages)
                server.kill()

        killer = threading.Thread(target=strike)
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


def test_a_message_that_names_nobody_is_refused_for_itself() -> None:
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
