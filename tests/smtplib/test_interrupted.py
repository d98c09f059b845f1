"""Pooled objects that are cut off anywhere, by a signal handler's error or whatever else."""

from __future__ import annotations

import gc

import pytest

from smtpconn import smtplib
from smtpconn.testing import SmtpServer
from tests.support.exception_injector import ExceptionInjector, every_place

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    pytest.mark.timeout(120),
]

ME, YOU, SHE = "me@example.com", "you@example.net", "she@example.net"
MODULES = (
    "smtplib/smtp.py",
    "smtplib/pools.py",
    "smtplib/pooled_server.py",
    "smtplib/server.py",
    "smtplib/deadline_lock.py",
    "smtplib/connection.py",
)


@pytest.mark.parametrize("ending", ["with", "quit", "close"])
def test_a_place_is_never_lost(ending: str) -> None:
    """After each of them the one connection of the pool is there for the next object, and the next
    message goes to its recipients."""
    interrupted = 0

    with SmtpServer(users={"user": "secret"}) as server:

        def use(pools: smtplib.Pools) -> None:
            smtp = smtplib.SMTP(server.host, server.port, "me.example", timeout=5, pool=pools)
            if ending == "with":
                with smtp:
                    smtp.login("user", "secret")
                    smtp.sendmail(ME, [YOU], "Subject: one\n\nHello!\n")
                return
            smtp.login("user", "secret")
            smtp.mail(ME)
            smtp.rcpt(SHE)
            smtp.rset()
            getattr(smtp, ending)()

        def scenario(injector: ExceptionInjector, error: BaseException) -> None:
            nonlocal interrupted
            with smtplib.Pools(max_size=1, acquire_timeout=2, keepalive=None) as pools:
                use(pools)
                try:
                    with injector:
                        use(pools)
                except BaseException as raised:
                    if isinstance(raised, AssertionError):
                        raise
                    raised.__traceback__ = None
                error.__traceback__ = error.__context__ = None
                gc.collect()
                with smtplib.SMTP(server.host, server.port, "me.example", pool=pools) as smtp:
                    smtp.login("user", "secret")
                    smtp.sendmail(ME, [YOU], "Subject: last\n\nHello!\n")
                (entry,) = pools._entries.values()
                assert not entry.is_in_use, injector.where
                interrupted += 1
            assert server.messages[-1].recipients == (YOU,), injector.where
            assert server.messages[-1].email["Subject"] == "last"
            assert not any(SHE in m.recipients for m in server.messages)
            server.clear()

        every_place(scenario, MODULES, step=4)
    assert interrupted > 50
