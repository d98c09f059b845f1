"""The ways of logging in: the AUTH methods of `SmtpConnection` (RFC 4954).

Rule: each makes a mechanism and hands it to the one exchange in `smtpconn.protocol.auth`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smtpconn.auth.credentials import (
    Credentials,
    LoginPlan,
    OAuthCredentials,
    Way,
    check_credentials,
    scram_ways,
    ways,
)
from smtpconn.auth.mechanisms import (
    CramMd5,
    External,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
    check_credential,
)
from smtpconn.client.channel import Operations
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    ProtocolError,
    SmtpError,
    TransportError,
    ValidationError,
)
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.response_errors import AuthError
from smtpconn.model.secret import Secret
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
        secret = Secret.of(password)
        del password
        self._log_in(Plain(user, secret), timeout)

    def auth_plain_with_authzid(
        self, authzid: str, user: str, password: str, timeout: float | None = None
    ) -> None:
        """Log in with PLAIN as ``user`` to act as ``authzid``; raises as `auth_plain`.

        Args:
            authzid: not empty (RFC 4616 2); to act as ``user`` there is `auth_plain`.
            user, password: text that is sent as UTF-8.
            timeout: seconds.
        """
        secret = Secret.of(password)
        del password
        check_credential("authzid", authzid, may_be_empty=False)
        self._log_in(Plain(user, secret, authzid), timeout)

    def auth_login(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with LOGIN, which some servers have alone; raises as `auth_plain`."""
        secret = Secret.of(password)
        del password
        self._log_in(Login(user, secret), timeout)

    def auth_cram_md5(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with CRAM-MD5 (RFC 2195), which does not show the password; as `auth_plain`."""
        secret = Secret.of(password)
        del password
        self._log_in(CramMd5(user, secret), timeout)

    def auth_scram(self, user: str, password: str, timeout: float | None = None) -> None:
        """Log in with the strongest SCRAM the server offers, with -PLUS under TLS (RFC 5802).

        Needs the extra ``scram``. The server has to prove that it knows the password, too.

        Raises:
            ProtocolError: the server could not prove it, or the extra is missing.
            SmtpError: as `auth_plain`.
        """
        secret = Secret.of(password)
        del password
        offers, tls = self._session.capabilities, self._channel.driver.transport.tls
        self._log_in_by_plan(
            scram_ways(user, secret, offers, tls), self._channel.deadline(timeout), "SCRAM"
        )

    def auth_external(self, authzid: str = "", timeout: float | None = None) -> None:
        """Log in as whom the TLS client certificate says (RFC 4422 A); raises as `auth_plain`."""
        self._log_in(External(authzid), timeout)

    def auth_xoauth2(self, user: str, token: str, timeout: float | None = None) -> None:
        """Log in with a bearer token in Google's and Microsoft's form; raises as `auth_plain`.

        What the server says is wrong with the token is in the `AuthError`.
        """
        secret = Secret.of(token)
        del token
        self._log_in(XOAuth2(user, secret), timeout)

    def auth_oauthbearer(self, token: str, timeout: float | None = None) -> None:
        """Log in with a bearer token (RFC 7628); raises as `auth_xoauth2`."""
        secret = Secret.of(token)
        del token
        self._log_in(OAuthBearer(secret), timeout)

    def authenticate(self, credentials: Credentials, timeout: float | None = None) -> None:
        """Log in with the strongest mechanism both sides have; raises as `auth_plain`.

        If the server does not have it after all, the next one is tried; when else another one may
        follow is the rule of `smtpconn.auth.credentials.LoginPlan`. If the token of
        `OAuthCredentials` comes from a function and is refused with 535, the function is asked once
        for a new one.

        Args:
            credentials: whom to log in as; their ``mechanisms`` are the only ones used.
            timeout: seconds for all attempts together.

        Raises:
            TransportError: that function raised something (an Exception), which is the cause.
        """
        check_credentials(credentials)
        self._log_in_as(credentials, credentials.mechanisms, timeout)

    def _log_in_as(
        self,
        credentials: Credentials | None,
        mechanisms: Sequence[str] | None,
        timeout: float | Deadline | None,
    ) -> None:
        """Log in with those mechanisms; None for all. Without credentials by EXTERNAL alone."""
        deadline = self._channel.deadline(timeout)
        if not isinstance(credentials, OAuthCredentials):
            what = "a password" if credentials is not None else "a TLS certificate"
            return self._log_in_by_plan(self._ways(credentials, mechanisms), deadline, what)
        try:
            self._log_in_with_token(credentials, mechanisms, deadline, force_refresh=False)
        except AuthError as error:
            is_refused = error.response.code == 535 or bool(error.server_error)
            if not (is_refused and callable(credentials.token)):
                raise
            self._log_in_with_token(credentials, mechanisms, deadline, force_refresh=True)

    def _log_in_with_token(
        self,
        credentials: OAuthCredentials,
        mechanisms: Sequence[str] | None,
        deadline: Deadline,
        *,
        force_refresh: bool,
    ) -> None:
        try:
            token = Secret(credentials.current_token(force_refresh=force_refresh))
        except Exception as error:
            if is_of_signal_handler(error) or (isinstance(error, SmtpError) and is_own(error)):
                raise
            # Without its text, which may hold a secret.
            raise TransportError(
                f"no token could be had for {credentials.user}: its function raised "
                f"{type(error).__name__}",
                phase=Phase.AUTH,
            ) from error
        self._log_in_by_plan(self._ways(credentials, mechanisms, token), deadline, "a token")

    def _ways(
        self,
        credentials: Credentials | None,
        mechanisms: Sequence[str] | None,
        token: Secret | None = None,
    ) -> list[Way]:
        offers, tls = self._session.capabilities, self._channel.driver.transport.tls
        return ways(credentials, mechanisms, offers, tls, token)

    def _log_in_by_plan(self, ways: Iterable[Way], deadline: Deadline, what: str) -> None:
        """Log in with one of several ways, and remember which; `LoginPlan` says what follows."""
        session = self._session
        plan = LoginPlan(
            ways,
            begin_with=session.quirks.login,
            may_show=session.is_private,
            is_trusted=self._is_trusted,
        )
        while (way := plan.take()) is not None:
            try:
                mechanism = way.make()
            except (ValidationError, ProtocolError) as error:
                plan.cannot(way, error)
                continue
            try:
                self._log_in(mechanism, deadline)
            except AuthError as error:
                plan.refused(way, mechanism, error)
                if session.quirks.login == way.key:
                    session.quirks.login = ""
            except (ConnectionClosedError, TransportError) as error:
                # Many servers hang up behind a refusal; that it was one is what matters.
                if not plan.is_refused:
                    raise
                plan.lost(way, error)
            else:
                if plan.tried:
                    session.quirks.login = way.key
                return
        raise plan.failure(what, session.capabilities)

    @property
    def _is_trusted(self) -> bool:
        """Whether the server is known to be the right one, and nobody is on the way to it."""
        tls = self._channel.driver.transport.tls
        return self._session.is_local or (tls is not None and tls.context.check_hostname)

    def _log_in(self, mechanism: SaslMechanism, timeout: float | Deadline | None) -> None:
        exchange = authenticate(self._session, mechanism)
        self._channel.operate(exchange, self._channel.deadline(timeout), Phase.AUTH)
