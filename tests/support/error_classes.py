"""Which class of docs/errors.md an error is of."""

from __future__ import annotations

import smtpconn
from smtpconn import SmtpError


def kind_of(error: object) -> type | None:
    """The class an error is documented as, without what it is besides; None for no error.

    A refused sender is an `smtplib.SMTPSenderRefused` and perhaps a `RetryableError`, too; this is
    its `TransientError` or `PermanentError`.
    """
    if error is None:
        return None
    if isinstance(error, SmtpError):
        kind: type[SmtpError] = getattr(smtpconn, type(error).__name__)
        return kind
    return type(error)
