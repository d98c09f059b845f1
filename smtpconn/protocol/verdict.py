"""What a server's replies to an envelope come to, and what is true of a message without them.

Rule: one refusal is reported, the one that explains the others. A reply out of sync comes first,
because after it nothing can be believed; then a farewell; then refusals in the order of their
causes.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpconn.model.addresses import ForwardPath
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    ProtocolError,
    SmtpError,
)
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, TransientError, refusal
from smtpconn.model.results import LmtpSendResult, RejectedRecipient
from smtpconn.protocol.command import Command
from smtpconn.protocol.exchange import CommandGroup
from smtpconn.protocol.mail_request import MailRequest, MessageRequest, Outcome
from smtpconn.protocol.quirks import means_too_many_recipients
from smtpconn.protocol.reply_matcher import SHUTTING_DOWN


def sort_recipients(
    recipients: Sequence[ForwardPath], envelope: list[Command], replies: Sequence[SmtpResponse]
) -> tuple[tuple[ForwardPath, ...], tuple[RejectedRecipient, ...]]:
    rcpt_replies = [r for c, r in zip(envelope, replies, strict=False) if c.phase is Phase.RCPT]
    accepted: list[ForwardPath] = []
    rejected: list[RejectedRecipient] = []
    for path, reply in zip(recipients, rcpt_replies, strict=False):
        if reply.is_success:
            accepted.append(path)
        else:
            is_too_many = bool(accepted) and means_too_many_recipients(reply)
            rejected.append(RejectedRecipient(path, reply, is_too_many))
    return tuple(accepted), tuple(rejected)


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


def not_sent(error: BaseException) -> SmtpError:
    """The outcome of a message that came when the connection was lost already."""
    lost = ConnectionClosedError(
        f"the connection was lost before this message was sent: {error}", phase=Phase.MAIL
    )
    lost.__cause__ = error
    return lost


def broken_off(cause: BaseException, *, has_left: bool) -> SmtpError:
    """The outcome of a message that lacks its final reply because other code raised something.

    Args:
        cause: what was raised; it is no error of the connection.
        has_left: whether the message may have left to its last octet.
    """
    where = "before its final reply came" if has_left else "before it was sent"
    error = ConnectionClosedError(
        f"sending this message was broken off {where}, by {type(cause).__name__}: {cause}",
        phase=Phase.CONTENT if has_left else Phase.MAIL,
        may_have_been_delivered=has_left,
    )
    error.__cause__ = cause
    return error


def is_told(error: Exception, group: CommandGroup) -> bool:
    """Whether the driver has told this error of a group, and not other code that ran in between.

    It is one of the connection, or what the message's own file or iterable raised.
    """
    if group.has_failed_to_read(error):
        return not is_of_signal_handler(error)
    return isinstance(error, SmtpError) and is_own(error)


def outcome_so_far(
    request: MailRequest | MessageRequest | SmtpError | None, cause: BaseException
) -> Outcome:
    """What is true of a message whose sending other code has broken off anywhere.

    Args:
        request: the message's; the error if it was none; None if it had not become one yet.
        cause: what was raised.
    """
    if isinstance(request, SmtpError):
        return request
    if request is None or request.attempt is None:
        return broken_off(cause, has_left=False)
    return request.attempt.outcome(cause)
