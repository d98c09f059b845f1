"""Many jobs spread over a few threads, lazily, and the iterator of their outcomes.

Three kinds of threads. The caller takes outcomes. One feeder takes jobs from the input, so that a
slow input never delays a job in flight. The workers do jobs: each is given one, and may take more
of those that lie ready for as long as it holds what it needs for them (`smtpconn.pool.slices`).

Rule 1: what lies between the input and the caller is bounded, by number and by bytes. A job is
        taken only when there is room, and room comes back when an outcome is taken. So nobody ever
        waits to put an outcome down, and threads end although nobody takes outcomes any more.
Rule 2: every job that was taken from the input has one outcome. After a stop, what is in flight is
        finished, and what was not begun has an outcome that says so.
Rule 3: `Outcomes.stop` takes no lock and waits for nothing, so that a signal handler may call it.
        For that reason all waiting here is on a `queue.SimpleQueue`, whose ``put`` is re-entrant.
        The one lock of a run is taken by its threads alone, which no signal handler interrupts.

The threads are daemons, so that a process ends although somebody still holds the iterator; before
the interpreter stops them, jobs in flight are waited for (`_finish_at_exit`).
"""

from __future__ import annotations

import atexit
import contextvars
import queue
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeAlias, TypeVar

from smtpconn.model.errors import PoolError
from smtpconn.net.forking import current_process, is_current_process

Outcome = TypeVar("Outcome")
JobT = TypeVar("JobT", bound="Job[Any]")

INPUT_TIMEOUT = 1.0
"""Seconds that the end of a run waits for an input that does not answer."""

_get = queue.SimpleQueue.get
_get_nowait = queue.SimpleQueue.get_nowait
_runs: weakref.WeakSet[Run[Any]] = weakref.WeakSet()


class Job(Generic[Outcome]):
    """Something to do.

    Attributes:
        size: bytes it holds in memory, about.
        outcome: what became of it; None while that is not known.
    """

    __slots__ = ("outcome", "size")

    def __init__(self, size: int = 0) -> None:
        self.size = size
        self.outcome: Outcome | None = None

    def never_begun(self) -> Outcome:
        """The outcome of a job that was taken from the input and not begun."""
        raise AssertionError("a subclass has this method")


