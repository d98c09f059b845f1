"""Exhaustion: whatever a server or a text does, it ends, and takes little memory until then.

On record: replies without an end (CVE-2013-1752 and every client that had
it later), servers that drip, parsers that call themselves or go back (CVE-2025-14874).
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy

import pytest

from smtpconn import (
    AddressLiteral,
    Domain,
    ForwardPath,
    Mailbox,
    MailFromParams,
    ParseError,
    ProtocolError,
    RcptToParams,
    ReversePath,
    ServerCapabilities,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
)
from smtpconn.model.replies import response
from smtpconn.net.happy_eyeballs import SocketFactory
from smtpconn.protocol.reply_parser import MAX_CHALLENGE, MAX_LINES, MAX_REPLY
from tests.support.recording_servers import ME, MESSAGE, YOU, Reader, connect, peer
from tests.support.waiting import wait_until

GREETING = b"220 mx.example.com\r\n"
EHLO = b"250-mx.example.com\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n"
SHORT = 0.2
LONG = 200_000
FEW = 2 * 1024 * 1024
"""Bytes of memory; a server's endless reply would take them in a moment."""

Call = Callable[[SmtpConnection], object]


class Endless:
    """A server that answers well at first, and then says the same thing for ever.

    Attributes:
        said: the bytes that left in the end.
    """

    def __init__(self, first: tuple[bytes, ...], begin: bytes, again: bytes) -> None:
        self._first = first
        self._begin = begin
        self._again = again * (16 * 1024 // len(again))
        self.said = 0

    def serve(self, sock: socket.socket) -> None:
        """Serve one connection; for `peer`."""
        reader = Reader(sock)
        for number, reply in enumerate((*self._first, self._begin)):
            if number:
                reader.until(b"\r\n")
            sock.sendall(reply)
        while True:
            self.said += sock.send(self._again)


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a line": (b"250 ", b"x"),
    "a line of a longer reply": (b"250-ok\r\n250-", b"x"),
    "lines": (b"250-ok\r\n", b"250-and another line\r\n"),
    "short lines": (b"250-\r\n", b"250-\r\n"),
    "a challenge": (b"334 ", b"QUJD"),
    "challenges": (b"334 QUJD\r\n", b"334 QUJD\r\n"),
    "NULs": (b"", b"\0"),
    "digits": (b"", b"2"),
    "empty lines": (b"", b"\r\n"),
    "line feeds": (b"", b"\n"),
    "replies": (b"250 ok\r\n", b"250 ok\r\n"),
    "intermediate replies": (b"354 ok\r\n", b"354 ok\r\n"),
}

CALLS: dict[str, Call] = {
    "EHLO": SmtpConnection.rehlo,
    "NOOP": SmtpConnection.noop,
    "AUTH": lambda c: c.auth_login("user", "secret"),
    "CRAM-MD5": lambda c: c.auth_cram_md5("user", "secret"),
    "MAIL": lambda c: c.send(ME, YOU, MESSAGE),
    "VRFY": lambda c: c.vrfy("someone"),
}


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Fail if the memory in use rises by more than `FEW`."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        assert tracemalloc.get_traced_memory()[1] - before < FEW
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", ENDLESS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("little_memory")
def test_a_reply_without_an_end(what: str, call: str) -> None:
    """A reply of any endless kind ends in an error, after no more than the limits allow."""
    server = Endless((GREETING, EHLO), *ENDLESS[what])
    with peer(server.serve) as factory, connect(factory) as connection:
        try:
            CALLS[call](connection)
            # The one reply that was right; what comes behind it was not asked for.
            wait_until(lambda: server.said > 0)
            with pytest.raises(SmtpError):
                connection.noop()
        except SmtpTimeoutError:
            raise
        except SmtpError:
            pass
        assert not connection.is_open
    in_flight = 1024 * 1024  # what the two sockets hold
    assert server.said < MAX_REPLY + in_flight


@pytest.mark.parametrize("what", ["a line", "lines", "NULs", "empty lines", "replies", "digits"])
@pytest.mark.usefixtures("little_memory")
def test_a_greeting_without_an_end(what: str) -> None:
    """Nor does a greeting have to end for us to leave."""
    begin, again = ENDLESS[what]
    server = Endless((), begin.replace(b"250", b"220"), again.replace(b"250", b"220"))

    def use(factory: SocketFactory) -> None:
        # EHLO is answered by the second reply if the first was read alone; NOOP by none.
        with connect(factory) as connection:
            wait_until(lambda: server.said > 2 * len(again))
            connection.noop()

    with peer(server.serve) as factory, pytest.raises(SmtpError) as caught:
        use(factory)
    assert not isinstance(caught.value, SmtpTimeoutError)


@pytest.mark.parametrize(
    "reply",
    [
        b"250-x\r\n" * MAX_LINES + b"250 x\r\n",
        b"250 " + b"x" * 8192 + b"\r\n",
        b"334 " + b"A" * MAX_CHALLENGE + b"\r\n",
    ],
)
def test_one_more_than_the_limit_is_too_much(reply: bytes) -> None:
    """The limits of a reply are those documented: lines, bytes of a line or of a challenge."""
    server = Endless((GREETING, EHLO), reply, b"250 ok\r\n")
    with peer(server.serve) as factory, connect(factory) as connection, pytest.raises(ParseError):
        connection.noop()


