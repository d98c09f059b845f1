"""Capabilities: what the EHLO reply says line by line, and what it only seems to say."""

from __future__ import annotations

import pickle
from types import MemberDescriptorType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpconn.model.capabilities import (
    AuthMechanism,
    ServerCapabilities,
    SmtpExtension,
    greeting_name,
)
from smtpconn.model.replies import SmtpResponse

PROPERTIES = {
    "PIPELINING": "supports_pipelining",
    "CHUNKING": "supports_chunking",
    "BINARYMIME": "supports_binarymime",
    "8BITMIME": "supports_8bitmime",
    "SMTPUTF8": "supports_smtputf8",
    "STARTTLS": "supports_starttls",
    "DSN": "supports_dsn",
    "SIZE": "supports_size",
    "ENHANCEDSTATUSCODES": "supports_enhanced_status_codes",
    "DELIVERBY": "supports_deliver_by",
    "FUTURERELEASE": "supports_future_release",
    "MT-PRIORITY": "supports_mt_priority",
    "REQUIRETLS": "supports_require_tls",
}


def ehlo(*lines: str, ignore: frozenset[str] = frozenset()) -> ServerCapabilities:
    """The capabilities of a server that answers EHLO with its name and these lines."""
    reply = SmtpResponse(250, ("mx.example.com Hello", *lines))
    return ServerCapabilities.from_ehlo(reply, ignore)


def supported(capabilities: ServerCapabilities) -> set[str]:
    """The keywords whose property says yes."""
    return {k for k, name in PROPERTIES.items() if getattr(capabilities, name)}


def test_every_property_is_known_here() -> None:
    """A new property has to be added to the table above."""
    found = {
        name
        for name, value in vars(ServerCapabilities).items()
        if name.startswith("supports_") and isinstance(value, (property, MemberDescriptorType))
    }
    assert found == set(PROPERTIES.values())


@pytest.mark.parametrize("keyword", PROPERTIES)
@pytest.mark.parametrize("form", ["{}", "{} x", "{} ", "{}  x y", "{}\tx"])
def test_a_line_is_an_extension(keyword: str, form: str) -> None:
    """The first word of a line in any case is its extension, and only that one is offered."""
    for line in (form.format(keyword), form.format(keyword.lower())):
        capabilities = ehlo(line)
        assert supported(capabilities) == {keyword}
        assert capabilities.supports(keyword)
        assert capabilities.supports(keyword.lower())
        assert [e.keyword for e in capabilities.extensions] == [keyword]


@pytest.mark.parametrize("keyword", PROPERTIES)
@pytest.mark.parametrize(
    "form",
    [
        "X-{}",
        "{}X",
        "X{}",
        "{}-X",
        "X {}",
        "{}=x",
        "={}",
        "-{}",
        "{}:",
        "{},",
        ".{}",
        "{}.",
        "_{}",
        "HELP {}",
        "\u200b{}",
    ],
    ids=ascii,
)
def test_what_only_looks_like_an_extension(keyword: str, form: str) -> None:
    """Nothing but the exact first word of a line is an extension."""
    assert supported(ehlo(form.format(keyword))) == set()


@pytest.mark.parametrize("space", ["\xa0", "\x85", "\u2028", "\u3000"], ids=ascii)
@pytest.mark.parametrize("form", ["STARTTLS{}x", "{}STARTTLS", "{} STARTTLS", "AUTH{}PLAIN"])
def test_words_are_separated_by_ascii_spaces(form: str, space: str) -> None:
    """A space of another script is part of a word, and no keyword has one."""
    assert ehlo(form.format(space)).extensions == ()
    capabilities = ehlo(f"AUTH PLAIN{space}LOGIN CRAM-MD5")
    assert [m for m in AuthMechanism if capabilities.supports_auth(m)] == ["CRAM-MD5"]


@pytest.mark.parametrize(
    ("line", "keyword"),
    [
        ("\u017ftarttls", "STARTTLS"),
        ("\u017fTARTTLS", "STARTTLS"),
        ("\u017fize 10", "SIZE"),
        ("D\u017fN", "DSN"),
        ("p\u0131pelining", "PIPELINING"),
        ("chunk\u0131ng", "CHUNKING"),
        ("\u017fMTPUTF8", "SMTPUTF8"),
    ],
    ids=ascii,
)
def test_case_folding_is_ascii(line: str, keyword: str) -> None:
    """A letter that merely becomes an ASCII one in capitals makes no extension."""
    capabilities = ehlo(line)
    assert not capabilities.supports(keyword)
    assert capabilities.extensions == ()


@pytest.mark.parametrize(
    "mechanism", ["PLA\u0131N", "CRAM-MD\u0665", "LOG\u0131N", "SCRAM-\u017fHA-1"]
)
def test_mechanisms_are_ascii(mechanism: str) -> None:
    """A mechanism whose name only resembles one is not that one."""
    capabilities = ehlo(f"AUTH {mechanism}")
    assert not any(capabilities.supports_auth(known) for known in AuthMechanism)


