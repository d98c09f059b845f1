"""The errors that hold a server's reply.

    ResponseError(smtplib.SMTPResponseException)         the server refused: .response
      TransientError                                     4xx: try again later
      PermanentError                                     5xx: do not try again
      AuthError(smtplib.SMTPAuthenticationError)         the login was refused
    AllRecipientsFailedError(smtplib.SMTPRecipientsRefused)

A refusal is also the error that `smtplib` raises in its phase (`_STDLIB_BY_PHASE`), with the
attributes of that class. These errors are not in `smtpconn.model.errors`, because they need
`smtpconn.model.results`, which imports it.
"""

from __future__ import annotations

import re
import smtplib
from collections.abc import Mapping, Sequence
from typing import cast

from smtpconn.model.addresses import ForwardPath
from smtpconn.model.errors import (
    ConnectionClosedError,
    Phase,
    ProtocolError,
    SmtpError,
    TransportError,
    ValidationError,
    make_variants,
)
from smtpconn.model.replies import SHUTTING_DOWN, EnhancedStatusCode, SmtpResponse
from smtpconn.model.results import RejectedRecipient

# Postfix and Exim may refuse the client's EHLO name as late as at RCPT, and mention it.
_EHLO_NAME = re.compile(r"\b(?:ehlo|helo|lhlo)\b", re.IGNORECASE)

_STDLIB_BY_PHASE: dict[Phase, type[smtplib.SMTPException]] = {
    Phase.CONNECT: smtplib.SMTPConnectError,
    Phase.GREETING: smtplib.SMTPConnectError,
    Phase.EHLO: smtplib.SMTPHeloError,
    Phase.MAIL: smtplib.SMTPSenderRefused,
    Phase.RCPT: smtplib.SMTPRecipientsRefused,
    Phase.DATA: smtplib.SMTPDataError,
    Phase.CONTENT: smtplib.SMTPDataError,
}


class ResponseError(SmtpError, smtplib.SMTPResponseException):
    """The server answered with a failure.

    Args:
        response: the reply; or the text of an error that is rebuilt from its ``args``.
        facts: the second item of those ``args``.
        phase: what the server refused.
        details: more text from the server, added to the error's text.
        note: smtpconn's explanation, added to the error's text.

    Attributes:
        response: the complete reply; its code is 0 if the error was rebuilt from a text alone.
        smtp_code, smtp_error: the code and the bytes of the text, as ``smtplib`` has them.
        sender: the refused sender, as ``smtplib.SMTPSenderRefused`` has it; "" in other phases.
        recipients: the recipients refused so far, as ``smtplib.SMTPRecipientsRefused`` has them,
            for a 421 at RCPT, by the caller's text; empty in other phases.
    """

    _leaves_delivery_open = False

    def __init__(
        self,
        response: SmtpResponse | str,
        facts: object = None,
        *,
        phase: Phase | None = None,
        details: str = "",
        note: str = "",
    ) -> None:
        self.sender = ""
        self.recipients: dict[str, tuple[int, bytes]] = {}
        if isinstance(response, SmtpResponse):
            phase = self.phase if phase is None else phase
            self._take_response(response)
            self.is_transient = response.is_transient
            more = f" ({details!r:.500})" if details else ""
            more += f" ({note})" if note else ""
            text = f"the server refused {phase}: {response}{more}{_starttls_hint(response)}"
            super().__init__(text, phase=phase)
        else:
            self._take_response(SmtpResponse(0, (str(response),)))
            super().__init__(response, facts, phase=phase)

    def _stdlib_class(self) -> type[Exception] | None:
        return _STDLIB_BY_PHASE.get(self.phase)

    def _take_response(self, response: SmtpResponse) -> None:
        self.response = response
        self.smtp_code = response.code
        self.smtp_error = _text(response)

    def _facts(self) -> dict[str, object]:
        facts = super()._facts() | {"reply": _reply_facts(self.response)}
        if self.sender:
            facts["sender"] = self.sender
        if self.recipients:
            facts["recipients"] = {
                address: [code, text.decode("utf-8", "surrogateescape")]
                for address, (code, text) in self.recipients.items()
            }
        return facts

    def _state_from(self, facts: Mapping[str, object]) -> dict[str, object]:
        state = super()._state_from(facts)
        response = _reply_from(facts["reply"])
        recipients = cast("Mapping[str, tuple[int, str]]", facts.get("recipients", {}))
        return state | {
            "response": response,
            "smtp_code": response.code,
            "smtp_error": _text(response),
            "sender": str(facts.get("sender", "")),
            "recipients": {
                address: (int(code), text.encode("utf-8", "surrogateescape"))
                for address, (code, text) in recipients.items()
            },
        }


