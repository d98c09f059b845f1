"""The pool and its servers: which one gets the mail, and what they ask of a pool.

Several servers, those that want fewer connections, refused logins, rates, warming and draining,
leaks, TLS sessions and tokens.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

import pytest

from smtpconn import (
    AuthError,
    ConnectionPool,
    Envelope,
    OAuthCredentials,
    PasswordCredentials,
    Phase,
    PoolClosedError,
    PoolEvent,
    PoolOverloadedError,
    PoolTimeoutError,
    ServerConfig,
    SmtpError,
    SmtpTimeoutError,
    TransientError,
    TransportError,
    ValidationError,
)
from smtpconn.pool.lease import Lease
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.clock import Clock
from tests.support.pool_use import MESSAGE, RECIPIENTS, SENDER, configs, send, take
from tests.support.waiting import wait_until

TOO_MANY = "421 4.7.0 too many connections"


# One server behind the other


def test_the_preferred_server_gets_everything(server: SmtpServer, backup: SmtpServer) -> None:
    """While it works, the first server gets all mail and the second one no connection."""
    with ConnectionPool(configs(server, backup), max_size=3) as pool:
        for _ in range(5):
            send(pool)
        pool.warm(3)
        assert pool.config == configs(server)[0]
    assert (len(server.messages), len(backup.connections)) == (5, 0)


def test_urls_and_configurations_may_be_mixed(server: SmtpServer, backup: SmtpServer) -> None:
    """A sequence of servers holds URLs, configurations, or both."""
    with ConnectionPool([server.url, *configs(backup)]) as pool:
        send(pool)
        assert [s.server for s in pool.stats().servers] == [str(c) for c in configs(server, backup)]


def test_a_pool_needs_a_server() -> None:
    """A pool of no servers is not made."""
    with pytest.raises(ValidationError, match="needs a server"):
        ConnectionPool([])


def test_the_preferred_server_is_down_at_the_start(server: SmtpServer, backup: SmtpServer) -> None:
    """Mail goes to the next server at once; while the first one is in backoff it is not asked."""
    server.stop()
    with ConnectionPool(configs(server, backup)) as pool:
        for _ in range(3):
            send(pool)
        stats = pool.stats()
    assert len(backup.messages) == 3
    assert (stats.connects, stats.connect_errors) == (1, 1)
    first, second = stats.servers
    assert (first.is_healthy, first.failures) == (False, 1)
    assert isinstance(first.last_error, TransportError)
    assert (second.is_healthy, second.failures, second.last_error) == (True, 0, None)


def test_the_preferred_server_goes_down_while_idle(
    server: SmtpServer, backup: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The next message notices nothing but the other server; the log says what happened."""
    caplog.set_level(logging.INFO, "smtpconn.pool")
    with ConnectionPool(configs(server, backup), name="outgoing") as pool:
        send(pool)
        server.stop()
        send(pool)
        assert not pool.stats().servers[0].is_healthy
    assert (len(server.messages), len(backup.messages)) == (1, 1)
    assert any(
        r.getMessage().startswith(
            f"outgoing: {server.host}:{server.port} failed, trying the next server: "
        )
        for r in caplog.records
    )


@pytest.mark.parametrize("reply", ["554 5.3.2 No mail here", "421 4.3.2 Shutting down"])
def test_a_server_that_accepts_no_connection(
    server: SmtpServer, backup: SmtpServer, reply: str
) -> None:
    """A refusal at the greeting moves the mail on like a dead server."""
    server.fault("CONNECT", reply=reply, close=True)
    with ConnectionPool(configs(server, backup)) as pool:
        send(pool)
        assert pool.stats().servers[0].failures == 1
    assert len(backup.messages) == 1


def test_a_silent_server_gets_its_share_of_the_time(server: SmtpServer, backup: SmtpServer) -> None:
    """A server that hangs uses up half of the time, and the other one still gets the mail."""
    server.fault("CONNECT", hang=True)
    with ConnectionPool(configs(server, backup)) as pool:
        begun = time.monotonic()
        pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=3.0)
        took = time.monotonic() - begun
        error = pool.stats().servers[0].last_error
    assert isinstance(error, SmtpTimeoutError)
    assert 1.49 <= took < 3.0
    assert len(backup.messages) == 1


