"""Exceptions of other code, at every line of ours: they come out as they are, and nothing is wrong.

Of each message it is compared what was said of it with what the server has stored: what is called
delivered is stored, what is called certainly not delivered is not, and nothing is stored twice.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from smtpconn import (
    ConnectionPool,
    Envelope,
    Pipelining,
    SendOutcome,
    SmtpConnection,
    SmtpError,
    TlsMode,
    ValidationError,
)
from smtpconn.pool.events import Action, PoolEvent, Stage
from smtpconn.testing import SmtpServer
from tests.support.exception_injector import ERRORS, ExceptionInjector, Killed, every_place
from tests.support.foreign_exceptions import (
    CONNECTION,
    MODES,
    PEOPLE,
    POOL,
    TIMEOUT,
    StoringServer,
    check,
    content_of,
    send_many_on_a_connection,
    send_many_over_a_pool,
    send_on_a_reused_connection,
)
from tests.support.signals import RaisingHandler, send_until_handled, to_main_thread

pytestmark = [
    # A socket that was made and not yet kept when it was interrupted is closed by its destructor.
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
    # An exception at every place takes long on a busy machine.
    pytest.mark.timeout(90),
]


@pytest.fixture
def storing_server() -> Iterator[StoringServer]:
    """A server."""
    with SmtpServer() as server:
        yield StoringServer(server)


@pytest.mark.parametrize("mode", MODES)
def test_send_many_on_a_connection(storing_server: StoringServer, mode: Pipelining) -> None:
    """`SmtpConnection.send_many`: each message that was taken has its true outcome afterwards."""
    places = every_place(send_many_on_a_connection(storing_server, mode), CONNECTION, step=7)
    print(f"{places} places")
    assert places > 400


def test_send_many_over_lmtp() -> None:
    """The same with an answer per recipient."""
    with SmtpServer(protocol="LMTP") as server:
        scenario = send_many_on_a_connection(StoringServer(server), Pipelining.AUTO, lmtp=True)
        assert every_place(scenario, CONNECTION, step=7) > 400


@pytest.mark.parametrize("mode", [Pipelining.AUTO, Pipelining.EAGER])
def test_send_on_a_reused_connection(storing_server: StoringServer, mode: Pipelining) -> None:
    """`ConnectionPool.send`: the exception comes out as it is, and nothing is sent again."""
    places = every_place(send_on_a_reused_connection(storing_server, mode), POOL)
    print(f"{places} places")
    assert places > 100


@pytest.mark.parametrize("mode", [Pipelining.AUTO, Pipelining.EAGER])
def test_send_many_over_a_pool(storing_server: StoringServer, mode: Pipelining) -> None:
    """`ConnectionPool.send_many`: the exception comes out behind the true outcomes of all."""
    places = every_place(send_many_over_a_pool(storing_server, mode), POOL, step=7)
    print(f"{places} places")
    assert places > 200


def test_an_exception_while_outcomes_are_read(storing_server: StoringServer) -> None:
    """What is raised in ``next`` comes out of it and loses nothing: the next one goes on."""

    def scenario(injector: ExceptionInjector, error: BaseException) -> None:
        letters = storing_server.letters(4)
        outcomes: list[SendOutcome] = []
        with ConnectionPool(storing_server.server.url, max_size=2, keepalive=None) as pool:
            stream = pool.send_many(letters)
            for _ in range(2):
                raised: BaseException | None = None
                with injector:
                    try:
                        for outcome in stream:
                            outcomes.append(outcome)
                    except BaseException as caught:
                        raised = caught
                assert raised in (None, error), injector.where
        where = injector.where
        assert {id(o.envelope) for o in outcomes} == set(map(id, letters)), where
        assert len(outcomes) == len(letters), where
        assert [o.error for o in outcomes] == [None] * 4, where
        assert set(storing_server.stored().values()) == {2}, where

    places = every_place(scenario, ("pool/bulk.py",))
    print(f"{places} places")
    assert places > 30


@pytest.fixture
def alarm() -> Iterator[Callable[[BaseException], None]]:
    """Has a signal handler raise an exception from now on: see `signal.raise_signal`."""
    before = signal.getsignal(signal.SIGUSR1)

    def set_alarm(error: BaseException) -> None:
        signal.signal(signal.SIGUSR1, RaisingHandler(error))

    yield set_alarm
    signal.signal(signal.SIGUSR1, before)


def signal_when(server: SmtpServer, condition: Callable[[], bool]) -> threading.Thread:
    """Send the signal to the main thread once something is true of the server."""
    handler = signal.getsignal(signal.SIGUSR1)
    assert isinstance(handler, RaisingHandler)

    def wait_and_signal() -> None:
        server.wait_for(condition)
        send_until_handled(handler, lambda: to_main_thread(signal.SIGUSR1))

    thread = threading.Thread(target=wait_and_signal)
    thread.start()
    return thread


@pytest.mark.parametrize("make", ERRORS, ids=lambda make: repr(make()))
def test_a_signal_while_many_wait_for_an_answer(
    storing_server: StoringServer,
    alarm: Callable[[BaseException], None],
    make: Callable[[], BaseException],
) -> None:
    """A handler's exception out of a system call that waits: the first message is delivered."""
    server, error = storing_server.server, make()
    server.fault("CONTENT", hang=True, skip=1)
    alarm(error)
    with SmtpConnection.connect(
        server.host, server.port, TlsMode.NONE, TIMEOUT, pipelining=Pipelining.OFF
    ) as connection:
        outcomes = connection.send_many(storing_server.letters(3))
        first = next(outcomes)
        thread = signal_when(server, lambda: server.connections[0].commands.count("DATA") == 2)
        with pytest.raises(type(error)) as caught:
            next(outcomes)
        thread.join()
        assert caught.value is error
        assert not connection.is_open
        assert first.error is None
        second = next(outcomes)
        assert second.error is not None
        assert second.error.__cause__ is error
        rest = list(outcomes)
    assert all(o.error and not o.error.may_have_been_delivered for o in rest)
    assert len(server.messages) == 1


