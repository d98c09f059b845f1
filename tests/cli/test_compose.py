"""Composed messages."""

from __future__ import annotations

import argparse
import email
import email.policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from smtpconn import ForwardPath, ReversePath
from smtpconn.cli.compose import compose
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.wishes import EnvelopeOptions
from smtpconn.model.errors import ValidationError

ME, YOU = ReversePath("me@example.com"), (ForwardPath("you@example.com"),)
WISHES = EnvelopeOptions(ME, YOU)


def composed(
    wishes: EnvelopeOptions = WISHES, **given: object
) -> tuple[EmailMessage, bytes, list[str]]:
    """The message, its octets, and its envelope."""
    options = argparse.Namespace(**({"header": [], "body": None, "attach": []} | given))
    sender, recipients, octets = compose(options, wishes)
    message = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message, octets, [str(sender), *map(str, recipients)]


def test_what_is_left_out() -> None:
    """A test message with all it needs (RFC 5322 3.6), and CRLF line ends."""
    message, octets, envelope = composed()
    assert message["From"] == "me@example.com"
    assert message["To"] == "you@example.com"
    assert message["Subject"].startswith("test ")
    assert message["Date"]
    assert message["Message-ID"].endswith("@example.com>")
    assert message.get_content().strip() == "This is a test mailing."
    assert b"\n" not in octets.replace(b"\r\n", b"")
    assert envelope == ["me@example.com", "you@example.com"]


def test_headers() -> None:
    """The first of a name takes the place of ours, further ones are added."""
    message, _, _ = composed(header=["Subject: hello: you", "X-A: 1", "x-a:2", "From: I <i@x.y>"])
    assert message.get_all("Subject") == ["hello: you"]
    assert message.get_all("X-A") == ["1", "2"]
    assert message["From"] == "I <i@x.y>"


def test_the_envelope_from_headers() -> None:
    """Without -f and -t they say it; Bcc counts, and does not leave."""
    headers = ["From: i@x.y", "To: a@x.y", "Cc: b@x.y", "Bcc: c@x.y"]
    message, octets, envelope = composed(EnvelopeOptions(), header=headers)
    assert envelope == ["i@x.y", "a@x.y", "b@x.y", "c@x.y"]
    assert message["Bcc"] is None
    assert b"c@x.y" not in octets


@pytest.mark.parametrize("wishes", [EnvelopeOptions(sender=ME), EnvelopeOptions(recipients=YOU)])
def test_nobody(wishes: EnvelopeOptions) -> None:
    """Somebody has to be the sender, and somebody the recipient."""
    with pytest.raises(ValidationError, match="give the"):
        composed(wishes)


@pytest.mark.parametrize("header", ["", "no colon", ": x", "Sub ject: x", "A: b\r\nBcc: x@y.z"])
def test_what_is_no_header(header: str) -> None:
    """Is refused, above all one that would be two."""
    with pytest.raises(UsageError, match="--header"):
        composed(header=[header])


def test_a_body_and_attachments(tmp_path: Path) -> None:
    """From text or a file; an attachment arrives as it is."""
    (tmp_path / "body").write_text("Gr\u00fc\u00dfe")
    octets = bytes(range(256)) * 3
    (tmp_path / "a.png").write_bytes(octets)
    (tmp_path / "b.txt").write_bytes(octets)
    files = [str(tmp_path / "a.png"), f"@{tmp_path / 'b.txt'}"]
    message, raw, _ = composed(body=f"@{tmp_path / 'body'}", attach=files)
    assert raw.isascii()
    body = message.get_body()
    assert isinstance(body, EmailMessage)
    assert body.get_content().strip() == "Gr\u00fc\u00dfe"
    attached = list(message.iter_attachments())
    assert [each.get_filename() for each in attached] == ["a.png", "b.txt"]
    assert [each.get_payload(decode=True) for each in attached] == [octets] * 2
    assert composed(body="hi")[1].endswith(b"\r\n\r\nhi\r\n")


@pytest.mark.parametrize("given", [{"body": "@/no/such"}, {"attach": ["/no/such"]}])
def test_files_that_are_not_there(given: dict[str, object]) -> None:
    """Are named."""
    with pytest.raises(UsageError, match="/no/such: No such file"):
        composed(WISHES, **given)


def test_an_internationalised_address() -> None:
    """Makes a message with UTF-8 headers (RFC 6532), any other does not."""
    _, octets, envelope = composed(EnvelopeOptions(ReversePath("j\u00f6rg@example.com"), YOU))
    assert "From: j\u00f6rg@example.com\r\n".encode() in octets
    assert envelope[0] == "j\u00f6rg@example.com"
    assert composed(header=["Subject: gr\u00fcn"])[1].isascii()


def test_the_null_reverse_path() -> None:
    """Has no From of its own, and needs none."""
    message, _, envelope = composed(EnvelopeOptions(ReversePath(""), YOU))
    assert message["From"] is None
    assert envelope[0] == ""
