"""The public pool: who gets which connection, what is sent again, what is counted."""

from __future__ import annotations

import dataclasses
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from email.message import EmailMessage
from functools import partial
from typing import Any, Literal, TypedDict
from unittest import mock

import pytest

from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    BodyType,
    ConnectionPool,
    DsnNotify,
    LmtpSendResult,
    MailFromParams,
    PasswordCredentials,
    PermanentError,
    Pipelining,
    PoolClosedError,
    PoolEvent,
    PoolOverloadedError,
    PoolTimeoutError,
    RcptToParams,
    SendResult,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TransientError,
    TransportError,
    ValidationError,
)
from smtpconn.net.deadline import Deadline
from smtpconn.net.transport import Transport
from smtpconn.pool.core import NOOP_TIMEOUT
from smtpconn.testing import SmtpServer
from tests.support.clock import Clock
from tests.support.pool_use import MESSAGE, RECIPIENTS, SENDER, take
from tests.support.waiting import wait_until

Kill = Callable[[SmtpServer], None]


class Background:
    """A call in a thread, and what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.error = error

    def join(self) -> BaseException | None:
        """Wait for its end, and return what it raised."""
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.error


def use(pool: ConnectionPool, times: int = 1) -> None:
    """Have ``times`` connections in use at once, and give them back."""
    with ExitStack() as stack:
        for _ in range(times):
            stack.enter_context(pool.connection())


def config_with_factory(
    server: SmtpServer, factory: Callable[[str, int, float], socket.socket]
) -> ServerConfig:
    """A configuration whose sockets come from ``factory``."""
    return ServerConfig.from_url(server.url, socket_factory=factory)


def noops(server: SmtpServer, connection: int) -> int:
    """How many NOOPs the server saw on a connection, counted from 0."""
    if connection >= len(server.connections):
        return 0
    return server.connections[connection].commands.count("NOOP")


def maintenance_threads() -> list[str]:
    """The maintenance thread, if it lives."""
    return [t.name for t in threading.enumerate() if t.name == "smtpconn-maintenance"]


def all_closed(server: SmtpServer) -> bool:
    """Whether no connection is open on the server's side."""
    return all(c.closed for c in server.connections)


# Who gets which connection


def test_a_connection_is_given_and_taken_back(server: SmtpServer) -> None:
    """The block has a connection that works, and the next block has the same one."""
    with ConnectionPool(server.url) as pool:
        with pool.connection() as first:
            assert isinstance(first, SmtpConnection)
            first.noop()
            assert pool.stats().in_use == 1
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
        with pool.connection() as second:
            assert second is first
    assert len(server.connections) == 1


def test_the_youngest_idle_connection_goes_first(server: SmtpServer) -> None:
    """Idle connections are handed out last in, first out, so that the others can grow old."""
    with ConnectionPool(server.url) as pool:
        a, b = pool.connection(), pool.connection()
        first, second = a.__enter__(), b.__enter__()
        b.__exit__(None, None, None)
        a.__exit__(None, None, None)
        with pool.connection() as again:
            assert again is first
            with pool.connection() as other:
                assert other is second


def test_a_failed_block_keeps_the_connection(server: SmtpServer) -> None:
    """An ordinary exception in the block is passed on and costs no connection."""
    with ConnectionPool(server.url) as pool:
        with pytest.raises(ZeroDivisionError), pool.connection():
            raise ZeroDivisionError
        assert pool.stats().idle == 1


class CountedSocket(socket.socket):
    """A socket that counts how many of its kind are open."""

    lock = threading.Lock()
    open_now = 0
    most = 0

    @classmethod
    def connect_to(cls, host: str, port: int, timeout: float) -> CountedSocket:
        """Connect, counted before anything is done."""
        with cls.lock:
            cls.open_now += 1
            cls.most = max(cls.most, cls.open_now)
        sock = cls()
        sock.settimeout(timeout)
        sock.connect((host, port))
        return sock

    def close(self) -> None:
        """Close, counted when it is done."""
        was_open = self.fileno() >= 0
        super().close()
        if was_open:
            with self.lock:
                CountedSocket.open_now -= 1


def test_max_size_is_hard(server: SmtpServer) -> None:
    """Twenty threads that wear connections out have never more than max_size of them open."""
    CountedSocket.open_now = CountedSocket.most = 0
    config = config_with_factory(server, CountedSocket.connect_to)
    barrier = threading.Barrier(20)
    with ConnectionPool(config, max_size=4, max_messages=3, max_connecting=4) as pool:

        def work() -> None:
            barrier.wait(10)
            for _ in range(6):
                pool.send(SENDER, RECIPIENTS, MESSAGE)

        for worker in [Background(work) for _ in range(20)]:
            assert worker.join() is None
        assert pool.stats().messages == 120
    assert CountedSocket.most == 4
    assert CountedSocket.open_now == 0
    assert len(server.messages) == 120
    assert max(Counter(m.connection for m in server.messages).values()) == 3


def test_waiters_are_served_in_order(server: SmtpServer) -> None:
    """Who waited first is served first."""
    order: list[int] = []
    with ConnectionPool(server.url, max_size=1) as pool:

        def wait(number: int) -> None:
            with pool.connection():
                order.append(number)

        waiters: list[Background] = []
        with pool.connection():
            for number in range(8):
                waiters.append(Background(partial(wait, number)))
                wait_until(lambda: pool.stats().waiting == len(waiters))
        for waiter in waiters:
            assert waiter.join() is None
    assert order == list(range(8))


