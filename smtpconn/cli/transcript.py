"""The `smtpconn.wire` log as a transcript with swaks's marks, and as a clock for each step.

Rule: nothing here looks at the connection. What is shown is what the library logs, in which secrets
are left out by construction; there is no second implementation that could show more.

    ===  information         ***  an error
     ->  we say               ~>  we say, under TLS
    <-   the server says     <~   the server says, under TLS
    <**  the server refuses  <~*  the server refuses, under TLS
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.replies import SmtpResponse

_LINE = re.compile(r"#(\d+) (->|<-|==) (.*)", re.DOTALL)
_CONNECTED = re.compile(r"#(\d+) (\S+): connected")
_REFUSAL = re.compile(r"[45]\d\d")
_LAST_LINE = re.compile(r"\d\d\d(?!-)")

_LOGGERS = ("smtpconn.wire", "smtpconn.connection")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log.

    Attributes:
        at: when (monotonic clock).
        connection: the connection's number.
        mark: ``->``, ``<-``, or ``==`` for what happens to the connection itself.
        text: what was said.
        under_tls: whether TLS was on.
    """

    at: float
    connection: int
    mark: str
    text: str
    under_tls: bool

    @property
    def is_refusal(self) -> bool:
        """Whether it belongs to a 4xx or 5xx reply."""
        return self.mark == "<-" and _REFUSAL.match(self.text) is not None

    @property
    def ends_reply(self) -> bool:
        """Whether it is the last line of a reply."""
        return self.mark == "<-" and _LAST_LINE.match(self.text) is not None

    def __str__(self) -> str:
        if self.mark == "==":
            return f"=== {self.text}"
        if self.mark == "->":
            return f" {'~' if self.under_tls else '-'}> {self.text}".rstrip()
        if self.is_refusal:
            return f"<{'~*' if self.under_tls else '**'} {self.text}"
        return f"<{'~' if self.under_tls else '-'}  {self.text}"


class Recorder(logging.Handler):
    """Listens to the wire log while its ``with`` block runs.

    Args:
        tell: called with each line, in the thread of the connection; None to only keep them.
        keeps: whether to keep them in ``lines``.
    """

    def __init__(self, tell: Callable[[Line], None] | None = None, *, keeps: bool = True) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[Line] = []
        self._tell = tell
        self._keeps = keeps
        self._tls: set[int] = set()
        self._before: list[tuple[logging.Logger, int, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Turn a record into a line; what is no line of a dialogue is left out."""
        line = self._read(record.getMessage())
        if line is None:
            return
        if self._keeps:
            self.lines.append(line)
        try:
            if self._tell is not None:
                self._tell(line)
        except OSError:
            # Nobody reads it any more, which is no reason to tear off what is being said.
            self._tell = None

    def _read(self, message: str) -> Line | None:
        now = time.monotonic()
        if found := _CONNECTED.fullmatch(message):
            return Line(now, int(found[1]), "==", f"Connected to {found[2]}.", False)
        found = _LINE.fullmatch(message)
        if found is None or found[3] == "<greeting>":
            return None
        number, mark, text = int(found[1]), found[2], found[3]
        if mark == "==":
            self._tls.add(number)
        return Line(now, number, mark, text, number in self._tls)

    def __enter__(self) -> Self:
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            self._before.append((logger, logger.level, logger.propagate))
            logger.setLevel(logging.DEBUG)
            logger.propagate = False
            logger.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for logger, level, propagate in self._before:
            logger.removeHandler(self)
            logger.setLevel(level)
            logger.propagate = propagate
        self._before.clear()


@dataclass(frozen=True, slots=True)
class Steps:
    """How long the steps of opening a session took, in seconds; None for what did not happen.

    Attributes:
        connect: until there was a connection, the name's resolution included.
        banner: from there until the server had greeted.
        ehlo: of the last EHLO.
        tls: the handshake, with STARTTLS where it was said.
        login: from AUTH to its answer.
    """

    connect: float | None = None
    banner: float | None = None
    ehlo: float | None = None
    tls: float | None = None
    login: float | None = None


def steps(lines: list[Line], begun: float) -> Steps:
    """Read the steps of the first connection off its lines.

    Args:
        lines: of the log.
        begun: when connecting began (monotonic clock).
    """
    if not lines:
        return Steps()
    mine = [line for line in lines if line.connection == lines[0].connection]
    connected = mine[0].at
    secured = next((n for n, line in enumerate(mine) if n and line.mark == "=="), None)
    greeted = _answer_at(mine, 0)
    tls = None
    if secured is not None:
        # With STARTTLS from when it was said, else from when there was a connection.
        tls = mine[secured].at - next(
            (line.at for line in mine[:secured] if line.text == "STARTTLS"), connected
        )
    is_implicit = secured == 1
    return Steps(
        connect=connected - begun,
        banner=None if greeted is None else greeted - mine[1 if is_implicit else 0].at,
        ehlo=_duration(mine, ("EHLO ", "LHLO ", "HELO ")),
        tls=tls,
        login=_duration(mine, ("AUTH ",), until="2"),
    )


def greeting(lines: list[Line]) -> list[str]:
    """The banner, line by line."""
    found: list[str] = []
    for line in lines:
        if line.mark == "->":
            break
        if line.mark == "<-":
            found.append(line.text)
    return found


def capabilities(lines: list[Line]) -> ServerCapabilities | None:
    """What the server answered to the last EHLO or LHLO; None if it was no 250."""
    said = [n for n, line in enumerate(lines) if line.text.startswith(("EHLO ", "LHLO "))]
    if not said:
        return None
    reply = [line.text for line in lines[said[-1] :] if line.mark == "<-"]
    last = next((n for n, text in enumerate(reply) if _LAST_LINE.match(text)), None)
    if last is None or not reply[0].startswith("250"):
        return None
    texts = tuple(text[4:] for text in reply[: last + 1])
    return ServerCapabilities.from_ehlo(SmtpResponse(250, texts))


def mechanism(lines: list[Line]) -> str | None:
    """The mechanism of the last login."""
    said = [line.text.split() for line in lines if line.mark == "->"]
    names = [words[1] for words in said if words[0] == "AUTH" and len(words) > 1]
    return names[-1] if names else None


def _answer_at(lines: list[Line], index: int, until: str = "") -> float | None:
    """When the next reply behind a line was complete that begins with ``until``."""
    answers = (line for line in lines[index + 1 :] if line.ends_reply)
    return next((line.at for line in answers if line.text.startswith(until)), None)


def _duration(lines: list[Line], verbs: tuple[str, ...], until: str = "") -> float | None:
    """How long the last command of these took."""
    said = [n for n, line in enumerate(lines) if line.mark == "->" and line.text.startswith(verbs)]
    if not said:
        return None
    answered = _answer_at(lines, said[-1], until)
    return None if answered is None else answered - lines[said[-1]].at
