"""Replies to content that arrive while its last bytes, or what follows them, are written."""

from __future__ import annotations

import pytest

from smtpconn import (
    LmtpSendResult,
    Pipelining,
    Protocol,
    ProtocolError,
    SendResult,
    SmtpError,
    TransientError,
)
from smtpconn.client.driver import Driver
from smtpconn.net.deadline import Deadline
from smtpconn.protocol.mail_request import Outcome, make_request
from smtpconn.protocol.transaction import transact
from tests.support.exchanges import session
from tests.support.script import Wire, run_many

pytestmark = pytest.mark.usefixtures("burst")

PEOPLE = ["a@d.example", "b@d.example", "c@d.example"]
MESSAGE = b"hello\r\n"


class Server:
    """Accepts everything, and says something of its own as soon as it has enough of a message."""

    def __init__(self, says: str, *, enough: bytes = b"\r\n.\r\n") -> None:
        self._says = says.replace("\n", "\r\n").encode()
        self._enough = enough
        self._heard = b""

    def answer(self, said: bytes) -> bytes:
        """What it says to that."""
        self._heard += said
        if self._enough in self._heard:
            self._heard = b""
            return self._says
        *lines, self._heard = self._heard.split(b"\r\n")
        replies = [b"354 go\r\n" if line == b"DATA" else b"250 ok\r\n" for line in lines]
        if b"DATA" not in lines and self._heard[:4] not in (b"RSET", b"MAIL", b"RCPT", b"DATA"):
            # It is content, whose end is not there yet.
            self._heard, replies = b"\r\n".join([*lines, self._heard]), []
        return b"".join(replies)


def send(server: Server, people: list[str], *, blocks: int, lmtp: bool, many: bool) -> Outcome:
    """Send a message over a connection whose writes are blocked after so many bytes."""
    protocol = Protocol.LMTP if lmtp else Protocol.SMTP
    made = session("PIPELINING", pipelining=Pipelining.AUTO, protocol=protocol)
    request = make_request("me@d.example", people, MESSAGE)
    wire = Wire(server.answer, blocks=blocks)
    if many:
        run = run_many(made, [request], wire)
        assert not run.driver.transport.is_open
        return run.outcomes[0]
    driver = Driver(wire, made, "mx", "mx:25", None)
    try:
        return driver.run(transact(made, request), Deadline(10))
    except SmtpError as error:
        return error
    finally:
        assert not wire.is_open


END = len(MESSAGE) + len(b".\r\n")
ONE_OR_MANY = pytest.mark.parametrize("many", [False, True], ids=["one", "many"])


@ONE_OR_MANY
@pytest.mark.parametrize("count", [2, 3])
def test_421_as_the_second_answer(count: int, many: bool) -> None:
    """The first recipient has the message; of the last one nothing is known."""
    server = Server("250 stored\n421 4.7.0 bye\n")
    result = send(server, PEOPLE[:count], blocks=END, lmtp=True, many=many)
    assert isinstance(result, LmtpSendResult)
    codes = [each.response.code if each.response else None for each in result.results]
    assert codes == [250, 421, None][:count]
    assert [each.delivered for each in result.results] == [True, False, False][:count]


@ONE_OR_MANY
@pytest.mark.parametrize("behind", ["garbage", "421 4.3.2 bye", "250 and another one"])
def test_something_behind_the_final_answer(behind: str, many: bool) -> None:
    """A message whose 250 arrived before the end of the connection was delivered."""
    server = Server(f"250 stored\n{behind}\n")
    result = send(server, PEOPLE[:1], blocks=END, lmtp=False, many=many)
    assert isinstance(result, SendResult)
    assert result.response.lines == ("stored",)


@ONE_OR_MANY
@pytest.mark.parametrize("behind", ["garbage", "421 4.3.2 bye"])
def test_something_behind_all_answers_of_lmtp(behind: str, many: bool) -> None:
    """So were those to all recipients."""
    server = Server(f"250 one\n452 two\n{behind}\n")
    result = send(server, PEOPLE[:2], blocks=END, lmtp=True, many=many)
    assert isinstance(result, LmtpSendResult)
    assert [each.delivered for each in result.results] == [True, False]


@ONE_OR_MANY
@pytest.mark.parametrize("lmtp", [False, True], ids=["SMTP", "LMTP"])
def test_an_acknowledgement_before_the_end(lmtp: bool, many: bool) -> None:
    """A server that replies 250 before the last byte was sent may have stored the message."""
    server = Server("250 stored\n421 4.3.2 bye\n", enough=b"\r\n.\r")
    error = send(server, PEOPLE[: 1 + lmtp], blocks=END - 1, lmtp=lmtp, many=many)
    assert isinstance(error, ProtocolError)
    assert error.may_have_been_delivered


@ONE_OR_MANY
@pytest.mark.parametrize("reply", ["421 4.3.2 bye", "452 4.3.1 full"])
def test_a_refusal_before_the_end(reply: str, many: bool) -> None:
    """A message whose end was not sent is not delivered."""
    server = Server(f"{reply}\n", enough=b"\r\n.\r")
    error = send(server, PEOPLE[:1], blocks=END - 1, lmtp=False, many=many)
    assert isinstance(error, TransientError)
    assert not error.may_have_been_delivered
