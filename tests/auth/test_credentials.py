"""Credentials: who we are, which mechanism that becomes, and that it is never shown."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import sys
from typing import Any

import pytest

from smtpconn.auth.credentials import (
    LoginCandidate,
    LoginPlan,
    OAuthCredentials,
    PasswordCredentials,
    login_candidates,
    mechanism_names,
    none_offered,
)
from smtpconn.auth.mechanisms import CramMd5, Plain, SaslMechanism
from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities, SmtpExtension
from smtpconn.model.errors import Phase, UnsupportedExtensionError, ValidationError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AuthError
from smtpconn.model.secret import Secret

SECRET = "hunter2-Passwort"


def offering(*mechanisms: str) -> ServerCapabilities:
    """A server that offers these mechanisms."""
    return ServerCapabilities("mx", (SmtpExtension("AUTH", mechanisms),))


def names(password: str, *mechanisms: str) -> list[str]:
    """The mechanisms that are tried for a password, in order."""
    credentials = PasswordCredentials("user", password)
    return [
        str(candidate.name)
        for candidate in login_candidates(credentials, None, offering(*mechanisms), None)
    ]


@pytest.mark.parametrize(
    ("offered", "tried"),
    [
        ([], []),
        (["GSSAPI", "NTLM", "XOAUTH2", "OAUTHBEARER", "EXTERNAL"], []),
        (["LOGIN"], ["LOGIN"]),
        (["LOGIN", "PLAIN"], ["PLAIN", "LOGIN"]),
        (["plain", "login"], ["PLAIN", "LOGIN"]),
        (["LOGIN", "PLAIN", "CRAM-MD5"], ["CRAM-MD5", "PLAIN", "LOGIN"]),
        (
            ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256"],
            ["SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN"],
        ),
        (["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "PLAIN"], ["PLAIN"]),
        ([str(m) for m in AuthMechanism], None),
    ],
)
def test_the_strongest_mechanism_first(offered: list[str], tried: list[str] | None) -> None:
    """Of what both sides have, what shows less of the password goes first, in no other order."""
    if tried is None:
        tried = ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"]
    assert names(SECRET, *offered) == tried


def test_without_scramp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, SCRAM is passed over and the rest is tried."""
    monkeypatch.setitem(sys.modules, "scramp", None)
    assert names(SECRET, "SCRAM-SHA-256", "PLAIN") == ["PLAIN"]


@pytest.mark.parametrize(
    ("offered", "tried"),
    [
        ([], []),
        (["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"], []),
        (["XOAUTH2"], ["XOAUTH2"]),
        (["xoauth2", "oauthbearer"], ["OAUTHBEARER", "XOAUTH2"]),
    ],
)
def test_a_token_goes_the_standard_way_first(offered: list[str], tried: list[str]) -> None:
    """OAUTHBEARER goes before XOAUTH2, and neither is tried where it is not offered."""
    credentials = OAuthCredentials("user", "token")
    found = login_candidates(credentials, None, offering(*offered), None, Secret("token"))
    assert [str(candidate.name) for candidate in found] == tried
    assert all(b"user" in (candidate.make().begin() or b"") for candidate in found)


def test_mechanisms_are_made_one_at_a_time() -> None:
    """A mechanism is made when its turn comes, so the last one costs nothing if the first works."""
    credentials = PasswordCredentials("user", "")
    plain, login = login_candidates(credentials, None, offering("LOGIN", "PLAIN"), None)
    with pytest.raises(ValidationError, match="empty"):
        plain.make()
    assert login.make().name is AuthMechanism.LOGIN


@pytest.mark.parametrize(
    ("mechanisms", "told"),
    [
        ((), "a password cannot be used, because the server offers no AUTH at all"),
        (("GSSAPI", "NTLM"), "cannot be used with any mechanism the server offers: GSSAPI NTLM"),
    ],
)
def test_nothing_in_common(mechanisms: tuple[str, ...], told: str) -> None:
    """Where nothing fits, the error says what the server has."""
    error = none_offered("a password", offering(*mechanisms))
    assert isinstance(error, UnsupportedExtensionError)
    assert told in str(error)
    assert error.phase is Phase.AUTH


