"""`SmtpServer`: listening, a thread per connection, records, and faults.

The protocol itself is in `smtpconn.testing.session`. An error of the server in the thread of a
connection is stored and raised by `stop`, so that a broken test server does not look like a broken
client.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Literal, Self
from urllib.parse import quote

from smtpconn.testing.certificates import Authority, authority
from smtpconn.testing.connection import TICK, Connection, Disconnected
from smtpconn.testing.faults import Fault, Faults
from smtpconn.testing.records import ReceivedMessage, ServerConnection
from smtpconn.testing.session import ANY_LOGIN, SaslExchange, Session, Settings, login, plain

_is_closed = operator.attrgetter("closed")

_BUILT_IN = {"PLAIN": plain, "LOGIN": login}


class SmtpServer:
    """An SMTP or LMTP server in threads of this process; a context manager.

    Args:
        host, port: where to listen; port 0 for any free port.
        protocol: "SMTP" or "LMTP".
        hostname: its name in the greeting and in the reply to EHLO.
        extensions: the lines of its EHLO reply except STARTTLS and AUTH; None for all that it
            supports.
        ehlo: whether it supports EHLO; otherwise it supports only HELO.
        users: user names and passwords for AUTH.
        tls: "starttls" to offer STARTTLS, "implicit" for TLS from the first byte, with a
            certificate that the server makes; see `client_context` and `ca_file`. Needs trustme
            (extra ``pytest``).
        tls_context: a server-side context with your own certificate instead; offers STARTTLS, or
            with ``implicit_tls`` uses TLS from the first byte.
        require_auth: whether MAIL needs a login.
        unix_path: the path of a UNIX socket to listen on instead.
        size_limit: the largest message in bytes; None for no limit.
        auth_mechanisms: which of PLAIN and LOGIN to offer when there are users.
        accept_any_login: offer PLAIN, LOGIN, CRAM-MD5, XOAUTH2 and OAUTHBEARER, and accept every
            user with every secret.
        sasl: more mechanisms: their names, and functions that make the exchange (`SaslExchange`).
        answer_after_pause: seconds of silence of the client before a reply is sent, so that
            ``ServerConnection.turns`` counts round trips.
        recipient_known: returns whether a forward-path exists; by default all exist.
        on_message: called with each message before it is acknowledged, in the thread of the
            connection. The server then keeps neither messages nor closed connections, so that it
            can run for long. If it raises, the message is not acknowledged: the connection ends
            without a reply, and `stop` raises the error.

    Raises:
        ValueError: an unknown kind of TLS; ``tls`` and ``tls_context`` together, or ``users`` and
            ``accept_any_login``.
        ImportError: ``tls`` without trustme.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        protocol: str = "SMTP",
        hostname: str = "mx.example.test",
        extensions: Sequence[str] | None = None,
        ehlo: bool = True,
        users: Mapping[str, str] | None = None,
        tls: Literal["starttls", "implicit"] | None = None,
        tls_context: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        require_auth: bool = False,
        unix_path: str | None = None,
        size_limit: int | None = 10 * 1024 * 1024,
        auth_mechanisms: Sequence[str] = ("PLAIN", "LOGIN"),
        accept_any_login: bool = False,
        sasl: Mapping[str, SaslExchange] | None = None,
        answer_after_pause: float = 0.0,
        recipient_known: Callable[[str], bool] = lambda path: True,
        on_message: Callable[[ReceivedMessage], None] | None = None,
    ) -> None:
        if extensions is None:
            size = "SIZE" if size_limit is None else f"SIZE {size_limit}"
            extensions = (
                "PIPELINING", size, "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES",
                "CHUNKING", "BINARYMIME",
            )  # fmt: skip
        self._authority: Authority | None = None
        if tls is not None:
            if tls not in ("starttls", "implicit"):
                raise ValueError(f'tls is "starttls" or "implicit", not {tls!r}')
            if tls_context is not None:
                raise ValueError("tls makes its own context: give it without a tls_context")
            self._authority = authority()
            tls_context, implicit_tls = self._authority.server_context(host), tls == "implicit"
        names = users or {}
        if names and accept_any_login:
            raise ValueError("users and accept_any_login exclude each other")
        mechanisms: dict[str, SaslExchange] = {
            name: functools.partial(_BUILT_IN[name], names) for name in auth_mechanisms if names
        }
        if accept_any_login:
            mechanisms |= ANY_LOGIN
        self._settings = Settings(
            protocol=protocol,
            hostname=hostname,
            extensions=tuple(extensions),
            ehlo=ehlo,
            users=names,
            tls_context=tls_context,
            implicit_tls=implicit_tls,
            require_auth=require_auth,
            size_limit=size_limit,
            mechanisms=mechanisms | dict(sasl or {}),
            recipient_known=recipient_known,
        )
        self.host = host
        self.port = port
        self._unix_path = unix_path
        self._ca_file: Path | None = None
        self._pause = answer_after_pause
        self._on_message = on_message
        self._faults = Faults()
        self._changed = threading.Condition()
        self._messages: list[ReceivedMessage] = []
        self._connections: list[ServerConnection] = []
        self._accepted = 0
        self._open_connections: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """The URL for `smtpconn.ServerConfig.from_url`, without credentials."""
        scheme = self._settings.protocol.lower()
        if self._unix_path is not None:
            return f"{scheme}+unix://{self._unix_path}"
        if self._settings.tls_context is not None:
            scheme += "s" if self._settings.implicit_tls else "+starttls"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"

    def url_for(self, user: str) -> str:
        """The server's URL with the credentials of one of its users.

        Raises:
            KeyError: the server does not know the user.
        """
        if user not in self._settings.users:
            raise KeyError(f"no user {user!r}: the server knows those of users={{...}}")
        password = self._settings.users[user]
        scheme, _, place = self.url.partition("://")
        return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{place}"

    @property
    def client_context(self) -> ssl.SSLContext:
        """A new client-side context that trusts a server made with ``tls``.

        Raises:
            RuntimeError: the server was made without ``tls``.
        """
        return self._own_authority().client_context()

    @property
    def ca_file(self) -> str:
        """The path of a PEM file with the authority to trust; `stop` removes it.

        Raises:
            RuntimeError: the server was made without ``tls``, or is not running.
        """
        self._own_authority()
        if self._ca_file is None:
            raise RuntimeError("the server is not running")
        return str(self._ca_file)

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages that were accepted; in LMTP one per recipient."""
        with self._changed:
            return list(self._messages)

    @property
    def connections(self) -> list[ServerConnection]:
        """The connections; each record changes until its connection ends."""
        with self._changed:
            return list(self._connections)

    def __repr__(self) -> str:
        with self._changed:
            messages, connections = len(self._messages), self._accepted
        state = "listening" if self._listener is not None else "stopped"
        return f"<SmtpServer {self.url} {state} connections={connections} messages={messages}>"

    def start(self) -> Self:
        """Start to listen."""
        self._listen()
        if self._authority is not None:
            with tempfile.NamedTemporaryFile(
                prefix="smtpconn-ca-", suffix=".pem", delete=False
            ) as file:
                file.write(self._authority.pem)
            self._ca_file = Path(file.name)
        return self

    def stop(self) -> None:
        """Stop listening, end every connection and wait for all threads.

        Raises:
            BaseException: an error of the server in the thread of a connection.
        """
        self._stop_listening()
        self._end_connections(reset=False)
        if self._ca_file is not None:
            self._ca_file.unlink(missing_ok=True)
            self._ca_file = None
        if self._errors:
            raise self._errors[0]

    def kill(self) -> None:
        """Reset every connection, and keep listening."""
        self._end_connections(reset=True)

    def restart(self) -> None:
        """Stop listening, reset every connection, and listen again on the same port."""
        self._stop_listening()
        self._end_connections(reset=True)
        self._listen()

    def close_idle(self, reply: str | None = "421 4.3.2 Shutting down") -> None:
        """Close every connection as soon as it is silent.

        Args:
            reply: sent before that; None to send nothing.

        Raises:
            TypeError: ``reply`` is neither str nor None.
        """
        if not isinstance(reply, (str, NoneType)):
            raise TypeError(f"reply is str or None, not {reply!r:.80}")
        with self._changed:
            connections = list(self._open_connections)
        for connection in connections:
            connection.farewell = b"" if reply is None else reply.encode() + b"\r\n"

    def fault(
        self,
        step: str,
        *,
        reply: str | bytes | None = None,
        delay: float = 0.0,
        close: bool = False,
        reset: bool = False,
        hang: bool = False,
        split: int = 0,
        before: bytes = b"",
        after: bytes = b"",
        times: int | None = 1,
        skip: int = 0,
        match: str | None = None,
    ) -> None:
        """Make the server fail at a step of the protocol.

        Args:
            step: the command; or CONNECT (the greeting), HANDSHAKE (of TLS), CHALLENGE (of SASL),
                CONTENT (the reply to the whole message; in LMTP each of them), "*" (any of them).
            reply: sent instead of the normal reply. Each line of a str gets a CRLF; bytes are sent
                as they are. The command takes effect only if this reply begins with the same digit
                as the normal one.
            delay: seconds before the reply; `stop` does not wait for them.
            close, reset: end the connection after ``reply``; without ``reply``, instead of one.
            hang: send no reply, and keep the connection open.
            split: send the reply in pieces of this many bytes; 0 for one piece.
            before, after: bytes around the reply, in the same write.
            times: the number of failures; None for no limit.
            skip: the number of normal replies before the first failure.
            match: a text; only command lines that contain it fail.

        Raises:
            TypeError: an argument of another type.
            ValueError: an unknown step, a negative number, or ``times`` below 1.
        """
        self._faults.add(
            Fault(step, reply, delay, close, reset, hang, split, before, after, times, skip, match)
        )

    def refuse_recipient(
        self, address: str, reply: str = "550 5.1.1 User unknown", *, times: int | None = None
    ) -> None:
        """Refuse a recipient.

        Args:
            address: the recipient.
            reply: the reply to RCPT.
            times: how often; None for always.

        Raises:
            TypeError: an argument of another type.
        """
        if not isinstance(address, str):
            raise TypeError(f"address is str, not {address!r:.80}")
        self.fault("RCPT", reply=reply, match=f"<{address}>", times=times)

    def shut_down_at(
        self, step: str, reply: str = "421 4.3.2 Shutting down", *, times: int | None = 1
    ) -> None:
        """Send 421 and close the connection (RFC 5321 3.8); raises as `fault`.

        Args:
            step: when, as for `fault`.
            reply: the reply.
            times: how often; None for always.
        """
        self.fault(step, reply=reply, close=True, times=times)

    def drop_at(self, step: str, *, times: int | None = 1) -> None:
        """Close the connection without a reply; raises as `fault`.

        Args:
            step: when, as for `fault`. At "CONTENT" that is after the whole message, so that the
                client cannot know whether it was delivered.
            times: how often; None for always.
        """
        self.fault(step, close=True, times=times)

    def delay_at(self, step: str, seconds: float, *, times: int | None = 1) -> None:
        """Reply late; raises as `fault`.

        Args:
            step: when, as for `fault`.
            seconds: how long to wait before the reply.
            times: how often; None for always.
        """
        self.fault(step, delay=seconds, times=times)

    def clear(self) -> None:
        """Remove all messages, ended connections and faults."""
        self._faults.clear()
        with self._changed:
            self._messages.clear()
            self._connections[:] = itertools.filterfalse(_is_closed, self._connections)
            self._accepted = len(self._connections)

    def wait_for_messages(self, count: int, timeout: float = 10.0) -> list[ReceivedMessage]:
        """Wait until at least ``count`` messages were accepted, and return all of them.

        Raises:
            TimeoutError: there were fewer after ``timeout`` seconds.
        """
        if not self._wait_for(lambda: len(self._messages) >= count, timeout):
            raise TimeoutError(f"{len(self._messages)} of {count} messages after {timeout:g} s")
        return self.messages

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until ``predicate()`` is true; it is called again after every change of a record.

        Raises:
            TimeoutError: it is not true after ``timeout`` seconds.
        """
        if not self._wait_for(predicate, timeout):
            raise TimeoutError(f"the condition did not become true within {timeout:g} s")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _own_authority(self) -> Authority:
        if self._authority is None:
            raise RuntimeError('the server has no certificate of its own: make it with tls="..."')
        return self._authority

    def _wait_for(self, predicate: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(predicate, timeout)

    def _listen(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(socket.AF_UNIX if self._unix_path is not None else family)
        try:
            if self._unix_path is not None:
                listener.bind(self._unix_path)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((self.host, self.port))
                self.port = listener.getsockname()[1]
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._stopping.clear()
        self._acceptor = _thread(self._accept, listener)
        self._acceptor.start()

    def _stop_listening(self) -> None:
        self._stopping.set()
        if self._acceptor is not None:
            self._acceptor.join()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if self._unix_path is not None:
                os.unlink(self._unix_path)

    def _end_connections(self, *, reset: bool) -> None:
        with self._changed:
            connections, threads = list(self._open_connections), list(self._threads)
        for connection in connections:
            connection.end(reset=reset)
        for thread in threads:
            thread.join(10)
        with self._changed:
            self._threads = list(filter(threading.Thread.is_alive, self._threads))

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            listener.settimeout(TICK)
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            thread = _thread(self._serve, sock)
            # Under the lock, so that every thread that serves a connection can be joined.
            with self._changed:
                thread.start()
                self._threads = [t for t in self._threads if t.is_alive()]
                self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        with self._changed:
            self._accepted += 1
            record = ServerConnection(self._accepted)
            self._connections.append(record)
            connection = Connection(sock, self._pause, record)
            self._open_connections.add(connection)
        session = Session(
            self._settings, self._faults, connection, record, self._notify, self._deliver
        )
        try:
            session.run()
        except Disconnected:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            record.closed = True
            with self._changed:
                self._open_connections.discard(connection)
                if self._on_message is not None:
                    self._connections = [c for c in self._connections if c is not record]
            connection.close()
            self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _deliver(self, message: ReceivedMessage) -> None:
        if self._on_message is not None:
            self._on_message(message)
            return
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()


def _thread(target: Callable[[socket.socket], None], sock: socket.socket) -> threading.Thread:
    return threading.Thread(target=target, args=(sock,), name="smtpconn-test-server", daemon=True)
