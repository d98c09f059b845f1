"""``smtpconn send``: send messages, and report what happened to each of them.

Many messages are sent over a pool, which continues after failures and never delivers a message
twice; with ``--bdat`` they are sent one after the other over one connection. After Ctrl-C no
further message is begun, and the command waits for those in flight, because otherwise their outcome
would be unknown. After a second Ctrl-C it does not wait for them, and reports them as unknown.

With ``--quit-after`` no message is sent: `dry_run` goes as far as a stage of `smtpconn.cli.target`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import cast

from smtpconn.cli import options, results, transcript
from smtpconn.cli.exit_codes import (
    CommandError,
    CommandResult,
    ExitCode,
    Json,
    UsageError,
    reply_json,
    server_json,
)
from smtpconn.cli.messages import (
    MessageSource,
    OutgoingMessage,
    envelope_to_try,
    sources_of,
)
from smtpconn.cli.output import BAD, GOOD, Output
from smtpconn.cli.results import DeliveryStatus, MessageResult
from smtpconn.cli.target import (
    STAGES,
    Target,
    check_stage,
    connect_only,
    open_session,
    target_of,
)
from smtpconn.cli.transcript import Line
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.content import Message
from smtpconn.model.errors import SmtpError, ValidationError
from smtpconn.model.modes import Protocol
from smtpconn.model.results import Envelope, SendOutcome
from smtpconn.pool.bulk import Outcomes
from smtpconn.pool.connection_pool import ConnectionPool

CONNECTIONS = 4
"""The default for ``--connections`` without a transcript."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "words", nargs="*", metavar="[URL] [FILE ...]",
        help="a server, and messages as .eml files; - is standard input, which is also read "
        "without a file if it is not a terminal",
    )  # fmt: skip
    _add_envelope_options(parser)
    _add_message_options(parser)
    options.server(parser)
    group = parser.add_argument_group("sending")
    group.add_argument("--bdat", action="store_true", help="send with BDAT (one connection)")
    group.add_argument(
        "--connections", type=options.count, metavar="N",
        help=f"at most N connections (default: {CONNECTIONS}, with a transcript 1)",
    )  # fmt: skip
    group.add_argument(
        "-q", "--quit-after", choices=STAGES, metavar="STAGE",
        help=f"stop after {', '.join(STAGES)}; nothing is sent",
    )  # fmt: skip
    options.transcript(parser)
    parser.add_argument(
        "-n", "--suppress-data", action="store_true", help="no content in the transcript"
    )
    options.common(parser)


def _add_envelope_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("envelope (default: from the header of the message)")
    group.add_argument("-f", "--from", dest="sender", metavar="ADDRESS", help="'' is the null path")
    group.add_argument(
        "-t", "--to", action="append", default=[], metavar="ADDRESS[,...]", help="may be repeated"
    )
    group.add_argument("--dsn-notify", metavar="WHEN", help="never, or success,failure,delay")
    group.add_argument("--dsn-ret", type=str.upper, choices=["FULL", "HDRS"], metavar="full|hdrs")
    group.add_argument("--envid", metavar="ID", help="identifies the envelope in reports")


