"""The layers of the house: which module is in which, what imports what, and the table that says so.

`LAYERS` is the one list of them. The picture and the table of docs/architecture.md are made from it
and from the first lines of the modules; `tests/test_architecture.py` holds the imports against it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from docs.generate.sources import PLUGIN, ROOT, Sources

PAGE = ROOT / "docs" / "architecture.md"

_BEGIN, _END = "<!-- modules -->\n", "<!-- end of modules -->\n"


@dataclass(frozen=True, slots=True)
class Layer:
    """Modules that know the same things of the world.

    Attributes:
        name: as the table and the picture call it.
        rule: what it knows and what it does not, in a few words.
        modules: without ``smtpconn.``; a package stands for all of its modules, which are shown one
            by one if it is written with ``.*``.
    """

    name: str
    rule: str
    modules: tuple[str, ...]

    def holds(self, module: str) -> bool:
        """Whether a module, without ``smtpconn.``, is in it."""
        names = [name.removesuffix(".*") for name in self.modules]
        return module in names or module.startswith(tuple(f"{name}." for name in names))

    def shown(self, sources: Sources) -> list[str]:
        """What there is of it, in the order in which one reads it."""
        found: list[str] = []
        for name in self.modules:
            package = f"smtpconn.{name.removesuffix('*')}"
            if name.endswith(".*"):
                found += [m[9:] for m in sources.modules if m.startswith(package)]
            elif package in sources.modules:
                found.append(name)
        return found


LAYERS = (
    Layer(
        "use",
        "frameworks, the command line, tests; may import everything, nothing below imports it",
        ("contrib.*", "cli", "__main__", "testing"),
    ),
    Layer(
        "pool",
        "threads, waiting, several connections; decides under a lock, does I/O outside it",
        (
            "registry", "pool", "lease", "lending", "stock", "connector", "poolstate", "servers",
            "pacing", "fanout", "keeper", "forking", "leaks", "limits", "events", "stats",
        ),
    ),
    Layer(
        "session",
        "one connection: runs conversations over a transport, one at a time, under a deadline",
        ("config", "connection", "sending", "logging_in", "channel", "driver", "options"),
    ),
    Layer(
        "I/O",
        "sockets, TLS and the clock; knows no SMTP",
        ("connect", "transport", "tls", "deadline"),
    ),
    Layer(
        "dialogue",
        "what is said when: generators that yield commands and are sent replies; no socket",
        ("dialogue.*",),
    ),
    Layer(
        "words",
        "values and grammar: what may be sent, what may come; no state, no I/O",
        (
            "commands", "reply", "capabilities", "address", "parameters", "content", "message",
            "envelope", "credentials", "scram", "sasl", "errors",
        ),
    ),
)  # fmt: skip
"""From the top."""


DOORS = frozenset({"smtpconn", "smtpconn.contrib", "smtpconn.dialogue"})
"""Packages whose ``__init__`` is in no layer, because it does nothing but open a door."""


def layer_of(module: str) -> int | None:
    """The number of a module's layer, 0 being the top; None if it is in none."""
    short = module.removeprefix("smtpconn.")
    return next((number for number, layer in enumerate(LAYERS) if layer.holds(short)), None)


def modules(sources: Sources) -> list[str]:
    """The modules of the house; the packages' own ``__init__`` only open doors."""
    return [name for name in sources.modules if name not in (*DOORS, PLUGIN)]


def imports(sources: Sources, module: str) -> set[str]:
    """The modules of smtpconn that a module imports, wherever in it, but for type checkers only."""
    return set(_imports(sources, ast.parse(sources.modules[module].text)))


def page(sources: Sources | None = None) -> str:
    """The text of docs/architecture.md with its table anew."""
    text = PAGE.read_text()
    before, after = text.partition(_BEGIN)[0], text.partition(_END)[2]
    return f"{before}{_BEGIN}\n{_tables(sources or Sources())}\n{_END}{after}"


def _tables(sources: Sources) -> str:
    parts = []
    for layer in LAYERS:
        rows = [f"### {layer.name}", "", f"{layer.rule[0].upper()}{layer.rule[1:]}.", ""]
        rows += ["| module | what lives there | imports |", "|---|---|---|"]
        rows += [_row(sources, module) for module in layer.shown(sources)]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(sources: Sources, module: str) -> str:
    package = f"smtpconn.{module}"
    inside = [m for m in sources.modules if m == package or m.startswith(f"{package}.")]
    used = {u for m in inside for u in imports(sources, m) if u not in inside}
    names = " ".join(f"`{name}`" for name in sorted(u.removeprefix("smtpconn.") for u in used))
    first = sources.modules[package].doc.partition("\n")[0].rstrip(".").replace("|", "\\|")
    is_package = len(inside) > 1
    path = f"../smtpconn/{module.replace('.', '/')}" + ("" if is_package else ".py")
    return f"| [`{module}`]({path}) | {first} | {names} |"


def _imports(sources: Sources, node: ast.AST) -> Iterator[str]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.If) and "TYPE_CHECKING" in ast.unparse(each.test):
            continue
        if isinstance(each, ast.Import):
            yield from (a.name for a in each.names if a.name in sources.modules)
        elif isinstance(each, ast.ImportFrom) and each.module in sources.modules:
            for alias in each.names:
                inner = f"{each.module}.{alias.name}"
                yield inner if inner in sources.modules else each.module
        yield from _imports(sources, each)
