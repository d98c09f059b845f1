"""Exchanges that return every reply, against their scripts."""

from __future__ import annotations

import functools

import pytest

from smtpconn import ProtocolError, SmtpResponse
from smtpconn.model.content import Content
from smtpconn.model.errors import Phase
from smtpconn.protocol import raw_command
from smtpconn.protocol.command import command
from smtpconn.protocol.exchange import Exchange
from smtpconn.protocol.session import SessionState
from tests.support.exchanges import session
from tests.support.script import TLS, Script, fails, run_script


def fact(made: SessionState, name: str) -> bool:
    """Whether something is noted of a session."""
    return bool(getattr(made, name))


@pytest.mark.parametrize("line", ["220 mx ready", "250 hm", "354 go on", "554 no"])
def test_any_greeting(line: str) -> None:
    """Whatever it is, it is returned."""
    reply = run_script(lambda: raw_command.read_greeting(SessionState()), [("", f"{line}\n")])
    assert str(reply) == line


def test_what_a_server_offers_is_noted() -> None:
    """By EHLO; HELO offers nothing, and a refusal changes nothing."""
    made = session("SIZE 10", needs_reset=True)
    ehlo, helo = command(Phase.EHLO, "ehlo me.example"), command(Phase.EHLO, "helo me.example")
    refused: Script = [("ehlo me.example\n", "550 no\n")]
    assert run_script(lambda: raw_command.send_hello(made, ehlo, "me.example"), refused).code == 550
    assert made.capabilities.supports("SIZE")
    assert fact(made, "needs_reset")
    script: Script = [("ehlo me.example\n", "250-mx\n250 DSN\n")]
    run_script(lambda: raw_command.send_hello(made, ehlo, "me.example"), script)
    assert made.capabilities.supports_dsn
    assert not fact(made, "needs_reset")
    assert made.ehlo_domain == "me.example"
    script = [("helo me.example\n", "250 mx\n")]
    run_script(lambda: raw_command.send_hello(made, helo, "me.example"), script)
    assert not made.capabilities.extensions


def test_starttls_forgets_what_was_said_in_clear() -> None:
    """Only a 220 begins TLS."""
    made = session("STARTTLS", is_private=False)
    refused: Script = [("STARTTLS\n", "454 later\n")]
    assert run_script(lambda: raw_command.start_tls(made), refused).code == 454
    assert not fact(made, "is_private")

    def upgrade() -> Exchange[tuple[int, int]]:
        reply = yield from raw_command.start_tls(made)
        after = yield from raw_command.send_command(made, command(Phase.NOOP, "noop"))
        return reply.code, after.code

    script: Script = [("STARTTLS\n", "220 go\n"), (TLS, ""), ("noop\n", "250 ok\n")]
    assert run_script(upgrade, script) == (220, 250)
    assert fact(made, "is_private")
    assert not made.capabilities.extensions


@pytest.mark.parametrize("code", [250, 354, 450, 550])
def test_any_command_has_any_reply(code: int) -> None:
    """And what has to be known of it is noted."""
    for text, phase in (("mail from:<>", Phase.MAIL), ("noop", Phase.NOOP), ("rset", Phase.RSET)):
        made = session()
        said = command(phase, text)
        script: Script = [(f"{text}\n", f"{code} hm\n")]
        assert (
            run_script(functools.partial(raw_command.send_command, made, said), script).code == code
        )
        assert made.needs_reset == (phase is Phase.MAIL)


def test_rset_ends_a_transaction() -> None:
    """If the server says so."""
    made = session(needs_reset=True)
    reset = command(Phase.RSET, "rset")
    run_script(lambda: raw_command.send_command(made, reset), [("rset\n", "502 what?\n")])
    assert fact(made, "needs_reset")
    run_script(lambda: raw_command.send_command(made, reset), [("rset\n", "250 ok\n")])
    assert not fact(made, "needs_reset")


def test_data() -> None:
    """The content follows a 354 and nothing else; in LMTP each recipient has a reply."""
    made = session(needs_reset=True)

    def send(replies: int) -> Exchange[tuple[SmtpResponse, ...]]:
        return raw_command.send_data(made, Content(b".x\n"), replies)

    refused = run_script(lambda: send(1), [("DATA\n", "503 no\n")])
    assert [reply.code for reply in refused] == [503]
    assert fact(made, "needs_reset")
    script: Script = [("DATA\n", "354 go\n"), ("..x\n.\n", "250 ok\n")]
    sent = run_script(lambda: send(1), script)
    assert [reply.code for reply in sent] == [354, 250]
    assert not fact(made, "needs_reset")
    lmtp: Script = [("DATA\n", "354 go\n"), ("..x\n.\n", "250 ok\n452 full\n")]
    sent = run_script(lambda: send(2), lmtp)
    assert [reply.code for reply in sent] == [354, 250, 452]


def answer(challenge: bytes) -> bytes:
    """A function of a caller's."""
    return b"answer to " + challenge


def test_a_login_with_answers_of_the_callers() -> None:
    """With an initial response, an empty one, none, and one that is too long for the line."""
    cases: list[tuple[bytes | None, Script]] = [
        (b"me", [("AUTH X bWU=\n", "235 ok\n")]),
        (b"", [("AUTH X =\n", "235 ok\n")]),
        (None, [("AUTH X\n", "334 aGk=\n"), ("YW5zd2VyIHRvIGhp\n", "235 ok\n")]),
        (b"x" * 600, [("AUTH X\n", "334 \n"), (f"{'eHh4' * 200}\n", "235 ok\n")]),
    ]
    for first, script in cases:
        made = session()
        log_in = functools.partial(raw_command.authenticate_with, made, "X", first, answer, 5)
        assert run_script(log_in, script).code == 235
        assert made.is_authenticated


def test_a_login_without_an_end() -> None:
    """Challenges are answered so often and no more."""
    script: Script = [("AUTH X\n", "334 aGk=\n"), *[("YW5zd2VyIHRvIGhp\n", "334 aGk=\n")] * 3]
    made = session()
    reply = run_script(
        lambda: raw_command.authenticate_with(made, "X", None, answer, 3),
        script,
    )
    assert reply.code == 334
    assert not made.is_authenticated


def test_a_challenge_that_is_none() -> None:
    """Not base64."""
    error = fails(
        lambda: raw_command.authenticate_with(session(), "X", None, answer, 3),
        [("AUTH X\n", "334 ???\n")],
    )
    assert isinstance(error, ProtocolError)
