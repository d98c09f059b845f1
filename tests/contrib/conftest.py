"""What the tests of the adapters share: a server, and pools that are closed at the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from smtpconn.contrib.logging import PooledSmtpHandler
from smtpconn.testing import SmtpServer
from tests.support.log_mail import FROM, NEVER, TO, MakeHandler, RecordingHandler


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A server that can do everything."""
    with SmtpServer() as running:
        yield running


# For the logging handler


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The application's logger, without the handlers of pytest."""
    logger = logging.getLogger("shop")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True


@pytest.fixture
def make(server: SmtpServer, logger: logging.Logger) -> Iterator[MakeHandler]:
    """Makes handlers of the server, attached to the logger, that are closed at the end."""
    made: list[PooledSmtpHandler] = []

    def make_one(**options: object) -> PooledSmtpHandler:
        settings = {"mailhost": server.url, "group_for": NEVER, "fromaddr": FROM, "toaddrs": TO}
        handler = RecordingHandler(subject="Errors", **(settings | options))  # type: ignore[arg-type]
        made.append(handler)
        logger.addHandler(handler)
        return handler

    yield make_one
    for handler in made:
        handler.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What the server of `stuck` waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def stuck(gate: threading.Event) -> Iterator[SmtpServer]:
    """A server that answers RCPT only when the gate is open."""
    with SmtpServer(recipient_known=lambda _: gate.wait(10)) as running:
        yield running
        gate.set()
