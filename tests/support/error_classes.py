"""The class of an error as docs/errors.md lists it."""

from __future__ import annotations

import smtpconn
from smtpconn import SmtpError


def kind_of(error: object) -> type | None:
    """The documented class of an error, without its other base classes; None for no error.

    A refused sender is also an `smtplib.SMTPSenderRefused` and perhaps a `RetryableError`; this
    function returns `TransientError` or `PermanentError`.
    """
    if error is None:
        return None
    if isinstance(error, SmtpError):
        kind: type[SmtpError] = getattr(smtpconn, type(error).__name__)
        return kind
    return type(error)
