"""A server that stops at a given byte: the test server's protocol over a stream that can be cut.

    Meter               counts the bytes of a layer, the socket or TLS over it, and cuts there
    CuttingConnection   the server's end of a connection of `smtpconn.testing`, over such layers
    Witness             what the server has done: messages stored, replies completely written

Rule: the server runs in one thread and in lockstep with its client, so that the same cut always
happens at the same place. It has no expectation of the client's results.

A cut of the replies acts when the server has written that many bytes. A cut of the commands acts
when it has read that many, has executed the commands in them, and would now reply: so a message can
be stored without any reply.
"""

from __future__ import annotations

import enum
import select
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from smtpconn.testing import ReceivedMessage, ServerConnection
from smtpconn.testing.connection import Connection, Disconnected
from smtpconn.testing.faults import Fault, Faults
from smtpconn.testing.session import Session, Settings

T = TypeVar("T")

_TIMEOUT_MS = 30_000
"""Milliseconds that a stalled server waits for its client to close the connection."""

_RECEIVE = 65536
_LINGER_NOT = struct.pack("ii", 1, 0)


class How(enum.StrEnum):
    """What happens at a cut.

    CLOSE: the server closes the descriptor. FAREWELL: it does so after close_notify of TLS. RESET:
    it closes with RST. STALL: it neither reads nor writes any more. SILENCE: it reads and executes
    commands, but writes nothing any more. REPLY: it sends a given reply and reads nothing any more.
    """

    CLOSE = "close"
    FAREWELL = "farewell"
    RESET = "reset"
    STALL = "stall"
    SILENCE = "silence"
    REPLY = "reply"


class Side(enum.StrEnum):
    """Whose bytes are counted."""

    REPLIES = "replies"
    COMMANDS = "commands"


class Layer(enum.StrEnum):
    """Which bytes are counted: those of SMTP, or those of the socket, which differ under TLS."""

    SMTP = "smtp"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True)
class Cut:
    """A cut after ``position`` bytes of a side; ``reply`` is for `How.REPLY`."""

    how: How
    side: Side
    position: int
    layer: Layer = Layer.SMTP
    reply: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the server: its step, and where it ends in the stream of replies."""

    step: str
    end: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored message; where its content and its reply end in their streams."""

    message: ReceivedMessage
    content_end: int
    answer_end: int


@dataclass(slots=True)
class Witness:
    """What a server has done.

    Attributes:
        stored: the messages whose whole content it read; in LMTP one per recipient.
        replies: all its replies, written or not.
        written, read: the numbers of bytes of SMTP that it wrote and read.
        socket_written, socket_read: the same for the socket.
        was_cut: whether the cut was reached.
    """

    stored: list[Stored] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    written: int = 0
    read: int = 0
    socket_written: int = 0
    socket_read: int = 0
    was_cut: bool = False

    @property
    def acknowledged(self) -> list[ReceivedMessage]:
        """The messages whose final replies were completely written."""
        return [s.message for s in self.stored if s.answer_end <= self.written]


class Stream(Protocol):
    """The interface of the layer below."""

    def recv(self, size: int, /) -> bytes:
        """Some bytes, b"" at the end."""

    def sendall(self, data: bytes, /) -> None:
        """Write them all."""


class Meter:
    """Counts the bytes that pass a layer, and applies the cut."""

    def __init__(self, below: Stream, cut: Cut | None, cut_off: Callable[[], None]) -> None:
        self.below = below
        self.read = 0
        self.written = 0
        self._cut = cut
        self._cut_off = cut_off
        self._is_mute = False

    def cut_if_read(self) -> None:
        """Apply the cut if the last byte before it was read."""
        if self._room(Side.COMMANDS, self.read) == 0:
            self._apply_cut()

    def recv(self, size: int, /) -> bytes:
        """Read up to the cut."""
        self.cut_if_read()
        if self._room(Side.REPLIES, self.written) == 0:
            self._apply_cut()
        room = self._room(Side.COMMANDS, self.read)
        data = self.below.recv(size if room is None else min(size, room))
        self.read += len(data)
        return data

    def sendall(self, data: bytes, /) -> None:
        """Write up to the cut."""
        room = self._room(Side.REPLIES, self.written)
        whole, data = len(data), data[:room]
        if data and not self._is_mute:
            self.below.sendall(data)
            # The layer below may have been muted during this write.
            if not self._is_mute:
                self.written += len(data)
        # If all bytes were written, the cut is applied later, so that the layer above counts them.
        if len(data) < whole:
            self._apply_cut()

    def mute(self) -> None:
        """Write nothing any more."""
        self._is_mute = True

    def _apply_cut(self) -> None:
        self._cut = None
        self._cut_off()

    def _room(self, side: Side, passed: int) -> int | None:
        return (
            self._cut.position - passed
            if self._cut is not None and self._cut.side is side
            else None
        )


