"""Whole sessions of the public API with a server that is cut, and their expected results.

A `SessionCase` is a list of operations on one connection. A run without a cut gives a record of
where each reply and each content ends in its stream. From that, and from the number of bytes that
each side had written at the cut, `expected_statuses` computes what the client has to report:

* a message is delivered if the server wrote its whole final reply;
* else unknown, if the client's socket had taken the last byte of its content;
* else certainly not delivered.

Of many messages in one call, the first one that is not delivered gets the error of the cut. Later
messages get an error that they were not sent, unless their contents were sent, too.

To add a way of sending: one more `Operation`, with its number of final replies, and a `SessionCase`
with it in `tests.support.session_list`; if its result is of another type, `statuses_of` has to
support that. The expectation does not count round trips, but up to the cut a client has to write
the same bytes as without it.
"""

from __future__ import annotations

import enum
import functools
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import pytest

from smtpconn import (
    ConnectionClosedError,
    LmtpSendResult,
    Phase,
    Pipelining,
    SendOutcome,
    SendResult,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TlsMode,
)
from smtpconn.testing.session import Settings, login, plain
from tests.support.cutting_server import Cut, How, Witness, serve, socket_pair
from tests.support.error_classes import kind_of

USERS = {"u": "p"}
ME, TWO = "a@b.c", ["d@e.f", "g@h.i"]
EVERYTHING = ("PIPELINING", "CHUNKING")
LONG_TIMEOUT = 10.0
SHORT_TIMEOUT = 0.2
SLACK = 0.5
"""Seconds by which an operation may overshoot its deadline."""
SILENT = frozenset({How.STALL, How.SILENCE})
"""The cuts that a client can notice only by its deadline."""


class DeliveryStatus(enum.StrEnum):
    """What a client reports about a message."""

    DELIVERED = "delivered"
    UNKNOWN = "unknown"
    NOT_DELIVERED = "not delivered"


@dataclass(frozen=True, slots=True)
class Operation:
    """A call on a connection, and the number of final replies that it leads to."""

    call: Callable[[SmtpConnection], object]
    answers: int = 0


@dataclass(frozen=True, slots=True)
class SessionCase:
    """A session from connecting to QUIT.

    Attributes:
        name: the name in the tests' ids.
        operations: the operations, in order.
        protocol, tls_mode, extensions: the protocol, the kind of TLS, and the server's extensions.
        buffer: the size of the sockets' buffers in bytes; None for the system's default.
        pipelining: the client's use of PIPELINING.
    """

    name: str
    operations: tuple[Operation, ...]
    protocol: str = "SMTP"
    tls_mode: TlsMode = TlsMode.NONE
    extensions: tuple[str, ...] = EVERYTHING
    buffer: int | None = None
    pipelining: Pipelining = Pipelining.AUTO


@dataclass(slots=True)
class Record:
    """The results of a session.

    Attributes:
        statuses: one for each expected final reply of the operations that were begun.
        error: the error of the session; of many messages in one call, that of the first one lost.
        behind: the errors of the messages after that one, in the same call.
        seconds: the duration of each step; the first one is connecting.
        taken: the number of bytes that the client's socket has taken; under TLS, bytes of SMTP.
        witness: the record of the server.
        is_closed: whether the client has closed its descriptor.
    """

    statuses: list[DeliveryStatus] = field(default_factory=list)
    error: SmtpError | None = None
    behind: list[SmtpError | None] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    taken: int = 0
    witness: Witness = field(default_factory=Witness)
    is_closed: bool = False


class CountedSocket(socket.socket):
    """A socket that counts the bytes it has taken."""

    taken = 0

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send, and count."""
        size = super().send(data, flags)
        self.taken += size
        return size


class CountedTls(ssl.SSLSocket):
    """The same under TLS."""

    taken = 0

    def send(self, data: Any, flags: int = 0) -> int:
        """Send, and count."""
        size = super().send(data, flags)
        self.taken += size
        return size


@dataclass(frozen=True, slots=True)
class Contexts:
    """The TLS settings of both sides."""

    client: ssl.SSLContext
    server: ssl.SSLContext

    def __post_init__(self) -> None:
        self.client.sslsocket_class = CountedTls


def settings(case: SessionCase, contexts: Contexts | None) -> Settings:
    """The settings of a session's server."""
    context = contexts.server if contexts and case.tls_mode is not TlsMode.NONE else None
    return Settings(
        protocol=case.protocol,
        hostname="mx",
        extensions=case.extensions,
        ehlo=True,
        users=USERS,
        tls_context=context,
        implicit_tls=case.tls_mode is TlsMode.IMPLICIT,
        require_auth=False,
        size_limit=None,
        mechanisms={
            "PLAIN": functools.partial(plain, USERS),
            "LOGIN": functools.partial(login, USERS),
        },
        recipient_known=lambda path: True,
    )


