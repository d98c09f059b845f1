"""Programs that send mail with ``smtplib``, unchanged, over `smtpconn.smtplib`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from smtpconn.testing import ReceivedMessage, SmtpServer
from tests.support.mail_programs import PROGRAMS
from tests.support.pages.page import ROOT

USER, PASSWORD = "user@example.com", "secret"
COUNT = 3

# They make a TLS context for each message, which counts by identity.
OWN_CONTEXTS = {"django", "apprise", "trytond"}

# It leaves its objects to the garbage collector, which closes their connections.
NEVER_CLOSES = {"emails"}


def require(program: str) -> None:
    """Skip a test if its program is missing, or fail it if it is required."""
    module = PROGRAMS[program]
    try:
        is_there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        is_there = False
    if is_there:
        return
    reason = f"{module} is not installed (extra compat-test)"
    if os.environ.get("SMTPCONN_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and SMTPCONN_REQUIRE_SERVERS=1", pytrace=False)
    pytest.skip(reason)


def text_of(message: ReceivedMessage) -> str:
    """What a message says, however that is encoded."""
    body = message.email.get_body(("plain", "html"))
    return str(body.get_content()) if body is not None else ""


@pytest.mark.parametrize("options", [["--no-pool"], []], ids=["one each", "pooled"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_unchanged_program(
    smtp_server_factory: Callable[..., SmtpServer], program: str, options: list[str]
) -> None:
    """Its messages arrive under TLS and with its login; pooled it needs but one connection."""
    require(program)
    server = smtp_server_factory(tls="starttls", users={USER: PASSWORD}, require_auth=True)
    command = [sys.executable, "-m", "smtpconn.smtplib", *options]
    command += ["-m", "tests.support.mail_programs", program]
    command += [server.host, str(server.port), USER, PASSWORD, str(COUNT)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=19,
        cwd=ROOT,
        env=os.environ | {"SSL_CERT_FILE": server.ca_file},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [(m.user, m.tls, m.recipients) for m in server.messages] == [
        (USER, True, ("you@example.net",))
    ] * COUNT
    assert all("Hello!" in text_of(message) for message in server.messages)
    is_shared = not options and program not in OWN_CONTEXTS | NEVER_CLOSES
    assert len(server.connections) == (1 if is_shared else COUNT)
