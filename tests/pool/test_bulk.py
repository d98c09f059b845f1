"""Doing many things in a few threads: lazily, bounded, and leaving nothing behind."""

from __future__ import annotations

import contextvars
import copy
import gc
import itertools
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any, Generic, TypeVar

import pytest

from smtpconn.model.errors import PoolOverloadedError
from smtpconn.pool import bulk
from smtpconn.pool.bulk import Job, JobLimit, Outcomes, Run
from tests.support.exception_injector import ExceptionInjector, every_place
from tests.support.interruption import Interruption
from tests.support.signals import one_ctrl_c, send_until_handled, to_main_thread
from tests.support.waiting import wait_until

T = TypeVar("T")
R = TypeVar("R")


class ItemError(Exception):
    """The error of an item in these tests."""


class Source:
    """Numbers from 0 on, and how many of them were taken."""

    def __init__(self, end: int | None = None) -> None:
        self.taken = 0
        self._numbers = iter(itertools.count() if end is None else range(end))

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        number = next(self._numbers)
        self.taken += 1
        return number


class NotBegun(Generic[T]):
    """The outcome of an item that was taken and not begun."""

    def __init__(self, item: T) -> None:
        self.item = item


class Item(Job[Any], Generic[T]):
    """One item; its outcome without being begun is itself, or a `NotBegun`."""

    def __init__(self, item: T, tells: bool, size: int) -> None:
        super().__init__(size)
        self.item = item
        self.tells = tells

    def never_begun(self) -> Any:
        return NotBegun(self.item) if self.tells else self.item


def fan_out(
    work: Callable[[T], R],
    items: Iterable[T],
    threads: int,
    *,
    tells: bool = False,
    limit: JobLimit | None = None,
    size: int = 0,
) -> Outcomes[R]:
    """Do something with each item, one at a time in each thread."""

    def settle(job: Item[T], run: Run[Item[T]]) -> None:
        job.outcome = work(job.item)
        run.settle(job)

    jobs = (Item(item, tells, size) for item in items)
    return Outcomes(settle, jobs, threads, limit or JobLimit(2 * threads, 1_000))


def senders() -> list[threading.Thread]:
    """The threads of these runs that live."""
    return [t for t in threading.enumerate() if t.name.startswith("smtpconn-sender")]


def test_the_work_sees_the_callers_context() -> None:
    """Context variables have the caller's values in all threads, and what is set there stays."""
    request = contextvars.ContextVar[str]("request")
    request.set("the caller's")

    def work(item: int) -> str:
        seen = request.get()
        request.set(seen.upper())
        return seen.lower()

    assert set(fan_out(work, range(20), 3)) == {"the caller's"}
    assert request.get() == "the caller's"


@pytest.mark.parametrize("threads", [1, 2, 7, 32])
@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_an_outcome_for_each_item(threads: int, count: int) -> None:
    """Every item has exactly one outcome, however many threads there are; none are left."""
    outcomes = list(fan_out(lambda n: n * n, range(count), threads))
    assert sorted(outcomes) == [n * n for n in range(count)]
    assert senders() == []


def test_nothing_is_begun_before_the_first_outcome_is_wanted() -> None:
    """Making the iterator takes nothing from the input and starts no thread."""
    source = Source()
    outcomes = fan_out(lambda n: n, source, 4)
    assert source.taken == 0
    assert senders() == []
    outcomes.close()
    assert source.taken == 0


def test_the_input_is_read_as_outcomes_are_wanted() -> None:
    """What was taken and not yet handed on is bounded by the threads, even of an endless input."""
    threads, source = 3, Source()
    # Each thread has one outcome to put down, and as many lie in between.
    most = 2 * threads
    outcomes = fan_out(lambda n: n, source, threads)
    try:
        for received in range(1, 200):
            next(outcomes)
            assert source.taken <= received + most
        wait_until(lambda: source.taken == received + most)
    finally:
        outcomes.close()
    assert senders() == []


class Payload:
    """Something that takes memory."""


def test_memory_is_bounded() -> None:
    """Items and outcomes are not kept once they were handed on."""
    alive: weakref.WeakSet[Payload] = weakref.WeakSet()
    threads, most = 4, 0

    def payloads() -> Iterator[Payload]:
        for _ in range(500):
            payload = Payload()
            alive.add(payload)
            yield payload
            del payload

    for payload in fan_out(lambda p: p, payloads(), threads):
        most = max(most, len(alive))
        del payload
    # In each thread one and the one before it, as many in between, and the two at either end.
    assert most <= 3 * threads + 2
    assert senders() == []