@pytest.mark.parametrize(
    "name", ["STARTTLS", "STARTTLS SIZE 1", "mx STARTTLS", "mx AUTH PLAIN", ""]
)
def test_the_greeting_line_offers_nothing(name: str) -> None:
    """What the first line says is a name and a greeting, never an extension."""
    capabilities = ServerCapabilities.from_ehlo(SmtpResponse(250, (name, "DSN")))
    assert supported(capabilities) == {"DSN"}
    assert capabilities.auth_mechanisms == ()


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (("mx.example.com Hello you",), "mx.example.com"),
        (("mx.example.com",), "mx.example.com"),
        (("  mx.example.com  ",), "mx.example.com"),
        (("",), ""),
        ((" ",), ""),
        (("mx ESMTP", "other"), "mx"),
    ],
)
def test_greeting_name(lines: tuple[str, ...], name: str) -> None:
    """A server's name is the first word of its reply."""
    reply = SmtpResponse(250, lines)
    assert greeting_name(reply) == name
    assert ServerCapabilities.from_ehlo(reply).greeting_name == name
    assert ServerCapabilities.from_helo(reply) == ServerCapabilities(name)


def test_helo_offers_nothing() -> None:
    """A reply to HELO has no extensions, whatever it says."""
    reply = SmtpResponse(250, ("mx", "STARTTLS", "SIZE 10", "AUTH PLAIN"))
    assert ServerCapabilities.from_helo(reply).extensions == ()


@pytest.mark.parametrize(
    ("line", "limit"),
    [
        ("SIZE", None),
        ("SIZE ", None),
        ("SIZE 0", None),
        ("SIZE 000", None),
        ("SIZE 1", 1),
        ("SIZE 052428800", 52428800),
        ("size 10", 10),
        ("SIZE 10 20", 10),
        ("SIZE 10 garbage", 10),
        ("SIZE 99999999999999999999", 10**20 - 1),
        ("SIZE 100000000000000000000", None),
        (f"SIZE {'9' * 5000}", None),
        ("SIZE garbage", None),
        ("SIZE garbage 10", None),
        ("SIZE -1", None),
        ("SIZE +1", None),
        ("SIZE 1e6", None),
        ("SIZE 1_000", None),
        ("SIZE 10M", None),
        ("SIZE 0x10", None),
        ("SIZE \u0661\u0662", None),
        ("SIZE \xb2", None),
        ("SIZE=10", None),
        ("X-SIZE 10", None),
        ("DSN", None),
    ],
    ids=ascii,
)
def test_size_limit(line: str, limit: int | None) -> None:
    """SIZE names a limit, or none: absent, 0 or unreadable (RFC 1870 4)."""
    assert ehlo(line).size_limit == limit


@pytest.mark.parametrize(
    ("lines", "mechanisms"),
    [
        (("AUTH",), ()),
        (("AUTH PLAIN",), ("PLAIN",)),
        (("AUTH PLAIN LOGIN",), ("PLAIN", "LOGIN")),
        (("auth plain Login cram-md5",), ("PLAIN", "LOGIN", "CRAM-MD5")),
        (("AUTH   PLAIN   LOGIN  ",), ("PLAIN", "LOGIN")),
        (("AUTH PLAIN", "AUTH LOGIN"), ("PLAIN", "LOGIN")),
        (("AUTH PLAIN", "SIZE 1", "auth LOGIN", "AUTH XOAUTH2"), ("PLAIN", "LOGIN", "XOAUTH2")),
        (("AUTH", "AUTH PLAIN"), ("PLAIN",)),
        (("AUTH PLAIN", "AUTH"), ("PLAIN",)),
        (("AUTH=PLAIN LOGIN",), ("PLAIN", "LOGIN")),
        (("auth=plain",), ("PLAIN",)),
        (("AUTH= PLAIN",), ("PLAIN",)),
        (("AUTH=", "AUTH="), ()),
        (("AUTH=LOGIN", "AUTH PLAIN"), ("LOGIN", "PLAIN")),
        (("AUTH PLAIN", "AUTH=LOGIN"), ("PLAIN", "LOGIN")),
        (("AUTH LOGIN PLAIN", "AUTH=LOGIN PLAIN"), ("LOGIN", "PLAIN")),
        (("XAUTH=PLAIN", "AUTH =PLAIN", "AUTH==PLAIN", "SIZE=1"), ()),
        (("X-AUTH PLAIN", "AUTHX PLAIN", "HELP AUTH PLAIN"), ()),
        (("SIZE AUTH PLAIN",), ()),
    ],
)
def test_auth_mechanisms(lines: tuple[str, ...], mechanisms: tuple[str, ...]) -> None:
    """AUTH lists mechanisms, over several lines if need be; the old form AUTH= counts, too."""
    capabilities = ehlo(*lines)
    assert capabilities.auth_mechanisms == mechanisms
    for mechanism in AuthMechanism:
        assert capabilities.supports_auth(mechanism) == (mechanism in mechanisms)
        assert capabilities.supports_auth(mechanism.lower()) == (mechanism in mechanisms)