@pytest.mark.parametrize("make", ERRORS, ids=lambda make: repr(make()))
@pytest.mark.parametrize("step", ["MAIL", "CONTENT"])
def test_a_signal_while_a_pool_waits_for_an_answer(
    storing_server: StoringServer,
    alarm: Callable[[BaseException], None],
    make: Callable[[], BaseException],
    step: str,
) -> None:
    """On a reused connection, too, it is no sign of death: nothing is sent again."""
    server, error = storing_server.server, make()
    alarm(error)
    with ConnectionPool(server.url, max_size=1, keepalive=None) as pool:
        pool.send("me@x.example", PEOPLE, b"first\r\n")
        server.fault(step, hang=True, times=1)
        word = "MAIL" if step == "MAIL" else "DATA"
        thread = signal_when(
            server,
            lambda: sum(c.startswith(word) for c in server.connections[0].commands) == 2,
        )
        with pytest.raises(type(error)) as caught:
            pool.send("me@x.example", PEOPLE, b"second\r\n")
        thread.join()
        assert caught.value is error
        assert pool.stats().retries == 0
        error.__traceback__ = None
    assert [m.content for m in server.messages] == [b"first\r\n"]
    assert len(server.connections) == 1


class Refusing(logging.Filter):
    """A filter that raises at the first record that begins so, from then on nothing."""

    def __init__(self, begins: str, error: BaseException) -> None:
        super().__init__()
        self._begins = begins
        self._error: BaseException | None = error

    def filter(self, record: logging.LogRecord) -> bool:
        """Raise, once."""
        if self._error is not None and record.getMessage().partition(" ")[2].startswith(
            self._begins
        ):
            error, self._error = self._error, None
            raise error
        return True