class TransientError(ResponseError):
    """A 4xx reply: the same message may be accepted later (RFC 5321 4.2.1)."""

    is_transient = True


class PermanentError(ResponseError):
    """A 5xx reply: the same message will be refused again (RFC 5321 4.2.1)."""


class AuthError(ResponseError, smtplib.SMTPAuthenticationError):
    """The server refused the credentials; ``is_transient`` is True for a 454 (RFC 4954 6).

    Attributes:
        server_error: the server's description of what is wrong with a token, usually JSON
            (RFC 7628 3.2.2); "" for mechanisms without one.
        because: why the client cancelled the login, or what the reply means; "" if it needs no
            explanation.
        tried: if several mechanisms were considered, a line for each, in order: its name, and the
            reply to it or why it was not tried.
    """

    phase = Phase.AUTH

    def __init__(
        self,
        response: SmtpResponse | str,
        facts: object = None,
        *,
        phase: Phase | None = None,
        server_error: str = "",
        because: str = "",
        tried: Sequence[str] = (),
    ) -> None:
        self.server_error = server_error
        self.because = because
        self.tried = tuple(tried)
        notes = [because] if because else []
        notes += [f"tried {'; '.join(self.tried)}"] if tried else []
        note = "; ".join(notes)
        super().__init__(response, facts, phase=phase, details=server_error, note=note)

    def _stdlib_class(self) -> type[Exception] | None:
        return None

    def _facts(self) -> dict[str, object]:
        return super()._facts() | {
            "server_error": self.server_error,
            "because": self.because,
            "tried": list(self.tried),
        }

    def _state_from(self, facts: Mapping[str, object]) -> dict[str, object]:
        tried = cast("Sequence[object]", facts.get("tried", ()))
        return super()._state_from(facts) | {
            "server_error": str(facts["server_error"]),
            "because": str(facts.get("because", "")),
            "tried": tuple(map(str, tried)),
        }


class AllRecipientsFailedError(SmtpError, smtplib.SMTPRecipientsRefused):
    """Every recipient was refused, so nothing was sent. Transient only if all refusals are.

    Args:
        rejected_recipients: each with its reply; or the text of an error that is rebuilt from its
            ``args``.
        facts: the second item of those ``args``.

    Attributes:
        rejected_recipients: each refused recipient with the reply it got, in the order given.
        recipients: the same as ``smtplib`` has it: address -> (code, text), where the address is
            the caller's text.
    """

    phase = Phase.RCPT
    _leaves_delivery_open = False

    def __init__(
        self,
        rejected_recipients: Sequence[RejectedRecipient] | str = (),
        facts: object = None,
    ) -> None:
        if isinstance(rejected_recipients, str):
            self._take_rejected(())
            super().__init__(rejected_recipients, facts)
            return
        rejected = tuple(rejected_recipients)
        self._take_rejected(rejected)
        self.is_transient = bool(rejected) and all(r.is_transient for r in rejected)
        first = f"{rejected[0].recipient}: {rejected[0].response}" if rejected else "none given"
        message = f"all {len(rejected)} recipients were refused, the first is {first}"
        if len(rejected) == 1:
            message = f"the only recipient was refused: {first}"
        super().__init__(message, phase=Phase.RCPT)

    @property
    def count(self) -> int:
        """How many recipients were refused."""
        return len(self.rejected_recipients)

    @property
    def responses(self) -> tuple[SmtpResponse, ...]:
        """The replies, one per recipient in the order given."""
        return tuple(r.response for r in self.rejected_recipients)

    def _take_rejected(self, rejected: tuple[RejectedRecipient, ...]) -> None:
        self.rejected_recipients = rejected
        self.recipients = _recipients_dict(rejected)

    def _facts(self) -> dict[str, object]:
        rejected = [
            [r.recipient.written, _reply_facts(r.response)] for r in self.rejected_recipients
        ]
        return super()._facts() | {"rejected_recipients": rejected}

    def _state_from(self, facts: Mapping[str, object]) -> dict[str, object]:
        state = super()._state_from(facts)
        given = cast("Sequence[tuple[str, object]]", facts["rejected_recipients"])
        replies = [(str(recipient), _reply_from(reply)) for recipient, reply in given]
        return state | {
            "rejected_recipients": tuple(
                RejectedRecipient(ForwardPath(text), reply)
                for text, reply in replies
                if _is_path(text)
            ),
            "recipients": {text: (reply.code, _text(reply)) for text, reply in replies},
        }


