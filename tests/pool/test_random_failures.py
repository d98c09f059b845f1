"""Many threads and a server that fails at random: acknowledged messages are stored once."""

from __future__ import annotations

import threading

import pytest

from benchmarks.chaos import run
from smtpconn import ConnectionPool, TlsMode
from tests.realservers.base import wait_until
from tests.realservers.certificates import Certificates
from tests.realservers.postfix import Postfix
from tests.support.numbered_messages import config, identities, send_until_known
from tests.support.threads import run_in_threads


@pytest.mark.parametrize("seed", [1, 2])
def test_acknowledged_messages_are_stored_once(seed: int) -> None:
    """The server is killed, delayed and restarted: each acknowledged message is stored once."""
    account = run(2.0, seed)
    assert not any(account.imbalances().values()), account.imbalances()
    assert set(account.stored) <= account.acknowledged | account.unknown
    assert len(account.acknowledged) > 100


def test_postfix_killed_three_times_while_16_threads_send(
    postfix: Postfix, certificates: Certificates
) -> None:
    """Each acknowledged message is stored; few are unknown; none is lost."""
    acknowledged: set[str] = set()
    unknown: set[str] = set()
    done = threading.Semaphore(0)

    with ConnectionPool(config(postfix, certificates, TlsMode.NONE), max_size=5) as pool:

        def work(thread: int) -> None:
            for number in range(20):
                identity = f"t{thread}n{number}"
                send_until_known(pool, identity, acknowledged, unknown)
                done.release()

        def kill() -> None:
            for _ in range(3):
                for _ in range(60):
                    done.acquire()
                postfix.restart()

        killer = threading.Thread(target=kill)
        killer.start()
        run_in_threads(16, work)
        killer.join()
    assert acknowledged | unknown == {f"t{t}n{n}" for t in range(16) for n in range(20)}
    assert len(unknown) <= 3 * 5
    assert wait_until(lambda: acknowledged <= set(identities(postfix.stored())), 10)
    assert max(identities(postfix.logs().encode().splitlines()).values()) == 1
