"""Every error smtpconn raises, and what each one lets you decide.

    SmtpError(smtplib.SMTPException)
    ├─ TransportError(ConnectionError)          the socket or TLS failed
    │  └─ TlsError
    ├─ ConnectionClosedError(smtplib.SMTPServerDisconnected, ConnectionError)
    ├─ SmtpTimeoutError(TimeoutError)           the operation's one deadline has passed
    ├─ ProtocolError                            misuse, or a reply that breaks the protocol
    │  └─ ParseError                            a reply that is not SMTP at all
    ├─ ResponseError(smtplib.SMTPResponseException)   the server said no: .response
    │  ├─ TransientError                        4xx: try again later
    │  ├─ PermanentError                        5xx: do not
    │  └─ AuthError(smtplib.SMTPAuthenticationError)
    ├─ AllRecipientsFailedError(smtplib.SMTPRecipientsRefused)
    ├─ StartTlsUnavailableError, SmtpUtf8RequiredError,
    │  UnsupportedExtensionError                (smtplib.SMTPNotSupportedError)
    ├─ PoolError
    │  ├─ PoolTimeoutError(TimeoutError)
    │  ├─ PoolOverloadedError
    │  └─ PoolClosedError
    └─ ValidationError(ValueError)              something that may not be sent was given

Rules of this file:

* Every error is also the class its users catch already (``smtplib``'s, ``OSError``,
  ``TimeoutError``, ``ValueError``), so code moves over without new ``except`` clauses.
* Every error answers three questions without parsing its text: ``phase`` (where), ``is_transient``
  (is it worth trying again later) and ``may_have_been_delivered`` (could the message have arrived;
  False means certainly not, so sending it again cannot make a duplicate).
* Every error pickles, because Celery and multiprocessing send errors between processes.
* No error ever holds a credential or a command line: only what the server said and what we know.
"""

from __future__ import annotations

import enum
import smtplib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from smtpconn.model.replies import SmtpResponse
    from smtpconn.model.results import RejectedRecipient


class Phase(enum.StrEnum):
    """What was under way when an error happened; ``str(phase)`` reads well in a log line."""

    CONNECT = "connect"
    TLS = "tls"
    GREETING = "greeting"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"
    RSET = "rset"
    NOOP = "noop"
    VRFY = "vrfy"
    EXPN = "expn"
    HELP = "help"
    QUIT = "quit"
    IDLE = "idle"
    POOL = "pool"
    INPUT = "input"


class SmtpError(smtplib.SMTPException):
    """The root of every error smtpconn raises.

    Attributes:
        phase: where it happened.
        is_transient: whether the same call may succeed later without anything being changed.
        may_have_been_delivered: False if the message was certainly not delivered, so that it is
            safe to send again; True if its last byte may have left without a final reply.
    """

    phase: Phase = Phase.INPUT
    is_transient: bool = False
    may_have_been_delivered: bool = False

    def __init__(
        self,
        message: str = "",
        *,
        phase: Phase | None = None,
        may_have_been_delivered: bool = False,
    ) -> None:
        # OSError.__init__ by name: the smtplib classes beside us in the tree take other arguments.
        OSError.__init__(self, message)
        if phase is not None:
            self.phase = phase
        if may_have_been_delivered:
            self.may_have_been_delivered = True

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[object, ...]:
        # Not by calling the constructor again: each class has its own, and __dict__ has it all.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[SmtpError], args: tuple[object, ...], state: dict[str, object]) -> SmtpError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class TransportError(SmtpError, ConnectionError):
    """The network failed: no route, refused, reset, no such host. Worth trying again later."""

    is_transient = True


class TlsError(TransportError):
    """The TLS handshake or session failed: untrusted certificate, wrong name, broken record."""

    is_transient = False


class ConnectionClosedError(SmtpError, smtplib.SMTPServerDisconnected, ConnectionError):
    """The connection is closed: by the server, by us, or because the server said 421."""

    is_transient = True


class SmtpTimeoutError(SmtpError, TimeoutError):
    """The operation's deadline has passed; unless it never began, the connection is closed."""

    is_transient = True


class ProtocolError(SmtpError):
    """A call that makes no sense here, or a reply that breaks the protocol."""


class ParseError(ProtocolError):
    """What the server sent is not an SMTP reply (RFC 5321 4.2), or exceeds the limits for one."""


class ResponseError(SmtpError, smtplib.SMTPResponseException):
    """The server answered with a failure.

    Attributes:
        response: its whole reply. ``smtp_code`` and ``smtp_error`` hold the same for code that
            knows ``smtplib``.
    """

    def __init__(self, response: SmtpResponse, *, phase: Phase, details: str = "") -> None:
        more = f" ({details!a:.500})" if details else ""
        hint = _starttls_hint(response)
        super().__init__(f"the server refused {phase}: {response}{more}{hint}", phase=phase)
        self.response = response
        self.smtp_code = response.code
        self.smtp_error = _text(response)
        self.is_transient = response.is_transient


