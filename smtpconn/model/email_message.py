"""An `email.message.EmailMessage`: its envelope, and its serialisation for a server.

The email package builds messages. This module reads the envelope from the headers, as
``smtplib.send_message`` does, and serialises. The serialised form depends on what the server
offers, so this is the last step before sending:

* Bcc is never sent (RFC 5322 3.6.3).
* Eight-bit content is sent unchanged if the server offers 8BITMIME. Otherwise such parts are
  encoded as quoted-printable or base64. So are parts with a line of more than 998 bytes, which no
  server must accept (RFC 5321 4.5.3.1.6).
* UTF-8 in the headers is sent only in a message that needs SMTPUTF8 anyway: because of an address,
  or because it was read with UTF-8 in its headers (RFC 6532).

The caller's object and its parts are never changed: other threads may be sending it at the same
time. All changes are made to a copy (`completed`, `serialize`).

`address_list` and `header_fields` are imported where they are used: only messages of the email
package need them, and their regular expressions take long to compile.
"""

from __future__ import annotations

import binascii
import copy
import io
import re
from collections.abc import Iterable, Sequence
from email.errors import InvalidHeaderDefect, MessageError
from email.generator import BytesGenerator
from email.message import Message
from email.utils import format_datetime, localtime, make_msgid
from typing import TYPE_CHECKING, Annotated, Never, TypeAlias, TypeGuard, cast

from smtpconn.model.addresses import ForwardPath, ReversePath
from smtpconn.model.capabilities import ServerCapabilities
from smtpconn.model.content import has_long_line
from smtpconn.model.errors import SmtpError, ValidationError

if TYPE_CHECKING:
    from email.headerregistry import AddressHeader, BaseHeader

if TYPE_CHECKING:
    AnyMessage: TypeAlias = Message[object, Never]
else:
    # Readable by typing.get_type_hints, and without importing the email package.
    AnyMessage = Annotated[object, "email.message.Message"]
"""A message of the email package, of its modern or its older API."""

# What the email package raises for invalid headers and bodies; it documents no complete list, and
# it recurses into nested parts.
_EMAIL_PACKAGE_ERRORS = (
    MessageError, UnicodeError, LookupError, TypeError, ValueError, AttributeError, RecursionError,
)  # fmt: skip

# Dots where RFC 5322 allows none, and an address without a domain: `ForwardPath` checks these.
_HARMLESS_DEFECTS = frozenset(
    {
        "local-part is not dot-atom, quoted-string, or obs-local-part",
        "invalid repeated '.'",
        "Invalid leading '.' in local part",
        "Invalid trailing '.' in local part",
        "addr-spec local part with no domain",
    }
)

_UNENCODED = frozenset({"", "7bit", "8bit", "binary"})
# A character that is not encoded in a charset yet; a payload has bytes above 127 as surrogates.
_IN_NO_CHARSET = re.compile("[^\x00-\x7f\udc80-\udcff]").search


def is_message(value: object) -> TypeGuard[AnyMessage]:
    """Whether it is a message of the email package, and not bytes."""
    return isinstance(value, Message)


def sender_of(message: AnyMessage) -> ReversePath:
    """The reverse-path that a message names: its Sender, else its first From (RFC 5322 3.6.2).

    If the message was resent, its Resent- headers are read instead (RFC 5322 3.6.6).

    Raises:
        ValidationError: it names none, or one that may not be sent.
    """
    prefix = _prefix(message)
    for name in ("Sender", "From"):
        addresses = _addresses(message, (prefix + name,))
        if addresses:
            return ReversePath(addresses[0])
    raise ValidationError(f"the message has no {prefix}From: give the sender")


def recipients_of(message: AnyMessage) -> list[ForwardPath]:
    """The forward-paths that a message names: To, Cc and Bcc, or their Resent- forms.

    Raises:
        ValidationError: it names none, or one that may not be sent.
    """
    prefix = _prefix(message)
    addresses = _addresses(message, [prefix + name for name in ("To", "Cc", "Bcc")])
    if not addresses:
        raise ValidationError(f"the message has no {prefix}To, Cc or Bcc: give the recipients")
    return [ForwardPath(address) for address in addresses]


def needs_smtputf8(sender: ReversePath, recipients: Sequence[ForwardPath]) -> bool:
    """Whether the envelope makes it an internationalised message (RFC 6531 1.2)."""
    return not (sender.is_ascii and all(r.is_ascii for r in recipients))


def needs_utf8_fields(message: AnyMessage) -> bool:
    """Whether its header fields can be sent unchanged only with SMTPUTF8 (RFC 6532)."""
    from smtpconn.model.header_fields import is_internationalised

    return any(
        is_internationalised(name, value)
        for part in _parts(message)
        for name, value in part.raw_items()
    )


