"""The documents tell the truth: what they show runs, what they link to and name is there.

How a page is run is told in `tests.support.pages`.
"""

from __future__ import annotations

import ast
import builtins
import re
import smtplib
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import smtpconn
from smtpconn import ConnectionPool, LmtpSendResult
from tests.realservers.dovecot import Dovecot
from tests.support.pages.page import ROOT, blocks, documents, is_as_promised
from tests.support.public_sources import Sources

TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in documents()}
PROGRAMS = [name for name, text in TEXTS.items() if "```python" in text]
README = TEXTS["README.md"]
ERRORS = TEXTS["docs/errors.md"]
PROTOCOL = TEXTS["docs/protocol.md"]

SOURCES = Sources()

# What a block may be called that is no program. Python under another name would not be run.
OTHER_LABELS = {"", "text", "sh", "console", "ini", "toml", "yaml", "json", "diff"}
OTHER_LABELS |= {"mermaid", "{eval-rst}", "{toctree}"}


def names(pattern: str) -> list[tuple[str, str]]:
    """The matches of a pattern: the page, and the matching text."""
    found = {(page, name) for page, text in TEXTS.items() for name in re.findall(pattern, text)}
    return sorted(found)


def run(page: str) -> subprocess.CompletedProcess[str]:
    """Run a page in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.support.pages", page],
        capture_output=True,
        text=True,
        timeout=19,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize("page", PROGRAMS)
def test_every_block_runs(page: str) -> None:
    """Each block of Python of a page, from top to bottom in one namespace, and no warning."""
    done = run(page)
    assert (done.returncode, done.stderr) == (0, "")
    shown = len(re.findall(r"^ *```python$", TEXTS[page], re.MULTILINE))
    assert done.stdout.splitlines()[-1] == f"{shown} blocks"


LIES = {
    "another output": "```python\nprint(1)\n```\n\nprints\n\n```text\n2\n```\n",
    "a block that fails": "```python\n1 / 0\n```\n",
    "a check that fails": "```python\nx = 1\n```\n\n<!-- check\nassert x == 2\n-->\n",
    "a test that fails": "```python\ndef test_it():\n    assert False\n```\n",
    "a host of the real world": "```python\nimport socket\n"
    "socket.create_connection(('mx.unexpected.org', 25))\n```\n",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_page_that_lies_is_found_out(lie: str, tmp_path: Path) -> None:
    """A page that does not do what it says ends with an error."""
    page = tmp_path / "page.md"
    page.write_text(LIES[lie])
    done = run(str(page))
    assert done.returncode != 0
    assert "blocks" not in done.stdout


def test_the_guide_to_lmtp_with_a_real_dovecot(dovecot: Dovecot) -> None:
    """What the page shows with the embedded server is what Dovecot says."""
    with ConnectionPool(f"lmtp+unix://{dovecot.socket_path}") as pool:
        result = pool.send(
            "sender@example.net",
            ["alice@example.test", "carol@example.test", "nobody@example.test"],
            b"Subject: hello\r\n\r\nHello!\r\n",
        )
    (block,) = (b for b in blocks(TEXTS["docs/guide/lmtp.md"]) if "def sort_out" in b.code)
    names: dict[str, Any] = {"LmtpSendResult": LmtpSendResult, "result": result}
    exec(block.code, names)
    assert names["sort_out"](result) == {
        "done": ["alice@example.test"],
        "later": [],
        "bounce": ["carol@example.test", "nobody@example.test"],
        "unknown": [],
    }


@pytest.mark.parametrize("page", TEXTS)
def test_no_python_goes_by_another_name(page: str) -> None:
    """A block is Python and run, or says that it is something else."""
    for block in blocks(TEXTS[page]):
        assert block.is_run or block.label in OTHER_LABELS, block


def test_what_is_printed_is_compared() -> None:
    """A block's output has to be what the page shows, but where that says it may be anything."""
    page = "```python\nf()\n```\n\nprints\n\n```text\na ... z\n```\n"
    (block,) = (block for block in blocks(page) if block.is_run)
    assert block.prints == "a ... z\n"
    assert is_as_promised("a b\nc z\n", block.prints)
    assert not is_as_promised("a b z!", block.prints)


def slug(heading: str) -> str:
    """The anchor of a heading, as the sites that show Markdown make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip().lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Where one can link to inside a page."""
    outside = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", outside, re.MULTILINE)}


