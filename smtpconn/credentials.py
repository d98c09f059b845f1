"""Who we log in as, and which mechanism that is done with.

Rule: the strongest mechanism both sides have (RFC 4954 4), where stronger means that less of the
secret is shown to the server and to whoever listens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from smtpconn.capabilities import AuthMechanism, ServerCapabilities
from smtpconn.errors import Phase, UnsupportedExtensionError
from smtpconn.sasl import Login, Plain, SaslMechanism, check_credential


@dataclass(frozen=True, slots=True)
class PasswordCredentials:
    """A user name and a password; the password is never shown.

    Raises:
        ValidationError: the user name is empty, or either holds a NUL character.
    """

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        check_credential("user", self.user, may_be_empty=False)
        check_credential("password", self.password)


_BY_PASSWORD: tuple[tuple[AuthMechanism, Callable[[str, str], SaslMechanism]], ...] = (
    (AuthMechanism.PLAIN, Plain),
    (AuthMechanism.LOGIN, Login),
)
"""The mechanisms that a password serves, the strongest first."""


def strongest(credentials: PasswordCredentials, capabilities: ServerCapabilities) -> SaslMechanism:
    """Choose the mechanism to log in with.

    Raises:
        UnsupportedExtensionError: the server offers none that these credentials serve.
    """
    for name, mechanism in _BY_PASSWORD:
        if capabilities.supports_auth(name):
            return mechanism(credentials.user, credentials.password)
    offered = " ".join(capabilities.auth_mechanisms) or "no AUTH at all"
    known = " ".join(name for name, _ in _BY_PASSWORD)
    raise UnsupportedExtensionError(
        f"a password serves {known} and the server offers {offered}", phase=Phase.AUTH
    )
