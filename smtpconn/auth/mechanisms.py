"""SASL mechanisms: the client's messages (RFC 4422). No commands, no replies, no I/O.

A mechanism returns its initial response and then an answer to each challenge. For a challenge it
does not expect it returns None, and the exchange is cancelled. At the end it checks whether the
server has proven its identity, if the mechanism supports that. How the bytes are sent in AUTH lines
is in `smtpconn.protocol.auth`; the SCRAM family is in `smtpconn.auth.scram`.

Secrets are kept only in attributes that do not show them (`smtpconn.model.secret`).
"""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar

from smtpconn.model.capabilities import AuthMechanism
from smtpconn.model.errors import Phase, ProtocolError, ValidationError
from smtpconn.model.secret import Secret


class ChallengeError(ProtocolError):
    """A challenge without a valid answer: the exchange is cancelled (RFC 4954 4)."""


class SaslMechanism:
    """The interface of a mechanism.

    Attributes:
        name: as in the AUTH command.
        shows_secret: whether a reader of the exchange learns the secret, so that the connection
            must be private.
        is_challenge_response: whether the password is used without being sent.
        repeats_initial: whether an empty challenge after the initial response means that the server
            has ignored it and that it must be sent once more.
        server_error: the error that the server sent in a challenge (RFC 7628 3.2.2).
        was_challenged: whether the server has sent a challenge that was answered.
        cancelled_because: why the client cancelled the exchange; "" if it did not.
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
        raise AssertionError("a subclass overrides this method")

    def answer(self, challenge: str) -> bytes | None:
        """The answer to the challenge of a 334 reply; None to cancel.

        Raises:
            ChallengeError: the challenge is invalid; the caller cancels the exchange.
            ProtocolError: the server has failed to prove its identity.
        """
        return None

    def finish(self) -> None:
        """Called when the server accepts the login.

        Raises:
            ProtocolError: it has not proven that it knows the password, as the mechanism requires.
        """


class Plain(SaslMechanism):
    """PLAIN: user name and password in one message (RFC 4616)."""

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
        """The complete message: authzid, user and password."""
        return f"{self._authzid}\0{self._user}\0{self._password.reveal()}".encode()


class Login(SaslMechanism):
    """LOGIN: the user name answers one prompt, the password another (obsolete, widespread).

    The wording of the prompts differs between servers. A prompt that is recognised gets what it
    asks for; otherwise the user name is sent first. The password is sent only once.
    """

    name = AuthMechanism.LOGIN
    shows_secret = True

    def __init__(self, user: str, password: str | Secret) -> None:
        secret = Secret.of(password)
        del password
        check_credential("user", user, may_be_empty=False)
        check_credential("password", secret)
        self._user, self._password = user, secret
        self._unsent = [_USER, _USER, _PASSWORD]
        self._user_was_sent = False

    def begin(self) -> None:
        """None: if a server ignored an initial response, the answers would be off by one."""

    def answer(self, challenge: str) -> bytes | None:
        """What the prompt asks for; None if that was sent already."""
        asked = _asked_for(challenge) or (_PASSWORD if self._user_was_sent else _USER)
        if asked not in self._unsent:
            return None
        self._unsent.remove(asked)
        if asked == _PASSWORD:
            return self._password.reveal().encode()
        self._user_was_sent = True
        return self._user.encode()


_USER, _PASSWORD = "user", "password"
_PROMPTS = {"pass": _PASSWORD, "pwd": _PASSWORD, "user": _USER, "login": _USER, "name": _USER}
"""Words in the prompts of servers, and what they ask for."""


def _asked_for(challenge: str) -> str:
    """What a prompt of LOGIN asks for; "" if it is not recognised."""
    # Some servers send prompts without base64.
    prompt = readable(challenge).lower()
    found = [(prompt.find(word), asked) for word, asked in _PROMPTS.items() if word in prompt]
    return min(found)[1] if found else ""


class CramMd5(SaslMechanism):
    """CRAM-MD5: a keyed digest of the server's challenge (RFC 2195).

    Raises:
        ProtocolError: this Python has no MD5, as in FIPS mode.
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
        """None: the server sends the first message."""

    def answer(self, challenge: str) -> bytes | None:
        """The user name and the digest, once."""
        if self.was_challenged:
            return None
        self.was_challenged = True
        digest = _hmac_md5(self._password, decode_challenge(challenge))
        return f"{self._user} {digest}".encode()


