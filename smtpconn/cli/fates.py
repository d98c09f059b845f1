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
from smtpconn.cli.exits import CommandError, Ending, Exit, exit_of, text_of
from smtpconn.cli.messages import Outgoing
from smtpconn.cli.output import BAD, DOUBTFUL, GOOD, Output
from smtpconn.model.errors import Phase, SmtpError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError
from smtpconn.model.results import LmtpSendResult, SendOutcome

_OF_A_MESSAGE = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA, Phase.CONTENT})


class Fate(enum.StrEnum):
    """What became of a message."""

    UNKNOWN = "unknown"
    REFUSED = "refused"
    FAILED = "failed"
    PARTLY = "partly"
    DELIVERED = "delivered"


_STYLES = {Fate.UNKNOWN: BAD, Fate.DELIVERED: GOOD}


@dataclass(frozen=True, slots=True)
class Told:
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
    fate: Fate
    sender: str = ""
    recipients: tuple[str, ...] = ()
    reply: SmtpResponse | None = None
    refused: tuple[tuple[str, SmtpResponse | None], ...] = ()
    error: BaseException | None = field(default=None, compare=False)

    @property
    def accepted(self) -> int:
        """How many recipients it was delivered to."""
        if self.fate not in (Fate.DELIVERED, Fate.PARTLY, Fate.UNKNOWN) or self.error is not None:
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


def judge(outgoing: Outgoing, outcome: SendOutcome) -> Told:
    """What became of a message, by what sending it came to."""
    sender, recipients = str(outgoing.envelope.sender), tuple(outgoing.recipients)
    result = outcome.result
    if isinstance(result, LmtpSendResult):
        return _judge_lmtp(outgoing.name, sender, recipients, result)
    if result is not None:
        refused = tuple((str(r.recipient), r.response) for r in result.rejected_recipients)
        fate = Fate.PARTLY if refused else Fate.DELIVERED
        return Told(outgoing.name, fate, sender, recipients, result.response, refused)
    error = outcome.error
    refused = ()
    if isinstance(error, AllRecipientsFailedError):
        refused = tuple((str(r.recipient), r.response) for r in error.rejected_recipients)
    return Told(outgoing.name, fate_of(error), sender, recipients, None, refused, error)


def _judge_lmtp(
    name: str, sender: str, recipients: tuple[str, ...], result: LmtpSendResult
) -> Told:
    refused: list[tuple[str, SmtpResponse | None]] = [
        (str(r.recipient), r.response) for r in result.rejected_recipients
    ]
    refused += [(str(r.recipient), r.response) for r in result.results if not r.delivered]
    delivered = [r.response for r in result.results if r.delivered]
    if any(r.response is None for r in result.results):
        fate = Fate.UNKNOWN
    elif not delivered:
        fate = Fate.REFUSED
    else:
        fate = Fate.PARTLY if refused else Fate.DELIVERED
    reply = delivered[0] if delivered else None
    return Told(name, fate, sender, recipients, reply, tuple(refused))


def fate_of(error: BaseException | None) -> Fate:
    """What an error means for the message."""
    if not isinstance(error, SmtpError):
        return Fate.FAILED
    if error.may_have_been_delivered:
        return Fate.UNKNOWN
    is_answer = isinstance(error, (ResponseError, AllRecipientsFailedError))
    return Fate.REFUSED if is_answer and error.phase in _OF_A_MESSAGE else Fate.FAILED


def show(tolds: Sequence[Told], out: Output, seconds: float) -> None:
    """Write the report: one line for one message, counts and every failure for many."""
    if len(tolds) == 1:
        if tolds[0].error is None:
            out.line(f"{tolds[0].fate}: {tolds[0]}", _STYLES.get(tolds[0].fate, DOUBTFUL))
        return
    counts = Counter(told.fate for told in tolds)
    common = _common_error(tolds)
    for told in sorted(tolds, key=lambda told: list(Fate).index(told.fate)):
        if told.fate is not Fate.DELIVERED and common is None:
            out.row(str(told.fate), str(told), _STYLES.get(told.fate, DOUBTFUL))
    for fate in reversed(Fate):
        if counts[fate] or fate in (Fate.DELIVERED, Fate.REFUSED, Fate.UNKNOWN):
            out.row(str(fate), f"{counts[fate]:>6}", _STYLES.get(fate, "") if counts[fate] else "")
    if counts[Fate.UNKNOWN]:
        out.line(
            "unknown: these may have been delivered: do not send them again blindly",
            _STYLES[Fate.UNKNOWN],
        )
    rate = len(tolds) / seconds if seconds else 0.0
    out.line(f"{len(tolds)} messages in {seconds:.2f} s, {rate:.0f} per second")


def ending(tolds: Sequence[Told], result: dict[str, Json]) -> Ending:
    """The exit code that the fates mean."""
    common = _common_error(tolds)
    if common is not None:
        if any(told.fate is Fate.UNKNOWN for told in tolds):
            return Ending(Exit.SOME_UNKNOWN, common, result)
        return Ending(exit_of(common), common, result)
    bad = [told for told in tolds if told.fate is not Fate.DELIVERED]
    if not bad:
        return Ending(Exit.OK, None, result)
    unknown = [told for told in bad if told.fate is Fate.UNKNOWN]
    text = f"{len(bad)} of {len(tolds)} messages were not delivered to everybody"
    if len(tolds) == 1:
        text = "not delivered to " + ", ".join(recipient for recipient, _ in bad[0].refused)
    if unknown:
        text += f"; {len(unknown)} may have been delivered: do not send again blindly"
    code = Exit.SOME_UNKNOWN if unknown else Exit.SOME_REFUSED
    if len(tolds) == 1 and bad[0].fate is Fate.REFUSED:
        code = Exit.CONTENT
    error = CommandError(text, os.EX_PROTOCOL if unknown else _sysexit(bad))
    return Ending(code, error, result)


def _common_error(tolds: Sequence[Told]) -> BaseException | None:
    """The one error that all the messages ended with."""
    first = tolds[0].error if tolds else None
    return first if all(told.error is first for told in tolds) else None


def _sysexit(bad: Sequence[Told]) -> int:
    """Temporary only if sending all of them again is right."""
    for told in bad:
        replies = [reply for _, reply in told.refused if reply is not None]
        is_transient = isinstance(told.error, SmtpError) and told.error.is_transient
        if told.error is None:
            is_transient = bool(replies) and all(reply.is_transient for reply in replies)
        if told.fate is Fate.PARTLY or not is_transient:
            return os.EX_UNAVAILABLE
    return os.EX_TEMPFAIL


def as_json(tolds: Sequence[Told], seconds: float) -> dict[str, Json]:
    """The report as JSON."""
    counts = Counter(told.fate for told in tolds)
    return {
        "counts": {str(fate): counts[fate] for fate in Fate},
        "seconds": seconds,
        "messages": [told.as_json() for told in tolds],
    }
