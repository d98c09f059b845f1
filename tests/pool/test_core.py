"""How a pool's decisions are carried out, with fake connections, a fake clock and no second thread.

What callers meet, with servers and threads, is in `tests.pool.test_connection_pool`; here it is
which connections are asked, closed and counted, and when maintenance is told to look.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from smtpconn import (
    ConnectionClosedError,
    Phase,
    PoolClosedError,
    PoolTimeoutError,
    ServerCapabilities,
    ServerConfig,
    SmtpError,
    SmtpExtension,
    SmtpResponse,
    TransientError,
)
from smtpconn.net.deadline import Deadline
from smtpconn.pool.core import LIFETIME_JITTER, PoolCore
from smtpconn.pool.maintenance import Maintenance
from smtpconn.pool.options import PoolOptions
from smtpconn.pool.state import Waiter
from smtpconn.protocol.quirks import MAX_NOOPS

CONFIG = ServerConfig.from_url("smtp://mx.example.com")
CAPABILITIES = ServerCapabilities("mx.example.com", ())
START = 10_000.0


@dataclass(eq=False)
class FakeConnection:
    """A connection that does what it is told, and remembers what was asked of it."""

    capabilities: ServerCapabilities = CAPABILITIES
    is_alive: bool = True
    is_idle: bool = True
    is_shutting_down: bool = False
    transactions: int = 0
    tls: None = None
    noop_error: BaseException | None = None
    noop_moments: list[float] = field(default_factory=list)
    ended_by: list[str] = field(default_factory=list)

    def probe(self) -> bool:
        """Whether it lives."""
        return self.is_alive

    def noop(self, timeout: float) -> None:
        """Note when; fail if told to."""
        self.noop_moments.append(time.monotonic())
        if self.noop_error is not None:
            self.is_idle = False
            raise self.noop_error

    def quit_nowait(self) -> None:
        """QUIT."""
        self.ended_by.append("quit")

    def close(self) -> None:
        """The socket alone."""
        self.ended_by.append("close")

    def close_after_fork(self) -> None:
        """In a forked child."""
        self.ended_by.append("close_after_fork")


class Harness:
    """Time, the server, and maintenance.

    Attributes:
        now: the time.
        made: the connections the server let in, in order.
        refusal: what the server says to the next ones.
        capabilities: what it offers to the next ones.
        due: when maintenance was told to look, each time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        self.made: list[FakeConnection] = []
        self.refusal: SmtpError | None = None
        self.capabilities = CAPABILITIES
        self.due: list[float] = []
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        # A function of that module: what other code raises is no error of connecting.
        names: dict[str, Any] = {"__name__": ServerConfig.__module__, "harness": self}
        exec(
            "def connect(*args, **options):\n"
            "    if harness.refusal is not None:\n"
            "        raise harness.refusal\n"
            "    return harness.connected()\n",
            names,
        )
        monkeypatch.setattr(ServerConfig, "connect", names["connect"])
        monkeypatch.setattr(Maintenance, "watch", lambda self_, pool, due: self.due.append(due))

    def connected(self) -> FakeConnection:
        """A new connection."""
        self.made.append(FakeConnection(self.capabilities))
        return self.made[-1]


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A harness in which nothing happens by itself."""
    return Harness(monkeypatch)


def pool_core(
    *,
    max_size: int = 5,
    max_messages: int = 100,
    max_idle: float = 60.0,
    max_lifetime: float = 900.0,
    keepalive: float | None = None,
) -> PoolCore:
    """A `PoolCore`, without keep-alive by default."""
    options = PoolOptions(
        max_size=max_size,
        max_messages=max_messages,
        max_idle=max_idle,
        max_lifetime=max_lifetime,
        keepalive=keepalive,
    )
    return PoolCore([CONFIG], options, "outgoing", None)


def take(pool: PoolCore, timeout: float = 0.001) -> tuple[Waiter, FakeConnection]:
    """Check out a connection; none is returned meanwhile, so waiting would be useless."""
    waiter = Waiter()
    try:
        connection: object = pool.checkout(waiter, timeout)
    except BaseException:
        pool.check_in(waiter, keep=False)
        raise
    assert isinstance(connection, FakeConnection)
    return waiter, connection


def use(pool: PoolCore, count: int = 1) -> list[FakeConnection]:
    """Have some in use at once and give them back; the last is the youngest."""
    taken = [take(pool) for _ in range(count)]
    for waiter, _ in taken:
        pool.check_in(waiter, keep=True)
    return [connection for _, connection in taken]


def figures(pool: PoolCore) -> tuple[int, int, dict[str, int]]:
    """How many are in use, how many idle, and why others were given up."""
    stats = pool.stats()
    assert (stats.waiting, stats.connecting) == (0, 0)
    return stats.in_use, stats.idle, dict(stats.discards)


# PoolCore and taking back


def test_idle_connections_are_probed_and_the_dead_dropped(harness: Harness) -> None:
    """Dead ones are passed over without a connect, until one lives."""
    pool = pool_core()
    alive, dead, dead_too = use(pool, 3)
    dead.is_alive = dead_too.is_alive = False
    assert take(pool)[1] is alive
    assert len(harness.made) == 3
    assert figures(pool) == (1, 0, {"dead when idle": 2})
    assert dead.ended_by == dead_too.ended_by == ["quit"]


def test_a_dead_connection_is_not_given_to_the_next(harness: Harness) -> None:
    """When none of the idle ones lives, a new one is made."""
    pool = pool_core()
    for connection in use(pool, 3):
        connection.is_alive = False
    assert take(pool)[1] is harness.made[3]


def test_giving_back_twice_counts_once(harness: Harness) -> None:
    """The second time has no effect, even if another caller has the connection."""
    pool = pool_core()
    waiter, connection = take(pool)
    pool.check_in(waiter, keep=True)
    pool.check_in(waiter, keep=True)
    assert figures(pool) == (0, 1, {})
    other, same = take(pool)
    assert same is connection
    pool.check_in(waiter, keep=False)
    assert figures(pool) == (1, 0, {})
    assert connection.ended_by == []
    pool.check_in(other, keep=True)
    assert figures(pool) == (0, 1, {})


@pytest.mark.parametrize(
    ("keep", "is_idle", "is_shutting_down", "reason", "end"),
    [
        (False, True, False, "interrupted", "quit"),
        (False, False, False, "interrupted", "close"),
        (True, False, True, "421", "close"),
        (True, False, False, "closed in use", "close"),
    ],
)
def test_a_connection_that_is_not_kept(
    harness: Harness, keep: bool, is_idle: bool, is_shutting_down: bool, reason: str, end: str
) -> None:
    """It is given up with the reason, and told so only if it is in sync with the server."""
    pool = pool_core()
    waiter, connection = take(pool)
    connection.is_idle, connection.is_shutting_down = is_idle, is_shutting_down
    pool.check_in(waiter, keep=keep)
    assert figures(pool) == (0, 0, {reason: 1})
    assert connection.ended_by == [end]


def test_a_connect_that_fails_costs_nothing(harness: Harness) -> None:
    """The caller has the error, and the pool its lease and its right to connect."""
    pool = pool_core(max_size=1)
    harness.refusal = ConnectionClosedError("gone", phase=Phase.CONNECT)
    for _ in range(3):
        with pytest.raises(ConnectionClosedError, match="gone"):
            take(pool)
        assert figures(pool) == (0, 0, {})
    harness.refusal = None
    take(pool)


def test_a_renewed_connection_is_new(harness: Harness) -> None:
    """Who found its connection dead gets a new one, with the same lease; idle ones stay."""
    pool = pool_core()
    idle, dead = use(pool, 2)
    waiter, connection = take(pool)
    assert connection is dead
    dead.is_idle = False
    renewed: object = pool.renew(waiter, Deadline(1))
    assert renewed is harness.made[2]
    assert figures(pool) == (1, 1, {"dead when used": 1})
    assert (dead.ended_by, idle.ended_by) == (["close"], [])
    pool.check_in(waiter, keep=True)
    assert figures(pool) == (0, 2, {"dead when used": 1})


def test_a_server_that_takes_no_more(harness: Harness) -> None:
    """The caller waits for a returned connection until its timeout, and gets the server's reply."""
    pool = pool_core()
    waiter, _ = take(pool)
    response = SmtpResponse(421, ("4.7.0 too many connections",))
    harness.refusal = TransientError(response, phase=Phase.EHLO)
    with pytest.raises(PoolTimeoutError) as caught:
        take(pool)
    assert isinstance(caught.value.__cause__, TransientError)
    assert pool.stats().effective_size == 1
    pool.check_in(waiter, keep=True)
    take(pool)
    assert len(harness.made) == 1


