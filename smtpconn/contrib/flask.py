"""`Mail`: a Flask extension that sends over the pool of the process.

Example::

    mail = Mail()                                       mail.init_app(app)

    app.config["MAIL_URL"] = "smtp+starttls://user:password@smtp.example.com"

    mail.send(message)                                  an `email.message.EmailMessage`

Configuration and behaviour are those of Flask-Mail: the ``MAIL_*`` names, no real mail under
``TESTING``, ``record_messages``, the signal ``email_dispatched``; its ``Message`` is understood
too. What differs stands in ``docs/flask.md``.

An application's configuration is read when something is sent, not when the extension is set up:
tests that set ``TESTING`` late still send nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, formataddr, make_msgid
from types import TracebackType
from typing import Protocol, Self, TypeAlias, cast

from blinker import Namespace
from flask import Flask, current_app, has_app_context

from smtpconn.contrib.delivery import check_delivered, deliver, forward_paths, reverse_path
from smtpconn.contrib.settings import MailSettings, hiding, read_settings
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.email_message import recipients_of, sender_of
from smtpconn.model.errors import ValidationError
from smtpconn.model.results import Recipients, SendResult
from smtpconn.pool.connection_pool import ConnectionPool

email_dispatched = Namespace().signal(
    "email-dispatched",
    doc="Sent with the app and ``message=`` for each message, also for one that is suppressed.",
)
"""Sent with the app and ``message=`` for each message, also for one that is suppressed."""

Result: TypeAlias = SendResult | None
"""What the server said; None where sending is suppressed."""
Person: TypeAlias = str | tuple[str, str]
"""An address, alone or behind a display name: ``("Jane", "jane@example.com")``."""

_SETTINGS = {
    "url": "MAIL_URL",
    "host": "MAIL_SERVER",
    "port": "MAIL_PORT",
    "username": "MAIL_USERNAME",
    "password": "MAIL_PASSWORD",
    "use_tls": "MAIL_USE_TLS",
    "use_ssl": "MAIL_USE_SSL",
    "timeout": "MAIL_TIMEOUT",
    "ssl_certfile": "MAIL_SSL_CERTFILE",
    "ssl_keyfile": "MAIL_SSL_KEYFILE",
}


class FlaskMailMessage(Protocol):
    """What a ``flask_mail.Message`` has that is needed here."""

    sender: Person
    mail_options: list[str]
    rcpt_options: list[str]

    @property
    def send_to(self) -> set[Person]:
        """Everyone it goes to: recipients, cc and bcc."""

    def has_bad_headers(self) -> bool:
        """Whether a header field holds a line break."""

    def as_bytes(self) -> bytes:
        """The message without Bcc."""


AnyMessage: TypeAlias = EmailMessage | FlaskMailMessage
"""What `Mail.send` takes."""


@dataclass(frozen=True, slots=True)
class _State:
    """One application's configuration, read at the time of use."""

    app: Flask

    @property
    def default_sender(self) -> Person | None:
        """For ``flask_mail.Message``, which asks the extension for it."""
        sender: Person | None = self.app.config.get("MAIL_DEFAULT_SENDER")
        return sender

    @property
    def ascii_attachments(self) -> bool:
        """For ``flask_mail.Message``."""
        return bool(self.app.config.get("MAIL_ASCII_ATTACHMENTS", False))

    @property
    def suppress(self) -> bool:
        """Whether nothing is really sent: what the configuration says, else while testing."""
        chosen = self.app.config.get("MAIL_SUPPRESS_SEND")
        return self.app.testing if chosen is None else bool(chosen)

    def settings(self) -> MailSettings:
        """What the configuration says at this moment."""
        config = self.app.config
        found = hiding({name: config.get(setting) or None for name, setting in _SETTINGS.items()})
        own = hiding(config.get("SMTPCONN") or {})
        if config.get("MAIL_MAX_EMAILS"):
            # What became of a connection after so many messages, in Flask-Mail.
            pool = cast(Mapping[str, object], own.get("pool") or {})
            limits = {"max_messages": config["MAIL_MAX_EMAILS"], **pool}
            own = {**own, "pool": limits}
        return read_settings(own, found, {"host": "127.0.0.1"})


