"""Everything that happens to a busy process, at once and at random, while it sends mail.

    python -m tests.faults.process_stress [SECONDS [SEED]]

Twelve threads send under TLS through three pools. Meanwhile signal handlers send and raise, hooks
and a logging filter raise and send, destructors send, the garbage collector runs, the process forks
with Python's knowledge and without, pools are drained, dropped and closed, leases are lost, and the
servers misbehave (`tests.faults.stress_server`). At the end the books are compared with what the
servers stored. The program prints a report in JSON; what is ``wrong`` in it has to be empty.
"""

from __future__ import annotations

import contextlib
import ctypes
import email
import email.policy
import faulthandler
import gc
import importlib
import itertools
import json
import linecache
import logging
import math
import os
import random
import re
import select
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import IO, Any, NoReturn

from smtpconn import (
    AllRecipientsFailedError,
    ConnectionClosedError,
    ConnectionPool,
    Envelope,
    Phase,
    PoolEvent,
    PoolOverloadedError,
    PoolTimeoutError,
    SendOutcome,
    ServerConfig,
    SmtpConnection,
    SmtpError,
    SmtpTimeoutError,
    TransientError,
    TransportError,
)
from tests.faults.stress_server import content_of
from tests.support.forks import Fork, fork_in_c

ROOT = Path(__file__).parent.parent.parent
THREADS = 12
TIMEOUT = 8.0
"""Seconds for an operation."""

ALL_STACKS, ITS_STACK = signal.SIGQUIT, signal.SIGUSR2
"""Signals that make a process write the stacks of all its threads, or of the one that gets it.

A child of C code still has the parent's other threads in its memory, whose stacks say nothing.
"""

PATIENCE = 45.0
"""Seconds after which a forked child hangs: it does three operations, and others of its threads."""

NEVER_DELIVERED_AT = frozenset(Phase) - {Phase.CONTENT, Phase.DATA, Phase.IDLE, Phase.RSET}
"""Where no content has left, so that there is no doubt."""

EXPECTED = (
    TransportError,
    ConnectionClosedError,
    SmtpTimeoutError,
    TransientError,
    AllRecipientsFailedError,
    PoolTimeoutError,
    PoolOverloadedError,
)
"""What these servers and this load may end a message with; all of it is transient."""


class Struck(Exception):
    """Raised by signal handlers, hooks and a logging filter, in the middle of anything."""


class StruckOSError(Struck, ConnectionResetError):
    """The same, looking like an error of the network."""


class StruckTimeout(Struck, TimeoutError):
    """The same, looking like a deadline."""


class StruckBase(BaseException):
    """The same, as Ctrl-C or a killed greenlet would be."""


STRUCK = (Struck, StruckBase)


def strike(chance: random.Random) -> NoReturn:
    """Raise one of them."""
    raise chance.choice([Struck, StruckOSError, StruckTimeout, StruckBase])("struck")


class Ledger:
    """What the sender was told of each message.

    There is no lock, because any line may be interrupted by code that writes here as well.

    Args:
        name: how this process's messages begin.
        told: where to write instead, in a forked child, whose memory is lost.
    """

    def __init__(self, name: str, told: int | None = None) -> None:
        self._name = name
        self.process = os.getpid()
        self._numbers = itertools.count(1)
        self._told = told
        self.fates: dict[str, str] = {}
        self.wrong: list[str] = []
        self.counts: Counter[str] = Counter()

    def begin(self) -> str:
        """The identity of a message that is about to be sent."""
        identity = f"{self._name}n{next(self._numbers)}"
        self.note("begun", identity)
        return identity

    def note(self, fate: str, identity: str) -> None:
        """Write down what was told: acknowledged, unknown, failed, or interrupted."""
        self.fates[identity] = fate
        self._tell(["fate", fate, identity])

    def complain(self, what: str) -> None:
        """Write down what must not be."""
        self.wrong.append(what)
        self._tell(["wrong", what, ""])

    def count(self, what: str) -> None:
        """Count roughly: for the report alone."""
        self.counts[what] += 1
        self._tell(["count", what, ""])

    def take(self, line: bytes) -> None:
        """Take over what a child told."""
        kind, what, identity = json.loads(line)
        if kind == "fate":
            self.fates[identity] = what
        elif kind == "wrong":
            self.wrong.append(f"in a child: {what}")
        else:
            self.counts[f"in children: {what}"] += 1

    def give_up(self, name: str) -> None:
        """Nothing more is told by a child that has ended, perhaps while a thread of it sent."""
        for identity, fate in self.fates.copy().items():
            if fate == "begun" and identity.startswith(f"{name}n"):
                self.fates[identity] = "interrupted"

    def _tell(self, record: list[str]) -> None:
        if self._told is not None:
            os.write(self._told, json.dumps(record).encode() + b"\n")


