"""Passwords and tokens: from the environment, a command or a prompt.

They never come from an option, because every user of the machine can read command lines (ps). A
password in a URL on the command line works, with a warning. `Secrets` remembers each secret in all
the forms in which SASL sends it, so that `smtpconn.cli.output` can remove it from every line.
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
"""Characters of the shortest secret that is removed from the output: a shorter one is part of many
words."""

COMMAND_TIMEOUT = 60.0
"""Seconds in which a command has to print its secret."""


class Secrets:
    """The secrets of this run, for removing them from the output."""

    def __init__(self) -> None:
        self._forms: set[str] = set()

    def add(self, user: str, secret: str) -> None:
        """Remember a secret in the forms in which SASL sends it and a server may echo it."""
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
        """Replace every secret in a text."""
        for form in sorted(self._forms, key=len, reverse=True):
            text = text.replace(form, "<secret>")
        return text


def password(user: str, command: str | None) -> str:
    """Get the password: from the command, else from the environment, else from a prompt.

    Raises:
        UsageError: there is no password, or the command failed.
    """
    if command is not None:
        return output_of(command)
    if (value := os.environ.get(PASSWORD_VARIABLE)) is not None:
        return value
    # Standard input is None when it is closed.
    if sys.stdin is None or not sys.stdin.isatty():
        raise UsageError(
            f"there is no password for {user}: set {PASSWORD_VARIABLE} or give "
            f"--auth-password-command, or run this at a terminal"
        )
    try:
        return getpass.getpass(f"Password for {user}: ")
    except EOFError:
        raise UsageError(f"no password was typed for {user}") from None


def output_of(command: str) -> str:
    """Run a command without a shell, and return the first line that it prints.

    Raises:
        UsageError: the command cannot be run, fails, or prints nothing. The text of the error never
            quotes the output.
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
