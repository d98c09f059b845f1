"""What a conversation may ask its driver for: a batch of commands and content, or TLS.

A `Batch` is written at once, and its replies are counted against it in order (RFC 2920 3.1: by
counting, never by what a reply says). The driver fills `Batch.replies` as they arrive, so after a
failure the conversation still sees those that came. A batch that does not wait may be written
later, with others; `Await` waits for one.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from smtpconn.commands import Command
from smtpconn.content import Buffer
from smtpconn.errors import Phase
from smtpconn.reply import SmtpResponse


@dataclass(slots=True, eq=False)
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


class Batch:
    """Pieces to write without waiting in between, and the replies to them.

    Args:
        pieces: commands and payloads in order.
        waits: whether the conversation goes on only when every reply has come.
        begins_message: whether a message's MAIL is in it.

    Attributes:
        replies: filled by the driver.
        missing: how many replies have not come yet.
        may_have_been_delivered: told when the connection is lost: whether a message in it had left
            to its last octet and had no final reply.
    """

    __slots__ = (
        "begins_message",
        "may_have_been_delivered",
        "missing",
        "pieces",
        "replies",
        "waits",
    )

    def __init__(
        self, pieces: tuple[Piece, ...], *, waits: bool = True, begins_message: bool = False
    ) -> None:
        self.pieces = pieces
        self.waits = waits
        self.begins_message = begins_message
        self.replies: list[SmtpResponse] = []
        self.may_have_been_delivered = False
        self.missing = 0
        for piece in pieces:
            self.missing += piece.replies

    def unanswered(self) -> Iterator[Piece]:
        """For each reply that is missing the piece it belongs to."""
        each = (piece for piece in self.pieces for _ in range(piece.replies))
        return itertools.islice(each, len(self.replies), None)

    @property
    def awaited_piece(self) -> Piece:
        """The piece whose reply is missing first."""
        return next(self.unanswered())


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until every reply to a batch has come that did not wait."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class StartTls:
    """Put TLS on the connection. Whatever was received and not asked for is an error."""


Step: TypeAlias = Batch | Await | StartTls
STEPS = (Batch, Await, StartTls)
T = TypeVar("T")
Conversation: TypeAlias = Generator[Step, None, T]


def single(command: Command) -> Generator[Step, None, SmtpResponse]:
    """Send one command and return its reply."""
    batch = Batch((command,))
    yield batch
    return batch.replies[0]
