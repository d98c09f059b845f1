"""The protocol on one connection, strict by RFC 5321, 2033, 3030, 3207 and 4954.

Each command makes an `Answer`: a reply and its effect. A fault may replace the reply; then the
effect happens only if the other reply begins with the same digit. So a test can refuse a recipient
without the server adding it to the transaction, or accept it with an unusual reply.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
import ssl
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from smtpconn.testing.connection import Connection, Disconnected
from smtpconn.testing.faults import Fault, Faults
from smtpconn.testing.records import ReceivedMessage, ServerConnection

SaslExchange: TypeAlias = Callable[[], Generator[bytes, bytes, str | None]]
"""Makes a generator that yields challenges, receives the answers, and returns the user or None."""

# A server that accepts these in an address would hide the worst mistake of a client: command
# injection.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_NOTHING: Callable[[], None] = lambda: None  # noqa: E731


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of `SmtpServer` that the protocol depends on."""

    protocol: str
    hostname: str
    extensions: tuple[str, ...]
    ehlo: bool
    users: Mapping[str, str] = field(repr=False)
    tls_context: ssl.SSLContext | None
    implicit_tls: bool
    require_auth: bool
    size_limit: int | None
    mechanisms: Mapping[str, SaslExchange] = field(repr=False)
    recipient_known: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, and its effect."""

    reply: str
    then: Callable[[], None] = _NOTHING


@dataclass(slots=True)
class _Transaction:
    sender: str
    parameters: tuple[str, ...]
    recipients: list[str] = field(default_factory=list)
    recipient_parameters: list[tuple[str, ...]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)


class _ChallengeReplaced(Exception):
    """A fault has replaced a challenge by another reply, so there is no response to read."""


class Session:
    """The session on one connection.

    Args:
        settings, faults: the settings and the faults of the server.
        connection: the connection to read from and write to.
        record: the record of the connection.
        changed: called after each change of ``record``.
        deliver: called with each message before it is acknowledged.
    """

    def __init__(
        self,
        settings: Settings,
        faults: Faults,
        connection: Connection,
        record: ServerConnection,
        changed: Callable[[], None],
        deliver: Callable[[ReceivedMessage], None],
    ) -> None:
        self._settings = settings
        self._faults = faults
        self._connection = connection
        self._record = record
        self._changed = changed
        self._deliver = deliver
        self._greeted = False
        self._transaction: _Transaction | None = None
        self._awaits_data = False
        self._over = False
        self._commands: dict[str, Callable[[str], Answer | None]] = {
            "EHLO": self._ehlo,
            "LHLO": self._ehlo,
            "HELO": self._helo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "BDAT": self._bdat,
            "RSET": self._rset,
            "NOOP": lambda _: Answer("250 2.0.0 Ok"),
            "VRFY": lambda argument: Answer(f"252 2.0.0 {argument}"),
            "EXPN": lambda argument: Answer(f"250 2.0.0 <{argument}@{settings.hostname}>"),
            "HELP": lambda _: Answer("214 2.0.0 See RFC 5321"),
            "QUIT": lambda _: Answer("221 2.0.0 Bye", self._finish),
        }

    def run(self) -> None:
        """Serve until QUIT or the end of the connection.

        Raises:
            Disconnected: the connection ended.
        """
        if self._settings.implicit_tls:
            self._handshake()
        self._send_answer("CONNECT", "", Answer(f"220 {self._settings.hostname} ESMTP"))
        while not self._over:
            line = self._read_line()
            verb, _, argument = line.partition(" ")
            step = verb.upper()
            make = self._commands.get(step)
            if _CONTROL.search(line):
                self._send_answer("*", line, Answer("500 5.5.2 Control character in a command"))
            elif make is None:
                self._send_answer("*", line, Answer("500 5.5.2 Unknown command"))
            elif (answer := make(argument)) is not None:
                self._send_answer(step, line, answer)
            if self._awaits_data:
                self._receive_data()
        self._connection.flush()

    def _read_line(self) -> str:
        line = self._connection.read_line().decode("utf-8", "surrogateescape")
        self._record.commands.append(line)
        self._changed()
        return line

    def _send_answer(self, step: str, line: str, answer: Answer) -> None:
        """Send an answer and apply its effect, or apply the fault that replaces it."""
        fault = self._faults.take(step, line)
        reply = b"".join(text.encode() + b"\r\n" for text in answer.reply.split("\n"))
        if fault is None:
            answer.then()
            self._connection.send(reply)
        else:
            self._send_with_fault(fault, reply, answer)

    def _send_with_fault(self, fault: Fault, reply: bytes, answer: Answer) -> None:
        if fault.delay:
            self._connection.flush()
            self._connection.wait(fault.delay)
        if fault.hang:
            self._connection.hang()
        if fault.hangs_up_unanswered:
            self._hang_up(fault)
        data = fault.apply_to(reply)
        if fault.reply is None or data[:1] == reply[:1]:
            answer.then()
        if fault.split:
            self._connection.send_split(data, fault.split)
        else:
            self._connection.send(data)
        if fault.close or fault.reset:
            self._hang_up(fault)

    def _hang_up(self, fault: Fault) -> None:
        self._connection.flush()
        if fault.reset:
            self._connection.reset_on_close()
        raise Disconnected

    def _handshake(self) -> None:
        fault = self._faults.take("HANDSHAKE")
        if fault is not None and fault.hang:
            self._connection.hang()
        if fault is not None:
            self._hang_up(fault)
        assert self._settings.tls_context is not None
        self._connection.flush()
        self._connection.start_tls(self._settings.tls_context)
        self._record.tls = True
        self._record.user = None
        self._greeted = False
        self._transaction = None
        self._changed()

    def _finish(self) -> None:
        self._over = True

    def _ehlo(self, argument: str) -> Answer:
        if not self._settings.ehlo:
            return Answer("502 5.5.1 Command not implemented")
        lines = [f"{self._settings.hostname} greets {argument}", *self._extensions()]
        marks = ["-"] * (len(lines) - 1) + [" "]
        return Answer(
            "\n".join(f"250{mark}{line}" for mark, line in zip(marks, lines, strict=True)),
            self._begin,
        )

    def _helo(self, argument: str) -> Answer:
        return Answer(f"250 {self._settings.hostname}", self._begin)

    def _begin(self) -> None:
        self._greeted = True
        self._transaction = None

    def _extensions(self) -> Sequence[str]:
        offers = list(self._settings.extensions)
        if self._settings.tls_context is not None and not self._record.tls:
            offers.append("STARTTLS")
        if self._settings.mechanisms:
            offers.append("AUTH " + " ".join(self._settings.mechanisms))
        return offers

    def _starttls(self, argument: str) -> Answer | None:
        if argument:
            return Answer("501 5.5.4 STARTTLS has no argument")
        if self._settings.tls_context is None or self._record.tls:
            return Answer("503 5.5.1 TLS is not available")
        accepted = False

        def accept() -> None:
            nonlocal accepted
            accepted = True

        self._send_answer("STARTTLS", "STARTTLS", Answer("220 2.0.0 Ready to start TLS", accept))
        if accepted:
            self._handshake()
        return None

    def _auth(self, argument: str) -> Answer | None:
        name, _, initial = argument.partition(" ")
        exchange = self._settings.mechanisms.get(name.upper())
        if self._record.user is not None or self._transaction is not None:
            return Answer("503 5.5.1 Not now")
        if exchange is None:
            return Answer("504 5.5.4 Unknown mechanism")
        try:
            user = self._exchange(exchange(), initial)
        except _ChallengeReplaced:
            return None
        if isinstance(user, Answer):
            return user
        if user is None:
            return Answer("535 5.7.8 Authentication failed")
        return Answer("235 2.7.0 Authentication successful", lambda: self._log_in(user))

    def _log_in(self, user: str) -> None:
        self._record.user = user

    def _exchange(
        self, exchange: Generator[bytes, bytes, str | None], initial: str
    ) -> str | Answer | None:
        """Run a SASL exchange (RFC 4954 4).

        Returns the user, None for a wrong secret, or the answer to an invalid response.
        """
        try:
            challenge = next(exchange)
            response = initial
            while True:
                if not response:
                    response = self._ask(challenge)
                    if response == "*":
                        return Answer("501 5.7.0 Authentication cancelled")
                decoded = b"" if response == "=" else base64.b64decode(response, validate=True)
                response = ""
                challenge = exchange.send(decoded)
        except StopIteration as stop:
            user: str | None = stop.value
            return user
        except (binascii.Error, ValueError):
            return Answer("501 5.5.2 Not base64")

    def _ask(self, challenge: bytes) -> str:
        was_sent = False

        def note_sent() -> None:
            nonlocal was_sent
            was_sent = True

        encoded = base64.b64encode(challenge).decode()
        self._send_answer("CHALLENGE", "", Answer(f"334 {encoded}", note_sent))
        if not was_sent:
            raise _ChallengeReplaced
        return self._read_line()

    def _mail(self, argument: str) -> Answer:
        path, parameters = _path(argument, "FROM:")
        if not self._greeted:
            return Answer("503 5.5.1 Say EHLO first")
        if self._settings.require_auth and self._record.user is None:
            return Answer("530 5.7.0 Authentication required")
        if self._transaction is not None:
            return Answer("503 5.5.1 Nested MAIL")
        if path is None:
            return Answer("501 5.5.4 Syntax: MAIL FROM:<address>")
        if self._is_too_big(parameters):
            return Answer("552 5.3.4 Message too big")
        return Answer("250 2.1.0 Ok", lambda: self._begin_transaction(path, parameters))

    def _begin_transaction(self, sender: str, parameters: tuple[str, ...]) -> None:
        self._transaction = _Transaction(sender, parameters)

    def _is_too_big(self, parameters: tuple[str, ...]) -> bool:
        limit = self._settings.size_limit
        sizes = [p[5:] for p in parameters if p.upper().startswith("SIZE=")]
        return limit is not None and any(s.isdigit() and int(s) > limit for s in sizes)

    def _rcpt(self, argument: str) -> Answer:
        path, parameters = _path(argument, "TO:")
        transaction = self._transaction
        if transaction is None:
            return Answer("503 5.5.1 Say MAIL first")
        if not path:
            return Answer("501 5.5.4 Syntax: RCPT TO:<address>")
        if not self._settings.recipient_known(path):
            return Answer(f"550 5.1.1 <{path}> User unknown")

        def accept() -> None:
            transaction.recipients.append(path)
            transaction.recipient_parameters.append(parameters)

        return Answer("250 2.1.5 Ok", accept)

    def _data(self, argument: str) -> Answer:
        if self._transaction is None:
            return Answer("503 5.5.1 Say MAIL first")
        if not self._transaction.recipients:
            return Answer("554 5.5.1 No valid recipients")

        def accept() -> None:
            self._awaits_data = True

        return Answer("354 End data with <CR><LF>.<CR><LF>", accept)

    def _receive_data(self) -> None:
        self._awaits_data = False
        content = self._connection.read_data()
        self._accept_content(content, "DATA")

    def _bdat(self, argument: str) -> Answer | None:
        words = argument.upper().split()
        if not words or not words[0].isdigit() or words[1:] not in ([], ["LAST"]):
            return Answer("501 5.5.4 Syntax: BDAT size [LAST]")
        chunk = self._connection.read_exactly(int(words[0]))
        transaction = self._transaction
        if transaction is None or not transaction.recipients:
            return Answer("503 5.5.1 No valid recipients")
        transaction.chunks.append(chunk)
        if words[1:] == ["LAST"]:
            self._accept_content(b"".join(transaction.chunks), "BDAT")
            return None
        return Answer(f"250 2.0.0 {words[0]} octets received")

    def _accept_content(self, content: bytes, via: str) -> None:
        transaction, self._transaction = self._transaction, None
        if self._settings.size_limit is not None and len(content) > self._settings.size_limit:
            return self._send_answer("CONTENT", "", Answer("552 5.3.4 Message too big"))
        # A fault at DATA may have accepted content without recipients.
        if transaction is None or not transaction.recipients:
            return self._send_answer("CONTENT", "", Answer("554 5.5.1 No valid recipients"))
        if self._settings.protocol != "LMTP":
            everyone = list(range(len(transaction.recipients)))
            return self._answer_content(transaction, everyone, content, via)
        for index in range(len(transaction.recipients)):
            self._answer_content(transaction, [index], content, via)
        return None

    def _answer_content(
        self, transaction: _Transaction, indexes: list[int], content: bytes, via: str
    ) -> None:
        message = ReceivedMessage(
            transaction.sender,
            tuple(transaction.recipients[i] for i in indexes),
            content,
            transaction.parameters,
            tuple(transaction.recipient_parameters[i] for i in indexes),
            self._record.user,
            self._record.tls,
            self._record.number,
            via,
        )
        self._send_answer(
            "CONTENT",
            " ".join(message.recipients),
            Answer("250 2.0.0 Ok: queued", lambda: self._deliver(message)),
        )

    def _rset(self, argument: str) -> Answer:
        def forget() -> None:
            self._transaction = None

        return Answer("250 2.0.0 Ok", forget)


def _path(argument: str, keyword: str) -> tuple[str | None, tuple[str, ...]]:
    """The path without its brackets, and the parameters; None for an invalid path."""
    if argument[: len(keyword)].upper() != keyword:
        return None, ()
    rest = argument[len(keyword) :].lstrip()
    end = _end_of_path(rest)
    if not rest.startswith("<") or end < 0:
        return None, ()
    return rest[1:end], tuple(rest[end + 1 :].split())


def _end_of_path(text: str) -> int:
    """The index of the closing bracket outside quotes; -1 without one."""
    quoted = False
    for position, char in enumerate(text):
        if char == '"' and text[position - 1 : position] != "\\":
            quoted = not quoted
        elif char == ">" and not quoted:
            return position
    return -1


def _any_login(challenge: bytes, pattern: bytes) -> Generator[bytes, bytes, str | None]:
    """A mechanism with one response, of which only the user name is used."""
    found = re.match(pattern, (yield challenge), re.DOTALL)
    return None if found is None else (found[1] or b"").decode("utf-8", "replace")


def _any_login_with_login() -> Generator[bytes, bytes, str | None]:
    user = yield b"Username:"
    yield b"Password:"
    return user.decode("utf-8", "replace")


ANY_LOGIN: Mapping[str, SaslExchange] = {
    "PLAIN": functools.partial(_any_login, b"", rb"[^\0]*\0([^\0]+)\0"),
    "LOGIN": _any_login_with_login,
    "CRAM-MD5": functools.partial(_any_login, b"<1.1@localhost>", rb"(.+) [0-9A-Fa-f]{32}\Z"),
    "XOAUTH2": functools.partial(_any_login, b"", rb"user=([^\x01]*)\x01auth=Bearer "),
    "OAUTHBEARER": functools.partial(_any_login, b"", rb"n,(?:a=([^,]*))?,\x01.*auth=Bearer "),
}
"""Mechanisms that accept every user and every secret. SCRAM cannot be one of them, because its
server has to prove that it knows the password (RFC 5802 3)."""


def plain(users: Mapping[str, str]) -> Generator[bytes, bytes, str | None]:
    """PLAIN (RFC 4616)."""
    response = yield b""
    _, user, password = [*response.split(b"\0"), b"", b""][:3]
    return _checked(users, user, password)


def login(users: Mapping[str, str]) -> Generator[bytes, bytes, str | None]:
    """LOGIN (draft-murchison-sasl-login)."""
    user = yield b"Username:"
    password = yield b"Password:"
    return _checked(users, user, password)


def _checked(users: Mapping[str, str], user: bytes, password: bytes) -> str | None:
    name = user.decode("utf-8", "replace")
    known = users.get(name)
    return name if known is not None and known.encode() == password else None