@pytest.mark.parametrize("part", ["PLAI", "LAIN", "PLAINX", "", " ", "PLAIN LOGIN", "CRAM", "MD5"])
def test_a_part_of_a_mechanism_is_none(part: str) -> None:
    """Only a whole word of the list is a mechanism."""
    assert not ehlo("AUTH PLAIN LOGIN CRAM-MD5").supports_auth(part)


@pytest.mark.parametrize(
    ("line", "recipients", "transactions"),
    [
        ("LIMITS RCPTMAX=20 MAILMAX=5", 20, 5),
        ("limits rcptmax=20", 20, None),
        ("LIMITS MAILMAX=1", None, 1),
        ("LIMITS RCPTMAX=0 MAILMAX=x", None, None),
        ("LIMITS RCPTMAX MAILMAX=", None, None),
        ("LIMITS RCPTDOMAINMAX=3", None, None),
        ("LIMITS XRCPTMAX=3 RCPTMAXX=4", None, None),
        ("LIMITS", None, None),
        ("XLIMITS RCPTMAX=1", None, None),
    ],
)
def test_limits(line: str, recipients: int | None, transactions: int | None) -> None:
    """LIMITS names how much a connection carries (RFC 9422)."""
    capabilities = ehlo(line)
    assert capabilities.max_recipients == recipients
    assert capabilities.max_transactions == transactions


@pytest.mark.parametrize("line", ["", " ", "\t", "-", "=", "!", "ü", "8BITMIME!", "\udcff", "(x)"])
def test_lines_that_are_no_extension_are_kept_out(line: str) -> None:
    """A line that is no ehlo-line says nothing, and those around it still do."""
    capabilities = ehlo("SIZE 5", line, "DSN")
    assert [str(e) for e in capabilities.extensions] == ["SIZE 5", "DSN"]


def test_the_first_line_of_a_keyword_counts() -> None:
    """An extension offered twice is offered once, with the first parameters."""
    capabilities = ehlo("SIZE 10", "size 20", "X-FOO a", "X-FOO b")
    assert [str(e) for e in capabilities.extensions] == ["SIZE 10", "X-FOO a"]
    assert capabilities.size_limit == 10


def test_parameters_are_as_sent() -> None:
    """A keyword is converted to upper case, its parameters are not."""
    capabilities = ehlo("x-Foo  Bar=Baz  qux")
    assert capabilities.parameters("X-FOO") == ("Bar=Baz", "qux")
    assert capabilities.parameters("x-foo") == ("Bar=Baz", "qux")
    assert capabilities.parameters("X-BAR") == ()
    assert str(capabilities.extensions[0]) == "X-FOO Bar=Baz qux"


def test_ignored_extensions_are_not_there() -> None:
    """An ignored extension counts as not offered, also AUTH on several lines."""
    lines = ("PIPELINING", "Chunking", "AUTH PLAIN", "AUTH LOGIN", "SIZE 10")
    capabilities = ehlo(*lines, ignore=frozenset({"CHUNKING", "AUTH", "NOT-THERE"}))
    assert supported(capabilities) == {"PIPELINING", "SIZE"}
    assert capabilities.auth_mechanisms == ()
    assert [e.keyword for e in capabilities.extensions] == ["PIPELINING", "SIZE"]


def test_capabilities_are_values() -> None:
    """Capabilities compare by value, hash, pickle, and their repr shows what is offered."""
    capabilities = ehlo("SIZE 10", "AUTH PLAIN")
    same = pickle.loads(pickle.dumps(capabilities))
    assert same == capabilities == ehlo("SIZE 10", "AUTH PLAIN")
    assert hash(same) == hash(capabilities)
    assert same.size_limit == 10
    assert capabilities != ehlo("SIZE 11", "AUTH PLAIN")
    assert "SIZE" in repr(capabilities)
    assert SmtpExtension("SIZE", ("10",)) in capabilities.extensions


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_any_reply_can_be_read(lines: list[str]) -> None:
    """Whatever the lines hold, reading them fails on nothing and finds ASCII keywords only."""
    capabilities = ServerCapabilities.from_ehlo(SmtpResponse(250, tuple(lines)))
    assert len({e.keyword for e in capabilities.extensions}) == len(capabilities.extensions)
    first_words = {line.split(" ")[0].split("\t")[0].upper() for line in lines[1:] if line}
    for extension in capabilities.extensions:
        assert extension.keyword.isascii()
        assert extension.keyword == extension.keyword.upper()
        assert capabilities.supports(extension.keyword)
        assert extension.keyword in first_words or any(line[:1].isspace() for line in lines)
    assert capabilities.size_limit is None or capabilities.size_limit > 0
