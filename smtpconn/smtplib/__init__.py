"""The API of the standard library's ``smtplib`` over smtpconn: only the import changes.

    from smtpconn import smtplib

    smtplib.pooled()  # to reuse connections

    with smtplib.SMTP("smtp.example.com", 587) as smtp:
        smtp.starttls()
        smtp.login("user", "password")
        smtp.send_message(message)

This module has every name of the standard library's module; exceptions and constants are the same
objects. docs/smtplib.md lists the differences. In particular, `SMTP.starttls` and `SMTP_SSL` verify
the server's certificate if no context is given, which the standard library does not.

``python -m smtpconn.smtplib script.py`` runs a program with this module instead of the standard
library's, with pooling.
"""

import smtplib as _original
from smtplib import CRLF as CRLF
from smtplib import LMTP_PORT as LMTP_PORT
from smtplib import OLDSTYLE_AUTH as OLDSTYLE_AUTH
from smtplib import SMTP_PORT as SMTP_PORT
from smtplib import SMTP_SSL_PORT as SMTP_SSL_PORT
from smtplib import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPDataError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupportedError,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPSenderRefused,
    SMTPServerDisconnected,
    quoteaddr,
    quotedata,
)
from smtplib import bCRLF as bCRLF

from smtpconn.smtplib.lmtp import LMTP
from smtpconn.smtplib.pools import Pools
from smtpconn.smtplib.settings import configure, pooled
from smtpconn.smtplib.smtp import SMTP
from smtpconn.smtplib.smtp_ssl import SMTP_SSL

__all__ = [
    "LMTP",
    "SMTP",
    "SMTP_SSL",
    "Pools",
    "SMTPAuthenticationError",
    "SMTPConnectError",
    "SMTPDataError",
    "SMTPException",
    "SMTPHeloError",
    "SMTPNotSupportedError",
    "SMTPRecipientsRefused",
    "SMTPResponseException",
    "SMTPSenderRefused",
    "SMTPServerDisconnected",
    "configure",
    "pooled",
    "quoteaddr",
    "quotedata",
]

# Programs also use the modules that smtplib imports, and its private names.
for _name, _value in vars(_original).items():
    if not _name.startswith("__"):
        globals().setdefault(_name, _value)
