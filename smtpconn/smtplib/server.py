"""`Server`: the remembered replies of one server, and its parked connection.

The program's EHLO and STARTTLS are answered with a remembered reply only where that is as safe as
asking the server. So a reply to EHLO without TLS is never remembered if it does not offer STARTTLS.
If no reply is remembered, the command is sent on a real connection. That connection is then
*parked*: a pool that needs a new connection to the server takes it over.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from smtplib import SMTPConnectError, SMTPHeloError, SMTPResponseException

from smtpconn.client.options import default_ehlo_domain
from smtpconn.model.errors import Phase, StartTlsUnavailableError
from smtpconn.model.modes import Protocol
from smtpconn.model.replies import SmtpResponse
from smtpconn.net.deadline import Deadline
from smtpconn.net.forking import reset_in_child
from smtpconn.net.happy_eyeballs import open_socket
from smtpconn.smtplib.connection import CommandConnection, wrap_in_tls
from smtpconn.smtplib.deadline_lock import DeadlineLock, Hold
from smtpconn.smtplib.errors import refused
from smtpconn.smtplib.pool_key import Address

PARKED_FOR = 30.0
"""Seconds for which a parked connection may be used."""

MAX_HELLOS = 8
"""Limit of remembered replies to EHLO: one for each TLS context and client name."""


class Server:
    """The remembered replies of one address, and its parked connection."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.greeting: SmtpResponse | None = None
        self.local_ip: str | None = None
        self.start_tls_reply: SmtpResponse | None = None
        # The key: the TLS context (None without TLS) and the client's name in EHLO.
        self._hellos: OrderedDict[tuple[ssl.SSLContext | None, str], SmtpResponse] = OrderedDict()
        self._parked: tuple[CommandConnection, ssl.SSLContext | None, float] | None = None
        self.reset_after_fork()
        reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Create new locks in a forked child; `close_in_child` closes the parked connection."""
        self._lock = threading.Lock()
        self._request_lock = DeadlineLock()
        self._parked = None

    def get_greeting(self, is_alive: Callable[[], bool], deadline: Deadline) -> SmtpResponse:
        """The server's greeting: the remembered one while connections to it exist, else a new one.

        One thread at a time connects; the others use its greeting.
        """
        with Hold(self._request_lock, deadline):
            known = self.greeting
            if known is not None and (self._parked is not None or is_alive()):
                return known
            self.greeting = None
            connection, greeting = self._connect(deadline)
            if greeting.code == 220:
                self.greeting = greeting
                self._park(connection, self.address.context)
            else:
                connection.close()
            return greeting

    def hello(
        self, context: ssl.SSLContext | None, verb: str, name: str, deadline: Deadline
    ) -> SmtpResponse | CommandConnection:
        """The reply to EHLO, before or after TLS.

        Args:
            context: the current TLS context; None without TLS.
            verb, name: the command and its argument.
            deadline: the operation's.

        Returns the connection itself if the reply may not be remembered.
        """
        known = self._known_hello(context, name)
        if known is not None:
            return known
        with Hold(self._request_lock, deadline):
            known = self._known_hello(context, name)
            if known is not None:
                return known
            connection = self.take_parked(context) or self._connect_ready(context, name, deadline)
            reply = connection.send_hello(verb, name, deadline)
            if self.note_hello(context, name, reply, connection):
                self._park(connection, context)
                return reply
        return connection

    def start_tls(
        self, context: ssl.SSLContext, verb: str, name: str, deadline: Deadline
    ) -> SmtpResponse:
        """The reply to STARTTLS: a remembered one if TLS with this context has succeeded before.

        Raises:
            StartTlsUnavailableError: the server does not offer STARTTLS.
            smtplib.SMTPResponseException: the server refuses STARTTLS.
        """
        with Hold(self._request_lock, deadline):
            reply = self.start_tls_reply
            if reply is not None and self._known_hello(context, name) is not None:
                return reply
            connection = self.take_parked(None) or self._connect_greeted(deadline)
            try:
                reply = upgrade(connection, context, verb, name, deadline)
            except BaseException:
                connection.close()
                raise
            self.start_tls_reply = reply
            if connection.hello is not None:
                self.note_hello(context, name, connection.hello, connection)
            self._park(connection, context)
            return reply

    def note_hello(
        self,
        context: ssl.SSLContext | None,
        name: str,
        reply: SmtpResponse,
        connection: CommandConnection,
    ) -> bool:
        """Remember a reply to EHLO if that is safe; returns whether it is."""
        if reply.code != 250 or (context is None and not connection.capabilities.supports_starttls):
            return False
        with self._lock:
            self._hellos[context, name] = reply
            self._hellos.move_to_end((context, name))
            if len(self._hellos) > MAX_HELLOS:
                self._hellos.popitem(last=False)
        return True

    def forget_hellos(self) -> None:
        """Forget the greeting and the replies to EHLO, because the server may have changed."""
        with self._lock:
            self._hellos.clear()
            self.greeting = None

    def take_parked(self, context: ssl.SSLContext | None) -> CommandConnection | None:
        """Take the parked connection, if it has this TLS context and is alive."""
        with self._lock:
            parked = self._parked
            if parked is None or parked[1] is not context:
                return None
            self._parked = None
        connection, _, since = parked
        if time.monotonic() - since < PARKED_FOR and connection.probe():
            return connection
        connection.quit_nowait()
        return None

    def close(self) -> None:
        """Close the parked connection, if there is one."""
        with self._lock:
            parked, self._parked = self._parked, None
        if parked is not None:
            parked[0].quit_nowait()

    def connect(
        self,
        context: ssl.SSLContext | None,
        verb: str,
        name: str,
        deadline: Deadline,
        tls_session: ssl.SSLSession | None,
    ) -> CommandConnection:
        """Get a connection ready for the login or a message: greeting, TLS and EHLO are done."""
        connection = self.take_parked(context)
        if connection is not None and connection.ehlo_name == name and connection.hello is not None:
            return connection
        if connection is None and context is not None and self.address.context is None:
            connection = self.take_parked(None)
        if connection is None:
            connection = self._connect_greeted(deadline, tls_session)
        try:
            if context is not None and connection.tls is None:
                reply = upgrade(connection, context, verb, name, deadline)
                self.start_tls_reply = reply
            if connection.hello is None or connection.ehlo_name != name:
                send_hello_or_helo(connection, verb, name, deadline)
        except BaseException:
            connection.close()
            raise
        if connection.hello is not None:
            self.note_hello(context, name, connection.hello, connection)
        return connection

    def _known_hello(self, context: ssl.SSLContext | None, name: str) -> SmtpResponse | None:
        with self._lock:
            return self._hellos.get((context, name))

    def _connect_ready(
        self, context: ssl.SSLContext | None, name: str, deadline: Deadline
    ) -> CommandConnection:
        connection = self._connect_greeted(deadline)
        if context is not None and connection.tls is None:
            try:
                upgrade(connection, context, self.verb, name, deadline)
            except BaseException:
                connection.close()
                raise
        return connection

    @property
    def verb(self) -> str:
        """The command that begins a session: EHLO or LHLO."""
        return "lhlo" if self.address.protocol is Protocol.LMTP else "ehlo"

    def _connect_greeted(
        self, deadline: Deadline, tls_session: ssl.SSLSession | None = None
    ) -> CommandConnection:
        connection, greeting = self._connect(deadline, tls_session)
        if greeting.code != 220:
            connection.close()
            raise refused(greeting, Phase.GREETING, SMTPConnectError)
        return connection

    def _connect(
        self, deadline: Deadline, tls_session: ssl.SSLSession | None = None
    ) -> tuple[CommandConnection, SmtpResponse]:
        address = self.address
        connection = CommandConnection.over(
            self._open_socket(deadline, tls_session),
            address.host,
            address.port,
            address.protocol,
            deadline.timeout,
            allow_cleartext_auth=address.allow_cleartext_auth,
            tls_session=tls_session,
        )
        try:
            self.local_ip = connection.local_ip
            return connection, connection.read_greeting(deadline)
        except BaseException:
            connection.close()
            raise

    def _open_socket(self, deadline: Deadline, tls_session: ssl.SSLSession | None) -> socket.socket:
        address = self.address
        sock = open_socket(address.host, address.port, deadline, address.source_address)
        if address.context is None:
            return sock
        return wrap_in_tls(sock, address.context, address.host, deadline, tls_session)

    def _park(self, connection: CommandConnection, context: ssl.SSLContext | None) -> None:
        with self._lock:
            before, self._parked = self._parked, (connection, context, time.monotonic())
        if before is not None and before[0] is not connection:
            before[0].quit_nowait()

    def default_ehlo_name(self) -> str:
        """The client's default name in EHLO."""
        return default_ehlo_domain(self.local_ip or "127.0.0.1")


