"""ESMTP parameters of MAIL and RCPT: typed values, and their rendering (RFC 5321 4.1.2).

A value that exists can be sent: its constructor has checked everything that does not depend on the
server. `mail_parameters` and `rcpt_parameters` check the rest, whether the extension is offered and
within which limits, and render the text after the path. Free text is sent as xtext (RFC 3461 4), so
no argument can end its parameter and start another.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime

from smtpconn.model.addresses import Mailbox
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.errors import (
    Phase,
    SmtpUtf8RequiredError,
    UnsupportedExtensionError,
    ValidationError,
)
from smtpconn.model.pickling import reduce_enum, reduce_value


class BodyType(enum.StrEnum):
    """The BODY parameter (RFC 6152, RFC 3030 3)."""

    __reduce_ex__ = reduce_enum

    SEVENBIT = "7BIT"
    EIGHTBITMIME = "8BITMIME"
    BINARYMIME = "BINARYMIME"


class DsnRet(enum.StrEnum):
    """What a failure report returns: the whole message or its headers (RFC 3461 4.3)."""

    __reduce_ex__ = reduce_enum

    FULL = "FULL"
    HDRS = "HDRS"


class DsnNotify(enum.Flag):
    """When to report on a recipient (RFC 3461 4.1); combine with ``|``, except NEVER."""

    __reduce_ex__ = reduce_enum

    NEVER = enum.auto()
    SUCCESS = enum.auto()
    FAILURE = enum.auto()
    DELAY = enum.auto()


class DeliverByMode(enum.StrEnum):
    """What happens when the time is over: return the message, or only notify (RFC 2852 4)."""

    __reduce_ex__ = reduce_enum

    RETURN = "R"
    NOTIFY = "N"


@dataclass(frozen=True, slots=True)
class DeliverBy:
    """The BY parameter (RFC 2852 4): deliver in time, or say that it was not possible.

    Attributes:
        seconds: seconds from now; 0 or less is allowed with NOTIFY only.
        mode: what happens when the time is over.
        trace: ask for tracing, the ``T`` after the mode.

    Raises:
        ValidationError: more than nine digits, or RETURN with 0 seconds or less.
    """

    __reduce_ex__ = reduce_value

    seconds: int
    mode: DeliverByMode = DeliverByMode.NOTIFY
    trace: bool = False

    def __post_init__(self) -> None:
        _check_int("seconds", self.seconds, -999_999_999, 999_999_999)
        _check_type("mode", self.mode, DeliverByMode)
        _check_type("trace", self.trace, bool)
        if self.mode is DeliverByMode.RETURN and self.seconds <= 0:
            raise ValidationError("DeliverBy: RETURN needs a time above 0 (RFC 2852 4)")

    def __str__(self) -> str:
        return f"{self.seconds};{self.mode}{'T' if self.trace else ''}"


@dataclass(frozen=True, slots=True)
class MailFromParams:
    """Parameters of MAIL FROM; those left out are chosen by smtpconn or not sent.

    Attributes:
        body: BODY. None: 8BITMIME if the message needs it, else nothing.
        smtputf8: ask for SMTPUTF8 even if no address needs it, for headers that do (RFC 6531).
        size: SIZE in bytes. None: the size of the message if it is known (RFC 1870).
        ret, envid: DSN: what to return, and an identifier of up to 100 printable ASCII characters
            (RFC 3461 4.3, 4.4).
        auth: AUTH=, the mailbox that submitted the message; "" for ``<>`` (RFC 4954 5).
        deliver_by: DELIVERBY (RFC 2852).
        hold_for, hold_until: FUTURERELEASE, seconds or a moment with a time zone (RFC 4865).
        mt_priority: MT-PRIORITY, -9 to 9 (RFC 6710).
        require_tls: REQUIRETLS (RFC 8689).

    Raises:
        ValidationError: an invalid value.
    """

    __reduce_ex__ = reduce_value

    body: BodyType | None = None
    smtputf8: bool = False
    size: int | None = None
    ret: DsnRet | None = None
    envid: str | None = None
    auth: str | None = None
    deliver_by: DeliverBy | None = None
    hold_for: int | None = None
    hold_until: datetime | None = None
    mt_priority: int | None = None
    require_tls: bool = False

    def __post_init__(self) -> None:
        _check_type("smtputf8", self.smtputf8, bool)
        _check_type("require_tls", self.require_tls, bool)
        for name, kind in (
            ("body", BodyType),
            ("ret", DsnRet),
            ("envid", str),
            ("auth", str),
            ("deliver_by", DeliverBy),
            ("hold_until", datetime),
        ):
            if getattr(self, name) is not None:
                _check_type(name, getattr(self, name), kind)
        if self.size is not None:
            _check_int("size", self.size, 0, 10**20 - 1)
        if self.envid is not None:
            _check_printable("envid", self.envid, 100)
        if self.auth:
            Mailbox(self.auth)
        if self.hold_for is not None and self.hold_until is not None:
            raise ValidationError("hold_for and hold_until exclude each other (RFC 4865 4)")
        if self.hold_for is not None:
            _check_int("hold_for", self.hold_for, 1, 999_999_999)
        if self.hold_until is not None and self.hold_until.tzinfo is None:
            raise ValidationError("hold_until needs a time zone")
        if self.mt_priority is not None:
            _check_int("mt_priority", self.mt_priority, -9, 9)


@dataclass(frozen=True, slots=True)
class RcptToParams:
    """Parameters of one RCPT TO (RFC 3461 4.1, 4.2).

    Attributes:
        notify: when to report; None leaves it to the server.
        orcpt: the original recipient as ``type;address``, such as ``rfc822;o@example.com``.

    Raises:
        ValidationError: NEVER combined with others, or an orcpt that is not of that form.
    """

    __reduce_ex__ = reduce_value

    notify: DsnNotify | None = None
    orcpt: str | None = None

    def __post_init__(self) -> None:
        if self.notify is not None:
            _check_type("notify", self.notify, DsnNotify)
        if self.orcpt is not None:
            _check_type("orcpt", self.orcpt, str)
        if self.notify is not None and not self.notify:
            raise ValidationError("notify holds no flag; leave it out, or use NEVER")
        if self.notify and DsnNotify.NEVER in self.notify and self.notify != DsnNotify.NEVER:
            raise ValidationError("NOTIFY=NEVER stands alone (RFC 3461 4.1)")
        if self.orcpt is not None:
            _check_orcpt(self.orcpt)


def mail_parameters(
    params: MailFromParams,
    capabilities: ServerCapabilities,
    size: int | None,
    body: BodyType | None,
    smtputf8: bool,
) -> str:
    """Render what follows the reverse-path: "" or text that begins with a space.

    Args:
        params: what the caller asked for.
        capabilities: what the server offers.
        size: the size of the message in bytes, None if unknown; ``params.size`` overrides it.
        body: the BODY to declare, already decided; None for none.
        smtputf8: whether this transaction needs SMTPUTF8.

    Raises:
        UnsupportedExtensionError, SmtpUtf8RequiredError: the server lacks what is asked for.
        ValidationError: it is outside the limits the server advertised.
    """
    words = "" if body is None else _body_word(body, capabilities)
    if smtputf8:
        if not capabilities.supports_smtputf8:
            raise SmtpUtf8RequiredError(
                "the message needs SMTPUTF8, which the server does not offer", phase=Phase.MAIL
            )
        words += " SMTPUTF8"
    if params is not NO_MAIL_PARAMS and params.size is not None:
        size = params.size
    if size is not None and capabilities.supports_size:
        check_size(size, capabilities, Phase.MAIL)
        words += f" SIZE={size}"
    return words if params is NO_MAIL_PARAMS else words + _requested_words(params, capabilities)


def _requested_words(params: MailFromParams, capabilities: ServerCapabilities) -> str:
    words = ""
    if params.ret is not None:
        words += _word(f"RET={params.ret}", "DSN", capabilities)
    if params.envid is not None:
        words += _word(f"ENVID={xtext(params.envid)}", "DSN", capabilities)
    if params.auth is not None:
        words += _word(f"AUTH={_auth_value(params.auth)}", "AUTH", capabilities)
    if params.deliver_by is not None:
        words += _word(f"BY={params.deliver_by}", "DELIVERBY", capabilities)
        _check_deliver_by(params.deliver_by, capabilities)
    if params.hold_for is not None or params.hold_until is not None:
        words += _word(_hold(params, capabilities), "FUTURERELEASE", capabilities)
    if params.mt_priority is not None:
        words += _word(f"MT-PRIORITY={params.mt_priority}", "MT-PRIORITY", capabilities)
    if params.require_tls:
        words += _word("REQUIRETLS", "REQUIRETLS", capabilities)
    return words


def rcpt_parameters(
    params: RcptToParams, capabilities: ServerCapabilities, *, smtputf8: bool
) -> str:
    """Render what follows a forward-path: "" or text that begins with a space.

    Args:
        params: what the caller asked for.
        capabilities: what the server offers.
        smtputf8: whether the transaction is an SMTPUTF8 one (RFC 6533 3 for ORCPT).

    Raises:
        UnsupportedExtensionError: the server does not offer DSN.
    """
    words = ""
    if params.notify is not None:
        # The members' names are the keywords. Iterating over the class keeps their order fixed.
        names = ",".join(flag.name or "" for flag in DsnNotify if flag in params.notify)
        words += _word(f"NOTIFY={names}", "DSN", capabilities, Phase.RCPT)
    if params.orcpt is not None:
        orcpt = _orcpt(params.orcpt, smtputf8)
        words += _word(f"ORCPT={orcpt}", "DSN", capabilities, Phase.RCPT)
    return words


def xtext(text: str) -> str:
    """Encode as xtext: "+", "=" and all but printable ASCII become "+HH" (RFC 3461 4)."""
    return "".join(
        chr(byte) if 0x21 <= byte <= 0x7E and byte not in b"+=" else f"+{byte:02X}"
        for byte in text.encode()
    )


def is_too_big(size: int, capabilities: ServerCapabilities) -> bool:
    """Whether a message of ``size`` bytes exceeds the server's limit (RFC 1870)."""
    return capabilities.size_limit is not None and size > capabilities.size_limit


