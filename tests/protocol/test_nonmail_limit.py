"""A server that counts RSETs and hangs up after some, as Exim does: many messages, many refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from smtpconn import ConnectionClosedError, Phase, Pipelining, SmtpError
from smtpconn.protocol import single_command
from smtpconn.protocol.handshake import hello
from smtpconn.protocol.quirks import AVOID_RSET_FROM, MAX_NONMAIL
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import transaction
from tests.support.exchanges import session
from tests.support.pipelined import (
    FIRST,
    GO,
    TAKEN,
    content,
    envelope,
    kinds,
    letter,
    many,
    reset,
    whole,
)
from tests.support.script import Script, Wire, fails, run_many, run_script, run_script_many
from tests.support.strict_server import Plan, StrictServer

pytestmark = pytest.mark.usefixtures("burst")

NONE = (("c", 550),)


@dataclass
class CountingServer(StrictServer):
    """It hangs up at the eleventh RSET, not counting the first behind each message.

    Attributes:
        nonmail_commands: those that were counted.
        has_hung_up: whether it has.
    """

    nonmail_commands: int = 0
    has_hung_up: bool = False
    _has_reset: bool = False

    def _obey(self, line: str) -> None:
        if line == "RSET":
            self.nonmail_commands += self._has_reset
            self._has_reset = True
        self.has_hung_up = self.has_hung_up or self.nonmail_commands > MAX_NONMAIL
        if not self.has_hung_up:
            super()._obey(line)

    def _take(self, content: bytes) -> None:
        self._has_reset = False
        super()._take(content)


@pytest.mark.parametrize("pipelining", Pipelining)
@pytest.mark.parametrize("period", [1, 2, 3, 7])
def test_many_refused_among_many(pipelining: Pipelining, period: int) -> None:
    """As long as something is taken in between, all go their way over one connection."""
    plans = [
        Plan(n, mail=550 if n % 4 == 1 else 250, recipients=NONE if n % 4 else (("c", 250),))
        if period > 1 and not n % period
        else Plan(n)
        for n in range(1, 201)
    ]
    server = CountingServer(plans)
    made = session("PIPELINING;CHUNKING;8BITMIME", pipelining=pipelining, limits_nonmail=True)
    run = run_many(made, [letter(plan.number) for plan in plans], Wire(server.answer))
    assert not server.has_hung_up
    assert run.driver.transport.is_open, run.driver.closed_because
    successes = [not isinstance(outcome, SmtpError) for outcome in run.outcomes]
    assert successes == [plan.is_taken for plan in plans]
    stored = [int(each.sender) for each in server.stored]
    assert stored == [plan.number for plan in plans if plan.is_taken]
    assert made.nonmail_commands == server.nonmail_commands


def test_the_content_leaves_alone_when_the_server_has_had_nearly_enough() -> None:
    """Then the next envelope needs no RSET, unless what was before it was refused."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1), "250 one\n"),
        (envelope(2), "250 s\n550 nobody\n503 no recipients\n"),
        (reset(3), GO),
        (content(3), "250 three\n"),
        (envelope(4), FIRST),
        (content(4), "250 four\n"),
    ]
    make = many(1, 2, 3, 4, limits_nonmail=True, nonmail_commands=AVOID_RSET_FROM)
    assert kinds(run_script_many(make, script)) == [
        "one",
        "AllRecipientsFailedError",
        "three",
        "four",
    ]


def test_whole_transactions_leave_one_by_one_then() -> None:
    """Under EAGER a turn each, and RSET only behind a refusal."""
    script: Script = [
        (whole(1, behind=False), TAKEN),
        (whole(2, behind=False), "250 s\n550 nobody\n503 no recipients\n"),
        (whole(3), "250 r\n" + TAKEN),
    ]
    facts = {
        "pipelining": Pipelining.EAGER,
        "limits_nonmail": True,
        "nonmail_commands": AVOID_RSET_FROM,
    }
    outcomes = run_script_many(many(1, 2, 3, **facts), script)  # type: ignore[arg-type]
    assert kinds(outcomes) == ["taken", "AllRecipientsFailedError", "taken"]


def test_other_servers_may_be_reset_as_often_as_need_be() -> None:
    """What was said before makes no difference there."""
    script: Script = [
        (envelope(1), FIRST),
        (content(1) + reset(2), "250 one\n" + GO),
        (content(2), "250 two\n"),
    ]
    assert kinds(run_script_many(many(1, 2, nonmail_commands=1000), script)) == ["one", "two"]


def exhausted() -> SessionState:
    """A session that needs a RSET, at which its server would close the connection."""
    return session(
        needs_reset=True, limits_nonmail=True, nonmail_commands=MAX_NONMAIL, has_reset=True
    )


def test_no_good_message_is_spent_on_a_server_that_would_hang_up() -> None:
    """It would be answered 554 though nothing is wrong with it; so nothing is said at all."""
    made = exhausted()
    error = fails(lambda: transaction(made, letter(1)), [])
    assert isinstance(error, ConnectionClosedError)
    assert error.phase is Phase.RSET
    assert not error.may_have_been_delivered
    assert made.must_close


@pytest.mark.parametrize("pipelining", Pipelining)
def test_nor_are_many(pipelining: Pipelining) -> None:
    """Each outcome says that the message was not sent, and the connection is closed."""
    made = exhausted()
    made.pipelining = pipelining
    run = run_many(made, [letter(1), letter(2)], Wire(lambda said: b""))
    assert kinds(run.outcomes) == ["ConnectionClosedError"] * 2
    assert not any(o.may_have_been_delivered for o in run.outcomes if isinstance(o, SmtpError))
    assert not run.driver.transport.is_open


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("mx.example.test Hello client.example [127.0.0.1]", True),
        ("mx.example.test Hello client.example [2001:db8::1]", True),
        ("mx.example.test", False),
        ("mx.example.test Hello [192.0.2.1], pleased to meet you", False),
        ("mx.example.test greets client.example", False),
    ],
)
def test_who_counts(line: str, counts: bool) -> None:
    """Exim is recognized by its reply to EHLO, which is not configurable."""
    made = SessionState(ehlo_domain="client.example")
    run_script(lambda: hello(made), [("EHLO client.example\n", f"250-{line}\n250 PIPELINING\n")])
    assert made.limits_nonmail == counts


def test_what_is_counted() -> None:
    """What is no part of a message; of RSETs all but the first behind one."""
    made = SessionState()
    run_script(lambda: single_command.reset(made), [("RSET\n", "250 ok\n")])
    times = made.nonmail_commands + 1
    assert times > 2, "each is played several times"
    run_script(lambda: single_command.noop(made), [("NOOP\n", "250 ok\n")])
    assert made.nonmail_commands == 2 * times - 1
    run_script(lambda: single_command.ask(made, Phase.VRFY, "x"), [("VRFY x\n", "252 perhaps\n")])
    assert made.nonmail_commands == 3 * times - 1
