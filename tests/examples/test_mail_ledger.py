"""examples/mail_ledger.py by itself, on a real Redis: who may send, and what is remembered."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from redis import Redis

from examples.mail_ledger import KEEP, Ledger
from tests.realservers.redis import RedisServer


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[Redis]:
    """A connection to an empty Redis."""
    with Redis.from_url(redis_server.url, decode_responses=True) as made:
        yield made


def test_one_of_many_may_send(redis: Redis) -> None:
    """The first to claim it; the others hear what became of it, which is remembered for a week."""
    first, other = Ledger(redis), Ledger(redis)
    assert first.claim("1")
    assert not other.claim("1")
    assert first.settle("1", "failed", "550 no") == "failed"
    assert other.settled("1") == "failed"
    assert not other.claim("1")
    entry = redis.hgetall("mail:1")
    assert (entry["outcome"], entry["detail"]) == ("failed", "550 no")
    assert str(entry["claimed"]).endswith(f":{os.getpid()}")
    assert 0 < redis.ttl("mail:1") <= KEEP


def test_what_was_certainly_not_sent_may_be_claimed_again(redis: Redis) -> None:
    """Also if another run has called it unknown meanwhile."""
    ledger = Ledger(redis)
    assert ledger.claim("1")
    assert ledger.settled("1") == "unknown"
    ledger.release("1")
    assert ledger.claim("1")
    assert "outcome" not in redis.hgetall("mail:1")


def test_a_worker_that_was_only_slow(redis: Redis) -> None:
    """It was given up for dead; what it says in the end counts, and is not taken back."""
    ledger = Ledger(redis)
    assert ledger.claim("1")
    assert ledger.settled("1") == "unknown"
    ledger.settle("1", "delivered")
    assert ledger.settled("1") == "delivered"