def statuses_of(result: object, answers: int) -> list[DeliveryStatus]:
    """The status of each final reply, by a result, an error, or the outcomes of many messages."""
    if isinstance(result, list):
        each = answers // len(result)
        return [status for o in result for status in statuses_of(o.error or o.result, each)]
    if isinstance(result, SmtpError):
        unknown = result.may_have_been_delivered
        return [DeliveryStatus.UNKNOWN if unknown else DeliveryStatus.NOT_DELIVERED] * answers
    if isinstance(result, LmtpSendResult):
        return [
            DeliveryStatus.DELIVERED
            if r.delivered
            else DeliveryStatus.NOT_DELIVERED
            if r.response
            else DeliveryStatus.UNKNOWN
            for r in result.results
        ]
    assert isinstance(result, SendResult) is bool(answers)
    return [DeliveryStatus.DELIVERED] * answers


def play(
    case: SessionCase, cut: Cut | None, executor: Executor, contexts: Contexts | None = None
) -> Record:
    """Run a session whose server is cut, and record both sides afterwards."""
    how = cut.how if cut is not None else None
    timeout = SHORT_TIMEOUT if how in SILENT else LONG_TIMEOUT
    near, far = socket_pair(tcp=how is How.RESET, buffer=case.buffer)
    server = executor.submit(serve, far, settings(case, contexts), cut)
    counted = CountedSocket(fileno=near.detach())
    record = Record()
    try:
        _run(case, counted, timeout, contexts, record)
    finally:
        counted.close()
        record.witness = server.result(LONG_TIMEOUT)
    return record


def _run(
    case: SessionCase,
    sock: CountedSocket,
    timeout: float,
    contexts: Contexts | None,
    record: Record,
) -> None:
    connect = SmtpConnection.connect_lmtp if case.protocol == "LMTP" else SmtpConnection.connect
    connection: SmtpConnection | None = None
    try:
        with _timed(record):
            connection = connect(
                "localhost",
                25,
                case.tls_mode,
                timeout,
                tls_context=contexts.client if contexts else None,
                ehlo_domain="c",
                socket_factory=lambda host, port, seconds: sock,
                allow_cleartext_auth=True,
                pipelining=case.pipelining,
            )
        _operate(case, connection, record)
    except SmtpError as error:
        record.error = error
    # Recorded before anything is cleaned up. Under TLS another object owns the descriptor.
    record.is_closed = sock.fileno() == -1
    record.taken = sock.taken
    if connection is not None:
        if isinstance(tls := connection.tls, CountedTls):
            record.is_closed = tls.fileno() == -1
            record.taken += tls.taken
        # An open descriptor is reported by `shortfalls`. It may also be due to many parallel cases:
        # a client that gets no processor time during its whole timeout begins and closes nothing.
        if record.is_closed:
            _check_is_over(connection)


