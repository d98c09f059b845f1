"""The frameworks' own tests with smtpconn in their place: what fails is listed, and nothing else.

Each list stands in the documentation of the adapter, with a reason for each test.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.frameworks.suites import missing, run

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = {"django": "django.md", "flask_mail": "flask.md"}
# Of so many tests may fail at most so many.
AT_MOST = {"5.2": (210, 7), "6.0": (252, 12), "6.1": (465, 15), "flask_mail": (50, 5)}

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(400)]


def listed(suite: str, release: str) -> set[str]:
    """The tests that the documentation says fail with this release of the framework."""
    text = (DOCS / PAGES[suite]).read_text()
    rows = re.findall(r"^\| `(\w+\.\w+)` \| ([\d., ]+|its own) \| .{20,} \|$", text, re.MULTILINE)
    return {name for name, releases in rows if release in releases.split(", ")}


def require(suite: str) -> None:
    """Skip without what the suite needs; fail where everything is required."""
    reason = missing(suite)
    if reason is not None:
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{reason}, and SMTPCONN_REQUIRE_SERVERS=1", pytrace=False)
        pytest.skip(f"{reason}: pip install 'smtpconn[compat-test]'")


def test_django(tmp_path: Path) -> None:
    """The tests of Django's mail, with this backend in the place of Django's SMTP backend."""
    require("django")
    release = ".".join(version("Django").split(".")[:2])
    if release not in AT_MOST:
        pytest.skip(f"nothing is known of the tests of Django {release}")
    result = run("django", tmp_path)
    # They look whether root may not write to a file.
    of_root = {name for name in result.failed if name.startswith("FileBackend")}
    assert os.getuid() == 0 or not of_root
    total, failures = AT_MOST[release]
    assert result.total >= total
    assert len(result.failed) <= failures
    assert result.failed - of_root == listed("django", release), result.output


def test_flask_mail(tmp_path: Path) -> None:
    """The tests of Flask-Mail, with this extension in the place of its ``Mail``.

    On Python 3.13 some fail with Flask-Mail's own as well.
    """
    require("flask_mail")
    result = run("flask_mail", tmp_path)
    theirs = run("flask_mail", tmp_path, theirs=True)
    total, failures = AT_MOST["flask_mail"]
    assert result.total == theirs.total == total
    assert len(result.failed) <= failures
    assert result.failed - theirs.failed == listed("flask_mail", "0.9.1"), result.output
    assert theirs.failed <= listed("flask_mail", "its own"), theirs.output


def test_logging(tmp_path: Path) -> None:
    """CPython's test of SMTPHandler passes with `PooledSmtpHandler`."""
    require("logging")
    result = run("logging", tmp_path)
    assert (result.total, result.failed) == (1, frozenset()), result.output
