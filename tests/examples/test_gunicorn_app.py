"""examples/gunicorn_app.py under a real gunicorn: loaded, connected, then forked."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections import defaultdict

import pytest

from smtpconn.testing import SmtpServer
from tests.examples.processes import ROOT, Gunicorn
from tests.support.threads import run_in_threads

CONFIG = str(ROOT / "examples" / "gunicorn_conf.py")
WORKERS, MAX_SIZE = 3, 2

pytestmark = pytest.mark.timeout(120)


class Site:
    """The application, and which process answered for whom."""

    def __init__(self, server: SmtpServer) -> None:
        self.server = server
        self.gunicorn = Gunicorn("-c", CONFIG, "tests.examples.warmed:application")
        self.gunicorn.settings["SMTP_URL"] = server.url
        self.processes: dict[str, int] = {}
        self._numbers = itertools.count()
        self._busy = 0

    def welcome(self) -> int:
        """Have somebody welcomed; returns the process that did it."""
        address = f"r{next(self._numbers)}@example.net"
        # 503 where two seconds are short for a connection: it was not sent, and is asked for again.
        while (answer := self.gunicorn.post(f"/welcome/{address}"))[0] == 503:
            self._busy += 1
            assert self.gunicorn.logs().count("became free within") >= self._busy
        status, text = answer
        assert (status, text.partition(": ")[2]) == (200, "sent\n")
        self.processes[address] = int(text.split()[1].rstrip(":"))
        return self.processes[address]

    def welcome_ten(self, client: int) -> None:
        """What one of several clients does."""
        for _ in range(10):
            self.welcome()

    def welcome_until(self, processes: int, *, others_than: set[int]) -> None:
        """Go on until so many processes have answered that are none of those."""
        seen: set[int] = set()
        while len(seen) < processes:
            seen |= {self.welcome()} - others_than

    def connections(self) -> dict[int, set[int]]:
        """The connections each process has used."""
        used: defaultdict[int, set[int]] = defaultdict(set)
        for message in self.server.messages:
            used[self.processes[message.recipients[0]]].add(message.connection)
        return used


def test_workers_that_were_forked_with_a_pool() -> None:
    """Each has its own connections, at most as many as a pool has; also those that replace others.

    The master had made one connection before it forked, which nobody uses. Workers that are told to
    end say QUIT.
    """
    with SmtpServer() as server:
        site = Site(server)
        with site.gunicorn:
            run_in_threads(6, site.welcome_ten)
            site.welcome_until(2, others_than=set())
            killed = set(site.processes.values())
            for process in killed:
                os.kill(process, signal.SIGKILL)
            site.welcome_until(1, others_than=killed)
            used = site.connections()
        server.wait_for(lambda: all(c.closed for c in server.connections))
    assert len(server.messages) == len(site.processes)
    assert 3 <= len(used) <= 2 * WORKERS
    assert all(len(mine) <= MAX_SIZE for mine in used.values())
    numbers = [number for mine in used.values() for number in mine]
    assert len(numbers) == len(set(numbers))
    assert len(server.connections) == len(numbers) + 1
    commands = {c.number: c.commands for c in server.connections}
    assert not any("MAIL" in line for line in commands[1])
    ended = [number for process in used.keys() - killed for number in used[process]]
    assert {commands[number][-1] for number in ended} == {"QUIT"}


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        ({"step": "RCPT", "reply": "450 4.2.0 later"}, 503, "was not sent"),
        ({"step": "CONTENT", "reply": "554 5.7.1 spam"}, 502, "554 5.7.1 spam"),
        ({"step": "CONTENT", "close": True}, 504, "may have been sent"),
    ],
    ids=lambda value: str(value),
)
def test_what_the_browser_hears(fault: dict[str, str], status: int, text: str) -> None:
    """Whether it is worth trying again, and when the user should look first."""
    with SmtpServer() as server:
        server.fault(**fault)  # type: ignore[arg-type]
        site = Site(server)
        with site.gunicorn as gunicorn:
            answer = gunicorn.post("/welcome/you@example.net")
            assert gunicorn.post("/welcome/nobody")[0] == 400
        assert answer[0] == status
        assert re.search(text, answer[1])
        assert server.messages == []
