"""`SmtpServer`: listening, a thread per connection, what was received, and what goes wrong.

Nothing here knows SMTP; that is `smtpconn.testing.session`. An error in a connection's thread that
is not the peer's doing is kept and raised by `stop`, so that a broken test server cannot look like
a broken client.
"""

from __future__ import annotations

import functools
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
from smtpconn.testing.connection import TICK, Gone, Link
from smtpconn.testing.faults import Fault, Faults
from smtpconn.testing.records import ReceivedMessage, ServerConnection
from smtpconn.testing.session import ANY_LOGIN, SaslExchange, Session, Settings, login, plain

_BUILT_IN = {"PLAIN": plain, "LOGIN": login}


class SmtpServer:
    """An SMTP or LMTP server in threads of this process; a context manager.

    Args:
        host, port: where to listen; port 0 for any that is free.
        protocol: "SMTP" or "LMTP".
        hostname: what it calls itself.
        extensions: the lines of its EHLO reply besides STARTTLS and AUTH; None for all it can do.
        ehlo: whether it knows EHLO at all; if not, only HELO.
        users: user names and passwords for AUTH.
        tls: "starttls" to offer STARTTLS, "implicit" to talk TLS from the first octet, with a
            certificate made here; see `client_context` and `ca_file`. Needs trustme (extra
            ``pytest``).
        tls_context: a server-side context to do so with a certificate of your own; offers
            STARTTLS, or with ``implicit_tls`` talks TLS from the first octet.
        require_auth: whether MAIL needs a login.
        unix_path: where to listen instead, on a UNIX socket.
        size_limit: octets of a message; None for no limit.
        auth_mechanisms: of PLAIN and LOGIN, those to offer when there are users.
        accept_any_login: offer PLAIN, LOGIN, CRAM-MD5, XOAUTH2 and OAUTHBEARER, and accept every
            user with every secret.
        sasl: further mechanisms; name -> function that makes the exchange (see `SaslExchange`).
        answer_after_pause: seconds of silence of the client before an answer leaves; makes
            ``ServerConnection.turns`` count round trips.
        recipient_known: says which forward-paths exist; all by default.
        on_message: given each message before its acceptance is told, in the connection's thread;
            the server then keeps none in ``messages``, nor connections that are closed, so that it
            may run for long. If it raises, the message is not accepted:
            the connection ends without an answer, and `stop` raises the error.

    Raises:
        ValueError: a kind of TLS there is not, or ``tls`` and ``tls_context`` together.
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
            if tls not in ("starttls", "implicit") or tls_context is not None:
                raise ValueError('tls is "starttls" or "implicit", without a tls_context')
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
        self._links: set[Link] = set()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """The server's URL as `smtpconn.ServerConfig.from_url` takes it, without credentials."""
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
            KeyError: there is no such user.
        """
        password = self._settings.users[user]
        scheme, _, place = self.url.partition("://")
        return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{place}"

    @property
    def client_context(self) -> ssl.SSLContext:
        """A new client-side context that trusts a server made with ``tls``.

        Raises:
            RuntimeError: it was made without.
        """
        return self._own_authority().client_context()

    @property
    def ca_file(self) -> str:
        """The path of a file with the certificate to trust, in PEM; gone when the server stops.

        Raises:
            RuntimeError: the server was made without ``tls``, or is not running.
        """
        self._own_authority()
        if self._ca_file is None:
            raise RuntimeError("the server is not running")
        return str(self._ca_file)

    @property
    def messages(self) -> list[ReceivedMessage]:
        """The messages accepted so far; in LMTP one per recipient."""
        with self._changed:
            return list(self._messages)

    @property
    def connections(self) -> list[ServerConnection]:
        """The connections so far; the records change while the connections live."""
        with self._changed:
            return list(self._connections)

    def start(self) -> Self:
        """Begin to listen."""
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
            BaseException: what went wrong in a connection's thread, if it was the server's fault.
        """
        self._stop_listening()
        self._end_connections(reset=False)
        if self._ca_file is not None:
            self._ca_file.unlink(missing_ok=True)
            self._ca_file = None
        if self._errors:
            raise self._errors[0]

    def kill(self) -> None:
        """Reset every connection and go on listening."""
        self._end_connections(reset=True)

    def restart(self) -> None:
        """Stop listening, reset every connection, and listen again on the same port."""
        self._stop_listening()
        self._end_connections(reset=True)
        self._listen()

    def close_idle(self, reply: str | None = "421 4.3.2 Shutting down") -> None:
        """Say ``reply`` (None: nothing) on every connection that is silent, and close it."""
        if not isinstance(reply, (str, NoneType)):
            raise TypeError(f"reply is str or None, not {reply!r:.80}")
        with self._changed:
            links = list(self._links)
        for link in links:
            link.farewell = b"" if reply is None else reply.encode() + b"\r\n"

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
        """Have something go wrong.

        Args:
            step: at which command; or CONNECT (the greeting), HANDSHAKE (of TLS), CHALLENGE (of
                SASL), CONTENT (the answer to the whole message, in LMTP each), "*" (any).
            reply: instead of the normal one. A str gets CRLF, and its lines too; bytes leave as
                they are. What the command normally does is then done only if the reply is of the
                same kind (begins with the same digit).
            delay: seconds before it.
            close, reset: end the connection behind it; without ``reply`` instead of it.
            hang: never answer, and keep the connection.
            split: send it in pieces of so many octets.
            before, after: octets around it, in the same write.
            times: how often; None for ever.
            skip: how often not, at first.
            match: only for a command line that holds this.

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
            reply: what is said to RCPT.
            times: how often; None for always.
        """
        if not isinstance(address, str):
            raise TypeError(f"address is str, not {address!r:.80}")
        self.fault("RCPT", reply=reply, match=f"<{address}>", times=times)

    def shut_down_at(
        self, step: str, reply: str = "421 4.3.2 Shutting down", *, times: int | None = 1
    ) -> None:
        """Say 421 and close the connection (RFC 5321 3.8).

        Args:
            step: when, as `fault` has it.
            reply: what is said.
            times: how often; None for always.
        """
        self.fault(step, reply=reply, close=True, times=times)

    def drop_at(self, step: str, *, times: int | None = 1) -> None:
        """Close the connection without a word.

        Args:
            step: when, as `fault` has it. At "CONTENT" that is after the whole message: a client
                cannot know what became of it.
            times: how often; None for always.
        """
        self.fault(step, close=True, times=times)

    def delay_at(self, step: str, seconds: float, *, times: int | None = 1) -> None:
        """Answer late.

        Args:
            step: when, as `fault` has it.
            seconds: how late.
            times: how often; None for always.
        """
        self.fault(step, delay=seconds, times=times)

    def clear(self) -> None:
        """Forget messages, finished connections and faults."""
        self._faults.clear()
        with self._changed:
            self._messages.clear()
            self._connections[:] = [c for c in self._connections if not c.closed]
            self._accepted = len(self._connections)

    def wait_for_messages(self, count: int, timeout: float = 10.0) -> list[ReceivedMessage]:
        """Wait until at least ``count`` messages were accepted, and return all.

        Raises:
            TimeoutError: there were fewer after ``timeout`` seconds.
        """
        if not self._wait_for(lambda: len(self._messages) >= count, timeout):
            raise TimeoutError(f"{len(self._messages)} of {count} messages after {timeout:g} s")
        return self.messages

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until ``predicate()`` is true; it is asked again whenever something was recorded.

        Raises:
            TimeoutError: it was not, after ``timeout`` seconds.
        """
        if not self._wait_for(predicate, timeout):
            raise TimeoutError(f"what was waited for did not happen within {timeout:g} s")

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
        listener.settimeout(TICK)
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
            links, threads = list(self._links), list(self._threads)
        for link in links:
            link.end(reset=reset)
        for thread in threads:
            thread.join(10)
        with self._changed:
            self._threads = [t for t in self._threads if t.is_alive()]

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            sock.settimeout(None)
            thread = _thread(self._serve, sock)
            # In one step: a thread that serves a connection is always one that can be joined.
            with self._changed:
                thread.start()
                self._threads = [t for t in self._threads if t.is_alive()]
                self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        with self._changed:
            self._accepted += 1
            record = ServerConnection(self._accepted)
            self._connections.append(record)
            link = Link(sock, self._pause, record)
            self._links.add(link)
        session = Session(self._settings, self._faults, link, record, self._notify, self._deliver)
        try:
            session.run()
        except Gone:
            pass
        except BaseException as error:
            self._errors.append(error)
        finally:
            record.closed = True
            with self._changed:
                self._links.discard(link)
                if self._on_message is not None:
                    self._connections = [c for c in self._connections if c is not record]
            link.close()
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
