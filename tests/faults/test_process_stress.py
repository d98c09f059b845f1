"""Everything that happens to a busy process, at once: `tests.faults.process_stress`.

In a process of its own, because it takes signals, forks, and counts what is left behind. For a
minute, or as many seconds as ``SMTPCONN_STRESS_SECONDS`` says; 0 skips it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import Count

ROOT = Path(__file__).parent.parent.parent
SECONDS = float(os.environ.get("SMTPCONN_STRESS_SECONDS", "60"))


@pytest.mark.exhaustive
@pytest.mark.skipif(not SECONDS, reason="SMTPCONN_STRESS_SECONDS is 0")
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system is not Linux")
@pytest.mark.timeout(SECONDS + 180)
def test_everything_at_once(count: Count) -> None:
    """Signals, forks, hooks, garbage, drains and bad servers: the books balance, nothing is left.

    What is acknowledged is stored, with its own recipient and content; what certainly failed is
    not; nothing is stored twice; no permit, descriptor or thread is left; each error is of a class
    that these servers can cause, or is the one that a handler or a hook raised.
    """
    seed = random.SystemRandom().randrange(1_000_000)
    program = ["-m", "tests.faults.process_stress", str(SECONDS), str(seed)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout)
    count("messages under stress", report["fates"]["acknowledged"])
    for what in ("signals", "strikes", "sent inside", "os.fork", "fork in C"):
        count(f"under stress: {what}", report["counts"][what])
    count("under stress: messages of children", report["counts"]["in children: ended"])
