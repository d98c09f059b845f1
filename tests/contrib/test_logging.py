"""The logging handler: what it mails, what it does not mail, and that nobody waits for it."""

from __future__ import annotations

import email
import email.policy
import logging
import logging.config
import logging.handlers
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from smtpconn import ConnectionPool, PoolEvent, ServerConfig, ValidationError
from smtpconn.contrib import backlog
from smtpconn.contrib.logging import LONGEST_RECORD, LONGEST_SUBJECT, PooledSmtpHandler
from smtpconn.testing import ReceivedMessage, SmtpServer
from tests.test_forking import in_child

ROOT = Path(__file__).parent.parent.parent
FROM, TO = "app@example.com", ["admin@example.com"]
NEVER = 3600.0
"""Seconds for which records wait for others: a mail goes when it is full, or asked for."""

MakeHandler = Callable[..., PooledSmtpHandler]


class Complaints(PooledSmtpHandler):
    """A handler that keeps what it would have printed to stderr."""

    errors: tuple[str, ...] = ()

    def handleError(self, record: logging.LogRecord) -> None:
        """Keep the error's class, and the record as it would be shown."""
        kind = sys.exc_info()[0]
        assert kind is not None
        self.errors += (f"{kind.__name__}: {record.msg}",)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The application's logger, without the handlers of pytest."""
    logger = logging.getLogger("shop")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True


@pytest.fixture
def make(server: SmtpServer, logger: logging.Logger) -> Iterator[MakeHandler]:
    """Makes handlers of the server, attached to the logger, that are closed at the end."""
    made: list[PooledSmtpHandler] = []

    def make_one(**options: object) -> PooledSmtpHandler:
        settings = {"mailhost": server.url, "group_for": NEVER, **options}
        handler = Complaints(fromaddr=FROM, toaddrs=TO, subject="Errors", **settings)  # type: ignore[arg-type]
        made.append(handler)
        logger.addHandler(handler)
        return handler

    yield make_one
    for handler in made:
        handler.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What the server of `stuck` waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def stuck(gate: threading.Event) -> Iterator[SmtpServer]:
    """A server that answers RCPT only when the gate is open."""
    with SmtpServer(recipient_known=lambda _: gate.wait(10)) as running:
        yield running
        gate.set()


def read(message: ReceivedMessage) -> EmailMessage:
    """A message as its reader sees it."""
    return email.message_from_bytes(message.content, policy=email.policy.default)


def text_of(message: ReceivedMessage) -> str:
    """The text of a message."""
    text: str = read(message).get_content()
    return text.replace("\r\n", "\n")


def is_under_way(server: SmtpServer) -> None:
    """Wait until the server has been asked for a recipient."""
    server.wait_for(lambda: any("RCPT" in line for c in server.connections for line in c.commands))


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