@pytest.mark.parametrize(
    "credentials",
    [
        PasswordCredentials("user", SECRET),
        OAuthCredentials("user", SECRET),
        OAuthCredentials("user", lambda: SECRET),
    ],
    ids=["password", "token", "function"],
)
def test_credentials_are_never_shown(credentials: PasswordCredentials | OAuthCredentials) -> None:
    """Neither repr nor str shows the secret; the user name may be seen."""
    for shown in (repr(credentials), str(credentials), f"{credentials}", f"{[credentials]}"):
        assert SECRET not in shown
        assert "user" in shown


@pytest.mark.parametrize("kind", [PasswordCredentials, OAuthCredentials])
def test_credentials_are_values(
    kind: type[PasswordCredentials] | type[OAuthCredentials],
) -> None:
    """They compare by value and hash, because pools are found by them, and pickle."""
    value = kind("user", SECRET)
    for same in (kind("user", SECRET), pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        assert same == value
        assert hash(same) == hash(value)
    assert kind("user", "other") != value
    assert kind("other", SECRET) != value
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.user = "other"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("", SECRET),
        (None, SECRET),
        ("a\0b", SECRET),
        ("a\ud800", SECRET),
        ("user", None),
        ("user", SECRET.encode()),
        ("user", SECRET + "\0"),
        ("user", SECRET + "\x01"),
        ("user", SECRET + "\udcff"),
    ],
    ids=ascii,
)
def test_bad_passwords_and_users(user: Any, password: Any) -> None:
    """What no mechanism can send is refused, without being quoted."""
    with pytest.raises(ValidationError) as caught:
        PasswordCredentials(user, password)
    assert SECRET not in str(caught.value)
    assert caught.value.phase is Phase.AUTH


@pytest.mark.parametrize(
    ("user", "token"),
    [
        ("", SECRET),
        (None, SECRET),
        ("user", ""),
        ("user", None),
        ("user", SECRET.encode()),
        ("user", SECRET + " x"),
        ("user", SECRET + "\r\n"),
        ("user", SECRET + "\x01"),
        ("user", SECRET + "ü"),
    ],
    ids=ascii,
)
def test_bad_tokens(user: Any, token: Any) -> None:
    """A token that is none is refused where it is given, without being quoted."""
    with pytest.raises(ValidationError) as caught:
        OAuthCredentials(user, token)
    assert SECRET not in str(caught.value)


def test_a_function_is_asked_for_each_token() -> None:
    """A function is not called before its token is needed, then each time, and told to refresh."""
    calls: list[dict[str, bool]] = []

    def token(**options: bool) -> str:
        calls.append(options)
        return f"token{len(calls)}"

    credentials = OAuthCredentials("user", token)
    assert calls == []
    assert credentials.current_token() == "token1"
    assert credentials.current_token() == "token2"
    assert credentials.current_token(force_refresh=True) == "token3"
    assert calls == [{}, {}, {"force_refresh": True}]


def test_a_function_may_fail() -> None:
    """What the function raises comes out as it is."""

    def token() -> str:
        raise LookupError("no token today")

    with pytest.raises(LookupError, match="no token today"):
        OAuthCredentials("user", token).current_token()


def test_a_token_stays_itself() -> None:
    """A token given as text is that text, refreshed or not."""
    credentials = OAuthCredentials("user", SECRET)
    assert credentials.current_token() == credentials.current_token(force_refresh=True) == SECRET


# --- Which mechanism follows ----------------------------------------------------------------------

REFUSALS = [421, 450, 454, 500, 501, 502, 503, 504, 530, 534, 535, 538, 550, 554]


