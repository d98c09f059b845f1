"""A bounded pipeline of jobs: a lazy input, worker threads, and the iterator of the outcomes.

There are three kinds of threads. Threads of the caller take outcomes. The feeder takes jobs from
the input, so that a slow input never delays a job in flight. The workers do jobs: each gets one,
and may take more of the ready ones while it has a connection (`smtpconn.pool.bulk_sender`).

Rule 1: the jobs between the input and the caller are limited, by number and by size. The feeder
        takes a job only below these limits, and taking an outcome releases the job's share of
        them. So no thread waits to deliver an outcome, and all threads end even if no more outcomes
        are taken.
Rule 2: every job that was taken from the input has one outcome. After a stop, jobs in flight are
        finished, and the outcome of each job that was not begun is `Job.never_begun`.
Rule 3: `Outcomes.stop` takes no lock and never waits, so that a signal handler may call it. For
        that reason threads wait only on a `queue.SimpleQueue`, whose ``put`` is re-entrant. Only
        the threads of a run take its lock, and signal handlers do not interrupt those.

The threads are daemons, so that a process ends although an iterator is alive. Before the
interpreter stops them, `_finish_at_exit` waits for the jobs in flight.
"""

from __future__ import annotations

import atexit
import contextvars
import operator
import queue
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeAlias, TypeVar

from smtpconn.model.errors import PoolError, PoolOverloadedError
from smtpconn.net.forking import current_process, is_current_process
from smtpconn.net.threads import start_thread

Outcome = TypeVar("Outcome")
JobT = TypeVar("JobT", bound="Job[Any]")

INPUT_TIMEOUT = 1.0
"""Seconds that the end of a run waits for an input that yields no item and does not end."""

# Not `queue.SimpleQueue.get`: gevent may replace the class after this module was imported.
_get = operator.methodcaller("get")
_get_nowait = operator.methodcaller("get_nowait")
_runs: weakref.WeakSet[Run[Any]] = weakref.WeakSet()


class Job(Generic[Outcome]):
    """A unit of work; the base class of `smtpconn.pool.bulk_sender.MailJob`.

    Attributes:
        size: the approximate number of bytes that the job holds in memory.
        outcome: the outcome; None while it is not known.
    """

    __slots__ = ("outcome", "size")

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.outcome: Outcome | None = None

    def never_begun(self) -> Outcome:
        """The outcome of a job that was taken from the input and not begun."""
        raise AssertionError("a subclass has this method")


class JobLimit:
    """A limit on the jobs between the input and the caller.

    Attributes:
        jobs: the maximum number of jobs.
        size: the maximum of their sizes together, in bytes; two jobs for each worker are allowed
            in any case.
    """

    __slots__ = ("jobs", "size")

    def __init__(self, jobs: int, size: int) -> None:
        self.jobs = jobs
        self.size = size


