"""Where the time of one `send` goes, part by part, without a network.

    python -m benchmarks.anatomy

Each part is run by itself many times, and the best of many rounds counts; "all of it" is the whole
`SmtpConnection.send` over a transport that answers at once. What is left over is the conversation
and its driver: writing the turns, and noting where each command ends in the stream.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from typing import cast

from benchmarks.bare import ME, YOU
from benchmarks.speed import message
from smtpconn.client.channel import Channel
from smtpconn.client.connection import SmtpConnection
from smtpconn.client.driver import Driver
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.replies import response
from smtpconn.model.results import SendResult
from smtpconn.net.deadline import Deadline
from smtpconn.net.transport import Transport
from smtpconn.protocol.mail_request import envelope_commands, make_request
from smtpconn.protocol.reply_parser import ReplyParser
from smtpconn.protocol.session import SessionState

ENVELOPE = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n"
FINAL = b"250 2.0.0 Ok: queued\r\n"
OFFERS = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "CHUNKING")


class Echo:
    """A transport at whose other end a server answers every turn at once."""

    is_open = True
    is_inherited = False
    is_tls = False

    def __init__(self) -> None:
        self._answers = (ENVELOPE, FINAL)
        self._turn = 1

    def is_silent(self) -> bool:
        """Nothing comes unasked."""
        return True

    def write(
        self,
        data: bytes,
        deadline: Deadline,
        sent: Callable[[int], None],
        received: Callable[[bytes], None],
    ) -> None:
        """Take everything."""
        sent(len(data))

    def receive(self, deadline: Deadline) -> bytes:
        """Answer."""
        self._turn = 1 - self._turn
        return self._answers[self._turn]

    def close(self) -> None:
        """It was never open."""


def parts(number: int = 500, rounds: int = 60) -> dict[str, float]:
    """Microseconds of each part, and of all of it: the best of ``rounds`` of ``number`` times."""

    def microseconds(what: Callable[[], object]) -> float:
        seconds = timeit.repeat(what, timer=time.thread_time, number=number, repeat=rounds)
        return min(seconds) / number * 1e6

    session = SessionState(
        capabilities=ServerCapabilities("sink", tuple(SmtpExtension(k) for k in OFFERS))
    )
    driver = Driver(cast(Transport, Echo()), session, "sink", "sink:25", None)
    channel = Channel(driver, "sink:25", 60)
    connection, content = SmtpConnection.__new__(SmtpConnection), message(1024)
    connection._channel, connection._session = channel, session
    request, parser = make_request(ME, [YOU], content), ReplyParser()
    reply, deadline = response(250, ("2.0.0 Ok",)), Deadline(60)
    return {
        "addresses and message checked": microseconds(lambda: make_request(ME, [YOU], content)),
        "the envelope's commands made and checked": microseconds(
            lambda: envelope_commands(session, request, chunking=False)
        ),
        "four replies parsed": microseconds(
            lambda: (parser.simple_replies(ENVELOPE), parser.simple_replies(FINAL))
        ),
        "lock, deadline, look at the connection": microseconds(
            lambda: (Deadline(60), channel.probe(), deadline.remaining(), deadline.remaining())
        ),
        "the result": microseconds(lambda: SendResult(reply, request.recipients, ())),
        "all of it": microseconds(lambda: connection.send(ME, [YOU], content)),
    }


def main() -> None:
    """Measure and print."""
    found = parts()
    whole = found.pop("all of it")
    for name, microseconds in found.items():
        print(f"{name:45}{microseconds:6.1f} us {100 * microseconds / whole:4.0f} %")
    rest = whole - sum(found.values())
    print(f"{'conversation, driver, pairing':45}{rest:6.1f} us {100 * rest / whole:4.0f} %")
    print(f"{'all of it':45}{whole:6.1f} us")


if __name__ == "__main__":
    main()
