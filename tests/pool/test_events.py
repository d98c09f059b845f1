"""The events of a pool: each once, in order, in the thread that causes it, without a lock."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator

import pytest

from smtpconn import (
    ConnectionClosedError,
    ConnectionPool,
    PermanentError,
    PoolClosedError,
    PoolEvent,
    PoolTimeoutError,
    Protocol,
    ServerConfig,
    SmtpError,
    ValidationError,
)
from smtpconn.pool.events import Action, EventEmitter, Stage
from smtpconn.testing import SmtpServer
from tests.support.pool_use import MESSAGE, RECIPIENTS, SENDER, send, take
from tests.support.waiting import wait_until

ASKED, TAKEN_OVER, IN_VAIN = (("checkout", stage, "") for stage in ("started", "done", "failed"))
MADE = [("connect", "started", ""), ("connect", "done", "")]
CONNECTED = [ASKED, *MADE, TAKEN_OVER]
TAKEN = [ASKED, TAKEN_OVER]
BACK = ("checkin", "done", "")
BEGUN, SENT, FAILED = ("send", "started", ""), ("send", "done", ""), ("send", "failed", "")


def discarded(reason: str) -> tuple[str, str, str]:
    """The event of a connection that is given up."""
    return ("discard", "done", reason)


class RecordingHook:
    """A hook that records events."""

    def __init__(self) -> None:
        self.events: list[PoolEvent] = []

    def __call__(self, event: PoolEvent) -> None:
        self.events.append(event)

    @property
    def heard(self) -> list[tuple[str, str, str]]:
        """What was told, without figures; forgotten once asked for."""
        told = [(e.action.value, e.stage.value, e.reason) for e in self.events]
        self.events.clear()
        return told


def test_a_day_of_events(server: SmtpServer) -> None:
    """Each thing that happens is told once, in order."""
    hook = RecordingHook()
    with ConnectionPool(server.url, max_messages=2, keepalive=None, on_event=hook) as pool:
        assert hook.heard == []
        send(pool)
        assert hook.heard == [BEGUN, *CONNECTED, BACK, SENT]
        take(pool)
        assert hook.heard == [*TAKEN, BACK]
        send(pool)
        assert hook.heard == [BEGUN, *TAKEN, discarded("max_messages"), BACK, SENT]
        server.fault("MAIL", reply="550 5.7.1 No")
        with pytest.raises(PermanentError):
            send(pool)
        assert hook.heard == [BEGUN, *CONNECTED, BACK, FAILED]
        server.fault("MAIL", close=True)
        send(pool)
        retried = [BEGUN, *TAKEN, discarded("dead when used"), *MADE, BACK, SENT]
        assert hook.heard == retried
        server.kill()
        take(pool)
        assert hook.heard == [ASKED, discarded("dead when idle"), *MADE, TAKEN_OVER, BACK]
        pool.drain()
        assert hook.heard == [discarded("drained")]
        take(pool)
        assert hook.heard == [*CONNECTED, BACK]
    assert hook.heard == [discarded("pool closed")]


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("closed in use", "close"),
        ("421", "shut down"),
        ("interrupted", "interrupt"),
        ("drained", "drain"),
    ],
)
def test_why_a_connection_was_given_up(server: SmtpServer, reason: str, how: str) -> None:
    """The event of a connection that is not kept says why."""
    hook = RecordingHook()
    with ConnectionPool(server.url, keepalive=None, on_event=hook) as pool:
        try:
            with pool.connection() as connection:
                if how == "close":
                    connection.close()
                elif how == "shut down":
                    server.fault("NOOP", reply="421 4.3.2 Bye")
                    connection.noop()
                elif how == "drain":
                    pool.drain()
                else:
                    raise KeyboardInterrupt
        except (SmtpError, KeyboardInterrupt):
            pass
        assert hook.heard == [*CONNECTED, discarded(reason), BACK]


@pytest.mark.parametrize(
    ("reason", "options"),
    [("max_idle", {"max_idle": 0.001}), ("max_lifetime", {"max_lifetime": 0.001})],
)
def test_connections_whose_time_is_over(
    server: SmtpServer, reason: str, options: dict[str, float]
) -> None:
    """The event of an old connection names the limit."""
    hook = RecordingHook()
    with ConnectionPool(
        server.url,
        keepalive=None,
        on_event=hook,
        max_idle=options.get("max_idle", 60.0),
        max_lifetime=options.get("max_lifetime", 60.0),
    ) as pool:
        take(pool)

        def was_given_up() -> bool:
            take(pool)
            return discarded(reason) in hook.heard

        wait_until(was_given_up)


@pytest.mark.parametrize("reply", ["250 2.0.0 Ok", "421 4.3.2 Bye"])
def test_keep_alive_is_told(server: SmtpServer, reply: str) -> None:
    """A NOOP is told with its outcome; one that failed costs the connection, which is told too."""
    hook, asked = RecordingHook(), ("noop", "started", "")

    def told() -> list[PoolEvent]:
        # Without those of this thread, which may tell of its checkin behind the NOOP.
        return [e for e in hook.events if e.action in (Action.NOOP, Action.DISCARD)]

    server.fault("NOOP", reply=reply)
    with ConnectionPool(server.url, keepalive=0.01, on_event=hook) as pool:
        take(pool)
        if reply.startswith("421"):
            expected = [asked, ("noop", "failed", ""), discarded("keepalive failed")]
        else:
            expected = [asked, ("noop", "done", "")]
        wait_until(lambda: len(told()) >= len(expected))
        events = told()[: len(expected)]
        assert [(e.action, e.stage, e.reason) for e in events] == expected
        event = events[1]
        assert isinstance(event.error, SmtpError) == reply.startswith("421")
        assert event.server == str(pool.config)
        assert event.seconds is not None


@pytest.mark.parametrize("where", ["connect", "login", "timeout", "closed"])
def test_a_message_that_got_no_connection(server: SmtpServer, where: str) -> None:
    """A message that fails before it has a connection has a failed event with the error."""
    hook = RecordingHook()
    failed = [BEGUN, ASKED, MADE[0], ("connect", "failed", ""), IN_VAIN, FAILED]
    pool = ConnectionPool(server.url, max_size=1, acquire_timeout=10, keepalive=None, on_event=hook)
    if where == "connect":
        server.fault("CONNECT", reply="554 5.3.2 No", close=True)
        with pytest.raises(PermanentError):
            send(pool)
    elif where == "login":
        server.fault("EHLO", close=True)
        with pytest.raises(ConnectionClosedError):
            send(pool)
    elif where == "timeout":
        with pool.connection():
            hook.events.clear()
            with pytest.raises(PoolTimeoutError):
                pool.send(SENDER, RECIPIENTS, MESSAGE, timeout=0.02)
        failed = [BEGUN, ASKED, IN_VAIN, FAILED, BACK]
    else:
        pool.close()
        with pytest.raises(PoolClosedError):
            send(pool)
        failed = [BEGUN, ASKED, IN_VAIN, FAILED]
    (last,) = (e for e in hook.events if (e.action, e.stage) == (Action.SEND, Stage.FAILED))
    assert isinstance(last.error, SmtpError)
    assert hook.heard == failed
    pool.close()


def test_what_cannot_be_sent_is_not_told(server: SmtpServer) -> None:
    """A message with a bad address is refused before anything begins, so nothing is told."""
    hook = RecordingHook()
    with ConnectionPool(server.url, on_event=hook) as pool:
        with pytest.raises(ValidationError):
            pool.send(SENDER, ["not an address"], MESSAGE)
        assert hook.heard == []


def test_the_fields_of_an_event(server: SmtpServer) -> None:
    """An event names pool and server, and has seconds exactly when something has ended."""
    hook = RecordingHook()
    with ConnectionPool(server.url, name="outgoing", keepalive=None, on_event=hook) as pool:
        send(pool)
        server.fault("RCPT", reply="421 4.3.2 Bye")
        send(pool)  # again over a new connection
        name = str(pool.config)
    assert {e.pool for e in hook.events} == {"outgoing"}
    for event in hook.events:
        assert isinstance(event.action, Action)
        assert isinstance(event.stage, Stage)
        has_ended = event.stage is not Stage.STARTED and event.action is not Action.DISCARD
        assert (event.seconds is not None) == has_ended
        assert event.seconds is None or 0 <= event.seconds < 10
        knows_server = (event.action, event.stage) != (Action.CHECKOUT, Stage.STARTED)
        assert event.server == (name if knows_server else "")
        assert event.protocol is (Protocol.SMTP if knows_server else None)
        assert (event.reason != "") == (event.action is Action.DISCARD)
        assert event.error is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        hook.events[0].reason = "changed"  # type: ignore[misc]


def test_a_connection_that_comes_back_says_how_long_it_was_out(server: SmtpServer) -> None:
    """However its block ended, once; of a message it is the server that had it in the end."""
    hook = RecordingHook()
    with (
        SmtpServer() as backup,
        ConnectionPool([server.url, backup.url], keepalive=None, on_event=hook) as pool,
    ):
        lease = pool.connection()
        with lease:
            threading.Event().wait(0.02)
        lease.__exit__(None, None, None)
        with pytest.raises(ZeroDivisionError), pool.connection():
            _ = 1 / 0
        server.fault("MAIL", close=True)
        server.fault("CONNECT", close=True)
        send(pool)
    first, second, third = (e for e in hook.events if e.action is Action.CHECKIN)
    assert first.seconds is not None
    assert first.seconds >= 0.02
    assert second.error is None
    assert third.server == f"{backup.host}:{backup.port}"


def test_an_error_that_is_not_of_smtp_is_not_in_the_event(server: SmtpServer) -> None:
    """A message whose own file breaks has failed, and its error goes to the caller alone."""
    hook = RecordingHook()

    def broken() -> Iterator[bytes]:
        yield MESSAGE
        raise OSError("the disk is gone")

    with ConnectionPool(server.url, keepalive=None, on_event=hook) as pool:
        with pytest.raises(OSError, match="the disk is gone"):
            pool.send(SENDER, RECIPIENTS, broken())
        assert hook.events[-1].stage is Stage.FAILED
        assert hook.events[-1].error is None
        assert hook.heard == [BEGUN, *CONNECTED, discarded("closed in use"), BACK, FAILED]


def test_a_hook_that_raises_harms_nothing(
    server: SmtpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What the hook raises is logged with its traceback, and everything goes on."""
    told = []

    def broken(event: PoolEvent) -> None:
        told.append(event.action)
        raise RuntimeError("the hook is broken")

    with ConnectionPool(
        server.url, name="outgoing", max_size=1, keepalive=0.01, on_event=broken
    ) as pool:
        for _ in range(3):
            send(pool)
        server.kill()
        send(pool)
        server.wait_for(lambda: any("NOOP" in c.commands for c in server.connections))
        wait_until(lambda: Action.NOOP in told)
        with pool.connection(timeout=1):
            assert pool.stats().in_use == 1
    assert len(server.messages) == 4
    records = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(records) == len(told) >= 10
    assert {r.name for r in records} == {"smtpconn.pool"}
    assert {r.getMessage() for r in records} == {"the hook of outgoing failed"}
    assert all(r.exc_info and isinstance(r.exc_info[1], RuntimeError) for r in records)