def refusal(response: SmtpResponse, phase: Phase) -> SmtpError:
    """The error for a reply that is not the success that the RFC defines for ``phase``.

    A reply that is neither success nor refusal (a 354 to MAIL, a 250 to STARTTLS) means that client
    and server are out of sync, which no later reply can repair: that is a `ProtocolError`.
    """
    if response.is_transient:
        return TransientError(response, phase=phase)
    if response.is_permanent:
        return PermanentError(response, phase=phase)
    return ProtocolError(f"a reply that makes no sense for {phase}: {response}", phase=phase)


def explain(
    error: SmtpError,
    *,
    ehlo_domain: str,
    sender: str = "",
    rejected: Sequence[RejectedRecipient] = (),
) -> None:
    """Add details of the envelope and the session to a refusal.

    Args:
        error: any error; one that is neither a refusal nor a lost connection is not changed.
        ehlo_domain: the client's EHLO name, for a refusal that is about it.
        sender: the sender of the message, for a refusal of MAIL.
        rejected: the recipients refused so far, for a 421 at RCPT and a lost connection.
    """
    if isinstance(error, ResponseError):
        about = error.response
        if error.phase is Phase.MAIL:
            error.sender = sender
        elif error.phase is Phase.RCPT:
            error.recipients = _recipients_dict(rejected)
    elif isinstance(error, AllRecipientsFailedError) and error.rejected_recipients:
        about = error.rejected_recipients[0].response
    elif isinstance(error, ConnectionClosedError | TransportError) and rejected:
        first = rejected[0]
        error._text += f"; before that it refused {first.recipient}: {first.response}"
        return
    else:
        return
    is_about_the_name = any(map(_EHLO_NAME.search, about.lines))
    if error.phase is Phase.EHLO:
        is_about_the_name = about.code != SHUTTING_DOWN
    if is_about_the_name:
        error._text += f" (our EHLO name is {ehlo_domain}; set another with ehlo_domain=)"


def _text(response: SmtpResponse) -> bytes:
    """A reply's text as smtplib has it: the bytes the server sent."""
    return "\n".join(response.lines).encode("utf-8", "surrogateescape")


def _recipients_dict(rejected: Sequence[RejectedRecipient]) -> dict[str, tuple[int, bytes]]:
    return {r.recipient.written: (r.response.code, _text(r.response)) for r in rejected}


def _is_path(recipient: str) -> bool:
    """Whether it is a forward-path; some adapters also send to names without a domain."""
    try:
        ForwardPath(recipient)
    except ValidationError:
        return False
    return True


def _reply_facts(response: SmtpResponse) -> list[object]:
    status = response.enhanced_status
    return [response.code, list(response.lines), None if status is None else str(status)]


def _reply_from(facts: object) -> SmtpResponse:
    code, lines, status = cast("tuple[int, Sequence[str], str | None]", facts)
    return SmtpResponse(
        int(code),
        tuple(map(str, lines)),
        None if status is None else EnhancedStatusCode.from_text(status),
    )


_STDLIB_BY_WORD = {
    "Connect": smtplib.SMTPConnectError,
    "Helo": smtplib.SMTPHeloError,
    "Sender": smtplib.SMTPSenderRefused,
    "Recipients": smtplib.SMTPRecipientsRefused,
    "Data": smtplib.SMTPDataError,
}
make_variants(ResponseError, **_STDLIB_BY_WORD)
make_variants(TransientError, **_STDLIB_BY_WORD)
make_variants(PermanentError, **_STDLIB_BY_WORD)
make_variants(AuthError)
make_variants(AllRecipientsFailedError)


def _starttls_hint(response: SmtpResponse) -> str:
    """What to try if the server requires TLS first (RFC 3207 4: 530; RFC 4954 6: 538)."""
    wants_tls = response.code == 538 or (
        response.code == 530 and any("TLS" in line.upper() for line in response.lines)
    )
    return "; try TlsMode.STARTTLS, in a URL smtp+starttls://" if wants_tls else ""
