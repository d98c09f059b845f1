"""What a test server has received: messages and connections. Values."""

from __future__ import annotations

from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A message the server accepted.

    Attributes:
        sender: the reverse-path without its brackets; "" for the null path.
        recipients: the forward-paths it was accepted for.
        content: the octets as received, with CRLF line ends, dots unstuffed.
        mail_parameters: the words behind MAIL FROM:<...>.
        recipient_parameters: the words behind each accepted RCPT TO:<...>.
        user: who was logged in.
        tls: whether it came under TLS.
        connection: the number of the connection, from 1.
        via: "DATA" or "BDAT".
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    mail_parameters: tuple[str, ...] = ()
    recipient_parameters: tuple[tuple[str, ...], ...] = ()
    user: str | None = None
    tls: bool = False
    connection: int = 0
    via: str = "DATA"

    @property
    def email(self) -> EmailMessage:
        """The content as the email package reads it: headers, text and attachments."""
        return message_from_bytes(self.content, policy=default)


@dataclass(slots=True)
class ServerConnection:
    """A connection as the server saw it; changes while it lives.

    Attributes:
        number: from 1, in the order of accepting.
        commands: every command line, and every line that answered a challenge.
        turns: how often the server wrote, the greeting not counted. With ``answer_after_pause``
            that is the number of round trips the client made.
        tls, user, closed: how things stand.
    """

    number: int
    commands: list[str] = field(default_factory=list)
    turns: int = 0
    tls: bool = False
    user: str | None = None
    closed: bool = False
