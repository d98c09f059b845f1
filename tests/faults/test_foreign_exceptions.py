"""Exceptions of other code, of every class, at every line and at every bytecode of a connection."""

from __future__ import annotations

import pytest

from smtpconn import Pipelining
from smtpconn.testing import SmtpServer
from tests.faults.conftest import Count
from tests.support.exception_injector import every_place
from tests.support.foreign_exceptions import (
    CONNECTION,
    MODES,
    POOL,
    StoringServer,
    send_many_on_a_connection,
    send_many_over_a_pool,
    send_on_a_reused_connection,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.timeout(600),
]

IO = ("net/transport.py", "client/driver.py", "protocol/reply_matcher.py")


@pytest.mark.parametrize("mode", MODES)
def test_every_error_in_send_many_on_a_connection(mode: Pipelining, count: Count) -> None:
    """An exception of each class at each line."""
    with SmtpServer() as server:
        scenario = send_many_on_a_connection(StoringServer(server), mode)
        count("places in send_many of a connection", every_place(scenario, CONNECTION))


def test_every_line_of_send_many_over_lmtp(count: Count) -> None:
    """An exception at each line, with a reply for each recipient."""
    with SmtpServer(protocol="LMTP") as server:
        scenario = send_many_on_a_connection(StoringServer(server), Pipelining.AUTO, lmtp=True)
        count("places in send_many over LMTP", every_place(scenario, CONNECTION))


@pytest.mark.parametrize("mode", [Pipelining.AUTO, Pipelining.EAGER])
def test_every_error_in_send_on_a_reused_connection(mode: Pipelining, count: Count) -> None:
    """An exception of each class at each line."""
    with SmtpServer() as server:
        scenario = send_on_a_reused_connection(StoringServer(server), mode)
        count("places in pool.send", every_place(scenario, IO, all_errors=True))


@pytest.mark.parametrize("mode", [Pipelining.AUTO, Pipelining.EAGER])
def test_every_line_of_send_many_over_a_pool(mode: Pipelining, count: Count) -> None:
    """An exception at each line of the thread that sends."""
    with SmtpServer() as server:
        scenario = send_many_over_a_pool(StoringServer(server), mode)
        count("places in pool.send_many", every_place(scenario, POOL))


@pytest.mark.parametrize("mode", [Pipelining.AUTO, Pipelining.EAGER])
def test_every_bytecode_of_the_io(mode: Pipelining, count: Count) -> None:
    """An exception at each bytecode, also between a system call and the record of its result."""
    with SmtpServer() as server:
        scenario = send_many_on_a_connection(StoringServer(server), mode)
        count("bytecodes in send_many", every_place(scenario, IO, opcodes=True))
