"""Addresses and options as smtplib takes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smtpconn import BodyType, ForwardPath, ReversePath, ValidationError
from smtpconn.smtplib.paths import check_ascii, forward_path, mail_options, rcpt_words, reverse_path

SENT_AS = {
    "jane@example.com": "jane@example.com",
    "<jane@example.com>": "jane@example.com",
    "Jane <jane@example.com>": "jane@example.com",
    '"Doe, Jane" <jane@example.com>': "jane@example.com",
    " jane@example.com ": "jane@example.com",
    "jane@[192.0.2.1]": "jane@[192.0.2.1]",
    "jane@bücher.example": "jane@bücher.example",
    "postmaster": "postmaster",
    "jane@example.com (Jane)": "jane@example.com",
    "jane": "jane",
    "<jane>": "jane",
    "jane@under_score.example": "jane@under_score.example",
    "jane@example.com@": "jane@example.com@",
}


@pytest.mark.parametrize("given", SENT_AS)
def test_what_an_address_is_sent_as(given: str) -> None:
    """The name is cut off, and what is no address stays as it is."""
    for path in (forward_path(given), reverse_path(given)):
        assert str(path) == SENT_AS[given]
        assert path == type(path)(SENT_AS[given]) or path.mailbox is None
        assert path.to_ascii() is not None
    assert isinstance(forward_path(given), ForwardPath)
    assert isinstance(reverse_path(given), ReversePath)


@pytest.mark.parametrize("given", ["", "<>", " "])
def test_the_null_path(given: str) -> None:
    """It is a sender, and no recipient."""
    assert reverse_path(given).is_null
    with pytest.raises(ValidationError):
        forward_path(given)


@pytest.mark.parametrize(
    "given",
    ["a b", "<a> SIZE=1", "a>b", "<a<b>", "a\x00", "a\x7f", "a\rb", "a\nb", "\ud800", "a\tb"],
)
def test_what_may_not_be_sent(given: str) -> None:
    """What could end the path."""
    for read in (forward_path, reverse_path):
        with pytest.raises(ValidationError):
            read(given)


def test_no_text_is_no_address() -> None:
    """As smtplib, a TypeError."""
    with pytest.raises(TypeError):
        forward_path(b"a@b.example")


def test_what_can_be_sent_without_smtputf8() -> None:
    """Domains can be written in ASCII; other names cannot."""
    check_ascii(forward_path("jane@bücher.example"))
    for address in ("jäne@example.com", "jäne"):
        with pytest.raises(UnicodeEncodeError):
            check_ascii(forward_path(address))


def test_options() -> None:
    """Those that smtpconn has to know of, and all others as they are."""
    options = mail_options(["smtputf8", "body=8bitmime", "SIZE=5", "X-FOO", "AUTH=<>", "A=b=c"])
    assert (options.smtputf8, options.body) == (True, BodyType.EIGHTBITMIME)
    assert options.words == " X-FOO AUTH=<> A=b=c"
    assert mail_options([]).words == rcpt_words([]) == ""
    assert mail_options(["BODY=BINARYMIME"]).words == " BODY=BINARYMIME"
    assert rcpt_words(["NOTIFY=NEVER ORCPT=rfc822;a@b"]) == " NOTIFY=NEVER ORCPT=rfc822;a@b"


@pytest.mark.parametrize("path", [forward_path, reverse_path])
def test_several_addresses_in_one_text(path: Callable[[str], object]) -> None:
    """`smtplib` sends them as one path, which no server takes; the error has the list to pass."""
    with pytest.raises(ValidationError) as refused:
        path("Acme Inc. <a@x.example>, b@y.example")
    assert str(refused.value).endswith("pass a list, ['a@x.example', 'b@y.example']")
