"""Serialising a message of the email package without changing its meaning."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.mime.text import MIMEText

import pytest

from smtpconn.model.addresses import ReversePath
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.content import has_long_line
from smtpconn.model.email_message import AnyMessage, completed, recipients_of, sender_of, serialize
from smtpconn.model.errors import ValidationError
from smtpconn.model.header_fields import field_bytes

WITH_8BIT = ServerCapabilities("", (SmtpExtension("8BITMIME"),))


def modern() -> EmailMessage:
    """A message of the modern API."""
    message = EmailMessage()
    message.set_content("From here on\n")
    return message


@pytest.mark.parametrize("message", [modern(), MIMEText("From here on\n")], ids=["new", "old"])
def test_a_line_that_begins_with_from_stays(message: AnyMessage) -> None:
    """No ">" is put before it; that is the custom of mailbox files, which a message is not."""
    data = serialize(message, ServerCapabilities(), smtputf8=False)
    assert data.endswith(b"\r\n\r\nFrom here on\r\n")


def addressed(to: str, *, old: bool) -> AnyMessage:
    """A message with a recipient, of either API."""
    message = MIMEText("hi") if old else modern()
    message["From"] = to
    message["To"] = to
    return message


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("a@[192.0.2.1], b@example.com", ["a@[192.0.2.1]", "b@example.com"]),
        ("X <a@[IPv6:2001:db8::1]>", ["a@[IPv6:2001:db8::1]"]),
        ("us: a@b.example, c@d.example;, e@f.io", ["a@b.example", "c@d.example", "e@f.io"]),
        ('"c d"@e.example (comment)', ['"c d"@e.example']),
        ("<@route.example:a@b.example>,, c@d.example", ["a@b.example", "c@d.example"]),
        ("\u00fc@ex\u00e4mple.com", ["\u00fc@ex\u00e4mple.com"]),
        ("Postmaster", ["Postmaster"]),
    ],
)
def test_all_recipients_in_the_header_get_it(field: str, expected: list[str], old: bool) -> None:
    """Every form of an address is read in every version of Python."""
    message = addressed(field, old=old)
    assert [str(path) for path in recipients_of(message)] == expected
    if expected != ["Postmaster"]:
        assert str(sender_of(message)) == expected[0]


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    "field",
    [
        "a@b.example; c@d.example",
        "a@b.example c@d.example",
        "a b c <x@y.example> z, ok@example.com",
        "no address here, ok@example.com",
        "ok@example.com, a@b..example",
        "alice@example.org)bob@example.com",
    ],
)
def test_what_cannot_be_read_is_an_error(field: str, old: bool) -> None:
    """Rather than a message for some of those it was meant for."""
    with pytest.raises(ValidationError):
        recipients_of(addressed(field, old=old))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a@b.example", "c@d.example"], "a@b.example, c@d.example"),
        (("A <a@b.example>", Address("C", "c", "d.example")), "A <a@b.example>, C <c@d.example>"),
        (["a@b.example, c@d.example"], "a@b.example, c@d.example"),
        (
            ["J\u00fc <a@b.example>", "c@d.example"],
            "=?utf-8?b?SsO8?= <a@b.example>, c@d.example",
        ),
    ],
)
def test_a_list_of_texts(given: Sequence[str | Address], expected: str) -> None:
    """The email package takes it and does not parse its members, for the sender's field, too."""
    message = EmailMessage()
    message["From"], message["To"] = given[:1], given
    assert [str(path) for path in recipients_of(message)] == ["a@b.example", "c@d.example"]
    assert str(sender_of(message)) == "a@b.example"
    (field,) = (value for name, value in message.raw_items() if name == "To")
    assert field_bytes("To", field, utf8=False) == f"To: {expected}\r\n".encode()


@pytest.mark.parametrize("given", [["no address"], ["Doe, J <a@b.example>"], ["a@b.example; c@d"]])
def test_a_list_of_texts_that_cannot_be_read(given: list[str]) -> None:
    """The error quotes what was written."""
    message = EmailMessage()
    message["To"] = given
    with pytest.raises(ValidationError, match=re.escape(repr(given[0]))):
        recipients_of(message)


@pytest.mark.parametrize("field", ["a@b@c.example", "a b@c.example", "a<b@c.example>>"])
def test_the_error_quotes_what_was_written(field: str) -> None:
    """And not what the email package has made of it."""
    with pytest.raises(ValidationError, match=re.escape(repr(field))):
        recipients_of(addressed(field, old=False))


# --- Addresses of messages ---


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("Example.com <noreply@example.com>", "noreply@example.com"),
        ("Acme Inc. <a@b.example>", "a@b.example"),
        ("a..b@docomo.example", '"a..b"@docomo.example'),
        ("a.@docomo.example", '"a."@docomo.example'),
        ("u@a_b.example", "u@a_b.example"),
    ],
)
def test_addresses_as_they_are_in_use(field: str, expected: str, old: bool) -> None:
    """Full stops in names, misplaced dots and underscores are accepted and sent as valid."""
    message = addressed(field, old=old)
    assert [str(path) for path in recipients_of(message)] == [expected]
    assert str(sender_of(message)) == expected