class Stress:
    """The process.

    Args:
        configs: the two servers.
        chance: where randomness comes from.
        dumps: where the stacks of hanging children go.
    """

    def __init__(self, configs: list[ServerConfig], chance: random.Random, dumps: IO[str]) -> None:
        self.ledger = Ledger("p")
        self._chance = chance
        self._dumps = dumps
        self._nested = threading.local()
        self._main = threading.get_ident()
        self._may_strike = False
        self._forks = itertools.count(1)
        self._forking = threading.Semaphore(3)
        self._configs = configs
        self._is_over = threading.Event()
        self.longest = self.latest = 0.0
        self.pools = [
            self._pool(configs[0]),
            self._pool(configs[1]),
            self._pool(configs, max_rate=500.0),
        ]

    def _pool(
        self,
        config: ServerConfig | list[ServerConfig],
        *,
        max_rate: float | None = None,
    ) -> ConnectionPool:
        return ConnectionPool(
            config,
            max_size=4,
            acquire_timeout=4,
            max_messages=20,
            max_lifetime=3,
            max_idle=1,
            keepalive=0.2,
            leak_after=1.0,
            max_rate=max_rate,
            burst=5,
            on_event=self._hook,
        )

    # What strikes and intrudes.

    def _hook(self, event: PoolEvent) -> None:
        self._intrude(0.01, 0.005)

    def _filter(self, record: logging.LogRecord) -> bool:
        self._intrude(0.01, 0.005)
        return True

    def _intrude(self, to_raise: float, to_send: float) -> None:
        point = self._chance.random()
        if point < to_raise:
            strike(self._chance)
        if point < to_raise + to_send:
            self.send_inside()

    def send_inside(self) -> None:
        """Send from code that was called in the middle of something, but not without end."""
        depth = getattr(self._nested, "depth", 0)
        # A child that has no ledger of its own yet would use identities of its parent's.
        if depth >= 2 or self.ledger.process != os.getpid():
            return
        with self._unstruck():
            self._nested.depth = depth + 1
            try:
                self.ledger.count("sent inside")
                self.send(self._chance.choice(self.pools))
            finally:
                self._nested.depth = depth

    @contextlib.contextmanager
    def _unstruck(self) -> Iterator[None]:
        """What is between calls into the library is not struck, also inside such a call."""
        if threading.get_ident() != self._main:
            yield  # what the main thread does meanwhile is none of this thread's business
            return
        may_strike, self._may_strike = self._may_strike, False
        try:
            yield
        finally:
            self._may_strike = may_strike

    def on_alarm(self, number: int, frame: object) -> None:
        """A handler that sends, or drains."""
        self.ledger.count("signals")
        if self._chance.random() < 0.1:
            # What a logging filter raises then is no business of whatever this interrupts.
            self._do(self.drain, self._chance.choice(self.pools))
        else:
            self.send_inside()

    def on_strike(self, number: int, frame: object) -> None:
        """A handler that raises, if the main thread is inside the library."""
        if self._may_strike:
            self._may_strike = False
            self.ledger.count("strikes")
            strike(self._chance)

    def attempt(self, call: Callable[[], None], messages: int = 1) -> SmtpError | None:
        """Call into the library; its error, if it failed.

        Args:
            call: sends, with a timeout of `TIMEOUT` for each message.
            messages: how many, perhaps one after the other.

        Raises:
            Struck, StruckBase: ours, from the middle of it.
        """
        is_main = threading.get_ident() == self._main
        begun = time.monotonic()
        try:
            if is_main:
                self._may_strike = True
            call()
        except SmtpError as error:
            return error
        finally:
            if is_main:
                self._may_strike = False
            else:  # what handlers take comes on top of it
                seconds = time.monotonic() - begun
                self.longest = max(self.longest, seconds)
                self.latest = max(self.latest, seconds - messages * TIMEOUT)
        return None

    # What threads do.

    def send(self, pool: ConnectionPool, connection: SmtpConnection | None = None) -> None:
        """Send one message, and write down what was told."""
        identity = self.ledger.begin()
        try:
            self._send(identity, pool, connection)
        except STRUCK:
            self.ledger.note("interrupted", identity)
            raise

    def _send(self, identity: str, pool: ConnectionPool, connection: SmtpConnection | None) -> None:
        sender, recipient = f"{identity}@from.example", f"{identity}@to.example"
        content = content_of(identity)
        if connection is not None:
            self._account(identity, lambda: connection.send(sender, [recipient], content, TIMEOUT))
        elif identity.endswith(("3", "7")):
            message = message_of(content)
            self._account(
                identity,
                lambda: pool.send_message(message, sender, [recipient], timeout=TIMEOUT),
            )
        else:
            self._account(
                identity, lambda: pool.send(sender, [recipient], content, timeout=TIMEOUT)
            )

    def _account(self, identity: str, call: Callable[[], object]) -> None:
        try:
            error = self.attempt(lambda: void(call()))
        except STRUCK:
            self.ledger.note("interrupted", identity)
        except BaseException as other:
            self.ledger.complain(f"neither ours nor an SmtpError: {told(other)}")
        else:
            self._note(identity, error)

    def _note(self, identity: str, error: SmtpError | None) -> None:
        if error is None:
            self.ledger.note("acknowledged", identity)
            return
        # What a hook raises in a thread of `send_many` stops that.
        is_expected = isinstance(error, EXPECTED) or error.never_begun
        if not is_expected or not error.is_transient:
            self.ledger.complain(f"not what these servers can cause: {told(error)}")
        if error.may_have_been_delivered and error.phase in NEVER_DELIVERED_AT:
            self.ledger.complain(f"no doubt is possible there: {told(error)}")
        self.ledger.note("unknown" if error.may_have_been_delivered else "failed", identity)
        self.ledger.count(f"{type(error).__name__} at {error.phase}")

    def send_leased(self, pool: ConnectionPool) -> None:
        """Borrow a connection for some messages."""
        with pool.connection(TIMEOUT) as connection:
            for _ in range(self._chance.randrange(1, 4)):
                self.send(pool, connection)

    def send_leased_many(self, pool: ConnectionPool) -> None:
        """The same in one call."""
        with pool.connection(TIMEOUT) as connection:
            self._follow(lambda envelopes: connection.send_many(envelopes, TIMEOUT), 3, 3)

    def send_many(self, pool: ConnectionPool) -> None:
        """Send many, and perhaps lose interest."""
        wanted = self._chance.choice([8, 8, 2])
        self._follow(lambda envelopes: pool.send_many(envelopes, timeout=TIMEOUT), 8, wanted)

    def _follow(
        self,
        send_many: Callable[[list[Envelope]], Iterator[SendOutcome]],
        count: int,
        wanted: int,
    ) -> None:
        identities = [self.ledger.begin() for _ in range(count)]
        envelopes = [
            Envelope(f"{i}@from.example", [f"{i}@to.example"], content_of(i)) for i in identities
        ]
        # Of those that no outcome comes for, nothing is told.
        for identity in identities:
            self.ledger.note("interrupted", identity)

        def follow() -> None:
            for outcome in itertools.islice(send_many(envelopes), wanted):
                identity = str(outcome.envelope.sender).strip("<>").partition("@")[0]
                self._note(identity, outcome.error)

        # An error that is not in an outcome says that the connection was dead before the first.
        if (error := self.attempt(follow, count)) is not None:
            for identity in identities:
                self._note(identity, error)

    def lose_a_lease(self, pool: ConnectionPool) -> None:
        """Borrow, and leave the lease to the garbage collector, in a circle."""
        lease = pool.connection(TIMEOUT)
        connection = lease.__enter__()
        self.send(pool, connection)
        circle: list[object] = [lease, connection]
        circle.append(circle)

    def drop_a_pool(self, pool: ConnectionPool) -> None:
        """Make a pool, and leave it to the garbage collector, with idle connections."""
        dropped = self._pool(self._chance.choice(self._configs))
        self.send(dropped)
        if self._chance.random() < 0.5:
            self.lose_a_lease(dropped)
        circle: list[object] = [dropped]
        circle.append(circle)

    def close_a_pool(self, pool: ConnectionPool) -> None:
        """Make a pool, and close it."""
        with self._pool(self._configs) as closed:
            closed.warm(2)
            self.send(closed)

    def leave_garbage(self, pool: ConnectionPool) -> None:
        """Leave something to the garbage collector that sends when it is collected."""
        garbage = SendsWhenCollected(self)
        garbage.circle = garbage

    def collect(self, pool: ConnectionPool) -> None:
        """Collect garbage now."""
        gc.collect()

    def look(self, pool: ConnectionPool) -> None:
        """What monitoring does."""
        stats = pool.stats()
        if stats.in_use > stats.max_size:
            self.ledger.complain(f"more in use than there may be: {stats}")
        repr(pool)
        pool.leaks()

    def drain(self, pool: ConnectionPool) -> None:
        """Replace all connections."""
        pool.drain()

    def warm(self, pool: ConnectionPool) -> None:
        """Make connections ahead of need."""
        pool.warm(3)

    def fork(self, pool: ConnectionPool) -> None:
        """Fork as Python does."""
        self._fork(os.fork, "os.fork")

    def fork_in_c(self, pool: ConnectionPool) -> None:
        """Fork as a C library does."""
        self._fork(fork_in_c, "fork in C")

    def _fork(self, fork: Fork, how: str) -> None:
        if not self._forking.acquire(blocking=False):
            return
        try:
            self.ledger.count(how)
            name = f"c{next(self._forks)}"
            with pipe() as (receiving, sending):
                child = self._fork_once(fork)
                if child == 0:
                    self._be_child(Ledger(name, sending))
                self._attend(child, name, receiving, how)
        finally:
            self._forking.release()

    def _fork_once(self, fork: Fork) -> int:
        process = os.getpid()
        try:
            return fork()
        finally:
            # A child in which that failed must not go on as if it were its parent.
            if os.getpid() != process and sys.exc_info()[0] is not None:
                os.kill(os.getpid(), signal.SIGKILL)

    def _be_child(self, ledger: Ledger) -> NoReturn:
        try:
            self.ledger = ledger
            self._may_strike = False
            self._main = threading.get_ident()
            self._nested.depth = 0
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            for pool in self.pools:
                self._do(self.send, pool)
            gc.collect()
            for pool in self.pools:
                self._do(self.look, pool)
            signal.setitimer(signal.ITIMER_REAL, 0)
            ledger.count("ended")
        except BaseException as error:
            ledger.complain(told(error))
        finally:
            os._exit(0)

    def _attend(self, child: int, name: str, receiving: int, how: str) -> None:
        """Read what a child tells until it ends; end it if it hangs."""
        end = time.monotonic() + PATIENCE
        left, has_ended, was_killed = b"", False, False
        os.set_blocking(receiving, False)
        with process_descriptor(child) as descriptor:
            while True:
                # Not until the pipe's end: a child that another thread forked may hold it, too. And
                # not until it is empty at some moment: until it is after the child has ended.
                with contextlib.suppress(BlockingIOError):
                    while data := os.read(receiving, 65536):
                        *lines, left = (left + data).split(b"\n")
                        for line in lines:
                            self.ledger.take(line)
                if has_ended:
                    break
                wait = min(PATIENCE, max(0.0, end - time.monotonic()))
                ready = select.select([receiving, descriptor], [], [], wait)[0]
                if not ready:
                    self._end_hanging(child, how)
                    was_killed, end = True, math.inf
                has_ended = descriptor in ready
        _, status = os.waitpid(child, 0)
        self.ledger.give_up(name)
        if status and not was_killed:
            self.ledger.count(f"crashing: {how}")
            # A crash of a child of C code is CPython's: it uses what other threads have left.
            if how == "os.fork" or not os.WIFSIGNALED(status):
                self.ledger.complain(f"a child of {how} ended with {status}")

    def _end_hanging(self, child: int, how: str) -> None:
        """Have it write its stacks, and kill it.

        A child of C code can hang for reasons of CPython's: its locks are never told of the fork.
        That can be anywhere, because the lock of the interpreter is one of them. The innermost line
        of its thread says whether it waits for a lock of ours.

        Any child can hang for reasons of OpenSSL's, which has locks that another thread of the
        parent may have held at the fork (``SSL_new`` and others take a global one). Nothing else
        waits inside the ssl module, because our sockets never block.
        """
        self.ledger.count(f"hanging: {how}")
        begins = os.fstat(self._dumps.fileno()).st_size
        # To its one thread: what it has started since is not what hangs.
        number = ALL_STACKS if how == "os.fork" else ITS_STACK
        ctypes.CDLL(None).tgkill(child, child, number)
        time.sleep(1)  # nothing tells that a handler of another process is done
        os.kill(child, signal.SIGKILL)
        stacks = Path(self._dumps.name).read_text()[begins:]
        innermost = r'^(?:Current thread|Stack).*call first\):\n\s*File "([^"]*)", line (\d+)'
        found = re.search(innermost, stacks, re.MULTILINE)
        path, line = (
            ("", "") if found is None else (found[1], linecache.getline(found[1], int(found[2])))
        )
        if path == ssl.__file__:
            self.ledger.count(f"hanging in OpenSSL: {how}")
        elif how == "os.fork" or (
            "/smtpconn/" in path and re.search(r"with .*lock|\.(acquire|join|get)\(", line)
        ):
            self.ledger.complain(f"a child of {how} hung at {line.strip()!r}:\n{stacks}")

    # The run.

    def work(self, until: float) -> None:
        """Do one thing after another."""
        actions = [
            (30, self.send), (10, self.send_leased), (4, self.send_leased_many),
            (4, self.send_many), (2, self.lose_a_lease), (2, self.drop_a_pool),
            (2, self.close_a_pool), (3, self.leave_garbage), (3, self.collect), (4, self.look),
            (2, self.drain), (1, self.warm), (1, self.fork), (1, self.fork_in_c),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        while time.monotonic() < until:
            ((_, action),) = self._chance.choices(actions, weights)
            self._do(action, self._chance.choice(self.pools))

    def _do(self, action: Callable[[ConnectionPool], None], pool: ConnectionPool) -> None:
        try:
            action(pool)
        except STRUCK:
            pass
        except SmtpError as error:
            if not isinstance(error, EXPECTED) or error.may_have_been_delivered:
                self.ledger.complain(f"{action.__name__}: {told(error)}")
        except BaseException as error:
            self.ledger.complain(f"{action.__name__}: {told(error)}")

    def run(self, seconds: float) -> None:
        """Do all of it for so long, in this thread and others."""
        # What is imported at the first use is imported before a fork in C: a child whose parent was
        # importing in another thread waits for the import lock for ever. And before signals: a
        # handler that needs a module whose import it interrupts gets one without content.
        importlib.import_module("smtpconn.model.header_fields")
        for pool in self.pools:
            self._do(self.send, pool)
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self.work, args=(until,), name=f"worker-{n}")
            for n in range(1, THREADS)
        ]
        signal.signal(signal.SIGALRM, self.on_alarm)
        signal.signal(signal.SIGVTALRM, self.on_strike)
        for thread in threads:
            thread.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.03, 0.03)
        for fork in (self.fork, self.fork_in_c):
            self._do(fork, self.pools[0])  # at least once, however slow the machine is
        self.work(until)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        for thread in threads:
            thread.join()

    def make_calm(self) -> None:
        """Nothing strikes and intrudes any more."""
        self._intrude = lambda to_raise, to_send: None  # type: ignore[method-assign]
        gc.collect()

    def check_capacity(self) -> None:
        """No permit is lost: nothing is in use, and all there may be can be had at once."""
        for pool in self.pools:
            if not wait_until(lambda pool=pool: is_at_rest(pool)):  # type: ignore[misc]
                leaks = "".join(stack for _, stack in pool.leaks())
                self.ledger.complain(f"a lease or a place is lost: {pool.stats()}\n{leaks}")
        for pool in self.pools:
            size = pool.stats().effective_size
            with contextlib.ExitStack() as stack:
                try:
                    for _ in range(size):
                        stack.enter_context(pool.connection(TIMEOUT))
                except SmtpError as error:
                    # The server may still have said that there are too many.
                    stats = pool.stats()
                    if stats.effective_size >= size:
                        self.ledger.complain(f"of {size} not all can be had: {told(error)}{stats}")


