"""AUTH: the one exchange for every SASL mechanism (RFC 4954 4).

The initial response is part of the AUTH line if the whole line has at most 512 bytes, which saves a
round trip; a longer one is sent after the server's empty challenge (RFC 4954 4 allows no longer
command). If a server ignores the initial response and sends an empty challenge, the response is
sent once more. A challenge that the mechanism does not expect or cannot read is answered with "*",
which cancels the exchange (RFC 4954 4): both sides stay in sync, and the `AuthError` has the
server's final reply.
"""

from __future__ import annotations

import base64
from collections.abc import Generator

from smtpconn.auth.mechanisms import ChallengeError, SaslMechanism
from smtpconn.model.errors import Phase, ProtocolError, UnsupportedExtensionError
from smtpconn.model.replies import SmtpResponse
from smtpconn.model.response_errors import AuthError, refusal
from smtpconn.model.secret import Secret
from smtpconn.protocol.command import Command, secret_command
from smtpconn.protocol.exchange import Exchange, ExchangeAction, single
from smtpconn.protocol.session import SessionState

MAX_AUTH_COMMAND = 512
"""Bytes of an AUTH line with its CRLF (RFC 5321 4.5.3.1.4)."""

MAX_ROUNDS = 10
"""Challenges that are answered at most in one login."""


def authenticate(session: SessionState, mechanism: SaslMechanism) -> Exchange[None]:
    """Log in.

    Raises:
        AuthError: the server refused, or asked for something that the mechanism does not have or
            cannot read.
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
        raise UnsupportedExtensionError(
            f"the server does not offer AUTH {mechanism.name}; it offers "
            f"{session.capabilities.auth_offer}",
            phase=Phase.AUTH,
        )
    if mechanism.shows_secret:
        check_private(session, mechanism.name)


def check_private(session: SessionState, mechanism: str) -> None:
    """Check that a mechanism that shows the secret may be used.

    Raises:
        ProtocolError: not on this connection.
    """
    if not session.is_private:
        raise ProtocolError(
            f"AUTH {mechanism} would show the secret to everyone on the way: use TLS "
            f"(TlsMode.STARTTLS or IMPLICIT), or allow_cleartext_auth=True if you accept that",
            phase=Phase.AUTH,
        )


class _Opening:
    """How an exchange begins.

    Attributes:
        line: the AUTH line.
        response: the initial response, for when a challenge asks for it; None if none can.
        is_on_line: whether the AUTH line already contains it.
    """

    __slots__ = ("is_on_line", "line", "response")

    def __init__(self, line: Command, response: Command | None, *, is_on_line: bool) -> None:
        self.line = line
        self.response = response
        self.is_on_line = is_on_line


def _exchange(mechanism: SaslMechanism) -> Generator[ExchangeAction, None, SmtpResponse]:
    opening = _opening(mechanism)
    response = opening.response
    reply = yield from single(opening.line)
    for _ in range(MAX_ROUNDS):
        if reply.code != 334:
            return reply
        challenge = reply.lines[0]
        # The first challenge asks for the response that was too long for the AUTH line, or that the
        # server ignored there.
        if response is None or (opening.is_on_line and challenge.strip()):
            response = _answer(mechanism, challenge)
        if response is None:
            return (yield from _cancel())
        reply = yield from single(response)
        response = None
    if reply.code == 334:
        raise ProtocolError(f"the server sent more than {MAX_ROUNDS} challenges", phase=Phase.AUTH)
    return reply


def _opening(mechanism: SaslMechanism) -> _Opening:
    log = f"AUTH {mechanism.name}"
    response = _response(mechanism)
    line = None if response is None else _line_with(log, response)
    if line is None:
        return _Opening(secret_command(log, log), response, is_on_line=False)
    return _Opening(line, response if mechanism.repeats_initial else None, is_on_line=True)


def _line_with(log: str, response: Command) -> Command | None:
    """The AUTH line with the initial response on it; None if there is no room."""
    # An empty initial response is sent as "=" (RFC 4954 4).
    text = Secret(f"{log} {response.wire[:-2].decode() or '='}")
    if len(text.reveal()) + 2 > MAX_AUTH_COMMAND:
        return None
    return secret_command(text, f"{log} <secret>")


def _response(mechanism: SaslMechanism) -> Command | None:
    first = mechanism.begin()
    if first is None:
        return None
    encoded = Secret(_base64(first))
    del first
    return secret_command(encoded, "<secret>")


def _answer(mechanism: SaslMechanism, challenge: str) -> Command | None:
    """The answer to a challenge; None if the exchange has to be cancelled."""
    try:
        answer = mechanism.answer(challenge)
    except ChallengeError as error:
        mechanism.cancelled_because = str(error)
        return None
    if answer is None:
        mechanism.cancelled_because = f"{mechanism.name} has no answer to what the server asked"
        return None
    encoded = Secret(_base64(answer))
    del answer
    return secret_command(encoded, "<secret>")


def _cancel() -> Generator[ExchangeAction, None, SmtpResponse]:
    reply = yield from single(secret_command("*", "*"))
    if reply.is_success:
        raise ProtocolError(f"a cancelled login was answered with {reply}", phase=Phase.AUTH)
    return reply


def _failure(reply: SmtpResponse, mechanism: SaslMechanism) -> Exception:
    if not (reply.is_transient or reply.is_permanent):
        return refusal(reply, Phase.AUTH)
    because = mechanism.cancelled_because
    if reply.code == 503:
        is_known = "already" in str(reply).lower()
        because = "this session is logged in already" + (
            ": it can be used as it is" if is_known else ", or AUTH has no place here (RFC 4954 4)"
        )
    return AuthError(reply, phase=Phase.AUTH, server_error=mechanism.server_error, because=because)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
