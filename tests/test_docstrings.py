"""Public docstrings tell arguments, errors and fields; the reference lists every public name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

import smtpconn
from tests.support.public_sources import (
    ROOT,
    Entry,
    Function,
    Sources,
    decorators,
    parameters,
)

SOURCES = Sources()
PUBLIC = SOURCES.public()
EVERYTHING = [*PUBLIC, *SOURCES.mentioned(PUBLIC)]

# Where a docstring leaves its arguments or errors to another one's.
REFERS = re.compile(r"\b(as|as for|and as|the same as)\s+(with\s+)?`{1,2}[\w.]+`{1,2}", re.I)


def functions(entry: Entry) -> Iterator[tuple[str, Function, str]]:
    """The functions of an entry that have arguments: name, definition, docstring."""
    if isinstance(entry.node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield f"{entry.home}.{entry.name}", entry.node, entry.doc
    for member in entry.members:
        doc = ast.get_docstring(member.node) or ""
        yield f"{entry.home}.{entry.name}.{member.name}", member.node, doc


FUNCTIONS = {
    name: (node, doc, entry)
    for entry in PUBLIC
    for name, node, doc in functions(entry)
    if parameters(node)
}


def test_the_reference_lists_every_public_name() -> None:
    """Each name of ``smtpconn.__all__`` stands in one page of docs/reference/, once."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    text = "\n".join(path.read_text() for path in pages)
    listed = re.findall(r"^\.\. auto(?:class|function):: smtpconn\.(\w+)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(smtpconn.__all__)


@pytest.mark.parametrize("entry", EVERYTHING, ids=lambda e: f"{e.home}.{e.name}")
def test_every_public_name_has_a_docstring(entry: Entry) -> None:
    """Also each type that a signature mentions, and every method and property."""
    assert entry.doc.endswith((".", "?", ")")) or "\n" in entry.doc
    for member in entry.members:
        assert ast.get_docstring(member.node), member.name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_told(name: str) -> None:
    """A docstring names each argument, or the function that explains them.

    ``timeout`` may be explained once, by the class.
    """
    node, doc, entry = FUNCTIONS[name]
    told = doc + (" timeout" if "``timeout``" in entry.doc else "")
    if REFERS.search(doc):
        return
    # What stands behind ** is explained name by name, or by its type.
    names = [each.arg for each in parameters(node) if each is not node.args.kwarg]
    assert [name for name in names if not re.search(rf"\b{name}\b", told)] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_told(name: str) -> None:
    """A function that raises something says so, or names the one that says it.

    What every method of a class may raise may be told once, by the class.
    """
    node, doc, entry = FUNCTIONS[name]
    raises = any(isinstance(each, ast.Raise) and each.exc is not None for each in ast.walk(node))
    told = re.search(r"\b[Rr]aise[sd]?\b|\bfails\b", doc) or "may raise" in entry.doc
    assert told or REFERS.search(doc) or not raises


def test_what_a_class_is_made_of_is_told() -> None:
    """The arguments of a constructor stand in the docstring of the class."""
    untold = [
        f"{entry.home}.{entry.name}: {argument.arg}"
        for entry in PUBLIC
        if isinstance(entry.node, ast.ClassDef) and "Error" not in entry.name
        for node in entry.node.body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for argument in parameters(node)
        if not re.search(rf"\b{argument.arg}\b", entry.doc)
    ]
    assert untold == []


def test_the_fields_of_values_are_told() -> None:
    """A dataclass of more than one field explains each, in its docstring."""
    untold = []
    for entry in PUBLIC:
        if not isinstance(entry.node, ast.ClassDef) or "dataclass" not in decorators(entry.node):
            continue
        names = [
            node.target.id
            for node in entry.node.body
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and not node.target.id.startswith("_")
            and "InitVar" not in ast.unparse(node.annotation)
        ]
        untold += [
            f"{entry.name}.{name}"
            for name in names
            if len(names) > 1 and not re.search(rf"\b{name}\b", entry.doc)
        ]
    assert untold == []
