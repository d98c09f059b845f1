"""Credentials: who we are, which mechanism that becomes, and that it is never shown."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import sys
from typing import Any

import pytest

from smtpconn.auth.credentials import (
    OAuthCredentials,
    PasswordCredentials,
    by_password,
    by_token,
    none_offered,
)
from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities, SmtpExtension
from smtpconn.model.errors import Phase, UnsupportedExtensionError, ValidationError

SECRET = "hunter2-Passwort"


def offering(*mechanisms: str) -> ServerCapabilities:
    """A server that offers these mechanisms."""
    return ServerCapabilities("mx", (SmtpExtension("AUTH", mechanisms),))


def names(password: str, *mechanisms: str) -> list[str]:
    """What is tried for a password, in order."""
    credentials = PasswordCredentials("user", password)
    return [str(m.name) for m in by_password(credentials, offering(*mechanisms), None)]


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
    found = list(by_token("user", "token", offering(*offered)))
    assert [str(m.name) for m in found] == tried
    assert all(b"user" in (m.begin() or b"") for m in found)


def test_mechanisms_are_made_one_at_a_time() -> None:
    """A mechanism is made when its turn comes, so the last one costs nothing if the first works."""
    mechanisms = by_token("user", "token", offering("OAUTHBEARER", "XOAUTH2"))
    assert next(mechanisms).name is AuthMechanism.OAUTHBEARER


@pytest.mark.parametrize(
    ("mechanisms", "told"), [((), "no AUTH at all"), (("GSSAPI", "NTLM"), "GSSAPI NTLM")]
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
        value.user = "other"  # type: ignore[misc]


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
