"""Matches replies with commands, and decides whether a connection may be used again.

Only their order tells which reply belongs to which command (RFC 2920 3.1). One reply too many or
too few would make all later results wrong: a refused recipient would be reported as accepted, a
lost message as delivered. Hence the rules:

Rule 1: a reply that no command awaits is an error; it is never kept for the next command. A refusal
        that no command awaits means the same as 421 (rule 3).
Rule 2: a reply to something that has not been sent completely is an error, except a refusal of
        content that is still being sent: that is the message's reply, and the connection's last.
Rule 3: 421 may come at any time (RFC 5321 3.8). It ends the connection. If a reply is awaited, it
        is that reply, except where it may hide that a message was stored
        (`smtpconn.protocol.quirks.STORED_AND_SHUT_DOWN`).
Rule 4: after an error no further reply is matched. Replies matched before it remain valid: a
        message whose 250 arrived before invalid data was delivered.
Rule 5: a connection may be used again only if no reply is awaited, all data received has been
        matched, and none of these errors has occurred.
Rule 6: if a server that ends its lines with CRLF sends a bare LF, the LF may be part of text that
        the server repeats and has not sent completely. If the reply is a refusal within a
        transaction, the final reply to content, or the reply to VRFY, EXPN or HELP, it is valid,
        and nothing more is read after it.

To tell whether a message may have been delivered, the matcher counts bytes: it knows the offset at
which each group begins and how many bytes the transport has written. There is no I/O here.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable

from smtpconn.model.errors import ConnectionClosedError, ParseError, Phase, ProtocolError, SmtpError
from smtpconn.model.replies import SHUTTING_DOWN, SmtpResponse
from smtpconn.model.response_errors import refusal
from smtpconn.protocol.exchange import CommandGroup
from smtpconn.protocol.quirks import is_shutdown_notice
from smtpconn.protocol.reply_parser import ReplyParser

# Where a refusal may follow lines with another code (`reply_parser`, rule 3).
_MAY_MIX = frozenset({Phase.GREETING, Phase.EHLO})

# Where a reply may repeat what others have written (rule 6): always, or if it refuses.
_REPEATS_TEXT = frozenset({Phase.CONTENT, Phase.VRFY, Phase.EXPN, Phase.HELP})
_REFUSAL_REPEATS_TEXT = frozenset({Phase.MAIL, Phase.RCPT, Phase.DATA})


class ReplyMatcher:
    """The awaited replies of one connection.

    Attributes:
        failure: the error after which no further reply is matched; None before.
        shutdown_reply: the 421 the server sent; None if it sent none.
        queued: bytes that have been handed to the transport.
        ends_lines_with_lf: whether the server ends its lines with a bare LF
            (`smtpconn.protocol.quirks.BARE_LF`).
    """

    def __init__(self) -> None:
        self.failure: SmtpError | None = None
        self.shutdown_reply: SmtpResponse | None = None
        self.ends_lines_with_lf = False
        self._parser = ReplyParser()
        # The group that was answered completely most recently.
        self._last: CommandGroup | None = None
        # Groups with missing replies, in the order sent.
        self._awaited: deque[CommandGroup] = deque()
        self.queued = 0
        self._sent = 0

    @property
    def is_reusable(self) -> bool:
        """Whether the next command's reply would be the next reply to come (rule 5)."""
        return self.failure is None and not self._awaited and self._parser.is_empty

    def begin_tls(self) -> None:
        """Forget how the server ends its lines, with all else that came without TLS (RFC 3207 4.2).

        Call it only while the connection `is_reusable`.
        """
        self._parser = ReplyParser(begins_with_greeting=False)
        self.ends_lines_with_lf = False

    @property
    def phase(self) -> Phase:
        """The phase of the piece that the next reply answers; IDLE if no reply is awaited."""
        if not self._awaited:
            return Phase.IDLE
        piece, _ = self._awaited[0].unanswered()
        return piece.phase

    def mark_possibly_delivered(self, *, is_interrupted: bool = False) -> bool:
        """Mark the groups with messages that were sent completely and have no final reply.

        Args:
            is_interrupted: whether an exception of other code may have been raised between a
                system call and the record of its result; then all data given to the transport
                counts as sent.

        Returns whether there are any.
        """
        is_any = False
        left = self.queued if is_interrupted else self._sent
        for group in self._awaited:
            if is_interrupted:
                group.recount_missing()
            for piece, end in map(group.unanswered, range(group.missing)):
                if piece.ends_message and end <= left:
                    group.may_have_been_delivered = is_any = True
        return is_any

    def expect(self, groups: Iterable[CommandGroup], unsent: int) -> None:
        """Note that groups are about to be written, one behind the other.

        Args:
            groups: those that the replies answer; of one whose bytes are not joined the driver sets
                ``ends_at`` afterwards.
            unsent: bytes of earlier groups that have not been handed to the transport yet.
        """
        at = self.queued + unsent
        for group in groups:
            group.begins_at, wire = at, group.wire
            if wire is not None:
                group.ends_at = at = at + len(wire)
            if group.missing:
                self._awaited.append(group)

    def note_sent(self, number: int) -> None:
        """Note that the transport has written ``number`` bytes."""
        self._sent += number

    def received(self, data: bytes) -> None:
        """Match the replies in ``data``; sets ``failure`` instead of raising (rule 4)."""
        if self.failure is not None:
            return
        replies = self._parser.simple_replies(data)
        if replies is None:
            awaited = self._awaited
            self._pair_each(
                self._parser.replies_in(
                    data,
                    is_last=len(awaited) == 1 and awaited[0].missing == 1,
                    may_mix=self.phase in _MAY_MIX,
                )
            )
            return
        # The usual case: replies to groups that have been sent completely.
        awaited, sent = self._awaited, self._sent
        matched, count = 0, len(replies)
        while matched < count and awaited and (group := awaited[0]).ends_at <= sent:
            end = matched + group.missing
            group.replies += replies[matched:end]
            if end > count:
                group.missing = end - count
                return
            group.missing = 0
            self._last = awaited.popleft()
            matched = end
        if matched < count:
            self._pair_each(replies[matched:])

    def _pair_each(self, replies: Iterable[SmtpResponse]) -> None:
        awaited = self._awaited
        try:
            for reply in replies:
                if (
                    not awaited
                    or reply.code == SHUTTING_DOWN
                    or not self._is_next_piece_sent(awaited[0])
                ):
                    self._fail_with(reply)
                    break
                if self._parser.is_over:
                    self.failure = refusal(reply, self.phase)
                elif self._parser.has_lone_lf and self._may_repeat_text(reply):
                    self.failure = ConnectionClosedError(
                        "the server ended a reply with a bare LF, and more of it may come",
                        phase=Phase.IDLE,
                    )
                self._assign_reply(reply)
        except ParseError as error:
            error.phase = self.phase
            self.failure = copy.copy(error)  # a copy has no traceback
        finally:
            # Here and not in `received`: a line that ends with a bare LF is no simple reply.
            self.ends_lines_with_lf = self._parser.takes_lf is True

    def error(self) -> SmtpError:
        """A copy of `failure`, to be raised.

        A raised exception refers to the frames that it passes through, which may hold the
        connection or its lease, and `failure` lives as long as the connection.
        """
        assert self.failure is not None
        return copy.copy(self.failure)

    def is_sent(self, group: CommandGroup) -> bool:
        """Whether the transport has written all of a group."""
        return group.ends_at <= self._sent

    def _is_next_piece_sent(self, group: CommandGroup) -> bool:
        """Whether the piece that the next reply answers has been sent completely."""
        if group.ends_at <= self._sent:
            return True
        _, end = group.unanswered()
        return end <= self._sent

    def _may_repeat_text(self, reply: SmtpResponse) -> bool:
        """Whether a reply may hold text that others have written (rule 6)."""
        is_refusal = reply.is_transient or reply.is_permanent
        return self.phase in _REPEATS_TEXT or (is_refusal and self.phase in _REFUSAL_REPEATS_TEXT)

    def _fail_with(self, reply: SmtpResponse) -> None:
        """Process a reply after which no further one is matched."""
        if reply.code == SHUTTING_DOWN:
            self._handle_shutdown(reply)
        elif not self._awaited:
            self.failure = self._unsolicited(reply)
        else:
            self._handle_early_reply(reply)

    def _unsolicited(self, reply: SmtpResponse) -> SmtpError:
        """The error for a reply that no command awaits.

        A refusal announces that the server closes the connection
        (`smtpconn.protocol.quirks.IDLE_FAREWELL`), but not after content that was sent with its
        envelope: there it may be that message's reply, and each earlier reply may have been matched
        with the wrong command.
        """
        is_refusal = reply.is_transient or reply.is_permanent
        if is_refusal and not (self._last is not None and self._last.is_eager):
            return _closed_by(reply, Phase.IDLE)
        text = f"the server sent a reply that nothing asked for: {reply}"
        return ProtocolError(text, phase=Phase.IDLE)

    def settle(self) -> None:
        """Note that an operation has ended and all its replies came."""
        self._last = None

    def _handle_shutdown(self, reply: SmtpResponse) -> None:
        self.shutdown_reply = reply
        if not self._awaited or (is_shutdown_notice(reply) and self._is_about_sent_message()):
            self.failure = _closed_by(reply, self.phase)
        else:
            self.failure = refusal(reply, self.phase)
            self._assign_reply(reply)

    def _is_about_sent_message(self) -> bool:
        """Whether the next awaited reply is the final one to a message that was sent completely."""
        group = self._awaited[0]
        piece, end = group.unanswered()
        return piece.ends_message and end <= self._sent

    def _handle_early_reply(self, reply: SmtpResponse) -> None:
        if self.phase is Phase.CONTENT and (reply.is_transient or reply.is_permanent):
            self.failure = refusal(reply, self.phase)
            self._assign_reply(reply)
        else:
            # A server that acknowledges a message before its end may have stored the part it has.
            self.failure = ProtocolError(
                f"the server answered before {self.phase} was sent: {reply}",
                phase=self.phase,
                may_have_been_delivered=self.phase is Phase.CONTENT and reply.is_success,
            )

    def _assign_reply(self, reply: SmtpResponse) -> None:
        group = self._awaited[0]
        group.replies.append(reply)
        group.missing -= 1
        if not group.missing:
            self._last = self._awaited.popleft()


def _closed_by(reply: SmtpResponse, phase: Phase) -> ConnectionClosedError:
    return ConnectionClosedError(f"the server is closing the connection: {reply}", phase=phase)
