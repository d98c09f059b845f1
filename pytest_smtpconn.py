"""The pytest plugin of smtpconn: the fixtures ``smtp_server`` and ``smtp_server_factory``.

pytest loads this plugin in every test run where smtpconn is installed. So it is outside the package
and imports `smtpconn.testing` only when a test uses a fixture: a plugin inside the package would
import smtpconn before pytest sets ``sys.path``, and smtpconn's own tests would then test an
installed copy instead of the checkout.

PYTEST_DONT_REWRITE: there is no assertion here, and pytest inside pytest would warn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smtpconn.testing import SmtpServer


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        "smtp_server(**options): the options of the fixture smtp_server, for example "
        'tls="starttls", users={"name": "password"} or protocol="LMTP"; '
        "see smtpconn.testing.SmtpServer.",
    )


@pytest.fixture
def smtp_server_factory() -> Iterator[Callable[..., SmtpServer]]:
    """Starts SMTP servers: ``smtp_server_factory(**options)``; they stop at the end of the test."""
    from smtpconn.testing import SmtpServer

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(SmtpServer(**options))


@pytest.fixture
def smtp_server(
    request: pytest.FixtureRequest, smtp_server_factory: Callable[..., SmtpServer]
) -> SmtpServer:
    """A running SMTP server that keeps every message: .url, .host, .port, .messages.

    The marker ``@pytest.mark.smtp_server(...)`` sets its options; see `smtpconn.testing.SmtpServer`
    for the options, TLS, logins and faults.
    """
    options: dict[str, object] = {}
    # The closest first: the options of a test override those of its class or module.
    for marker in request.node.iter_markers("smtp_server"):
        if marker.args:
            raise pytest.UsageError("the marker smtp_server takes options by name only")
        options = marker.kwargs | options
    return smtp_server_factory(**options)
