"""The contents of a page: blocks of Python, their expected output, and hidden checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent.parent

_PIECE = re.compile(
    r"^(?P<indent> *)```(?P<label>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$"
    r"|^<!-- check\n(?P<check>.*?)^-->$",
    re.DOTALL | re.MULTILINE,
)
_PRINTS = re.compile(r"\s*prints:?\s*```(?:text)?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block, or a hidden check.

    Attributes:
        label: the language, such as ``python``; ``check`` for a hidden one.
        code: its contents.
        line: the number of its first line, from 1.
        prints: the output that the page shows for it; None if it shows none.
    """

    label: str
    code: str
    line: int
    prints: str | None = None

    @property
    def is_run(self) -> bool:
        """Whether it is a part of the page's program."""
        return self.label in ("python", "check")


def documents() -> list[Path]:
    """Every document of the project."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a page, in their order."""
    for found in _PIECE.finditer(text):
        label = "check" if found["label"] is None else found["label"].strip()
        code = found["check"] if found["label"] is None else found["code"]
        start = found.start("check" if found["label"] is None else "code")
        promise = _PRINTS.match(text, found.end())
        yield Block(
            label,
            re.sub(rf"^{found['indent'] or ''}", "", code, flags=re.MULTILINE),
            text.count("\n", 0, start) + 1,
            promise[1] if promise and label == "python" else None,
        )


def is_as_promised(printed: str, promised: str) -> bool:
    """Whether an output is the one a page shows, in which ``...`` stands for anything."""
    pattern = ".*".join(map(re.escape, promised.strip().split("...")))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
