"""SASL mechanisms: what is answered to which challenge (RFC 4422). No command, no reply, no I/O.

A mechanism is asked for its initial response and then for an answer to each challenge. It answers
None to a challenge it does not expect, and the exchange is cancelled. At the end it says whether
the server has proven what the mechanism lets it prove. How the octets travel in AUTH lines is
`smtpconn.protocol.auth`; the SCRAM family is `smtpconn.auth.scram`.

Secrets live only in fields of these objects that do not show them.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import ClassVar

from smtpconn.model.capabilities import AuthMechanism
from smtpconn.model.errors import Phase, ProtocolError, ValidationError


class SaslMechanism:
    """What an AUTH exchange needs of a mechanism.

    Attributes:
        name: as it stands on the AUTH line.
        shows_secret: whether who reads the lines learns the secret, so that they must be private.
        server_error: what the server said in a challenge that tells of failure (RFC 7628 3.2.2).
        was_challenged: whether it came to more than the initial response.
    """

    name: AuthMechanism
    shows_secret: ClassVar[bool] = False
    server_error: str = ""
    was_challenged: bool = False

    def begin(self) -> bytes | None:
        """The initial response; None if the server speaks first."""
        raise AssertionError("each mechanism begins in its own way")

    def answer(self, challenge: str) -> bytes | None:
        """The answer to a challenge as it stands in the 334 line; None to cancel.

        Raises:
            ProtocolError: the challenge makes no sense.
        """
        return None

    def finish(self) -> None:
        """Called when the server says that all is well.

        Raises:
            ProtocolError: it has not proven that it knows the password, where it has to.
        """


@dataclass(slots=True)
class Plain(SaslMechanism):
    """PLAIN: everything at once (RFC 4616)."""

    user: str
    password: str = field(repr=False)
    authzid: str = ""
    name: AuthMechanism = AuthMechanism.PLAIN
    shows_secret: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_credential("password", self.password, may_be_empty=False)
        check_credential("authzid", self.authzid)

    def begin(self) -> bytes:
        """The whole of it: authzid, user and password."""
        return f"{self.authzid}\0{self.user}\0{self.password}".encode()


@dataclass(slots=True)
class Login(SaslMechanism):
    """LOGIN: the user name, then the password, whatever the prompts say (obsolete, widespread)."""

    user: str
    password: str = field(repr=False)
    name: AuthMechanism = AuthMechanism.LOGIN
    shows_secret: ClassVar[bool] = True
    _asked: bool = False

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_credential("password", self.password)

    def begin(self) -> bytes:
        """The user name."""
        return self.user.encode()

    def answer(self, challenge: str) -> bytes | None:
        """The password, once."""
        if self._asked:
            return None
        self._asked = True
        return self.password.encode()


@dataclass(slots=True)
class CramMd5(SaslMechanism):
    """CRAM-MD5: a keyed digest of the server's challenge (RFC 2195)."""

    user: str
    password: str = field(repr=False)
    name: AuthMechanism = AuthMechanism.CRAM_MD5
    _asked: bool = False

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_credential("password", self.password)

    def begin(self) -> None:
        """Nothing: the server speaks first."""

    def answer(self, challenge: str) -> bytes | None:
        """The user name and the digest, once."""
        if self._asked:
            return None
        self._asked = True
        # Imported only for those who use it.
        import hmac

        digest = hmac.digest(self.password.encode(), decode_challenge(challenge), "md5")
        return f"{self.user} {digest.hex()}".encode()


@dataclass(slots=True)
class External(SaslMechanism):
    """EXTERNAL: who we are is known already, by the TLS client certificate (RFC 4422 A)."""

    authzid: str = ""
    name: AuthMechanism = AuthMechanism.EXTERNAL

    def __post_init__(self) -> None:
        check_credential("authzid", self.authzid)

    def begin(self) -> bytes:
        """Whom to act as; empty for whoever the certificate says."""
        return self.authzid.encode()


@dataclass(slots=True)
class XOAuth2(SaslMechanism):
    """XOAUTH2: a bearer token in Google's and Microsoft's form, older than OAUTHBEARER."""

    user: str
    token: str = field(repr=False)
    name: AuthMechanism = AuthMechanism.XOAUTH2
    shows_secret: ClassVar[bool] = True
    server_error: str = ""

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_token(self.token)

    def begin(self) -> bytes:
        """The whole of it."""
        return f"user={self.user}\x01auth=Bearer {self.token}\x01\x01".encode()

    def answer(self, challenge: str) -> None:
        """Nothing: a challenge tells what is wrong with the token."""
        self.server_error = _readable(challenge)


@dataclass(slots=True)
class OAuthBearer(SaslMechanism):
    """OAUTHBEARER: a bearer token (RFC 7628), with the user it is for if a server needs that."""

    token: str = field(repr=False)
    user: str = ""
    name: AuthMechanism = AuthMechanism.OAUTHBEARER
    shows_secret: ClassVar[bool] = True
    server_error: str = ""

    def __post_init__(self) -> None:
        check_token(self.token)
        check_credential("user", self.user)

    def begin(self) -> bytes:
        """The GS2 header and the token (RFC 7628 3.1)."""
        name = self.user.replace("=", "=3D").replace(",", "=2C")
        authzid = f"a={name}" if name else ""
        return f"n,{authzid},\x01auth=Bearer {self.token}\x01\x01".encode()

    def answer(self, challenge: str) -> bytes | None:
        """One octet that acknowledges the error the challenge tells of (RFC 7628 3.2.3)."""
        if self.server_error:
            return None
        self.server_error = _readable(challenge) or "(an empty challenge)"
        return b"\x01"


def decode_challenge(challenge: str) -> bytes:
    """The octets of a challenge.

    Raises:
        ProtocolError: it is not base64 (RFC 4954 4).
    """
    try:
        return base64.b64decode(challenge.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ProtocolError(
            f"the server sent a challenge that is not base64: {challenge!a:.80}", phase=Phase.AUTH
        ) from None


def check_credential(name: str, value: str, *, may_be_empty: bool = True) -> None:
    """Check a user name, password or identity; the error never quotes it.

    Raises:
        ValidationError: it is no str, holds NUL or Ctrl-A (which separate fields, RFC 4616 2 and
            RFC 7628 3.1) or a lone surrogate, or is empty where that is not allowed.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{name} is a str, not {type(value).__name__}", phase=Phase.AUTH)
    if not value and not may_be_empty:
        raise ValidationError(f"{name} is empty", phase=Phase.AUTH)
    if "\0" in value or "\x01" in value:
        raise ValidationError(f"{name} holds a NUL or Ctrl-A character", phase=Phase.AUTH)
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ValidationError(f"{name} holds a lone surrogate", phase=Phase.AUTH)


def check_token(token: str) -> None:
    """Check a bearer token; the error never quotes it.

    Raises:
        ValidationError: it is no str of printable ASCII (RFC 6750 2.1), or empty.
    """
    check_credential("token", token, may_be_empty=False)
    if not all("!" <= c <= "~" for c in token):
        raise ValidationError(
            "the token holds something else than printable ASCII", phase=Phase.AUTH
        )


def _readable(challenge: str) -> str:
    """What an error challenge says, if it can be read; never a reason to fail differently."""
    try:
        return decode_challenge(challenge).decode("utf-8", "backslashreplace")
    except ProtocolError:
        return challenge
