"""SCRAM-SHA-1 and SCRAM-SHA-256, with and without channel binding (RFC 5802, RFC 7677).

The package scramp (the extra ``scram``) does the computation; this module adapts it to
`SaslMechanism` and chooses the channel binding. -PLUS detects a man in the middle even if the
client trusts the attacker's certificate. A client cannot ask which kind of binding a server
supports. A server that does not support the chosen kind refuses the first message, or calls the
second one malformed (501), before the password was used. Then the next kind can be tried.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from smtpconn.auth.mechanisms import (
    ChallengeError,
    SaslMechanism,
    check_credential,
    decode_challenge,
)
from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities
from smtpconn.model.errors import Phase, ProtocolError, ValidationError
from smtpconn.model.secret import Secret

if TYPE_CHECKING:
    from scramp import ScramClient

MAX_ITERATIONS = 2_000_000
"""Hash iterations that a server may ask for: about a second of work, which no deadline interrupts.
Servers ask for 4096 to some 10,000; the strictest advice for stored passwords is 1,300,000."""

BINDING = (AuthMechanism.SCRAM_SHA_256_PLUS, AuthMechanism.SCRAM_SHA_1_PLUS)
"""The mechanisms with channel binding."""

FAMILY = (*BINDING, AuthMechanism.SCRAM_SHA_256, AuthMechanism.SCRAM_SHA_1)
"""All SCRAM mechanisms, the strongest first."""


class Scram(SaslMechanism):
    """One SCRAM exchange.

    Args:
        name: the mechanism.
        user, password: the login; prepared with SASLprep (RFC 5802 5.1).
        binding: for -PLUS, the kind of channel binding and the TLS socket.

    Raises:
        ValidationError: SASLprep does not allow the user name or the password.
        ProtocolError: the extra ``scram`` is not installed.
    """

    is_challenge_response = True

    def __init__(
        self,
        name: AuthMechanism,
        user: str,
        password: str | Secret,
        binding: tuple[str, ssl.SSLSocket] | None = None,
    ) -> None:
        secret = Secret.of(password)
        del password
        check_credential("user", user, may_be_empty=False)
        check_credential("password", secret, may_be_empty=False)
        self.name = name
        self._client = _client(name, user, secret, binding)
        self._server_is_verified = False

    def begin(self) -> bytes:
        """The user name and the client's nonce."""
        return str(self._client.get_client_first()).encode()

    def answer(self, challenge: str) -> bytes | None:
        """The proof for the server's first message; empty once its last message is verified."""
        if self._server_is_verified or self.server_error:
            return None
        message = decode_challenge(challenge).decode("utf-8", "replace")
        if not self.was_challenged:
            self.was_challenged = True
            return self._prove(message)
        if message.startswith("e="):
            # SCRAM's own refusal (RFC 5802 7); the SMTP reply follows.
            self.server_error = message[2:]
        else:
            self._verify(message)
        return b""

    def finish(self) -> None:
        """Check that the server has proven that it knows the password (RFC 5802 5)."""
        if not self._server_is_verified:
            raise ProtocolError(
                "the server accepted the login without proving that it knows the password: "
                "it may not be the one it says it is",
                phase=Phase.AUTH,
            )

    def _prove(self, message: str) -> bytes:
        from scramp import ScramException

        _check_cost(message)
        try:
            self._client.set_server_first(message)
            return str(self._client.get_client_final()).encode()
        except ScramException as error:
            problem = str(error)
        # Outside the except clause: the frames of that error hold the password.
        raise ChallengeError(f"the server's SCRAM message is wrong: {problem}", phase=Phase.AUTH)

    def _verify(self, message: str) -> None:
        from scramp import ScramException

        if not message.startswith("v="):
            raise ChallengeError(
                f"the server's SCRAM message is wrong, it does not prove that the server knows the "
                f"password: {message!a:.80}",
                phase=Phase.AUTH,
            )
        problem = ""
        try:
            self._client.set_server_final(message)
            self._server_is_verified = True
        except ScramException as error:
            problem = str(error)
        if not self._server_is_verified:
            raise ProtocolError(
                f"the server could not prove that it knows the password: {problem}",
                phase=Phase.AUTH,
            )


def _check_cost(message: str) -> None:
    """Refuse a first message that asks for too much work.

    Raises:
        ChallengeError: it asks for more than `MAX_ITERATIONS`.
    """
    for attribute in message.split(","):
        # The length is checked before int(), which is slow for very long numbers.
        if attribute.startswith("i=") and attribute[2:].isdecimal():
            count = attribute[2:].lstrip("0")
            if len(count) > len(str(MAX_ITERATIONS)) or int(count or 0) > MAX_ITERATIONS:
                raise ChallengeError(
                    f"the server asks for more than {MAX_ITERATIONS} rounds of hashing",
                    phase=Phase.AUTH,
                )


def is_installed() -> bool:
    """Whether the extra ``scram`` is installed."""
    try:
        import scramp  # noqa: F401
    except ImportError:
        return False
    return True


def candidates(
    capabilities: ServerCapabilities,
    tls: ssl.SSLSocket | None,
    names: Iterable[str] = FAMILY,
) -> Iterator[tuple[AuthMechanism, tuple[str, ssl.SSLSocket] | None]]:
    """The mechanisms of ``names`` that the server offers, each with its possible channel bindings.

    A later one is tried if an earlier one is refused before the password was used.
    """
    for name in map(AuthMechanism, names):
        if capabilities.supports_auth(name):
            if name not in BINDING:
                yield name, None
            elif tls is not None:
                for kind in _binding_kinds(tls):
                    yield name, (kind, tls)


def _binding_kinds(tls: ssl.SSLSocket) -> list[str]:
    # tls-unique is the default of RFC 5802 6.1. It is not defined for TLS 1.3 (RFC 9266 4), but it
    # is the only one that Cyrus supports there. Python does not provide tls-exporter.
    if tls.get_channel_binding("tls-unique") is None:
        return ["tls-server-end-point"]
    return ["tls-unique", "tls-server-end-point"]


def _client(
    name: AuthMechanism, user: str, password: Secret, binding: tuple[str, ssl.SSLSocket] | None
) -> ScramClient:
    try:
        from scramp import ScramClient, ScramException
    except ImportError:
        raise ProtocolError(
            "SCRAM needs the package scramp: pip install 'smtpconn[scram]'", phase=Phase.AUTH
        ) from None
    try:
        return ScramClient([str(name)], user, password.reveal(), channel_binding=binding)
    except ScramException:
        pass
    # Outside the except clause: the frames of that error hold the password.
    raise ValidationError(
        "the user name or the password has characters that SASLprep does not allow",
        phase=Phase.AUTH,
    )
