"""ESMTP parameters: how each is written, its limits, and what the server has to offer for it."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.errors import (
    Phase,
    SmtpUtf8RequiredError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.model.parameters import (
    BodyType,
    DeliverBy,
    DeliverByMode,
    DsnNotify,
    DsnRet,
    MailFromParams,
    RcptToParams,
    mail_parameters,
    rcpt_parameters,
    xtext,
)

QUICK = settings(deadline=None, max_examples=200)
NOTHING = ServerCapabilities("mx.example.com")
KEYWORDS = [
    *("SIZE", "8BITMIME", "BINARYMIME", "SMTPUTF8", "DSN"),
    *("AUTH", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "REQUIRETLS"),
]
NEW_YEAR = datetime(2030, 1, 1, tzinfo=UTC)


def offering(*lines: str) -> ServerCapabilities:
    """A server with these lines in its EHLO reply."""
    words = [line.split() for line in lines]
    return ServerCapabilities("mx", tuple(SmtpExtension(k, tuple(p)) for k, *p in words))


EVERYTHING = offering(*KEYWORDS)


def mail(
    params: MailFromParams | None = None,
    capabilities: ServerCapabilities = EVERYTHING,
    size: int | None = None,
    body: BodyType | None = None,
    smtputf8: bool = False,
) -> str:
    """What follows the reverse-path."""
    params = params if params is not None else MailFromParams()
    return mail_parameters(params, capabilities, size=size, body=body, smtputf8=smtputf8)


def rcpt(
    params: RcptToParams,
    capabilities: ServerCapabilities = EVERYTHING,
    smtputf8: bool = False,
) -> str:
    """What follows the forward-path."""
    return rcpt_parameters(params, capabilities, smtputf8=smtputf8)


MAIL_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    # the field, how it is sent, the extension it needs
    ({"ret": DsnRet.FULL}, "RET=FULL", "DSN"),
    ({"ret": DsnRet.HDRS}, "RET=HDRS", "DSN"),
    ({"envid": "QQ314159"}, "ENVID=QQ314159", "DSN"),
    ({"envid": "a b+c=d"}, "ENVID=a+20b+2Bc+3Dd", "DSN"),
    ({"envid": "+" * 100}, "ENVID=" + "+2B" * 100, "DSN"),
    ({"auth": ""}, "AUTH=<>", "AUTH"),
    ({"auth": "u@example.com"}, "AUTH=u@example.com", "AUTH"),
    ({"auth": "e+=@example.com"}, "AUTH=e+2B+3D@example.com", "AUTH"),
    ({"auth": '"a b"@example.com'}, 'AUTH="a+20b"@example.com', "AUTH"),
    ({"auth": "ü@example.com"}, "AUTH=+C3+BC@example.com", "AUTH"),
    ({"deliver_by": DeliverBy(120)}, "BY=120;N", "DELIVERBY"),
    ({"deliver_by": DeliverBy(-5, DeliverByMode.NOTIFY, trace=True)}, "BY=-5;NT", "DELIVERBY"),
    ({"deliver_by": DeliverBy(0)}, "BY=0;N", "DELIVERBY"),
    ({"deliver_by": DeliverBy(1, DeliverByMode.RETURN)}, "BY=1;R", "DELIVERBY"),
    (
        {"deliver_by": DeliverBy(999999999, DeliverByMode.RETURN, True)},
        "BY=999999999;RT",
        "DELIVERBY",
    ),
    ({"hold_for": 1}, "HOLDFOR=1", "FUTURERELEASE"),
    ({"hold_for": 999999999}, "HOLDFOR=999999999", "FUTURERELEASE"),
    ({"hold_until": NEW_YEAR}, "HOLDUNTIL=2030-01-01T00:00:00Z", "FUTURERELEASE"),
    (
        {"hold_until": datetime(2030, 1, 1, 2, 30, 1, 999999, timezone(timedelta(hours=2)))},
        "HOLDUNTIL=2030-01-01T00:30:01Z",
        "FUTURERELEASE",
    ),
    ({"mt_priority": -9}, "MT-PRIORITY=-9", "MT-PRIORITY"),
    ({"mt_priority": 0}, "MT-PRIORITY=0", "MT-PRIORITY"),
    ({"mt_priority": 9}, "MT-PRIORITY=9", "MT-PRIORITY"),
    ({"require_tls": True}, "REQUIRETLS", "REQUIRETLS"),
]


@pytest.mark.parametrize(("fields", "word", "keyword"), MAIL_FIELDS)
def test_each_field_of_mail(fields: dict[str, Any], word: str, keyword: str) -> None:
    """A field is sent as its RFC writes it if the server has the extension, else it is an error."""
    params = MailFromParams(**fields)
    assert mail(params) == f" {word}"
    assert mail(params, offering(keyword)) == f" {word}"
    lacking = offering(*(k for k in KEYWORDS if k != keyword))
    for capabilities in (lacking, NOTHING):
        with pytest.raises(UnsupportedExtensionError, match=keyword) as caught:
            mail(params, capabilities)
        assert caught.value.phase is Phase.MAIL


def test_no_field_is_no_parameter() -> None:
    """Without parameters nothing follows the path, whatever the server offers."""
    assert mail() == mail(capabilities=NOTHING) == ""
    assert rcpt(RcptToParams()) == rcpt(RcptToParams(), NOTHING) == ""


def test_all_fields_at_once() -> None:
    """Parameters stand behind one another, one space before each."""
    params = MailFromParams(
        ret=DsnRet.HDRS,
        envid="x",
        auth="",
        deliver_by=DeliverBy(60),
        hold_for=60,
        mt_priority=3,
        require_tls=True,
    )
    assert mail(params, size=10, body=BodyType.EIGHTBITMIME, smtputf8=True) == (
        " BODY=8BITMIME SMTPUTF8 SIZE=10 RET=HDRS ENVID=x AUTH=<> BY=60;N HOLDFOR=60"
        " MT-PRIORITY=3 REQUIRETLS"
    )


@pytest.mark.parametrize(
    ("body", "capabilities", "text"),
    [
        (None, EVERYTHING, ""),
        (BodyType.SEVENBIT, EVERYTHING, " BODY=7BIT"),
        (BodyType.SEVENBIT, NOTHING, ""),
        (BodyType.EIGHTBITMIME, offering("8BITMIME"), " BODY=8BITMIME"),
        (BodyType.EIGHTBITMIME, offering("BINARYMIME"), None),
        (BodyType.EIGHTBITMIME, NOTHING, None),
        (BodyType.BINARYMIME, offering("BINARYMIME"), " BODY=BINARYMIME"),
        (BodyType.BINARYMIME, offering("8BITMIME", "CHUNKING"), None),
    ],
)
def test_body(body: BodyType | None, capabilities: ServerCapabilities, text: str | None) -> None:
    """BODY is sent where the server knows it; 7BIT, which all assume, need not be said."""
    if text is None:
        with pytest.raises(UnsupportedExtensionError):
            mail(capabilities=capabilities, body=body)
    else:
        assert mail(capabilities=capabilities, body=body) == text


def test_smtputf8_needs_the_extension() -> None:
    """A transaction that needs SMTPUTF8 cannot happen without."""
    assert mail(smtputf8=True) == " SMTPUTF8"
    with pytest.raises(SmtpUtf8RequiredError) as caught:
        mail(capabilities=NOTHING, smtputf8=True)
    assert caught.value.phase is Phase.MAIL


@pytest.mark.parametrize(
    ("line", "own", "size", "text"),
    [
        ("SIZE", None, None, ""),
        ("SIZE", None, 0, " SIZE=0"),
        ("SIZE", None, 10**19, " SIZE=10000000000000000000"),
        ("SIZE 0", None, 10**12, " SIZE=1000000000000"),
        ("SIZE 1000", None, 1000, " SIZE=1000"),
        ("SIZE 1000", None, 1001, None),
        ("SIZE 1000", 1001, 10, None),
        ("SIZE 1000", 10, 1001, " SIZE=10"),
        ("SIZE 1000", 0, 1001, " SIZE=0"),
        ("SIZE garbage", None, 10**9, " SIZE=1000000000"),
        ("DSN", None, 10**9, ""),
        ("DSN", 10**9, None, ""),
    ],
)
def test_size(line: str, own: int | None, size: int | None, text: str | None) -> None:
    """SIZE is sent where it is known and advertised, and what is too large is refused before."""
    params = MailFromParams(size=own)
    if text is None:
        with pytest.raises(ValidationError, match="1000") as caught:
            mail(params, offering(line), size=size)
        assert caught.value.phase is Phase.MAIL
    else:
        assert mail(params, offering(line), size=size) == text


BAD_MAIL_FIELDS: list[dict[str, Any]] = [
    {"size": -1},
    {"size": 10**20},
    {"size": 1.0},
    {"size": "1"},
    {"size": True},
    {"envid": ""},
    {"envid": "x" * 101},
    {"envid": "a\r\nb"},
    {"envid": "a\tb"},
    {"envid": "a\0"},
    {"envid": "\x7f"},
    {"envid": "ü"},
    {"envid": "\ud800"},
    {"auth": "not a mailbox"},
    {"auth": "<>"},
    {"auth": "a@b> X=Y"},
    {"auth": "a\n@example.com"},
    {"auth": 5},
    {"hold_for": 0},
    {"hold_for": -1},
    {"hold_for": 10**9},
    {"hold_for": 1.5},
    {"hold_for": True},
    {"hold_until": datetime(2030, 1, 1)},
    {"hold_for": 60, "hold_until": NEW_YEAR},
    {"mt_priority": -10},
    {"mt_priority": 10},
    {"mt_priority": 1.0},
    {"mt_priority": True},
]

WRONG_TYPES: list[dict[str, Any]] = [
    {"body": "7BIT SIZE=1"},
    {"body": 8},
    {"ret": "FULL ENVID=x"},
    {"ret": "full"},
    {"ret": True},
    {"envid": 5},
    {"envid": b"x"},
    {"deliver_by": 60},
    {"deliver_by": "60;R REQUIRETLS"},
    {"hold_until": "2030-01-01T00:00:00Z"},
    {"hold_until": 5},
]


@pytest.mark.parametrize("fields", BAD_MAIL_FIELDS)
def test_bad_fields_of_mail(fields: dict[str, Any]) -> None:
    """A value that no server may be sent is refused where it is made, and quoted safely."""
    with pytest.raises(ValidationError) as caught:
        MailFromParams(**fields)
    assert str(caught.value).isprintable()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("fields", WRONG_TYPES)
def test_fields_of_another_type(fields: dict[str, Any]) -> None:
    """A value of another type is refused where it is made; no str smuggles a parameter in."""
    with pytest.raises(ValidationError):
        MailFromParams(**fields)


@pytest.mark.parametrize(
    ("seconds", "mode", "trace"),
    [
        (0, DeliverByMode.RETURN, False),
        (-1, DeliverByMode.RETURN, False),
        (10**9, DeliverByMode.RETURN, False),
        (10**9, DeliverByMode.NOTIFY, False),
        (-(10**9), DeliverByMode.NOTIFY, False),
        (1.5, DeliverByMode.NOTIFY, False),
        ("60", DeliverByMode.NOTIFY, False),
        (True, DeliverByMode.NOTIFY, False),
        (60, "X", False),
        (60, "N REQUIRETLS", False),
        (60, None, False),
    ],
)
def test_bad_deliver_by(seconds: Any, mode: Any, trace: bool) -> None:
    """BY has up to nine digits, returns only in the future, and has one of two modes."""
    with pytest.raises(ValidationError):
        DeliverBy(seconds, mode, trace)


@pytest.mark.parametrize(
    ("line", "deliver_by", "passes"),
    [
        ("DELIVERBY", DeliverBy(1, DeliverByMode.RETURN), True),
        ("DELIVERBY 60", DeliverBy(60, DeliverByMode.RETURN), True),
        ("DELIVERBY 60", DeliverBy(59, DeliverByMode.RETURN), False),
        ("DELIVERBY 60", DeliverBy(59, DeliverByMode.NOTIFY), True),
        ("DELIVERBY 60", DeliverBy(-59, DeliverByMode.NOTIFY), True),
        ("DELIVERBY 0", DeliverBy(1, DeliverByMode.RETURN), True),
        ("DELIVERBY soon", DeliverBy(1, DeliverByMode.RETURN), True),
        (f"DELIVERBY {'9' * 5000}", DeliverBy(999_999_999, DeliverByMode.RETURN), False),
        ("DELIVERBY 60 90", DeliverBy(70, DeliverByMode.RETURN), True),
    ],
)
def test_the_servers_least_time(line: str, deliver_by: DeliverBy, passes: bool) -> None:
    """A server may name the least time it returns after (RFC 2852 3)."""
    params = MailFromParams(deliver_by=deliver_by)
    if passes:
        assert mail(params, offering(line)) == f" BY={deliver_by}"
    else:
        with pytest.raises(ValidationError):
            mail(params, offering(line))


@pytest.mark.parametrize(
    ("line", "fields", "passes"),
    [
        ("FUTURERELEASE", {"hold_for": 10**8}, True),
        ("FUTURERELEASE 3600", {"hold_for": 3600}, True),
        ("FUTURERELEASE 3600", {"hold_for": 3601}, False),
        ("FUTURERELEASE 3600 2030-01-01T00:00:00Z", {"hold_for": 3601}, False),
        ("FUTURERELEASE long", {"hold_for": 3601}, True),
        ("FUTURERELEASE 3600", {"hold_until": NEW_YEAR}, True),
        ("FUTURERELEASE 3600 2030-01-01T00:00:00Z", {"hold_until": NEW_YEAR}, True),
        (
            "FUTURERELEASE 3600 2030-01-01T00:00:00Z",
            {"hold_until": NEW_YEAR + timedelta(seconds=1)},
            False,
        ),
        (
            "FUTURERELEASE 3600 2030-01-01T00:00:00Z",
            {"hold_until": NEW_YEAR.astimezone(timezone(timedelta(hours=-8)))},
            True,
        ),
        (
            "FUTURERELEASE 3600 2030-01-01T02:00:00+02:00",
            {"hold_until": NEW_YEAR + timedelta(seconds=1)},
            False,
        ),
        ("FUTURERELEASE 3600 garbage", {"hold_until": NEW_YEAR}, True),
        ("FUTURERELEASE 3600 2029-01-01T00:00:00", {"hold_until": NEW_YEAR}, True),
    ],
)
def test_the_servers_longest_hold(line: str, fields: dict[str, Any], passes: bool) -> None:
    """A server may announce the longest hold, in seconds and as a date."""
    params = MailFromParams(**fields)
    if passes:
        assert mail(params, offering(line)).startswith(" HOLD")
    else:
        with pytest.raises(ValidationError):
            mail(params, offering(line))


RCPT_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"notify": DsnNotify.NEVER}, "NOTIFY=NEVER"),
    ({"notify": DsnNotify.SUCCESS}, "NOTIFY=SUCCESS"),
    ({"notify": DsnNotify.FAILURE}, "NOTIFY=FAILURE"),
    ({"notify": DsnNotify.DELAY}, "NOTIFY=DELAY"),
    ({"notify": DsnNotify.DELAY | DsnNotify.SUCCESS}, "NOTIFY=SUCCESS,DELAY"),
    (
        {"notify": DsnNotify.DELAY | DsnNotify.FAILURE | DsnNotify.SUCCESS},
        "NOTIFY=SUCCESS,FAILURE,DELAY",
    ),
    ({"orcpt": "rfc822;o@example.com"}, "ORCPT=rfc822;o@example.com"),
    ({"orcpt": "RFC822;a+b=c@example.com"}, "ORCPT=RFC822;a+2Bb+3Dc@example.com"),
    ({"orcpt": 'rfc822;"a b"@example.com'}, 'ORCPT=rfc822;"a+20b"@example.com'),
    ({"orcpt": "x-local;a;b"}, "ORCPT=x-local;a;b"),
    ({"orcpt": "rfc822;" + "+" * 500}, "ORCPT=rfc822;" + "+2B" * 500),
    ({"orcpt": "utf-8;o@example.com"}, "ORCPT=utf-8;o@example.com"),
    (
        {"notify": DsnNotify.NEVER, "orcpt": "rfc822;o@example.com"},
        "NOTIFY=NEVER ORCPT=rfc822;o@example.com",
    ),
]


@pytest.mark.parametrize(("fields", "words"), RCPT_FIELDS)
def test_each_field_of_rcpt(fields: dict[str, Any], words: str) -> None:
    """A field is sent as RFC 3461 writes it, if the server has DSN, else it is an error."""
    params = RcptToParams(**fields)
    assert rcpt(params, offering("DSN")) == f" {words}"
    with pytest.raises(UnsupportedExtensionError, match="DSN"):
        rcpt(params, offering(*(k for k in KEYWORDS if k != "DSN")))


@pytest.mark.parametrize(
    ("address", "plain", "smtputf8"),
    [
        ("ü@example.com", r"\x{FC}@example.com", "ü@example.com"),
        ("例@例え.jp", r"\x{4F8B}@\x{4F8B}\x{3048}.jp", "例@例え.jp"),
        ("\U0001f4ee@e", r"\x{1F4EE}@e", "\U0001f4ee@e"),
        ("a+b=c\\d@e", r"a\x{2B}b\x{3D}c\x{5C}d@e", r"a\x{2B}b\x{3D}c\x{5C}d@e"),
        ("!~@e", "!~@e", "!~@e"),
    ],
)
@pytest.mark.parametrize("kind", ["utf-8", "UTF-8"])
def test_orcpt_with_utf8(kind: str, address: str, plain: str, smtputf8: str) -> None:
    """A UTF-8 address is sent as itself under SMTPUTF8, else in the ASCII form of RFC 6533 3."""
    params = RcptToParams(orcpt=f"{kind};{address}")
    assert rcpt(params) == f" ORCPT={kind};{plain}"
    assert rcpt(params, smtputf8=True) == f" ORCPT={kind};{smtputf8}"


@pytest.mark.parametrize(
    "fields",
    [
        {"notify": DsnNotify(0)},
        {"notify": DsnNotify.NEVER | DsnNotify.SUCCESS},
        {"notify": ~DsnNotify(0)},
        {"orcpt": ""},
        {"orcpt": ";"},
        {"orcpt": "rfc822"},
        {"orcpt": "rfc822;"},
        {"orcpt": ";o@example.com"},
        {"orcpt": "o@example.com"},
        {"orcpt": "rfc 822;o@example.com"},
        {"orcpt": "rfc822 X=Y;o@example.com"},
        {"orcpt": "rfc=822;o@example.com"},
        {"orcpt": "-;o@example.com"},
        {"orcpt": "ü;o@example.com"},
        {"orcpt": "rfc822;ü@example.com"},
        {"orcpt": "rfc822;a\r\nb"},
        {"orcpt": "rfc822;a\x7fb"},
        {"orcpt": "rfc822;" + "x" * 501},
        {"orcpt": "utf-8;"},
        {"orcpt": "utf-8;a b"},
        {"orcpt": "utf-8;a\r\nb"},
        {"orcpt": "utf-8;a\x7fb"},
        {"orcpt": "utf-8;a\x85b"},
        {"orcpt": "utf-8;a\ud800b"},
        {"orcpt": "utf-8;" + "ü" * 251},
    ],
    ids=ascii,
)
def test_bad_fields_of_rcpt(fields: dict[str, Any]) -> None:
    """A combination or text that no server may be sent is refused and quoted safely."""
    with pytest.raises(ValidationError) as caught:
        RcptToParams(**fields)
    assert str(caught.value).isprintable()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "fields",
    [{"notify": "NEVER"}, {"notify": 1}, {"notify": True}, {"orcpt": 5}, {"orcpt": b"rfc822;o"}],
    ids=ascii,
)
def test_fields_of_rcpt_of_another_type(fields: dict[str, Any]) -> None:
    """A value of a wrong type raises in the constructor."""
    with pytest.raises(ValidationError):
        RcptToParams(**fields)


@pytest.mark.parametrize("make", [RcptToParams, MailFromParams])
def test_parameters_are_values(make: Callable[[], RcptToParams | MailFromParams]) -> None:
    """Parameters compare by value, hash, pickle, and cannot be changed."""
    value = make()
    same = pickle.loads(pickle.dumps(value))
    assert same == value
    assert hash(same) == hash(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_deliver_by_is_a_value() -> None:
    """DELIVERBY compares by value."""
    assert DeliverBy(5) == DeliverBy(5, DeliverByMode.NOTIFY, False)
    assert len({DeliverBy(5), DeliverBy(5), DeliverBy(6)}) == 2


def _from_xtext(text: str) -> str:
    data = re.sub(r"\+([0-9A-F]{2})", lambda m: chr(int(m[1], 16)), text)
    return data.encode("latin-1").decode()


@QUICK
@given(st.text(max_size=60))
def test_xtext_round_trip(text: str) -> None:
    """What is xtext is printable ASCII without space, "=" and bare "+", and reads back."""
    encoded = xtext(text)
    assert re.fullmatch(r"(?:\+[0-9A-F]{2}|[!-*,-<>-~])*", encoded)
    assert _from_xtext(encoded) == text


@QUICK
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.booleans())
def test_no_text_ends_its_parameter(envid: str, auth: str, orcpt: str, smtputf8: bool) -> None:
    """Whatever text is given, it stays one word without control characters, or is refused."""
    calls: list[Callable[[], str]] = [
        lambda: mail(MailFromParams(envid=envid)),
        lambda: mail(MailFromParams(auth=auth)),
        lambda: rcpt(RcptToParams(orcpt=orcpt), smtputf8=smtputf8),
        lambda: rcpt(RcptToParams(orcpt=f"rfc822;{orcpt}"), smtputf8=smtputf8),
        lambda: rcpt(RcptToParams(orcpt=f"utf-8;{orcpt}"), smtputf8=smtputf8),
    ]
    for render in calls:
        try:
            text = render()
        except ValidationError:
            continue
        assert re.fullmatch(r" [A-Z]+=[^ \x00-\x1f\x7f-\x9f=]+", text)


@pytest.mark.parametrize("wrong", ["False", "", 1, None])
@pytest.mark.parametrize(
    "make",
    [
        lambda flag: MailFromParams(smtputf8=flag),
        lambda flag: MailFromParams(require_tls=flag),
        lambda flag: DeliverBy(60, trace=flag),
    ],
)
def test_flags_are_booleans(make: Callable[[Any], object], wrong: Any) -> None:
    """A text such as "False", which counts as true, is refused by name."""
    with pytest.raises(ValidationError, match=r"^(smtputf8|require_tls|trace) is a bool, not"):
        make(wrong)
