"""The fuzzers' targets without a fuzzer: on their seeds, and on a few bytes of hypothesis' choice.

So they keep working between two runs of ``python -m tests.fuzz``, and their promises hold in every
run of the suite.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fuzz
from tests.faults.conftest import Count
from tests.fuzz import harness
from tests.fuzz.__main__ import main
from tests.fuzz.source import Source

QUICK = settings(deadline=None, max_examples=40)

each_target = pytest.mark.parametrize("target", harness.TARGETS)


def inputs(target: str) -> st.SearchStrategy[bytes]:
    """Bytes, seeds, and what is put together of a target's words."""
    module = harness.load(target)
    piece = st.binary(max_size=20) | st.sampled_from(module.WORDS)
    return st.sampled_from(module.SEEDS) | st.lists(piece, max_size=12).map(b"".join)


@each_target
def test_the_seeds(target: str, count: Count) -> None:
    """Every seed of every target keeps the target's promises."""
    seeds = harness.load(target).SEEDS
    for seed in seeds:
        harness.replay(target, seed)
    count("seeds of fuzzers", len(seeds))


@each_target
def test_other_bytes(target: str, count: Count) -> None:
    """So do arbitrary bytes."""
    examples = 0

    @QUICK
    @given(inputs(target))
    def check(data: bytes) -> None:
        nonlocal examples
        examples += 1
        harness.load(target).check(Source(data))

    check()
    count("fuzz examples", examples)


def test_every_target_is_known() -> None:
    """A module with a ``check`` is a target; it has seeds and words."""
    modules = {path.stem for path in Path(next(iter(fuzz.__path__))).glob("*.py")}
    assert modules - {"__init__", "__main__", "harness", "source"} == set(harness.TARGETS)
    for target in harness.TARGETS:
        assert harness.load(target).SEEDS
        assert all(harness.load(target).WORDS)


def test_an_input_can_be_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fuzzer kept is checked again by one command, without the fuzzer."""
    kept = tmp_path / "crash"
    kept.write_bytes(b"250 ok\r\n")
    monkeypatch.setattr(sys, "argv", ["fuzz", "reply", "--replay", str(kept)])
    assert main() == 0


def test_a_source_ends() -> None:
    """Nothing is taken twice, and from nothing come the least values."""
    source = Source(b"one\xfftwo\xffthree\x05\x01")
    assert source.chance()
    assert source.number(10, 13) == 11
    assert (source.field(), source.text(), source.rest()) == (b"one", "two", b"three")
    assert (source.field(), source.text(), source.rest()) == (b"", "", b"")
    assert (source.number(3, 9), source.chance(), source.choice("ab")) == (3, False, "a")
    assert list(source.pieces()) == []
    assert b"".join(Source(bytes(range(100))).pieces()) == bytes(range(92))
