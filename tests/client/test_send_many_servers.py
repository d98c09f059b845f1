"""Many messages in a row to real servers, with refusals of all kinds in between.

A thousand to Postfix, Exim, Dovecot's LMTP and Dovecot's submission service.

Each message has a sender of its own, and what is looked at afterwards is the servers' mailboxes: a
message that was acknowledged lies there once for each of its recipients, under its own sender; one
that was refused does not. That is where servers fail which are told too much in one go (see the
rules of `smtpconn.protocol.pipelined`), and where a client fails that pairs replies wrongly.
"""

from __future__ import annotations

import abc
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    Envelope,
    LmtpSendResult,
    PermanentError,
    Pipelining,
    SendOutcome,
    SendResult,
    SmtpConnection,
    SmtpError,
    TlsMode,
)
from smtpconn.protocol import pipelined
from tests.realservers.base import PASSWORDS, RealServer, wait_until
from tests.realservers.certificates import Certificates
from tests.realservers.cyrus import Cyrus
from tests.realservers.dovecot import Dovecot
from tests.realservers.exim import Exim
from tests.realservers.fixtures import require
from tests.realservers.opensmtpd import OpenSMTPD
from tests.realservers.postfix import Postfix
from tests.support.error_classes import kind_of
from tests.support.numbered_messages import ALICE, BOB, CAROL, identities, message

# Exim alone takes five seconds for a thousand messages, on a machine that does nothing else.
pytestmark = [pytest.mark.realserver, pytest.mark.timeout(90)]

NOBODY = "no&body@example.test"
"""Unknown everywhere; Cyrus would make a mailbox for a better name."""

COUNT = 1000
STORED_WITHIN = 40.0
SIZE_LIMIT = 400_000
"""Bytes the servers take where the test sets their limit: more than may be sent eagerly."""


@dataclass(frozen=True)
class Kind:
    """A kind of message, and what is to become of it.

    Attributes:
        recipients: who is to get it.
        body: what stands below the header.
        refused: the recipients that the server knows nothing of, or whose mailbox is full.
        error: what comes of it, if it is an error.
        domain: of the sender.
        is_stream: whether it is an iterable.
    """

    recipients: tuple[str, ...] = (ALICE,)
    body: bytes = b"hello\r\n"
    refused: tuple[str, ...] = ()
    error: type[SmtpError] | None = None
    domain: str = "client.example"
    is_stream: bool = False

    def envelope(self, number: int) -> Envelope:
        """The message of this number."""
        whole = self.message(number)
        given = iter([whole[:77], whole[77:]]) if self.is_stream else whole
        return Envelope(self.sender(number), self.recipients, given)

    def message(self, number: int) -> bytes:
        """Its bytes."""
        return message(f"m{number}", self.body)

    def sender(self, number: int) -> str:
        """Its sender, which no other message has."""
        return f"s{number}@{self.domain}"

    def mailboxes(self) -> set[str]:
        """Which mailboxes have it in the end."""
        if self.error is not None:
            return set()
        return {name.partition("@")[0] for name in self.recipients if name not in self.refused}


PLAIN = Kind()
DOTTED = Kind(body=b".\r\n..\r\n.dots\r\n\r\n.")
TO_TWO = Kind((ALICE, BOB))
STREAM = Kind((BOB,), is_stream=True)
LINE = b"x" * 68 + b"\r\n"
LONG = Kind((BOB,), body=LINE * 4500)
PARTLY = Kind((NOBODY, BOB, "other-" + NOBODY), refused=(NOBODY, "other-" + NOBODY))
NONE = Kind((NOBODY,), error=AllRecipientsFailedError)
BAD_SENDER = Kind(domain="refused.example", error=PermanentError)
TOO_BIG = Kind(body=LINE * 6000, error=PermanentError)
FULL = Kind((CAROL,), refused=(CAROL,))
FULL_TOO = Kind((BOB, CAROL, BOB), refused=(CAROL,))

EVERY_20: dict[int, Kind] = {
    1: DOTTED, 3: NONE, 5: PARTLY, 7: TO_TWO, 9: BAD_SENDER, 12: STREAM, 14: PARTLY, 16: NONE,
}  # fmt: skip
EVERY_100: dict[int, Kind] = {28: LONG, 46: TOO_BIG, 68: LONG, 71: TOO_BIG}
ONCE: dict[int, Kind] = {500: NONE, 501: NONE}
IN_LMTP = {BAD_SENDER: FULL, TOO_BIG: FULL_TOO}
"""What is refused instead in LMTP: Dovecot takes any sender and any size."""


