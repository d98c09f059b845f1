"""The one place that gives replies to commands, and knows whether a connection may be used again.

Replies belong to commands by their order alone (RFC 2920 3.1), so being off by one, once, makes
every later answer a lie: a refused recipient is reported as accepted, a message that was lost as
delivered. Hence the rules:

Rule 1: a reply for which nothing is awaited is an error; it is never kept for the next command.
Rule 2: a reply to something that has not wholly left yet is an error, except a refusal of content
        that is still on its way: that is this message's answer, and the connection's last.
Rule 3: 421 may come at any time (RFC 5321 3.8). It ends the connection. If something is awaited it
        is its answer.
Rule 4: after an error nothing is paired any more. What was paired before it stands: a message whose
        250 came in front of garbage was delivered.
Rule 5: a connection may be used again only if nothing is awaited, nothing is left over of what was
        received, and none of the above has happened.

To say whether a message may have been delivered, pairing counts octets: it knows where in the
stream each piece ends and how many octets the transport has taken. There is no I/O here.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from smtpconn.dialogue.batch import Batch, Piece
from smtpconn.errors import (
    ConnectionClosedError,
    ParseError,
    Phase,
    ProtocolError,
    SmtpError,
    refusal,
)
from smtpconn.reply import ReplyParser, SmtpResponse

SHUTTING_DOWN = 421


@dataclass(slots=True, eq=False)
class Awaited:
    """A piece whose replies have not all come; ``end`` is where it ends in the stream."""

    batch: Batch
    piece: Piece
    left: int
    end: float = math.inf


class Pairing:
    """The state of one connection's dialogue.

    Attributes:
        failure: why nothing more can be paired; None while all is well.
        shutdown_reply: the 421 the server sent, if it did.
    """

    def __init__(self) -> None:
        self.failure: SmtpError | None = None
        self.shutdown_reply: SmtpResponse | None = None
        self._parser = ReplyParser()
        self._awaited: deque[Awaited] = deque()
        self._queued = 0
        self._sent = 0

    @property
    def is_reusable(self) -> bool:
        """Whether the next command's reply would be the next reply to come (rule 5)."""
        return self.failure is None and not self._awaited and self._parser.is_empty

    @property
    def phase(self) -> Phase:
        """What the reply awaited next belongs to."""
        return self._awaited[0].piece.phase if self._awaited else Phase.IDLE

    @property
    def may_have_been_delivered(self) -> bool:
        """Whether a message has left to its last octet and its final reply is missing."""
        return any(a.piece.ends_message and a.end <= self._sent for a in self._awaited)

    def expect(self, batch: Batch, piece: Piece) -> Awaited:
        """Note that ``piece`` is about to be written; its end is told by `ends_here`."""
        awaited = Awaited(batch, piece, piece.replies)
        if piece.replies:
            self._awaited.append(awaited)
        return awaited

    def queued(self, octets: int) -> None:
        """Note octets that will be handed to the transport."""
        self._queued += octets

    def ends_here(self, awaited: Awaited, behind: int = 0) -> None:
        """Note that a piece ends ``behind`` octets after those queued so far."""
        awaited.end = self._queued + behind

    def sent(self, octets: int) -> None:
        """Note octets the transport has taken."""
        self._sent += octets

    def received(self, data: bytes) -> None:
        """Pair what was received; sets ``failure`` instead of raising (rule 4)."""
        if self.failure is not None:
            return
        self._parser.feed(data)
        try:
            while self.failure is None and (reply := self._parser.next_reply()) is not None:
                self._pair(reply)
        except ParseError as error:
            error.phase = self.phase
            self.failure = error

    def _pair(self, reply: SmtpResponse) -> None:
        if reply.code == SHUTTING_DOWN:
            self._shut_down(reply)
        elif not self._awaited:
            self.failure = ProtocolError(
                f"the server sent a reply that nothing asked for: {reply}", phase=Phase.IDLE
            )
        elif self._awaited[0].end > self._sent:
            self._answered_early(reply)
        else:
            self._hand_over(reply)

    def _shut_down(self, reply: SmtpResponse) -> None:
        self.shutdown_reply = reply
        if self._awaited:
            self.failure = refusal(reply, self.phase)
            self._hand_over(reply)
        else:
            self.failure = ConnectionClosedError(
                f"the server is closing the connection: {reply}", phase=Phase.IDLE
            )

    def _answered_early(self, reply: SmtpResponse) -> None:
        if self.phase is Phase.CONTENT and (reply.is_transient or reply.is_permanent):
            self.failure = refusal(reply, self.phase)
            self._hand_over(reply)
        else:
            self.failure = ProtocolError(
                f"the server answered before {self.phase} was sent: {reply}", phase=self.phase
            )

    def _hand_over(self, reply: SmtpResponse) -> None:
        awaited = self._awaited[0]
        awaited.batch.replies.append(reply)
        awaited.left -= 1
        if not awaited.left:
            self._awaited.popleft()
