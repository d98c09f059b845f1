"""Sends a framework's finished message over a pool, and decides when it counts as sent.

The frameworks pass the bytes of a message, and addresses as people write them, with display names
and internationalised domains. They encode domains in header fields by Python's codec (A-labels of
IDNA 2003, RFC 3490). The envelope uses the same codec, so that a message goes to the domain in its
header.
"""

from __future__ import annotations

import email
import email.policy
import logging
import re
from collections.abc import Iterable

from smtpconn.model.address_list import read_addresses
from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.content import has_long_line
from smtpconn.model.email_message import AnyMessage
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError
from smtpconn.model.results import LmtpSendResult, RejectedRecipient, SendResult
from smtpconn.net.deadline import Deadline
from smtpconn.pool.connection_pool import ConnectionPool
from smtpconn.pool.pool_log import log
from smtpconn.protocol.mail_request import make_request

# Plain addresses need no parsing. All others go through the email package, which is slow.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\-]+@[A-Za-z0-9.\-]+\Z")


def bare_address(text: str, *, a_labels: bool = True) -> str:
    """The address in ``text``, without a display name and with its domain in A-labels.

    Args:
        text: one address, such as ``Jane <jane@example.com>``.
        a_labels: False to leave the domain as it is.

    Raises:
        ValidationError: it is not exactly one address, or contains a line break.
    """
    if _PLAIN.match(text):
        return text
    # Checked here, because the parser reads a line break as folding of a header field.
    if "\r" in text or "\n" in text:
        raise ValidationError(f"a line break in an address: {text!r:.80}")
    addresses = read_addresses(text)
    if len(addresses) != 1:
        several = f"; pass a list, {addresses!a:.1000}" if addresses else ""
        raise ValidationError(f"not a single address, but {len(addresses)}: {text!r:.80}{several}")
    return _with_a_labels(addresses[0]) if a_labels else addresses[0]


def bare_addresses(text: str) -> list[str]:
    """The addresses in ``text``, separated by commas; errors as `bare_address`."""
    if "\r" in text or "\n" in text:
        raise ValidationError(f"a line break in an address: {text!r:.80}")
    return [_with_a_labels(address) for address in read_addresses(text)]


def _with_a_labels(address: str) -> str:
    if address.isascii():
        return address
    local_part, at, domain = address.rpartition("@")
    try:
        return f"{local_part}{at}{domain if domain.isascii() else domain.encode('idna').decode()}"
    except UnicodeError as error:
        raise ValidationError(f"{domain!r:.80} is no domain name: {error}") from None


class _LocalSender(ReversePath):
    """A sender without a domain: a mailbox of the server's own machine."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        _set_name(self, name)

    def to_ascii(self) -> ReversePath:
        """The same text: it is ASCII."""
        return self


class _LocalRecipient(ForwardPath):
    """A recipient without a domain: a mailbox of the server's own machine."""

    __slots__ = ()

    def __init__(self, name: str) -> None:
        _set_name(self, name)
        object.__setattr__(self, "written", name)

    def to_ascii(self) -> ForwardPath:
        """The same text: it is ASCII."""
        return self


def _set_name(path: ReversePath | ForwardPath, name: str) -> None:
    # Only this function makes paths without a domain. The name is a Dot-string (RFC 5321 4.1.2),
    # which contains nothing that could end the command early.
    for attribute, value in (("mailbox", None), ("is_ascii", True), ("text", name)):
        object.__setattr__(path, attribute, value)


_LOCAL_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")


def local_sender(text: str) -> ReversePath:
    """A sender that may be a name without a domain, such as ``root``; errors as `bare_address`."""
    return _LocalSender(text) if _LOCAL_NAME.match(text) else reverse_path(text)


def local_recipients(texts: Iterable[str]) -> list[ForwardPath]:
    """Recipients, in comma-separated lists, that may be names without a domain.

    Raises:
        ValidationError: as `bare_address`.
    """
    found: list[ForwardPath] = []
    for text in texts:
        names = [name.strip() for name in text.split(",")]
        if any(map(_LOCAL_NAME.match, names)):
            for name in names:
                local = _LOCAL_NAME.match(name)
                found += [_LocalRecipient(name)] if local else listed_paths([name])
        else:
            found += listed_paths([text])
    return found


