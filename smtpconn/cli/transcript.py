"""The log `smtpconn.wire` as a transcript with swaks's marks, and as the times of each step.

The transcript shows what the library logs, and the library never logs a secret.

    ===  information         ***  an error
     ->  client               ~>  client, under TLS
    <-   server              <~   server, under TLS
    <**  refusal             <~*  refusal, under TLS
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
        at: the time (monotonic clock).
        connection: the connection's number.
        mark: ``->`` for the client, ``<-`` for the server, ``==`` for the connection itself.
        text: the line.
        under_tls: whether it was sent under TLS.
    """

    at: float
    connection: int
    mark: str
    text: str
    under_tls: bool

    @property
    def is_refusal(self) -> bool:
        """Whether it is part of a 4xx or 5xx reply."""
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
    """Records the wire log during its ``with`` block.

    Args:
        on_line: called with each line, in the thread of the connection; None to only keep them.
        keeps: whether to keep the lines in ``lines``.
    """

    def __init__(
        self, on_line: Callable[[Line], None] | None = None, *, keeps: bool = True
    ) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[Line] = []
        self._on_line = on_line
        self._keeps = keeps
        self._tls: set[int] = set()
        self._before: list[tuple[logging.Logger, int, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Turn a record into a line; skip records that are not part of the SMTP session."""
        line = self._read(record.getMessage())
        if line is None:
            return
        if self._keeps:
            self.lines.append(line)
        try:
            if self._on_line is not None:
                self._on_line(line)
        except OSError:
            # The reader of the output has ended. The SMTP session continues without a transcript.
            self._on_line = None

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
    """Seconds that each step of opening a session took; None for a step that did not happen.

    Attributes:
        connect: resolving the name and connecting.
        banner: from the connection to the end of the greeting.
        ehlo: the last EHLO.
        tls: the handshake, and STARTTLS before it.
        login: from AUTH to the final reply.
    """

    connect: float | None = None
    banner: float | None = None
    ehlo: float | None = None
    tls: float | None = None
    login: float | None = None


def steps(lines: list[Line], begun: float) -> Steps:
    """The steps of the first connection.

    Args:
        lines: the lines of the log.
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
        # From STARTTLS if it was sent, else from the connection.
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


def banner(lines: list[Line]) -> list[str]:
    """The lines of the greeting, for a session that failed; see `SmtpConnection.greeting`."""
    found: list[str] = []
    for line in lines:
        if line.mark == "->":
            break
        if line.mark == "<-":
            found.append(line.text)
    return found


def capabilities(lines: list[Line]) -> ServerCapabilities | None:
    """The reply to the last EHLO or LHLO; None if it was not a 250."""
    sent = [n for n, line in enumerate(lines) if line.text.startswith(("EHLO ", "LHLO "))]
    if not sent:
        return None
    reply = [line.text for line in lines[sent[-1] :] if line.mark == "<-"]
    last = next((n for n, text in enumerate(reply) if _LAST_LINE.match(text)), None)
    if last is None or not reply[0].startswith("250"):
        return None
    texts = tuple(text[4:] for text in reply[: last + 1])
    return ServerCapabilities.from_ehlo(SmtpResponse(250, texts))


def _answer_at(lines: list[Line], index: int, until: str = "") -> float | None:
    """When the next reply after a line was complete that begins with ``until``."""
    answers = (line for line in lines[index + 1 :] if line.ends_reply)
    return next((line.at for line in answers if line.text.startswith(until)), None)


def _duration(lines: list[Line], verbs: tuple[str, ...], until: str = "") -> float | None:
    """Seconds from the last command with one of these verbs to its reply."""
    sent = [n for n, line in enumerate(lines) if line.mark == "->" and line.text.startswith(verbs)]
    if not sent:
        return None
    answered = _answer_at(lines, sent[-1], until)
    return None if answered is None else answered - lines[sent[-1]].at