class TransientError(ResponseError):
    """A 4xx reply: the same message may be accepted later (RFC 5321 4.2.1)."""


class PermanentError(ResponseError):
    """A 5xx reply: the same message will be refused again (RFC 5321 4.2.1)."""


class AuthError(ResponseError, smtplib.SMTPAuthenticationError):
    """The server refused the credentials; ``is_transient`` is True for a 454 (RFC 4954 6).

    Attributes:
        server_error: what the server said is wrong with a token, usually JSON (RFC 7628 3.2.2);
            "" where the mechanism has no such thing.
    """

    def __init__(
        self, response: SmtpResponse, *, phase: Phase = Phase.AUTH, server_error: str = ""
    ) -> None:
        super().__init__(response, phase=phase, details=server_error)
        self.server_error = server_error


class AllRecipientsFailedError(SmtpError, smtplib.SMTPRecipientsRefused):
    """Every recipient was refused, so nothing was sent. Transient only if all refusals are.

    Attributes:
        rejected_recipients: each refused recipient with the reply it got, in the order given.
        recipients: the same as ``smtplib`` has it: address -> (code, text).
    """

    def __init__(self, rejected_recipients: Sequence[RejectedRecipient]) -> None:
        rejected = tuple(rejected_recipients)
        first = f"{rejected[0].recipient}: {rejected[0].response}" if rejected else "none given"
        count = len(rejected)
        message = f"all {count} recipients were refused, the first is {first}"
        if count == 1:
            message = f"the only recipient was refused: {first}"
        super().__init__(message, phase=Phase.RCPT)
        self.rejected_recipients = rejected
        self.recipients = {str(r.recipient): (r.response.code, _text(r.response)) for r in rejected}
        self.is_transient = all(r.response.is_transient for r in rejected)

    @property
    def count(self) -> int:
        """How many recipients were refused."""
        return len(self.rejected_recipients)

    @property
    def responses(self) -> tuple[SmtpResponse, ...]:
        """The replies, one per recipient in the order given."""
        return tuple(r.response for r in self.rejected_recipients)


class StartTlsUnavailableError(SmtpError, smtplib.SMTPNotSupportedError):
    """STARTTLS was asked for and the server does not offer it; nothing was sent in clear."""

    phase = Phase.STARTTLS


class SmtpUtf8RequiredError(SmtpError, smtplib.SMTPNotSupportedError):
    """An address or argument is not ASCII and the server lacks SMTPUTF8 (RFC 6531)."""


class UnsupportedExtensionError(SmtpError, smtplib.SMTPNotSupportedError):
    """The call needs an extension the server did not advertise; nothing was sent."""


class PoolError(SmtpError):
    """The pool could not hand out a connection."""

    phase = Phase.POOL


class PoolTimeoutError(PoolError, TimeoutError):
    """No connection became free in time. The text says who holds them; see ``__cause__`` too."""

    is_transient = True


class PoolOverloadedError(PoolError):
    """``max_waiting`` callers wait already; failing at once is kinder than queueing more."""

    is_transient = True


class PoolClosedError(PoolError):
    """The pool was closed and hands out nothing any more."""


class ValidationError(SmtpError, ValueError):
    """An address, parameter, domain or message that may not be sent.

    It is found before a byte leaves, but for what a stream yields in its middle that is no bytes:
    then the connection is closed, and the message was certainly not delivered.
    """


def _text(response: SmtpResponse) -> bytes:
    """A reply's text as smtplib has it: the octets the server sent."""
    return "\n".join(response.lines).encode("utf-8", "surrogateescape")


def _starttls_hint(response: SmtpResponse) -> str:
    """What to try if the server wants TLS first (RFC 3207 4: 530; RFC 4954 6: 538)."""
    wants_tls = response.code == 538 or (
        response.code == 530 and any("TLS" in line.upper() for line in response.lines)
    )
    return "; try TlsMode.STARTTLS, in a URL smtp+starttls://" if wants_tls else ""


def refusal(response: SmtpResponse, phase: Phase) -> SmtpError:
    """The error for a reply that is not the success the RFC has for ``phase``.

    A reply that is neither success nor refusal (a 354 to MAIL, a 250 to STARTTLS) means that the
    dialogue is out of step, which no later reply can mend: that is a `ProtocolError`.
    """
    if response.is_transient:
        return TransientError(response, phase=phase)
    if response.is_permanent:
        return PermanentError(response, phase=phase)
    return ProtocolError(f"a reply that makes no sense for {phase}: {response}", phase=phase)
