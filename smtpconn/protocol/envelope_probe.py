"""A mail transaction without a message: would the server accept this sender, these recipients?

Exim calls this a callout. The envelope is the one that a message would have (same commands, same
checks, same order), and RSET ends it, so nothing is delivered. If the server refuses RSET, closing
the connection ends it.
"""

from __future__ import annotations

from smtpconn.model.errors import Phase
from smtpconn.model.replies import SHUTTING_DOWN, SmtpResponse
from smtpconn.model.response_errors import ResponseError, explain, refusal
from smtpconn.protocol.exchange import Exchange
from smtpconn.protocol.mail_request import MailRequest, envelope_commands
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.single_command import reset
from smtpconn.protocol.transaction import RSET, Transaction


def envelope_probe(
    session: SessionState, request: MailRequest
) -> Exchange[tuple[SmtpResponse, ...]]:
    """Send MAIL and each RCPT, then RSET; return the replies to the RCPTs in the order given.

    Raises:
        TransientError, PermanentError: the sender was refused.
        UnsupportedExtensionError, SmtpUtf8RequiredError, ValidationError: the server does not
            offer what the envelope needs; nothing was sent.
        ProtocolError: a reply that makes no sense.
        ConnectionClosedError: the server does not accept another RSET.
    """
    commands = envelope_commands(session, request, chunking=False)
    probe = Transaction(session, request, request.recipients, commands, chunking=False)
    if probe.commands[0] is RSET:
        session.note_reset()
    replies = yield from probe.send_envelope(begins_message=False)
    answered = list(zip(probe.commands, replies, strict=False))
    for command, reply in answered:
        is_recipient = command.phase is Phase.RCPT
        if not reply.is_success and (not is_recipient or reply.is_intermediate):
            error = refusal(reply, command.phase)
            explain(error, ehlo_domain=session.ehlo_domain, sender=str(request.sender))
            raise error
    yield from _end(session)
    return tuple(reply for command, reply in answered if command.phase is Phase.RCPT)


def _end(session: SessionState) -> Exchange[None]:
    """End the transaction; the replies to the RCPTs remain valid if the server refuses RSET."""
    if session.quirks.avoid_rset:
        session.must_close = "the server refuses RSET, which ends the transaction"
        return
    try:
        yield from reset(session)
    except ResponseError as error:
        if error.response.code == SHUTTING_DOWN:
            raise
        session.note_reset_refused(error.response)
