"""Exchanges for callers who send SMTP command by command, and interpret the replies themselves.

Each sends one command and returns the server's reply with any code, as the standard library's
``smtplib`` does. The session state is updated here: what the server offers, whether
a transaction is open, whether the login succeeded. Replies are matched, bounded and checked as in
every other exchange.

A caller may also write now and ask for the reply later (`write`, `read`). Until then the session is
marked as `SessionState.has_unread_replies`, so that the driver neither closes the connection nor
treats a reply that comes in between as unsolicited.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator, Iterable

from smtpconn.auth.mechanisms import Login, OAuthBearer, Plain, XOAuth2
from smtpconn.model.content import Buffer, Content
from smtpconn.model.errors import Phase, ProtocolError
from smtpconn.model.replies import SmtpResponse
from smtpconn.protocol.auth import MAX_AUTH_COMMAND, check_private
from smtpconn.protocol.command import Command, command, secret_command
from smtpconn.protocol.exchange import (
    GREETING,
    CommandGroup,
    Exchange,
    ExchangeAction,
    Payload,
    StartTls,
    WaitFor,
    single,
)
from smtpconn.protocol.handshake import note_hello
from smtpconn.protocol.session import SessionState
from smtpconn.protocol.transaction import DATA

_NOTHING = CommandGroup(())
_SHOW_SECRET = frozenset(each.name for each in (Plain, Login, XOAuth2, OAuthBearer))


def read_greeting(session: SessionState) -> Exchange[SmtpResponse]:
    """Wait for the greeting (RFC 5321 3.1)."""
    group = CommandGroup((GREETING,))
    yield group
    session.greeting = group.replies[0]
    return session.greeting


def send_hello(session: SessionState, hello: Command, name: str) -> Exchange[SmtpResponse]:
    """Send EHLO, LHLO or HELO, and note what is offered if the reply is 250 (RFC 5321 4.1.1.1).

    Args:
        session: what is known of the session.
        hello: the whole command.
        name: the client's name in it.
    """
    reply = yield from single(hello)
    if reply.code == 250:
        session.ehlo_domain = name
        note_hello(session, reply, is_extended=hello.wire[:4].upper() != b"HELO")
    return reply


def start_tls(session: SessionState) -> Exchange[SmtpResponse]:
    """Send STARTTLS and, if the reply is 220, do the handshake (RFC 3207 4)."""
    reply = yield from single(command(Phase.STARTTLS, "STARTTLS"))
    if reply.code == 220:
        yield StartTls()
        session.reset_after_starttls()
        session.is_private = True
    return reply


def send_command(session: SessionState, command: Command) -> Exchange[SmtpResponse]:
    """Send a command and return its reply."""
    phase = command.phase
    if phase is Phase.MAIL:
        session.needs_reset = True
        session.transactions += 1
    elif phase is Phase.RSET:
        session.note_reset()
    elif phase is not Phase.RCPT:
        session.nonmail_commands += 1
    reply = yield from single(command)
    if phase is Phase.RSET and reply.code == 250:
        session.needs_reset = False
    return reply


def send_data(
    session: SessionState, content: Content, replies: int
) -> Exchange[tuple[SmtpResponse, ...]]:
    """Send DATA and, if the reply is 354, send the content.

    Args:
        session: what is known of the session.
        content: the message.
        replies: how many final replies there will be: 1, or one per accepted recipient in LMTP.

    Returns the reply to DATA alone if that is not 354, else that and the final replies.
    """
    reply = yield from single(DATA)
    if reply.code != 354:
        return (reply,)
    group = CommandGroup((Payload(content.as_data(), replies=replies),))
    yield group
    if all(final.is_success for final in group.replies):
        session.needs_reset = False
    return (reply, *group.replies)


def authenticate_with(
    session: SessionState,
    mechanism: str,
    first: bytes | None,
    answer: Callable[[bytes], bytes],
    max_challenges: int,
) -> Exchange[SmtpResponse]:
    """Log in with answers that the caller's function gives (RFC 4954 4).

    Args:
        session: what is known of the session.
        mechanism: its name as written on the AUTH line.
        first: the initial response; None if the mechanism has none.
        answer: called with each challenge.
        max_challenges: challenges that are answered at most.

    Returns the reply that ends it; 334 if there were too many challenges.

    Raises:
        ProtocolError: a challenge is not base64; or the connection is not private and the mechanism
            is known to show the secret (nothing was sent).
    """
    if mechanism in _SHOW_SECRET:
        check_private(session, mechanism)
    session.nonmail_commands += 1
    line = f"AUTH {mechanism}"
    if first is not None:
        whole = f"{line} {_base64(first) or '='}"
        if len(whole) + 2 <= MAX_AUTH_COMMAND:
            line, first = whole, None
    reply = yield from single(secret_command(line, f"AUTH {mechanism} <secret>"))
    for _ in range(max_challenges):
        if reply.code != 334:
            break
        response = first if first is not None else answer(_challenge(reply))
        first = None
        reply = yield from single(secret_command(_base64(response), "<secret>"))
    if reply.code == 235:
        session.auth_mechanism = mechanism
    return reply


def write(
    session: SessionState, group: CommandGroup
) -> Generator[ExchangeAction, None, CommandGroup]:
    """Write a group that does not wait, now; `read` gets its reply.

    Args:
        session: what is known of the session.
        group: made with ``waits=False``.
    """
    session.has_unread_replies = True
    yield group
    yield WaitFor(_NOTHING)
    return group


def raw_bytes(buffers: Iterable[Buffer]) -> CommandGroup:
    """A caller's own bytes as a group to `write`; whether they have a reply is not known."""
    return CommandGroup(
        (Payload(buffers, replies=0, ends_message=False, log="<bytes>"),), waits=False
    )


def read(session: SessionState, group: CommandGroup | None) -> Exchange[SmtpResponse]:
    """Wait for a reply and return it.

    Args:
        session: what is known of the session.
        group: the group that the next reply answers; None for a reply to a caller's own bytes.
    """
    if group is None:
        group = CommandGroup((Payload((), ends_message=False, log="<reply>", phase=Phase.IDLE),))
        yield group
    else:
        yield WaitFor(group)
    return group.replies[0]


def _challenge(reply: SmtpResponse) -> bytes:
    try:
        return base64.b64decode(reply.lines[0].encode("ascii"), validate=True)
    except ValueError:
        raise ProtocolError(
            f"the server sent a challenge that is not base64: {reply.lines[0]!a:.80}",
            phase=Phase.AUTH,
        ) from None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