def check_size(size: int, capabilities: ServerCapabilities, phase: Phase) -> None:
    """Check that the server accepts a message of ``size`` bytes.

    Raises:
        ValidationError: it exceeds the server's limit.
    """
    limit = capabilities.size_limit
    if limit is not None and size > limit:
        raise ValidationError(
            f"the message has {size} bytes and the server takes at most {limit}", phase=phase
        )


def _word(
    word: str, keyword: str, capabilities: ServerCapabilities, phase: Phase = Phase.MAIL
) -> str:
    """A parameter with a space before it, if the server offers the extension that defines it."""
    if not capabilities.supports(keyword):
        name = word.partition("=")[0]
        raise UnsupportedExtensionError(
            f"{name} needs the extension {keyword}, which the server does not offer", phase=phase
        )
    return f" {word}"


def _body_word(body: BodyType, capabilities: ServerCapabilities) -> str:
    # 7BIT is the default: without 8BITMIME it cannot be sent and need not be.
    if body is BodyType.SEVENBIT and not capabilities.supports_8bitmime:
        return ""
    keyword = "BINARYMIME" if body is BodyType.BINARYMIME else "8BITMIME"
    return _word(f"BODY={body}", keyword, capabilities)


def _auth_value(auth: str) -> str:
    return xtext(str(Mailbox(auth))) if auth else "<>"


