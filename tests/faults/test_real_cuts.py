"""Real servers whose connections are cut at random: the ledger agrees with what is stored.

Two thousand messages go to Postfix and Dovecot through `tests.support.cutting_proxy`, which ends
every connection after a few of them. What was certainly not delivered is sent again; what is
unknown is not. At the end, when each server has done with every connection it ever had:

* what was acknowledged is stored, once, for each of its recipients;
* nothing else is stored but what was said to be unknown, once, too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from smtpconn import (
    ConnectionPool,
    Envelope,
    LmtpSendResult,
    Pipelining,
    Protocol,
    SendOutcome,
    SendResult,
    ServerConfig,
    SmtpError,
    TlsMode,
)
from tests.faults.conftest import Count
from tests.realservers.base import RealServer, wait_until
from tests.realservers.certificates import Certificates
from tests.realservers.dovecot import Dovecot
from tests.realservers.postfix import Postfix
from tests.support.cutting_proxy import CuttingProxy
from tests.support.numbered_messages import SENDER, identities, message
from tests.support.threads import run_in_threads

THREADS = 8
FEW = 10
USERS = ("alice", "bob")

Send = Callable[[ServerConfig, "Ledger"], None]
CheckDelivery = Callable[[RealServer, ServerConfig, "Ledger", Send, int], None]


@dataclass(slots=True)
class Ledger:
    """What was said of each message: for which of its recipients it is what.

    Attributes:
        asked: all that was to be sent: envelopes by their identity.
        acknowledged, unknown: identity and recipient.
    """

    asked: dict[str, Envelope]
    acknowledged: set[tuple[str, str]] = field(default_factory=set)
    unknown: set[tuple[str, str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, identity: str, result: object) -> bool:
        """Write down what came of a message; False if it has to be sent again."""
        with self._lock:
            if isinstance(result, SmtpError):
                if result.may_have_been_delivered:
                    self.unknown |= {(identity, r) for r in _users(self.asked[identity].recipients)}
                return result.may_have_been_delivered
            if isinstance(result, LmtpSendResult):
                assert not result.rejected_recipients
                for each in result.results:
                    assert each.delivered or each.response is None
                    entries = self.acknowledged if each.delivered else self.unknown
                    entries.update((identity, user) for user in _users([each.recipient]))
                return True
            assert isinstance(result, SendResult)
            self.acknowledged |= {(identity, r) for r in _users(result.accepted_recipients)}
            return True

    def check(self, stored: Counter[tuple[str, str]]) -> None:
        """Hold them against what the server has."""
        everything = {(i, r) for i, e in self.asked.items() for r in _users(e.recipients)}
        assert self.acknowledged | self.unknown == everything
        assert not self.acknowledged & self.unknown
        assert self.acknowledged <= set(stored)
        assert set(stored) <= everything
        assert max(stored.values()) == 1


def _users(recipients: Iterable[object]) -> list[str]:
    return [str(recipient).partition("@")[0] for recipient in recipients]


def ledger(messages: int, users: Iterable[str]) -> Ledger:
    """A new ledger of so many messages."""
    recipients = [f"{user}@example.test" for user in users]
    names = [f"m{number}" for number in range(messages)]
    return Ledger({name: Envelope(SENDER, recipients, message(name)) for name in names})


# The ways of sending


def by_pool(config: ServerConfig, ledger: Ledger) -> None:
    """Eight threads and a pool, message by message."""
    with ConnectionPool(config, max_size=4) as pool:

        def work(thread: int) -> None:
            for identity in list(ledger.asked)[thread::THREADS]:
                while not ledger.note(identity, _send(pool, ledger.asked[identity])):
                    pass

        run_in_threads(THREADS, work)


def by_pools_many(config: ServerConfig, ledger: Ledger) -> None:
    """The pool's own threads; what was certainly not delivered goes into the next round."""
    with ConnectionPool(config, max_size=4) as pool:
        _send_in_rounds(ledger, pool.send_many)


def by_many(config: ServerConfig, ledger: Ledger) -> None:
    """One connection after the other, each for a few of what is left."""

    def send(envelopes: list[Envelope]) -> Iterable[SendOutcome]:
        try:
            with config.connect() as connection:
                yield from connection.send_many(envelopes[:FEW])
        except SmtpError as error:
            # Nothing was begun, so these go again.
            yield from (SendOutcome(envelope, None, error) for envelope in envelopes[:FEW])

    _send_in_rounds(ledger, send)


