"""Messages from files and streams: the bytes that are sent, and the recipients."""

from __future__ import annotations

import argparse
import email
import email.policy
import io
import os
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from smtpconn import DsnNotify, DsnRet, ForwardPath, ReversePath
from smtpconn.cli import messages
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.messages import (
    EnvelopeOptions,
    OutgoingMessage,
    addresses,
    compose,
    envelope_of,
    envelope_options,
    sources_of,
)
from smtpconn.model.errors import ValidationError
from tests.support.command_runner import Input

HEADER = b"From: Me <me@example.com>\r\nTo: you@example.com, Them <them@example.com>\r\n"
NOTHING: dict[str, object] = {
    "sender": None, "to": [], "dsn_notify": None, "dsn_ret": None, "envid": None, "data": None,
    "header": [], "body": None, "attach": [],
}  # fmt: skip


def opened(tmp_path: Path, content: bytes, **given: object) -> OutgoingMessage:
    """The message from a file with this content."""
    path = tmp_path / "m.eml"
    path.write_bytes(content)
    (source,) = sources_of(argparse.Namespace(**(NOTHING | given)), [str(path)])
    assert source.name == str(path)
    outgoing = source.open()
    outgoing.close()
    return outgoing


def test_the_envelope_is_the_headers(tmp_path: Path) -> None:
    """The sender is From; the recipients are To, Cc and Bcc."""
    outgoing = opened(tmp_path, HEADER + b"Cc: cc@example.com\r\n\r\nhi\r\n")
    assert outgoing.envelope.sender == ReversePath("me@example.com")
    assert outgoing.recipients == ["you@example.com", "them@example.com", "cc@example.com"]


def test_options_go_before_headers(tmp_path: Path) -> None:
    """-f and -t replace sender and recipients of the header."""
    outgoing = opened(tmp_path, HEADER + b"\r\nhi\r\n", sender="", to=["x@example.com"])
    assert outgoing.envelope.sender == ReversePath("")
    assert outgoing.envelope.recipients == (ForwardPath("x@example.com"),)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_what_is_sent(tmp_path: Path, end: bytes) -> None:
    """The message is unchanged, except that Bcc and its folded lines are removed."""
    lines = [b"Bcc: a@b.c,", b" d@e.f,", b"\tg@h.i", b"From: me@b.c", b"BCC : x@y.z",
             b"To: you@b.c", b"resent-bcc: r@b.c", b"X-Bcc: stays", b"", b"Bcc: stays@b.c", b"",
             b".", b""]  # fmt: skip
    outgoing = opened(tmp_path, end.join(lines))
    kept = [b"From: me@b.c", b"To: you@b.c", b"X-Bcc: stays", b"", b"Bcc: stays@b.c", b"", b".",
            b""]  # fmt: skip
    assert outgoing.text == end.join(kept)
    assert outgoing.recipients == ["you@b.c", "a@b.c", "d@e.f", "g@h.i", "x@y.z"]


def test_a_header_with_an_invalid_line(tmp_path: Path) -> None:
    """Recipients after such a line would be missed, so the options must name them."""
    content = b"From: me@b.c\r\nTo: you@b.c\r\nwhat is this\r\nCc: cc@b.c\r\n\r\nhi\r\n"
    with pytest.raises(UsageError, match="is not a header field"):
        opened(tmp_path, content)
    assert opened(tmp_path, content, sender="", to=["x@y.z"]).text == content


def test_the_from_line_of_an_mbox(tmp_path: Path) -> None:
    """The From line of an mbox before the header is removed (RFC 4155)."""
    outgoing = opened(tmp_path, b"From me@b.c Mon Nov 23 10:00:00 2026\n" + HEADER + b"\r\nFrom x")
    assert outgoing.text == HEADER + b"\r\nFrom x"


def test_a_header_alone(tmp_path: Path) -> None:
    """A message may end with its header, also without a line end."""
    assert opened(tmp_path, HEADER[:-2]).text == HEADER
    assert opened(tmp_path, HEADER + b"Bcc: a@b.c").text == HEADER


