"""Header fields on their way out: what they say stays what it is."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable
from email.header import Header
from email.message import EmailMessage, Message
from email.mime.text import MIMEText

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpconn.model.errors import SmtpUtf8RequiredError, ValidationError
from smtpconn.model.header_fields import field_bytes, is_internationalised

QUICK = settings(deadline=None, max_examples=200)

URL = f"<https://example.com/unsubscribe?token={'k' * 120}>"
ID = f"<{'r' * 90}@example.com>"


Make = Callable[[str, str], object]


def modern(name: str, value: str | list[str]) -> object:
    """What a modern message holds for a field that was set."""
    message = EmailMessage()
    message[name] = value
    return next(message.raw_items())[1]


def old(name: str, value: str | Header) -> object:
    """The same of the older API."""
    message = Message()
    message[name] = value  # type: ignore[assignment]
    return next(message.raw_items())[1]


def read(name: str, data: bytes) -> object:
    """What a message that was read holds for it."""
    message = email.message_from_bytes(name.encode() + b": " + data + b"\r\n\r\n")
    return next(message.raw_items())[1]


def meant(data: bytes) -> object:
    """The field as a reader understands it."""
    message = email.message_from_bytes(data + b"\r\n", policy=email.policy.default)
    return next(iter(message.values()))


@pytest.mark.parametrize("make", [modern, old, lambda n, v: read(n, v.encode())])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("List-Unsubscribe", URL),
        ("List-Unsubscribe", f"{URL}, <mailto:leave@example.com?subject={'s' * 80}>"),
        ("References", f"{ID} {ID} {ID}"),
        ("In-Reply-To", ID),
        ("Message-ID", ID),
        ("List-Id", f"News <{'n' * 90}.example.com>"),
        ("X-Anything", "k" * 500),
        ("Subject", "a word of " + "l" * 500),
        ("To", f'"{"Long, " * 20}name" <you@example.com>'),
        ("To", f"{'l' * 180}@example.com, {'m' * 180}@example.com"),
        ("Cc", ", ".join(f"someone.{n}@example.com" for n in range(50))),
        ("To", "Example.com <you@example.com>"),
        ("To", "you@example.com (a comment)"),
        ("To", "postmaster"),
    ],
)
def test_ascii_keeps_its_words(make: Make, name: str, value: str) -> None:
    """No word is encoded, however long; folding is all that happens (RFC 2047 5, RFC 8058)."""
    data = field_bytes(name, make(name, value), utf8=False)
    assert b"=?" not in data
    assert data.replace(b"\r\n ", b" ") == f"{name}: {value}\r\n".encode()
    assert max(map(len, data.split(b"\r\n"))) <= 998


@pytest.mark.parametrize(
    ("given_", "sent", "sent_utf8"),
    [
        ("jane@bücher.example", "jane@xn--bcher-kva.example", "jane@bücher.example"),
        (
            "Jane <jane@bücher.example>",
            "Jane <jane@xn--bcher-kva.example>",
            "Jane <jane@bücher.example>",
        ),
        ("Jörg <j@b.example>", "=?utf-8?b?SsO2cmc=?= <j@b.example>", "Jörg <j@b.example>"),
        (
            '"Doe, Jörg" <j@b.example>, X. <x@y>',
            '=?utf-8?q?Doe=2C_J=C3=B6rg?= <j@b.example>, "X." <x@y>',
            '"Doe, Jörg" <j@b.example>, "X." <x@y>',
        ),
        ("us: Jörg <j@b>;", "us: =?utf-8?b?SsO2cmc=?= <j@b>;", "us: Jörg <j@b>;"),
    ],
)
@pytest.mark.parametrize("make", [modern, old])
def test_addresses_are_never_encoded(make: Make, given_: str, sent: str, sent_utf8: str) -> None:
    """Domains leave as A-labels, names as encoded words; or all of it as UTF-8 (RFC 2047 5)."""
    value = make("To", given_)
    assert field_bytes("To", value, utf8=False).decode() == f"To: {sent}\r\n"
    shown = field_bytes("To", value, utf8=True).decode().replace('"X."', "X.")
    assert shown == f"To: {sent_utf8}\r\n".replace('"X."', "X.")


def test_a_decoded_name_does_not_become_an_address() -> None:
    """An encoded word that holds a comma or an @ stays a name."""
    for text in ("=?utf-8?q?evil=40example=2Enet=2C?= <you@example.com>", '"a, b" <you@b.example>'):
        for utf8 in (False, True):
            data = field_bytes("To", modern("To", text), utf8=utf8)
            found = meant(data)
            assert len(found.addresses) == 1, data  # type: ignore[attr-defined]
            assert found.addresses[0].addr_spec.startswith("you@")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "make", [modern, old, lambda n, v: read(n, v.encode()), lambda n, v: old(n, Header(v, "utf-8"))]
)
def test_an_address_that_needs_utf8_is_refused_without(make: Make) -> None:
    """Its local part has no other form."""
    value = make("To", "jörg@example.com")
    assert field_bytes("To", value, utf8=True) == "To: jörg@example.com\r\n".encode()
    with pytest.raises(SmtpUtf8RequiredError):
        field_bytes("To", value, utf8=False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Subject", "Grüße an alle"),
        ("Subject", "ü" * 300),
        ("Subject", "日本語 " * 60),
        ("Subject", "a" * 1200 + " ü"),
        ("Comments", "plain ü plain  plain ß  ä end"),
        ("Subject", "no-break\xa0space \U0001f4ee"),
    ],
)
@pytest.mark.parametrize("make", [modern, old, lambda n, v: read(n, v.encode())])
def test_text_arrives_as_it_was(make: Make, name: str, text: str) -> None:
    """In encoded words of at most 75 characters, or as UTF-8 (RFC 2047 2, RFC 6532)."""
    value = make(name, text)
    data = field_bytes(name, value, utf8=False)
    assert data.isascii()
    assert all(len(word) <= 75 for word in re.findall(rb"=\?\S+", data))
    assert all(len(line) <= 78 for line in data.split(b"\r\n"))
    assert str(meant(data)) == text.strip()
    if len(text.encode()) < 900:
        assert field_bytes(name, value, utf8=True).replace(b"\r\n", b"").decode() == (
            f"{name}: {text}".rstrip(" ") if make is modern else f"{name}: {text}"
        )


@pytest.mark.parametrize("data", [b"gr\xfc\xdfe", b"caf\xe9 \xff", b"\xc3\xbc and \xe9"])
@pytest.mark.parametrize("utf8", [False, True])
def test_bytes_that_are_no_utf8_arrive_as_they_were(data: bytes, utf8: bool) -> None:
    """Bytes of an unknown charset are not changed (RFC 1428 3)."""
    field = field_bytes("Subject", read("Subject", data), utf8=utf8)
    assert b"\xef\xbf\xbd" not in field
    assert b"=?unknown-8bit?" in field
    (header,) = email.message_from_bytes(field + b"\r\n").values()
    decoded = b"".join(
        part if isinstance(part, bytes) else part.encode()
        for part, _ in email.header.decode_header(header)
    )
    assert decoded.replace(b" ", b"") == data.replace(b" ", b"")
    name = field_bytes("To", read("To", data + b" <you@example.com>"), utf8=utf8)
    assert name.endswith(b" <you@example.com>\r\n")
    with pytest.raises(ValidationError):
        field_bytes("To", read("To", data.split()[0] + b"\xff@example.com"), utf8=utf8)


def test_what_was_read_stays_as_it_is() -> None:
    """Folds, blanks and encoded words are not changed: the field may be signed."""
    for data in (
        b"a\r\n b  c\r\n\td",
        b"=?utf-8?q?J=C3=B6rg?= <a@b.example>,\r\n   c@d.example",
        b"v=1; a=rsa-sha256;\r\n\tb=" + b"x" * 300,
    ):
        for name in ("To", "Subject", "DKIM-Signature"):
            sent = field_bytes(name, read(name, data), utf8=False)
            assert sent == name.encode() + b": " + data + b"\r\n"


@pytest.mark.parametrize("name", ["Subject", "To", "X-Any"])
@pytest.mark.parametrize("text", ["a\nBcc: x@y", "a\r\n\r\nbody", "a\rB: c", "ü\nB: c", "a\n"])
def test_no_field_begins_another(name: str, text: str) -> None:
    """A line break that begins no folded line is refused (the old API lets it in)."""
    with pytest.raises(ValidationError, match="line break"):
        field_bytes(name, old(name, text), utf8=False)


def test_controls_leave_encoded() -> None:
    """A line end inside an encoded word, say, stays inside one."""
    data = field_bytes("Subject", modern("Subject", "=?utf-8?q?a=0Ab=00?= c"), utf8=True)
    assert re.fullmatch(rb"Subject: =\?utf-8\?.\?\S+\?= c\r\n", data)
    data = field_bytes("To", modern("To", "=?utf-8?q?a=07b?= <a@b.example>"), utf8=False)
    assert re.fullmatch(rb"To: =\?utf-8\?.\?\S+\?= <a@b.example>\r\n", data)


@pytest.mark.parametrize("make", [modern, old])
@pytest.mark.parametrize(
    "name",
    [
        *("Disposition-Notification-To", "Return-Receipt-To", "Errors-To"),
        *("Mail-Followup-To", "Mail-Reply-To", "List-Owner"),
    ],
)
def test_addresses_in_other_fields_are_never_encoded(make: Make, name: str) -> None:
    """A name leaves as encoded words; an address that would have to is refused (RFC 2047 5)."""
    sent = field_bytes(name, make(name, "Jörg <j@b.example>"), utf8=False)
    assert sent == f"{name}: =?utf-8?b?SsO2cmc=?= <j@b.example>\r\n".encode()
    for address in ("jörg@example.com", "Jörg <jörg@example.com>"):
        value = make(name, address)
        assert field_bytes(name, value, utf8=True) == f"{name}: {address}\r\n".encode()
        with pytest.raises(ValidationError, match=f"the message's {name} has a word"):
            field_bytes(name, value, utf8=False)


@pytest.mark.parametrize(
    "name",
    [
        *("References", "Original-Message-ID", "Supersedes", "Autocrypt"),
        *("DKIM-Signature", "ARC-Seal", "ARC-Message-Signature"),
    ],
)
@pytest.mark.parametrize("word", ["<ü@example.com>", "k" * 1000])
def test_ids_signatures_and_keys_are_never_encoded(name: str, word: str) -> None:
    """No reader would know them any more."""
    with pytest.raises(ValidationError, match=f"the message's {name} has a word"):
        field_bytes(name, modern(name, word), utf8=False)


@pytest.mark.parametrize("name", ["References", "List-Unsubscribe", "To"])
def test_what_cannot_be_folded_is_refused(name: str) -> None:
    """A word of more than 998 bytes where none may be encoded."""
    word = f"<{'a' * 1000}@example.com>"
    with pytest.raises(ValidationError):
        field_bytes(name, read(name, word.encode()), utf8=False)


def test_file_names_are_parameters() -> None:
    """They have an encoding of their own (RFC 2231)."""
    part = EmailMessage()
    part.add_attachment(b"x", maintype="a", subtype="b", filename="Übersicht " + "x" * 90 + ".pdf")
    (attachment,) = part.iter_attachments()
    assert isinstance(attachment, EmailMessage)
    data = b"".join(field_bytes(n, v, utf8=False) for n, v in attachment.raw_items())
    assert data.isascii()
    assert b"=?" not in data
    assert b"filename*0*=utf-8''%C3%9Cbersicht" in data


def test_which_fields_need_smtputf8() -> None:
    """Those that were read with UTF-8 in them, and addresses; not what was set and is encoded."""
    assert is_internationalised("Subject", read("Subject", "ü".encode()))
    assert is_internationalised("To", modern("To", "jörg@example.com"))
    assert is_internationalised("To", modern("To", ["a@example.com", "jörg@example.com"]))
    assert not is_internationalised("To", modern("To", "Jörg <j@bücher.example>"))
    assert not is_internationalised("To", modern("To", ["Jörg <j@bücher.example>"]))
    assert not is_internationalised("Subject", modern("Subject", "ü"))
    assert not is_internationalised("Subject", next(MIMEText("x", "plain", "utf-8").raw_items())[1])
    assert not is_internationalised("Subject", read("Subject", b"\xff"))


@QUICK
@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=120),
    st.sampled_from(["Subject", "Comments", "X-Thing"]),
)
def test_any_text_arrives(text: str, name: str) -> None:
    """Whatever is set is read again by the email package as the same, but for outer blanks."""
    value = modern(name, text)
    data = field_bytes(name, value, utf8=False)
    assert data.isascii()
    if "=?" not in text:
        assert str(meant(data)).split(" ") == str(value).strip(" \t").split(" ")


@QUICK
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60))
def test_any_name_arrives(text: str) -> None:
    """A name is read again as the same, and the address is the one there was."""
    message = EmailMessage()
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    message["To"] = f'"{quoted}" <you@example.com>'
    ((_, value),) = message.raw_items()
    found = meant(field_bytes("To", value, utf8=False))
    assert [a.addr_spec for a in found.addresses] == ["you@example.com"]  # type: ignore[attr-defined]
