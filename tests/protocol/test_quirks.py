"""Known peculiarities of servers: each entry is complete, and the functions return its values."""

from __future__ import annotations

import dataclasses

import pytest

from smtpconn import Phase
from smtpconn.model.replies import response
from smtpconn.protocol import quirks
from smtpconn.protocol.quirks import PIPELINING_OFF, QUIRKS, SESSION_LIMIT_HOLD, Quirk, ServerQuirks


def test_every_entry_is_listed() -> None:
    """An entry that is not in the list would not be found."""
    entries = {name for name, value in vars(quirks).items() if isinstance(value, Quirk)}
    assert len(entries) == len(QUIRKS)
    assert {id(quirk) for quirk in QUIRKS} == {id(getattr(quirks, name)) for name in entries}


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: quirk.server)
def test_an_entry_says_everything(quirk: Quirk) -> None:
    """Who, what, how recognised, what we do, and the evidence."""
    assert all(dataclasses.astuple(quirk))


@pytest.mark.parametrize(
    ("line", "is_exim"),
    [
        ("mx.example.com Hello client.example [192.0.2.1]", True),
        ("mx.example.com Hello client.example [2001:db8::1]", True),
        ("mx.example.com Hello client.example", False),
        ("mx.example.com at your service, [192.0.2.1]", False),
    ],
)
def test_exim_is_known_by_its_words(line: str, is_exim: bool) -> None:
    """Those of its reply to EHLO."""
    assert quirks.is_exim(response(250, (line, "SIZE 10"))) is is_exim


AT_LIMIT = [
    "421 bye",
    "421 4.7.0 bye",
    "450 4.3.2 x",
    "451 4.7.0 x",
    "452 4.4.5 too many messages",
    "452 4.3.1 x",
    "503 5.5.1 x",
    "503 no",
    "530 5.7.0 login first",
    "554 5.5.0 x",
    "554 no more",
]
OTHER_REFUSALS = [
    "501 5.5.4 x",
    "550 5.7.0 x",
    "552 too big",
    "553 5.1.8 x",
    "450 4.1.8 x",
    "451 4.7.1 greylisted",
    "554 5.7.1 no",
    "554 5.1.0 no",
    "454 4.7.0 x",
    "554 4.7.1 no",
    "451 4.5.3 x",
    "452 4.2.2 x",
]


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.DATA])
@pytest.mark.parametrize("said", AT_LIMIT)
def test_what_may_be_about_the_connection(said: str, phase: Phase) -> None:
    """Refusals of MAIL and DATA that name nothing of the message."""
    assert quirks.may_be_session_limit(phase, response(int(said[:3]), (said[4:],)))


@pytest.mark.parametrize("said", OTHER_REFUSALS)
def test_what_is_about_the_message(said: str) -> None:
    """A bad sender or a policy must not cause a login for each try."""
    assert not quirks.may_be_session_limit(Phase.MAIL, response(int(said[:3]), (said[4:],)))


@pytest.mark.parametrize("phase", [Phase.RCPT, Phase.CONTENT, Phase.AUTH, Phase.EHLO])
def test_other_phases_are_never_at_the_session_limit(phase: Phase) -> None:
    """450 to RCPT is greylisting, and behind the content the message may be stored."""
    assert not quirks.may_be_session_limit(phase, response(450, ("x",)))


def test_what_a_new_connection_is_told_as_well_is_held_back() -> None:
    """For a minute, and only that code at that command."""
    server_quirks, reply = ServerQuirks(), response(452, ("4.4.5 x",))
    assert server_quirks.is_worth_reconnecting(Phase.MAIL, reply, 100.0)
    server_quirks.note_refused_again(Phase.MAIL, reply, 100.0)
    assert not server_quirks.is_worth_reconnecting(
        Phase.MAIL, reply, 100.0 + SESSION_LIMIT_HOLD - 1
    )
    assert server_quirks.is_worth_reconnecting(Phase.DATA, reply, 101.0)
    assert server_quirks.is_worth_reconnecting(Phase.MAIL, response(451, ("4.4.5 x",)), 101.0)
    assert server_quirks.is_worth_reconnecting(Phase.MAIL, reply, 100.0 + SESSION_LIMIT_HOLD)


def test_pipelining_is_off_after_two_partial_groups_and_an_answer() -> None:
    """For an hour, if a command that is sent alone is answered."""
    server_quirks = ServerQuirks(partial_groups=1)
    assert not server_quirks.is_pipelining_broken(5.0)
    assert not server_quirks.note_single_reply(5.0)
    server_quirks.partial_groups += 1
    assert server_quirks.is_pipelining_broken(6.0)
    assert server_quirks.note_single_reply(10.0)
    assert server_quirks.partial_groups == 0
    assert server_quirks.is_pipelining_broken(10.0 + PIPELINING_OFF - 1)
    assert not server_quirks.is_pipelining_broken(10.0 + PIPELINING_OFF)
    assert not server_quirks.note_single_reply(20.0)


@pytest.mark.parametrize("server_quirks", [ServerQuirks(partial_groups=2), ServerQuirks()])
def test_pipelining_is_on_where_a_command_alone_is_not_answered(
    server_quirks: ServerQuirks,
) -> None:
    """Then it is the server that is slow, also if it was thought otherwise before."""
    server_quirks.pipelining_off_until = 100.0
    server_quirks.note_single_timeout()
    assert not server_quirks.is_pipelining_broken(50.0)


@pytest.mark.parametrize(
    ("code", "text", "is_meant"),
    [
        (552, "too many recipients", True),
        (552, "5.5.3 too many recipients", True),
        (552, "4.5.3 too many recipients", True),
        (552, "5.2.2 mailbox full", False),
        (552, "5.3.4 too big", False),
        (550, "5.5.3 no", False),
        (452, "4.5.3 too many", False),
    ],
)
def test_552_may_mean_too_many_recipients(code: int, text: str, is_meant: bool) -> None:
    """RFC 5321 4.5.3.1.10."""
    assert quirks.means_too_many_recipients(response(code, (text,))) is is_meant
