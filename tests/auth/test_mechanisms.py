"""SASL mechanisms: the exact bytes of each, and that none shows a secret."""

from __future__ import annotations

import base64
import hmac
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from smtpconn.auth import scram
from smtpconn.auth.mechanisms import (
    ChallengeError,
    CramMd5,
    External,
    Login,
    OAuthBearer,
    Plain,
    SaslMechanism,
    XOAuth2,
    check_credential,
    check_token,
    decode_challenge,
)
from smtpconn.model.capabilities import AuthMechanism, ServerCapabilities, SmtpExtension
from smtpconn.model.errors import Phase, ProtocolError, ValidationError

SECRET = "hunter2-Passwort"


def encoded(challenge: bytes | str) -> str:
    """A challenge as it stands in the 334 line."""
    data = challenge.encode() if isinstance(challenge, str) else challenge
    return base64.b64encode(data).decode()


def scram_with(password: str) -> SaslMechanism:
    """One SCRAM exchange."""
    return scram.Scram(AuthMechanism.SCRAM_SHA_256, "user", password)


WITH_SECRET: dict[str, Callable[[str], SaslMechanism]] = {
    "PLAIN": lambda secret: Plain("user", secret),
    "LOGIN": lambda secret: Login("user", secret),
    "CRAM-MD5": lambda secret: CramMd5("user", secret),
    "XOAUTH2": lambda secret: XOAuth2("user", secret),
    "OAUTHBEARER": OAuthBearer,
    "SCRAM-SHA-256": scram_with,
}
WITH_USER: dict[str, Callable[[Any], SaslMechanism]] = {
    "PLAIN": lambda user: Plain(user, SECRET),
    "LOGIN": lambda user: Login(user, SECRET),
    "CRAM-MD5": lambda user: CramMd5(user, SECRET),
    "XOAUTH2": lambda user: XOAuth2(user, SECRET),
    "SCRAM-SHA-256": lambda user: scram.Scram(AuthMechanism.SCRAM_SHA_256, user, SECRET),
}


@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        (Plain("tim", "tanstaaftanstaaf"), b"\0tim\0tanstaaftanstaaf"),
        (Plain("Kurt", "xipj3plmq", "Ursel"), b"Ursel\0Kurt\0xipj3plmq"),
        (Plain("jürgen", "grün €"), "\0jürgen\0grün €".encode()),
        (Plain("a b", " \r\n\t"), b"\0a b\0 \r\n\t"),
        (Login("jürgen", "x"), None),
        (CramMd5("u", "p"), None),
        (External(), b""),
        (External("u@example.com"), b"u@example.com"),
        (XOAuth2("u@example.com", "ya29.x"), b"user=u@example.com\x01auth=Bearer ya29.x\x01\x01"),
        (OAuthBearer("vF9dft4qmT"), b"n,,\x01auth=Bearer vF9dft4qmT\x01\x01"),
        (OAuthBearer("t", "u@example.com"), b"n,a=u@example.com,\x01auth=Bearer t\x01\x01"),
        (OAuthBearer("t", "a=b,c"), b"n,a=a=3Db=2Cc,\x01auth=Bearer t\x01\x01"),
    ],
)
def test_initial_responses(mechanism: SaslMechanism, first: bytes | None) -> None:
    """Each mechanism begins with exactly the bytes of its RFC."""
    assert mechanism.begin() == first


def test_cram_md5_of_the_rfc() -> None:
    """The example of RFC 2195 2."""
    mechanism = CramMd5("tim", "tanstaaftanstaaf")
    challenge = "PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"
    assert mechanism.answer(challenge) == b"tim b913a602c7eda7a495b4e6e7334d3890"
    assert mechanism.answer(challenge) is None


