"""examples/newsletter.py: a batch from a CSV file that can be stopped and resumed."""

from __future__ import annotations

import csv
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest

from examples.newsletter import done_with, run
from smtpconn import ConnectionPool
from smtpconn.testing import SmtpServer


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A file of 300 rows."""
    path = tmp_path / "people.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["address", "name"])
        rows.writerows([f"user{n}@example.com", f"User {n}"] for n in range(300))
    return path


def test_each_row_is_sent_once_and_written_down(people: Path, tmp_path: Path) -> None:
    """All are in the ledger, and a second run has nothing to do."""
    ledger = tmp_path / "ledger.csv"
    with SmtpServer() as server, ConnectionPool(server.url, max_size=3) as pool:
        assert run(pool, people, ledger) == {"sent": 300}
        assert run(pool, people, ledger) == {}
        assert len(server.messages) == 300
    assert len(done_with(ledger)) == 300


def test_refusals_are_told_apart(people: Path, tmp_path: Path) -> None:
    """One for good is written down; one for now is sent by the next run; a wrong address is not."""
    with people.open("a", newline="") as file:
        csv.writer(file).writerows([["gone@example.com", "Gone"], ["no address", "Nobody"]])
    ledger = tmp_path / "ledger.csv"
    with SmtpServer() as server, ConnectionPool(server.url, max_size=2) as pool:
        server.fault("RCPT", reply="450 4.2.1 Mailbox busy", match="user7@", times=1)
        server.fault("RCPT", reply="550 5.1.1 No such user", match="gone@")
        assert run(pool, people, ledger) == {"sent": 299, "again": 1, "never": 2}
        assert run(pool, people, ledger) == {"sent": 1}
        assert len(server.messages) == 300


def test_ctrl_c_and_the_next_run(people: Path, tmp_path: Path) -> None:
    """Nothing is lost and nothing sent twice: the next run sends what the first did not."""
    ledger = tmp_path / "ledger.csv"
    with SmtpServer() as server, ConnectionPool(server.url, max_size=3) as pool:
        server.fault("CONTENT", delay=0.005, times=None)

        def press_ctrl_c() -> None:
            server.wait_for_messages(60)
            os.kill(os.getpid(), signal.SIGINT)

        pressing = threading.Thread(target=press_ctrl_c)
        pressing.start()
        first = run(pool, people, ledger)
        pressing.join()
        assert 60 <= first["sent"] < 300
        assert len(server.messages) == first["sent"] == len(done_with(ledger))
        assert run(pool, people, ledger) == {"sent": 300 - first["sent"]}
        recipients = Counter(m.recipients[0] for m in server.messages)
    assert len(recipients) == 300
    assert set(recipients.values()) == {1}
