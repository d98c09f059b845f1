"""How far a session goes: ``--quit-after``, with swaks's names.

connect   a connection, and not a word
ehlo      banner and EHLO, in clear if TLS would come by STARTTLS
tls       with TLS, without logging in
auth      logged in
mail      the sender is asked about
rcpt      and the recipients; then RSET, so nothing is sent
"""

from __future__ import annotations

from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.target import Target
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.modes import TlsMode
from smtpconn.net.deadline import Deadline
from smtpconn.net.happy_eyeballs import open_socket

SESSION_STAGES = ("connect", "ehlo", "tls", "auth")
"""What any command can stop after."""

STAGES = (*SESSION_STAGES, "mail", "rcpt")
"""What ``send`` can stop after."""


def check_stage(target: Target, stage: str | None) -> None:
    """Refuse a stage that will never be reached.

    Raises:
        UsageError: there will be no TLS, or no login.
    """
    if stage == "tls" and target.tls_mode is TlsMode.NONE:
        raise UsageError("--quit-after tls: this session has no TLS (see --tls, --tlsc)")
    if stage == "auth" and not (target.credentials or target.mechanisms):
        raise UsageError("--quit-after auth: nobody is to log in (see --auth-user)")


def connect_only(target: Target) -> None:
    """Connect and hang up.

    Raises:
        SmtpError: there is no connection.
    """
    deadline = Deadline(target.timeout)
    open_socket(target.host, target.port, deadline, target.source_address).close()


def open_session(target: Target, stage: str | None) -> SmtpConnection:
    """Connect, as far as the stage says; None for all there is to do.

    Raises:
        SmtpError: as `ServerConfig.connect`.
    """
    if stage in ("ehlo", "tls"):
        target = target.replace(credentials=None, mechanisms=())
    if stage == "ehlo" and target.tls_mode is TlsMode.STARTTLS:
        target = target.replace(tls_mode=TlsMode.NONE)
    return target.connect()
