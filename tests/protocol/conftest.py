"""What several modules about exchanges share."""

from __future__ import annotations

import pytest

from tests.support import script


@pytest.fixture(params=[1, 3], ids=["one_by_one", "in_bursts"])
def burst(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the requests of `tests.support.script.run_many` ready one by one, or several at once."""
    monkeypatch.setattr(script, "BURST", request.param)
