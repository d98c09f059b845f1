"""How header fields of `email.message` objects are sent (RFC 5322 2.2, RFC 2047, RFC 6532).

When the email package folds a field, it turns long words into encoded words anywhere. That destroys
addresses, message ids and the URLs of List-Unsubscribe (RFC 2047 5 and RFC 8058 forbid it). Some
versions also lose quotes. So this module writes the fields:

* A field that was read from a message is not changed, line by line, if it may be sent.
* An encoded word is used only in text and names, never in an address, an id or a URL.
* An address has its domain in A-labels, or is all in UTF-8 if that may be sent.
* A line is folded at a space after at most 78 characters. A longer word is not split, up to 998
  (RFC 5322 2.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from email import base64mime, quoprimime
from email.header import Header
from typing import Protocol, cast

from smtpconn.model.address_list import Group, Named, read_addresses, read_groups
from smtpconn.model.addresses import ForwardPath
from smtpconn.model.content import MAX_LINE
from smtpconn.model.errors import SmtpUtf8RequiredError, ValidationError

LINE = 78
"""Characters after which a line is folded, if it can be."""

MAX_ENCODED_WORD = 75
"""Characters in an encoded word (RFC 2047 2)."""

ADDRESS_FIELDS = frozenset(
    prefix + name
    for prefix in ("", "resent-")
    for name in ("from", "sender", "reply-to", "to", "cc", "bcc")
)
_MIME_FIELDS = frozenset({"content-type", "content-disposition"})
# Fields of ids, URLs or addresses, which must not be encoded.
_STRUCTURED_FIELDS = frozenset(
    {"message-id", "references", "in-reply-to", "content-id", "return-path", "received",
     "resent-message-id", "dkim-signature", "date", "original-message-id", "supersedes",
     "arc-seal", "arc-message-signature", "autocrypt"}
)  # fmt: skip
# Fields with addresses or URLs that are text to the email package (RFC 2369, RFC 8098 2.1): words
# of a name may be encoded in them.
_WITH_ADDRESSES = re.compile(
    r"list-.*|disposition-notification-to|return-receipt-to|errors-to|mail-(?:followup|reply)-to"
).fullmatch

_LINE_END = re.compile(r"\r\n|\r|\n")
_BLANKS = re.compile(r"([ \t]+)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Atoms with a blank between them (RFC 5322 3.2.3, RFC 6532 3.2).
_ATOM = r'[^\x00-\x20"(),.:;<>@\[\\\]\x7F]+'
_PLAIN_NAME = re.compile(rf"{_ATOM}(?: {_ATOM})*\Z")


class _Address(Protocol):
    display_name: str
    addr_spec: str


class _AddressGroup(Protocol):
    display_name: str | None
    addresses: Sequence[_Address]


class _Parsed(Protocol):
    """A field that the email package has parsed (`email.headerregistry`)."""

    def fold(self, *, policy: object) -> str: ...


def field_bytes(name: str, value: object, *, utf8: bool) -> bytes:
    """A field with its CRLF.

    Args:
        name: the name of the field.
        value: as `email.message.Message.raw_items` has it: the text that was read, with bytes that
            are not ASCII as surrogates; a text or `email.header.Header` of the old API; or an
            object of `email.headerregistry`.
        utf8: whether it may contain UTF-8 (RFC 6532).

    Raises:
        ValidationError: it may not be sent: a line break that begins no folded line, a word of more
            than 998 bytes that may not be encoded, an address that cannot be read.
        SmtpUtf8RequiredError: an address is not ASCII, and UTF-8 is not allowed.
    """
    kind = name.lower()
    value = with_text_of_list(value)
    if hasattr(value, "fold"):
        text = _format_parsed(name, kind, cast("_Parsed", value), utf8=utf8)
    elif isinstance(value, Header) and kind not in ADDRESS_FIELDS:
        text = f"{name}: {_check_folded(name, value.encode(linesep=chr(10)))}"
    else:
        text = _format_text(name, kind, str(value), utf8=utf8)
    return text.encode("utf-8") + b"\r\n"


def is_internationalised(name: str, value: object) -> bool:
    """Whether a field can be sent as it is only with SMTPUTF8 (RFC 6532).

    True for a field that was read with UTF-8 in it, and for one with an address whose local part is
    not ASCII.
    """
    if hasattr(value, "groups"):
        groups = cast("Iterable[_AddressGroup]", value.groups)
        if (text := with_text_of_list(value)) is not value:
            specs = read_addresses(str(text))
        else:
            specs = [address.addr_spec for group in groups for address in group.addresses]
        return any(not spec.rpartition("@")[0].isascii() for spec in specs)
    return isinstance(value, str) and not value.isascii() and is_utf8(value)


def with_text_of_list(value: object) -> object:
    """The value of a field; its text if it is an address field made of a list with texts.

    ``message["To"] = ["a@example.com", "b@example.com"]`` gives a field with the right text, but
    its ``addresses`` are the texts, not parsed.
    """
    groups = cast("Iterable[_AddressGroup]", getattr(value, "groups", ()))
    is_list = any(isinstance(each, str) for group in groups for each in group.addresses)
    return str(value) if is_list else value


def is_utf8(text: str) -> bool:
    """Whether a text has non-ASCII bytes as surrogates, and they are UTF-8."""
    return _SURROGATE.search(text) is not None and _SURROGATE.search(decoded(text)) is None


def decoded(text: str) -> str:
    """A text with its surrogate-escaped bytes decoded as UTF-8; unchanged if they are not UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        return text


