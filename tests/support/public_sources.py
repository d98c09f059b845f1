"""The public names of smtpconn and what belongs to each, read from the source text.

Rule: the sources are parsed, never imported. A value's repr, an annotation's form and whether a
framework is installed differ from one interpreter to the next; the text does not.

What is public: the names in ``__all__`` of `smtpconn` and of `smtpconn.testing`, everything without
an underscore in the adapters of `smtpconn.contrib` and in the pytest plugin, and the types that the
signatures of all these mention.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parent.parent.parent

SHARED_BY_ADAPTERS = frozenset({"backend", "delivery", "logging_queue"})
"""Modules of `smtpconn.contrib` that only adapters use; they are not public."""

PLUGIN = "pytest_smtpconn"
"""The pytest plugin, a module outside the package."""

FOR_THE_POOL = frozenset({"SmtpConnection.send_request", "SmtpConnection.deliver_request"})
"""Methods that have no underscore only because another module of smtpconn calls them."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Definition: TypeAlias = ast.ClassDef | Function | ast.Assign | ast.AnnAssign


@dataclass(frozen=True, slots=True)
class Module:
    """A module of smtpconn.

    Attributes:
        name: the full name, such as ``smtpconn.protocol.auth``.
        text: the source.
        doc: the docstring.
        definitions: the definitions at the top level, by name.
        docs: the docstrings of values among them.
        imports: local name -> (module, name there), for imports from other modules.
    """

    name: str
    text: str
    doc: str
    definitions: Mapping[str, Definition]
    docs: Mapping[str, str]
    imports: Mapping[str, tuple[str, str]]

    def source(self, node: ast.expr) -> str:
        """The text of an expression, on one line."""
        return " ".join((ast.get_source_segment(self.text, node) or "").split())


@dataclass(frozen=True, slots=True)
class Member:
    """A public method or property: its name, its definition and the module that has it."""

    name: str
    node: Function
    module: Module

    @property
    def is_property(self) -> bool:
        """Whether it is read like an attribute."""
        return "property" in decorators(self.node)


@dataclass(frozen=True, slots=True)
class Entry:
    """A public name.

    Attributes:
        name: without its module.
        home: the module that users import it from.
        module: the module that defines it.
        node: its definition.
        ancestors: the classes of smtpconn it inherits from that are not public themselves; what
            they have is its own for users.
        members: its public methods and properties, in the order of the sources.
    """

    name: str
    home: str
    module: Module
    node: Definition
    ancestors: tuple[str, ...] = ()
    members: tuple[Member, ...] = field(default=(), repr=False)

    @property
    def is_made(self) -> bool:
        """Whether users call its constructor: not of a type that signatures only mention."""
        return self.home != self.module.name or self.home.startswith("smtpconn.contrib.")

    @property
    def doc(self) -> str:
        """Its docstring; "" if it has none."""
        if isinstance(self.node, (ast.Assign, ast.AnnAssign)):
            return self.module.docs.get(self.name, "")
        return ast.get_docstring(self.node) or ""


class Sources:
    """All modules of smtpconn."""

    def __init__(self, package: Path = ROOT / "smtpconn") -> None:
        self.modules: dict[str, Module] = {}
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.modules[name] = _parse(name, path.read_text())
        plugin = package.parent / f"{PLUGIN}.py"
        if plugin.exists():
            self.modules[PLUGIN] = _parse(PLUGIN, plugin.read_text())

    def resolve(self, module: str, name: str) -> tuple[Module, Definition] | None:
        """Where a name that a module uses is defined; None outside smtpconn."""
        found = self.modules.get(module)
        if found is None:
            return None
        if name in found.definitions:
            return found, found.definitions[name]
        return self.resolve(*found.imports[name]) if name in found.imports else None

    def public(self) -> list[Entry]:
        """The entries for everything public but the types that are only mentioned."""
        homes = [("smtpconn", self._listed("smtpconn"))]
        homes += [
            (name, _without_underscore(self.modules[name]))
            for name in self.modules
            if _is_adapter(name) or name == PLUGIN
        ]
        homes.append(("smtpconn.testing", self._listed("smtpconn.testing")))
        return [entry for home, names in homes for entry in self._entries(home, names)]

    def mentioned(self, entries: list[Entry]) -> list[Entry]:
        """The types that the signatures of entries mention and that are not among them."""
        known = {(e.module.name, e.name) for e in entries}
        found: dict[tuple[str, str], Entry] = {}
        waiting = list(entries)
        while waiting:
            for module, name in _mentions(waiting.pop()):
                at = self.resolve(module.name, name)
                if at is None or (at[0].name, name) in known | found.keys() or not _is_type(*at):
                    continue
                # Types that appear only in signatures: users do not call their methods.
                entry = Entry(name, at[0].name, *at)
                found[at[0].name, name] = entry
                waiting.append(entry)
        return [found[key] for key in sorted(found, key=lambda key: key[1])]

    def _listed(self, module: str) -> list[str]:
        listed = self.modules[module].definitions["__all__"]
        assert isinstance(listed, ast.Assign)
        names = ast.literal_eval(listed.value)
        assert isinstance(names, list)
        return names

    def _entries(self, home: str, names: list[str]) -> Iterator[Entry]:
        for name in names:
            at = self.resolve(home, name)
            assert at is not None, f"{home} has no {name}"
            yield self._entry(name, home, *at)

    def _entry(self, name: str, home: str, module: Module, node: Definition) -> Entry:
        if not isinstance(node, ast.ClassDef):
            return Entry(name, home, module, node)
        ancestors = list(self._ancestors(module, node))
        members: dict[str, Member] = {}
        for owner, cls in [(module, node), *ancestors]:
            for member in _members(owner, cls):
                members.setdefault(member.name, member)
        names = tuple(cls.name for _, cls in ancestors)
        return Entry(name, home, module, node, names, tuple(members.values()))

    def _ancestors(
        self, module: Module, node: ast.ClassDef
    ) -> Iterator[tuple[Module, ast.ClassDef]]:
        listed = self._listed("smtpconn")
        for base in node.bases:
            at = self.resolve(module.name, module.source(base).partition("[")[0])
            if at is None or not isinstance(at[1], ast.ClassDef) or at[1].name in listed:
                continue
            owner, cls = at[0], at[1]
            # Those of adapters have pages of their own.
            if not _is_adapter(owner.name):
                yield owner, cls
                yield from self._ancestors(owner, cls)