def send_hello_or_helo(
    connection: CommandConnection, verb: str, name: str, deadline: Deadline
) -> None:
    """Send EHLO, or HELO if that is refused, as ``smtplib`` does.

    Raises:
        smtplib.SMTPHeloError: the server refuses both.
    """
    reply = connection.send_hello(verb, name, deadline)
    if not reply.is_success:
        reply = connection.send_hello("helo", name, deadline)
    if not reply.is_success:
        raise refused(reply, Phase.EHLO, SMTPHeloError)


def upgrade(
    connection: CommandConnection,
    context: ssl.SSLContext,
    verb: str,
    name: str,
    deadline: Deadline,
) -> SmtpResponse:
    """Send EHLO if necessary, STARTTLS, and EHLO again; return the reply to STARTTLS.

    Raises:
        StartTlsUnavailableError: the server does not offer STARTTLS; it was not sent.
        smtplib.SMTPResponseException: the server refuses STARTTLS.
    """
    if connection.hello is None:
        send_hello_or_helo(connection, verb, name, deadline)
    if not connection.capabilities.supports_starttls:
        raise StartTlsUnavailableError("STARTTLS extension not supported by server.")
    reply = connection.start_tls(context, deadline)
    if reply.code != 220:
        raise refused(reply, Phase.STARTTLS, SMTPResponseException)
    send_hello_or_helo(connection, verb, name, deadline)
    return reply
