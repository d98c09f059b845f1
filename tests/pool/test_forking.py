"""Forking: the child begins anew and works at once, and the parent notices nothing.

A child runs one function and reports through a pipe; it never returns into pytest. It is forked by
`os.fork`, which runs a hook in the child, and by C code, which does not (as uWSGI forks).
"""

from __future__ import annotations

import gc
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest

from smtpconn import (
    ConnectionClosedError,
    ConnectionPool,
    Envelope,
    PoolTimeoutError,
    SendOutcome,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    TlsMode,
    get_pool,
)
from smtpconn.net import forking
from smtpconn.net.deadline import Deadline
from smtpconn.pool import registry
from smtpconn.pool.bulk import Outcomes
from smtpconn.pool.rate_limit import RateLimiter
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.forks import Fork, fork_in_c, in_child
from tests.support.pool_use import MESSAGE, RECIPIENTS, SENDER
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # The server of the test runs in threads; that the library copes with them is what is tested.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(params=[os.fork, fork_in_c], ids=["os.fork", "C"])
def fork(request: pytest.FixtureRequest) -> Fork:
    """How the process is forked."""
    return cast(Fork, request.param)


class Sockets:
    """Makes sockets and identifies them: the number of a descriptor may be reused."""

    def __init__(self) -> None:
        self.inodes: list[int] = []

    def make(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect, and remember what the socket is."""
        sock = socket.create_connection((host, port), timeout)
        self.inodes.append(os.fstat(sock.fileno()).st_ino)
        return sock

    def open_here(self) -> int:
        """How many of them are open in this process."""
        return sum(inode in self.inodes for inode in _open_sockets())


def _open_sockets() -> Iterator[int]:
    for entry in os.listdir("/proc/self/fd"):
        try:
            yield os.stat(Path("/proc/self/fd") / entry).st_ino
        except OSError:
            pass  # the directory's own, gone by now


@contextmanager
def tls_server(certificates: Certificates | None) -> Iterator[tuple[SmtpServer, ServerConfig]]:
    """A server and how to connect to it, in TLS if there are certificates."""
    if certificates is None:
        with SmtpServer() as server:
            yield server, ServerConfig.from_url(server.url)
        return
    with SmtpServer(tls_context=certificates.server_context(), implicit_tls=True) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        yield server, ServerConfig.from_url(url, tls_context=certificates.client_context())


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_preloaded_pool_works_in_the_child_and_in_the_parent(
    certificates: Certificates, tls: bool, fork: Fork
) -> None:
    """The child sends over a connection of its own; the parent goes on with those it had."""
    with tls_server(certificates if tls else None) as (server, config):
        pool = ConnectionPool(config, max_size=2, keepalive=None)
        with pool.connection() as one, pool.connection() as other:
            one.noop()
            other.noop()

        def child() -> str:
            before = pool.stats()
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            after = pool.stats()
            pool.close()
            return f"{before.idle} {before.in_use} {before.checkouts} {after.connects}"

        assert in_child(child, fork) == "0 0 0 1"
        assert [m.connection for m in server.wait_for_messages(1)] == [3]
        assert [c.closed for c in server.connections[:2]] == [False, False]
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        with pool.connection() as one, pool.connection() as other:
            one.noop()
            other.noop()
        assert len(server.connections) == 3
        assert len(server.messages) == 2
        assert pool.stats().discards == {}
        assert not any("QUIT" in c.commands for c in server.connections[:2])
        pool.close()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("how", ["idle", "leased", "connection without a pool", "tls"])
def test_no_descriptor_of_the_parent_stays_open_in_the_child(
    certificates: Certificates, how: str, fork: Fork
) -> None:
    """The child holds nothing of the parent's, which would keep a session open unseen."""
    sockets = Sockets()

    def open_after(first_use: Callable[[], object]) -> Callable[[], int]:
        def child() -> int:
            # Python's own fork has a hook; of another one the child hears when it uses something.
            if fork is not os.fork:
                first_use()
            return sockets.open_here()

        return child

    with tls_server(certificates if how == "tls" else None) as (_, plain):
        config = plain.replace(socket_factory=sockets.make)
        if how == "connection without a pool":
            with config.connect() as connection:
                assert in_child(open_after(lambda: connection.is_open), fork) == "0"
                connection.noop()
            return
        with ConnectionPool(config, max_size=3, keepalive=None) as pool:
            child = open_after(pool.stats)
            with pool.connection() as connection, pool.connection():
                if how == "leased":
                    assert in_child(child, fork) == "0"
                    connection.noop()
            assert sockets.open_here() == 2
            assert in_child(child, fork) == "0"
            with pool.connection() as connection:
                connection.noop()


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_lease_held_across_the_fork(certificates: Certificates, tls: bool, fork: Fork) -> None:
    """In the child it fails clearly and can be left; in the parent it works on."""
    with (
        tls_server(certificates if tls else None) as (server, config),
        ConnectionPool(config, max_size=1, keepalive=None) as pool,
    ):
        lease = pool.connection()
        with lease as connection:

            def child() -> str:
                try:
                    connection.send(SENDER, RECIPIENTS, MESSAGE)
                except ConnectionClosedError as error:
                    text = str(error)
                lease.__exit__(None, None, None)
                pool.send(SENDER, RECIPIENTS, MESSAGE)
                stats = pool.stats()
                return f"{'fork' in text} {stats.in_use} {stats.idle} {connection.is_open}"

            assert in_child(child, fork) == "True 0 1 False"
            connection.send(SENDER, RECIPIENTS, MESSAGE)
        assert sorted(m.connection for m in server.wait_for_messages(2)) == [1, 2]


def test_a_fork_while_another_thread_waits_and_another_works(fork: Fork) -> None:
    """Locks and queues of threads that do not exist in the child are no harm there."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        server.fault("NOOP", hang=True)
        failed = threading.Event()

        def busy(connection: SmtpConnection) -> None:
            try:
                connection.noop()
            except ConnectionError:
                failed.set()

        def wait() -> None:
            with pool.connection():
                pass

        with pool.connection() as connection:
            threads = [threading.Thread(target=busy, args=(connection,))]
            threads.append(threading.Thread(target=wait))
            for thread in threads:
                thread.start()
            server.wait_for(lambda: server.connections[0].commands[-1] == "NOOP")
            while pool.stats().waiting < 1:
                threading.Event().wait(0.001)

            def child() -> str:
                pool.send(SENDER, RECIPIENTS, MESSAGE)
                stats = pool.stats()
                return f"{stats.in_use} {stats.waiting} {stats.idle}"

            assert in_child(child, fork) == "0 0 1"
            server.kill()
        for thread in threads:
            thread.join(10)
        assert failed.is_set()


def test_the_child_has_maintenance_of_its_own(fork: Fork) -> None:
    """Keep-alive works in the child, whose parent's thread does not exist there."""
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=0.02) as pool:
        with pool.connection():
            pass
        server.wait_for(lambda: "NOOP" in server.connections[0].commands)

        def child() -> str:
            with pool.connection():
                pass
            while not pool.stats().noops:
                threading.Event().wait(0.001)
            return "alive"

        assert in_child(child, fork) == "alive"


