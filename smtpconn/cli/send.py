"""``smtpconn send``: send messages, and say of each what became of it.

This file is the command; what a message is, is in `smtpconn.cli.messages`, how many are sent in
`smtpconn.cli.mailing`, and how it is told what became of them in `smtpconn.cli.fates`.
"""

from __future__ import annotations

import argparse
import contextlib
import time

from smtpconn.cli import fates, options, stages, transcript
from smtpconn.cli.asjson import Json, of_server
from smtpconn.cli.exits import Ending, Exit, UsageError
from smtpconn.cli.mailing import Mailing, over_connection, over_pool
from smtpconn.cli.messages import sources_of
from smtpconn.cli.output import Output
from smtpconn.cli.target import target_of
from smtpconn.cli.transcript import Line
from smtpconn.cli.trial import try_to

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


def run(given: argparse.Namespace, out: Output) -> Ending:
    """Send what the options name, and report."""
    urls = [word for word in given.words if "://" in word]
    if len(urls) > 1:
        raise UsageError("there is more than one URL")
    given.url = urls[0] if urls else None
    files = [word for word in given.words if "://" not in word]
    target = target_of(given, out)
    stages.check_stage(target, given.quit_after)
    if given.quit_after is not None:
        return try_to(target, given, files, out)
    sources = sources_of(given, files)
    mailing = Mailing(sources, out)
    with contextlib.ExitStack() as stack:
        stack.callback(mailing.close)
        stack.enter_context(_transcript(given, mailing, out))
        count = given.connections or (1 if _shows(given) else CONNECTIONS)
        count = min(count, len(sources))
        carry = over_connection if given.bdat else over_pool(count)
        begun = time.monotonic()
        tolds = mailing.send(target, carry)
        seconds = time.monotonic() - begun
    fates.show(tolds, out, seconds)
    result: dict[str, Json] = {
        "server": of_server(target),
        "quit_after": None,
        **fates.as_json(tolds, seconds),
    }
    if mailing.was_interrupted:
        return Ending(Exit.INTERRUPTED, KeyboardInterrupt(), result)
    return fates.ending(tolds, result)


def _shows(given: argparse.Namespace) -> bool:
    return bool(given.verbose or given.show_time_lapse)


def _transcript(
    given: argparse.Namespace, mailing: Mailing, out: Output
) -> contextlib.AbstractContextManager[object]:
    """The recorder that shows the dialogue, and in it the content unless that is not wanted."""
    tell = out.teller(given)
    if tell is None:
        return contextlib.nullcontext()
    shown = tell

    def with_content(line: Line) -> None:
        shown(line)
        if line.mark == "->" and line.text.endswith("<content>"):
            for text in mailing.content():
                shown(Line(line.at, line.connection, "->", text, line.under_tls))

    wanted = tell if given.suppress_data or len(mailing.sources) > 1 else with_content
    return transcript.Recorder(wanted, keeps=False)