def _is_adapter(module: str) -> bool:
    package, _, name = module.rpartition(".")
    return package == "smtpconn.contrib" and name not in SHARED_BY_ADAPTERS


def _is_type(module: Module, node: Definition) -> bool:
    """Whether it stands for a type, as a type variable does not."""
    if isinstance(node, ast.AnnAssign):
        return module.source(node.annotation) == "TypeAlias"
    return isinstance(node, ast.ClassDef)


def decorators(node: Function | ast.ClassDef) -> list[str]:
    """The names of what decorates a definition, without arguments."""
    return [ast.unparse(each).partition("(")[0] for each in node.decorator_list]


def is_fixture(node: Function) -> bool:
    """Whether it is a fixture, whose arguments only pytest passes."""
    return "pytest.fixture" in decorators(node)


def parameters(node: Function) -> list[ast.arg]:
    """The parameters of a function but for ``self`` and ``cls``, and those of pytest's fixtures."""
    if is_fixture(node):
        return []
    a = node.args
    every = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
    return [each for each in every if each is not None and each.arg not in ("self", "cls")]


def types_in(module: Module, node: ast.AST) -> list[str]:
    """The names of types in the annotations of a definition, each once."""
    return list(dict.fromkeys(n for each in _annotations(node) for n in _names(module, each)))


def _names(module: Module, annotation: ast.expr) -> list[str]:
    # In quotes, too, as aliases that are made at run time have them.
    return re.findall(r"\b[A-Z]\w*", module.source(annotation))


def _parse(name: str, text: str) -> Module:
    tree = ast.parse(text)
    definitions: dict[str, Definition] = {}
    docs: dict[str, str] = {}
    last = ""
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            docs[last] = str(node.value.value)
        last = ""
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            definitions[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                definitions[target.id], last = node, target.id
    imports = {
        alias.asname or alias.name: (each.module or "", alias.name)
        for each in ast.walk(tree)
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    return Module(name, text, ast.get_docstring(tree) or "", definitions, docs, imports)


def _without_underscore(module: Module) -> list[str]:
    if "__all__" in module.definitions:
        listed = module.definitions["__all__"]
        assert isinstance(listed, ast.Assign)
        return list(ast.literal_eval(listed.value))
    return [
        name
        for name, node in module.definitions.items()
        # pytest finds its hooks by their names.
        if not name.startswith(("_", "pytest_"))
        # A value without a docstring is an inner matter, such as a type variable.
        and (not isinstance(node, (ast.Assign, ast.AnnAssign)) or name in module.docs)
    ]


def _members(module: Module, cls: ast.ClassDef) -> Iterator[Member]:
    for node in cls.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            setter = any(name.endswith(".setter") for name in decorators(node))
            hidden = node.name.startswith("_") or f"{cls.name}.{node.name}" in FOR_THE_POOL
            if not hidden and not setter:
                yield Member(node.name, node, module)


def _mentions(entry: Entry) -> Iterator[tuple[Module, str]]:
    """The names in the annotations of an entry, each with the module in which it is used."""
    for module, node in _annotated(entry):
        for each in _annotations(node):
            yield from ((module, name) for name in _names(module, each))


def _annotated(entry: Entry) -> Iterator[tuple[Module, ast.AST]]:
    for member in entry.members:
        yield member.module, member.node
    if isinstance(entry.node, ast.ClassDef):
        for each in entry.node.body:
            made = isinstance(each, ast.FunctionDef) and each.name == "__init__" and entry.is_made
            if made or (isinstance(each, ast.AnnAssign) and not _is_private(each.target)):
                yield entry.module, each
    else:
        yield entry.module, entry.node


def _is_private(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id.startswith("_")


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from (each.annotation for each in parameters(node) if each.annotation is not None)
        if node.returns is not None:
            yield node.returns
    elif isinstance(node, ast.AnnAssign):
        yield node.annotation
        if node.value is not None and ast.unparse(node.annotation) == "TypeAlias":
            yield node.value