def test_connections_are_handed_over_fairly(server: SmtpServer) -> None:
    """Twenty threads that always want one of two connections get the same number of turns."""
    turns, over, holders = [0] * 20, threading.Event(), threading.Barrier(2)
    with ConnectionPool(server.url, max_size=2) as pool:

        def work(number: int) -> None:
            while not over.is_set():
                with pool.connection():
                    turns[number] += 1
                    # All others want one, and both holders return theirs, so that no caller is late
                    # because its thread was not running.
                    wait_until(lambda: over.is_set() or pool.stats().waiting == 18)
                    try:
                        holders.wait(10)
                    except threading.BrokenBarrierError:
                        assert over.is_set()
                if sum(turns) > 500:
                    over.set()
                    holders.abort()

        with pool.connection(), pool.connection():
            workers = [Background(partial(work, number)) for number in range(20)]
            wait_until(lambda: pool.stats().waiting == 20)
        for worker in workers:
            assert worker.join() is None
    assert max(turns) <= 1.1 * min(turns), turns
    assert len(server.connections) == 2


def test_a_timeout_says_who_has_the_connections(server: SmtpServer) -> None:
    """`PoolTimeoutError` names the limit, the figures and the age of the oldest lease."""
    with ConnectionPool(server.url, max_size=2, acquire_timeout=0.02) as pool:
        with (
            pool.connection(timeout=10),
            pool.connection(timeout=10),
            pytest.raises(PoolTimeoutError) as caught,
        ):
            take(pool)
        text = str(caught.value)
        for part in ("max_size=2", "in use=2", "idle=0", "waiting=1", "0.02 s", str(pool.config)):
            assert part in text
        assert re.search(r"oldest lease is \d+\.\d s old", text)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.is_transient
        assert caught.value.__cause__ is None
        stats = pool.stats()
        assert (stats.timeouts, stats.waiting, stats.in_use) == (1, 0, 0)


def test_a_timeout_chains_the_last_connect_error(server: SmtpServer) -> None:
    """A caller that times out while connecting fails gets the reason."""
    server.fault("CONNECT", reply="554 5.3.2 Not today", close=True)
    server.fault("CONNECT", hang=True)
    with ConnectionPool(server.url, max_size=1) as pool:
        with pytest.raises(PermanentError):
            take(pool)
        other = Background(lambda: take(pool))
        wait_until(lambda: pool.stats().connecting == 1)
        with pytest.raises(PoolTimeoutError) as caught:
            take(pool, 0.02)
        assert isinstance(caught.value.__cause__, PermanentError)
        assert "Not today" in str(caught.value.__cause__)
        server.kill()
        assert isinstance(other.join(), SmtpError)


@pytest.mark.parametrize("max_waiting", [0, 2])
def test_too_many_waiters_are_refused_at_once(server: SmtpServer, max_waiting: int) -> None:
    """One caller more than max_waiting gets `PoolOverloadedError`, the others their turn."""
    with ConnectionPool(server.url, max_size=1, max_waiting=max_waiting) as pool:
        with pool.connection():
            waiters = [Background(lambda: take(pool)) for _ in range(max_waiting)]
            wait_until(lambda: pool.stats().waiting == max_waiting)
            with pytest.raises(PoolOverloadedError) as caught:
                take(pool)
        assert caught.value.is_transient
        assert [w.join() for w in waiters] == [None] * max_waiting
        assert pool.stats().overloads == 1
        take(pool)


def test_a_failed_connect_wakes_the_next_waiter(server: SmtpServer) -> None:
    """The caller gets the real error, and who waits behind connects at once."""
    entered, go_on = threading.Event(), threading.Event()

    def factory(host: str, port: int, timeout: float) -> socket.socket:
        if not entered.is_set():
            entered.set()
            go_on.wait(10)
            raise ConnectionRefusedError("no such luck")
        return socket.create_connection((host, port), timeout)

    with ConnectionPool(config_with_factory(server, factory), max_size=1) as pool:
        unlucky = Background(lambda: take(pool))
        assert entered.wait(10)
        lucky = Background(lambda: take(pool))
        wait_until(lambda: pool.stats().waiting == 1)
        go_on.set()
        error = unlucky.join()
        assert isinstance(error, TransportError)
        assert "no such luck" in str(error)
        assert lucky.join() is None
        stats = pool.stats()
        assert (stats.connect_errors, stats.connects, stats.in_use) == (1, 1, 0)


def test_no_more_than_max_connecting_connect_at_once(server: SmtpServer) -> None:
    """Six callers at once make connections two at a time."""
    go_on, lock, entered = threading.Event(), threading.Lock(), 0

    def factory(host: str, port: int, timeout: float) -> socket.socket:
        nonlocal entered
        with lock:
            entered += 1
        go_on.wait(10)
        return socket.create_connection((host, port), timeout)

    all_there = threading.Barrier(6)
    config = config_with_factory(server, factory)
    with ConnectionPool(config, max_size=6, max_connecting=2) as pool:

        def work() -> None:
            with pool.connection():
                all_there.wait(10)

        workers = [Background(work) for _ in range(6)]
        wait_until(lambda: pool.stats().waiting == 4 and entered == 2)
        assert pool.stats().connecting == 2
        go_on.set()
        assert [w.join() for w in workers] == [None] * 6
        assert entered == 6


def test_a_refused_login_is_told_and_keeps_capacity() -> None:
    """`AuthError` goes to the caller, and the lease and the descriptor are given back."""
    with SmtpServer(users={"user": "right"}) as server:
        config = ServerConfig.from_url(
            server.url, credentials=PasswordCredentials("user", "wrong-secret")
        )
        with ConnectionPool(config, max_size=1) as pool:
            for _ in range(3):
                with pytest.raises(AuthError) as caught:
                    take(pool)
                assert caught.value.response.code == 535
                assert "wrong-secret" not in f"{caught.value!r} {caught.value} {pool!r}"
            stats = pool.stats()
            assert (stats.in_use, stats.idle, stats.connecting, stats.waiting) == (0, 0, 0, 0)
            assert stats.connect_errors >= 1
            assert stats.connects == 0
        server.wait_for(lambda: all_closed(server))


# Connections that died


