"""The delivery status of each message of ``send``, and the report of them.

    delivered   the server accepted the message for every recipient
    partly      the server accepted it for some recipients, and refused others
    refused     the server refused it; no recipient got it
    failed      it did not reach the server; no recipient got it
    unknown     the connection was lost after the message and before the reply

For an unknown message the user has to decide: sending it again may deliver it twice, not sending it
may lose it. So it is never reported as anything else, and the unknown messages are the last lines
of the report, where they stay visible.
"""

from __future__ import annotations

import enum
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from smtpconn.cli.exit_codes import (
    CommandError,
    CommandResult,
    ExitCode,
    Json,
    error_json,
    exit_code_of,
    reply_json,
    text_of,
)
from smtpconn.cli.messages import OutgoingMessage
from smtpconn.cli.output import BAD, GOOD, WARNING, Output
from smtpconn.model.errors import Phase, SmtpError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError
from smtpconn.model.results import LmtpSendResult, SendOutcome

_MESSAGE_PHASES = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT})


class DeliveryStatus(enum.StrEnum):
    """The delivery status of a message; the members have the order of the report."""

    REFUSED = "refused"
    FAILED = "failed"
    PARTLY = "partly"
    DELIVERED = "delivered"
    UNKNOWN = "unknown"


_COUNTED = (
    DeliveryStatus.DELIVERED,
    DeliveryStatus.PARTLY,
    DeliveryStatus.FAILED,
    DeliveryStatus.REFUSED,
    DeliveryStatus.UNKNOWN,
)
_ALWAYS_COUNTED = (DeliveryStatus.DELIVERED, DeliveryStatus.REFUSED, DeliveryStatus.UNKNOWN)
_STYLES = {DeliveryStatus.UNKNOWN: BAD, DeliveryStatus.DELIVERED: GOOD}


@dataclass(frozen=True, slots=True)
class MessageResult:
    """A message and its delivery status.

    Attributes:
        name: the name of the message: its file, usually.
        status: what happened to it.
        sender, recipients: its envelope; "" and () if the message could not be read.
        reply: the server's final reply.
        refused: the recipients that did not get it, each with the reply; None without a reply.
        error: the error of sending it.
    """

    name: str
    status: DeliveryStatus
    sender: str = ""
    recipients: tuple[str, ...] = ()
    reply: SmtpResponse | None = None
    refused: tuple[tuple[str, SmtpResponse | None], ...] = ()
    error: BaseException | None = field(default=None, compare=False)

    @property
    def accepted(self) -> int:
        """The number of recipients for which the server accepted the message."""
        if self.error is not None or self.status in (DeliveryStatus.REFUSED, DeliveryStatus.FAILED):
            return 0
        return len(self.recipients) - len(self.refused)

    def __str__(self) -> str:
        if self.error is not None:
            text = text_of(self.error)
            return text if text.startswith(f"{self.name}: ") else f"{self.name}: {text}"
        reply = "" if self.reply is None else f": {self.reply}"
        text = f"{self.name}: to {self.accepted} of {len(self.recipients)} recipients{reply}"
        for recipient, refusal in self.refused:
            text += f"; not to {recipient}: {refusal if refusal is not None else 'no answer'}"
        return text

    def as_json(self) -> dict[str, Json]:
        """The result as JSON."""
        return {
            "name": self.name,
            "fate": str(self.status),
            "sender": self.sender,
            "recipients": self.recipients,
            "reply": reply_json(self.reply),
            "refused": [
                {"recipient": recipient, "reply": reply_json(reply)}
                for recipient, reply in self.refused
            ],
            "error": error_json(self.error),
        }


def result_of(message: OutgoingMessage, outcome: SendOutcome) -> MessageResult:
    """The result of a message with this outcome."""
    sender, recipients = str(message.envelope.sender), tuple(message.recipients)
    result = outcome.result
    if isinstance(result, LmtpSendResult):
        return _lmtp_result(message.name, sender, recipients, result)
    if result is not None:
        refused = tuple((str(r.recipient), r.response) for r in result.rejected_recipients)
        status = DeliveryStatus.PARTLY if refused else DeliveryStatus.DELIVERED
        return MessageResult(message.name, status, sender, recipients, result.response, refused)
    error = outcome.error
    refused = ()
    if isinstance(error, AllRecipientsFailedError):
        refused = tuple((str(r.recipient), r.response) for r in error.rejected_recipients)
    return MessageResult(message.name, status_of(error), sender, recipients, None, refused, error)


