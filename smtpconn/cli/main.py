"""`main`: parse the command line, run the command, and return an exit code in every case.

Only this module catches every exception. An error that a user can act on is one line on standard
error; a bug in smtpconn is one line too, with the place in the code. Neither a closed standard
output nor Ctrl-C shows a traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import smtpconn
from smtpconn.cli import check, options, ping, send, serve
from smtpconn.cli.exit_codes import (
    CommandResult,
    ExitCode,
    UsageError,
    error_json,
    exit_code_of,
    sysexit_of,
    text_of,
)
from smtpconn.cli.output import Output
from smtpconn.model.errors import SmtpError

COMMANDS = {
    "check": (check, "what does this server offer, and does it do what I need?"),
    "send": (send, "send messages: from files, from standard input, or composed here"),
    "ping": (ping, "how long does it take to get a connection and a reply?"),
    "serve": (serve, "catch mail on this machine during development"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``smtpconn`` and return its exit code.

    Args:
        argv: the arguments without the program's name; None for the arguments of the process.

    Raises:
        SystemExit: after ``--help`` and ``--version``.
    """
    is_process = argv is None
    arguments = list(sys.argv[1:] if argv is None else argv)
    _replace_closed_streams()
    handler = _sigint_handler()
    # `_report` writes the errors. Without a handler, logging would repeat warnings on standard
    # error.
    silence = logging.NullHandler()
    logging.getLogger("smtpconn").addHandler(silence)
    try:
        return _main(arguments)
    except BrokenPipeError:
        _discard_stdout()
        return int(ExitCode.BROKEN_PIPE)
    except KeyboardInterrupt:
        return int(ExitCode.INTERRUPTED)
    except SystemExit:
        _flush_stdout()
        raise
    finally:
        logging.getLogger("smtpconn").removeHandler(silence)
        _restore_sigint(handler, is_process=is_process)


def _main(arguments: list[str]) -> int:
    # Read without the parser, so that these options apply to an error of the parser, too.
    out = Output(as_json="--json" in arguments)
    sysexits = "--sysexits" in arguments
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    result = _run(arguments, out)
    code = sysexit_of(result.code, result.error) if sysexits else int(result.code)
    _ignore_sigint()
    try:
        _report(out, command, result, code)
    except OSError as error:
        # The command's own failure, if it has one, is the more important one.
        if result.code is ExitCode.OK:
            is_pipe = isinstance(error, BrokenPipeError)
            code = int(ExitCode.BROKEN_PIPE if is_pipe else exit_code_of(error))
            if not is_pipe:
                out.error(text_of(error))
    if out.is_stdout_broken:
        _discard_stdout()
    if result.code is ExitCode.INTERRUPTED and _is_still_sending():
        _exit_at_once(code)
    return code


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
    """Parse a command line; the options of a command may stand anywhere after its name."""
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
        epilog="smtpconn COMMAND --help lists the options.",
    )
    parser.add_argument("--version", action="version", version=smtpconn.__version__)
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _report(out: Output, command: str | None, result: CommandResult, code: int) -> None:
    """Write the error, and the JSON object with ``--json``."""
    error = error_json(result.error)
    if result.error is not None and error is not None:
        error["message"] = _one_line(result.error, result.code)
        out.error(str(error["message"]))
    out.object(
        {
            "command": command,
            "ok": code == 0,
            "exit": code,
            "error": error,
            **result.values,
        }
    )


def _one_line(error: BaseException, code: ExitCode) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if code is ExitCode.BUG:
        # The text of the error is left out, because it may contain a secret.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return f"this is a bug in smtpconn: {type(error).__name__} at {where}"
    text = options.without_password(text_of(error))
    if isinstance(error, SmtpError) and error.may_have_been_delivered:
        text += "; the message may have been delivered: do not send it again blindly"
    return text


# The process


def _replace_closed_streams() -> None:
    """Open /dev/null in place of standard streams that are closed, as by ``>&-``.

    Python sets such a stream to None, and the descriptor would become that of the next socket.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        # os.open() returns the lowest free descriptor; in a process that is the closed one.
        if name != "stdin":
            setattr(sys, name, open(opened, "w", closefd=False))  # noqa: SIM115
        elif opened != descriptor:
            os.close(opened)


def _sigint_handler() -> signal._HANDLER:
    """The handler of SIGINT; None outside the main thread, which alone may change it."""
    is_main = threading.current_thread() is threading.main_thread()
    return signal.getsignal(signal.SIGINT) if is_main else None


def _ignore_sigint() -> None:
    """Ignore Ctrl-C while the result of a command is reported."""
    if _sigint_handler() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _restore_sigint(handler: signal._HANDLER, *, is_process: bool) -> None:
    """Restore the handler of SIGINT; in a process, one by which Ctrl-C shows no traceback."""
    if is_process and handler is signal.default_int_handler:
        handler = signal.SIG_DFL
    if handler is not None:
        signal.signal(signal.SIGINT, handler)


def _is_still_sending() -> bool:
    """Whether messages are in flight; the interpreter would wait for them at its end."""
    return any(thread.name.startswith("smtpconn-sender") for thread in threading.enumerate())


def _exit_at_once(code: int) -> None:
    """End the process without waiting for threads."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # broken or closed
    os._exit(code)


def _flush_stdout() -> None:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard_stdout()


def _discard_stdout() -> None:
    """Discard buffered output, which the interpreter could not write at its end."""
    try:
        descriptor = sys.stdout.fileno()
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, descriptor)
        os.close(devnull)
    except (OSError, ValueError):
        pass  # standard output is not a file
