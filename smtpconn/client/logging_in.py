"""The ways of logging in: the AUTH methods of `SmtpConnection` (RFC 4954).

Rule: each makes a mechanism and hands it to the one exchange in `smtpconn.protocol.auth`.
"""

from __future__ import annotations

from collections.abc import Iterable

from smtpconn.auth import scram
from smtpconn.auth.credentials import (
    Credentials,
    OAuthCredentials,
    PasswordCredentials,
    by_password,
    by_token,
    none_offered,
)
from smtpconn.auth.mechanisms import (
    CramMd5,
    External,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
)
from smtpconn.client.channel import Operations
from smtpconn.model.errors import Phase
from smtpconn.model.response_errors import AuthError
from smtpconn.net.deadline import Deadline
from smtpconn.protocol.auth import authenticate


class LoggingIn(Operations):
    """The AUTH methods; users meet them on `SmtpConnection`."""

    def auth_plain(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with PLAIN (RFC 4616).

        Args:
            user, password: text that is sent as UTF-8.

        Raises:
            AuthError: refused; ``is_transient`` tells a 454 from a 535.
            UnsupportedExtensionError: not offered.
            ProtocolError: already logged in, or not over TLS (nothing was sent).
            ValidationError: a NUL character in an argument.
        """
        self._log_in(Plain(user, password), self._channel.deadline(timeout))

    def auth_plain_with_authzid(
        self, authzid: str, user: str, password: str, timeout: float | None = None
    ) -> None:
        """Log in with PLAIN as ``user`` to act as ``authzid``; raises as `auth_plain`."""
        self._log_in(Plain(user, password, authzid), self._channel.deadline(timeout))

    def auth_login(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with LOGIN, which some servers have alone; raises as `auth_plain`."""
        self._log_in(Login(user, password), self._channel.deadline(timeout))

    def auth_cram_md5(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with CRAM-MD5 (RFC 2195), which does not show the password; as `auth_plain`."""
        self._log_in(CramMd5(user, password), self._channel.deadline(timeout))

    def auth_scram(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with the strongest SCRAM the server offers, with -PLUS under TLS (RFC 5802).

        Needs the extra ``scram``. The server has to prove that it knows the password, too.

        Raises:
            ProtocolError: the server could not prove it, or the extra is missing.
            SmtpError: as `auth_plain`.
        """
        offers, tls = self._session.capabilities, self._channel.driver.transport.tls
        ways = scram.candidates(user, password, offers, tls)
        self._log_in_with_one_of(ways, self._channel.deadline(timeout), "SCRAM")

    def auth_external(self, authzid: str = "", timeout: float | None = None) -> None:
        """Log in as whom the TLS client certificate says (RFC 4422 A); raises as `auth_plain`."""
        self._log_in(External(authzid), self._channel.deadline(timeout))

    def auth_xoauth2(self, user: str, token: str, timeout: float | None = None) -> None:
        """Log in with a bearer token in Google's and Microsoft's form; raises as `auth_plain`.

        What the server says is wrong with the token is in the `AuthError`.
        """
        self._log_in(XOAuth2(user, token), self._channel.deadline(timeout))

    def auth_oauthbearer(self, token: str, timeout: float | None = None) -> None:
        """Log in with a bearer token (RFC 7628); raises as `auth_xoauth2`."""
        self._log_in(OAuthBearer(token), self._channel.deadline(timeout))

    def authenticate(self, credentials: Credentials, timeout: float | None = None) -> None:
        """Log in with the strongest mechanism both sides have; raises as `auth_plain`.

        If the token of `OAuthCredentials` comes from a function and is refused with 535, the
        function is asked once for a new one. The time it takes counts.
        """
        self._authenticate(credentials, self._channel.deadline(timeout))

    def _authenticate(self, credentials: Credentials, deadline: Deadline) -> None:
        offers, tls = self._session.capabilities, self._channel.driver.transport.tls
        if isinstance(credentials, PasswordCredentials):
            ways = by_password(credentials, offers, tls)
            self._log_in_with_one_of(ways, deadline, "a password")
            return
        try:
            self._log_in_with_token(credentials, deadline, force_refresh=False)
        except AuthError as error:
            # XOAUTH2's refusal is a challenge, and the reply to cancelling that is 501.
            is_refused = error.response.code == 535 or bool(error.server_error)
            if not (is_refused and callable(credentials.token)):
                raise
            self._log_in_with_token(credentials, deadline, force_refresh=True)

    def _log_in_with_token(
        self, credentials: OAuthCredentials, deadline: Deadline, *, force_refresh: bool
    ) -> None:
        token = credentials.current_token(force_refresh=force_refresh)
        ways = by_token(credentials.user, token, self._session.capabilities)
        self._log_in_with_one_of(ways, deadline, "a token")

    def _log_in_with_one_of(
        self, ways: Iterable[SaslMechanism], deadline: Deadline, what: str
    ) -> None:
        """Log in with the first way; with the next SCRAM only if one was refused unheard."""
        refused: AuthError | None = None
        for mechanism in ways:
            if refused is not None and not isinstance(mechanism, scram.Scram):
                break
            try:
                return self._log_in(mechanism, deadline)
            except AuthError as error:
                refused = error
                if mechanism.was_challenged and error.response.code != 501:
                    break
        raise refused if refused is not None else none_offered(what, self._session.capabilities)

    def _log_in(self, mechanism: SaslMechanism, deadline: Deadline) -> None:
        self._channel.operate(authenticate(self._session, mechanism), deadline, Phase.AUTH)
