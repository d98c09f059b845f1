"""A WSGI application that mails and logs, and has done both before its server forks.

No thread of it runs then: uWSGI forks in C, and a worker forked while another thread waits for the
interpreter hangs in CPython, whatever the thread was for.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

from smtpconn import SmtpError, get_pool
from smtpconn.contrib.logging import PooledSmtpHandler

URL, LOG_URL = os.environ["SMTP_URL"], os.environ["LOG_URL"]

pool = get_pool(URL, max_size=2, keepalive=None)
pool.warm(2)

log = logging.getLogger("site")
handler = PooledSmtpHandler(
    LOG_URL, "log@example.com", ["admin@example.com"], "Errors",
    group_for=0.05, max_mails=1000, close_timeout=10.0,
)  # fmt: skip
log.addHandler(handler)
log.error("record: the site begins")
handler.flush()
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()


def content_for(name: str) -> bytes:
    """What somebody is sent; nobody else is sent it."""
    return f"Subject: for {name}\r\n\r\n{name * 100}\r\nthis was for {name}\r\n".encode()


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Mail to who is named in the path, and log it."""
    name = environ["PATH_INFO"].rpartition("/")[2]
    try:
        pool.send("site@example.com", [f"{name}@example.com"], content_for(name), timeout=10)
        text = "sent"
    except SmtpError as error:
        text = f"{type(error).__name__}: {error}"
    log.error("record: %s", name)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {text}".encode()]
