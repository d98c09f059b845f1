"""Signatures and classes as a stub file (``.pyi``) has them, in the words of the source.

Rule: annotations and defaults are copied from the text; only what concerns no user is left out:
private names, how a dataclass stores a field, and classes behind the scenes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from docs.generate.sources import Entry, Function, Module, decorators, is_fixture

WIDTH = 88

_SHOWN = ("classmethod", "staticmethod", "contextmanager", "pytest.fixture")


def function(module: Module, node: Function) -> str:
    """A function or method."""
    shown = [f"@{name}" for name in decorators(node) if name in _SHOWN]
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    result = f" -> {module.source(node.returns)}" if node.returns is not None else ""
    arguments = [] if is_fixture(node) else list(_arguments(module, node.args))
    line = f"{kind} {node.name}({', '.join(arguments)}){result}: ..."
    if len(line) > WIDTH:
        inner = "".join(f"    {each},\n" for each in arguments)
        line = f"{kind} {node.name}(\n{inner}){result}: ..."
    return "\n".join([*shown, line])


def value(entry: Entry) -> str:
    """A value at the top of a module, such as a type alias."""
    node = entry.node
    if isinstance(node, ast.AnnAssign):
        given = f" = {entry.module.source(node.value)}" if node.value is not None else ""
        return f"{entry.name}: {entry.module.source(node.annotation)}{given}"
    assert isinstance(node, ast.Assign)
    return f"{entry.name} = {entry.module.source(node.value)}"


def class_(entry: Entry) -> str:
    """A class with its fields and its constructor; methods have stubs of their own."""
    node, module = entry.node, entry.module
    assert isinstance(node, ast.ClassDef)
    bases = [module.source(b) for b in node.bases]
    bases = [b for b in bases if b.partition("[")[0] not in (*entry.ancestors, "abc.ABC")]
    bases += [f"{k.arg}={module.source(k.value)}" for k in node.keywords if k.arg]
    head = f"class {node.name}({', '.join(bases)}):" if bases else f"class {node.name}:"
    for each in node.decorator_list:
        head = f"@{module.source(each)}\n{head}"
    body = [f"    {line}" for line in _body(entry, node)]
    return "\n".join([head, *body]) if body else f"{head} ..."


def _body(entry: Entry, node: ast.ClassDef) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.AnnAssign):
            yield from _field(entry.module, each)
        elif isinstance(each, ast.Assign) and not _name(each.targets[0]).startswith("_"):
            yield f"{_name(each.targets[0])} = {entry.module.source(each.value)}"
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__" and entry.is_made:
            yield from function(entry.module, each).splitlines()


def _field(module: Module, node: ast.AnnAssign) -> Iterator[str]:
    name, annotation = _name(node.target), module.source(node.annotation)
    if annotation == "KW_ONLY":
        yield "_: KW_ONLY"
    elif not name.startswith("_"):
        default, comment = _default(module, node.value)
        yield f"{name}: {annotation}{default}{comment}"


def _default(module: Module, given: ast.expr | None) -> tuple[str, str]:
    if given is None:
        return "", ""
    if not (isinstance(given, ast.Call) and module.source(given.func) == "field"):
        return f" = {module.source(given)}", ""
    options = {each.arg: module.source(each.value) for each in given.keywords}
    if options.get("init") == "False":
        return "", "  # follows from the others"
    if "default_factory" in options:
        return f" = {options['default_factory']}()", ""
    return (f" = {options['default']}" if "default" in options else ""), ""


def _name(target: ast.expr) -> str:
    return target.id if isinstance(target, ast.Name) else ""


def _arguments(module: Module, a: ast.arguments) -> Iterator[str]:
    positional = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
    for number, (each, default) in enumerate(zip(positional, defaults, strict=True), 1):
        yield _argument(module, each, default)
        if number == len(a.posonlyargs):
            yield "/"
    if a.vararg is not None:
        yield "*" + _argument(module, a.vararg, None)
    elif a.kwonlyargs:
        yield "*"
    for each, default in zip(a.kwonlyargs, a.kw_defaults, strict=True):
        yield _argument(module, each, default)
    if a.kwarg is not None:
        yield "**" + _argument(module, a.kwarg, None)


def _argument(module: Module, argument: ast.arg, default: ast.expr | None) -> str:
    if argument.annotation is None:
        return argument.arg if default is None else f"{argument.arg}={module.source(default)}"
    text = f"{argument.arg}: {module.source(argument.annotation)}"
    return text if default is None else f"{text} = {module.source(default)}"
