"""`Mail`: a Flask extension that sends over the pool of the process.

Example::

    mail = Mail()                                       mail.init_app(app)

    app.config["MAIL_URL"] = "smtp+starttls://user:password@smtp.example.com"

    mail.send(message)                                  an `email.message.EmailMessage`

Configuration and behaviour are those of Flask-Mail: the ``MAIL_*`` names, no real mail under
``TESTING``, ``record_messages``, the signal ``email_dispatched``, ``app.extensions["mail"]`` with
its attributes; its ``Message`` is understood too. ``docs/flask.md`` lists the differences.

An application's configuration is read when something is sent, not when the extension is set up:
tests that set ``TESTING`` late still send nothing.
"""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.message import EmailMessage, Message
from email.utils import formataddr, parseaddr
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, cast

from blinker import Namespace
from flask import Flask, current_app, has_app_context

from smtpconn.contrib.backend import BackendConnection
from smtpconn.contrib.delivery import check_delivered, deliver, forward_paths, reverse_path
from smtpconn.contrib.settings import MailSettings, flag, hiding, own_settings, read_settings
from smtpconn.model.address_list import read_groups
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.email_message import completed, recipients_of, sender_of, serialize
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.results import Recipients, SendResult
from smtpconn.pool.connection_pool import ConnectionPool

email_dispatched = Namespace().signal(
    "email-dispatched",
    doc="Sent with the app and ``message=`` for each message, including suppressed ones.",
)
"""Sent with the app and ``message=`` for each message, including suppressed ones."""

Result: TypeAlias = SendResult
"""The result of sending; a generated one if sending is suppressed."""
Person: TypeAlias = str | tuple[str, str]
"""An address, alone or after a display name: ``("Jane", "jane@example.com")``."""

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
    """The attributes of a ``flask_mail.Message`` that are used here."""

    sender: Person
    recipients: list[Person]
    cc: list[Person]
    reply_to: Person | None
    date: float | None
    mail_options: list[str]
    rcpt_options: list[str]

    @property
    def send_to(self) -> set[Person]:
        """All recipients: recipients, cc and bcc."""

    def has_bad_headers(self) -> bool:
        """Whether a header field contains a line break."""

    def as_bytes(self) -> bytes:
        """The message without Bcc."""


