"""The Prometheus collector and histograms, seen as a scrape sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from smtpconn import (
    AllRecipientsFailedError,
    AuthError,
    ConnectionPool,
    PermanentError,
    get_pool,
)
from smtpconn.contrib.prometheus import PoolCollector, PoolHistograms
from smtpconn.testing import SmtpServer

SENDER, RECIPIENTS = "me@example.com", ["you@example.com"]
MESSAGE = b"Subject: hello\r\n\r\nHello!\r\n"


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of its own for each test."""
    return CollectorRegistry()


@pytest.fixture
def pool(server: SmtpServer) -> Iterator[ConnectionPool]:
    """A pool named "mail"."""
    with ConnectionPool(server.url, name="mail", max_size=3, keepalive=None) as made:
        yield made


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample of an exposition, as its name and labels."""
    text = generate_latest(registry).decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def test_a_scrape_after_a_known_day(
    server: SmtpServer, pool: ConnectionPool, registry: CollectorRegistry
) -> None:
    """Every metric has the figure of the pool at the moment of the scrape."""
    registry.register(PoolCollector([pool]))
    for _ in range(3):
        pool.send(SENDER, [*RECIPIENTS, "her@example.com"], MESSAGE)
    server.fault("RCPT", reply="550 5.1.1 No such user")
    with pytest.raises(AllRecipientsFailedError):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    server.fault("CONTENT", close=True)
    with pytest.raises(OSError, match="closed"):
        pool.send(SENDER, RECIPIENTS, MESSAGE)
    with pool.connection(), pool.connection():
        samples = scrape(registry)
    expected = {
        "connections{pool=mail,state=idle}": 0,
        "connections{pool=mail,state=used}": 2,
        "connections{pool=mail,state=connecting}": 0,
        "max{pool=mail}": 3,
        "effective_max{pool=mail}": 3,
        "waiting{pool=mail}": 0,
        "servers{pool=mail,state=healthy}": 1,
        "servers{pool=mail,state=failing}": 0,
        "requests_total{pool=mail}": 7,
        "waits_total{pool=mail}": 0,
        "timeouts_total{pool=mail}": 0,
        "overloads_total{pool=mail}": 0,
        "connects_total{pool=mail,result=ok}": 3,
        "connects_total{pool=mail,result=error}": 0,
        "discards_total{pool=mail,reason=closed in use}": 1,
        "messages_total{pool=mail,result=sent}": 3,
        "messages_total{pool=mail,result=failed}": 1,
        "messages_total{pool=mail,result=unknown}": 1,
        "recipients_total{pool=mail,result=accepted}": 6,
        "recipients_total{pool=mail,result=rejected}": 0,
        "retries_total{pool=mail}": 0,
        "noops_total{pool=mail}": 0,
    }
    found = {name.removeprefix("smtpconn_pool_"): value for name, value in samples.items()}
    for seconds in ("wait_seconds", "use_seconds", "connect_seconds"):
        assert 0 < found.pop(f"{seconds}_total{{pool=mail}}") < 10
    assert found == expected
    assert scrape(registry)["smtpconn_pool_connections{pool=mail,state=idle}"] == 2


def test_without_pools_given_all_of_the_registry_are_read(
    server: SmtpServer, registry: CollectorRegistry
) -> None:
    """A pool that `get_pool` makes later is in the next scrape, and a closed one in no further."""
    registry.register(PoolCollector())
    sample = "smtpconn_pool_max{pool=made later}"
    assert sample not in scrape(registry)
    pool = get_pool(server.url, name="made later", max_size=4)
    assert scrape(registry)[sample] == 4
    pool.close()
    assert sample not in scrape(registry)


def test_pools_of_one_name_are_added_up(
    server: SmtpServer, pool: ConnectionPool, registry: CollectorRegistry
) -> None:
    """Two pools with one name do not make two samples of one series, which spoils a scrape."""
    with ConnectionPool(server.url, name="mail", max_size=4, keepalive=None) as other:
        registry.register(PoolCollector([pool, other]))
        other.send(SENDER, RECIPIENTS, MESSAGE)
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        samples = scrape(registry)
    assert samples["smtpconn_pool_max{pool=mail}"] == 7
    assert samples["smtpconn_pool_messages_total{pool=mail,result=sent}"] == 2


def test_a_second_collector_in_one_registry_is_refused(registry: CollectorRegistry) -> None:
    """It would double every series; the registry says so when it is registered."""
    registry.register(PoolCollector())
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(PoolCollector())


def test_a_scrape_does_not_wait_for_the_server(
    server: SmtpServer, pool: ConnectionPool, registry: CollectorRegistry
) -> None:
    """A scrape sends nothing and takes no connection."""
    registry.register(PoolCollector([pool]))
    pool.warm(1)
    commands = list(server.connections[0].commands)
    scrape(registry)
    assert (len(server.connections), server.connections[0].commands) == (1, commands)
    assert pool.stats().checkouts == 1


def test_histograms_of_what_was_done(server: SmtpServer, registry: CollectorRegistry) -> None:
    """Each checkout, connect and message is observed once, with how it went."""
    histograms = PoolHistograms(registry, buckets=(0.5, 20.0))
    with ConnectionPool(
        server.url, name="mail", max_messages=2, keepalive=None, on_event=histograms
    ) as pool:
        registry.register(PoolCollector([pool]))
        for _ in range(3):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault("MAIL", reply="550 5.7.1 No")
        with pytest.raises(PermanentError):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        with pool.connection():
            pass
        samples = scrape(registry)

    def count(what: str, result: str) -> float:
        name = f"smtpconn_{what}_duration_seconds"
        labels = f"{{pool=mail,result={result}}}"
        assert (
            samples[f"{name}_bucket{{le=20.0,pool=mail,result={result}}}"]
            == (samples[f"{name}_count{labels}"])
        )
        assert 0 < samples[f"{name}_sum{labels}"] < 10
        return samples[f"{name}_count{labels}"]

    assert count("send", "ok") == 3
    assert count("send", "error") == 1
    assert count("pool_checkout", "ok") == 5
    assert count("pool_use", "ok") == 5
    assert count("pool_connect", "ok") == 3  # two messages each


def test_no_address_and_no_secret_is_in_a_scrape(registry: CollectorRegistry) -> None:
    """Labels are made of words from short lists, whatever servers say and addresses are."""
    histograms = PoolHistograms(registry)
    with (
        SmtpServer(users={"user": "topsecret"}) as server,
        ConnectionPool(
            server.url.replace("://", "://user:topsecret@"),
            name="mail",
            max_messages=1,
            keepalive=None,
            on_event=histograms,
        ) as pool,
    ):
        registry.register(PoolCollector([pool]))
        pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault("RCPT", reply="550 5.1.1 <you@example.com> is unknown")
        with pytest.raises(AllRecipientsFailedError):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        server.fault("AUTH", reply="535 5.7.8 not with topsecret")
        with pytest.raises(AuthError):
            pool.send(SENDER, RECIPIENTS, MESSAGE)
        text = generate_latest(registry).decode()
    assert "example.com" not in text
    assert "topsecret" not in text
    labels = set(re.findall(r'(\w+)="[^"]*"', text))
    assert labels == {"pool", "state", "result", "reason", "le"}
