"""Many threads and a server that fails at random: acknowledged messages are stored once."""

from __future__ import annotations

import pytest

from benchmarks.chaos import run


@pytest.mark.timeout(60)  # on a busy machine its threads take long to end
@pytest.mark.parametrize("seed", [1, 2])
def test_acknowledged_messages_are_stored_once(seed: int) -> None:
    """The server is killed, delayed and restarted: each acknowledged message is stored once."""
    account = run(2.0, seed)
    assert not any(account.imbalances().values()), account.imbalances()
    assert set(account.stored) <= account.acknowledged | account.unknown
    assert len(account.acknowledged) > 100
