"""A 354 reply to DATA without an accepted recipient: no message is sent (RFC 2920 3.1)."""

from __future__ import annotations

import pytest

from smtpconn import (
    ConnectionClosedError,
    Phase,
    ProtocolError,
    SendResult,
    SmtpError,
    TransientError,
)
from smtpconn.protocol.exchange import Exchange
from smtpconn.protocol.quirks import ServerQuirks
from smtpconn.protocol.transaction import transaction
from tests.support.error_classes import kind_of
from tests.support.exchanges import request, session
from tests.support.script import fails

MAIL = "MAIL FROM:<a@b.example> SIZE=4\nRCPT TO:<c@d.example>\nRCPT TO:<e@d.example>\nDATA\n"


@pytest.mark.parametrize(
    ("needs_reset", "answers", "kind", "phase"),
    [
        (True, "450 not now\n250 ok\n250 ok\n250 ok\n354 go\n", ConnectionClosedError, Phase.RSET),
        (False, "450 not now\n250 ok\n250 ok\n354 go\n", TransientError, Phase.MAIL),
        (False, "250 ok\n354 what\n250 ok\n354 go\n", ProtocolError, Phase.RCPT),
    ],
)
def test_no_dot_if_a_recipient_would_get_an_empty_message(
    needs_reset: bool, answers: str, kind: type[SmtpError], phase: Phase
) -> None:
    """Where a recipient was accepted nothing is sent, and the connection has to be closed."""
    made = session(needs_reset=needs_reset)

    def again() -> Exchange[SendResult]:
        made.needs_reset = needs_reset
        made.quirks = ServerQuirks()
        return transaction(made, request("c@d.example", "e@d.example"))

    said = ("RSET\n" if needs_reset else "") + MAIL
    error = fails(again, [(said, answers)])
    assert kind_of(error) is kind
    assert isinstance(error, SmtpError)
    assert error.phase is phase
    assert not error.may_have_been_delivered
    assert made.must_close