def _hmac_md5(key: Secret, message: bytes) -> str:
    # Imported here, because only CRAM-MD5 needs it.
    import hmac

    return hmac.digest(key.reveal().encode(), message, "md5").hex()


class External(SaslMechanism):
    """EXTERNAL: the TLS client certificate identifies the client (RFC 4422 A)."""

    name = AuthMechanism.EXTERNAL

    def __init__(self, authzid: str = "") -> None:
        check_credential("authzid", authzid)
        self._authzid = authzid

    def begin(self) -> bytes:
        """The identity to act as; empty for the identity in the certificate."""
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
        """The complete message."""
        return f"user={self._user}\x01auth=Bearer {self._token.reveal()}\x01\x01".encode()

    def answer(self, challenge: str) -> bytes | None:
        """An empty line, once: the challenge explains the error, and the server refuses the login
        after the answer."""
        if self.server_error:
            return None
        self.server_error = readable(challenge) or "(an empty challenge)"
        return b""


class OAuthBearer(SaslMechanism):
    """OAUTHBEARER: a bearer token (RFC 7628), with its user for servers that need it."""

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
        """One byte that acknowledges the error in the challenge (RFC 7628 3.2.3)."""
        if self.server_error:
            return None
        self.server_error = readable(challenge) or "(an empty challenge)"
        return b"\x01"


def decode_challenge(challenge: str) -> bytes:
    """The bytes of a challenge.

    Raises:
        ChallengeError: it is not base64 (RFC 4954 4).
    """
    data = _decoded(challenge)
    if data is None:
        raise ChallengeError(
            f"the server sent a challenge that is not base64: {challenge!a:.80}", phase=Phase.AUTH
        )
    return data


def _decoded(challenge: str) -> bytes | None:
    try:
        return base64.b64decode(challenge.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None


def readable(challenge: str) -> str:
    """The text of a challenge; as sent if it is not base64. Never raises."""
    data = _decoded(challenge)
    return challenge if data is None else data.decode("utf-8", "backslashreplace")


def check_credential(name: str, value: str | Secret, *, may_be_empty: bool = True) -> None:
    """Check a user name, password or identity; the error never shows it.

    Raises:
        ValidationError: it is not a str, contains NUL or Ctrl-A (which separate fields, RFC 4616 2
            and RFC 7628 3.1) or a lone surrogate, or is empty and may not be.
    """
    secret = Secret.of(value)
    del value
    if problem := _problem(secret, may_be_empty=may_be_empty):
        raise ValidationError(f"{name} {problem}", phase=Phase.AUTH)


def _problem(secret: Secret, *, may_be_empty: bool) -> str:
    """What is wrong with a credential; "" if nothing. Never raises: a traceback would show it."""
    value: object = secret.reveal()
    if not isinstance(value, str):
        return f"is a str, not {type(value).__name__}"
    if not value and not may_be_empty:
        return "is empty"
    if "\0" in value or "\x01" in value:
        return "contains a NUL or Ctrl-A character"
    if any("\ud800" <= c <= "\udfff" for c in value):
        return "contains a lone surrogate"
    return ""


def check_token(token: str | Secret) -> None:
    """Check a bearer token; the error never shows it.

    Raises:
        ValidationError: it is not a str of printable ASCII (RFC 6750 2.1), or it is empty.
    """
    secret = Secret.of(token)
    del token
    check_credential("token", secret, may_be_empty=False)
    if not all("!" <= c <= "~" for c in secret.reveal()):
        raise ValidationError(
            "the token contains a character that is not printable ASCII", phase=Phase.AUTH
        )
