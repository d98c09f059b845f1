"""`PooledSmtpHandler`: mail log records, without making the application wait.

Example::

    handler = PooledSmtpHandler("smtps://user:password@smtp.example.com", sender, [admin], "Errors")

It takes the arguments of `logging.handlers.SMTPHandler`. A record is formatted in the thread that
logs it and queued; one background thread mails groups of records over its own connection.
`smtpconn.contrib.logging_queue` decides which records are mailed and when; this module has the
thread, the waiting and the mail itself.

Records that the handler itself causes must not be mailed, or each mail would cause another one. So
it ignores the loggers of smtpconn, and every record made in its own thread.
"""

from __future__ import annotations

import email.policy
import itertools
import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from typing import TypeAlias

from smtpconn.auth.credentials import PasswordCredentials
from smtpconn.client.config import ServerConfig
from smtpconn.contrib.delivery import (
    bare_address,
    deliver,
    has_local_name,
    local_recipients,
    local_sender,
)
from smtpconn.contrib.logging_queue import Batch, Entry, RecordQueue, Rules, check_seconds
from smtpconn.contrib.settings import MailSettings
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.email_message import serialize
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.modes import TlsMode
from smtpconn.model.secret import Secret
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_if_forked, reset_in_child
from smtpconn.net.threads import start_thread
from smtpconn.pool.connection_pool import ConnectionPool

MAX_RECORD = 64 * 1024
"""Characters of a record that are mailed; limits the memory of a full queue."""

MAX_SUBJECT = 200

DEFAULT_TIMEOUT = 30.0

_POLICY = email.policy.SMTP.clone(cte_type="8bit")
_OFFERED = ServerCapabilities("", (SmtpExtension("8BITMIME"),))

_Server: TypeAlias = "tuple[str, int | None, str | None, Secret | None, tuple[str, ...] | None]"
"""A snapshot of the attributes: host, port, user, password and ``secure``."""

_log = logging.getLogger("smtpconn.contrib")
_numbers = itertools.count(1)


