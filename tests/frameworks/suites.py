"""What each suite needs, and how it is run: in a process of its own, which writes its results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_TIMEOUT = 400


@dataclass(frozen=True, slots=True)
class Suite:
    """A framework's own tests.

    Attributes:
        program: in this folder; puts smtpconn in its place and runs the tests.
        package: whose source distribution has the tests; None if they come with Python.
        release: the newest one whose source distribution has tests; None for the installed one.
        needs: packages that must be installed.
    """

    program: str
    package: str | None = None
    release: str | None = None
    needs: tuple[str, ...] = ()


SUITES = {
    "django": Suite("replace_django.py", "Django", needs=("Django", "aiosmtpd")),
    # Newer source distributions leave the tests out.
    "flask_mail": Suite("replace_flask_mail.py", "Flask-Mail", "0.9.1", needs=("Flask-Mail",)),
    "logging": Suite("replace_logging.py"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a suite's tests; each is named ``Class.test``.

    Attributes:
        total: how many were run, those skipped included.
        failed, skipped: their names.
        output: what the suite printed.
    """

    total: int
    failed: frozenset[str]
    skipped: frozenset[str]
    output: str

    @property
    def passed(self) -> int:
        """How many passed."""
        return self.total - len(self.failed) - len(self.skipped)


def missing(name: str) -> str | None:
    """Why a suite cannot be run here; None if it can."""
    for package in SUITES[name].needs:
        try:
            version(package)
        except PackageNotFoundError:
            return f"{package} is not installed"
    if name == "logging" and not (Path(os.__file__).parent / "test" / "test_logging.py").exists():
        return "this Python has come without its tests"
    return None


def run(name: str, sources: Path, *, theirs: bool = False) -> Result:
    """Run a suite.

    Args:
        name: of `SUITES`.
        sources: a folder for source distributions; one that is there is not downloaded again.
        theirs: leave the framework as it is, to see what fails without smtpconn (Flask-Mail).

    Raises:
        RuntimeError: the source distribution cannot be had, or the suite did not come to its end.
    """
    suite = SUITES[name]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if suite.package is not None:
            _unpack(_download(suite, sources), folder)
        results = folder / "results.json"
        done = subprocess.run(
            [sys.executable, str(_HERE / suite.program), str(folder), str(results)]
            + ["--theirs"] * theirs,
            env=os.environ | {"PYTHONPATH": str(_ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        output = done.stdout + done.stderr
        if not results.exists():
            raise RuntimeError(f"the suite of {name} did not come to its end:\n{output}")
        found = json.loads(results.read_text())
    return Result(found["total"], frozenset(found["failed"]), frozenset(found["skipped"]), output)


def _download(suite: Suite, sources: Path) -> Path:
    assert suite.package is not None
    release = suite.release or version(suite.package)
    pattern = f"{suite.package.replace('-', '[-_]')}-{release}.tar.gz"
    found = [p for p in sources.glob("*.tar.gz") if Path(p.name.lower()).match(pattern.lower())]
    if not found:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--dest", str(sources), f"{suite.package}=={release}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        found = [p for p in sources.glob("*.tar.gz") if Path(p.name.lower()).match(pattern.lower())]
        if not found:
            raise RuntimeError(f"no {pattern}: {done.stderr}")
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    top.rename(folder / "source")
