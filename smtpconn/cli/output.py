"""Where text goes, and how it looks: by `rich` where there is a terminal and the package, or plain.

Rule 1: everything a command writes goes through one `Output`, which takes secrets out and keeps
        escape sequences of servers from the terminal.
Rule 2: without `rich`, without a terminal or with NO_COLOR the words are the same.
Rule 3: with ``--json`` nothing but the object goes to standard output; people's text is left out,
        and the transcript goes to standard error.
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

from smtpconn.cli.asjson import Json
from smtpconn.cli.secrets import Secrets
from smtpconn.cli.transcript import Line
from smtpconn.model.replies import printable

if TYPE_CHECKING:
    from rich.console import Console

GOOD, BAD, DOUBTFUL, FAINT, HEAD = "green", "bold red", "yellow", "dim", "bold"


class Progress(Protocol):
    """A progress bar, or what stands in for it."""

    def advance(self) -> None:
        """One more is done."""


class Output:
    """Standard output and standard error of one run.

    Args:
        as_json: whether standard output is for one JSON object.
        stdout, stderr: None for the process's own.

    Attributes:
        secrets: what is never written.
        as_json: as given.
    """

    def __init__(
        self, *, as_json: bool = False, stdout: TextIO | None = None, stderr: TextIO | None = None
    ) -> None:
        self.as_json = as_json
        self.secrets = Secrets()
        self._stdout = sys.stdout if stdout is None else stdout
        self._stderr = sys.stderr if stderr is None else stderr
        self._consoles = {id(f): _console(f) for f in (self._stdout, self._stderr)}
        self._shows_dialogue = False
        self._last_said = 0.0

    def line(self, text: str = "", style: str = "") -> None:
        """A line for people, on standard output."""
        if not self.as_json:
            self._write(self._stdout, text, style)

    def row(self, name: str, text: str, style: str = "") -> None:
        """A line of a report: a name, and what is known of it."""
        self.line(f"{name:<13} {text}".rstrip(), style)

    def info(self, text: str) -> None:
        """A line about what is going on, on standard error."""
        self._write(self._stderr, text, "")

    def warning(self, text: str) -> None:
        """A warning, on standard error."""
        self._write(self._stderr, f"smtpconn: warning: {text}", DOUBTFUL)

    def error(self, text: str) -> None:
        """Why it did not work, on standard error, in one line."""
        self._write(self._stderr, f"smtpconn: {text}", BAD)

    def object(self, value: Mapping[str, Json]) -> None:
        """A JSON object in one line, if that is what is wanted."""
        if self.as_json:
            text = json.dumps(_without_secrets(value, self.secrets), ensure_ascii=True)
            print(text, file=self._stdout, flush=True)

    def teller(self, args: argparse.Namespace) -> Callable[[Line], None] | None:
        """What to tell each line of the dialogue, if the options ask for a transcript."""
        self._shows_dialogue = bool(args.verbose or args.show_time_lapse)
        if args.show_time_lapse:
            return functools.partial(self.transcript, with_lapse=True)
        return self.transcript if args.verbose else None

    def transcript(self, line: Line, *, with_lapse: bool = False) -> None:
        """A line of the dialogue."""
        file = self._stderr if self.as_json else self._stdout
        style = BAD if line.is_refusal else FAINT if line.mark == "==" else ""
        self._write(file, str(line), style)
        if line.ends_reply and with_lapse and self._last_said:
            self._write(file, f"=== response in {line.at - self._last_said:.6f}s", FAINT)
        if line.mark != "<-" or line.ends_reply:
            self._last_said = line.at

    def transcript_error(self, text: str) -> None:
        """The error that ended a dialogue, in its transcript if there is one."""
        if self._shows_dialogue:
            self._write(self._stderr if self.as_json else self._stdout, f"*** {text}", BAD)

    @contextmanager
    def progress(self, total: int, what: str) -> Iterator[Progress]:
        """A progress bar on standard error, where that is a terminal."""
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
            print(_encodable(text, file), file=file, flush=True)
        else:
            console.print(text, style=style or None, soft_wrap=True)


def _without_secrets(value: Json, secrets: Secrets) -> Json:
    if isinstance(value, str):
        return secrets.hide(value)
    if isinstance(value, Mapping):
        return {name: _without_secrets(each, secrets) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(each, secrets) for each in value]
    return value


def _encodable(text: str, file: TextIO) -> str:
    """What a terminal in an old encoding cannot show is escaped; it is no reason to fail."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _is_terminal(file: TextIO) -> bool:
    return file.isatty() and os.environ.get("TERM") != "dumb"


def _console(file: TextIO) -> Console | None:
    """A console of `rich`; None where plain text is right."""
    if not _is_terminal(file) or os.environ.get("NO_COLOR"):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=file, markup=False, highlight=False, emoji=False)


class _NoProgress:
    def advance(self) -> None:
        """Nobody looks."""


class _Counter:
    """Plain progress: a number that is written over."""

    def __init__(self, file: TextIO, total: int, what: str) -> None:
        self._file, self._total, self._what, self._done = file, total, what, 0

    def advance(self) -> None:
        self._done += 1
        self._file.write(f"\r{self._what} {self._done}/{self._total}")
        self._file.flush()

    def end(self) -> None:
        self._file.write("\n")
        self._file.flush()


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
