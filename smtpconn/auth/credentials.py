"""Credentials, and how a mechanism is chosen.

The strongest mechanism that both sides support is tried first (RFC 4954 4). A mechanism is stronger
if it shows less of the secret to the server and to an eavesdropper. Only `LoginPlan` decides which
mechanism may follow after a refusal.
"""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import FrozenInstanceError
from typing import NoReturn, TypeAlias

from smtpconn.auth import scram
from smtpconn.auth.mechanisms import (
    CramMd5,
    External,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
    check_credential,
    check_token,
)
from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities
from smtpconn.model.errors import Phase, SmtpError, UnsupportedExtensionError, ValidationError
from smtpconn.model.pickling import make_public
from smtpconn.model.response_errors import AuthError
from smtpconn.model.secret import Secret

SCRAM = "SCRAM"
"""Stands for all SCRAM mechanisms, the strongest first."""

_BY_PASSWORD = (*scram.FAMILY, AuthMechanism.CRAM_MD5, AuthMechanism.PLAIN, AuthMechanism.LOGIN)
_BY_TOKEN = (AuthMechanism.OAUTHBEARER, AuthMechanism.XOAUTH2)
_SHOW_PASSWORD = (AuthMechanism.PLAIN, AuthMechanism.LOGIN)
_SHOW_SECRET = (*_SHOW_PASSWORD, *_BY_TOKEN)


class _Frozen:
    """The base of both kinds of credentials: immutable values that hide their secret.

    They are not dataclasses, because `dataclasses.asdict` would reveal the secret to code that
    writes a configuration to a log.
    """

    __slots__ = ()

    def _values(self) -> tuple[object, ...]:
        raise AssertionError("a subclass overrides this method")

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Frozen) or type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __copy__(self) -> _Frozen:
        return self

    def __deepcopy__(self, memo: object) -> _Frozen:
        return self


class PasswordCredentials(_Frozen):
    """A user name and a password; the password is never shown.

    Args:
        user, password: as the server knows them.
        mechanisms: the only mechanisms to log in with, in this order; None for all that use a
            password, the strongest first. "SCRAM" stands for all SCRAM mechanisms.

    Raises:
        ValidationError: the user name is empty, an argument has a character that no mechanism can
            send, or a mechanism is unknown or uses no password.
    """

    __slots__ = ("_password", "mechanisms", "user")
    __match_args__ = ("user", "password")

    user: str
    mechanisms: tuple[str, ...] | None

    def __init__(
        self, user: str, password: str, *, mechanisms: Iterable[str] | None = None
    ) -> None:
        secret = Secret.of(password)
        del password
        # Set before the checks: if one fails, an error report may call repr() on this object.
        self._set(user=user, _password=secret, mechanisms=None)
        check_credential("user", user, may_be_empty=False)
        check_credential("password", secret)
        self._set(mechanisms=mechanism_names(mechanisms, _BY_PASSWORD, "a password"))

    @property
    def password(self) -> str:
        """The password."""
        return self.secret.reveal()

    @property
    def secret(self) -> Secret:
        """The password, wrapped so that it is not shown."""
        secret: Secret = self._password  # type: ignore[attr-defined]
        return secret

    def _values(self) -> tuple[object, ...]:
        return self.user, self.secret, self.mechanisms

    def __repr__(self) -> str:
        return f"PasswordCredentials(user={self.user!r}{_mechanisms_repr(self.mechanisms)})"

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes that log in need the password, so the pickle contains it.
        options = {"mechanisms": self.mechanisms}
        return make_public, ("PasswordCredentials", (self.user, self.password), options)


