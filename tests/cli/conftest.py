"""Fixtures for the tests of the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpconn.testing import SmtpServer
from tests.support.command_runner import MESSAGE, Input, Runner


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the environment; standard input is empty."""
    for name in ("SMTPCONN_URL", "SMTPCONN_PASSWORD", "SMTPCONN_TOKEN", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdin", Input(b""))


@pytest.fixture
def smtpconn(capsys: pytest.CaptureFixture[str]) -> Runner:
    """Runs a command."""
    return Runner(capsys)


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that accepts every recipient except nobody@example.com."""
    with SmtpServer(recipient_known=lambda path: path != "nobody@example.com") as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Ten messages as files."""
    made = []
    for n in range(10):
        path = tmp_path / f"m{n}.eml"
        path.write_bytes(MESSAGE.replace("hello", f"number {n}").encode())
        made.append(str(path))
    return made
