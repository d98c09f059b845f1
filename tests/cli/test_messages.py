"""Messages from files and streams: what leaves, and for whom."""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpconn import ForwardPath, ReversePath
from smtpconn.cli import messages
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.messages import Outgoing, sources_of
from smtpconn.model.errors import ValidationError
from tests.cli.runner import Input

HEADER = b"From: Me <me@example.com>\r\nTo: you@example.com, Them <them@example.com>\r\n"
NOTHING: dict[str, object] = {
    "sender": None, "to": [], "dsn_notify": None, "dsn_ret": None, "envid": None, "data": None,
    "header": [], "body": None, "attach": [],
}  # fmt: skip


def opened(tmp_path: Path, octets: bytes, **given: object) -> Outgoing:
    """The message that a file with these octets is."""
    path = tmp_path / "m.eml"
    path.write_bytes(octets)
    (source,) = sources_of(argparse.Namespace(**(NOTHING | given)), [str(path)])
    assert source.name == str(path)
    outgoing = source.open()
    outgoing.close()
    return outgoing


def test_the_envelope_is_the_headers(tmp_path: Path) -> None:
    """Sender, and To, Cc and Bcc."""
    outgoing = opened(tmp_path, HEADER + b"Cc: cc@example.com\r\n\r\nhi\r\n")
    assert outgoing.envelope.sender == ReversePath("me@example.com")
    assert outgoing.recipients == ["you@example.com", "them@example.com", "cc@example.com"]


def test_options_go_before_headers(tmp_path: Path) -> None:
    """-f and -t are in place of them."""
    outgoing = opened(tmp_path, HEADER + b"\r\nhi\r\n", sender="", to=["x@example.com"])
    assert outgoing.envelope.sender == ReversePath("")
    assert outgoing.envelope.recipients == (ForwardPath("x@example.com"),)


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_what_leaves(tmp_path: Path, end: bytes) -> None:
    """All of it as it is, without Bcc and its folded lines, wherever it stands."""
    lines = [b"Bcc: a@b.c,", b" d@e.f,", b"\tg@h.i", b"From: me@b.c", b"BCC : x@y.z",
             b"To: you@b.c", b"resent-bcc: r@b.c", b"X-Bcc: stays", b"", b"Bcc: stays@b.c", b"",
             b".", b""]  # fmt: skip
    outgoing = opened(tmp_path, end.join(lines))
    kept = [b"From: me@b.c", b"To: you@b.c", b"X-Bcc: stays", b"", b"Bcc: stays@b.c", b"", b".",
            b""]  # fmt: skip
    assert outgoing.text == end.join(kept)
    assert outgoing.recipients == ["you@b.c", "a@b.c", "d@e.f", "g@h.i", "x@y.z"]


def test_a_header_with_a_line_that_is_none(tmp_path: Path) -> None:
    """Recipients behind it would be missed, so the options have to say who."""
    octets = b"From: me@b.c\r\nTo: you@b.c\r\nwhat is this\r\nCc: cc@b.c\r\n\r\nhi\r\n"
    with pytest.raises(UsageError, match="is no header field"):
        opened(tmp_path, octets)
    assert opened(tmp_path, octets, sender="", to=["x@y.z"]).text == octets


def test_a_line_of_an_mbox_is_no_part_of_it(tmp_path: Path) -> None:
    """Many tools leave it in front of the header (RFC 4155)."""
    outgoing = opened(tmp_path, b"From me@b.c Mon Nov 23 10:00:00 2026\n" + HEADER + b"\r\nFrom x")
    assert outgoing.text == HEADER + b"\r\nFrom x"


def test_a_header_alone(tmp_path: Path) -> None:
    """A message may end with its header, also without a line end."""
    assert opened(tmp_path, HEADER[:-2]).text == HEADER
    assert opened(tmp_path, HEADER + b"Bcc: a@b.c").text == HEADER


def test_no_header_at_all(tmp_path: Path) -> None:
    """What begins with an empty line has none; then the options have to say who."""
    given: dict[str, object] = {"sender": "me@b.c", "to": ["you@b.c"]}
    assert opened(tmp_path, b"\r\nhi\r\n", **given).text == b"\r\nhi\r\n"
    with pytest.raises(ValidationError, match="give the"):
        opened(tmp_path, b"\r\nhi\r\n")


def test_internationalised_headers(tmp_path: Path) -> None:
    """UTF-8 in the header is read as such (RFC 6532)."""
    outgoing = opened(tmp_path, "From: J\u00f6rg <j\u00f6rg@b.c>\nTo: you@b.c\n\nx".encode())
    assert outgoing.envelope.sender == ReversePath("j\u00f6rg@b.c")


@pytest.mark.parametrize("octets", [b"", b"\r\n \n"])
def test_an_empty_file(tmp_path: Path, octets: bytes) -> None:
    """Is no message."""
    with pytest.raises(UsageError, match="there is no message in it"):
        opened(tmp_path, octets, sender="", to=["a@b.c"])


def test_a_large_message_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is known all the same, and nothing of it is lost or changed."""
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
    """Is not read for ever."""
    monkeypatch.setattr(messages, "WHOLE", 500)
    with pytest.raises(UsageError, match="no end of the header"):
        opened(tmp_path, b"A: b\r\n" * 1000)


def test_a_file_that_is_not_there() -> None:
    """Is an error only when its turn comes."""
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
    """Files, standard input if it is no terminal, or composed."""
    monkeypatch.setattr("sys.stdin", Input(b"", is_terminal=is_terminal))
    found = sources_of(argparse.Namespace(**(NOTHING | given)), files)
    assert [source.name for source in found] == names


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read to its end, also if it comes piece by piece, and stays open."""

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
    """Between a message and composing one."""
    with pytest.raises(UsageError, match=text):
        sources_of(argparse.Namespace(**(NOTHING | given)), files)