@dataclass(frozen=True, slots=True)
class Room:
    """How much may lie between the input and the caller.

    Attributes:
        jobs: so many jobs.
        octets: so many bytes of them, but two jobs for each worker in any case.
    """

    jobs: int
    octets: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the input or a worker raised."""

    error: BaseException


_Entry: TypeAlias = (
    list[Job[Outcome]] | Job[Outcome] | _Failure | threading.Thread | weakref.ref[object] | None
)


class Run(Generic[JobT]):
    """What the threads share; it knows nothing of the iterator, which may be gone before them.

    Args:
        work: called by a worker with a job and the run. It gives that job, and each that it takes
            by `take_ready`, to `settle`, also if it raises something.
        jobs: the input.
        workers: how many threads work.
        room: what may lie between the input and the caller.
    """

    def __init__(
        self,
        work: Callable[[JobT, Run[JobT]], None],
        jobs: Iterator[JobT],
        workers: int,
        room: Room,
    ) -> None:
        self.workers = workers
        self.room = room
        self.process: int | None = None
        self._iterator: weakref.ref[object] | None = None
        # The context variables of the caller (PEP 567): the work belongs to what it is doing, a
        # trace, a request.
        self.context = contextvars.copy_context()
        # None: there are no more jobs, or the run is over. A reference: the iterator is gone.
        self.ready: queue.SimpleQueue[JobT | weakref.ref[object] | None] = queue.SimpleQueue()
        # Jobs that are done come together, the last one first. A thread: it has ended. None: look
        # whether the run is over.
        self.outcomes: queue.SimpleQueue[list[JobT] | JobT | _Failure | threading.Thread | None]
        self.outcomes = queue.SimpleQueue()
        self._work = work
        self._jobs = jobs
        self._lock = threading.Lock()
        self._is_over = False
        self._unsettled = 0
        self._has_input_ended = False
        self._busy: set[threading.Thread] = set()
        # Room that comes back: numbers of jobs and of bytes. None: the run is over.
        self._room_given: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be begun; always in a forked child."""
        if self._is_over or self.process is None or not is_current_process(self.process):
            return True
        return self._iterator is not None and self._iterator() is None

    # Called by anybody.

    def belong_to(self, iterator: object) -> None:
        """Begin nothing more when this object is collected as garbage.

        All that runs then is a function in C, which no signal handler and no other destructor
        interrupts: it wakes up a worker, which finds the object gone and wakes up the others.
        """
        self._iterator = weakref.ref(iterator, self.ready.put)

    def end(self) -> None:
        """Begin nothing more; takes no lock and never waits."""
        self._is_over = True
        self._room_given.put(None)
        self.outcomes.put(None)
        for _ in range(self.workers):
            self.ready.put(None)
            self._bell.put(None)

    def finish(self) -> None:
        """Begin nothing more, and wait for the jobs in flight, but not for the input."""
        self.end()
        # In a child of a fork the threads are the parent's.
        if self.process is not None and is_current_process(self.process):
            for thread in list(self._busy):
                thread.join()

    def give_room(self, jobs: int, octets: int) -> None:
        """Let so many more jobs be taken from the input."""
        self._room_given.put((jobs, octets))

    # Called by workers.

    def take_ready(self) -> JobT | None:
        """Take a job that lies ready; None if none does."""
        if self.is_over:
            return None
        try:
            job = self.ready.get_nowait()
        except queue.Empty:
            return None
        if job is None or isinstance(job, weakref.ref):
            self.ready.put(job)  # it tells another worker to end
            return None
        return job

    def settle(self, *jobs: JobT) -> None:
        """Hand on jobs that have their outcomes; together it costs less."""
        self.outcomes.put(list(reversed(jobs)))
        with self._lock:
            self._unsettled -= len(jobs)
            self._end_workers_if_done()

    def sleep(self, seconds: float) -> bool:
        """Wait so long, or until the run is over; whether it is not."""
        if not self._is_over:
            try:
                self._bell.get(timeout=seconds)
            except queue.Empty:
                pass
        return not self.is_over

    # What the threads do.

    def feed(self) -> None:
        """Take jobs from the input while there is room for them."""
        jobs = octets = 0
        room = self.room
        try:
            while not self.is_over and (job := next(self._jobs, None)) is not None:
                with self._lock:
                    self._unsettled += 1
                self.ready.put(job)
                jobs, octets = jobs + 1, octets + job.size
                while (
                    not self._room_given.empty()
                    or jobs >= room.jobs
                    or (octets >= room.octets and jobs >= 2 * self.workers)
                ):
                    given = self._room_given.get()
                    if given is None:
                        return
                    jobs, octets = jobs - given[0], octets - given[1]
        except BaseException as error:
            self.outcomes.put(_Failure(error))
        finally:
            with self._lock:
                self._has_input_ended = True
                self._end_workers_if_done()
            self.outcomes.put(threading.current_thread())

    def _end_workers_if_done(self) -> None:
        if self._has_input_ended and not self._unsettled:
            for _ in range(self.workers):
                self.ready.put(None)

    def work(self) -> None:
        """Do jobs until there are no more."""
        thread = threading.current_thread()
        try:
            while (job := self.ready.get()) is not None:
                # First busy, then the look whether it is over: `finish` does it the other way
                # round, and so misses nobody.
                self._busy.add(thread)
                if isinstance(job, weakref.ref):
                    break
                if self.is_over:
                    self.outcomes.put(job)
                    break
                self._work(job, self)
                self._busy.discard(thread)
            if job is not None:
                # Perhaps the iterator is gone, which the others are to know.
                self.end()
        except BaseException as error:
            self.end()
            self.outcomes.put(_Failure(error))
        finally:
            self._busy.discard(thread)
            self.outcomes.put(thread)