def test_scram_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of RFC 7677 3, with its nonce: both sides prove that they know the password."""
    core = pytest.importorskip("scramp.core")
    monkeypatch.setattr(core.Nonce, "create", lambda: core.Nonce("rOprNGfwEbeRWgbNEkqO"))
    mechanism = scram.Scram(AuthMechanism.SCRAM_SHA_256, "user", "pencil")
    assert mechanism.begin() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    final = mechanism.answer(
        encoded(
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        )
    )
    assert final == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    with pytest.raises(ProtocolError, match="without proving"):
        mechanism.finish()
    assert mechanism.answer(encoded("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")) == b""
    mechanism.finish()
    assert mechanism.answer(encoded("x")) is None


@pytest.mark.parametrize(
    "challenge",
    [
        "",
        "x",
        "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "e=unknown-user",
        b"\xff\xfe",
        "r=,s=,i=",
        "r=x,s=!,i=y",
    ],
)
def test_scram_with_a_bad_first_message(challenge: bytes | str) -> None:
    """A server's first message that is wrong is a ProtocolError, whatever is wrong with it."""
    mechanism = scram_with(SECRET)
    mechanism.begin()
    with pytest.raises(ProtocolError) as caught:
        mechanism.answer(encoded(challenge))
    assert caught.value.phase is Phase.AUTH
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("count", ["2000001", "9999999", "99999999999", "1" + "0" * 5000])
def test_scram_with_a_server_that_makes_us_work(count: str) -> None:
    """A server cannot have us compute beyond every deadline by an endless count of rounds."""
    mechanism = scram_with(SECRET)
    nonce = (mechanism.begin() or b"").decode().rpartition("r=")[2]
    with pytest.raises(ProtocolError, match="rounds of hashing"):
        mechanism.answer(encoded(f"r={nonce}server,s=W22ZaJ0SNY7soEsUEjb6gQ==,i={count}"))


@pytest.mark.parametrize("final", ["v=AAAA", "v=", "", "x", b"\xff"])
def test_scram_with_a_server_that_does_not_know_the_password(final: bytes | str) -> None:
    """A server that cannot prove itself is found out; what is no proof at all is cancelled."""
    mechanism = scram_with(SECRET)
    nonce = (mechanism.begin() or b"").decode().rpartition("r=")[2]
    assert mechanism.answer(encoded(f"r={nonce}server,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"))
    with pytest.raises(ProtocolError, match="prove") as caught:
        mechanism.answer(encoded(final))
    is_proof = isinstance(final, str) and final.startswith("v=")
    assert isinstance(caught.value, ChallengeError) is not is_proof
    with pytest.raises(ProtocolError, match="prov"):
        mechanism.finish()


def test_scram_that_is_accepted_at_once() -> None:
    """A server that says yes before it was asked for proof is not believed."""
    mechanism = scram_with(SECRET)
    mechanism.begin()
    with pytest.raises(ProtocolError, match="without proving"):
        mechanism.finish()


def test_scram_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package scramp the error says what to install."""
    monkeypatch.setitem(sys.modules, "scramp", None)
    assert not scram.is_installed()
    with pytest.raises(ProtocolError, match=r"smtpconn\[scram\]"):
        scram_with(SECRET)


@pytest.mark.parametrize(("user", "password"), [("user", "a\u0627b\x07"), ("\x07user", "secret")])
def test_scram_prepares_its_strings(user: str, password: str) -> None:
    """What SASLprep forbids is refused without being quoted."""
    with pytest.raises(ValidationError) as caught:
        scram.Scram(AuthMechanism.SCRAM_SHA_1, user, password).begin()
    assert password not in str(caught.value)


def test_scram_is_offered_the_strongest_first() -> None:
    """Without TLS there is no channel binding; SHA-256 goes before SHA-1."""
    offered = tuple(m for m in AuthMechanism if m.startswith("SCRAM"))
    capabilities = ServerCapabilities("mx", (SmtpExtension("AUTH", offered),))
    found = list(scram.candidates(capabilities, None))
    assert found == [(AuthMechanism.SCRAM_SHA_256, None), (AuthMechanism.SCRAM_SHA_1, None)]


PROMPTS = {
    "user": ["Username:", "User Name", "USER NAME\0", "login:", "Your e-mail user name please"],
    "password": ["Password:", "PASSWORD\0", "pwd", "Password for user u:"],
    "": ["", "whatever", "Kennwort"],
}
"""What servers say, by what they ask for."""


@pytest.mark.parametrize("in_base64", [True, False])
@pytest.mark.parametrize("second", PROMPTS["password"] + PROMPTS[""])
@pytest.mark.parametrize("first", PROMPTS["user"] + PROMPTS[""])
def test_login_answers_one_prompt_after_the_other(
    first: str, second: str, *, in_base64: bool
) -> None:
    """The user name, then the password, then nothing; in base64 or, as some ask, in clear."""
    prompts = [encoded(p) if in_base64 else p for p in (first, second)]
    mechanism = Login("user", SECRET)
    assert mechanism.answer(prompts[0]) == b"user"
    assert mechanism.answer(prompts[1]) == SECRET.encode()
    assert mechanism.answer("") is None
    assert mechanism.answer(encoded("Password:")) is None


@pytest.mark.parametrize("prompt", PROMPTS["password"])
def test_login_answers_what_is_asked(prompt: str) -> None:
    """A password that is asked for first is given first; each is given to its own prompt."""
    mechanism = Login("user", SECRET)
    assert mechanism.answer(encoded(prompt)) == SECRET.encode()
    assert mechanism.answer(encoded(prompt)) is None
    assert mechanism.answer(encoded("Username:")) == b"user"


@pytest.mark.parametrize("prompt", PROMPTS["user"])
def test_login_never_gives_the_password_as_user_name(prompt: str) -> None:
    """A server that asks for the user name again gets it again, once, and never the password."""
    mechanism = Login("user", SECRET)
    assert mechanism.answer(encoded(prompt)) == b"user"
    assert mechanism.answer(encoded(prompt)) == b"user"
    assert mechanism.answer(encoded(prompt)) is None
    assert mechanism.answer(encoded("Password:")) == SECRET.encode()


def test_cram_md5_without_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where FIPS forbids MD5, the error says so before anything is sent."""

    def no_md5(*args: object) -> bytes:
        raise ValueError("[digital envelope routines] unsupported")

    monkeypatch.setattr(hmac, "digest", no_md5)
    with pytest.raises(ProtocolError, match="FIPS") as caught:
        CramMd5("user", SECRET)
    assert caught.value.phase is Phase.AUTH


