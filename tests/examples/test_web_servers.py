"""Mail from requests under each kind of web server, that is reloaded and stopped while it mails.

Those that load the application before they fork (``--preload``, uWSGI) have sent mail by then.
"""

from __future__ import annotations

import http.client
import itertools
import signal
import threading
from collections import Counter

import pytest

from smtpconn.testing import SmtpServer
from tests.examples.processes import Gunicorn, PlainUwsgi, Waitress, wait_for
from tests.realservers.fixtures import require
from tests.support.threads import run_in_threads

REQUESTS, CLIENTS, WORKERS, MAX_SIZE = 200, 6, 2, 2
APP = "tests.examples.mailed:application"

pytestmark = pytest.mark.timeout(90)


def gunicorn(*options: str) -> Gunicorn:
    """gunicorn, as the options say."""
    return Gunicorn("--workers", str(WORKERS), "--graceful-timeout", "10", *options, APP)


def uwsgi(*options: str) -> Gunicorn:
    """uWSGI, as the options say; skips the test if there is none."""
    require(PlainUwsgi)
    return PlainUwsgi("--processes", str(WORKERS), *options, "--module", APP)


def waitress() -> Gunicorn:
    """waitress; skips the test if there is none."""
    require(Waitress)
    return Waitress("--threads=4", APP)


class Clients:
    """Some that ask at the same time, and what they heard."""

    def __init__(self, site: Gunicorn) -> None:
        self._site = site
        self._numbers = itertools.count()
        self.answers: dict[str, tuple[int, str]] = {}
        self.unanswered: dict[str, OSError | http.client.HTTPException] = {}

    def ask(self, count: float, until: threading.Event | None = None) -> None:
        """Have about so many mails sent; or until it is set and somebody is not answered."""

        def client(number: int) -> None:
            end = len(self.answers) + count
            while len(self.answers) < end:
                address = f"r{next(self._numbers)}@example.net"
                try:
                    self.answers[address] = self._site.post(f"/welcome/{address}")
                except (OSError, http.client.HTTPException) as error:
                    self.unanswered[address] = error
                    if until is not None and until.is_set():
                        return

        run_in_threads(CLIENTS, client)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        *[
            (gunicorn, ["--worker-class", *kind, *preload])
            for kind in (["sync"], ["gthread", "--threads", "4"], ["gevent"])
            for preload in ([], ["--preload"])
        ],
        (uwsgi, []),
        (uwsgi, ["--threads", "3"]),
        (uwsgi, ["--lazy-apps"]),
        (uwsgi, ["--gevent", "20", "--gevent-monkey-patch"]),
        (waitress, []),
    ],
    ids=lambda value: value.__name__ if callable(value) else " ".join(value) or "plain",
)
def test_reloaded_and_stopped_while_it_mails(make: type[Gunicorn], options: list[str]) -> None:
    """200 requests, a reload in the middle, a stop while clients go on to ask.

    Each of the 200 is answered. What was answered was delivered once, to whom it is for; what was
    not, because of the stop, once or not at all. No connection to the mail server is left.
    """
    with SmtpServer() as server:
        site = make(*options)
        site.settings["SMTP_URL"] = server.url
        is_stopping = threading.Event()
        with site:
            clients = Clients(site)
            reload = threading.Thread(target=reload_in_the_middle, args=(site, clients))
            reload.start()
            clients.ask(REQUESTS)
            reload.join()
            assert not clients.unanswered
            asking = threading.Thread(target=clients.ask, args=(float("inf"), is_stopping))
            asking.start()
            answered = len(clients.answers)
            wait_for(lambda: len(clients.answers) >= answered + CLIENTS, "more answers", site)
            is_stopping.set()
            site.halt()
            asking.join()
            logs = site.logs()
        server.wait_for(lambda: all(c.closed for c in server.connections))
        mailed = Counter(address for m in server.messages for address in m.recipients)
        connections = len(server.connections)
    starts = mailed.pop("start@example.net")
    assert set(clients.answers.values()) == {(200, "sent\n")}, logs
    assert len(clients.answers) >= REQUESTS
    assert mailed.keys() - clients.unanswered.keys() == clients.answers.keys(), logs
    assert set(mailed.values()) == {1}
    assert site.reload_log in logs
    # Those of before and after the reload, one of each that loaded the application, and one is
    # replaced after 100 messages.
    assert connections <= 2 * WORKERS * MAX_SIZE + starts + len(mailed) // 100


def reload_in_the_middle(site: Gunicorn, clients: Clients) -> None:
    """As an administrator does when there is a new version; waitress has no such thing."""
    if site.reload_log:
        wait_for(lambda: len(clients.answers) > REQUESTS // 3, "answers", site)
        site.send_signal(signal.SIGHUP)
