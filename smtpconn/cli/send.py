"""``smtpconn send``: send messages, and say of each what became of it.

Messages go through a `ConnectionPool`, which goes on after failures and never sends anything twice;
with ``--bdat`` one after the other over one connection. Files are opened when their turn comes and
closed when they were answered, so a directory with a million of them is no problem.

Ctrl-C begins no further message and waits for those under way, because tearing them off would leave
it unknown whether they arrived; a second one does not wait.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from smtpconn.cli import fates, options, stages, transcript
from smtpconn.cli.asjson import Json, of_reply, of_server
from smtpconn.cli.exits import CommandError, Ending, Exit, UsageError
from smtpconn.cli.fates import Fate, Told
from smtpconn.cli.messages import Outgoing, Source, envelope_to_try, sources_of
from smtpconn.cli.output import BAD, GOOD, Output
from smtpconn.cli.target import Target, target_of
from smtpconn.cli.transcript import Line
from smtpconn.connection import SmtpConnection
from smtpconn.dialogue.session import Protocol
from smtpconn.envelope import Envelope, SendOutcome
from smtpconn.errors import SmtpError, ValidationError
from smtpconn.pool import ConnectionPool

CONNECTIONS = 4
"""Connections for many messages, unless the user says otherwise."""

Carry = Callable[[Target, Iterable[Envelope]], Iterator[SendOutcome]]


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
        return _try(target, given, files, out)
    sources = sources_of(given, files)
    mailing = Mailing(sources, out)
    with contextlib.ExitStack() as stack:
        stack.callback(mailing.close)
        stack.enter_context(_transcript(given, mailing, out))
        count = given.connections or (1 if _shows(given) else CONNECTIONS)
        count = min(count, len(sources))
        carry: Carry = over_connection if given.bdat else _over_pool_of(count)
        begun = time.monotonic()
        tolds = mailing.send(target, carry)
        seconds = time.monotonic() - begun
    fates.show(tolds, out, seconds)
    result = {"server": of_server(target), "quit_after": None, **fates.as_json(tolds, seconds)}
    ending = fates.ending(tolds, result)
    if mailing.was_interrupted:
        return Ending(Exit.INTERRUPTED, KeyboardInterrupt(), result)
    return ending


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


class Mailing:
    """The messages of one run: opened one by one, sent, and told of.

    Attributes:
        sources: where they come from.
        was_interrupted: whether the user had enough.
    """

    def __init__(self, sources: Sequence[Source], out: Output) -> None:
        self.sources = sources
        self.was_interrupted = False
        self._out = out
        self._tolds: list[Told] = []
        # What is under way, by its envelope, which may not be hashable.
        self._open: dict[int, Outgoing] = {}
        self._begun = 0

    def send(self, target: Target, carry: Carry) -> list[Told]:
        """Send them all, going on after failures."""
        with self._out.progress(len(self.sources), "sending") as bar:
            outcomes = carry(target, self._envelopes())
            while True:
                try:
                    outcome = next(outcomes, None)
                except KeyboardInterrupt:
                    if self.was_interrupted:
                        break
                    self._stop()
                    continue
                except SmtpError as error:
                    self._give_up(error)
                    break
                if outcome is None:
                    break
                self._tell(outcome)
                bar.advance()
        self._tell_the_rest()
        return self._tolds

    def content(self) -> Iterator[str]:
        """The lines of what is under way."""
        for outgoing in list(self._open.values()):
            # What is streamed is not here.
            yield from (outgoing.text or b"").decode("utf-8", "backslashreplace").splitlines()

    def close(self) -> None:
        """Close the files of what is under way."""
        for outgoing in self._open.values():
            outgoing.close()

    def _envelopes(self) -> Iterator[Envelope]:
        for source in self.sources:
            if self.was_interrupted:
                return
            self._begun += 1
            try:
                outgoing = source.open()
            except (OSError, UsageError, SmtpError) as error:
                self._tolds.append(Told(source.name, Fate.FAILED, error=error))
                continue
            self._open[id(outgoing.envelope)] = outgoing
            yield outgoing.envelope

    def _tell(self, outcome: SendOutcome) -> None:
        outgoing = self._open.pop(id(outcome.envelope))
        outgoing.close()
        if outcome.error is not None:
            self._out.transcript_error(str(outcome.error))
        self._tolds.append(fates.judge(outgoing, outcome))

    def _stop(self) -> None:
        self.was_interrupted = True
        self._out.warning("interrupted: waiting for what is under way (Ctrl-C gives up)")

    def _give_up(self, error: SmtpError) -> None:
        """Nothing can be sent at all."""
        left = self.sources[self._begun :]
        self._tolds += [Told(source.name, Fate.FAILED, error=error) for source in left]
        self._begun = len(self.sources)

    def _tell_the_rest(self) -> None:
        for outgoing in self._open.values():
            error = CommandError("the answer was not waited for", 0)
            self._tolds.append(Told(outgoing.name, Fate.UNKNOWN, error=error))
        for source in self.sources[self._begun :]:
            error = CommandError("not begun", 0)
            self._tolds.append(Told(source.name, Fate.FAILED, error=error))


def _over_pool_of(count: int) -> Carry:
    """Send over a pool of so many connections."""

    def carry(target: Target, envelopes: Iterable[Envelope]) -> Iterator[SendOutcome]:
        with ConnectionPool(
            target, max_size=count, acquire_timeout=target.timeout, keepalive=None
        ) as pool:
            if count > 1:
                # Where there is no server, a thousand messages have one error.
                pool.warm(1)
            yield from pool.send_many(envelopes)

    return carry


def over_connection(target: Target, envelopes: Iterable[Envelope]) -> Iterator[SendOutcome]:
    """Send with BDAT, over a connection that is made anew when it was lost."""
    connection: SmtpConnection | None = None
    try:
        for envelope in envelopes:
            try:
                if connection is None or not connection.is_open:
                    connection = target.connect()
                yield _send_bdat(connection, envelope)
            except SmtpError as error:
                yield SendOutcome(envelope, None, error)
            except OSError as error:
                named = ValidationError(f"the message could not be read: {error}")
                yield SendOutcome(envelope, None, named)
    finally:
        if connection is not None:
            connection.take_leave()


def _send_bdat(connection: SmtpConnection, envelope: Envelope) -> SendOutcome:
    is_lmtp = connection.protocol is Protocol.LMTP
    send = (
        connection.send_lmtp_bdat_with_all_params
        if is_lmtp
        else connection.send_bdat_with_all_params
    )
    result = send(
        envelope.sender,
        envelope.recipients,
        envelope.message,
        envelope.mail_params,
        envelope.rcpt_params,
    )
    return SendOutcome(envelope, result, None)


def _try(target: Target, given: argparse.Namespace, files: Sequence[str], out: Output) -> Ending:
    """Go as far as a stage, and send nothing."""
    stage = given.quit_after
    tried: list[tuple[str, Json]] = []
    error: BaseException | None = None
    with transcript.Recorder(out.teller(given), keeps=False):
        try:
            accepted, refused = _go_to(target, stage, given, files, tried, out)
        except SmtpError as raised:
            error, accepted, refused = raised, 0, 0
            out.transcript_error(str(raised))
    result: dict[str, Json] = {
        "server": of_server(target),
        "quit_after": stage,
        "recipients": [{"recipient": path, "reply": reply} for path, reply in tried],
    }
    if error is None and refused:
        text = f"{refused} of {accepted + refused} recipients were refused"
        return Ending(Exit.SOME_REFUSED if accepted else Exit.RCPT, CommandError(text, 69), result)
    if error is None:
        out.line(f"{stage}: ok; nothing was sent", GOOD)
    return Ending.of(error, result)


def _go_to(
    target: Target,
    stage: str,
    given: argparse.Namespace,
    files: Sequence[str],
    tried: list[tuple[str, Json]],
    out: Output,
) -> tuple[int, int]:
    """How many recipients were accepted, and how many refused."""
    if stage == "connect":
        stages.knock(target)
        return 0, 0
    if stage not in ("mail", "rcpt"):
        stages.open_session(target, stage).quit()
        return 0, 0
    envelope = envelope_to_try(given, files)
    recipients = list(envelope.recipients) if stage == "rcpt" else []
    with target.connect() as connection:
        replies = connection.try_envelope(
            envelope.sender,
            recipients,
            envelope.mail_params,
            envelope.rcpt_params if recipients else None,
        )
    accepted = 0
    for path, reply in zip(recipients, replies, strict=True):
        accepted += reply.is_success
        tried.append((str(path), of_reply(reply)))
        out.row("accepted" if reply.is_success else "refused", f"{path}: {reply}",
                GOOD if reply.is_success else BAD)  # fmt: skip
    return accepted, len(replies) - accepted
