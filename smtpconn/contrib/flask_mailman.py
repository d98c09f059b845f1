"""`EmailBackend`: Flask-Mailman's e-mail through the pool of the process.

    app.config["MAIL_BACKEND"] = "smtpconn.contrib.flask_mailman.EmailBackend"

Settings and return values are those of Flask-Mailman's own SMTP backend; what differs stands in
``docs/flask.md``. Only Flask-Mailman's names live here; what a backend does is in
`smtpconn.contrib.backend`.
"""

from __future__ import annotations

from flask import current_app, has_app_context
from flask_mailman import EmailMessage
from flask_mailman.backends.base import BaseEmailBackend

from smtpconn.contrib.backend import PooledBackend
from smtpconn.contrib.settings import COMMON_NAMES, ServerOptions
from smtpconn.errors import ValidationError

_OWN_NAMES = ServerOptions.__annotations__.keys() | {"url", "pool"}


class EmailBackend(PooledBackend[EmailMessage], BaseEmailBackend):  # type: ignore[misc]
    """An e-mail backend that keeps its connections.

    Args:
        mailman, fail_silently: as Flask-Mailman gives them.
        kwargs: ``host``, ``port``, ``username`` and so on as Flask-Mailman's SMTP backend takes
            them, ``url``, ``pool`` and the names of `smtpconn.contrib.settings.ServerOptions`.
            Where one is missing the application's ``SMTPCONN`` dict counts, then ``MAIL_*``.

    Raises:
        ValueError: settings that contradict each other, or a value that cannot be.
    """

    def __init__(
        self, mailman: object = None, fail_silently: bool = False, **kwargs: object
    ) -> None:
        given = {name: kwargs.pop(name) for name in (_OWN_NAMES | {*COMMON_NAMES}) & kwargs.keys()}
        super().__init__(mailman=mailman, fail_silently=fail_silently, **kwargs)
        if self.mailman.mail_options:
            raise ValidationError(
                "MAIL_SEND_OPTIONS are words for the server that nobody checks: leave them out"
            )
        # Flask-Mailman keeps only its own settings in its state.
        own = current_app.config.get("SMTPCONN", {}) if has_app_context() else {}
        theirs = {name: getattr(self.mailman, name, None) for name in COMMON_NAMES}
        self.take_settings(given, own, {**theirs, "host": self.mailman.server})

    def octets(self, message: EmailMessage, *, smtputf8: bool) -> bytes:
        """The message as Flask-Mailman serialises it, without Bcc.

        Raises:
            ValueError: a header field that may not be; as ``EmailMessage.message``.
        """
        outgoing = message.message()
        del outgoing["Bcc"]
        octets: bytes = outgoing.as_bytes(linesep="\r\n")
        return octets