def test_a_closed_pool_is_closed_in_the_child(fork: Fork) -> None:
    """Closing is not forgotten."""
    with SmtpServer() as server:
        pool = ConnectionPool(server.url)
        pool.close()
        assert in_child(lambda: pool.is_closed, fork) == "True"


def test_get_pool_works_in_the_child(fork: Fork) -> None:
    """The child finds the pools of the parent, with connections of its own."""
    with SmtpServer() as server:
        pool = get_pool(server.url, keepalive=None)
        with pool.connection():
            pass

        def child() -> str:
            same = get_pool(server.url, keepalive=None) is pool
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            return f"{same} {pool.stats().connects}"

        assert in_child(child, fork) == "True 1"
        assert server.wait_for_messages(1)[0].connection == 2
        pool.close()


def test_the_pace_of_a_child_has_a_lock_of_its_own(fork: Fork) -> None:
    """A child that is forked while another thread reserves its moment can send all the same."""
    with SmtpServer() as server:
        pool = ConnectionPool(server.url, max_rate=1000, keepalive=None)
        assert pool._rate_limiter is not None
        with pool._rate_limiter._lock:
            result = in_child(lambda: pool.send(SENDER, RECIPIENTS, MESSAGE), fork)
        assert result.startswith("SendResult")
        pool.close()


