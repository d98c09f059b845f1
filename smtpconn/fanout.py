"""Doing many things in a few threads, lazily: for sending many messages over a pool.

Items are taken from the input one by one as threads become free, and outcomes are handed on as they
come; what lies in between is bounded by the number of threads. When nobody wants outcomes any more,
no further item is begun, and what was begun is finished.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class _FanOut(Generic[Item, Outcome]):
    """One run: the input, the threads, the outcomes on their way."""

    def __init__(
        self, work: Callable[[Item], Outcome], items: Iterable[Item], threads: int
    ) -> None:
        self._work = work
        self._items = iter(items)
        self._lock = threading.Lock()
        self._is_over = False
        # None: a thread has ended.
        self._outcomes: queue.Queue[Outcome | BaseException | None] = queue.Queue(threads)
        self._threads = [
            threading.Thread(target=self._run, name=f"smtpconn-sender-{n}") for n in range(threads)
        ]

    def outcomes(self) -> Iterator[Outcome]:
        running, error = 0, None
        try:
            for thread in self._threads:
                thread.start()
                running += 1
            while running:
                outcome = self._outcomes.get()
                if outcome is None:
                    running -= 1
                elif isinstance(outcome, BaseException):
                    error = outcome
                else:
                    yield outcome
        finally:
            self._is_over = True
            while running:
                running -= self._outcomes.get() is None
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            while True:
                with self._lock:
                    # Asked here and not before: who waits for the lock may have waited long.
                    if self._is_over:
                        return
                    item = next(self._items)
                self._outcomes.put(self._work(item))
        except StopIteration:
            pass
        except BaseException as error:
            # The input is broken, or the work itself: nothing further is begun.
            self._is_over = True
            self._outcomes.put(error)
        finally:
            self._outcomes.put(None)


def fan_out(
    work: Callable[[Item], Outcome], items: Iterable[Item], threads: int
) -> Iterator[Outcome]:
    """Call ``work`` with each item in so many threads; yields the outcomes as they come.

    Raises:
        BaseException: what the input or ``work`` raised, after the other outcomes.
    """
    return _FanOut(work, items, threads).outcomes()