def completed(message: AnyMessage, sender: ReversePath) -> AnyMessage:
    """A copy without Bcc, and with Date and Message-ID where they are missing (RFC 5322 3.6).

    Args:
        message: the message; it is not changed.
        sender: the address whose domain a new Message-ID gets, without a DNS query.

    Raises:
        ValidationError: its parts are nested too deeply.
    """
    outgoing = _copy(message)
    present = {name.lower() for name, _ in outgoing.raw_items()}
    fields = cast("Message[str, str]", outgoing)
    if "date" not in present:
        fields["Date"] = format_datetime(localtime())
    if "message-id" not in present:
        fields["Message-ID"] = make_msgid(domain=_domain(message, sender))
    return outgoing


def serialize(message: AnyMessage, capabilities: ServerCapabilities, *, smtputf8: bool) -> bytes:
    """Serialise a message for a server, with CRLF line ends and without Bcc.

    Args:
        message: the message; it is not changed.
        capabilities: the extensions that the server offers.
        smtputf8: whether UTF-8 is allowed in the headers.

    Raises:
        ValidationError: it cannot be serialised for this server.
        SmtpUtf8RequiredError: an address in a header needs UTF-8, which is not allowed.
    """
    outgoing = _copy(message)
    serialised = io.BytesIO()
    generator = _Utf8Generator if smtputf8 else _Generator
    policy = outgoing.policy.clone(linesep="\r\n", cte_type="8bit")
    try:
        _encode_parts(outgoing, allows_8bit=capabilities.supports_8bitmime)
        # The old policy would write ">From ", which belongs only in mailbox files (RFC 4155 2).
        generator(serialised, mangle_from_=False, policy=policy).flatten(outgoing)
    except SmtpError:
        raise
    except _EMAIL_PACKAGE_ERRORS as error:
        raise ValidationError(f"the message cannot be serialised: {error}") from error
    return serialised.getvalue()


class _Generator(BytesGenerator):
    """Writes header fields with `field_bytes`; the email package would encode addresses and ids."""

    utf8 = False

    def _write_headers(self, message: AnyMessage) -> None:
        from smtpconn.model.header_fields import field_bytes

        for name, value in message.raw_items():
            self._fp.write(field_bytes(name, value, utf8=self.utf8))  # type: ignore[attr-defined]
        self._fp.write(b"\r\n")  # type: ignore[attr-defined]


class _Utf8Generator(_Generator):
    utf8 = True


def _copy(message: AnyMessage) -> AnyMessage:
    """A copy without Bcc that can be changed while other threads read the original.

    Header values and bodies are shared with the original: they are replaced, never changed.
    """
    try:
        outgoing = _copied(message)
    except RecursionError as error:
        raise ValidationError("the parts of the message are nested too deeply") from error
    del outgoing["Resent-Bcc"]
    return outgoing


def _copied(message: AnyMessage) -> AnyMessage:
    part = copy.copy(message)
    # The copy shares the list of header fields; `del` makes a new list, even if nothing matches.
    del part["Bcc"]
    if part.is_multipart():
        part.set_payload([_copied(each) for each in _children(part)])  # type: ignore[misc]
    return part


def _parts(message: AnyMessage) -> Iterable[AnyMessage]:
    """A message and all the parts inside it."""
    left: list[AnyMessage] = [message]
    while left:
        part = left.pop()
        yield part
        left += _children(part)


def _children(part: AnyMessage) -> list[AnyMessage]:
    return list(cast("list[AnyMessage]", part.get_payload())) if part.is_multipart() else []


def _encode_parts(message: AnyMessage, *, allows_8bit: bool) -> None:
    """Encode the parts that may not be sent unchanged; changes ``message``, which is a copy."""
    signed: set[int] = set()
    for part in _parts(message):
        if part.is_multipart():
            # A signature covers the encoded form of its part (RFC 1847 2.1).
            if id(part) not in signed:
                _drop_unsendable_margins(part, allows_8bit=allows_8bit)
            if id(part) in signed or part.get_content_type() == "multipart/signed":
                signed.update(map(id, _children(part)))
            continue
        encoding = _text_of(part, "Content-Transfer-Encoding").strip().lower()
        _encode_text(part, encoding)
        if encoding not in _UNENCODED:
            continue
        content = part.get_payload(decode=True)
        if not isinstance(content, bytes):
            continue
        is_text = part.get_content_maintype() == "text" and b"\0" not in content
        if (not allows_8bit and not content.isascii()) or (
            id(part) not in signed
            and (has_long_line(content) or (b"\0" in content and _is_binary(part)))
        ):
            _encode(part, content, is_text=is_text)


