"""Run ``smtpconn`` in this process, and get its exit code, output and JSON."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pytest

from smtpconn.cli import main

HEADER = "From: me@example.com\r\nTo: you@example.com\r\n"
MESSAGE = HEADER + "Subject: hello\r\n\r\nHello!\r\n.\r\n"


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run."""

    code: int
    out: str
    err: str

    @property
    def everything(self) -> str:
        """Standard output and standard error."""
        return self.out + self.err

    @property
    def object(self) -> dict[str, Any]:
        """The one JSON object, which has to be all of standard output."""
        assert self.out.count("\n") == 1
        found: dict[str, Any] = json.loads(self.out)
        assert found["exit"] == self.code
        assert found["ok"] == (self.code == 0)
        return found


class Runner:
    """Runs commands; see the fixture ``smtpconn``."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> RunResult:
        """Run a command to its end."""
        self._capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        ran = RunResult(code, captured.out, captured.err)
        assert "Traceback" not in ran.everything
        return ran


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        """Return True."""
        return True


class Input(io.TextIOWrapper):
    """Standard input with these bytes."""

    def __init__(self, content: bytes, *, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it claims to be a terminal."""
        return self._is_terminal