class LoginAttempts:
    """A server that refuses some mechanisms, and what a `LoginPlan` makes of that.

    Args:
        replies: the reply to each mechanism; 235 for others.
        unheard: those it refuses before a challenge.
    """

    def __init__(
        self,
        replies: dict[str, int],
        *,
        order: tuple[str, ...] = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN", "LOGIN"),
        is_trusted: bool = True,
        may_show: bool = True,
        unheard: tuple[str, ...] = (),
        begin_with: str = "",
    ) -> None:
        credentials = PasswordCredentials("user", SECRET)
        tried = [AuthMechanism(name) for name in order]
        self.plan = LoginPlan(
            [
                candidate
                for name in tried
                for candidate in login_candidates(credentials, (name,), offering(name), None)
            ]
            if not any(name.endswith("PLUS") for name in tried)
            else [LoginCandidate(name, lambda name=name: Mechanism(name)) for name in tried],  # type: ignore[misc]
            begin_with=begin_with,
            may_show=may_show,
            is_trusted=is_trusted,
        )
        self.attempts: list[str] = []
        self.won = ""
        while (candidate := self.plan.next_candidate()) is not None:
            self.attempts.append(str(candidate.name))
            code = replies.get(candidate.name, 235)
            if code == 235:
                self.won = candidate.name
                break
            mechanism = candidate.make()
            mechanism.was_challenged = candidate.name not in unheard
            response = SmtpResponse(code, (f"no {candidate.name}",))
            self.plan.note_refused(candidate, mechanism, AuthError(response))

    @property
    def error(self) -> AuthError:
        """What comes of it."""
        error = self.plan.failure("a password", offering("PLAIN"))
        assert isinstance(error, AuthError)
        return error


class Mechanism(SaslMechanism):
    """One that needs no TLS socket."""

    is_challenge_response = True

    def __init__(self, name: AuthMechanism) -> None:
        self.name = name


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize("strong", ["CRAM-MD5", "SCRAM-SHA-256"])
@pytest.mark.parametrize("is_trusted", [True, False])
def test_what_follows_a_refused_challenge_response(
    strong: str, code: int, *, is_trusted: bool
) -> None:
    """PLAIN follows a code for "not supported"; after 535 only on a verified connection."""
    played = LoginAttempts({strong: code}, order=(strong, "PLAIN", "LOGIN"), is_trusted=is_trusted)
    follows = code in (500, 502, 504, 534) or (code == 535 and is_trusted)
    assert played.won == ("PLAIN" if follows else "")
    assert played.attempts == ([strong, "PLAIN"] if follows else [strong])


@pytest.mark.parametrize("code", [c for c in REFUSALS if c not in (500, 502, 504)])
@pytest.mark.parametrize("shown", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("others", [("LOGIN",), ("PLAIN",), ("CRAM-MD5", "LOGIN", "PLAIN")])
def test_nothing_follows_a_refused_password(shown: str, code: int, others: tuple[str, ...]) -> None:
    """The account would be locked. After 534, "too weak", comes what does not show it, alone."""
    refused = dict.fromkeys((shown, *others), code)
    played = LoginAttempts(refused, order=(shown, *(name for name in others if name != shown)))
    stronger = [name for name in others if code == 534 and name == "CRAM-MD5"]
    assert played.attempts == [shown, *stronger]


@pytest.mark.parametrize("code", REFUSALS)
def test_one_attempt_after_a_refused_proof(code: int) -> None:
    """After a 535 one password is shown, and whatever comes of that is the end."""
    played = LoginAttempts({"CRAM-MD5": 535, "PLAIN": code}, order=("CRAM-MD5", "PLAIN", "LOGIN"))
    assert played.attempts == ["CRAM-MD5", "PLAIN"]
    assert played.error.response.code == code
    assert played.error.is_transient == (code < 500)


def test_no_second_challenge_response_after_a_refused_proof() -> None:
    """A wrong password is wrong for CRAM-MD5, too."""
    assert LoginAttempts({"SCRAM-SHA-256": 535}).attempts == ["SCRAM-SHA-256", "PLAIN"]
    assert LoginAttempts({"SCRAM-SHA-256": 504, "CRAM-MD5": 502}).attempts == [
        "SCRAM-SHA-256", "CRAM-MD5", "PLAIN",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [535, 501, 554])
def test_a_binding_that_the_server_does_not_know(code: int) -> None:
    """Refused before the password has played any part, SCRAM goes on with the next SCRAM."""
    order = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "CRAM-MD5", "PLAIN")
    refused = {"SCRAM-SHA-256-PLUS": code}
    played = LoginAttempts(refused, order=order, unheard=("SCRAM-SHA-256-PLUS",))
    assert played.won == "SCRAM-SHA-256"
    both = LoginAttempts(
        refused | {"SCRAM-SHA-256": 535}, order=order, unheard=("SCRAM-SHA-256-PLUS",)
    )
    assert both.attempts == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN"]
    later = LoginAttempts({"SCRAM-SHA-256-PLUS": 454}, order=order, unheard=("SCRAM-SHA-256-PLUS",))
    assert later.attempts == ["SCRAM-SHA-256-PLUS"]


