"""Import rules that import-linter does not check, and what the package needs beyond Python.

The layers themselves are contracts in pyproject.toml, checked by ``lint-imports``.
"""

from __future__ import annotations

import ast
import configparser
import sys

import pytest

from tests.support.public_sources import ROOT, Sources

SOURCES = Sources()
TOP = ("smtpconn.contrib", "smtpconn.cli", "smtpconn.testing", "smtpconn.__main__")
INNER = [m for m in SOURCES.modules if m.startswith("smtpconn.") and not m.startswith(TOP)]


@pytest.mark.parametrize("module", INNER)
def test_inner_modules_import_no_public_names(module: str) -> None:
    """An inner module imports a name from the module that defines it, never from ``smtpconn``."""
    tree = ast.parse(SOURCES.modules[module].text)
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert "smtpconn" not in imported


def test_below_the_top_only_certifi_and_the_extras_are_needed() -> None:
    """Other packages than certifi are extras of setup.cfg, and are imported in functions."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"]["idna"].split())
    extras |= set(setup["options.extras_require"]["scram"].split())
    for module in INNER:
        tree = ast.parse(SOURCES.modules[module].text)
        foreign = _foreign(list(ast.walk(tree)))
        assert foreign <= {"certifi"} | extras, module
        assert _foreign(tree.body) == set(), f"{module} imports something before it is needed"


def test_no_test_module_imports_another() -> None:
    """Code that several test modules use is in ``tests/support``."""
    imported = {
        (str(path.relative_to(ROOT)), node.module)
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert len(imported) > 1000
    assert [(path, name) for path, name in imported if "tests" in name and ".test_" in name] == []


def _foreign(nodes: list[ast.stmt] | list[ast.AST]) -> set[str]:
    """The imported packages that are neither smtpconn nor the standard library."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"smtpconn"}