def _drop_unsendable_margins(part: AnyMessage, *, allows_8bit: bool) -> None:
    """Drop the text before and after the parts if it may not be sent; no reader shows it."""
    for name in ("preamble", "epilogue"):
        text = getattr(part, name) or ""
        is_sendable = text.isascii() or (allows_8bit and not _IN_NO_CHARSET(text))
        if not is_sendable or has_long_line(text.encode("utf-8", "surrogateescape")):
            setattr(part, name, None)


def _encode_text(part: AnyMessage, encoding: str) -> None:
    """Encode a text that was set without a charset, or read by ``message_from_string``.

    Args:
        part: a copy.
        encoding: its Content-Transfer-Encoding.

    Raises:
        ValidationError: its field names no charset that has these characters, or the text should
            have been encoded.
    """
    # get_payload() would decode the surrogates, which are bytes already.
    text = getattr(part, "_payload", None)
    if not isinstance(text, str) or not _IN_NO_CHARSET(text):
        return
    charset = part.get_content_charset()
    try:
        if charset is None or encoding not in _UNENCODED:
            raise LookupError
        data = text.encode(charset, "surrogateescape")
    except (LookupError, UnicodeError):
        raise ValidationError(
            f"a part of the message has text in no charset: {text!r:.80}; use set_content(text), "
            f"or set_payload(text, 'utf-8')"
        ) from None
    part.set_payload(data.decode("ascii", "surrogateescape"))


def _is_binary(part: AnyMessage) -> bool:
    """Whether the part is binary and may contain a NUL; text may not (RFC 2045 2.7, 2.8)."""
    charset = str(part.get_content_charset("") or "").lower()
    return part.get_content_maintype() != "text" or charset.startswith(("utf-16", "utf-32"))


def _encode(part: AnyMessage, content: bytes, *, is_text: bool) -> None:
    fields = cast("Message[str, str]", part)
    del fields["Content-Transfer-Encoding"]
    fields["Content-Transfer-Encoding"] = "quoted-printable" if is_text else "base64"
    if is_text:
        encoded = binascii.b2a_qp(content, istext=True)
    else:
        encoded = b"".join(
            binascii.b2a_base64(content[start : start + 57]) for start in range(0, len(content), 57)
        )
    part.set_payload(encoded.decode("ascii"))


def _domain(message: AnyMessage, sender: ReversePath) -> str:
    """The sender's domain, for a Message-ID; the machine's name would need a DNS query."""
    try:
        path = sender_of(message) if sender.is_null else sender
        mailbox = None if path.mailbox is None else path.mailbox.to_ascii()
    except SmtpError:
        mailbox = None
    return "localhost" if mailbox is None else str(mailbox.domain)


def _prefix(message: AnyMessage) -> str:
    """ "Resent-" for a message that was resent once, else "". Refuses one resent more often."""
    resent = _fields(message, "Resent-Date")
    if not resent:
        return ""
    if len(resent) > 1:
        raise ValidationError(
            "the message was resent more than once: give the sender and the recipients"
        )
    return "Resent-"


def _addresses(message: AnyMessage, names: Iterable[str]) -> list[str]:
    try:
        return [
            address
            for name in names
            for field in _fields(message, name)
            for address in _addresses_in(name, field)
        ]
    except SmtpError:
        raise
    except _EMAIL_PACKAGE_ERRORS as error:
        raise ValidationError(f"an address field cannot be read: {error}") from error


def _addresses_in(name: str, field: object) -> list[str]:
    """All addresses of a field.

    ``email.utils.getaddresses`` is not used: it drops what it does not understand, such as an
    address literal in Python 3.13, and that recipient would not get the message.
    """
    from smtpconn.model.address_list import read_addresses
    from smtpconn.model.header_fields import as_written, decoded, with_text_of_list

    field = with_text_of_list(field)
    if not hasattr(field, "addresses"):
        text = decoded(str(field))
        if "\ufffd" in text:
            raise ValidationError(f"the message's {name} cannot be read: {text!r:.80}")
        return read_addresses(text)
    addresses = [address.addr_spec for address in cast("AddressHeader", field).addresses]
    # Obsolete forms, which readers must accept (RFC 5322 4), and UTF-8 are other defects.
    header = cast("BaseHeader", field)
    defects = [str(d) for d in header.defects if isinstance(d, InvalidHeaderDefect)]
    if defects and not (
        _HARMLESS_DEFECTS.issuperset(defects) and read_addresses(str(header)) == addresses
    ):
        given = as_written(header)
        raise ValidationError(f"{given!r:.80} is not a list of addresses: {defects[0]}")
    return addresses


def _fields(message: AnyMessage, name: str) -> list[object]:
    """The values of a header field as set or read, without the email package's decoding."""
    wanted = name.lower()
    return [value for key, value in message.raw_items() if key.lower() == wanted]


def _text_of(part: AnyMessage, name: str) -> str:
    return str(next(iter(_fields(part, name)), ""))