def _kill(server: SmtpServer) -> None:
    server.kill()


def _restart(server: SmtpServer) -> None:
    server.restart()


def _say_421(server: SmtpServer) -> None:
    server.close_idle()
    server.wait_for(lambda: all_closed(server))


def _hang_up(server: SmtpServer) -> None:
    server.close_idle(None)
    server.wait_for(lambda: all_closed(server))


@pytest.mark.parametrize("kill", [_kill, _restart, _say_421, _hang_up])
def test_a_connection_that_died_while_idle_is_replaced(server: SmtpServer, kill: Kill) -> None:
    """The next caller notices nothing of what happened to an idle connection."""
    with ConnectionPool(server.url) as pool:
        take(pool)
        kill(server)
        with pool.connection() as connection:
            connection.noop()
        stats = pool.stats()
        assert stats.discards == {"dead when idle": 1}
        assert stats.connects == 2
        assert stats.connect_errors == 0


def test_ten_dead_connections_cost_one_connect(server: SmtpServer) -> None:
    """When all idle connections are dead, the next caller drops them all and connects once."""
    with ConnectionPool(server.url, max_size=10) as pool:
        use(pool, 10)
        assert pool.stats().idle == 10
        server.kill()
        take(pool)
        assert len(server.connections) == 11
        assert pool.stats().discards == {"dead when idle": 10}
        assert pool.stats().idle == 1


def test_a_421_in_use_retires_the_connection(server: SmtpServer) -> None:
    """A connection that said 421 in the block is not handed out again."""
    with ConnectionPool(server.url) as pool:
        with pool.connection() as connection:
            server.fault("NOOP", reply="421 4.3.2 Going down")
            with pytest.raises(SmtpError):
                connection.noop()
        assert pool.stats().discards == {"421": 1}
        with pool.connection() as another:
            assert another is not connection


def test_a_connection_closed_in_the_block_is_not_kept(server: SmtpServer) -> None:
    """Whatever the block did to the connection, the next one has a good one."""
    with ConnectionPool(server.url) as pool:
        with pool.connection() as connection:
            connection.quit()
        assert pool.stats().idle == 0
        with pool.connection() as another:
            another.noop()


def test_a_connection_is_closed_after_max_messages(server: SmtpServer) -> None:
    """After max_messages messages the next one goes over a new connection."""
    with ConnectionPool(server.url, max_messages=2) as pool:
        for _ in range(5):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert [m.connection for m in server.messages] == [1, 1, 2, 2, 3]
        assert pool.stats().discards == {"max_messages": 2}


@pytest.mark.parametrize(
    ("limits", "seconds", "reason"),
    [
        ({"max_lifetime": 30.0}, 31.0, "max_lifetime"),
        ({"max_idle": 30.0}, 31.0, "max_idle"),
        ({"max_idle": 30.0}, 29.0, None),
        ({"max_lifetime": 30.0}, 26.0, None),
    ],
)
def test_a_connection_grows_old(
    server: SmtpServer,
    clock: Clock,
    limits: dict[str, float],
    seconds: float,
    reason: str | None,
) -> None:
    """An idle connection is replaced at the first checkout after ``max_lifetime``."""
    options = {"max_idle": 3600.0, "max_lifetime": 3600.0, **limits}
    with ConnectionPool(
        server.url,
        keepalive=None,
        max_idle=options["max_idle"],
        max_lifetime=options["max_lifetime"],
    ) as pool:
        take(pool)
        clock.advance(seconds)
        take(pool)
        assert pool.stats().discards == ({} if reason is None else {reason: 1})
        assert len(server.connections) == (1 if reason is None else 2)


def test_max_lifetime_is_looked_at_when_a_connection_comes_back(
    server: SmtpServer, clock: Clock
) -> None:
    """A connection whose time ended in use is closed when it comes back."""
    with ConnectionPool(server.url, keepalive=None, max_lifetime=30.0) as pool:
        with pool.connection():
            clock.advance(31)
        assert pool.stats().idle == 0
        assert pool.stats().discards == {"max_lifetime": 1}
        server.wait_for(lambda: all_closed(server))
        assert server.connections[0].commands[-1] == "QUIT"


def test_time_in_use_does_not_count_as_idle(server: SmtpServer, clock: Clock) -> None:
    """A long block does not make its connection too old for max_idle."""
    with ConnectionPool(server.url, keepalive=None, max_idle=30.0) as pool:
        take(pool)
        with pool.connection():
            clock.advance(100)
        take(pool)
        assert len(server.connections) == 1


# Safe retry


class Ending(TypedDict, total=False):
    """How a connection ends, as `SmtpServer.fault` takes it."""

    reply: str
    close: bool
    reset: bool


STALE: dict[str, Ending] = {
    "hung up": {"close": True},
    "reset": {"reset": True},
    "421": {"reply": "421 4.3.2 Going down"},
    "421 and hung up": {"reply": "421 4.3.2 Going down", "close": True},
}


def break_server(server: SmtpServer, step: str, how: str, skip: int = 0) -> None:
    """Have the next connection that comes to ``step`` end."""
    server.fault(step, skip=skip, **STALE[how])


@pytest.mark.parametrize("how", list(STALE))
@pytest.mark.parametrize("step", ["RSET", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "plain"])
def test_a_reused_connection_that_ends_before_content_is_replaced(
    step: str, how: str, extensions: list[str]
) -> None:
    """The message goes once more, over a new connection, and arrives exactly once."""
    with (
        SmtpServer(
            extensions=extensions, recipient_known=lambda path: "nobody" not in path
        ) as server,
        ConnectionPool(server.url) as pool,
    ):
        # A transaction that did not succeed, so that the next begins with RSET.
        with pytest.raises(AllRecipientsFailedError):
            pool.send(SENDER, ["nobody@example.com"], MESSAGE)
        break_server(server, step, how)
        result = pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert isinstance(result, SendResult)
        assert [m.content for m in server.messages] == [MESSAGE]
        assert server.messages[0].connection == 2
        stats = pool.stats()
        assert (stats.retries, stats.messages, stats.failed_messages) == (1, 1, 1)
        assert (stats.in_use, stats.idle) == (0, 1)


