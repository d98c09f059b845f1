"""Faults: a wrong one fails where it is given, and none makes the end of a test wait."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from smtpconn.testing import SmtpServer

LONG = 3600.0


@pytest.mark.parametrize(
    "fault",
    [
        {"reply": 550},
        {"reply": bytearray(b"550 no\r\n")},
        {"reply": ["550 no"]},
        {"delay": "1"},
        {"delay": True},
        {"delay": None},
        {"close": 1},
        {"reset": "yes"},
        {"hang": None},
        {"split": 1.5},
        {"split": True},
        {"before": "250 ok\r\n"},
        {"after": None},
        {"times": "3"},
        {"times": 1.0},
        {"skip": None},
        {"match": b"a@b.c"},
        {"match": 5},
    ],
)
def test_a_wrong_type_fails_where_it_is_given(fault: dict[str, Any]) -> None:
    """The error names the argument; it would otherwise come from a thread, at the end."""
    (name,) = fault
    server = SmtpServer()
    with pytest.raises(TypeError, match=rf"^{name} is "):
        server.fault("RCPT", **fault)


@pytest.mark.parametrize(
    "fault",
    [
        {"delay": -1.0},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"split": -1},
        {"skip": -1},
        {"times": 0},
        {"times": -2},
    ],
)
def test_an_impossible_value_fails_where_it_is_given(fault: dict[str, Any]) -> None:
    """A negative number, and a fault that would never apply."""
    with pytest.raises(ValueError, match=next(iter(fault))):
        SmtpServer().fault("RCPT", **fault)


@pytest.mark.parametrize(
    "call",
    [
        lambda server: server.refuse_recipient(b"a@b.c"),
        lambda server: server.refuse_recipient("a@b.c", 550),
        lambda server: server.shut_down_at("MAIL", 421),
        lambda server: server.drop_at("MAIL", times="1"),
        lambda server: server.delay_at("MAIL", "1"),
        lambda server: server.close_idle(421),
    ],
)
def test_the_short_ways_check_their_arguments_too(call: Any) -> None:
    """They are `fault` with fewer arguments."""
    with pytest.raises(TypeError):
        call(SmtpServer())


@pytest.mark.parametrize("how", ["stop", "kill", "restart"])
@pytest.mark.parametrize(
    ("fault", "command"),
    [
        ({"step": "NOOP", "delay": LONG}, b"NOOP\r\n"),
        ({"step": "EHLO", "delay": LONG, "close": True}, b"EHLO me\r\n"),
        ({"step": "HELP", "reply": "214 " + "x" * 1_000_000, "split": 1}, b"HELP\r\n"),
        ({"step": "NOOP", "hang": True}, b"NOOP\r\n"),
    ],
)
def test_the_end_does_not_wait_for_a_fault(how: str, fault: dict[str, Any], command: bytes) -> None:
    """Neither for a delay, nor for a reply in pieces, nor for silence."""
    with SmtpServer() as server:
        server.fault(**fault)
        with socket.create_connection((server.host, server.port), timeout=10) as peer:
            assert peer.recv(100).startswith(b"220 ")
            peer.sendall(command)
            server.wait_for(lambda: bool(server.connections[0].commands))
            begun = time.monotonic()
            getattr(server, how)()
            assert time.monotonic() - begun < 5
            assert server.connections[0].closed
