"""A minimal server that follows its plans and records what it accepts.

It is strict: a command out of sequence is refused. As with Exim, a MAIL inside a transaction is
refused, and the commands after it belong to the transaction that was already open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plan:
    """The replies of a server to one message.

    Attributes:
        number: the number of the message, which is the local part of its sender.
        mail: the code for MAIL.
        recipients: the local part of each recipient, and the code for its RCPT.
        data: the code for DATA, if a recipient was accepted.
        content: the code for the content.
    """

    number: int
    mail: int = 250
    recipients: tuple[tuple[str, int], ...] = (("c", 250),)
    data: int = 354
    content: int = 250

    @property
    def is_taken(self) -> bool:
        """Whether the message is accepted if all of it arrives."""
        any_recipient = any(code == 250 for _, code in self.recipients)
        return self.mail == 250 and any_recipient and self.data == 354 and self.content == 250


@dataclass(frozen=True)
class Stored:
    """A message the server has accepted."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass
class StrictServer:
    """The server of one connection.

    Args:
        plans: the plans of the messages.
        lmtp: whether it replies to content for each recipient (RFC 2033 4.2).
        waits_for_nobody: whether it replies 354 to DATA without an accepted recipient.
        refuses_behind_data: whether it replies 503 to commands that arrive together with the end of
            DATA.
        bye_at: the number, from 0, of the reply that is a 421 and the last one.

    Attributes:
        stored: the messages that it has accepted.
        heard: the senders of the messages whose whole content it has read.
        replies: the number of its replies.
    """

    plans: Sequence[Plan]
    lmtp: bool = False
    waits_for_nobody: bool = False
    refuses_behind_data: bool = False
    bye_at: int = -1
    stored: list[Stored] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    replies: int = 0
    _input: bytearray = field(default_factory=bytearray)
    _output: bytearray = field(default_factory=bytearray)
    _named: str = ""
    _sender: str = ""
    _plan: Plan | None = None
    _to: list[str] = field(default_factory=list)
    _in_data: bool = False
    _is_behind_data: bool = False

    @property
    def has_left(self) -> bool:
        """Whether it has sent 421."""
        return 0 <= self.bye_at < self.replies

    def answer(self, said: bytes) -> bytes:
        """The replies to some more bytes of the client."""
        self._input += said
        self._is_behind_data = False
        while self._step():
            pass
        output, self._output = bytes(self._output), bytearray()
        return output

    def _step(self) -> bool:
        """Process one command or one content; return whether there was one."""
        if self._in_data:
            return self._take_content()
        end = self._input.find(b"\r\n")
        if end < 0:
            return False
        line = self._input[:end].decode()
        if line.startswith("BDAT"):
            return self._take_chunk(end + 2, int(line.split()[1]))
        del self._input[: end + 2]
        self._obey(line)
        return True

    def _obey(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        if self._is_behind_data and self.refuses_behind_data:
            self._reply(503)
        elif verb == "RSET":
            self._forget()
            self._reply(250)
        elif verb == "MAIL":
            self._mail(argument)
        elif verb == "RCPT":
            self._rcpt(argument[4 : argument.index("@")])
        elif verb == "DATA":
            self._data()
        else:
            raise AssertionError(f"no command: {line}")

    def _mail(self, argument: str) -> None:
        sender = argument[6 : argument.index("@")]
        plan = next(plan for plan in self.plans if str(plan.number) == sender)
        self._named = sender
        if self._plan is not None:
            self._reply(503)
        elif self._reply(plan.mail):
            self._plan, self._sender = plan, sender

    def _rcpt(self, name: str) -> None:
        if self._plan is None:
            self._reply(503)
        elif self._reply(dict(self._plan.recipients).get(name, 250)):
            self._to.append(name)

    def _data(self) -> None:
        if self._plan is None or not (self._to or self.waits_for_nobody):
            self._reply(503)
        else:
            self._in_data = self._reply(self._plan.data if self._to else 354)

    def _take_content(self) -> bool:
        end = 0 if self._input.startswith(b".\r\n") else self._input.find(b"\r\n.\r\n") + 2
        if end == 1:
            return False
        content = bytes(self._input[:end])
        del self._input[: end + 3]
        self._in_data, self._is_behind_data = False, True
        self._take((b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:])
        return True

    def _take_chunk(self, start: int, size: int) -> bool:
        if len(self._input) < start + size:
            return False
        content = bytes(self._input[start : start + size])
        del self._input[: start + size]
        if self._to:
            self._take(content)
        else:
            self.heard.append(self._named)
            self._reply(503)
        return True

    def _take(self, content: bytes) -> None:
        self.heard.append(self._named)
        if not self._to:
            if not self.lmtp:
                self._reply(554)
        elif self.lmtp:
            for name in self._to:
                self._keep([name], content)
        else:
            self._keep(self._to, content)
        self._forget()

    def _keep(self, names: Sequence[str], content: bytes) -> None:
        assert self._plan is not None
        if self._reply(self._plan.content):
            self.stored.append(Stored(self._sender, tuple(names), content))

    def _forget(self) -> None:
        self._plan = None
        self._to = []

    def _reply(self, code: int) -> bool:
        """Send a reply; return whether it is positive."""
        if 0 <= self.bye_at <= self.replies:
            if self.bye_at == self.replies:
                self._output += b"421 bye\r\n"
            self.replies += 1
            return False
        self.replies += 1
        self._output += b"%d said\r\n" % code
        return code < 400
