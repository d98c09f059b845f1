"""Standard output and standard error, with colours by `rich` on a terminal.

* Everything that a command writes goes through one `Output`, which removes secrets, and escapes
  control characters that a server sends.
* Without `rich`, without a terminal or with NO_COLOR the text is the same, without colours.
* With ``--json`` standard output has one JSON object and nothing else; the transcript goes to
  standard error, and the report for people is left out.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from smtpconn.cli.exit_codes import Json
from smtpconn.cli.secrets import Secrets
from smtpconn.cli.transcript import Line
from smtpconn.model.replies import printable

if TYPE_CHECKING:
    from rich.console import Console

GOOD, BAD, WARNING, FAINT, HEADING = "green", "bold red", "yellow", "dim", "bold"


class Progress(Protocol):
    """A progress bar, or its replacement."""

    def advance(self) -> None:
        """Count one more as done."""


class Output:
    """Standard output and standard error of one run.

    Args:
        as_json: whether standard output is reserved for one JSON object.
        stdout, stderr: where to write; None for the streams of the process.

    Attributes:
        secrets: the secrets that are removed from every line.
        as_json: whether ``--json`` was given.
        is_stdout_broken: whether writing to standard output has failed.
    """

    def __init__(
        self, *, as_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self.secrets = Secrets()
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._consoles = {id(f): _console(f) for f in (self._stdout, self._stderr)}
        self.is_stdout_broken = False
        self._shows_session = False
        self._last_sent = 0.0

    def line(self, text: str = "", style: str = "") -> None:
        """Write a line for people on standard output.

        Raises:
            OSError: standard output cannot be written to; `BrokenPipeError` if its reader is gone.
        """
        if not self.as_json:
            self._write(self._stdout, text, style)

    def row(self, name: str, text: str, style: str = "") -> None:
        """Write a line of a report: a name and a value."""
        self.line(f"{name:<13} {text}".rstrip(), style)

    def info(self, text: str) -> None:
        """Write a line about what the command does on standard error; never raises `OSError`."""
        self._write(self._stderr, text, "")

    def warning(self, text: str) -> None:
        """Write a warning on standard error."""
        self._write(self._stderr, f"smtpconn: warning: {text}", WARNING)

    def error(self, text: str) -> None:
        """Write an error in one line on standard error."""
        self._write(self._stderr, f"smtpconn: {text}", BAD)

    def object(self, value: Mapping[str, Json]) -> None:
        """Write a JSON object in one line, if ``--json`` was given."""
        if self.as_json:
            text = json.dumps(_without_secrets(value, self.secrets), ensure_ascii=True)
            self._print(self._stdout, lambda: print(text, file=self._stdout, flush=True))

    def transcript_writer(self, args: argparse.Namespace) -> Callable[[Line], None] | None:
        """The function that writes a line of the transcript; None if no option asks for one."""
        self._shows_session = bool(args.verbose or args.show_time_lapse)
        if args.show_time_lapse:
            return functools.partial(self.transcript, with_lapse=True)
        return self.transcript if args.verbose else None

    def transcript(self, line: Line, *, with_lapse: bool = False) -> None:
        """Write a line of the SMTP session."""
        file = self._stderr if self.as_json else self._stdout
        style = BAD if line.is_refusal else FAINT if line.mark == "==" else ""
        self._write(file, str(line), style)
        if line.ends_reply and with_lapse and self._last_sent:
            self._write(file, f"=== response in {line.at - self._last_sent:.6f}s", FAINT)
        if line.mark != "<-" or line.ends_reply:
            self._last_sent = line.at

    def transcript_error(self, text: str) -> None:
        """Write the error that ended an SMTP session, if a transcript is shown; no `OSError`."""
        if self._shows_session:
            try:
                self._write(self._stderr if self.as_json else self._stdout, f"*** {text}", BAD)
            except OSError:
                pass  # `send` continues after errors, also without a transcript

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Progress]:
        """Show a progress bar on standard error, if that is a terminal."""
        console = self._consoles[id(self._stderr)]
        if total < 2 or not _is_terminal(self._stderr):
            yield _NoProgress()
        elif console is None:
            counter = _Counter(self._stderr, total, what)
            yield counter
            counter.end()
        else:
            with _rich_progress(console, total, what) as bar:
                yield bar

    def _write(self, file: TextIO, text: str, style: str) -> None:
        text = printable(self.secrets.hide(text))
        console = self._consoles[id(file)]
        if console is None:
            self._print(file, lambda: print(_encodable(text, file), file=file, flush=True))
        else:
            self._print(file, lambda: console.print(text, style=style or None, soft_wrap=True))

    def _print(self, file: TextIO, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if file is self._stderr:
                return  # an error of standard error cannot be reported
            self.is_stdout_broken = True
            if isinstance(error, BrokenPipeError):
                raise
            raise OSError(error.errno, error.strerror, "standard output") from error


def milliseconds(seconds: float) -> str:
    """Format a duration, with three significant digits below 100 ms."""
    value = seconds * 1000
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} ms"


def size(number: int) -> str:
    """Format a number of bytes in decimal units."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} bytes"


def _without_secrets(value: Json, secrets: Secrets) -> Json:
    if isinstance(value, str):
        return secrets.hide(value)
    if isinstance(value, Mapping):
        return {name: _without_secrets(each, secrets) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(each, secrets) for each in value]
    return value


def _encodable(text: str, file: TextIO) -> str:
    """Escape characters that the encoding of the stream does not have."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _is_terminal(file: TextIO) -> bool:
    return file.isatty() and os.environ.get("TERM") != "dumb"


def _console(file: TextIO) -> Console | None:
    """A console of `rich`; None for plain text."""
    if not _is_terminal(file) or os.environ.get("NO_COLOR"):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=file, markup=False, highlight=False, emoji=False)


class _NoProgress:
    def advance(self) -> None:
        """Show nothing."""


class _Counter:
    """Plain progress: a number that is overwritten."""

    def __init__(self, file: TextIO, total: int, what: str) -> None:
        self._file, self._total, self._what, self._done = file, total, what, 0

    def advance(self) -> None:
        self._done += 1
        self._write(f"\r{self._what} {self._done}/{self._total}")

    def end(self) -> None:
        self._write("\n")

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError:
            pass  # standard error is closed, so nobody sees the progress


@contextmanager
def _rich_progress(console: Console, total: int, what: str) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=total)

        class Advance:
            def advance(self) -> None:
                bar.advance(task)

        yield Advance()
