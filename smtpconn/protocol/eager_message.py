"""A message that is sent with its envelope, before any reply to either (`Pipelining.EAGER`).

`smtpconn.protocol.pipelined` sends many of these one after the other. Only their number tells which
reply is about which message, so each keeps its own: it is a `CommandGroup`. It is a `Transaction`
as well, which decides what its replies mean.
"""

from __future__ import annotations

from smtpconn.protocol.exchange import CommandGroup
from smtpconn.protocol.mail_request import MailRequest, envelope_commands
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import Transaction


class EagerMessage(CommandGroup, Transaction):
    """A transaction that is sent whole, and the replies to it.

    Args:
        session: where it takes place, which may send eagerly.
        request: what is to be sent, which is short and no stream.
        reset: whether RSET goes before it even if nothing seems to need it.

    Raises:
        As `Transaction.begin`; nothing is noted then.

    Attributes:
        size: the bytes of its commands and its content.
        wire: all its bytes; None if the message is long, which it is not in a burst.
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
        self.content = request.content
        bdat, chunk = self.bdat_pieces()
        self.pieces = (*commands, bdat, chunk)
        self.replies = []
        self.missing = len(commands) + 1
        request.attempt = self
        self.join(chunk)
        if self.wire is None:
            self.size = chunk.size + sum(len(command.wire) for command in commands)
        else:
            self.size = len(self.wire)

    @property
    def sent_in(self) -> CommandGroup:  # type: ignore[override]
        """Itself: all of the message is in one group."""
        return self
