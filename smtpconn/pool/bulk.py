"""A bounded pipeline of jobs: a lazy input, worker threads, and the iterator of the outcomes.

There are three kinds of threads. The caller's take outcomes. The feeder takes jobs from the input,
so that a slow input never delays a job in flight. The workers do jobs: each gets one, and may take
more of the ready ones while it holds what they need, a connection (`smtpconn.pool.bulk_sender`).

Rule 1: the jobs between the input and the caller are bounded, by number and by size. A job is taken
        from the input only if there is room, and taking an outcome gives room back. So no thread
        waits to deliver an outcome, and all threads end even if no more outcomes are taken.
Rule 2: every job that was taken from the input has one outcome. After a stop, jobs in flight are
        finished, and those that were not begun have an outcome that says so.
Rule 3: `Outcomes.stop` takes no lock and never waits, so that a signal handler may call it. For
        that reason all waiting is on a `queue.SimpleQueue`, whose ``put`` is re-entrant. The lock
        of a run is taken by its own threads only, which signal handlers do not interrupt.

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
"""Seconds that the end of a run waits for an input that does not answer."""

# Not `queue.SimpleQueue.get`: where gevent comes after us, that is another class now.
_get = operator.methodcaller("get")
_get_nowait = operator.methodcaller("get_nowait")
_runs: weakref.WeakSet[Run[Any]] = weakref.WeakSet()


class Job(Generic[Outcome]):
    """A unit of work; the base class of `smtpconn.pool.bulk_sender.MailJob`.

    Attributes:
        size: the approximate number of bytes that it holds in memory.
        outcome: None while it is not known.
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
        jobs: how many.
        size: bytes that they may hold together; two jobs for each worker are allowed in any case.
    """

    __slots__ = ("jobs", "size")

    def __init__(self, jobs: int, size: int) -> None:
        self.jobs = jobs
        self.size = size


class _Failure:
    """What the input or a worker raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


_Entry: TypeAlias = list[Job[Outcome]] | Job[Outcome] | _Failure | int | weakref.ref[object] | None

_FEEDER = 0
"""The number of the feeder among the threads of a run; the workers have those above."""


class Run(Generic[JobT]):
    """The state that the threads share. It outlives the iterator, to which it has a weak reference.

    Args:
        work: called by a worker with a job and the run. It passes that job, and each that it takes
            by `take_ready`, to `settle`, also if it raises an exception.
        jobs: the input.
        workers: the number of worker threads.
        limit: on the jobs between the input and the caller.
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
        self._for_sleepers: weakref.ref[object] | None = None
        # The context variables of the caller (PEP 567): the work belongs to its trace or request.
        self.context = contextvars.copy_context()
        # None: there are no more jobs, or the run is over. A reference: the iterator was collected.
        self.ready: queue.SimpleQueue[JobT | weakref.ref[object] | None] = queue.SimpleQueue()
        # A list: jobs that are done, the last one first. A number: that thread has ended. None:
        # wakes up the caller, which then looks for jobs that were left out.
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
        # The room that is given back: numbers of jobs and of bytes. None: the run is over.
        self._room_given: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._wakeups: queue.SimpleQueue[weakref.ref[object] | None] = queue.SimpleQueue()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be begun; always in a forked child."""
        if self._is_over or self.process is None or not is_current_process(self.process):
            return True
        return self._iterator is not None and self._iterator() is None

    # Called by any thread.

    def belong_to(self, iterator: object) -> None:
        """Begin nothing more when this object is collected as garbage.

        The callback of the reference is a function in C, which no signal handler and no other
        destructor interrupts. It wakes up a worker, which finds the object gone and wakes up the
        others. So does that of a second reference for a worker that sleeps.
        """
        self._iterator = weakref.ref(iterator, self.ready.put)
        self._for_sleepers = weakref.ref(iterator, self._wakeups.put)

    def end(self) -> None:
        """Begin nothing more. Takes no lock and never waits."""
        self._is_over = True
        self._room_given.put(None)
        self.outcomes.put(None)
        for _ in range(self.workers):
            self.ready.put(None)
            self._wakeups.put(None)

    def finish(self) -> None:
        """Begin nothing more, and wait for the jobs in flight, but not for the input."""
        self.end()
        # In a forked child the threads do not run.
        if self.process is not None and is_current_process(self.process):
            for thread in list(self._busy):
                thread.join()

    def give_room(self, jobs: int, size: int) -> None:
        """Let so many more jobs be taken from the input."""
        self._room_given.put((jobs, size))

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
            self.ready.put(job)  # ends another worker
            return None
        return job

    def settle(self, *jobs: JobT) -> None:
        """Pass on jobs that have their outcomes; several at once cost less."""
        self.outcomes.put(list(reversed(jobs)))
        with self._lock:
            self._unsettled -= len(jobs)
            self._end_workers_if_done()

    def sleep(self, seconds: float) -> bool:
        """Wait for so many seconds; returns False as soon as the run is over."""
        if not self._is_over:
            try:
                self._wakeups.get(timeout=seconds)
            except queue.Empty:
                pass
        return not self.is_over

    # What the threads do.

    def run(self, number: int) -> None:
        """Do the part of one of the threads, unless another thread does it."""
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
        """Take jobs from the input while there is room for them."""
        jobs = size = 0
        limit = self.limit
        try:
            while not self.is_over and (job := next(self._jobs, None)) is not None:
                with self._lock:
                    self._unsettled += 1
                self.ready.put(job)
                jobs, size = jobs + 1, size + job.size
                while (
                    not self._room_given.empty()
                    or jobs >= limit.jobs
                    or (size >= limit.size and jobs >= 2 * self.workers)
                ):
                    given = self._room_given.get()
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
                # Marked as busy before the check, because `finish` ends the run before it looks for
                # busy threads: so it misses none.
                self._busy.add(thread)
                if isinstance(job, weakref.ref):
                    break
                if self.is_over:
                    self.outcomes.put(job)
                    break
                self._work(job, self)
                self._busy.discard(thread)
            if job is not None:
                # Tells the other workers, too, if the iterator is gone.
                self.end()
        except BaseException as error:
            self.end()
            self.outcomes.put(_Failure(error))
        finally:
            self._busy.discard(thread)


