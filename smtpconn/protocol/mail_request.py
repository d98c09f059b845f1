"""A checked message with its envelope, and the commands of the envelope.

Rule: every mistake that can be found without asking the server is found here, before the first byte
is sent. `make_request` checks bytes with their envelope, `make_message_request` a message of the
email package, `request_of` an `Envelope` of either. Both kinds of request have `for_server`, which
returns the request for one server: the bytes of a message depend on the extensions that the server
offers. `envelope_commands` checks a request against these extensions. Nothing is sent here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, TypeVar, cast

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.content import NOT_SEVEN_BIT, Content, Message
from smtpconn.model.email_message import (
    AnyMessage,
    completed,
    is_message,
    needs_utf8_fields,
    recipients_of,
    sender_of,
    serialize,
)
from smtpconn.model.errors import (
    Phase,
    ProtocolError,
    SmtpError,
    SmtpUtf8RequiredError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.model.origin import is_of_signal_handler, is_own
from smtpconn.model.parameters import (
    NO_MAIL_PARAMS,
    BodyType,
    MailFromParams,
    RcptToParams,
    mail_parameters,
    rcpt_parameters,
)
from smtpconn.model.results import Envelope, LmtpSendResult, Recipients, SendResult
from smtpconn.protocol.command import Command, cached_command
from smtpconn.protocol.session import SessionState

# Cached: applications send from few addresses and often to the same ones.
_reverse_path = functools.lru_cache(maxsize=256)(ReversePath)
_forward_path = functools.lru_cache(maxsize=1024)(ForwardPath)

_LISTS = (list, tuple)
_ONE = (str, ForwardPath)
_NO_LIST = (Mapping, bytes, bytearray, memoryview)
_mail = cached_command(Phase.MAIL)
_rcpt = cached_command(Phase.RCPT)

Path = TypeVar("Path")

Outcome: TypeAlias = SendResult | LmtpSendResult | SmtpError
"""What became of a message."""


class Attempt(Protocol):
    """A transaction that was begun for a request; its outcome can be asked for at any time."""

    def outcome(self, cause: BaseException) -> Outcome:
        """The outcome of the message after ``cause`` has interrupted the exchange."""


@dataclass(eq=False, init=False)
class MailRequest:
    """A valid message and envelope, not yet checked against the extensions a server offers.

    Attributes:
        rcpt_params: those of each recipient; empty if none has any.
        mail_words, rcpt_words: ESMTP parameters as text, for MAIL and for each RCPT, sent
            unchanged: "", or words that each have a space before them.
        needs_smtputf8: whether an address is not ASCII, or SMTPUTF8 was asked for.
        is_binary: whether BODY=BINARYMIME was asked for.
        attempt: the last transaction that was begun for it; None before.
    """

    sender: ReversePath
    recipients: tuple[ForwardPath, ...]
    content: Content
    mail_params: MailFromParams
    rcpt_params: tuple[RcptToParams, ...] = ()
    mail_words: str = ""
    rcpt_words: str = ""
    needs_smtputf8: bool = field(init=False)
    is_binary: bool = field(init=False)
    attempt: Attempt | None = field(init=False, repr=False, default=None)

    # Written by hand for speed, because one is made for every message.
    def __init__(
        self,
        sender: ReversePath,
        recipients: tuple[ForwardPath, ...],
        content: Content,
        mail_params: MailFromParams,
        rcpt_params: tuple[RcptToParams, ...] = (),
        mail_words: str = "",
        rcpt_words: str = "",
    ) -> None:
        self.sender = sender
        self.recipients = recipients
        self.content = content
        self.mail_params = mail_params
        self.rcpt_params = rcpt_params
        self.mail_words = mail_words
        self.rcpt_words = rcpt_words
        self.needs_smtputf8 = mail_params.smtputf8 or not sender.is_ascii
        for path in recipients:
            if not path.is_ascii:
                self.needs_smtputf8 = True
        body = mail_params.body
        self.is_binary = body is BodyType.BINARYMIME
        if body is BodyType.SEVENBIT:
            content.is_declared_7bit = True

    def for_server(self, capabilities: ServerCapabilities) -> MailRequest:
        """Return this request: its bytes are the same for every server."""
        return self


@dataclass(slots=True, eq=False)
class MessageRequest:
    """The same for a message of the email package, whose bytes depend on the server.

    Attributes:
        paths: a request for the same envelope without the message.
        message: a copy that is ours, with all its fields.
        made: the request that was made last for a server; None before.
    """

    paths: MailRequest
    message: AnyMessage
    made: MailRequest | None = field(init=False, default=None, repr=False)

    @property
    def attempt(self) -> Attempt | None:
        """The last transaction that was begun for it; None before."""
        return None if self.made is None else self.made.attempt

    def for_server(self, capabilities: ServerCapabilities) -> MailRequest:
        """The request for a server with these capabilities.

        Header fields keep UTF-8 where that is necessary and the server offers SMTPUTF8; bodies keep
        8-bit data if it offers 8BITMIME.

        Raises:
            ValidationError, SmtpUtf8RequiredError: as `smtpconn.model.email_message.serialize`.
        """
        paths = self.paths
        params = paths.mail_params
        utf8 = paths.needs_smtputf8 and capabilities.supports_smtputf8
        if (
            not utf8
            and capabilities.supports_smtputf8
            and capabilities.supports_8bitmime
            and needs_utf8_fields(self.message)
        ):
            utf8, params = True, replace(params, smtputf8=True)
        data = serialize(self.message, capabilities, smtputf8=utf8)
        content = Content(data)
        if params.body is not BodyType.BINARYMIME:
            content.refuse_nul()
        self.made = MailRequest(paths.sender, paths.recipients, content, params, paths.rcpt_params)
        return self.made


def make_request(
    sender: str | ReversePath,
    recipients: Recipients,
    message: Message | Content,
    mail_params: MailFromParams | None = None,
    rcpt_params: Sequence[RcptToParams] | None = None,
    *,
    needs_recipient: bool = True,
) -> MailRequest:
    """Check a caller's arguments; ``needs_recipient=False`` if it may have no recipient.

    Raises:
        ValidationError: an address that may not be sent, no recipient, parameters of another type,
            a message that is not bytes, or contains a NUL and is not BINARYMIME.
        ProtocolError: ``rcpt_params`` has another length than ``recipients``.
    """
    given = recipients if isinstance(recipients, _LISTS) else _listed(recipients)
    if not given and needs_recipient:
        raise ValidationError("there is no recipient")
    if rcpt_params is not None:
        _check_rcpt_params(rcpt_params, len(given))
    params = NO_MAIL_PARAMS if mail_params is None else mail_params
    if not isinstance(params, MailFromParams):
        raise ValidationError(f"mail_params are MailFromParams(...), not a {_type(params)}")
    from_ = _reverse_path(sender) if isinstance(sender, str) else _checked(sender, ReversePath)
    to: list[ForwardPath] = []
    for each in given:
        to.append(_forward_path(each) if isinstance(each, str) else _checked(each, ForwardPath))
    content = message if isinstance(message, Content) else Content(message)
    if params.body is not BodyType.BINARYMIME:
        content.refuse_nul()
    return MailRequest(
        from_,
        tuple(to),
        content,
        params,
        tuple(rcpt_params) if rcpt_params is not None else (),
    )


def make_message_request(
    message: AnyMessage,
    sender: str | ReversePath | None = None,
    recipients: Recipients | None = None,
    mail_params: MailFromParams | None = None,
    rcpt_params: Sequence[RcptToParams] | None = None,
) -> MessageRequest:
    """Check a message of the email package and its envelope; the message stays as it is.

    A missing Date and Message-ID are made here, so that they are the same at every attempt.

    Args:
        message: a message of the email package.
        sender, recipients: None for those the header fields name.
        mail_params, rcpt_params: as for `make_request`.

    Raises:
        ValidationError: it is no such message, or as `make_request`.
        ProtocolError: as `make_request`.
    """
    if not is_message(message):
        raise ValidationError(
            f"send_message takes an email.message.EmailMessage, not {type(message).__name__}; "
            f"send takes bytes"
        )
    paths = make_request(
        sender_of(message) if sender is None else sender,
        recipients_of(message) if recipients is None else recipients,
        b"",
        mail_params,
        rcpt_params,
    )
    return MessageRequest(paths, completed(message, paths.sender))


def request_of(envelope: Envelope) -> MailRequest | MessageRequest:
    """Check an envelope with a message of any kind.

    Raises:
        As `make_request` and `make_message_request`.
    """
    message = envelope.message
    content: Message | Content
    if isinstance(message, bytes):
        content = message
    elif is_message(message):
        return make_message_request(
            message,
            envelope.sender,
            envelope.recipients,
            envelope.mail_params,
            envelope.rcpt_params,
        )
    else:
        content = _first_block(cast("Message", message))
    return make_request(
        envelope.sender,
        envelope.recipients,
        content,
        envelope.mail_params,
        envelope.rcpt_params,
    )


def _first_block(message: Message) -> Content:
    """The content of a message whose first block is read now.

    Raises:
        ValidationError: its file or iterable failed, or it is no message.
    """
    try:
        return Content(message)
    except Exception as error:
        if is_of_signal_handler(error) or (isinstance(error, SmtpError) and is_own(error)):
            raise
        raise unreadable(error) from error


def unreadable(error: Exception) -> SmtpError:
    """The outcome of a message whose own file or iterable failed while it was read.

    It was certainly not delivered, because its end was never sent.
    """
    named = ValidationError(f"the message could not be read: {type(error).__name__}: {error}")
    named.__cause__ = error
    return named


def check_items(items: object) -> None:
    """Check the argument of ``send_many`` before an item is taken from it.

    Raises:
        TypeError: a single envelope or message, whose items are something else; or text.
    """
    if isinstance(items, (Envelope, str, bytes, bytearray)) or is_message(items):
        raise TypeError(
            f"send_many takes a list, or another iterable, of Envelopes and messages of the email "
            f"package, not one {_type(items)}"
        )


def check_item(item: object) -> None:
    """Check an item of the iterable given to ``send_many``.

    Raises:
        TypeError: it is neither an envelope nor a message of the email package.
    """
    if not isinstance(item, Envelope) and not is_message(item):
        raise TypeError(
            f"send_many takes Envelopes and messages of the email package, not "
            f"{type(item).__name__}"
        )


def _listed(recipients: Recipients) -> Sequence[str | ForwardPath]:
    if isinstance(recipients, _ONE):
        return (recipients,)
    # Of a mapping only the keys would be taken; of bytes, numbers.
    if not isinstance(recipients, Iterable) or isinstance(recipients, _NO_LIST):
        raise ValidationError(
            f"recipients are an address or several, not {type(recipients).__name__}"
        )
    return tuple(recipients)


def _check_rcpt_params(rcpt_params: Sequence[RcptToParams], count: int) -> None:
    """Check the parameters of ``count`` recipients; errors as `make_request`."""
    if not isinstance(rcpt_params, Sequence):
        raise ValidationError(
            f"rcpt_params are a list, with RcptToParams(...) for each recipient, not a "
            f"{_type(rcpt_params)}"
        )
    if len(rcpt_params) != count:
        raise ProtocolError(
            f"there are {count} recipients and {len(rcpt_params)} parameters for them",
            phase=Phase.INPUT,
        )
    for each in rcpt_params:
        if not isinstance(each, RcptToParams):
            raise ValidationError(
                f"rcpt_params are a list of RcptToParams(...), and a {_type(each)} is in it"
            )


def _type(value: object) -> str:
    return type(value).__name__


def _checked(path: Path, kind: type[Path]) -> Path:
    if not isinstance(path, kind):
        null = ' ("" for the null reverse-path)' if path is None and kind is ReversePath else ""
        raise ValidationError(f"an address is a str or a {kind.__name__}{null}: {path!r:.80}")
    return path


def envelope_commands(
    session: SessionState, request: MailRequest, *, chunking: bool
) -> list[Command]:
    """MAIL and the RCPTs, checked against what the server offers.

    Raises:
        UnsupportedExtensionError, SmtpUtf8RequiredError: the server lacks an extension that the
            message needs.
        ValidationError, ProtocolError: the request exceeds a limit of the server.
    """
    offers = session.capabilities
    if chunking and not offers.supports_chunking:
        raise UnsupportedExtensionError(
            "BDAT needs the extension CHUNKING, which the server does not offer", phase=Phase.MAIL
        )
    if offers.has_limits:
        _check_limits(session, request)
    utf8 = request.needs_smtputf8
    if utf8 and not offers.supports_smtputf8:
        request = _without_utf8_domains(request)
        utf8 = False
    content = request.content
    body = request.mail_params.body
    if body is not None or content.is_8bit is not False:
        body = _body(request, offers.supports_8bitmime, chunking)
    parameters = mail_parameters(
        request.mail_params,
        offers,
        content.binary_size if request.is_binary else content.size,
        body,
        utf8,
    )
    commands = [_mail(f"MAIL FROM:<{request.sender.text}>{parameters}{request.mail_words}")]
    words = request.rcpt_words
    if not request.rcpt_params:
        for path in request.recipients:
            commands.append(_rcpt(f"RCPT TO:<{path.text}>{words}"))
        return commands
    for path, params in zip(request.recipients, request.rcpt_params, strict=True):
        parameters = rcpt_parameters(params, offers, smtputf8=utf8)
        commands.append(_rcpt(f"RCPT TO:<{path.text}>{parameters}{words}"))
    return commands


def _check_limits(session: SessionState, request: MailRequest) -> None:
    """Check a request against the limits that the server announced (LIMITS, RFC 9422)."""
    recipients = session.capabilities.max_recipients
    if recipients is not None and len(request.recipients) > recipients:
        raise ValidationError(
            f"there are {len(request.recipients)} recipients and the server takes {recipients} "
            f"per message: send to them in groups",
            phase=Phase.RCPT,
        )
    transactions = session.capabilities.max_transactions
    if transactions is not None and session.transactions >= transactions:
        raise ProtocolError(
            f"the server takes {transactions} messages on a connection: connect anew",
            phase=Phase.MAIL,
        )


def _without_utf8_domains(request: MailRequest) -> MailRequest:
    """The same with domains in A-labels, for a server that does not offer SMTPUTF8.

    Raises:
        SmtpUtf8RequiredError: A-labels do not suffice: SMTPUTF8 was asked for, or a local part,
            which has no other form, is not ASCII.
    """

    def needs_it(path: ReversePath | ForwardPath) -> bool:
        mailbox = path.mailbox
        return mailbox is not None and mailbox.local_part.isascii() and not mailbox.domain.is_ascii

    sender = request.sender.to_ascii() if needs_it(request.sender) else request.sender
    recipients = tuple(r.to_ascii() if needs_it(r) else r for r in request.recipients)
    ascii_request = replace(request, sender=sender, recipients=recipients)
    if ascii_request.needs_smtputf8:
        paths: tuple[ReversePath | ForwardPath, ...] = (sender, *recipients)
        not_ascii = next((path.text for path in paths if not path.is_ascii), None)
        why = "it was asked for" if not_ascii is None else f"{not_ascii!r:.80} is not ASCII"
        raise SmtpUtf8RequiredError(
            f"the server does not offer SMTPUTF8, and {why}", phase=Phase.MAIL
        )
    return ascii_request


def _body(request: MailRequest, offers_8bitmime: bool, chunking: bool) -> BodyType | None:
    """The BODY to declare (RFC 6152 2)."""
    body = request.mail_params.body
    if request.is_binary:
        if chunking:
            return body
        raise ProtocolError("BINARYMIME needs BDAT: use send_bdat (RFC 3030 3)", phase=Phase.MAIL)
    is_8bit = request.content.is_8bit
    if body is BodyType.SEVENBIT and is_8bit:
        raise ValidationError(NOT_SEVEN_BIT)
    if body is not None or is_8bit is False:
        return body
    if offers_8bitmime:
        # Also for a stream: declaring 8BITMIME for a message that turns out to be ASCII is legal.
        return BodyType.EIGHTBITMIME
    if is_8bit:
        raise UnsupportedExtensionError(
            "the message holds bytes above 127 and the server does not offer 8BITMIME: "
            "encode it as quoted-printable or base64",
            phase=Phase.MAIL,
        )
    return None
