"""`PooledBackend`: open, close and send_messages as Django and Flask-Mailman call them.

Flask-Mailman is a port of Django's mail, so one class serves both. A framework makes a backend for
every use and often shares one between threads, so a backend holds no connection: ``open`` checks
that the server can be reached, each message borrows a connection from the process's pool, and
``close`` has nothing to close. Therefore:

* An open backend holds no connection while its user composes the next message.
* A dead connection is replaced silently, as by `ConnectionPool.send`.
* Threads that share a backend do not wait for each other.

The frameworks define which errors ``fail_silently`` hides: `OSError` while opening,
`smtplib.SMTPException` while sending. `ValidationError`, for an invalid address or setting, is a
subclass of both, because such values often come from an environment variable, and a page that
reports an error must not fail because of them.
"""

from __future__ import annotations

import abc
import enum
import logging
import smtplib
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from smtpconn.client.config import ServerOptions
from smtpconn.contrib.delivery import deliver, forward_path, forward_paths, reverse_path
from smtpconn.contrib.settings import (
    COMMON_NAMES,
    SECRET_NAMES,
    MailSettings,
    read_settings,
)
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.email_message import AnyMessage, serialize
from smtpconn.model.errors import Phase, SmtpError, ValidationError
from smtpconn.model.secret import Secret
from smtpconn.net.tls import shared_context
from smtpconn.pool.connection_pool import ConnectionPool
from smtpconn.pool.options import PoolKeywords

_NO_CONNECTION = frozenset(
    {
        Phase.CONNECT,
        Phase.TLS,
        Phase.GREETING,
        Phase.EHLO,
        Phase.STARTTLS,
        Phase.AUTH,
        Phase.POOL,
    }
)


_log = logging.getLogger("smtpconn.contrib")


class OutgoingMessage(Protocol):
    """The attributes that the messages of Django and Flask-Mailman have in common."""

    from_email: str

    def recipients(self) -> list[str]:
        """All recipients: to, cc and bcc."""


M = TypeVar("M", bound=OutgoingMessage)

# Most servers offer 8BITMIME. For one that does not, `deliver` encodes the message again.
_OFFERED = ServerCapabilities("", (SmtpExtension("8BITMIME"),))
_NOT_OVERRIDDEN = ("email", "django", "flask_mailman")