def test_a_slow_item_does_not_delay_others() -> None:
    """Outcomes come as they are ready: a slow item comes last, behind those begun after it."""
    slow = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert slow.wait(10)
        return number

    order = []
    for number in fan_out(work, range(50), 2):
        order.append(number)
        if len(order) == 49:
            slow.set()
    assert order == [*range(1, 50), 0]


def test_items_are_worked_on_at_the_same_time() -> None:
    """As many items as there are threads are in progress at once."""
    together = threading.Barrier(5)
    assert sorted(fan_out(lambda _: together.wait(10), range(5), 5)) == [0, 1, 2, 3, 4]


def failing(count: int) -> Iterator[int]:
    """An input that breaks after so many items."""
    yield from range(count)
    raise ItemError("the input broke")


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_an_input_that_raises(threads: int, count: int) -> None:
    """Its error comes out behind the outcomes of everything it gave before."""
    outcomes: list[int] = []
    with pytest.raises(ItemError, match="the input broke"):
        outcomes.extend(fan_out(lambda n: n, failing(count), threads))
    assert sorted(outcomes) == list(range(count))
    assert senders() == []


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("error", [ItemError, KeyboardInterrupt], ids=lambda e: str(e.__name__))
def test_work_that_raises(threads: int, error: type[BaseException]) -> None:
    """Its error is raised after the outcomes of what was begun; the input is read no further."""
    source, finished = Source(), list[int]()

    def work(number: int) -> int:
        if number == 10:
            raise error("the work broke")
        return number

    with pytest.raises(error, match="the work broke"):
        finished.extend(fan_out(work, source, threads))
    # Everything taken was finished, but for the one that broke.
    assert sorted(finished) == [n for n in range(source.taken) if n != 10]
    assert senders() == []


def test_work_that_raises_stop_iteration() -> None:
    """That is an error like any other, not the end of the input."""

    def work(number: int) -> int:
        raise StopIteration(number)

    with pytest.raises(RuntimeError, match="StopIteration"):
        list(fan_out(work, Source(), 2))
    assert senders() == []


def test_threads_end_without_being_joined() -> None:
    """A second Ctrl-C, while `close` waits after the first one, leaves no thread behind.

    The next `close` returns what the first one could not.
    """
    interrupted = threading.Event()

    def work(number: int) -> int:
        interrupted.wait(10)
        return number

    outcomes = fan_out(lambda n: work(n) if n else n, Source(), 4)
    next(outcomes)

    with one_ctrl_c() as handler:

        def interrupt() -> None:
            wait_until(lambda: outcomes._run.is_over)
            send_until_handled(handler, lambda: to_main_thread(signal.SIGINT))

        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            outcomes.close()
    interrupting.join()
    interrupted.set()
    assert sorted(outcomes.close())[:4] == [1, 2, 3, 4]
    wait_until(lambda: senders() == [])


@pytest.mark.parametrize("received", [1, 5])
def test_abandoning_the_iterator_finishes_what_was_begun(received: int) -> None:
    """Closing the iterator waits for messages in flight; no further one is begun."""
    source, begun, finished = Source(), set[int](), set[int]()

    def work(number: int) -> int:
        begun.add(number)
        finished.add(number)
        return number

    outcomes = fan_out(work, source, 3)
    for _ in range(received):
        next(outcomes)
    outcomes.close()
    assert senders() == []
    assert finished == begun == set(range(source.taken))
    assert list(outcomes) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_abandoning_the_iterator_wakes_workers_that_sleep(workers: int) -> None:
    """They may sleep for hours, where ``max_rate`` is low: the threads end at once."""
    slept, asleep = list[bool](), threading.Semaphore(0)

    def work(job: Job[int], run: Run[Job[int]]) -> None:
        job.outcome = 1
        if job.size:
            asleep.release()
            slept.append(run.sleep(3600))
        run.settle(job)

    jobs = (Job[int](number) for number in itertools.count())
    outcomes = Outcomes[int](work, jobs, workers, JobLimit(2 * workers, 1_000))
    next(outcomes)
    for _ in range(workers):
        assert asleep.acquire(timeout=10)
    del outcomes
    gc.collect()
    wait_until(lambda: senders() == [])
    assert slept == [False] * workers


