"""Doing many things in a few threads, lazily: for sending many messages over a pool.

Items are taken from the input one by one as threads become free, and outcomes are handed on as they
come; what lies in between is bounded by the number of threads. When nobody wants outcomes any more,
no further item is begun, and what was begun is finished.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from smtpconn.model.errors import PoolError
from smtpconn.net.forking import current_process, is_current_process

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_END: Any = object()


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the input or the work raised."""

    error: BaseException


class FanOut(Generic[Item, Outcome]):
    """One run, and the iterator of its outcomes.

    Nobody ever waits for room to put something down, so that threads come to their end also when
    whoever wanted the outcomes was torn away: an item is begun only with a turn, and a turn comes
    back when an outcome is taken.

    Not a generator: its end would run wherever it is collected as garbage, in one of its own
    threads perhaps, and must not wait there. Who wants to wait calls `close`.
    """

    def __init__(
        self, work: Callable[[Item], Outcome], items: Iterable[Item], threads: int
    ) -> None:
        # None until the threads are started; then they are of that process only.
        self._process: int | None = None
        self._run = _Run(work, iter(items), threads)
        self._count = threads
        self._threads: list[threading.Thread] = []
        self._context = contextvars.copy_context()
        self._running = 0
        self._has_begun = False
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[Outcome]:
        return self

    def __next__(self) -> Outcome:
        if not self._has_begun:
            self._begin()
        if self._running and self._is_the_parents():
            # It would be waited for ever for threads that are the parent's.
            raise PoolError(
                "the process was forked while messages were sent: the parent goes on with them",
                may_have_been_delivered=True,
            )
        while self._running:
            outcome = self._run.outcomes.get()
            if outcome is None:
                self._running -= 1
            elif isinstance(outcome, _Failure):
                self._error = outcome.error
            else:
                self._run.give_turns(1)
                return outcome
        self.close()
        error, self._error = self._error, None
        if isinstance(error, StopIteration):
            # It would be taken for the end, as in a generator (PEP 479).
            raise RuntimeError("the work raised StopIteration") from error
        raise error if error is not None else StopIteration

    def close(self) -> None:
        """Begin nothing more, and wait until what was begun is finished.

        Does nothing in a forked child: what was begun is the parent's.
        """
        if self._is_the_parents():
            return
        self._has_begun = True
        self._running = 0
        self._run.end()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def __del__(self) -> None:
        if self._process is not None and is_current_process(self._process):
            self._run.end()

    def _is_the_parents(self) -> bool:
        return self._process is not None and self._process != current_process()

    def _begin(self) -> None:
        self._process = current_process()
        self._has_begun = True
        try:
            # Not made before: a thread that waits to be started cannot be after a fork (3.13).
            for n in range(self._count):
                thread = threading.Thread(
                    # Each in a copy of the caller's context (PEP 567), so that the work belongs to
                    # what the caller is doing: a trace, a request.
                    target=self._context.copy().run,
                    args=(self._run.work,),
                    name=f"smtpconn-sender-{n}",
                )
                self._threads.append(thread)
                thread.start()
                self._running += 1
        except BaseException:
            self.close()
            raise


class _Run(Generic[Item, Outcome]):
    """What the threads share; it knows nothing of the iterator, which may be gone before them."""

    def __init__(
        self, work: Callable[[Item], Outcome], items: Iterator[Item], threads: int
    ) -> None:
        self._work = work
        self._items = items
        self._count = threads
        self._lock = threading.Lock()
        self._is_over = False
        self._turns: queue.SimpleQueue[None] = queue.SimpleQueue()
        # None: a thread has ended.
        self.outcomes: queue.SimpleQueue[Outcome | _Failure | None] = queue.SimpleQueue()
        self.give_turns(2 * threads)

    def end(self) -> None:
        """Begin nothing more; never waits."""
        self._is_over = True
        self.give_turns(self._count)

    def give_turns(self, count: int) -> None:
        """Let so many more items be begun."""
        for _ in range(count):
            self._turns.put(None)

    def work(self) -> None:
        """What each thread does."""
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
                self.outcomes.put(self._work(item))
        except BaseException as error:
            # The input is broken, or the work itself: nothing further is begun.
            self._is_over = True
            self.outcomes.put(_Failure(error))
        finally:
            self.outcomes.put(None)
            # Whoever waits for a turn is to see that it is over.
            self.give_turns(1)


def fan_out(
    work: Callable[[Item], Outcome], items: Iterable[Item], threads: int
) -> FanOut[Item, Outcome]:
    """Call ``work`` with each item in so many threads; yields the outcomes as they come.

    Raises:
        BaseException: what the input or ``work`` raised, after the other outcomes.
    """
    return FanOut(work, items, threads)