@pytest.mark.parametrize("how", list(STALE))
@pytest.mark.parametrize("extensions", [["PIPELINING"], []], ids=["pipelining", "plain"])
def test_a_reused_connection_that_ends_between_recipients_is_replaced(
    how: str, extensions: list[str]
) -> None:
    """A server that goes down after one recipient has not refused the others."""
    everybody = ["you@example.com", "she@example.com"]
    with SmtpServer(extensions=extensions) as server, ConnectionPool(server.url) as pool:
        take(pool)
        break_server(server, "RCPT", how, skip=1)
        result = pool.send(SENDER, everybody, MESSAGE)
        assert isinstance(result, SendResult)
        assert result.rejected_recipients == ()
        assert [m.recipients for m in server.messages] == [tuple(everybody)]
        assert pool.stats().retries == 1


@pytest.mark.parametrize("how", list(STALE))
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
def test_a_fresh_connection_that_ends_is_not_replaced(
    server: SmtpServer, step: str, how: str
) -> None:
    """On a connection that was just made the failure is the server's answer, and is told."""
    break_server(server, step, how)
    with ConnectionPool(server.url) as pool:
        with pytest.raises(SmtpError) as caught:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert not caught.value.may_have_been_delivered
        assert caught.value.is_transient
        assert server.messages == []
        assert len(server.connections) == 1
        assert pool.stats().retries == 0
        pool.send(SENDER, RECIPIENTS, MESSAGE)


def test_a_message_is_sent_again_only_once(server: SmtpServer) -> None:
    """If the new connection dies as well, the caller is told."""
    with ConnectionPool(server.url) as pool:
        take(pool)
        server.fault("MAIL", close=True, times=2)
        with pytest.raises(SmtpError):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert len(server.connections) == 2
        assert pool.stats().retries == 1
        assert pool.stats().in_use == 0


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize(
    ("fault", "may_have_been_delivered"),
    [
        ({"close": True}, True),
        ({"reset": True}, True),
        ({"hang": True}, True),
        ({"reply": b"what?\r\n"}, True),
        ({"reply": "421 4.3.2 Going down"}, True),
        ({"reply": "421 4.7.0 Too much"}, False),
        ({"reply": "451 4.3.0 Later"}, False),
        ({"reply": "554 5.6.0 Never"}, False),
    ],
)
def test_what_fails_after_content_is_never_sent_again(
    server: SmtpServer, fault: dict[str, object], may_have_been_delivered: bool, reused: bool
) -> None:
    """Nothing is sent twice once content was spent, and the error says whether it may be there."""
    with ConnectionPool(server.url) as pool:
        if reused:
            take(pool)
        server.fault("CONTENT", **fault)  # type: ignore[arg-type]
        with pytest.raises(SmtpError) as caught:
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.2 if "hang" in fault else None)
        assert caught.value.may_have_been_delivered is may_have_been_delivered
        assert isinstance(caught.value, SmtpTimeoutError) == ("hang" in fault)
        assert server.messages == []
        assert len(server.connections) == 1
        assert pool.stats().retries == 0
        assert pool.stats().failed_messages == 1


@pytest.mark.parametrize("reply", ["451 4.7.1 Later", "550 5.7.1 Never"])
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
def test_a_refusal_is_not_sent_again(server: SmtpServer, step: str, reply: str) -> None:
    """A 4xx or 5xx about the message is an answer: it is told, and the connection is kept."""
    with ConnectionPool(server.url) as pool:
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault(step, reply=reply)
        with pytest.raises((TransientError, PermanentError, AllRecipientsFailedError)) as caught:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert caught.value.is_transient is reply.startswith("4")
        assert not caught.value.may_have_been_delivered
        assert pool.stats().retries == 0
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert len(server.connections) == 1
        assert len(server.messages) == 2


def test_the_pool_waits_for_a_connection_within_the_timeout(server: SmtpServer) -> None:
    """``timeout`` of `send` bounds the wait for a connection as well."""
    with (
        ConnectionPool(server.url, max_size=1) as pool,
        pool.connection(),
        pytest.raises(PoolTimeoutError) as caught,
    ):
        pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.02)
    # The caller's own figure, although some microseconds of it were gone when the wait began.
    assert "became free within 0.02 s:" in str(caught.value)


# One deadline, and one look


def test_one_deadline_goes_down_to_the_socket(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A send makes one, and every read and write of it is handed that one."""
    made: list[Deadline] = []
    seen: list[Deadline] = []
    make, write, receive = Deadline.__init__, Transport.write, Transport.receive

    def noting(self: Deadline, timeout: float) -> None:
        made.append(self)
        make(self, timeout)

    def noted_write(self: Transport, data: bytes, deadline: Deadline, *told: Any) -> None:
        seen.append(deadline)
        write(self, data, deadline, *told)

    def noted_receive(self: Transport, deadline: Deadline) -> bytes:
        seen.append(deadline)
        return receive(self, deadline)

    with ConnectionPool(server.url, keepalive=None) as pool:
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        with monkeypatch.context() as patch:
            patch.setattr(Deadline, "__init__", noting)
            patch.setattr(Transport, "write", noted_write)
            patch.setattr(Transport, "receive", noted_receive)
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=7.5)
    assert [deadline.timeout for deadline in made] == [7.5]
    assert len(seen) >= 4
    assert all(deadline is made[0] for deadline in seen)


@pytest.mark.parametrize("step", ["CONNECT", "EHLO", "MAIL", "CONTENT", "AUTH"])
def test_an_error_shows_the_figure_the_caller_gave(step: str) -> None:
    """Wherever the time ran out: the caller's own timeout, and the server."""
    with SmtpServer(users={"user": "secret"}, extensions=()) as server:
        server.fault(step, hang=True)
        config = ServerConfig.from_url(server.url).replace(
            credentials=PasswordCredentials("user", "secret")
        )
        with ConnectionPool(config, keepalive=None) as pool:
            with pytest.raises(SmtpTimeoutError) as caught:
                pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.125)
            text = str(caught.value)
    assert text.startswith("the timeout of 0.125 seconds has passed during ")
    # At the greeting a hint follows: a server that waits for TLS is silent, too.
    assert text.partition(";")[0].endswith(f" with {config}")