def test_challenges_have_a_number() -> None:
    """A server that asks for ever is asked no more after ten answers."""
    asked = 0

    def serve(sock: socket.socket) -> None:
        nonlocal asked
        reader = Reader(sock)
        sock.sendall(GREETING)
        reader.until(b"\r\n")
        sock.sendall(b"250-mx\r\n250 AUTH OAUTHBEARER XOAUTH2 LOGIN\r\n")
        while True:
            reader.until(b"\r\n")
            asked += 1
            sock.sendall(b"334 VXNlcm5hbWU6\r\n")

    with peer(serve) as factory, connect(factory) as connection:
        with pytest.raises(ProtocolError):
            connection.auth_login("user", "secret")
        assert asked <= 12


@pytest.mark.parametrize(
    "drip",
    [
        pytest.param(b"250-x\r\n", id="a line at a time"),
        pytest.param(b"2", id="a byte at a time"),
        pytest.param(b"250 ", id="a line without an end"),
    ],
)
def test_a_drip_does_not_move_the_deadline(drip: bytes) -> None:
    """A server that always says a little more is left when the time is over, not later."""

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        for reply in (GREETING, EHLO):
            sock.sendall(reply)
            reader.until(b"\r\n")
        for byte in itertools.cycle(drip):
            sock.sendall(bytes([byte]))
            time.sleep(0.001)  # the drip itself

    with peer(serve) as factory, connect(factory) as connection:
        begin = time.monotonic()
        with pytest.raises((SmtpTimeoutError, ParseError)):
            connection.noop(timeout=SHORT)
        assert time.monotonic() - begin < SHORT + 1
        assert not connection.is_open


def test_a_server_that_does_not_read_does_not_move_the_deadline() -> None:
    """A server that takes the content a little at a time is left when the time is over."""

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        for reply in (GREETING, EHLO, b"250 ok\r\n", b"250 ok\r\n"):
            sock.sendall(reply)
            reader.until(b"\r\n")
        sock.sendall(b"354 go on\r\n")
        while not is_over.wait(0.001):  # the drip itself
            sock.recv(10)

    is_over = threading.Event()
    with peer(serve) as factory, connect(factory) as connection:
        begin = time.monotonic()
        with pytest.raises(SmtpTimeoutError) as caught:
            connection.send(ME, YOU, b"x" * 8_000_000, timeout=SHORT)
        assert time.monotonic() - begin < SHORT + 1
        is_over.set()
        assert not caught.value.may_have_been_delivered


LONG_TEXTS = [
    "a" * LONG,
    "a." * LONG,
    "." * LONG,
    '"' * LONG,
    '"' + "\\" * LONG,
    '"' + "a\\a" * LONG,
    "@" * LONG,
    "@a," * LONG + "a@b",
    "<" * LONG,
    "<" * LONG + ">" * LONG,
    "a@" + "b." * LONG,
    "a@" + "b-" * LONG,
    "a@[" * LONG,
    "a@[IPv6:" + ":" * LONG,
    "a@[x:" + "y" * LONG + "]",
    "ä" * LONG,
    "a@" + "ä" * LONG,
    "a@" + "\u0308" * LONG,
    "a@" + "\u200d" * LONG,
    "x;" * LONG,
    "rfc822;" + "+" * LONG,
    "smtp://" + "@" * LONG,
    "smtp://" + "%41" * LONG,
    "smtp://[" + ":" * LONG,
    "smtp://a?" + "timeout=1&" * LONG,
]


@pytest.mark.parametrize(
    "read",
    [
        Mailbox,
        ForwardPath,
        ReversePath,
        Domain,
        AddressLiteral,
        ServerConfig.from_url,
        lambda text: MailFromParams(envid=text),
        lambda text: MailFromParams(auth=text),
        lambda text: RcptToParams(orcpt=text),
    ],
)
def test_a_long_text_is_read_in_linear_time(read: Callable[[str], object]) -> None:
    """Whatever is long is read before long (see the suite's limit), or refused in few words."""
    for text in LONG_TEXTS:
        error: SmtpError | None = None
        try:
            read(text)
        except SmtpError as caught:
            error = caught
        assert len(str(error)) < 1000


@pytest.mark.parametrize("line", ["AUTH " + "A " * 30_000, "A" * 60_000, "LIMITS " + "=" * 60_000])
def test_a_long_offer_is_read_in_linear_time(line: str) -> None:
    """As is an EHLO reply as long as replies may be, also when it says the same thing often."""
    lines = ("mx", *[line[: MAX_REPLY // MAX_LINES]] * (MAX_LINES - 2), line)
    found = ServerCapabilities.from_ehlo(response(250, lines))
    assert len(found.extensions) <= 2
    assert not found.supports_auth("PLAIN")
    assert found.max_recipients is None


@pytest.mark.parametrize("chosen", [policy.default, policy.compat32], ids=["new", "old"])
@pytest.mark.parametrize("nested", ["(" * 5000, "(" * 5000 + ")" * 5000])
def test_nested_headers_do_not_exhaust_the_stack(chosen: policy.Policy, nested: str) -> None:
    """A header whose comments are nested thousands deep is refused, in an `SmtpError`."""
    data = f"From: {nested}a@example.com\r\nTo: {YOU}\r\n\r\nHello!\r\n".encode()
    message = message_from_bytes(data, policy=chosen)

    def serve(sock: socket.socket) -> None:
        reader = Reader(sock)
        sock.sendall(GREETING)
        reader.until(b"\r\n")
        sock.sendall(b"250 mx\r\n")
        reader.until(b"NOOP\r\n")
        sock.sendall(b"250 ok\r\n")

    with peer(serve) as factory, connect(factory) as connection:
        with pytest.raises(SmtpError):
            connection.send_message(message, recipients=[YOU])
        connection.noop()
        connection.close()
