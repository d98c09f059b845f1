"""The ways of sending: the mail transactions of `SmtpConnection` (RFC 5321 3.3, 3030, 2033).

Rule: all of them come down to `send_request` or `deliver_request`, which run the one transaction in
`smtpconn.dialogue.transaction`; what differs is only what it is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from smtpconn.address import ForwardPath, ReversePath
from smtpconn.channel import Operations
from smtpconn.content import Message
from smtpconn.dialogue.transaction import Request, lmtp_transaction, make_request, transaction
from smtpconn.envelope import LmtpSendResult, SendResult
from smtpconn.errors import Phase
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
