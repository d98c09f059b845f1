"""Conversations of one command: NOOP, RSET, QUIT (RFC 5321 4.1.1)."""

from __future__ import annotations

from smtpconn.commands import command
from smtpconn.dialogue.batch import Batch, Conversation, single
from smtpconn.dialogue.session import Session
from smtpconn.errors import Phase, refusal


def noop() -> Conversation[None]:
    """Ask for a sign of life.

    Raises:
        TransientError, PermanentError, ProtocolError: the answer is not 250.
    """
    reply = yield from single(command(Phase.NOOP, "NOOP"))
    if reply.code != 250:
        raise refusal(reply, Phase.NOOP)


def reset(session: Session) -> Conversation[None]:
    """Abort whatever transaction the server believes is under way.

    Raises:
        TransientError, PermanentError, ProtocolError: the answer is not 250.
    """
    reply = yield from single(command(Phase.RSET, "RSET"))
    if reply.code != 250:
        raise refusal(reply, Phase.RSET)
    session.needs_reset = False


def quit_(session: Session, *, wait: bool = True) -> Conversation[None]:
    """Take leave; whatever the server answers, and whether we wait for it, it is over."""
    session.must_close = True
    yield Batch((command(Phase.QUIT, "QUIT", replies=1 if wait else 0),))