def _lmtp_result(
    name: str, sender: str, recipients: tuple[str, ...], result: LmtpSendResult
) -> MessageResult:
    refused: list[tuple[str, SmtpResponse | None]] = [
        (str(r.recipient), r.response) for r in result.rejected_recipients
    ]
    refused += [(str(r.recipient), r.response) for r in result.results if not r.delivered]
    delivered = [r.response for r in result.results if r.delivered]
    if any(r.response is None for r in result.results):
        status = DeliveryStatus.UNKNOWN
    elif not delivered:
        status = DeliveryStatus.REFUSED
    else:
        status = DeliveryStatus.PARTLY if refused else DeliveryStatus.DELIVERED
    reply = delivered[0] if delivered else None
    return MessageResult(name, status, sender, recipients, reply, tuple(refused))


def status_of(error: BaseException | None) -> DeliveryStatus:
    """The delivery status of a message whose sending raised ``error``."""
    if not isinstance(error, SmtpError):
        return DeliveryStatus.FAILED
    if error.may_have_been_delivered:
        return DeliveryStatus.UNKNOWN
    is_reply = isinstance(error, (ResponseError, AllRecipientsFailedError))
    is_refusal = is_reply and error.phase in _MESSAGE_PHASES
    return DeliveryStatus.REFUSED if is_refusal else DeliveryStatus.FAILED


def show(results: Sequence[MessageResult], out: Output, seconds: float) -> None:
    """Write the report: one line for one message; for many the counts and every failure."""
    if len(results) == 1:
        (only,) = results
        if only.error is None:
            out.line(f"{only.status}: {only}", _STYLES.get(only.status, WARNING))
        return
    counts = Counter(result.status for result in results)
    is_listed = _common_error(results) is None
    for status in DeliveryStatus:
        if is_listed and status not in (DeliveryStatus.DELIVERED, DeliveryStatus.UNKNOWN):
            _list(results, status, out)
    for status in _COUNTED:
        count = counts[status]
        if count or status in _ALWAYS_COUNTED:
            out.row(str(status), f"{count:>6}", _STYLES.get(status, "") if count else "")
    rate = len(results) / seconds if seconds else 0.0
    out.line(f"{len(results)} messages in {seconds:.2f} s, {rate:.0f} per second")
    if counts[DeliveryStatus.UNKNOWN]:
        out.line(
            "unknown: these may have been delivered: do not send them again blindly",
            _STYLES[DeliveryStatus.UNKNOWN],
        )
        _list(results, DeliveryStatus.UNKNOWN, out)


def _list(results: Sequence[MessageResult], status: DeliveryStatus, out: Output) -> None:
    for result in results:
        if result.status is status:
            out.row(str(status), str(result), _STYLES.get(status, WARNING))


def command_result(results: Sequence[MessageResult], values: dict[str, Json]) -> CommandResult:
    """The result of ``send`` for these messages; ``values`` are for the JSON object."""
    common = _common_error(results)
    if common is not None:
        if any(result.status is DeliveryStatus.UNKNOWN for result in results):
            return CommandResult(ExitCode.SOME_UNKNOWN, common, values)
        return CommandResult(exit_code_of(common), common, values)
    bad = [result for result in results if result.status is not DeliveryStatus.DELIVERED]
    if not bad:
        return CommandResult(ExitCode.OK, None, values)
    unknown = [result for result in bad if result.status is DeliveryStatus.UNKNOWN]
    text = f"{len(bad)} of {len(results)} messages were not delivered to every recipient"
    if len(results) == 1:
        text = "not delivered to " + ", ".join(recipient for recipient, _ in bad[0].refused)
    if unknown:
        text += f"; {len(unknown)} may have been delivered: do not send again blindly"
    code = ExitCode.SOME_UNKNOWN if unknown else ExitCode.SOME_REFUSED
    if len(results) == 1 and bad[0].status is DeliveryStatus.REFUSED:
        code = ExitCode.CONTENT
    error = CommandError(text, os.EX_PROTOCOL if unknown else _sysexit(bad))
    return CommandResult(code, error, values)


def _common_error(results: Sequence[MessageResult]) -> BaseException | None:
    """The one error that all messages have; None if there is no such error."""
    first = results[0].error if results else None
    return first if all(result.error is first for result in results) else None


def _sysexit(bad: Sequence[MessageResult]) -> int:
    """EX_TEMPFAIL if all of these messages may be sent again, else EX_UNAVAILABLE."""
    for result in bad:
        replies = [reply for _, reply in result.refused if reply is not None]
        is_transient = isinstance(result.error, SmtpError) and result.error.is_transient
        if result.error is None:
            is_transient = bool(replies) and all(reply.is_transient for reply in replies)
        if result.status is DeliveryStatus.PARTLY or not is_transient:
            return os.EX_UNAVAILABLE
    return os.EX_TEMPFAIL


def as_json(results: Sequence[MessageResult], seconds: float) -> dict[str, Json]:
    """The report as JSON."""
    counts = Counter(result.status for result in results)
    return {
        "counts": {str(status): counts[status] for status in DeliveryStatus},
        "seconds": seconds,
        "messages": [result.as_json() for result in results],
    }
