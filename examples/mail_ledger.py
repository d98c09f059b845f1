"""A ledger in Redis, for mail from a queue that runs a task again when its worker has died.

No queue knows whether the server had accepted the message. So each message has an entry here, under
an id that the caller chooses:

    claimed     a worker is sending it right now, or was killed while it did
    delivered   the server said 250
    failed      it certainly was not delivered, and trying again is of no use, or has been tried
    unknown     the connection, or a worker, was lost when it may have been delivered

Who cannot claim a message does not send it. A claim whose worker is gone, and whose task does not
come back, reads as unknown. It needs nothing of Celery: RQ and Dramatiq can have it as well.
"""

from __future__ import annotations

import os
import socket

from redis import Redis

KEEP = 7 * 24 * 3600  # seconds for which an outcome is remembered


class Ledger:
    """The status of each message: a hash ``mail:<id>`` in Redis.

    Raises, in every method:
        redis.exceptions.RedisError: Redis cannot be reached, or refuses.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def claim(self, message_id: str) -> bool:
        """Claim a message; False if it was claimed before."""
        who = f"{socket.gethostname()}:{os.getpid()}"
        return bool(self._redis.hsetnx(f"mail:{message_id}", "claimed", who))

    def release(self, message_id: str) -> None:
        """It was certainly not sent: the next run may claim it."""
        self._redis.delete(f"mail:{message_id}")

    def settle(self, message_id: str, outcome: str, detail: str = "") -> str:
        """Store the outcome; called by the worker that claimed the message."""
        entry = ["outcome", outcome, "detail", detail]
        self._redis.hset(f"mail:{message_id}", items=entry)
        self._redis.expire(f"mail:{message_id}", KEEP)
        return outcome

    def settled(self, message_id: str) -> str:
        """The outcome of an earlier run; unknown if that run did not store one."""
        # If that one is alive after all, what it says will replace this.
        self._redis.hsetnx(f"mail:{message_id}", "outcome", "unknown")
        self._redis.expire(f"mail:{message_id}", KEEP)
        return str(self._redis.hget(f"mail:{message_id}", "outcome"))