@pytest.mark.parametrize("page", TEXTS)
def test_every_link_leads_somewhere(page: str) -> None:
    """To a page, a heading, a picture or a file of the project; what is on the web is not asked."""
    outside = re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", outside):
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        if re.match(r"[a-z]+:", target):
            continue
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize(("page", "name"), names(r"`(tests/[\w/]+\.py::\w+)`"))
def test_every_test_that_is_named_exists(page: str, name: str) -> None:
    """A page that names a test as proof names one that is run."""
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("page", "name"), names(r"`((?:smtpconn|tests|docs|examples|benchmarks|fuzz)/[\w./-]+\.\w+)`")
)
def test_every_file_that_is_named_exists(page: str, name: str) -> None:
    """A path in a page is that of a file."""
    assert (ROOT / name).is_file()


@pytest.mark.parametrize(("page", "name"), names(r"\bsmtpconn\.(?:contrib|testing)\.[\w.]*\w"))
def test_every_name_that_is_shown_exists(page: str, name: str) -> None:
    """What a page says to import or to write into settings is there."""
    module, _, last = name.rpartition(".")
    assert name in SOURCES.modules or SOURCES.resolve(module, last) is not None


def test_every_page_is_in_the_index() -> None:
    """A reader who begins at docs/README.md finds each page; the reference has its own index."""
    index = TEXTS["docs/README.md"]
    linked = {(ROOT / "docs" / t).resolve() for t in re.findall(r"\]\(([^)#\s]+)", index)}
    pages = {ROOT / name for name in TEXTS if name.startswith("docs/")}
    in_reference = {p for p in pages if p.parent.name == "reference" and p.name != "README.md"}
    assert pages - linked - in_reference == {ROOT / "docs" / "README.md"}


def test_the_table_of_errors_is_right() -> None:
    """Each error is in it, with the classes it is also caught as, and whether it is transient."""
    table = [line.split("|") for line in ERRORS.splitlines() if line.startswith("| [`")]
    rows = [(re.findall(r"`(\w+)`", c[1])[0], c[2], c[3].strip()) for c in table]
    errors = {name for name in smtpconn.__all__ if name.endswith("Error")}
    errors -= {"SmtpError", "RetryableError"}  # what others are, and have a section of their own
    assert {name for name, _, _ in rows} == errors
    ours = {name: getattr(smtpconn, name) for name in smtpconn.__all__}
    scope = ours | vars(builtins) | {"smtplib": smtplib, "ssl": ssl}
    for name, caught_as, transient in rows:
        kind = getattr(smtpconn, name)
        for other in re.findall(r"`([\w.]+)`", caught_as):
            assert issubclass(kind, eval(other, dict(scope))), (name, other)
        if transient in ("yes", "no"):  # else it depends on the reply
            assert kind.is_transient == (transient == "yes"), name


def test_every_phase_is_told() -> None:
    """docs/errors.md lists what `phase` can be."""
    assert [phase for phase in smtpconn.Phase if f'"{phase}"' not in ERRORS] == []


def test_every_row_of_the_protocol_names_a_test() -> None:
    """No row of the tables is without proof."""
    rows = [line for line in PROTOCOL.splitlines() if re.match(r"\| (?!what|---)", line)]
    assert len(rows) > 30
    assert [row for row in rows if "`tests/" not in row and not row.startswith("|--")] == []


def test_the_two_commands_of_the_readme_stand_alone() -> None:
    """One line installs and runs the main job, one installs and runs the tests."""
    lines = [line.strip() for line in README.splitlines()]
    assert "pip install . && python examples/quickstart.py" in lines
    assert "pip install '.[test]' && pytest" in lines


def test_the_readme_is_short() -> None:
    """It says what a newcomer needs and where the rest is."""
    assert len(README.splitlines()) < 200


def test_the_line_to_change_is_run() -> None:
    """README.md names it near its top; docs/moving.md has it in a block, which is run."""
    table = README.partition("## The line to change")[2].partition("\n## ")[0]
    assert README.index(table) < README.index("## Quick start")
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("|")][2:]
    for you_use in ("smtplib", "EMAIL_BACKEND", "MAILERS", "Flask-Mail", "Flask-Mailman"):
        assert any(you_use in row[0] for row in rows)
    shown = "".join(b.code for b in blocks(TEXTS["docs/moving.md"]) if b.label == "python")
    for _, you_write in rows:
        line = re.findall(r"`([^`]+)`", you_write)[0].replace("@host", "@smtp.example.com")
        assert line.rstrip('")') in shown, line


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