class SendsWhenCollected:
    """Garbage whose destructor sends."""

    def __init__(self, stress: Stress) -> None:
        self._stress = stress
        self.circle: object = None

    def __del__(self) -> None:
        self._stress.send_inside()


class Server:
    """The process of the servers."""

    def __init__(self, seed: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.stress_server", str(seed)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        place = self._read()
        context = ssl.create_default_context(cafile=place["ca_file"])
        self.configs = [
            ServerConfig.from_url(url, tls_context=context, timeout=TIMEOUT)
            for url in place["urls"]
        ]

    def ask(self, word: str) -> list[list[str]]:
        """Say a word, and have what was stored."""
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)
        stored: list[list[str]] = self._read()
        return stored

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def stop(self) -> int:
        """End it; its exit status."""
        # By a word: a hanging child may hold the pipe, whose end would never be seen then.
        assert self._process.stdin is not None
        print("stop", file=self._process.stdin, flush=True)
        self._process.stdin.close()
        return self._process.wait(30)


def void(value: object) -> None:
    """Nothing."""


def told(error: BaseException) -> str:
    """An error with its stack, for the report."""
    return "".join(traceback.format_exception(error))


def message_of(content: bytes) -> EmailMessage:
    """A message of the email package."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@contextlib.contextmanager
def process_descriptor(process: int) -> Iterator[int]:
    """A descriptor that is readable when a child has ended."""
    descriptor = os.pidfd_open(process)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_at_rest(pool: ConnectionPool) -> bool:
    """Whether nobody has or wants anything of it."""
    stats = pool.stats()
    return not (stats.in_use or stats.connecting or stats.waiting)


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        gc.collect()
        time.sleep(0.01)
    return True


def descriptors() -> set[str]:
    """The open descriptors, and what they are."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(f"{entry} {os.readlink(f'/proc/self/fd/{entry}')}")
    return {each for each in found if "/proc/" not in each}


