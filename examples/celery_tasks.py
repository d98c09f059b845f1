"""Mail from Celery workers on Redis: no message lost in silence, none sent twice.

    celery -A examples.celery_tasks worker --concurrency 4
    python -m examples.celery_tasks you@example.net she@example.net

`notify` is the short way: acknowledged before it runs, and tried again wherever that is safe. A
worker that is killed takes its message with it.

`deliver` is for mail that matters. It is acknowledged when it is done, so a killed worker's message
comes back, and the ledger (`examples.mail_ledger`) knows whether it may still be sent. What
follows, as long as Redis keeps what it is told (``appendonly yes``), whatever is killed and however
often a task comes back:

* Every message that was queued ends as delivered, failed or unknown.
* It was sent once if delivered, and not if failed. Unknown means once or not at all: only the
  recipient can say which, so it is for a person to decide. No program can know more.
* Queued twice under one id, it is sent once, for as long as the ledger remembers the id.

Connections to the server: one for each process of a worker, for it runs one task at a time.
"""

from __future__ import annotations

import os
import sys

from celery import Celery, Task
from celery.exceptions import Reject, Retry
from celery.utils.time import get_exponential_backoff_interval
from redis import Redis
from redis.exceptions import RedisError

from examples.mail_ledger import Ledger
from smtpconn import RetryableError, SmtpError, get_pool

SMTP_URL = os.environ.get("SMTP_URL", "smtp://localhost")
REDIS_URL = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
FIRST_RETRY = int(os.environ.get("FIRST_RETRY", "60"))  # seconds; doubled each time, up to:
LAST_RETRY = 1800  # must be less than Redis's visibility_timeout, an hour unless set

app = Celery("mail", broker=REDIS_URL)
app.conf.worker_prefetch_multiplier = 1
ledger = Ledger(Redis.from_url(REDIS_URL, decode_responses=True))


# The names are given: by itself Celery calls a task of a program that is run otherwise than one of
# a module that is imported, and a worker throws away what it does not know.
@app.task(name="mail.deliver", bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=8)
def deliver(self: Task, message_id: str, sender: str, recipients: list[str], text: str) -> str:
    """Send a message once; return the outcome, which is also in the ledger."""
    message = text.encode()
    try:
        if not ledger.claim(message_id):
            return ledger.settled(message_id)
    except RedisError as error:
        raise Reject(error, requeue=True) from error
    try:
        result = get_pool(SMTP_URL, max_size=1).send(sender, recipients, message)
    except SmtpError as error:
        if error.may_have_been_delivered:
            return ledger.settle(message_id, "unknown", str(error))
        if not error.is_safe_to_retry or self.request.retries >= self.max_retries:
            ledger.settle(message_id, "failed", str(error))
            raise
        ledger.release(message_id)
        raise _again(self, error) from error
    refused = [f"{each.recipient}: {each.response}" for each in result.rejected_recipients]
    return ledger.settle(message_id, "delivered", "; ".join(refused))


def _again(task: Task, error: SmtpError) -> Retry | Reject:
    """Put it in the queue for later; returns what the task has to raise then."""
    # With jitter, lest all that were refused together come back together.
    retries = task.request.retries
    pause = get_exponential_backoff_interval(FIRST_RETRY, retries, LAST_RETRY, full_jitter=True)
    try:
        queued: Retry = task.retry(exc=error, countdown=pause, throw=False)
    except Reject:
        # It could not be queued, and Celery would drop it. Let this run come back instead.
        return Reject(error, requeue=True)
    return queued


@app.task(
    name="mail.notify", autoretry_for=(RetryableError,), retry_backoff=FIRST_RETRY, max_retries=8
)
def notify(sender: str, recipient: str, text: str) -> None:
    """Send a message, and retry after each `RetryableError`.

    Such a message was certainly not delivered: greylisting, a server that is down, a connection
    that was lost before the content. A permanent refusal and an unknown outcome are not retried.
    """
    get_pool(SMTP_URL, max_size=1).send(sender, [recipient], text.encode())


if __name__ == "__main__":
    for address in sys.argv[1:]:
        words = f"From: app@example.com\r\nTo: {address}\r\nSubject: welcome\r\n\r\nHello!\r\n"
        deliver.delay(f"welcome-{address}", "app@example.com", [address], words)
