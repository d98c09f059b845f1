"""Run a page as a program: ``python -m tests.support.pages docs/errors.md``.

Each page runs in its own process, because pages configure Django, set up logging and patch modules.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from pathlib import Path

import pytest

from smtpconn import ConnectionPool
from tests.support.pages.internet import Internet
from tests.support.pages.page import Block, blocks, is_as_promised


def run(path: Path) -> int:
    """Run a page; return the number of its blocks of Python.

    Raises:
        AssertionError: a block did not print the output that the page shows, or a check failed.
        BaseException: an exception of a block.
    """
    # Records without a handler go to standard error, where the tests look for warnings of Python.
    logging.lastResort = logging.NullHandler()
    program = [block for block in blocks(path.read_text()) if block.is_run]
    with Internet() as net:
        namespace: dict[str, object] = {"__name__": "__main__", "net": net}
        for block in program:
            _run(path, block, namespace)
        _run_tests(path, program)
        for value in namespace.values():
            # Pages need not close their pools, but the interpreter would warn of open sockets.
            if isinstance(value, ConnectionPool):
                value.close()
    return sum(block.label == "python" for block in program)


def _run(path: Path, block: Block, namespace: dict[str, object]) -> None:
    # Tracebacks show the page's own lines.
    code = compile("\n" * (block.line - 1) + block.code, str(path), "exec", dont_inherit=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    if block.prints is not None and not is_as_promised(printed.getvalue(), block.prints):
        raise AssertionError(
            f"{path}:{block.line} printed\n{printed.getvalue()}\nand not\n{block.prints}"
        )


def _run_tests(path: Path, program: list[Block]) -> None:
    if not any("\ndef test_" in f"\n{block.code}" for block in program):
        return
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / f"test_{path.stem}.py"
        file.write_text("\n".join(b.code for b in program if b.label == "python"))
        result = pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", directory, str(file)])
    if result != 0:
        raise AssertionError(f"the tests that {path} shows do not pass")


if __name__ == "__main__":
    print(f"{run(Path(sys.argv[1]))} blocks")