def test_mail_moves_back(
    server: SmtpServer, backup: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the preferred server is back and has rested, mail goes to it again by itself."""
    monkeypatch.setattr("smtpconn.pool.failover.FIRST_BACKOFF", 0.02)
    server.stop()
    with ConnectionPool(configs(server, backup)) as pool:
        send(pool)
        assert len(backup.messages) == 1
        server.start()

        def has_moved_back() -> bool:
            send(pool)
            return bool(server.messages)

        wait_until(has_moved_back)
        count = len(backup.messages)
        for _ in range(5):
            send(pool)
        assert len(backup.messages) == count
        assert all(s.is_healthy for s in pool.stats().servers)
        assert pool.stats().discards == {"a better server may be back": 1}


def test_a_server_that_stays_down_costs_little(
    server: SmtpServer, backup: SmtpServer, clock: Clock
) -> None:
    """In ten minutes a dead server is tried less and less often, and all mail arrives."""
    server.stop()
    with ConnectionPool(configs(server, backup), keepalive=None, max_messages=10_000) as pool:
        for _ in range(600):
            send(pool)
            clock.advance(1)
        stats = pool.stats()
    assert len(backup.messages) == 600
    assert stats.failed_messages == 0
    # 1, 2, 4, 8, 16, 32 seconds, and then one minute each.
    assert 13 <= stats.connect_errors <= 17


def test_all_servers_are_down(server: SmtpServer, backup: SmtpServer) -> None:
    """The caller gets the real error of the last one tried, and the next call tries all again."""
    server.stop()
    backup.fault("CONNECT", reply="554 5.3.2 Not today", close=True)
    with ConnectionPool(configs(server, backup)) as pool:
        with pytest.raises(SmtpError, match="Not today"):
            send(pool)
        assert [s.failures for s in pool.stats().servers] == [1, 1]
        send(pool)  # both are in backoff, so both are tried, because a caller waits
        assert [s.failures for s in pool.stats().servers] == [2, 0]
        stats = pool.stats()
    assert (stats.in_use, stats.connecting, stats.failed_messages) == (0, 0, 1)
    assert len(backup.messages) == 1


# Too many connections


def test_too_many_connections_waits_for_one(
    server: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A caller the server has no room for gets the connection another one gives back."""
    caplog.set_level(logging.WARNING, "smtpconn.pool")
    got: list[object] = []

    def work() -> None:
        with pool.connection() as connection:
            got.append(connection)

    with ConnectionPool(server.url, max_size=4, name="outgoing") as pool:
        waiter = threading.Thread(target=work)
        with pool.connection() as first:
            server.fault("CONNECT", reply=TOO_MANY, close=True)
            waiter.start()
            wait_until(lambda: pool.stats().effective_size == 1)
            stats = pool.stats()
            assert (stats.waiting, stats.in_use, stats.connecting) == (1, 1, 0)
            assert stats.max_size == 4
            assert not got
        waiter.join(10)
        assert got == [first]
        # No caller connects to the server for a while.
        with pool.connection(), pytest.raises(PoolTimeoutError):
            take(pool, 0.02)
        assert len(server.connections) == 2
    logged = [m for m in caplog.messages if "connections for a while" in m]
    assert len(logged) == 1
    assert logged[0].startswith("outgoing: limited to 1 connections for a while: ")
    assert "too many connections" in logged[0]


def test_the_size_comes_back(server: SmtpServer, clock: Clock) -> None:
    """After a minute the pool may have all its connections again."""
    with ConnectionPool(server.url, max_size=3, keepalive=None, max_idle=1000) as pool:
        with pool.connection():
            server.fault("CONNECT", reply=TOO_MANY, close=True)
            with pytest.raises(PoolTimeoutError):
                take(pool, 0.05)
            assert pool.stats().effective_size == 1
            clock.advance(59)
            assert pool.stats().effective_size == 1
            clock.advance(2)
            assert pool.stats().effective_size == 3
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(pool.connection(1))


def test_who_waits_goes_on_when_the_size_comes_back(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiting caller connects after the minute, even if no connection is returned."""
    monkeypatch.setattr("smtpconn.pool.failover.SERVER_LIMIT_DURATION", 0.05)
    with ConnectionPool(server.url, max_size=2) as pool, pool.connection():
        server.fault("CONNECT", reply=TOO_MANY, close=True)
        take(pool, 10)
        assert pool.stats().connects == 2


def test_too_many_connections_with_none_out(server: SmtpServer) -> None:
    """With nothing to wait for, the caller is told what the server said."""
    server.fault("CONNECT", reply=TOO_MANY, close=True)
    with ConnectionPool(server.url, max_size=4) as pool:
        with pytest.raises(TransientError, match="too many connections"):
            take(pool)
        assert pool.stats().effective_size == 4
        take(pool)


def test_too_many_waits_no_longer_than_the_timeout(server: SmtpServer) -> None:
    """A caller that waits instead of connecting has its whole timeout, and gets the reply."""
    with ConnectionPool(server.url, max_size=4) as pool:
        with pool.connection():
            server.fault("CONNECT", reply=TOO_MANY, close=True)
            with pytest.raises(PoolTimeoutError) as caught:
                take(pool, 0.05)
        assert isinstance(caught.value.__cause__, TransientError)
        assert pool.stats().in_use == pool.stats().waiting == 0


def test_a_lowered_size_counts_for_max_waiting(server: SmtpServer) -> None:
    """While the server wants no more connections, who would have to wait may be refused at once."""
    with ConnectionPool(server.url, max_size=4, max_waiting=0) as pool, pool.connection():
        server.fault("CONNECT", reply=TOO_MANY, close=True)
        with pytest.raises(PoolTimeoutError):
            take(pool, 0.05)
        assert pool.stats().effective_size == 1
        with pytest.raises(PoolOverloadedError):
            take(pool, 0.05)


# Refused logins


def logins(server: SmtpServer) -> int:
    """The number of logins at the server."""
    return sum(line.startswith("AUTH ") for c in server.connections for line in c.commands)


def test_a_refused_login_is_not_tried_again() -> None:
    """Within its rest a refused login is repeated to callers without the server being asked."""
    with SmtpServer(users={"user": "right"}) as server:
        config = ServerConfig.from_url(
            server.url, credentials=PasswordCredentials("user", "wrong-secret")
        )
        with ConnectionPool(config) as pool:
            errors = []
            for _ in range(5):
                with pytest.raises(AuthError) as caught:
                    send(pool)
                errors.append(caught.value)
            assert logins(server) == 1
            assert len(server.connections) == 1
            assert len({id(e) for e in errors}) == 5
            assert {e.response.code for e in errors} == {535}
            assert "wrong-secret" not in "".join(f"{e!r} {e}" for e in errors)
            stats = pool.stats()
            assert (stats.failed_messages, stats.connect_errors) == (5, 1)


def test_a_refused_login_is_tried_again_after_its_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the rest is over the server is asked again, and the login may work."""
    monkeypatch.setattr("smtpconn.pool.failover.LOGIN_BACKOFF", 0.05)
    users = {"user": "right"}
    with SmtpServer(users=users) as server:
        config = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "new"))
        with ConnectionPool(config) as pool:
            with pytest.raises(AuthError):
                take(pool)
            users["user"] = "new"  # the mailbox's owner has put it right

            def is_in() -> bool:
                try:
                    take(pool)
                except AuthError:
                    return False
                return True

            wait_until(is_in)
            assert len(server.connections) == 2


