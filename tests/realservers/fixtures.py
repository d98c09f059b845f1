"""pytest fixtures for the real servers, and the marker of the tests which use them.

A test names a server as its argument and gets it started, fresh, with nothing stored.  When the
server cannot run here the test is skipped with the reason, or fails if SMTPCONN_REQUIRE_SERVERS=1:
a run which claims to have tested against servers must have done so.

`mark_real_server_tests` is for the hook pytest_collection_modifyitems.  It adds the marker
`realserver` to every test which uses one of these fixtures, directly or through another fixture, so
that `-m "not realserver"` leaves those out.  A test which starts a server by itself calls `require`
first and carries the marker in its source.
"""

import os
from collections.abc import Iterable, Iterator

import pytest

from tests.realservers.base import RealServer
from tests.realservers.certificates import Certificates
from tests.realservers.cyrus import Cyrus
from tests.realservers.dovecot import Dovecot
from tests.realservers.exim import Exim
from tests.realservers.opensmtpd import OpenSMTPD
from tests.realservers.postfix import Postfix
from tests.realservers.redis import RedisServer
from tests.realservers.smtpsink import SmtpSink

REAL_SERVER_FIXTURES = frozenset(
    {
        "cyrus",
        "dovecot",
        "dovecot_submission",
        "exim",
        "opensmtpd",
        "postfix",
        "postfix_with_auth",
        "redis_server",
        "smtp_sink",
    }
)


def mark_real_server_tests(items: Iterable[pytest.Item]) -> None:
    """Add the marker `realserver` to the tests which use a real server."""
    for item in items:
        if not REAL_SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.realserver)


def require(server: type[RealServer]) -> None:
    """Skip the test if the server cannot run here, or fail it if servers are required."""
    reason = server.missing()
    if reason is None:
        return
    if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and SMTPCONN_REQUIRE_SERVERS=1", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def certificates() -> Iterator[Certificates]:
    """A CA and the certificates it has issued, for the whole session."""
    with Certificates() as made:
        yield made


@pytest.fixture
def postfix(certificates: Certificates) -> Iterator[Postfix]:
    """Postfix without AUTH."""
    require(Postfix)
    with Postfix(certificates) as server:
        yield server


@pytest.fixture
def postfix_with_auth(certificates: Certificates, dovecot: Dovecot) -> Iterator[Postfix]:
    """Postfix which asks Dovecot about logins."""
    require(Postfix)
    with Postfix(certificates, sasl_port=dovecot.sasl_port) as server:
        yield server


@pytest.fixture
def dovecot(certificates: Certificates) -> Iterator[Dovecot]:
    """Dovecot: LMTP and SASL; its submission service lacks a relay."""
    require(Dovecot)
    with Dovecot(certificates) as server:
        yield server


@pytest.fixture
def dovecot_submission(certificates: Certificates, postfix: Postfix) -> Iterator[Dovecot]:
    """Dovecot whose submission service hands mail to the Postfix of the same test."""
    require(Dovecot)
    with Dovecot(certificates, relay_port=postfix.port) as server:
        yield server


@pytest.fixture
def exim(certificates: Certificates) -> Iterator[Exim]:
    """Exim, which allows pipelining from the first byte on."""
    require(Exim)
    with Exim(certificates) as server:
        yield server


@pytest.fixture
def cyrus(certificates: Certificates) -> Iterator[Cyrus]:
    """Cyrus lmtpd."""
    require(Cyrus)
    with Cyrus(certificates) as server:
        yield server


@pytest.fixture
def opensmtpd() -> Iterator[OpenSMTPD]:
    """OpenSMTPD, which does not allow pipelining."""
    require(OpenSMTPD)
    with OpenSMTPD() as server:
        yield server


@pytest.fixture
def smtp_sink() -> Iterator[SmtpSink]:
    """smtp-sink without faults."""
    require(SmtpSink)
    with SmtpSink() as server:
        yield server


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """Redis, empty, for Celery's queue."""
    require(RedisServer)
    with RedisServer() as server:
        yield server
