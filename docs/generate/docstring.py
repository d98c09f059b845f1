"""A docstring as Markdown: paragraphs, the sections Args, Attributes, Raises and Yields, and links.

Names in single backticks become links where it is clear what they name; in double backticks they
are code. Nothing else is marked up in our docstrings, so nothing else is understood here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

Link: TypeAlias = Callable[[str], str | None]
"""Where a name leads, seen from the place where it stands; None if that is not clear."""

_SECTION = re.compile(r"(Args|Attributes|Raises|Yields)( \(.*\))?:$")
_HEADINGS = {"Args": "Arguments"}
_ITEM = re.compile(r"([\w., ]+?): (.*)", re.DOTALL)
_CODE = re.compile(r"``(.+?)``|`([^`]+)`")


def render(doc: str, link: Link) -> str:
    """The Markdown for a docstring.

    Args:
        doc: cleaned, as `ast.get_docstring` returns it.
        link: says where names in backticks lead.
    """
    blocks: list[str] = []
    lines = doc.splitlines()
    while lines:
        line = lines.pop(0)
        if section := _SECTION.match(line):
            body = []
            while lines and (not lines[0].strip() or lines[0].startswith("    ")):
                body.append(lines.pop(0)[4:])
            blocks.append(_section(section[1], section[2] or "", body, link))
        elif line.startswith("    "):
            block = [line]
            while lines and (not lines[0].strip() or lines[0].startswith("    ")):
                block.append(lines.pop(0))
            blocks.append("\n".join(block).rstrip())
        elif line.strip():
            kind = _bullet(line)
            paragraph = [line]
            while lines and lines[0].strip() and not _ends_paragraph(lines[0], kind):
                paragraph.append(lines.pop(0))
            blocks.append(inline(" ".join(paragraph), link))
    return "\n\n".join(blocks)


def inline(text: str, link: Link) -> str:
    """A piece of text: code and links, and everything else as it stands."""
    text, out, end = " ".join(text.split()), [], 0
    for found in _CODE.finditer(text):
        out.append(_plain(text[end : found.start()]))
        out.append(f"`{found[1]}`" if found[1] else named(found[2], link))
        end = found.end()
    return "".join(out) + _plain(text[end:])


def named(name: str, link: Link) -> str:
    """A name as code, and as a link if it is clear where it leads."""
    target = link(name)
    return f"`{name}`" if target is None else f"[`{name}`]({target})"


def first_sentence(doc: str) -> str:
    """What a docstring begins with, for lists."""
    paragraph = " ".join(doc.partition("\n\n")[0].split())
    return re.split(r"[.;:]?$|[.;] ", paragraph, maxsplit=1)[0]


def _bullet(line: str) -> bool:
    return line.startswith("* ")


def _ends_paragraph(line: str, in_list: bool) -> bool:
    return _bullet(line) or bool(_SECTION.match(line)) or (line.startswith("    ") and not in_list)


def _section(name: str, note: str, body: list[str], link: Link) -> str:
    heading = f"**{_HEADINGS.get(name, name)}**{note}"
    if name == "Yields":
        return f"{heading}: {inline(' '.join(body), link)}"
    return "\n".join([f"{heading}:", "", *(_item(name, item, link) for item in _items(body))])


def _items(body: list[str]) -> list[str]:
    items: list[str] = []
    for line in filter(str.strip, body):
        # A list of names may go on in the next line, before the colon.
        unfinished = items and ":" not in items[-1] and items[-1].endswith(",")
        if line.startswith("    ") or unfinished:
            items[-1] += " " + line.strip()
        else:
            items.append(line)
    return items


def _item(section: str, item: str, link: Link) -> str:
    found = _ITEM.match(item)
    if found is None:
        return f"* {inline(item, link)}"
    names = found[1].split(", ")
    shown = [named(n, link) if section == "Raises" else f"`{n}`" for n in names]
    return f"* {', '.join(shown)}: {inline(found[2], link)}"


def _plain(text: str) -> str:
    return re.sub(r"([<*])", r"\\\1", text)