class PooledBackend(abc.ABC, Generic[M]):
    """An e-mail backend over the pool of its process.

    Attributes:
        fail_silently: whether errors of the server and the network are not raised.
        host, port, username, password, use_tls, use_ssl, timeout, ssl_certfile, ssl_keyfile: as
            `MailSettings` explains them. May be changed before the backend is used.
        connection: a `BackendConnection` while the backend is open, else None.
    """

    fail_silently: bool
    host: str | None
    port: int | str | None
    username: str | None
    use_tls: bool | None
    use_ssl: bool | None
    timeout: float | str | None
    ssl_certfile: str | None
    ssl_keyfile: str | None
    connection: BackendConnection | None = None
    _settings: MailSettings
    _password: Secret | None = None
    _left_out: _LeftOut | None = None
    _ssl_context: ssl.SSLContext | None = None

    @property
    def password(self) -> str | None:
        """The password, as the frameworks' own backends have it; no repr shows it."""
        return None if self._password is None else self._password.reveal()

    @password.setter
    def password(self, value: str | Secret | None) -> None:
        self._password = None if value is None else Secret.of(value)

    def take_settings(
        self, *sources: Mapping[str, object], names: Mapping[str, str] | None = None
    ) -> None:
        """Take what `read_settings` finds in ``sources``, and check it.

        A missing host is no error yet: the host often comes from the environment, and code that
        makes a backend and sends nothing must work without it.

        Args:
            sources, names: as `read_settings` takes them.

        Raises:
            ValidationError: an invalid setting.
        """
        self._settings = read_settings(*sources, names=names)
        if self._settings.names_server:
            port = self._settings.config().port
        else:
            port = self._settings.usual_port
        for name in COMMON_NAMES:
            setattr(self, name, getattr(self._settings, name))
        self.use_tls, self.use_ssl = bool(self.use_tls), bool(self.use_ssl)
        if self._settings.url is None:
            self.port = port

    @property
    def pool(self) -> ConnectionPool:
        """The process's pool for this backend's settings.

        Raises:
            ValidationError: an invalid setting, or no server is named.
            OSError: the client's certificate or key cannot be read.
        """
        settings = self._current_settings()
        context = self._chosen_context()
        if context is not None:
            server: ServerOptions = {**settings.server, "tls_context": context}
            server.pop("cafile", None)
            settings = replace(settings, server=server, ssl_certfile=None, ssl_keyfile=None)
        return settings.get_pool()

    def check(self) -> PoolKeywords:
        """Check every setting, including the limits of the pool and the files of TLS.

        Returns the limits that are set.

        Raises:
            ValidationError: an invalid setting, or no server is named.
            OSError: the client's certificate or key, or ``cafile``, cannot be read.
        """
        settings = self._current_settings()
        ConnectionPool(settings.config_with_tls(), **settings.pool).close(0)
        return settings.pool

    def _chosen_context(self) -> ssl.SSLContext | None:
        """The context that was set, or one that a subclass makes.

        A subclass makes a context for each backend, and each context would get its own pool. So the
        first context it made for the same certificate is used.
        """
        if self._ssl_context is not None or type(self).ssl_context is PooledBackend.ssl_context:
            return self._ssl_context
        # The key contains `ssl.SSLContext`, because gevent may replace that class: contexts made
        # before that cannot be used afterwards.
        key = (type(self), self.ssl_certfile, self.ssl_keyfile, ssl.SSLContext)
        known = _CONTEXTS.get(key)
        return known if known is not None else _CONTEXTS.setdefault(key, self.ssl_context)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The TLS context; it may be set, and a subclass may override it.

        Raises:
            OSError: the client's certificate or key, or ``cafile``, cannot be read.
        """
        given = self._ssl_context or self._current_settings().server.get("tls_context")
        if given is not None:
            return given
        cafile = self._settings.server.get("cafile")
        return shared_context(cafile, self.ssl_certfile or None, self.ssl_keyfile or None)

    @ssl_context.setter
    def ssl_context(self, context: ssl.SSLContext) -> None:
        self._ssl_context = context

    def open(self) -> bool | None:
        """Check that the server can be reached.

        Returns True; False if the backend was open already; None if it failed silently.

        Raises:
            OSError: the server cannot be reached, refuses the login, or a setting is invalid;
                unless silent.
        """
        if self.connection is not None:
            return False
        try:
            pool = self.pool
            if not _is_used(pool):
                with pool.connection():
                    pass
        except OSError as error:
            self._reword(error)
            if not self.fail_silently:
                raise
            if isinstance(error, ValidationError):
                _log.warning("no mail is sent: %s", error)
            return None
        self.connection = BackendConnection(pool)
        return True

    def close(self) -> None:
        """Mark the backend as closed. The pool stays open; raises nothing."""
        self.connection = None

    def send_messages(self, email_messages: Iterable[M]) -> int:
        """Send ``email_messages`` of the framework, one after the other.

        Returns the number of messages that were accepted for at least one recipient. A message
        without recipients is skipped. Without ``fail_silently`` the first error of the server ends
        the call. An invalid message, such as one with an invalid address, does not: the others are
        sent before its error is raised.

        Raises:
            SmtpError: a message was not sent, unless silent; `ConnectionPool.send` says why. A
                `ValidationError` means an invalid address.
            ValueError: the framework cannot serialise a message.
        """
        if not email_messages:
            return 0
        opened = self.open()
        if opened is None:
            return 0
        sent = 0
        unsendable: ValidationError | None = None
        try:
            for message in email_messages:
                try:
                    sent += bool(self._send(message))
                except ValidationError as error:
                    unsendable = unsendable or error
                except smtplib.SMTPException as error:
                    self._reword(error)
                    if not self.fail_silently:
                        raise
                    # Each further message would wait a whole timeout for the same server.
                    if isinstance(error, SmtpError) and error.phase in _NO_CONNECTION:
                        break
        finally:
            if opened:
                self.close()
        if unsendable is not None:
            if not self.fail_silently:
                raise unsendable
            # The text of the error is left out, because it contains the address.
            _log.warning("a message was not sent: its address or content may not be sent")
        return sent

    def _reword(self, error: OSError) -> None:
        if isinstance(error, SmtpError):
            self._settings.reword(error)

    @abc.abstractmethod
    def recreate(self) -> PooledBackend[M]:
        """A new backend as the framework makes it, from the settings of this process."""

    def _current_settings(self) -> MailSettings:
        if self._left_out is not None:
            self._fill_in(self._left_out)
        now = {name: getattr(self, name) for name in COMMON_NAMES}
        return replace(self._settings, **(now | {"password": self._password}))

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        return made

    def __deepcopy__(self, memo: object) -> Self:
        # Copying a message copies its backend too; the contents are shared.
        return self.__copy__()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the backend without secrets and without objects that cannot be pickled.

        Queues pickle a message together with its backend. The process that sends the message takes
        the missing values from its own settings.
        """
        now = self._current_settings()
        values = {f.name: getattr(now, f.name) for f in fields(now)}
        values |= {"server": dict(now.server), "pool": dict(now.pool), "names": dict(now.names)}
        names = [name for name in SECRET_NAMES if values.pop(name)]
        for part in ("server", "pool"):
            plain = {name: value for name, value in values[part].items() if _is_plain(value)}
            names += values[part].keys() - plain.keys()
            values[part] = plain
        left_out = _LeftOut(tuple(names), _server_of(now)) if names else None
        others = {"fail_silently": self.fail_silently, "alias": getattr(self, "alias", None)}
        return _unpickled, (type(self), values, left_out, others)

    def _fill_in(self, left_out: _LeftOut) -> None:
        """Take the values that were not pickled from the settings of this process.

        Raises:
            ValidationError: those settings are for another server or login, so that secrets would
                be sent to the wrong server.
        """
        current = self.recreate()._current_settings()
        if _server_of(current) != left_out.server:
            raise ValidationError(
                f"{', '.join(left_out.names)} of this backend were not pickled, and the settings "
                f"of this process are for another server or login: give the message a new "
                f"connection"
            )
        found: dict[str, Any] = {}
        for name in SECRET_NAMES:
            if name in left_out.names:
                found[name] = getattr(current, name)
        found["server"] = {**current.server, **self._settings.server}
        found["pool"] = {**current.pool, **self._settings.pool}
        if found.get("url") is not None:
            found |= dict.fromkeys(("host", "port", "use_tls", "use_ssl"))
        self._settings = replace(self._settings, **found)
        self._password = cast("Secret | None", found.get("password"))
        self._left_out = None

    @abc.abstractmethod
    def message_bytes(self, message: M, *, smtputf8: bool) -> bytes:
        """The message as it is sent, without Bcc.

        Args:
            message: a message of the framework.
            smtputf8: whether its headers may contain UTF-8, because an address needs it.
        """

    def _send(self, message: M) -> bool:
        """Send one message; the frameworks' backends have this method, and subclasses override it.

        Returns False if it has no recipient.
        """
        texts = message.recipients()
        if not texts:
            return False
        sender, recipients = _envelope(message.from_email, texts)
        utf8 = not (sender.is_ascii and all(r.is_ascii for r in recipients))
        data = self.message_bytes(message, smtputf8=utf8)
        # Another thread that shares this backend may have closed it.
        connection = self.connection or BackendConnection(self.pool)
        connection.sendmail(sender, recipients, data)
        return True


