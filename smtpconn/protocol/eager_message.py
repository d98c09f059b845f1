"""A message that is sent with its envelope, before any reply to either (`Pipelining.EAGER`).

`smtpconn.protocol.pipelined` sends many of these one after the other. Only their number tells which
reply is about which message, so each keeps its own: it is a `CommandGroup`. It is a `Transaction`
as well, which decides what its replies mean.
"""

from __future__ import annotations

import functools

from smtpconn.protocol.exchange import CommandGroup, Piece, wire_of
from smtpconn.protocol.mail_request import MailRequest, Outcome, envelope_commands
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import Transaction, bdat_command

JOINED = 16 * 1024
"""Bytes of content up to which it is copied behind its commands, so that many messages are written
in one go."""


class EagerMessage(CommandGroup, Transaction):
    """A transaction that is sent whole, and the replies to it.

    Args:
        session: where it takes place, which may send eagerly.
        request: what is to be sent, which is short and no stream.
        reset: whether RSET goes before it even if nothing seems to need it.

    Raises:
        As `Transaction.begin`; nothing is noted then.

    Attributes:
        size: the bytes of the message as the caller gave it.
        wire: all its bytes; None if the message has more than `JOINED`.
    """

    waits = False
    begins_message = True
    chunking = True

    # Neither constructor of the two bases is called, for speed: one is made for every message.
    def __init__(self, session: SessionState, request: MailRequest, reset: bool) -> None:
        self.commands = commands = envelope_commands(session, request, chunking=True)
        self.session = session
        self._note_begun(session, reset)
        self.sender = request.sender
        self.recipients = self.sent_to = request.recipients
        self.is_binary = request.is_binary
        self.content = content = request.content
        self.size = content.whole_size or 0
        self.replies = []
        self.missing = len(commands) + 1
        request.attempt = self
        if self.size <= JOINED:
            text = None if self.is_binary else content.short_text
            if text is None:
                chunk = content.whole_chunk(is_binary=self.is_binary)
                assert chunk is not None
                text = b"".join(chunk.buffers)
            bdat = bdat_command(f"BDAT {len(text)} LAST").wire
            self.wire = b"".join((*map(wire_of, commands), bdat, text))
            self.payload_size = len(bdat) + len(text)

    @functools.cached_property
    def pieces(self) -> tuple[Piece, ...]:  # type: ignore[override]
        """Its commands and its content."""
        return (*self.commands, self.whole_chunk())

    def outcome(self, cause: BaseException) -> Outcome:
        """The outcome of the message after other code has interrupted the exchange."""
        return self.outcome_in(self, cause)


def fits_in_burst(request: MailRequest) -> bool:
    """Whether a message is so short that it is written together with others."""
    size = request.content.whole_size
    return size is not None and size <= JOINED