# The end of a connection's life


def test_a_connection_is_closed_after_its_messages(harness: Harness) -> None:
    """It is checked when it comes back, and the limit the server announced counts as well."""
    pool = pool_core(max_messages=3)
    limited = ServerCapabilities("mx.example.com", (SmtpExtension("LIMITS", ("MAILMAX=2",)),))
    for capabilities, most in ((CAPABILITIES, 3), (limited, 2)):
        harness.capabilities = capabilities
        for transactions in range(1, most + 1):
            waiter, connection = take(pool)
            connection.transactions = transactions
            pool.check_in(waiter, keep=True)
            assert connection.ended_by == ["quit"] * (transactions == most)
    assert figures(pool) == (0, 0, {"max_messages": 2})


def test_lifetimes_differ(harness: Harness) -> None:
    """Connections made together end one by one, somewhat before max_lifetime at the earliest."""
    pool = pool_core(max_size=50, max_lifetime=100, max_idle=1000)
    use(pool, 50)
    harness.now = START + 100 * (1 - LIFETIME_JITTER) - 0.001
    use(pool)
    assert figures(pool) == (0, 50, {})
    harness.now = START + 100 * (1 - LIFETIME_JITTER / 2)
    pool.maintain_idle()
    assert 0 < figures(pool)[1] < 50
    harness.now = START + 100
    pool.maintain_idle()
    assert figures(pool) == (0, 0, {"max_lifetime": 50})