def test_the_hook_is_never_called_under_the_lock(server: SmtpServer) -> None:
    """While the hook runs, other threads can use the pool: it holds no lock."""
    blocked: list[str] = []
    actions: set[tuple[str, str]] = set()
    asking = threading.local()

    def ask(event: PoolEvent) -> None:
        actions.add((event.action.value, event.stage.value))
        if getattr(asking, "now", False):
            return
        asking.now = True
        thread = threading.Thread(target=pool.stats)
        thread.start()
        thread.join(2)
        if thread.is_alive():
            blocked.append(f"{event.action} {event.stage} {event.reason}")
        asking.now = False

    pool = ConnectionPool(server.url, max_size=1, max_messages=3, keepalive=0.01, on_event=ask)
    server.fault("CONNECT", reply="554 5.3.2 No", close=True)
    with pool:
        with pytest.raises(PermanentError):
            send(pool)
        for _ in range(4):
            send(pool)
        server.fault("MAIL", reply="421 4.3.2 Bye")
        send(pool)
        wait_until(lambda: ("noop", "done") in actions)
        server.fault("NOOP", close=True)
        wait_until(lambda: ("noop", "failed") in actions)
        server.fault("CONTENT", reply="550 5.7.1 Spam")
        with pytest.raises(PermanentError):
            send(pool)
        pool.drain()
        take(pool)
    assert blocked == []
    assert len(actions) == 14  # all there are


