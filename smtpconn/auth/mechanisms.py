"""SASL mechanisms: what is answered to which challenge (RFC 4422). No command, no reply, no I/O.

A mechanism is asked for its initial response and then for an answer to each challenge. It answers
None to a challenge it does not expect, and the exchange is cancelled. At the end it says whether
the server has proven what the mechanism lets it prove. How the octets travel in AUTH lines is
`smtpconn.protocol.auth`; the SCRAM family is `smtpconn.auth.scram`.

Secrets live only in fields of these objects that do not show them (`smtpconn.model.secret`).
"""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar

from smtpconn.model.capabilities import AuthMechanism
from smtpconn.model.errors import Phase, ProtocolError, ValidationError
from smtpconn.model.secret import Secret


class ChallengeError(ProtocolError):
    """A challenge that cannot be answered: the exchange is cancelled (RFC 4954 4)."""


class SaslMechanism:
    """What an AUTH exchange needs of a mechanism.

    Attributes:
        name: as it stands on the AUTH line.
        shows_secret: whether who reads the lines learns the secret, so that they must be private.
        is_challenge_response: whether the password is used without being sent.
        repeats_initial: whether an empty challenge behind the initial response means that the
            server has overlooked it, so that it is sent once more.
        server_error: what the server said in a challenge that tells of failure (RFC 7628 3.2.2).
        was_challenged: whether it came to more than the initial response.
        cancelled_because: why the exchange was cancelled by us; "" if it was not.
    """

    name: AuthMechanism
    shows_secret: ClassVar[bool] = False
    is_challenge_response: ClassVar[bool] = False
    repeats_initial: ClassVar[bool] = True
    server_error: str = ""
    was_challenged: bool = False
    cancelled_because: str = ""

    def begin(self) -> bytes | None:
        """The initial response; None if the server speaks first."""
        raise AssertionError("each mechanism begins in its own way")

    def answer(self, challenge: str) -> bytes | None:
        """The answer to a challenge as it stands in the 334 line; None to cancel.

        Raises:
            ChallengeError: the challenge makes no sense; the exchange is to be cancelled.
            ProtocolError: the server is not the one it says it is.
        """
        return None

    def finish(self) -> None:
        """Called when the server says that all is well.

        Raises:
            ProtocolError: it has not proven that it knows the password, where it has to.
        """


class Plain(SaslMechanism):
    """PLAIN: everything at once (RFC 4616)."""

    name = AuthMechanism.PLAIN
    shows_secret = True

    def __init__(self, user: str, password: str | Secret, authzid: str = "") -> None:
        secret = Secret.of(password)
        del password
        check_credential("user", user, may_be_empty=False)
        check_credential("password", secret, may_be_empty=False)
        check_credential("authzid", authzid)
        self._user, self._password, self._authzid = user, secret, authzid

    def begin(self) -> bytes:
        """The whole of it: authzid, user and password."""
        return f"{self._authzid}\0{self._user}\0{self._password.reveal()}".encode()


class Login(SaslMechanism):
    """LOGIN: the user name to one prompt, the password to another (obsolete, widespread).

    The prompts are meant for people, and servers word them as they like. One that can be read
    decides what it is given; otherwise the user name goes first. The password is given once.
    """

    name = AuthMechanism.LOGIN
    shows_secret = True

    def __init__(self, user: str, password: str | Secret) -> None:
        secret = Secret.of(password)
        del password
        check_credential("user", user, may_be_empty=False)
        check_credential("password", secret)
        self._user, self._password = user, secret
        self._left = [_USER, _USER, _PASSWORD]
        self._has_user = False

    def begin(self) -> None:
        """Nothing: a server that overlooks an initial response would take it for the password."""

    def answer(self, challenge: str) -> bytes | None:
        """What the prompt asks for; None if that was given already."""
        asked = _asked_for(challenge) or (_PASSWORD if self._has_user else _USER)
        if asked not in self._left:
            return None
        self._left.remove(asked)
        if asked == _PASSWORD:
            return self._password.reveal().encode()
        self._has_user = True
        return self._user.encode()


_USER, _PASSWORD = "user", "password"
_PROMPTS = {"pass": _PASSWORD, "pwd": _PASSWORD, "user": _USER, "login": _USER, "name": _USER}
"""What stands in the prompts of servers, and what they ask for with it."""


def _asked_for(challenge: str) -> str:
    """What a prompt of LOGIN asks for; "" if it cannot be read."""
    # Some servers send the words as they are instead of in base64.
    prompt = readable(challenge).lower()
    found = [(prompt.find(word), asked) for word, asked in _PROMPTS.items() if word in prompt]
    return min(found)[1] if found else ""


class CramMd5(SaslMechanism):
    """CRAM-MD5: a keyed digest of the server's challenge (RFC 2195).

    Raises:
        ProtocolError: this Python has no MD5, as where FIPS rules.
    """

    name = AuthMechanism.CRAM_MD5
    is_challenge_response = True

    def __init__(self, user: str, password: str | Secret) -> None:
        secret = Secret.of(password)
        del password
        check_credential("user", user, may_be_empty=False)
        check_credential("password", secret)
        self._user, self._password = user, secret
        try:
            _hmac_md5(Secret(""), b"")
        except ValueError:
            raise ProtocolError(
                "CRAM-MD5 cannot be computed here: this Python has no MD5 (FIPS)", phase=Phase.AUTH
            ) from None

    def begin(self) -> None:
        """Nothing: the server speaks first."""

    def answer(self, challenge: str) -> bytes | None:
        """The user name and the digest, once."""
        if self.was_challenged:
            return None
        self.was_challenged = True
        digest = _hmac_md5(self._password, decode_challenge(challenge))
        return f"{self._user} {digest}".encode()


