"""Who we log in as, and which mechanisms that can be done with.

Rule: the strongest mechanism both sides have goes first (RFC 4954 4), where stronger means that
less of the secret is shown to the server and to whoever listens.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from smtpconn.auth import scram
from smtpconn.auth.mechanisms import (
    CramMd5,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
    check_credential,
    check_token,
)
from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities
from smtpconn.model.errors import Phase, UnsupportedExtensionError


@dataclass(frozen=True, slots=True)
class PasswordCredentials:
    """A user name and a password; the password is never shown.

    Attributes:
        user, password: as the server knows them; any mechanism that serves a password is used.

    Raises:
        ValidationError: the user name is empty, or either holds a character no mechanism can send.
    """

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_credential("password", self.password)


@dataclass(frozen=True, slots=True)
class OAuthCredentials:
    """A user name and a bearer token, or a function that gets one; the token is never shown.

    Attributes:
        user: whose mailbox it is.
        token: the token, or a function without arguments that returns it. The function is called
            for each new connection, and once more with ``force_refresh=True`` if the server says
            535 to what it returned; it may raise, and then connecting fails with its error.

    Raises:
        ValidationError: the user name is empty, or the token cannot be one.
    """

    user: str
    token: str | Callable[..., str] = field(repr=False)

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        if not callable(self.token):
            check_token(self.token)

    def current_token(self, *, force_refresh: bool = False) -> str:
        """The token to log in with now; a function is asked for a new one with ``force_refresh``.

        Raises:
            Exception: what the function raises.
        """
        if not callable(self.token):
            return self.token
        return self.token(force_refresh=True) if force_refresh else self.token()


Credentials: TypeAlias = PasswordCredentials | OAuthCredentials
"""Whom to log in as."""

_BY_PASSWORD: tuple[tuple[AuthMechanism, Callable[[str, str], SaslMechanism]], ...] = (
    (AuthMechanism.CRAM_MD5, CramMd5),
    (AuthMechanism.PLAIN, Plain),
    (AuthMechanism.LOGIN, Login),
)


def by_password(
    credentials: PasswordCredentials,
    capabilities: ServerCapabilities,
    tls: ssl.SSLSocket | None,
) -> Iterator[SaslMechanism]:
    """The mechanisms a password serves, the strongest first.

    Args:
        credentials: whom to log in as.
        capabilities: what the server offers.
        tls: the TLS socket, for channel binding.
    """
    if scram.is_installed():
        yield from scram.candidates(credentials.user, credentials.password, capabilities, tls)
    for name, mechanism in _BY_PASSWORD:
        if capabilities.supports_auth(name):
            yield mechanism(credentials.user, credentials.password)


def by_token(user: str, token: str, capabilities: ServerCapabilities) -> Iterator[SaslMechanism]:
    """The mechanisms a token serves, the standard one first."""
    if capabilities.supports_auth(AuthMechanism.OAUTHBEARER):
        yield OAuthBearer(token, user)
    if capabilities.supports_auth(AuthMechanism.XOAUTH2):
        yield XOAuth2(user, token)


def none_offered(what: str, capabilities: ServerCapabilities) -> UnsupportedExtensionError:
    """The error for a server that offers nothing these credentials serve."""
    offered = " ".join(capabilities.auth_mechanisms) or "no AUTH at all"
    return UnsupportedExtensionError(
        f"{what} serves none of the mechanisms the server offers: {offered}", phase=Phase.AUTH
    )