class TlsStream:
    """TLS over a layer, without a socket of its own, so that every byte goes through the layer."""

    def __init__(self, below: Stream, context: ssl.SSLContext) -> None:
        self._below = below
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._run(self._tls.do_handshake)

    def recv(self, size: int, /) -> bytes:
        """Some bytes, b"" at the end."""
        return self._run(lambda: self._tls.read(size))

    def sendall(self, data: bytes, /) -> None:
        """Write them all."""
        self._run(lambda: self._tls.write(data))

    def say_farewell(self) -> None:
        """Send close_notify (RFC 8446 6.1)."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # it wants to read the peer's close_notify, which is not needed
        self._flush()

    def _run(self, call: Callable[[], T]) -> T:
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._below.recv(_RECEIVE)
                if not data:
                    raise Disconnected from None
                self._incoming.write(data)
            except ssl.SSLError as error:
                raise Disconnected from error
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._below.sendall(data)


class NotingFaults(Faults):
    """Faults that remember the last step they were asked for: that of the next reply."""

    step = ""

    def take(self, step: str, line: str = "") -> Fault | None:
        """The fault that acts at this step."""
        self.step = step
        return super().take(step, line)


class CuttingConnection(Connection):
    """The server's end of a connection that is cut."""

    def __init__(self, sock: socket.socket, cut: Cut | None, faults: NotingFaults) -> None:
        super().__init__(sock, 0, ServerConnection(1))
        # The meters count the bytes that a blocking socket has taken.
        sock.setblocking(True)
        self.witness = Witness()
        self._cut = cut
        self._faults = faults
        outer = cut if cut is not None and cut.layer is Layer.SOCKET else None
        inner = cut if cut is not None and cut.layer is Layer.SMTP else None
        self._outer = Meter(sock, outer, self._cut_off)
        self._inner = Meter(self._outer, inner, self._cut_off)
        self._tls: TlsStream | None = None
        self._said = 0
        self._unanswered: list[tuple[ReceivedMessage, int]] = []

    def stores(self, message: ReceivedMessage) -> None:
        """Note a message, before its answer."""
        self._unanswered.append((message, self._inner.read - len(self._input)))

    def send(self, data: bytes) -> None:
        """Note a reply and put it into the next write."""
        self._said += len(data)
        self.witness.replies.append(Reply(self._faults.step, self._said))
        for message, content_end in self._unanswered:
            self.witness.stored.append(Stored(message, content_end, self._said))
        self._unanswered.clear()
        super().send(data)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do the handshake, byte by byte through the outer layer."""
        self._input.clear()
        self._tls = self._guarded(lambda: TlsStream(self._outer, context))
        self._inner.below = self._tls

    def close(self) -> None:
        """Close the descriptor and complete the witness."""
        witness = self.witness
        witness.read, witness.written = self._inner.read, self._inner.written
        witness.socket_read, witness.socket_written = self._outer.read, self._outer.written
        super().close()

    def _fill(self) -> None:
        self._inner.cut_if_read()
        self.flush()
        data = self._guarded(lambda: self._inner.recv(_RECEIVE))
        if not data:
            raise Disconnected
        self._input += data

    def _send_now(self, data: bytes) -> None:
        self._guarded(lambda: self._inner.sendall(data))

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as error:
            raise Disconnected from error

    def _cut_off(self) -> None:
        assert self._cut is not None
        self.witness.was_cut = True
        how = self._cut.how
        if how is How.SILENCE:
            self._inner.mute()
            self._outer.mute()
            return
        if how is How.REPLY:
            self._sock.sendall(self._cut.reply)
        if how in (How.STALL, How.REPLY):
            _wait_until_gone(self._sock)
        if how is How.FAREWELL and self._tls is not None:
            self._tls.say_farewell()
        if how is How.RESET:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        raise Disconnected


def serve(
    sock: socket.socket, settings: Settings, cut: Cut | None, faults: NotingFaults | None = None
) -> Witness:
    """Serve one connection until its end or the cut; for a thread of its own."""
    faults = faults if faults is not None else NotingFaults()
    connection = CuttingConnection(sock, cut, faults)
    record = ServerConnection(1)
    session = Session(settings, faults, connection, record, lambda: None, connection.stores)
    try:
        session.run()
    except Disconnected:
        pass
    finally:
        connection.close()
    return connection.witness


def socket_pair(*, tcp: bool, buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets; TCP ones can be reset. ``buffer``: bytes of each socket's buffers."""
    if not tcp:
        pair = socket.socketpair()
        for sock in pair:
            _shrink(sock, buffer)
        return pair
    with socket.socket() as listener, socket.socket() as near:
        for sock in (listener, near):
            _shrink(sock, buffer)
            if buffer is not None:
                # A segment that is larger than the window would wait for a timer of the kernel's.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 512)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        near.connect(listener.getsockname())
        far = listener.accept()[0]
        return socket.socket(fileno=near.detach()), far


def _shrink(sock: socket.socket, buffer: int | None) -> None:
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)


def _wait_until_gone(sock: socket.socket) -> None:
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    if not poll.poll(_TIMEOUT_MS):
        raise AssertionError("the client never went away")
