"""smtpconn's errors as code that was written for ``smtplib`` knows them.

Each is of ``smtplib``'s class already. Here it gets the ``args`` that class has, a code and a text,
or a dict of recipients, because such code unpacks them. Text, ``phase``, ``is_transient`` and
``may_have_been_delivered`` stay; a pickled error comes out as smtpconn's own.
"""

from __future__ import annotations

import smtplib
from types import TracebackType
from typing import TYPE_CHECKING

from smtpconn.model.errors import ParseError, Phase, ProtocolError, SmtpError, TransportError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError, refusal
from smtpconn.smtplib.replies import text_of

_UNREADABLE = 500
"""The code ``smtplib`` makes up for a reply that it cannot read."""


class _WithArgs(SmtpError):
    """Mixed into the classes of errors that leave here."""

    if not TYPE_CHECKING:

        @property
        def args(self) -> tuple[object, ...]:
            """What ``smtplib``'s or the operating system's error has."""
            if isinstance(self, (AllRecipientsFailedError, smtplib.SMTPRecipientsRefused)):
                return (self.recipients,)
            if isinstance(self, smtplib.SMTPSenderRefused):
                return self.smtp_code, self.smtp_error, self.sender
            if isinstance(self, smtplib.SMTPResponseException):
                return self.smtp_code, self.smtp_error
            if isinstance(self, TransportError) and self.errno is not None:
                return self.errno, self.strerror
            return (str(self),)

        @args.setter
        def args(self, args: tuple[object, ...]) -> None:
            SmtpError.args.fset(self, args)

    def __reduce__(self) -> tuple[object, ...]:
        mine = type(self)
        self.__class__ = mine.__mro__[2]
        try:
            return self.__reduce__()
        finally:
            self.__class__ = mine


def as_smtplib(error: SmtpError) -> SmtpError:
    """The same error, with the ``args`` of ``smtplib``; one that is so already stays as it is."""
    if isinstance(error, _WithArgs):
        return error
    beside: type[Exception] | None = None
    if isinstance(error, ParseError):
        at_greeting = error.phase is Phase.GREETING
        beside = smtplib.SMTPConnectError if at_greeting else smtplib.SMTPResponseException
        vars(error).update(smtp_code=_UNREADABLE, smtp_error=str(error).encode("utf-8", "replace"))
    error.__class__ = _with_args(type(error), beside)
    return error


def refused(
    response: SmtpResponse, phase: Phase, fallback: type[smtplib.SMTPResponseException]
) -> smtplib.SMTPException:
    """The error for a refusal, of ``smtplib``'s class for the phase.

    A reply that is no refusal either is the class ``fallback``, as ``smtplib`` has it.
    """
    error = refusal(response, phase)
    if isinstance(error, ProtocolError):
        return fallback(response.code, text_of(response))
    return as_smtplib(error)


def about(error: SmtpError, sender: str, recipients: dict[str, str]) -> SmtpError:
    """Name the addresses in an error as the caller gave them.

    Args:
        error: of a transaction.
        sender: as given.
        recipients: what was given, by what was sent.
    """
    if isinstance(error, ResponseError) and error.phase is Phase.MAIL:
        error.sender = sender
    if isinstance(error, (ResponseError, AllRecipientsFailedError)):
        error.recipients = {recipients.get(k, k): v for k, v in error.recipients.items()}
    return as_smtplib(error)


class Translated:
    """A ``with`` block whose errors leave it as ``smtplib`` has them."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, SmtpError):
            as_smtplib(error)


_made: dict[tuple[type[SmtpError], type[Exception] | None], type[SmtpError]] = {}


def _with_args(kind: type[SmtpError], beside: type[Exception] | None) -> type[SmtpError]:
    made = _made.get((kind, beside))
    if made is None:
        bases = (_WithArgs, kind) if beside is None else (_WithArgs, kind, beside)
        made = type(kind.__name__, bases, {"__doc__": kind.__doc__, "__module__": "smtpconn"})
        made = _made.setdefault((kind, beside), made)
    return made