def as_written(value: object) -> str:
    """The text that a parsed field was made from; its ``str`` is what the email package understood.

    Args:
        value: an object of `email.headerregistry`.
    """
    from email.policy import EmailPolicy

    folded = cast("_Parsed", value).fold(policy=EmailPolicy(max_line_length=0, utf8=True))
    return folded.partition(":")[2].strip()


def unfolded(text: str) -> str:
    """A folded value in one line (RFC 5322 2.2.3).

    Raises:
        ValidationError: it has a line break that begins no folded line.
    """
    return "".join(_lines("a field", text))


def _format_text(name: str, kind: str, given: str, *, utf8: bool) -> str:
    text = decoded(given)
    lines = _lines(name, text)
    is_mail = text.isascii() or (utf8 and _SURROGATE.search(text) is None)
    if (
        is_mail
        and len(name) + 2 + len(lines[0].encode()) <= MAX_LINE
        and all(len(line.encode()) <= MAX_LINE and line.strip(" \t") for line in lines[1:])
    ):
        return f"{name}: " + "\r\n".join(lines)
    text = "".join(lines)
    if is_mail:
        return _folded(name, kind, text, utf8=utf8)
    if kind in ADDRESS_FIELDS:
        return _format_groups(name, kind, read_groups(text), utf8=utf8)
    if kind in _MIME_FIELDS and _SURROGATE.search(text) is None:
        from email.headerregistry import HeaderRegistry

        return _format_parsed(name, kind, cast("_Parsed", HeaderRegistry()(name, text)), utf8=utf8)
    return _folded(name, kind, text, utf8=utf8)


def _format_parsed(name: str, kind: str, value: _Parsed, *, utf8: bool) -> str:
    if hasattr(value, "groups"):
        return _format_address_header(name, kind, value, utf8=utf8)
    if hasattr(value, "params"):
        from email.policy import EmailPolicy

        # Its words are parameters, which have their own encoding (RFC 2231).
        folded = value.fold(policy=EmailPolicy(utf8=utf8, max_line_length=LINE))
        return f"{name}:{_check_folded(name, folded.partition(':')[2])}"
    return _folded(name, kind, str(value), utf8=utf8)


def _format_address_header(name: str, kind: str, value: _Parsed, *, utf8: bool) -> str:
    given = cast("Iterable[_AddressGroup]", value.groups)  # type: ignore[attr-defined]
    groups = [
        Group(g.display_name, tuple(Named(a.display_name, a.addr_spec) for a in g.addresses))
        for g in given
    ]
    text = as_written(value)
    try:
        read = read_groups(text)
    except ValidationError:
        read = []
    if _members(read) == _members(groups):
        if text.isascii():
            # Sent as it was written, with its comments.
            return _folded(name, kind, text, utf8=utf8)
    elif not all(map(_is_address, _members(groups))):
        # The email package cannot read what was written.
        groups = read or read_groups(text)
    # Otherwise the text, in which encoded words are decoded, reads as other addresses: format the
    # parsed ones.
    return _format_groups(name, kind, groups, utf8=utf8)


def _members(groups: Iterable[Group]) -> list[str]:
    return [each.address for group in groups for each in group.members]


def _is_address(text: str) -> bool:
    try:
        ForwardPath(text)
    except ValidationError:
        return False
    return True


def _format_groups(name: str, kind: str, groups: Iterable[Group], *, utf8: bool) -> str:
    texts = []
    for group in groups:
        members = ", ".join(_format_address(name, each, utf8=utf8) for each in group.members)
        if group.name is not None:
            members = f"{_phrase(group.name, utf8=utf8)}: {members}".rstrip() + ";"
        texts.append(members)
    return _folded(name, kind, ", ".join(texts), utf8=utf8)


