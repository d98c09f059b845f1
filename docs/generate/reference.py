"""The pages of docs/reference/: every public name with its signature and its docstring.

Rule: which page a name is on follows from the module that defines it, so a new name finds its place
by itself; a new module of smtpconn gets a page of its own until it is given one in `PAGES`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from docs.generate import stubs
from docs.generate.docstring import Link, first_sentence, inline, named, render
from docs.generate.sources import ROOT, Entry, Function, Member, Module, Sources, types_in

FOLDER = ROOT / "docs" / "reference"

PAGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "pool": ("The pool", ("pool", "registry", "stats", "servers", "events")),
    "connection": ("A connection", ("connection",)),
    "server": ("A server and a login", ("config", "credentials", "tls", "dialogue.session")),
    "results": ("Envelopes and results", ("envelope",)),
    "errors": ("Errors", ("errors",)),
    "replies": ("What a server says", ("reply", "capabilities")),
    "addresses": ("Addresses", ("address",)),
    "parameters": ("Parameters of MAIL and RCPT", ("parameters",)),
}
"""The pages for the names of `smtpconn` itself: title, and the modules of what is on it."""

_GENERATED = "<!-- Written by `python -m docs.generate` from the docstrings: change those. -->"


@dataclass(slots=True)
class Page:
    """A page: its file name without suffix, its title, what it opens with, what is on it."""

    name: str
    title: str
    opening: str = ""
    entries: list[Entry] = field(default_factory=list)


def pages(sources: Sources | None = None) -> dict[str, str]:
    """The text of each page, by file name."""
    found = _sorted_into_pages(sources or Sources())
    links = Links(found)
    texts = {f"{page.name}.md": _text(page, links) for page in found}
    return {"README.md": _index(found, links), **texts}


class Links:
    """Where names lead: every public class, function, method and property."""

    def __init__(self, found: list[Page]) -> None:
        self._targets: dict[str, set[str]] = {}
        for page in found:
            for entry in page.entries:
                self._add_entry(page, entry)

    def seen_from(self, page: Page, entry: Entry | None = None) -> Link:
        """Where names lead that stand in the docstring of an entry, or of its page."""

        def link(name: str) -> str | None:
            inside = [f"{page.name}/{name}"]
            if entry is not None:
                inside.insert(0, f"{page.name}/{entry.name}.{name}")
            for candidate in (*inside, name, name.removeprefix("smtpconn.")):
                targets = self._targets.get(candidate, set())
                if len(targets) == 1:
                    return next(iter(targets))
            return None

        return link

    def _add_entry(self, page: Page, entry: Entry) -> None:
        where = f"{page.name}.md#{_anchor(entry.name)}"
        self._add(page, entry.name, where)
        self._add(page, f"{entry.module.name}.{entry.name}", where)
        for node in _fields(entry):
            self._add(page, f"{entry.name}.{node}", where)
        for member in entry.members:
            there = where if member.is_property else f"{where}{_anchor(member.name)}"
            for owner in (entry.name, *entry.ancestors):
                self._add(page, f"{owner}.{member.name}", there)

    def _add(self, page: Page, name: str, where: str) -> None:
        self._targets.setdefault(name, set()).add(where)
        self._targets.setdefault(f"{page.name}/{name}", set()).add(where)


def _fields(entry: Entry) -> Iterator[str]:
    if isinstance(entry.node, ast.ClassDef):
        for each in entry.node.body:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                yield each.target.id
            elif isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Name):
                yield each.targets[0].id


def _anchor(name: str) -> str:
    return re.sub(r"[^\w-]", "", name.lower())


def _sorted_into_pages(sources: Sources) -> list[Page]:
    by_module = {f"smtpconn.{m}": name for name, (_, ms) in PAGES.items() for m in ms}
    found = {name: Page(name, title) for name, (title, _) in PAGES.items()}
    public = sources.public()
    for entry in public:
        home = entry.home if entry.home != "smtpconn" else entry.module.name
        name = by_module.get(home, home.removeprefix("smtpconn.").replace(".", "-"))
        if name not in found:
            found[name] = Page(name, f"`{home}`", sources.modules[home].doc)
        found[name].entries.append(entry)
    opening = "What the signatures on the other pages mention. Nothing here has to be imported."
    types = Page("types", "Other types", opening, sources.mentioned(public))
    return [*(page for page in found.values() if page.entries), types]


def _text(page: Page, links: Links) -> str:
    parts = [_GENERATED, f"# {page.title}"]
    if page.opening:
        parts.append(render(page.opening, links.seen_from(page)))
    for entry in page.entries:
        parts += _entry(page, entry, links.seen_from(page, entry))
    return "\n\n".join(parts) + "\n"


def _entry(page: Page, entry: Entry, link: Link) -> Iterator[str]:
    yield f"## `{entry.name}`"
    if isinstance(entry.node, ast.ClassDef):
        yield _code(stubs.class_(entry))
    elif isinstance(entry.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from _function(entry.module, entry.node, link)
    else:
        yield _code(stubs.value(entry))
    yield render(entry.doc, link)
    properties = [m for m in entry.members if m.is_property]
    if properties:
        yield "\n".join(["**Properties**:", "", *(_property(m, link) for m in properties)])
    for member in entry.members:
        if not member.is_property:
            yield f"### `{entry.name}.{member.name}`"
            yield from _function(member.module, member.node, link)
            yield render(ast.get_docstring(member.node) or "", link)


def _function(module: Module, node: Function, link: Link) -> Iterator[str]:
    yield _code(stubs.function(module, node))
    types = [named(name, link) for name in types_in(module, node) if link(name)]
    if types:
        yield f"Types: {', '.join(types)}."


def _property(member: Member, link: Link) -> str:
    assert member.node.returns is not None
    kind = member.module.source(member.node.returns)
    return f"* `{member.name}: {kind}`: {inline(ast.get_docstring(member.node) or '', link)}"


def _code(text: str) -> str:
    return f"```pyi\n{text}\n```"


def _index(found: list[Page], links: Links) -> str:
    parts = [
        _GENERATED,
        "# Reference",
        "Everything that is public, from its docstring. What is to be done for a job is in the "
        "[guide](../README.md); what `from smtpconn import ...` gives comes first here.",
    ]
    for page in found:
        link = links.seen_from(page)
        lines = [f"## [{page.title}]({page.name}.md)", ""]
        for entry in page.entries:
            sentence = inline(first_sentence(entry.doc), link)
            lines.append(f"* [`{entry.name}`]({page.name}.md#{_anchor(entry.name)}): {sentence}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
