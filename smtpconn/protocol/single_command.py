"""Conversations of one command: NOOP, RSET, VRFY, EXPN, HELP, QUIT (RFC 5321 4.1.1)."""

from __future__ import annotations

from smtpconn.model.errors import Phase
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import refusal
from smtpconn.protocol.command import ascii_command, command
from smtpconn.protocol.exchange import CommandGroup, Exchange, single
from smtpconn.protocol.session import SessionState


def noop(session: SessionState) -> Exchange[None]:
    """Ask for a sign of life.

    Raises:
        TransientError, PermanentError, ProtocolError: the answer is not 250.
    """
    session.nonmail_commands += 1
    reply = yield from single(command(Phase.NOOP, "NOOP"))
    if reply.code != 250:
        raise refusal(reply, Phase.NOOP)


def reset(session: SessionState) -> Exchange[None]:
    """Abort whatever transaction the server believes is under way.

    Raises:
        TransientError, PermanentError, ProtocolError: the answer is not 250.
    """
    session.note_reset()
    reply = yield from single(command(Phase.RSET, "RSET"))
    if reply.code != 250:
        raise refusal(reply, Phase.RSET)
    session.needs_reset = False


def ask(session: SessionState, phase: Phase, argument: str) -> Exchange[SmtpResponse]:
    """Ask VRFY, EXPN or HELP and return the answer, whatever 2xx it is (RFC 5321 3.5).

    An argument that is not ASCII is sent with SMTPUTF8 where that is offered (RFC 6531 3.7.4.2).

    Raises:
        TransientError, PermanentError: the server does not say.
        SmtpUtf8RequiredError: the argument is not ASCII and the server does not offer SMTPUTF8.
        ValidationError: the argument may not be sent.
        ProtocolError: the answer makes no sense.
    """
    session.nonmail_commands += 1
    line = f"{phase.upper()} {argument}".rstrip()
    if session.capabilities.supports_smtputf8 and not argument.isascii():
        # HELP has no parameters (RFC 6531 3.7.4.2 names VRFY and EXPN).
        line += "" if phase is Phase.HELP else " SMTPUTF8"
        reply = yield from single(command(phase, line))
    else:
        reply = yield from single(ascii_command(phase, line))
    if not reply.is_success:
        raise refusal(reply, phase)
    return reply


def quit_(session: SessionState, *, wait: bool = True) -> Exchange[None]:
    """Take leave; whatever the server answers, and whether we wait for it, it is over."""
    session.must_close = "QUIT was sent"
    yield CommandGroup((command(Phase.QUIT, "QUIT", 1 if wait else 0),))