class PooledSmtpHandler(logging.Handler):
    """A logging handler that mails records in groups, from a background thread.

    Args:
        mailhost: the server: a URL as `ServerConfig.from_url` takes it, a `ServerConfig`, a host
            name or a pair of host and port as `logging.handlers.SMTPHandler` takes them; or a
            `ConnectionPool`, which is then not closed with the handler.
        fromaddr: the sender. Here and in ``toaddrs`` a name without a domain, such as ``root``, is
            a mailbox of the server's own machine.
        toaddrs: the recipients: a list, or a str with commas.
        subject: the subject of the mails; override `getSubject` to make it from the record.
        credentials: user name and password, with a host name or pair.
        secure: for STARTTLS, with a host name or pair: ``()``, or the client's key file, or that
            and its certificate file.
        timeout: seconds for a mail as a whole; None for 30. The application does not wait for it.
        block: seconds that the application may wait when the queue is full; 0 to drop the record at
            once.
        capacity: records that may wait.
        group_for: seconds that a record waits for others to share a mail with.
        max_records: records per mail.
        max_mails, per: at most ``max_mails`` mails in ``per`` seconds.
        close_timeout: seconds that `flush` and `close`, and so the end of the process, may take.

    Attributes:
        mailhost, mailport, username, password, secure, timeout, fromaddr, toaddrs, subject: as
            `logging.handlers.SMTPHandler` has them; taken from a URL or a `ServerConfig`. Setting
            one takes effect with the next mail.
        dropped: records that were not mailed, for any reason.
        mailed: records in mails that the server accepted.
        unknown: records in mails that may have been delivered; they are not sent again.

    Raises:
        ValidationError: an invalid address, URL or limit.
        OSError: a file of ``secure`` cannot be read.
    """

    # `repr` reads this attribute; in error reports also before ``Handler.__init__`` has set it.
    level = logging.NOTSET

    def __init__(
        self,
        mailhost: str | tuple[str, int] | ServerConfig | ConnectionPool,
        fromaddr: str,
        toaddrs: str | Sequence[str],
        subject: str,
        credentials: tuple[str, str] | None = None,
        secure: tuple[()] | tuple[str] | tuple[str, str] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        block: float = 0.0,
        capacity: int = 1000,
        group_for: float = 5.0,
        max_records: int = 100,
        max_mails: int = 10,
        per: float = 60.0,
        close_timeout: float = 2.0,
    ) -> None:
        # Error reports show local variables.
        server = Secret(mailhost) if isinstance(mailhost, str) else mailhost
        login = _wrapped(credentials)
        del mailhost, credentials
        self.fromaddr = fromaddr
        self.toaddrs: str | Sequence[str] = _listed(toaddrs)
        self.subject = subject
        self.timeout = timeout
        self._envelope()
        self._seconds()
        self._block = check_seconds("block", block)
        self._close_timeout = check_seconds("close_timeout", close_timeout)
        self._rules = Rules(capacity, group_for, max_records, max_mails, per)
        self._owns_pool = not isinstance(server, ConnectionPool)
        if isinstance(server, ConnectionPool):
            self._pool = server
        else:
            self._pool = _own_pool(_config_of(server, login, secure))
        config, found = self._pool.config, self._pool.config.credentials
        if isinstance(found, PasswordCredentials):
            login = found.user, Secret.of(found.password)
        self.mailhost = config.host
        # None if only a host is given, as in SMTPHandler.
        self.mailport = None if _is_bare_host(server) else config.port
        self.username: str | None = None if login is None else login[0]
        self._password: Secret | None = None if login is None else login[1]
        self.secure = () if secure is None and config.tls_mode is not TlsMode.NONE else secure
        self._config, self._pool_is_for = config, self._server()
        self._thread_name = f"smtpconn-log-mail-{next(_numbers)}"
        self._is_closed = False
        self.reset_after_fork()
        # Called last, because it registers the handler, and `logging.shutdown` flushes every
        # registered handler, even one whose constructor has not finished.
        super().__init__()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Start empty in a forked child: the parent mails what it has queued."""
        # Re-entrant: a destructor that logs may run anywhere.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._progress = threading.Condition(self._lock)
        self._queue = RecordQueue(self._rules)
        self._thread: threading.Thread | None = None
        self._own_ident = 0
        self._flushing = 0
        self._flush_timed_out = False
        self._close_deadline = float("inf")

    @property
    def password(self) -> str | None:
        """The password; no repr shows it."""
        return None if self._password is None else self._password.reveal()

    @password.setter
    def password(self, value: str | None) -> None:
        self._password = None if value is None else Secret.of(value)

    @property
    def dropped(self) -> int:
        """Records that were not mailed."""
        reset_if_forked()
        return self._queue.dropped

    @property
    def mailed(self) -> int:
        """Records in mails that the server accepted."""
        reset_if_forked()
        return self._queue.mailed

    @property
    def unknown(self) -> int:
        """Records in mails that may have been delivered."""
        reset_if_forked()
        return self._queue.unknown

    def getSubject(self, record: logging.LogRecord) -> str:
        """The subject for a record; a mail gets that of its most severe record."""
        return self.subject

    def handle(self, record: logging.LogRecord) -> bool:
        """Filter a record and emit it, without the lock of `logging.Handler`.

        With that lock the application's threads would wait for each other, each up to ``block``
        seconds.
        """
        decision: object = self.filter(record)  # since Python 3.12 it may be another record
        if isinstance(decision, logging.LogRecord):
            record = decision
        if decision:
            self.emit(record)
        return bool(decision)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record; drop and count it if there is no room."""
        reset_if_forked()
        try:
            if not self._is_our_own(record):
                text = _cut(self.format(record), MAX_RECORD)
                self._put(Entry(record.levelno, self.getSubject(record), text, time.monotonic()))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Mail everything now, waiting at most ``close_timeout`` seconds.

        Does not wait for a mail that has failed and is retried later.
        """
        reset_if_forked()
        if self._own_ident == threading.get_ident() or not self._has_thread():
            return
        with self._lock:
            self._flushing += 1
            _warm_up_loggers()
            self._work.notify_all()
            try:
                self._flush_timed_out = not self._progress.wait_for(
                    lambda: self._queue.is_empty or self._queue.is_pausing,
                    self._close_timeout,
                )
            finally:
                self._flushing -= 1

    def close(self) -> None:
        """Mail what is queued, within ``close_timeout`` seconds; afterwards nothing is mailed.

        `logging.shutdown` calls this when the process ends.
        """
        reset_if_forked()
        try:
            if not self._is_closed:
                self._finish()
        finally:
            super().close()

    def _is_our_own(self, record: logging.LogRecord) -> bool:
        if f"{record.name}.".startswith("smtpconn."):
            return True
        if threading.get_ident() == self._own_ident:
            return True
        # A record that came through a queue is handled in another thread than the one that made
        # it, which may have ended.
        is_from_thread = record.thread == self._own_ident or record.threadName == self._thread_name
        return is_from_thread and record.process == os.getpid()

    def _put(self, entry: Entry) -> None:
        if not self._queue.has_room:
            # The queue may be full because no thread could be started before.
            self._has_thread()
        with self._lock:
            if not self._queue.has_room and self._block and not self._is_closed:
                self._progress.wait_for(lambda: self._queue.has_room, self._block)
            if self._is_closed or not self._queue.has_room:
                self._queue.drop(1)
                return
            if self._queue.add(entry):
                self._work.notify_all()
        self._has_thread()

    def _has_thread(self) -> bool:
        """Whether the thread runs; starts it if necessary."""
        thread: threading.Thread | None = None
        is_started = False
        try:
            with self._lock:
                if self._thread is not None or self._queue.is_empty:
                    return self._thread is not None
                thread = threading.Thread(target=self._run, name=self._thread_name, daemon=True)
                self._thread = thread
            # Started without the lock: if gevent patches threads after this handler was made, all
            # greenlets count as one thread for the lock, and the new one would enter it.
            start_thread(thread)
            is_started = True
        except RuntimeError:
            pass  # threads cannot be started now: the next record tries, or `close` mails
        finally:
            if thread is not None and not is_started:
                with self._lock:
                    if self._thread is thread and not self._own_ident:
                        self._thread = None  # if the thread runs later nevertheless, it ends
                        self._progress.notify_all()
        return is_started

    def _run(self) -> None:
        """Mail until no record waits; then the thread ends.

        It does not stay to wait for records: an application server may fork its workers after the
        first records, and a fork is safer the fewer threads there are.
        """
        thread = threading.current_thread()
        with self._lock:
            if self._thread is not thread:
                return
            self._own_ident = threading.get_ident()
        try:
            while (batch := self._next()) is not None:
                self._mail(batch)
        finally:
            with self._lock:
                if self._thread is thread:
                    self._ends()

    def _ends(self) -> None:
        """Note that this thread takes no more records; the caller holds the lock."""
        self._own_ident = 0
        self._thread = None
        self._progress.notify_all()

    def _next(self) -> Batch | None:
        """Wait until a mail is due; None when there is nothing to be mailed."""
        with self._lock:
            while True:
                now = time.monotonic()
                due = self._queue.due_at(
                    now, is_flushing=self._flushing > 0, is_closing=self._is_closed
                )
                if due is None:
                    self._ends()
                    return None
                if due <= now:
                    return self._queue.take(now)
                self._work.wait(due - now)

    def _mail(self, batch: Batch) -> None:
        settled = False
        try:
            sender, recipients = self._envelope()
            data = self._compose(batch)
            seconds = min(self._seconds(), max(0.001, self._close_deadline - time.monotonic()))
            # SMTPHandler sends text unencoded; these mails must be as easy to read.
            deliver(self._current_pool(), sender, recipients, data, seconds, as_it_stands=True)
            settled = True
        except Exception as error:
            settled = True
            self._failed(batch, error)
        else:
            with self._lock:
                self._queue.delivered()
                self._flush_timed_out = False
        finally:
            with self._lock:
                if not settled:
                    # The greenlet was killed, so the delivery status is not known.
                    self._queue.failed(0, certainly=False, may_retry=False)
                self._progress.notify_all()

    def _envelope(self) -> tuple[ReversePath, list[ForwardPath]]:
        """The current sender and recipients; raises ValidationError."""
        recipients = local_recipients(self._to())
        if not recipients:
            raise ValidationError("toaddrs is empty: the records have no recipient")
        return local_sender(self.fromaddr), recipients

    def _to(self) -> list[str]:
        return _listed(self.toaddrs)

    def _seconds(self) -> float:
        return Deadline(DEFAULT_TIMEOUT if self.timeout is None else self.timeout).timeout

    def _server(self) -> _Server:
        secure = None if self.secure is None else tuple(self.secure)
        return self.mailhost, self.mailport, self.username, self._password, secure

    def _current_pool(self) -> ConnectionPool:
        """The pool for the current attributes; a new one if they were changed."""
        now = self._server()
        if now == self._pool_is_for:
            return self._pool
        host, port, user, password, secure = now
        config = self._config.replace(host=host, port=port or self._config.port)
        if (user, password) != self._pool_is_for[2:4]:
            credentials = None
            if user is not None and password is not None:
                credentials = PasswordCredentials(user, password.reveal())
            config = config.replace(credentials=credentials)
        if secure != self._pool_is_for[4]:
            of_tls = _as_smtp_handler((host, config.port), None, secure)
            config = config.replace(tls_mode=of_tls.tls_mode, tls_context=of_tls.tls_context)
        old, was_owned = self._pool, self._owns_pool
        self._pool, self._owns_pool = _own_pool(config), True
        self._config, self._pool_is_for = config, now
        if was_owned:
            old.close(0)
        return self._pool

    def _failed(self, batch: Batch, error: Exception) -> None:
        # Errors of other classes are raised by this process before anything is sent.
        is_unknown = isinstance(error, SmtpError) and error.may_have_been_delivered
        is_transient = isinstance(error, SmtpError) and error.is_transient
        with self._lock:
            again = self._queue.failed(
                time.monotonic(),
                certainly=not is_unknown,
                may_retry=is_transient and not self._is_closed,
            )
        if batch.attempts == 1 or not again:
            self.handleError(_record_of(batch))

    def _compose(self, batch: Batch) -> bytes:
        message = EmailMessage(_POLICY)
        first = b""
        for name, addresses in (("From", [self.fromaddr]), ("To", self._to())):
            if has_local_name(addresses) and (text := ", ".join(addresses)).isascii():
                # A name without a domain is no address, so the email package refuses it;
                # `_envelope` has checked the names.
                first += f"{name}: {_one_line(text)}\r\n".encode()
            else:
                message[name] = ", ".join(addresses)
        message["Subject"] = _one_line(batch.subject)
        message["Date"] = format_datetime(localtime())
        message["Message-ID"] = make_msgid(domain=_domain(self.fromaddr))
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic replies
        texts = [entry.text for entry in batch.entries]
        if batch.dropped:
            texts.insert(0, f"({batch.dropped} records before these were dropped.)")
        text = "\n\n".join(texts) + "\n"
        text = text.encode("utf-8", "backslashreplace").decode("utf-8")
        # A NUL must be encoded (RFC 2045 2.7).
        message.set_content(text, cte="base64" if "\0" in text else None)
        return first + serialize(message, _OFFERED, smtputf8=False)

    def _finish(self) -> None:
        seconds_left = 0.0 if self._flush_timed_out else self._close_timeout
        with self._lock:
            self._is_closed = True
            self._close_deadline = time.monotonic() + seconds_left
            _warm_up_loggers()
            self._work.notify_all()
            self._progress.notify_all()
            self._progress.wait_for(lambda: self._thread is None, seconds_left)
            if takes_over := self._thread is None and seconds_left > 0:
                self._thread = threading.current_thread()
        if takes_over:
            self._run()
        with self._lock:
            left = self._queue.abandon()
        if self._owns_pool:
            self._pool.close(0)
        if left:
            _log.warning("%d log records were not mailed", left)


def _listed(toaddrs: object) -> list[str]:
    """The recipients as a list.

    Raises:
        ValidationError: ``toaddrs`` is neither a str nor an iterable of them.
    """
    if isinstance(toaddrs, str):
        return [toaddrs]
    # Iterating a mapping gives its keys, and iterating bytes gives numbers: both are mistakes.
    if isinstance(toaddrs, Iterable) and not isinstance(toaddrs, (bytes, Mapping)):
        found = list(toaddrs)
        if all(isinstance(each, str) for each in found):
            return found
    raise ValidationError(f"toaddrs is an address or a list of them, not {toaddrs!r:.80}")


def _wrapped(credentials: object) -> tuple[str, Secret] | None:
    """The user name and the password, wrapped in `Secret`.

    Raises:
        ValidationError: ``credentials`` is not a pair; the text does not show it.
    """
    if credentials is None:
        return None
    if isinstance(credentials, (tuple, list)) and len(credentials) == 2:
        return credentials[0], Secret(credentials[1])
    kind = type(credentials).__name__
    del credentials
    raise ValidationError(f"credentials are a pair of user name and password, not this {kind}")


def _config_of(
    mailhost: Secret | tuple[str, int] | ServerConfig,
    credentials: tuple[str, Secret] | None,
    secure: Sequence[str] | None,
) -> ServerConfig:
    if isinstance(mailhost, ServerConfig):
        return mailhost
    if not isinstance(mailhost, Secret):
        return _as_smtp_handler(mailhost, credentials, secure)
    if "://" in mailhost.reveal():
        return ServerConfig.from_url(mailhost.reveal())
    return _as_smtp_handler((mailhost.reveal(), 0), credentials, secure)


def _is_bare_host(mailhost: object) -> bool:
    return isinstance(mailhost, Secret) and "://" not in mailhost.reveal()


def _own_pool(config: ServerConfig) -> ConnectionPool:
    """A pool of one connection, which is enough for one thread."""
    return ConnectionPool(config, max_size=1, keepalive=None, name="log-mail")


def _domain(address: str) -> str:
    """The domain of a sender; a fixed one for a name without a domain."""
    try:
        return bare_address(address).rpartition("@")[2] if "@" in address else "localhost"
    except ValidationError:
        return "localhost"


def _as_smtp_handler(
    mailhost: tuple[str, int],
    credentials: tuple[str, Secret] | None,
    secure: Sequence[str] | None,
) -> ServerConfig:
    """The server, from the arguments of `logging.handlers.SMTPHandler`."""
    if not isinstance(secure, (tuple, list, type(None))):
        raise ValidationError(
            "secure is () for STARTTLS, (keyfile,) or (keyfile, certfile) with a certificate of "
            f"your own, or None, not {secure!r:.40}"
        )
    host, port = mailhost
    user, password = credentials if credentials is not None else (None, None)
    keyfile, certfile = [*(secure or ()), None, None][:2]
    return MailSettings(
        host=host,
        port=port or 25,
        username=user,
        password=password,
        use_tls=secure is not None,
        ssl_keyfile=keyfile,
        ssl_certfile=certfile or keyfile,
    ).config_with_tls()


def _warm_up_loggers() -> None:
    """Fill the cache of enabled levels of smtpconn's loggers.

    A logger that is asked for a level for the first time takes the lock of the logging module. The
    caller that waits for the background thread may hold that lock, as `logging.config.dictConfig`
    does while it closes handlers: a deadlock.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.startswith("smtpconn.") and isinstance(logger, logging.Logger):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
                logger.isEnabledFor(level)


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return f"{text[:length]}\n({len(text) - length} more characters were left out.)"


def _one_line(subject: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in subject)
    return line if len(line) <= MAX_SUBJECT else f"{line[: MAX_SUBJECT - 1]}\u2026"


def _record_of(batch: Batch) -> logging.LogRecord:
    """A record for `logging.Handler.handleError`, which prints it with the error."""
    return logging.makeLogRecord(
        {"msg": "%d log records to be mailed", "args": (len(batch.entries),)}
    )
