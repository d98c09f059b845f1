"""A WSGI application that sends mail, over a pool that is made before gunicorn forks.

    gunicorn -c examples/gunicorn_conf.py examples.gunicorn_app:application
    curl -d '' http://localhost:8000/welcome/you@example.net

The pool is an object of this module, which the master imports. Every worker is forked with it,
begins with no connection of its parent's, and makes its own when a request needs one: nothing has
to be called after the fork. Connections to the server: at most workers x ``max_size``, here 3 x 2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from email.message import EmailMessage
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIEnvironment

from smtpconn import ConnectionPool, SmtpError, ValidationError

# A request does not wait ten seconds for a connection: two, and the user hears that it is busy.
pool = ConnectionPool(os.environ.get("SMTP_URL", "smtp://localhost"), max_size=2, acquire_timeout=2)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send a welcome to the address in the path."""
    status, text = welcome(environ["PATH_INFO"].rpartition("/")[2])
    start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain")])
    return [f"process {os.getpid()}: {text}\n".encode()]


def welcome(address: str) -> tuple[HTTPStatus, str]:
    """What to answer to the browser; each kind of error asks for something else."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "app@example.com", address, "welcome"
    message.set_content("Hello!\n")
    try:
        pool.send_message(message, timeout=10)
    except ValidationError as error:
        return HTTPStatus.BAD_REQUEST, str(error)
    except SmtpError as error:
        if error.may_have_been_delivered:
            return HTTPStatus.GATEWAY_TIMEOUT, "It may have been sent: please look before you retry"
        if error.is_transient:
            return HTTPStatus.SERVICE_UNAVAILABLE, "It was not sent: please try again later"
        return HTTPStatus.BAD_GATEWAY, str(error)
    return HTTPStatus.OK, "sent"
