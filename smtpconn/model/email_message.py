"""`email.message.EmailMessage` on its way out: the envelope it names, and its octets.

Building messages is the email package's job; this file reads the headers for the envelope as
``smtplib.send_message`` does, and serialises, nothing more. Which form the octets take depends on
what the server offers, so serialising is the last step before sending:

* Bcc never leaves (RFC 5322 3.6.3), whoever is in it.
* Eight bits stay where the server offers 8BITMIME; where not, the email package re-encodes to
  seven.
* UTF-8 in the headers stays only in a message that needs SMTPUTF8 anyway, because of an address.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Sequence
from email.errors import InvalidHeaderDefect, MessageError
from email.generator import BytesGenerator
from email.message import Message
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import ValidationError

if TYPE_CHECKING:
    from email.headerregistry import AddressHeader

AnyMessage: TypeAlias = "Message[Any, Any]"

# What the email package raises over headers and bodies it cannot make sense of: it has no list, and
# its parsers call themselves for each bracket of a nested comment.
_NONSENSE = (
    MessageError, UnicodeError, LookupError, TypeError, ValueError, AttributeError, RecursionError,
)  # fmt: skip


def sender_of(message: AnyMessage) -> ReversePath:
    """The reverse-path a message names: its Sender, else its first From (RFC 5322 3.6.2).

    The Resent- headers go before the others (RFC 5322 3.6.6).

    Raises:
        ValidationError: it names none, or one that may not be sent.
    """
    prefix = _prefix(message)
    for name in ("Sender", "From"):
        addresses = _addresses(message, (prefix + name,))
        if addresses:
            return ReversePath(addresses[0])
    raise ValidationError(f"the message has no {prefix}From: give the sender")


def recipients_of(message: AnyMessage) -> list[ForwardPath]:
    """The forward-paths a message names: To, Cc and Bcc, or their Resent- forms.

    Raises:
        ValidationError: it names none, or one that may not be sent.
    """
    prefix = _prefix(message)
    addresses = _addresses(message, [prefix + name for name in ("To", "Cc", "Bcc")])
    if not addresses:
        raise ValidationError(f"the message has no {prefix}To, Cc or Bcc: give the recipients")
    return [ForwardPath(address) for address in addresses]


def needs_smtputf8(sender: ReversePath, recipients: Sequence[ForwardPath]) -> bool:
    """Whether the envelope makes it an internationalised message (RFC 6531 1.2)."""
    return not (sender.is_ascii and all(r.is_ascii for r in recipients))


def as_octets(message: AnyMessage, capabilities: ServerCapabilities, *, smtputf8: bool) -> bytes:
    """Serialise a message for a server, with CRLF line ends and without Bcc.

    Args:
        message: stays as it is.
        capabilities: what the server offers.
        smtputf8: whether UTF-8 may stand in the headers.

    Raises:
        ValidationError: it cannot be serialised for this server.
    """
    # The copy is shallow: only headers are taken out of it.
    outgoing = copy.copy(message)
    del outgoing["Bcc"]
    del outgoing["Resent-Bcc"]
    settings: dict[str, Any] = {
        "linesep": "\r\n",
        "cte_type": "8bit" if capabilities.supports_8bitmime else "7bit",
    }
    # The old policy, compat32, has no UTF-8 form.
    if hasattr(outgoing.policy, "utf8"):
        settings["utf8"] = smtputf8
    policy = outgoing.policy.clone(**settings)
    octets = io.BytesIO()
    try:
        # ">From " belongs into mailbox files (RFC 4155 2); the old policy writes it into mail too.
        BytesGenerator(octets, mangle_from_=False, policy=policy).flatten(outgoing)
    except _NONSENSE as error:
        raise ValidationError(f"the message cannot be serialised: {error}") from error
    return octets.getvalue()


def _prefix(message: AnyMessage) -> str:
    """ "Resent-" for a message that was resent, as far as one can say who it goes to now."""
    resent = _fields(message, "Resent-Date")
    if not resent:
        return ""
    if len(resent) > 1:
        raise ValidationError(
            "the message was resent more than once: give the sender and the recipients"
        )
    return "Resent-"


def _addresses(message: AnyMessage, names: Iterable[str]) -> list[str]:
    try:
        return [
            address.addr_spec
            for name in names
            for field in _fields(message, name)
            for address in _parsed(field).addresses
        ]
    except _NONSENSE as error:
        raise ValidationError(f"an address field cannot be read: {error}") from error


def _parsed(field: object) -> AddressHeader:
    """An address field with its addresses, all of them.

    Not by ``email.utils.getaddresses``: of what it does not understand, such as an address literal
    in Python 3.13, it makes nothing, and somebody would not get the message.
    """
    header: Any = field if hasattr(field, "addresses") else _address_header(str(field))
    # Not in it: obsolete forms, which are legal to read (RFC 5322 4.4), and UTF-8.
    defects = [d for d in header.defects if isinstance(d, InvalidHeaderDefect)]
    # There is one address without a domain (RFC 5321 4.1.1.3).
    if defects and str(header).strip().lower() != "postmaster":
        raise ValidationError(f"{str(header)!r:.80} is no list of addresses: {defects[0]}")
    return cast("AddressHeader", header)


def _address_header(text: str) -> AddressHeader:
    # Only messages of the old API have fields that nobody has parsed; and this takes longer to
    # import than anything else here.
    from email.headerregistry import HeaderRegistry

    return cast("AddressHeader", HeaderRegistry()("To", text))


def _fields(message: AnyMessage, name: str) -> list[object]:
    try:
        # Here the email package parses them, and finds a line end in an encoded word, say.
        return list(message.get_all(name, []))
    except _NONSENSE as error:
        raise ValidationError(f"the message's {name} cannot be read: {error}") from error