def compare(fates: dict[str, str], stored: list[list[str]]) -> Iterator[str]:
    """What is wrong: the books against what the servers have."""
    times: Counter[str] = Counter()
    for sender, *rest in stored:
        times[sender] += 1
        if len(rest) != 2 or {*rest} != {sender}:
            yield f"wrong recipients or content: {[sender, *rest]}"
    allowed = {"acknowledged": {1}, "failed": {0}, "unknown": {0, 1}, "interrupted": {0, 1}}
    for identity in {*fates, *times}:
        fate = fates.get(identity, "never begun")
        if times[identity] not in allowed.get(fate, set()):
            yield f"{identity} is {fate} and stored {times[identity]} times"


def watch_unraisable(wrong: list[str]) -> None:
    """Write down what threads and destructors raise, if it is not ours."""

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, STRUCK):
            wrong.append(f"{args.err_msg} {args.object!r}: {told(args.exc_value)}")

    def excepthook(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, STRUCK):
            wrong.append(f"{args.thread}: {told(args.exc_value)}")

    sys.unraisablehook = unraisable
    threading.excepthook = excepthook


class Filtering(logging.NullHandler):
    """A handler that only filters, without a lock, which a fork in C would leave held."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Ask the filters, whose exceptions the program that logs gets."""
        return bool(self.filter(record))


