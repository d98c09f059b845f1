"""Doing many things in a few threads, lazily: for sending many messages over a pool.

Items are taken from the input one by one as threads become free, and outcomes are handed on as they
come; what lies in between is bounded by the number of threads. When nobody wants outcomes any more,
no further item is begun, and what was begun is finished.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_END: Any = object()


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the input or the work raised."""

    error: BaseException


class _FanOut(Generic[Item, Outcome]):
    """One run: the input, the threads, the outcomes on their way.

    Nobody ever waits for room to put something down, so that threads come to their end also when
    whoever wanted the outcomes was torn away: an item is begun only with a turn, and a turn comes
    back when an outcome is taken.
    """

    def __init__(
        self, work: Callable[[Item], Outcome], items: Iterable[Item], threads: int
    ) -> None:
        self._work = work
        self._items = iter(items)
        self._lock = threading.Lock()
        self._is_over = False
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        # None: a thread has ended.
        self._outcomes: queue.SimpleQueue[Outcome | _Failure | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"smtpconn-sender-{n}") for n in range(threads)
        ]

    def outcomes(self) -> Iterator[Outcome]:
        running, error = 0, None
        try:
            self._give_turns(2 * len(self._threads))
            for thread in self._threads:
                thread.start()
                running += 1
            while running:
                outcome = self._outcomes.get()
                if outcome is None:
                    running -= 1
                elif isinstance(outcome, _Failure):
                    error = outcome.error
                else:
                    self._give_turns(1)
                    yield outcome
        finally:
            self._is_over = True
            self._give_turns(len(self._threads))
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join()
        if error is not None:
            raise error

    def _give_turns(self, count: int) -> None:
        for _ in range(count):
            self._turns.put(None)

    def _run(self) -> None:
        try:
            while True:
                self._turns.get()
                with self._lock:
                    # Asked here and not before: who waits for the lock may have waited long.
                    if self._is_over:
                        return
                    item = next(self._items, _END)
                if item is _END:
                    return
                self._outcomes.put(self._work(item))
        except BaseException as error:
            # The input is broken, or the work itself: nothing further is begun.
            self._is_over = True
            self._outcomes.put(_Failure(error))
        finally:
            self._outcomes.put(None)
            # Whoever waits for a turn is to see that it is over.
            self._give_turns(1)


def fan_out(
    work: Callable[[Item], Outcome], items: Iterable[Item], threads: int
) -> Iterator[Outcome]:
    """Call ``work`` with each item in so many threads; yields the outcomes as they come.

    Raises:
        BaseException: what the input or ``work`` raised, after the other outcomes.
    """
    return _FanOut(work, items, threads).outcomes()
