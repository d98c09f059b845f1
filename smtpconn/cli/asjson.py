"""Results as JSON: plain dictionaries with names that stay.

Rule: names and types here are part of what users program against, and described in ``docs/cli.md``.
A value that is not known is null; a key is never left out. Seconds are floats, times are ISO 8601.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from smtpconn.client.config import ServerConfig
from smtpconn.model.errors import SmtpError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AllRecipientsFailedError, ResponseError

Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None


def of_server(config: ServerConfig) -> dict[str, Json]:
    """Which server, and how."""
    is_path = config.host.startswith("/")
    return {
        "host": config.host,
        "port": None if is_path else config.port,
        "protocol": str(config.protocol).lower(),
        "tls": str(config.tls_mode).lower(),
        "user": config.credentials.user if config.credentials is not None else None,
    }


def of_reply(reply: SmtpResponse | None) -> dict[str, Json] | None:
    """A server's reply."""
    if reply is None:
        return None
    status = reply.enhanced_status
    lines = [line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
             for line in reply.lines]  # fmt: skip
    return {
        "code": reply.code,
        "enhanced_status": None if status is None else str(status),
        "lines": lines,
    }


def of_error(error: BaseException | None) -> dict[str, Json] | None:
    """An error: what, where, and whether sending again is right."""
    if error is None:
        return None
    if not isinstance(error, SmtpError):
        error_phase, is_transient, is_unknown = None, False, False
    else:
        error_phase, is_transient = str(error.phase), error.is_transient
        is_unknown = error.may_have_been_delivered
    reply = error.response if isinstance(error, ResponseError) else None
    if isinstance(error, AllRecipientsFailedError) and error.responses:
        reply = error.responses[0]
    return {
        "class": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "phase": error_phase,
        "transient": is_transient,
        "may_have_been_delivered": is_unknown,
        "reply": of_reply(reply),
    }
