"""What a server's replies to an envelope come to: who was accepted, and why nothing may follow.

Rule: one refusal is reported, the one that explains the others. A reply out of sync comes first,
because after it nothing can be believed; then a farewell; then refusals in the order of their
causes.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpconn.model.addresses import ForwardPath
from smtpconn.model.errors import Phase, ProtocolError, SmtpError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, TransientError, refusal
from smtpconn.model.results import LmtpSendResult, RejectedRecipient
from smtpconn.protocol.command import Command
from smtpconn.protocol.reply_matcher import SHUTTING_DOWN


def sort_recipients(
    recipients: Sequence[ForwardPath], envelope: list[Command], replies: Sequence[SmtpResponse]
) -> tuple[tuple[ForwardPath, ...], tuple[RejectedRecipient, ...]]:
    rcpt_replies = [r for c, r in zip(envelope, replies, strict=False) if c.phase is Phase.RCPT]
    answered = list(zip(recipients, rcpt_replies, strict=False))
    accepted = tuple(path for path, reply in answered if reply.is_success)
    rejected = tuple(RejectedRecipient(p, reply) for p, reply in answered if not reply.is_success)
    return accepted, rejected


def why_refused(
    envelope: list[Command],
    replies: Sequence[SmtpResponse],
    accepted: tuple[ForwardPath, ...],
    rejected: tuple[RejectedRecipient, ...],
) -> SmtpError | None:
    """Why no content may follow; None when it may."""
    errors = [
        refusal(reply, each.phase)
        for each, reply in zip(envelope, replies, strict=False)
        if not _is_wanted(each, reply)
    ]
    # A reply out of sync goes before every refusal, because nothing else can be believed then;
    # and so does 421, which refuses not this recipient but everything (RFC 5321 3.8).
    for error in errors:
        if isinstance(error, ProtocolError) or _is_farewell(error):
            return error
    # Refusals in the order of their causes: what follows a refused MAIL was refused because of it.
    for phase in (Phase.RSET, Phase.MAIL):
        for error in errors:
            if error.phase is phase:
                return error
    if not accepted:
        return AllRecipientsFailedError(rejected)
    return next((error for error in errors if error.phase is Phase.DATA), None)


def _is_farewell(error: SmtpError) -> bool:
    return isinstance(error, TransientError) and error.response.code == SHUTTING_DOWN


def farewell_in(outcome: object) -> SmtpError | None:
    """The 421 that a message's outcome holds: its error, or one of a delivery's answers."""
    if isinstance(outcome, LmtpSendResult):
        replies = [result.response for result in outcome.results if result.response is not None]
        said = [reply for reply in replies if reply.code == SHUTTING_DOWN]
        return refusal(said[0], Phase.CONTENT) if said else None
    return outcome if isinstance(outcome, SmtpError) and _is_farewell(outcome) else None


def _is_wanted(each: Command, reply: SmtpResponse) -> bool:
    return reply.code == 354 if each.phase is Phase.DATA else 200 <= reply.code < 300