class Mail:
    """The extension. One object serves any number of applications.

    Args:
        app: an application to set up at once, and the one that counts outside any context.

    Raises:
        ValidationError: a setting that cannot be.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._app = app
        # Changed in one step each time, so that no lock is needed, which a fork might find held.
        self._outboxes: dict[int, list[AnyMessage]] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set ``app`` up; its ``MAIL_*`` and ``SMTPCONN`` configuration counts.

        Raises:
            ValidationError: a setting that cannot be.
        """
        state = _State(app)
        state.settings().config()
        app.extensions["smtpconn"] = state
        # Where flask_mail.Message looks for the default sender.
        app.extensions.setdefault("mail", state)

    @property
    def pool(self) -> ConnectionPool:
        """The current application's pool, shared by all with the same settings in this process.

        Raises:
            RuntimeError: there is no current application, or it was not set up.
            ValidationError: a setting that cannot be.
            OSError: the client's certificate or key cannot be read.
        """
        return self._state().settings().get_pool()

    def send(
        self,
        message: AnyMessage,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        *,
        timeout: float | None = None,
    ) -> Result:
        """Send a message, unless sending is suppressed; then it is only checked and recorded.

        Args:
            message: an `EmailMessage`, or a ``flask_mail.Message``. An `EmailMessage` without From,
                Date or Message-ID gets them (on a copy): From is ``MAIL_DEFAULT_SENDER``.
            sender, recipients: None for those the message names.
            timeout: seconds for everything; None for ``MAIL_TIMEOUT``.

        Returns what the server said; None if sending is suppressed.

        Raises:
            SmtpError: as `ConnectionPool.send_message`; also if nobody got it over LMTP.
            ValidationError: an address that may not be sent, or there is none.
            RuntimeError: as `pool`.
        """
        state = self._state()
        if isinstance(message, EmailMessage):
            message = _completed(message, state.default_sender)
        mail_from, rcpt_to = _envelope(message, sender, recipients)
        result: Result = None
        if not state.suppress:
            pool = state.settings().get_pool()
            result = _send(pool, message, mail_from, rcpt_to, timeout)
        self._record(state.app, message)
        return result

    def send_message(self, *args: object, **kwargs: object) -> Result:
        """Send ``flask_mail.Message(*args, **kwargs)``: a shortcut that Flask-Mail has.

        Raises:
            ImportError: Flask-Mail, whose messages these are, is not installed.
            SmtpError: as `send`.
        """
        return self.send(_flask_mail_message(*args, **kwargs))

    def connect(self) -> Connection:
        """For ``with mail.connect() as connection``, as Flask-Mail has it.

        There every message went over the one connection that was made here. Now each one borrows
        from the pool, which comes to the same, and a connection that dies is replaced. For a
        connection of one's own there is ``mail.pool.connection()``.
        """
        return Connection(self)

    @contextmanager
    def record_messages(self) -> Iterator[list[AnyMessage]]:
        """Record what this object sends meanwhile, suppressed or not, in whichever thread."""
        outbox: list[AnyMessage] = []
        self._outboxes[id(outbox)] = outbox
        try:
            yield outbox
        finally:
            del self._outboxes[id(outbox)]

    def _record(self, app: Flask, message: AnyMessage) -> None:
        for outbox in list(self._outboxes.values()):
            outbox.append(message)
        email_dispatched.send(app, message=message)

    def _state(self) -> _State:
        app = current_app._get_current_object() if has_app_context() else None  # type: ignore[attr-defined]
        for each in (app, self._app):
            state = None if each is None else each.extensions.get("smtpconn")
            if isinstance(state, _State):
                return state
        if app is None:
            raise RuntimeError("there is no current application: use app.app_context()")
        raise RuntimeError("the current application was not set up: call mail.init_app(app)")


