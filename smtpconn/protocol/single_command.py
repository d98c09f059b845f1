"""Exchanges of one command: NOOP, RSET, VRFY, EXPN, HELP, QUIT (RFC 5321 4.1.1).

Replies are classified by their first digit (RFC 5321 4.2): any 2xx is success.
"""

from __future__ import annotations

import re

from smtpconn.model.addresses import Domain
from smtpconn.model.errors import Phase
from smtpconn.model.replies import SHUTTING_DOWN, SmtpResponse
from smtpconn.model.response_errors import refusal
from smtpconn.protocol.command import ascii_command, command
from smtpconn.protocol.exchange import CommandGroup, Exchange, single
from smtpconn.protocol.quirks import UNKNOWN_PARAMETER_CODES
from smtpconn.protocol.session import SessionState

# atext of RFC 5322 3.2.3, and what is not ASCII (RFC 6531 3.3). Compiled at its first use, because
# compiling all of Unicode takes longer than loading the rest of this module.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"


def noop(session: SessionState) -> Exchange[None]:
    """Send NOOP, to check that the server still replies.

    Raises:
        TransientError, PermanentError, ProtocolError: the reply is not 2xx.
    """
    session.nonmail_commands += 1
    reply = yield from single(command(Phase.NOOP, "NOOP"))
    if not reply.is_success:
        raise refusal(reply, Phase.NOOP)


def reset(session: SessionState) -> Exchange[None]:
    """Send RSET, which aborts the open transaction, if any.

    Raises:
        TransientError, PermanentError, ProtocolError: the reply is not 2xx.
    """
    session.note_reset()
    reply = yield from single(command(Phase.RSET, "RSET"))
    if not reply.is_success:
        session.quirks.avoid_rset = reply.code != SHUTTING_DOWN and not reply.is_intermediate
        raise refusal(reply, Phase.RSET)
    session.needs_reset = False


def ask(session: SessionState, phase: Phase, argument: str) -> Exchange[SmtpResponse]:
    """Send VRFY, EXPN or HELP and return the reply: a refusal is an answer as well (RFC 5321 3.5).

    VRFY and EXPN have the parameter SMTPUTF8 wherever that is offered, because without it the
    reply may name only ASCII mailboxes (RFC 6531 3.7.4.2). If the server does not know the
    parameter there, they are sent again without it (`quirks.VRFY_WITHOUT_SMTPUTF8`). Where it is
    not offered, a domain that is not ASCII is sent in A-labels.

    Raises:
        TransientError: 421, the server closes the connection.
        SmtpUtf8RequiredError: the argument is not ASCII and the server does not offer SMTPUTF8.
        ValidationError: the argument may not be sent.
        ProtocolError: a 3xx, which asks for something that VRFY, EXPN and HELP do not have.
    """
    session.nonmail_commands += 1
    text = _as_string(argument) if phase is Phase.HELP else argument
    if not session.capabilities.supports_smtputf8:
        line = ascii_command(phase, f"{phase.upper()} {_with_ascii_domain(text)}".rstrip())
        reply = yield from single(line)
    elif phase is Phase.HELP:
        # HELP has no parameters (RFC 6531 3.7.4.2 names VRFY and EXPN).
        reply = yield from single(command(phase, f"HELP {text}".rstrip()))
    else:
        line = command(phase, f"{phase.upper()} {text}".rstrip())
        reply = yield from single(command(phase, f"{line.log} SMTPUTF8"))
        if text.isascii() and reply.code in UNKNOWN_PARAMETER_CODES:
            session.nonmail_commands += 1
            reply = yield from single(line)
    if reply.code == SHUTTING_DOWN or reply.is_intermediate:
        raise refusal(reply, phase)
    return reply


def _as_string(topic: str) -> str:
    """A topic as a String of RFC 5321 4.1.2: an atom as it is, all else quoted."""
    if not topic or re.fullmatch(_ATOM, topic):
        return topic
    return '"' + topic.replace("\\", r"\\").replace('"', r"\"") + '"'


def _with_ascii_domain(argument: str) -> str:
    """An argument with the domain at its end in A-labels, if nothing else needs SMTPUTF8."""
    local, at, domain = argument.rpartition("@")
    if not at or not local.isascii() or domain.isascii():
        return argument
    end = ">" * domain.endswith(">")
    return f"{local}@{Domain(domain.removesuffix('>')).to_ascii()}{end}"


def quit_(session: SessionState, *, wait: bool = True) -> Exchange[None]:
    """Send QUIT; the session is over then, even if the reply is a refusal or is not awaited."""
    session.must_close = "QUIT was sent"
    yield CommandGroup((command(Phase.QUIT, "QUIT", 1 if wait else 0),))
