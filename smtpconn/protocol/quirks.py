"""The known peculiarities of servers: one `Quirk` each, and the constants that follow from it.

Everything that smtpconn does for particular servers, beyond the RFCs, has an entry here: which
server, what it does, how it is recognised, what we do, and where it was seen. Code that acts on a
quirk imports its constants and predicates from here. `ServerQuirks` stores what was learnt about
one server while sending.

No socket and no clock: times are of the monotonic clock and passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpconn.model.errors import Phase
from smtpconn.model.replies import SHUTTING_DOWN, EnhancedStatusCode, SmtpResponse


@dataclass(frozen=True, slots=True)
class Quirk:
    """A known server peculiarity.

    Attributes:
        server: the product and version it was seen on.
        behaviour: what it does.
        recognised_by: how a client recognises such a server.
        response: what we do.
        evidence: where it was seen, or is documented.
    """

    server: str
    behaviour: str
    recognised_by: str
    response: str
    evidence: str


NONMAIL_LIMIT = Quirk(
    server="Exim",
    behaviour="closes a connection at the 11th command that belongs to no message. NOOP is such a "
    "command, and so is every RSET except the first after a message; the refused transaction "
    "between two streamed messages therefore counts as one",
    recognised_by="the words of its EHLO reply (`is_exim`)",
    response="from AVOID_RSET_FROM on, RSET is sent only where it is needed; at MAX_NONMAIL the "
    "connection is replaced. Any server gets at most MAX_NOOPS keep-alive NOOPs on a connection",
    evidence="smtp_accept_max_nonmail, default 10; Exim 4.96",
)

MAX_NONMAIL = 10
"""Non-mail commands that Exim takes on a connection; it closes the connection at the next one."""

AVOID_RSET_FROM = 8
"""Non-mail commands after which optional RSETs are skipped."""

MAX_NOOPS = 8
"""Keep-alive NOOPs in a connection's life."""


def is_exim(reply: SmtpResponse) -> bool:
    """Whether EHLO is answered in Exim's words: "mx.example.com Hello client.example [192.0.2.1]".

    Unlike the greeting, they cannot be configured. Another server with the same words is treated
    like Exim, which does no harm.
    """
    return " Hello " in reply.lines[0] and reply.lines[0].endswith("]")


STALE_TRANSACTION = Quirk(
    server="Exim, Postfix, Dovecot submission",
    behaviour="keeps parts of a refused transaction: Exim delivers the next message with the "
    "sender of the refused one, Postfix answers 552 again, Dovecot breaks down",
    recognised_by="not recognised: every server is treated this way",
    response="after a transaction that did not end in success, and between streamed ones, RSET is "
    "sent before MAIL in the same group",
    evidence="Exim 4.96, Postfix 3.7, Dovecot 2.3",
)

NOT_STREAMABLE = Quirk(
    server="Haraka",
    behaviour="answers 503 to commands that follow the end of DATA in the same packet, which RFC "
    "2920 3.1 allows",
    recognised_by="503 to the first command after content",
    response="an envelope refused in this way is sent again. From then on that server gets no "
    "command before its reply to the content has come (`ServerQuirks.is_streamable`)",
    evidence="Haraka 3.3.4: 503 Bad sequence of commands - pipelined after end of DATA",
)

BAD_SEQUENCE = 503
"""The reply of `NOT_STREAMABLE`."""

RSET_REFUSED = Quirk(
    server="eYou MTA (502), GoDaddy (503)",
    behaviour="refuses RSET, which RFC 5321 4.1.1.5 does not allow",
    recognised_by="a 4xx or 5xx to RSET",
    response="no message fails because of it: where RSET was needed, the connection is replaced. "
    "RSET is not sent to that server again (`ServerQuirks.avoid_rset`)",
    evidence="github.com/wneessen/go-mail/issues/551, github.com/haraka/Haraka/issues/2375",
)

