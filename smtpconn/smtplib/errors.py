"""smtpconn's errors with the ``args`` of ``smtplib``'s errors.

An error of smtpconn is already an instance of the matching class of ``smtplib``. This module also
gives it the ``args`` of that class (a code and a text, or a dict of recipients), because programs
unpack them. Its text, ``phase``, ``is_transient`` and ``may_have_been_delivered`` do not change. It
is pickled as smtpconn's error.
"""

from __future__ import annotations

import smtplib
from types import TracebackType
from typing import TYPE_CHECKING

from smtpconn.model.errors import (
    OUTSIDE_A_SESSION,
    ParseError,
    Phase,
    ProtocolError,
    SmtpError,
    TransportError,
)
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError, refusal
from smtpconn.smtplib.replies import text_of

_UNREADABLE = 500
"""The code that ``smtplib`` reports for an invalid reply."""


class _WithArgs(SmtpError):
    """The base of the classes that `as_smtplib` creates."""

    if not TYPE_CHECKING:

        @property
        def args(self) -> tuple[object, ...]:
            """The ``args`` that ``smtplib``'s or the operating system's error has."""
            if isinstance(self, (AllRecipientsFailedError, smtplib.SMTPRecipientsRefused)):
                return (self.recipients,)
            if isinstance(self, smtplib.SMTPSenderRefused):
                return self.smtp_code, self.smtp_error, self.sender
            if isinstance(self, smtplib.SMTPResponseException):
                return self.smtp_code, self.smtp_error
            if isinstance(self, smtplib.SMTPServerDisconnected):
                return (str(self),)
            if isinstance(self, TransportError) and self.errno is not None:
                return self.errno, self.strerror
            return (str(self),)

        @args.setter
        def args(self, args: tuple[object, ...]) -> None:
            SmtpError.args.fset(self, args)

    def __reduce__(self) -> tuple[object, ...]:
        own_class = type(self)
        self.__class__ = own_class.__mro__[2]
        try:
            return self.__reduce__()
        finally:
            self.__class__ = own_class


def as_smtplib(error: SmtpError) -> SmtpError:
    """Give an error the ``args`` of ``smtplib``, unless it has them, and return the same object."""
    if isinstance(error, _WithArgs):
        return error
    extra_base: type[Exception] | None = None
    if isinstance(error, ParseError):
        at_greeting = error.phase is Phase.GREETING
        extra_base = smtplib.SMTPConnectError if at_greeting else smtplib.SMTPResponseException
        vars(error).update(smtp_code=_UNREADABLE, smtp_error=str(error).encode("utf-8", "replace"))
    elif isinstance(error, TransportError) and error.phase not in OUTSIDE_A_SESSION:
        extra_base = smtplib.SMTPServerDisconnected
    error.__class__ = _class_with_args(type(error), extra_base)
    return error


def refused(
    response: SmtpResponse, phase: Phase, fallback: type[smtplib.SMTPResponseException]
) -> smtplib.SMTPException:
    """The error for a reply other than the expected one, of ``smtplib``'s class for the phase.

    If the reply is not a refusal (4xx or 5xx) either, it is a ``fallback``, as in ``smtplib``.
    """
    error = refusal(response, phase)
    if isinstance(error, ProtocolError):
        return fallback(response.code, text_of(response))
    return as_smtplib(error)


def with_given_addresses(error: SmtpError, sender: str, recipients: dict[str, str]) -> SmtpError:
    """Replace the addresses in an error by those that the caller gave.

    Args:
        error: the error of a transaction.
        sender: the sender as the caller gave it.
        recipients: maps each address, as parsed and as sent, to the text that the caller gave.
    """
    if isinstance(error, ResponseError) and error.phase is Phase.MAIL:
        error.sender = sender
    if isinstance(error, (ResponseError, AllRecipientsFailedError)):
        error.recipients = {recipients.get(k, k): v for k, v in error.recipients.items()}
    return as_smtplib(error)


class Translated:
    """A ``with`` block that applies `as_smtplib` to its errors."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, SmtpError):
            as_smtplib(error)


_classes: dict[tuple[type[SmtpError], type[Exception] | None], type[SmtpError]] = {}


def _class_with_args(kind: type[SmtpError], extra_base: type[Exception] | None) -> type[SmtpError]:
    made = _classes.get((kind, extra_base))
    if made is None:
        bases = (_WithArgs, kind) if extra_base is None else (_WithArgs, kind, extra_base)
        made = type(kind.__name__, bases, {"__doc__": kind.__doc__, "__module__": "smtpconn"})
        made = _classes.setdefault((kind, extra_base), made)
    return made