def _format_address(field: str, named: Named, *, utf8: bool) -> str:
    address = named.address
    if not address.isascii() and not utf8:
        path = ForwardPath(address).to_ascii()
        if not path.is_ascii:
            raise SmtpUtf8RequiredError(
                f"{address!r:.80} in the message's {field} is not ASCII, and the server does not "
                f"offer SMTPUTF8"
            )
        address = str(path)
    if _CONTROL.search(address) or _SURROGATE.search(address):
        raise ValidationError(
            f"the message's {field} has an address with an invalid character: {address!r:.80}"
        )
    return f"{_phrase(named.name, utf8=utf8)} <{address}>" if named.name else address


def _phrase(name: str, *, utf8: bool) -> str:
    """A name: as it is, quoted, or as encoded words (RFC 5322 3.2.5, RFC 2047 5)."""
    if _CONTROL.search(name) or _SURROGATE.search(name) or not (utf8 or name.isascii()):
        return " ".join(_encoded_words(name))
    if _PLAIN_NAME.match(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _folded(name: str, kind: str, text: str, *, utf8: bool) -> str:
    """Fold a text in one line, encoding its words where that is allowed."""
    pieces = _BLANKS.split(text.strip(" \t"))
    words, blanks = pieces[::2], ["", *pieces[1::2]]
    may_encode = not (kind in _STRUCTURED_FIELDS or kind in ADDRESS_FIELDS)
    parts: list[tuple[str, str]] = []
    run: list[str] = []
    run_blank = ""
    for blank, word in zip(blanks, words, strict=True):
        if _is_sendable(word, len(name) + 2 if not parts else 1, utf8=utf8):
            if run:
                parts += _encoded(run_blank, "".join(run))
                run = []
            parts.append((blank, word))
        elif not may_encode or (_WITH_ADDRESSES(kind) and re.search("[<>@]", word)):
            raise ValidationError(
                f"the message's {name} has a word that may not be sent: more than {MAX_LINE} "
                f"bytes, a control character, or not ASCII: {word!r:.80}"
            )
        else:
            # Blanks between encoded words do not count (RFC 2047 6.2), so they are encoded too.
            run_blank = run_blank if run else blank
            run += [blank, word] if run else [word]
    if run:
        parts += _encoded(run_blank, "".join(run))
    return _fold_parts(name, parts)


def _is_sendable(word: str, prefix_length: int, *, utf8: bool) -> bool:
    if not (word.isascii() or (utf8 and _SURROGATE.search(word) is None)):
        return False
    return not _CONTROL.search(word) and len(word.encode()) + prefix_length <= MAX_LINE


def _encoded(blank: str, text: str) -> list[tuple[str, str]]:
    first, *others = _encoded_words(text)
    return [(blank, first), *((" ", word) for word in others)]


def _fold_parts(name: str, parts: Iterable[tuple[str, str]]) -> str:
    lines = [f"{name}:"]
    is_first = True
    for blank, word in parts:
        gap = " " if is_first else blank
        if is_first or len(lines[-1]) + len(gap) + len(word) <= LINE:
            lines[-1] += gap + word
        else:
            lines.append(gap + word)
        is_first = False
    return "\r\n".join(lines) if not is_first else f"{name}: "


def _encoded_words(text: str) -> list[str]:
    """A text as encoded words of at most 75 characters each (RFC 2047 2)."""
    charset, codec = "utf-8", "utf-8"
    if _SURROGATE.search(text):
        # Bytes of an unknown charset (RFC 1428 3) are passed on unchanged.
        charset, codec = "unknown-8bit", "latin-1"
        text = text.encode("utf-8", "surrogateescape").decode("latin-1")
    words = []
    start = 0
    while start < len(text):
        # The encoded size is known only after encoding; halve the text until it fits.
        size = min(len(text) - start, 40)
        word = _encoded_word(text[start : start + size].encode(codec), charset)
        while len(word) > MAX_ENCODED_WORD and size > 1:
            size //= 2
            word = _encoded_word(text[start : start + size].encode(codec), charset)
        words.append(word)
        start += size
    return words


def _encoded_word(data: bytes, charset: str) -> str:
    quoted = quoprimime.header_encode(data, charset)
    base64 = base64mime.header_encode(data, charset)
    return min(quoted, base64, key=len)


def _lines(name: str, text: str) -> list[str]:
    """The lines of a folded value.

    Raises:
        ValidationError: one of them would begin another field, or the body.
    """
    lines = _LINE_END.split(text)
    if any(not line.startswith((" ", "\t")) for line in lines[1:]):
        raise ValidationError(f"the message's {name} has a line break in it: {text!r:.80}")
    return lines


def _check_folded(name: str, folded: str) -> str:
    """Check a value that the email package has folded; returns it with CRLF."""
    lines = _lines(name, folded.rstrip("\r\n"))
    if any(len(line.encode("utf-8", "surrogateescape")) > MAX_LINE for line in lines):
        raise ValidationError(f"the message's {name} has a word of more than {MAX_LINE} bytes")
    return "\r\n".join(lines)
