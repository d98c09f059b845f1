"""Looking names up: shared, bounded per process, within the deadline, after a fork too."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from smtpconn import Phase, SmtpTimeoutError, TransportError
from smtpconn.net import forking, resolver
from smtpconn.net.deadline import Deadline
from smtpconn.net.resolver import MAX_LOOKUPS, MAX_LOOKUPS_OF_A_NAME, resolve
from tests.support.forks import Fork, fork_in_c, in_child
from tests.support.waiting import wait_until

TIMEOUT = 5.0
JOIN_OR_BEGIN = resolver._Resolver._join_or_begin
FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, ("192.0.2.1", 25))]


class NameServer:
    """Answers for names when it is told to.

    Attributes:
        asked: how often it was asked for each name.
        joined: how many callers wait for an answer, or have waited.
    """

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.hanging: dict[str, threading.Event] = {}
        self._joined = itertools.count()
        self.joined = 0

    def join_or_begin(self, *args: Any) -> Any:
        """In place of `_Resolver._join_or_begin`."""
        found = JOIN_OR_BEGIN(*args)
        self.joined = next(self._joined) + 1
        return found

    def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        """In place of `socket.getaddrinfo`."""
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        self.asked[host] += 1
        if (event := self.hanging.get(host)) is not None:
            assert event.wait(2 * TIMEOUT)
        if host.startswith("bad"):
            raise socket.gaierror(socket.EAI_NONAME, f"no such name as {host}")
        return [(family, kind, proto, "", address) for family, kind, proto, address in FOUND]

    def hang(self, *hosts: str) -> None:
        """Have it not answer for these names any more."""
        for host in hosts:
            self.hanging[host] = threading.Event()

    def answer(self, host: str) -> None:
        """Have it answer those who asked for this name, and all who ask from now on."""
        self.hanging.pop(host).set()

    @property
    def threads(self) -> int:
        """How many lookups are in progress."""
        return sum(thread.name == "smtpconn-resolver" for thread in threading.enumerate())


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    """A name server, and a process that has looked nothing up yet."""
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    monkeypatch.setattr(resolver, "_resolvers", {})
    monkeypatch.setattr(
        resolver._Resolver, "_join_or_begin", lambda *args: server.join_or_begin(*args)
    )
    yield server
    for host in list(server.hanging):
        server.answer(host)
    wait_until(lambda: not server.threads)


def waiting() -> int:
    """How many callers wait for a lookup."""
    found = resolver._resolvers.get(forking.current_process())
    return 0 if found is None else len(found._waiting)


@contextmanager
def callers(count: int, host: str, timeout: float = TIMEOUT) -> Iterator[list[object]]:
    """So many threads that look a name up; what they got, complete when the block ends."""
    got: list[object] = []

    def work() -> None:
        try:
            got.append(resolve(host, 25, Deadline(timeout)))
        except Exception as error:
            got.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    yield got
    for thread in threads:
        thread.join()


def test_callers_of_one_name_wait_for_one_lookup(names: NameServer) -> None:
    """A hundred callers share one lookup, and all get its result."""
    names.hang("mx.example")
    with callers(100, "mx.example") as got:
        wait_until(lambda: names.joined == 100)
        assert names.threads == 1
        names.answer("mx.example")
    assert got == [FOUND] * 100
    assert names.asked == {"mx.example": 1}


def test_an_answer_is_not_kept(names: NameServer) -> None:
    """The next caller asks again: how long a name holds is the resolver's to know."""
    for _ in range(3):
        assert resolve("mx.example", 25, Deadline(TIMEOUT)) == FOUND
    assert names.asked == {"mx.example": 3}


def test_each_caller_gets_an_error_of_its_own(names: NameServer) -> None:
    """All are told the same, with the resolver's error as the cause."""
    names.hang("bad.example")
    with callers(5, "bad.example") as got:
        wait_until(lambda: names.joined == 5)
        names.answer("bad.example")
    assert len(set(map(id, got))) == 5
    for error in got:
        assert isinstance(error, TransportError)
        assert "bad.example cannot be resolved" in str(error)
        assert isinstance(error.__cause__, socket.gaierror)


