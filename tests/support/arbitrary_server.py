"""A server whose every reply a test can plan: the correct one, or any other behaviour.

The text of each reply names its command and the client's operation, so that a test detects a reply
that the client took for another command's. The server stores a message if and only if it is about
to send 2xx for it, even if that reply is then not sent.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

PIPELINED = ("PIPELINING", "CHUNKING", "8BITMIME", "AUTH PLAIN")


@dataclass(frozen=True)
class Act:
    """The behaviour of the server when a reply is due.

    Attributes:
        code: the code of the reply; None for the correct one.
        sizes: the sizes of the pieces in which it is sent; the rest is one piece.
        instead: bytes that are sent in place of the reply.
        behind: bytes that are sent directly after it.
        ends: whether the connection ends then.
        hangs: whether the server sends nothing more.
        keeps: whether a message is stored before all that.
    """

    code: int | None = None
    sizes: tuple[int, ...] = ()
    instead: bytes | None = None
    behind: bytes = b""
    ends: bool = False
    hangs: bool = False
    keeps: bool = False

    @property
    def is_right(self) -> bool:
        """Whether this is correct behaviour, perhaps in pieces."""
        return self == Act(sizes=self.sizes)

    @property
    def is_answer(self) -> bool:
        """Whether exactly one reply is sent, correct or not."""
        return self.instead is None and not (self.behind or self.ends or self.hangs)


RIGHT = Act()


class Gone(Exception):
    """The connection has ended, or must end."""


@dataclass
class Adversary:
    """The server of one connection, on one end of a socket pair.

    Attributes:
        operation: the number of the client's operation, for the replies; set by the test.
        stored: (first line of the content, recipient) of each message.
        is_well: whether the server has sent exactly one reply for each command.
        extensions: the extensions of its EHLO reply.
    """

    is_lmtp: bool
    extensions: tuple[str, ...] = PIPELINED
    operation: int = 0
    stored: list[tuple[bytes, str]] = field(default_factory=list)
    is_well: bool = True
    error: BaseException | None = None
    _acts: deque[Act] = field(default_factory=deque)
    _acts_of_content: deque[Act] = field(default_factory=deque)
    _recipients: list[str] = field(default_factory=list)
    _has_sender: bool = False
    _buffer: bytes = b""

    def __post_init__(self) -> None:
        self.client_end, self._sock = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="adversary")
        self._waits = threading.Event()

    def start(self) -> None:
        """Begin with the greeting."""
        self._thread.start()

    def plan(self, operation: int, acts: Iterable[Act], content: Iterable[Act] = ()) -> None:
        """Set the behaviour during the client's next operation; after these acts, the correct one.

        Args:
            operation: the number of the operation.
            acts: one for each command, in order.
            content: one for each reply to content, in order.
        """
        self.operation = operation
        self._acts, self._acts_of_content = deque(acts), deque(content)

    def interject(self, data: bytes) -> None:
        """Send bytes while no reply is due."""
        if data:
            self.is_well = False
        try:
            self._sock.sendall(data)
        except OSError:
            pass  # the client has closed the connection

    def settle(self) -> None:
        """Wait until the server has replied to everything that was sent to it."""
        # Checked in this order: if nothing is readable, the server has received all input, and when
        # it waits for more, it has replied.
        while self._thread.is_alive() and (self._has_more() or not self._waits.is_set()):
            self._waits.wait(0.001)

    def stop(self) -> None:
        """End the connection and wait for the thread; raise the error of the thread, if any."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended
        if self._thread.ident is not None:
            self._thread.join()
        self._sock.close()
        self.client_end.close()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._answer("GREETING", "", 220)
            while True:
                self._serve(self._until(b"\r\n").decode())
        except (Gone, OSError):
            pass
        except BaseException as error:
            self.error = error
        finally:
            try:
                self._sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended

    def _serve(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        handlers: dict[str, Callable[[str, str], None]] = {
            "EHLO": self._ehlo, "LHLO": self._ehlo, "MAIL": self._mail, "RCPT": self._rcpt,
            "DATA": self._data, "BDAT": self._bdat, "AUTH": self._auth, "RSET": self._rset,
        }  # fmt: skip
        handlers.get(verb, self._other)(verb, argument)

    def _other(self, verb: str, argument: str) -> None:
        if self._answer(verb, argument, 221 if verb == "QUIT" else 250) == 221 and verb == "QUIT":
            raise Gone

    def _ehlo(self, verb: str, argument: str) -> None:
        self._answer(verb, argument, 250, (*self.extensions, f"X-TAG {self.operation}"))
        self._forget()

    def _auth(self, verb: str, argument: str) -> None:
        self._answer(verb, "", 235)

    def _rset(self, verb: str, argument: str) -> None:
        if self._answer(verb, argument, 250) // 100 == 2:
            self._forget()

    def _mail(self, verb: str, argument: str) -> None:
        code = self._answer(verb, "", 503 if self._has_sender else 250)
        self._has_sender = self._has_sender or code // 100 == 2

    def _rcpt(self, verb: str, argument: str) -> None:
        recipient = argument.partition("<")[2].partition(">")[0]
        if self._answer(verb, recipient, 250 if self._has_sender else 503) // 100 == 2:
            self._recipients.append(recipient)

    def _data(self, verb: str, argument: str) -> None:
        if self._answer(verb, "", 354 if self._recipients else 503) == 354:
            content = b""
            while not (content == b".\r\n" or content.endswith(b"\r\n.\r\n")):
                content += self._until(b"\r\n") + b"\r\n"
            self._take(content)

    def _bdat(self, verb: str, argument: str) -> None:
        self._take(self._exactly(int(argument.split()[0])))

    def _take(self, content: bytes) -> None:
        identity = content.partition(b"\r\n")[0]
        recipients, self._recipients = self._recipients, []
        self._forget()
        for recipient in recipients if self.is_lmtp else [",".join(recipients)]:
            self._answer(
                "CONTENT",
                recipient if self.is_lmtp else "",
                250 if recipients else 554,
                store=(identity, recipient) if recipients else None,
            )

    def _forget(self) -> None:
        self._recipients, self._has_sender = [], False

    def _answer(
        self,
        verb: str,
        argument: str,
        right: int,
        more: tuple[str, ...] = (),
        store: tuple[bytes, str] | None = None,
    ) -> int:
        """Do the planned act; return the code that was sent, 0 for none."""
        acts = self._acts_of_content if verb == "CONTENT" else self._acts
        act = acts.popleft() if acts else RIGHT
        code = right if act.code is None else act.code
        says = act.instead is None and not act.hangs and not (act.ends and act.code is None)
        if store is not None and (act.keeps or (says and code // 100 == 2)):
            self.stored.append(store)
        self.is_well = self.is_well and act.is_answer
        lines = [f"#{self.operation} {verb} {argument}".rstrip(), *(more if code == 250 else ())]
        reply = b"".join(
            f"{code}{' ' if n == len(lines) else '-'}{text}\r\n".encode()
            for n, text in enumerate(lines, 1)
        )
        self._send(reply if says else act.instead or b"", act.behind, act.sizes)
        if act.ends or code == 421:
            raise Gone
        while act.hangs:
            self._more()
        return code if says else 0

    def _send(self, data: bytes, behind: bytes, sizes: tuple[int, ...]) -> None:
        for size in sizes:
            if size < len(data):
                self._sock.sendall(data[:size])
                data = data[size:]
        # In one write: later bytes could be taken for the reply to the next command.
        self._sock.sendall(data + behind)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _has_more(self) -> bool:
        return bool(select.select([self._sock], [], [], 0)[0])

    def _more(self) -> None:
        self._waits.set()
        self._sock.recv(1, socket.MSG_PEEK)
        self._waits.clear()
        received = self._sock.recv(65536)
        if not received:
            raise Gone
        self._buffer += received
