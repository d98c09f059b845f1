"""Mail from Dramatiq workers on Redis: tried again where that is safe, and nowhere else.

    dramatiq examples.dramatiq_actors --processes 2 --threads 4
    python -m examples.dramatiq_actors you@example.net she@example.net

By itself Dramatiq runs a message again after every exception. `should_retry` allows that for a
`RetryableError` alone: certainly not delivered, and worth another try. What is not ends in
Dramatiq's dead letters, with its traceback in the log.

A message whose worker died is given to another worker, even if it was delivered; a ledger such as
`examples.mail_ledger` prevents that it is sent twice then.

Connections to the server: at most one for each thread of a process, here four times two.
"""

from __future__ import annotations

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from smtpconn import RetryableError, get_pool

SMTP_URL = os.environ.get("SMTP_URL", "smtp://localhost")
REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
FIRST_RETRY = int(os.environ.get("FIRST_RETRY", "60"))  # seconds; doubled each time

dramatiq.set_broker(RedisBroker(url=REDIS_URL))  # type: ignore[no-untyped-call]


def should_retry(retries: int, error: BaseException) -> bool:
    """Whether to send a message again."""
    return retries < 8 and isinstance(error, RetryableError)


@dramatiq.actor(retry_when=should_retry, min_backoff=FIRST_RETRY * 1000)
def notify(sender: str, recipient: str, text: str) -> None:
    """Send a message."""
    get_pool(SMTP_URL, max_size=4).send(sender, [recipient], text.encode())


if __name__ == "__main__":
    for address in sys.argv[1:]:
        words = f"From: app@example.com\r\nTo: {address}\r\nSubject: welcome\r\n\r\nHello!\r\n"
        notify.send("app@example.com", address, words)
