"""The ways of logging in: the AUTH methods of `SmtpConnection` (RFC 4954).

Rule: each makes a mechanism and hands it to the one exchange in `smtpconn.dialogue.auth`.
"""

from __future__ import annotations

from smtpconn.channel import Operations
from smtpconn.credentials import PasswordCredentials, strongest
from smtpconn.dialogue.auth import authenticate
from smtpconn.errors import Phase
from smtpconn.sasl import Login, Plain, SaslMechanism


class LoggingIn(Operations):
    """The AUTH methods; users meet them on `SmtpConnection`."""

    def auth_plain(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with PLAIN (RFC 4616).

        Raises:
            AuthError: refused; ``is_transient`` tells a 454 from a 535.
            UnsupportedExtensionError: not offered.
            ProtocolError: already logged in, or not over TLS (nothing was sent).
            ValidationError: a NUL character in an argument.
        """
        self._log_in(Plain(user, password), timeout)

    def auth_plain_with_authzid(
        self, authzid: str, user: str, password: str, timeout: float | None = None
    ) -> None:
        """Log in with PLAIN as ``user`` to act as ``authzid``; raises as `auth_plain`."""
        self._log_in(Plain(user, password, authzid), timeout)

    def auth_login(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with LOGIN, which some servers have alone; raises as `auth_plain`."""
        self._log_in(Login(user, password), timeout)

    def authenticate(self, credentials: PasswordCredentials, timeout: float | None = None) -> None:
        """Log in with the strongest mechanism both sides have; raises as `auth_plain`."""
        self._log_in(strongest(credentials, self._session.capabilities), timeout)

    def _log_in(self, mechanism: SaslMechanism, timeout: float | None) -> None:
        self._channel.operate(authenticate(self._session, mechanism), timeout, Phase.AUTH)