@pytest.mark.parametrize("make", ERRORS, ids=lambda make: repr(make()))
@pytest.mark.parametrize(
    ("begins", "is_stored"), [("<- 250 2.0.0", True), ("-> <content>", False), ("-> MAIL", False)]
)
def test_a_logging_filter_that_raises(
    storing_server: StoringServer, make: Callable[[], BaseException], begins: str, is_stored: bool
) -> None:
    """Its exception comes out behind the outcomes, which are true; nothing is "unreadable"."""
    error = make()
    log = logging.getLogger("smtpconn.wire")
    refusing = Refusing(begins, error)
    log.addFilter(refusing)
    log.setLevel(logging.DEBUG)
    try:
        with ConnectionPool(storing_server.server.url, max_size=1, keepalive=None) as pool:
            outcomes: list[SendOutcome] = []
            with pytest.raises(type(error)) as caught:
                outcomes.extend(pool.send_many(storing_server.letters(3)))
            assert caught.value is error
            error.__traceback__ = error.__context__ = None
    finally:
        log.setLevel(logging.NOTSET)
        log.removeFilter(refusing)
    stored = storing_server.stored()
    assert outcomes
    for outcome in outcomes:
        check(stored.pop(content_of(outcome), 0), outcome, begins)
        assert "could not be read" not in str(outcome.error)
    assert not stored


@pytest.mark.parametrize("action", [Action.SEND, Action.CHECKIN])
def test_a_hook_that_ends_the_thread(storing_server: StoringServer, action: Action) -> None:
    """What is no Exception passes a pool's hook: the message it was told of is delivered."""

    def hook(event: PoolEvent) -> None:
        if event.action is action and event.stage is Stage.DONE:
            raise Killed

    with ConnectionPool(
        storing_server.server.url, max_size=1, keepalive=None, on_event=hook
    ) as pool:
        outcomes: list[SendOutcome] = []
        with pytest.raises(Killed):
            outcomes.extend(pool.send_many(storing_server.letters(3)))
    # A lent connection comes back when the messages that lay ready are sent.
    sent = 1 if action is Action.SEND else len(outcomes)
    assert [o.error for o in outcomes[:sent]] == [None] * sent
    assert not any(o.error is None or o.error.may_have_been_delivered for o in outcomes[sent:])
    assert len(storing_server.server.messages) == sent


class Broken(SmtpError):
    """The error of a message source that itself sends mail."""


@pytest.mark.parametrize(
    "error",
    [OSError("the disk"), TimeoutError(), ConnectionResetError(104, "its own"), Broken("its own")],
    ids=repr,
)
@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("over", ["connection", "pool"])
def test_a_source_that_fails_is_its_own_messages_outcome(
    storing_server: StoringServer, error: Exception, blocks: int, over: str
) -> None:
    """Whatever it raises, and wherever: it cannot be read, and certainly was not delivered."""

    def breaking() -> Iterator[bytes]:
        yield from [b"a line\r\n"] * blocks
        raise error

    good, bad = storing_server.letters(1)[0], Envelope("me@x.example", PEOPLE, breaking())
    with ConnectionPool(storing_server.server.url, max_size=1, keepalive=None) as pool:
        if over == "pool":
            outcomes = list(pool.send_many([good, bad]))
        else:
            with pool.connection() as connection:
                outcomes = list(connection.send_many([good, bad]))
    assert outcomes[0].error is None
    assert isinstance(outcomes[1].error, ValidationError)
    assert "could not be read" in str(outcomes[1].error)
    assert outcomes[1].error.__cause__ is error
    assert not outcomes[1].error.may_have_been_delivered
    assert len(storing_server.server.messages) == 1


def test_a_long_message_in_one_chunk(storing_server: StoringServer) -> None:
    """Its last byte may have left although the write of it never came back."""
    long = b"Subject: long\r\n\r\n" + b"x" * 70 + b"\r\n"
    long += (b"y" * 70 + b"\r\n") * 2000

    def scenario(injector: ExceptionInjector, error: BaseException) -> None:
        server = storing_server.server
        connection = SmtpConnection.connect(
            server.host, server.port, TlsMode.NONE, TIMEOUT, pipelining=Pipelining.EAGER
        )
        outcomes: list[SendOutcome] = []
        raised: BaseException | None = None
        with injector:
            try:
                stream = connection.send_many([Envelope("me@x.example", PEOPLE, long)])
                outcomes += stream
            except BaseException as caught:
                raised = caught
        assert raised is (error if injector.where else None)
        outcomes += stream
        connection.close()
        stored = storing_server.stored()[long]
        for outcome in outcomes:
            check(stored, outcome, injector.where)

    assert every_place(scenario, ("net/transport.py", "client/driver.py"), step=3) > 50
