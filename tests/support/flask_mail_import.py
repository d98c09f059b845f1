"""Import Flask-Mail without its effect on the email package.

Importing Flask-Mail changes how the email package encodes UTF-8 in the whole process: 8-bit text is
then not encoded, and such a message cannot be sent to a server without 8BITMIME.
"""

from __future__ import annotations

import email.charset

_charsets = dict(email.charset.CHARSETS)

import flask_mail  # noqa: E402

email.charset.CHARSETS.clear()
email.charset.CHARSETS.update(_charsets)

__all__ = ["flask_mail"]
