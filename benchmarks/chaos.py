"""Threads that send through a pool while the server kills, delays, says 421 and restarts at random.

    python -m benchmarks.chaos [SECONDS]

At the end the books have to balance: what was acknowledged is stored, what is stored was
acknowledged or reported as unknown, and nothing is stored twice. The account is also a test
(tests/pool/test_random_failures.py), for a few seconds.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time

from benchmarks.account import Account
from smtpconn import ConnectionPool, SmtpError
from smtpconn.testing import SmtpServer

THREADS, CONNECTIONS = 32, 8


def disturb(server: SmtpServer, chance: random.Random) -> None:
    """Do one thing to the server that a client would rather not meet."""
    step = chance.choice(["EHLO", "MAIL", "RCPT", "DATA", "CONTENT", "RSET", "CONNECT"])
    kind = chance.randrange(8)
    if kind == 0:
        server.kill()
    elif kind == 1:
        server.restart()
    elif kind == 2:
        server.close_idle()
    elif kind == 3:
        server.fault(step, reply="421 4.3.2 going down", close=True)
    elif kind == 4:
        server.fault(step, delay=chance.random() * 0.1)
    elif kind == 5:
        server.fault(step, close=True)
    elif kind == 6:
        server.fault(step, reset=True)
    else:
        # Stored, and then only a part of the answer: the sender cannot know.
        server.fault("CONTENT", reply=b"25", close=True)


def run(seconds: float, seed: int = 1) -> Account:
    """Send and disturb for so long."""
    chance = random.Random(seed)
    account = Account()
    lock = threading.Lock()
    end = time.monotonic() + seconds
    with SmtpServer() as server:
        pool = ConnectionPool(
            server.url, max_size=CONNECTIONS, acquire_timeout=5, max_messages=50, keepalive=0.2
        )

        def send(thread: int) -> None:
            number = 0
            while time.monotonic() < end:
                identity = f"{thread}.{number}"
                number += 1
                try:
                    pool.send("a@b.example", ["c@d.example"], f"{identity}\r\n".encode(), timeout=5)
                    book = account.acknowledged
                except SmtpError as error:
                    book = account.unknown if error.may_have_been_delivered else account.failed
                    with lock:
                        account.errors[type(error).__name__] += 1
                except BaseException as error:
                    account.unclassified.append(error)
                    book = account.unknown
                with lock:
                    book.add(identity)

        threads = [threading.Thread(target=send, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            disturb(server, chance)
            time.sleep(chance.random() * 0.02)
        for thread in threads:
            thread.join()
        pool.close()
        account.stored.update(m.content.decode().strip() for m in server.messages)
    return account


def main() -> None:
    """Run for as long as told, 60 seconds by default, and print the account."""
    logging.disable(logging.CRITICAL)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    account = run(seconds)
    print(
        f"{seconds:g} s, {THREADS} threads, {CONNECTIONS} connections: "
        f"{len(account.acknowledged)} acknowledged, {len(account.unknown)} unknown, "
        f"{len(account.failed)} certainly not delivered, {len(account.stored)} stored"
    )
    print("errors:", dict(account.errors))
    print("imbalances:", account.imbalances())
    sys.exit(any(account.imbalances().values()))


if __name__ == "__main__":
    main()
