"""Exit codes, results as JSON, and the errors that commands raise themselves.

The numbers are swaks's where swaks has one for the same failure, so that scripts keep working. An
exit code says *where* a command failed. Whether to send again is in the error's text, and in the
codes of ``--sysexits``, which are for programs that call this command instead of sendmail.

The names and types of the JSON are part of the interface and described in ``docs/cli.md``: an
unknown value is null, and no key is left out. Seconds are floats, times are ISO 8601.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    PoolError,
    SmtpError,
    TlsError,
    ValidationError,
)
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, AuthError, ResponseError

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None


class ExitCode(enum.IntEnum):
    """The exit codes. The text of each member is its line in ``--help`` and in the docs."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """Make a member of a number and its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "success"
    USAGE = 1, "wrong options, or an address or file that cannot be used"
    CONNECT = 2, "no connection"
    CLOSED = 6, "the server closed the connection"
    SERVE = 7, "serve: cannot listen, or a message cannot be stored"
    BANNER = 21, "the server's banner is missing or a refusal"
    EHLO = 22, "EHLO (LHLO, HELO) refused"
    MAIL = 23, "sender refused, or the message needs an extension that the server does not offer"
    RCPT = 24, "no recipient accepted"
    DATA = 25, "DATA refused"
    CONTENT = 26, "message refused"
    AUTH = 28, "login refused or not possible"
    TLS = 29, "no TLS, an untrusted certificate, or fewer days left than --min-days"
    COMMAND = 30, "another command failed (NOOP, RSET)"
    SOME_REFUSED = 40, "send: some messages or recipients were refused or failed"
    SOME_UNKNOWN = 41, "send: some messages may or may not have been delivered"
    BUG = 70, "a bug in smtpconn"
    INTERRUPTED = 130, "interrupted (Ctrl-C)"
    BROKEN_PIPE = 141, "the reader of standard output is gone"


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command.

    Attributes:
        code: the exit code.
        error: the error to report, if there is a single one.
        values: the command's own part of the object that ``--json`` prints.
    """

    code: ExitCode
    error: BaseException | None = None
    values: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BaseException | None, values: Mapping[str, Json]) -> CommandResult:
        """The result for an error, or for success if it is None."""
        return cls(ExitCode.OK if error is None else exit_code_of(error), error, values)


class CommandError(Exception):
    """A command failed for another reason than an `SmtpError`. The text is the whole message.

    Attributes:
        sysexit: the exit code with ``--sysexits``.
    """

    def __init__(self, text: str, sysexit: int) -> None:
        super().__init__(text)
        self.sysexit = sysexit


class UsageError(CommandError):
    """A mistake that the user can correct: in an option, in a file."""

    def __init__(self, text: str, sysexit: int = os.EX_USAGE) -> None:
        super().__init__(text, sysexit)


_BY_PHASE = {
    Phase.CONNECT: ExitCode.CONNECT,
    Phase.POOL: ExitCode.CONNECT,
    Phase.TLS: ExitCode.TLS,
    Phase.STARTTLS: ExitCode.TLS,
    Phase.GREETING: ExitCode.BANNER,
    Phase.EHLO: ExitCode.EHLO,
    Phase.AUTH: ExitCode.AUTH,
    Phase.MAIL: ExitCode.MAIL,
    Phase.RCPT: ExitCode.RCPT,
    Phase.DATA: ExitCode.DATA,
    Phase.CONTENT: ExitCode.CONTENT,
    Phase.INPUT: ExitCode.USAGE,
}


def text_of(error: BaseException) -> str:
    """An error in one line; an `OSError` without its number and with its file's name."""
    if isinstance(error, OSError) and not isinstance(error, SmtpError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for an error."""
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, TlsError):
        return ExitCode.TLS
    if isinstance(error, ConnectionClosedError) and error.phase is not Phase.CONNECT:
        return ExitCode.CLOSED
    if isinstance(error, SmtpError):
        return _BY_PHASE.get(error.phase, ExitCode.COMMAND)
    return ExitCode.USAGE


def sysexit_of(code: ExitCode, error: BaseException | None) -> int:
    """The code of sysexits(3) for an exit code and its error.

    75 (EX_TEMPFAIL) makes the caller send again, so it is never the code of a message that may have
    been delivered.
    """
    if code in (ExitCode.OK, ExitCode.INTERRUPTED, ExitCode.BROKEN_PIPE):
        return int(code)
    if code is ExitCode.BUG:
        return os.EX_SOFTWARE
    if isinstance(error, CommandError):
        return error.sysexit
    if isinstance(error, OSError) and not isinstance(error, SmtpError):
        return os.EX_OSERR
    if code is ExitCode.SOME_UNKNOWN:
        return os.EX_PROTOCOL
    if not isinstance(error, SmtpError):
        return os.EX_UNAVAILABLE
    return _sysexit_of_smtp_error(error)


def _sysexit_of_smtp_error(error: SmtpError) -> int:
    if error.may_have_been_delivered:
        return os.EX_PROTOCOL
    if error.is_transient or isinstance(error, PoolError):
        return os.EX_TEMPFAIL
    if isinstance(error, ValidationError):
        return os.EX_DATAERR
    if isinstance(error, AuthError):
        return os.EX_NOPERM
    return os.EX_UNAVAILABLE


def table() -> str:
    """All codes, one per line, for ``--help``."""
    return "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)


def server_json(config: ServerConfig) -> dict[str, Json]:
    """A server as JSON: its address, protocol, kind of TLS and user."""
    is_path = config.host.startswith("/")
    return {
        "host": config.host,
        "port": None if is_path else config.port,
        "protocol": str(config.protocol).lower(),
        "tls": str(config.tls_mode).lower(),
        "user": config.credentials.user if config.credentials is not None else None,
    }


def reply_json(reply: SmtpResponse | None) -> dict[str, Json] | None:
    """A server's reply as JSON."""
    if reply is None:
        return None
    status = reply.enhanced_status
    return {
        "code": reply.code,
        "enhanced_status": None if status is None else str(status),
        "lines": [
            line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            for line in reply.lines
        ],
    }


def error_json(error: BaseException | None) -> dict[str, Json] | None:
    """An error as JSON: its class, text, phase and reply, and whether to send again."""
    if error is None:
        return None
    phase, is_transient, may_have_been_delivered = None, False, False
    if isinstance(error, SmtpError):
        phase, is_transient = str(error.phase), error.is_transient
        may_have_been_delivered = error.may_have_been_delivered
    reply = error.response if isinstance(error, ResponseError) else None
    if isinstance(error, AllRecipientsFailedError) and error.responses:
        reply = error.responses[0]
    return {
        "class": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "phase": phase,
        "transient": is_transient,
        "may_have_been_delivered": may_have_been_delivered,
        "reply": reply_json(reply),
    }
