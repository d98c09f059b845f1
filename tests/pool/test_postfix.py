"""Real Postfix: it stores what was sent, each message once, also across restarts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    ConnectionPool,
    PermanentError,
    SmtpConnection,
    TlsError,
    TlsMode,
    ValidationError,
)
from tests.realservers.base import wait_until
from tests.realservers.certificates import Certificates
from tests.realservers.fixtures import require
from tests.realservers.postfix import Postfix
from tests.support.numbered_messages import (
    ALICE,
    BOB,
    BODIES,
    CREDENTIALS,
    NOBODY,
    SENDER,
    as_stored,
    config,
    identities,
    message,
    send_until_known,
)
from tests.support.threads import run_in_threads


@pytest.mark.parametrize("mode", TlsMode)
def test_every_tls_mode_delivers_byte_for_byte(
    postfix: Postfix, certificates: Certificates, mode: TlsMode
) -> None:
    """In clear, under STARTTLS and under implicit TLS, what is stored is what was sent."""
    sent = message("one", b"a line\r\n.a dot\r\n")
    with config(postfix, certificates, mode).connect() as connection:
        result = connection.send(SENDER, [ALICE], sent)
        assert (connection.tls is not None) == (mode is not TlsMode.NONE)
    assert result.response.code == 250
    assert "queued as" in result.response.lines[0]
    assert str(result.response.enhanced_status) == "2.0.0"
    (stored,) = postfix.wait_for_stored(1)
    assert stored.endswith(as_stored(sent))


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_kind_of_body_is_stored_as_it_was(
    postfix: Postfix, certificates: Certificates, body: bytes
) -> None:
    """Dots, bare line feeds, eight bits, long lines and missing line ends arrive unharmed."""
    sent = message("one", body)
    with config(postfix, certificates, TlsMode.NONE).connect() as connection:
        connection.send(SENDER, [ALICE], sent)
    (stored,) = postfix.wait_for_stored(1)
    assert stored.endswith(as_stored(sent))


def test_login_over_starttls(postfix_with_auth: Postfix, certificates: Certificates) -> None:
    """PLAIN with and without authzid, and LOGIN, log in where Dovecot says who is who."""
    server = config(postfix_with_auth, certificates, TlsMode.STARTTLS)
    ways: tuple[Callable[[SmtpConnection], None], ...] = (
        lambda c: c.auth_plain("alice", "wonderland"),
        lambda c: c.auth_plain_with_authzid("alice", "alice", "wonderland"),
        lambda c: c.auth_login("alice", "wonderland"),
        lambda c: c.authenticate(CREDENTIALS),
    )
    for log_in in ways:
        with server.connect() as connection:
            log_in(connection)
            assert connection.is_authenticated
            connection.send(SENDER, [ALICE], message("one"))


def test_a_wrong_password_is_an_auth_error(
    postfix_with_auth: Postfix, certificates: Certificates
) -> None:
    """A 535 is permanent, carries the whole reply, and leaves the connection usable."""
    server = config(postfix_with_auth, certificates, TlsMode.STARTTLS)
    with server.connect() as connection:
        with pytest.raises(AuthError) as caught:
            connection.auth_plain("alice", "not-her-password")
        assert caught.value.response.code == 535
        assert not caught.value.is_transient
        assert "not-her-password" not in str(caught.value)
        connection.auth_plain("alice", "wonderland")


def test_refusals_leave_the_connection_usable(postfix: Postfix, certificates: Certificates) -> None:
    """After refused recipients the next message is delivered, under its own sender."""
    with config(postfix, certificates, TlsMode.NONE).connect() as connection:
        partly = connection.send(SENDER, [NOBODY, ALICE], message("partly"))
        assert [str(r.recipient) for r in partly.rejected_recipients] == [NOBODY]
        with pytest.raises(AllRecipientsFailedError):
            connection.send(SENDER, [NOBODY, "other-" + NOBODY], message("never"))
        connection.send("", [BOB], message("after"))
    stored = postfix.wait_for_stored(2)
    assert identities(stored) == {"partly": 1, "after": 1}
    after = next(text for text in stored if b"<after@" in text)
    assert b"Return-Path: <>" in after


@pytest.mark.realserver
def test_a_message_too_big_for_the_server(certificates: Certificates) -> None:
    """It is refused here if the server told its limit, else by the server; then all is well."""
    require(Postfix)
    with Postfix(certificates, main_cf="message_size_limit = 4096\n") as postfix:
        big = message("big", b"x" * 60 + b"\r\n" * 3000)
        server = config(postfix, certificates, TlsMode.NONE)
        with server.connect() as connection:
            with pytest.raises(ValidationError, match="at most 4096"):
                connection.send(SENDER, [ALICE], big)
            connection.send(SENDER, [ALICE], message("small"))
        with server.replace(ignore_extensions=["SIZE"]).connect() as connection:
            with pytest.raises(PermanentError) as caught:
                connection.send(SENDER, [ALICE], big)
            assert caught.value.response.code == 552
            assert not caught.value.may_have_been_delivered
            connection.send(SENDER, [BOB], message("after"))
        assert identities(postfix.wait_for_stored(2)) == {"small": 1, "after": 1}


def test_200_messages_from_8_threads_through_3_connections(
    postfix_with_auth: Postfix, certificates: Certificates
) -> None:
    """The main job: STARTTLS, AUTH, a pool of 3; all stored, byte-exact, each once."""
    server = config(postfix_with_auth, certificates, TlsMode.STARTTLS)
    sent = {f"m{n}": message(f"m{n}", b".body of %d\r\n" % n) for n in range(200)}
    with ConnectionPool(server.replace(credentials=CREDENTIALS), max_size=3) as pool:

        def work(thread: int) -> None:
            for number in range(thread, 200, 8):
                pool.send(SENDER, [ALICE], sent[f"m{number}"])

        run_in_threads(8, work)
        stats = pool.stats()
    stored = postfix_with_auth.wait_for_stored(200)
    assert identities(stored) == dict.fromkeys(sent, 1)
    for text in stored:
        (identity,) = identities([text])
        assert text.endswith(as_stored(sent[identity]))
    assert stats.messages == 200
    assert stats.connects <= 3


@dataclass(slots=True)
class Sent:
    """The outcomes of the messages of several threads.

    Attributes:
        acknowledged, unknown: the identities of messages.
    """

    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


def send_while_restarting(
    pool: ConnectionPool,
    postfix: Postfix,
    *,
    threads: int,
    messages: int,
    restart_after: Sequence[int],
) -> Sent:
    """Send from several threads, and restart Postfix meanwhile.

    Args:
        pool: to send over.
        postfix: the server.
        threads: how many.
        messages: of each thread.
        restart_after: the numbers of sent messages between restarts.
    """
    sent, done = Sent(), threading.Semaphore(0)

    def work(thread: int) -> None:
        for number in range(messages):
            send_until_known(pool, f"t{thread}n{number}", sent.acknowledged, sent.unknown)
            done.release()

    def restart() -> None:
        for count in restart_after:
            for _ in range(count):
                done.acquire()
            postfix.restart()

    restarting = threading.Thread(target=restart)
    restarting.start()
    run_in_threads(threads, work)
    restarting.join()
    everything = {f"t{thread}n{number}" for thread in range(threads) for number in range(messages)}
    assert sent.acknowledged | sent.unknown == everything
    return sent


def check_stored(postfix: Postfix, sent: Sent) -> None:
    """Check that each acknowledged message is stored, and that each came in once."""
    # The queue does not become empty: interrupted deliveries stay in it for hours.
    assert wait_until(lambda: sent.acknowledged <= set(identities(postfix.stored())), 10)
    assert set(identities(postfix.stored())) <= sent.acknowledged | sent.unknown
    # A killed Postfix may itself deliver a message twice, so its log has to say that each came in
    # once.
    assert max(identities(postfix.logs().encode().splitlines()).values()) == 1


def test_a_restart_loses_nothing_that_was_acknowledged(
    postfix: Postfix, certificates: Certificates
) -> None:
    """Postfix restarts while 4 threads send: acknowledged messages are stored, none twice."""
    with ConnectionPool(config(postfix, certificates, TlsMode.STARTTLS), max_size=3) as pool:
        sent = send_while_restarting(pool, postfix, threads=4, messages=50, restart_after=[40])
    check_stored(postfix, sent)


def test_three_restarts_while_16_threads_send(postfix: Postfix, certificates: Certificates) -> None:
    """Each acknowledged message is stored once; few are unknown; none is lost."""
    with ConnectionPool(config(postfix, certificates, TlsMode.NONE), max_size=5) as pool:
        sent = send_while_restarting(
            pool, postfix, threads=16, messages=20, restart_after=[60, 60, 60]
        )
    assert len(sent.unknown) <= 3 * 5
    check_stored(postfix, sent)


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
def test_an_unknown_authority_is_refused(
    postfix: Postfix, certificates: Certificates, mode: TlsMode
) -> None:
    """A certificate that certifi's authorities did not sign is a TlsError, and nothing is sent."""
    server = config(postfix, certificates, mode).replace(tls_context=None)
    with pytest.raises(TlsError, match="is not trusted"):
        server.connect()


def test_a_wrong_host_name_is_refused(postfix: Postfix, certificates: Certificates) -> None:
    """A certificate for other names than the one connected to is a TlsError."""
    server = config(postfix, certificates, TlsMode.STARTTLS)
    with pytest.raises(TlsError, match=r"127\.0\.0\.2"):
        SmtpConnection.connect(
            "127.0.0.2",
            server.port,
            TlsMode.STARTTLS,
            10,
            tls_context=certificates.client_context(),
            socket_factory=lambda host, port, timeout: _to_localhost(port),
        )


def _to_localhost(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port))
