"""Names that resolve to chosen addresses, and addresses that answer, hang or refuse."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import pytest

NAME = "mail.example.test"

Address: TypeAlias = tuple[str, int]


def resolve_to(monkeypatch: pytest.MonkeyPatch, addresses: Sequence[Address]) -> None:
    """Have the name resolve to these addresses, and numeric addresses to themselves."""

    def getaddrinfo(host: str, port: int, **options: Any) -> list[Any]:
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not numeric")
        assert host == NAME
        return [
            (
                socket.AF_INET6 if ":" in address[0] else socket.AF_INET,
                socket.SOCK_STREAM,
                0,
                "",
                address,
            )
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@contextmanager
def live(host: str = "127.0.0.1") -> Iterator[Address]:
    """An address with a listener."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.bind((host, 0))
        listener.listen(16)
        yield listener.getsockname()[:2]


@contextmanager
def dead() -> Iterator[Address]:
    """An address whose backlog is full, so that connecting to it hangs."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(64):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            if not select.select([], [sock], [], 0.05)[1]:
                break
        else:
            pytest.skip("this kernel has no limit to the queue of a listening socket")
        yield listener.getsockname()


def refusing(host: str = "127.0.0.1") -> Address:
    """An address without a listener."""
    with live(host) as address:
        return address
