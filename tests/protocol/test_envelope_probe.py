"""A transaction without a message: the same envelope, and nothing is ever delivered."""

from __future__ import annotations

import pytest

from smtpconn import (
    ConnectionClosedError,
    Phase,
    Pipelining,
    ProtocolError,
    SmtpConnection,
    SmtpError,
    SmtpResponse,
    TlsMode,
    TransientError,
    ValidationError,
)
from smtpconn.protocol.envelope_probe import envelope_probe
from smtpconn.protocol.exchange import Exchange
from smtpconn.protocol.quirks import MAX_NONMAIL
from smtpconn.protocol.session import SessionState
from smtpconn.testing import SmtpServer
from tests.support.error_classes import kind_of
from tests.support.exchanges import request, session
from tests.support.script import Script, fails, run_script

MAIL = "MAIL FROM:<a@b.example> SIZE=4\n"
TWO = "RCPT TO:<c@d.example>\nRCPT TO:<e@d.example>\n"


def probe(made: SessionState) -> Exchange[tuple[SmtpResponse, ...]]:
    """Probe the envelope of two recipients in a session as it is when first asked for."""
    return envelope_probe(made, request("c@d.example", "e@d.example"))


def test_each_recipient_has_its_reply_and_reset_ends_it() -> None:
    """The envelope leaves in one group, and a refused recipient is an answer, not an error."""
    script: Script = [(MAIL + TWO, "250 ok\n250 ok\n550 no\n"), ("RSET\n", "250 ok\n")]
    replies = run_script(lambda: probe(session()), script)
    assert [reply.code for reply in replies] == [250, 550]


def test_without_pipelining_one_after_the_other() -> None:
    """Each command waits for its reply."""
    first, second = TWO.splitlines(keepends=True)
    script: Script = [
        (MAIL, "250 ok\n"),
        (first, "450 no\n"),
        (second, "250 ok\n"),
        ("RSET\n", "250 ok\n"),
    ]
    replies = run_script(lambda: probe(session(pipelining=Pipelining.OFF)), script)
    assert [reply.code for reply in replies] == [450, 250]


def test_behind_a_failure_it_begins_with_reset() -> None:
    """What is left over of another transaction is taken away first."""
    script: Script = [
        ("RSET\n" + MAIL + TWO, "250 ok\n250 ok\n250 ok\n250 ok\n"),
        ("RSET\n", "250 ok\n"),
    ]
    replies = run_script(lambda: probe(session(needs_reset=True)), script)
    assert [reply.code for reply in replies] == [250, 250]


@pytest.mark.parametrize(
    ("answers", "kind", "phase"),
    [
        ("450 no\n503 no\n503 no\n", TransientError, Phase.MAIL),
        ("250 ok\n354 what\n250 ok\n", ProtocolError, Phase.RCPT),
    ],
)
def test_a_refused_sender_and_nonsense_are_errors(
    answers: str, kind: type[SmtpError], phase: Phase
) -> None:
    """A refusal of MAIL says nothing of recipients; a 354 to RCPT is out of sync."""
    error = fails(lambda: probe(session()), [(MAIL + TWO, answers)])
    assert kind_of(error) is kind
    assert isinstance(error, SmtpError)
    assert error.phase is phase
    assert not error.may_have_been_delivered


def test_its_resets_are_counted_where_the_server_counts_them() -> None:
    """A RSET at which the server would close is not sent; the one after the envelope counts."""
    made = session(
        limits_nonmail=True, nonmail_commands=MAX_NONMAIL, has_reset=True, needs_reset=True
    )
    with pytest.raises(ConnectionClosedError):
        next(probe(made))
    script: Script = [("RSET\n" + MAIL + TWO, "250 ok\n" * 4), ("RSET\n", "250 ok\n")]
    used: list[SessionState] = []

    def again() -> Exchange[tuple[SmtpResponse, ...]]:
        used.append(session(limits_nonmail=True, needs_reset=True))
        return probe(used[-1])

    run_script(again, script)
    assert {made.nonmail_commands for made in used} == {1}


def test_over_a_connection() -> None:
    """The server has no message afterwards, and takes one."""
    with (
        SmtpServer(recipient_known=lambda path: path != "no@b.example") as server,
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 5) as connection,
    ):
        replies = connection.try_envelope("me@b.example", ["you@b.example", "no@b.example"])
        assert [reply.code for reply in replies] == [250, 550]
        assert connection.try_envelope("", []) == ()
        with pytest.raises(ValidationError):
            connection.try_envelope("me@b.example", ["no address"])
        assert server.messages == []
        connection.send("me@b.example", "you@b.example", b"Subject: one\r\n\r\n")
        assert len(server.messages) == 1