class Place(abc.ABC):
    """Where the messages go: how to connect, and the server that has them in the end."""

    store: RealServer
    is_lmtp = False
    count = COUNT

    @abc.abstractmethod
    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        """Start it; it is stopped with ``stack``."""

    def connect(self, pipelining: Pipelining) -> SmtpConnection:
        """A connection that may send."""
        return SmtpConnection.connect(
            self.store.host, self.store.port, TlsMode.NONE, 60, pipelining=pipelining
        )

    def kinds(self) -> list[Kind]:
        """The kind of each message in turn."""
        kinds = [
            ONCE.get(n) or EVERY_100.get(n % 100) or EVERY_20.get(n % 20, PLAIN)
            for n in range(self.count)
        ]
        return [IN_LMTP.get(kind, kind) for kind in kinds] if self.is_lmtp else kinds

    def has_more(self) -> bool:
        """Whether the server is still busy with what it has taken."""
        return False


class ToPostfix(Place):
    """Postfix under TLS, which is not asked for its limit, so that it finds out for itself."""

    store: Postfix

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        require(Postfix)
        self.store = stack.enter_context(Postfix(certificates, main_cf=POSTFIX_CF))

    def connect(self, pipelining: Pipelining) -> SmtpConnection:
        return self.to(self.store, pipelining)

    @staticmethod
    def to(server: Postfix, pipelining: Pipelining) -> SmtpConnection:
        """A connection to a Postfix."""
        return SmtpConnection.connect(
            "localhost",
            server.port,
            TlsMode.STARTTLS,
            60,
            tls_context=server.certificates.client_context(),
            pipelining=pipelining,
            ignore_extensions=["SIZE"],
        )

    def has_more(self) -> bool:
        return bool(self.store._queued())


POSTFIX_CF = f"""\
message_size_limit = {SIZE_LIMIT}
smtpd_delay_reject = no
smtpd_sender_restrictions = check_sender_access inline:{{refused.example=REJECT}}
"""


class ToExim(Place):
    """Exim, which counts RSETs that no message follows, and hangs up at the eleventh.

    It must not be sent what is too big, because it would run the rest as commands.
    """

    store: Exim

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        require(Exim)
        self.store = stack.enter_context(Exim(certificates, main_conf=EXIM_CONF))

    def kinds(self) -> list[Kind]:
        return [BAD_SENDER if kind is TOO_BIG else kind for kind in super().kinds()]

    def has_more(self) -> bool:
        return any((self.store.root / "spool/input").iterdir())


EXIM_CONF = """\
acl_smtp_mail = ${if eq{$sender_address_domain}{refused.example}{deny}{accept}}
"""


class ToDovecot(Place):
    """Dovecot's LMTP on a UNIX socket, which answers for each recipient."""

    store: Dovecot
    is_lmtp = True

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        require(Dovecot)
        self.store = stack.enter_context(Dovecot(certificates))

    def connect(self, pipelining: Pipelining) -> SmtpConnection:
        return SmtpConnection.connect_lmtp(
            str(self.store.socket_path), 0, TlsMode.NONE, 60, pipelining=pipelining
        )


class ToSubmission(ToPostfix):
    """Dovecot's submission service, which hands each command on to Postfix.

    It breaks down over a refused MAIL with a RCPT behind it in the same group, which RFC 2920
    allows, and no client can help that; so no sender is refused here.
    """

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        require(Dovecot)
        super().__init__(certificates, stack)
        self._front = stack.enter_context(Dovecot(certificates, relay_port=self.store.port))

    def kinds(self) -> list[Kind]:
        return [NONE if kind is BAD_SENDER else kind for kind in super().kinds()]

    def connect(self, pipelining: Pipelining) -> SmtpConnection:
        connection = SmtpConnection.connect(
            self._front.host,
            self._front.submission_port,
            TlsMode.NONE,
            60,
            pipelining=pipelining,
            ignore_extensions=["SIZE"],
        )
        connection.auth_plain("alice", PASSWORDS["alice"])
        connection.rehlo()
        return connection


class ToOpenSMTPD(Place):
    """OpenSMTPD, which hangs up on who pipelines, and takes a hundred messages on a connection."""

    store: OpenSMTPD
    count = 80

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        require(OpenSMTPD)
        self.store = stack.enter_context(OpenSMTPD())

    def kinds(self) -> list[Kind]:
        return [NONE if kind in (BAD_SENDER, TOO_BIG) else kind for kind in super().kinds()]


class ToCyrus(Place):
    """Cyrus' LMTP, which has no BDAT."""

    store: Cyrus
    is_lmtp = True
    count = 200

    def __init__(self, certificates: Certificates, stack: ExitStack) -> None:
        require(Cyrus)
        self.store = stack.enter_context(Cyrus(certificates))

    def connect(self, pipelining: Pipelining) -> SmtpConnection:
        return SmtpConnection.connect_lmtp(
            self.store.host, self.store.port, TlsMode.NONE, 60, pipelining=pipelining
        )

    def kinds(self) -> list[Kind]:
        return [NONE if kind in (FULL, FULL_TOO) else kind for kind in super().kinds()]