@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32])
def test_addresses_that_were_read_as_utf8(policy: email.policy.Policy[Message]) -> None:
    """An RFC 6532 message goes to its recipients, by either API; invalid UTF-8 is refused."""
    raw = "To: Jörg <jörg@bücher.example>\r\nFrom: müller@example.com\r\n\r\n".encode()
    message = email.message_from_bytes(raw, policy=policy)
    assert [str(path) for path in recipients_of(message)] == ["jörg@bücher.example"]
    assert str(sender_of(message)) == "müller@example.com"
    for broken in (b"To: j\xf6rg@example.com\r\n\r\n", b"To: a@b, j\xc3@example.com\r\n\r\n"):
        with pytest.raises(ValidationError):
            recipients_of(email.message_from_bytes(broken, policy=policy))


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_no_encoded_word_names_a_recipient(old: bool) -> None:
    """What stands inside one is a name, whatever it looks like."""
    field = "=?utf-8?q?evil=40example=2Enet=2C?= <you@example.com>"
    assert recipients_of(addressed(field, old=old)) == ["you@example.com"]
    if old:
        raw = f"To: {field}\r\n\r\n".encode()
        assert recipients_of(email.message_from_bytes(raw)) == ["you@example.com"]


# --- The message stays as it is ---


def nested() -> EmailMessage:
    """A multipart inside a multipart, without boundaries yet."""
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = "me@example.com", "you@example.com", "b@c.d"
    message.set_content("text\n")
    message.add_alternative("<p>html</p>\n", subtype="html")
    message.add_attachment(b"data", maintype="application", subtype="octet-stream", filename="a")
    inner = EmailMessage()
    inner["Subject"], inner["Bcc"] = "inner", "secret@example.com"
    inner.set_content("ünner\n" + "x" * 2000)
    message.add_attachment(inner)
    return message


def looked_through(message: AnyMessage) -> str:
    """Everything there is of a message, to its innermost part."""
    return repr([(part.policy, list(part.raw_items()), part.preamble) for part in message.walk()])


def test_a_message_is_only_read() -> None:
    """Nor are its inner parts changed: no boundary, no other encoding, no Date."""
    message = nested()
    before = looked_through(message)
    complete = completed(message, ReversePath("me@example.com"))
    for offers in (ServerCapabilities(), WITH_8BIT):
        data = serialize(complete, offers, smtputf8=False)
        assert b"Bcc" not in data
        assert b"secret@example.com" not in data
        assert not has_long_line(data)
        parsed = email.message_from_bytes(data, policy=email.policy.default)
        assert [d for part in parsed.walk() for d in part.defects] == []
        assert len(list(parsed.walk())) == len(list(message.walk()))
    assert looked_through(message) == before


def test_one_message_sent_by_several_threads() -> None:
    """Each one arrives whole."""
    message = nested()
    with ThreadPoolExecutor(4) as threads:
        data = list(threads.map(lambda _: serialize(message, WITH_8BIT, smtputf8=False), range(60)))
    for each in data:
        parsed = email.message_from_bytes(each, policy=email.policy.default)
        assert [d for part in parsed.walk() for d in part.defects] == []
        assert [part.get_content_type() for part in parsed.walk()] == [
            part.get_content_type() for part in message.walk()
        ]


def test_parts_too_deep_in_each_other_are_refused() -> None:
    """As what cannot be sent, not as an accident inside."""
    message = modern()
    for _ in range(2000):
        outer = EmailMessage()
        outer["Content-Type"] = "multipart/mixed"
        outer.set_payload([message])
        message = outer
    with pytest.raises(ValidationError):
        completed(message, ReversePath(""))
    with pytest.raises(ValidationError):
        serialize(message, ServerCapabilities(), smtputf8=False)


# --- Date and Message-ID ---


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("bounces@mail.example.com", "mail.example.com"),
        ("u@bücher.example", "xn--bcher-kva.example"),
        ("u@[192.0.2.1]", "[192.0.2.1]"),
        ("", "example.com"),
    ],
)
def test_what_every_message_has_is_added(sender: str, domain: str) -> None:
    """Date, and a Message-ID of the sender's domain, without a DNS query."""
    message = nested()
    complete = completed(message, ReversePath(sender))
    data = serialize(complete, WITH_8BIT, smtputf8=False)
    parsed = email.message_from_bytes(data, policy=email.policy.default)
    assert parsed["Message-ID"].endswith(f"@{domain}>")
    assert parsed["Date"].datetime is not None
    again = email.message_from_bytes(serialize(complete, ServerCapabilities(), smtputf8=False))
    assert (again["Message-ID"], again["Date"]) == (parsed["Message-ID"], parsed["Date"])
    assert "Date" not in message


