"""Builds the request of `SMTP.sendmail` and `SMTP.send_message`, and their return value."""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from dataclasses import replace
from email.message import Message
from typing import TypeAlias

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.content import Content
from smtpconn.model.errors import ConnectionClosedError, Phase, ValidationError
from smtpconn.model.results import LmtpSendResult, SendResult
from smtpconn.protocol.mail_request import MailRequest
from smtpconn.smtplib.errors import as_smtplib, refused
from smtpconn.smtplib.paths import (
    check_ascii,
    forward_path,
    mail_options,
    rcpt_words,
    reverse_path,
)
from smtpconn.smtplib.replies import Reply, pair
from smtpconn.smtplib.values import addresses, resent_prefix

AnyResult: TypeAlias = SendResult | LmtpSendResult


def make_request(
    offers: ServerCapabilities,
    from_addr: str,
    to_addrs: Sequence[str],
    data: bytes,
    options: Sequence[str],
    rcpt_options: Sequence[str],
) -> MailRequest:
    """Check the arguments of ``sendmail``, and make the request for the transaction.

    Args:
        offers: the server's extensions.
        from_addr, to_addrs, data: the envelope and the message.
        options, rcpt_options: ESMTP parameters as text.

    Raises:
        ValidationError: an address or an option may not be sent, or the message contains a NUL.
        smtplib.SMTPNotSupportedError: SMTPUTF8 is needed and not offered.
    """
    sender, paths = reverse_path(from_addr), tuple(map(forward_path, to_addrs))
    asked, words = mail_options(options), rcpt_words(rcpt_options)
    if asked.smtputf8 and not offers.supports_smtputf8:
        raise smtplib.SMTPNotSupportedError("SMTPUTF8 not supported by server")
    if not offers.supports_smtputf8:
        check_ascii(sender)
        for path in paths:
            check_ascii(path)
    content = Content(data)
    content.refuse_nul()
    if not offers.supports_8bitmime:
        # As in smtplib: without 8BITMIME, 8-bit content is sent without BODY=8BITMIME.
        content.is_8bit = False
        asked = replace(asked, body=None)
    return MailRequest(
        sender, paths, content, asked.params, mail_words=asked.words, rcpt_words=words
    )


def refused_recipients(result: AnyResult, given: dict[str, str]) -> dict[str, Reply]:
    """What ``sendmail`` returns: the replies to refused recipients, by the addresses as given.

    Args:
        result: the result of the transaction.
        given: maps each address, as parsed and as sent, to the text that the caller gave.

    Raises:
        ConnectionClosedError: in LMTP, a recipient has no final reply.
        smtplib.SMTPDataError: in LMTP, the message was delivered to no recipient.
    """
    refusals = {given[str(r.recipient)]: pair(r.response) for r in result.rejected_recipients}
    if not isinstance(result, LmtpSendResult):
        return refusals
    if any(each.response is None for each in result.results):
        raise as_smtplib(
            ConnectionClosedError(
                "the connection was lost before the server answered for each recipient",
                phase=Phase.CONTENT,
                may_have_been_delivered=True,
            )
        )
    is_any_delivered = any(each.delivered for each in result.results)
    for each in result.results:
        if not each.delivered and each.response is not None:
            if not is_any_delivered:
                raise refused(each.response, Phase.CONTENT, smtplib.SMTPDataError)
            refusals[given[str(each.recipient)]] = pair(each.response)
    return refusals


def envelope_of(
    message: Message, from_addr: str | None, to_addrs: str | Sequence[str] | None
) -> tuple[str, str | Sequence[str]]:
    """The sender and recipients of ``send_message``: the arguments, else those in the header.

    Raises:
        ValidationError: no sender is given and the header names none, or a field is unreadable.
    """
    prefix = resent_prefix(message)
    if from_addr is None:
        name = "Sender" if prefix + "Sender" in message else "From"
        senders = addresses(message, (prefix + name,))
        if not senders:
            raise ValidationError(f"the message has no {prefix}From: give from_addr")
        from_addr = senders[0]
    if to_addrs is None:
        to_addrs = addresses(message, [prefix + name for name in ("To", "Bcc", "Cc")])
    return from_addr, to_addrs
