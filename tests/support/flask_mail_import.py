"""Flask-Mail, without what importing it does to the whole process.

It changes how the email package encodes UTF-8, for everybody: text of eight bits is then left as it
is, and a message that holds any cannot be written for a server without 8BITMIME.
"""

from __future__ import annotations

import email.charset

_charsets = dict(email.charset.CHARSETS)

import flask_mail  # noqa: E402

email.charset.CHARSETS.clear()
email.charset.CHARSETS.update(_charsets)

__all__ = ["flask_mail"]
