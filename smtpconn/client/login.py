"""Logging in over a connection: which mechanisms are tried, one after the other (RFC 4954 4).

The order, and what may follow a refusal, is decided by `smtpconn.auth.credentials.LoginPlan`; the
commands are in `smtpconn.protocol.auth`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from smtpconn.auth.credentials import (
    Credentials,
    LoginCandidate,
    LoginPlan,
    OAuthCredentials,
    login_candidates,
    scram_candidates,
)
from smtpconn.auth.mechanisms import SaslMechanism
from smtpconn.client.channel import Channel
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
from smtpconn.protocol.session import SessionState


class Authenticator:
    """Logs in over one connection.

    Args:
        channel: runs the commands.
        session: holds the server's capabilities, and stores the mechanism that succeeded.
    """

    def __init__(self, channel: Channel, session: SessionState) -> None:
        self._channel = channel
        self._session = session

    def log_in_with(self, mechanism: SaslMechanism, deadline: Deadline) -> None:
        """Log in with one mechanism; raises as `smtpconn.SmtpConnection.auth_plain`."""
        self._channel.operate(authenticate(self._session, mechanism), deadline, Phase.AUTH)

    def log_in_by_scram(self, user: str, secret: Secret, deadline: Deadline) -> None:
        """Log in with the strongest SCRAM that the server offers."""
        offers, tls = self._session.capabilities, self._channel.tls
        self._log_in_by_plan(scram_candidates(user, secret, offers, tls), deadline, "SCRAM")

    def log_in(
        self,
        credentials: Credentials | None,
        mechanisms: Sequence[str] | None,
        deadline: Deadline,
    ) -> None:
        """Log in with the strongest of ``mechanisms`` that succeeds.

        Args:
            credentials: None to log in by the TLS client certificate, with EXTERNAL.
            mechanisms: their names; None for any.
            deadline: of all attempts together.

        Raises:
            SmtpError: as `smtpconn.SmtpConnection.authenticate`.
        """
        if not isinstance(credentials, OAuthCredentials):
            what = "a password" if credentials is not None else "a TLS certificate"
            return self._log_in_by_plan(self._candidates(credentials, mechanisms), deadline, what)
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
            # The text of the exception is left out: it may contain a secret.
            raise TransportError(
                f"no token could be obtained for {credentials.user}: its function raised "
                f"{type(error).__name__}",
                phase=Phase.AUTH,
            ) from error
        kind = type(token.reveal())
        if not issubclass(kind, str):
            raise ValidationError(
                f"the function that gets a token for {credentials.user} returned "
                f"{kind.__name__}, no str",
                phase=Phase.AUTH,
            )
        self._log_in_by_plan(self._candidates(credentials, mechanisms, token), deadline, "a token")

    def _candidates(
        self,
        credentials: Credentials | None,
        mechanisms: Sequence[str] | None,
        token: Secret | None = None,
    ) -> list[LoginCandidate]:
        offers, tls = self._session.capabilities, self._channel.tls
        return login_candidates(credentials, mechanisms, offers, tls, token)

    def _log_in_by_plan(
        self, candidates: Iterable[LoginCandidate], deadline: Deadline, what: str
    ) -> None:
        """Try the candidates in the order of `LoginPlan`, and remember the one that succeeded."""
        session = self._session
        plan = LoginPlan(
            candidates,
            begin_with=session.quirks.login,
            may_show=session.is_private,
            is_trusted=self._is_trusted,
        )
        while (candidate := plan.next_candidate()) is not None:
            try:
                mechanism = candidate.make()
            except (ValidationError, ProtocolError) as error:
                plan.note_unusable(candidate, error)
                continue
            try:
                self.log_in_with(mechanism, deadline)
            except AuthError as error:
                plan.note_refused(candidate, mechanism, error)
                if session.quirks.login == candidate.key:
                    session.quirks.login = ""
            except (ConnectionClosedError, TransportError) as error:
                # Many servers close the connection after a refusal; then the refusal is reported.
                if not plan.is_refused:
                    raise
                plan.note_connection_lost(candidate, error)
            else:
                if plan.tried:
                    session.quirks.login = candidate.key
                return
        raise plan.failure(what, session.capabilities)

    @property
    def _is_trusted(self) -> bool:
        """Whether the server's identity is certain: it is local, or TLS checked its name."""
        tls = self._channel.tls
        return self._session.is_local or (tls is not None and tls.context.check_hostname)
