"""gevent replaces threads, locks and sockets after smtpconn was imported and used.

gunicorn's gevent workers do that with ``--preload``: the application is loaded, the worker is
forked, and only then is everything patched. A greenlet that waited for a lock of before would stop
all others of its process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smtpconn.testing import SmtpServer

ROOT = Path(__file__).parent.parent

PROGRAM = """
import logging
import os
import ssl
import sys
import time
import warnings

from smtpconn import ConnectionPool, Envelope, ValidationError
from smtpconn import smtplib
from smtpconn.contrib.logging import PooledSmtpHandler

url, host, port, scenario, is_used = sys.argv[1:]
SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\\r\\n\\r\\nHello!\\r\\n"

context = ssl.create_default_context()
pool = ConnectionPool(url, max_size=2)
handler = PooledSmtpHandler(pool, SENDER, RECIPIENTS, "log", group_for=0.01, max_mails=1000)
log = logging.getLogger("site")
log.addHandler(handler)
pools = smtplib.pooled(max_size=2)


def script():
    with smtplib.SMTP(host, port, timeout=5) as smtp:
        smtp.starttls()
        smtp.sendmail(SENDER, RECIPIENTS, MESSAGE)


if is_used == "used":
    pool.warm(2)
    script()
    log.error("before")
    handler.flush()

child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

quiet_pool = ConnectionPool(url, max_size=2, keepalive=None)
if scenario == "connected":
    quiet_pool.warm(2)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # gevent says that it comes late
    from gevent import monkey

    monkey.patch_all()
import gevent


def many(work):
    with gevent.Timeout(6):
        gevent.joinall([gevent.spawn(work) for _ in range(20)], raise_error=True)


def send():
    many(lambda: pool.send(SENDER, RECIPIENTS, MESSAGE))
    gevent.sleep(0.3)  # idle connections are looked after
    many(lambda: pool.send(SENDER, RECIPIENTS, MESSAGE))


def close():
    with gevent.Timeout(3):
        holders = [gevent.spawn(hold) for _ in range(2)]
        gevent.sleep(0.2)
        pool.close(10)
        gevent.joinall(holders, raise_error=True)


def hold():
    with pool.connection() as connection:
        gevent.sleep(0.5)
        connection.noop()


def send_many():
    with gevent.Timeout(6):
        envelopes = [Envelope(SENDER, RECIPIENTS, MESSAGE)] * 50
        assert [outcome.error for outcome in pool.send_many(envelopes)] == [None] * 50


def log_records():
    def work():
        log.error("one")
        gevent.sleep(0.02)
        log.error("two")

    many(work)
    handler.flush()
    assert (handler.mailed, handler.dropped) == (40, 0)
    handler.close()


def drop_in():
    many(script)
    smtplib.configure(verify=False)
    many(script)


def connected():
    many(lambda: quiet_pool.send(SENDER, RECIPIENTS, MESSAGE))
    assert quiet_pool.stats().connects == 2


def context_of_before():
    own = ConnectionPool(url, tls_context=context)
    try:
        own.send(SENDER, RECIPIENTS, MESSAGE)
    except ValidationError as error:
        assert "made before gevent" in str(error)
    assert own.stats().in_use == 0


globals()[scenario]()
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("is_used", ["new", "used"])
@pytest.mark.parametrize(
    "scenario",
    ["send", "close", "send_many", "log_records", "drop_in", "connected", "context_of_before"],
)
def test_gevent_comes_after_a_fork(
    scenario: str, is_used: str, smtp_server_factory: type[SmtpServer]
) -> None:
    """Greenlets wait for each other, and for nothing that none of them can give.

    Connections of before go on to work. TLS contexts of before cannot, which is gevent's limit: our
    own are made anew, and about another one there is an error that says so.
    """
    pytest.importorskip("gevent")
    server = smtp_server_factory(tls="starttls")
    arguments = [server.url, server.host, str(server.port), scenario, is_used]
    done = subprocess.run(
        # Python 3.12 and later warn of a fork beside the thread that looks after idle connections.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=18,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "SSL_CERT_FILE": server.ca_file},
        check=False,
    )
    assert done.stderr == ""
    assert (done.stdout, done.returncode) == ("done\n", 0)