def test_a_child_of_a_child(fork: Fork) -> None:
    """A process that was forked can fork."""
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:

        def use() -> str:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            return str(pool.stats().connects)

        def child() -> str:
            return use() + in_child(use, fork) + use()

        assert use() + in_child(child, fork) + use() == "11111"
        assert sorted(m.connection for m in server.messages) == [1, 1, 2, 2, 3]


# --- Locks that threads of the parent hold --------------------------------------------------------


def test_all_locks_may_be_held_by_threads_of_the_parent(fork: Fork) -> None:
    """The child takes none of them; all have been replaced before."""
    with SmtpServer() as server:
        pool = get_pool(server.url, keepalive=30.0, max_rate=1000)
        with pool.connection() as connection:
            connection.noop()

        def child() -> str:
            connection.close()
            same = get_pool(server.url, keepalive=30.0, max_rate=1000) is pool
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            pool.drain()
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            pool.close()
            return f"{same} {pool in registry.open_pools()} {pool.leaks()}"

        assert pool._rate_limiter is not None
        locks: list[AbstractContextManager[object]] = [
            pool._core._lock,
            pool._rate_limiter._lock,
            registry._registry._lock,
            connection._channel._lock,
        ]
        held, may_let_go = threading.Event(), threading.Event()

        def hold() -> None:
            with ExitStack() as stack:
                for lock in locks:
                    stack.enter_context(lock)
                held.set()
                assert may_let_go.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(10)
        try:
            assert in_child(child, fork) == "True False []"
        finally:
            may_let_go.set()
            thread.join(10)
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert [m.connection for m in server.wait_for_messages(3)] == [2, 3, 1]
        pool.close()


class SlowReset:
    """Begins anew in two steps, between which it waits until it is told to go on.

    Attributes:
        begun: how often it has.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.in_flight, self.may_go_on = threading.Event(), threading.Event()
        forking.reset_in_child(self)

    def reset_after_fork(self) -> None:
        """Begin anew."""
        self.begun += 1
        self.in_flight.set()
        assert self.may_go_on.wait(10)


def test_of_two_threads_that_notice_at_once_one_resets_and_the_other_waits() -> None:
    """All threads wait until the reset is done, which happens once."""
    beginner = SlowReset()

    def child() -> str:
        past: list[int] = []
        threads = [
            threading.Thread(target=lambda: past.append(forking.current_process()))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        assert beginner.in_flight.wait(10)
        for thread in threads:
            thread.join(0.02)
        before = len(past)
        beginner.may_go_on.set()
        for thread in threads:
            thread.join(10)
        return f"{before} {len(past)} {len(set(past))} {beginner.begun}"

    assert in_child(child, fork_in_c) == "0 3 1 1"


def test_a_fork_in_the_middle_of_a_reset() -> None:
    """A child whose reset is in progress can fork: the grandchild does not wait for that thread."""
    beginner = SlowReset()

    def child() -> str:
        thread = threading.Thread(target=forking.reset_if_forked)
        thread.start()
        assert beginner.in_flight.wait(10)
        beginner.may_go_on.set()
        return in_child(forking.current_process, fork_in_c)

    assert in_child(child, fork_in_c) == str(forking.current_process() + 2)


def test_a_signal_handler_that_sends_in_the_middle_of_a_reset() -> None:
    """It finishes what is left to do, and what it made stays."""
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:
        pool.send(SENDER, RECIPIENTS, MESSAGE)

        class Interrupted:
            """Is interrupted by a signal while it begins anew."""

            def __init__(self) -> None:
                forking.reset_in_child(self)

            def reset_after_fork(self) -> None:
                """Be interrupted."""
                signal.raise_signal(signal.SIGUSR1)

        interrupted = Interrupted()

        def child() -> str:
            results: list[object] = []

            def send(*_: object) -> None:
                if not results:
                    results.append(None)
                    pool.send(SENDER, RECIPIENTS, MESSAGE)

            signal.signal(signal.SIGUSR1, send)
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            return f"{len(results)} {pool.stats().connects} {interrupted is not None}"

        assert in_child(child, fork_in_c) == "1 1 True"
        assert [m.connection for m in server.wait_for_messages(3)] == [1, 2, 2]


def test_an_interrupted_reset_is_done_again() -> None:
    """Ctrl-C in the middle of it leaves nothing of the parent's to be used."""

    class Interrupted:
        """Is interrupted the first time."""

        def __init__(self) -> None:
            self.times = 0
            forking.reset_in_child(self)

        def reset_after_fork(self) -> None:
            """Be interrupted once."""
            self.times += 1
            if self.times == 1:
                raise KeyboardInterrupt

    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        interrupted = Interrupted()

        def child() -> str:
            with pytest.raises(KeyboardInterrupt):
                pool.send(SENDER, RECIPIENTS, MESSAGE)
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            return f"{interrupted.times} {pool.stats().connects}"

        assert in_child(child, fork_in_c) == "2 1"
        assert [m.connection for m in server.wait_for_messages(2)] == [1, 2]