def test_a_cancelled_login_is_the_end() -> None:
    """Whatever the reply to "*" is: the challenge made no sense, so the mechanism is not dead."""
    candidate = LoginCandidate(AuthMechanism.CRAM_MD5, lambda: CramMd5("user", SECRET))
    plain = LoginCandidate(AuthMechanism.PLAIN, lambda: Plain("user", SECRET))
    for code in REFUSALS:
        plan = LoginPlan([candidate, plain], begin_with="", may_show=True, is_trusted=True)
        assert plan.next_candidate() is candidate
        mechanism = candidate.make()
        mechanism.cancelled_because = "not base64"
        plan.note_refused(candidate, mechanism, AuthError(SmtpResponse(code, ("no",))))
        assert plan.next_candidate() is None


def test_no_password_is_shown_without_tls_after_a_refusal() -> None:
    """The refusal is told then, not that TLS is missing."""
    played = LoginAttempts({"CRAM-MD5": 504}, order=("CRAM-MD5", "PLAIN"), may_show=False)
    assert played.attempts == ["CRAM-MD5"]
    assert played.error.response.code == 504
    assert "PLAIN: not tried, it would show the secret without TLS" in played.error.tried


def test_what_worked_last_time_goes_first() -> None:
    """But no password is shown for a memory's sake where it would not come to that by itself."""
    order = ("CRAM-MD5", "PLAIN", "LOGIN")
    assert LoginAttempts({}, order=order, begin_with="LOGIN").attempts == ["LOGIN"]
    assert LoginAttempts({}, order=order, begin_with="LOGIN", is_trusted=False).attempts == [
        "CRAM-MD5"
    ]
    assert LoginAttempts({}, order=order, begin_with="SCRAM-SHA-1").attempts == ["CRAM-MD5"]
    assert LoginAttempts({"LOGIN": 535}, order=order, begin_with="LOGIN").attempts == ["LOGIN"]


