"""A server that answers a content which is still on its way, at every place in it.

The content does not fit into the sockets' buffers, and the server stops reading when it has spoken:
only a client that reads while it writes hears of it.
"""

from __future__ import annotations

from concurrent.futures import Executor

import pytest

from smtpconn import (
    ConnectionClosedError,
    ParseError,
    PermanentError,
    Phase,
    Pipelining,
    ProtocolError,
    SmtpError,
    TlsMode,
    TransientError,
)
from tests.faults.conftest import Count
from tests.support.case_runner import run_all
from tests.support.cutting_server import Cut, How, Side
from tests.support.error_classes import kind_of
from tests.support.session_list import LARGE_SESSIONS
from tests.support.sessions import DeliveryStatus, SessionCase, play

REPLIES: list[tuple[bytes, type[SmtpError]]] = [
    (b"421 4.3.2 bye\r\n", TransientError),
    (b"452 4.3.1 full\r\n", TransientError),
    (b"552 5.3.4 too big\r\n", PermanentError),
    (b"250 2.0.0 Ok\r\n", ProtocolError),
    (b"354 go on\r\n", ProtocolError),
    (b"\x16\x03\x01\r\n", ParseError),
    (b"552-5.3.4 too big\r\n250 2.0.0 Ok\r\n", ParseError),
]


# Those in which the content is what is answered next: an eager one has sent its envelope with it.
SESSIONS = [
    case
    for case in LARGE_SESSIONS
    if case.tls_mode is TlsMode.NONE and case.pipelining is Pipelining.AUTO
]


@pytest.mark.parametrize("case", SESSIONS, ids=lambda v: v.name)
@pytest.mark.parametrize(("reply", "kind"), REPLIES, ids=[ascii(r[:9]) for r, _ in REPLIES])
def test_an_answer_before_the_end_of_the_content(
    case: SessionCase, reply: bytes, kind: type[SmtpError], servers: Executor, count: Count
) -> None:
    """A refusal is this message's answer, anything else an error; nothing was delivered.

    A server that acknowledges a message before its end may have stored a part: that is unknown.
    """
    stored = play(case, None, servers).witness.stored[0]
    begin, end = stored.content_end - len(stored.message.content), stored.content_end
    # As long as more is missing than all buffers hold.
    positions = range(begin, end - 32_000, 1999)
    is_acknowledged = reply.startswith(b"2")

    def problems(cut: Cut) -> list[str]:
        record = play(case, cut, servers)
        error = record.error
        found = {
            "class": kind_of(error) is not kind,
            "phase": error is not None and error.phase is not Phase.CONTENT,
            "statuses": set(record.statuses) - {DeliveryStatus.NOT_DELIVERED}
            != ({DeliveryStatus.UNKNOWN} if is_acknowledged else set()),
            "stored": bool(record.witness.stored),
            "those behind": {kind_of(e) for e in record.behind} - {ConnectionClosedError},
            "not closed": not record.is_closed,
        }
        return [what for what, wrong in found.items() if wrong]

    cuts = [Cut(How.REPLY, Side.COMMANDS, position, reply=reply) for position in positions]
    run_all(cuts, problems, concurrently=False)
    count("replies while writing", len(cuts))