def test_an_error_shows_the_configurations_figure(server: SmtpServer) -> None:
    """The default timeout is that of the configuration, or ``acquire_timeout``."""
    server.fault("CONTENT", hang=True)
    config = ServerConfig.from_url(server.url).replace(timeout=0.125)
    with ConnectionPool(config, max_size=1, keepalive=None, acquire_timeout=0.0625) as pool:
        with pytest.raises(SmtpTimeoutError, match=r"timeout of 0\.125 seconds"):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        with (
            pool.connection(timeout=10),
            pytest.raises(PoolTimeoutError, match=r"became free within 0\.0625 s"),
        ):
            pool.send(SENDER, RECIPIENTS, MESSAGE)


def test_a_silent_server_of_two_is_told_with_its_share() -> None:
    """What a server had of the time is said beside what the caller gave."""
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        urls = [f"smtp://127.0.0.1:{sock.getsockname()[1]}" for sock in (one, other)]
        with ConnectionPool(urls, keepalive=None) as pool:
            with pytest.raises(SmtpTimeoutError) as caught:
                pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.25)
            first = pool.stats().servers[0].last_error
    assert "the timeout of 0.25 seconds has passed during greeting" in str(caught.value)
    assert re.match(r"a share of 0\.12\d* seconds of the timeout of 0\.25 seconds", str(first))