def _check_deliver_by(deliver_by: DeliverBy, capabilities: ServerCapabilities) -> None:
    least = "".join(capabilities.parameters("DELIVERBY")[:1])
    if (
        deliver_by.mode is DeliverByMode.RETURN
        and least.isdecimal()
        and deliver_by.seconds < int(least[:10])
    ):
        raise ValidationError(
            f"the server needs at least {least} seconds for a delivery (RFC 2852 3)",
            phase=Phase.MAIL,
        )


def _hold(params: MailFromParams, capabilities: ServerCapabilities) -> str:
    limits = capabilities.parameters("FUTURERELEASE")
    if params.hold_for is not None:
        if limits and limits[0].isdecimal() and params.hold_for > int(limits[0][:10]):
            raise ValidationError(
                f"the server holds a message for at most {limits[0]} seconds", phase=Phase.MAIL
            )
        return f"HOLDFOR={params.hold_for}"
    assert params.hold_until is not None
    try:
        until = params.hold_until.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise ValidationError(
            "hold_until is too early or too late for a date in UTC", phase=Phase.MAIL
        ) from None
    if len(limits) > 1:
        _check_hold_until(until, limits[1])
    return f"HOLDUNTIL={until.strftime('%Y-%m-%dT%H:%M:%SZ')}"


def _check_hold_until(until: datetime, limit: str) -> None:
    try:
        latest = datetime.fromisoformat(limit)
    except ValueError:
        return  # an unreadable limit is ignored; the server decides
    if latest.tzinfo is not None and until > latest:
        raise ValidationError(f"the server holds a message until {limit}", phase=Phase.MAIL)


def _orcpt(orcpt: str, smtputf8: bool) -> str:
    kind, _, address = orcpt.partition(";")
    if kind.lower() != "utf-8":
        return f"{kind};{xtext(address)}"
    # utf-8-addr-unitext where the session is UTF-8, else utf-8-addr-xtext (RFC 6533 3).
    safe = [
        c
        if (0x21 <= ord(c) <= 0x7E and c not in "+=\\") or (smtputf8 and c > "\x7f")
        else f"\\x{{{ord(c):X}}}"
        for c in address
    ]
    return f"{kind};{''.join(safe)}"


def _check_orcpt(orcpt: str) -> None:
    kind, semicolon, address = orcpt.partition(";")
    if not (semicolon and kind and address and kind.replace("-", "").isalnum() and kind.isascii()):
        raise ValidationError(f"orcpt is type;address such as rfc822;o@example.com: {orcpt!r:.80}")
    if kind.lower() == "utf-8":
        if len(address.encode("utf-8", "surrogatepass")) > 500 or any(
            c < "!" or "\x7f" <= c < "\xa0" or "\ud800" <= c <= "\udfff" for c in address
        ):
            raise ValidationError(f"orcpt is too long or not printable: {orcpt!r:.80}")
        return
    _check_printable("orcpt", address, 500)


def _check_printable(name: str, text: str, limit: int) -> None:
    if not 1 <= len(text) <= limit or not all("!" <= c <= "~" or c == " " for c in text):
        raise ValidationError(f"{name} has 1 to {limit} printable ASCII characters: {text!r:.80}")


def _check_type(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValidationError(f"{name} is a {kind.__name__}, not {type(value).__name__}")


def _check_int(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValidationError(f"{name} is an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValidationError(f"{name} is {least} to {most}, not {value}")


NO_MAIL_PARAMS = MailFromParams()
"""No parameters: what most messages ask for."""
