"""Messages that are sent with their envelopes, several in one go."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator

import pytest

from smtpconn import BodyType, MailFromParams, Pipelining, SendResult, SmtpError
from smtpconn.model.content import Buffer
from smtpconn.net.deadline import Deadline
from smtpconn.protocol import pipelined
from smtpconn.protocol.command import Command
from smtpconn.protocol.eager_message import EagerMessage
from smtpconn.protocol.mail_request import MailRequest, make_request
from smtpconn.protocol.pipelined import MAX_BURST
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import MAX_JOINED
from tests.support.exchanges import session
from tests.support.pipelined import OFFERS, eager, envelope, letter
from tests.support.script import Wire, run_many
from tests.support.strict_server import Plan, StrictServer


def _wire(count: int) -> Wire:
    return Wire(StrictServer([Plan(number) for number in range(10, 10 + count)]).answer)


def _letters(count: int, message: bytes = b"x\r\n") -> Iterator[MailRequest]:
    return (letter(number, message=message) for number in range(10, 10 + count))


def test_a_burst_is_written_in_one_go() -> None:
    """Messages that are ready at the same time share one write and one round trip."""
    made, _ = eager()()
    wire = _wire(30)
    run = run_many(made, _letters(30), wire, burst=30)
    assert not any(isinstance(outcome, SmtpError) for outcome in run.outcomes)
    assert (len(run.outcomes), len(wire.written), wire.turns) == (30, 1, 1)


@pytest.mark.parametrize("size", [MAX_JOINED, MAX_JOINED + 1])
def test_a_longer_message_among_short_ones(size: int) -> None:
    """It keeps its place, however it is written."""
    made, _ = eager()()
    requests = [*_letters(4)]
    requests[2] = letter(12, message=b"x" * (size - 2) + b"\r\n")
    run = run_many(made, requests, _wire(4), burst=4)
    assert [isinstance(outcome, SmtpError) for outcome in run.outcomes] == [False] * 4
    assert run.driver.transport.is_open


def test_what_may_not_be_sent_keeps_its_place_in_a_burst() -> None:
    """The messages around it are sent, and its error comes in order."""
    made = session(f"{OFFERS};SIZE 100", pipelining=Pipelining.EAGER)
    requests = [*_letters(3)]
    requests[1] = letter(11, message=b"x" * 200 + b"\r\n")
    server = StrictServer([Plan(10), Plan(12)])
    run = run_many(made, requests, Wire(server.answer), burst=3)
    assert [type(outcome).__name__ for outcome in run.outcomes] == [
        "SendResult",
        "ValidationError",
        "SendResult",
    ]
    assert run.driver.transport.is_open


def test_a_burst_never_exceeds_the_limit_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are ready at the same time."""
    monkeypatch.setattr(pipelined, "MAX_IN_FLIGHT", 10)
    made, _ = eager()()
    wire = _wire(60)
    run = run_many(made, _letters(60), wire, burst=8)
    assert len(run.outcomes) == 60
    assert max(written.count(b"MAIL FROM") for written in wire.written) <= 11


def test_a_burst_is_bounded_with_its_commands() -> None:
    """Messages with many recipients do not become one huge write, and memory stays small."""
    made, _ = eager()()
    names = [f"recipient-{number}" for number in range(1000)]
    plans = [Plan(number, recipients=tuple((n, 250) for n in names)) for number in range(10, 40)]
    wire = Wire(StrictServer(plans).answer)
    run = run_many(made, (letter(number, *names) for number in range(10, 40)), wire, burst=30)
    assert [type(outcome) for outcome in run.outcomes] == [SendResult] * 30
    of_one_message = 1000 * len(b"RCPT TO:<recipient-000@d.example>\r\n")
    assert max(map(len, wire.written)) < MAX_BURST + 2 * of_one_message


