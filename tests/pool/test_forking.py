"""Forking: the child begins anew and works at once, and the parent notices nothing.

A child runs one function and reports through a pipe; it never returns into pytest.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smtpconn import ConnectionClosedError, ConnectionPool, ServerConfig, SmtpConnection, get_pool
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.forks import in_child

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork"),
    # The server of the test runs in threads; that the library copes with them is what is tested.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"


class Sockets:
    """Makes sockets, and knows which they are: a descriptor's number alone may be used again."""

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
    certificates: Certificates, tls: bool
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

        assert in_child(child) == "0 0 0 1"
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
    certificates: Certificates, how: str
) -> None:
    """The child holds nothing of the parent's, which would keep a session open unseen."""
    sockets = Sockets()
    with tls_server(certificates if how == "tls" else None) as (_, plain):
        config = plain.replace(socket_factory=sockets.make)
        if how == "connection without a pool":
            with config.connect() as connection:

                def child() -> int:
                    # Nobody but its owner knows of it, so it is for the owner to close.
                    connection.close_after_fork()
                    return sockets.open_here()

                assert in_child(child) == "0"
                connection.noop()
            return
        with ConnectionPool(config, max_size=3, keepalive=None) as pool:
            with pool.connection() as connection, pool.connection():
                if how == "leased":
                    assert in_child(sockets.open_here) == "0"
                    connection.noop()
            assert sockets.open_here() == 2
            assert in_child(sockets.open_here) == "0"
            with pool.connection() as connection:
                connection.noop()


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
def test_a_lease_held_across_the_fork(certificates: Certificates, tls: bool) -> None:
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

            assert in_child(child) == "True 0 1 False"
            connection.send(SENDER, RECIPIENTS, MESSAGE)
        assert sorted(m.connection for m in server.wait_for_messages(2)) == [1, 2]


def test_a_fork_while_another_thread_waits_and_another_works() -> None:
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

            assert in_child(child) == "0 0 1"
            server.kill()
        for thread in threads:
            thread.join(10)
        assert failed.is_set()


def test_the_child_has_a_keeper_of_its_own() -> None:
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

        assert in_child(child) == "alive"


def test_a_closed_pool_is_closed_in_the_child() -> None:
    """Closing is not forgotten."""
    with SmtpServer() as server:
        pool = ConnectionPool(server.url)
        pool.close()
        assert in_child(lambda: pool.is_closed) == "True"


def test_get_pool_works_in_the_child() -> None:
    """The child finds the pools of the parent, with connections of its own."""
    with SmtpServer() as server:
        pool = get_pool(server.url, keepalive=None)
        with pool.connection():
            pass

        def child() -> str:
            same = get_pool(server.url, keepalive=None) is pool
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            return f"{same} {pool.stats().connects}"

        assert in_child(child) == "True 1"
        assert server.wait_for_messages(1)[0].connection == 2
        pool.close()


def test_the_pace_of_a_child_has_a_lock_of_its_own() -> None:
    """A child that is forked while another thread reserves its moment can send all the same."""
    with SmtpServer() as server:
        pool = ConnectionPool(server.url, max_rate=1000, keepalive=None)
        assert pool._pace is not None
        with pool._pace._lock:
            assert in_child(lambda: pool.send(SENDER, RECIPIENTS, MESSAGE)).startswith("SendResult")
        pool.close()


def test_a_child_of_a_child() -> None:
    """A process that was forked can fork."""
    with SmtpServer() as server, ConnectionPool(server.url, keepalive=None) as pool:

        def use() -> str:
            pool.send(SENDER, RECIPIENTS, MESSAGE)
            return str(pool.stats().connects)

        def child() -> str:
            return use() + in_child(use) + use()

        assert use() + in_child(child) + use() == "11111"
        assert sorted(m.connection for m in server.messages) == [1, 1, 2, 2, 3]