class OAuthCredentials(_Frozen):
    """A user name and a bearer token, or a function that gets one; the token is never shown.

    Args:
        user: the owner of the mailbox.
        token: the token, or a function that returns it. The function is called without arguments
            for each new connection. If the server refuses its token with 535, it is called once
            more, with ``force_refresh=True`` if it accepts that. If it raises an Exception, the
            login fails with a transient `TransportError` that has it as its cause.
        mechanisms: as for `PasswordCredentials`, but mechanisms that use a token.

    Raises:
        ValidationError: the user name is empty, the token is invalid, the function cannot be called
            without arguments or is a coroutine function, or a mechanism uses no token.
    """

    __slots__ = ("_token", "mechanisms", "user")
    __match_args__ = ("user", "token")

    user: str
    mechanisms: tuple[str, ...] | None

    def __init__(
        self,
        user: str,
        token: str | Callable[..., str],
        *,
        mechanisms: Iterable[str] | None = None,
    ) -> None:
        given = token if callable(token) else Secret.of(token)
        del token
        self._set(user=user, _token=given, mechanisms=None)
        check_credential("user", user, may_be_empty=False)
        if isinstance(given, Secret):
            check_token(given)
        else:
            _check_function(given)
        self._set(mechanisms=mechanism_names(mechanisms, _BY_TOKEN, "a token"))

    @property
    def token(self) -> str | Callable[..., str]:
        """The token, or the function that gets one."""
        given: Secret | Callable[..., str] = self._token  # type: ignore[attr-defined]
        return given.reveal() if isinstance(given, Secret) else given

    def current_token(self, *, force_refresh: bool = False) -> str:
        """The token to log in with now; ``force_refresh`` asks a function for a new one.

        Raises:
            Exception: what the function raises.
        """
        function = self.token
        if not callable(function):
            return function
        if force_refresh and _accepts(function, force_refresh=True):
            return function(force_refresh=True)
        return function()

    def _values(self) -> tuple[object, ...]:
        return self.user, self._token, self.mechanisms  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"OAuthCredentials(user={self.user!r}{_mechanisms_repr(self.mechanisms)})"

    def __reduce__(self) -> tuple[object, ...]:
        options = {"mechanisms": self.mechanisms}
        return make_public, ("OAuthCredentials", (self.user, self.token), options)


Credentials: TypeAlias = PasswordCredentials | OAuthCredentials
"""A user name with a password or a token."""


def _mechanisms_repr(mechanisms: tuple[str, ...] | None) -> str:
    return f", mechanisms={[str(name) for name in mechanisms]}" if mechanisms is not None else ""


def _check_function(function: Callable[..., str]) -> None:
    """Refuse a function that cannot return a token, before a login depends on it."""
    name = getattr(function, "__name__", type(function).__name__)
    is_coroutine = inspect.iscoroutinefunction(function)
    if is_coroutine or inspect.iscoroutinefunction(type(function).__call__):
        raise ValidationError(
            f"the function that gets a token returns a str; {name} is a coroutine function",
            phase=Phase.AUTH,
        )
    if not _accepts(function, default=True):
        raise ValidationError(
            f"the function that gets a token is called as token() and, if it accepts that, as "
            f"token(force_refresh=True); {name}{inspect.signature(function)} cannot be called as "
            f"token()",
            phase=Phase.AUTH,
        )