def _hmac_md5(key: Secret, message: bytes) -> str:
    # Imported only for those who use it.
    import hmac

    return hmac.digest(key.reveal().encode(), message, "md5").hex()


class External(SaslMechanism):
    """EXTERNAL: who we are is known already, by the TLS client certificate (RFC 4422 A)."""

    name = AuthMechanism.EXTERNAL

    def __init__(self, authzid: str = "") -> None:
        check_credential("authzid", authzid)
        self._authzid = authzid

    def begin(self) -> bytes:
        """Whom to act as; empty for whoever the certificate says."""
        return self._authzid.encode()


class XOAuth2(SaslMechanism):
    """XOAUTH2: a bearer token in Google's and Microsoft's form, older than OAUTHBEARER."""

    name = AuthMechanism.XOAUTH2
    shows_secret = True

    def __init__(self, user: str, token: str | Secret) -> None:
        secret = Secret.of(token)
        del token
        check_credential("user", user, may_be_empty=False)
        check_token(secret)
        self._user, self._token = user, secret

    def begin(self) -> bytes:
        """The whole of it."""
        return f"user={self._user}\x01auth=Bearer {self._token.reveal()}\x01\x01".encode()

    def answer(self, challenge: str) -> bytes | None:
        """An empty line, once: a challenge tells what is wrong with the token, and the server's
        own refusal comes behind it."""
        if self.server_error:
            return None
        self.server_error = readable(challenge) or "(an empty challenge)"
        return b""


class OAuthBearer(SaslMechanism):
    """OAUTHBEARER: a bearer token (RFC 7628), with the user it is for if a server needs that."""

    name = AuthMechanism.OAUTHBEARER
    shows_secret = True
    repeats_initial = False

    def __init__(self, token: str | Secret, user: str = "") -> None:
        secret = Secret.of(token)
        del token
        check_token(secret)
        check_credential("user", user)
        self._token, self._user = secret, user

    def begin(self) -> bytes:
        """The GS2 header and the token (RFC 7628 3.1)."""
        name = self._user.replace("=", "=3D").replace(",", "=2C")
        authzid = f"a={name}" if name else ""
        return f"n,{authzid},\x01auth=Bearer {self._token.reveal()}\x01\x01".encode()

    def answer(self, challenge: str) -> bytes | None:
        """One octet that acknowledges the error the challenge tells of (RFC 7628 3.2.3)."""
        if self.server_error:
            return None
        self.server_error = readable(challenge) or "(an empty challenge)"
        return b"\x01"


def decode_challenge(challenge: str) -> bytes:
    """The octets of a challenge.

    Raises:
        ChallengeError: it is not base64 (RFC 4954 4).
    """
    octets = _decoded(challenge)
    if octets is None:
        raise ChallengeError(
            f"the server sent a challenge that is not base64: {challenge!a:.80}", phase=Phase.AUTH
        )
    return octets


def _decoded(challenge: str) -> bytes | None:
    try:
        return base64.b64decode(challenge.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None


def readable(challenge: str) -> str:
    """What a challenge says, if it can be read; never a reason to fail."""
    octets = _decoded(challenge)
    return challenge if octets is None else octets.decode("utf-8", "backslashreplace")


def check_credential(name: str, value: str | Secret, *, may_be_empty: bool = True) -> None:
    """Check a user name, password or identity; the error never shows it.

    Raises:
        ValidationError: it is no str, holds NUL or Ctrl-A (which separate fields, RFC 4616 2 and
            RFC 7628 3.1) or a lone surrogate, or is empty where that is not allowed.
    """
    secret = Secret.of(value)
    del value
    if problem := _problem(secret, may_be_empty=may_be_empty):
        raise ValidationError(f"{name} {problem}", phase=Phase.AUTH)


def _problem(secret: Secret, *, may_be_empty: bool) -> str:
    """What is wrong with a credential; "" if nothing is. Raises nothing, so it keeps the secret."""
    value: object = secret.reveal()
    if not isinstance(value, str):
        return f"is a str, not {type(value).__name__}"
    if not value and not may_be_empty:
        return "is empty"
    if "\0" in value or "\x01" in value:
        return "holds a NUL or Ctrl-A character"
    if any("\ud800" <= c <= "\udfff" for c in value):
        return "holds a lone surrogate"
    return ""


def check_token(token: str | Secret) -> None:
    """Check a bearer token; the error never shows it.

    Raises:
        ValidationError: it is no str of printable ASCII (RFC 6750 2.1), or empty.
    """
    secret = Secret.of(token)
    del token
    check_credential("token", secret, may_be_empty=False)
    if not all("!" <= c <= "~" for c in secret.reveal()):
        raise ValidationError(
            "the token holds something else than printable ASCII", phase=Phase.AUTH
        )