# --- Connections that were in use -----------------------------------------------------------------


def told(error: SmtpError) -> str:
    """What an error lets its user decide."""
    return f"{type(error).__name__} {error.is_transient} {error.may_have_been_delivered}"


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_connection_of_its_own_fails_clearly_in_the_child(
    certificates: Certificates, tls: bool, fork: Fork
) -> None:
    """The child says nothing on it and can close it in any way; in the parent it works on."""
    with tls_server(certificates if tls else None) as (server, config), config.connect() as held:

        def child() -> str:
            answers = []
            with held as connection:
                try:
                    connection.send(SENDER, RECIPIENTS, MESSAGE)
                except SmtpError as error:
                    answers.append(f"{told(error)} {'was forked' in str(error)}")
                answers.append(f"{connection.is_open} {connection.probe()} {connection!r}"[:11])
                answers.append(str("was forked" in repr(connection)))
                connection.quit_nowait()
                connection.quit()
            held.close()
            held.close_after_fork()
            return "; ".join(answers)

        assert in_child(child, fork) == "ConnectionClosedError True False True; False False; True"
        held.send(SENDER, RECIPIENTS, MESSAGE)
        assert [m.connection for m in server.wait_for_messages(1)] == [1]
        assert "QUIT" not in server.connections[0].commands


