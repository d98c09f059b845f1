"""AUTH: the one exchange for every SASL mechanism (RFC 4954 4).

The initial response travels on the AUTH line when the whole line has at most 512 octets, which
saves a round trip; a longer one waits for the server's empty challenge (RFC 4954 4 allows no longer
command). A challenge the mechanism does not expect is cancelled with "*", and the server's last
word is in the `AuthError`.
"""

from __future__ import annotations

import base64
from collections.abc import Generator

from smtpconn.auth.mechanisms import SaslMechanism
from smtpconn.model.errors import Phase, ProtocolError, UnsupportedExtensionError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AuthError, refusal
from smtpconn.protocol.command import secret_command
from smtpconn.protocol.exchange import Exchange, ExchangeAction, single
from smtpconn.protocol.session import SessionState

MAX_AUTH_COMMAND = 512
"""Octets of an AUTH line with its CRLF (RFC 5321 4.5.3.1.4)."""

MAX_ROUNDS = 10
"""Challenges answered before the server is held to be playing games."""


def authenticate(session: SessionState, mechanism: SaslMechanism) -> Exchange[None]:
    """Log in.

    Raises:
        AuthError: the server refused, or asked for something the mechanism does not have.
        UnsupportedExtensionError: it does not offer the mechanism; nothing was sent.
        ProtocolError: already logged in; the connection is not private and the mechanism shows the
            secret (nothing was sent); or a reply that makes no sense.
    """
    _check(session, mechanism)
    reply = yield from _exchange(mechanism)
    if reply.code != 235:
        raise _failure(reply, mechanism)
    mechanism.finish()
    session.auth_mechanism = mechanism.name


def _check(session: SessionState, mechanism: SaslMechanism) -> None:
    if session.is_authenticated:
        raise ProtocolError("already logged in on this connection (RFC 4954 4)", phase=Phase.AUTH)
    if not session.capabilities.supports_auth(mechanism.name):
        offered = " ".join(session.capabilities.auth_mechanisms) or "no AUTH at all"
        raise UnsupportedExtensionError(
            f"the server does not offer AUTH {mechanism.name}; it offers {offered}",
            phase=Phase.AUTH,
        )
    if mechanism.shows_secret and not session.is_private:
        raise ProtocolError(
            f"AUTH {mechanism.name} would show the secret to everyone on the way: use TLS "
            f"(TlsMode.STARTTLS or IMPLICIT), or allow_cleartext_auth=True if you accept that",
            phase=Phase.AUTH,
        )


def _exchange(mechanism: SaslMechanism) -> Generator[ExchangeAction, None, SmtpResponse]:
    first = mechanism.begin()
    line = f"AUTH {mechanism.name}"
    if first is not None:
        # An empty initial response is sent as "=" (RFC 4954 4).
        whole = f"{line} {_base64(first) or '='}"
        if len(whole) + 2 <= MAX_AUTH_COMMAND:
            line, first = whole, None
    reply = yield from single(secret_command(line, f"AUTH {mechanism.name} <secret>"))
    for _ in range(MAX_ROUNDS):
        if reply.code != 334:
            return reply
        # The first challenge asks for what had no room on the AUTH line.
        answer = first if first is not None else mechanism.answer(reply.lines[0])
        first = None
        if answer is None:
            return (yield from _cancel())
        reply = yield from single(secret_command(_base64(answer), "<secret>"))
    if reply.code == 334:
        raise ProtocolError(f"the server sent more than {MAX_ROUNDS} challenges", phase=Phase.AUTH)
    return reply


def _cancel() -> Generator[ExchangeAction, None, SmtpResponse]:
    reply = yield from single(secret_command("*", "*"))
    if reply.is_success:
        raise ProtocolError(f"a cancelled login was answered with {reply}", phase=Phase.AUTH)
    return reply


def _failure(reply: SmtpResponse, mechanism: SaslMechanism) -> Exception:
    if reply.is_transient or reply.is_permanent:
        return AuthError(reply, phase=Phase.AUTH, server_error=mechanism.server_error)
    return refusal(reply, Phase.AUTH)


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