class _Failure:
    """An exception that the input or a worker raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


_Entry: TypeAlias = list[Job[Outcome]] | Job[Outcome] | _Failure | int | weakref.ref[object] | None

_FEEDER = 0
"""The number of the feeder among the threads of a run; the workers have those above."""


class Run(Generic[JobT]):
    """The state that the threads share. It outlives the iterator, to which it has a weak reference.

    Args:
        work: called by a worker with a job and the run. It passes that job, and each job that it
            gets from `take_ready`, to `settle`, even if it raises an exception.
        jobs: the input.
        workers: the number of worker threads.
        limit: the limit on the jobs between the input and the caller.
    """

    def __init__(
        self,
        work: Callable[[JobT, Run[JobT]], None],
        jobs: Iterator[JobT],
        workers: int,
        limit: JobLimit,
    ) -> None:
        self.workers = workers
        self.limit = limit
        self.process: int | None = None
        self._iterator: weakref.ref[object] | None = None
        self._sleeper_reference: weakref.ref[object] | None = None
        # The context variables of the caller (PEP 567): the work belongs to its trace or request.
        self.context = contextvars.copy_context()
        # Jobs that no worker has taken. None: there are no more jobs, or the run is over. A
        # reference: the iterator was collected as garbage.
        self.ready: queue.SimpleQueue[JobT | weakref.ref[object] | None] = queue.SimpleQueue()
        # A list: jobs that are done, the last one first. A job: one that was not begun. A number:
        # the thread with that number has ended. None: wakes the caller after `end`, so that it
        # fetches the jobs that no worker will take.
        self.outcomes: queue.SimpleQueue[list[JobT] | JobT | _Failure | int | None]
        self.outcomes = queue.SimpleQueue()
        self._work = work
        self._jobs = jobs
        self._lock = threading.Lock()
        self._is_over = False
        self._unclaimed = list(range(workers + 1))
        self._unsettled = 0
        self._has_input_ended = False
        self._busy: set[threading.Thread] = set()
        # Capacity that is free again: numbers of jobs and of bytes. None: the run is over.
        self._released: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._wakeups: queue.SimpleQueue[weakref.ref[object] | None] = queue.SimpleQueue()

    @property
    def is_over(self) -> bool:
        """Whether no further job may be begun; always true in a forked child."""
        if self._is_over or self.process is None or not is_current_process(self.process):
            return True
        return self._iterator is not None and self._iterator() is None

    # Called by any thread.

    def end_when_collected(self, iterator: object) -> None:
        """End the run when ``iterator`` is collected as garbage.

        The callback of the reference is a function in C, which no signal handler and no other
        destructor interrupts. It wakes a worker, which finds that the iterator does not exist any
        more and wakes the others. A second reference does the same for a worker in `sleep`.
        """
        self._iterator = weakref.ref(iterator, self.ready.put)
        self._sleeper_reference = weakref.ref(iterator, self._wakeups.put)

    def end(self) -> None:
        """Begin no further job. Takes no lock and never waits."""
        self._is_over = True
        self._released.put(None)
        self.outcomes.put(None)
        for _ in range(self.workers):
            self.ready.put(None)
            self._wakeups.put(None)

    def finish(self) -> None:
        """Begin no further job, and wait for the jobs in flight, but not for the input."""
        self.end()
        # In a forked child the threads do not run.
        if self.process is not None and is_current_process(self.process):
            for thread in list(self._busy):
                thread.join()

    def release_capacity(self, jobs: int, size: int) -> None:
        """Let the feeder take ``jobs`` more jobs, of ``size`` bytes together, from the input."""
        self._released.put((jobs, size))

    # Called by workers.

    def take_ready(self) -> JobT | None:
        """Take a job that is ready; None if there is none."""
        if self.is_over:
            return None
        try:
            job = self.ready.get_nowait()
        except queue.Empty:
            return None
        if job is None or isinstance(job, weakref.ref):
            self.ready.put(job)  # so that another worker ends
            return None
        return job

    def settle(self, *jobs: JobT) -> None:
        """Pass jobs that have their outcomes to the caller; several at once cost less."""
        self.outcomes.put(list(reversed(jobs)))
        with self._lock:
            self._unsettled -= len(jobs)
            self._end_workers_if_done()

    def sleep(self, seconds: float) -> bool:
        """Wait for ``seconds``; return False as soon as the run is over, else True."""
        if not self._is_over:
            try:
                self._wakeups.get(timeout=seconds)
            except queue.Empty:
                pass
        return not self.is_over

    # The code of the threads.

    def run(self, number: int) -> None:
        """Do the work of the thread with this number, unless another thread has begun it."""
        try:
            self._unclaimed.remove(number)
        except ValueError:
            return
        try:
            if number == _FEEDER:
                self._feed()
            else:
                self._do_jobs()
        finally:
            self.outcomes.put(number)

    def _feed(self) -> None:
        """Take jobs from the input while the limit allows."""
        jobs = size = 0
        limit = self.limit
        try:
            while not self.is_over and (job := next(self._jobs, None)) is not None:
                with self._lock:
                    self._unsettled += 1
                self.ready.put(job)
                jobs, size = jobs + 1, size + job.size
                while (
                    not self._released.empty()
                    or jobs >= limit.jobs
                    or (size >= limit.size and jobs >= 2 * self.workers)
                ):
                    given = self._released.get()
                    if given is None:
                        return
                    jobs, size = jobs - given[0], size - given[1]
        except BaseException as error:
            self.outcomes.put(_Failure(error))
        finally:
            with self._lock:
                self._has_input_ended = True
                self._end_workers_if_done()

    def _end_workers_if_done(self) -> None:
        if self._has_input_ended and not self._unsettled:
            for _ in range(self.workers):
                self.ready.put(None)

    def _do_jobs(self) -> None:
        """Do jobs until there are no more."""
        thread = threading.current_thread()
        try:
            while (job := self.ready.get()) is not None:
                # Marked as busy before `is_over` is checked. `finish` does the opposite: it ends
                # the run before it reads the busy threads, and so misses none.
                self._busy.add(thread)
                if isinstance(job, weakref.ref):
                    break
                if self.is_over:
                    self.outcomes.put(job)
                    break
                self._work(job, self)
                self._busy.discard(thread)
            if job is not None:
                # Wakes the other workers, too, if the iterator was collected.
                self.end()
        except BaseException as error:
            self.end()
            self.outcomes.put(_Failure(error))
        finally:
            self._busy.discard(thread)


class _Unused:
    """Held by an iterator until it is used; its destructor warns if that never happened.

    It is an object of its own so that no destructor runs when an iterator that was used is
    collected: a signal handler could interrupt that.
    """

    __slots__ = ("is_used",)

    def __init__(self) -> None:
        self.is_used = False

    def __del__(self) -> None:
        if not self.is_used:
            warnings.warn(
                "the outcomes of send_many were never asked for, so nothing was sent",
                ResourceWarning,
                stacklevel=2,
            )


class Outcomes(Generic[Outcome]):
    """An iterator over the outcomes of a batch, and a context manager that stops the batch.

    `smtpconn.ConnectionPool.send_many` returns it; programs do not make one.

    Args:
        work, jobs, workers, limit: as `Run`.

    Several threads may take outcomes. If an exception (Ctrl-C, or one of a signal handler)
    interrupts one of them, no outcome is lost: the next call continues.

    This class is no generator and has no destructor. Either would run wherever the object is
    collected as garbage, perhaps in one of its own threads, where it must not wait. Only `close`
    and the end of a ``with`` block wait; see also `Run.end_when_collected`.
    """

    def __init__(
        self,
        work: Callable[[JobT, Run[JobT]], None],
        jobs: Iterator[JobT],
        workers: int,
        limit: JobLimit,
    ) -> None:
        self._run: Run[Any] = Run(work, jobs, workers, limit)
        # The threads by their numbers, and the numbers of those that were started and have not
        # ended.
        self._threads: list[threading.Thread] = []
        self._running: set[int] = set()
        self._has_begun = False
        self._was_woken = False
        self._is_input_given_up = False
        self._unused: _Unused | None = _Unused()
        self._error: BaseException | None = None
        # The process in which the threads run; None until they are started.
        self._process: int | None = None
        # Capacity is released for this number of jobs at once, so that not each outcome wakes the
        # feeder.
        self._release_batch = max(1, limit.jobs // (16 * workers))
        self._unreleased_jobs = self._unreleased_size = 0
        # Entries that were received and not taken yet. A thread that takes or waits holds the lock.
        # It is an RLock because `_is_nested` asks whether this thread holds it.
        self._ready: deque[_Entry[Outcome]] = deque()
        self._lock = threading.RLock()

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._wait_until_over()

    def __reduce__(self) -> NoReturn:
        raise TypeError("Outcomes are neither pickled nor copied: threads work for them")

    def __next__(self) -> Outcome:
        """The next outcome; waits for it.

        Raises:
            StopIteration: all outcomes were taken.
            PoolError: the process was forked, and the parent sends the messages.
            PoolOverloadedError: it is called by a signal handler that interrupts ``next`` or
                `close` of its own thread; use `stop` there.
            BaseException: an exception of the input, or of other code in a worker; raised after all
                outcomes.
        """
        # Before the lock, which a thread of the parent may hold.
        if self._running and self._is_in_child():
            # The threads do not run in this process: this call would wait for ever.
            raise PoolError(
                "the process was forked while messages were sent: only the parent continues",
                may_have_been_delivered=True,
            )
        if self._is_nested():
            raise PoolOverloadedError("this thread is taking an outcome already: call stop()")
        taken: list[Job[Outcome]] = []
        try:
            with self._lock:
                error = self._take(taken)
            if taken:
                return _outcome_of(taken[0])
        except BaseException:
            if taken:
                self._ready.appendleft(taken[0])
            raise
        if isinstance(error, StopIteration):
            # Raised here, StopIteration would look like the end of the iterator (PEP 479).
            raise RuntimeError("the work raised StopIteration") from error
        raise error if error is not None else StopIteration

    def stop(self) -> None:
        """Begin no more messages. Those in flight are finished; ``next`` yields their outcomes.

        A message that was taken from the input and not begun has an outcome whose error has
        ``never_begun``. Takes no lock and never waits: a signal handler or another thread may call
        it. After that, ``next`` waits at most a second for an input that yields no item.
        """
        if not self._is_in_child():
            self._run.end()

    def close(self, *, wait: bool = True) -> list[Outcome]:
        """Stop, wait for the messages in flight, and return the outcomes that were not taken yet.

        Args:
            wait: False to return only the outcomes that are known at this moment. Messages in
                flight are finished all the same, and ``next`` yields their outcomes.

        A later ``next`` raises the error of the input, or of other code in a worker. If another
        thread is in ``next``, this method waits for it, too.

        Where the wait could not end, this method does no more than `stop`, and returns an empty
        list: called by the input or by a hook, which run in the threads that it would wait for, or
        by a signal handler that interrupts ``next`` or `close` of its own thread. In a forked child
        it does nothing.
        """
        if self._is_in_child():
            return []
        if threading.current_thread() in self._threads or self._is_nested():
            self._run.end()
            return []
        if wait:
            self._wait_until_over()
        else:
            self._collect()
        taken: list[Job[Outcome]] = []
        # The try statement is outside the with block, because an exception may interrupt the end of
        # that block.
        try:
            with self._lock:
                self._move_all(taken)
            return list(map(_outcome_of, taken))
        except BaseException:
            self._ready.extendleft(reversed(taken))
            raise

    def _is_in_child(self) -> bool:
        return self._process is not None and self._process != current_process()

    def _is_nested(self) -> bool:
        """Whether this call interrupts ``next`` or `close` of its own thread (a signal handler).

        Two such calls must not be mixed: one would take the outcome that the other is about to
        take.
        """
        is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        return is_owned()

    def _take(self, taken: list[Job[Outcome]]) -> BaseException | None:
        """Move the next job that is done to ``taken``; at the end, return the error of the run.

        An exception may be raised between any two steps; the next call continues correctly from the
        state that is left.
        """
        if not self._has_begun:
            self._begin()
        while self._ready or self._receive():
            if (job := self._oldest()) is not None:
                self._release_capacity(job)
                self._move(job, taken)
                return None
            self._note(self._ready[0])
        self._join()
        error, self._error = self._error, None
        return error

    def _receive(self) -> bool:
        """Receive an entry; False if the run has ended and none is left."""
        if self._running:
            if self._was_woken and self._receive_left_out():
                return True
            self._was_woken = False
            if self._wait():
                return True
        return self._receive_left_out()

    def _wait(self) -> bool:
        """Wait for an entry; False if the run is over and its input yields no item in time.

        If such an input yields a job later, only another call of `close` returns it.
        """
        # Only functions in C move the entry from the queue: between two bytecodes an exception
        # could lose an outcome.
        if not (self._run.is_over and self._running == {_FEEDER}):
            self._ready.extend(map(_get, (self._run.outcomes,)))
            return True
        get_in_time = operator.methodcaller("get", True, INPUT_TIMEOUT)
        try:
            self._ready.extend(map(get_in_time, (self._run.outcomes,)))
        except queue.Empty:
            self._is_input_given_up = True
            self._running.clear()
            return False
        return True

    def _receive_left_out(self) -> bool:
        """Receive a job that no worker has begun, because the run was stopped."""
        if self._running:
            # Put first, so that a worker finds the end even if an exception is raised below.
            self._run.ready.put(None)
        try:
            self._ready.extend(map(_get_nowait, (self._run.ready,)))
        except queue.Empty:
            return False
        return isinstance(self._ready[-1], Job) or not self._running

    def _collect(self) -> None:
        """Stop, and receive the entries that are in the queues, without waiting."""
        self._mark_used()
        self._run.end()
        with self._lock:
            self._receive_available()

    def _receive_available(self) -> None:
        while not self._run.outcomes.empty():
            self._ready.extend(map(_get_nowait, (self._run.outcomes,)))
        while self._receive_left_out():
            pass

    def _note(self, entry: _Entry[Outcome]) -> None:
        """Process an entry that is no job; doing so twice is harmless."""
        if isinstance(entry, int):
            self._running.discard(entry)
        elif isinstance(entry, _Failure):
            self._error = self._error or entry.error
        elif entry is None:
            self._was_woken = True
        if self._ready and self._ready[0] is entry:
            del self._ready[0]

    def _oldest(self) -> Job[Outcome] | None:
        """The job to take next; None if the first entry holds none."""
        entry = self._ready[0]
        if isinstance(entry, list):
            return entry[-1] if entry else None
        return entry if isinstance(entry, Job) else None

    def _move_all(self, taken: list[Job[Outcome]]) -> None:
        """Move all jobs that were received to ``taken``, and process the other entries."""
        while self._ready:
            if (job := self._oldest()) is not None:
                self._move(job, taken)
            else:
                self._note(self._ready[0])

    def _move(self, job: Job[Outcome], taken: list[Job[Outcome]]) -> None:
        """Move the oldest job that was received to ``taken``."""
        count = len(taken)
        entry = self._ready[0]
        try:
            if isinstance(entry, list):
                entry.pop()
            else:
                del self._ready[0]
            taken.append(job)
        except BaseException:
            if len(taken) == count and (not self._ready or self._oldest() is not job):
                self._ready.appendleft(job)
            raise

    def _release_capacity(self, job: Job[Outcome]) -> None:
        self._unreleased_jobs += 1
        self._unreleased_size += job.size
        if self._unreleased_jobs >= self._release_batch:
            self._run.release_capacity(self._unreleased_jobs, self._unreleased_size)
            self._unreleased_jobs = self._unreleased_size = 0

    def _wait_until_over(self) -> None:
        if self._is_in_child():
            return
        if self._is_nested():
            self._run.end()
            return
        self._mark_used()
        self._has_begun = True
        self._run.end()
        with self._lock:
            self._receive_until_over()
            self._join()

    def _receive_until_over(self) -> None:
        while self._running and self._wait():
            for entry in list(self._ready):
                if isinstance(entry, int):
                    self._running.discard(entry)
        while self._receive():
            pass

    def _join(self) -> None:
        for thread in self._threads[self._is_input_given_up :]:
            if thread.ident is not None:
                thread.join()

    def _mark_used(self) -> None:
        if (unused := self._unused) is not None:
            unused.is_used = True
            self._unused = None

    def _begin(self) -> None:
        self._mark_used()
        run = self._run
        self._process = run.process = current_process()
        run.end_when_collected(self)
        _runs.add(run)
        # After an exception in here, the next call continues with the threads not started yet.
        for number in range(run.workers + 1):
            try:
                if number == len(self._threads):
                    self._threads.append(self._thread(number))
                if self._threads[number].ident is None:
                    start_thread(self._threads[number])
            except RuntimeError as error:
                # Threads cannot be started (limit reached, interpreter shutdown, or a
                # subinterpreter without daemon threads). The error is raised after the outcomes of
                # the jobs that were begun.
                self._error = error
                run.end()
                break
            except BaseException:
                # An exception in Thread.start() leaves open whether the thread runs. If both the
                # old and the new one run, only the first does the work (`Run.run`).
                del self._threads[number:]
                raise
            self._running.add(number)
        self._has_begun = True

    def _thread(self, number: int) -> threading.Thread:
        # Made only when the first outcome is requested: Python 3.13 cannot start a thread object
        # that was made before a fork.
        return threading.Thread(
            target=self._run.context.copy().run,
            args=(self._run.run, number),
            name="smtpconn-sender-feeder" if number == _FEEDER else f"smtpconn-sender-{number - 1}",
            daemon=True,
        )


def _outcome_of(job: Job[Outcome]) -> Outcome:
    return job.never_begun() if job.outcome is None else job.outcome


def _finish_at_exit() -> None:
    for run in list(_runs):
        run.finish()


atexit.register(_finish_at_exit)
