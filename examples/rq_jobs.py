"""Mail from RQ workers on Redis: tried again where that is safe, and nowhere else.

    rq worker --with-scheduler --worker-class rq.SimpleWorker mail
    python -m examples.rq_jobs you@example.net she@example.net

A job says itself whether it is to run again, by returning `rq.Retry`; it does so for each
`RetryableError`: certainly not delivered, and worth another try. What it raises instead ends in
RQ's registry of failed jobs, with its traceback: a message that is refused for good, or one that
may have been delivered. Do not enqueue it with ``retry=``, which would run it again whatever it
raised, and after the death of its worker.

Connections to the server: one for each SimpleWorker. RQ's `Worker` forks for every job, so each
message has a connection of its own there: send several in one job, with `pool.send_many`.
"""

from __future__ import annotations

import os
import sys

from redis import Redis
from rq import Queue, Retry

from smtpconn import RetryableError, get_pool

SMTP_URL = os.environ.get("SMTP_URL", "smtp://localhost")
REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
FIRST_RETRY = int(os.environ.get("FIRST_RETRY", "60"))  # seconds; doubled each time


def notify(sender: str, recipient: str, text: str) -> Retry | None:
    """Send a message; RQ runs it again later if it is safe to."""
    try:
        get_pool(SMTP_URL, max_size=1).send(sender, [recipient], text.encode())
    except RetryableError:
        return Retry(max=8, interval=[FIRST_RETRY * 2**n for n in range(8)])
    return None


if __name__ == "__main__":
    with Redis.from_url(REDIS_URL) as redis:
        for address in sys.argv[1:]:
            words = f"From: app@example.com\r\nTo: {address}\r\nSubject: welcome\r\n\r\nHello!\r\n"
            # By its name: here this module is called __main__, and a worker knows no such one.
            Queue("mail", connection=redis).enqueue(
                "examples.rq_jobs.notify", "app@example.com", address, words
            )
