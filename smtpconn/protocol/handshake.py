"""How a session begins: greeting, EHLO (LHLO, HELO), STARTTLS (RFC 5321 3.1, 3207, 2033).

Rule: STARTTLS, once asked for, happens or the session ends. There is no reply by which a server,
or somebody on the way to it, could make us go on in clear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import Phase, SmtpError, StartTlsUnavailableError
from smtpconn.model.modes import Protocol
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import ResponseError, explain, refusal
from smtpconn.protocol.command import ascii_command, command
from smtpconn.protocol.exchange import (
    GREETING,
    CommandGroup,
    Exchange,
    ExchangeAction,
    StartTls,
    single,
)
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.single_command import quit_

_EHLO_UNKNOWN = frozenset({500, 502, 504, 550})


def handshake(session: SessionState, *, starttls: bool) -> Exchange[None]:
    """From the first octet to a session that may send mail.

    Raises:
        TransientError, PermanentError: the server refuses service, EHLO or STARTTLS.
        StartTlsUnavailableError: it does not offer STARTTLS and ``starttls`` is True.
        ProtocolError: it answers something that makes no sense.
    """
    try:
        yield from _greet(session)
    except ResponseError as error:
        # A client that is refused ends the session with QUIT (RFC 5321 3.1); behind a 421 the
        # server has ended it.
        if error.response.code != 421:
            with contextlib.suppress(SmtpError):
                yield from quit_(session, wait=False)
        raise
    if starttls:
        yield from _start_tls(session)
        yield from hello(session)


def _greet(session: SessionState) -> Generator[ExchangeAction, None, None]:
    group = CommandGroup((GREETING,))
    yield group
    greeting = session.greeting = group.replies[0]
    if greeting.code != 220:
        raise refusal(greeting, Phase.GREETING)
    yield from hello(session)


def hello(session: SessionState) -> Exchange[None]:
    """Say who we are and learn what the server offers; also to ask again later.

    A server that does not know EHLO is asked with HELO (RFC 5321 3.2); LMTP has LHLO alone.

    Raises:
        TransientError, PermanentError, ProtocolError: the server refuses, or answers nonsense.
    """
    verb = "LHLO" if session.protocol is Protocol.LMTP else "EHLO"
    reply = yield from single(ascii_command(Phase.EHLO, f"{verb} {session.ehlo_domain}"))
    if reply.code == 250:
        note_hello(session, reply)
    elif verb == "EHLO" and reply.code in _EHLO_UNKNOWN:
        reply = yield from single(ascii_command(Phase.EHLO, f"HELO {session.ehlo_domain}"))
        if reply.code != 250:
            raise _hello_refused(session, reply)
        note_hello(session, reply, is_extended=False)
    else:
        raise _hello_refused(session, reply)


def note_hello(session: SessionState, reply: SmtpResponse, *, is_extended: bool = True) -> None:
    """Note what a 250 to EHLO or LHLO says is offered; to HELO (``is_extended`` False) nothing."""
    if is_extended:
        session.capabilities = ServerCapabilities.from_ehlo(reply, session.ignore_extensions)
        session.limits_nonmail = _is_exims(reply)
    else:
        session.capabilities = ServerCapabilities.from_helo(reply)
    # It resets what was under way (RFC 5321 4.1.1.1).
    session.needs_reset = False


def _hello_refused(session: SessionState, reply: SmtpResponse) -> SmtpError:
    error = refusal(reply, Phase.EHLO)
    explain(error, ehlo_domain=session.ehlo_domain)
    return error


def _is_exims(reply: SmtpResponse) -> bool:
    """Whether EHLO is answered in Exim's words: "mx.example.com Hello client.example [192.0.2.1]".

    Unlike its greeting they cannot be configured. Who else says it so is spared as well.
    """
    return " Hello " in reply.lines[0] and reply.lines[0].endswith("]")


def _start_tls(session: SessionState) -> Generator[ExchangeAction, None, None]:
    if not session.capabilities.supports_starttls:
        raise StartTlsUnavailableError(
            "the server does not offer STARTTLS; nothing was sent in clear. If it expects TLS "
            "from the first octet (port 465), use TlsMode.IMPLICIT"
        )
    reply = yield from single(command(Phase.STARTTLS, "STARTTLS"))
    if reply.code != 220:
        raise refusal(reply, Phase.STARTTLS)
    yield StartTls()
    session.forget()
    session.is_private = True
