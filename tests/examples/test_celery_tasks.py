"""examples/celery_tasks.py: real workers on a real Redis, killed where it hurts most.

The books of every test: what the server took, by recipient, beside what the ledger says.
"""

from __future__ import annotations

import os
import pickle
import signal
import smtplib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from redis import Redis

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionClosedError,
    PermanentError,
    Phase,
    RetryableError,
)
from smtpconn.testing import SmtpServer
from tests.examples.processes import ROOT, TIMEOUT, CeleryWorker, wait_for
from tests.realservers.redis import RedisServer

pytestmark = pytest.mark.timeout(60)

NOTIFY = """
import os, pickle, sys
import tests.examples.worker
from examples.celery_tasks import notify

text = "Subject: hello\\r\\n\\r\\nHello!\\r\\n"
tried = int(os.environ.get("TRIED", "0"))
asked = [notify.apply_async(("app@example.com", a, text), retries=tried) for a in sys.argv[1:]]
answers = [each.get(timeout=20, propagate=False) for each in asked]
sys.stdout.buffer.write(pickle.dumps(answers))
"""


class WebApplication:
    """Queues messages as a web application does, and reads the ledger of what became of them."""

    def __init__(self, smtp: SmtpServer, redis_server: RedisServer) -> None:
        self.smtp = smtp
        self.settings = {"SMTP_URL": smtp.url, "REDIS_URL": redis_server.url, "FIRST_RETRY": "1"}
        self.redis = Redis.from_url(redis_server.url, decode_responses=True)

    def worker(self, concurrency: int = 2) -> CeleryWorker:
        """A worker that has not been started."""
        return CeleryWorker("--concurrency", str(concurrency), **self.settings)

    def queue(self, *addresses: str) -> None:
        """Queue a message for each, for `deliver`."""
        self._run("-m", "examples.celery_tasks", *addresses)

    def notify(self, *addresses: str) -> list[object]:
        """Have `notify` write to each, and return its results or errors."""
        answers: list[object] = pickle.loads(self._run("-c", NOTIFY, *addresses))
        return answers

    def entry(self, address: str) -> dict[str, str]:
        """The ledger's entry."""
        entry = self.redis.hgetall(f"mail:welcome-{address}")
        return {str(name): str(value) for name, value in entry.items()}

    def outcome(self, address: str) -> str | None:
        """What the ledger says became of it."""
        return self.entry(address).get("outcome")

    def holder(self, address: str) -> int | None:
        """The process that is sending it now, or was killed doing so."""
        entry = self.entry(address)
        if "outcome" in entry or "claimed" not in entry:
            return None
        return int(entry["claimed"].rpartition(":")[2])

    def is_done(self) -> bool:
        """Whether nothing is queued, and nothing that was taken is unacknowledged."""
        return not self.redis.llen("celery") and not self.redis.hlen("unacked")

    def taken(self) -> Counter[str]:
        """How often the server took a message for each recipient."""
        return Counter(address for m in self.smtp.messages for address in m.recipients)

    def _run(self, *arguments: str) -> bytes:
        settings = os.environ | self.settings | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            timeout=TIMEOUT,
            env=settings,
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