def test_the_hook_runs_where_the_thing_happens(server: SmtpServer) -> None:
    """Events of a send come in the sender's thread, those of keep-alive in maintenance's."""
    threads: dict[str, set[str]] = {}

    def note(event: PoolEvent) -> None:
        threads.setdefault(event.action.value, set()).add(threading.current_thread().name)

    with ConnectionPool(server.url, keepalive=0.01, on_event=note) as pool:
        thread = threading.Thread(target=lambda: send(pool), name="the sender")
        thread.start()
        thread.join(10)
        wait_until(lambda: "noop" in threads)
    assert threads["send"] == threads["connect"] == threads["checkout"] == {"the sender"}
    assert threads["noop"] == {"smtpconn-maintenance"}


def test_the_hook_may_use_the_pool(server: SmtpServer) -> None:
    """A hook that sends mail over the same pool blocks no caller."""
    sent: list[PoolEvent] = []

    def report(event: PoolEvent) -> None:
        if event.stage is Stage.FAILED and event.action is Action.SEND:
            pool.send(SENDER, ["postmaster@example.com"], MESSAGE)
            sent.append(event)

    with ConnectionPool(server.url, max_size=1, on_event=report) as pool:
        server.fault("MAIL", reply="550 5.7.1 No")
        with pytest.raises(PermanentError):
            send(pool)
    assert len(sent) == len(server.messages) == 1