def listen_to_the_log(stress: Stress) -> None:
    """Have a filter see what the library logs."""
    handler = Filtering()
    handler.addFilter(stress._filter)
    log = logging.getLogger("smtpconn")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False


def run(seconds: float, seed: int) -> dict[str, object]:
    """Run, and return the report."""
    chance = random.Random(seed)
    server = Server(seed)
    before = descriptors(), set(threading.enumerate())
    with tempfile.NamedTemporaryFile("w") as dumps:
        faulthandler.register(ALL_STACKS, dumps, all_threads=True)
        faulthandler.register(ITS_STACK, dumps, all_threads=False)
        stress = Stress(server.configs, chance, dumps)
        ledger = stress.ledger
        watch_unraisable(ledger.wrong)
        listen_to_the_log(stress)
        gc.set_threshold(200, 5, 5)
        stress.run(seconds)
        stress.make_calm()
        stored = server.ask("calm")
        stress.check_capacity()
        for pool in stress.pools:
            pool.close()
        stress.pools.clear()
        stored = server.ask("stored")
    ledger.wrong += compare(ledger.fates, stored)
    if not wait_until(lambda: descriptors() <= before[0]):
        ledger.wrong.append(f"descriptors left: {descriptors() - before[0]}")
    if not wait_until(lambda: set(threading.enumerate()) <= before[1]):
        ledger.wrong.append(f"threads left: {set(threading.enumerate()) - before[1]}")
    if stress.latest > 3 * TIMEOUT:
        ledger.wrong.append(f"an operation ended {stress.latest:.1f} s after its deadline")
    if server.stop():
        ledger.wrong.append("the server failed")
    return {
        "seed": seed,
        "fates": Counter(ledger.fates.values()),
        "stored": len(stored),
        "longest": round(stress.longest, 1),
        "latest": round(stress.latest, 1),
        "counts": dict(sorted(ledger.counts.items())),
        "wrong": ledger.wrong,
    }


def main() -> None:
    """Run for as long as told, 10 seconds by default, and print the report."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1_000_000)
    faulthandler.enable()
    faulthandler.dump_traceback_later(seconds + 120, exit=True)
    report = run(seconds, seed)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["wrong"]))


if __name__ == "__main__":
    main()