def test_who_is_collected_by_one_of_its_own_threads_does_not_wait_for_it() -> None:
    """An abandoned iterator is garbage that any thread may collect, one of its own as well."""
    begun, dropped, collected = (threading.Event() for _ in range(3))

    def work(number: int) -> int:
        if number == 2:
            begun.set()
            assert dropped.wait(10)
            gc.collect()
            collected.set()
        return number

    class Cycle:
        """What keeps an iterator until the next collection."""

        def __init__(self) -> None:
            self.me = self
            self.outcomes = fan_out(work, [1, 2, 3], 1)

    def close_after_fork() -> None:
        assert next(Cycle().outcomes) == 1

    gc.disable()
    try:
        close_after_fork()
        assert begun.wait(10)
        dropped.set()
        assert collected.wait(10)
        wait_until(lambda: senders() == [])
    finally:
        gc.enable()


def test_leaving_the_loop_is_abandoning_it() -> None:
    """A ``break`` leaves no thread behind, once the iterator is gone."""
    for _ in fan_out(lambda n: n, Source(), 3):
        break
    wait_until(lambda: senders() == [])


@pytest.mark.parametrize("is_circle", [False, True])
def test_collecting_it_runs_nothing_that_can_be_interrupted(is_circle: bool) -> None:
    """Its threads end although a signal handler raises at any line."""
    outcomes = fan_out(lambda n: n, Source(), 3)
    next(outcomes)
    kept: list[object] = [outcomes]
    if is_circle:
        kept.append(kept)

    def trace(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code.co_filename == bulk.__file__:
            raise ItemError

    sys.settrace(trace)
    try:
        del outcomes, kept
        gc.collect()
    finally:
        sys.settrace(None)
    wait_until(lambda: senders() == [])


def test_closing_waits_for_what_is_in_flight() -> None:
    """`close` returns when the last item that was begun is finished, not before."""
    go_on, closed, in_flight = threading.Event(), threading.Event(), threading.Event()

    def work(number: int) -> int:
        if number == 1:
            in_flight.set()
            assert go_on.wait(10)
        return number

    outcomes = fan_out(work, Source(), 2)
    assert next(outcomes) == 0
    assert in_flight.wait(10)

    def close_and_tell() -> None:
        outcomes.close()
        closed.set()

    closing = threading.Thread(target=close_and_tell)
    closing.start()
    assert not closed.wait(0.05)
    go_on.set()
    closing.join(10)
    assert closed.is_set()
    assert senders() == []


def test_who_waits_for_the_input_begins_nothing_after_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the input gives after the work broke is not begun, and nothing behind it is taken."""
    monkeypatch.setattr(bulk, "INPUT_TIMEOUT", 10.0)
    broken, reading, go_on = threading.Event(), threading.Event(), threading.Event()
    begun, taken = list[int](), 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(10):
            if number == 1:
                reading.set()
                assert go_on.wait(10)
            taken += 1
            yield number

    def work(number: int) -> int:
        begun.append(number)
        assert broken.wait(10)
        raise ItemError("the work broke")

    outcomes = fan_out(work, items(), 3, tells=True)
    told: list[object] = []

    def collect() -> None:
        try:
            told.extend(outcomes)
        except ItemError as error:
            told.append(str(error))

    collecting = threading.Thread(target=collect)
    collecting.start()
    assert reading.wait(10)
    wait_until(lambda: begun == [0])
    broken.set()
    wait_until(lambda: len(senders()) == 1)
    go_on.set()
    collecting.join(10)
    assert isinstance(told[0], NotBegun)
    assert (told[0].item, told[1:]) == (1, ["the work broke"])
    assert (begun, taken) == ([0], 2)
    assert senders() == []


@pytest.mark.parametrize("interrupted", [1, 2, 3])
@pytest.mark.parametrize("is_lost", [True, False])
def test_an_exception_while_a_thread_is_started(
    interrupted: int, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes out of ``next``, and the next call has each part of the work done once.

    `threading.Thread.start` may lose a thread then: it was started, and ends before it runs.
    """
    start, count = threading.Thread.start, 0

    def interrupted_start(thread: threading.Thread) -> None:
        nonlocal count
        count += thread.name.startswith("smtpconn-sender")
        if count == interrupted:
            count += 1
            if is_lost:
                monkeypatch.setattr(thread, "run", lambda: None)
            start(thread)
            raise ItemError
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    outcomes = fan_out(lambda n: n, range(20), 2)
    with pytest.raises(ItemError):
        next(outcomes)
    assert sorted(outcomes) == list(range(20))
    wait_until(lambda: senders() == [])


@pytest.mark.timeout(10)
def test_a_signal_handler_inside_the_start_of_a_thread() -> None:
    """It is told that it cannot have threads, which could not run before the handler ends."""
    outcomes = fan_out(abs, range(3), 2)
    lock = threading._active_limbo_lock  # type: ignore[attr-defined]
    with lock, pytest.raises(RuntimeError, match="starting another one"):
        next(outcomes)
    assert senders() == []


def test_an_interpreter_without_daemon_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subinterpreter may refuse even to make the object: the run ends with the error, once."""

    def refuse(**options: object) -> None:
        raise RuntimeError("daemon threads are disabled in this (sub)interpreter")

    monkeypatch.setattr(threading, "Thread", refuse)
    outcomes = fan_out(abs, range(3), 2)
    with pytest.raises(RuntimeError, match="daemon threads"):
        next(outcomes)
    assert list(outcomes) == []


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system has no more threads, those that run are waited for before the error is told."""
    go_on, told, in_flight = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []
    start = threading.Thread.start

    def start_one(thread: threading.Thread) -> None:
        if thread.name == "smtpconn-sender-1":
            assert in_flight.wait(10)
            raise RuntimeError("can't start new thread")
        start(thread)

    def work(number: int) -> int:
        in_flight.set()
        assert go_on.wait(10)
        return number

    def collect() -> None:
        try:
            list(fan_out(work, range(1), 2))
        except RuntimeError as error:
            errors.append(error)
        told.set()

    monkeypatch.setattr(threading.Thread, "start", start_one)
    collecting = threading.Thread(target=collect)
    collecting.start()
    assert in_flight.wait(10)
    was_told_early = told.wait(0.1)
    go_on.set()
    collecting.join(10)
    assert [str(e) for e in errors] == ["can't start new thread"]
    assert not was_told_early
    assert senders() == []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("takers", [2, 5])
def test_several_threads_take_outcomes(threads: int, takers: int) -> None:
    """Each outcome goes to one of them, none is lost, and all of them come to the end."""
    outcomes = fan_out(lambda n: n, range(300), threads)
    taken: list[list[int]] = [[] for _ in range(takers)]
    together = threading.Barrier(takers)

    def take(into: list[int]) -> None:
        together.wait(10)
        into.extend(outcomes)

    taking = [threading.Thread(target=take, args=(into,)) for into in taken]
    for thread in taking:
        thread.start()
    for thread in taking:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(itertools.chain(*taken)) == list(range(300))
    assert senders() == []


def test_the_error_goes_to_one_of_several_threads() -> None:
    """What the input raised is told once, behind all outcomes; to the others it is over."""
    outcomes = fan_out(lambda n: n, failing(50), 2)
    told: list[str] = []
    taken: list[int] = []

    def take() -> None:
        try:
            for number in outcomes:
                taken.append(number)
        except ItemError as error:
            told.append(str(error))

    taking = [threading.Thread(target=take) for _ in range(3)]
    for thread in taking:
        thread.start()
    for thread in taking:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(taken) == list(range(50))
    assert told == ["the input broke"]


def test_an_item_that_has_an_outcome_although_it_ends_the_run() -> None:
    """The outcome comes with the others, and what ended the run comes behind them."""

    def work(job: Item[int], run: Run[Item[int]]) -> None:
        job.outcome = job.item
        run.settle(job)
        if job.item == 5:
            raise ItemError("the hook broke")

    source, taken = Source(), list[int]()
    outcomes: Outcomes[int]
    outcomes = Outcomes(work, (Item(n, False, 0) for n in source), 2, JobLimit(4, 1))
    with pytest.raises(ItemError, match="the hook broke"):
        taken.extend(outcomes)
    assert sorted(taken) == list(range(source.taken))


# Stopping


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("received", [0, 1, 7])
def test_stopping_loses_no_outcome(threads: int, received: int) -> None:
    """After `stop` each item that was taken has its outcome, or one that says it was not begun."""
    source, begun = Source(), list[int]()

    def work(number: int) -> int:
        begun.append(number)
        return number

    outcomes = fan_out(work, source, threads, tells=True)
    told: list[object] = [next(outcomes) for _ in range(received)]
    outcomes.stop()
    told.extend(outcomes)
    numbers = [each for each in told if isinstance(each, int)]
    never = [each.item for each in told if isinstance(each, NotBegun)]
    assert sorted(numbers) == sorted(begun)
    assert sorted(numbers + never) == list(range(source.taken))
    assert list(outcomes) == []
    assert senders() == []


def test_what_was_never_begun_is_told() -> None:
    """Items that lie ready when a run is stopped are yielded, and none of them is begun."""
    begun, go_on = list[int](), threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        assert go_on.wait(10)
        return number

    outcomes = fan_out(work, Source(), 2, tells=True, limit=JobLimit(10, 10**9))
    told: list[object] = []
    taking = threading.Thread(target=lambda: told.extend(outcomes))
    taking.start()
    wait_until(lambda: outcomes._run.ready.qsize() == 8)
    outcomes.stop()
    go_on.set()
    taking.join(10)
    assert {each for each in told if not isinstance(each, NotBegun)} == set(begun) == {0, 1}
    assert sorted(each.item for each in told if isinstance(each, NotBegun)) == list(range(2, 10))


def test_closing_returns_the_outcomes_not_yet_taken() -> None:
    """What `close` returns and what was taken before are all items, each once."""
    source = Source()
    outcomes = fan_out(lambda n: n, source, 3)
    taken = [next(outcomes) for _ in range(5)]
    taken += outcomes.close()
    assert sorted(taken) == list(range(source.taken))
    assert outcomes.close() == []
    assert list(outcomes) == []


def test_closing_without_waiting() -> None:
    """What is there is returned, and what was not begun; ``next`` gives what was in flight."""
    go_on = threading.Event()

    def work(number: int) -> int:
        assert number == 0 or go_on.wait(10)
        return number

    outcomes = fan_out(work, Source(), 2, tells=True, limit=JobLimit(8, 10**9))
    told: list[object] = [next(outcomes)]
    wait_until(lambda: outcomes._run.ready.qsize() == 6)
    rest = outcomes.close(wait=False)
    assert [each.item for each in rest if isinstance(each, NotBegun)] == list(range(3, 9))
    assert len(rest) == 6
    go_on.set()
    told += outcomes
    assert sorted(str(each) for each in told) == ["0", "1", "2"]
    assert senders() == []


class Blocked:
    """Numbers, and then an input that does not answer until it is let go."""

    def __init__(self, *numbers: int) -> None:
        self.is_asked = threading.Event()
        self.is_let_go = threading.Event()
        self._numbers = iter(numbers)

    def __iter__(self) -> Iterator[int]:
        yield from self._numbers
        self.is_asked.set()
        self.is_let_go.wait()
        yield 99


@pytest.mark.parametrize("how", ["stop", "stop in another thread", "close", "with", "failure"])
def test_an_input_that_does_not_answer(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is over ends without it; what it gives afterwards is told by `close`."""
    monkeypatch.setattr(bulk, "INPUT_TIMEOUT", 0.05)
    source = Blocked(1, 2)

    def work(item: int) -> int:
        if how == "failure" and item == 2:
            raise ItemError
        return item

    outcomes = fan_out(work, source, 1, tells=True, limit=JobLimit(10, 1_000))
    taken = [next(outcomes)]
    assert source.is_asked.wait(10)
    if how == "stop in another thread":
        stopping = threading.Timer(0.05, outcomes.stop)
        stopping.start()
    elif how == "stop":
        outcomes.stop()
    elif how == "close":
        taken += outcomes.close()
    elif how == "with":
        with outcomes:
            pass
    if how == "failure":
        with pytest.raises(ItemError):
            taken += outcomes
        taken.append(2)
    taken += outcomes
    assert [item.item if isinstance(item, NotBegun) else item for item in taken] == [1, 2]
    assert next(outcomes, None) is None
    source.is_let_go.set()
    wait_until(lambda: senders() == [])
    [late] = outcomes.close()
    assert isinstance(late, NotBegun)
    assert late.item == 99
    assert outcomes.close() == []


def test_an_input_that_is_slow_is_waited_for_while_the_run_lasts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bound is for a run that is over; until then an input may take any time."""
    monkeypatch.setattr(bulk, "INPUT_TIMEOUT", 0.01)
    source = Blocked(1)
    outcomes = fan_out(lambda n: n, source, 2)
    assert next(outcomes) == 1
    letting = threading.Timer(0.1, source.is_let_go.set)
    letting.start()
    assert list(outcomes) == [99]
    letting.join()


def test_an_error_of_the_input_comes_after_closing() -> None:
    """`close` returns outcomes; the error that the input ended with is raised by ``next``."""
    outcomes = fan_out(lambda n: n, failing(3), 1, limit=JobLimit(9, 1000))
    taken = [next(outcomes)]
    wait_until(lambda: senders() == [])
    taken += outcomes.close()
    assert sorted(taken) == [0, 1, 2]
    with pytest.raises(ItemError, match="the input broke"):
        next(outcomes)
    assert list(outcomes) == []


def test_a_with_block_stops() -> None:
    """Leaving the block waits for what is in flight; its outcomes can be taken still."""
    source = Source()
    with fan_out(lambda n: n, source, 2) as outcomes:
        taken = [next(outcomes)]
    assert senders() == []
    assert sorted(taken + list(outcomes)) == list(range(source.taken))


def test_a_signal_handler_may_stop() -> None:
    """`stop` takes no lock, so it may interrupt a ``next`` that waits, or another `stop`."""
    source, begun, go_on = Source(), threading.Event(), threading.Event()

    def work(number: int) -> int:
        if number:
            begun.set()
            assert go_on.wait(10)
        return number

    outcomes = fan_out(work, source, 1, tells=True)
    assert next(outcomes) == 0
    assert begun.wait(10)

    def stop(*_: object) -> None:
        outcomes.stop()
        outcomes.stop()
        go_on.set()

    def signal_until_stopped() -> None:
        while not go_on.wait(0.05):
            to_main_thread(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        threading.Thread(target=signal_until_stopped).start()
        told: list[object] = list(outcomes)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [each for each in told if not isinstance(each, NotBegun)] == [1]
    never = [each.item for each in told if isinstance(each, NotBegun)]
    assert never == list(range(2, source.taken))


@pytest.mark.parametrize("how", ["next", "close", "with"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_signal_handler_at_every_line(how: str, count: int) -> None:
    """``next`` is refused there, `close` stops the batch, and each outcome is taken once."""
    taken: list[object] = []
    refused: set[str] = set()

    def handler() -> None:
        if how == "close":
            taken.extend(outcomes.close())
        elif how == "with":
            with outcomes:
                pass
        else:
            try:
                taken.append(next(outcomes))
            except StopIteration:
                pass
            except PoolOverloadedError:
                refused.add(interruption.function)

    for line in itertools.count():
        taken.clear()
        source = Source(count)
        outcomes = fan_out(lambda n: n, source, 2)
        with Interruption(line, handler, (bulk.__file__,)) as interruption:
            taken.extend(outcomes)
        taken.extend(outcomes.close())
        assert sorted(map(str, taken)) == list(map(str, range(source.taken))), interruption.where
        assert how != "next" or source.taken == count
        if not interruption.where:
            break
    assert how != "next" or {"_begin", "_move", "_wait", "_note", "_join"} <= refused


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("who", ["input", "work"])
def test_one_of_its_own_threads_may_close_it(who: str, wait: bool) -> None:
    """The input, or a hook that a worker calls, stops the run; it cannot wait for itself."""
    closed: list[list[int]] = []

    def source() -> Iterator[int]:
        for number in itertools.count():
            if who == "input" and number == 5:
                closed.append(outcomes.close(wait=wait))
            yield number

    def work(number: int) -> int:
        if who == "work" and number == 5:
            closed.append(outcomes.close(wait=wait))
        return number

    outcomes = fan_out(work, source(), 2)
    taken = sorted(outcomes)
    assert closed == [[]] * len(closed) != []
    assert taken == list(range(len(taken)))
    assert len(taken) > 5 - (who == "input")


@pytest.mark.parametrize("then", ["next", "close"])
@pytest.mark.parametrize("during", ["next", "close"])
def test_ctrl_c_loses_nothing(during: str, then: str) -> None:
    """``next`` or `close` raises the exception; the following calls return every outcome."""
    begun, go_on = threading.Event(), threading.Event()
    source = Source(6)

    def work(number: int) -> int:
        if number:
            begun.set()
            assert go_on.wait(10)
        return number

    outcomes = fan_out(work, source, 2)
    taken = [next(outcomes)]

    with one_ctrl_c() as handler:

        def interrupt() -> None:
            # The main thread waits, or is about to.
            assert begun.wait(10)
            send_until_handled(handler, lambda: to_main_thread(signal.SIGINT))

        interrupting = threading.Thread(target=interrupt)

        def wait_for_outcomes() -> None:
            interrupting.start()
            taken.extend([next(outcomes)] if during == "next" else outcomes.close())
            interrupting.join()

        with pytest.raises(KeyboardInterrupt):
            wait_for_outcomes()
        interrupting.join()
    go_on.set()
    taken += outcomes if then == "next" else outcomes.close()
    assert sorted(taken) == list(range(source.taken))
    assert during == "close" or then == "close" or source.taken == 6


@pytest.mark.parametrize("wait", [True, False])
def test_an_exception_at_every_line_of_closing_loses_no_outcome(wait: bool) -> None:
    """Also while outcomes that were received are collected: the next call returns all of them."""

    def scenario(injector: ExceptionInjector, error: BaseException) -> None:
        outcomes = fan_out(lambda n: n, range(6), 1, limit=JobLimit(6, 10**9))
        taken = [next(outcomes)]
        wait_until(lambda: not senders())
        try:
            with injector:
                taken += outcomes.close(wait=wait)
        except BaseException as raised:
            if raised is not error:
                raise
        taken += outcomes.close()
        assert sorted(taken) == list(range(6)), injector.where

    assert every_place(scenario, ("pool/bulk.py",)) > 50


class InterruptingLock:
    """A lock at whose release a signal handler raises, once."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.is_due = True

    def _is_owned(self) -> bool:
        return False

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()
        if self.is_due:
            self.is_due = False
            raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", ["next", "close"])
@pytest.mark.parametrize("then", ["next", "close"])
def test_ctrl_c_while_the_lock_is_released_loses_nothing(interrupted: str, then: str) -> None:
    """Then the outcomes were taken already."""
    outcomes = fan_out(lambda n: n, range(6), 1, limit=JobLimit(6, 10**9))
    taken = [next(outcomes)]
    wait_until(lambda: not senders())
    outcomes._run.end()
    outcomes._wait_until_over()
    outcomes._lock = InterruptingLock()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        taken += [next(outcomes)] if interrupted == "next" else _taken_by_closing(outcomes)
    taken += outcomes if then == "next" else outcomes.close()
    assert sorted(taken) == list(range(6))


def _taken_by_closing(outcomes: Outcomes[int]) -> list[int]:
    # Not interrupted while it waits.
    outcomes._wait_until_over = lambda: None  # type: ignore[method-assign]
    return outcomes.close()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_it_is_neither_copied_nor_pickled(duplicate: Callable[[object], object]) -> None:
    """The error says why."""
    outcomes = fan_out(lambda n: n, range(3), 1)
    with pytest.raises(TypeError, match="threads work for them"):
        duplicate(outcomes)
    outcomes.close()


def test_an_iterator_that_is_never_read_warns() -> None:
    """Outcomes that are never read are a mistake: nothing was sent."""
    outcomes: list[object] = [fan_out(lambda n: n, range(3), 1)]
    with pytest.warns(ResourceWarning, match="nothing was sent"):
        outcomes.clear()


def test_room_is_bounded_by_bytes() -> None:
    """Large items are not read ahead, but for two for each thread."""
    source = Source()
    outcomes = fan_out(lambda n: n, source, 2, limit=JobLimit(100, 1000), size=600)
    for received in range(1, 20):
        next(outcomes)
        assert source.taken <= received + 4 + outcomes._release_batch
    outcomes.close()
    small = Source()
    outcomes = fan_out(lambda n: n, small, 2, limit=JobLimit(100, 1000), size=50)
    next(outcomes)
    wait_until(lambda: small.taken >= 20)
    outcomes.close()


def test_a_worker_takes_what_lies_ready() -> None:
    """One that has what it needs goes on with further items; each is settled once."""
    runs: list[int] = []

    def work(job: Item[int], run: Run[Item[int]]) -> None:
        following: Item[int] | None = job
        count = 0
        while following is not None:
            following.outcome = following.item
            run.settle(following)
            count += 1
            following = run.take_ready()
        runs.append(count)

    outcomes: Outcomes[int]
    outcomes = Outcomes(work, (Item(n, False, 0) for n in range(2000)), 2, JobLimit(400, 1))
    assert sorted(outcomes) == list(range(2000))
    assert sum(runs) == 2000
    assert senders() == []
