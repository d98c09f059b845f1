"""`SmtpConnection.send_many` over sockets; `tests.protocol.test_pipelined` tests its rules."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import cast

import pytest

from smtpconn import (
    Envelope,
    Pipelining,
    SendOutcome,
    SmtpConnection,
    SmtpTimeoutError,
    TlsMode,
    ValidationError,
)
from smtpconn.client import send_many
from smtpconn.client.driver import Driver
from smtpconn.client.send_many import BURST_BYTES, BURST_MESSAGES, EnvelopeSource, OutcomeIterator
from smtpconn.model.results import ErrorT, ResultT
from smtpconn.net.deadline import StreamDeadline
from smtpconn.testing import SmtpServer
from tests.support.exchanges import session
from tests.support.forks import in_child

MODES = [Pipelining.OFF, Pipelining.AUTO, Pipelining.EAGER]


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that can do everything."""
    with SmtpServer() as running:
        yield running


def connect(server: SmtpServer, mode: Pipelining) -> SmtpConnection:
    """A connection to it."""
    return SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 10, pipelining=mode)


def letters(count: int) -> Iterator[Envelope]:
    """Messages, each with a sender of its own."""
    for number in range(count):
        yield Envelope(f"{number}@b.example", ["c@d.example"], b"Subject: %d\r\n\r\n" % number)


@pytest.mark.parametrize("mode", MODES)
def test_an_outcome_for_each_envelope(server: SmtpServer, mode: Pipelining) -> None:
    """In their order, and each message is stored once under its own sender."""
    with connect(server, mode) as connection:
        outcomes = list(connection.send_many(letters(300)))
        connection.noop()
    assert [outcome.envelope.sender for outcome in outcomes] == [
        message.sender for message in server.messages
    ]
    assert all(outcome.result is not None for outcome in outcomes)
    assert len(server.messages) == 300


