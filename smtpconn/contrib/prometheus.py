"""Metrics for Prometheus: a collector that reads pools when it is scraped, and histograms.

Example::

    REGISTRY.register(PoolCollector())                  gauges and counters of every `get_pool` pool

    ConnectionPool(url, on_event=PoolHistograms())      how long things take

The collector costs nothing between two scrapes: it reads `ConnectionPool.stats`. Durations cannot
be read afterwards, so histograms need a hook. Labels are the pool's name and words from short
lists, never a server's reply and never an address. Pools with the same name are added up, because
two samples of one series would invalidate the whole scrape.

Every metric is a row of ``_FAMILIES``; ``docs/observability.md`` explains them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from smtpconn.pool.connection_pool import ConnectionPool
from smtpconn.pool.events import Action, PoolEvent, Stage
from smtpconn.pool.registry import open_pools
from smtpconn.pool.stats import PoolStats

DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets, seconds."""

_Metric: TypeAlias = GaugeMetricFamily | CounterMetricFamily
_Reading: TypeAlias = float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Family:
    """One metric: its name, and how its samples are read from `PoolStats`."""

    make: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    text: str
    read: Callable[[PoolStats], _Reading]
    label: str

    def metric(self, snapshots: Iterable[PoolStats]) -> _Metric:
        """The metric with the samples of all these pools."""
        labels = ["pool", self.label] if self.label else ["pool"]
        totals: dict[tuple[str, ...], float] = {}
        for stats in snapshots:
            reading = self.read(stats)
            values = reading if isinstance(reading, Mapping) else {"": reading}
            for value, number in values.items():
                key = (stats.name, value)[: len(labels)]
                totals[key] = totals.get(key, 0) + number
        metric = self.make(f"smtpconn_pool_{self.name}", self.text, labels=labels)
        for key, total in totals.items():
            metric.add_metric(key, total)
        return metric


def _gauge(name: str, text: str, read: Callable[[PoolStats], _Reading], label: str = "") -> _Family:
    return _Family(GaugeMetricFamily, name, text, read, label)


def _counter(
    name: str, text: str, read: Callable[[PoolStats], _Reading], label: str = ""
) -> _Family:
    return _Family(CounterMetricFamily, name, text, read, label)


def _connections(stats: PoolStats) -> _Reading:
    used = stats.in_use - stats.connecting
    return {"idle": stats.idle, "used": used, "connecting": stats.connecting}


def _servers(stats: PoolStats) -> _Reading:
    healthy = sum(server.is_healthy for server in stats.servers)
    return {"healthy": healthy, "failing": len(stats.servers) - healthy}


def _connects(stats: PoolStats) -> _Reading:
    return {"ok": stats.connects, "error": stats.connect_errors}


def _messages(stats: PoolStats) -> _Reading:
    unknown = stats.unknown_messages
    failed = stats.failed_messages - unknown
    return {"sent": stats.messages, "failed": failed, "unknown": unknown}


def _recipients(stats: PoolStats) -> _Reading:
    return {"accepted": stats.accepted_recipients, "rejected": stats.rejected_recipients}


_FAMILIES = (
    _gauge("connections", "Connections, by state.", _connections, "state"),
    _gauge("max", "The maximum number of connections.", lambda s: s.max_size),
    _gauge(
        "effective_max",
        "The maximum now; lower than max after the servers accepted no more connections.",
        lambda s: s.effective_size,
    ),
    _gauge("waiting", "Callers waiting for a connection.", lambda s: s.waiting),
    _gauge("servers", "Servers, by the result of the last connect.", _servers, "state"),
    _counter(
        "requests",
        "Callers who requested a connection: served, timed out or refused.",
        lambda s: s.checkouts + s.timeouts + s.overloads,
    ),
    _counter("waits", "Callers who had to wait for a connection.", lambda s: s.waits),
    _counter("timeouts", "Callers who got no connection in time.", lambda s: s.timeouts),
    _counter("overloads", "Callers refused because too many waited.", lambda s: s.overloads),
    _counter("connects", "Attempts to connect and log in.", _connects, "result"),
    _counter("discards", "Connections that the pool closed.", lambda s: s.discards, "reason"),
    _counter(
        "messages",
        "Messages; unknown ones failed but may have been delivered.",
        _messages,
        "result",
    ),
    _counter("recipients", "Recipients of the messages sent.", _recipients, "result"),
    _counter("retries", "Messages sent again over another connection.", lambda s: s.retries),
    _counter("noops", "NOOPs that kept an idle connection alive.", lambda s: s.noops),
    _counter(
        "wait_seconds",
        "Time callers waited for a connection when none was idle.",
        lambda s: s.wait_seconds,
    ),
    _counter("use_seconds", "Time callers held connections.", lambda s: s.use_seconds),
    _counter("connect_seconds", "Time spent on connecting.", lambda s: s.connect_seconds),
)


class PoolCollector(Collector):
    """Gauges and counters of pools, read when they are scraped.

    Register one: ``REGISTRY.register(PoolCollector())``.

    Args:
        pools: which pools; None for those that `smtpconn.get_pool` has made in this process and
            that are open at the time of each scrape.
    """

    def __init__(self, pools: Iterable[ConnectionPool] | None = None) -> None:
        self._pools = None if pools is None else tuple(pools)

    def collect(self) -> Iterator[_Metric]:
        """The metrics at this moment."""
        pools = open_pools() if self._pools is None else self._pools
        snapshots = [pool.stats() for pool in pools]
        return (family.metric(snapshots) for family in _FAMILIES)

    def describe(self) -> Iterator[_Metric]:
        """The metrics without samples, with which a registry detects duplicates."""
        return (family.metric([]) for family in _FAMILIES)


class PoolHistograms:
    """A hook, ``ConnectionPool(url, on_event=PoolHistograms())``: durations of operations.

    One hook serves any number of pools. The label ``result`` is "ok" or "error".

    Args:
        registry: where the histograms are registered.
        buckets: upper bounds, seconds.

    Raises:
        ValueError: the registry has these histograms already.
    """

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        buckets: Sequence[float] = DURATIONS,
    ) -> None:
        def histogram(name: str, text: str) -> Histogram:
            return Histogram(name, text, ["pool", "result"], registry=registry, buckets=buckets)

        self._histograms = {
            Action.CHECKOUT: histogram(
                "smtpconn_pool_checkout_duration_seconds",
                "Time until a caller got a connection or an error.",
            ),
            Action.CHECKIN: histogram(
                "smtpconn_pool_use_duration_seconds",
                "Time until a connection was returned.",
            ),
            Action.CONNECT: histogram(
                "smtpconn_pool_connect_duration_seconds",
                "Time a connect took, TLS and logging in included.",
            ),
            Action.SEND: histogram(
                "smtpconn_send_duration_seconds",
                "Time a message took, waiting for a connection included.",
            ),
        }

    def __call__(self, event: PoolEvent) -> None:
        """Record an event that ends an operation."""
        histogram = self._histograms.get(event.action)
        if histogram is not None and event.seconds is not None:
            result = "error" if event.stage is Stage.FAILED else "ok"
            histogram.labels(event.pool, result).observe(event.seconds)
