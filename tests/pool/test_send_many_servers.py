"""`ConnectionPool.send_many` to real servers, with refusals in between: what they store of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionPool,
    Envelope,
    LmtpSendResult,
    Pipelining,
    Protocol,
    SendOutcome,
    ServerConfig,
    TlsMode,
)
from tests.realservers.base import RealServer
from tests.realservers.dovecot import Dovecot
from tests.support.numbered_messages import ALICE, BOB, NOBODY, SENDER, identities, message

COUNT = 300
STORED_WITHIN = 30.0

RECIPIENTS = ((ALICE,), (BOB,), (ALICE, BOB), (NOBODY,), (NOBODY, BOB), (BOB,))
"""Of each six messages."""


@pytest.fixture(params=["postfix", "exim", "dovecot"])
def server(request: pytest.FixtureRequest) -> RealServer:
    """Each of the servers; Dovecot's LMTP answers for each recipient."""
    running = request.getfixturevalue(request.param)
    assert isinstance(running, RealServer)
    return running


def config_of(server: RealServer, pipelining: Pipelining) -> ServerConfig:
    """How to reach it."""
    if isinstance(server, Dovecot):
        path = str(server.socket_path)
        return ServerConfig(
            path, 0, TlsMode.NONE, protocol=Protocol.LMTP, pipelining=pipelining, timeout=30
        )
    return ServerConfig(server.host, server.port, TlsMode.NONE, pipelining=pipelining, timeout=30)


def envelopes(count: int) -> Iterator[Envelope]:
    """Messages that can be told apart, a sixth of which nobody is to get."""
    for number in range(count):
        recipients = RECIPIENTS[number % len(RECIPIENTS)]
        yield Envelope(SENDER, recipients, message(f"m{number}"))


def accepted_by(outcome: SendOutcome) -> list[str]:
    """The recipients that the server has taken the message for."""
    result = outcome.result
    if result is None:
        return []
    if isinstance(result, LmtpSendResult):
        return [str(each.recipient) for each in result.results if each.delivered]
    return [str(each) for each in result.accepted_recipients]


@pytest.mark.realserver
@pytest.mark.timeout(90)
@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
@pytest.mark.parametrize("size", [1, 4])
def test_each_message_is_stored_once(server: RealServer, size: int, pipelining: Pipelining) -> None:
    """A message lies in the mailbox of each recipient who was accepted, once, and in no other."""
    with ConnectionPool(config_of(server, pipelining), max_size=size) as pool:
        outcomes = list(pool.send_many(envelopes(COUNT)))
        assert pool.stats().connects >= size
    assert Counter(outcome.envelope for outcome in outcomes) == Counter(envelopes(COUNT))
    for outcome in outcomes:
        known = [name for name in outcome.envelope.recipients if name != NOBODY]
        assert accepted_by(outcome) == known
        assert known or isinstance(outcome.error, AllRecipientsFailedError)
    expected: dict[str, Counter[str]] = {ALICE: Counter(), BOB: Counter()}
    for number in range(COUNT):
        for name in RECIPIENTS[number % len(RECIPIENTS)]:
            if name in expected:
                expected[name][f"m{number}"] += 1
    server.wait_for_stored(sum(each.total() for each in expected.values()), STORED_WITHIN)
    for name, numbers in expected.items():
        assert identities(server.stored(name.partition("@")[0])) == numbers


@pytest.mark.realserver
@pytest.mark.timeout(90)
@pytest.mark.parametrize("size", [1, 4])
def test_a_batch_that_is_stopped_and_resumed(server: RealServer, size: int) -> None:
    """What was never begun is sent by the second run, and no message is stored twice."""
    sent: Counter[Envelope] = Counter()
    with ConnectionPool(config_of(server, Pipelining.AUTO), max_size=size) as pool:
        with pool.send_many(only_to(ALICE)) as outcomes:
            for outcome in outcomes:
                sent[outcome.envelope] += outcome.error is None
                if sent.total() == COUNT // 3:
                    outcomes.stop()
        rest = [envelope for envelope in only_to(ALICE) if not sent[envelope]]
        assert 0 < len(rest) <= COUNT - COUNT // 3
        assert all(outcome.error is None for outcome in pool.send_many(rest))
    server.wait_for_stored(COUNT, STORED_WITHIN)
    assert identities(server.stored("alice")) == Counter(f"m{n}" for n in range(COUNT))


def only_to(recipient: str) -> Iterator[Envelope]:
    """Messages that the server takes, all of them."""
    for number in range(COUNT):
        yield Envelope(SENDER, (recipient,), message(f"m{number}"))
