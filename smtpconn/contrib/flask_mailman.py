"""`EmailBackend`: Flask-Mailman's e-mail through the pool of the process.

Example::

    app.config["MAIL_BACKEND"] = "smtpconn.contrib.flask_mailman.EmailBackend"

Settings and return values are those of Flask-Mailman's own SMTP backend; ``docs/flask.md`` lists
the differences. This module has Flask-Mailman's names; `smtpconn.contrib.backend` has the
behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import current_app, has_app_context
from flask_mailman import EmailMessage
from flask_mailman.backends.base import BaseEmailBackend

from smtpconn.client.config import ServerOptions
from smtpconn.contrib.backend import PooledBackend, serialised
from smtpconn.contrib.settings import COMMON_NAMES, hiding, own_settings
from smtpconn.model.errors import ValidationError

_OWN_NAMES = ServerOptions.__annotations__.keys() | {"url", "pool"}
_NAMES = {name: f"MAIL_{name.upper()}" for name in (*COMMON_NAMES, "url")} | {"host": "MAIL_SERVER"}


class EmailBackend(PooledBackend[EmailMessage], BaseEmailBackend):  # type: ignore[misc]
    """An e-mail backend whose connections are pooled.

    Args:
        mailman, fail_silently: as Flask-Mailman gives them.
        kwargs: ``host``, ``port``, ``username`` and so on as Flask-Mailman's SMTP backend takes
            them, ``url``, ``pool`` and the names of `smtpconn.client.config.ServerOptions`. A
            missing one is looked up in the application's ``SMTPCONN`` dict, then in ``MAIL_*``,
            where ``MAIL_URL`` gives the server, the port and the kind of TLS.

    Raises:
        ValueError: settings that contradict each other, or an invalid value.
    """

    def __init__(
        self, mailman: object = None, fail_silently: bool = False, **kwargs: object
    ) -> None:
        names = (_OWN_NAMES | {*COMMON_NAMES}) & kwargs.keys()
        given = hiding({name: kwargs.pop(name) for name in names})
        super().__init__(mailman=mailman, fail_silently=fail_silently, **kwargs)
        if self.mailman.mail_options:
            raise ValidationError(
                "MAIL_SEND_OPTIONS would be sent unchecked and are not supported: leave them out"
            )
        # An empty host or port counts as missing, as in Flask-Mailman.
        given |= {name: given.get(name) or None for name in ("host", "port")}
        theirs = hiding({name: getattr(self.mailman, name, None) for name in COMMON_NAMES})
        theirs["host"] = self.mailman.server
        self.take_settings(given, *_own_settings(theirs), theirs, names=_NAMES)

    def recreate(self) -> EmailBackend:
        """A new backend as Flask-Mailman makes it for the current application."""
        return EmailBackend()

    def message_bytes(self, message: EmailMessage, *, smtputf8: bool) -> bytes:
        """The message as Flask-Mailman serialises it, without Bcc.

        Raises:
            ValueError: an invalid header field; as ``EmailMessage.message``.
        """
        return serialised(message.message(), smtputf8=smtputf8, linesep="\r\n")


def _own_settings(theirs: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Settings that Flask-Mailman does not know: ``SMTPCONN``, and ``MAIL_URL`` with a login."""
    config = current_app.config if has_app_context() else {}
    found: list[Mapping[str, object]] = [own_settings(config.get("SMTPCONN"))]
    if url := config.get("MAIL_URL"):
        found.append({"url": url} | {name: theirs[name] for name in ("username", "password")})
    return [hiding(each) for each in found]
