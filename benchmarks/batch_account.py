"""A batch whose server kills all connections every 100 messages, that is stopped and resumed.

What is resumed is what was certainly not delivered. At the end the account has to balance: what was
acknowledged is stored, what is stored was acknowledged or reported as unknown, nothing is stored
twice, and every message has an outcome. It is also a test (tests/pool/test_send_many.py).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.account import Account
from smtpconn import ConnectionPool, Envelope, Pipelining, SendOutcome, ServerConfig
from smtpconn.testing import SmtpServer

CONNECTIONS, KILLED_EVERY = 4, 100
MAX_RESUMES = 100


def run(count: int, pipelining: Pipelining) -> Account:
    """Send so many messages, stop after a third of the outcomes, and resume until all are known."""
    account = Account()
    taken: set[str] = set()

    def letters(numbers: Iterator[str] | list[str]) -> Iterator[Envelope]:
        for number in numbers:
            taken.add(number)
            yield Envelope("me@example.com", (f"user{number}@example.com",), number.encode())

    def note(outcome: SendOutcome) -> None:
        [recipient] = outcome.envelope.recipients
        number = str(recipient).removeprefix("user").partition("@")[0]
        taken.discard(number)
        if outcome.error is None:
            account.acknowledged.add(number)
            account.failed.discard(number)
        elif outcome.error.may_have_been_delivered:
            account.unknown.add(number)
            account.failed.discard(number)
        else:
            account.failed.add(number)
        if outcome.error is not None:
            account.errors[type(outcome.error).__name__] += 1

    every = [str(number) for number in range(count)]
    with SmtpServer() as server, killed(server):
        config = ServerConfig.from_url(server.url, pipelining=pipelining)
        with ConnectionPool(config, max_size=CONNECTIONS) as pool:
            with pool.send_many(letters(every)) as outcomes:
                for outcome in itertools.islice(outcomes, count // 3):
                    note(outcome)
                outcomes.stop()
                for outcome in outcomes:
                    note(outcome)
            for _ in range(MAX_RESUMES):
                rest = [n for n in every if n not in account.acknowledged | account.unknown]
                if not rest:
                    break
                for outcome in pool.send_many(letters(rest)):
                    note(outcome)
        account.stored.update(message.content.decode().strip() for message in server.messages)
    account.without_outcome.update(taken)
    return account


@contextmanager
def killed(server: SmtpServer) -> Iterator[None]:
    """Kill the connections of a server after every 100 messages that it has stored."""
    over = threading.Event()

    def kill() -> None:
        stored = 0
        while not over.is_set():
            try:
                server.wait_for_messages(stored + KILLED_EVERY, 0.05)
            except TimeoutError:
                continue
            stored = len(server.messages)
            server.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