def _add_message_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("message")
    group.add_argument("-d", "--data", metavar="FILE|-", help="the whole message")
    group.add_argument(
        "--header", action="append", default=[], metavar="'NAME: TEXT'",
        help="of a composed message; also --h-NAME TEXT, such as --h-Subject hello",
    )  # fmt: skip
    group.add_argument("--body", metavar="TEXT|@FILE", help="of a composed message")
    group.add_argument("--attach", action="append", default=[], metavar="FILE")


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Send the messages that the options name, and report."""
    urls = [word for word in args.words if "://" in word]
    if len(urls) > 1:
        raise UsageError("there is more than one URL")
    args.url = urls[0] if urls else None
    files = [word for word in args.words if "://" not in word]
    target = target_of(args, out)
    check_stage(target, args.quit_after)
    if args.quit_after is not None:
        return dry_run(target, args, files, out)
    sources = sources_of(args, files)
    batch = BatchSender(sources, out)
    with contextlib.ExitStack() as stack:
        stack.enter_context(batch.handling_sigint())
        stack.callback(batch.close)
        stack.enter_context(_transcript(args, batch, out))
        count = args.connections or (1 if _has_transcript(args) else CONNECTIONS)
        count = min(count, len(sources))
        begun = time.monotonic()
        found = batch.send(target, over_connection if args.bdat else over_pool(count))
        return _report(target, batch, found, time.monotonic() - begun, out)


def _report(
    target: Target, batch: BatchSender, found: list[MessageResult], seconds: float, out: Output
) -> CommandResult:
    values: dict[str, Json] = {
        "server": server_json(target),
        "quit_after": None,
        **results.as_json(found, seconds),
    }
    result = results.command_result(found, values)
    if batch.was_interrupted:
        result = CommandResult(ExitCode.INTERRUPTED, KeyboardInterrupt(), values)
    try:
        results.show(found, out, seconds)
    except OSError:
        # Messages were sent, so an error of sending is reported rather than that of the report.
        if result.code is ExitCode.OK:
            raise
        for each in found:
            if each.status is DeliveryStatus.UNKNOWN:
                out.info(f"{each.status}: {each}")
    return result


def _has_transcript(args: argparse.Namespace) -> bool:
    return bool(args.verbose or args.show_time_lapse)


def _transcript(
    args: argparse.Namespace, batch: BatchSender, out: Output
) -> AbstractContextManager[object]:
    """The recorder that shows the SMTP session, and with a single message its content."""
    write = out.transcript_writer(args)
    if write is None:
        return contextlib.nullcontext()
    write_line = write

    def with_content(line: Line) -> None:
        write_line(line)
        if line.mark == "->" and line.text.endswith("<content>"):
            for text in batch.content():
                write_line(Line(line.at, line.connection, "->", text, line.under_tls))

    on_line = write if args.suppress_data or len(batch.sources) > 1 else with_content
    return transcript.Recorder(on_line, keeps=False)


# Many messages

SendMethod = Callable[[Target, Iterable[Envelope]], AbstractContextManager[Iterator[SendOutcome]]]
"""Connects to a server, and yields the outcomes of the envelopes that it takes and sends."""


class BatchSender:
    """Sends the messages of one run: opens each just before sending, and records its result.

    Every source gets exactly one result, however sending ends.

    Attributes:
        sources: the sources of the messages.
        was_interrupted: whether the user pressed Ctrl-C.
    """

    def __init__(self, sources: Sequence[MessageSource], out: Output) -> None:
        self.sources = sources
        self.was_interrupted = False
        self._out = out
        # The results by the index of the source, in the order in which they became known.
        self._results: dict[int, MessageResult] = {}
        # The messages in flight, by the id of their envelope, which may not be hashable.
        self._in_flight: dict[int, tuple[int, OutgoingMessage]] = {}
        # Held to begin a message, so that none is begun after the results are complete.
        self._lock = threading.Lock()
        self._outcomes: Iterator[SendOutcome] | None = None
        self._is_connecting = False
        self._is_waiting = False
        self._gives_up = False
        self._is_over = False

    def send(self, target: Target, method: SendMethod) -> list[MessageResult]:
        """Send all messages, continuing after failures; return a result for each source."""
        failure: SmtpError | None = None
        with self._out.progress(len(self.sources), "sending") as bar:
            try:
                with contextlib.ExitStack() as stack:
                    self._is_connecting = True
                    if self._is_stopping():
                        raise KeyboardInterrupt
                    outcomes = stack.enter_context(method(target, self._envelopes()))
                    self._outcomes = outcomes
                    self._is_connecting = False
                    if self.was_interrupted:
                        self._end_outcomes()
                    while (outcome := self._next(outcomes)) is not None:
                        self._add(outcome)
                        bar.advance()
            except SmtpError as error:
                failure = error
            except KeyboardInterrupt:
                self.was_interrupted = True
            finally:
                self._is_connecting = False
        if isinstance(self._outcomes, Outcomes):
            # The outcomes that are known without waiting: all, unless the user gave up.
            for outcome in self._outcomes.close(wait=False):
                self._add(outcome)
        with self._lock:
            self._is_over = True
            if failure is not None:
                self._fail_rest(failure)
            for index, message in self._in_flight.values():
                unknown = CommandError("the reply was not waited for", 0)
                status = DeliveryStatus.UNKNOWN
                self._results.setdefault(index, MessageResult(message.name, status, error=unknown))
            self._fail_rest(CommandError("not begun", 0), is_common=False)
            return list(self._results.values())

    @contextmanager
    def handling_sigint(self) -> Iterator[None]:
        """Let Ctrl-C stop the batch without losing a result.

        The first Ctrl-C raises nothing once messages are in flight. The second one ends the wait
        for them. Any further one is ignored, so that the report is complete; `main` restores the
        handler.
        """
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            # SIGINT is ignored, as in background jobs of a shell, or the program that calls `main`
            # handles it.
            yield
            return
        signal.signal(signal.SIGINT, lambda number, frame: self._on_sigint())
        try:
            yield
        finally:
            handler = signal.SIG_IGN if self.was_interrupted else signal.default_int_handler
            signal.signal(signal.SIGINT, handler)

    def _on_sigint(self) -> None:
        if not self.was_interrupted:
            self._stop()
            if self._is_connecting:
                raise KeyboardInterrupt  # nothing is in flight
            return
        if self._gives_up:
            return  # only one exception: a second one could interrupt recording the results
        self._gives_up = True
        if self._is_waiting:
            raise KeyboardInterrupt

    def _stop(self) -> None:
        self.was_interrupted = True
        self._end_outcomes()
        try:
            if not self._is_connecting:
                self._out.warning("interrupted: waiting for the messages in flight (Ctrl-C again "
                                  "gives up)")  # fmt: skip
        except RuntimeError:
            pass  # a signal came while this thread was writing to the same stream

    def _end_outcomes(self) -> None:
        """Make the pool begin no further message of those it has taken already."""
        if isinstance(self._outcomes, Outcomes):
            self._outcomes.stop()

    def _next(self, outcomes: Iterator[SendOutcome]) -> SendOutcome | None:
        """The next outcome; None after the last.

        Raises:
            KeyboardInterrupt: the user does not want to wait for it.
        """
        while True:
            try:
                # Set before `_gives_up` is read, so that a signal between the two raises.
                self._is_waiting = True
                if self._gives_up:
                    raise KeyboardInterrupt
                return next(outcomes, None)
            except KeyboardInterrupt:
                if self.was_interrupted:
                    raise
                self._stop()
            finally:
                self._is_waiting = False

    def content(self) -> Iterator[str]:
        """The lines of the messages in flight, except streamed ones."""
        for _, message in list(self._in_flight.values()):
            yield from (message.text or b"").decode("utf-8", "backslashreplace").splitlines()

    def close(self) -> None:
        """Close the files of the messages in flight."""
        for _, message in self._in_flight.values():
            message.close()

    def _envelopes(self) -> Iterator[Envelope]:
        for index, source in enumerate(self.sources):
            if self._is_stopping():
                return
            try:
                message = source.open()
            except (OSError, UsageError, SmtpError) as error:
                status = DeliveryStatus.FAILED
                self._results[index] = MessageResult(source.name, status, error=error)
                continue
            with self._lock:
                if self._is_stopping():
                    message.close()
                    return
                self._in_flight[id(message.envelope)] = (index, message)
            yield message.envelope

    def _is_stopping(self) -> bool:
        return self.was_interrupted or self._is_over

    def _add(self, outcome: SendOutcome) -> None:
        index, message = self._in_flight[id(outcome.envelope)]
        # After Ctrl-C, a message that was not begun is reported like those that were not opened.
        error = outcome.error
        is_left_out = self.was_interrupted and error is not None and error.never_begun
        if not is_left_out:
            self._results[index] = results.result_of(message, outcome)
        del self._in_flight[id(outcome.envelope)]
        message.close()
        if error is not None and not is_left_out:
            self._out.transcript_error(str(error))

    def _fail_rest(self, error: Exception, *, is_common: bool = True) -> None:
        """Give every source without a result this error; without ``is_common``, a copy of it."""
        known = {index for index, _ in self._in_flight.values()} | set(self._results)
        for index, source in enumerate(self.sources):
            if index not in known:
                mine = error if is_common else CommandError(str(error), 0)
                status = DeliveryStatus.FAILED
                self._results[index] = MessageResult(source.name, status, error=mine)


def over_pool(connections: int) -> SendMethod:
    """Send over a pool of at most ``connections`` connections."""

    @contextmanager
    def send(target: Target, envelopes: Iterable[Envelope]) -> Iterator[Iterator[SendOutcome]]:
        pool = ConnectionPool(target, max_size=connections, keepalive=None)
        try:
            if connections > 1:
                # If the server cannot be reached, this raises one error instead of one per message.
                pool.warm(1)
            # Not a generator: an interrupt would close it and lose the outcomes in flight.
            yield pool.send_many(envelopes)
        finally:
            pool.close(0)

    return send


@contextmanager
def over_connection(
    target: Target, envelopes: Iterable[Envelope]
) -> Iterator[Iterator[SendOutcome]]:
    """Send with BDAT over one connection, and over another one after that is lost."""
    outcomes = _send_in_turn(target, envelopes)
    try:
        yield outcomes
    finally:
        outcomes.close()


def _send_in_turn(
    target: Target, envelopes: Iterable[Envelope]
) -> Generator[SendOutcome, None, None]:
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
                unreadable = ValidationError(f"the message could not be read: {error}")
                yield SendOutcome(envelope, None, unreadable)
    finally:
        if connection is not None:
            connection.quit_nowait()


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
        cast("Message", envelope.message),
        envelope.mail_params,
        envelope.rcpt_params,
    )
    return SendOutcome(envelope, result, None)


# --quit-after


def dry_run(
    target: Target, args: argparse.Namespace, files: Sequence[str], out: Output
) -> CommandResult:
    """Run the session up to the stage of ``--quit-after``, report, and send no message."""
    stage = args.quit_after
    replies: list[tuple[str, Json]] = []
    error: BaseException | None = None
    with transcript.Recorder(out.transcript_writer(args), keeps=False):
        try:
            accepted, refused = _go_to_stage(target, stage, args, files, replies, out)
        except SmtpError as raised:
            error, accepted, refused = raised, 0, 0
            out.transcript_error(str(raised))
    values: dict[str, Json] = {
        "server": server_json(target),
        "quit_after": stage,
        "recipients": [{"recipient": path, "reply": reply} for path, reply in replies],
    }
    if error is None and refused:
        text = f"{refused} of {accepted + refused} recipients were refused"
        return CommandResult(
            ExitCode.SOME_REFUSED if accepted else ExitCode.RCPT,
            CommandError(text, os.EX_UNAVAILABLE),
            values,
        )
    if error is None:
        out.line(f"{stage}: ok; nothing was sent", GOOD)
    return CommandResult.of(error, values)


def _go_to_stage(
    target: Target,
    stage: str,
    args: argparse.Namespace,
    files: Sequence[str],
    replies: list[tuple[str, Json]],
    out: Output,
) -> tuple[int, int]:
    """Go to a stage; returns the numbers of accepted and of refused recipients."""
    if stage == "connect":
        connect_only(target)
        return 0, 0
    if stage not in ("mail", "rcpt"):
        open_session(target, stage).quit()
        return 0, 0
    envelope = envelope_to_try(args, files)
    recipients = list(envelope.recipients) if stage == "rcpt" else []
    with target.connect() as connection:
        found = connection.try_envelope(
            envelope.sender,
            recipients,
            envelope.mail_params,
            envelope.rcpt_params if recipients else None,
        )
    for path, reply in zip(recipients, found, strict=True):
        replies.append((str(path), reply_json(reply)))
        word, style = ("accepted", GOOD) if reply.is_success else ("refused", BAD)
        out.row(word, f"{path}: {reply}", style)
    accepted = sum(reply.is_success for reply in found)
    return accepted, len(found) - accepted