def test_the_error_lists_what_was_tried() -> None:
    """Each mechanism with its reply, in order, in the text and as an attribute."""
    error = LoginAttempts({"CRAM-MD5": 535, "PLAIN": 535}, order=("CRAM-MD5", "PLAIN")).error
    assert error.tried == ("CRAM-MD5: 535 no CRAM-MD5", "PLAIN: 535 no PLAIN")
    assert "tried CRAM-MD5: 535 no CRAM-MD5; PLAIN: 535 no PLAIN" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.tried, str(again)) == (error.tried, str(error))
    untrusted = LoginAttempts(
        {"CRAM-MD5": 535}, order=("CRAM-MD5", "PLAIN"), is_trusted=False
    ).error
    assert 'mechanisms=("PLAIN",)' in untrusted.tried[1]
    assert LoginAttempts({"PLAIN": 535}, order=("PLAIN", "LOGIN")).error.tried == ()


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, None),
        ("plain", ("PLAIN",)),
        ("PLAIN, login", ("PLAIN", "LOGIN")),
        (["CRAM-MD5", "CRAM-MD5"], ("CRAM-MD5",)),
        ([AuthMechanism.LOGIN], ("LOGIN",)),
        ("scram plain", ("SCRAM", "PLAIN")),
    ],
)
def test_names_of_mechanisms(given: Any, names: tuple[str, ...] | None) -> None:
    """In any case, as a list or a text, each once."""
    assert mechanism_names(given) == names
    credentials = PasswordCredentials("user", SECRET, mechanisms=given)
    assert credentials.mechanisms == names
    assert pickle.loads(pickle.dumps(credentials)) == credentials
    assert (credentials == PasswordCredentials("user", SECRET)) == (names is None)


@pytest.mark.parametrize("bad", ["", [], "PLAIN,x", SECRET, [None], ["XOAUTH2"], "GSSAPI"])
def test_bad_names_of_mechanisms(bad: Any) -> None:
    """What is none, or serves no password, is refused with those that do, and not quoted."""
    with pytest.raises(ValidationError, match=r"CRAM-MD5.*PLAIN.*LOGIN") as caught:
        PasswordCredentials("user", SECRET, mechanisms=bad)
    assert SECRET not in str(caught.value)
    with pytest.raises(ValidationError, match="OAUTHBEARER, XOAUTH2"):
        OAuthCredentials("user", SECRET, mechanisms="PLAIN")


def test_named_mechanisms_are_the_only_ones() -> None:
    """In the order in which they are named."""
    credentials = PasswordCredentials("user", SECRET)
    everything = offering(*AuthMechanism)
    found = login_candidates(credentials, ("LOGIN", "SCRAM", "EXTERNAL"), everything, None)
    assert [str(w.name) for w in found] == ["LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-1", "EXTERNAL"]
    assert login_candidates(credentials, ("XOAUTH2",), everything, None) == []
    assert login_candidates(credentials, ("LOGIN",), offering("PLAIN"), None) == []


class Fetcher:
    """A function for tokens that is an object."""

    def __call__(self) -> str:
        """A token."""
        return "token"


class AsyncFetcher:
    """One that has to be awaited."""

    async def __call__(self) -> str:
        """A token."""
        return "token"


async def coroutine() -> str:
    """A token, for who waits."""
    return "token"


def needs_more(scope: str) -> str:
    """A token for something."""
    return scope


@pytest.mark.parametrize("function", [coroutine, needs_more, AsyncFetcher(), str.upper])
def test_functions_that_get_no_token(function: Any) -> None:
    """What cannot be called when it is needed is refused where it is given."""
    with pytest.raises(ValidationError, match="function that gets a token"):
        OAuthCredentials("user", function)


@pytest.mark.parametrize(
    "function",
    [
        lambda: "token",
        lambda *args: "token",
        lambda scope="mail": "token",
        functools.partial(needs_more, "token"),
        functools.partial(needs_more, scope="token"),
        Fetcher(),
        iter(["token"] * 9).__next__,
    ],
)
def test_a_function_without_force_refresh_is_called_without_it(function: Any) -> None:
    """It is asked once more all the same; what it takes is asked of its signature."""
    credentials = OAuthCredentials("user", function)
    assert isinstance(credentials.current_token(), str)
    assert isinstance(credentials.current_token(force_refresh=True), str)


@pytest.mark.parametrize(
    "function", [lambda **options: f"{options}", lambda force_refresh=0: f"{force_refresh}"]
)
def test_a_function_with_force_refresh_is_told(function: Any) -> None:
    """By name, or among whatever it takes."""
    assert "True" in OAuthCredentials("user", function).current_token(force_refresh=True)