def test_a_refused_login_moves_the_mail_on_for_good(
    backup: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server's connections are kept and used while the login is in backoff."""
    monkeypatch.setattr("smtpconn.pool.failover.FIRST_BACKOFF", 0.001)
    with SmtpServer(users={"user": "right"}) as server:
        wrong = ServerConfig.from_url(server.url, credentials=PasswordCredentials("user", "wrong"))
        with ConnectionPool([wrong, *configs(backup)]) as pool:
            send(pool)
            end = time.monotonic() + 0.005
            wait_until(lambda: time.monotonic() > end)
            for _ in range(5):
                send(pool)
            assert pool.stats().discards == {}
        assert len(server.connections) == 1
    assert len(backup.messages) == 6
    assert len(backup.connections) == 1


# Rates


def test_a_rate_holds_for_all_threads(server: SmtpServer) -> None:
    """Messages of all threads together go no faster than max_rate."""
    with ConnectionPool(server.url, max_size=4, max_rate=100) as pool:
        begun = time.monotonic()
        threads = [threading.Thread(target=send, args=(pool,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert time.monotonic() - begun >= 0.19
    assert len(server.messages) == 20


def test_a_burst_is_sent_at_once_and_the_rest_in_time(server: SmtpServer) -> None:
    """A burst goes without waiting; what the rate does not let go in time fails and is not sent."""
    with ConnectionPool(server.url, max_rate=0.01, burst=3) as pool:
        for _ in range(3):
            send(pool)
        with pytest.raises(PoolTimeoutError, match="max_rate"):
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=1)
        assert pool.stats().failed_messages == 1
        # Borrowing a connection is not rate-limited.
        with pool.connection() as connection:
            connection.send(SENDER, RECIPIENTS, MESSAGE)
    assert len(server.messages) == 4


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_that_cannot_be(rate: float, burst: int) -> None:
    """A pool with an invalid rate is not created."""
    with pytest.raises(ValidationError):
        ConnectionPool("smtp://127.0.0.1:1", max_rate=rate, burst=burst)


# Warming and draining


@pytest.mark.parametrize(("count", "made"), [(0, 0), (1, 1), (3, 3), (9, 4)])
def test_warming_makes_connections(server: SmtpServer, count: int, made: int) -> None:
    """`warm` makes as many connections as asked for, at most max_size, and again makes none."""
    with ConnectionPool(server.url, max_size=4) as pool:
        for _ in range(2):
            pool.warm(count)
            assert (pool.stats().idle, pool.stats().in_use) == (made, 0)
            assert len(server.connections) == made


def test_warming_tells_why_it_cannot(server: SmtpServer) -> None:
    """A failed connect raises, and the connections made before are kept."""
    server.fault("CONNECT", reply="554 5.3.2 No", close=True, skip=2)
    with ConnectionPool(server.url, max_size=4) as pool:
        with pytest.raises(SmtpError, match="No"):
            pool.warm(4)
        assert (pool.stats().idle, pool.stats().in_use) == (2, 0)


def test_warming_counts_connections_in_use(server: SmtpServer) -> None:
    """Connections that are in use count: with all of them out there is nothing to do."""
    with ConnectionPool(server.url, max_size=2, acquire_timeout=5) as pool:
        with pool.connection():
            pool.warm(2)
        assert len(server.connections) == 2


def test_warming_is_seen(server: SmtpServer) -> None:
    """Each connection that is made ahead counts as one that was taken and given back."""
    seen: list[str] = []

    def hook(event: PoolEvent) -> None:
        seen.append(f"{event.action} {event.stage}")

    with ConnectionPool(server.url, on_event=hook) as pool:
        pool.warm(2)
        assert pool.stats().checkouts == 2
        once = ["checkout started", "connect started", "connect done", "checkout done"]
        assert seen == [*once, "checkin done"] * 2
        server.fault("CONNECT", reply="554 5.3.2 No", close=True)
        seen.clear()
        with pytest.raises(SmtpError):
            pool.warm(3)
        assert seen == [*once[:2], "connect failed", "checkout failed"]


def test_warming_holds_nothing(server: SmtpServer) -> None:
    """What it has made is for others at once, and it never waits for what others have."""
    pools: list[ConnectionPool] = []
    leases: list[Lease] = []

    def factory(host: str, port: int, timeout: float) -> socket.socket:
        if pools and pools[0].stats().idle:
            # Others come while the next one is made.
            leases.append(pools[0].connection(0.05))
            leases[-1].__enter__()
        return socket.create_connection((host, port), timeout)

    config = ServerConfig.from_url(server.url, socket_factory=factory)
    with ConnectionPool(config, max_size=3, acquire_timeout=0.5) as pool:
        pools.append(pool)
        pool.warm(3)
        assert len(leases) == 2
        assert (pool.stats().idle, pool.stats().in_use) == (1, 2)
        assert len(server.connections) == 3
        pools.clear()
        for lease in leases:
            lease.__exit__(None, None, None)


def test_warming_a_busy_pool(server: SmtpServer) -> None:
    """With all connections in use, and callers that wait for them, there is nothing to do."""
    with ConnectionPool(server.url, max_size=1) as pool:
        with pool.connection():
            waiter = threading.Thread(target=send, args=(pool,))
            waiter.start()
            wait_until(lambda: pool.stats().waiting == 1)
            pool.warm(1)
            assert pool.stats().waiting == 1
        waiter.join(10)
    assert len(server.messages) == len(server.connections) == 1


def test_warming_beside_others_that_warm(server: SmtpServer) -> None:
    """However many warm at once, there are as many connections as one of them asked for."""
    with ConnectionPool(server.url, max_size=8, max_connecting=2) as pool:
        threads = [threading.Thread(target=pool.warm, args=(4,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert (pool.stats().idle, pool.stats().in_use) == (4, 0)
        assert len(server.connections) == 4


def test_a_closed_pool_is_not_warmed(server: SmtpServer) -> None:
    """It hands out nothing, and makes nothing."""
    pool = ConnectionPool(server.url)
    pool.close()
    with pytest.raises(PoolClosedError):
        pool.warm(1)
    assert server.connections == []


def test_draining_replaces_every_connection(server: SmtpServer) -> None:
    """Idle connections say QUIT at once, one in use works on and is closed when it comes back."""
    with ConnectionPool(server.url, max_size=3) as pool:
        pool.warm(3)
        with pool.connection() as connection:
            pool.drain()
            assert (pool.stats().idle, pool.stats().in_use) == (0, 1)
            server.wait_for(lambda: sum(c.closed for c in server.connections) == 2)
            connection.send(SENDER, RECIPIENTS, MESSAGE)
        assert pool.stats().idle == 0
        server.wait_for(lambda: all(c.closed for c in server.connections))
        assert all(c.commands[-1] == "QUIT" for c in server.connections)
        assert pool.stats().discards == {"drained": 3}
        send(pool)
        pool.drain()
        pool.drain()
        send(pool)
    assert len(server.connections) == 5
    assert len(server.messages) == 3


# LeakReport


def test_a_lease_that_is_out_for_long_is_reported(
    server: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """`leaks` and the log tell the age of an old lease and where it was taken."""
    with ConnectionPool(server.url, leak_after=0.02, name="outgoing") as pool:
        with pool.connection():
            wait_until(lambda: len(pool.leaks()) == 1)
            age, stack = pool.leaks()[0]
            assert age > 0.02
            assert "test_pool_servers.py" in stack
            assert "test_a_lease_that_is_out_for_long_is_reported" in stack
            # The last line is the caller's own, not one of the pool's.
            assert stack.rstrip().endswith("with pool.connection():")
            assert not caplog.records
            send(pool)  # the return checks
            send(pool)
            (logged,) = caplog.messages
            assert re.match(r"outgoing: a connection has been in use for \d+\.\d s:\n", logged)
            assert "test_pool_servers.py" in logged
            assert caplog.records[0].levelno == logging.WARNING
        assert pool.leaks() == []


def test_a_leak_stays_one_when_it_was_logged(server: SmtpServer) -> None:
    """`leaks` lists an old lease as long as it is out, whether it was logged already or not."""
    with ConnectionPool(server.url, leak_after=0.02) as pool:
        with pool.connection():
            wait_until(lambda: len(pool.leaks()) == 1)
            take(pool)
            assert len(pool.leaks()) == 1
        assert pool.leaks() == []


def test_a_short_lease_is_no_leak(server: SmtpServer, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is reported of leases that are given back in time, nor without ``leak_after``."""
    for leak_after in (None, 60.0):
        with ConnectionPool(server.url, leak_after=leak_after) as pool:
            with pool.connection():
                send(pool)
                assert pool.leaks() == []
            assert pool.leaks() == []
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


# TLS sessions and tokens


@pytest.mark.parametrize("implicit", [True, False], ids=["smtps", "starttls"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_sessions_are_resumed(
    certificates: Certificates, version: ssl.TLSVersion, implicit: bool
) -> None:
    """The second connection resumes the session of the first, under TLS 1.2 and 1.3."""
    context = certificates.server_context()
    context.minimum_version = context.maximum_version = version
    with SmtpServer(tls_context=context, implicit_tls=implicit) as server:
        config = ServerConfig.from_url(server.url, tls_context=certificates.client_context())
        with ConnectionPool(config, max_size=2) as pool:
            send(pool)
            with pool.connection() as first, pool.connection() as second:
                assert first.tls is not None
                assert second.tls is not None
                assert not first.tls.session_reused
                assert second.tls.session_reused
                second.send(SENDER, RECIPIENTS, MESSAGE)
            pool.drain()
            with pool.connection() as third:
                assert third.tls is not None
                assert third.tls.session_reused
                third.send(SENDER, RECIPIENTS, MESSAGE)


def test_tls_sessions_stay_with_their_server(certificates: Certificates) -> None:
    """The session of one server is not shown to another one."""
    client = certificates.client_context()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                SmtpServer(tls_context=certificates.server_context(), implicit_tls=True)
            )
            for _ in range(2)
        ]
        configs = [ServerConfig.from_url(s.url, tls_context=client) for s in servers]
        pool = stack.enter_context(ConnectionPool(configs))
        send(pool)
        servers[0].stop()
        with pool.connection() as other:
            assert other.tls is not None
            assert not other.tls.session_reused


def bearer(accepted: set[str]) -> Generator[bytes, bytes, str | None]:
    """A server's side of XOAUTH2."""
    response = yield b""
    token = response.split(b"auth=Bearer ")[1].split(b"\x01")[0].decode()
    if token in accepted:
        return "user"
    yield b'{"status":"401"}'
    return None


def test_a_token_is_asked_for_per_connection() -> None:
    """A token function is called once for each connection, not for each message."""
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        return f"token{asked}"

    accepted = {"token1", "token2"}
    with SmtpServer(sasl={"XOAUTH2": lambda: bearer(accepted)}) as server:
        config = ServerConfig.from_url(server.url, credentials=OAuthCredentials("user", token))
        with ConnectionPool(config) as pool:
            assert asked == 0
            for _ in range(3):
                send(pool)
            assert asked == 1
            pool.drain()
            for _ in range(3):
                send(pool)
            assert asked == 2
        assert [m.user for m in server.messages] == ["user"] * 6


def test_a_refused_token_is_refreshed_once() -> None:
    """A token that is refused is asked for anew in the same connection, and no error is seen."""
    calls: list[bool] = []

    def token(*, force_refresh: bool = False) -> str:
        calls.append(force_refresh)
        return "fresh" if force_refresh else "stale"

    with SmtpServer(sasl={"XOAUTH2": lambda: bearer({"fresh"})}) as server:
        config = ServerConfig.from_url(server.url, credentials=OAuthCredentials("user", token))
        with ConnectionPool(config) as pool:
            send(pool)
            assert calls == [False, True]
            assert pool.stats().servers[0].is_healthy
        assert len(server.connections) == 1


def test_a_token_that_cannot_be_had() -> None:
    """That is a transient error of logging in and is counted, and no capacity is lost."""

    def token() -> str:
        raise LookupError("the token service is down")

    with SmtpServer(sasl={"XOAUTH2": lambda: bearer(set())}) as server:
        config = ServerConfig.from_url(server.url, credentials=OAuthCredentials("user", token))
        with ConnectionPool(config, max_size=1) as pool:
            for _ in range(3):
                with pytest.raises(TransportError) as caught:
                    send(pool)
                assert isinstance(caught.value.__cause__, LookupError)
                assert caught.value.phase is Phase.AUTH
            stats = pool.stats()
            assert (stats.connect_errors, stats.failed_messages) == (3, 3)
            assert (stats.in_use, stats.connecting, stats.waiting) == (0, 0, 0)
        server.wait_for(lambda: all(c.closed for c in server.connections))


@pytest.mark.parametrize("error", [LookupError, OSError, TimeoutError, ConnectionResetError])
@pytest.mark.parametrize("many", [False, True], ids=["send", "send_many"])
def test_a_function_of_the_callers_that_fails_moves_on(error: type[Exception], many: bool) -> None:
    """A failed socket factory or token function affects one server: mail goes to the next one."""

    def fails(*_: object) -> Any:
        raise error("the caller's own")

    with SmtpServer(sasl={"XOAUTH2": lambda: bearer(set())}) as first, SmtpServer() as second:
        without_token = ServerConfig.from_url(
            first.url, credentials=OAuthCredentials("user", fails)
        )
        without_socket = ServerConfig.from_url("smtp://127.0.0.1:1", socket_factory=fails)
        with ConnectionPool([without_token, without_socket, second.url], max_size=1) as pool:
            if many:
                letter = Envelope("me@example.com", ["you@example.com"], b"hello\r\n")
                assert [outcome.error for outcome in pool.send_many([letter])] == [None]
            else:
                send(pool)
            stats = pool.stats()
        assert len(second.messages) == 1
        assert stats.connect_errors == 2
        failures = [server.last_error for server in stats.servers]
        assert [e.phase for e in failures if e is not None] == [Phase.AUTH, Phase.CONNECT]
        assert all(e.is_transient for e in failures if e is not None)
