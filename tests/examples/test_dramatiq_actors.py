"""examples/dramatiq_actors.py: real workers of Dramatiq on a real Redis."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis

from smtpconn.testing import SmtpServer
from tests.examples.processes import DramatiqWorker, queue_with, wait_for
from tests.realservers.redis import RedisServer

pytestmark = pytest.mark.timeout(60)


def test_what_is_tried_again_and_what_never(redis_server: RedisServer) -> None:
    """Safe and transient: again, until it is delivered. Refused for good, or unknown: dead."""
    usual = [f"r{number}@example.net" for number in range(20)]
    with SmtpServer() as smtp, Redis.from_url(redis_server.url) as redis:
        smtp.fault("RCPT", reply="450 4.2.0 greylisted", match="grey@", times=2)
        smtp.fault("DATA", close=True, match="drop@", times=2)
        smtp.fault("RCPT", reply="550 5.1.1 no", match="no@", times=None)
        smtp.fault("CONTENT", close=True, match="lost@", times=None)
        settings = {"SMTP_URL": smtp.url, "REDIS_URL": redis_server.url, "FIRST_RETRY": "1"}
        good = [*usual, "grey@example.net", "drop@example.net"]
        everybody = ["no@example.net", "lost@example.net", *good]
        queue_with("examples.dramatiq_actors", *everybody, **settings)

        def taken() -> Counter[str]:
            return Counter(address for m in smtp.messages for address in m.recipients)

        with DramatiqWorker("--processes", "1", "--threads", "4", **settings) as worker:
            wait_for(lambda: taken() == dict.fromkeys(good, 1), "delivered", worker)
            wait_for(lambda: redis.zcard("dramatiq:default.XQ") == 2, "dead letters", worker)
            logs = worker.logs()
        tried = Counter(
            line.partition("<")[2].partition(">")[0]
            for connection in smtp.connections
            for line in connection.commands
            if line.startswith("RCPT")
        )
        assert taken() == dict.fromkeys(good, 1)
        assert tried["no@example.net"] == tried["lost@example.net"] == 1
        assert tried["grey@example.net"] == 3
        # One for each thread, and a new one for each that the server closed.
        assert len(smtp.connections) <= 4 + 3
        assert "smtpconn.AllRecipientsFailedError" in logs
        assert "smtpconn.ConnectionClosedError" in logs
