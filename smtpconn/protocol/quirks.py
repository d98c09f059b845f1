"""What particular servers do differently: one entry each, and the constants that follow from it.

Everything that smtpconn does for one server and no RFC asks for stands here: who does it, what it
does, how it is recognised, what we do, and where it was seen. Code that acts on a quirk takes its
constants and questions from here. `ServerQuirks` is what is learnt of one server while sending.

No socket and no clock: times are of the monotonic clock and passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpconn.model.errors import Phase
from smtpconn.model.replies import EnhancedStatusCode, SmtpResponse


@dataclass(frozen=True, slots=True)
class Quirk:
    """A known server peculiarity.

    Attributes:
        server: the product and version it was seen on.
        behaviour: what it does.
        recognised_by: how we know that we speak to such a server.
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
    behaviour="ends a connection at the 11th command that belongs to no message; NOOP is one, and "
    "every RSET but the first behind a message",
    recognised_by="the words of its EHLO reply (`is_exim`)",
    response="RSET only where it is needed from SPARE_NONMAIL_FROM on, a new connection at "
    "MAX_NONMAIL, and at most MAX_NOOPS keep-alive NOOPs for any server",
    evidence="smtp_accept_max_nonmail, default 10; Exim 4.96",
)

MAX_NONMAIL = 10
"""Non-mail commands Exim takes on a connection; the next one ends it."""

SPARE_NONMAIL_FROM = 8
"""Non-mail commands after which optional RSETs are skipped."""

MAX_NOOPS = 8
"""Keep-alive NOOPs in a connection's life."""


def is_exim(reply: SmtpResponse) -> bool:
    """Whether EHLO is answered in Exim's words: "mx.example.com Hello client.example [192.0.2.1]".

    Unlike its greeting they cannot be configured. Another server that answers so is spared as well.
    """
    return " Hello " in reply.lines[0] and reply.lines[0].endswith("]")


STALE_TRANSACTION = Quirk(
    server="Exim, Postfix, Dovecot submission",
    behaviour="keeps parts of a refused transaction: Exim delivers the next message under the "
    "refused one's sender, Postfix answers 552 again, Dovecot breaks down",
    recognised_by="not at all: every server is treated so",
    response="RSET goes in front of MAIL in the same group after each transaction that did not end "
    "in success, and between streamed ones",
    evidence="Exim 4.96, Postfix 3.7, Dovecot 2.3",
)

NOT_STREAMABLE = Quirk(
    server="Haraka",
    behaviour="answers 503 to commands that stand behind the end of DATA in one write, which RFC "
    "2920 3.1 allows",
    recognised_by="503 to the first command behind content",
    response="the envelopes refused so are sent again, and with that server content is sent alone "
    "from then on (`ServerQuirks.is_streamable`)",
    evidence="Haraka 3.3.4: 503 Bad sequence of commands - pipelined after end of DATA",
)

BAD_SEQUENCE = 503
"""The reply of `NOT_STREAMABLE`."""

RSET_REFUSED = Quirk(
    server="eYou MTA (502), GoDaddy (503)",
    behaviour="refuses RSET, which RFC 5321 4.1.1.5 does not allow",
    recognised_by="a 4xx or 5xx to RSET",
    response="no message is refused for it: the connection is replaced where RSET was needed, and "
    "RSET is not said to that server again (`ServerQuirks.avoid_rset`)",
    evidence="github.com/wneessen/go-mail/issues/551, github.com/haraka/Haraka/issues/2375",
)

SESSION_LIMIT = Quirk(
    server="Stalwart (452 4.4.5 at DATA), others with 451 4.7.0, 503, 530 or 554 at MAIL",
    behaviour="ends a session's welcome with another code than 421 and keeps the connection open",
    recognised_by="`may_be_session_limit`, on a connection that was used before",
    response="the pool closes the connection and sends the message once more over a new one. If "
    "that is refused at the same command with the same code or another of those, neither code is a "
    "sign of a session limit there for SESSION_LIMIT_HOLD seconds",
    evidence="Stalwart's 'maximum number of messages per session'; github.com/knadh/listmonk/"
    "issues/3025",
)

SESSION_LIMIT_HOLD = 60.0
"""Seconds during which a refusal that a new connection had as well leads to no new connection."""

