"""``smtpconn send``: send messages, and say of each what became of it.

This file is the command; what a message is, is in `smtpconn.cli.messages`, how many are sent in
`smtpconn.cli.mailing`, and how it is told what became of them in `smtpconn.cli.results`.
"""

from __future__ import annotations

import argparse
import contextlib
import time

from smtpconn.cli import options, results, stages, transcript
from smtpconn.cli.asjson import Json, of_server
from smtpconn.cli.exit_codes import CommandResult, ExitCode, UsageError
from smtpconn.cli.mailing import Mailing, over_connection, over_pool
from smtpconn.cli.messages import sources_of
from smtpconn.cli.output import Output
from smtpconn.cli.target import target_of
from smtpconn.cli.transcript import Line
from smtpconn.cli.trial import dry_run

CONNECTIONS = 4
"""Connections for many messages, unless the user says otherwise."""


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument(
        "words", nargs="*", metavar="[URL] [FILE ...]",
        help="a server, and messages as .eml files; - is standard input, which is also read if "
        "there is no file and it is no terminal",
    )  # fmt: skip
    _envelope_options(parser)
    _message_options(parser)
    options.server(parser)
    group = parser.add_argument_group("sending")
    group.add_argument("--bdat", action="store_true", help="send with BDAT (one connection)")
    group.add_argument(
        "--connections", type=options.count, metavar="N",
        help=f"connections at most (default: {CONNECTIONS}, with a transcript 1)",
    )  # fmt: skip
    group.add_argument(
        "-q", "--quit-after", choices=stages.STAGES, metavar="STAGE",
        help=f"go no further than {', '.join(stages.STAGES)}; nothing is sent",
    )  # fmt: skip
    options.transcript(parser)
    parser.add_argument(
        "-n", "--suppress-data", action="store_true", help="no content in the transcript"
    )
    options.common(parser)


def _envelope_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("envelope (default: what the message's headers name)")
    group.add_argument("-f", "--from", dest="sender", metavar="ADDRESS", help="'' is the null path")
    group.add_argument(
        "-t", "--to", action="append", default=[], metavar="ADDRESS[,...]", help="may be repeated"
    )
    group.add_argument("--dsn-notify", metavar="WHEN", help="never, or success,failure,delay")
    group.add_argument("--dsn-ret", type=str.upper, choices=["FULL", "HDRS"], metavar="full|hdrs")
    group.add_argument("--envid", metavar="ID", help="identifies the envelope in reports")


def _message_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("message")
    group.add_argument("-d", "--data", metavar="FILE|-", help="the whole message")
    group.add_argument(
        "--header", action="append", default=[], metavar="'NAME: TEXT'",
        help="of a composed message; also --h-NAME TEXT, such as --h-Subject hello",
    )  # fmt: skip
    group.add_argument("--body", metavar="TEXT|@FILE", help="of a composed message")
    group.add_argument("--attach", action="append", default=[], metavar="FILE")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Send what the options name, and report."""
    urls = [word for word in args.words if "://" in word]
    if len(urls) > 1:
        raise UsageError("there is more than one URL")
    args.url = urls[0] if urls else None
    files = [word for word in args.words if "://" not in word]
    target = target_of(args, out)
    stages.check_stage(target, args.quit_after)
    if args.quit_after is not None:
        return dry_run(target, args, files, out)
    sources = sources_of(args, files)
    mailing = Mailing(sources, out)
    with contextlib.ExitStack() as stack:
        stack.callback(mailing.close)
        stack.enter_context(_transcript(args, mailing, out))
        count = args.connections or (1 if _shows(args) else CONNECTIONS)
        count = min(count, len(sources))
        carry = over_connection if args.bdat else over_pool(count)
        begun = time.monotonic()
        results_ = mailing.send(target, carry)
        seconds = time.monotonic() - begun
    results.show(results_, out, seconds)
    result: dict[str, Json] = {
        "server": of_server(target),
        "quit_after": None,
        **results.as_json(results_, seconds),
    }
    if mailing.was_interrupted:
        return CommandResult(ExitCode.INTERRUPTED, KeyboardInterrupt(), result)
    return results.ending(results_, result)


def _shows(args: argparse.Namespace) -> bool:
    return bool(args.verbose or args.show_time_lapse)


def _transcript(
    args: argparse.Namespace, mailing: Mailing, out: Output
) -> contextlib.AbstractContextManager[object]:
    """The recorder that shows the dialogue, and in it the content unless that is not wanted."""
    tell = out.teller(args)
    if tell is None:
        return contextlib.nullcontext()
    shown = tell

    def with_content(line: Line) -> None:
        shown(line)
        if line.mark == "->" and line.text.endswith("<content>"):
            for text in mailing.content():
                shown(Line(line.at, line.connection, "->", text, line.under_tls))

    wanted = tell if args.suppress_data or len(mailing.sources) > 1 else with_content
    return transcript.Recorder(wanted, keeps=False)
