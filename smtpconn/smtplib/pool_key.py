"""`Key`: the settings that must be equal for two objects to share a connection."""

from __future__ import annotations

import hmac
import secrets
import ssl
from dataclasses import dataclass

from smtpconn.model.modes import Protocol

_secret = secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class Address:
    """The server of an object, and how to connect to it.

    Attributes:
        kind: the object's class.
        host, port, protocol: the server's.
        source_address: the local address to connect from; None for the system's choice.
        context: the context for TLS from the first byte; None to begin without TLS.
        allow_cleartext_auth: whether a password may be sent without TLS.
    """

    kind: type
    host: str
    port: int
    protocol: Protocol
    source_address: tuple[str, int] | None
    context: ssl.SSLContext | None
    allow_cleartext_auth: bool


@dataclass(frozen=True, slots=True)
class Key:
    """The settings that must be equal for a connection to be shared.

    Attributes:
        address: the server.
        ehlo_name: the client's name in EHLO.
        context: the TLS context, compared by identity; None without TLS.
        credential: a keyed hash of user and password; b"" without a login.
    """

    address: Address
    ehlo_name: str
    context: ssl.SSLContext | None
    credential: bytes


def credential_hash(user: str, password: str) -> bytes:
    """A keyed hash of a whole credential; the key is random for each process."""
    parts = [part.encode("utf-8", "surrogatepass") for part in (user, password)]
    whole = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.digest(_secret, whole, "sha256")
