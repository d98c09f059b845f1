"""What import-linter does not check: how modules import, and what they need beyond Python.

The layers themselves are contracts in pyproject.toml, checked by ``lint-imports``.
"""

from __future__ import annotations

import ast
import configparser
import sys

import pytest

from tests.support.public_sources import ROOT, Sources

SOURCES = Sources()
USE = ("smtpconn.contrib", "smtpconn.cli", "smtpconn.testing", "smtpconn.__main__")
INSIDE = [m for m in SOURCES.modules if m.startswith("smtpconn.") and not m.startswith(USE)]


@pytest.mark.parametrize("module", INSIDE)
def test_inner_modules_import_no_public_names(module: str) -> None:
    """Inside, a name is imported from the module that defines it, never from ``smtpconn``."""
    tree = ast.parse(SOURCES.modules[module].text)
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert "smtpconn" not in imported


def test_below_the_top_only_certifi_and_the_extras_are_needed() -> None:
    """What is neither the standard library nor certifi is an extra of setup.cfg, imported late."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = set(setup["options.extras_require"]["idna"].split())
    extras |= set(setup["options.extras_require"]["scram"].split())
    for module in INSIDE:
        tree = ast.parse(SOURCES.modules[module].text)
        foreign = _foreign(list(ast.walk(tree)))
        assert foreign <= {"certifi"} | extras, module
        assert _foreign(tree.body) == set(), f"{module} imports something before it is needed"


def _foreign(nodes: list[ast.stmt] | list[ast.AST]) -> set[str]:
    """What is imported that is neither ours nor Python's."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"smtpconn"}
