"""Commands: invalid text is refused where it becomes bytes."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpconn.model.errors import Phase, SmtpUtf8RequiredError, ValidationError
from smtpconn.protocol.command import (
    MAX_AUTH_LINE,
    MAX_COMMAND,
    Command,
    ascii_command,
    command,
    secret_command,
)

Constructor = Callable[[str], Command]


def _plain(text: str) -> Command:
    return command(Phase.MAIL, text)


def _ascii(text: str) -> Command:
    return ascii_command(Phase.RCPT, text)


def _secret(text: str) -> Command:
    return secret_command(text, "AUTH PLAIN <secret>")


CONSTRUCTORS: dict[str, Constructor] = {"command": _plain, "ascii": _ascii, "secret": _secret}
CONTROLS = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029"]
UNSENDABLE = [*CONTROLS, "\r\n", "\ud800", "\udbff", "\udc00", "\udc0d", "\udc0a", "\udfff"]

constructors = pytest.mark.parametrize("make", CONSTRUCTORS.values(), ids=CONSTRUCTORS)


@constructors
@pytest.mark.parametrize("bad", UNSENDABLE, ids=ascii)
@pytest.mark.parametrize("form", ["{}", "{}NOOP", "NOOP{}", "NOOP{} x"])
def test_no_control_character_leaves(make: Constructor, bad: str, form: str) -> None:
    """No constructor lets a control character or a lone surrogate through, wherever it stands."""
    with pytest.raises((ValidationError, SmtpUtf8RequiredError)):
        make(form.format(bad))


@constructors
def test_a_command_is_its_text_and_crlf(make: Constructor) -> None:
    """The bytes that leave are the text, then CRLF, and nothing else."""
    assert make("NOOP x ~!").wire == b"NOOP x ~!\r\n"


@constructors
@pytest.mark.parametrize("filler", ["x", "ä"])
def test_the_limit_is_in_bytes(make: Constructor, filler: str) -> None:
    """A line of exactly the limit passes, one byte more does not; UTF-8 counts its bytes."""
    if make is _ascii:
        filler = "x"
    limit = MAX_AUTH_LINE if make is _secret else MAX_COMMAND
    size = len(filler.encode())
    longest = filler * ((limit - 2) // size)
    longest += "x" * (limit - 2 - len(longest.encode()))
    assert len(make(longest).wire) == limit
    with pytest.raises(ValidationError, match=str(limit)):
        make(longest + "x")


def test_utf8_passes_where_it_is_in_force() -> None:
    """A command may be UTF-8 where the SMTP session has said so."""
    assert command(Phase.RCPT, "RCPT TO:<jürgen@例え.jp>").wire.decode() == (
        "RCPT TO:<jürgen@例え.jp>\r\n"
    )


@pytest.mark.parametrize("text", ["jürgen", "\xa0", "例", "\U0001f4ee"])
def test_ascii_commands_are_ascii(text: str) -> None:
    """The error for non-ASCII text names the extension that it needs."""
    with pytest.raises(SmtpUtf8RequiredError) as caught:
        ascii_command(Phase.VRFY, text)
    assert caught.value.phase is Phase.VRFY
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("bad", ["a\nb", "\ud800", "x" * MAX_COMMAND])
def test_a_refusal_says_where(bad: str) -> None:
    """The error has the command's phase, quotes in printable ASCII, and is short."""
    with pytest.raises(ValidationError) as caught:
        command(Phase.EXPN, bad)
    assert caught.value.phase is Phase.EXPN
    assert str(caught.value).isprintable()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_secret_line_is_shown_as_its_log_form() -> None:
    """Neither repr, str nor the log form of a SASL line holds what it sends."""
    made = secret_command("AUTH PLAIN c2VjcmV0", "AUTH PLAIN <secret>")
    assert made.wire == b"AUTH PLAIN c2VjcmV0\r\n"
    assert made.log == "AUTH PLAIN <secret>"
    assert made.phase is Phase.AUTH
    for shown in (repr(made), str(made), f"{made}", made.log):
        assert "c2VjcmV0" not in shown


@pytest.mark.parametrize("bad", ["hunter2\n", "hunter2\ud800", "hunter2" * 3000])
def test_a_refused_secret_is_not_quoted(bad: str) -> None:
    """The error for a SASL line that may not leave says which, not what."""
    with pytest.raises(ValidationError) as caught:
        secret_command(bad, "AUTH LOGIN <secret>")
    error = caught.value
    shown = [str(error), repr(error), repr(error.args), repr(vars(error))]
    shown += traceback.format_exception_only(error)
    assert not any("hunter2" in text for text in shown)
    assert "AUTH LOGIN <secret>" in str(error)
    assert error.phase is Phase.AUTH
    assert error.__suppress_context__ or error.__context__ is None


def test_a_command_has_one_reply_unless_it_says_otherwise() -> None:
    """A BDAT whose payload follows has none of its own."""
    assert command(Phase.NOOP, "NOOP").replies == 1
    assert command(Phase.CONTENT, "BDAT 5", replies=0).replies == 0
    assert not command(Phase.CONTENT, "BDAT 5 LAST").ends_message


def test_a_command_cannot_be_changed() -> None:
    """What was checked is what leaves."""
    made = command(Phase.NOOP, "NOOP")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.wire = b"QUIT\r\n"  # type: ignore[misc]
    assert made == command(Phase.NOOP, "NOOP")
    assert hash(made) == hash(command(Phase.NOOP, "NOOP"))


@settings(deadline=None, max_examples=200)
@given(st.text(st.characters(), max_size=40), st.sampled_from(sorted(CONSTRUCTORS)))
def test_any_text_is_one_line_or_refused(text: str, name: str) -> None:
    """Whatever is given, what leaves is one line that decodes to it."""
    try:
        wire = CONSTRUCTORS[name](text).wire
    except (ValidationError, SmtpUtf8RequiredError):
        return
    assert wire == text.encode() + b"\r\n"
    assert not any(byte < 0x20 or byte == 0x7F for byte in wire[:-2])
    assert len(text.splitlines()) <= 1