def check_outcome(kind: Kind, outcome: SendOutcome) -> None:
    """Hold what was reported against what was to be expected."""
    if kind.error is not None:
        assert outcome.error is not None
        assert kind_of(outcome.error) is kind.error, outcome.error
        assert not outcome.error.may_have_been_delivered
        return
    result = outcome.result
    assert result is not None, outcome.error
    rejected = [str(each.recipient) for each in result.rejected_recipients]
    if isinstance(result, LmtpSendResult):
        accepted = [str(each.recipient) for each in result.results if each.delivered]
        rejected += [str(each.recipient) for each in result.results if not each.delivered]
    else:
        assert isinstance(result, SendResult)
        accepted = list(map(str, result.accepted_recipients))
    assert accepted == [name for name in kind.recipients if name not in kind.refused]
    assert rejected == [name for name in kind.recipients if name in kind.refused]


def found_in(store: RealServer) -> Iterator[tuple[str, int, bytes]]:
    """The mailbox, the number by the sender, and the bytes of each message that is stored."""
    for user in PASSWORDS:
        for text in store.stored(user):
            sender = re.search(rb"(?mi)^return-path: <s(\d+)@", text)
            assert sender is not None, text[:300]
            yield user, int(sender[1]), text.replace(b"\r\n", b"\n")


def check_store(store: RealServer, kinds: Iterable[Kind]) -> None:
    """Each message once for each of its recipients, under its own sender."""
    expected = Counter((name, n) for n, kind in enumerate(kinds) for name in kind.mailboxes())
    of_number = dict(enumerate(kinds))
    found: Counter[tuple[str, int]] = Counter()
    for user, number, text in found_in(store):
        sent = of_number[number].message(number).replace(b"\r\n", b"\n")
        assert text.endswith(sent if sent.endswith(b"\n") else sent + b"\n")
        found[user, number] += 1
    assert found == expected


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
@pytest.mark.parametrize(
    "place", [ToPostfix, ToExim, ToDovecot, ToSubmission, ToCyrus, ToOpenSMTPD]
)
def test_many_messages(
    certificates: Certificates, place: type[Place], pipelining: Pipelining
) -> None:
    """Each message is stored once with its sender, although many are refused among them."""
    with ExitStack() as stack:
        made = place(certificates, stack)
        kinds = made.kinds()
        with made.connect(pipelining) as connection:
            envelopes = (kind.envelope(number) for number, kind in enumerate(kinds))
            outcomes = list(connection.send_many(envelopes))
            assert connection.is_open
        assert len(outcomes) == made.count
        for number, (kind, outcome) in enumerate(zip(kinds, outcomes, strict=True)):
            assert str(outcome.envelope.sender) == kind.sender(number)
            check_outcome(kind, outcome)
        expected = sum(len(kind.mailboxes()) for kind in kinds)
        made.store.wait_for_stored(expected, STORED_WITHIN)
        assert wait_until(lambda: not made.has_more(), STORED_WITHIN)
        check_store(made.store, kinds)


@pytest.mark.parametrize("pipelining", [Pipelining.AUTO, Pipelining.EAGER])
@pytest.mark.parametrize("after", [1, 150])
def test_a_server_that_goes_away_in_the_middle(
    certificates: Certificates, pipelining: Pipelining, after: int
) -> None:
    """What was acknowledged is stored, what was certainly not delivered is not, once at most."""
    require(Postfix)
    statuses: dict[str, set[str]] = {
        "acknowledged": set(),
        "unknown": set(),
        "not delivered": set(),
    }
    with Postfix(certificates) as postfix, ThreadPoolExecutor(1) as executor:
        with ToPostfix.to(postfix, pipelining) as connection:
            envelopes = map(PLAIN.envelope, itertools.count())
            for number, outcome in enumerate(connection.send_many(envelopes)):
                if number == after:
                    halting = executor.submit(postfix.halt)
                statuses[_status(outcome)].add(f"m{number}")
                if len(statuses["not delivered"]) == 10:
                    break
            assert not connection.is_open
        halting.result()
        postfix.start()
        acknowledged, unknown = statuses["acknowledged"], statuses["unknown"]
        assert len(acknowledged) >= after
        assert len(unknown) <= (1 if pipelining is Pipelining.AUTO else pipelined.MAX_IN_FLIGHT)
        assert wait_until(lambda: acknowledged <= set(identities(postfix.stored())), STORED_WITHIN)
        assert set(identities(postfix.stored())) <= acknowledged | unknown
        # Postfix may deliver twice what it was delivering when it was stopped; so its log has to
        # say that each came in once.
        assert max(identities(postfix.logs().encode().splitlines()).values()) == 1


def _status(outcome: SendOutcome) -> str:
    if outcome.error is None:
        return "acknowledged"
    return "unknown" if outcome.error.may_have_been_delivered else "not delivered"