class Gate:
    """A recipient that the server does not answer to until the gate is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def knows(self, path: str) -> bool:
        """Every recipient is known; but one has to wait."""
        return not path.startswith("gate@") or self._open.wait(TIMEOUT)

    def open(self) -> None:
        """Let it through."""
        self._open.set()


@pytest.fixture
def gate() -> Gate:
    """A gate that is closed."""
    return Gate()


@pytest.fixture
def web_app(redis_server: RedisServer, gate: Gate) -> Iterator[WebApplication]:
    """A web application; at its end the server has no faults left."""
    with SmtpServer(recipient_known=gate.knows) as smtp:
        made = WebApplication(smtp, redis_server)
        with made.redis:
            yield made
        gate.open()


def addresses(count: int) -> list[str]:
    """So many recipients."""
    return [f"r{number}@example.net" for number in range(count)]


def test_what_a_task_does_with_each_error(web_app: WebApplication) -> None:
    """Certain and transient: again; permanent: failed; unknown: not again. One connection each."""
    web_app.smtp.fault("RCPT", reply="450 4.2.0 greylisted", match="grey@", times=2)
    web_app.smtp.fault("CONTENT", reply="452 4.3.1 full", match="full@")
    web_app.smtp.fault("RCPT", reply="550 5.1.1 no", match="no@", times=None)
    web_app.smtp.fault("CONTENT", close=True, match="lost@", times=None)
    usual = addresses(20)
    good = [*usual, "grey@example.net", "full@example.net"]
    everybody = [*good, "no@example.net", "lost@example.net"]
    with web_app.worker() as worker:
        web_app.queue(*everybody)
        wait_for(lambda: all(map(web_app.outcome, everybody)), "settled", worker)
        wait_for(web_app.is_done, "acknowledged", worker)
        assert web_app.taken() == dict.fromkeys(good, 1)
        assert {address for address in everybody if web_app.outcome(address) == "delivered"} == {
            *good
        }
        assert web_app.outcome("no@example.net") == "failed"
        assert "550 5.1.1 no" in web_app.entry("no@example.net")["detail"]
        assert web_app.outcome("lost@example.net") == "unknown"
        # Two processes, and one new connection for the one that was closed.
        assert len(web_app.smtp.connections) <= 3
        commands = [line for c in web_app.smtp.connections for line in c.commands]
        tried = Counter(line.partition("<")[2].partition(">")[0] for line in commands)
        assert (tried["grey@example.net"], tried["full@example.net"]) == (3, 2)
        assert (tried["no@example.net"], tried["lost@example.net"]) == (1, 1)
        web_app.queue(*everybody)
        wait_for(web_app.is_done, "acknowledged again", worker)
    assert web_app.taken() == dict.fromkeys(good, 1)


def test_who_is_refused_for_too_long(web_app: WebApplication) -> None:
    """After its last attempt it is failed, with what the server said."""
    web_app.settings["FIRST_RETRY"] = "0"
    web_app.smtp.fault("RCPT", reply="450 4.2.0 later", times=None)
    with web_app.worker() as worker:
        web_app.queue("you@example.net")
        wait_for(lambda: web_app.outcome("you@example.net") is not None, "settled", worker)
        wait_for(web_app.is_done, "acknowledged", worker)
    assert web_app.outcome("you@example.net") == "failed"
    assert "450 4.2.0 later" in web_app.entry("you@example.net")["detail"]
    assert sum("RCPT" in line for c in web_app.smtp.connections for line in c.commands) == 9


def test_what_redis_refuses_for_a_while(web_app: WebApplication) -> None:
    """First nothing can be claimed, then no retry be queued: nothing is lost or sent twice."""
    web_app.smtp.fault("RCPT", reply="450 4.2.0 later", times=2)
    web_app.queue(*addresses(5))
    web_app.redis.acl_setuser("default", enabled=True, commands=["-hsetnx"])
    with web_app.worker() as worker:
        wait_for(lambda: "no permissions to run the 'hsetnx'" in worker.logs(), "refused", worker)
        # A process that queues for the first time says so with SADD.
        web_app.redis.acl_setuser("default", enabled=True, commands=["-sadd", "+hsetnx"])
        wait_for(lambda: all(map(web_app.outcome, addresses(5))), "settled", worker)
        wait_for(web_app.is_done, "acknowledged", worker)
        assert "Reject: (AllRecipientsFailedError" in worker.logs()
    assert {web_app.outcome(address) for address in addresses(5)} == {"delivered"}
    assert web_app.taken() == dict.fromkeys(addresses(5), 1)


def test_the_short_way(web_app: WebApplication) -> None:
    """What was certainly not delivered goes again, until it is: all of it arrives, once."""
    web_app.smtp.fault("CONTENT", reply="451 4.3.0 later", match="later@")
    web_app.smtp.fault("RCPT", reply="450 4.2.0 greylisted", match="grey@", times=2)
    # Twice, because over a connection that was used before the pool tries again by itself.
    web_app.smtp.fault("DATA", close=True, match="drop@", times=2)
    web_app.smtp.fault("MAIL", reply="421 4.3.2 bye", match="app@", times=2)
    who = ["later@example.net", "grey@example.net", "drop@example.net", "usual@example.net"]
    with web_app.worker(concurrency=1):
        assert web_app.notify(*who) == [None] * 4
    assert web_app.taken() == dict.fromkeys(who, 1)


def test_the_short_way_while_the_server_is_down(web_app: WebApplication) -> None:
    """A refused connection is tried again, and the message arrives when the server is back."""
    port = web_app.smtp.port
    web_app.smtp.stop()
    answers: list[object] = []
    with web_app.worker(concurrency=1) as worker:
        asking = threading.Thread(target=lambda: answers.extend(web_app.notify("you@example.net")))
        asking.start()
        wait_for(lambda: "Retry in" in worker.logs(), "tried again", worker)
        assert web_app.taken() == {}
        with SmtpServer(port=port) as back:
            asking.join(TIMEOUT)
            assert answers == [None]
            assert [message.recipients for message in back.messages] == [("you@example.net",)]
        assert "Connection refused" in worker.logs()


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_errors_that_travel(web_app: WebApplication, serializer: str) -> None:
    """The caller of ``result.get()`` sees class, phase, reply and certainty as they were."""
    web_app.settings["RESULTS"] = serializer
    web_app.settings["TRIED"] = "8"  # so that this is the last time
    web_app.smtp.fault("CONTENT", reply="554 5.7.1 spam", match="spam@")
    web_app.smtp.fault("RCPT", reply="550 5.1.1 no", match="no@")
    web_app.smtp.fault("RCPT", reply="450 4.2.0 greylisted", match="grey@")
    web_app.smtp.fault("CONTENT", close=True, match="lost@")
    who = ["spam@example.net", "no@example.net", "grey@example.net", "lost@example.net"]
    with web_app.worker(concurrency=1):
        spam, no, grey, lost = web_app.notify(*who)
    assert web_app.taken() == {}
    assert isinstance(spam, PermanentError)
    assert isinstance(spam, smtplib.SMTPDataError)
    assert (spam.phase, spam.response.code, spam.smtp_error) == (Phase.CONTENT, 554, b"5.7.1 spam")
    assert str(spam.response.enhanced_status) == "5.7.1"
    assert not spam.may_have_been_delivered
    assert isinstance(no, AllRecipientsFailedError)
    assert not isinstance(no, RetryableError)
    assert [r.response.code for r in no.rejected_recipients] == [550]
    # It is given up, and still certain.
    assert isinstance(grey, AllRecipientsFailedError)
    assert isinstance(grey, RetryableError)
    assert (grey.is_transient, grey.recipients) == (True, {who[2]: (450, b"4.2.0 greylisted")})
    assert isinstance(lost, ConnectionClosedError)
    assert not isinstance(lost, RetryableError)
    assert (lost.phase, lost.may_have_been_delivered) == (Phase.CONTENT, True)


def test_workers_that_are_killed(web_app: WebApplication, gate: Gate) -> None:
    """Each of 40 messages is delivered once, or reported unknown.

    One process is killed when the server has its message and the 250 is on the way; one when it has
    claimed a message which the server will say nothing about. At last the whole worker is killed,
    with a message that is settled in the ledger but not acknowledged: it comes back and is not
    sent. One that was greylisted may wait for its retry then.
    """
    web_app.settings["FIRST_RETRY"] = "2"
    web_app.smtp.fault("RCPT", reply="450 4.2.0 greylisted", match="grey@", times=2)
    web_app.smtp.fault("CONTENT", reply=b"250 2.0.0", match="cut@")
    web_app.smtp.fault("CONTENT", hang=True, match="mute@")
    special = [f"{name}@example.net" for name in ("cut", "mute", "gate", "grey")]
    everybody = [*addresses(36), *special]
    with web_app.worker() as worker:
        web_app.queue("cut@example.net", *addresses(10))
        wait_for(lambda: web_app.taken()["cut@example.net"] == 1, "the server has it", worker)
        kill(web_app, "cut@example.net")
        web_app.queue("mute@example.net", *addresses(25)[10:])
        wait_for(lambda: web_app.holder("mute@example.net") is not None, "mute", worker)
        kill(web_app, "mute@example.net")
        wait_for(lambda: len(web_app.smtp.messages) >= 20, "most", worker)
        web_app.queue("grey@example.net", "gate@example.net", *addresses(36)[25:])
        wait_for(lambda: web_app.holder("gate@example.net") is not None, "gate", worker)
        worker.send_signal(signal.SIGSTOP)
        gate.open()
        wait_for(lambda: web_app.outcome("gate@example.net") == "delivered", "delivered", worker)
        worker.kill()
        assert web_app.redis.hlen("unacked") >= 1
    with web_app.worker() as second:
        wait_for(lambda: all(map(web_app.outcome, everybody)), "settled", second)
        wait_for(web_app.is_done, "acknowledged", second)
    outcomes = {address: web_app.outcome(address) for address in everybody}
    unknown = {address for address, outcome in outcomes.items() if outcome == "unknown"}
    assert max(web_app.taken().values()) == 1
    assert all(web_app.taken()[a] == 1 for a, outcome in outcomes.items() if outcome == "delivered")
    assert set(outcomes.values()) == {"delivered", "unknown"}
    # Two that were cut off, and at most what the two processes had in hand when the worker died.
    assert {"cut@example.net", "mute@example.net"} <= unknown
    assert len(unknown) <= 4
    assert (web_app.taken()["cut@example.net"], web_app.taken()["mute@example.net"]) == (1, 0)


def kill(web_app: WebApplication, address: str) -> None:
    """Kill the process that is sending to this recipient."""
    holder = web_app.holder(address)
    assert holder is not None
    os.kill(holder, signal.SIGKILL)
