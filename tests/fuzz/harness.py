"""Runs a target under atheris, or one input of it without.

Inputs that reach new code, and those that break something, are kept in ``.fuzz/`` beside this
package, so that the next run begins where the last one ended. Nothing here knows any target.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.fuzz.source import Source

TARGETS = ("reply", "ehlo", "sasl", "scram", "address", "parameters", "url", "content")

KEPT = Path(__file__).parent.parent.parent / ".fuzz"

SLOWEST = 5
"""Seconds one input may take; what is linear takes a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    target: str
    runs: int
    seconds: int
    broken: bool


def load(target: str) -> ModuleType:
    """The module of a target."""
    return importlib.import_module(f"tests.fuzz.{target}")


def replay(target: str, data: bytes) -> None:
    """Check one input; raises what it breaks."""
    load(target).check(Source(data))


def fuzz(target: str, seconds: int) -> None:
    """Fuzz in this process, which libFuzzer ends: with 0 if nothing broke."""
    import atheris

    # Comparisons inside of patterns and string methods guide it, too.
    atheris.enabled_hooks.add("RegEx")
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=["smtpconn", "scramp"]):
        module = load(target)

    def check(data: bytes) -> None:
        module.check(Source(data))

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SLOWEST}",
        f"-max_len={getattr(module, 'LONGEST', 4096)}",
        f"-dict={_dictionary(target, module)}",
        f"-artifact_prefix={KEPT / target}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(_corpus(target, module))], check)
    atheris.Fuzz()


def fuzz_all(seconds: int) -> list[Outcome]:
    """Fuzz each target in a process of its own; what libFuzzer says goes to ``.fuzz/``."""
    return [_fuzz_apart(target, seconds) for target in TARGETS]


def _fuzz_apart(target: str, seconds: int) -> Outcome:
    KEPT.mkdir(exist_ok=True)
    log = KEPT / f"{target}.log"
    command = [sys.executable, "-m", "tests.fuzz", target, "--seconds", str(seconds)]
    with log.open("wb") as output:
        done = subprocess.run(
            command, stderr=output, stdout=output, cwd=KEPT.parent, check=False, timeout=None
        )
    said = re.findall(r"Done (\d+) runs in (\d+) second", log.read_text(errors="replace"))
    runs, took = map(int, said[-1]) if said else (0, 0)
    return Outcome(target, runs, took, broken=done.returncode != 0)


def _corpus(target: str, module: ModuleType) -> Path:
    corpus = KEPT / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(module.SEEDS):
        (corpus / f"seed-{number}").write_bytes(seed)
    return corpus


def _dictionary(target: str, module: ModuleType) -> Path:
    path = KEPT / f"{target}.dict"
    KEPT.mkdir(exist_ok=True)
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in module.WORDS)
    path.write_text("\n".join(lines) + "\n")
    return path