class _Unused:
    """What an iterator holds until it is used; says so if it is not.

    A thing of its own, so that nothing runs when an iterator is collected that was used: a signal
    handler could cut it off.
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
    """The outcomes of many jobs, as they come: an iterator, and a context manager that stops it.

    Not made by users: `smtpconn.ConnectionPool.send_many` returns it.

    Args:
        work, jobs, workers, room: as `Run`.

    Several threads may take outcomes. What strikes a thread that takes one (Ctrl-C, the exception
    of a signal handler) loses nothing: the next call goes on.

    Not a generator: its end would run wherever it is collected as garbage, in one of its own
    threads perhaps, and must not wait there. Only `close` and the end of a ``with`` block wait.
    Nor has it a destructor (see `Run.belong_to`).
    """

    def __init__(
        self,
        work: Callable[[JobT, Run[JobT]], None],
        jobs: Iterator[JobT],
        workers: int,
        room: Room,
    ) -> None:
        self._run: Run[Any] = Run(work, jobs, workers, room)
        # The feeder is the first one.
        self._threads: list[threading.Thread] = []
        self._running: set[threading.Thread] = set()
        self._has_begun = False
        self._is_told_of_end = False
        self._is_input_given_up = False
        self._unused: _Unused | None = _Unused()
        self._error: BaseException | None = None
        # None until the threads are started; then they are of that process only.
        self._process: int | None = None
        # Room is given back in portions, so that the feeder is not woken for each outcome.
        self._portion = max(1, room.jobs // (16 * workers))
        self._room_jobs = self._room_octets = 0
        # What has come and was not taken yet. The thread that takes or waits holds the lock; a
        # signal handler that wants an outcome while its thread waits for one may have it.
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
            BaseException: what the input raised, or other code in a worker, behind all outcomes.
        """
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
        """Begin nothing more. What is in flight is finished, and its outcomes can be taken.

        What was taken from the input and not begun has an outcome whose error has ``never_begun``.
        Takes no lock and waits for nothing: a signal handler or another thread may call it.
        """
        if not self._is_the_parents():
            self._run.end()

    def close(self, *, wait: bool = True) -> list[Outcome]:
        """Stop, wait until what is in flight is finished, and return the outcomes not yet taken.

        Args:
            wait: False to return those that are there at this moment. What is in flight has none
                then; it is finished all the same, and ``next`` waits for its outcomes.

        An error of the input, or of other code in a worker, is raised by ``next`` afterwards. In a
        forked child nothing is done, and nothing is returned.
        """
        taken: list[Job[Outcome]] = []
        if self._is_the_parents():
            return []
        if wait:
            self._wait_until_over()
        else:
            self._collect()
        with self._lock:
            try:
                while self._ready:
                    if (job := self._oldest()) is not None:
                        self._move(job, taken)
                    else:
                        self._note(self._ready[0])
                return [_outcome_of(job) for job in taken]
            except BaseException:
                self._ready.extendleft(reversed(taken))
                raise

    def _is_the_parents(self) -> bool:
        return self._process is not None and self._process != current_process()

    def _take(self, taken: list[Job[Outcome]]) -> BaseException | None:
        """Take the next job that is done; if there is none, the error it all ended with.

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
        """Have at least one entry ready; False if all is over and nothing is left."""
        if self._running:
            if self._is_told_of_end and self._receive_left_out():
                return True
            self._is_told_of_end = False
            if self._wait():
                return True
        return self._receive_left_out()

    def _wait(self) -> bool:
        """Have the next entry ready; False if there is none because the input does not answer.

        What such an input gives later is left out, and the next `close` returns it.
        """
        # In one step each, which no exception can cut in two: else an outcome might be lost
        # between the queue and here.
        if not (self._run.is_over and self._running == set(self._threads[:1])):
            self._ready.extend(map(_get, (self._run.outcomes,)))
            return True
        try:
            self._ready.extend(map(_get, (self._run.outcomes,), (True,), (INPUT_TIMEOUT,)))
        except queue.Empty:
            self._is_input_given_up = True
            self._running.clear()
            return False
        return True

    def _receive_left_out(self) -> bool:
        """Have one ready that was taken and not begun, if there is any: nobody begins it now."""
        if self._running:
            # First, so that a worker finds the end although this is cut off behind the next line.
            self._run.ready.put(None)
        try:
            self._ready.extend(map(_get_nowait, (self._run.ready,)))
        except queue.Empty:
            return False
        return isinstance(self._ready[-1], Job) or not self._running

    def _collect(self) -> None:
        """Stop, and have ready what has come, without waiting."""
        self._use()
        self._run.end()
        with self._lock:
            try:
                while True:
                    self._ready.extend(map(_get_nowait, (self._run.outcomes,)))
            except queue.Empty:
                pass
            while self._receive_left_out():
                pass

    def _note(self, entry: _Entry[Outcome]) -> None:
        """Take note of an entry that is no job; again does no harm."""
        if isinstance(entry, threading.Thread):
            self._running.discard(entry)
        elif isinstance(entry, _Failure):
            self._error = self._error or entry.error
        elif entry is None:
            self._is_told_of_end = True
        if self._ready and self._ready[0] is entry:
            del self._ready[0]

    def _oldest(self) -> Job[Outcome] | None:
        """The job that is taken next, if the next entry is one or has one."""
        entry = self._ready[0]
        if isinstance(entry, list):
            return entry[-1] if entry else None
        return entry if isinstance(entry, Job) else None

    def _move(self, job: Job[Outcome], taken: list[Job[Outcome]]) -> None:
        """Take the oldest of those that are ready."""
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
        self._room_octets += job.size
        if self._room_jobs >= self._portion:
            self._run.give_room(self._room_jobs, self._room_octets)
            self._room_jobs = self._room_octets = 0

    def _wait_until_over(self) -> None:
        if self._is_the_parents():
            return
        self._use()
        self._has_begun = True
        self._run.end()
        with self._lock:
            while self._running and self._wait():
                for entry in list(self._ready):
                    if isinstance(entry, threading.Thread):
                        self._running.discard(entry)
            while self._receive():
                pass
            self._join()

    def _join(self) -> None:
        for thread in self._threads[self._is_input_given_up :]:
            if thread.ident is not None:
                thread.join()

    def _use(self) -> None:
        if self._unused is not None:
            self._unused.is_used = True
            self._unused = None

    def _begin(self) -> None:
        self._use()
        run = self._run
        self._process = run.process = current_process()
        run.belong_to(self)
        _runs.add(run)
        # Not made before: a thread that waits to be started cannot be after a fork (3.13).
        while len(self._threads) <= run.workers:
            number = len(self._threads)
            thread = threading.Thread(
                target=run.context.copy().run,
                args=(run.work if number else run.feed,),
                name=f"smtpconn-sender-{number - 1}" if number else "smtpconn-sender-feeder",
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
                run.end()
                break
            self._running.add(thread)
        self._has_begun = True


def _outcome_of(job: Job[Outcome]) -> Outcome:
    return job.never_begun() if job.outcome is None else job.outcome


def _finish_at_exit() -> None:
    for run in list(_runs):
        run.finish()


atexit.register(_finish_at_exit)
