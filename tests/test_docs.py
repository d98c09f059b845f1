"""The documents tell the truth: what they name exists, and what they show runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[^`]+::\w+)`", PROTOCOL))))
def test_every_test_that_is_named_exists(name: str) -> None:
    """A row of docs/protocol.md that names a test names one that is run."""
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_every_row_names_a_test() -> None:
    """No row of the tables is without proof."""
    rows = [line for line in PROTOCOL.splitlines() if re.match(r"\| (?!what|---)", line)]
    assert len(rows) > 30
    assert [row for row in rows if "`tests/" not in row and not row.startswith("|--")] == []


def test_the_examples_of_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Each block of Python, one after the other, in one namespace."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 5
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)
    assert "try later" in capsys.readouterr().out


def test_the_two_commands_of_the_readme_stand_alone() -> None:
    """One line installs and runs the main job, one installs and runs the tests."""
    lines = [line.strip() for line in README.splitlines()]
    assert "pip install . && python examples/quickstart.py" in lines
    assert "pip install '.[test]' && pytest" in lines


def test_the_quick_start() -> None:
    """It prints every message, the connections used and the pool's figures; and nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "quickstart.py")],
        capture_output=True,
        text=True,
        timeout=15,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "30 messages arrived" in done.stdout
    assert re.search(r"over [1-3] connections, by 6 threads", done.stdout)
    assert "messages=30" in done.stdout
