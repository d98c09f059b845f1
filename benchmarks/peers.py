"""The pools that are compared, all made to look the same: take, give, and connections that cost
nothing (or fail) unless the measurement says otherwise.

A peer gets connections that are mere objects, so what is measured is the pool. smtpconn has no such
thing as a mere object: its connections are real ones to a server in this process, and the probe at
each checkout is a real one too.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import smtpconn
from smtpconn.testing import SmtpServer

TakeAndGive: TypeAlias = tuple[Callable[[], Any], Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A kind of pool.

    Attributes:
        name: for the table.
        files: where its code is, as a prefix of file names.
        make: makes a pool of ``size`` whose callers wait ``timeout`` seconds; a context manager
            that yields two functions: take, which returns a connection, and give.
    """

    name: str
    files: str
    make: Callable[[int, float], Any]


def peers() -> list[Peer]:
    """Those that are installed, smtpconn first."""
    found = [Peer("smtpconn", _directory(smtpconn), _smtpconn)]
    if importlib.util.find_spec("psycopg_pool") is not None:
        found.append(Peer("psycopg_pool", _directory(_module("psycopg_pool")), _psycopg_pool))
    if importlib.util.find_spec("sqlalchemy") is not None:
        found.append(Peer("SQLAlchemy", _directory(_module("sqlalchemy")), _sqlalchemy))
    return found


def _module(name: str) -> Any:
    """A peer's module, untyped: whether it is installed must not matter to the type checker."""
    return importlib.import_module(name)


def _directory(module: ModuleType) -> str:
    return str(Path(str(module.__file__)).parent)


@contextmanager
def _smtpconn(size: int, timeout: float) -> Iterator[TakeAndGive]:
    with SmtpServer() as server:
        pool = smtpconn.ConnectionPool(
            server.url, max_size=size, acquire_timeout=timeout, keepalive=None
        )

        def take() -> Any:
            lease = pool.connection()
            lease.__enter__()
            return lease

        def give(lease: Any) -> None:
            lease.__exit__(None, None, None)

        try:
            yield take, give
        finally:
            pool.close(0)


@contextmanager
def _psycopg_pool(size: int, timeout: float) -> Iterator[TakeAndGive]:
    class Connection:
        """As much of a connection as the pool looks at."""

        def __init__(self) -> None:
            self._pool: Any = None
            self.closed = False
            self.pgconn = type("PGconn", (), {"transaction_status": 0})()

        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Connection:
            return cls()

        def close(self) -> None:
            self.closed = True

        def _close(self) -> None:
            self.closed = True

    pool = _module("psycopg_pool").ConnectionPool(
        "",
        connection_class=Connection,
        min_size=size,
        max_size=size,
        timeout=timeout,
        open=True,
    )
    pool.wait()
    try:
        yield pool.getconn, pool.putconn
    finally:
        pool.close(0)


@contextmanager
def _sqlalchemy(size: int, timeout: float) -> Iterator[TakeAndGive]:
    class Connection:
        """As much of a connection as the pool looks at."""

        def rollback(self) -> None:
            """Nothing was begun."""

        def close(self) -> None:
            """Nothing was opened."""

    pool = _module("sqlalchemy.pool").QueuePool(
        Connection, pool_size=size, max_overflow=0, timeout=timeout
    )
    try:
        yield pool.connect, lambda connection: connection.close()
    finally:
        pool.dispose()
