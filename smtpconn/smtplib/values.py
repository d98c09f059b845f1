"""What ``smtplib``'s API takes and returns, as octets, addresses and what servers offer."""

from __future__ import annotations

import email.utils
from collections.abc import Sequence
from email.message import Message

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import ValidationError


def features(offers: ServerCapabilities) -> dict[str, str]:
    """What a server offers as ``smtplib`` has it."""
    found = {e.keyword.lower(): " ".join(e.parameters) for e in offers.extensions}
    if "auth" in found:
        found["auth"] = " " + found["auth"]
    return found


def octets(answer: object) -> bytes:
    """What a caller's function answers, as octets."""
    if isinstance(answer, bytes):
        return answer
    if not isinstance(answer, str):
        raise ValidationError(f"an answer to a challenge is a str, not {type(answer).__name__}")
    return answer.encode("ascii")


def as_bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        return message.encode("ascii")
    return bytes(message)


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
    """The addresses in some fields.

    Raises:
        ValidationError: a field holds something that is none, which nobody is to be left out for.
    """
    found = []
    for name in names:
        for field in message.get_all(name, []):
            addresses = [address for _, address in email.utils.getaddresses([str(field)])]
            if str(field).strip() and not all(addresses):
                raise ValidationError(f"{name} cannot be read: {str(field)!a:.200}")
            found += addresses
    return [address for address in found if address]
