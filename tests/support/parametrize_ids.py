"""Names for the parameters of tests."""

from __future__ import annotations

import re


def stable_repr(value: object) -> str:
    """The repr of a value without addresses, so that a test has the same name in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
