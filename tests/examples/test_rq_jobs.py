"""examples/rq_jobs.py: real workers of RQ on a real Redis."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job

from smtpconn.testing import SmtpServer
from tests.examples.processes import RqWorker, queue_with, wait_for
from tests.realservers.redis import RedisServer

pytestmark = pytest.mark.timeout(60)


def taken(smtp: SmtpServer) -> Counter[str]:
    """How often the server took a message for each recipient."""
    return Counter(address for message in smtp.messages for address in message.recipients)


@pytest.mark.parametrize("kind", ["rq.SimpleWorker", "rq.Worker"])
def test_what_is_tried_again_and_what_never(redis_server: RedisServer, kind: str) -> None:
    """Safe and transient: again, until it is delivered. Refused for good, or unknown: failed."""
    usual = [f"r{number}@example.net" for number in range(5)]
    with SmtpServer() as smtp, Redis.from_url(redis_server.url) as redis:
        smtp.fault("RCPT", reply="450 4.2.0 greylisted", match="grey@", times=2)
        smtp.fault("DATA", close=True, match="drop@", times=2)
        smtp.fault("RCPT", reply="550 5.1.1 no", match="no@", times=None)
        smtp.fault("CONTENT", close=True, match="lost@", times=None)
        settings = {"SMTP_URL": smtp.url, "REDIS_URL": redis_server.url, "FIRST_RETRY": "1"}
        good = [*usual, "grey@example.net", "drop@example.net"]
        queue_with("examples.rq_jobs", "no@example.net", "lost@example.net", *good, **settings)
        queue = Queue("mail", connection=redis)
        with RqWorker(kind, **settings) as worker:
            wait_for(lambda: taken(smtp) == dict.fromkeys(good, 1), "delivered", worker)
            wait_for(lambda: len(queue.failed_job_registry) == 2, "failed", worker)
            scheduled = queue.scheduled_job_registry
            wait_for(lambda: not len(queue) and not len(scheduled), "nothing is left", worker)
        failed = [Job.fetch(i, redis) for i in queue.failed_job_registry.get_job_ids()]
        why = {job.args[1]: result.exc_string for job in failed if (result := job.latest_result())}
        tried = Counter(
            line.partition("<")[2].partition(">")[0]
            for connection in smtp.connections
            for line in connection.commands
            if line.startswith("RCPT")
        )
        assert taken(smtp) == dict.fromkeys(good, 1)
        assert tried["no@example.net"] == tried["lost@example.net"] == 1
        assert tried["grey@example.net"] == 3
        assert "smtpconn.AllRecipientsFailedError" in str(why["no@example.net"])
        assert "smtpconn.ConnectionClosedError" in str(why["lost@example.net"])
        if kind == "rq.SimpleWorker":
            # One, and a new one for each that the server closed.
            assert len(smtp.connections) <= 4
