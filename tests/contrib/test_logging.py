"""The logging handler: what it mails, what it does not mail, and that no caller waits for it."""

from __future__ import annotations

import logging
import logging.handlers
import queue
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from smtpconn import ConnectionPool, PoolEvent, ValidationError
from smtpconn.contrib import logging_queue
from smtpconn.contrib.logging import MAX_RECORD, MAX_SUBJECT, PooledSmtpHandler
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.exception_injector import ExceptionInjector, every_place
from tests.support.log_mail import (
    FROM,
    NEVER,
    TO,
    MakeHandler,
    RecordingHandler,
    is_in_flight,
    read,
    text_of,
    wait_until_idle,
)

# --- What is mailed -------------------------------------------------------------------------------


def test_it_mails_what_the_standard_handler_mails(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Same envelope, subject, sender, recipients and text; besides, it says it is automatic."""
    ours = make(mailhost=(server.host, server.port))
    theirs = logging.handlers.SMTPHandler((server.host, server.port), FROM, TO, "Errors")
    logger.addHandler(theirs)
    try:
        raise LookupError("no such item")
    except LookupError:
        logger.exception("item %d is missing", 7)
    ours.flush()
    theirs.close()
    first, second = server.wait_for_messages(2)
    assert (first.sender, first.recipients) == (second.sender, second.recipients)
    for name in ("Subject", "From", "To"):
        assert read(first)[name] == read(second)[name]
    assert text_of(first).strip() == text_of(second).strip()
    assert "LookupError: no such item" in text_of(first)
    mails = [read(first), read(second)]
    (our_mail,) = [mail for mail in mails if mail["Auto-Submitted"] == "auto-generated"]
    assert our_mail["Message-ID"].endswith("@example.com>")


@pytest.mark.parametrize("to", ["a@x.example, b@x.example", ["A. B. <a@x.example>", "b@x.example"]])
def test_recipients_in_one_text(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler, to: str | list[str]
) -> None:
    """Commas part them, as the standard handler takes them."""
    handler = make(toaddrs=to, fromaddr="Example.com <noreply@example.com>")
    logger.error("x")
    handler.flush()
    (mail,) = server.wait_for_messages(1)
    assert (mail.sender, mail.recipients) == ("noreply@example.com", ("a@x.example", "b@x.example"))
    assert [a.addr_spec for a in read(mail)["To"].addresses] == ["a@x.example", "b@x.example"]


def test_postmaster_gets_mail(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """It is an address without a domain (RFC 5321 4.1.1.3)."""
    handler = make(toaddrs="postmaster")
    logger.error("x")
    handler.flush()
    assert server.wait_for_messages(1)[0].recipients == ("postmaster",)


def test_records_of_a_while_become_one_mail(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """They wait for each other, stand in order, and go over one connection, mail after mail."""
    handler = make()
    for count in (5, 1):
        for number in range(count):
            logger.error("number %d", number)
        handler.flush()
    first, second = server.wait_for_messages(2)
    assert text_of(first).split("\n\n") == [*(f"number {n}" for n in range(4)), "number 4\n"]
    assert read(first)["Subject"] == "Errors (5 records)"
    assert read(second)["Subject"] == "Errors"
    assert handler.mailed == 6
    assert len(server.connections) == 1


def test_mails_are_sent_without_a_flush(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """A mail is sent when it is due, and at once when it is full."""
    logger.removeHandler(first := make(group_for=0.01))
    first.handle(logging.makeLogRecord({"msg": "one"}))
    server.wait_for_messages(1)
    make(max_records=3)
    for _ in range(3):
        logger.error("many")
    assert read(server.wait_for_messages(2)[1])["Subject"] == "Errors (3 records)"


def test_threads_lose_no_record_and_double_none(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Each record of many threads is in exactly one mail, and a thread's own are in order."""
    handler = make(capacity=10_000, max_records=70, max_mails=1000, close_timeout=10)

    def log(thread: int) -> None:
        for number in range(200):
            logger.error("%d.%d", thread, number)

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    handler.close()
    lines = [line for m in server.messages for line in text_of(m).split()]
    for thread in range(8):
        own = [line for line in lines if line.startswith(f"{thread}.")]
        assert own == [f"{thread}.{number}" for number in range(200)]
    assert len(lines) == 1600
    assert len(server.messages) == 23


def test_a_flood_becomes_few_mails(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Mails are limited as well; the rest waits for the end, or is dropped and counted."""
    handler = make(max_records=10, max_mails=2, per=NEVER, capacity=50)
    for number in range(200):
        logger.error("number %d", number)
    server.wait_for_messages(2)
    for number in range(200):
        logger.error("number %d", number)
    handler.close()
    assert handler.mailed + handler.dropped == 400
    assert handler.mailed >= 50
    told = [text_of(m) for m in server.messages if "were dropped.)" in text_of(m)]
    assert sum(int(text[1:].split()[0]) for text in told) == handler.dropped
    assert max(text_of(m).count("number") for m in server.messages) == 10


@pytest.mark.parametrize(
    ("subject", "seen"),
    [
        ("bad\r\nBcc: victim@example.com", "bad  Bcc: victim@example.com"),
        ("bad\u2028line\x00", "bad line "),
        ("Größe", "Größe"),
        ("x" * 1000, "x" * (MAX_SUBJECT - 1) + "\u2026"),
    ],
)
def test_a_subject_made_of_a_record_is_one_line(
    server: SmtpServer, logger: logging.Logger, subject: str, seen: str
) -> None:
    """Whatever `getSubject` returns, it is a subject and no further header field."""

    class FromRecord(PooledSmtpHandler):
        def getSubject(self, record: logging.LogRecord) -> str:
            return record.getMessage()

    handler = FromRecord(server.url, FROM, TO, "unused")
    logger.addHandler(handler)
    logger.error(subject)
    handler.close()
    (message,) = server.messages
    assert read(message)["Subject"].rstrip() == seen.rstrip()
    assert read(message)["Bcc"] is None
    assert message.recipients == tuple(TO)


def test_any_text_can_be_mailed(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Surrogates, control characters, lone dots and megabytes; the latter are cut."""
    handler = make()
    logger.error("half a pair: \udc80, a dot:\n.\nand \x00")
    handler.flush()
    logger.error("x" * (MAX_RECORD + 5))
    handler.flush()
    odd, long = server.wait_for_messages(2)
    assert "half a pair: \\udc80, a dot:\n.\nand \x00" in text_of(odd)
    assert len(text_of(long)) < MAX_RECORD + 100
    assert "(5 more characters were left out.)" in text_of(long)
    assert odd.content.isascii()


# --- What the application waits for ---------------------------------------------------------------


def test_nothing_is_waited_for(
    stuck: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Logging takes no time while the server says nothing, also when there is no room."""
    handler = make(mailhost=stuck.url, group_for=0, capacity=50, close_timeout=0.0)
    logger.error("the first")
    is_in_flight(stuck)
    begun = time.monotonic()
    for _ in range(1000):
        logger.error("and more")
    assert time.monotonic() - begun < 1.0
    assert handler.dropped == 951


def test_no_thread_waits_longer_than_told(
    stuck: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Threads that log at once wait beside each other and not one after the other."""
    handler = make(mailhost=stuck.url, group_for=0, capacity=1, block=0.3, close_timeout=0.0)
    logger.error("the first")
    is_in_flight(stuck)
    waited: list[float] = []

    def log() -> None:
        begun = time.monotonic()
        logger.error("another")
        waited.append(time.monotonic() - begun)

    threads = [threading.Thread(target=log) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(0.3 <= seconds < 2.0 for seconds in waited)
    assert handler.dropped == 8


def test_who_may_wait_is_served_when_there_is_room(
    stuck: SmtpServer, gate: threading.Event, logger: logging.Logger, make: MakeHandler
) -> None:
    """With ``block`` a record is not dropped if room comes in time."""
    handler = make(mailhost=stuck.url, group_for=0, capacity=1, block=10.0)
    logger.error("the first")
    is_in_flight(stuck)
    thread = threading.Thread(target=logger.error, args=("the second",))
    thread.start()
    gate.set()
    thread.join()
    handler.flush()
    assert (handler.mailed, handler.dropped) == (2, 0)


def test_what_was_dropped_is_told(
    stuck: SmtpServer, gate: threading.Event, logger: logging.Logger, make: MakeHandler
) -> None:
    """The next mail says how many, and no later one again."""
    handler = make(mailhost=stuck.url, group_for=0, capacity=2)
    logger.error("one")
    is_in_flight(stuck)
    for _ in range(5):
        logger.error("two")
    gate.set()
    handler.flush()
    logger.error("three")
    handler.flush()
    texts = [text_of(m) for m in stuck.messages]
    assert texts[1].startswith("(4 records before these were dropped.)")
    assert ["dropped" in text for text in texts] == [False, True, False]
    assert handler.dropped == 4


# --- Its own records ------------------------------------------------------------------------------


def test_its_own_records_are_not_mailed(server: SmtpServer) -> None:
    """On the root logger at DEBUG, where smtpconn says much about every mail."""
    root = logging.getLogger()
    handler = PooledSmtpHandler(server.url, FROM, TO, "Errors", group_for=0)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        logging.getLogger("shop").error("something")
        server.wait_for_messages(1)
        handler.flush()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
    assert len(server.messages) == 1
    assert (handler.mailed, handler.dropped) == (1, 0)


@pytest.mark.parametrize("way", ["at once", "through a queue", "through a queue, late"])
def test_records_of_its_thread_are_not_mailed(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler, way: str
) -> None:
    """What a hook logs while a log mail is sent would never end, whichever way and when it comes.

    The thread may have ended by then.
    """

    def tell(event: PoolEvent) -> None:
        logger.error("%s %s", event.action, event.stage)

    with ConnectionPool(server.url, keepalive=None, on_event=tell) as pool:
        handler = make(mailhost=pool, group_for=0)
        records: queue.Queue[logging.LogRecord] = queue.Queue()
        listener = logging.handlers.QueueListener(records, handler)
        if way != "at once":
            if way == "through a queue":
                logger.removeHandler(handler)
            logger.addHandler(logging.handlers.QueueHandler(records))
        if way == "through a queue":
            listener.start()
        logger.error("something")
        server.wait_for_messages(1)
        if way.endswith("late"):
            wait_until_idle()
            seen = [records.get() for _ in range(records.qsize())]
            for record in seen:
                if record.msg != "something":  # which was mailed at once
                    records.put(record)
            assert 0 < records.qsize() < len(seen)
            listener.start()
        if way != "at once":
            listener.stop()
        handler.flush()
        assert (handler.mailed, handler.dropped) == (1, 0)
        assert len(server.messages) == 1


def test_no_thread_waits_for_records(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """When all is mailed the thread ends, and the next record has another one: forks are safer."""
    handler = make(group_for=0)
    for count in (1, 2, 3):
        logger.error("something")
        server.wait_for_messages(count)
        wait_until_idle()
    handler.flush()
    assert (handler.mailed, handler.dropped) == (3, 0)


@pytest.mark.timeout(10)
def test_a_record_of_a_signal_handler_inside_the_start_of_a_thread(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """It is mailed with the next one: a thread that is started there cannot run."""
    handler = make(group_for=0)
    with threading._active_limbo_lock:  # type: ignore[attr-defined]
        logger.error("one")
        handler.flush()
    logger.error("two")
    assert text_of(server.wait_for_messages(1)[0]).split() == ["one", "two"]


@pytest.mark.parametrize("runs", [False, True])
def test_a_start_that_was_interrupted(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
    runs: bool,
) -> None:
    """Whether or not the thread runs, each record is mailed once."""

    def interrupted(thread: threading.Thread) -> None:
        if runs:
            thread.start()
        raise KeyboardInterrupt

    handler = make(group_for=0)
    with monkeypatch.context() as patch:
        patch.setattr("smtpconn.contrib.logging.start_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            logger.error("one")
    logger.error("two")
    handler.close()
    assert handler.mailed == 2
    assert " ".join(map(text_of, server.messages)).split() == ["one", "two"]


def test_a_thread_that_runs_late_after_its_start_was_interrupted(
    stuck: SmtpServer,
    gate: threading.Event,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another has its part by then, and it ends without mailing anything."""
    may_run, late = threading.Event(), list[threading.Thread]()

    def interrupted(thread: threading.Thread) -> None:
        def run() -> None:
            assert may_run.wait(10)
            threading.Thread.run(thread)

        monkeypatch.setattr(thread, "run", run)
        thread.start()
        late.append(thread)
        raise KeyboardInterrupt

    handler = make(mailhost=stuck.url, group_for=0, close_timeout=10)
    with monkeypatch.context() as patch:
        patch.setattr("smtpconn.contrib.logging.start_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            logger.error("one")
    logger.error("two")
    is_in_flight(stuck)
    logger.error("three")
    may_run.set()
    late[0].join(2)
    assert not late[0].is_alive()
    gate.set()
    handler.flush()
    assert (handler.mailed, handler.dropped) == (3, 0)


@pytest.mark.parametrize("block", [0, 5])
@pytest.mark.parametrize("capacity", [1, 3])
def test_a_full_queue_is_mailed_once_threads_can_be_started(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
    capacity: int,
    block: float,
) -> None:
    """The next record, which is dropped or waits for room, starts the thread."""

    def limit_reached(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    handler = make(group_for=0, capacity=capacity, block=block)
    with monkeypatch.context() as patch:
        patch.setattr("smtpconn.contrib.logging.start_thread", limit_reached)
        for _ in range(capacity):
            logger.error("before")
    logger.error("after")
    server.wait_for_messages(2 if block else 1)
    handler.flush()
    assert handler.mailed == capacity + bool(block)
    assert handler.dropped == (not block)


def test_an_exception_at_every_bytecode_of_logging_a_record(
    make: MakeHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the record at most: the next ones are mailed, without waiting for a flush."""
    handler = make(group_for=0, max_mails=100_000)
    mailed = threading.Event()

    def deliver(
        pool: object, sender: object, to: object, data: bytes, *_: object, **__: object
    ) -> None:
        if b"the next" in data:
            mailed.set()

    def log(text: str) -> None:
        handler.emit(logging.makeLogRecord({"msg": text, "levelno": logging.ERROR}))

    def scenario(injector: ExceptionInjector, error: BaseException) -> None:
        wait_until_idle()
        mailed.clear()
        try:
            with injector:
                log("this one")
        except BaseException as raised:
            if raised is not error:
                raise
        log("the next")
        assert mailed.wait(5), injector.where

    monkeypatch.setattr("smtpconn.contrib.logging.deliver", deliver)
    # Python 3.13 traces lines only.
    opcodes = sys.version_info < (3, 13)
    places = every_place(scenario, ("contrib/logging.py",), opcodes=opcodes)
    assert places > (100 if opcodes else 10)


# --- Failures -------------------------------------------------------------------------------------


def test_a_refused_mail_is_dropped_and_told(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """`handleError` gets the error; the application gets none; the next mail counts the records."""
    handler = make()
    server.fault("RCPT", reply="550 5.1.1 No such user")
    logger.error("one")
    logger.error("two")
    handler.flush()
    assert isinstance(handler, RecordingHandler)
    assert handler.errors == ("AllRecipientsFailedError: %d log records to be mailed",)
    assert handler.dropped == 2
    logger.error("three")
    handler.flush()
    assert text_of(server.messages[0]).startswith("(2 records before these were dropped.)")


def test_a_refusal_for_now_is_tried_again(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is sent again after a pause, with the same records; the error is reported once."""
    monkeypatch.setattr(logging_queue, "FIRST_PAUSE", 0.01)
    handler = make(group_for=0)
    server.fault("MAIL", reply="451 4.7.1 Later", times=3)
    logger.error("one")
    server.wait_for_messages(1)
    handler.flush()
    assert isinstance(handler, RecordingHandler)
    assert handler.errors == ("TransientError: %d log records to be mailed",)
    assert (handler.mailed, handler.dropped) == (1, 0)


def test_a_server_that_is_away_for_a_while_costs_nothing(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records wait until it is back."""
    monkeypatch.setattr(logging_queue, "FIRST_PAUSE", 0.01)
    handler = make(group_for=0)
    server.stop()
    logger.error("one")
    handler.flush()
    server.start()
    assert [text_of(m).strip() for m in server.wait_for_messages(1)] == ["one"]


def test_what_may_have_been_delivered_is_not_sent_again(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """The connection is lost behind the content: one mail, or none, never two."""
    server.fault("CONTENT", close=True)
    handler = make()
    logger.error("one")
    handler.flush()
    assert (handler.unknown, handler.mailed, handler.dropped) == (1, 0, 0)
    logger.error("two")
    handler.flush()
    assert [text_of(m).strip() for m in server.messages] == ["two"]


def test_a_record_that_cannot_be_formatted(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """It is complained about as by every handler, and harms nothing."""
    handler = make()
    handler.handle(logging.makeLogRecord({"msg": "%d", "args": ("seven",)}))
    logger.error("fine")
    handler.flush()
    assert isinstance(handler, RecordingHandler)
    assert handler.errors == ("TypeError: %d",)
    assert text_of(server.messages[0]).strip() == "fine"


def test_complaints_go_where_those_of_logging_go(
    server: SmtpServer, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """By default that is stderr, with the error and without a secret."""
    server.fault("RCPT", reply="550 5.1.1 No such user")
    handler = PooledSmtpHandler(server.url, FROM, TO, "Errors")
    logger.addHandler(handler)
    logger.error("one")
    handler.close()
    said = capsys.readouterr().err
    assert "AllRecipientsFailedError" in said
    assert "1 log records to be mailed" in said.replace("%d", "1")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_killed_thread_is_replaced(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was in flight is unknown, and the next record is mailed."""
    handler = make(group_for=0)

    def killed(*args: object, **options: object) -> None:
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr("smtpconn.contrib.logging.deliver", killed)
    logger.error("one")
    handler.flush()
    logger.error("two")
    server.wait_for_messages(1)
    handler.flush()
    assert (handler.unknown, handler.mailed) == (1, 1)


@pytest.mark.parametrize("given", [("user",), "user:correct-horse", ("a", "b", "correct-horse")])
def test_credentials_that_are_no_pair(given: Any) -> None:
    """They are refused where they are given, and not shown."""
    with pytest.raises(ValidationError, match="a pair of user name and password") as caught:
        PooledSmtpHandler("mx", "me@example.com", "you@example.com", "x", credentials=given)
    assert "correct-horse" not in str(caught.value)


# --- Where SMTPHandler stood ----------------------------------------------------------------------


def test_the_attributes_of_the_standard_handler() -> None:
    """Each has what it was given; of a URL what it says."""
    rest = ("me@example.com", "you@example.net", "Log")
    server: Any = ("mx.example.com", 2525)
    theirs = logging.handlers.SMTPHandler(server, *rest, ("u", "p"), (), 7)
    ours = PooledSmtpHandler(server, *rest, ("u", "p"), (), 7)
    names = [
        "mailhost",
        "mailport",
        "username",
        "password",
        "secure",
        "timeout",
        "fromaddr",
        "toaddrs",
        "subject",
    ]
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    bare = PooledSmtpHandler("mx.example.com", *rest)
    assert (bare.mailport, bare.username, bare.password, bare.secure) == (None, None, None, None)
    url = PooledSmtpHandler("smtps://u:p@mx.example.com", *rest, None, None, None)
    assert (url.mailhost, url.mailport, url.username, url.password) == (
        "mx.example.com",
        465,
        "u",
        "p",
    )
    assert (url.secure, url.timeout) == ((), None)
    for handler in (theirs, ours, bare, url):
        handler.close()


def test_attributes_set_later_count_for_the_next_mail(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Addresses, subject, server and login."""
    handler = make()
    logger.error("one")
    handler.flush()
    handler.fromaddr, handler.toaddrs, handler.subject = "other@example.com", "a@x.example", "Other"
    logger.error("two")
    handler.flush()
    with SmtpServer(users={"app": "s3cret"}, require_auth=True) as other:
        handler.mailhost, handler.mailport = other.host, other.port
        handler.username, handler.password = "app", "s3cret"
        logger.error("three")
        handler.flush()
        (third,) = other.wait_for_messages(1)
        assert third.user == "app"
        handler.toaddrs = ["no address at all"]
        logger.error("four")
        handler.flush()
        handler.toaddrs = ["b@x.example", "c@x.example"]
        logger.error("five")
        handler.flush()
        assert other.wait_for_messages(2)[1].recipients == ("b@x.example", "c@x.example")
        handler.close()
    first, second = server.messages
    assert (first.sender, second.sender, second.recipients) == (
        FROM,
        "other@example.com",
        ("a@x.example",),
    )
    assert read(second)["Subject"] == "Other"
    assert server.connections[0].closed
    assert handler.dropped == 1


@pytest.mark.parametrize(
    "wrong", ["group_for=-1", "max_mails=0", "timeout=-1", "secure=True", "toaddrs='a b'"]
)
def test_an_invalid_handler_is_one_error(wrong: str) -> None:
    """The end of the process has nothing to add: `logging` knows no handler that is half made."""
    arguments = f"dict(dict(toaddrs='you@example.net'), {wrong})"
    ran = subprocess.run(
        [
            sys.executable, "-c",
            "from smtpconn.contrib.logging import PooledSmtpHandler\n"
            "PooledSmtpHandler(('h', 25), 'me@example.com', subject='x', "
            f"**{arguments})",
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "Exception ignored" not in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("smtpconn.ValidationError: ")


@pytest.mark.parametrize("secure", [True, False, "key.pem"])
def test_secure_is_a_tuple(secure: Any) -> None:
    """Anything else is an error that says what it may be."""
    with pytest.raises(ValueError, match=r"secure is \(\) for STARTTLS"):
        PooledSmtpHandler(("localhost", 25), FROM, TO, "Errors", secure=secure)


@pytest.mark.parametrize("name", ["group_for", "per", "block", "close_timeout", "max_records"])
def test_a_limit_that_is_no_number(name: str) -> None:
    """A text, as from a configuration file, is an error that names the argument."""
    limit: dict[str, Any] = {name: "5"}
    with pytest.raises(ValueError, match=f"{name} is .*, not '5'"):
        PooledSmtpHandler(("localhost", 25), FROM, TO, "Errors", **limit)


def test_setting_secure_and_timeout(
    logger: logging.Logger, make: MakeHandler, certificates: Certificates, monkeypatch: Any
) -> None:
    """``()`` means STARTTLS from the next mail on."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    with SmtpServer(tls_context=certificates.server_context()) as server:
        handler = make(mailhost=("localhost", server.port))
        logger.error("one")
        handler.flush()
        handler.secure, handler.timeout = (), 5
        logger.error("two")
        handler.flush()
        assert [m.tls for m in server.wait_for_messages(2)] == [False, True]
        handler.close()


@pytest.mark.parametrize(
    ("sender", "to", "recipients"),
    [
        ("root", "root", ("root",)),
        ("me@example.com", ["root, you@example.net"], ("root", "you@example.net")),
        ("me", ["operator", "Jane <you@example.net>"], ("operator", "you@example.net")),
    ],
)
def test_names_without_a_domain(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    sender: str,
    to: Any,
    recipients: Any,
) -> None:
    """A mailbox of the server's own machine, as the standard handler sends it."""
    handler = make(fromaddr=sender, toaddrs=to)
    logger.error("one")
    handler.flush()
    (message,) = server.wait_for_messages(1)
    assert (message.sender, message.recipients) == (sender, recipients)
    fields = message.content.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert f"From: {sender}".encode() in fields
    assert sum(field.startswith(b"To: ") for field in fields) == 1


@pytest.mark.parametrize("wrong", ["root>", "a b", "root\r\nRSET", "<root", ""])
def test_what_is_no_name_is_refused(wrong: str) -> None:
    """What could end the command early never gets there."""
    for sender, to in ((FROM, wrong), (wrong or "a b", TO)):
        with pytest.raises(ValidationError):
            PooledSmtpHandler("mx.example.com", sender, to, "Log")


@pytest.mark.parametrize("wrong", [None, 5, b"a@x.example", ["a@x.example", None], {"a@x.y": "A"}])
def test_recipients_of_another_type_are_refused(wrong: Any) -> None:
    """By name, where the handler is made."""
    with pytest.raises(ValidationError, match=r"^toaddrs is an address or a list of them, not"):
        PooledSmtpHandler("mx.example.com", FROM, wrong, "Log")


@pytest.mark.parametrize("extensions", [["8BITMIME"], []])
def test_text_is_sent_as_it_is(
    logger: logging.Logger, make: MakeHandler, extensions: list[str]
) -> None:
    """As the standard handler does, whether the server offers 8BITMIME or not."""
    with SmtpServer(extensions=extensions) as server:
        handler = make(mailhost=server.url)
        logger.error("Hello \u2713")
        handler.flush()
        (message,) = server.wait_for_messages(1)
        assert message.content.endswith("\r\n\r\nHello \u2713\r\n".encode())
        assert ("BODY=8BITMIME" in message.mail_parameters) is bool(extensions)
        handler.close()
