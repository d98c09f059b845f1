"""Send a newsletter to the rows of a CSV file, with a ledger that a second run resumes from.

    export SMTP_URL=smtp+starttls://user:password@smtp.example.com
    python newsletter.py people.csv ledger.csv

The first file has the columns ``address`` and ``name``. The second one is written, a line for each
row that is done with: ``sent``, ``never`` (refused for good) or ``unknown`` (it may have been
delivered). What is not in it is sent by the next run: rows that were not begun, and rows that the
server put off.

Ctrl-C begins nothing more and waits for what is in flight; no outcome is lost.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

from smtpconn import ConnectionPool, Envelope, SendOutcome

SENDER = "news@example.com"


def letter(address: str, name: str) -> EmailMessage:
    """The newsletter for one person."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, address, "June"
    message.set_content(f"Hello {name},\n\nthis is the news of June.\n")
    return message


def done_with(ledger: Path) -> set[str]:
    """The addresses that an earlier run is done with."""
    if not ledger.exists():
        return set()
    with ledger.open(newline="") as file:
        return {row[0] for row in csv.reader(file) if row}


def envelopes(people: Path, done: set[str]) -> Iterator[Envelope]:
    """An envelope for each row that is not done with; read as connections become free."""
    with people.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["address"] not in done:
                yield Envelope(SENDER, [row["address"]], letter(row["address"], row["name"]))


def status_of(outcome: SendOutcome) -> str:
    """The status of a message for the ledger; "again" is not written."""
    error = outcome.error
    if error is None:
        return "sent"
    if error.may_have_been_delivered:
        return "unknown"
    return "again" if error.is_safe_to_retry else "never"


def run(pool: ConnectionPool, people: Path, ledger: Path) -> Counter[str]:
    """Send to all who are not in the ledger; return the number of messages by status."""
    counts: Counter[str] = Counter()
    with (
        ledger.open("a", newline="") as file,
        pool.send_many(envelopes(people, done_with(ledger)), timeout=60) as outcomes,
    ):
        before = signal.signal(signal.SIGINT, lambda *_: outcomes.stop())
        try:
            written = csv.writer(file)
            for outcome in outcomes:
                word = status_of(outcome)
                counts[word] += 1
                if word != "again":
                    written.writerow([*outcome.envelope.recipients, word])
                    file.flush()
                if counts.total() % 100 == 0:
                    print(f"{counts.total()} done", file=sys.stderr)
        finally:
            signal.signal(signal.SIGINT, before)
    return counts


if __name__ == "__main__":
    with ConnectionPool(os.environ.get("SMTP_URL", "smtp://localhost"), max_size=5) as shared:
        found = run(shared, Path(sys.argv[1]), Path(sys.argv[2]))
    print(", ".join(f"{count} {word}" for word, count in sorted(found.items())) or "nothing to do")
    sys.exit(1 if found["again"] else 0)
