"""Runs an exchange against a script, through the real reply matcher and without a socket.

A script is a list of round trips: the bytes that the client has to send together, and the bytes of
the server's replies to them. It is run in three ways: with whole replies, byte by byte, and with an
unsolicited reply after the last one, which must have no effect but that the connection cannot be
used again.

The real driver runs an exchange that yields outcomes, over a `Wire` in place of a socket: the
driver decides what it writes together and when it waits. A round trip ends when the client waits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

from smtpconn.client.driver import Driver
from smtpconn.model.content import Buffer
from smtpconn.model.errors import ProtocolError, SmtpError
from smtpconn.model.modes import Pipelining
from smtpconn.net.deadline import Deadline, StreamDeadline
from smtpconn.net.transport import Transport
from smtpconn.protocol.command import Command
from smtpconn.protocol.exchange import CommandGroup, Exchange, Payload, StartTls
from smtpconn.protocol.mail_request import MailRequest, Outcome
from smtpconn.protocol.pipelined import stream
from smtpconn.protocol.reply_matcher import ReplyMatcher
from smtpconn.protocol.session import SessionState
from tests.support.error_classes import kind_of

T = TypeVar("T")
Said = str | bytes
"""Text, whose line ends become CRLF, or bytes as they are."""

Script = list[tuple[Said, str]]

TLS = "<TLS>"
"""The entry of a script for the TLS handshake."""


def run_script(make: Callable[[], Exchange[T]], script: Script) -> T:
    """Run a script in all three ways and return the result; errors are raised unchanged."""
    result, matcher = _play(make(), script, 1_000_000, "")
    assert matcher.is_reusable
    assert _play(make(), script, 1, "")[0] == result
    for trailing in ("250 nobody asked\r\n", "421 4.3.2 bye\r\n", "2"):
        same, matcher = _play(make(), script, 1_000_000, trailing)
        assert same == result
        assert not matcher.is_reusable
    return result


def fails(make: Callable[[], Exchange[T]], script: Script) -> BaseException:
    """Run a script that ends in an error, whole and byte by byte, and return the error."""
    errors: list[BaseException] = []
    for size in (1_000_000, 1):
        try:
            _play(make(), script, size, "")
        except Exception as error:
            errors.append(error)
    assert [kind_of(e) for e in errors] == [kind_of(errors[0])] * 2
    assert str(errors[0]) == str(errors[1])
    return errors[0]


def _play(
    exchange: Exchange[T], script: Script, size: int, trailing: str
) -> tuple[T, ReplyMatcher]:
    matcher = ReplyMatcher()
    turns = list(script)
    try:
        step = next(exchange)
        while True:
            assert turns, "the script is over and the exchange is not"
            expected, answer = turns.pop(0)
            if isinstance(step, StartTls):
                assert expected == TLS
                assert matcher.is_reusable
            else:
                assert isinstance(step, CommandGroup)
                _exchange(matcher, step, expected, answer + ("" if turns else trailing), size)
            step = next(exchange)
    except StopIteration as stop:
        assert not turns, f"not said: {turns}"
        result: T = stop.value
        return result, matcher


def _exchange(
    matcher: ReplyMatcher, group: CommandGroup, expected: Said, answer: str, size: int
) -> None:
    said = bytearray()
    matcher.expect([group], 0)
    for piece in group.pieces:
        begun = len(said)
        for buffer in (piece.wire,) if isinstance(piece, Command) else piece.buffers:
            said += buffer
            matcher.queued += len(buffer)
        if isinstance(piece, Payload):
            group.payload_size = len(said) - begun
    group.ends_at = matcher.queued
    assert bytes(said) == _crlf(expected)
    matcher.note_sent(len(said))
    raw = _crlf(answer)
    for start in range(0, len(raw), size):
        matcher.received(raw[start : start + size])
    if group.missing:
        assert matcher.failure is not None, "the script's answer is too short"
        raise matcher.failure


def _crlf(text: Said) -> bytes:
    if isinstance(text, bytes):
        return text
    return text.replace("\r\n", "\n").replace("\n", "\r\n").encode()


class OffScript(BaseException):
    """The client deviated from the script. No `Exception`, so that no exchange can handle it."""


class Wire(Transport):
    """Replaces a socket: a function answers the bytes that the client sends.

    Args:
        answer: takes bytes of the client and returns the bytes of the server's replies.
        size: the number of bytes that the client receives at a time.
        blocks: the number of bytes after which a write blocks until the server has read them; its
            replies are received meanwhile.
        takes: the number of bytes that the client can send before the connection is reset.
        gives: the number of bytes that the client can receive before the connection is closed.

    Attributes:
        written: what each write of the client holds.
    """

    def __init__(
        self,
        answer: Callable[[bytes], bytes],
        *,
        size: int = 1_000_000,
        blocks: int = 1_000_000,
        takes: float = math.inf,
        gives: float = math.inf,
    ) -> None:
        self.is_open = True
        self.is_inherited = False
        self.turns = 0
        self.written: list[bytes] = []
        self._answer = answer
        self._size, self._blocks, self._takes, self._gives = size, blocks, takes, gives
        self._said = bytearray()
        self._incoming = bytearray()

    def write(
        self,
        data: Buffer,
        deadline: Deadline,
        sent: Callable[[int], None],
        received: Callable[[bytes], None],
    ) -> None:
        """Take bytes up to the limits, and receive where the write would block."""
        self.written.append(bytes(data))
        view = memoryview(data)
        while view:
            if not self._takes:
                self._hear()
                raise ConnectionResetError
            taken = min(len(view), self._blocks - len(self._said), int(min(self._takes, 1e9)))
            self._said += view[:taken]
            self._takes -= taken
            sent(taken)
            view = view[taken:]
            if len(self._said) >= self._blocks:
                self._hear()
                if (arrived := self.receive_now()) is not None:
                    received(arrived)

    def receive(self, deadline: Deadline) -> bytes:
        """The next bytes of the server; the client waits for them."""
        if self._said:
            self.turns += 1
            self._hear()
        arrived = self.receive_now()
        if arrived is None:
            raise OffScript("the client waits for what the server never says")
        return arrived

    def receive_now(self) -> bytes | None:
        """The bytes of the server that have arrived; None if there are none, b"" at the end."""
        if not self._gives or (not self._takes and not self._incoming):
            return b""
        if not self._incoming:
            return None
        size = int(min(self._size, self._gives))
        arrived = bytes(self._incoming[:size])
        del self._incoming[:size]
        self._gives -= len(arrived)
        return arrived

    def is_silent(self) -> bool:
        """Whether no bytes of the server have arrived."""
        return not self._incoming

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False

    def _hear(self) -> None:
        said, self._said = bytes(self._said), bytearray()
        self._incoming += self._answer(said)


BURST = 1
"""The number of requests that are ready at the same time; the fixture ``burst`` changes it."""


@dataclass
class Run:
    """The result of sending many requests."""

    outcomes: list[Outcome]
    driver: Driver


def run_many(
    session: SessionState,
    requests: Iterable[MailRequest | SmtpError],
    wire: Wire,
    *,
    is_fresh: bool = True,
    take: int | None = None,
    outcomes: list[Outcome] | None = None,
    burst: int | None = None,
) -> Run:
    """Send many requests over a wire.

    Args:
        session: the session of the connection.
        requests: the requests to send.
        wire: the connection.
        is_fresh: whether the last reply has just arrived.
        take: the number of outcomes that the caller takes; None for all.
        outcomes: a list to add them to, for a caller that reads it meanwhile.
        burst: the number of requests that are ready at the same time; None for `BURST`.
    """
    driver = Driver(wire, session, "mx.example.test", "mx.example.test:25", None)
    if is_fresh:
        driver._last_reply_at = math.inf
    items: Generator[list[Outcome], None, None]
    source, size = iter(requests), BURST if burst is None else burst
    ready = iter(lambda: list(itertools.islice(source, size)), [])
    items = driver.stream(stream(session, ready), StreamDeadline(10))
    run = Run([] if outcomes is None else outcomes, driver)
    try:
        while take is None or len(run.outcomes) < take:
            known = next(items)
            run.outcomes += known if take is None else known[: take - len(run.outcomes)]
    except StopIteration:
        pass
    finally:
        items.close()
    return run


def run_script_many(
    make: Callable[[], tuple[SessionState, list[MailRequest | SmtpError]]], script: Script
) -> list[Outcome]:
    """Run a script of sending many requests in all three ways and return the outcomes."""
    session, requests = make()
    whole = run_many(session, requests, scripted(script))
    assert whole.driver.transport.is_open, whole.driver.closed_because
    assert whole.driver.probe() is None
    session, requests = make()
    assert told(run_many(session, requests, scripted(script, size=1))) == told(whole)
    for trailing in ("250 nobody asked\r\n", "421 4.3.2 bye\r\n", "2"):
        session, requests = make()
        behind = [*script[:-1], (script[-1][0], script[-1][1] + trailing)]
        trailed = run_many(session, requests, scripted(behind))
        if session.pipelining is Pipelining.EAGER and trailing.startswith("250"):
            check_doubt(trailed.outcomes, told(trailed), told(whole))
        else:
            assert told(trailed) == told(whole)
        assert not trailed.driver.transport.is_open
    return whole.outcomes


def check_doubt(outcomes: list[Outcome], here: list[str], whole: list[str]) -> None:
    """Check the outcomes after one extra reply.

    The outcomes before it do not change; the others are unknown, because content that is sent with
    its envelope gives no other sign of it."""
    same = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(here, whole, strict=True)))
    for outcome in outcomes[len(same) :]:
        assert type(outcome) is ProtocolError
        assert outcome.may_have_been_delivered


def scripted(script: Script, *, size: int = 1_000_000, gives: float = math.inf) -> Wire:
    """A wire to a server that checks the client against a script and sends its replies."""
    turns = list(script)

    def answer(said: bytes) -> bytes:
        if not turns:
            raise OffScript(f"the script is over and the client is not: {said!r}")
        expected, reply = turns.pop(0)
        if said != _crlf(expected):
            raise OffScript(f"said {said!r} instead of {_crlf(expected)!r}")
        return _crlf(reply)

    return Wire(answer, size=size, gives=gives)


def told(run: Run) -> list[str]:
    """The outcomes as text, to compare."""
    return [f"{type(outcome).__name__}: {outcome}" for outcome in run.outcomes]