@pytest.mark.parametrize("first", ["close", "quit", "probe", "leave", "repr", "noop", "is_open"])
def test_the_first_use_of_a_connection_that_was_busy(first: str, fork: Fork) -> None:
    """Closing in the child does not interrupt the parent's operation."""
    gate = threading.Event()
    with (
        SmtpServer(recipient_known=lambda _: gate.wait(10)) as server,
        ServerConfig.from_url(server.url).connect() as connection,
    ):
        results: list[object] = []
        thread = threading.Thread(
            target=lambda: results.append(connection.send(SENDER, RECIPIENTS, MESSAGE))
        )
        thread.start()
        server.wait_for(lambda: any("RCPT" in c for c in server.connections[0].commands))

        def child() -> str:
            uses: dict[str, Callable[[], object]] = {
                "close": connection.close,
                "quit": connection.quit,
                "probe": connection.probe,
                "leave": lambda: connection.__exit__(None, None, None),
                "repr": lambda: repr(connection),
                "noop": connection.noop,
                "is_open": lambda: connection.is_open,
            }
            try:
                uses[first]()
            except ConnectionClosedError as error:
                return f"{'was forked' in str(error)} {connection.is_open}"
            return f"True {connection.is_open}"

        assert in_child(child, fork) == "True False"
        gate.set()
        thread.join(10)
        assert len(results) == len(server.messages) == 1


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
@pytest.mark.parametrize("end", ["the interpreter ends", "garbage is collected"])
def test_what_a_childs_end_does_to_the_parent(
    certificates: Certificates, tls: bool, end: str, fork: Fork
) -> None:
    """Nothing: no QUIT, no close_notify, whether the child used anything or not."""
    script = f"""
import ctypes, gc, os, sys
from smtpconn import ConnectionPool, ServerConfig
url, authority, how = sys.argv[1:]
import ssl
context = ssl.create_default_context(cafile=authority) if authority else None
config = ServerConfig.from_url(url, tls_context=context)
pool = ConnectionPool(config, keepalive=None)
message = b"Hello!"
lease = pool.connection()
with config.connect() as raw, lease as connection:
    outcomes = raw.send_many([])
    pool.send("me@example.com", ["you@example.com"], message)
    if child := (os.fork if how == "os.fork" else ctypes.PyDLL(None).fork)():
        assert os.waitpid(child, 0)[1] == 0
        connection.send("me@example.com", ["you@example.com"], message)
        raw.send("me@example.com", ["you@example.com"], message)
        pool.send("me@example.com", ["you@example.com"], message)
        print("sent", pool.stats().connects)
    elif {end!r} == "garbage is collected":
        del pool, lease, connection, raw, config, outcomes
        gc.collect()
        os._exit(0)
    else:
        sys.exit(0)
"""
    authority = str(certificates.ca_file) if tls else ""
    with tls_server(certificates if tls else None) as (server, _):
        url = server.url.replace("127.0.0.1", "localhost") if tls else server.url
        how = "os.fork" if fork is os.fork else "C"
        done = subprocess.run(
            [sys.executable, "-c", script, url, authority, how],
            capture_output=True, text=True, timeout=15, cwd=ROOT, check=False,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("sent 2\n", 0), done.stderr
        assert len(server.wait_for_messages(4)) == 4
        assert len(server.connections) == 3


@pytest.mark.parametrize("whole", [False, True], ids=["connection", "pool"])
def test_an_iterator_of_send_many_is_the_parents(whole: bool, fork: Fork) -> None:
    """The child gets a clear error, and does nothing; the parent sends each message once."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        taken: list[int] = []

        def envelopes() -> Iterator[Envelope]:
            for number in range(5):
                taken.append(number)
                yield Envelope(SENDER, RECIPIENTS, MESSAGE)

        with ExitStack() as stack:
            outcomes: Iterator[SendOutcome]
            if whole:
                outcomes = pool.send_many(envelopes())
            else:
                outcomes = stack.enter_context(pool.connection()).send_many(envelopes())
            assert next(outcomes).error is None

            def child() -> str:
                before = len(taken)
                try:
                    next(outcomes)
                except SmtpError as error:
                    text = f"{told(error)} {'was forked' in str(error)} {len(taken) - before}"
                cast("Outcomes[SendOutcome]", outcomes).close()
                pool.send(SENDER, ["child@example.com"], MESSAGE)
                return f"{text} {next(outcomes, 'the end')}" if not whole else text

            kind = "PoolError False" if whole else "ConnectionClosedError True"
            end = "" if whole else " the end"
            assert in_child(child, fork) == f"{kind} True True 0{end}"
            assert [outcome.error for outcome in outcomes] == [None] * 4
        recipients = [m.recipients[0] for m in server.wait_for_messages(6)]
        assert recipients.count("child@example.com") == 1
        assert len(server.messages) == 6


def test_threads_that_ended_before_the_fork(fork: Fork) -> None:
    """Their objects may be dropped in the child: Python 3.13 would detach native threads there."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=2, keepalive=None) as pool:
        batches = [pool.send_many([Envelope(SENDER, RECIPIENTS, MESSAGE)] * 8)]
        for _ in range(8):
            next(batches[0])
        wait_until(
            lambda: (
                not any(each.name.startswith("smtpconn-sender") for each in threading.enumerate())
            )
        )

        def child() -> str:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            batches.clear()
            for _ in range(3):
                threads = [threading.Thread(target=use_something) for _ in range(20)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            return "works"

        assert in_child(child, fork) == "works"


@pytest.mark.parametrize("use", ["next", "close", "with"])
def test_a_fork_while_another_thread_waits_for_an_outcome(use: str, fork: Fork) -> None:
    """The child does not wait for a lock that a thread of the parent has."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        server.fault("MAIL", hang=True)
        outcomes = pool.send_many([Envelope(SENDER, RECIPIENTS, MESSAGE)])
        waiting = threading.Thread(target=lambda: list(outcomes))
        waiting.start()
        server.wait_for(
            lambda: any("MAIL" in line for c in server.connections for line in c.commands)
        )

        def child() -> str:
            if use == "close":
                return str(outcomes.close())
            if use == "next":
                return str(next(outcomes))
            with outcomes:
                return "left"

        told_there = in_child(child, fork)
        server.kill()
        waiting.join(10)
        assert ("PoolError: the process was forked" in told_there) == (use == "next")
        assert use == "next" or told_there == {"close": "[]", "with": "left"}[use]


def test_iterators_that_were_not_begun_are_the_childs_too(fork: Fork) -> None:
    """Nothing was done with them yet, so that each process begins its own."""
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:
        outcomes = pool.send_many([Envelope(SENDER, RECIPIENTS, MESSAGE)] * 2)
        assert in_child(lambda: [o.error for o in outcomes], fork) == "[None, None]"
        assert [o.error for o in outcomes] == [None, None]
        assert len(server.messages) == 4


@pytest.mark.parametrize("reused", [False, True])
def test_a_message_that_forks_while_it_is_read(reused: bool, fork: Fork) -> None:
    """The parent sends it, once; the child's copy of the call says that it may have been."""
    with SmtpServer() as server, ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        if reused:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        receiving, sending = os.pipe()
        children: list[int] = []

        def message() -> Iterator[bytes]:
            yield b"Subject: hello\r\n\r\n" + b"x" * 100_000 + b"\r\n"
            children.append(fork())
            yield b"y" * 100_000 + b"\r\n"

        try:
            pool.send(SENDER, RECIPIENTS, message())
            error = None
        except SmtpError as raised:
            error = raised
        finally:
            if children == [0]:
                try:
                    text = told(error) if error is not None else "sent"
                    pool.send(SENDER, ["child@example.com"], MESSAGE)
                    stats = pool.stats()
                    text += f" {stats.in_use} {stats.idle} {stats.connects}"
                except BaseException as raised:
                    text = repr(raised)
                os.write(sending, text.encode())
                os._exit(0)
        os.waitpid(children[0], 0)
        with os.fdopen(receiving) as answer, os.fdopen(sending, "w"):
            pass_on = os.read(answer.fileno(), 65536).decode()
        assert pass_on == "ConnectionClosedError True True 0 1 1"
        assert error is None
        to = [m.recipients[0] for m in server.wait_for_messages(2 + reused)]
        assert to.count("child@example.com") == 1
        assert len(to) == 2 + reused


# --- Sockets being connected, or used by maintenance -----------------------------------------


def sockets_of(port: int) -> int:
    """How many sockets of this process are connected, or being connected, to a port here."""
    inodes = set(_open_sockets())
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return sum(
        fields[2].endswith(f":{port:04X}") and int(fields[9]) in inodes
        for fields in map(str.split, lines)
    )


def use_something() -> None:
    """What a child does that was forked by C: anything."""
    registry.open_pools()


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("tls_mode", TlsMode)
def test_sockets_that_are_being_set_up_are_closed_in_the_child(
    tls_mode: TlsMode, fork: Fork
) -> None:
    """The server says nothing yet, neither SMTP nor TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def connect() -> None:
            with pytest.raises(SmtpError):
                SmtpConnection.connect("127.0.0.1", port, tls_mode, 10)

        thread = threading.Thread(target=connect)
        thread.start()
        server_end, _ = listener.accept()
        with server_end:
            if tls_mode is TlsMode.IMPLICIT:
                server_end.recv(1, socket.MSG_PEEK)
            while sockets_of(port) != 1:
                threading.Event().wait(0.001)

            def child() -> int:
                use_something()
                return sockets_of(port)

            assert in_child(child, fork) == "0"
        thread.join(10)


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="there is no /proc here")
def test_sockets_that_are_being_connected_are_closed_in_the_child(fork: Fork) -> None:
    """The other side does not answer at all: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        pool = ConnectionPool(f"smtp://127.0.0.1:{port}", keepalive=None)

        def connect() -> None:
            with pytest.raises(SmtpError):
                pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.5)

        thread = threading.Thread(target=connect)
        thread.start()
        while sockets_of(port) != 2:
            threading.Event().wait(0.001)

        def child() -> str:
            use_something()
            return f"{sockets_of(port)} {pool.stats().in_use} {pool.stats().connecting}"

        # The other one is the test's own.
        assert in_child(child, fork) == "1 0 0"
        thread.join(10)
        pool.close()


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="there is no /proc here")
def test_a_connection_under_a_keepalive_noop_is_closed_in_the_child(fork: Fork) -> None:
    """Maintenance has borrowed it, and its thread does not exist in the child."""
    with SmtpServer() as server:
        server.fault("NOOP", hang=True)
        with ConnectionPool(server.url, keepalive=0.02) as pool:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            server.wait_for(lambda: "NOOP" in server.connections[0].commands)

            def child() -> str:
                use_something()
                before = sockets_of(server.port)
                pool.send(SENDER, RECIPIENTS, MESSAGE)
                return f"{before} {sockets_of(server.port)} {pool.stats().connects}"

            assert in_child(child, fork) == "0 1 1"
            server.kill()


