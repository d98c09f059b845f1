"""The pictures of docs/architecture.md, as SVG: the layers, and a connection's life.

Every text stands on a ground of its own colour, so that a picture reads the same on white and on
dark paper, wherever it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from docs.generate.layers import LAYERS
from docs.generate.sources import ROOT, Sources

FOLDER = ROOT / "docs"

INK, FAINT, PAPER, LINE = "#1f2328", "#57606a", "#ffffff", "#57606a"
COLOURS = ("#ddf4ff", "#dafbe1", "#fff8c5", "#ffe7d6", "#fbefff", "#eaeef2")
WIDTH, MARGIN, GAP = 960, 16, 8


def pictures(sources: Sources | None = None) -> dict[str, str]:
    """The pictures, by file name."""
    found = layers(sources or Sources())
    return {"architecture-layers.svg": found, "architecture-life.svg": life()}


def layers(sources: Sources) -> str:
    """The layers from the top, with the modules of each."""
    parts: list[str] = []
    top = MARGIN
    for layer, colour in zip(LAYERS, COLOURS, strict=True):
        rows = list(_rows(layer.shown(sources)))
        height = 44 + len(rows) * 30
        parts.append(_box(MARGIN, top, WIDTH - 2 * MARGIN - 52, height, colour))
        parts.append(_text(MARGIN + 14, top + 24, layer.name, bold=True))
        parts.append(_text(MARGIN + 104, top + 24, layer.rule, colour=FAINT))
        for number, row in enumerate(rows):
            for left, width, name in row:
                parts.append(_box(left, top + 36 + number * 30, width, 24, PAPER, radius=12))
                middle = left + width / 2
                parts.append(_text(middle, top + 53 + number * 30, name, middle=True))
        top += height + GAP
    x = WIDTH - MARGIN - 20
    parts.append(_arrow([(x, MARGIN + 4), (x, top - GAP - 4)]))
    label = _text(0, 0, "imports run downwards only", middle=True, colour=FAINT)
    parts.append(f'<g transform="translate({x - 12} {top / 2}) rotate(-90)">{label}</g>')
    return _svg(WIDTH, top - GAP + MARGIN, "The layers of smtpconn, from the top", parts)


def _rows(modules: list[str]) -> Iterator[list[tuple[float, float, str]]]:
    """The modules as (left, width, name), row by row."""
    left, row = MARGIN + 14.0, list[tuple[float, float, str]]()
    for module in modules:
        name = module.removeprefix("dialogue.")
        width = 28 + 7.4 * len(name)
        if left + width > WIDTH - MARGIN - 66:
            yield row
            left, row = MARGIN + 14.0, []
        row.append((left, width, name))
        left += width + 6
    yield row


def life() -> str:
    """A connection of a pool: how it is made, lent, kept and given up."""
    return _svg(WIDTH, 570, "The life of a connection in a pool", [*_made(), *_states(), *_ways()])


def _made() -> Iterator[str]:
    yield _box(16, 16, 928, 122, COLOURS[3])
    yield _text(32, 42, "made", bold=True)
    note = "for a caller who is waiting; max_connecting at once, under one deadline"
    yield _text(104, 42, note, colour=FAINT)
    left = 32.0
    steps = ("resolve and race", "TCP or UNIX", "TLS", "EHLO", "STARTTLS, EHLO", "AUTH")
    for number, step in enumerate(steps):
        width = 24 + 7.6 * len(step)
        yield _box(left, 58, width, 28, PAPER, radius=14)
        yield _text(left + width / 2, 77, step, middle=True)
        if number:
            yield _arrow([(left - 22, 72), (left - 3, 72)])
        left += width + 25
    note = "TLS at once or by STARTTLS, as the URL says; AUTH if there are credentials"
    yield _text(32, 118, note, colour=FAINT)


def _states() -> Iterator[str]:
    for where, colour, (name, note, *lines) in (
        (
            (40, 208, 430, 150),
            COLOURS[1],
            (
                "lent",
                "to one caller, who stood first in line",
                "MAIL, RCPT, DATA or BDAT",
                "content, and the final reply: delivered, not, or unknown",
                "a refusal (4xx, 5xx) keeps it; RSET goes before the next",
            ),
        ),
        (
            (590, 208, 330, 150),
            COLOURS[0],
            (
                "idle",
                "the youngest is lent first",
                "silent for keepalive seconds: NOOP,",
                "at most 8 times in its life",
                "nobody holds it, no thread waits on it",
            ),
        ),
        (
            (40, 470, 880, 84),
            COLOURS[5],
            (
                "closed",
                "for good; the next caller gets another one",
                "the permit goes to the first who waits; stats().discards counts each reason",
            ),
        ),
    ):
        left, top, width, height = where
        yield _box(left, top, width, height, colour)
        yield _text(left + 16, top + 28, name, bold=True)
        yield _text(left + 76, top + 28, note, colour=FAINT)
        for number, line in enumerate(lines, 1):
            yield _text(left + 16, top + 34 + 26 * number, line)


def _ways() -> Iterator[str]:
    """From one state to another, and why."""
    yield _arrow([(240, 138), (240, 205)])
    yield _label(250, 176, ["to that caller"])
    yield _arrow([(470, 250), (587, 250)])
    yield _label(492, 240, ["given back"])
    yield _arrow([(590, 318), (473, 318)])
    yield _label(504, 308, ["one look:"])
    yield _label(492, 336, ["no round trip"])
    yield _arrow([(120, 358), (120, 467)])
    why = [
        "421, broken, out of time, interrupted, garbage;",
        "max_messages, max_lifetime; QUIT is said",
        "only to a server that is still in step",
    ]
    yield _label(130, 384, why)
    yield _arrow([(630, 358), (630, 467)])
    why = [
        "max_idle, max_lifetime: with QUIT",
        "dead, or 421, at the look or at a NOOP",
        "drain(), close(); a forked child forgets it",
    ]
    yield _label(640, 384, why)
    yield _arrow([(932, 138), (932, 518), (923, 518)])
    why = ["failed: the caller gets the error,", "the next in line is woken at once"]
    yield _label(660, 163, why)


def _label(left: float, top: float, lines: list[str]) -> str:
    return "".join(_text(left, top + 20 * n, line, colour=FAINT) for n, line in enumerate(lines))


def _svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'font-family="sans-serif" font-size="13.5" role="img" aria-label="{escape(title)}">'
    )
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        f'markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>'
    )
    ground = f'<rect width="{width:g}" height="{height:g}" rx="10" fill="#f6f8fa"/>'
    name = f"<title>{escape(title)}</title>"
    return "\n".join([head, name, marker, ground, *parts, "</svg>", ""])


def _box(x: float, y: float, width: float, height: float, fill: str, radius: float = 8) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
        f'fill="{fill}" stroke="#afb8c1"/>'
    )


def _text(
    x: float, y: float, text: str, *, bold: bool = False, middle: bool = False, colour: str = INK
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    anchor = ' text-anchor="middle"' if middle else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{weight}{anchor}>{escape(text)}</text>'


def _arrow(points: list[tuple[float, float]]) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5" '
        'marker-end="url(#tip)"/>'
    )