@pytest.mark.parametrize("is_late", [False, True], ids=["before a message", "as it begins"])
def test_another_connection_learns_that_rset_is_refused(
    monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """The messages of the burst that have begun are sent, and the others without RSET."""
    made, _ = eager()()
    begun = 0

    class Message(EagerMessage):
        def __init__(self, session: SessionState, request: MailRequest, reset: bool) -> None:
            nonlocal begun
            begun += 1
            made.quirks.avoid_rset |= is_late and begun == 4
            super().__init__(session, request, reset)
            made.quirks.avoid_rset |= begun == 3 and not is_late

    monkeypatch.setattr(pipelined, "EagerMessage", Message)
    wire = _wire(6)
    run = run_many(made, _letters(6), wire, burst=6)
    assert [type(outcome) for outcome in run.outcomes] == [SendResult] * 6
    assert b"".join(wire.written).count(b"RSET") == 2


def test_messages_in_flight_when_receiving_fails_are_unknown() -> None:
    """Also if the replies that come with the error are just those to the oldest message."""

    class Failing(Wire):
        def receive(self, deadline: Deadline) -> bytes:
            self._hear()
            del self._incoming[len(b"250 said\r\n" * 3) :]
            raise OSError(errno.ENOMEM, "no memory")

    made, _ = eager()()
    run = run_many(made, _letters(6), Failing(StrictServer([*map(Plan, range(10, 16))]).answer))
    first, *others = run.outcomes
    assert isinstance(first, SendResult)
    assert [isinstance(o, SmtpError) and o.may_have_been_delivered for o in others] == [True] * 5


def test_the_commands_of_a_burst_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Each on a line of its own, and the content as one."""
    caplog.set_level(logging.DEBUG, "smtpconn.wire")
    made, _ = eager()()
    run_many(made, _letters(2), _wire(2), burst=2)
    sent = [each.getMessage().partition("-> ")[2] for each in caplog.records]
    assert [line for line in sent if line] == [
        "MAIL FROM:<10@b.example>",
        "RCPT TO:<c@d.example>",
        "BDAT 3 LAST",
        "<content>",
        "RSET",
        "MAIL FROM:<11@b.example>",
        "RCPT TO:<c@d.example>",
        "BDAT 3 LAST",
        "<content>",
    ]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(
    ("message", "text"),
    [(b"", b""), (b"a\nb", b"a\r\nb\r\n"), (b".\r\n", b".\r\n"), (b"a\rb\r\n", b"a\r\nb\r\n")],
)
def test_its_bytes(kind: type, message: bytes, text: bytes) -> None:
    """The envelope, and the content as one BDAT with CRLF line ends."""
    made, _ = eager()()
    one = EagerMessage(made, make_request("1@b.example", "c@d.example", kind(message)), False)
    commands = envelope(1, verb="").replace("\n", "\r\n").encode()
    assert one.wire == commands + b"BDAT %d LAST\r\n" % len(text) + text
    assert one.wire == _wires(one)


def test_the_bytes_of_binary_content() -> None:
    """They are sent as they are."""
    made, _ = eager()()
    params = MailFromParams(body=BodyType.BINARYMIME)
    message = EagerMessage(made, make_request("", "c@d.example", b"\0\n.\r", params), True)
    assert message.wire is not None
    assert message.wire.endswith(b"BDAT 4 LAST\r\n\0\n.\r")
    assert message.wire.startswith(b"RSET\r\n")


def test_one_that_was_never_written_was_not_sent() -> None:
    """Its outcome after an interruption says so."""
    made, _ = eager()()
    request = letter(1)
    EagerMessage(made, request, False)
    assert request.attempt is not None
    outcome = request.attempt.outcome(KeyboardInterrupt())
    assert isinstance(outcome, SmtpError)
    assert not outcome.may_have_been_delivered


def _wires(message: EagerMessage) -> bytes:
    """The bytes of a message's pieces."""
    wires: list[Buffer] = []
    for piece in message.pieces:
        wires += (piece.wire,) if isinstance(piece, Command) else piece.buffers
    return b"".join(wires)