def test_no_events_without_a_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hook neither events nor their parts are created."""
    monkeypatch.setattr("smtpconn.pool.events.PoolEvent", None)
    config = ServerConfig.from_url("smtp://mx.example.com")
    quiet = EventEmitter("quiet", None)
    events = quiet.operation(Action.SEND, config)
    assert events is quiet.operation(Action.NOOP)
    events.begin()
    events.set_server(config)
    events.done(accepted=1)
    events.failed(ValueError())
    quiet.emit_discard(config, "421")


def test_begin_and_end_of_an_operation_have_one_number(server: SmtpServer) -> None:
    """The events of one operation have the same number."""
    hook = RecordingHook()

    def content() -> Iterator[bytes]:
        send(pool)
        yield MESSAGE

    with ConnectionPool(server.url, keepalive=None, on_event=hook) as pool:
        server.fault("MAIL", reply="550 5.7.1 No", skip=1)
        send(pool)
        with pytest.raises(PermanentError):
            send(pool)
        pool.send(SENDER, RECIPIENTS, content())  # two at a time in one thread
    begun: dict[int, Action] = {}
    for event in hook.events:
        if event.action in (Action.DISCARD, Action.CHECKIN):
            assert event.operation == 0
        elif event.stage is Stage.STARTED:
            assert event.operation not in begun
            begun[event.operation] = event.action
        else:
            assert begun.pop(event.operation) is event.action
    assert begun == {}
    assert sum(e.action is Action.SEND for e in hook.events) == 8


def test_the_event_of_a_message_counts_recipients() -> None:
    """Who was refused beside others is counted, in LMTP as well, and no address is in the event."""
    recipients = ["a@example.com", "b@example.com", "c@example.com"]
    for protocol in ("SMTP", "LMTP"):
        hook = RecordingHook()
        with (
            SmtpServer(protocol=protocol) as server,
            ConnectionPool(server.url, on_event=hook) as pool,
        ):
            server.fault("RCPT", reply="550 5.1.1 No such user", match="b@example.com")
            if protocol == "LMTP":
                server.fault("CONTENT", reply="452 4.2.2 Full")
            pool.send(SENDER, recipients, MESSAGE)
            event = next(e for e in hook.events if (e.action, e.stage) == (Action.SEND, Stage.DONE))
        assert event.protocol is Protocol(protocol)
        assert (event.accepted, event.rejected) == ((2, 1) if protocol == "SMTP" else (1, 2))
        assert "example.com" not in repr(hook.events)


def test_the_event_of_a_message_names_the_server_that_had_it(server: SmtpServer) -> None:
    """With several servers that is known only at the end; before, no server is named."""
    hook = RecordingHook()
    with (
        SmtpServer() as backup,
        ConnectionPool([server.url, backup.url], keepalive=None, on_event=hook) as pool,
    ):
        send(pool)
        server.stop()
        send(pool)
    told = [(e.stage, e.server) for e in hook.events if e.action is Action.SEND]
    first, second = f"{server.host}:{server.port}", f"{backup.host}:{backup.port}"
    assert told == [
        (Stage.STARTED, ""),
        (Stage.DONE, first),
        (Stage.STARTED, ""),
        (Stage.DONE, second),
    ]