def _operate(case: SessionCase, connection: SmtpConnection, record: Record) -> None:
    for operation in case.operations:
        try:
            with _timed(record):
                result = operation.call(connection)
        except SmtpError as error:
            record.statuses += statuses_of(error, operation.answers)
            raise
        record.statuses += statuses_of(result, operation.answers)
        if isinstance(result, list):
            _note_what_was_lost(result, operation.answers // len(result), record)
        if not connection.is_open:
            return


def _note_what_was_lost(outcomes: list[SendOutcome], answers: int, record: Record) -> None:
    statuses = [statuses_of([outcome], answers) for outcome in outcomes]
    lost = [
        o for o, f in zip(outcomes, statuses, strict=True) if set(f) != {DeliveryStatus.DELIVERED}
    ]
    if lost:
        record.error, *record.behind = [outcome.error for outcome in lost]


def _check_is_over(connection: SmtpConnection) -> None:
    """Check that a closed connection cannot be used, with or without an error before."""
    assert not connection.is_open
    with pytest.raises(ConnectionClosedError) as caught:
        connection.noop()
    assert not caught.value.may_have_been_delivered


class _timed:
    """Records the duration of a block, also if it raises."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *exc_info: object) -> None:
        self._record.seconds.append(time.monotonic() - self._begun)


# --- The expected results -------------------------------------------------------------------------

PHASES = {
    "CONNECT": Phase.GREETING,
    "LHLO": Phase.EHLO,
    "HELO": Phase.EHLO,
    "CHALLENGE": Phase.AUTH,
    "BDAT": Phase.CONTENT,
}
"""The phases of the test server's steps that have another name."""


def phase_of(step: str) -> Phase:
    """The phase of a client that waits for the reply to a step."""
    return PHASES.get(step) or Phase(step.lower())


def expected_statuses(reference: Record, cut: Record) -> list[DeliveryStatus]:
    """The status that the client has to report for each final reply, received or not."""
    return [
        DeliveryStatus.DELIVERED
        if stored.answer_end <= cut.witness.written
        else DeliveryStatus.UNKNOWN
        if stored.content_end <= cut.taken
        else DeliveryStatus.NOT_DELIVERED
        for stored in reference.witness.stored
    ]


def expected_phases(reference: Record, record: Record) -> set[Phase]:
    """The phases an error may have: that of the first reply that was not written completely."""
    steps = {r.end: r.step for r in reference.witness.replies}
    missing = [step for end, step in steps.items() if end > record.witness.written]
    phases = {phase_of(step) for step in missing[:1]}
    if not record.witness.written:
        return phases | {Phase.CONNECT, Phase.TLS}
    if (answered := steps.get(record.witness.written)) is not None:
        # No command was in flight, so the client may notice the cut before it sends the next one.
        phases.add(Phase.TLS if answered == "STARTTLS" else Phase.IDLE)
    return phases


def shortfalls(reference: Record, record: Record, cut: Cut) -> Iterator[str]:
    """Every difference between a session and the expectation."""
    witness = record.witness
    statuses, due = record.statuses, expected_statuses(reference, record)
    if statuses != due[: len(statuses)] or DeliveryStatus.DELIVERED in due[len(statuses) :]:
        yield f"reports {statuses} instead of {due}"
    # The checks below use the record of this run, not that of the run without a cut.
    acknowledged, stored = len(witness.acknowledged), len(witness.stored)
    if statuses.count(DeliveryStatus.DELIVERED) > acknowledged:
        yield f"{acknowledged} were acknowledged: {statuses}"
    if DeliveryStatus.NOT_DELIVERED in statuses[:stored]:
        yield f"{stored} were stored: {statuses}"
    if not record.is_closed:
        yield "the descriptor is open"
    yield from _wrong_error(reference, record, cut)
    yield from _wrong_behind(record, cut)


def _wrong_error(reference: Record, record: Record, cut: Cut) -> Iterator[str]:
    error, written = record.error, record.witness.written
    if error is None:
        # QUIT never fails, and an LMTP result may contain unknown statuses.
        missing = [r.step for r in reference.witness.replies if r.end > written]
        if set(missing) - {"QUIT"} and DeliveryStatus.UNKNOWN not in record.statuses:
            yield f"no error, though these were not answered: {missing}"
        return
    kind = _kind(cut)
    if kind_of(error) is not kind:
        yield f"{type(error).__name__} instead of {kind.__name__}: {error}"
    if not error.is_transient:
        yield "not transient"
    phases = expected_phases(reference, record)
    if error.phase not in phases:
        yield f"phase {error.phase}, not one of {phases}"


def _wrong_behind(record: Record, cut: Cut) -> Iterator[str]:
    for error in record.behind:
        is_unknown = error is not None and error.may_have_been_delivered
        kind = _kind(cut) if is_unknown else ConnectionClosedError
        is_right = error is not None and (is_unknown or error.phase in (Phase.MAIL, Phase.IDLE))
        if not is_right or kind_of(error) is not kind:
            yield f"a message behind the one that was lost: {error!r}"


def _kind(cut: Cut) -> type[SmtpError]:
    return SmtpTimeoutError if cut.how in SILENT else ConnectionClosedError


def overshoot(record: Record, cut: Cut) -> float:
    """Seconds by which the slowest step was later than its deadline."""
    return max(record.seconds) - (SHORT_TIMEOUT if cut.how in SILENT else LONG_TIMEOUT)
