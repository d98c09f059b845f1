"""The pytest plugin of smtpconn: the fixtures ``smtp_server`` and ``smtp_server_factory``.

pytest loads this in every test run of whoever has smtpconn installed. So it stands outside the
package, imports nothing of it until a test asks for a server, and is no more than the way to
`smtpconn.testing`. There is a second reason: a plugin that imported smtpconn would import it before
pytest has prepared anything, and smtpconn's own tests would test an installed copy.

PYTEST_DONT_REWRITE: there is no assertion here, and runs within runs would warn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smtpconn.testing import SmtpServer


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "smtp_server(**options): how to make the server of the fixture smtp_server, for example "
        'tls="starttls", users={"name": "password"} or protocol="LMTP"; '
        "see smtpconn.testing.SmtpServer.",
    )


@pytest.fixture
def smtp_server_factory() -> Iterator[Callable[..., SmtpServer]]:
    """Makes running SMTP servers, ``smtp_server_factory(**options)``, which end with the test."""
    from smtpconn.testing import SmtpServer

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(SmtpServer(**options))


@pytest.fixture
def smtp_server(
    request: pytest.FixtureRequest, smtp_server_factory: Callable[..., SmtpServer]
) -> SmtpServer:
    """A running SMTP server that keeps every message: .url, .host, .port, .messages.

    The marker ``@pytest.mark.smtp_server(...)`` says what kind; see `smtpconn.testing.SmtpServer`
    for the options, for TLS and logins, and for what can be made to go wrong.
    """
    options: dict[str, object] = {}
    # The closest first: what a test says goes before what its class or module says.
    for marker in request.node.iter_markers("smtp_server"):
        if marker.args:
            raise pytest.UsageError("the marker smtp_server takes options by name only")
        options = marker.kwargs | options
    return smtp_server_factory(**options)