_LIMIT_PHASES = frozenset({Phase.MAIL, Phase.DATA})
_LIMIT_CODES = frozenset({421, 450, 451, 452, 503, 530, 554})
_LIMIT_SUBJECTS = frozenset({3, 4})
_LIMIT_DETAILS = frozenset({(5, 0), (5, 1), (7, 0)})


def may_be_session_limit(phase: Phase, reply: SmtpResponse) -> bool:
    """Whether a refusal may be about the connection and not about the message.

    Never one that names the sender, the size or a policy (501, 552, 553, X.1.x, X.7.1): a bad
    message must not cause a login for each try. 450 to RCPT is greylisting.
    """
    if phase not in _LIMIT_PHASES or reply.code not in _LIMIT_CODES:
        return False
    status = reply.enhanced_status or _other_class(reply)
    if status is None:
        return True
    return status.subject in _LIMIT_SUBJECTS or (status.subject, status.detail) in _LIMIT_DETAILS


def _other_class(reply: SmtpResponse) -> EnhancedStatusCode | None:
    """The enhanced code at the beginning of a reply's text, also one whose class is another's."""
    return EnhancedStatusCode.from_text(reply.lines[0])


IDLE_FAREWELL = Quirk(
    server="Amazon SES, Gmail, Exchange",
    behaviour="says 451 and not 421 before it closes an idle connection",
    recognised_by="a 4xx or 5xx that nothing asked for",
    response="the same as after 421: the connection is closed, the error is transient",
    evidence="github.com/nodemailer/nodemailer/issues/1205, 451 4.4.2 Timeout waiting for data",
)

TOO_MANY_RECIPIENTS = Quirk(
    server="servers that follow RFC 821",
    behaviour="answers 552 to a RCPT too many, which RFC 5321 4.5.3.1.10 asks to treat as 452",
    recognised_by="552 to RCPT behind an accepted one, without an enhanced code or with X.5.3",
    response="`RejectedRecipient.is_transient` is True",
    evidence="RFC 5321 4.5.3.1.10",
)


def means_too_many_recipients(reply: SmtpResponse) -> bool:
    """Whether a refusal of RCPT behind an accepted one is about their number."""
    status = reply.enhanced_status or _other_class(reply)
    return reply.code == 552 and (status is None or (status.subject, status.detail) == (5, 3))


BROKEN_PIPELINING = Quirk(
    server="filters and proxies between us and a server that offers PIPELINING",
    behaviour="answers only one command of those that arrive in one packet",
    recognised_by="some but not all replies of a group, then silence until the deadline, twice "
    "running, while a recipient or DATA alone is answered. A slow server does not answer those "
    "either",
    response="one command at a time with that server for PIPELINING_OFF seconds, logged",
    evidence="reports of such filters; no server at hand has it, a scripted one stands for them",
)

PIPELINING_OFF = 3600.0
"""Seconds for which one command at a time is used with a server whose PIPELINING is broken."""

_BROKEN_AFTER = 2

TOO_MANY_CONNECTIONS = Quirk(
    server="Exchange Online (432, 451), Gmail, Postfix (421)",
    behaviour="limits the connections of a client and refuses the next one for a while",
    recognised_by="421, 432 or 451 while a connection is made",
    response="the pool makes do with the connections it has",
    evidence="432 4.3.2 Concurrent connections limit exceeded (Exchange Online)",
)

TOO_MANY_CONNECTIONS_CODES = frozenset({421, 432, 451})

SILENT_BDAT = Quirk(
    server="an Exchange",
    behaviour="offers CHUNKING and never answers a correct BDAT",
    recognised_by="not at all",
    response="BDAT only where it is asked for by name, for BINARYMIME and under Pipelining.EAGER",
    evidence="github.com/jstedfast/MailKit/issues/921",
)

REST_AS_COMMANDS = Quirk(
    server="Exim",
    behaviour="runs the rest of a chunk that it refuses (too big) as commands",
    recognised_by="not at all: every server is treated so",
    response="an error before the content is out closes the connection, and no chunk leaves that "
    "is larger than SIZE allows",
    evidence="Exim 4.96",
)

