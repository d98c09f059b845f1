"""`main`: reads the command line, runs the command, and turns whatever happens into an exit code.

This is the one place that catches everything. What a user can do something about is one line on
standard error; what nobody foresaw is one line too, which says that it is our mistake and where.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import smtpconn
from smtpconn.cli import asjson, check, options, ping, send, serve
from smtpconn.cli.exits import Ending, Exit, UsageError, sysexit_of
from smtpconn.cli.output import Output
from smtpconn.errors import SmtpError

COMMANDS = {
    "check": (check, "what is this server, and does it do what I need?"),
    "send": (send, "send messages: from files, from standard input, or composed here"),
    "ping": (ping, "how long does it take to get a connection and an answer?"),
    "serve": (serve, "catch mail on this machine while developing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``smtpconn`` and return its exit code.

    Args:
        argv: the arguments without the program's name; None for the process's own.

    Raises:
        SystemExit: after ``--help`` and ``--version``.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    # Known before the command line is read, so that an error in it is told in the same way.
    out = Output(as_json="--json" in arguments)
    sysexits = "--sysexits" in arguments
    command = next((word for word in arguments if word in COMMANDS), None)
    try:
        ending = _run(arguments, out)
        code = sysexit_of(ending.code, ending.error) if sysexits else int(ending.code)
        _tell(out, command, ending, code)
        return code
    except BrokenPipeError:
        _forget_stdout()
        return int(Exit.BROKEN_PIPE)


def _run(arguments: list[str], out: Output) -> Ending:
    try:
        given = _parser().parse_args(options.expand_headers(arguments))
        run: Callable[[argparse.Namespace, Output], Ending] = given.run
        return run(given, out)
    except BrokenPipeError:
        raise
    except (SmtpError, UsageError, OSError, KeyboardInterrupt) as error:
        return Ending.of(error, {})
    except Exception as error:
        return Ending(Exit.BUG, error)


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(prog="smtpconn", description="An SMTP and LMTP client.")
    parser.add_argument("--version", action="version", version=smtpconn.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        each = commands.add_parser(name, help=summary, description=summary)
        module.add(each)
        each.set_defaults(run=module.run)
    return parser


def _tell(out: Output, command: str | None, ending: Ending, code: int) -> None:
    """Say why it did not work, and give the JSON object if that is wanted."""
    error = ending.error
    if error is not None:
        out.error(_one_line(error, ending.code))
    out.object(
        {
            "command": command,
            "ok": code == 0,
            "exit": code,
            "error": asjson.of_error(error),
            **ending.result,
        }
    )


def _one_line(error: BaseException, code: Exit) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if code is Exit.BUG:
        # Not its text, which might hold anything.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return f"this is a bug in smtpconn: {type(error).__name__} at {where}"
    if isinstance(error, OSError) and not isinstance(error, SmtpError):
        name = f"{error.filename}: " if error.filename is not None else ""
        return f"{name}{error.strerror or error}"
    text = options.without_password(str(error))
    if isinstance(error, SmtpError) and error.may_have_been_delivered:
        text += "; the message may have been delivered: do not send it again blindly"
    return text


def _forget_stdout() -> None:
    """Have the interpreter not complain, when it ends, about the pipe that is broken."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
    except (OSError, ValueError):
        pass  # standard output is no file