def _send(pool: ConnectionPool, envelope: Envelope) -> object:
    try:
        return pool.send(envelope.sender, envelope.recipients, cast(bytes, envelope.message))
    except SmtpError as error:
        return error


def _send_in_rounds(
    ledger: Ledger, send: Callable[[list[Envelope]], Iterable[SendOutcome]]
) -> None:
    names = {id(envelope): identity for identity, envelope in ledger.asked.items()}
    pending = dict(ledger.asked)
    while pending:
        for outcome in send(list(pending.values())):
            identity = names[id(outcome.envelope)]
            if ledger.note(identity, outcome.error or outcome.result):
                del pending[identity]


# Looking at the servers


def wait_until_over(server: RealServer) -> None:
    """Wait until it has ended every connection, and has delivered what it took."""

    def is_over() -> bool:
        log = server.logs().lower()
        begun, ended = (log.count(f": {word} from ") for word in ("connect", "disconnect"))
        return 0 < begun == ended

    assert wait_until(is_over, 10, 0.05), server.logs()
    if isinstance(server, Postfix):
        server.wait_until_queue_empty()


def stored(server: RealServer) -> Counter[tuple[str, str]]:
    """How often each message is there for each recipient."""
    return Counter(
        {
            (identity, user): times
            for user in USERS
            for identity, times in identities(server.stored(user)).items()
        }
    )


# Two thousand messages


@pytest.fixture
def check_delivery(count: Count) -> CheckDelivery:
    """Sends everything through a proxy, and holds the ledger against what the server has."""

    def check(
        server: RealServer, config: ServerConfig, ledger: Ledger, send: Send, most: int
    ) -> None:
        with CuttingProxy((server.host, config.port), seed=len(ledger.asked), most=most) as proxy:
            send(replace(config, port=proxy.port), ledger)
        wait_until_over(server)
        found = stored(server)
        ledger.check(found)
        if config.pipelining is not Pipelining.EAGER:
            # A connection has one message in doubt at most.
            assert len({identity for identity, _ in ledger.unknown}) <= proxy.cuts
        count("messages to real servers over connections that are cut", len(ledger.asked))
        count("connections to real servers that were cut", proxy.cuts)
        count("copies acknowledged by real servers", len(ledger.acknowledged))
        count("copies unknown", len(ledger.unknown))
        count("copies unknown and stored", len(ledger.unknown & set(found)))

    return check


def test_postfix_and_a_pool(postfix: Postfix, check_delivery: CheckDelivery) -> None:
    """Message by message, from many threads."""
    config = ServerConfig(postfix.host, postfix.port, TlsMode.NONE, timeout=10)
    check_delivery(postfix, config, ledger(500, ["alice"]), by_pool, 2500)


def test_postfix_under_tls_and_a_pools_send_many(
    postfix: Postfix, certificates: Certificates, check_delivery: CheckDelivery
) -> None:
    """The pool's own threads, and cuts in the midst of TLS."""
    config = ServerConfig(
        "localhost",
        postfix.tls_port,
        TlsMode.IMPLICIT,
        timeout=10,
        tls_context=certificates.client_context(),
    )
    check_delivery(postfix, config, ledger(400, ["alice"]), by_pools_many, 8000)


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
def test_postfix_and_many(
    postfix: Postfix, pipelining: Pipelining, check_delivery: CheckDelivery
) -> None:
    """The content of one with the envelope of the next, and many at once."""
    config = ServerConfig(
        postfix.host, postfix.port, TlsMode.NONE, timeout=10, pipelining=pipelining
    )
    check_delivery(postfix, config, ledger(250, ["alice"]), by_many, 2500)


@pytest.mark.parametrize(("send", "messages"), [(by_pool, 300), (by_many, 300)])
def test_dovecot(
    dovecot: Dovecot, send: Send, messages: int, check_delivery: CheckDelivery
) -> None:
    """LMTP, where each of two recipients has an answer of its own."""
    config = ServerConfig(
        dovecot.host, dovecot.port, TlsMode.NONE, timeout=10, protocol=Protocol.LMTP
    )
    check_delivery(dovecot, config, ledger(messages, USERS), send, 2500)