class _Unused:
    """Held by an iterator until it is used; warns if it never is.

    An object of its own, so that no destructor runs when an iterator that was used is collected: a
    signal handler could interrupt it.
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

    Several threads may take outcomes. An exception that interrupts one of them (Ctrl-C, a signal
    handler's) loses nothing: the next call continues.

    It is no generator and has no destructor: those would run wherever it is collected as garbage,
    perhaps in one of its own threads, and must not wait there. Only `close` and the end of a
    ``with`` block wait; see also `Run.belong_to`.
    """

    def __init__(
        self,
        work: Callable[[JobT, Run[JobT]], None],
        jobs: Iterator[JobT],
        workers: int,
        limit: JobLimit,
    ) -> None:
        self._run: Run[Any] = Run(work, jobs, workers, limit)
        # By their numbers, and the numbers of those that were started and have not ended.
        self._threads: list[threading.Thread] = []
        self._running: set[int] = set()
        self._has_begun = False
        self._is_told_of_end = False
        self._is_input_given_up = False
        self._unused: _Unused | None = _Unused()
        self._error: BaseException | None = None
        # The process in which the threads run; None until they are started.
        self._process: int | None = None
        # Room is given back in portions, so that not each outcome wakes up the feeder.
        self._portion = max(1, limit.jobs // (16 * workers))
        self._room_jobs = self._room_size = 0
        # Entries that were received and not taken yet. A thread that takes or waits holds the lock.
        # It is re-entrant for its `_is_nested`.
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
            PoolError: the process was forked, and the messages are the parent's.
            PoolOverloadedError: a signal handler that interrupts ``next`` or `close` of its own
                thread calls it; use `stop` there.
            BaseException: what the input raised, or other code in a worker, after all outcomes.
        """
        # Before the lock, which a thread of the parent may hold.
        if self._running and self._is_the_parents():
            # The threads do not run here: it would wait for ever.
            raise PoolError(
                "the process was forked while messages were sent: the parent goes on with them",
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
            # It would be taken for the end, as in a generator (PEP 479).
            raise RuntimeError("the work raised StopIteration") from error
        raise error if error is not None else StopIteration

    def stop(self) -> None:
        """Begin no more messages. Those in flight are finished; ``next`` yields their outcomes.

        A message that was taken from the input and not begun has an outcome whose error has
        ``never_begun``. Takes no lock and never waits: a signal handler or another thread may call
        it. After that, ``next`` waits at most a second for an input that does not answer.
        """
        if not self._is_the_parents():
            self._run.end()

    def close(self, *, wait: bool = True) -> list[Outcome]:
        """Stop, wait for the messages in flight, and return the outcomes that were not taken yet.

        Args:
            wait: False to return the outcomes that are there at this moment. Messages in flight
                have none then; they are finished all the same, and ``next`` yields their outcomes.

        An error of the input, or of other code in a worker, is raised by ``next`` afterwards. If
        another thread is in ``next``, this waits for it, too.

        It does no more than `stop`, and returns nothing, where its wait could not end: called by
        the input or by a hook, which run in the threads that it would wait for, or by a signal
        handler that interrupts ``next`` or `close` of its own thread. In a forked child it does
        nothing.
        """
        if self._is_the_parents():
            return []
        if threading.current_thread() in self._threads or self._is_nested():
            self._run.end()
            return []
        if wait:
            self._wait_until_over()
        else:
            self._collect()
        taken: list[Job[Outcome]] = []
        # Around the block, whose end an exception may interrupt.
        try:
            with self._lock:
                self._move_all(taken)
            return list(map(_outcome_of, taken))
        except BaseException:
            self._ready.extendleft(reversed(taken))
            raise

    def _is_the_parents(self) -> bool:
        return self._process is not None and self._process != current_process()

    def _is_nested(self) -> bool:
        """Whether a signal handler interrupts ``next`` or `close` of its own thread.

        Their steps must not be mixed: one would take the outcome that the other is about to take.
        """
        is_owned: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined]
        return is_owned()

    def _take(self, taken: list[Job[Outcome]]) -> BaseException | None:
        """Move the next job that is done to ``taken``; at the end, return the error of the run.

        An exception may be raised between any two steps; the next call continues from the state.
        """
        if not self._has_begun:
            self._begin()
        while self._ready or self._receive():
            if (job := self._oldest()) is not None:
                self._give_room(job)
                self._move(job, taken)
                return None
            self._note(self._ready[0])
        self._join()
        error, self._error = self._error, None
        return error

    def _receive(self) -> bool:
        """Receive an entry; False if the run has ended and none is left."""
        if self._running:
            if self._is_told_of_end and self._receive_left_out():
                return True
            self._is_told_of_end = False
            if self._wait():
                return True
        return self._receive_left_out()

    def _wait(self) -> bool:
        """Wait for an entry; False if the run is over and its input does not answer.

        A job that such an input gives later is left out; `close` returns it if it is called again.
        """
        # Moved from the queue by functions in C only: between two bytecodes an exception could
        # lose an outcome.
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
        """Receive a job that was taken from the input but is not begun, as the run was stopped."""
        if self._running:
            # First, so that a worker finds the end even if an exception is raised below.
            self._run.ready.put(None)
        try:
            self._ready.extend(map(_get_nowait, (self._run.ready,)))
        except queue.Empty:
            return False
        return isinstance(self._ready[-1], Job) or not self._running

    def _collect(self) -> None:
        """Stop, and receive what is there, without waiting."""
        self._use()
        self._run.end()
        with self._lock:
            self._receive_what_is_there()

    def _receive_what_is_there(self) -> None:
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
            self._is_told_of_end = True
        if self._ready and self._ready[0] is entry:
            del self._ready[0]

    def _oldest(self) -> Job[Outcome] | None:
        """The job that is to be taken next; None if the first entry holds none."""
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

    def _give_room(self, job: Job[Outcome]) -> None:
        self._room_jobs += 1
        self._room_size += job.size
        if self._room_jobs >= self._portion:
            self._run.give_room(self._room_jobs, self._room_size)
            self._room_jobs = self._room_size = 0

    def _wait_until_over(self) -> None:
        if self._is_the_parents():
            return
        if self._is_nested():
            self._run.end()
            return
        self._use()
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

    def _use(self) -> None:
        if (unused := self._unused) is not None:
            unused.is_used = True
            self._unused = None

    def _begin(self) -> None:
        self._use()
        run = self._run
        self._process = run.process = current_process()
        run.belong_to(self)
        _runs.add(run)
        # After an exception in here, the next call continues with the threads not started yet.
        for number in range(run.workers + 1):
            if number == len(self._threads):
                self._threads.append(self._thread(number))
            try:
                if self._threads[number].ident is None:
                    start_thread(self._threads[number])
            except RuntimeError as error:
                # Threads cannot be started (limit reached, or interpreter shutdown). What was
                # begun is finished first.
                self._error = error
                run.end()
                break
            except BaseException:
                # Thread.start() may have lost the thread before it ran. Of the old one and the new
                # one, the first that runs does the part.
                self._threads[number] = self._thread(number)
                raise
            self._running.add(number)
        self._has_begun = True

    def _thread(self, number: int) -> threading.Thread:
        # Not made before the first outcome is asked for: a thread object cannot be started after a
        # fork (3.13).
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
