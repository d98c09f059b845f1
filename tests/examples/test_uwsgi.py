"""A pool and a logging handler under uWSGI, whose workers are forked in C.

The site has used both before the fork. uWSGI is an extra (``compat-test``); where it is missing
these tests are skipped, unless SMTPCONN_REQUIRE_SERVERS=1.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from smtpconn.testing import SmtpServer
from tests.examples.processes import Uwsgi, wait_for
from tests.realservers.fixtures import require
from tests.support.threads import run_in_threads

WORKERS, REQUESTS = 4, 200

pytestmark = pytest.mark.timeout(120)


def uwsgi(server: SmtpServer, log_server: SmtpServer, *options: str) -> Uwsgi:
    """uWSGI with the site, not started yet; skips the test if there is none."""
    require(Uwsgi)
    urls = {"SMTP_URL": server.url, "LOG_URL": log_server.url}
    return Uwsgi(WORKERS, "--module", "tests.examples.mailing:application", *options, **urls)


def records_in(server: SmtpServer) -> Counter[str]:
    """The records that were mailed."""
    mails = (message.content.decode() for message in server.messages)
    return Counter(name for mail in mails for name in re.findall(r"^record: (.*)\r$", mail, re.M))


@pytest.mark.parametrize(
    ("options", "has_threads"),
    [((), False), (("--enable-threads",), True), (("--threads", "3"), True)],
    ids=["plain", "with threads", "several requests at once"],
)
def test_every_message_comes_once_and_to_whom_it_is_for(
    options: tuple[str, ...], has_threads: bool
) -> None:
    """Four workers, two hundred requests each; each record is mailed once, by its own worker.

    Two connections were made before the fork, which no worker uses. Without threads the records are
    mailed at the latest when the worker ends.
    """
    answers: dict[str, str] = {}

    with SmtpServer() as server, SmtpServer() as log_server:
        site = uwsgi(server, log_server, *options)

        def client(number: int) -> None:
            for n in range(REQUESTS // 2):
                name = f"c{number}n{n}"
                answers[name] = site.get(number % WORKERS, f"/{name}")

        with site:
            run_in_threads(2 * WORKERS, client)
            if has_threads:
                wait_for(lambda: records_in(log_server).keys() >= answers.keys(), "records", site)
            wait_for(site.is_idle, "no worker is at a request", site)
        records = records_in(log_server)
        messages = server.messages
    assert len(answers) == WORKERS * REQUESTS
    assert Counter(answer.split()[1] for answer in answers.values()) == {"sent": len(answers)}
    assert Counter(m.recipients for m in messages) == {(f"{n}@example.com",): 1 for n in answers}
    users = defaultdict(set)
    for message in messages:
        name = message.recipients[0].partition("@")[0]
        assert message.content == expected(name)
        users[message.connection].add(answers[name].split()[0])
    assert all(len(processes) == 1 for processes in users.values())
    by_process = Counter(answer.split()[0] for answer in answers.values())
    assert list(by_process.values()) == [REQUESTS] * WORKERS
    assert min(users) > 2
    assert records == Counter([*answers, "the site begins"])


def expected(name: str) -> bytes:
    """As the site writes it, which cannot be imported here: it would begin to mail."""
    return f"Subject: for {name}\r\n\r\n{name * 100}\r\nthis was for {name}\r\n".encode()