class BackendConnection:
    """Replaces the connection that the frameworks' own backends have as ``backend.connection``.

    Attributes that it does not define are those of the pool.

    Args:
        pool: the pool that messages are sent over.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self.pool = pool

    @property
    def timeout(self) -> float:
        """Seconds for a message as a whole."""
        return self.pool.config.timeout

    def sendmail(
        self,
        from_addr: str | ReversePath,
        to_addrs: str | Sequence[str | ForwardPath],
        msg: bytes,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> dict[str, tuple[int, bytes]]:
        """Send bytes as `smtplib.SMTP.sendmail` does.

        Returns the refused recipients, each with code and text, if others were accepted.

        Raises:
            SmtpError: as `ConnectionPool.send`, and if no recipient got the message.
            ValidationError: an invalid address; or options, which are refused because nothing
                checks them.
        """
        if mail_options or rcpt_options:
            raise ValidationError(
                "mail_options and rcpt_options are not supported: use pool.send with mail_params "
                "and rcpt_params"
            )
        several = [to_addrs] if isinstance(to_addrs, str) else to_addrs
        sender = from_addr if isinstance(from_addr, ReversePath) else reverse_path(from_addr)
        recipients = [r if isinstance(r, ForwardPath) else forward_path(r) for r in several]
        result = deliver(self.pool, sender, recipients, msg)
        return {
            address: (reply.code, "\n".join(reply.lines).encode())
            for address, reply in result.refused.items()
        }

    def noop(self) -> tuple[int, bytes]:
        """Send NOOP over one of the pool's connections.

        Raises:
            SmtpError: the server cannot be reached.
        """
        with self.pool.connection() as connection:
            connection.noop()
        return 250, b"OK"

    def quit(self) -> None:
        """Do nothing: the connections belong to the pool."""

    close = quit

    def __getattr__(self, name: str) -> Any:
        if name == "pool":
            raise AttributeError(name)
        return getattr(self.pool, name)


def serialised(message: AnyMessage, *, smtputf8: bool, linesep: str | None = None) -> bytes:
    """A framework's finished message as it is sent, without Bcc.

    Args:
        message: a copy that was made to be sent.
        smtputf8: whether its headers may contain UTF-8.
        linesep: the argument for the message's own ``as_bytes`` if a package overrides it, as
            packages that sign do (DKIM); the override is then called.

    Raises:
        ValidationError: as `smtpconn.model.email_message.serialize`.
    """
    method = getattr(message.as_bytes, "__func__", None)
    if getattr(method, "__module__", "").partition(".")[0] in _NOT_OVERRIDDEN:
        return serialize(message, _OFFERED, smtputf8=smtputf8)
    del message["Bcc"]
    own: Callable[..., bytes] = message.as_bytes
    return own() if linesep is None else own(linesep=linesep)


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """The settings that were left out when a backend was pickled.

    Attributes:
        names: the settings that were left out.
        server: the server and login they belong to.
    """

    names: tuple[str, ...]
    server: tuple[object, ...]


def _server_of(settings: MailSettings) -> tuple[object, ...]:
    if not settings.names_server:
        return (None, settings.port, settings.username)
    config = settings.config()
    user = None if config.credentials is None else config.credentials.user
    return config.host, config.port, str(config.tls_mode), str(config.protocol), user


def _is_plain(value: object) -> bool:
    """Whether a setting can be pickled and holds no secret."""
    if isinstance(value, (tuple, list, frozenset)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, enum.Enum))


def _unpickled(
    kind: type[PooledBackend[Any]],
    values: dict[str, Any],
    left_out: _LeftOut | None,
    others: dict[str, Any],
) -> PooledBackend[Any]:
    made: PooledBackend[Any] = kind.__new__(kind)
    vars(made).update(others)
    made._settings = MailSettings(**values)
    made._left_out = left_out
    for name in COMMON_NAMES:
        setattr(made, name, getattr(made._settings, name))
    return made


def _is_used(pool: ConnectionPool) -> bool:
    """Whether a connection is in use: then the server is reachable and needs no check."""
    stats = pool.stats()
    return stats.in_use > stats.connecting


# The first context that a subclass made, by the subclass, the client's certificate and key, and the
# class of contexts.
_CONTEXTS: dict[tuple[type, str | None, str | None, type], ssl.SSLContext] = {}


def _envelope(sender: str, recipients: list[str]) -> tuple[ReversePath, list[ForwardPath]]:
    """The paths of a message.

    Raises:
        ValidationError: an invalid address.
    """
    try:
        return reverse_path(str(sender)), forward_paths(map(str, recipients))
    except ValidationError as error:
        raise ValidationError(f"Invalid address: {error}") from error
