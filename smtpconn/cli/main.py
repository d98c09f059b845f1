"""`main`: reads the command line, runs the command, and turns whatever happens into an exit code.

This is the one place that catches everything. What a user can do something about is one line on
standard error; what nobody foresaw is one line too, which says that it is our mistake and where.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import smtpconn
from smtpconn.cli import asjson, check, options, ping, send, serve
from smtpconn.cli.exit_codes import CommandResult, ExitCode, UsageError, sysexit_of, text_of
from smtpconn.cli.output import Output
from smtpconn.model.errors import SmtpError

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
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    # What goes wrong is told here; warnings for logs would stand beside it on standard error.
    silence = logging.NullHandler()
    logging.getLogger("smtpconn").addHandler(silence)
    try:
        ending = _run(arguments, out)
        code = sysexit_of(ending.code, ending.error) if sysexits else int(ending.code)
        _tell(out, command, ending, code)
        if ending.code is ExitCode.INTERRUPTED and _are_threads_left():
            _exit_at_once(code)
        return code
    except BrokenPipeError:
        _forget_stdout()
        return int(ExitCode.BROKEN_PIPE)
    finally:
        logging.getLogger("smtpconn").removeHandler(silence)


def _run(arguments: list[str], out: Output) -> CommandResult:
    try:
        args = _parse(arguments)
        run: Callable[[argparse.Namespace, Output], CommandResult] = args.run
        return run(args, out)
    except BrokenPipeError:
        raise
    except (SmtpError, UsageError, OSError, KeyboardInterrupt) as error:
        return CommandResult.of(error, {})
    except Exception as error:
        return CommandResult(ExitCode.BUG, error)


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Read a command line; the options of a command stand anywhere behind its name."""
    if arguments and arguments[0] in COMMANDS:
        module, summary = COMMANDS[arguments[0]]
        parser = options.Parser(prog=f"smtpconn {arguments[0]}", description=summary)
        module.add(parser)
        args = parser.parse_intermixed_args(options.expand_headers(arguments[1:]))
        args.run = module.run
        return args
    listed = "\n".join(f"  {name:<8}{summary}" for name, (_, summary) in COMMANDS.items())
    parser = options.Parser(
        prog="smtpconn",
        usage="smtpconn COMMAND [OPTION ...]",
        description=f"An SMTP and LMTP client.\n\ncommands:\n{listed}",
        epilog="smtpconn COMMAND --help tells more.",
    )
    parser.add_argument("--version", action="version", version=smtpconn.__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _tell(out: Output, command: str | None, ending: CommandResult, code: int) -> None:
    """Say why it did not work, and give the JSON object if that is wanted."""
    error = asjson.of_error(ending.error)
    if ending.error is not None and error is not None:
        error["message"] = _one_line(ending.error, ending.code)
        out.error(str(error["message"]))
    out.object(
        {
            "command": command,
            "ok": code == 0,
            "exit": code,
            "error": error,
            **ending.result,
        }
    )


def _one_line(error: BaseException, code: ExitCode) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if code is ExitCode.BUG:
        # Not its text, which might hold anything.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return f"this is a bug in smtpconn: {type(error).__name__} at {where}"
    text = options.without_password(text_of(error))
    if isinstance(error, SmtpError) and error.may_have_been_delivered:
        text += "; the message may have been delivered: do not send it again blindly"
    return text


def _are_threads_left() -> bool:
    """Whether somebody is at work that nobody wants to wait for any more."""
    others = (t for t in threading.enumerate() if t is not threading.main_thread())
    return any(not thread.daemon for thread in others)


def _exit_at_once(code: int) -> None:
    """End the process; the interpreter would wait for its threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _forget_stdout() -> None:
    """Have the interpreter not complain, when it ends, about the pipe that is broken."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
    except (OSError, ValueError):
        pass  # standard output is no file
