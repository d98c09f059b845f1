"""What became of each message, and how that is told.

    delivered   the server took it for everybody
    partly      it took it for some, and refused others
    refused     it said no; nobody got it
    failed      it never came that far; nobody got it
    unknown     the connection was lost after the message and before the answer

Rule: unknown is never called anything else, and stands first, because it is the one that needs a
person: sent again it may arrive twice, not sent again it may be lost.
"""

from __future__ import annotations

import enum
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from smtpconn.cli import asjson
from smtpconn.cli.asjson import Json
from smtpconn.cli.exit_codes import CommandError, CommandResult, ExitCode, exit_code_of, text_of
from smtpconn.cli.messages import Outgoing
from smtpconn.cli.output import BAD, DOUBTFUL, GOOD, Output
from smtpconn.model.errors import AllRecipientsFailedError, Phase, ResponseError, SmtpError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.results import LmtpSendResult, SendOutcome, SendResult

_OF_A_MESSAGE = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT})


class DeliveryStatus(enum.StrEnum):
    """What became of a message."""

    UNKNOWN = "unknown"
    REFUSED = "refused"
    FAILED = "failed"
    PARTLY = "partly"
    DELIVERED = "delivered"


_STYLES = {DeliveryStatus.UNKNOWN: BAD, DeliveryStatus.DELIVERED: GOOD}


@dataclass(frozen=True, slots=True)
class MessageResult:
    """One message and its fate.

    Attributes:
        name: of the message.
        fate: what became of it.
        sender, recipients: its envelope; "" and none if it could not even be read.
        reply: the server's final one.
        refused: who did not get it, each with the reply; None where there is none.
        error: what it ended with.
    """

    name: str
    fate: DeliveryStatus
    sender: str = ""
    recipients: tuple[str, ...] = ()
    reply: SmtpResponse | None = None
    refused: tuple[tuple[str, SmtpResponse | None], ...] = ()
    error: BaseException | None = field(default=None, compare=False)

    @property
    def accepted(self) -> int:
        """How many recipients it was delivered to."""
        if (
            self.fate
            not in (DeliveryStatus.DELIVERED, DeliveryStatus.PARTLY, DeliveryStatus.UNKNOWN)
            or self.error is not None
        ):
            return 0
        return len(self.recipients) - len(self.refused)

    def __str__(self) -> str:
        if self.error is not None:
            text = text_of(self.error)
            return text if text.startswith(f"{self.name}: ") else f"{self.name}: {text}"
        answer = "" if self.reply is None else f": {self.reply}"
        text = f"{self.name}: to {self.accepted} of {len(self.recipients)} recipients{answer}"
        for recipient, reply in self.refused:
            text += f"; not to {recipient}: {reply if reply is not None else 'no answer'}"
        return text

    def as_json(self) -> dict[str, Json]:
        """The same as JSON."""
        return {
            "name": self.name,
            "fate": str(self.fate),
            "sender": self.sender,
            "recipients": self.recipients,
            "reply": asjson.of_reply(self.reply),
            "refused": [
                {"recipient": recipient, "reply": asjson.of_reply(reply)}
                for recipient, reply in self.refused
            ],
            "error": asjson.of_error(self.error),
        }


def judge(outgoing: Outgoing, outcome: SendOutcome) -> MessageResult:
    """What became of a message, by what sending it came to."""
    sender, recipients = str(outgoing.envelope.sender), tuple(outgoing.recipients)
    result = outcome.result
    if isinstance(result, SendResult):
        refused = tuple((str(r.recipient), r.response) for r in result.rejected_recipients)
        fate = DeliveryStatus.PARTLY if refused else DeliveryStatus.DELIVERED
        return MessageResult(outgoing.name, fate, sender, recipients, result.response, refused)
    if isinstance(result, LmtpSendResult):
        return _judge_lmtp(outgoing.name, sender, recipients, result)
    error = outcome.error
    refused = ()
    if isinstance(error, AllRecipientsFailedError):
        refused = tuple((str(r.recipient), r.response) for r in error.rejected_recipients)
    return MessageResult(outgoing.name, status_of(error), sender, recipients, None, refused, error)


def _judge_lmtp(
    name: str, sender: str, recipients: tuple[str, ...], result: LmtpSendResult
) -> MessageResult:
    refused: list[tuple[str, SmtpResponse | None]] = [
        (str(r.recipient), r.response) for r in result.rejected_recipients
    ]
    refused += [(str(r.recipient), r.response) for r in result.results if not r.delivered]
    delivered = [r.response for r in result.results if r.delivered]
    if any(r.response is None for r in result.results):
        fate = DeliveryStatus.UNKNOWN
    elif not delivered:
        fate = DeliveryStatus.REFUSED
    else:
        fate = DeliveryStatus.PARTLY if refused else DeliveryStatus.DELIVERED
    reply = delivered[0] if delivered else None
    return MessageResult(name, fate, sender, recipients, reply, tuple(refused))


