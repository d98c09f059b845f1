"""Doing many things in a few threads, lazily: for sending many messages over a pool.

Items are taken from the input one by one as threads become free, and outcomes are handed on as they
come; what lies in between is bounded by the number of threads. When nobody wants outcomes any more,
no further item is begun, and what was begun is finished.

The threads are daemons, so that a process ends although somebody still holds the iterator; before
the interpreter stops them, work that is under way is waited for (`_finish_at_exit`).
"""

from __future__ import annotations

import atexit
import contextvars
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from smtpconn.model.errors import PoolError
from smtpconn.net.forking import current_process, is_current_process

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_END: Any = object()
_get = queue.SimpleQueue.get
_runs: weakref.WeakSet[_Run[Any, Any]] = weakref.WeakSet()


class BrokenOff(Exception, Generic[Outcome]):
    """Raised by the work when something ends the run and the item has an outcome all the same.

    Args:
        outcome: the item's.
        cause: what ends the run, and comes out behind all outcomes.
    """

    def __init__(self, outcome: Outcome, cause: BaseException) -> None:
        super().__init__()
        self.outcome = outcome
        self.cause = cause


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the input or the work raised."""

    error: BaseException


class FanOut(Generic[Item, Outcome]):
    """One run, and the iterator of its outcomes, which several threads may take.

    Nobody ever waits for room to put something down, so that threads come to their end also when
    whoever wanted the outcomes was torn away: an item is begun only with a turn, and a turn comes
    back when an outcome is taken.

    Not a generator: its end would run wherever it is collected as garbage, in one of its own
    threads perhaps, and must not wait there. Who wants to wait calls `close`. Nor has it a
    destructor, which an exception of a signal handler could cut off (see `_Run.belong_to`).
    """

    def __init__(
        self, work: Callable[[Item], Outcome], items: Iterable[Item], threads: int
    ) -> None:
        self._run = _Run(work, iter(items), threads)
        self._count = threads
        self._threads: list[threading.Thread] = []
        self._context = contextvars.copy_context()
        self._running: set[threading.Thread] = set()
        self._has_begun = False
        self._error: BaseException | None = None
        # None until the threads are started; then they are of that process only.
        self._process: int | None = None
        # What has come and was not taken yet. Who takes or waits has the lock; a signal handler
        # that wants an outcome while its thread waits for one may have it.
        self._ready: deque[Outcome | _Failure | threading.Thread] = deque()
        self._lock = threading.RLock()

    def __iter__(self) -> Iterator[Outcome]:
        return self

    def __next__(self) -> Outcome:
        taken: list[Outcome] = []
        try:
            with self._lock:
                error = self._take(taken)
            if taken:
                return taken[0]
        except BaseException:
            if taken:
                self._ready.appendleft(taken[0])
            raise
        if isinstance(error, StopIteration):
            # It would be taken for the end, as in a generator (PEP 479).
            raise RuntimeError("the work raised StopIteration") from error
        raise error if error is not None else StopIteration

    def _take(self, taken: list[Outcome]) -> BaseException | None:
        """Take the next outcome; if there is none, the error it all ended with.

        An exception may strike anywhere here, and the next call goes on from what is noted.
        """
        if not self._has_begun:
            self._begin()
        if self._running and self._is_the_parents():
            # It would wait for ever for threads that are the parent's.
            raise PoolError(
                "the process was forked while messages were sent: the parent goes on with them",
                may_have_been_delivered=True,
            )
        while self._ready or self._running:
            if not self._ready:
                # In one step, which no exception can cut in two: else an outcome might be lost
                # between the queue and here.
                self._ready.extend(map(_get, (self._run.outcomes,)))
            outcome = self._ready[0]
            if isinstance(outcome, threading.Thread):
                self._running.discard(outcome)
                del self._ready[0]
            elif isinstance(outcome, _Failure):
                self._error = outcome.error
                del self._ready[0]
            else:
                self._run.give_turns(1)
                self._move(outcome, taken)
                return None
        self.close()
        error, self._error = self._error, None
        return error

    def _move(self, outcome: Outcome, taken: list[Outcome]) -> None:
        """Take the oldest of those that are ready."""
        try:
            del self._ready[0]
            taken.append(outcome)
        except BaseException:
            if not taken and not (self._ready and self._ready[0] is outcome):
                self._ready.appendleft(outcome)
            raise

    def close(self) -> None:
        """Begin nothing more, and wait until what was begun is finished.

        Does nothing in a forked child: what was begun is the parent's.
        """
        if self._is_the_parents():
            return
        self._has_begun = True
        self._running.clear()
        self._run.end()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _is_the_parents(self) -> bool:
        return self._process is not None and self._process != current_process()

    def _begin(self) -> None:
        self._process = self._run.process = current_process()
        self._run.belong_to(self)
        _runs.add(self._run)
        # Not made before: a thread that waits to be started cannot be after a fork (3.13).
        while len(self._threads) < self._count:
            thread = threading.Thread(
                # Each in a copy of the caller's context (PEP 567), so that the work belongs to what
                # the caller is doing: a trace, a request.
                target=self._context.copy().run,
                args=(self._run.work,),
                name=f"smtpconn-sender-{len(self._threads)}",
                daemon=True,
            )
            self._threads.append(thread)
        # Goes on where it was cut off, if it was.
        for thread in self._threads:
            try:
                if thread.ident is None:
                    thread.start()
            except RuntimeError as error:
                # No more threads are to be had. What was begun is finished first.
                self._error = error
                self._run.end()
                break
            self._running.add(thread)
        self._has_begun = True


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
        self.process: int | None = None
        self._busy: set[threading.Thread] = set()
        self._turns: queue.SimpleQueue[weakref.ref[object] | None] = queue.SimpleQueue()
        self._iterator: weakref.ref[object] | None = None
        # A thread: it has ended.
        self.outcomes: queue.SimpleQueue[Outcome | _Failure | threading.Thread]
        self.outcomes = queue.SimpleQueue()
        self.give_turns(2 * threads)

    def end(self) -> None:
        """Begin nothing more; never waits."""
        self._is_over = True
        self.give_turns(self._count)

    def belong_to(self, iterator: object) -> None:
        """Begin nothing more when this object is collected as garbage.

        All that runs then is a function in C, which no signal handler and no other destructor
        interrupts: it wakes up a thread, which finds the object gone and wakes up the next.
        """
        self._iterator = weakref.ref(iterator, self._turns.put)

    def _has_ended(self) -> bool:
        return self._is_over or (self._iterator is not None and self._iterator() is None)

    def finish(self) -> None:
        """Begin nothing more, and wait for the work that is under way, but not for the input."""
        self.end()
        # In a child of a fork the threads are the parent's.
        if self.process is not None and is_current_process(self.process):
            for thread in list(self._busy):
                thread.join()

    def give_turns(self, count: int) -> None:
        """Let so many more items be begun."""
        for _ in range(count):
            self._turns.put(None)

    def work(self) -> None:
        """What each thread does."""
        try:
            while True:
                self._turns.get()
                # Asked before, because the input may keep the lock for ever when the process ends,
                # and then again: who waits for the lock may have waited long.
                if self._has_ended():
                    return
                with self._lock:
                    if self._has_ended():
                        return
                    item = next(self._items, _END)
                    if item is _END:
                        return
                    self._busy.add(threading.current_thread())
                self.outcomes.put(self._work(item))
                self._busy.discard(threading.current_thread())
        except BrokenOff as broken:
            self._is_over = True
            self.outcomes.put(broken.outcome)
            self.outcomes.put(_Failure(broken.cause))
        except BaseException as error:
            # The input is broken, or the work itself: nothing further is begun.
            self._is_over = True
            self.outcomes.put(_Failure(error))
        finally:
            self._busy.discard(threading.current_thread())
            self.outcomes.put(threading.current_thread())
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


def _finish_at_exit() -> None:
    for run in list(_runs):
        run.finish()


atexit.register(_finish_at_exit)
