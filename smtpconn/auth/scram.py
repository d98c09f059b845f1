"""SCRAM-SHA-1 and SCRAM-SHA-256, with and without channel binding (RFC 5802, RFC 7677).

The computation is scramp's (the extra ``scram``); here it is fitted to `SaslMechanism`, and the
channel binding is chosen. With -PLUS a server in the middle is found out even if its certificate is
believed. There is no way to ask which kind of binding a server knows; one that does not know ours
refuses the first message, or calls the second one malformed (501), before the password has played
any part. Then the next kind can be tried.
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
"""Rounds of hashing a server may ask for: about a second's work, which no deadline can interrupt.
Servers ask for 4096 to some 10,000; the strictest advice for stored passwords is 1,300,000."""

BINDING = (AuthMechanism.SCRAM_SHA_256_PLUS, AuthMechanism.SCRAM_SHA_1_PLUS)
"""Those with channel binding."""

FAMILY = (*BINDING, AuthMechanism.SCRAM_SHA_256, AuthMechanism.SCRAM_SHA_1)
"""All of them, the strongest first."""


class Scram(SaslMechanism):
    """One SCRAM exchange.

    Args:
        name: which one.
        user, password: prepared with SASLprep here, as the mechanism asks (RFC 5802 5.1).
        binding: for -PLUS, the kind of channel binding and its TLS socket.

    Raises:
        ValidationError: a user name or password that SASLprep does not let pass.
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
        self._has_proven = False

    def begin(self) -> bytes:
        """The user name and our nonce."""
        return str(self._client.get_client_first()).encode()

    def answer(self, challenge: str) -> bytes | None:
        """Our proof to the server's first message; nothing more to its last, but a check of it."""
        if self._has_proven or self.server_error:
            return None
        message = decode_challenge(challenge).decode("utf-8", "replace")
        if not self.was_challenged:
            self.was_challenged = True
            return self._prove(message)
        if message.startswith("e="):
            # It refuses us in its own words (RFC 5802 7); what SMTP calls that comes behind it.
            self.server_error = message[2:]
        else:
            self._verify(message)
        return b""

    def finish(self) -> None:
        """See that the server has proven that it knows the password (RFC 5802 5)."""
        if not self._has_proven:
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
        # Not in the except clause: the frames of that error know the password.
        raise ChallengeError(f"the server's SCRAM message is wrong: {problem}", phase=Phase.AUTH)

    def _verify(self, message: str) -> None:
        from scramp import ScramException

        if not message.startswith("v="):
            raise ChallengeError(
                f"the server's SCRAM message is wrong, it proves nothing: {message!a:.80}",
                phase=Phase.AUTH,
            )
        problem = ""
        try:
            self._client.set_server_final(message)
            self._has_proven = True
        except ScramException as error:
            problem = str(error)
        if not self._has_proven:
            raise ProtocolError(
                f"the server could not prove that it knows the password: {problem}",
                phase=Phase.AUTH,
            )


def _check_cost(message: str) -> None:
    """Refuse a server's first message that would keep this machine busy.

    Raises:
        ChallengeError: it asks for more than `MAX_ITERATIONS`.
    """
    for attribute in message.split(","):
        # Not int() of whatever it is: that takes its own time for a number of any length.
        if attribute.startswith("i=") and attribute[2:].isdecimal():
            count = attribute[2:].lstrip("0")
            if len(count) > len(str(MAX_ITERATIONS)) or int(count or 0) > MAX_ITERATIONS:
                raise ChallengeError(
                    f"the server asks for more than {MAX_ITERATIONS} rounds of hashing",
                    phase=Phase.AUTH,
                )


def is_installed() -> bool:
    """Whether the extra ``scram`` is there."""
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
    """What `Scram` may be made with, of ``names`` in their order: mechanism and channel binding.

    The next is for when the last was refused before the password had played any part.
    """
    for name in map(AuthMechanism, names):
        if capabilities.supports_auth(name):
            if name not in BINDING:
                yield name, None
            elif tls is not None:
                for kind in _binding_kinds(tls):
                    yield name, (kind, tls)


def _binding_kinds(tls: ssl.SSLSocket) -> list[str]:
    # tls-unique is the default of RFC 5802 6.1. It is not defined for TLS 1.3 (RFC 9266 4), where
    # Cyrus knows it, and nothing else, all the same. Python does not give tls-exporter.
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
    # Not in the except clause: the frames of that error know the password.
    raise ValidationError(
        "the user name or the password has characters that SASLprep does not allow",
        phase=Phase.AUTH,
    )