def _accepts(function: Callable[..., str], *, default: bool = False, **arguments: object) -> bool:
    """Whether a function accepts ``arguments``; ``default`` if it has no signature (C code)."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return default
    try:
        signature.bind(**arguments)
    except TypeError:
        return False
    return True


def check_credentials(credentials: object) -> None:
    """Refuse an object of another type, without showing it: it may contain a password.

    Raises:
        ValidationError: it is neither `PasswordCredentials` nor `OAuthCredentials`.
    """
    if not isinstance(credentials, Credentials):
        kind = type(credentials).__name__
        del credentials
        raise ValidationError(
            f"credentials are PasswordCredentials(user, password) or OAuthCredentials(user, "
            f"token), not a {kind}",
            phase=Phase.AUTH,
        )


def mechanism_names(
    given: Iterable[str] | None,
    valid: Sequence[AuthMechanism] = tuple(AuthMechanism),
    what: str = "",
) -> tuple[str, ...] | None:
    """The names of mechanisms in upper case; a str is split at commas and spaces.

    Raises:
        ValidationError: a name is not in ``valid``, or there is none.
    """
    if given is None:
        return None
    if isinstance(given, str):
        words = given.replace(",", " ").split()
    else:
        words = list(given) if isinstance(given, Iterable) else []
    names = tuple(name.upper() if isinstance(name, str) else "" for name in words)
    known = dict.fromkeys(map(str, valid)) | ({SCRAM: None} if scram.FAMILY[0] in valid else {})
    if not names or not known.keys() >= set(names):
        # The names are not quoted: in a URL they may be the part of a password after a "?".
        usable = f" that use {what}" if what else ""
        raise ValidationError(
            f"name one or more of the mechanisms{usable}: {', '.join(known)}", phase=Phase.AUTH
        )
    return tuple(dict.fromkeys(names))


def serve(mechanisms: Sequence[str], credentials: Credentials) -> bool:
    """Whether one of the mechanisms can be used with the credentials."""
    by_password = isinstance(credentials, PasswordCredentials)
    known = {SCRAM, *_BY_PASSWORD} if by_password else set(_BY_TOKEN)
    return not known.isdisjoint(mechanisms) or AuthMechanism.EXTERNAL in mechanisms


# --- Choosing -------------------------------------------------------------------------------------


class LoginCandidate:
    """A mechanism to try at a login.

    Attributes:
        name: the mechanism.
        make: creates the mechanism object when it is tried.
        binding: for -PLUS, the kind of channel binding.
    """

    __slots__ = ("binding", "make", "name")

    def __init__(
        self, name: AuthMechanism, make: Callable[[], SaslMechanism], binding: str = ""
    ) -> None:
        self.name = name
        self.make = make
        self.binding = binding

    @property
    def key(self) -> str:
        """The text by which the session remembers the candidate that succeeded."""
        return f"{self.name} {self.binding}".rstrip()


def login_candidates(
    credentials: Credentials | None,
    names: Sequence[str] | None,
    capabilities: ServerCapabilities,
    tls: ssl.SSLSocket | None,
    token: Secret | None = None,
) -> list[LoginCandidate]:
    """The mechanisms that both sides support, in the order in which they are tried.

    Args:
        credentials: the credentials of the user; None if only EXTERNAL may be used.
        names: the allowed mechanisms, in order; None for all, the strongest first.
        capabilities: what the server offers.
        tls: the TLS socket, for channel binding.
        token: the current token of `OAuthCredentials`.
    """
    found: list[LoginCandidate] = []
    for name in _expanded(names, credentials):
        if not capabilities.supports_auth(name):
            continue
        if name is AuthMechanism.EXTERNAL:
            found.append(LoginCandidate(name, External))
        elif isinstance(credentials, PasswordCredentials):
            found += _by_password(name, credentials, capabilities, tls)
        elif credentials is not None and token is not None:
            found += _by_token(name, credentials.user, token)
    return found


def _expanded(names: Sequence[str] | None, credentials: Credentials | None) -> list[AuthMechanism]:
    if names is None:
        if not isinstance(credentials, PasswordCredentials):
            return list(_BY_TOKEN)
        return [n for n in _BY_PASSWORD if n not in scram.FAMILY or scram.is_installed()]
    every = [each for name in names for each in (scram.FAMILY if name == SCRAM else (name,))]
    return list(dict.fromkeys(map(AuthMechanism, every)))


def _by_password(
    name: AuthMechanism,
    credentials: PasswordCredentials,
    capabilities: ServerCapabilities,
    tls: ssl.SSLSocket | None,
) -> list[LoginCandidate]:
    user, secret = credentials.user, credentials.secret
    if name in scram.FAMILY:
        return scram_candidates(user, secret, capabilities, tls, (name,))
    simple = {
        AuthMechanism.CRAM_MD5: CramMd5,
        AuthMechanism.PLAIN: Plain,
        AuthMechanism.LOGIN: Login,
    }
    make = simple.get(name)
    return [] if make is None else [LoginCandidate(name, lambda: make(user, secret))]


def scram_candidates(
    user: str,
    secret: Secret,
    capabilities: ServerCapabilities,
    tls: ssl.SSLSocket | None,
    names: Iterable[AuthMechanism] = scram.FAMILY,
) -> list[LoginCandidate]:
    """The SCRAM candidates that both sides support, the strongest first."""

    def candidate(name: AuthMechanism, binding: tuple[str, ssl.SSLSocket] | None) -> LoginCandidate:
        kind = binding[0] if binding is not None else ""
        return LoginCandidate(name, lambda: scram.Scram(name, user, secret, binding), kind)

    return [candidate(*each) for each in scram.candidates(capabilities, tls, names)]


def _by_token(name: AuthMechanism, user: str, token: Secret) -> list[LoginCandidate]:
    if name is AuthMechanism.OAUTHBEARER:
        return [LoginCandidate(name, lambda: OAuthBearer(token, user))]
    return (
        [LoginCandidate(name, lambda: XOAuth2(user, token))]
        if name is AuthMechanism.XOAUTH2
        else []
    )


class LoginPlan:
    """Decides which mechanism to try next, and when to stop.

    Rule 1: the next candidate is tried if a mechanism cannot be computed here, or after 500, 502,
            504 and 534: the server does not support it despite its offer. After 534 (too weak) to a
            mechanism that shows the secret, only those that do not show it are tried.
    Rule 2: after SCRAM with channel binding is refused before the password was used, the next SCRAM
            candidate is tried: a client cannot ask which kind of binding a server supports.
    Rule 3: after 535 to a challenge-response mechanism, which may be misconfigured on the server,
            there is one last attempt with PLAIN or LOGIN, but only if no other server can read the
            password (``is_trusted``).
    Rule 4: otherwise nothing more is tried, for example after 4xx, after an invalid challenge, and
            after a refused password or token. More attempts could lock the account.

    If the server fails to prove that it knows the password, that is not a refusal but a
    `ProtocolError`, which ends the connection.

    Args:
        candidates: in the order in which they are tried.
        begin_with: `LoginCandidate.key` of the one that succeeded last time; "" if there is none.
        may_show: whether the connection is private enough for a mechanism that shows the secret.
        is_trusted: whether the server's identity is certain and the connection private.

    Attributes:
        tried: a line for each candidate that was considered and did not log in.
    """

    def __init__(
        self,
        candidates: Iterable[LoginCandidate],
        *,
        begin_with: str,
        may_show: bool,
        is_trusted: bool,
    ) -> None:
        self.tried: list[str] = []
        self._may_show = may_show
        self._is_trusted = is_trusted
        self._has_lost_connection = False
        self._refused: AuthError | None = None
        self._computation_error: SmtpError | None = None
        # A remembered candidate that shows the secret goes first only if the server is trusted.
        self._remaining = sorted(
            candidates,
            key=lambda candidate: (
                candidate.key != begin_with or (candidate.name in _SHOW_SECRET and not is_trusted)
            ),
        )
        self._password_candidates = [
            candidate for candidate in self._remaining if candidate.name in _SHOW_PASSWORD
        ]

    def next_candidate(self) -> LoginCandidate | None:
        """The next candidate; None if there is none."""
        while self._remaining and not self._has_lost_connection:
            candidate = self._remaining.pop(0)
            self._password_candidates = [
                each for each in self._password_candidates if each is not candidate
            ]
            if self._refused is None or self._may_show or candidate.name not in _SHOW_SECRET:
                return candidate
            self.tried.append(f"{candidate.name}: not tried, it would show the secret without TLS")
        return None

    def note_unusable(self, candidate: LoginCandidate, error: SmtpError) -> None:
        """Record that a mechanism cannot be computed here, and why."""
        self.tried.append(f"{candidate.name}: {error}")
        self._computation_error = error

    def note_refused(
        self, candidate: LoginCandidate, mechanism: SaslMechanism, error: AuthError
    ) -> None:
        """Record a refusal, and decide which candidates may follow."""
        self.tried.append(f"{candidate.name}: {error.response}")
        if error.because:
            self.tried[-1] += f" ({error.because})"
        self._refused = error
        code, scrams = error.response.code, [w for w in self._remaining if w.name in scram.FAMILY]
        password_unused = not mechanism.was_challenged or code == 501
        if error.is_transient or mechanism.cancelled_because:
            self._remaining = []
        elif code in (500, 502, 504):
            pass
        elif code == 534 and mechanism.shows_secret:
            self._remaining = [w for w in self._remaining if w.name not in _SHOW_SECRET]
            self._password_candidates = []
        elif code == 534:
            pass
        elif candidate.name in scram.BINDING and password_unused and scrams:
            self._remaining = scrams
        elif code == 535 and mechanism.is_challenge_response:
            self._allow_one_password_attempt()
        else:
            self._remaining = []

    def note_connection_lost(self, candidate: LoginCandidate, error: SmtpError) -> None:
        """Record that the connection ended after a refusal (`is_refused`), and why."""
        self.tried.append(f"{candidate.name}: {error}")
        self._has_lost_connection = True

    @property
    def is_refused(self) -> bool:
        """Whether the server has refused the credentials, not only a mechanism."""
        return self._refused is not None and self._refused.response.code == 535

    def failure(self, what: str, capabilities: ServerCapabilities) -> SmtpError:
        """The error to raise when no candidate is left.

        Args:
            what: the credentials in words, such as "a password".
            capabilities: what the server offers.
        """
        refused = self._refused
        if refused is None:
            return self._computation_error or none_offered(what, capabilities)
        if len(self.tried) == 1:
            return refused
        return AuthError(
            refused.response,
            phase=refused.phase,
            server_error=refused.server_error,
            because=refused.because,
            tried=self.tried,
        )

    def _allow_one_password_attempt(self) -> None:
        shown = self._password_candidates[:1]
        if shown and not self._is_trusted:
            self.tried.append(
                f"{shown[0].name}: not tried, because the server's certificate was not checked; "
                f'if that is right, name it alone: mechanisms=("{shown[0].name}",)'
            )
        self._remaining = shown if self._is_trusted else []


def none_offered(what: str, capabilities: ServerCapabilities) -> UnsupportedExtensionError:
    """The error for a server that offers no mechanism for these credentials."""
    why = "cannot be used with any mechanism the server offers:"
    if not capabilities.auth_mechanisms:
        why = "cannot be used, because the server offers"
    return UnsupportedExtensionError(f"{what} {why} {capabilities.auth_offer}", phase=Phase.AUTH)
