"""The beginning of a session: greeting, EHLO (LHLO, HELO), STARTTLS (RFC 5321 3.1, 3207, 2033).

Rule: if the caller asks for STARTTLS, TLS starts or the session ends. No reply of the server, or of
an attacker between, makes the client continue in clear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    SmtpError,
    StartTlsUnavailableError,
    TransportError,
)
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
from smtpconn.protocol.quirks import NOT_ABOUT_EHLO, is_exim
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.single_command import quit_


def handshake(session: SessionState, *, starttls: bool) -> Exchange[None]:
    """Receive the greeting, send EHLO, and start TLS if ``starttls``; then mail may be sent.

    Raises:
        TransientError, PermanentError: the server refuses service, EHLO or STARTTLS.
        StartTlsUnavailableError: it does not offer STARTTLS and ``starttls`` is True.
        ProtocolError: a reply breaks the protocol.
    """
    try:
        yield from _greet(session)
    except ResponseError as error:
        # A client that is refused ends the session with QUIT (RFC 5321 3.1); after a 421 the
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
    """Send EHLO and note what the server offers; may be repeated later in the session.

    After a permanent refusal of EHLO, HELO is sent, for almost any code (`quirks.NO_EHLO`): RFC
    5321 3.2 and 4.1.4 name 500 to 504 and 550, and servers without EHLO use others. LMTP has LHLO
    alone. Any 2xx is success (RFC 5321 4.2).

    Raises:
        TransientError, PermanentError, ProtocolError: the server refuses, or its reply breaks the
            protocol.
    """
    verb = "LHLO" if session.protocol is Protocol.LMTP else "EHLO"
    reply = yield from single(ascii_command(Phase.EHLO, f"{verb} {session.ehlo_domain}"))
    if reply.is_success:
        note_hello(session, reply)
    elif verb == "EHLO" and reply.is_permanent and reply.code not in NOT_ABOUT_EHLO:
        reply = yield from _helo(session, reply)
        note_hello(session, reply, is_extended=False)
    else:
        raise _hello_refused(session, reply)


def note_hello(session: SessionState, reply: SmtpResponse, *, is_extended: bool = True) -> None:
    """Note the extensions in a 2xx to EHLO or LHLO; HELO (not ``is_extended``) offers none."""
    if is_extended:
        session.note_capabilities(ServerCapabilities.from_ehlo(reply, session.ignore_extensions))
        session.limits_nonmail = is_exim(reply)
    else:
        session.note_capabilities(ServerCapabilities.from_helo(reply))
    # EHLO ends the open transaction (RFC 5321 4.1.1.1).
    session.needs_reset = False


def _helo(
    session: SessionState, refused: SmtpResponse
) -> Generator[ExchangeAction, None, SmtpResponse]:
    """Send HELO after a refused EHLO and return its reply, a success.

    If the server closes the connection instead, the error is its refusal of EHLO.
    """
    try:
        reply = yield from single(ascii_command(Phase.EHLO, f"HELO {session.ehlo_domain}"))
    except (ConnectionClosedError, TransportError) as error:
        raise _hello_refused(session, refused) from error
    if not reply.is_success:
        raise _hello_refused(session, reply)
    return reply


def _hello_refused(session: SessionState, reply: SmtpResponse) -> SmtpError:
    error = refusal(reply, Phase.EHLO)
    explain(error, ehlo_domain=session.ehlo_domain)
    return error


def _start_tls(session: SessionState) -> Generator[ExchangeAction, None, None]:
    if not session.capabilities.supports_starttls:
        raise StartTlsUnavailableError(
            "the server does not offer STARTTLS; nothing was sent in clear. If it expects TLS "
            "from the first byte (port 465), use smtps:// or TlsMode.IMPLICIT"
        )
    reply = yield from single(command(Phase.STARTTLS, "STARTTLS"))
    if reply.code != 220:
        raise refusal(reply, Phase.STARTTLS)
    yield StartTls()
    session.reset_after_starttls()
    session.is_private = True