def has_local_name(texts: Iterable[str]) -> bool:
    """Whether any address in these comma-separated lists is a name without a domain."""
    return any(_LOCAL_NAME.match(name.strip()) for text in texts for name in text.split(","))


def reverse_path(text: str) -> ReversePath:
    """The path of a framework's sender; errors as `bare_address`."""
    return ReversePath(bare_address(text))


def listed_paths(texts: Iterable[str]) -> list[ForwardPath]:
    """The paths of recipients in comma-separated lists; errors as `bare_address`."""
    return [ForwardPath(each) for text in texts for each in bare_addresses(text)]


def forward_path(text: str) -> ForwardPath:
    """The path of a framework's recipient; errors as `bare_address`."""
    return ForwardPath(bare_address(text))


def forward_paths(texts: Iterable[str]) -> list[ForwardPath]:
    """The paths of a framework's recipients; errors as `bare_address`."""
    return [forward_path(text) for text in texts]


def deliver(
    pool: ConnectionPool,
    sender: ReversePath,
    recipients: list[ForwardPath],
    data: bytes,
    timeout: float | None = None,
    *,
    as_it_stands: bool = False,
) -> SendResult:
    """Send a finished message, encoding it again if the server cannot take it as it is.

    Args:
        as_it_stands: send bytes above 127 undeclared to a server without 8BITMIME, as `smtplib`
            does, instead of encoding them.

    Raises:
        SmtpError: as `ConnectionPool.send`, and as `check_delivered`.
    """
    # The email package can encode a message that may not be sent as it is. It is used only if
    # necessary, because parsing the message again takes time and invalidates signatures.
    if has_long_line(data):
        result = pool.send_message(_reread(data), sender, recipients, timeout=timeout)
    else:
        try:
            result = pool.send(sender, recipients, data, timeout=timeout)
        except UnsupportedExtensionError as error:
            if error.phase is not Phase.MAIL or data.isascii():
                raise
            # The error is raised before any content is sent, so a second attempt is safe.
            if as_it_stands:
                request = make_request(sender, recipients, data, None, None)
                request.content.is_8bit = False  # no check for 8BITMIME
                seconds = pool.config.timeout if timeout is None else timeout
                result = pool._send(request, Deadline(seconds))
                check_delivered(result)
                return result
            result = pool.send_message(_reread(data), sender, recipients, timeout=timeout)
    check_delivered(result)
    return result


def _reread(data: bytes) -> AnyMessage:
    # This policy does not change header fields.
    return email.message_from_bytes(data, policy=email.policy.compat32)


def check_delivered(result: SendResult) -> None:
    """Raise if no recipient got the message; LMTP reports that in its result (RFC 2033 4.2).

    If only some recipients were refused, their number is logged, without addresses: the frameworks
    have no way to return it.

    Raises:
        AllRecipientsFailedError: the message was refused for every recipient.
        ConnectionClosedError: the result is not known for any recipient
            (``may_have_been_delivered`` is True).
    """
    refused = list(result.rejected_recipients)
    accepted = len(result.accepted_recipients)
    if isinstance(result, LmtpSendResult):
        undelivered = [each for each in result.results if not each.delivered]
        if not accepted and any(each.response is None for each in undelivered):
            raise ConnectionClosedError(
                "the connection was lost before the server reported who got the message",
                phase=Phase.CONTENT,
                may_have_been_delivered=True,
            )
        refused += [
            RejectedRecipient(each.recipient, each.response)
            for each in undelivered
            if each.response is not None
        ]
    if not accepted:
        raise AllRecipientsFailedError(refused)
    if refused:
        log(
            logging.WARNING,
            "%d of %d recipients were refused; the first with %s",
            len(refused),
            len(refused) + accepted,
            _code(refused[0].response),
            name="smtpconn.contrib",
        )


def _code(response: SmtpResponse) -> str:
    # The text of the reply is left out, because servers quote the address in it.
    status = response.enhanced_status
    return str(response.code) if status is None else f"{response.code} {status}"
