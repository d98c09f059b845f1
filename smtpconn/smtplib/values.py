"""Conversions between the values of ``smtplib``'s API and smtpconn's."""

from __future__ import annotations

import copy
import email.utils
import io
import re
from collections.abc import Sequence
from email.generator import BytesGenerator
from email.message import Message
from typing import Any

from smtpconn.model.address_list import read_addresses
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.email_message import serialize
from smtpconn.model.errors import ValidationError

# A line break that is not followed by a blank (no folding): another field would begin after it.
_BARE_LINE_END = re.compile(r"\r\n?(?![ \t\n])|\n(?![ \t])")


def features(offers: ServerCapabilities) -> dict[str, str]:
    """The server's extensions in the form of ``smtplib``."""
    found = {e.keyword.lower(): " ".join(e.parameters) for e in offers.extensions}
    if "auth" in found:
        found["auth"] = " " + found["auth"]
    return found


def answer_bytes(answer: object) -> bytes:
    """What a caller's function answered to a challenge, as bytes."""
    if isinstance(answer, bytes):
        return answer
    if not isinstance(answer, str):
        raise ValidationError(f"an answer to a challenge is a str, not {type(answer).__name__}")
    return answer.encode("ascii")


def as_bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        return message.encode("ascii")
    # Not bytes(message), which turns 5 into five NULs.
    return bytes(memoryview(message))


def addr_only(address: str) -> str:
    name, spec = email.utils.parseaddr(address)
    return address if (name, spec) == ("", "") else spec


def resent_prefix(message: Message) -> str:
    resent = message.get_all("Resent-Date")
    if resent is None:
        return ""
    if len(resent) > 1:
        raise ValidationError("message has more than one 'Resent-' header block")
    return "Resent-"


def addresses(message: Message, names: Sequence[str]) -> list[str]:
    """The addresses in some fields; a group such as ``undisclosed-recipients:;`` may have none.

    Raises:
        ValidationError: an address in a field cannot be parsed; skipping it would lose a recipient.
    """
    return [
        address
        for name in names
        for field in message.get_all(name, [])
        for address in _addresses_in(name, str(field))
    ]


def _addresses_in(name: str, field: str) -> list[str]:
    found = [address for _, address in email.utils.getaddresses([field])]
    if all(found) or not field.strip():
        return [address for address in found if address]
    # The email package returns an empty address for an invalid one, and also for a valid group or
    # empty list element; `read_addresses` tells them apart.
    try:
        return read_addresses(field)
    except ValidationError:
        raise ValidationError(f"{name} cannot be read: {field!a:.200}") from None


def serialised(message: Message, *, allows_8bit: bool, utf8: bool) -> bytes:
    """A message's bytes as smtpconn writes them, or as ``smtplib`` does if a field is invalid.

    An example is a To field without an address: ``smtplib`` sends the field unchanged.

    Args:
        message: the message; it is not changed, and its Bcc fields are left out.
        allows_8bit: whether 8-bit parts may be sent unchanged.
        utf8: whether header fields may contain UTF-8.

    Raises:
        ValidationError: a field contains a line break after which another field would begin.
    """
    offers = (SmtpExtension("8BITMIME"),) if allows_8bit else ()
    try:
        return serialize(message, ServerCapabilities("", offers), smtputf8=utf8)
    except ValidationError:
        if any(_BARE_LINE_END.search(str(value)) for _, value in message.raw_items()):
            raise
    outgoing = copy.copy(message)
    del outgoing["Bcc"]
    del outgoing["Resent-Bcc"]
    settings: dict[str, Any] = {"utf8": True} if utf8 else {}
    policy = message.policy.clone(**settings)
    flat = io.BytesIO()
    BytesGenerator(flat, mangle_from_=False, policy=policy).flatten(outgoing, linesep="\r\n")
    return flat.getvalue()