SESSION_LIMIT = Quirk(
    server="Stalwart (452 4.4.5 at DATA), others with 451 4.7.0, 503, 530 or 554 at MAIL",
    behaviour="limits the messages of a session, refuses the next one with another code than 421, "
    "and keeps the connection open",
    recognised_by="`may_be_session_limit`, on a connection that was used before",
    response="the pool closes the connection and sends the message once more over a new one. If "
    "there the same command is refused with any of these codes, then for SESSION_LIMIT_HOLD "
    "seconds neither that code nor the first one counts as a session limit at that command",
    evidence="Stalwart's 'maximum number of messages per session'; github.com/knadh/listmonk/"
    "issues/3025",
)

SESSION_LIMIT_HOLD = 60.0
"""Seconds during which a refusal that a new connection got too leads to no further connection."""

_LIMIT_PHASES = frozenset({Phase.MAIL, Phase.DATA})
_LIMIT_CODES = frozenset({421, 450, 451, 452, 503, 530, 554})
_LIMIT_SUBJECTS = frozenset({3, 4})
_LIMIT_DETAILS = frozenset({(5, 0), (5, 1), (7, 0)})


def may_be_session_limit(phase: Phase, reply: SmtpResponse) -> bool:
    """Whether a refusal may be due to a limit on the session and not to the message.

    False for a code that names the sender, the size or a policy (501, 552, 553, X.1.x, X.7.1): a
    bad message must not cause a new login at each attempt. 450 to RCPT is greylisting.
    """
    if phase not in _LIMIT_PHASES or reply.code not in _LIMIT_CODES:
        return False
    status = reply.enhanced_status or _other_class(reply)
    if status is None:
        return True
    return status.subject in _LIMIT_SUBJECTS or (status.subject, status.detail) in _LIMIT_DETAILS


def _other_class(reply: SmtpResponse) -> EnhancedStatusCode | None:
    """The enhanced code at the start of a reply, even if its class contradicts the reply code."""
    return EnhancedStatusCode.from_text(reply.lines[0])


IDLE_FAREWELL = Quirk(
    server="Amazon SES, Gmail, Exchange",
    behaviour="sends 451 instead of 421 before it closes an idle connection",
    recognised_by="a 4xx or 5xx that is the reply to no command",
    response="the same as after 421: the connection is closed, the error is transient",
    evidence="github.com/nodemailer/nodemailer/issues/1205, 451 4.4.2 Timeout waiting for data",
)

TOO_MANY_RECIPIENTS = Quirk(
    server="servers that follow RFC 821",
    behaviour="answers 552 to the first RCPT beyond its limit, which RFC 5321 4.5.3.1.10 asks "
    "clients to treat as 452",
    recognised_by="552 to RCPT after an accepted one, without an enhanced code or with X.5.3",
    response="`RejectedRecipient.is_transient` is True",
    evidence="RFC 5321 4.5.3.1.10",
)


def means_too_many_recipients(reply: SmtpResponse) -> bool:
    """Whether a refusal of RCPT, after an accepted one, says that there are too many recipients."""
    status = reply.enhanced_status or _other_class(reply)
    return reply.code == 552 and (status is None or (status.subject, status.detail) == (5, 3))


BROKEN_PIPELINING = Quirk(
    server="filters and proxies between us and a server that offers PIPELINING",
    behaviour="answers only one command of those that arrive in one packet",
    recognised_by="two groups in a row got some of their replies and then silence until the "
    "deadline, while RCPT or DATA sent alone is answered. A slow server does not answer those "
    "in time either",
    response="one command at a time with that server for PIPELINING_OFF seconds, logged",
    evidence="reports of such filters; tested with a scripted server only",
)

PIPELINING_OFF = 3600.0
"""Seconds for which one command at a time is used with a server whose PIPELINING is broken."""

_BROKEN_AFTER = 2

TOO_MANY_CONNECTIONS = Quirk(
    server="Exchange Online (432, 451), Gmail, Postfix (421)",
    behaviour="limits the connections of a client and refuses the next one for a while",
    recognised_by="421, 432 or 451 while a connection is made",
    response="for a while the pool makes no more connections than it has",
    evidence="432 4.3.2 Concurrent connections limit exceeded (Exchange Online)",
)

