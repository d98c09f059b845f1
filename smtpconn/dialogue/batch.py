"""What a conversation may ask its driver for: a batch of commands and content, or TLS.

A `Batch` is written at once, and its replies are counted against it in order (RFC 2920 3.1: by
counting, never by what a reply says). The driver fills `Batch.replies` as they arrive, so after a
failure the conversation still sees those that came.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from smtpconn.commands import Command
from smtpconn.content import Buffer
from smtpconn.errors import Phase
from smtpconn.reply import SmtpResponse


@dataclass(frozen=True, slots=True)
class Payload:
    """Message content to write behind a command.

    Attributes:
        buffers: what to write, in order; read once.
        replies: how many replies its end has: 1, or one per accepted recipient in LMTP.
        ends_message: whether the message may be delivered once the last octet has left.
        log: how it reads in a log.
        phase: where we are when its reply is awaited.
    """

    buffers: Iterable[Buffer] = field(repr=False)
    replies: int = 1
    ends_message: bool = True
    log: str = "<content>"
    phase: Phase = Phase.CONTENT


Piece: TypeAlias = Command | Payload

GREETING = Payload((), ends_message=False, log="<greeting>", phase=Phase.GREETING)
"""The greeting is a reply that nothing is sent for (RFC 5321 3.1)."""


@dataclass(slots=True)
class Batch:
    """Pieces to write without waiting in between, and the replies to them.

    Attributes:
        pieces: commands and payloads in order.
        replies: filled by the driver; ``expected`` of them when the conversation goes on.
    """

    pieces: tuple[Piece, ...]
    replies: list[SmtpResponse] = field(default_factory=list)

    @property
    def expected(self) -> int:
        """How many replies belong to this batch."""
        return sum(piece.replies for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class StartTls:
    """Put TLS on the connection. Whatever was received and not asked for is an error."""


Step: TypeAlias = Batch | StartTls
T = TypeVar("T")
Conversation: TypeAlias = Generator[Step, None, T]


def single(command: Command) -> Generator[Step, None, SmtpResponse]:
    """Send one command and return its reply."""
    batch = Batch((command,))
    yield batch
    return batch.replies[0]