@pytest.mark.parametrize("tls", [None, "implicit"])
def test_a_pooled_send_looks_at_the_socket_once(
    tls: Literal["implicit"] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checking out looks whether the connection still lives; sending does not look again."""
    looks: list[Transport] = []
    is_silent = Transport.is_silent

    def noted(self: Transport) -> bool:
        looks.append(self)
        return is_silent(self)

    monkeypatch.setattr(Transport, "is_silent", noted)
    with SmtpServer(tls=tls) as server:
        context = server.client_context if tls else None
        config = ServerConfig.from_url(server.url).replace(tls_context=context)
        with ConnectionPool(config, keepalive=None) as pool:
            for _ in range(3):
                looks.clear()
                pool.send(SENDER, RECIPIENTS, MESSAGE)
            assert len(looks) == 1
            looks.clear()
            # A connection that the caller holds is looked at before each of its operations.
            with pool.connection() as connection:
                connection.noop()
                connection.noop()
            assert len(looks) == 3
        assert len(server.connections) == 1


# Idle connections are looked after


def test_idle_connections_are_kept_alive(server: SmtpServer) -> None:
    """An idle connection gets NOOPs, and is as good as before."""
    with ConnectionPool(server.url, keepalive=0.02) as pool:
        use(pool, 2)
        wait_until(lambda: pool.stats().noops >= 6)
        assert noops(server, 0) >= 2
        assert noops(server, 1) >= 2
        wait_until(lambda: pool.stats().idle == 2)
        take(pool)
        assert pool.stats().discards == {}


@pytest.mark.parametrize(
    "fault",
    [{"reply": "421 4.3.2 Going down"}, {"reply": "500 5.5.1 What?"}, {"close": True}],
)
def test_a_failed_noop_retires_the_connection(server: SmtpServer, fault: dict[str, object]) -> None:
    """A connection whose NOOP is answered with anything but success is closed."""
    server.fault("NOOP", **fault)  # type: ignore[arg-type]
    with ConnectionPool(server.url, keepalive=0.02) as pool:
        take(pool)
        server.wait_for(lambda: all_closed(server))
        wait_until(lambda: pool.stats().in_use == 0)
        stats = pool.stats()
        assert stats.idle == 0
        assert stats.discards == {"keepalive failed": 1}
        take(pool)


def test_a_connection_gets_eight_noops_at_most(server: SmtpServer) -> None:
    """A connection that had eight NOOPs gets no more, while another one gets its own."""
    with ConnectionPool(server.url, keepalive=0.01) as pool:
        take(pool)
        server.wait_for(lambda: noops(server, 0) == 8)
        wait_until(lambda: pool.stats().idle == 1)
        use(pool, 2)
        server.wait_for(lambda: noops(server, 1) == 8)
        assert noops(server, 0) == 8


def test_maintenance_closes_what_was_idle_for_too_long(server: SmtpServer) -> None:
    """An unused connection is closed after max_idle, with a QUIT."""
    with ConnectionPool(server.url, max_idle=0.03) as pool:
        use(pool, 3)
        server.wait_for(lambda: len(server.connections) == 3 and all_closed(server))
        assert [c.commands[-1] for c in server.connections] == ["QUIT"] * 3
        wait_until(lambda: pool.stats().discards == {"max_idle": 3})
        assert pool.stats().idle == 0


def test_without_keepalive_there_is_no_thread(server: SmtpServer) -> None:
    """``keepalive=None`` starts no thread."""
    with ConnectionPool(server.url, keepalive=None, max_idle=0.01) as pool:
        use(pool, 2)
        assert maintenance_threads() == []


def test_maintenance_ends_with_the_last_idle_connection(server: SmtpServer) -> None:
    """One thread looks after all pools, and ends when all are closed."""
    with ConnectionPool(server.url) as one, ConnectionPool(server.url) as other:
        take(one)
        take(other)
        assert len(maintenance_threads()) == 1
    wait_until(lambda: maintenance_threads() == [])


def hang_at_noop(server: SmtpServer, pool: ConnectionPool) -> None:
    """Have a NOOP on the pool's only connection that the server does not answer."""
    server.fault("NOOP", hang=True, times=1)
    take(pool)
    server.wait_for(lambda: noops(server, 0) == 1)
    assert pool.stats().in_use == 1


def test_an_unanswered_noop_holds_up_no_caller(server: SmtpServer) -> None:
    """A caller waits a moment for the answer, and then has a connection of its own made."""
    with ConnectionPool(server.url, max_size=1, keepalive=0.02) as pool:
        hang_at_noop(server, pool)
        begun = time.monotonic()
        use(pool)
        assert time.monotonic() - begun < NOOP_TIMEOUT / 2
        assert len(server.connections) == 2
        wait_until(lambda: pool.stats().discards == {"keepalive failed": 1})
        assert pool.stats().in_use == 0
        take(pool)


def test_an_unanswered_noop_holds_up_no_caller_in_a_hurry(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for less than that moment gets a connection as well."""
    monkeypatch.setattr("smtpconn.pool.core.NOOP_GRACE", 3.0)
    with ConnectionPool(server.url, max_size=1, keepalive=0.02) as pool:
        hang_at_noop(server, pool)
        take(pool, 2.0)
        assert len(server.connections) == 2


def test_a_noop_that_is_answered_late_costs_nothing(server: SmtpServer) -> None:
    """The caller that waits for the answer gets the connection."""
    server.fault("NOOP", delay=0.1, times=1)
    with ConnectionPool(server.url, max_size=1, keepalive=0.02) as pool:
        take(pool)
        server.wait_for(lambda: noops(server, 0) == 1)
        use(pool)
        assert pool.stats().discards == {}
    assert len(server.connections) == 1


def test_an_unanswered_noop_holds_up_no_other_pool(
    server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a server is silent, connections of other pools are kept alive and closed in time."""
    # What waits for the silent server is not over before the test fails.
    monkeypatch.setattr("smtpconn.pool.core.NOOP_TIMEOUT", 60.0)
    with (
        SmtpServer() as other_server,
        ConnectionPool(server.url, keepalive=0.05, max_idle=100) as silent,
        ConnectionPool(other_server.url, keepalive=0.03, max_idle=2.0) as other,
    ):
        take(other)
        hang_at_noop(server, silent)
        other_server.wait_for(lambda: noops(other_server, 0) >= 5)
        other_server.wait_for(lambda: all_closed(other_server))
        assert silent.stats().in_use == 1
        # Who wants the silent connection closes it, and with it the NOOP ends.
        silent.close(0)
        silent._core._reclaim_overdue_noops(0)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_maintenance_survives_its_hook(
    server: SmtpServer, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a hook raises, idle connections get their NOOPs and are closed when it is time."""
    monkeypatch.setattr("smtpconn.pool.core.MAINTENANCE_RETRY", 0.01)
    failed: list[str] = []

    def hook(event: PoolEvent) -> None:
        is_kept_alive = event.action in ("noop", "discard")
        if is_kept_alive and threading.current_thread() is not threading.main_thread():
            failed.append(event.action)
            raise kind("a bug")

    with ConnectionPool(server.url, keepalive=0.02, max_idle=0.2, on_event=hook) as pool:
        use(pool, 3)
        server.wait_for(lambda: all_closed(server))
        wait_until(lambda: pool.stats().idle == 0)
        assert sum(pool.stats().discards.values()) == 3
        # It is looked after as before when something is idle again.
        take(pool)
        server.wait_for(lambda: all_closed(server))
        assert len(failed) > 4
    wait_until(lambda: maintenance_threads() == [])


def test_a_caller_that_renews_delays_no_other(server: SmtpServer) -> None:
    """No caller waits beside an idle connection because another connects to a slow server."""
    moments: dict[str, float] = {}
    with ConnectionPool(server.url, max_size=4, max_connecting=1) as pool:

        def work(name: str) -> None:
            pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=10)
            moments[name] = time.monotonic()

        pool.warm(2)
        lease = pool.connection()
        lease.__enter__()
        server.fault("MAIL", delay=0.2, close=True, times=1)
        renewing = threading.Thread(target=work, args=("renewing",))
        renewing.start()
        server.wait_for(lambda: any("MAIL" in str(c.commands) for c in server.connections))
        server.fault("CONNECT", delay=2, times=1)
        connecting = threading.Thread(target=work, args=("connecting",))
        connecting.start()
        wait_until(lambda: pool.stats().waiting == 1)
        lease.__exit__(None, None, None)
        work("in no need")
        for thread in (renewing, connecting):
            thread.join(10)
        assert moments["renewing"] < moments["connecting"] - 1
        assert moments["in no need"] < moments["connecting"] - 1
        assert pool.stats().in_use == 0


# Closing


def test_a_closed_pool_refuses_callers(server: SmtpServer) -> None:
    """After `close` every way of using the pool raises `PoolClosedError`; closing again is fine."""
    pool = ConnectionPool(server.url)
    take(pool)
    pool.close()
    pool.close()
    assert pool.is_closed
    with pytest.raises(PoolClosedError):
        take(pool)
    with pytest.raises(PoolClosedError):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    server.wait_for(lambda: all_closed(server))
    assert server.connections[0].commands[-1] == "QUIT"


@pytest.mark.parametrize("timeout", ["5", -1, float("nan"), True, None])
def test_closing_checks_its_timeout_first(server: SmtpServer, timeout: Any) -> None:
    """The pool stays open."""
    with ConnectionPool(server.url, keepalive=None) as pool:
        with pytest.raises(ValidationError, match="number of seconds"):
            pool.close(timeout)
        pool.send(SENDER, RECIPIENTS, MESSAGE)


def test_closing_wakes_those_who_wait(server: SmtpServer) -> None:
    """Callers that stand in line get `PoolClosedError` at once."""
    with ConnectionPool(server.url, max_size=1) as pool:
        with pool.connection():
            waiters = [Background(lambda: take(pool)) for _ in range(3)]
            wait_until(lambda: pool.stats().waiting == 3)
            pool.close(0)
            assert [type(w.join()) for w in waiters] == [PoolClosedError] * 3
        assert pool.stats().waiting == 0


def test_closing_waits_for_leases(server: SmtpServer) -> None:
    """`close` returns when the last connection is back, and that one is closed."""
    pool = ConnectionPool(server.url)
    with pool.connection() as connection:
        closing = Background(pool.close)
        wait_until(lambda: pool.is_closed)
        connection.noop()
    assert closing.join() is None
    assert pool.stats().in_use == 0
    server.wait_for(lambda: all_closed(server))


def test_a_lease_that_outlives_its_pool(server: SmtpServer) -> None:
    """A connection that `close` did not wait for works on, and is closed when it comes back."""
    pool = ConnectionPool(server.url)
    with pool.connection() as connection:
        pool.close(0.01)
        assert pool.stats().in_use == 1
        connection.send(SENDER, RECIPIENTS, MESSAGE)
    assert not connection.is_open
    stats = pool.stats()
    assert (stats.in_use, stats.idle) == (0, 0)
    assert stats.discards == {"pool closed": 1}
    server.wait_for(lambda: all_closed(server))


# Sending


def test_send_over_smtp(server: SmtpServer) -> None:
    """`send` hands everything to the connection and returns what it returns."""
    with ConnectionPool(server.url) as pool:
        result = pool.send(
            SENDER,
            RECIPIENTS,
            MESSAGE,
            mail_params=MailFromParams(envid="abc"),
            rcpt_params=[RcptToParams(notify=DsnNotify.NEVER)],
        )
    assert isinstance(result, SendResult)
    assert [str(r) for r in result.accepted_recipients] == RECIPIENTS
    assert result.response.code == 250
    (message,) = server.messages
    assert (message.sender, message.recipients, message.via) == (SENDER, (*RECIPIENTS,), "DATA")
    assert "ENVID=abc" in message.mail_parameters
    assert message.recipient_parameters == (("NOTIFY=NEVER",),)


@pytest.mark.parametrize("extensions", [None, ["PIPELINING"]], ids=["CHUNKING", "no CHUNKING"])
def test_an_eager_pool_sends_by_bdat_where_it_can(extensions: list[str] | None) -> None:
    """Under EAGER a message is sent by BDAT, which saves a turn; by DATA where there is no BDAT."""
    with SmtpServer(extensions=extensions) as server:
        config = ServerConfig.from_url(server.url, pipelining=Pipelining.EAGER)
        with ConnectionPool(config) as pool:
            for _ in range(3):
                pool.send(SENDER, RECIPIENTS, MESSAGE)
        verbs = {command[:4] for command in server.connections[0].commands}
        assert len(server.messages) == 3
    assert ("BDAT" in verbs, "DATA" in verbs) == (extensions is None, extensions is not None)


def test_send_binary_goes_by_bdat(server: SmtpServer) -> None:
    """What cannot go by DATA goes by BDAT."""
    content = b"Subject: x\r\n\r\n\0\n\r"
    with ConnectionPool(server.url) as pool:
        pool.send(SENDER, RECIPIENTS, content, mail_params=MailFromParams(body=BodyType.BINARYMIME))
    (message,) = server.messages
    assert (message.via, message.content) == ("BDAT", content)


def test_send_with_some_recipients_refused() -> None:
    """Those refused are in the result, and the others get the message."""
    with (
        SmtpServer(recipient_known=lambda path: path.startswith("you")) as server,
        ConnectionPool(server.url) as pool,
    ):
        result = pool.send(SENDER, ["you@example.com", "she@example.com"], MESSAGE)
        assert isinstance(result, SendResult)
        assert [str(r.recipient) for r in result.rejected_recipients] == ["she@example.com"]
        with pytest.raises(AllRecipientsFailedError):
            pool.send(SENDER, ["she@example.com"], MESSAGE)
        stats = pool.stats()
        assert (stats.messages, stats.failed_messages, stats.retries) == (1, 1, 0)
        assert len(server.messages) == 1


def test_send_over_lmtp() -> None:
    """With an LMTP configuration each recipient has its own result."""
    with SmtpServer(protocol="LMTP") as server, ConnectionPool(server.url) as pool:
        server.fault("CONTENT", reply="552 5.2.2 Full", match="she@")
        result = pool.send(SENDER, ["you@example.com", "she@example.com"], MESSAGE)
        assert isinstance(result, LmtpSendResult)
        assert [r.delivered for r in result.results] == [True, False]
        assert len(server.messages) == 1


@pytest.mark.parametrize("protocol", ["SMTP", "LMTP"])
def test_send_message(protocol: str) -> None:
    """A message of the email package goes to those it names."""
    message = EmailMessage()
    message["From"], message["To"], message["Bcc"] = SENDER, "you@example.com", "she@example.com"
    message["Subject"] = "hello"
    message.set_content("Hello!\n")
    with SmtpServer(protocol=protocol) as server, ConnectionPool(server.url) as pool:
        result = pool.send_message(message)
        received = server.messages
    assert isinstance(result, LmtpSendResult if protocol == "LMTP" else SendResult)
    assert sorted(r for m in received for r in m.recipients) == [
        "she@example.com",
        "you@example.com",
    ]
    assert all(b"Bcc" not in m.content and m.sender == SENDER for m in received)


@pytest.mark.parametrize("protocol", ["SMTP", "LMTP"])
def test_results_are_by_what_the_caller_wrote(protocol: str) -> None:
    """However an address was written, and whenever it was refused; LMTP's duplicates too."""
    written = ["<you@example.com>", " she@example.com", "a..b@example.com", "no@example.com"]
    with (
        SmtpServer(protocol=protocol, recipient_known=lambda path: "no@" not in path) as server,
        ConnectionPool(server.url) as pool,
    ):
        server.fault("RCPT", reply="550 5.1.1 No", match="she@")
        result = pool.send(SENDER, (each for each in [*written, "<no@example.com>"]), MESSAGE)
    assert result.accepted == ("<you@example.com>", "a..b@example.com")
    assert [*result.refused] == [" she@example.com", "no@example.com", "<no@example.com>"]
    assert {reply.code for reply in result.refused.values()} == {550}
    assert "you@example.com" in result.accepted_recipients
    assert '"a..b"@example.com' in {r for m in server.messages for r in m.recipients}


def test_a_message_that_is_tried_again_is_the_same(server: SmtpServer) -> None:
    """Its Message-ID is made once, before the first try."""
    message = EmailMessage()
    message["From"], message["To"] = SENDER, "you@example.com"
    message.set_content("Hello!\n")
    with ConnectionPool(server.url) as pool:
        pool.send_message(message)
        server.fault("MAIL", reply="421 4.3.2 Bye")
        with mock.patch("smtpconn.model.email_message.make_msgid", return_value="<1@x>") as make:
            pool.send_message(message)
        assert pool.stats().retries == 1
    assert make.call_count == 1
    assert [m.email["Message-ID"] for m in server.messages][-1] == "<1@x>"


def test_a_wrong_argument_costs_nothing(server: SmtpServer) -> None:
    """What may not be sent is refused before a connection is taken."""
    with ConnectionPool(server.url) as pool:
        with pytest.raises(ValidationError):
            pool.send("me@example.com\r\nRSET", RECIPIENTS, MESSAGE)
        assert pool.stats().checkouts == 0
    assert server.connections == []


# Figures


def test_stats_after_a_known_day(server: SmtpServer) -> None:
    """Every figure is what happened."""
    with ConnectionPool(server.url, max_size=2, keepalive=None, name="day") as pool:
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault("MAIL", close=True)
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault("CONTENT", reply="554 5.6.0 Never")
        with pytest.raises(PermanentError):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault("CONTENT", close=True)
        with pytest.raises(SmtpError):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault("CONNECT", reply="554 5.3.2 Not today", close=True)
        with pytest.raises(PermanentError):
            take(pool)
        with pool.connection():
            with pool.connection(), pytest.raises(PoolTimeoutError):
                take(pool, 0.01)
            stats = pool.stats()
        figures = dataclasses.asdict(stats)
        for spent in ("wait_seconds", "use_seconds", "connect_seconds"):
            assert 0.0 < figures.pop(spent) < 10.0
        (standing,) = figures.pop("servers")
        assert (standing["server"], standing["is_healthy"]) == (str(pool.config), True)
        assert figures == {
            "name": "day",
            "max_size": 2,
            "effective_size": 2,
            "in_use": 1,
            "idle": 1,
            "connecting": 0,
            "waiting": 0,
            "checkouts": 7,
            "waits": 1,
            "timeouts": 1,
            "overloads": 0,
            "connects": 4,
            "connect_errors": 1,
            "retries": 1,
            "noops": 0,
            "messages": 3,
            "failed_messages": 2,
            "unknown_messages": 1,
            "accepted_recipients": 3,
            "rejected_recipients": 0,
            "discards": {"dead when used": 1, "closed in use": 1},
        }


def test_stats_do_not_change(server: SmtpServer) -> None:
    """The figures are those of the moment they were asked for, and equal ones are equal."""
    with ConnectionPool(server.url, keepalive=None) as pool:
        before = pool.stats()
        assert before == pool.stats()
        take(pool)
        assert before.checkouts == 0
        assert before != pool.stats()


def test_what_is_counted_never_gets_less(server: SmtpServer) -> None:
    """Who reads the figures at any moment finds counters that only grow (monitoring needs it)."""
    seen: list[int] = []
    with ConnectionPool(
        server.url, keepalive=None, on_event=lambda _: seen.append(pool.stats().checkouts)
    ) as pool:
        take(pool)
        server.fault("CONNECT", reply="554 5.3.2 No", close=True)
        server.kill()
        with pytest.raises(PermanentError):
            take(pool)
        take(pool)
        assert pool.stats().checkouts == 3
    assert seen == sorted(seen)


def test_repr_says_what_matters_and_no_secret(server: SmtpServer) -> None:
    """``repr`` names the pool, the server and the figures, and never the password."""
    url = server.url.replace("://", "://user:topsecret@")
    pool = ConnectionPool(url, name="mail", max_size=3)
    text = repr(pool)
    for part in ("mail", f"127.0.0.1:{server.port}", "in_use=0", "idle=0", "max_size=3"):
        assert part in text
    assert "topsecret" not in text
    pool.close()


def test_pools_are_named_by_number_if_not_otherwise(server: SmtpServer) -> None:
    """Two pools without a name have different ones."""
    with ConnectionPool(server.url) as one, ConnectionPool(server.url) as other:
        assert one.name != other.name
        assert one.stats().name == one.name


@pytest.mark.parametrize(
    "options",
    [
        {"max_size": 0},
        {"max_waiting": -1},
        {"max_messages": 0},
        {"max_connecting": 0},
        {"acquire_timeout": 0},
        {"max_idle": -1},
        {"keepalive": 0},
    ],
)
def test_limits_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    """A pool with an invalid limit is not created."""
    with pytest.raises(ValidationError):
        ConnectionPool("smtp://mx.example.com", **options)  # type: ignore[arg-type]
