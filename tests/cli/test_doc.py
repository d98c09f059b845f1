"""docs/cli.md tells the truth: every option, every exit code and every JSON key is in it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from smtpconn.cli.exit_codes import ExitCode
from smtpconn.cli.main import COMMANDS
from smtpconn.testing import SmtpServer
from tests.support.command_runner import Runner

DOC = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
WORDS = set(re.findall(r"(?<![\w-])--?[\w-]+", DOC))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_it(command: str) -> None:
    """docs/cli.md has every option of every command."""
    parser = argparse.ArgumentParser()
    COMMANDS[command][0].add(parser)
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    options = {option for action in shown for option in action.option_strings}
    assert options - WORDS - {"-h", "--help"} == set()


def test_no_option_that_does_not_exist() -> None:
    """Every option in the tables exists."""
    known = {"-v", "--header", "--h-NAME"}
    for module, _ in COMMANDS.values():
        parser = argparse.ArgumentParser()
        module.add(parser)
        known |= {option for action in parser._actions for option in action.option_strings}
    rows = [line.split(" | ")[0] for line in DOC.splitlines() if line.startswith("| `-")]
    assert len(rows) > 40
    told = {word for row in rows for word in re.findall(r"`(--?[\w-]+)", row)}
    assert told - known == set()


def test_every_exit_code() -> None:
    """docs/cli.md has every exit code with its meaning, in order."""
    rows = re.findall(r"(?m)^\| (\d+) \| (.*) \|$", DOC)
    assert rows == [(str(code.value), code.meaning) for code in ExitCode]


def keys(value: object) -> set[str]:
    """The keys of an object, and of all that is in it."""
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in keys(each)}
    if isinstance(value, list):
        return {key for each in value for key in keys(each)}
    return set()


def test_every_key_of_the_json(smtpconn: Runner, server: SmtpServer) -> None:
    """docs/cli.md has every key of the objects of all commands."""
    envelope = ("-f", "me@example.com", "-t", "you@example.com,nobody@example.com")
    found: set[str] = set()
    for arguments in (
        ("check", server.url),
        ("check", "localhost:1"),
        ("ping", server.url, "-c", "1"),
        ("send", server.url, *envelope, "--body", "x"),
        ("send", server.url, *envelope, "-q", "rcpt"),
    ):
        found |= keys(smtpconn(*arguments, "--json").object)
    section = DOC.partition("\n## JSON\n")[2]
    told = set(re.findall(r"`(\w+)`", section))
    assert found - told == set()


def test_the_reports_are_those_of_the_servers_it_names() -> None:
    """The pasted reports have the banners of these servers."""
    for server in ("ESMTP Postfix", "ESMTP Exim", "Dovecot (Debian) ready."):
        assert server in DOC
    assert DOC.count("result        ok") == 4
