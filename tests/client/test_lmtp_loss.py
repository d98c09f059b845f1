"""An LMTP connection that is lost among the answers to the content (RFC 2033 4.2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from smtpconn import ConnectionClosedError, SmtpConnection, SmtpTimeoutError, TlsMode
from smtpconn.model.errors import SmtpError
from smtpconn.testing import SmtpServer

THREE = ["one@example.com", "two@example.com", "three@example.com"]


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """An LMTP server."""
    with SmtpServer(protocol="LMTP") as running:
        yield running


def deliver(server: SmtpServer, timeout: float = 10) -> list[tuple[int | None, bool]]:
    """Deliver to three; for each the code of the answer, and whether it is delivered."""
    with SmtpConnection.connect_lmtp(server.host, server.port, TlsMode.NONE, 10) as connection:
        result = connection.send_lmtp("", THREE, b"hello\r\n", timeout=timeout)
        assert not connection.is_open
    return [(r.response.code if r.response else None, r.delivered) for r in result.results]


def test_the_answers_that_came_are_reported(server: SmtpServer) -> None:
    """Two answers and then the end: the third recipient's is unknown."""
    server.fault("CONTENT", reply="452 4.2.2 full", match="two@")
    server.fault("CONTENT", close=True, match="three@")
    assert deliver(server) == [(250, True), (452, False), (None, False)]


def test_too_few_answers_are_bounded_by_the_deadline(server: SmtpServer) -> None:
    """A server that answers once for all is waited for no longer than told."""
    server.fault("CONTENT", hang=True, match="two@")
    assert deliver(server, 0.5) == [(250, True), (None, False), (None, False)]


def test_421_among_the_answers(server: SmtpServer) -> None:
    """It replies for one recipient, and not for the others."""
    server.fault("CONTENT", reply="421 4.7.0 bye", close=True, match="two@")
    assert deliver(server) == [(250, True), (421, False), (None, False)]


def test_the_notice_of_a_shutdown_among_the_answers(server: SmtpServer) -> None:
    """Dovecot says it in the place of a reply; the recipient may have the message."""
    server.fault("CONTENT", reply="421 4.3.2 Shutting down", close=True, match="two@")
    assert deliver(server) == [(250, True), (None, False), (None, False)]


def test_the_notice_of_a_shutdown_instead_of_all_answers(server: SmtpServer) -> None:
    """The error has the server's words, and says that the message may have been delivered."""
    server.fault("CONTENT", reply="421 4.3.2 Shutting down", close=True)
    with pytest.raises(ConnectionClosedError, match=r"421 4\.3\.2 Shutting down") as caught:
        deliver(server)
    assert caught.value.may_have_been_delivered
    assert not caught.value.is_safe_to_retry


def test_an_answer_that_is_none(server: SmtpServer) -> None:
    """A 3xx among them: the answers before it stand, nothing behind it can be believed."""
    server.fault("CONTENT", reply="354 go on", match="two@")
    assert deliver(server) == [(250, True), (None, False), (None, False)]


@pytest.mark.parametrize(
    ("hang", "kind"), [(True, SmtpTimeoutError), (False, ConnectionClosedError)]
)
def test_no_answer_at_all_is_an_error(
    server: SmtpServer, hang: bool, kind: type[SmtpError]
) -> None:
    """The result is unknown for every recipient."""
    server.fault("CONTENT", hang=hang, close=not hang)
    with pytest.raises(kind) as caught:
        deliver(server, 0.5)
    assert caught.value.may_have_been_delivered
