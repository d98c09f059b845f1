"""The log of pools: what a handler causes while it handles one of its records is dropped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from smtpconn.pool.pool_log import log


class Nested(logging.Handler):
    """A handler that logs while it handles a record.

    Attributes:
        texts: the texts of its records.
        inside: called for each record.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.inside: Callable[[], None] = lambda: log(logging.ERROR, "from inside")

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock, for which another thread would wait."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Note it, and do what was said."""
        self.texts.append(record.getMessage())
        self.inside()


@pytest.fixture
def handler() -> Iterator[Nested]:
    """A handler of what pools and the contrib modules log."""
    nested, logger = Nested(), logging.getLogger("smtpconn")
    level = logger.level
    logger.addHandler(nested)
    logger.setLevel(logging.INFO)
    yield nested
    logger.setLevel(level)
    logger.removeHandler(nested)


def test_what_a_handler_causes_is_dropped(handler: Nested) -> None:
    """But not the next record from outside."""
    log(logging.INFO, "%s: %d", "first", 1)
    log(logging.INFO, "second", name="smtpconn.contrib")
    assert handler.texts == ["first: 1", "second"]


def test_what_other_threads_log_is_not_dropped(handler: Nested) -> None:
    """It has nothing to do with the handler's record."""

    def in_another_thread() -> None:
        handler.inside = lambda: None
        thread = threading.Thread(target=log, args=(logging.INFO, "from another thread"))
        thread.start()
        thread.join(10)

    handler.inside = in_another_thread
    log(logging.INFO, "first")
    assert handler.texts == ["first", "from another thread"]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_a_handler_that_fails(handler: Nested, kind: type[BaseException]) -> None:
    """The error is the caller's, and what is logged later is not dropped."""

    def fail() -> None:
        raise kind

    handler.inside = fail
    with pytest.raises(kind):
        log(logging.INFO, "first")
    handler.inside = lambda: None
    log(logging.INFO, "second")
    assert handler.texts == ["first", "second"]


def test_what_is_below_the_level(handler: Nested) -> None:
    """The record is dropped."""
    log(logging.DEBUG, "a detail")
    assert handler.texts == []


def test_a_record_names_who_logs(handler: Nested, caplog: pytest.LogCaptureFixture) -> None:
    """Not the function in between; and an exception is shown if that is wished."""
    handler.inside = lambda: None
    try:
        raise ValueError("a bug")
    except ValueError:
        log(logging.ERROR, "failed", exc_info=True)
    [record] = caplog.records
    assert (record.funcName, record.name) == (
        "test_a_record_names_who_logs",
        "smtpconn.pool",
    )
    assert "a bug" in caplog.text