@pytest.mark.parametrize("said", ["invalid-proof", "other-error", "unknown-user", ""])
def test_a_scram_refusal_in_its_own_words(said: str) -> None:
    """It is acknowledged, so that the reply of SMTP comes; but it is no proof."""
    mechanism = scram_with(SECRET)
    nonce = (mechanism.begin() or b"").decode().rpartition("r=")[2]
    assert mechanism.answer(encoded(f"r={nonce}server,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"))
    assert mechanism.answer(encoded(f"e={said}")) == b""
    assert mechanism.server_error == said
    with pytest.raises(ProtocolError, match="without proving"):
        mechanism.finish()


@pytest.mark.parametrize("mechanism", [Plain("u", SECRET), External("u")])
def test_a_challenge_that_is_not_expected(mechanism: SaslMechanism) -> None:
    """A mechanism that says everything at once cancels when it is asked for more."""
    assert mechanism.answer("") is None
    assert mechanism.answer(encoded("more")) is None


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        (encoded('{"status":"401"}'), '{"status":"401"}'),
        (encoded(b"\xff"), r"\xff"),
        ("not base64!", "not base64!"),
    ],
)
def test_what_is_wrong_with_a_token(challenge: str, said: str) -> None:
    """The server's error about a token is kept; OAUTHBEARER acknowledges it, once."""
    bearer, xoauth2 = OAuthBearer(SECRET), XOAuth2("u", SECRET)
    assert bearer.answer(challenge) == b"\x01"
    assert bearer.answer(challenge) is None
    assert bearer.server_error == said
    answer: Callable[[str], bytes | None] = xoauth2.answer
    assert answer(challenge) == b""
    assert answer(challenge) is None
    assert xoauth2.server_error == said


def test_an_empty_challenge_to_a_token() -> None:
    """An error that says nothing is still acknowledged only once."""
    bearer = OAuthBearer(SECRET)
    assert bearer.answer("") == b"\x01"
    assert bearer.answer("") is None


@pytest.mark.parametrize("name", WITH_SECRET)
def test_no_secret_is_shown(name: str) -> None:
    """Neither repr nor str of a mechanism holds its secret, before and after it was used."""
    mechanism = WITH_SECRET[name](SECRET)
    before = [repr(mechanism), str(mechanism), f"{mechanism}"]
    mechanism.begin()
    after = [repr(mechanism), str(mechanism), f"{mechanism}"]
    assert not any(SECRET in shown for shown in before + after)
    assert mechanism.name == name


@pytest.mark.parametrize("name", WITH_SECRET)
@pytest.mark.parametrize("bad", ["\0", "\x01", "\ud800"], ids=["NUL", "Ctrl-A", "surrogate"])
def test_bad_secrets_are_not_quoted(name: str, bad: str) -> None:
    """A secret with a character that separates fields is refused, and not shown by the error."""
    with pytest.raises(ValidationError) as caught:
        WITH_SECRET[name](f"{SECRET}{bad}{SECRET}")
    for shown in (str(caught.value), repr(caught.value), repr(vars(caught.value))):
        assert SECRET not in shown
    assert caught.value.phase is Phase.AUTH