class Connection:
    """What `Mail.connect` returns; entering it makes sure that the server can be reached.

    Args:
        mail: the extension that sends.
    """

    def __init__(self, mail: Mail) -> None:
        self._mail = mail

    def __enter__(self) -> Self:
        if not self._mail._state().suppress:
            with self._mail.pool.connection():
                pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is to be done: the connection is the pool's."""

    def send(self, message: AnyMessage, envelope_from: Person | None = None) -> Result:
        """Send as `Mail.send` does, with Flask-Mail's name for the sender."""
        sender = None if envelope_from is None else reverse_path(_text(envelope_from))
        return self._mail.send(message, sender)

    def send_message(self, *args: object, **kwargs: object) -> Result:
        """As `Mail.send_message`."""
        return self._mail.send_message(*args, **kwargs)


def _flask_mail_message(*args: object, **kwargs: object) -> FlaskMailMessage:
    from flask_mail import Message

    return Message(*args, **kwargs)  # type: ignore[arg-type]


def _completed(message: EmailMessage, default_sender: Person | None) -> EmailMessage:
    """The message with the header fields every message has (RFC 5322 3.6), on a copy if need be."""
    missing: dict[str, str] = {}
    if "From" not in message and default_sender:
        missing["From"] = _text(default_sender)
    if "Date" not in message:
        missing["Date"] = format_datetime(datetime.now(UTC))
    if "Message-ID" not in message:
        sender = str(message.get("From", missing.get("From", "")))
        missing["Message-ID"] = make_msgid(domain=_domain(sender))
    if not missing:
        return message
    complete = copy.copy(message)
    for name, value in missing.items():
        # The copy shares its list of header fields; deleting, not adding, makes a new one.
        del complete[name]
        complete[name] = value
    return complete


def _domain(sender: str) -> str:
    """The sender's domain, for a Message-ID; the machine's name would have to be looked up."""
    domain = sender.rpartition("@")[2].rstrip("> ")
    return domain if domain and domain.isascii() else "localhost"


def _envelope(
    message: AnyMessage, sender: str | ReversePath | None, recipients: Recipients | None
) -> tuple[ReversePath, list[ForwardPath]]:
    mail_from = ReversePath(sender) if isinstance(sender, str) else sender
    if mail_from is None:
        mail_from = (
            sender_of(message)
            if isinstance(message, EmailMessage)
            else reverse_path(_text(message.sender))
        )
    if recipients is None:
        return mail_from, _recipients(message)
    several = [recipients] if isinstance(recipients, (str, ForwardPath)) else recipients
    return mail_from, [ForwardPath(each) if isinstance(each, str) else each for each in several]


def _recipients(message: AnyMessage) -> list[ForwardPath]:
    if isinstance(message, EmailMessage):
        return recipients_of(message)
    # It is a set: sorted, so that the same message makes the same dialogue.
    return forward_paths(sorted(map(_text, message.send_to)))


def _send(
    pool: ConnectionPool,
    message: AnyMessage,
    sender: ReversePath,
    recipients: list[ForwardPath],
    timeout: float | None,
) -> SendResult:
    if isinstance(message, EmailMessage):
        result = pool.send_message(message, sender, recipients, timeout=timeout)
        check_delivered(result)
        return result
    if message.has_bad_headers():
        raise ValidationError("a header field of the message holds a line break")
    if message.mail_options or message.rcpt_options:
        raise ValidationError(
            "mail_options and rcpt_options are words for the server that nobody checks: use "
            "mail.pool.send with MailFromParams and RcptToParams"
        )
    return deliver(pool, sender, recipients, message.as_bytes(), timeout)


def _text(person: Person) -> str:
    return person if isinstance(person, str) else formataddr(person)
