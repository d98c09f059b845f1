"""CPython's own tests of ``smtplib``, run against `smtpconn.smtplib`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.support.pages.page import ROOT

# They want what differs on purpose. Nothing else may fail.
DIFFERENT = {
    # Python 3.13: wants "mail from:" in small letters, and SIZE without the CRLF that is added.
    "SMTPSimTests.test_lowercase_mail_from_rcpt_to",
}


def test_what_cpython_tests() -> None:
    """At least 57 tests with real sockets pass, and none fails but those that are listed."""
    if importlib.util.find_spec("test.test_smtplib") is None:
        reason = "this Python was installed without its own tests"
        if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{reason}, and SMTPCONN_REQUIRE_SERVERS=1", pytrace=False)
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.cpython_smtplib"],
        capture_output=True,
        text=True,
        timeout=19,
        cwd=ROOT,
        check=True,
    )
    results: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    failed = {name: trouble for name, trouble in results.items() if trouble}
    unexpected = failed.keys() - DIFFERENT
    assert not unexpected, "\n\n".join(failed[name] for name in unexpected)
    assert len(results) - len(failed) >= 57