def test_a_return_closes_expired_connections(harness: Harness) -> None:
    """Idle connections are closed after ``max_idle`` without maintenance too."""
    pool = pool_core(max_idle=60)
    old, young = use(pool, 2)
    for _ in range(3):
        harness.now += 25
        assert use(pool) == [young]
    assert (old.ended_by, young.ended_by) == (["quit"], [])
    assert figures(pool) == (0, 1, {"max_idle": 1})


def test_draining(harness: Harness) -> None:
    """Idle ones end at once, those in use when they come back, and new ones not at all."""
    pool = pool_core()
    idle, used = use(pool, 2)
    waiter, _ = take(pool)
    pool.drain()
    assert (idle.ended_by, used.ended_by) == (["quit"], [])
    pool.check_in(waiter, keep=True)
    assert used.ended_by == ["quit"]
    assert use(pool) == use(pool) == [harness.made[2]]
    assert figures(pool) == (0, 1, {"drained": 2})


def test_closing(harness: Harness) -> None:
    """Idle connections are closed at once, others on return, and no caller gets one."""
    pool = pool_core()
    idle, used = use(pool, 2)
    waiter, _ = take(pool)
    pool.close(0)
    assert (idle.ended_by, used.ended_by) == (["quit"], [])
    with pytest.raises(PoolClosedError):
        take(pool)
    pool.check_in(waiter, keep=True)
    assert used.ended_by == ["quit"]
    assert figures(pool) == (0, 0, {"pool closed": 2})
    assert pool.maintain_idle() is None


