"""What users see of the types: their programs, and those of the documents, pass mypy --strict."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages.page import ROOT, blocks, documents

# Packages that pages show and that have no types; no fault of a page.
FOREIGN = ("import-untyped", "import-not-found", "untyped-decorator")

GOOD = """
from collections.abc import Iterator
from email.message import EmailMessage, Message
from email.mime.text import MIMEText

from smtpconn import (
    ConnectionPool,
    Envelope,
    ForwardPath,
    LmtpSendResult,
    SendOutcome,
    SendResult,
    SmtpConnection,
    SmtpError,
)


def send(pool: ConnectionPool, connection: SmtpConnection, letter: EmailMessage) -> None:
    result: SendResult = pool.send("me@example.com", {"you@example.net"}, b"x")
    print(result.response.code, result.accepted, result.refused)
    print("you@example.net" in result.accepted_recipients)
    reply = result.refused["you@example.net"]
    print(reply.lines)
    if isinstance(result, LmtpSendResult):
        print([each.delivered for each in result.results])
    for recipients in ("a@x", ["a@x"], ("a@x", ForwardPath("b@x")), {"a@x"}, {"a@x": 1}.keys()):
        pool.send("me@example.com", recipients, b"x")
        pool.send("me@example.com", (each for each in ["a@x"]), b"x")
    old: Message = MIMEText("x")
    print(pool.send_message(letter).response, connection.send_message(old).response)


def many(pool: ConnectionPool, connection: SmtpConnection, letters: list[EmailMessage]) -> None:
    envelopes = [Envelope("me@example.com", ["you@example.net"], b"x")]
    envelopes += [Envelope.from_message(letter) for letter in letters]
    envelopes += [Envelope.from_message(MIMEText("x"), "me@example.com", ["you@example.net"])]
    for outcomes in (pool.send_many(envelopes), connection.send_many(letters)):
        for outcome in outcomes:
            if outcome.error is None:
                print(outcome.result.response.code)
            else:
                print(outcome.error.phase)
            tell(outcome)


def tell(outcome: SendOutcome) -> SmtpError | None:
    if outcome.result is not None:
        print(outcome.result.accepted)
    return outcome.error


def mixed(letters: list[EmailMessage]) -> Iterator[Envelope | EmailMessage]:
    yield from letters
    yield Envelope("", ["you@example.net"], b"x")


def send_mixed(pool: ConnectionPool, letters: list[EmailMessage]) -> None:
    for outcome in pool.send_many(mixed(letters), timeout=5):
        print(outcome.envelope.sender)
"""

BAD = {
    "no text for a message": 'pool.send("a@x", "b@x", "text")',
    "no list of messages for one": "pool.send_message([])",
    "no bytes among envelopes": 'pool.send_many([b"x"])',
    "no addresses that are numbers": 'pool.send("a@x", [1], b"x")',
    "an error before the result": "[o.result.response for o in pool.send_many([])]",
}


def mypy(*paths: Path) -> list[str]:
    """Check programs as users would; the lines of the report."""
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary",
            "--scripts-are-modules", f"--cache-dir={paths[0].parent / 'cache'}",
            *(f"--disable-error-code={code}" for code in FOREIGN), *map(str, paths),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def programs(page: Path) -> Iterator[str]:
    """The blocks of a page one behind the other, each at its own lines.

    A block that imports a name from elsewhere than one before it ("before", "after") begins another
    program, which has the imports of the others.
    """
    text = page.read_text()
    lines: list[str] = []
    imports: dict[str, str] = {}
    for block in blocks(text):
        if block.label != "python":
            continue
        here = dict(imported(block.code))
        if any(imports.get(name, line) != line for name, line in here.items()):
            yield "\n".join(lines)
            lines = [*{imports[name]: 0 for name in imports if name not in here}]
        imports |= here
        lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    if lines:
        yield "\n".join(lines)


def imported(code: str) -> Iterator[tuple[str, str]]:
    """The names that a program imports, and how."""
    for node in ast.parse(code).body:
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            known_as = alias.asname or alias.name
            origin = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            renamed = f" as {alias.asname}" if alias.asname else ""
            yield known_as, f"{origin}import {alias.name}{renamed}"


@pytest.mark.timeout(120)
def test_the_programs_of_the_documents(tmp_path: Path) -> None:
    """Every block of Python of README.md and docs/ passes mypy --strict as one would write it."""
    files = []
    for page in documents():
        for number, program in enumerate(programs(page)):
            name = "_".join(page.relative_to(ROOT).with_suffix("").parts)
            files.append(tmp_path / f"{name}_{number}.py")
            files[-1].write_text(program + "\n")
    assert len(files) > 10
    report = mypy(*files)
    assert report == [], "\n".join(report)


@pytest.mark.timeout(120)
def test_the_programs_of_users(tmp_path: Path) -> None:
    """A result is a `SendResult`; without an error there is one; recipients may be any iterable."""
    file = tmp_path / "good.py"
    file.write_text(GOOD)
    assert mypy(file) == []


@pytest.mark.timeout(120)
def test_mistakes_are_found(tmp_path: Path) -> None:
    """What cannot work is told by the types."""
    head = "from smtpconn import ConnectionPool\n\n\ndef f(pool: ConnectionPool) -> None:\n"
    for number, line in enumerate(BAD.values()):
        (tmp_path / f"bad_{number}.py").write_text(f"{head}    {line}\n")
    report = mypy(*sorted(tmp_path.glob("bad_*.py")))
    for number, what in enumerate(BAD):
        assert any(f"bad_{number}.py:5: error" in line for line in report), what
