"""What stands in an X.509 certificate, of the few things an administrator wants to know (RFC 5280).

The ``ssl`` module tells this only of certificates it has verified, and those that fail are the ones
worth looking at. So the DER is read here, just as far as needed: names and dates, no signatures.
Whether a certificate is to be trusted is OpenSSL's to say, never this file's.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_SEQUENCE, _SET, _UTC_TIME, _GENERALIZED_TIME = 0x30, 0x31, 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87
_WIDE = {0x1E: "utf-16-be", 0x1C: "utf-32-be"}
_ALTERNATIVE_NAMES = b"\x55\x1d\x11"
_ATTRIBUTES = {b"\x55\x04\x03": "CN", b"\x55\x04\x0a": "O", b"\x55\x04\x0b": "OU"}


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate.

    Attributes:
        subject, issuer: as ``CN=mx.example.com, O=Example``; "" if there is nothing of that kind.
        names: the host names and addresses it is for.
        not_before, not_after: when it is valid.
        sha256: its fingerprint, in hexadecimal.
        is_self_signed: whether subject and issuer are the same.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    sha256: str
    is_self_signed: bool

    def days_left(self, now: datetime) -> int:
        """Whole days until it is over; below 0 when it is."""
        return (self.not_after - now).days


def read(der: bytes) -> Certificate:
    """Read a certificate.

    Raises:
        ValueError: it is none.
    """
    try:
        (_, whole), *_ = _elements(der)
        (_, body), *_ = _elements(whole)
        fields = list(_elements(body))
        if fields[0][0] == _VERSION:
            fields = fields[1:]
        _, _, (_, issuer), (_, validity), (_, subject), _, *rest = fields
        not_before, not_after = (_time(tag, value) for tag, value in _elements(validity))
        names = tuple(_names(rest))
    except (IndexError, UnicodeError) as error:
        raise ValueError(f"not a certificate: {error}") from error
    digest = hashlib.sha256(der).hexdigest().upper()
    return Certificate(
        subject=_name(subject),
        issuer=_name(issuer),
        names=names,
        not_before=not_before,
        not_after=not_after,
        sha256=":".join(digest[n : n + 2] for n in range(0, len(digest), 2)),
        is_self_signed=issuer == subject,
    )


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and values that stand one behind the other."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            octets = length & 0x7F
            length, at = int.from_bytes(data[at : at + octets]), at + octets
        if at + length > len(data):
            raise ValueError("not a certificate: it is cut off")
        yield tag, data[at : at + length]
        at += length


def _name(data: bytes) -> str:
    """A distinguished name, of the attributes that people know."""
    parts = []
    for _, relative in _elements(data):
        for _, pair in _elements(relative):
            (_, kind), (tag, value) = _elements(pair)
            if kind in _ATTRIBUTES:
                text = value.decode(_WIDE.get(tag, "utf-8"), "replace")
                parts.append(f"{_ATTRIBUTES[kind]}={text}")
    return ", ".join(sorted(parts))


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of a year: 50 to 99 are of the last century (RFC 5280 4.1.2.5.1).
        text = ("19" if text >= "5" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a certificate: no date where one belongs")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _names(rest: list[tuple[int, bytes]]) -> Iterator[str]:
    """The subject's alternative names, from what stands behind the public key."""
    for tag, value in rest:
        if tag != _EXTENSIONS:
            continue
        (_, extensions), *_ = _elements(value)
        for _, extension in _elements(extensions):
            parts = list(_elements(extension))
            if parts[0][1] == _ALTERNATIVE_NAMES:
                (_, names), *_ = _elements(parts[-1][1])
                yield from filter(None, (_host(*each) for each in _elements(names)))


def _host(tag: int, value: bytes) -> str | None:
    if tag == _DNS_NAME:
        return value.decode("ascii", "backslashreplace")
    if tag == _IP_ADDRESS and len(value) in (4, 16):
        return str(ipaddress.ip_address(value))
    return None
