"""The table that `python -m benchmarks` prints, and its place in docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.charts import bars
from benchmarks.machine import description

DOCS = Path(__file__).parent.parent / "docs"
NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    Attributes:
        what: what is measured.
        goal: "" for a line that is there for comparison.
        found: the figure.
        is_reached: whether the goal is.
        floor: what bounds the figure: time that no client can save.
    """

    what: str
    goal: str
    found: str
    is_reached: bool
    floor: str = ""

    @property
    def verdict(self) -> str:
        """What the table says of the goal."""
        return "" if self.is_reached or self.found == NOT_MEASURED else "not reached"


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars, one for each name; ``file`` is a part of its file's name."""

    file: str
    title: str
    unit: str
    values: Mapping[str, float]


def at_least(what: str, value: float, goal: float, floor: str = "") -> Row:
    """A row whose goal is a lower bound."""
    return Row(what, f">= {goal:g}", f"{value:.2f}", value >= goal, floor)


def at_most(what: str, value: float | None, goal: float, floor: str = "") -> Row:
    """A row whose goal is an upper bound; None for what could not be measured."""
    if value is None:
        return Row(what, f"<= {goal:g}", NOT_MEASURED, False, floor)
    digits = 3 if goal < 0.1 else 2
    return Row(what, f"<= {goal:g}", f"{value:.{digits}f}", value <= goal, floor)


def compared(what: str, found: str, floor: str = "") -> Row:
    """A row that has no goal."""
    return Row(what, "", found, True, floor)


def write(rows: Iterable[Row], charts: Iterable[Chart]) -> None:
    """Write the figures between the marks of docs/performance.md, and the charts beside it."""
    page = (DOCS / "performance.md").read_text()
    head, mark, rest = page.partition("<!-- figures -->")
    _, end, tail = rest.partition("<!-- end of figures -->")
    lines = ["", "", f"{description()}:", ""]
    lines += ["| | goal | found | | bounded by |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.what} | {row.goal} | {row.found} | {row.verdict} | {row.floor} |" for row in rows
    ]
    for chart in charts:
        file = f"performance-{chart.file}.svg"
        (DOCS / file).write_text(bars(chart.title, chart.unit, list(chart.values.items())))
        lines += ["", f"![{chart.title}]({file})"]
    (DOCS / "performance.md").write_text(head + mark + "\n".join([*lines, "", ""]) + end + tail)
