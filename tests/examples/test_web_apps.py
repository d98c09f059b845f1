"""The Django and Flask examples under a real gunicorn: messages delivered, connections used."""

from __future__ import annotations

from email.message import EmailMessage

import pytest

from examples.flask_app import create_app, mail
from smtpconn.testing import SmtpServer
from tests.examples.processes import Gunicorn, Waitress
from tests.realservers.fixtures import require
from tests.support.threads import run_in_threads

APPS = {
    "django": "examples.django_app:application",
    "flask": "examples.flask_app:create_app()",
    "flask_mailman": "examples.flask_mailman_app:create_app()",
}
WORKERS, MAX_SIZE, CLIENTS, EACH = 2, 2, 6, 8

pytestmark = pytest.mark.timeout(120)


def settings(server: SmtpServer) -> dict[str, str]:
    """Where the server is, by the names each of them reads."""
    host, port = server.host, str(server.port)
    return {
        "SMTP_URL": server.url,
        "MAIL_SERVER": host,
        "MAIL_PORT": port,
        "EMAIL_HOST": host,
        "EMAIL_PORT": port,
    }


@pytest.mark.parametrize("app", APPS.values(), ids=APPS)
def test_requests_share_connections(app: str) -> None:
    """48 requests from 6 clients to 2 preloaded workers: all delivered, over 4 connections at most.

    What the server refuses is an answer and no crash. A site that gives ``acquire_timeout`` says
    503 on a machine where that is short: then the mail was not sent, and is asked for again.
    """
    busy: list[str] = []
    with SmtpServer(recipient_known=lambda path: not path.startswith("no@")) as server:
        options = ["--preload", "--workers", str(WORKERS), "--threads", "4"]
        with Gunicorn(*options, app, **settings(server)) as site:

            def client(number: int) -> None:
                for each in range(EACH):
                    path = f"/welcome/r{number}.{each}@example.net"
                    while (answer := site.post(path)) == (503, "not sent\n"):
                        busy.append(path)
                    assert answer == (200, "sent\n")

            run_in_threads(CLIENTS, client)
            assert site.post("/welcome/no@example.net")[1] == "not sent\n"
            assert "no welcome: the only recipient was refused" in site.logs()
            assert site.logs().count("no welcome: no connection to") == len(busy)
            assert site.logs().count("no welcome: ") == len(busy) + 1
        who = sorted(address for m in server.messages for address in m.recipients)
        everybody = [f"r{n}.{each}@example.net" for n in range(CLIENTS) for each in range(EACH)]
        assert who == sorted(everybody)
        assert {m.sender for m in server.messages} == {"app@example.com"}
        assert len(server.connections) <= WORKERS * MAX_SIZE


REQUESTS = 200


def send_many(site: Gunicorn, clients: int) -> list[str]:
    """Have 200 mails sent by clients at once; return to whom."""

    def client(number: int) -> None:
        for each in range(number, REQUESTS, clients):
            assert site.post(f"/welcome/r{each}@example.net") == (200, "sent\n")

    run_in_threads(clients, client)
    return sorted(f"r{each}@example.net" for each in range(REQUESTS))


@pytest.mark.parametrize(
    "app", [["--call", "examples.flask_app:create_app"], ["examples.django_app:application"]]
)
def test_waitress(app: list[str]) -> None:
    """200 requests to the threads of one process: each mail arrives once."""
    require(Waitress)
    with SmtpServer() as server:
        with Waitress("--threads=4", *app, **settings(server)) as site:
            everybody = send_many(site, CLIENTS)
        assert sorted(address for m in server.messages for address in m.recipients) == everybody
        # One is replaced after 100 messages.
        assert len(server.connections) <= MAX_SIZE + REQUESTS // 100


def test_the_flask_example_under_testing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves, and what would have left is there to look at."""
    monkeypatch.setenv("SMTP_URL", "smtp://127.0.0.1:1")
    app = create_app()
    app.testing = True
    with mail.record_messages() as outbox:
        assert app.test_client().post("/welcome/you@example.net").data == b"sent\n"
    (message,) = outbox
    assert isinstance(message, EmailMessage)
    assert (message["To"], message["From"]) == ("you@example.net", "app@example.com")
