"""How output looks: coloured at a terminal with rich, plain otherwise, and safe anywhere."""

from __future__ import annotations

import argparse
import io
import json
import sys

import pytest

from smtpconn.cli.output import BAD, GOOD, Output
from smtpconn.cli.transcript import Line
from tests.support.command_runner import Terminal

SHOWN = argparse.Namespace(verbose=True, show_time_lapse=False)


def without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have importing rich fail."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)


def written(stdout: io.StringIO, text: str, style: str = BAD) -> str:
    """What a line becomes."""
    Output(stdout=stdout, stderr=io.StringIO()).line(text, style)
    return stdout.getvalue()


def test_colours_at_a_terminal() -> None:
    """With rich and a terminal there are colours, and lines stay whole however long."""
    shown = written(Terminal(), "x" * 300)
    assert "\x1b[1;31m" in shown
    assert "x" * 300 in shown
    assert shown.count("\n") == 1


def test_no_markup() -> None:
    """What looks like markup is text."""
    assert "[bold]:smile: [/]" in written(Terminal(), "[bold]:smile: [/]")


def test_plain_where_there_is_no_terminal() -> None:
    """A file or a pipe gets the words alone."""
    assert written(io.StringIO(), "hello") == "hello\n"


def test_plain_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich the words are the same."""
    without_rich(monkeypatch)
    assert written(Terminal(), "hello") == "hello\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_plain_if_asked_for(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """NO_COLOR and TERM=dumb turn colours off."""
    monkeypatch.setenv(name, value)
    assert written(Terminal(), "hello") == "hello\n"


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_escape_sequences_of_a_server(make: type[io.StringIO]) -> None:
    """Control characters are escaped, in plain text and by rich."""
    shown = written(make(), "250 \x1b[2J\x07\u202e\x9b1m", "")
    assert shown == "250 \\x1b[2J\\x07\\u202e\\x9b1m\n"


def test_an_old_terminal() -> None:
    """Characters that the encoding does not have are escaped."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Output(stdout=file, stderr=file).line("gr\u00fcn")
    file.seek(0)
    assert file.read() == "gr\\xfcn\n"


def test_json_alone_on_standard_output() -> None:
    """With --json the report is left out, and the transcript goes to standard error."""
    stdout, stderr = io.StringIO(), io.StringIO()
    out = Output(as_json=True, stdout=stdout, stderr=stderr)
    out.secrets.add("me", "sesame")
    out.line("for people")
    out.row("name", "value")
    out.warning("careful")
    out.transcript(Line(0, 1, "->", "NOOP", False))
    out.object({"a": ["open sesame", {"b": ("sesame", 1, None)}]})
    assert json.loads(stdout.getvalue()) == {"a": ["open <secret>", {"b": ["<secret>", 1, None]}]}
    assert stderr.getvalue() == "smtpconn: warning: careful\n -> NOOP\n"


def test_no_json_unless_wanted() -> None:
    """Without --json no object is written."""
    stdout = io.StringIO()
    Output(stdout=stdout, stderr=io.StringIO()).object({"a": 1})
    assert stdout.getvalue() == ""


def test_how_long_an_answer_took() -> None:
    """The time from the last command is shown after the last line of a reply."""
    stdout = io.StringIO()
    out = Output(stdout=stdout, stderr=io.StringIO())
    for line in (
        Line(1.0, 1, "->", "EHLO me", False),
        Line(1.5, 1, "<-", "250-mx", False),
        Line(1.75, 1, "<-", "250 SIZE", False),
    ):
        out.transcript(line, with_lapse=True)
    assert stdout.getvalue().splitlines()[2:] == ["<-  250 SIZE", "=== response in 0.750000s"]


def test_the_error_in_a_transcript() -> None:
    """The error is shown only in a transcript."""
    stdout = io.StringIO()
    out = Output(stdout=stdout, stderr=io.StringIO())
    out.transcript_error("lost")
    assert out.transcript_writer(SHOWN) is not None
    out.transcript_error("lost")
    assert stdout.getvalue() == "*** lost\n"


@pytest.mark.parametrize("has_rich", [True, False])
def test_progress_at_a_terminal(monkeypatch: pytest.MonkeyPatch, has_rich: bool) -> None:
    """Progress is a bar with rich, and a number without."""
    if not has_rich:
        without_rich(monkeypatch)
    stderr = Terminal()
    with Output(stdout=io.StringIO(), stderr=stderr).progress(3, "sending") as bar:
        for _ in range(3):
            bar.advance()
    assert "3/3" in stderr.getvalue()
    assert "\n" in stderr.getvalue()
    assert ("\u2501" in stderr.getvalue()) == has_rich


@pytest.mark.parametrize(("stderr", "total"), [(io.StringIO(), 3), (Terminal(), 1)])
def test_no_progress(stderr: io.StringIO, total: int) -> None:
    """There is no progress without a terminal, and for a single message."""
    with Output(stdout=io.StringIO(), stderr=stderr).progress(total, "sending") as bar:
        bar.advance()
    assert stderr.getvalue() == ""


def test_styles_are_known_to_rich() -> None:
    """Every style that is used can be drawn."""
    for style in (GOOD, BAD, "yellow", "dim", "bold", ""):
        assert "hello" in written(Terminal(), "hello", style)
