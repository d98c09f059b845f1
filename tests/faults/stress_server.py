"""The servers of the stress test, in a process of their own, and what they do at random.

    python -m tests.faults.stress_server SEED

It prints the URLs and the file of the certificate, obeys one word per line, and ends with its
standard input: ``calm`` ends the faults, ``stored`` prints what was stored.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from contextlib import ExitStack

from smtpconn.testing import ReceivedMessage, SmtpServer

STEPS = ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT", "RSET", "NOOP")


def content_of(identity: str) -> bytes:
    """A message that says in each of its lines which it is, of a size that depends on that."""
    lines = 20_000 if identity.endswith("77") else 20
    return f"Subject: {identity}\r\n\r\n{lines}\r\n".encode() + f"{identity}\r\n".encode() * lines


def identity_of(content: bytes) -> str:
    """Which message this is; ``damaged`` if it is not one of `content_of` as it was made."""
    head, _, body = content.partition(b"\r\n\r\n")
    lines, *found = body.split()
    identities = set(found)
    if len(identities) != 1 or int(lines) != len(found):
        return "damaged"
    identity = identities.pop().decode()
    return identity if f"subject: {identity}" in head.decode().lower() else "damaged"


class Store:
    """What was accepted: of each message the identities of sender, recipients and content."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, ...]] = []

    def add(self, message: ReceivedMessage) -> None:
        """Store a message."""
        addresses = (message.sender, *message.recipients)
        names = (address.partition("@")[0] for address in addresses)
        self.messages.append((*names, identity_of(message.content)))


def disturb(server: SmtpServer, chance: random.Random) -> None:
    """Have one thing go wrong."""
    step = chance.choice(STEPS)
    kind = chance.randrange(9)
    if kind == 0:
        server.kill()
    elif kind == 1:
        server.restart()
    elif kind == 2:
        server.close_idle(chance.choice([None, "421 4.3.2 Shutting down"]))
    elif kind == 3:
        server.fault(step, reply="421 4.3.2 Shutting down", close=True)
    elif kind == 4:
        server.fault(step, delay=chance.random() * 0.2)
    elif kind == 5:
        server.fault(step, reply="451 4.3.0 Try again later")
    elif kind == 6:
        server.fault(step, close=True)
    elif kind == 7:
        server.fault(step, reset=True)
    else:
        # Stored, and then only a part of the answer: the sender cannot know.
        server.fault("CONTENT", reply=b"25", close=True)


def disturb_until(calm: threading.Event, servers: list[SmtpServer], chance: random.Random) -> None:
    """Disturb at random, ten times a second."""
    while not calm.wait(chance.random() * 0.2):
        disturb(chance.choice(servers), chance)


def main(seed: int) -> None:
    """Serve until standard input ends."""
    store, calm = Store(), threading.Event()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(SmtpServer(tls="implicit", on_message=store.add)),
            stack.enter_context(SmtpServer(tls="starttls", on_message=store.add)),
        ]
        faults = threading.Thread(
            target=disturb_until, args=(calm, servers, random.Random(seed)), daemon=True
        )
        faults.start()
        print(json.dumps({"urls": [s.url for s in servers], "ca_file": servers[0].ca_file}))
        sys.stdout.flush()
        for line in sys.stdin:
            if line.strip() == "stop":
                return
            if line.strip() == "calm":
                calm.set()
                faults.join()
                for server in servers:
                    server.clear()
            print(json.dumps(store.messages))
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
