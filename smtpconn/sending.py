"""The ways of sending: the mail transactions of `SmtpConnection` (RFC 5321 3.3, 3030, 2033).

Rule: all of them come down to `send_request` or `deliver_request`, which run the one transaction in
`smtpconn.dialogue.transaction`; what differs is only what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.message import EmailMessage
from typing import TypeAlias

from smtpconn.address import ForwardPath, ReversePath
from smtpconn.capabilities import ServerCapabilities
from smtpconn.channel import Operations
from smtpconn.content import Message
from smtpconn.dialogue.session import Protocol
from smtpconn.dialogue.transaction import Request, lmtp_transaction, make_request, transaction
from smtpconn.envelope import LmtpSendResult, SendResult
from smtpconn.errors import Phase, ValidationError
from smtpconn.message import as_octets, needs_smtputf8, recipients_of, sender_of
from smtpconn.parameters import MailFromParams, RcptToParams

Recipients: TypeAlias = str | ForwardPath | Sequence[str | ForwardPath]


class Sending(Operations):
    """The mail transactions; users meet them on `SmtpConnection`."""

    def send(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message with DATA (RFC 5321 3.3).

        Args:
            sender: where bounces go; "" for the null reverse-path.
            recipients: one or more addresses.
            message: bytes, a binary file or an iterable of bytes; line ends may be any.

        Raises:
            ValidationError: an address or message that may not be sent; nothing was.
            UnsupportedExtensionError, SmtpUtf8RequiredError: the server lacks what it needs.
            AllRecipientsFailedError: every recipient was refused.
            TransientError, PermanentError: the sender or the message was refused.
            ProtocolError: the connection speaks LMTP.
        """
        return self.send_with_all_params(sender, recipients, message, None, None, timeout)

    def send_with_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None,
        timeout: float | None = None,
    ) -> SendResult:
        """The same as `send`, with parameters for MAIL."""
        return self.send_with_all_params(sender, recipients, message, params, None, timeout)

    def send_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> SendResult:
        """The same as `send`, with parameters for MAIL and for each RCPT.

        Raises:
            ProtocolError: ``rcpt_params`` has another length than ``recipients``; nothing was sent.
        """
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.send_request(request, timeout)

    def send_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message with BDAT (RFC 3030); arguments as `send`.

        With ``params.body`` BINARYMIME the octets go untouched.

        Raises:
            UnsupportedExtensionError: the server does not offer CHUNKING; nothing was sent.
            SmtpError: as `send`.
        """
        return self.send_bdat_with_all_params(sender, recipients, message, params, None, timeout)

    def send_bdat_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> SendResult:
        """The same as `send_bdat`, with parameters for each RCPT too."""
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.send_request(request, timeout, chunking=True)

    def send_lmtp(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None = None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """Deliver a message over LMTP with DATA (RFC 2033); arguments as `send`.

        Returns one result per accepted recipient, in the order given. If the connection is lost
        after some of the answers came, the others' results have no response: unknown.

        Raises:
            SmtpError: as `send`, but a refusal of the content is in the results.
            ProtocolError: the connection speaks SMTP.
        """
        return self.send_lmtp_with_all_params(sender, recipients, message, params, None, timeout)

    def send_lmtp_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """The same as `send_lmtp`, with parameters for each RCPT too."""
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.deliver_request(request, timeout)

    def send_lmtp_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        params: MailFromParams | None = None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """The same as `send_lmtp`, with BDAT; needs CHUNKING as `send_bdat` does."""
        return self.send_lmtp_bdat_with_all_params(
            sender, recipients, message, params, None, timeout
        )

    def send_lmtp_bdat_with_all_params(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        mail_params: MailFromParams | None,
        rcpt_params: Sequence[RcptToParams] | None,
        timeout: float | None = None,
    ) -> LmtpSendResult:
        """The same as `send_lmtp_bdat`, with parameters for each RCPT."""
        request = make_request(sender, recipients, message, mail_params, rcpt_params)
        return self.deliver_request(request, timeout, chunking=True)

    def send_message(
        self,
        message: EmailMessage,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        timeout: float | None = None,
    ) -> SendResult | LmtpSendResult:
        """Send a message of the email package, over SMTP or LMTP, whichever is spoken.

        Args:
            message: stays as it is. Bcc does not leave; eight bits are re-encoded to seven where
                the server does not offer 8BITMIME.
            sender, recipients: None for those the headers name (Sender or From; To, Cc and Bcc; or
                their Resent- forms).

        Raises:
            ValidationError: the headers name none, or one that may not be sent.
            SmtpUtf8RequiredError: an address is not ASCII and the server does not offer SMTPUTF8.
            SmtpError: as `send`.
        """
        request = message_request(message, sender, recipients, self._session.capabilities)
        if self._session.protocol is Protocol.LMTP:
            return self.deliver_request(request, timeout)
        return self.send_request(request, timeout)

    def send_request(
        self, request: Request, timeout: float | None = None, *, chunking: bool = False
    ) -> SendResult:
        """Send over SMTP what `make_request` has checked; for the pool, which may do it twice."""
        conversation = transaction(self._session, request, chunking=chunking)
        return self._channel.operate(conversation, timeout, Phase.MAIL)

    def deliver_request(
        self, request: Request, timeout: float | None = None, *, chunking: bool = False
    ) -> LmtpSendResult:
        """The same over LMTP."""
        conversation = lmtp_transaction(self._session, request, chunking=chunking)
        return self._channel.operate(conversation, timeout, Phase.MAIL)


def message_request(
    message: EmailMessage,
    sender: str | ReversePath | None,
    recipients: Recipients | None,
    capabilities: ServerCapabilities,
) -> Request:
    """Turn a message of the email package into a request for a server that offers this.

    Raises:
        ValidationError: as `Sending.send_message`.
    """
    if not hasattr(message, "get_all"):
        raise ValidationError(
            f"send_message takes an email.message.EmailMessage, not {type(message).__name__}; "
            f"send takes bytes"
        )
    paths = make_request(
        sender_of(message) if sender is None else sender,
        recipients_of(message) if recipients is None else recipients,
        b"",
    )
    utf8 = needs_smtputf8(paths.sender, paths.recipients) and capabilities.supports_smtputf8
    octets = as_octets(message, capabilities, smtputf8=utf8)
    return make_request(paths.sender, paths.recipients, octets)
