"""A session with an arbitrary server: whatever it does, in whatever order things are asked of it.

hypothesis draws what the server does with each command (`tests.support.arbitrary_server`): right
replies and wrong ones, in pieces, too many of them, garbage, 421, hanging up, silence. It also
draws whether SMTP or LMTP is spoken, how far the client runs ahead, and what it does: one message
by DATA or BDAT, several in one call, or any other command. What has to hold then:

* nothing but an `SmtpError` comes out, in time;
* a reply belongs to the command it is given to, and always to the operation that is in progress;
* what is said to be delivered is stored, what is said not to be is not, and everything else is said
  to be unknown;
* after anything but a refusal the connection is closed, and a server that is well is understood.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from smtpconn import (
    AllRecipientsFailedError,
    Envelope,
    LmtpSendResult,
    Pipelining,
    RejectedRecipient,
    ResponseError,
    SendOutcome,
    SendResult,
    SmtpConnection,
    SmtpError,
    SmtpResponse,
    SmtpUtf8RequiredError,
    TlsMode,
    UnsupportedExtensionError,
    ValidationError,
)
from tests.faults.conftest import Count
from tests.support.arbitrary_server import PIPELINED, Act, Adversary

TIMEOUT = 5.0
"""Seconds for an operation with a server that answers, however badly."""

SHORT = 0.05
"""Seconds for an operation with a server that may never answer."""

SLACK = 2.0

T = TypeVar("T")

REFUSALS = [450, 451, 452, 500, 502, 504, 535, 550, 552, 554]
NONSENSE = [200, 220, 235, 250, 251, 334, 354, 399, 599]
GARBAGE = [
    b"\r\n", b"\n", b"25", b"250", b"250-", b"250-more\r\n", b"hello\r\n", b"2500 x\r\n",
    b"250-a\r\n251 b\r\n", b"999 x\r\n", b"250 \0\r\n", b"250-x\r\n" * 200,
    b"250 " + b"x" * 9000,
]  # fmt: skip
# The last one is a reply, too, wherever exactly one is awaited (`smtpconn.protocol.reply_parser`,
# rule 2). So it is no garbage in place of a reply.
UNASKED = [b"250 #-1 NOBODY\r\n", b"550 #-1 NOBODY\r\n", b"354 #-1 NOBODY\r\n", b"421 #-1 bye\r\n",
           b"250 x\n"]  # fmt: skip

RECOVERABLE_ERRORS = (
    AllRecipientsFailedError, ValidationError, UnsupportedExtensionError, SmtpUtf8RequiredError,
)  # fmt: skip
_TAG = re.compile(r"#(-?\d+) ([A-Z]+) ?(.*)")

splits = st.lists(st.integers(1, 9), max_size=4).map(tuple)
right = st.builds(Act, sizes=splits)
# Any bytes but a reply: hypothesis finds those, too.
garbage = st.sampled_from(GARBAGE) | st.binary(max_size=30).map(lambda data: b"\0" + data)
bad = st.one_of(
    st.builds(Act, code=st.sampled_from(REFUSALS), sizes=splits),
    st.builds(Act, code=st.sampled_from(NONSENSE), sizes=splits),
    # Not the begin of a reply of several lines: what comes next may be its rest, and all is well.
    st.builds(Act, behind=st.sampled_from(UNASKED) | garbage.filter(lambda g: g[3:4] != b"-")),
    st.builds(Act, instead=garbage, keeps=st.booleans()),
    st.builds(Act, code=st.just(421)),
    st.builds(Act, ends=st.just(True), keeps=st.booleans()),
    st.builds(Act, hangs=st.just(True), keeps=st.booleans()),
    st.builds(Act, code=st.sampled_from([354, 250]), behind=st.just(b"552 #-1 EARLY\r\n")),
)
act = right | right | bad
acts = st.lists(right | right | right | right | bad, max_size=5)
many_acts = st.lists(right | right | right | right | right | right | bad, max_size=16)
ahead = st.sampled_from(Pipelining)


class SessionMachine(RuleBasedStateMachine):
    """One client, and one server after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.made: SmtpConnection | None = None
        self.server = Adversary(is_lmtp=False)
        self.servers = [self.server]
        self.pipelining = Pipelining.AUTO
        self.operation = 0
        self.was_right = True

    def teardown(self) -> None:
        """End everything."""
        if self.made is not None:
            self.made.close()
        for server in self.servers:
            server.stop()

    @property
    def connection(self) -> SmtpConnection:
        """The connection; a new one, to a server that is well, if it has been closed."""
        # Not by preconditions of the rules: what is drawn must not depend on what happened.
        if self.made is None or not self.made.is_open:
            self._connect([], self.server.is_lmtp, self.server.extensions, self.pipelining)
        assert self.made is not None
        return self.made

    @initialize(
        is_lmtp=st.booleans(),
        offered=st.sampled_from([PIPELINED, PIPELINED[1:]]),
        pipelining=ahead,
    )
    def begin(self, is_lmtp: bool, offered: tuple[str, ...], pipelining: Pipelining) -> None:
        """Begin with a server that greets well."""
        self._connect([], is_lmtp, offered, pipelining)

    @rule(
        planned=st.lists(act, max_size=3),
        is_lmtp=st.booleans(),
        offered=st.sampled_from([PIPELINED, PIPELINED[1:]]),
        pipelining=ahead,
    )
    def connect(
        self,
        planned: list[Act],
        is_lmtp: bool,
        offered: tuple[str, ...],
        pipelining: Pipelining,
    ) -> None:
        """Connect to another server."""
        self._connect(planned, is_lmtp, offered, pipelining)

    @rule(
        planned=acts,
        of_content=st.lists(act, max_size=3),
        recipients=st.integers(1, 3),
        with_bdat=st.booleans(),
    )
    def send(
        self, planned: list[Act], of_content: list[Act], recipients: int, with_bdat: bool
    ) -> None:
        """Send a message; compare the result with what the server has stored."""
        connection = self.connection
        identity = f"message-{self.operation}"
        everyone = [f"r{n}@op{self.operation}.example" for n in range(recipients)]
        name = "send_lmtp" if self.server.is_lmtp else "send"
        way: Callable[..., SendResult | LmtpSendResult] = getattr(
            connection, f"{name}_bdat" if with_bdat else name
        )
        content = f"{identity}\r\n\r\nHello!\r\n".encode()

        def call(timeout: float) -> SendResult | LmtpSendResult:
            return way("me@example.com", everyone, content, timeout=timeout)

        outcome = self._operate(planned, call, of_content)
        self._check_message(identity, outcome, is_alone=True)

    @rule(
        planned=many_acts,
        of_content=st.lists(right | act, max_size=6),
        recipients=st.lists(st.integers(1, 2), min_size=1, max_size=4),
    )
    def send_many(self, planned: list[Act], of_content: list[Act], recipients: list[int]) -> None:
        """Send several messages in one call; compare each outcome with what the server has."""
        connection, outcomes = self.connection, list[SendOutcome]()
        identities = [f"message-{self.operation}-{n}" for n in range(len(recipients))]
        envelopes = [
            Envelope(
                "me@example.com",
                [f"r{n}@{identity}.example" for n in range(count)],
                f"{identity}\r\n\r\nHello!\r\n".encode(),
            )
            for identity, count in zip(identities, recipients, strict=True)
        ]

        def call(timeout: float) -> None:
            outcomes.extend(connection.send_many(envelopes, timeout))

        error = self._operate(planned, call, of_content, operations=len(envelopes))
        if error is not None:
            # Nothing was begun: there are no outcomes.
            assert not outcomes
            assert not error.may_have_been_delivered
            return
        assert [outcome.envelope for outcome in outcomes] == envelopes
        for identity, outcome in zip(identities, outcomes, strict=True):
            if outcome.error is not None:
                self._check_error(outcome.error, closed=not connection.is_open)
            self._check_message(identity, outcome.error or outcome.result, is_alone=False)

    def _check_message(self, identity: str, outcome: object, *, is_alone: bool) -> None:
        """Hold an outcome against what the server has; whether it was alone in its call."""
        stored = [r for i, r in self.server.stored if i == identity.encode()]
        assert len(stored) == len(set(stored))
        # Where content leaves with its envelope, a reply too many is known at the end of the turn,
        # and if it comes late, later.
        if self.pipelining is Pipelining.EAGER and not self.server.is_well:
            return
        if isinstance(outcome, SmtpError):
            assert outcome.may_have_been_delivered or not stored
            if isinstance(outcome, AllRecipientsFailedError):
                self._check_rejected(outcome.rejected_recipients)
        elif isinstance(outcome, SendResult) and not isinstance(outcome, LmtpSendResult):
            self._check_reply(outcome.response, "CONTENT")
            self._check_rejected(outcome.rejected_recipients)
            # The answer to a content may be the begin of a reply whose rest is another's: 250 was
            # said, if not meant.
            if is_alone or self.server.is_well:
                assert stored == [",".join(map(str, outcome.accepted_recipients))]
        else:
            assert isinstance(outcome, LmtpSendResult)
            self._check_rejected(outcome.rejected_recipients)
            for result in outcome.results:
                assert not result.delivered or result.response is not None
                if result.response is not None:
                    self._check_reply(result.response, "CONTENT", str(result.recipient))
                # One answer too many among several is known when the last has come, not before.
                if result.response is not None and self.server.is_well:
                    assert result.delivered == (str(result.recipient) in stored)

    @rule(planned=st.lists(act, max_size=2), name=st.sampled_from(["noop", "reset", "rehlo"]))
    def ask(self, planned: list[Act], name: str) -> None:
        """Say a command that has no result."""
        connection = self.connection
        outcome = self._operate(planned, getattr(connection, name))
        if name == "rehlo" and outcome is None and self.was_right:
            assert connection.capabilities.parameters("X-TAG") == (str(self.operation - 1),)

    @rule(planned=st.lists(act, max_size=1))
    def verify(self, planned: list[Act]) -> None:
        """Ask something that has an answer."""
        connection, name = self.connection, f"somebody-{self.operation}"
        outcome = self._operate(planned, lambda timeout: connection.vrfy(name, timeout))
        if isinstance(outcome, SmtpResponse):
            self._check_reply(outcome, "VRFY", name)

    @rule(planned=st.lists(act, max_size=1))
    def log_in(self, planned: list[Act]) -> None:
        """Log in; who is logged in already, or is not offered to be, is told so at once."""
        connection = self.connection
        may = not connection.is_authenticated and connection.capabilities.supports_auth("PLAIN")
        if may:
            outcome = self._operate(planned, lambda t: connection.auth_plain("user", "secret", t))
            assert connection.is_authenticated == (outcome is None)

    @rule(data=st.sampled_from([*UNASKED, *GARBAGE]))
    def interject(self, data: bytes) -> None:
        """The server sends unsolicited data; the next operation finds it."""
        connection = self.connection
        self.server.interject(data)
        outcome = self._operate([], connection.noop)
        assert isinstance(outcome, SmtpError)
        assert not outcome.may_have_been_delivered
        assert not connection.is_open

    @rule(planned=st.lists(act, max_size=1))
    def leave(self, planned: list[Act]) -> None:
        """Send QUIT, which never fails."""
        connection = self.connection
        assert self._operate(planned, connection.quit) is None
        assert not connection.is_open

    def _connect(
        self,
        planned: list[Act],
        is_lmtp: bool,
        offered: tuple[str, ...],
        pipelining: Pipelining,
    ) -> None:
        if self.made is not None:
            self.made.close()
        self.made, self.pipelining = None, pipelining
        server = self.server = Adversary(is_lmtp, offered)
        self.servers.append(server)
        make = SmtpConnection.connect_lmtp if is_lmtp else SmtpConnection.connect

        def connect(timeout: float) -> SmtpConnection:
            server.start()
            return make(
                "mx.example.com",
                25,
                TlsMode.NONE,
                timeout,
                socket_factory=lambda host, port, timeout: server.client_end,
                allow_cleartext_auth=True,
                ehlo_domain="client.example.com",
                pipelining=pipelining,
            )

        outcome = self._operate(planned, connect)
        if isinstance(outcome, SmtpConnection):
            self.made = outcome

    def _operate(
        self,
        planned: list[Act],
        call: Callable[[float], T],
        of_content: Sequence[Act] = (),
        operations: int = 1,
    ) -> T | SmtpError:
        """Run one operation, or several messages in one call, and check the invariants."""
        # What came late would be found by the operation after the next, or never.
        self.server.settle()
        everything, was_well = [*planned, *of_content], self.server.is_well
        self.was_right = was_well and all(each.is_right for each in everything)
        self.server.plan(self.operation, planned, of_content)
        outcome: T | SmtpError
        timeout = TIMEOUT if all(each.is_answer for each in everything) else SHORT
        begin = time.monotonic()
        try:
            outcome = call(timeout)
        except SmtpError as error:
            outcome = error
        assert time.monotonic() - begin < timeout * operations + SLACK
        closed = self.made is None or not self.made.is_open
        if isinstance(outcome, SmtpError):
            self._check_error(outcome, closed)
        assert closed or was_well, "what the server said too much was not found"
        self.operation += 1
        return outcome

    def _check_error(self, error: SmtpError, closed: bool) -> None:
        assert not self.was_right or isinstance(error, UnsupportedExtensionError), error
        if isinstance(error, ResponseError):
            if error.response.code != 421:
                self._check_reply(error.response, error.phase.upper())
            else:
                assert closed
        elif not isinstance(error, RECOVERABLE_ERRORS):
            assert closed

    def _check_reply(self, reply: SmtpResponse, verb: str, argument: str | None = None) -> None:
        """Whether a reply is this operation's and, if the server keeps count, this command's."""
        match = _TAG.fullmatch(reply.lines[0])
        if not self.server.is_well:
            assert match is None or match[1] in (str(self.operation), str(self.operation - 1), "-1")
            return
        assert match is not None
        assert match[2] == verb or (verb == "EHLO" and match[2] in ("LHLO", "HELO"))
        assert argument is None or match[3] == argument

    def _check_rejected(self, rejected: Iterable[RejectedRecipient]) -> None:
        for each in rejected:
            self._check_reply(each.response, "RCPT", str(each.recipient))


# Its time depends on the sessions that are drawn: seconds on an idle machine, but most wait for
# deadlines.
@pytest.mark.timeout(180)
def test_a_session_with_an_arbitrary_server(count: Count) -> None:
    """Whatever the server does, the promises of this file's head hold."""
    sessions = operations = 0

    class Counted(SessionMachine):
        def teardown(self) -> None:
            nonlocal sessions, operations
            sessions, operations = sessions + 1, operations + self.operation
            super().teardown()

    run_state_machine_as_test(
        Counted, settings=settings(max_examples=60, stateful_step_count=15, deadline=None)
    )
    count("sessions with an arbitrary server", sessions)
    count("operations in them", operations)
