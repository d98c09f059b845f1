"""Where passwords and tokens come from: the environment, a command, or a prompt.

Rule: never from the command line, which every user of the machine can read (ps). A password inside
a URL is such a place too; it works, and is warned about. What was read is remembered here, in all
the forms in which it travels, so that `smtpconn.cli.output` can take it out of whatever is written.
"""

from __future__ import annotations

import base64
import getpass
import os
import shlex
import subprocess
import sys

from smtpconn.cli.exit_codes import UsageError

PASSWORD_VARIABLE = "SMTPCONN_PASSWORD"
TOKEN_VARIABLE = "SMTPCONN_TOKEN"

SHORTEST = 3
"""Characters below which a secret is not looked for in the output: it would be found in every
word."""

COMMAND_TIMEOUT = 60.0
"""Seconds that a command has to print a secret."""


class Secrets:
    """The secrets of this run, to be taken out of what is written."""

    def __init__(self) -> None:
        self._forms: set[str] = set()

    def add(self, user: str, secret: str) -> None:
        """Remember a secret in the forms in which SASL sends it, and a server may echo it."""
        if len(secret) < SHORTEST:
            return
        self._forms.add(secret)
        for text in (
            secret,
            f"\0{user}\0{secret}",
            f"user={user}\1auth=Bearer {secret}\1\1",
        ):
            self._forms.add(base64.b64encode(text.encode("utf-8", "surrogateescape")).decode())

    def hide(self, text: str) -> str:
        """The text without any secret."""
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, "<secret>")
        return text


def password(user: str, command: str | None) -> str:
    """The password: what the command prints, else the environment, else what is typed.

    Raises:
        UsageError: there is none, or the command failed.
    """
    if command is not None:
        return output_of(command)
    if (value := os.environ.get(PASSWORD_VARIABLE)) is not None:
        return value
    if not sys.stdin.isatty():
        raise UsageError(
            f"there is no password for {user}: set {PASSWORD_VARIABLE} or give "
            f"--auth-password-command, or run this at a terminal"
        )
    try:
        return getpass.getpass(f"Password for {user}: ")
    except EOFError:
        raise UsageError(f"no password was typed for {user}") from None


def output_of(command: str) -> str:
    """The first line that a command prints, run without a shell.

    Raises:
        UsageError: it cannot be run, fails, or prints nothing; its output is not quoted.
    """
    try:
        done = subprocess.run(
            shlex.split(command),
            stdout=subprocess.PIPE,
            check=False,
            timeout=COMMAND_TIMEOUT,
        )
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"the command for the secret cannot be run: {error}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the command for the secret did not end within {COMMAND_TIMEOUT:g} seconds"
        ) from None
    if done.returncode:
        raise UsageError(f"the command for the secret failed with status {done.returncode}")
    lines = done.stdout.decode("utf-8", "surrogateescape").splitlines()
    if not lines or not lines[0]:
        raise UsageError("the command for the secret printed nothing")
    return lines[0]