def test_forgetting(harness: Harness) -> None:
    """A child drops what is idle and what is out, in silence, and begins with full capacity."""
    pool = pool_core(max_size=2)
    inherited = use(pool, 2)
    waiter, _ = take(pool)
    pool.reset_after_fork()
    assert [connection.ended_by for connection in inherited] == [["close_after_fork"]] * 2
    assert figures(pool) == (0, 0, {})
    assert use(pool, 2) == harness.made[2:]
    pool.check_in(waiter, keep=False)
    assert pool.stats().in_use == 0


# Maintenance


def test_maintenance_is_told_what_it_does_not_know(harness: Harness) -> None:
    """It is told of the first moment, and again only of one before its next look."""
    pool = pool_core(keepalive=20)
    use(pool, 2)
    assert harness.due == [START + 20]
    harness.now += 5
    use(pool)
    assert harness.due == [START + 20]
    harness.now = START + 20
    assert pool.maintain_idle() == START + 25
    use(pool)
    assert harness.due == [START + 20]


def test_without_keepalive_maintenance_is_told_nothing(harness: Harness) -> None:
    """``keepalive=None`` means no thread."""
    pool = pool_core(keepalive=None)
    use(pool, 3)
    assert harness.due == []


def test_a_lonely_life(harness: Harness) -> None:
    """An unused connection gets eight NOOPs and is closed by max_idle; then nothing is due."""
    pool = pool_core(keepalive=20, max_idle=300)
    [connection] = use(pool)
    due: float | None = harness.due[0]
    while due is not None:
        harness.now = due
        due = pool.maintain_idle()
    assert connection.noop_moments == [START + 20 * n for n in range(1, MAX_NOOPS + 1)]
    assert harness.now == START + 300
    assert figures(pool) == (0, 0, {"max_idle": 1})
    assert pool.stats().noops == MAX_NOOPS
    # The next connection is looked after as the first was.
    use(pool)
    assert harness.due == [START + 20, START + 320]


def test_a_failed_noop_ends_the_connection(harness: Harness) -> None:
    """The others get theirs in the same look, and no capacity is lost."""
    pool = pool_core(max_size=2, keepalive=20)
    failing, other = use(pool, 2)
    failing.noop_error = ConnectionClosedError("gone", phase=Phase.IDLE)
    harness.now += 20
    assert pool.maintain_idle() == START + 40
    assert failing.ended_by == ["close"]
    assert other.noop_moments == [START + 20]
    assert figures(pool) == (0, 1, {"keepalive failed": 1})
    assert use(pool, 2) == [other, harness.made[2]]


def test_a_noop_that_is_interrupted_costs_no_capacity(harness: Harness) -> None:
    """Whatever ends a look, what it had borrowed is given back."""
    pool = pool_core(max_size=1, keepalive=20)
    [connection] = use(pool)
    connection.noop_error = KeyboardInterrupt()
    harness.now += 20
    with pytest.raises(KeyboardInterrupt):
        pool.maintain_idle()
    assert pool.stats().in_use == 0
    assert use(pool) == [harness.made[1]]


def test_maintenance_that_failed_is_told_again(harness: Harness) -> None:
    """If maintenance did not look when it was due, the next one to give back tells it again."""
    pool = pool_core(keepalive=20)
    use(pool)
    harness.now += 30
    use(pool)
    assert len(harness.due) == 2


def test_a_pool_that_is_closed_while_maintenance_is_told(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maintenance is told once more to look now: its thread need not wait until the pool is due."""
    pool = pool_core(keepalive=20)
    watch = Maintenance.watch

    def closed_before(self: Maintenance, watched: PoolCore, due: float) -> None:
        pool.close(0)
        watch(self, watched, due)

    monkeypatch.setattr(Maintenance, "watch", closed_before)
    use(pool)
    assert len(harness.due) == 2
    assert harness.due[-1] == 0.0
