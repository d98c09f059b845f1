"""Parsing the command line: swaks's option forms, and errors in one line."""

from __future__ import annotations

import pytest

from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.options import expand_headers, without_password
from smtpconn.testing import SmtpServer
from tests.support.command_runner import Runner


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        (["--h-Subject", "hello there"], ["--header=Subject: hello there"]),
        (["-h-Subject", "-v"], ["--header=Subject: -v"]),
        (["--header-X-Mailer", "x", "-v"], ["--header=X-Mailer: x", "-v"]),
        (["--h-Subject=a=b"], ["--header=Subject: a=b"]),
        (["--h-From:", "a@b.c"], ["--header=From: a@b.c"]),
        (["--header", "A: b", "-h", "--help"], ["--header", "A: b", "-h", "--help"]),
        (["--", "--h-Subject", "x"], ["--", "--h-Subject", "x"]),
    ],
)
def test_headers_as_swaks_has_them(given: list[str], expanded: list[str]) -> None:
    """Each becomes one --header; everything else stays."""
    assert expand_headers(given) == expanded


def test_a_header_without_text() -> None:
    """A header option without its text is an error."""
    with pytest.raises(UsageError, match="--h-Subject needs the text"):
        expand_headers(["--h-Subject"])


def test_a_url_in_an_error() -> None:
    """The password of a URL is removed from an error."""
    text = "not here: smtp://user:p@ss@mx.example.com:25"
    assert without_password(text) == "not here: smtp://<secret>@mx.example.com:25"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["check"],
        ["check", "--no-such-option", "localhost"],
        ["check", "localhost", "localhost"],
        ["check", "localhost", "--port", "0"],
        ["check", "localhost", "--port", "x"],
        ["check", "localhost", "--timeout", "0"],
        ["check", "localhost", "--timeout", "nan"],
        ["check", "localhost", "--tls", "--no-tls"],
        ["check", "localhost", "-4", "-6"],
        ["check", "localhost", "--protocol", "imap"],
        ["check", "localhost", "--pipelining", "much"],
        ["check", "localhost", "--auth", "NTLM"],
        ["check", "localhost", "--quit-after", "rcpt"],
        ["check", "localhost", "--time", "5"],
        ["ping", "localhost", "--count", "0"],
        ["serve", "--fault", "RCPT"],
        ["serve", "--fault", "LUNCH=close"],
        ["serve", "--fault", "RCPT=whatever"],
        ["serve", "--port", "70000"],
        ["send", "localhost", "--h-Subject"],
    ],
)
def test_errors_are_one_line(smtpconn: Runner, arguments: list[str]) -> None:
    """Every error is one line on standard error, with code 1."""
    ran = smtpconn(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("smtpconn: ")
    assert ran.err.count("\n") == 1


def test_errors_as_json(smtpconn: Runner) -> None:
    """With --json the error is an object, too; with --sysexits a number of sysexits(3)."""
    ran = smtpconn("check", "--json", "--sysexits", "--no-such-option")
    found = ran.object
    assert found["exit"] == 64
    assert found["command"] == "check"
    assert found["error"]["class"] == "UsageError"
    assert "--no-such-option" in found["error"]["message"]


@pytest.mark.parametrize("command", ["check", "send", "ping", "serve"])
def test_help(capsys: pytest.CaptureFixture[str], smtpconn: Runner, command: str) -> None:
    """--help of a command has its options and all exit codes."""
    with pytest.raises(SystemExit) as caught:
        smtpconn(command, "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: smtpconn {command}" in text
    assert "exit codes:" in text
    assert " 41  send: some messages may or may not" in text
    assert "--auth-password " not in text


def test_options_stand_anywhere(smtpconn: Runner, server: SmtpServer) -> None:
    """Options may stand before and after the URL and the files."""
    ran = smtpconn("check", "--timeout", "5", server.url, "-q", "ehlo")
    assert ran.code == 0