LMTP_WITHOUT_REPLY = Quirk(
    server="LMTP servers",
    behaviour="do not answer BDAT at all if no recipient was accepted (RFC 2033 4.3)",
    recognised_by="not at all",
    response="content never leaves with its envelope in LMTP",
    evidence="RFC 2033 4.3; Dovecot 2.3",
)

POSTSCREEN_TEASER = Quirk(
    server="Postfix's postscreen",
    behaviour="sends the first line of a greeting, waits, and refuses with another code",
    recognised_by="lines with two codes in the greeting or the reply to EHLO",
    response="the refusal is believed, a success is not",
    evidence="postscreen_greet_banner",
)

BARE_LF = Quirk(
    server="appliances and home-made servers",
    behaviour="ends its lines with LF alone, or with CR CR LF",
    recognised_by="the greeting's own line end",
    response="LF ends a line where it ends the greeting. Such a server gets one command at a time "
    "(`SessionState.may_pipeline`): in a group, text that it repeats could count as the next "
    "reply. Elsewhere LF ends a line only as the last byte of the one reply that is awaited",
    evidence="no name; smtplib, curl and nodemailer read such replies",
)

NO_EHLO = Quirk(
    server="servers older than RFC 1869",
    behaviour="refuses EHLO with any 5xx",
    recognised_by="a 5xx to EHLO that is not in NOT_ABOUT_EHLO",
    response="HELO is said",
    evidence="github.com/pear/Net_SMTP/issues/5; RFC 1869 4.5",
)

VRFY_WITHOUT_SMTPUTF8 = Quirk(
    server="Exim",
    behaviour="offers SMTPUTF8 and refuses it as a parameter of VRFY (RFC 6531 3.7.4.2)",
    recognised_by="a VRFY or EXPN with an ASCII argument that UNKNOWN_PARAMETER_CODES refuse",
    response="it is asked again without the parameter",
    evidence="Exim 4.96: 501 malformed address: SMTPUTF8 may not follow alice@example.test",
)

UNKNOWN_PARAMETER_CODES = frozenset({500, 501, 504, 555})
"""What an unknown parameter may be answered with (RFC 5321 4.2.2, 4.1.1.11)."""

NOT_ABOUT_EHLO = frozenset({521, 530})
"""Refusals of EHLO that HELO does not mend: the host takes no mail (RFC 7504 3), or wants TLS or a
login first (RFC 3207 4, RFC 4954 6)."""

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
    POSTSCREEN_TEASER,
    BARE_LF,
    NO_EHLO,
    VRFY_WITHOUT_SMTPUTF8,
)
"""All of them."""


class ServerQuirks:
    """What is learnt of a server and true of all sessions with it.

    Attributes:
        is_streamable: whether it takes commands behind the end of DATA in one write
            (`NOT_STREAMABLE`).
        login: the way of logging in that worked where a stronger one did not (`Way.key` of
            `smtpconn.auth.credentials`); "" where the strongest one does, or nothing is known.
        avoid_rset: whether it has refused RSET (`RSET_REFUSED`).
        partial_groups: how many groups running got some but not all of their replies
            (`BROKEN_PIPELINING`). From two on the next message is told one command at a time, to
            see whether those are answered.
        pipelining_off_until: until when it is told one command at a time.
    """

    def __init__(self, *, is_streamable: bool = True, partial_groups: int = 0) -> None:
        self.is_streamable = is_streamable
        self.login = ""
        self.avoid_rset = False
        self.partial_groups = partial_groups
        self.pipelining_off_until = 0.0
        self._held_until: dict[tuple[Phase, int], float] = {}

    def is_pipelining_broken(self, now: float) -> bool:
        """Whether one command at a time is used."""
        return self.partial_groups >= _BROKEN_AFTER or now < self.pipelining_off_until

    def note_single_reply(self, now: float) -> bool:
        """Note a reply to a command that was sent alone; whether that shows broken PIPELINING."""
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
        """Whether a refusal on a used connection is worth another try over a new one."""
        held_until = self._held_until.get((phase, reply.code), 0.0)
        return may_be_session_limit(phase, reply) and now >= held_until

    def note_refused_again(self, phase: Phase, reply: SmtpResponse, now: float) -> None:
        """Note that a new connection had the same refusal: it is not about the connection."""
        self._held_until[phase, reply.code] = now + SESSION_LIMIT_HOLD
