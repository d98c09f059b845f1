"""The state of one session, which the exchanges of `smtpconn.protocol` read and change.

Rule: what the server said before TLS decides nothing once TLS has started (RFC 3207 4.2):
`SessionState.reset_after_starttls` discards it. Only the quirks stay, and those noted without TLS
can slow the client down, but never weaken a check.

No socket, no clock and no I/O.
"""

from __future__ import annotations

from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import ConnectionClosedError, Phase
from smtpconn.model.modes import Pipelining, Protocol
from smtpconn.model.replies import SmtpResponse
from smtpconn.protocol.quirks import AVOID_RSET_FROM, MAX_NONMAIL, ServerQuirks


class SessionState:
    """The state of one session.

    Attributes:
        protocol, pipelining, ignore_extensions: what the caller chose.
        ehlo_domain: the client's name in EHLO, a domain or an address literal.
        is_private: whether a secret may be sent: TLS is on, the peer is this machine, or the
            caller allows it in clear.
        is_local: whether the peer is known to be this machine.
        capabilities: the last EHLO, LHLO or HELO reply.
        greeting: the server's first reply; None before it came. It is for display only: with
            STARTTLS it arrived without TLS, so no decision depends on it.
        auth_mechanism: the SASL mechanism that logged in; None before.
        needs_reset: whether the last transaction did not end in success, so that the next MAIL
            needs a RSET before it.
        must_close: why the connection must be closed after this operation; "" if it may stay open.
        transactions: how many mail transactions were begun.
        recently_active: whether the server has replied so recently that content may be sent before
            it replies to the envelope (`Pipelining.EAGER`).
        is_lmtp, is_eager: whether ``protocol`` is LMTP, and ``pipelining`` EAGER.
        quirks: what was learnt about the server; a pool shares it between its connections.
        limits_nonmail: whether the server closes the connection after some commands that belong to
            no message, as Exim does (`smtpconn.protocol.quirks.NONMAIL_LIMIT`).
        nonmail_commands: how many of these commands were sent.
        has_reset: whether RSET was sent since the last message.
        is_pipelining_broken: whether PIPELINING, though offered, is not used for now
            (`smtpconn.protocol.quirks.BROKEN_PIPELINING`); set at the beginning of an operation.
        ends_lines_with_lf: whether the server ends its lines with a bare LF, and therefore gets one
            command at a time (`smtpconn.protocol.quirks.BARE_LF`).
        may_pipeline: whether commands may be sent in groups; follows from the facts above.
        is_out_of_sync: whether a reply came that cannot be matched, so that those to messages that
            were sent with their envelopes cannot be trusted.
        has_unread_replies: whether the caller has written commands and will ask for the replies
            in later operations (`smtpconn.protocol.raw_command`).
    """

    def __init__(
        self,
        *,
        protocol: Protocol = Protocol.SMTP,
        pipelining: Pipelining = Pipelining.AUTO,
        ignore_extensions: frozenset[str] = frozenset(),
        ehlo_domain: str = "localhost",
        is_private: bool = False,
        is_local: bool = False,
        capabilities: ServerCapabilities | None = None,
        quirks: ServerQuirks | None = None,
    ) -> None:
        self.protocol = protocol
        self.pipelining = pipelining
        self.ignore_extensions = ignore_extensions
        self.ehlo_domain = ehlo_domain
        self.is_private = is_private
        self.is_local = is_local
        self.capabilities = ServerCapabilities() if capabilities is None else capabilities
        self.greeting: SmtpResponse | None = None
        self.auth_mechanism: str | None = None
        self.needs_reset = False
        self.must_close = ""
        self.transactions = 0
        self.recently_active = False
        self.quirks = ServerQuirks() if quirks is None else quirks
        self.limits_nonmail = False
        self.nonmail_commands = 0
        self.has_reset = False
        self.is_pipelining_broken = False
        self.ends_lines_with_lf = False
        self.is_out_of_sync = False
        self.has_unread_replies = False
        self.is_lmtp = protocol is Protocol.LMTP
        self.is_eager = pipelining is Pipelining.EAGER
        self._decide_pipelining()

    @property
    def is_authenticated(self) -> bool:
        """Whether an AUTH succeeded."""
        return self.auth_mechanism is not None

    def note_capabilities(self, capabilities: ServerCapabilities) -> None:
        """Note the server's reply to EHLO, LHLO or HELO."""
        self.capabilities = capabilities
        self._decide_pipelining()

    def note_line_ends(self, *, is_lf: bool) -> None:
        """Note whether the server ends its lines with a bare LF."""
        self.ends_lines_with_lf = is_lf
        self._decide_pipelining()

    def note_pipelining(self, *, is_broken: bool) -> None:
        """Note whether the server's PIPELINING is not used for now."""
        self.is_pipelining_broken = is_broken
        self._decide_pipelining()

    def _decide_pipelining(self) -> None:
        self.may_pipeline = (
            self.pipelining is not Pipelining.OFF
            and self.capabilities.supports_pipelining
            and not self.is_pipelining_broken
            and not self.ends_lines_with_lf
        )

    @property
    def may_send_eagerly(self) -> bool:
        """Whether content may be sent before the replies to RCPT have come.

        Never in LMTP: there a BDAT without an accepted recipient has no reply at all from some
        servers (RFC 2033 4.3), so replies could no longer be matched by counting.
        """
        return (
            self.is_eager
            and self.recently_active
            and not self.is_lmtp
            and self.may_pipeline
            and self.capabilities.supports_chunking
        )

    @property
    def may_send_bursts(self) -> bool:
        """Whether several short messages may be written together: before each but the first goes
        RSET, which the server must neither refuse nor count."""
        return self.may_send_eagerly and not self.limits_nonmail and not self.quirks.avoid_rset

    @property
    def avoid_rset(self) -> bool:
        """Whether RSET is sent only where it is required: the server refuses it, or counts it and
        its limit is near."""
        return self.quirks.avoid_rset or (
            self.limits_nonmail and self.nonmail_commands >= AVOID_RSET_FROM
        )

    def note_reset(self) -> None:
        """Note that RSET is sent."""
        self.nonmail_commands += self.has_reset
        self.has_reset = True

    def check_reset(self) -> None:
        """Check that the server accepts another RSET.

        Raises:
            ConnectionClosedError: the server refuses RSET, or would close the connection after it
                (`smtpconn.protocol.quirks.NONMAIL_LIMIT`), so the next message would fail.
        """
        if self.quirks.avoid_rset:
            self.must_close = "the server refuses RSET, which the next message needs"
            raise ConnectionClosedError(f"connect anew: {self.must_close}", phase=Phase.RSET)
        if self.limits_nonmail and self.has_reset and self.nonmail_commands >= MAX_NONMAIL:
            self.must_close = "the next message needs RSET, and the server allows no more of them"
            raise ConnectionClosedError(f"connect anew: {self.must_close}", phase=Phase.RSET)

    def note_reset_refused(self, reply: SmtpResponse) -> ConnectionClosedError:
        """Note that the server refuses RSET; return the error for the message that needed it."""
        self.quirks.avoid_rset = True
        self.must_close = f"the server refuses RSET: {reply}"
        return ConnectionClosedError(f"connect anew: {self.must_close}", phase=Phase.RSET)

    def reset_after_starttls(self) -> None:
        """Forget what was learnt without TLS (RFC 3207 4.2)."""
        self.note_capabilities(ServerCapabilities())
        self.auth_mechanism = None
        self.limits_nonmail = False
