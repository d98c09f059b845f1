"""A small server for unusual sessions: a test sets its reply to each command.

`smtpconn.testing.SmtpServer` follows the RFCs; this server sends any bytes. It listens on the
loopback interface, so that smtplib can connect to it, too.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

CLOSE = b"<close>"
"""At the end of a reply: the connection is closed after it."""

PAUSE = b"<pause>"
"""Within a reply: the rest is sent a moment later, in a packet of its own."""

Say = bytes | Callable[[bytes, int], bytes]
"""A reply, or a function that makes it from the command line and the number of earlier commands
with the same verb on the connection."""

_USUAL: Mapping[str, bytes] = {
    "EHLO": b"250-mx.example\r\n250 8BITMIME\r\n",
    "LHLO": b"250-mx.example\r\n250 8BITMIME\r\n",
    "HELO": b"250 mx.example\r\n",
    "MAIL": b"250 ok\r\n",
    "RCPT": b"250 ok\r\n",
    "DATA": b"354 go\r\n",
    "CONTENT": b"250 2.0.0 queued\r\n",
    "RSET": b"250 ok\r\n",
    "NOOP": b"250 ok\r\n",
    "QUIT": b"221 bye\r\n<close>",
}


class Lines:
    """The lines a client sends, and which of them came in one packet."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.is_first = False

    def next(self) -> bytes:
        """The next line with its line end; empty at the end of the connection."""
        self.is_first = not self._buffer
        while b"\n" not in self._buffer:
            if not (data := self._sock.recv(65536)):
                return b""
            self._buffer += data
        line, end, self._buffer = self._buffer.partition(b"\n")
        return line + end

    @property
    def is_last(self) -> bool:
        """Whether it is the last line of its packet."""
        return not self._buffer


class ScriptedServer:
    """A server in threads.

    DATA without an accepted recipient is 503, as is RCPT without a sender.

    Args:
        greeting: the greeting.
        replies: the replies by verb, by CONTENT for the end of the content, and by ANSWER for the
            line after a 334; others have the usual replies.

    Attributes:
        port: the port it listens on.
        dialogs: the lines of each connection, without their line ends.
        messages: the stored messages.
        said: the packets it has sent.
    """

    def __init__(self, greeting: bytes = b"220 mx.example ESMTP\r\n", **replies: Say) -> None:
        self.dialogs: list[list[str]] = []
        self.messages: list[bytes] = []
        self.said: list[bytes] = []
        self._greeting = greeting
        self._replies: dict[str, Say] = {**_USUAL, **replies}
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._sock.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, name="scripted server")]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for thread in self._threads:
            thread.join(5)

    def verbs(self, connection: int = 0) -> list[str]:
        """The commands of a connection, by their verbs."""
        return [line.split(" ")[0].upper() for line in self.dialogs[connection]]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            dialog: list[str] = []
            self.dialogs.append(dialog)
            thread = threading.Thread(
                target=self._serve, args=(sock, dialog), name="scripted server"
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, dialog: list[str]) -> None:
        counts: Counter[str] = Counter()
        lines = Lines(sock)
        with sock:
            sock.settimeout(10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                is_open = self._greet(sock)
                while is_open and (line := lines.next()):
                    line = line.rstrip(b"\r\n")
                    dialog.append(line.decode("latin-1"))
                    said = self._answer(line, counts, lines)
                    is_open = self._send(sock, said)
                    if line.upper() == b"DATA" and said.startswith(b"354"):
                        content = b""
                        while (part := lines.next()) != b".\r\n":
                            if not part:
                                return
                            content += part
                        said = self._answer(b"CONTENT", counts, lines)
                        if said.startswith(b"250"):
                            self.messages.append(content)
                        is_open = self._send(sock, said)
            except OSError:
                pass  # the client has closed the connection

    def _greet(self, sock: socket.socket) -> bool:
        """Send the greeting; return whether the connection is still open."""
        return self._send(sock, self._greeting)

    def _answer(self, line: bytes, counts: Counter[str], lines: Lines) -> bytes:
        """The reply to a command, or to CONTENT.

        Args:
            line: the command.
            counts: the number of earlier commands on the connection, by verb.
            lines: the input, which knows the first and the last line of a packet.
        """
        return self._reply(line, counts)

    def _reply(self, line: bytes, counts: Counter[str]) -> bytes:
        verb = line.split(b" ")[0].upper().decode("latin-1")
        if counts["asked"]:
            verb = "ANSWER"
        reply = self._replies.get(verb, b"500 unknown\r\n")
        if verb == "DATA" and not counts["accepted"]:
            return b"503 no recipients\r\n"
        counts[verb] += 1
        said = reply if isinstance(reply, bytes) else reply(line, counts[verb] - 1)
        counts["asked"] = said.startswith(b"334")
        if verb in ("MAIL", "RSET", "CONTENT"):
            counts["accepted"] = 0
            counts["begun"] = verb == "MAIL" and said[:1] not in (b"4", b"5")
        elif verb == "RCPT":
            if not counts["begun"]:
                return b"503 no sender\r\n"
            counts["accepted"] += said[:1] not in (b"4", b"5")
        return said

    def _send(self, sock: socket.socket, said: bytes) -> bool:
        """Send a reply; return whether the connection is still open."""
        is_end = said.endswith(CLOSE)
        for nth, data in enumerate(said.removesuffix(CLOSE).split(PAUSE)):
            if nth:
                time.sleep(0.03)
            if data:
                sock.sendall(data)
                self.said.append(data)
        return not is_end