TOO_MANY_CONNECTIONS_CODES = frozenset({421, 432, 451})

SILENT_BDAT = Quirk(
    server="Exchange, version not reported",
    behaviour="offers CHUNKING and never answers a correct BDAT",
    recognised_by="not recognised",
    response="BDAT is used only in send_bdat and send_lmtp_bdat, for BINARYMIME, and with "
    "Pipelining.EAGER",
    evidence="github.com/jstedfast/MailKit/issues/921",
)

REST_AS_COMMANDS = Quirk(
    server="Exim",
    behaviour="after refusing a BDAT chunk that is too big, executes the rest of it as commands",
    recognised_by="not recognised: every server is treated this way",
    response="no chunk is sent that is larger than SIZE allows, and an error before the content is "
    "sent completely closes the connection",
    evidence="Exim 4.96",
)

LMTP_WITHOUT_REPLY = Quirk(
    server="LMTP servers",
    behaviour="do not answer BDAT at all if no recipient was accepted (RFC 2033 4.3)",
    recognised_by="not recognised: every LMTP server is treated this way",
    response="in LMTP, content is never sent together with its envelope",
    evidence="RFC 2033 4.3; Dovecot 2.3",
)

REFUSED_AND_CLOSED = Quirk(
    server="Outlook.com, for clients on its block list",
    behaviour="refuses MAIL or RCPT and closes the connection, without a reply to the other "
    "commands of the group",
    recognised_by="the connection is lost behind a refusal of MAIL, or of every recipient",
    response="the refusal is the error, and not the lost connection, which would be transient; "
    "otherwise the refusals are in the text",
    evidence="github.com/jstedfast/MailKit/issues/194",
)

STORED_AND_SHUT_DOWN = Quirk(
    server="Dovecot's LMTP",
    behaviour="reloaded or stopped while it stores a message, stores it and then sends 421 4.3.2 "
    "in place of the final reply. The same reply may mean that it did not store it",
    recognised_by="421 with the enhanced code X.3.2 in the place of the reply to the content "
    "(`is_shutdown_notice`)",
    response="it counts as the notice of RFC 5321 3.8, which may come at any time, and not as the "
    "reply: whether the message was delivered is unknown",
    evidence="Dovecot 2.3.19: 'saved mail to INBOX', then '421 4.3.2 mx.example.test Shutting "
    "down'",
)


def is_shutdown_notice(reply: SmtpResponse) -> bool:
    """Whether a reply to the content is about the server's shutdown and not about the message.

    Other 421 replies, as Gmail's 421 4.7.0 for too much mail, refuse the message.
    """
    status = reply.enhanced_status
    return (
        reply.code == SHUTTING_DOWN
        and status is not None
        and (status.subject, status.detail) == (3, 2)
    )


POSTSCREEN_TEASER = Quirk(
    server="Postfix's postscreen",
    behaviour="sends the first line of a greeting, waits, and then refuses with another code",
    recognised_by="a greeting or a reply to EHLO whose lines have different codes",
    response="if it ends in a refusal, that is the reply; if it ends in a success, it is an error",
    evidence="postscreen_greet_banner",
)

BARE_LF = Quirk(
    server="appliances and home-made servers",
    behaviour="ends its lines with LF alone, or with CR CR LF",
    recognised_by="the line end of the greeting",
    response="LF ends a line where it ends the greeting. Such a server gets one command at a time "
    "(`SessionState.may_pipeline`): in a group, text that it repeats could count as the next "
    "reply. Elsewhere LF ends a line only as the last byte of the one reply that is awaited",
    evidence="no product named; smtplib, curl and nodemailer read such replies",
)

NO_EHLO = Quirk(
    server="servers older than RFC 1869",
    behaviour="refuses EHLO with any 5xx",
    recognised_by="a 5xx to EHLO that is not in NOT_ABOUT_EHLO",
    response="HELO is sent",
    evidence="github.com/pear/Net_SMTP/issues/5; RFC 1869 4.5",
)

