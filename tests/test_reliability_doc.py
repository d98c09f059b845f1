"""docs/reliability.md and SECURITY.md have a proof for everything.

That each test they name exists is looked after in `tests.test_docs`, for all documents.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()


def test_every_promise_has_its_proof() -> None:
    """No row of the tables is without a test."""
    rows = [line for line in RELIABILITY.splitlines() if re.match(r"\| (?!promise|attack)", line)]
    assert len(rows) > 90
    assert [row for row in rows if "`tests/" not in row] == []


@pytest.mark.parametrize("file", sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", SECURITY))))
def test_every_file_of_the_policy_exists(file: str) -> None:
    """Where SECURITY.md names a file of tests, there is one, and its tests are not empty words."""
    tree = ast.parse((ROOT / file).read_text())
    tests = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    assert len(tests) >= 3
    assert all(ast.get_docstring(test) for test in tests)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "security").glob("test_*.py")), ids=lambda path: path.stem
)
def test_the_policy_names_every_file_of_attacks(path: Path) -> None:
    """A new file of attacks is told of in SECURITY.md."""
    assert f"`tests/security/{path.name}`" in SECURITY