# --- Other ways to make processes -----------------------------------------------------------------


def test_programs_that_are_started_disturb_nothing() -> None:
    """Neither by fork nor by vfork, with code of Python's in between or without."""
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        before = forking.current_process()
        subprocess.run([sys.executable, "-c", ""], check=True, close_fds=True)
        subprocess.run([sys.executable, "-c", ""], check=True, close_fds=False)
        subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=lambda: None)
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        assert forking.current_process() == before
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        assert [m.connection for m in server.messages] == [1, 1]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_processes_of_multiprocessing(method: str, tmp_path: Path) -> None:
    """Each has a pool of its own, however it is started."""
    script = tmp_path / "program.py"
    script.write_text("""
import multiprocessing, sys
from smtpconn import get_pool

def send(url):
    get_pool(url, keepalive=None).send("me@example.com", ["you@example.com"], b"\\r\\nHello!")

if __name__ == "__main__":
    send(sys.argv[1])
    context = multiprocessing.get_context(sys.argv[2])
    process = context.Process(target=send, args=(sys.argv[1],))
    process.start()
    process.join(10)
    send(sys.argv[1])
    sys.exit(process.exitcode)
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with SmtpServer() as server:
        command = [sys.executable, str(script), server.url, method]
        subprocess.run(command, check=True, timeout=15, env=environment)
        assert [m.connection for m in server.wait_for_messages(3)] == [1, 2, 1]


# --- The pieces -----------------------------------------------------------------------------------


def test_the_moments_that_were_reserved_are_the_parents(fork: Fork) -> None:
    """A child does not wait for messages that threads of the parent will send."""
    limiter = RateLimiter(rate=1.0)
    for _ in range(60):
        limiter.reserve(time.monotonic(), 1000.0)

    def child() -> str:
        limiter.wait(Deadline(0.5))
        with pytest.raises(PoolTimeoutError):
            limiter.wait(Deadline(0.5))
        return "paced"

    assert in_child(child, fork) == "paced"


def test_without_the_page_the_process_id_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel clears no page, all of it works as well."""
    mark = forking.ProcessIdMark()
    before = bool(mark[0])
    mark[0] = 1
    assert (before, bool(mark[0])) == (False, True)
    monkeypatch.setattr(forking, "same_process", mark)
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:

        def use() -> str:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            return str(pool.stats().connects)

        assert use() + in_child(use, fork_in_c) + in_child(use) + use() == "1111"
        assert [m.connection for m in server.messages] == [1, 2, 3, 1]


class FakeMmap:
    """Memory whose kernel answers as it is told.

    Args:
        refused: the advice it does not take.
    """

    def __init__(self, refused: Iterable[int]) -> None:
        self._refused = refused

    def __call__(self, *_: object, **__: object) -> FakeMmap:
        return self

    def madvise(self, advice: int) -> None:
        """Take advice."""
        if advice in self._refused:
            raise OSError(22, "Invalid argument")


@pytest.mark.parametrize(
    ("refused", "is_believed"), [([-1], True), ([-1, 18], False), ([], False)],
    ids=["Linux", "an old Linux", "a kernel that takes any advice"],
)  # fmt: skip
def test_when_the_page_is_believed(
    refused: list[int], is_believed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where it is known that the kernel clears it."""
    made = FakeMmap(refused)
    monkeypatch.setattr(mmap, "mmap", made)
    page: object = forking._wiped_page()
    assert page is (made if is_believed else None)


def test_a_send_asks_the_kernel_nothing_about_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it costs to be safe is no system call."""
    if isinstance(forking.same_process, forking.ProcessIdMark):
        pytest.skip("this kernel clears no page")
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        monkeypatch.setattr(os, "getpid", lambda: pytest.fail("getpid was called"))
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        monkeypatch.undo()


def test_who_is_gone_is_not_told() -> None:
    """Nothing is kept alive for a fork that may come."""
    with SmtpServer() as server:
        pool = ConnectionPool(server.url, keepalive=None)
        with pool.connection() as connection:
            channel = connection._channel
        things: list[object] = [pool._core, channel, channel.driver.transport]
        assert all(id(thing) in forking._holders for thing in things)
        references = [weakref.ref[object](thing) for thing in things]
        pool.close()
        del pool, connection, channel, things
        gc.collect()
    assert [reference() for reference in references] == [None, None, None]
    registered: list[Callable[[], object]] = [*forking._holders.values()]
    registered += forking._sockets.values()
    assert all(reference() is not None for reference in registered)
