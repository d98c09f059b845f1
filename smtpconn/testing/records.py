"""What a test server has received: messages and connections."""

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
        content: the bytes as received, with CRLF line ends and without stuffed dots.
        mail_parameters: the parameters of MAIL FROM:<...>.
        recipient_parameters: the parameters of each accepted RCPT TO:<...>.
        user: the user who was logged in; None without a login.
        tls: whether it was received under TLS.
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
        """The content, parsed by the email package: header, text and attachments."""
        return message_from_bytes(self.content, policy=default)


@dataclass(slots=True)
class ServerConnection:
    """A connection as the server saw it; it changes until the connection ends.

    Attributes:
        number: from 1, in the order in which they were accepted.
        commands: every command line, and every reply to a SASL challenge.
        turns: the number of writes of the server after the greeting. With ``answer_after_pause``
            that is the number of round trips of the client.
        tls: whether TLS is on.
        user: the user who is logged in; None without a login.
        closed: whether the connection has ended.
    """

    number: int
    commands: list[str] = field(default_factory=list)
    turns: int = 0
    tls: bool = False
    user: str | None = None
    closed: bool = False
