"""SASL mechanisms: what is answered to which challenge (RFC 4422). No command, no reply, no I/O.

A mechanism is asked for its initial response and then for an answer to each challenge. It answers
None to a challenge it does not expect, and the exchange is cancelled. How the octets travel in AUTH
lines is `smtpconn.dialogue.auth`.

Secrets live only in the fields of these objects, which do not show them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from smtpconn.capabilities import AuthMechanism
from smtpconn.errors import Phase, ValidationError


class SaslMechanism(Protocol):
    """What an AUTH exchange needs of a mechanism."""

    @property
    def name(self) -> AuthMechanism:
        """The name on the AUTH line."""

    @property
    def shows_secret(self) -> bool:
        """Whether who reads the line learns the secret, so that it has to be private."""

    def begin(self) -> bytes:
        """The initial response."""

    def answer(self, challenge: str) -> bytes | None:
        """The answer to a later challenge, given as it stands in the 334 line; None to cancel."""


@dataclass(slots=True)
class Plain:
    """PLAIN: everything at once (RFC 4616)."""

    user: str
    password: str = field(repr=False)
    authzid: str = ""
    name: AuthMechanism = AuthMechanism.PLAIN
    shows_secret: bool = True

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_credential("password", self.password, may_be_empty=False)
        check_credential("authzid", self.authzid)

    def begin(self) -> bytes:
        return f"{self.authzid}\0{self.user}\0{self.password}".encode()

    def answer(self, challenge: str) -> bytes | None:
        return None


@dataclass(slots=True)
class Login:
    """LOGIN: the user name, then the password, whatever the prompts say (obsolete, widespread)."""

    user: str
    password: str = field(repr=False)
    name: AuthMechanism = AuthMechanism.LOGIN
    shows_secret: bool = True
    _asked: bool = False

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_credential("password", self.password)

    def begin(self) -> bytes:
        return self.user.encode()

    def answer(self, challenge: str) -> bytes | None:
        if self._asked:
            return None
        self._asked = True
        return self.password.encode()


def check_credential(name: str, value: str, *, may_be_empty: bool = True) -> None:
    """Check a user name, password or identity; the error never quotes it.

    Raises:
        ValidationError: it is no str, holds NUL (which separates fields, RFC 4616 2) or a lone
            surrogate, or is empty where that is not allowed.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{name} is a str, not {type(value).__name__}", phase=Phase.AUTH)
    if not value and not may_be_empty:
        raise ValidationError(f"{name} is empty", phase=Phase.AUTH)
    if "\0" in value:
        raise ValidationError(f"{name} holds a NUL character", phase=Phase.AUTH)
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ValidationError(f"{name} holds a lone surrogate", phase=Phase.AUTH)
