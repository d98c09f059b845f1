"""The logging handler in a program: its configuration, beside other handlers, forks, the end."""

from __future__ import annotations

import logging
import logging.config
import logging.handlers
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smtpconn import ConnectionPool, ServerConfig, ValidationError
from smtpconn.contrib.logging import PooledSmtpHandler
from smtpconn.testing import SmtpServer
from tests.support.forks import Fork, fork_in_c, in_child
from tests.support.log_mail import (
    FROM,
    TO,
    MakeHandler,
    is_in_flight,
    read,
    text_of,
    wait_until_idle,
)

ROOT = Path(__file__).parent.parent.parent


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
    """`dictConfig` holds a lock of logging while it closes handlers, and the thread logs too."""
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


both_forks = pytest.mark.parametrize("fork", [os.fork, fork_in_c], ids=["os.fork", "C"])


@both_forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_mails_its_own_records_only(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler, fork: Fork
) -> None:
    """What waits in the parent is mailed by the parent, once; the child starts its own thread."""
    handler = make()
    logger.error("of the parent")

    def child() -> int:
        logger.error("of the child")
        handler.close()
        return handler.mailed

    assert in_child(child, fork) == "1"
    handler.flush()
    texts = [text_of(m).strip() for m in server.wait_for_messages(2)]
    assert texts == ["of the child", "of the parent"]


@both_forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("first", ["emit", "flush", "close", "look"])
def test_a_child_of_a_parent_that_has_mailed(
    server: SmtpServer, logger: logging.Logger, make: MakeHandler, first: str, fork: Fork
) -> None:
    """It does not wait for the lock that a thread of the parent holds.

    The handler's own thread has ended before the fork: a child that C code forks while a thread
    waits for the GIL may hang, whatever it runs.
    """
    handler = make(max_records=1)
    logger.error("of the parent")
    server.wait_for_messages(1)
    wait_until_idle()

    def child() -> str:
        if first == "flush":
            handler.flush()
        elif first == "close":
            handler.close()
        elif first == "look":
            assert handler.mailed == 0
        logger.error("of the child")
        handler.flush()
        return f"{handler.mailed} {handler.dropped}"

    held, may_let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with handler._lock:
            held.set()
            assert may_let_go.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        assert in_child(child, fork) == ("0 1" if first == "close" else "1 0")
    finally:
        may_let_go.set()
        thread.join(10)
    logger.error("again of the parent")
    texts = [text_of(m).strip() for m in server.wait_for_messages(2 + (first != "close"))]
    assert texts.count("of the child") == (first != "close")
    assert [t for t in texts if "parent" in t] == ["of the parent", "again of the parent"]


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
    is_in_flight(stuck)
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
    """During interpreter shutdown no thread can be started, and no caller waits for one."""
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
    """An error that is not reported does not end the thread."""
    with pytest.raises(ValidationError):
        PooledSmtpHandler(*arguments, **options)  # type: ignore[arg-type]
