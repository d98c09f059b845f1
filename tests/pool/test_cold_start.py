"""The first uses of a process, by threads that start together in a fresh interpreter.

What is made at its first use (a context, an import, a cached value, a thread) has to come out the
same as for one thread alone: each script here is a process of its own, whose threads leave a
barrier together.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from smtpconn.testing import SmtpServer

TOGETHER = """
import sys, threading
THREADS = 12
sys.setswitchinterval(1e-6)
def together(work):
    start, found = threading.Barrier(THREADS), []
    def run():
        start.wait()
        try:
            found.append(work())
        except BaseException as error:
            found.append(f"{type(error).__name__}: {error}")
    threads = [threading.Thread(target=run) for _ in range(THREADS)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return found
"""


def run_fresh(script: str, *arguments: str, **environment: str) -> str:
    """Run a script in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", TOGETHER + script, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_the_first_tls_connections_have_one_context(tls: str) -> None:
    """Sessions made by one thread serve all others, then and after the connections are replaced."""
    script = """
from smtpconn import ConnectionPool
pool = ConnectionPool(sys.argv[1], max_size=THREADS, max_connecting=THREADS)
def send():
    pool.send("me@example.com", ["you@example.com"], b"x")
    return "sent"
first = together(send)
contexts = set()
for _ in range(5):
    pool.drain()
    with pool.connection() as a, pool.connection() as b:
        for connection in (a, b):
            contexts.add(connection.tls.context)
            connection.noop()
            assert connection.tls.session_reused
print(set(first), len(first), len(contexts), pool.stats().connect_errors)
"""
    with SmtpServer(tls=tls) as server:  # type: ignore[arg-type]
        printed = run_fresh(script, server.url, SSL_CERT_FILE=server.ca_file)
        assert printed == "{'sent'} 12 1 0"
        assert len(server.messages) == 12


def test_the_first_requests_have_one_pool() -> None:
    """Equal settings have one pool, with and without a file of authorities."""
    script = """
from smtpconn.contrib.settings import read_settings
from smtpconn.pool.registry import open_pools
for more in ({}, {"use_tls": True}, {"use_ssl": True, "cafile": sys.argv[1]}):
    found = together(lambda: read_settings({"host": "h.example.com", **more}).get_pool())
    assert len(found) == THREADS and len(set(map(id, found))) == 1, found
print(len(open_pools()))
"""
    with SmtpServer(tls="starttls") as server:
        assert run_fresh(script, server.ca_file) == "3"


def test_the_first_test_servers_have_one_authority() -> None:
    """What trusts one test server of a process trusts them all."""
    script = """
from smtpconn.testing.certificates import authority
found = together(authority)
print(len(found), len({id(each) for each in found}))
"""
    assert run_fresh(script) == "12 1"


def test_every_public_name_is_there_for_all_threads() -> None:
    """Each name is imported when it is first asked for, by whichever thread, in any order."""
    script = """
import random
import smtpconn
def names():
    order = list(smtpconn.__all__)
    random.shuffle(order)
    return tuple(getattr(smtpconn, name) for name in sorted(order, key=lambda n: random.random()))
found = together(lambda: frozenset(map(id, names())))
print(len(found), len(set(found)), len(found[0]) == len(set(smtpconn.__all__)))
"""
    assert run_fresh(script) == "12 1 True"


def test_the_first_logins_and_addresses_of_all_threads() -> None:
    """What is imported or remembered at its first use serves all threads alike."""
    script = """
from email.message import EmailMessage, Message
from smtpconn import ConnectionPool, Domain, PasswordCredentials, ServerConfig
config = ServerConfig.from_url(sys.argv[1], credentials=PasswordCredentials("user", "secret"))
pool = ConnectionPool(config, max_size=THREADS, max_connecting=THREADS)
def work():
    try:
        name = Domain("b\\u00fccher.example").to_ascii().name
    except Exception as error:
        name = type(error).__name__  # the extra is not installed
    old, new = Message(), EmailMessage()
    for message in (old, new):
        message["From"], message["To"] = "me@a.example", "You <you@b.example>"
        message.set_payload("Hello")
        pool.send_message(message)
    return name
found = together(work)
print(len(found), sorted(set(found)), pool.stats().messages)
"""
    with SmtpServer(users={"user": "secret"}, auth_mechanisms=["PLAIN"]) as server:
        printed = run_fresh(script, server.url)
        assert printed in (
            "12 ['xn--bcher-kva.example'] 24",
            "12 ['SmtpUtf8RequiredError'] 24",
        )
        assert {m.user for m in server.messages} == {"user"}
        assert len(server.messages) == 24


def test_the_first_idle_connections_have_one_keeper() -> None:
    """However many threads give back their first connection, one thread looks after all pools."""
    script = """
from smtpconn import ConnectionPool
pools = [ConnectionPool(sys.argv[1], keepalive=60) for _ in range(THREADS)]
left = list(pools)
together(lambda: left.pop().send("me@example.com", ["you@example.com"], b"x"))
print(len([t for t in threading.enumerate() if t is not threading.main_thread()]))
"""
    with SmtpServer() as server:
        assert run_fresh(script, server.url) == "1"
        assert len(server.messages) == 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_child_forked_in_the_middle_of_a_first_use(fork: str) -> None:
    """It waits for no thread that only its parent has, whether Python sees the fork or not."""
    script = """
import ctypes, os, socket, time
from smtpconn.net import tls
from smtpconn.net.deadline import Deadline
from smtpconn.net.resolver import resolve
inside, go_on = threading.Semaphore(0), threading.Event()
make = tls.Authorities.new_context
def in_the_middle(work):
    def slow(*args, **options):
        if options.get("flags"):
            raise socket.gaierror("not numeric")
        inside.release()
        go_on.wait()
        return work(*args)
    return slow
find = lambda *args: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 25))]
tls.Authorities.new_context = in_the_middle(make)
socket.getaddrinfo = in_the_middle(find)
works = [tls.shared_context, lambda: resolve("mx.example", 25, Deadline(10))]
threads = [threading.Thread(target=work) for work in works]
for thread in threads:
    thread.start()
    inside.acquire()
# Python itself hangs in a child whose parent's threads were about to take its lock (the GIL), if it
# does not see the fork; so let them come to rest. Nothing tells when they have.
sys.setswitchinterval(0.005)
time.sleep(0.2)
child = FORK()
if child == 0:
    tls.Authorities.new_context, go_on = make, threading.Event()
    tls.LOCK_TIMEOUT = 60.0
    go_on.set()
    begun = time.monotonic()
    same = tls.shared_context(seconds=60) is tls.shared_context(seconds=60)
    found = resolve("mx.example", 25, Deadline(10))
    os._exit(0 if same and found and time.monotonic() - begun < 10 else 1)
print(os.waitpid(child, 0)[1])
go_on.set()
for thread in threads:
    thread.join()
"""
    assert run_fresh(script.replace("FORK", fork)) == "0"
