"""What an exchange may ask its driver for: send commands and content, wait, or start TLS.

A `CommandGroup` is written in one go, and its replies are assigned to it in their order: by
counting, never by their text (RFC 2920 3.1). The driver fills `CommandGroup.replies` as they
arrive, so after a failure the exchange still sees those that came. A group that does not wait may
be written later, together with others; `WaitFor` waits for its replies.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TypeAlias, TypeVar

from smtpconn.model.content import Buffer, Content
from smtpconn.model.errors import Phase
from smtpconn.model.replies import SmtpResponse
from smtpconn.protocol.command import Command


class Payload:
    """Message content to write after a command.

    Args:
        buffers: what to write, in order; read once.
        replies: how many replies follow its end: 1, or one per accepted recipient in LMTP.
        ends_message: whether the message may be delivered once the last byte has left.
        log: the text that is logged instead of it.
        phase: the phase of an error while its reply is awaited.
        size: the bytes in the buffers together; infinity if not known before they are written.
        content: the message that the buffers are made from; reading it may fail.
        wire: all its bytes, if they are few and in one piece.
    """

    __slots__ = (
        "buffers", "content", "ends_message", "log", "phase", "replies", "size", "wire",
    )  # fmt: skip

    # No argument is keyword-only, and those of most messages are passed by position: a keyword
    # argument of a constructor takes a hundredth of the time of a message (CPython 3.11).
    def __init__(
        self,
        buffers: Iterable[Buffer],
        replies: int = 1,
        size: float = math.inf,
        wire: bytes | None = None,
        content: Content | None = None,
        ends_message: bool = True,
        log: str = "<content>",
        phase: Phase = Phase.CONTENT,
    ) -> None:
        self.buffers = buffers
        self.replies = replies
        self.ends_message = ends_message
        self.log = log
        self.phase = phase
        self.size = size
        self.content = content
        self.wire = wire


Piece: TypeAlias = Command | Payload

GREETING = Payload((), size=0, ends_message=False, log="<greeting>", phase=Phase.GREETING)
"""Nothing is sent, and the greeting is awaited (RFC 5321 3.1)."""


_replies_of = operator.attrgetter("replies")
_wire_of: Callable[[Piece | CommandGroup], bytes] = operator.attrgetter("wire")


class CommandGroup:
    """Pieces to write without waiting in between, and the replies to them.

    Args:
        pieces: commands and payloads in order.
        begins_message: whether a message's MAIL is in it.
        waits: whether the exchange continues only when every reply has come.

    Attributes:
        replies: filled by the driver.
        missing: how many replies have not come yet.
        begins_at, ends_at: the offsets in the connection's outgoing bytes at which the group begins
            and ends; ``ends_at`` is infinity until the group has been written.
        payload_size: the bytes of its payload, infinity until that is known; a group has at most
            one payload.
        may_have_been_delivered: set when the connection is lost: whether a message in it was sent
            completely and got no final reply.
        wire: all its bytes, if `join` has joined them; else they are those of its pieces.
    """

    wire: bytes | None = None
    begins_at: float = 0
    ends_at: float = math.inf
    payload_size: float = math.inf
    may_have_been_delivered = False
    _by_reply: list[tuple[Piece, int, bool]] | None = None

    # No argument is keyword-only, as in `Payload`.
    def __init__(
        self, pieces: tuple[Piece, ...], begins_message: bool = False, waits: bool = True
    ) -> None:
        self.pieces = pieces
        self.waits = waits
        self.begins_message = begins_message
        self.replies: list[SmtpResponse] = []
        self.missing = sum(map(_replies_of, pieces))

    def join(self, payload: Payload | None = None) -> None:
        """Join the bytes of the pieces if each has its ``wire``, to be written in one go.

        Not for a group with a secret: error reports show ``wire``.

        Args:
            payload: the one among the pieces; None if all are commands.
        """
        if payload is not None:
            self.payload_size = payload.size
            if payload.wire is None:
                return
        self.wire = b"".join(map(_wire_of, self.pieces))

    @property
    def is_pipelined(self) -> bool:
        """Whether the group has more than one command."""
        return sum(isinstance(piece, Command) for piece in self.pieces) > 1

    @property
    def is_eager(self) -> bool:
        """Whether the group holds an envelope and the content of the same message.

        Then only the number of replies can show that the server sent one too many.
        """
        return self.begins_message and isinstance(self.pieces[-1], Payload)

    def has_failed_to_read(self, error: BaseException) -> bool:
        """Whether ``error`` was raised by reading the message."""
        return any(
            isinstance(piece, Payload)
            and piece.content is not None
            and piece.content.read_error is error
            for piece in self.pieces
        )

    def recount_missing(self) -> None:
        """Compute ``missing`` from the replies that came.

        Needed after an exception that may have been raised between storing a reply and counting it.
        """
        self.missing = sum(map(_replies_of, self.pieces)) - len(self.replies)

    def unanswered(self, number: int = 0) -> tuple[Piece, float]:
        """The piece that a missing reply answers, and the offset at which that piece ends.

        Args:
            number: which of the missing replies; 0 is the next one.
        """
        # Computed when first needed: only after an early reply or a failure.
        if self._by_reply is None:
            self._by_reply = _ends_of_replies(self.pieces)
        piece, size, has_payload = self._by_reply[len(self.replies) + number]
        return piece, self.begins_at + size + (self.payload_size if has_payload else 0)


def _ends_of_replies(pieces: Iterable[Piece]) -> list[tuple[Piece, int, bool]]:
    """For each reply: the piece it answers, the bytes of all commands up to the end of that piece,
    and whether the payload also lies before that end.
    """
    found: list[tuple[Piece, int, bool]] = []
    size, has_payload = 0, False
    for piece in pieces:
        if isinstance(piece, Command):
            size += len(piece.wire)
        else:
            has_payload = True
        found += [(piece, size, has_payload)] * piece.replies
    return found


class Burst:
    """Write several groups in one go. None of them waits, and each has its `CommandGroup.wire`."""

    __slots__ = ("groups", "wire")

    def __init__(self, groups: Sequence[CommandGroup]) -> None:
        self.groups = groups
        self.wire = b"".join(map(_wire_of, groups))


class WaitFor:
    """Wait until every reply to a group with ``waits=False`` has come."""

    __slots__ = ("group",)

    def __init__(self, group: CommandGroup) -> None:
        self.group = group


class StartTls:
    """Start TLS on the connection. Data that arrived after the reply to STARTTLS is an error."""

    __slots__ = ()


ExchangeAction: TypeAlias = CommandGroup | Burst | WaitFor | StartTls
ACTIONS = (CommandGroup, Burst, WaitFor, StartTls)
T = TypeVar("T")
Exchange: TypeAlias = Generator[ExchangeAction, None, T]


def single(command: Command) -> Generator[ExchangeAction, None, SmtpResponse]:
    """Send one command and return its reply."""
    group = CommandGroup((command,))
    yield group
    return group.replies[0]