VRFY_WITHOUT_SMTPUTF8 = Quirk(
    server="Exim",
    behaviour="offers SMTPUTF8 and refuses it as a parameter of VRFY (RFC 6531 3.7.4.2)",
    recognised_by="VRFY or EXPN with an ASCII argument refused with one of UNKNOWN_PARAMETER_CODES",
    response="the command is sent again without the parameter",
    evidence="Exim 4.96: 501 malformed address: SMTPUTF8 may not follow alice@example.test",
)

UNKNOWN_PARAMETER_CODES = frozenset({500, 501, 504, 555})
"""Codes that may refuse an unknown parameter (RFC 5321 4.2.2, 4.1.1.11)."""

NOT_ABOUT_EHLO = frozenset({521, 530})
"""Refusals of EHLO after which HELO would not help.

The host takes no mail (RFC 7504 3), or requires TLS or a login first (RFC 3207 4, RFC 4954 6).
"""

QUIRKS = (
    NONMAIL_LIMIT,
    STALE_TRANSACTION,
    NOT_STREAMABLE,
    RSET_REFUSED,
    SESSION_LIMIT,
    IDLE_FAREWELL,
    TOO_MANY_RECIPIENTS,
    BROKEN_PIPELINING,
    TOO_MANY_CONNECTIONS,
    SILENT_BDAT,
    REST_AS_COMMANDS,
    LMTP_WITHOUT_REPLY,
    REFUSED_AND_CLOSED,
    STORED_AND_SHUT_DOWN,
    POSTSCREEN_TEASER,
    BARE_LF,
    NO_EHLO,
    VRFY_WITHOUT_SMTPUTF8,
)
"""All quirks."""


class ServerQuirks:
    """What was learnt about one server; it applies to all sessions with it.

    Attributes:
        is_streamable: whether the server takes commands after the end of DATA in the same packet
            (`NOT_STREAMABLE`).
        login: the mechanism that succeeded after a stronger one failed (`LoginCandidate.key` of
            `smtpconn.auth.credentials`); "" if the strongest one succeeded or none was tried.
        avoid_rset: whether the server has refused RSET (`RSET_REFUSED`).
        partial_groups: how many groups in a row got some but not all of their replies
            (`BROKEN_PIPELINING`). From two on the next message is sent one command at a time, to
            see whether those are answered.
        pipelining_off_until: until when the server gets one command at a time.
    """

    def __init__(self, *, is_streamable: bool = True, partial_groups: int = 0) -> None:
        self.is_streamable = is_streamable
        self.login = ""
        self.avoid_rset = False
        self.partial_groups = partial_groups
        self.pipelining_off_until = 0.0
        self._held_until: dict[tuple[Phase, int], float] = {}

    def is_pipelining_broken(self, now: float) -> bool:
        """Whether the server gets one command at a time because its PIPELINING seems broken."""
        return self.partial_groups >= _BROKEN_AFTER or now < self.pipelining_off_until

    def note_single_reply(self, now: float) -> bool:
        """Note a reply to a command sent alone; returns whether that proves broken PIPELINING."""
        if self.partial_groups < _BROKEN_AFTER:
            return False
        self.partial_groups = 0
        self.pipelining_off_until = now + PIPELINING_OFF
        return True

    def note_single_timeout(self) -> None:
        """Note that a command that was sent alone was not answered either: the server is slow."""
        self.partial_groups = 0
        self.pipelining_off_until = 0.0

    def is_worth_reconnecting(self, phase: Phase, reply: SmtpResponse, now: float) -> bool:
        """Whether, after a refusal on a used connection, a new connection should be tried."""
        held_until = self._held_until.get((phase, reply.code), 0.0)
        return may_be_session_limit(phase, reply) and now >= held_until

    def note_refused_again(self, phase: Phase, reply: SmtpResponse, now: float) -> None:
        """Note that a new connection got the refusal too, so it is due to the message."""
        self._held_until[phase, reply.code] = now + SESSION_LIMIT_HOLD
