"""ExitCode codes: one table, and which of it an error means.

The numbers are swaks's where it has one for the same thing, so scripts keep working. A code says
*where* it went wrong; whether to send again is in the message, and in ``--sysexits``, which is for
those who call this instead of sendmail.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from smtpconn.cli.asjson import Json
from smtpconn.model.errors import (
    AuthError,
    ConnectionClosedError,
    Phase,
    PoolError,
    SmtpError,
    TlsError,
    ValidationError,
)


class ExitCode(enum.IntEnum):
    """What a process ends with. Each member's text is its line in ``--help`` and the docs."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """Make a member of a number and what it means."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "all went well"
    USAGE = 1, "wrong options, an address or file that cannot be used"
    CONNECT = 2, "no connection"
    CLOSED = 6, "the server closed the connection"
    SERVE = 7, "serve: cannot listen, or a message cannot be stored"
    BANNER = 21, "the server's banner is a refusal, or none"
    EHLO = 22, "EHLO (LHLO, HELO) refused"
    MAIL = 23, "sender refused, or the message needs what the server does not offer"
    RCPT = 24, "no recipient accepted"
    DATA = 25, "DATA refused"
    CONTENT = 26, "message refused"
    AUTH = 28, "login refused or not possible"
    TLS = 29, "no TLS, a certificate not to be trusted, or fewer days left than --min-days"
    COMMAND = 30, "another command failed (NOOP, RSET)"
    SOME_REFUSED = 40, "send: some messages or recipients were refused or failed"
    SOME_UNKNOWN = 41, "send: some messages may or may not have been delivered"
    BUG = 70, "a bug in smtpconn"
    INTERRUPTED = 130, "interrupted (Ctrl-C)"
    BROKEN_PIPE = 141, "nobody reads the output any more"


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended.

    Attributes:
        code: the exit code.
        error: why it is not `ExitCode.OK`, if one error says it.
        result: what ``--json`` shows, besides how it ended.
    """

    code: ExitCode
    error: BaseException | None = None
    result: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, error: BaseException | None, result: Mapping[str, Json]) -> CommandResult:
        """The ending that an error means, or its absence."""
        return cls(ExitCode.OK if error is None else exit_code_of(error), error, result)


class CommandError(Exception):
    """Why a command cannot do what was asked. Its text is the whole message.

    Attributes:
        sysexit: what it is in sysexits(3).
    """

    def __init__(self, text: str, sysexit: int) -> None:
        super().__init__(text)
        self.sysexit = sysexit


class UsageError(CommandError):
    """Something the user can change: an option, a file."""

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
    """An error in one line, without its number and with its file's name."""
    if isinstance(error, OSError) and not isinstance(error, SmtpError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code an error means."""
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
    """The same in the numbers of sysexits(3), which sendmail's callers know.

    75 (EX_TEMPFAIL) means that sending again is right; so a message that may have been delivered
    is never 75.
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
    return _sysexit_of_error(error)


def _sysexit_of_error(error: SmtpError) -> int:
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
    """All codes, a line each, for ``--help``."""
    return "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)