def test_what_is_there_is_not_made_anew() -> None:
    """An existing Date or Message-ID is kept, in any case of its name."""
    message = modern()
    message["date"], message["MESSAGE-ID"] = "Thu, 1 Jan 1970 00:00:00 +0000", "<1@x>"
    complete = completed(message, ReversePath("me@example.com"))
    assert len(complete.get_all("Date", [])) == len(complete.get_all("Message-ID", [])) == 1


# --- Lines and eight bits ---


@pytest.mark.parametrize("offers", [ServerCapabilities(), WITH_8BIT], ids=["7bit", "8bit"])
@pytest.mark.parametrize(
    "body",
    [b"x" * 3000, b"short\r\n" + b"gr\xc3\xbc\xc3\x9fe " * 300, b"\xff\xfe" * 600 + b"\r\nend",
     b"a \r\n" * 3 + b"." * 1200 + b"\r\n.\r\nFrom x"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "text/plain", "application/x"])
def test_long_lines_are_encoded(body: bytes, kind: str, offers: ServerCapabilities) -> None:
    """What no server has to take arrives all the same, byte for byte (RFC 5321 4.5.3.1.6)."""
    raw = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode() + body
    data = serialize(email.message_from_bytes(raw), offers, smtputf8=False)
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert data.isascii()
    assert email.message_from_bytes(data).get_payload(decode=True) == body


@pytest.mark.parametrize(
    "body", [b"x" * 998 + b"\r\n", b"y" * 998, b"gr\xc3\xbc\xc3\x9fe\r\n" * 200, b"\n" * 2000]
)
def test_other_lines_stay(body: bytes) -> None:
    """Where the server takes eight bits."""
    raw = b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + body
    data = serialize(email.message_from_bytes(raw), WITH_8BIT, smtputf8=False)
    assert data.endswith(b"\r\n\r\n" + body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


def test_what_was_signed_stays() -> None:
    """Another form of it would be another part (RFC 1847 2.1)."""
    raw = (
        b'Content-Type: multipart/signed; boundary=b; protocol="x/y"\r\n\r\n--b\r\n'
        b"Content-Type: text/plain\r\nSubject:  two  blanks\r\n\r\n" + b"x" * 2000 + b"\r\n--b\r\n"
        b"Content-Type: x/y\r\n\r\nsignature\r\n--b--\r\n"
    )
    data = serialize(email.message_from_bytes(raw), WITH_8BIT, smtputf8=False)
    assert b"Subject: two  blanks\r\n\r\n" + b"x" * 2000 in data


def test_bytes_in_an_attachment_may_be_any() -> None:
    """A NUL in one that was declared binary leaves as base64."""
    raw = b"Content-Type: a/b\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\x01\xff"
    data = serialize(email.message_from_bytes(raw), WITH_8BIT, smtputf8=False)
    assert b"\0" not in data
    assert email.message_from_bytes(data).get_payload(decode=True) == b"\0\x01\xff"


# --- Text that is in no charset yet ---


@pytest.mark.parametrize("capabilities", [WITH_8BIT, ServerCapabilities()], ids=["8bit", "7bit"])
@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-15"])
@pytest.mark.parametrize("policy", [email.policy.default, email.policy.compat32])
def test_text_that_was_read_from_a_str(
    policy: email.policy.Policy[Message], charset: str, capabilities: ServerCapabilities
) -> None:
    """Its part names the charset, so it is the same for every server."""
    text = f"To: a@b\nContent-Type: text/plain; charset={charset}\n\nprice: 5 €\n"
    message = email.message_from_string(text, policy=policy)
    data = serialize(message, capabilities, smtputf8=False)
    assert data.isascii() is (capabilities is not WITH_8BIT)
    received = email.message_from_bytes(data, policy=email.policy.default)
    assert received.get_content().strip() == "price: 5 €"


@pytest.mark.parametrize("capabilities", [WITH_8BIT, ServerCapabilities()], ids=["8bit", "7bit"])
@pytest.mark.parametrize(
    "fields",
    [
        "",
        "Content-Type: text/plain; charset=us-ascii\n",
        "Content-Type: text/plain; charset=no-such\n",
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n",
    ],
)
def test_text_in_no_charset_is_refused(fields: str, capabilities: ServerCapabilities) -> None:
    """By every server's message alike; the error has the call that encodes it."""
    message = email.message_from_string(f"To: a@b\n{fields}\nprice: 5 €\n")
    with pytest.raises(ValidationError, match="set_content"):
        serialize(message, capabilities, smtputf8=False)


@pytest.mark.parametrize("margin", ["x" * 1000, "grüße"])
def test_the_text_around_parts_is_dropped_if_it_may_not_be_sent(margin: str) -> None:
    """No reader shows it (RFC 2046 5.1.1); what may be sent stays."""
    for text, is_kept in (("This is MIME.", True), (margin, False)):
        message = EmailMessage()
        message.set_content("text\n")
        message.add_alternative("<p>html</p>\n", subtype="html")
        message.preamble = message.epilogue = text
        data = serialize(message, WITH_8BIT, smtputf8=False)
        assert data.count(text.encode()) == (2 if is_kept else 0)
        assert message.preamble == text