def status_of(error: BaseException | None) -> DeliveryStatus:
    """What an error means for the message."""
    if not isinstance(error, SmtpError):
        return DeliveryStatus.FAILED
    if error.may_have_been_delivered:
        return DeliveryStatus.UNKNOWN
    is_answer = isinstance(error, (ResponseError, AllRecipientsFailedError))
    return (
        DeliveryStatus.REFUSED
        if is_answer and error.phase in _OF_A_MESSAGE
        else DeliveryStatus.FAILED
    )


def show(results_: Sequence[MessageResult], out: Output, seconds: float) -> None:
    """Write the report: one line for one message, counts and every failure for many."""
    if len(results_) == 1:
        if results_[0].error is None:
            out.line(f"{results_[0].fate}: {results_[0]}", _STYLES.get(results_[0].fate, DOUBTFUL))
        return
    counts = Counter(told.fate for told in results_)
    common = _common_error(results_)
    for told in sorted(results_, key=lambda told: list(DeliveryStatus).index(told.fate)):
        if told.fate is not DeliveryStatus.DELIVERED and common is None:
            out.row(str(told.fate), str(told), _STYLES.get(told.fate, DOUBTFUL))
    for fate in reversed(DeliveryStatus):
        if counts[fate] or fate in (
            DeliveryStatus.DELIVERED,
            DeliveryStatus.REFUSED,
            DeliveryStatus.UNKNOWN,
        ):
            out.row(str(fate), f"{counts[fate]:>6}", _STYLES.get(fate, "") if counts[fate] else "")
    if counts[DeliveryStatus.UNKNOWN]:
        out.line(
            "unknown: these may have been delivered: do not send them again blindly",
            _STYLES[DeliveryStatus.UNKNOWN],
        )
    rate = len(results_) / seconds if seconds else 0.0
    out.line(f"{len(results_)} messages in {seconds:.2f} s, {rate:.0f} per second")


def ending(results_: Sequence[MessageResult], result: dict[str, Json]) -> CommandResult:
    """The exit code that the fates mean."""
    common = _common_error(results_)
    if common is not None:
        if any(told.fate is DeliveryStatus.UNKNOWN for told in results_):
            return CommandResult(ExitCode.SOME_UNKNOWN, common, result)
        return CommandResult(exit_code_of(common), common, result)
    bad = [told for told in results_ if told.fate is not DeliveryStatus.DELIVERED]
    if not bad:
        return CommandResult(ExitCode.OK, None, result)
    unknown = [told for told in bad if told.fate is DeliveryStatus.UNKNOWN]
    text = f"{len(bad)} of {len(results_)} messages were not delivered to everybody"
    if len(results_) == 1:
        text = "not delivered to " + ", ".join(recipient for recipient, _ in bad[0].refused)
    if unknown:
        text += f"; {len(unknown)} may have been delivered: do not send again blindly"
    code = ExitCode.SOME_UNKNOWN if unknown else ExitCode.SOME_REFUSED
    if len(results_) == 1 and bad[0].fate is DeliveryStatus.REFUSED:
        code = ExitCode.CONTENT
    error = CommandError(text, os.EX_PROTOCOL if unknown else _sysexit(bad))
    return CommandResult(code, error, result)


def _common_error(results_: Sequence[MessageResult]) -> BaseException | None:
    """The one error that all the messages ended with."""
    first = results_[0].error if results_ else None
    return first if all(told.error is first for told in results_) else None


def _sysexit(bad: Sequence[MessageResult]) -> int:
    """Temporary only if sending all of them again is right."""
    for told in bad:
        replies = [reply for _, reply in told.refused if reply is not None]
        is_transient = isinstance(told.error, SmtpError) and told.error.is_transient
        if told.error is None:
            is_transient = bool(replies) and all(reply.is_transient for reply in replies)
        if told.fate is DeliveryStatus.PARTLY or not is_transient:
            return os.EX_UNAVAILABLE
    return os.EX_TEMPFAIL


def as_json(results_: Sequence[MessageResult], seconds: float) -> dict[str, Json]:
    """The report as JSON."""
    counts = Counter(told.fate for told in results_)
    return {
        "counts": {str(fate): counts[fate] for fate in DeliveryStatus},
        "seconds": seconds,
        "messages": [told.as_json() for told in results_],
    }