class Host(Protocol):
    """The type of `Connection.host`: a `BackendConnection`, or a replacement by a test."""

    def sendmail(
        self,
        from_addr: str,
        to_addrs: Sequence[str],
        msg: bytes,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> object:
        """Send bytes as `smtplib.SMTP.sendmail` does."""


AnyMessage: TypeAlias = "EmailMessage | Message[object, Any] | FlaskMailMessage"
"""What `Mail.send` takes."""

_NAMES = _SETTINGS | {"pool": "SMTPCONN['pool']"}
_OFFERED = ServerCapabilities("", (SmtpExtension("8BITMIME"), SmtpExtension("SMTPUTF8")))
_NOT_SENT = SmtpResponse(250, ("2.0.0 Not sent: sending is suppressed",))
_OUTBOXES: dict[int, list[AnyMessage]] = {}
"""The lists that `record_messages` fills, of every extension in the process. Each change is a
single assignment, so no lock is needed; a fork could copy a lock while it is held."""


class UnaddressedError(ValidationError, AssertionError):
    """A message has no recipient or no sender; Flask-Mail raises AssertionError for that."""


UnaddressedError.__module__ = __name__

if TYPE_CHECKING:

    class BadHeaderError(ValidationError):
        """A header field contains a line break; also Flask-Mail's error if that is installed."""

else:

    def __getattr__(name: str) -> object:
        # Imported here, because importing Flask-Mail changes how the email package encodes UTF-8.
        if name != "BadHeaderError":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from flask_mail import BadHeaderError as theirs
        except ImportError:
            bases = (ValidationError,)
        else:
            bases = (ValidationError, theirs)
        made = type("BadHeaderError", bases, {"__doc__": "A header field holds a line break."})
        made.__module__ = __name__
        return globals().setdefault("BadHeaderError", made)


class _Attributes:
    """The attributes that `MailState` and `Mail` have in common, with their types."""

    server: str
    port: int | str | None
    username: str | None
    password: str | None
    use_tls: bool
    use_ssl: bool
    default_sender: Person | None
    debug: int
    max_emails: int | None
    suppress: bool
    ascii_attachments: bool


class MailState(_Attributes):
    """The extension for one application; ``app.extensions["mail"]``, as in Flask-Mail.

    Args:
        app: the application.
        config: the configuration to use instead of the application's.

    Attributes:
        app: the application.
        server, port, username, password, use_tls, use_ssl: the mail server.
        default_sender: ``MAIL_DEFAULT_SENDER``.
        debug: ``MAIL_DEBUG``, else ``app.debug``.
        max_emails: messages after which a connection is replaced.
        suppress: whether messages are recorded but not sent: ``MAIL_SUPPRESS_SEND``, else while
            testing.
        ascii_attachments: ``MAIL_ASCII_ATTACHMENTS``, which ``flask_mail.Message`` reads.

    An attribute that was not set is read from the configuration on each access.
    """

    def __init__(self, app: Flask, config: Mapping[str, Any] | None = None) -> None:
        self.app = app
        self._config = app.config if config is None else config

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            if name not in _READ:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return _READ[name](self._config, self.app)

    def settings(self) -> MailSettings:
        """The current settings.

        Raises:
            ValidationError: an invalid setting.
        """
        config = self._config
        found = {name: config.get(setting) or None for name, setting in _SETTINGS.items()}
        found |= {_COMMON.get(name, name): value for name, value in self._set_here().items()}
        found = hiding(found)
        own = own_settings(config.get("SMTPCONN"))
        if self.max_emails:
            limits = {
                "max_messages": self.max_emails,
                **cast(Mapping[str, object], own.get("pool") or {}),
            }
            own = {**own, "pool": limits}
        return read_settings(own, found, {"host": "127.0.0.1"}, names=_NAMES)

    def _set_here(self) -> dict[str, object]:
        names = ("server", "port", "username", "password", "use_tls", "use_ssl")
        return {name: vars(self)[name] for name in names if name in vars(self)}

    def pool(self) -> ConnectionPool:
        """As `Mail.pool`."""
        _show_session(self._config)
        return self.settings().get_pool()

    def send(
        self,
        message: AnyMessage,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        *,
        timeout: float | None = None,
    ) -> Result:
        """As `Mail.send`."""
        host = None if self.suppress else BackendConnection(self.pool())
        return self._send(host, message, sender, recipients, timeout)

    def send_message(self, *args: object, **kwargs: object) -> Result:
        """As `Mail.send_message`."""
        return self.send(_flask_mail_message(*args, **kwargs))

    def connect(self) -> Connection:
        """As `Mail.connect`."""
        return Connection(self)

    @contextmanager
    def record_messages(self) -> Iterator[list[AnyMessage]]:
        """As `Mail.record_messages`."""
        outbox: list[AnyMessage] = []
        _OUTBOXES[id(outbox)] = outbox
        try:
            yield outbox
        finally:
            del _OUTBOXES[id(outbox)]

    def _send(
        self,
        host: Host | None,
        message: AnyMessage,
        sender: str | ReversePath | None,
        recipients: Recipients | None,
        timeout: float | None,
    ) -> Result:
        """Check a message, send it unless ``host`` is None, and record it."""
        if isinstance(message, Message):
            message = _with_sender(message, self.default_sender)
        mail_from, rcpt_to = _envelope(message, sender, recipients)
        if isinstance(message, Message):
            message = completed(message, mail_from)
            data = b"" if host else _serialised(message, mail_from, rcpt_to)
        else:
            data = _bytes_of(message)
        result = SendResult(_NOT_SENT, tuple(rcpt_to))
        if host is not None:
            try:
                result = _deliver(host, message, data, mail_from, rcpt_to, timeout)
            except SmtpError as error:
                self.settings().reword(error)
                raise
        self._record(message)
        return result

    def _record(self, message: AnyMessage) -> None:
        for outbox in list(_OUTBOXES.values()):
            outbox.append(message)
        email_dispatched.send(self.app, message=message)
        # A program that connects to Flask-Mail's signal has imported Flask-Mail.
        theirs = sys.modules.get("flask_mail")
        if theirs is not None:
            theirs.email_dispatched.send(self.app, message=message)


_COMMON = {"server": "host"}


def _max_emails(config: Mapping[str, Any]) -> int | None:
    given = config.get("MAIL_MAX_EMAILS")
    try:
        return int(given) or None if given else None
    except (TypeError, ValueError):
        raise ValidationError(f"MAIL_MAX_EMAILS is a number, not {given!r:.40}") from None


def _suppress(config: Mapping[str, Any], app: Flask) -> bool:
    chosen = config.get("MAIL_SUPPRESS_SEND")
    return (
        bool(config.get("TESTING", False)) if chosen is None else flag("MAIL_SUPPRESS_SEND", chosen)
    )


def _debug(config: Mapping[str, Any], app: Flask) -> int:
    chosen = config.get("MAIL_DEBUG")
    if chosen is None:
        return int(app.debug)
    return chosen if type(chosen) is int else int(flag("MAIL_DEBUG", chosen))


_READ: dict[str, Callable[[Mapping[str, Any], Flask], object]] = {
    "server": lambda config, app: config.get("MAIL_SERVER") or "127.0.0.1",
    "port": lambda config, app: config.get("MAIL_PORT") or 25,
    "username": lambda config, app: config.get("MAIL_USERNAME"),
    "password": lambda config, app: config.get("MAIL_PASSWORD"),
    "use_tls": lambda config, app: flag("MAIL_USE_TLS", config.get("MAIL_USE_TLS") or False),
    "use_ssl": lambda config, app: flag("MAIL_USE_SSL", config.get("MAIL_USE_SSL") or False),
    "default_sender": lambda config, app: config.get("MAIL_DEFAULT_SENDER"),
    "debug": _debug,
    "max_emails": lambda config, app: _max_emails(config),
    "suppress": _suppress,
    "ascii_attachments": lambda config, app: flag(
        "MAIL_ASCII_ATTACHMENTS", config.get("MAIL_ASCII_ATTACHMENTS") or False
    ),
}
"""How each attribute of `MailState` is read from the configuration."""


class Mail(_Attributes):
    """The extension. One object serves any number of applications.

    The attributes of `MailState` are attributes here too, for the current application.

    Args:
        app: an application to set up now; used when there is no application context.

    Attributes:
        app: that application.
        state: its `MailState`; None without one.

    Raises:
        ValidationError: an invalid setting.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.app = app
        self.state = None if app is None else self.init_app(app)

    def init_app(self, app: Flask) -> MailState:
        """Set up ``app`` with its ``MAIL_*`` and ``SMTPCONN`` configuration.

        Raises:
            ValidationError: an invalid setting.
        """
        state = MailState(app)
        state.settings().config()
        for name in _READ:
            getattr(state, name)
        app.extensions["smtpconn"] = state
        # flask_mail.Message reads the default sender from here, and packages call `send` of it.
        app.extensions.setdefault("mail", state)
        return state

    def init_mail(
        self, config: Mapping[str, Any], debug: bool | int = False, testing: bool = False
    ) -> MailState:
        """A `MailState` of the current application for another configuration, as in Flask-Mail.

        Args:
            config: ``MAIL_*`` and ``SMTPCONN``.
            debug, testing: the defaults of MAIL_DEBUG and MAIL_SUPPRESS_SEND.
        """
        app = self.app or current_app._get_current_object()  # type: ignore[attr-defined]
        own = {"MAIL_DEBUG": int(debug), "MAIL_SUPPRESS_SEND": testing, **config}
        return MailState(app, own)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            if name not in _READ:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self._state(), name)

    @property
    def pool(self) -> ConnectionPool:
        """The current application's pool; the process has one for equal settings.

        Raises:
            RuntimeError: there is no current application, or it was not set up.
            ValidationError: an invalid setting.
            OSError: the client's certificate or key cannot be read.
        """
        return self._state().pool()

    def send(
        self,
        message: AnyMessage,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        *,
        timeout: float | None = None,
    ) -> Result:
        """Send a message; if sending is suppressed, only check and record it.

        Args:
            message: an `EmailMessage` or another `email.message.Message`, or a
                ``flask_mail.Message``. One of the email package without From, Date or Message-ID
                gets them (on a copy): From is ``MAIL_DEFAULT_SENDER``.
            sender, recipients: None for those in the message.
            timeout: seconds for the whole call; None for ``MAIL_TIMEOUT``.

        Returns the result. If sending is suppressed, its response is a generated 250 that says so.

        Raises:
            SmtpError: as `ConnectionPool.send_message`; also if no recipient got the message over
                LMTP.
            ValidationError: an invalid address or none (`UnaddressedError`), or a line break in a
                header field (``BadHeaderError``).
            RuntimeError: as `pool`.
        """
        return self._state().send(message, sender, recipients, timeout=timeout)

    def send_message(self, *args: object, **kwargs: object) -> Result:
        """Send ``flask_mail.Message(*args, **kwargs)``: a shortcut that Flask-Mail has.

        Raises:
            ImportError: Flask-Mail is not installed.
            SmtpError: as `send`.
        """
        return self._state().send_message(*args, **kwargs)

    def connect(self) -> Connection:
        """For ``with mail.connect() as connection``, as in Flask-Mail.

        Flask-Mail sends every message in the block over one connection. Here each message borrows
        one from the pool, and a dead connection is replaced. To hold one connection, use
        ``mail.pool.connection()``.

        Raises:
            RuntimeError: as `pool`.
        """
        return self._state().connect()

    @contextmanager
    def record_messages(self) -> Iterator[list[AnyMessage]]:
        """Record the messages of every extension and thread during the block, suppressed or not."""
        outbox: list[AnyMessage] = []
        _OUTBOXES[id(outbox)] = outbox
        try:
            yield outbox
        finally:
            del _OUTBOXES[id(outbox)]

    def _state(self) -> MailState:
        app = current_app._get_current_object() if has_app_context() else None  # type: ignore[attr-defined]
        for each in (app, self.app):
            state = None if each is None else each.extensions.get("smtpconn")
            if isinstance(state, MailState):
                return state
        if app is None:
            raise RuntimeError("there is no current application: use app.app_context()")
        raise RuntimeError("the current application was not set up: call mail.init_app(app)")


class Connection:
    """The result of `Mail.connect`; entering it checks that the server can be reached.

    Args:
        mail: the state of the application.

    Attributes:
        mail: the argument.
        host: a `BackendConnection` inside the block, with ``sendmail``; None if sending is
            suppressed.
        num_emails: messages sent since the block began, or since ``MAIL_MAX_EMAILS`` was reached.
    """

    def __init__(self, mail: MailState) -> None:
        self.mail = mail
        self.host: Host | None = None
        self.num_emails = 0

    def __enter__(self) -> Self:
        self.host = None if self.mail.suppress else self.configure_host()
        self.num_emails = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: the connections belong to the pool."""

    def configure_host(self) -> BackendConnection:
        """The value of `host`, after a check that the server can be reached.

        Raises:
            SmtpError: it cannot be reached, or refuses the login.
            ValidationError: an invalid setting.
        """
        pool = self.mail.pool()
        try:
            with pool.connection():
                pass
        except SmtpError as error:
            self.mail.settings().reword(error)
            raise
        return BackendConnection(pool)

    def send(self, message: AnyMessage, envelope_from: Person | None = None) -> Result:
        """As `Mail.send`, with Flask-Mail's name for the sender."""
        sender = None if envelope_from is None else reverse_path(_text(envelope_from))
        host = self.host
        if host is None and not self.mail.suppress:
            # Called outside the ``with`` block.
            host = BackendConnection(self.mail.pool())
        result = self.mail._send(host, message, sender, None, None)
        self.num_emails += 1
        if self.num_emails == self.mail.max_emails:
            self.num_emails = 0
        return result

    def send_message(self, *args: object, **kwargs: object) -> Result:
        """As `Mail.send_message`."""
        return self.send(_flask_mail_message(*args, **kwargs))


def _flask_mail_message(*args: object, **kwargs: object) -> FlaskMailMessage:
    from flask_mail import Message as Theirs

    return Theirs(*args, **kwargs)  # type: ignore[arg-type]


def _show_session(config: Mapping[str, Any]) -> None:
    """Print SMTP sessions without secrets, if ``MAIL_DEBUG`` is set as in Flask-Mail."""
    chosen = config.get("MAIL_DEBUG")
    wire = logging.getLogger("smtpconn.wire")
    if chosen and flag("MAIL_DEBUG", bool(chosen) if type(chosen) is int else chosen):
        if not wire.hasHandlers():
            wire.addHandler(logging.StreamHandler())
        wire.setLevel(logging.DEBUG)


def _with_sender(
    message: Message[object, Any], default_sender: Person | None
) -> Message[object, Any]:
    if "From" in message or not default_sender:
        return message
    complete = copy.copy(message)
    # The copy shares its list of header fields; `del` makes a new list, adding does not.
    del complete["From"]
    complete["From"] = _text(default_sender)
    return complete


def _envelope(
    message: AnyMessage, sender: str | ReversePath | None, recipients: Recipients | None
) -> tuple[ReversePath, list[ForwardPath]]:
    """The sender and the recipients.

    Raises:
        UnaddressedError: one is missing.
        ValidationError: an invalid address.
    """
    if isinstance(sender, ReversePath):
        mail_from = sender
    elif sender is not None:
        mail_from = ReversePath(str(sender))
    elif isinstance(message, Message):
        mail_from = _sender_of(message)
    elif message.sender:
        mail_from = reverse_path(_text(message.sender))
    else:
        raise UnaddressedError("the message has no sender, and MAIL_DEFAULT_SENDER is not set")
    if recipients is None:
        found = _recipients(message)
    elif isinstance(recipients, ForwardPath):
        found = [recipients]
    elif isinstance(recipients, str):
        found = [ForwardPath(str(recipients))]
    else:
        found = [r if isinstance(r, ForwardPath) else ForwardPath(str(r)) for r in recipients]
    if not found:
        raise UnaddressedError("the message has no recipients")
    return mail_from, found


def _sender_of(message: Message[object, Any]) -> ReversePath:
    if "From" not in message and "Sender" not in message:
        raise UnaddressedError("the message has no From, and MAIL_DEFAULT_SENDER is not set")
    return sender_of(message)


def _recipients(message: AnyMessage) -> list[ForwardPath]:
    if isinstance(message, Message):
        fields = ("To", "Cc", "Bcc", "Resent-To", "Resent-Cc", "Resent-Bcc")
        return recipients_of(message) if any(map(message.get_all, fields)) else []
    # `send_to` is a set; sorted, so that the same message leads to the same commands.
    return forward_paths(sorted(map(_text, message.send_to)))


def _bytes_of(message: FlaskMailMessage) -> bytes:
    if message.has_bad_headers():
        raise sys.modules[__name__].BadHeaderError("a header field holds a line break")
    if message.mail_options or message.rcpt_options:
        raise ValidationError(
            "mail_options and rcpt_options would be sent unchecked and are not supported: use "
            "mail.pool.send with MailFromParams and RcptToParams"
        )
    if message.date is None:
        message.date = time.time()
    readable = _with_readable_names(message)
    try:
        made = _made_by_flask_mail(readable)
        return readable.as_bytes() if made is None else serialize(made, _OFFERED, smtputf8=False)
    except UnicodeEncodeError as error:
        raise ValidationError(
            f"Flask-Mail cannot write a header field with {error.object[error.start]!r}, as in the "
            f"local part of an address: give an EmailMessage"
        ) from error


def _made_by_flask_mail(message: FlaskMailMessage) -> Message[object, Any] | None:
    """The message that Flask-Mail would write; None if a subclass writes its own bytes.

    The email package would write a long URL or id as encoded words.
    """
    method = getattr(message.as_bytes, "__func__", None)
    make = getattr(message, "_message", None)
    if getattr(method, "__module__", "") != "flask_mail" or make is None:
        return None
    made = make()
    return made if isinstance(made, Message) else None


def _with_readable_names(message: FlaskMailMessage) -> FlaskMailMessage:
    """The message, or a copy from which Flask-Mail can read every address.

    Flask-Mail reads addresses with `email.utils.parseaddr`, which finds none after some display
    names, such as ``[Shop] Support``: From would be empty.

    Raises:
        ValidationError: Reply-To is not an address.
    """
    fields: dict[str, object] = {
        "sender": _readable(message.sender),
        "recipients": [_readable(person) for person in message.recipients],
        "cc": [_readable(person) for person in message.cc or ()],
        "reply_to": _readable(message.reply_to) if message.reply_to else message.reply_to,
    }
    changed = {name: value for name, value in fields.items() if value != getattr(message, name)}
    if not any(changed.values()):
        return message
    readable = copy.copy(message)
    for name, value in changed.items():
        setattr(readable, name, value)
    return readable


def _readable(person: Person) -> Person:
    """``person``, or a pair of name and address if Flask-Mail could not read the address."""
    if isinstance(person, tuple):
        return person
    groups = read_groups(str(person))
    named = [each for group in groups for each in group.members]
    if len(named) != 1 or parseaddr(str(person))[1] == named[0].address:
        return person
    return named[0].name, named[0].address


def _serialised(
    message: Message[object, Any], sender: ReversePath, recipients: Iterable[ForwardPath]
) -> bytes:
    utf8 = not (sender.is_ascii and all(each.is_ascii for each in recipients))
    return serialize(message, _OFFERED, smtputf8=utf8)


def _deliver(
    host: Host,
    message: AnyMessage,
    data: bytes,
    sender: ReversePath,
    recipients: list[ForwardPath],
    timeout: float | None,
) -> SendResult:
    if not isinstance(host, BackendConnection):
        # A test has replaced Connection.host.
        if isinstance(message, Message):
            data = _serialised(message, sender, recipients)
            host.sendmail(str(sender), list(map(str, recipients)), data, [], [])
        else:
            options = message.mail_options, message.rcpt_options
            host.sendmail(str(sender), list(map(str, recipients)), data, *options)
        return SendResult(_NOT_SENT, tuple(recipients))
    if not isinstance(message, Message):
        return deliver(host.pool, sender, recipients, data, timeout)
    result = host.pool.send_message(message, sender, recipients, timeout=timeout)
    check_delivered(result)
    return result


def _text(person: Person) -> str:
    """An address as a str; it may be a LocalProxy, which is no str."""
    if isinstance(person, tuple):
        name, address = person
        return formataddr((str(name), str(address)))
    return str(person)