def test_no_header_at_all(tmp_path: Path) -> None:
    """A message that begins with an empty line has no header, and the options must name all."""
    given: dict[str, object] = {"sender": "me@b.c", "to": ["you@b.c"]}
    assert opened(tmp_path, b"\r\nhi\r\n", **given).text == b"\r\nhi\r\n"
    with pytest.raises(ValidationError, match="give the"):
        opened(tmp_path, b"\r\nhi\r\n")


def test_internationalised_headers(tmp_path: Path) -> None:
    """UTF-8 in the header is decoded (RFC 6532)."""
    outgoing = opened(tmp_path, "From: J\u00f6rg <j\u00f6rg@b.c>\nTo: you@b.c\n\nx".encode())
    assert outgoing.envelope.sender == ReversePath("j\u00f6rg@b.c")


@pytest.mark.parametrize("content", [b"", b"\r\n \n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    """An empty file is not a message."""
    with pytest.raises(UsageError, match="there is no message in it"):
        opened(tmp_path, content, sender="", to=["a@b.c"])


def test_a_large_message_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A streamed message has its size, and arrives unchanged."""
    monkeypatch.setattr(messages, "WHOLE", 500)
    body = b"".join(b"line %d\r\n" % n for n in range(1000))
    path = tmp_path / "m.eml"
    path.write_bytes(b"Bcc: x@y.z\r\n" + HEADER + b"\r\n" + body)
    (source,) = sources_of(argparse.Namespace(**NOTHING), [str(path)])
    outgoing = source.open()
    assert outgoing.text is None
    params, message = outgoing.envelope.mail_params, outgoing.envelope.message
    assert params is not None
    assert params.size == len(HEADER + b"\r\n" + body)
    assert isinstance(message, Iterator)
    assert b"".join(message) == HEADER + b"\r\n" + body
    outgoing.close()


def test_a_header_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that does not end is refused after a limit."""
    monkeypatch.setattr(messages, "WHOLE", 500)
    with pytest.raises(UsageError, match="no end of the header"):
        opened(tmp_path, b"A: b\r\n" * 1000)


def test_a_missing_file() -> None:
    """A missing file is an error when its turn comes."""
    (source,) = sources_of(argparse.Namespace(**NOTHING), ["/no/such"])
    with pytest.raises(UsageError, match="/no/such: No such file") as caught:
        source.open()
    assert caught.value.sysexit == os.EX_NOINPUT


@pytest.mark.parametrize(
    ("given", "files", "is_terminal", "names"),
    [
        ({}, [], False, ["standard input"]),
        ({}, ["-"], True, ["standard input"]),
        ({"data": "-"}, [], True, ["standard input"]),
        ({"data": "a"}, ["b"], True, ["b", "a"]),
        ({}, [], True, ["composed message"]),
        ({"body": "x"}, [], False, ["composed message"]),
        ({"header": ["A: b"]}, [], False, ["composed message"]),
        ({"attach": ["f"]}, [], False, ["composed message"]),
    ],
)
def test_where_messages_come_from(
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, object],
    files: list[str],
    is_terminal: bool,
    names: list[str],
) -> None:
    """Messages are files, standard input if it is not a terminal, or composed."""
    monkeypatch.setattr("sys.stdin", Input(b"", is_terminal=is_terminal))
    found = sources_of(argparse.Namespace(**(NOTHING | given)), files)
    assert [source.name for source in found] == names


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input is read to its end, also in small pieces, and stays open."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size or 7))

    class In:
        buffer = Slow(HEADER + b"\r\nhi\r\n")

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stdin", In())
    (source,) = sources_of(argparse.Namespace(**NOTHING), [])
    outgoing = source.open()
    outgoing.close()
    assert outgoing.text == HEADER + b"\r\nhi\r\n"
    assert not In.buffer.closed


@pytest.mark.parametrize(
    ("given", "files", "text"),
    [
        ({"body": "x"}, ["a"], "compose a message"),
        ({"header": ["A: b"], "data": "a"}, [], "compose a message"),
        ({"data": "-"}, ["-"], "only once"),
    ],
)
def test_contradictions(given: dict[str, object], files: list[str], text: str) -> None:
    """A message cannot be given and composed at once."""
    with pytest.raises(UsageError, match=text):
        sources_of(argparse.Namespace(**(NOTHING | given)), files)


# The envelope


NO_ENVELOPE: dict[str, object] = {
    "sender": None, "to": [], "dsn_notify": None, "dsn_ret": None, "envid": None
}  # fmt: skip


def read_options(**given: object) -> EnvelopeOptions:
    """Of these options."""
    return envelope_options(argparse.Namespace(**(NO_ENVELOPE | given)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a@b.c", ["a@b.c"]),
        ("a@b.c,d@e.f, g@h.i", ["a@b.c", "d@e.f", "g@h.i"]),
        ("Jane Doe <jane@b.c>, <d@e.f>", ["jane@b.c", "d@e.f"]),
        ('"a,b"@c.d', ['"a,b"@c.d']),
        ("j\u00f6rg@b.c", ["j\u00f6rg@b.c"]),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"]),
        ("Acme Inc. <a@b.c>, postmaster", ["a@b.c", "postmaster"]),
        ("a..b@docomo.example", ["a..b@docomo.example"]),
    ],
)
def test_lists_of_addresses(text: str, found: list[str]) -> None:
    """Lists have commas, display names and quoted local parts."""
    assert addresses(text) == found


@pytest.mark.parametrize("text", ["", ",", "a@b.c,,d@e.f", "<>"])
def test_invalid_lists_of_addresses(text: str) -> None:
    """A list with something else in it is refused."""
    with pytest.raises(ValidationError):
        addresses(text)


@pytest.mark.parametrize("text", ["someone", "a@b.c\r\nRCPT TO:<x@y.z>", "a b@c.d"])
def test_invalid_addresses(text: str) -> None:
    """An invalid address is neither a recipient nor the sender."""
    with pytest.raises(ValidationError):
        read_options(to=[text])
    with pytest.raises(ValidationError):
        read_options(sender=text)


def test_sender_and_recipients() -> None:
    """-t may be repeated, and '' and <> are the null reverse-path."""
    found = read_options(sender="Me <me@b.c>", to=["a@b.c,d@e.f", "g@h.i"])
    assert found.sender == ReversePath("me@b.c")
    assert found.recipients == tuple(map(ForwardPath, ("a@b.c", "d@e.f", "g@h.i")))
    assert read_options(sender="").sender == read_options(sender="<>").sender == ReversePath("")
    assert read_options() == EnvelopeOptions()


def test_notifications_become_parameters() -> None:
    """DSN's options become the parameters of MAIL and of every RCPT."""
    found = read_options(
        sender="", to=["a@b.c,d@e.f"], dsn_notify="success,FAILURE", dsn_ret="HDRS", envid="x1"
    )
    assert found.notify == DsnNotify.SUCCESS | DsnNotify.FAILURE
    envelope = envelope_of(ReversePath(""), found.recipients, b"", found)
    assert envelope.mail_params == found.mail_params
    assert found.mail_params.ret is DsnRet.HDRS
    assert found.mail_params.envid == "x1"
    assert envelope.rcpt_params is not None
    assert [each.notify for each in envelope.rcpt_params] == [found.notify] * 2


@pytest.mark.parametrize("names", ["", "sometimes", "success,"])
def test_an_unknown_notification(names: str) -> None:
    """A word that NOTIFY does not have is an error."""
    with pytest.raises(UsageError, match="--dsn-notify"):
        read_options(dsn_notify=names)


def test_contradicting_notifications() -> None:
    """NEVER stands alone (RFC 3461 4.1)."""
    found = read_options(dsn_notify="never,success", to=["a@b.c"])
    with pytest.raises(ValidationError):
        envelope_of(ReversePath(""), found.recipients, b"", found)


def test_the_size_of_a_stream() -> None:
    """The size is added to the parameters of the options."""
    found = read_options(envid="x1")
    params = envelope_of(ReversePath(""), (), b"", found, 123).mail_params
    assert params is not None
    assert (params.size, params.envid) == (123, "x1")


# Composed messages


ME, YOU = ReversePath("me@example.com"), (ForwardPath("you@example.com"),)
OPTIONS = EnvelopeOptions(ME, YOU)


def composed(
    given_options: EnvelopeOptions = OPTIONS, **given: object
) -> tuple[EmailMessage, bytes, list[str]]:
    """The message, its bytes, and its envelope."""
    options = argparse.Namespace(**({"header": [], "body": None, "attach": []} | given))
    sender, recipients, content = compose(options, given_options)
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message, content, [str(sender), *map(str, recipients)]


def test_defaults_of_a_composed_message() -> None:
    """A composed message has all required fields (RFC 5322 3.6) and CRLF line ends."""
    message, content, envelope = composed()
    assert message["From"] == "me@example.com"
    assert message["To"] == "you@example.com"
    assert message["Subject"].startswith("test ")
    assert message["Date"]
    assert message["Message-ID"].endswith("@example.com>")
    assert message.get_content().strip() == "This is a test mailing."
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert envelope == ["me@example.com", "you@example.com"]


def test_headers() -> None:
    """The first field of a name replaces the default, more are added."""
    message, _, _ = composed(header=["Subject: hello: you", "X-A: 1", "x-a:2", "From: I <i@x.y>"])
    assert message.get_all("Subject") == ["hello: you"]
    assert message.get_all("X-A") == ["1", "2"]
    assert message["From"] == "I <i@x.y>"


def test_the_envelope_from_headers() -> None:
    """Without -f and -t the header has the envelope; Bcc is used and not sent."""
    headers = ["From: i@x.y", "To: a@x.y", "Cc: b@x.y", "Bcc: c@x.y"]
    message, content, envelope = composed(EnvelopeOptions(), header=headers)
    assert envelope == ["i@x.y", "a@x.y", "b@x.y", "c@x.y"]
    assert message["Bcc"] is None
    assert b"c@x.y" not in content


@pytest.mark.parametrize(
    "given_options", [EnvelopeOptions(sender=ME), EnvelopeOptions(recipients=YOU)]
)
def test_no_sender_or_recipient(given_options: EnvelopeOptions) -> None:
    """A message without sender or recipient is an error."""
    with pytest.raises(ValidationError, match="give the"):
        composed(given_options)


@pytest.mark.parametrize("header", ["", "no colon", ": x", "Sub ject: x", "A: b\r\nBcc: x@y.z"])
def test_invalid_header_fields(header: str) -> None:
    """An invalid field is refused, such as one with a line break."""
    with pytest.raises(UsageError, match="--header"):
        composed(header=[header])


def test_a_body_and_attachments(tmp_path: Path) -> None:
    """The body is a text or a file; an attachment arrives unchanged."""
    (tmp_path / "body").write_text("Gr\u00fc\u00dfe")
    content = bytes(range(256)) * 3
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "b.txt").write_bytes(content)
    files = [str(tmp_path / "a.png"), f"@{tmp_path / 'b.txt'}"]
    message, raw, _ = composed(body=f"@{tmp_path / 'body'}", attach=files)
    assert raw.isascii()
    body = message.get_body()
    assert isinstance(body, EmailMessage)
    assert body.get_content().strip() == "Gr\u00fc\u00dfe"
    attached = list(message.iter_attachments())
    assert [each.get_filename() for each in attached] == ["a.png", "b.txt"]
    assert [each.get_payload(decode=True) for each in attached] == [content] * 2
    assert composed(body="hi")[1].endswith(b"\r\n\r\nhi\r\n")


@pytest.mark.parametrize("given", [{"body": "@/no/such"}, {"attach": ["/no/such"]}])
def test_missing_files(given: dict[str, object]) -> None:
    """The error names a missing file."""
    with pytest.raises(UsageError, match="/no/such: No such file"):
        composed(OPTIONS, **given)


def test_an_internationalised_address() -> None:
    """Only an address that is not ASCII makes a message with a UTF-8 header (RFC 6532)."""
    _, content, envelope = composed(EnvelopeOptions(ReversePath("j\u00f6rg@example.com"), YOU))
    assert "From: j\u00f6rg@example.com\r\n".encode() in content
    assert envelope[0] == "j\u00f6rg@example.com"
    assert composed(header=["Subject: gr\u00fcn"])[1].isascii()


def test_the_null_reverse_path() -> None:
    """The null reverse-path adds no From field."""
    message, _, envelope = composed(EnvelopeOptions(ReversePath(""), YOU))
    assert message["From"] is None
    assert envelope[0] == ""
