"""Bar charts as SVG, written by hand: no package, readable on light and on dark paper."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

WIDTH, LABEL, ROW = 740, 270, 30


def bars(title: str, unit: str, values: Sequence[tuple[str, float]]) -> str:
    """A chart with a horizontal bar for each name and value."""
    most = max(value for _, value in values)
    room = WIDTH - LABEL - 110
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {ROW * len(values) + 60}" '
        f'font-family="sans-serif" font-size="14" role="img" aria-label="{escape(title)}">',
        "<style>text{fill:#24292f}.bar{fill:#8c959f}.ours{fill:#0969da}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}</style>",
        f'<text x="8" y="24" font-weight="bold">{escape(title)}</text>',
    ]
    for row, (name, value) in enumerate(values):
        y = 44 + row * ROW
        length = max(2.0, room * value / most)
        kind = "bar ours" if name.startswith(("send", "pool.")) else "bar"
        parts += [
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="20" rx="3"/>',
            f'<text x="{LABEL + length + 6:.1f}" y="{y + 15}">{value:,.4g} {escape(unit)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
