"""Every argument of the public API, found by introspection, and how a text is injected into it.

Arguments are identified by their names: `TEXTS` has the form in which a text is put into one,
`HARMLESS` the reason why one cannot reach the wire. A new method with known arguments is tested
automatically; a new argument, or a new class, makes `tests.security.test_injection` fail until it
is in one of the two.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.message import Message
from socket import socket
from typing import Any

import smtpconn
from smtpconn import (
    ConnectionPool,
    DeliverBy,
    Envelope,
    MailFromParams,
    PasswordCredentials,
    RcptToParams,
    ServerConfig,
    SmtpConnection,
    TlsMode,
)
from smtpconn.client.options import ConnectOptions
from smtpconn.net.deadline import Deadline
from smtpconn.pool.options import PoolKeywords
from smtpconn.protocol.mail_request import make_request
from tests.support.recording_servers import ME, MESSAGE, YOU, Recorder, connect, peer

CLIENT = "client.example.com"

ADDRESS = "a{}b@example.com"
NAME = "a{}b.example.com"
WORD = "a{}b"


def _message(text: str) -> Message:
    # The old class, which takes any text for a header.
    message = Message()
    for name in ("From", "To", "Subject", "Message-ID"):
        message[name] = text
    message.set_payload("Hello!\r\n")
    return message


def _same(text: str) -> Any:
    return text


TEXTS: dict[str, tuple[str, Callable[[str], Any]]] = {
    # argument: the text with a place for the injected characters, and the value made of it
    "address": (ADDRESS, _same),
    "auth": (ADDRESS, _same),
    "authzid": (WORD, _same),
    "body": ("8BITMIME{}", _same),
    "config": (NAME, lambda text: {"host": text, "ehlo_domain": text}),
    "credentials": (WORD, lambda text: PasswordCredentials(text, text)),
    "deliver_by": ("10{};R", _same),
    "domain": (NAME, _same),
    "ehlo_domain": (NAME, _same),
    "envelopes": (ADDRESS, lambda text: [Envelope(text, [YOU, text], MESSAGE)]),
    "envid": (WORD, _same),
    "hold_for": ("1{}0", _same),
    "hold_until": ("2030-01-01T00:00:00{}Z", _same),
    "host": (NAME, _same),
    "ignore_extensions": (WORD, lambda text: [text]),
    "ip": ("2001:db8::{}1", _same),
    "list_name": (WORD, _same),
    "mail_params": (WORD, lambda text: MailFromParams(envid=text)),
    "mode": ("R{}", _same),
    "mt_priority": ("{}5", _same),
    "name": (NAME, _same),
    "notify": ("NEVER{}", _same),
    "orcpt": ("utf-8;a{}b@example.com", _same),
    "params": (ADDRESS, lambda text: MailFromParams(auth=text)),
    "password": (WORD, _same),
    "rcpt_params": ("rfc822;a{}b@example.com", lambda text: [RcptToParams(orcpt=text)]),
    "recipients": (ADDRESS, lambda text: [text]),
    "request": (ADDRESS, lambda text: make_request(text, [text], MESSAGE)),
    "require_tls": ("yes{}", _same),
    "ret": ("FULL{}", _same),
    "seconds": ("1{}0", _same),
    "sender": (ADDRESS, _same),
    "size": ("1{}0", _same),
    "smtputf8": ("yes{}", _same),
    "text": ("[tag:a{}b]", _same),
    "token": (WORD, _same),
    "topic": (WORD, _same),
    "trace": ("T{}", _same),
    "url": ("smtp://u{0}:p{0}@mx{0}.example.com?ehlo_domain=" + NAME.replace("{}", "{0}"), _same),
    "user": (WORD, _same),
}

HARMLESS: dict[str, str] = {
    "message": "content, which follows the commands; see tests/security/test_smuggling.py",
    "chunking": "yes or no: which command the content goes with",
    "deadline": "a limit",
    "is_probed": "yes or no: whether the connection was probed already",
    "changes": "the arguments of ServerConfig by another way",
    "options": "the arguments of ServerConfig by another way",
    "count": "how many connections to make",
    "mechanisms": "names of an enumeration; any other is refused, tests/auth/test_credentials.py",
    "quirks": "what a pool has learnt about a server",
    "force_refresh": "yes or no: for the caller's own function",
    "name of a pool": "for logs and statistics",
    **dict.fromkeys(
        ("port", "tls_mode", "protocol", "pipelining"), "how to connect; in no command"
    ),
    **dict.fromkeys(("tls_context", "tls_config", "tls_session"), "an object of the ssl module"),
    **dict.fromkeys(("source_address", "socket_factory"), "how to connect; in no command"),
    **dict.fromkeys(("cafile", "tls_server_name"), "for the TLS handshake; in no command"),
    "allow_cleartext_auth": "yes or no",
    **dict.fromkeys(sorted({"timeout", *PoolKeywords.__annotations__} - {"name"}), "a limit"),
}

FROM_THE_SERVER = frozenset(
    [
        "EnhancedStatusCode", "LmtpSendResult", "Outcomes", "PoolEvent", "PoolStats",
        "RecipientResult", "RejectedRecipient", "SendOutcome", "SendResult", "ServerCapabilities",
        "ServerStats", "SmtpExtension", "SmtpResponse", "TlsInfo",
    ]
)  # fmt: skip
"""Classes that smtpconn makes for its users, who read them; their values are never sent."""

_NEEDED: dict[str, Any] = {
    "authzid": "z", "user": "u", "password": "p", "token": "t", "sender": ME, "recipients": [YOU],
    "message": MESSAGE, "params": None, "mail_params": None, "rcpt_params": None, "seconds": 9,
    "deadline": Deadline(3600),
}  # fmt: skip


@dataclass
class Target:
    """One recorder per connection, and connections that are used again."""

    recorders: list[Recorder] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)
    _open: dict[str, SmtpConnection] = field(default_factory=dict)

    def factory(self, host: str, port: int, timeout: float) -> socket:
        """Make the socket of a new connection."""
        recorder = Recorder()
        self.recorders.append(recorder)
        return self.stack.enter_context(peer(recorder.serve))(host, port, timeout)

    def heard(self) -> list[list[bytes]]:
        """The commands that each server has received."""
        return [list(recorder.commands) for recorder in self.recorders]

    def config(self, **changes: Any) -> ServerConfig:
        """A configuration whose connections go to these recorders."""
        settings: dict[str, Any] = {
            "host": "mx.example.com", "port": 25, "tls_mode": TlsMode.NONE, "ehlo_domain": CLIENT,
            "socket_factory": self.factory, "allow_cleartext_auth": True,
        }  # fmt: skip
        return ServerConfig(**{**settings, **changes})

    def connection(self, make: str = "connect") -> Any:
        """A connection without a login."""
        connection = self._open.get(make)
        if connection is None or not connection.is_open or connection.is_authenticated:
            if connection is not None:
                connection.close()
            connection = connect(self.factory, make=getattr(SmtpConnection, make))
            self._open[make] = connection
        return connection

    def settle(self) -> None:
        """Wait until the servers have received everything that was sent."""
        for connection in self._open.values():
            if connection.is_open:
                connection.noop()

    def close(self) -> None:
        """Close everything."""
        for connection in self._open.values():
            connection.close()
        self.stack.close()


@dataclass(frozen=True)
class Argument:
    """One argument of a public function or class, such as ``SmtpConnection.vrfy(address)``."""

    owner: str
    function: str
    name: str

    def __str__(self) -> str:
        return ".".join(filter(None, (self.owner, self.function))) + f"({self.name})"

    @property
    def is_known(self) -> bool:
        """Whether it is in `TEXTS` or in `HARMLESS`."""
        return self.name in TEXTS or self.name in HARMLESS

    @property
    def form(self) -> str:
        """The text with a place for the injected characters."""
        return TEXTS[self.name][0]

    def attack(self, target: Target, text: str) -> None:
        """Call the function with a text as this argument, and send with the result."""
        value = TEXTS[self.name][1](text)
        if self.owner == "SmtpConnection":
            self._on_connection(target, value)
        elif self.owner == "ConnectionPool" and self.function:
            with ConnectionPool(target.config(), keepalive=None) as pool:
                _call(getattr(pool, self.function), {self.name: value})
        elif self.name == "config":
            with getattr(smtpconn, self.owner)(target.config(**value), keepalive=None) as pool:
                pool.warm(1)
        elif self.owner == "ServerConfig":
            _on_config(target, self.function, {self.name: value})
        else:
            kind = getattr(smtpconn, self.owner)
            make = getattr(kind, self.function) if self.function else kind
            _use(target, _call(make, {self.name: value}))

    def _on_connection(self, target: Target, value: Any) -> None:
        if self.function.startswith("connect"):
            options = {"ehlo_domain": CLIENT, "socket_factory": target.factory, self.name: value}
            host = options.pop("host", "mx.example.com")
            with_settings = {"tls_config": None} if self.function.endswith("_config") else {}
            make = getattr(SmtpConnection, self.function)
            with make(host, 25, TlsMode.NONE, 5, **with_settings, **options) as connection:
                connection.noop()
            return
        is_lmtp = "lmtp" in self.function or self.function == "deliver_request"
        connection = target.connection("connect_lmtp" if is_lmtp else "connect")
        _call(getattr(connection, self.function), {self.name: value})
        if self.function == "set_ehlo_domain":
            connection.rehlo()
            connection.set_ehlo_domain(CLIENT)


def arguments() -> Iterator[Argument]:
    """Every argument of every public class, method and function, except `FROM_THE_SERVER`."""
    for owner in smtpconn.__all__:
        value = getattr(smtpconn, owner)
        if inspect.isclass(value):
            if not issubclass(value, BaseException | enum.Enum) and owner not in FROM_THE_SERVER:
                yield from _of_class(owner, value)
        else:
            yield from _of_function(owner, "", value)


def _of_class(owner: str, kind: type) -> Iterator[Argument]:
    if kind is not SmtpConnection:  # its users have `connect`
        yield from _of_function(owner, "", kind)
    for name, member in inspect.getmembers(kind, inspect.isroutine):
        if not name.startswith("_"):
            yield from _of_function(owner, name, member)


def _of_function(owner: str, function: str, value: Callable[..., Any]) -> Iterator[Argument]:
    for name, parameter in inspect.signature(value).parameters.items():
        if name == "options" and parameter.annotation != "Any":
            known = ConnectOptions if "Connect" in parameter.annotation else PoolKeywords
            names = list(known.__annotations__)
        else:
            names = [name]
        is_pool = owner in ("ConnectionPool", "get_pool")
        for each in names:
            if each != "self":
                yield Argument(
                    owner, function, "name of a pool" if is_pool and each == "name" else each
                )


def _call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """Call a function with its required arguments; read an iterator of outcomes to its end."""
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in given and parameter.default is parameter.empty:
            given[name] = TEXTS[name][1](ME) if name not in _NEEDED else _NEEDED[name]
    if given.get("message") == MESSAGE and "send_message" in str(function):
        given["message"] = _message(ME)
    result = function(**given)
    # Read to its end before the first error is raised: an iterator that is not exhausted would end
    # only in a garbage collection.
    for outcome in list(result) if isinstance(result, Iterator) else ():
        if outcome.error is not None:
            raise outcome.error
    return result


def _on_config(target: Target, function: str, given: dict[str, Any]) -> None:
    if function == "from_url":
        config = ServerConfig.from_url(
            given["url"], socket_factory=target.factory, allow_cleartext_auth=True
        )
    else:
        config = target.config(**given)
    with config.connect() as connection:
        connection.noop()


def _use(target: Target, value: Any) -> None:
    """Send a message that contains the value, in the place for its type."""
    connection = target.connection()
    match value:
        case MailFromParams():
            connection.send_with_params(ME, YOU, MESSAGE, value)
        case DeliverBy():
            connection.send_with_params(ME, YOU, MESSAGE, MailFromParams(deliver_by=value))
        case RcptToParams():
            connection.send_with_all_params(ME, YOU, MESSAGE, None, [value])
        case Envelope():
            with ConnectionPool(target.config(), keepalive=None) as pool:
                _call(pool.send_many, {"envelopes": [value]})
        case smtpconn.PasswordCredentials() | smtpconn.OAuthCredentials():
            connection.authenticate(value)
        case smtpconn.Domain() | smtpconn.AddressLiteral():
            connection.send(f"a@{value}", YOU, MESSAGE)
        case smtpconn.ReversePath():
            connection.send(value, YOU, MESSAGE)
        case smtpconn.ForwardPath():
            connection.send(ME, value, MESSAGE)
        case smtpconn.Mailbox():
            connection.send(str(value), str(value), MESSAGE)
        case str():  # of OAuthCredentials.current_token
            pass
        case _:
            raise AssertionError(f"no use is known for a {type(value).__name__}")
