"""Addresses as people write them: which part of a text is the address."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpconn.model.address_list import Group, Named, read_addresses, read_groups
from smtpconn.model.addresses import ForwardPath
from smtpconn.model.errors import ValidationError

QUICK = settings(deadline=None, max_examples=300)

GOOD: list[tuple[str, list[tuple[str, str]]]] = [
    # a text, and each name with its address
    ("a@b.example", [("", "a@b.example")]),
    (" <a@b.example> ", [("", "a@b.example")]),
    ("Jane <a@b.example>", [("Jane", "a@b.example")]),
    ("Example.com <a@b.example>", [("Example.com", "a@b.example")]),
    ("Acme Inc. <a@b.example>", [("Acme Inc.", "a@b.example")]),
    ("Jane Q. Public <a@b.example>", [("Jane Q. Public", "a@b.example")]),
    ("J. R. R. T. <a@b.example>", [("J. R. R. T.", "a@b.example")]),
    (".net User Group <a@b.example>", [(".net User Group", "a@b.example")]),
    ("[list] news <a@b.example>", [("[list] news", "a@b.example")]),
    ("O'Neill & Söhne <a@b.example>", [("O'Neill & Söhne", "a@b.example")]),
    ('"Doe, Jane" <a@b.example>', [("Doe, Jane", "a@b.example")]),
    (r'"a \"b\" c" <a@b.example>', [('a "b" c', "a@b.example")]),
    ('Jane "JD" Doe <a@b.example>', [("Jane JD Doe", "a@b.example")]),
    ("=?utf-8?q?a=40b=2C?= <a@b.example>", [("=?utf-8?q?a=40b=2C?=", "a@b.example")]),
    ("a@b.example (Jane (JD) Doe)", [("Jane (JD) Doe", "a@b.example")]),
    ("(work) a@b.example", [("work", "a@b.example")]),
    (r"a@b.example (a \) b)", [(r"a \) b", "a@b.example")]),
    ("a (c) @ (d) b.example", [("d", "a@b.example")]),
    ('"a b"@c.example', [("", '"a b"@c.example')]),
    ("a@[192.0.2.1]", [("", "a@[192.0.2.1]")]),
    ("X <a@[IPv6:2001:db8::1]>", [("X", "a@[IPv6:2001:db8::1]")]),
    ("<@r.example,@s.example:a@b.example>", [("", "@r.example,@s.example:a@b.example")]),
    ("postmaster", [("", "postmaster")]),
    ("The Postmaster <Postmaster>", [("The Postmaster", "Postmaster")]),
    ("a..b@docomo.example", [("", "a..b@docomo.example")]),
    ("a.@docomo.example", [("", "a.@docomo.example")]),
    ("jörg@bücher.example", [("", "jörg@bücher.example")]),
    ("a@b.example,, c@d.example,", [("", "a@b.example"), ("", "c@d.example")]),
    ("a@b.example,\r\n c@d.example", [("", "a@b.example"), ("", "c@d.example")]),
    ("Jane\r\n\t<a@b.example>", [("Jane", "a@b.example")]),
]

BAD = [
    "jane",
    "jane doe",
    "jane, a@b.example",
    "a@b.example c@d.example",
    "a@b.example; c@d.example",
    "a b@c.example",
    "a . b@c.example",
    "a@b .example",
    "a@b.example <c@d.example>",
    "<a@b.example> c@d.example",
    "<a@b.example><c@d.example>",
    "<a@b.example",
    "a@b.example>",
    "<<a@b.example>>",
    "<>",
    "Jane <>",
    "x@[",
    ":;x@y",
    ";",
    ":",
    "us: a@b.example",
    "us: them: a@b.example;;",
    "us: a@b.example; c@d.example",
    '"a@b.example',
    "a(b@c.example",
    "a@b.example)c@d.example",
    "(" * 600,
    "a\\b@c.example",
    "Jane\n<a@b.example>",
    "Jane\r<a@b.example>",
    "a\0@b.example",
]


@pytest.mark.parametrize(("text", "expected"), GOOD, ids=lambda value: ascii(value)[:40])
def test_names_and_addresses(text: str, expected: list[tuple[str, str]]) -> None:
    """Names with stops, quotes, comments, lists: the addresses, and what they are called."""
    named = [each for group in read_groups(text) for each in group.members]
    assert [(each.name, each.address) for each in named] == expected
    assert read_addresses(text) == [address for _, address in expected]
    for _, address in expected:
        ForwardPath(address)


def test_groups() -> None:
    """A group has a name and any number of members; what is in none stands alone."""
    text = "us: a@b.example, Jane <c@d.example>;, e@f.example, undisclosed-recipients:;"
    assert read_groups(text) == [
        Group("us", (Named("", "a@b.example"), Named("Jane", "c@d.example"))),
        Group(None, (Named("", "e@f.example"),)),
        Group("undisclosed-recipients", ()),
    ]
    assert read_groups("") == read_groups(" , ,") == []


@pytest.mark.parametrize("text", ["", ",", "a@b,", ",a@b", "a@b,,c@d", "x: a@b;,,c@d"])
def test_gaps_may_be_refused(text: str) -> None:
    """Where a list is typed, an empty place is a mistake."""
    read_addresses(text)
    with pytest.raises(ValidationError):
        read_addresses(text, allow_gaps=False)
    assert read_addresses("x: a@b;, c@d", allow_gaps=False) == ["a@b", "c@d"]
    assert read_addresses("x:;", allow_gaps=False) == []


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text)[:40])
def test_what_has_no_one_reading_is_refused(text: str) -> None:
    """Ambiguous text is refused, so that no message goes to a wrong or incomplete list."""
    with pytest.raises(ValidationError) as caught:
        read_addresses(text)
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "piece",
    ['a"', "(", "()", "(\\)", '"', '""', "<", "a@b,", "<a@b>,", "a:;,", "a ", "\\", "[", "[]", "@",
     ".", "a.", "x <a@b>,", "\r\n ", ";", ":", "ü", "\ud800"],
)  # fmt: skip
def test_any_text_takes_linear_time(piece: str) -> None:
    """Thirty thousand of anything are read or refused at once."""
    started = time.perf_counter()
    for text in (piece * 30_000, f'"{piece * 30_000}', f"({piece * 30_000}"):
        with contextlib.suppress(ValidationError):
            read_addresses(text)
    assert time.perf_counter() - started < 5


_WORDS = st.lists(
    st.sampled_from(
        ["a", "b.example", "@", ".", ",", ";", ":", "<", ">", "(", ")", "[", "]", '"', "\\", " ",
         "\t", "\r\n ", "\n", "ü", "\ud800", "\0", "Jane", "=?utf-8?q?a=2C?=", "postmaster"]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@QUICK
@given(st.one_of(_WORDS, st.text(max_size=30)))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a ValidationError comes of any text, and no address has a blank or a bracket."""
    try:
        addresses = read_addresses(text)
    except ValidationError:
        return
    for address in addresses:
        assert address in text.replace("\r\n", "") or " " in text or "(" in text or "\t" in text
        try:
            path = ForwardPath(address)
        except ValidationError:
            continue
        assert path.written == address
        assert read_addresses(f"Name <{address}>") == [address]