@pytest.mark.parametrize("mode", MODES)
def test_files_that_live_until_the_next_is_asked_for(server: SmtpServer, mode: Pipelining) -> None:
    """A generator may close a message's file when it is asked for the next message."""

    def from_files() -> Iterator[Envelope]:
        for envelope in letters(4):
            with io.BytesIO(envelope.message if isinstance(envelope.message, bytes) else b"") as f:
                yield Envelope(envelope.sender, envelope.recipients, f)

    with connect(server, mode) as connection:
        assert all(outcome.result for outcome in connection.send_many(from_files()))
    assert [m.content for m in server.messages] == [b"Subject: %d\r\n\r\n" % n for n in range(4)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("look", [lambda buffer: buffer, memoryview], ids=["itself", "a view"])
def test_a_buffer_that_is_filled_anew(
    server: SmtpServer, mode: Pipelining, look: Callable[[bytearray], bytearray | memoryview]
) -> None:
    """A generator may use one bytearray for all its messages."""
    buffer = bytearray(b"Subject: 0\r\n\r\n")

    def refilled() -> Iterator[Envelope]:
        for number in range(5):
            buffer[:] = b"Subject: %d\r\n\r\n" % number
            yield Envelope("a@b.example", ["c@d.example"], look(buffer))

    with connect(server, mode) as connection:
        assert all(outcome.result for outcome in connection.send_many(refilled()))
    assert [m.content for m in server.messages] == [b"Subject: %d\r\n\r\n" % n for n in range(5)]


@pytest.mark.parametrize("mode", MODES)
def test_leaving_the_block_with_the_iterator_still_there(
    server: SmtpServer, mode: Pipelining
) -> None:
    """Leaving the connection's block is no error, and closes it; what was reported stands."""
    with connect(server, mode) as connection:
        outcomes = connection.send_many(letters(10))
        assert next(outcomes).result is not None
    assert not connection.is_open
    del outcomes
    assert server.messages[0].sender == "0@b.example"


@pytest.mark.parametrize("mode", [Pipelining.OFF, Pipelining.AUTO])
def test_the_timeout_is_for_each_message(server: SmtpServer, mode: Pipelining) -> None:
    """Together they may take longer."""
    server.fault("CONTENT", delay=0.3, times=4)
    with connect(server, mode) as connection:
        begun = time.monotonic()
        outcomes = list(connection.send_many(letters(4), timeout=1.0))
        assert time.monotonic() - begun > 1.2
    assert all(outcome.result is not None for outcome in outcomes)


@pytest.mark.parametrize("step", ["MAIL", "CONTENT"])
@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_falls_silent(server: SmtpServer, mode: Pipelining, step: str) -> None:
    """Who waits for it has a timeout, in time; those before are delivered, those behind are not."""
    server.fault(step, hang=True, skip=2)
    with connect(server, mode) as connection:
        begun = time.monotonic()
        outcomes = list(connection.send_many(letters(5), timeout=0.3))
        assert 0.3 <= time.monotonic() - begun < 0.3 + 0.5
        assert not connection.is_open
    assert [outcome.result is not None for outcome in outcomes] == [True] * 2 + [False] * 3
    assert isinstance(outcomes[2].error, SmtpTimeoutError)
    assert outcomes[2].error.phase == step.lower()
    left = [o.error is not None and o.error.may_have_been_delivered for o in outcomes]
    behind = [mode is Pipelining.EAGER] * 2
    assert left[2:] == [mode is Pipelining.EAGER or step == "CONTENT", *behind]


def message_to(*recipients: str, text: str = "hi\n") -> EmailMessage:
    """A message of the email package."""
    message = EmailMessage()
    message["From"], message["To"] = "me@example.com", ", ".join(recipients)
    message.set_content(text)
    return message


@pytest.mark.parametrize("mode", MODES)
def test_messages_among_envelopes(server: SmtpServer, mode: Pipelining) -> None:
    """Messages, envelopes of messages and of bytes, in order; an invalid one is its own outcome."""
    first, second = message_to("a@x.example"), message_to("b@x.example")
    second["Bcc"] = "c@x.example"
    given: list[Envelope | EmailMessage]
    given = [first, Envelope.from_message(second), EmailMessage(), *letters(1), message_to("a")]
    with connect(server, mode) as connection:
        outcomes = list(connection.send_many(given))
    assert [type(o.error) for o in outcomes] == [type(None)] * 2 + [
        ValidationError, type(None), ValidationError,
    ]  # fmt: skip
    assert [o.envelope.message is m for o, m in zip(outcomes, given, strict=True)] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert outcomes[1].envelope is given[1]
    assert [m.recipients for m in server.messages] == [
        ("a@x.example",), ("b@x.example", "c@x.example"), ("c@d.example",),
    ]  # fmt: skip
    assert not any(b"Bcc" in m.content for m in server.messages)
    assert all(m.email["Message-ID"] and m.email["Date"] for m in server.messages[:2])


@pytest.mark.parametrize("mode", MODES)
def test_one_message_that_is_changed_for_each_recipient(
    server: SmtpServer, mode: Pipelining
) -> None:
    """Each gets what it was when it was given."""

    def changing() -> Iterator[EmailMessage]:
        message = message_to("nobody@x.example")
        for n in range(20):
            message.replace_header("To", f"{n}@x.example")
            message.set_content(f"for {n}\n")
            yield message

    with connect(server, mode) as connection:
        assert all(outcome.result for outcome in connection.send_many(changing()))
    assert [(m.recipients, m.email.get_content()) for m in server.messages] == [
        ((f"{n}@x.example",), f"for {n}\r\n") for n in range(20)
    ]


@pytest.mark.parametrize("wrong", [b"x", "x", None, ("a@b", ["c@d"], b"x"), 5])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_envelope(server: SmtpServer, mode: Pipelining, wrong: object) -> None:
    """It is a mistake in the program, told behind the outcomes of what came before."""
    taken: list[object] = []

    def mixed() -> Iterator[Envelope]:
        for each in (*letters(2), wrong, *letters(1)):
            taken.append(each)
            yield each  # type: ignore[misc]

    with connect(server, mode) as connection:
        outcomes = connection.send_many(mixed())
        assert next(outcomes).result
        assert next(outcomes).result
        with pytest.raises(TypeError, match=type(wrong).__name__):
            next(outcomes)
        connection.noop()
    assert len(taken) == 3
    assert len(server.messages) == 2


def test_no_more_is_taken_at_a_time_than_may_be_written_together(server: SmtpServer) -> None:
    """Until then nothing is written, so the limits bound what a caller waits for and holds."""
    limits = ((b"hello\r\n", BURST_MESSAGES), (b"x" * (BURST_BYTES // 4) + b"\r\n", 4))
    for message, limit in limits:
        taken = 0

        def source(message: bytes = message) -> Iterator[Envelope]:
            nonlocal taken
            for number in range(200):
                taken += 1
                yield Envelope(f"{number}@b.example", ["c@d.example"], message)

        with connect(server, Pipelining.EAGER) as connection:
            connection.noop()
            requests = connection.send_many(source())
            begun = 0
            for _ in requests:
                assert taken <= connection.transactions + limit
                begun += 1
            assert begun == 200


def test_what_was_taken_before_the_iterable_failed_is_sent(server: SmtpServer) -> None:
    """Its error comes after their outcomes."""

    def source() -> Iterator[Envelope]:
        yield from letters(5)
        raise LookupError("no more rows")

    with connect(server, Pipelining.EAGER) as connection:
        connection.noop()
        outcomes = connection.send_many(source())
        assert [next(outcomes).error for _ in range(5)] == [None] * 5
        with pytest.raises(LookupError, match="no more rows"):
            next(outcomes)
    assert len(server.messages) == 5


def test_what_cannot_be_sent_keeps_its_place(server: SmtpServer) -> None:
    """Also a file, which is read to its end before the next envelope is taken."""
    is_open = True

    def source() -> Iterator[Envelope]:
        nonlocal is_open
        yield from letters(1)
        yield Envelope("1@b.example", ["no address"], b"hello\r\n")
        yield Envelope("2@b.example", ["c@d.example"], b"hello\r\n")
        with io.BytesIO(b"from a file\r\n") as file:
            yield Envelope("3@b.example", ["c@d.example"], file)
        is_open = False
        yield Envelope("4@b.example", ["c@d.example"], b"hello\r\n")

    with connect(server, Pipelining.EAGER) as connection:
        connection.noop()
        outcomes = list(connection.send_many(source()))
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None), ValidationError, type(None), type(None), type(None),
    ]  # fmt: skip
    assert [message.sender[0] for message in server.messages] == ["0", "2", "3", "4"]
    assert not is_open


def test_silence_is_noticed_before_each_burst() -> None:
    """Also before the last one: the iterable may have taken long, and then ended."""
    made = session("PIPELINING;CHUNKING", pipelining=Pipelining.EAGER)
    made.recently_active = True
    taken_before: list[int] = []
    source = EnvelopeSource(
        letters(BURST_MESSAGES + 3),
        made,
        StreamDeadline(10),
        lambda _request, _deadline: None,
        lambda: taken_before.append(len(source.pending)),
    )
    assert [len(requests) for requests in source.requests()] == [BURST_MESSAGES, 3]
    assert taken_before == [BURST_MESSAGES, BURST_MESSAGES + 3]


@pytest.mark.parametrize("why", ["RSETs are counted", "RSET is refused"])
def test_envelopes_are_taken_one_by_one_where_they_are_sent_so(why: str) -> None:
    """Where RSET may not be sent before each message, none waits for others to be taken."""
    made = session("PIPELINING;CHUNKING", pipelining=Pipelining.EAGER)
    made.recently_active = True
    made.limits_nonmail = why == "RSETs are counted"
    made.quirks.avoid_rset = why == "RSET is refused"
    deadline = StreamDeadline(10)
    source = EnvelopeSource(letters(3), made, deadline, lambda _r, _d: None, lambda: None)
    assert [len(requests) for requests in source.requests()] == [1, 1, 1]


def test_replies_out_of_sync_stay_untrusted_after_an_interruption(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two outcomes makes no message delivered that was unknown before."""
    made = 0

    class Outcome(SendOutcome[ResultT, ErrorT]):
        def __init__(self, envelope: Envelope, result: ResultT, error: ErrorT) -> None:
            nonlocal made
            made += 1
            if made == 2:
                raise KeyboardInterrupt
            super().__init__(envelope, result, error)

    monkeypatch.setattr(send_many, "SendOutcome", Outcome)
    server.fault("CONTENT", after=b"250 one too many\r\n")
    with connect(server, Pipelining.EAGER) as connection:
        connection.noop()
        outcomes = connection.send_many(letters(3))
        with pytest.raises(KeyboardInterrupt):
            next(outcomes)
        errors = [outcome.error for outcome in outcomes]
    assert [error is not None and error.may_have_been_delivered for error in errors] == [True] * 3


@pytest.mark.parametrize("step", ["RCPT", "CONTENT"])
def test_replies_out_of_sync_stay_untrusted_after_closing(server: SmtpServer, step: str) -> None:
    """What follows a reply that makes no sense is unknown, though all replies came."""
    server.fault(step, reply=b"354 odd\r\n")
    with connect(server, Pipelining.EAGER) as connection:
        connection.noop()
        outcomes = cast(OutcomeIterator, connection.send_many(letters(4)))
        first = next(outcomes).error
        outcomes.close()
        errors = [first, *(outcome.error for outcome in outcomes)]
    assert [error is not None and error.may_have_been_delivered for error in errors] == [True] * 4


@pytest.mark.parametrize("step", ["_mark_in_doubt", "_close_unless_in_sync"])
def test_an_interruption_of_closing_loses_no_doubt(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Ctrl-C during ``close()``: what was sent and has no reply stays unknown, nothing is open."""
    interrupted = False
    proceed = getattr(Driver, step)

    def interrupt(self: Driver, **facts: bool) -> object:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt
        return proceed(self, **facts)

    server.fault("CONTENT", hang=True, skip=1, times=None)
    with connect(server, Pipelining.EAGER) as connection:
        connection.noop()
        outcomes = cast(OutcomeIterator, connection.send_many(letters(3)))
        assert next(outcomes).error is None
        monkeypatch.setattr(Driver, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            outcomes.close()
        errors = [outcome.error for outcome in outcomes]
        assert not connection.is_open
    assert [error is not None and error.may_have_been_delivered for error in errors] == [True] * 2


def test_the_outcomes_belong_to_the_process_that_sends(server: SmtpServer) -> None:
    """A forked child gets none, even of those that are known; the parent gets each once."""
    with connect(server, Pipelining.EAGER) as connection:
        connection.noop()
        outcomes = connection.send_many(letters(5))
        assert next(outcomes).error is None
        told = in_child(lambda: next(outcomes))
        assert told.startswith("ConnectionClosedError: the process was forked")
        assert [outcome.error for outcome in outcomes] == [None] * 4
    assert len(server.messages) == 5
