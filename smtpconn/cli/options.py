"""The options that commands share, and how a command line is parsed.

Options have the names of swaks's options where swaks has one (``-s``, ``-t``, ``-tlsc``, ``-au``,
``-q``). Only text and numbers are parsed here; `smtpconn.cli.target` makes a server of them. An
error is one line, and never shows the password of a URL.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from smtpconn.cli import exit_codes, secrets
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.target import MECHANISMS, URL_VARIABLE
from smtpconn.model.modes import Pipelining

_HEADER = re.compile(r"--?h(?:eader)?-([!-9;<>-~]+):?(?:=(.*))?\Z", re.DOTALL)
_PASSWORD = re.compile(r"://\S*@")


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line without passwords."""

    def __init__(self, *args: object, **settings: object) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raise an error; `argparse.ArgumentParser` would print it and the usage, and exit.

        Raises:
            UsageError: always.
        """
        _, is_unknown, words = message.partition("unrecognized arguments: ")
        if is_unknown:
            # Other arguments are not shown: one may be the password after a mistyped option.
            names = [word.partition("=")[0] for word in words.split() if word.startswith("-")]
            message = f"there is no option {names[0]}" if names else "there are too many arguments"
        raise UsageError(f"{without_password(message)} ({self.prog} --help lists the options)")


class NoPasswordHere(argparse.Action):
    """The action of a password option, which does not exist; the error names the alternatives."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Refuse the option.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"a password cannot be an argument, because every user of this machine can read those: "
            f"set {secrets.PASSWORD_VARIABLE} or give --auth-password-command"
        )


def without_password(text: str) -> str:
    """Replace user and password of the URLs in a text."""
    return _PASSWORD.sub("://<secret>@", text)


def expand_headers(argv: Sequence[str]) -> list[str]:
    """Turn swaks's ``--h-Subject TEXT`` into ``--header 'Subject: TEXT'``.

    Raises:
        UsageError: the text is missing.
    """
    expanded: list[str] = []
    rest = iter(argv)
    for word in rest:
        found = _HEADER.match(word)
        if word == "--":
            return [*expanded, word, *rest]
        if found is None:
            expanded.append(word)
            continue
        text = found[2] if found[2] is not None else next(rest, None)
        if text is None:
            raise UsageError(f"{word} needs the text of the header after it")
        expanded.append(f"--header={found[1]}: {text}")
    return expanded


def common(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object on standard output")
    group.add_argument(
        "--sysexits", action="store_true", help="exit codes of sysexits(3) instead of swaks's"
    )
    parser.epilog = f"exit codes:\n{exit_codes.table()}"


def transcript(parser: argparse.ArgumentParser) -> None:
    """Add the options that show the SMTP session."""
    group = parser.add_argument_group("transcript")
    group.add_argument("-v", "--verbose", action="store_true", help="show the SMTP session")
    group.add_argument(
        "--show-time-lapse", action="store_true", help="and how long each answer took"
    )


def server(parser: argparse.ArgumentParser) -> None:
    """Add the options for a server and for connecting to it."""
    group = parser.add_argument_group("server")
    group.add_argument("-s", "--server", metavar="HOST[:PORT]", help="instead of a URL")
    group.add_argument("-p", "--port", type=port, metavar="PORT")
    group.add_argument("--socket", metavar="PATH", help="a UNIX socket instead of a host")
    group.add_argument("--protocol", type=str.upper, choices=["SMTP", "LMTP"], metavar="smtp|lmtp")
    group.add_argument("--ehlo", "--helo", metavar="NAME", help="our name in EHLO")
    group.add_argument(
        "--timeout", type=seconds, metavar="SECONDS", help="for each operation (default: 30)"
    )
    family = group.add_mutually_exclusive_group()
    family.add_argument("-4", dest="family", action="store_const", const=4, help="IPv4 only")
    family.add_argument("-6", dest="family", action="store_const", const=6, help="IPv6 only")
    family.add_argument("-li", "--local-interface", metavar="ADDRESS", help="local address")
    group.add_argument(
        "--pipelining", type=str.upper, choices=list(Pipelining), metavar="off|auto|eager"
    )
    _tls(parser)
    _login(parser)


def _tls(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS")
    mode = group.add_mutually_exclusive_group()
    mode.add_argument(
        "-tls", "--tls", dest="tls", action="store_const", const="STARTTLS",
        help="require STARTTLS",
    )  # fmt: skip
    mode.add_argument(
        "-tlsc", "--tlsc", "--tls-on-connect", dest="tls", action="store_const", const="IMPLICIT",
        help="TLS from the first byte",
    )  # fmt: skip
    mode.add_argument("--no-tls", dest="tls", action="store_const", const="NONE", help="no TLS")
    group.add_argument(
        "--tls-ca-path", metavar="PATH",
        help="trust these authorities and no others: a PEM file or a directory",
    )  # fmt: skip
    group.add_argument(
        "--tls-server-name", metavar="NAME", help="the name in its certificate, if not HOST"
    )
    group.add_argument("--tls-cert", metavar="FILE", help="our own certificate")
    group.add_argument("--tls-key", metavar="FILE", help="its key, if not in the same file")
    group.add_argument(
        "--insecure", action="store_true", help="accept ANY certificate, for diagnosis only"
    )


def _login(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "login",
        f"The password comes from {secrets.PASSWORD_VARIABLE}, a command or a prompt; a token from "
        f"{secrets.TOKEN_VARIABLE} or a command. No option takes one.",
    )
    group.add_argument("-au", "--auth-user", metavar="USER")
    group.add_argument("--auth-password-command", metavar="COMMAND", help="prints the password")
    group.add_argument(
        "-ap", "--auth-password", "--password", action=NoPasswordHere, help=argparse.SUPPRESS
    )
    group.add_argument("--auth-token-command", metavar="COMMAND", help="prints an OAuth token")
    group.add_argument(
        "-a", "--auth", type=_mechanisms, metavar="MECH[,MECH]",
        help=f"use the first that is offered: {', '.join(MECHANISMS)} "
        f"(default: the strongest)",
    )  # fmt: skip
    group.add_argument(
        "--allow-cleartext-auth", action="store_true",
        help="send the password without TLS, where others on the network can read it",
    )  # fmt: skip


def target_argument(parser: argparse.ArgumentParser) -> None:
    """Add the server as the first argument."""
    parser.add_argument(
        "url", nargs="?", metavar="URL",
        help=f"such as smtp+starttls://user@mx.example.com, or a host; default: {URL_VARIABLE} "
        f"in the environment",
    )  # fmt: skip


def count(text: str) -> int:
    """Parse a number from 1 to a million."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, not {text!r:.40}")
    return int(text)


def port(text: str) -> int:
    """Parse a port."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port is 1 to 65535, not {text!r:.40}")
    return int(text)


def seconds(text: str) -> float:
    """Parse a number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"expected seconds, a number above 0, not {text!r:.40}")
    return seconds


def _mechanisms(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().upper() for name in text.split(","))
    unknown = [name for name in names if name not in MECHANISMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"the mechanisms are {', '.join(MECHANISMS)}")
    return names