@pytest.mark.parametrize("name", WITH_USER)
@pytest.mark.parametrize("user", ["", "a\0b", "a\x01b", "a\ud800b", None, 5, b"user"], ids=ascii)
def test_bad_users(name: str, user: Any) -> None:
    """A user name is a text without the characters that separate fields."""
    with pytest.raises(ValidationError) as caught:
        WITH_USER[name](user)
    assert SECRET not in str(caught.value)
    assert caught.value.phase is Phase.AUTH


@pytest.mark.parametrize("authzid", ["a\0b", "a\x01b", "\ud800", None])
def test_bad_identities(authzid: Any) -> None:
    """Whom to act as is checked like a user name, but may be empty."""
    for make in (lambda: Plain("u", "p", authzid), lambda: External(authzid)):
        with pytest.raises(ValidationError):
            make()
    assert Plain("u", "p", "").begin() == b"\0u\0p"


@pytest.mark.parametrize(
    "token", ["", "a b", "a\r\nb", "a\tb", "grün", "a\x7f", " ", None, 5, b"token"], ids=repr
)
def test_bad_tokens(token: Any) -> None:
    """A token is printable ASCII without spaces, so that nothing can be smuggled in behind it."""
    for check in (check_token, OAuthBearer, lambda t: XOAuth2("u", t)):
        with pytest.raises(ValidationError, match="token") as caught:
            check(token)
        assert not (isinstance(token, str) and token.strip()) or token not in str(caught.value)


def test_credentials_may_hold_anything_else() -> None:
    """Spaces, line ends and other scripts are the business of who chose them."""
    for value in ("", " ", "\r\n", "\t", "\x7f", "ä€\U0001f512", "a" * 10_000):
        check_credential("password", value)
    with pytest.raises(ValidationError, match="user is empty"):
        check_credential("user", "", may_be_empty=False)


@pytest.mark.parametrize(
    ("challenge", "data"),
    [("", b""), ("YQ==", b"a"), ("YWI=", b"ab"), ("AP8=", b"\0\xff"), ("+/+/", b"\xfb\xff\xbf")],
)
def test_challenges(challenge: str, data: bytes) -> None:
    """A challenge is base64."""
    assert decode_challenge(challenge) == data


@pytest.mark.parametrize(
    "challenge",
    [
        "YQ",
        "YQ=",
        "Y",
        "=",
        "====",
        "Y Q==",
        " YQ==",
        "YQ== ",
        "YQ==YQ==",
        "-_-_",
        "ü",
        "\udcff",
        "!",
    ],
    ids=ascii,
)
def test_bad_challenges(challenge: str) -> None:
    """A challenge that is not strict base64 breaks the protocol."""
    with pytest.raises(ProtocolError, match="base64") as caught:
        decode_challenge(challenge)
    assert str(caught.value).isascii()
    assert caught.value.phase is Phase.AUTH


def test_a_long_challenge_is_quoted_in_part() -> None:
    """An error does not grow with what a server sends."""
    with pytest.raises(ProtocolError) as caught:
        decode_challenge("!" * 12_000)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("mechanism", "shows"),
    [
        (Plain("u", "p"), True),
        (Login("u", "p"), True),
        (XOAuth2("u", "t"), True),
        (OAuthBearer("t"), True),
        (CramMd5("u", "p"), False),
        (External(), False),
        (scram_with("p"), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_which_mechanisms_need_a_private_line(mechanism: SaslMechanism, shows: bool) -> None:
    """Whether a listener learns the secret is a property of the mechanism."""
    assert mechanism.shows_secret is shows


@pytest.mark.parametrize(
    "mechanism", [Plain("u", "p"), Login("u", "p"), External(), OAuthBearer("t")]
)
def test_what_proves_nothing_has_nothing_to_finish(mechanism: SaslMechanism) -> None:
    """Only a mechanism in which the server proves something looks for that proof."""
    mechanism.finish()


def test_names_are_mechanisms() -> None:
    """Each name is as servers advertise it."""
    for mechanism in AuthMechanism:
        assert re.fullmatch(r"[A-Z0-9-]{1,20}", mechanism)