def test_a_name_server_that_hangs_costs_a_few_threads(names: NameServer) -> None:
    """However many callers give up and come again, in however many names."""
    hosts = [f"mx{n}.example" for n in range(3 * MAX_LOOKUPS)]
    names.hang(*hosts)
    for host in hosts:
        with pytest.raises(SmtpTimeoutError) as caught:
            resolve(host, 25, Deadline(0.01))
        assert caught.value.phase is Phase.CONNECT
        assert names.threads <= MAX_LOOKUPS
    assert names.threads == MAX_LOOKUPS


def test_a_name_that_hangs_leaves_room_for_others(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lookups are few, also where none is joined; another name is looked up at once."""
    monkeypatch.setattr(resolver, "JOIN_TIMEOUT", 0.0)
    names.hang("hanging.example")
    for _ in range(2 * MAX_LOOKUPS):
        with pytest.raises(SmtpTimeoutError):
            resolve("hanging.example", 25, Deadline(0.01))
    assert names.threads == MAX_LOOKUPS_OF_A_NAME
    assert resolve("mx.example", 25, Deadline(TIMEOUT)) == FOUND


def test_a_name_server_that_is_back_is_noticed(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who comes when a lookup has hung for some time begins another one."""
    names.hang("mx.example")
    with callers(1, "mx.example", 0.05) as got:
        pass
    assert isinstance(got[0], SmtpTimeoutError)
    hung = names.hanging.pop("mx.example")
    monkeypatch.setattr(resolver, "JOIN_TIMEOUT", 0.0)
    assert resolve("mx.example", 25, Deadline(TIMEOUT)) == FOUND
    wait_until(lambda: names.threads == 1)
    hung.set()


def test_a_caller_beyond_the_limit_goes_on_when_any_lookup_ends(names: NameServer) -> None:
    """It waits for no lookup in particular."""
    hosts = [f"mx{n}.example" for n in range(MAX_LOOKUPS)]
    names.hang(*hosts)
    for host in hosts:
        with pytest.raises(SmtpTimeoutError):
            resolve(host, 25, Deadline(0.01))
    with callers(3, "late.example") as got:
        wait_until(lambda: waiting() == 3)
        assert not got
        names.answer(hosts[7])
    assert got == [FOUND] * 3


def test_callers_that_gave_up_are_not_kept(names: NameServer) -> None:
    """Callers that time out leave nothing behind, however long the lookup hangs."""
    names.hang("mx.example")
    with callers(20, "mx.example", 0.05) as got:
        pass
    assert all(isinstance(error, SmtpTimeoutError) for error in got)
    assert waiting() == 0


def test_the_deadline_holds_while_others_come_and_go(names: NameServer) -> None:
    """A lookup that ends wakes the callers of others, and extends no deadline."""
    names.hang("mx.example")
    begun = time.monotonic()
    with callers(1, "mx.example", 0.3) as got:
        while not got:
            resolve("busy.example", 25, Deadline(TIMEOUT))
    assert 0.3 <= time.monotonic() - begun < 1
    assert isinstance(got[0], SmtpTimeoutError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["os.fork", "C"])
def test_a_child_waits_for_no_lookup_of_its_parent(
    names: NameServer, monkeypatch: pytest.MonkeyPatch, fork: Fork
) -> None:
    """Even if it has the same process id, as in a container of its own."""
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent)
    names.hang("mx.example")
    with pytest.raises(SmtpTimeoutError):
        resolve("mx.example", 25, Deadline(0.01))
    hung = names.hanging.pop("mx.example")

    def child() -> bool:
        return resolve("mx.example", 25, Deadline(TIMEOUT)) == FOUND

    assert in_child(child, fork) == "True"
    hung.set()


@pytest.mark.timeout(10)
def test_a_signal_handler_inside_the_start_of_a_thread() -> None:
    """It starts no thread, which could not run before the handler ends, but resolves it itself."""
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        assert resolve("localhost", 25, Deadline(5))


def test_an_interpreter_without_daemon_threads(
    names: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A subinterpreter may refuse even to make the object; then the caller's thread resolves."""

    def refuse(**options: object) -> None:
        raise RuntimeError("daemon threads are disabled in this (sub)interpreter")

    monkeypatch.setattr(threading, "Thread", refuse)
    assert resolve("mx.example", 25, Deadline(TIMEOUT)) == FOUND