def test_nobody_has_to_ask_for_a_mail(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """It goes by itself when its time has come, and at once when it is full."""
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
        ("x" * 1000, "x" * (LONGEST_SUBJECT - 1) + "\u2026"),
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
    logger.error("x" * (LONGEST_RECORD + 5))
    handler.flush()
    odd, long = server.wait_for_messages(2)
    assert "half a pair: \\udc80, a dot:\n.\nand \x00" in text_of(odd)
    assert len(text_of(long)) < LONGEST_RECORD + 100
    assert "(5 more characters were left out.)" in text_of(long)
    assert odd.content.isascii()


# --- What the application waits for ---------------------------------------------------------------


def test_nothing_is_waited_for(
    stuck: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Logging takes no time while the server says nothing, also when there is no room."""
    handler = make(mailhost=stuck.url, group_for=0, capacity=50, close_timeout=0.0)
    logger.error("the first")
    is_under_way(stuck)
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
    is_under_way(stuck)
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
    is_under_way(stuck)
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
    is_under_way(stuck)
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


@pytest.mark.parametrize("through_a_queue", [False, True])
def test_records_of_its_thread_are_not_mailed(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler, through_a_queue: bool
) -> None:
    """What a hook logs while a log mail is sent would never end, whichever way it comes."""

    def tell(event: PoolEvent) -> None:
        logger.error("%s %s", event.action, event.stage)

    with ConnectionPool(server.url, keepalive=None, on_event=tell) as pool:
        handler = make(mailhost=pool, group_for=0)
        listener = None
        if through_a_queue:
            logger.removeHandler(handler)
            records: queue.Queue[logging.LogRecord] = queue.Queue()
            logger.addHandler(logging.handlers.QueueHandler(records))
            listener = logging.handlers.QueueListener(records, handler)
            listener.start()
        logger.error("something")
        server.wait_for_messages(1)
        if listener is not None:
            listener.stop()
        handler.flush()
        assert (handler.mailed, handler.dropped) == (1, 0)
        assert len(server.messages) == 1


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
    assert isinstance(handler, Complaints)
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
    """After a pause, with the same records; one complaint is enough."""
    monkeypatch.setattr(backlog, "FIRST_PAUSE", 0.01)
    handler = make(group_for=0)
    server.fault("MAIL", reply="451 4.3.0 Later", times=3)
    logger.error("one")
    server.wait_for_messages(1)
    handler.flush()
    assert isinstance(handler, Complaints)
    assert handler.errors == ("TransientError: %d log records to be mailed",)
    assert (handler.mailed, handler.dropped) == (1, 0)


def test_a_server_that_is_away_for_a_while_costs_nothing(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records wait until it is back."""
    monkeypatch.setattr(backlog, "FIRST_PAUSE", 0.01)
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
    assert isinstance(handler, Complaints)
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
    """What was under way is unknown, and the next record is mailed."""
    handler = make(group_for=0)

    def killed(*args: object) -> None:
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr("smtpconn.contrib.logging.deliver", killed)
    logger.error("one")
    handler.flush()
    logger.error("two")
    server.wait_for_messages(1)
    handler.flush()
    assert (handler.unknown, handler.mailed) == (1, 1)


# --- Beside other handlers, in processes ----------------------------------------------------------


def test_behind_a_queue_and_behind_a_memory(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """The standard library's own ways to take work off the application go with it."""
    handler = make()
    logger.removeHandler(handler)
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    logger.addHandler(logging.handlers.QueueHandler(records))
    logger.error("by queue")
    listener.stop()
    memory = logging.handlers.MemoryHandler(10, logging.ERROR, target=handler)
    logger.addHandler(memory)
    logger.info("before")
    logger.error("by memory")
    memory.close()
    handler.flush()
    assert text_of(server.messages[0]).split("\n\n") == ["by queue", "before", "by memory\n"]


def test_it_is_made_by_a_dictionary(server: SmtpServer) -> None:
    """`logging.config.dictConfig` makes it, and closes it when it makes something else."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"short": {"format": "%(levelname)s %(message)s"}},
            "handlers": {
                "mail": {
                    "class": "smtpconn.contrib.logging.PooledSmtpHandler",
                    "level": "ERROR",
                    "formatter": "short",
                    "mailhost": server.url,
                    "fromaddr": "The shop <shop@example.com>",
                    "toaddrs": ["one@example.com", "Two <two@example.com>"],
                    "subject": "The shop has a problem",
                    "max_records": 10,
                }
            },
            "loggers": {"configured": {"handlers": ["mail"]}},
        }
    )
    logging.getLogger("configured").warning("not this")
    logging.getLogger("configured").error("this")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    (message,) = server.messages
    assert message.recipients == ("one@example.com", "two@example.com")
    assert message.sender == "shop@example.com"
    assert read(message)["From"] == "The shop <shop@example.com>"
    assert text_of(message) == "ERROR this\n"


def test_reconfiguring_waits_for_the_mail_and_no_longer(server: SmtpServer) -> None:
    """`dictConfig` holds a lock of logging while it closes handlers, and the thread logs, too."""
    script = f"""
import logging.config, time
mail = {{
    "class": "smtpconn.contrib.logging.PooledSmtpHandler", "mailhost": {server.url!r},
    "fromaddr": {FROM!r}, "toaddrs": {TO!r}, "subject": "Errors", "close_timeout": 10,
}}
for handlers in ({{"mail": mail}}, {{}}):
    settings = {{"version": 1, "disable_existing_loggers": False, "handlers": handlers}}
    settings["root"] = {{"level": "INFO", "handlers": list(handlers)}}
    begun = time.monotonic()
    logging.config.dictConfig(settings)
    seconds = time.monotonic() - begun
    logging.error("one")
print(seconds)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=15,
        cwd=ROOT,
        check=False,
    )
    assert float(done.stdout) < 5.0
    assert [text_of(m).strip() for m in server.messages] == ["one"]


def test_a_login_as_the_standard_handler_has_it(logger: logging.Logger) -> None:
    """``credentials`` log in."""
    with SmtpServer(users={"app": "s3cret"}, require_auth=True) as server:
        handler = PooledSmtpHandler(
            (server.host, server.port), FROM, TO, "Errors", credentials=("app", "s3cret")
        )
        logger.addHandler(handler)
        logger.error("one")
        handler.close()
        assert [m.user for m in server.messages] == ["app"]


def test_secure_means_starttls() -> None:
    """``secure`` asks for STARTTLS, with the client's certificate if there is one."""
    handler = PooledSmtpHandler("mx.example.com", FROM, TO, "Errors", ("u", "p"), ())
    assert handler._pool.config.tls_mode == "STARTTLS"
    assert handler._pool.config.port == 25
    handler.close()
    with pytest.raises(FileNotFoundError):
        PooledSmtpHandler("mx.example.com", FROM, TO, "Errors", ("u", "p"), ("no.key", "no.pem"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_mails_its_own_records_only(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """What waits in the parent is mailed by the parent, once; the child starts its own thread."""
    handler = make()
    logger.error("of the parent")

    def child() -> int:
        logger.error("of the child")
        handler.close()
        return handler.mailed

    assert in_child(child) == "1"
    handler.flush()
    texts = [text_of(m).strip() for m in server.wait_for_messages(2)]
    assert texts == ["of the child", "of the parent"]


# --- The end --------------------------------------------------------------------------------------


def test_after_the_end_records_are_dropped(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """Closing mails what waits; closing again does nothing; what comes later is counted."""
    handler = make()
    logger.error("one")
    handler.close()
    handler.close()
    logger.error("too late")
    assert [text_of(m).strip() for m in server.messages] == ["one"]
    assert handler.dropped == 1


def test_closing_takes_no_longer_than_told(
    stuck: SmtpServer, logger: logging.Logger, make: MakeHandler, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that says nothing cannot hold up the end; what was lost is said in the log."""
    handler = make(mailhost=stuck.url, close_timeout=0.2, max_records=1)
    logger.error("one")
    logger.error("two")
    is_under_way(stuck)
    begun = time.monotonic()
    handler.flush()
    handler.close()
    assert 0.2 <= time.monotonic() - begun < 2.0
    assert "1 log records were not mailed" in caplog.messages


def test_a_pool_that_was_given_stays_open(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler
) -> None:
    """It is the application's; a pool of the handler's own is closed with it."""
    with ConnectionPool(server.url) as pool:
        make(mailhost=pool).close()
        assert not pool.is_closed
    own = make(mailhost=ServerConfig.from_url(server.url))
    own.close()
    assert own._pool.is_closed


ENDS = {
    "an error at the end": "log.error('the end')",
    "an uncaught error": "import atexit\natexit.register(log.error, 'the end')\n1 / 0",
    "in a thread": "import threading\nthreading.Timer(0, log.error, ['the end']).start()",
}


def end(url: str, how: str) -> tuple[float, str]:
    """Run a script that logs to the server as it ends; how long that took, and its stderr."""
    script = f"""
import logging, time
from smtpconn.contrib.logging import PooledSmtpHandler
log = logging.getLogger("shop")
log.addHandler(PooledSmtpHandler({url!r}, {FROM!r}, {TO!r}, "Errors", close_timeout=1.0))
print(time.time(), flush=True)
{how}
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=15,
        cwd=ROOT,
        check=False,
    )
    return time.time() - float(done.stdout), done.stderr


def test_without_a_thread_closing_does_its_work(
    server: SmtpServer,
    logger: logging.Logger,
    make: MakeHandler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While the interpreter ends no thread can be started; nobody waits for one that is not."""
    handler = make(close_timeout=5.0)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "smtpconn-log-mail":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    logger.error("one")
    begun = time.monotonic()
    handler.flush()
    handler.close()
    assert time.monotonic() - begun < 2.0
    assert [text_of(m).strip() for m in server.messages] == ["one"]


@pytest.mark.parametrize("how", ENDS)
def test_what_is_logged_last_is_mailed(server: SmtpServer, how: str) -> None:
    """The end of the process does not wait for others to come, and needs no new thread.

    The host has a name, whose resolver would want a thread as well.
    """
    seconds, said = end(server.url.replace("127.0.0.1", "localhost"), ENDS[how])
    assert [text_of(m).strip() for m in server.messages] == ["the end"]
    assert seconds < 3.0
    assert said == "" or "ZeroDivisionError" in said.splitlines()[-1]


def test_the_end_does_not_wait_for_a_dead_server(stuck: SmtpServer) -> None:
    """A process whose log mail goes nowhere ends in the time that was told."""
    seconds, said = end(stuck.url, ENDS["an error at the end"])
    assert 0.9 < seconds < 5.0
    assert "Traceback" not in said or "SmtpTimeoutError" in said
    assert "Fatal" not in said


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("ftp://x", FROM, TO, "s"), {}),
        (("smtp://x", "no address", TO, "s"), {}),
        (("smtp://x", FROM, ["a@example.com\r\nDATA"], "s"), {}),
        (("smtp://x", FROM, [], "s"), {}),
        (("smtp://x", FROM, TO, "s"), {"block": -1}),
        (("smtp://x", FROM, TO, "s"), {"close_timeout": float("nan")}),
        (("smtp://x", FROM, TO, "s"), {"close_timeout": float("inf")}),
        (("smtp://x", FROM, TO, "s"), {"capacity": 0}),
        (("smtp://x", FROM, TO, "s"), {"timeout": 0}),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(
    arguments: tuple[object, ...], options: dict[str, object]
) -> None:
    """Not by the first error that nobody gets to hear of."""
    with pytest.raises(ValidationError):
        PooledSmtpHandler(*arguments, **options)  # type: ignore[arg-type]
