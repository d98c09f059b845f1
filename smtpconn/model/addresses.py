"""The addresses of the envelope: Mailbox, Domain, paths (RFC 5321 4.1.2, RFC 6531 3.3).

A value of one of these types is valid, so no other module checks an address again. The text that is
sent is built from the parsed parts, never copied from the input. The local part is stored without
its quoting and quoted again on output, so `"x@a> ORCPT=b"@c` can only be sent as one quoted string
(in CVE-2025-59937 it was sent as a parameter).

Each string is parsed in one pass without backtracking. This module does not know what a server
offers: whether UTF-8 or a bare domain may be sent is decided where the command is made.

Real mail systems use addresses that RFC 5321 does not allow: ``a..b@docomo.example``, a local part
of more than 64 bytes, an underscore in a domain. They are harmless, so they are accepted. An
address that could end the path or the command early is refused.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import InitVar, dataclass, field

from smtpconn.model.errors import SmtpUtf8RequiredError, ValidationError
from smtpconn.model.frozen import setters
from smtpconn.model.pickling import reduce_value

MAX_DOMAIN = 255
"""Bytes in a domain (RFC 5321 4.5.3.1.2)."""

MAX_PATH = 256
"""Bytes in a path with its angle brackets (RFC 5321 4.5.3.1.3). The limit of 64 bytes for a local
part is not enforced: a client may try more (RFC 5321 4.5.3.1), and some servers accept it."""

MAX_ADVICE = 2000
"""Length of a refused address up to which its error suggests what to pass instead."""

# The characters that RFC 5321 4.1.2 excludes, negated. A list of the allowed ones, with all of
# Unicode, would take longer to compile than most of smtpconn takes to load.
_ATOM = r"[^\x00-\x20\"(),.:;<>@\[\\\]\x7F]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*\Z")
# The same with dots anywhere, which is sent as a quoted string. Only one repetition: nested ones
# would take exponential time.
_LOOSE_DOT_STRING = re.compile(r"[^\x00-\x20\"(),:;<>@\[\\\]\x7F]+\Z")
# Matches nearly all addresses. The parser, which is slower, would give the same result for these.
_USUAL = re.compile(
    r"([A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*)@([A-Za-z0-9._-]+)\Z"
).match
_ASCII_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9\-]*[A-Za-z0-9])?\Z")
# dcontent without angle brackets, which a careless server takes for the end of the path, and
# without the quotation mark, after which it might look for the end of a quoted string.
_TAGGED_LITERAL = re.compile(r"[A-Za-z0-9\-]*[A-Za-z0-9]:[!#-;=?-Z^-~]+\Z")

# Letters, marks and digits of any script, and the few marks IDNA 2008 allows in context
# (RFC 5892 A). Other characters can deceive: other dots, other hyphens, formatting.
_LABEL_EXTRAS = frozenset("-\u00b7\u0375\u05f3\u05f4\u30fb\u200c\u200d")
_LABEL_CATEGORIES = frozenset("LMN")
_JOINERS = "\u200c\u200d"
_VIRAMA = 9
"""The combining class of the viramas, signs that join two letters into one."""


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain name, ASCII or internationalised (U-labels), such as ``example.com``.

    Raises:
        ValidationError: a label is empty, too long or has an invalid character, or there are more
            than 255 bytes (RFC 5321 4.1.2 and 4.5.3.1.2, RFC 6531 3.3).
    """

    __reduce_ex__ = reduce_value

    name: str

    def __post_init__(self) -> None:
        _check_str(self.name, "a domain")
        _check_encodable(self.name, "domain")
        if not self.name or len(self.name.encode()) > MAX_DOMAIN:
            raise ValidationError(f"a domain has 1 to {MAX_DOMAIN} bytes: {_shown(self.name)}")
        for label in self.name.split("."):
            if not _is_label(label):
                raise ValidationError(
                    f"{_shown(label)} may not be a label of a domain: {_shown(self.name)}"
                )

    def __str__(self) -> str:
        return self.name

    @property
    def is_ascii(self) -> bool:
        """Whether it can be sent without SMTPUTF8."""
        return self.name.isascii()

    def to_ascii(self) -> Domain:
        """The same domain in A-labels (RFC 5890 2.3.2.1); needs the extra ``idna`` if not ASCII.

        Raises:
            SmtpUtf8RequiredError: the extra is missing.
            ValidationError: IDNA 2008 does not allow the name.
        """
        if self.name.isascii():
            return self
        try:
            import idna
        except ImportError:
            raise SmtpUtf8RequiredError(
                f"{_shown(self.name)} needs SMTPUTF8, which the server does not offer, or the "
                f"package idna: pip install 'smtpconn[idna]'"
            ) from None
        try:
            # Label by label: IDNA does not allow underscores, which an ASCII label may have.
            name = ".".join(
                label
                if "_" in label and label.isascii()
                else idna.encode(label, uts46=True).decode()
                for label in self.name.split(".")
            )
        except idna.IDNAError as error:
            raise ValidationError(f"{_shown(self.name)} is no domain name: {error}") from None
        return _domain_of_mailbox(name)


@dataclass(frozen=True, slots=True)
class AddressLiteral:
    """An address in brackets: ``[192.0.2.1]``, ``[IPv6:2001:db8::1]`` or ``[tag:content]``.

    Takes the text with its brackets (RFC 5321 4.1.3). In such a literal ``::`` stands for at least
    two groups, so one that stands for a single group is written out.

    Raises:
        ValidationError: it has none of the three forms.
    """

    __reduce_ex__ = reduce_value

    text: str

    def __post_init__(self) -> None:
        _check_str(self.text, "an address literal")
        inner = self.text[1:-1]
        bracketed = self.text.startswith("[") and self.text.endswith("]")
        if not (bracketed and len(self.text) <= MAX_DOMAIN and _is_literal(inner)):
            raise ValidationError(f"not an address literal: {_shown(self.text)}")
        if "::" in inner and inner[:5].lower() == "ipv6:" and _groups(inner[5:]) == 7:
            address = ipaddress.IPv6Address(inner[5:])
            object.__setattr__(self, "text", f"[{inner[:5]}{address.exploded}]")

    def __str__(self) -> str:
        return self.text

    @property
    def is_ascii(self) -> bool:
        """Always True: a literal has no UTF-8 form."""
        return True

    def to_ascii(self) -> AddressLiteral:
        """Itself."""
        return self

    @classmethod
    def from_ip(cls, ip: str) -> AddressLiteral:
        """The literal for an IP address such as ``192.0.2.1`` or ``2001:db8::1``.

        Raises:
            ValidationError: it is no IP address.
        """
        try:
            address = ipaddress.ip_address(ip.partition("%")[0])
        except ValueError:
            raise ValidationError(f"not an IP address: {_shown(ip)}") from None
        return cls(f"[IPv6:{address}]" if address.version == 6 else f"[{address}]")


@dataclass(frozen=True, slots=True, repr=False)
class Mailbox:
    """A local part at a domain: ``user@example.com`` (RFC 5321 4.1.2).

    Takes the address as text; quoted strings are understood (``"john doe"@example.com``), and
    blanks and tabs around it are dropped. Dots that need quoting (``a..b@example.com``) are sent
    quoted.

    Attributes:
        local_part: without quoting.
        domain: a `Domain` or an `AddressLiteral`. A `Domain` may have underscores here, which its
            constructor refuses.

    Raises:
        ValidationError: the text is not a mailbox, or it is too long for a path.
    """

    __reduce_ex__ = reduce_value

    address: InitVar[str]
    local_part: str = field(init=False)
    domain: Domain | AddressLiteral = field(init=False)

    def __post_init__(self, address: str) -> None:
        _check_str(address, "an address")
        local_part, domain = _parse(address.strip(" \t"))
        _set_local_part(self, local_part)
        _set_domain(self, domain)
        _check_path(str(self))

    def __repr__(self) -> str:
        return f"Mailbox({str(self)!r})"

    def __str__(self) -> str:
        return f"{_quoted_if_needed(self.local_part)}@{self.domain}"

    @property
    def is_ascii(self) -> bool:
        """Whether it can be sent without SMTPUTF8."""
        return self.local_part.isascii() and self.domain.is_ascii

    def to_ascii(self) -> Mailbox:
        """The same mailbox with its domain in A-labels; raises as `Domain.to_ascii`."""
        return (
            self
            if self.is_ascii
            else Mailbox(f"{_quoted_if_needed(self.local_part)}@{self.domain.to_ascii()}")
        )


_set_local_part, _set_domain = setters(Mailbox)


def _usual_mailbox(address: str) -> Mailbox | None:
    """The mailbox of an address in the usual form; None for any other, which the parser checks."""
    # A subclass of str may have another __str__.
    if type(address) is not str or len(address) > MAX_PATH - len("<>"):
        return None
    found = _USUAL(address)
    if found is None:
        return None
    local_part, domain = found.groups()
    mailbox = object.__new__(Mailbox)
    _set_local_part(mailbox, local_part)
    _set_domain(mailbox, _known_domain(domain))
    return mailbox


@dataclass(frozen=True, slots=True, repr=False)
class ReversePath:
    """Where bounces go, the argument of MAIL FROM; ``ReversePath("")`` is the null path ``<>``.

    Takes an address with or without angle brackets, and with blanks and tabs around it; a source
    route is dropped (RFC 5321 C).

    Attributes:
        mailbox: where bounces go; None for the null path.
        is_ascii: whether it can be sent without SMTPUTF8.
        text: as it is sent.

    Raises:
        ValidationError: it is no reverse-path.
    """

    __reduce_ex__ = reduce_value

    address: InitVar[str]
    mailbox: Mailbox | None = field(init=False)
    is_ascii: bool = field(init=False, compare=False)
    text: str = field(init=False, compare=False)

    def __post_init__(self, address: str) -> None:
        mailbox = _usual_mailbox(address) or _path(address, _null_or_mailbox)
        object.__setattr__(self, "mailbox", mailbox)
        object.__setattr__(self, "is_ascii", mailbox is None or mailbox.is_ascii)
        # Formatted once, because it may be sent many times.
        object.__setattr__(self, "text", "" if mailbox is None else str(mailbox))

    def __repr__(self) -> str:
        return f"ReversePath({self.text!r})"

    def __str__(self) -> str:
        return self.text

    @property
    def is_null(self) -> bool:
        """Whether it is ``<>``, the reverse-path of a bounce."""
        return self.mailbox is None

    def to_ascii(self) -> ReversePath:
        """The same path with its domain in A-labels; raises as `Domain.to_ascii`."""
        return self if self.mailbox is None else ReversePath(str(self.mailbox.to_ascii()))


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ForwardPath:
    """A recipient, the argument of RCPT TO: a mailbox, or ``postmaster`` (RFC 5321 4.1.1.3).

    Takes an address with or without angle brackets, and with blanks and tabs around it; a source
    route is dropped (RFC 5321 C). It equals, and hashes like, the text it is sent as, so that
    ``"user@example.com" in result.accepted_recipients`` works.

    Attributes:
        mailbox: the recipient's mailbox; None for ``postmaster``.
        is_ascii: whether it can be sent without SMTPUTF8.
        written: the text it was made from.
        text: as it is sent.

    Raises:
        ValidationError: it is no forward-path.
    """

    __reduce_ex__ = reduce_value

    address: InitVar[str]
    mailbox: Mailbox | None = field(init=False)
    is_ascii: bool = field(init=False)
    written: str = field(init=False)
    text: str = field(init=False)

    def __post_init__(self, address: str) -> None:
        mailbox = _usual_mailbox(address)
        if mailbox is not None:
            is_ascii, written, text = True, address, address
        else:
            mailbox = _path(address, _postmaster_or_mailbox)
            is_ascii = mailbox is None or mailbox.is_ascii
            written = str.__str__(address)
            text = address.strip(" \t").strip("<>") if mailbox is None else str(mailbox)
        _set_mailbox(self, mailbox)
        _set_is_ascii(self, is_ascii)
        _set_written(self, written)
        _set_text(self, text)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ForwardPath):
            return self.text == other.text
        return self.text == other if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"ForwardPath({self.text!r})"

    def __str__(self) -> str:
        return self.text

    def to_ascii(self) -> ForwardPath:
        """The same path with its domain in A-labels; raises as `Domain.to_ascii`."""
        return self if self.mailbox is None else ForwardPath(str(self.mailbox.to_ascii()))


_set_mailbox, _set_is_ascii, _set_written, _set_text = setters(ForwardPath)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _check_str(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise ValidationError(f"{what} is a str, not {type(value).__name__}")


def _check_encodable(text: str, what: str) -> None:
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ValidationError(f"the {what} holds a lone surrogate: {_shown(text)}")


def _check_path(path: str) -> None:
    if len(path.encode()) + len("<>") > MAX_PATH:
        raise ValidationError(f"the path has more than {MAX_PATH} bytes: {_shown(path)}")


def _is_label(label: str) -> bool:
    if label.isascii():
        return len(label) <= 63 and _ASCII_LABEL.match(label) is not None
    if label.startswith("-") or label.endswith("-") or not all(map(_is_allowed_in_label, label)):
        return False
    if any(c in _JOINERS and not _is_joining(label, at) for at, c in enumerate(label)):
        return False
    return len("xn--") + len(label.encode("punycode")) <= 63


def _is_joining(label: str, at: int) -> bool:
    """Whether a joiner joins letters (RFC 5892 A.1, A.2); elsewhere it is only invisible."""
    before, after = label[:at], label[at + 1 :]
    if before and unicodedata.combining(before[-1]) == _VIRAMA:
        return True
    sides = [_first_letter(reversed(before)), _first_letter(after)]
    return label[at] == "\u200c" and all(
        letter and unicodedata.bidirectional(letter) == "AL" for letter in sides
    )


def _first_letter(text: Iterable[str]) -> str:
    return next((c for c in text if not unicodedata.category(c).startswith("M")), "")


def _is_allowed_in_label(char: str) -> bool:
    if char in _LABEL_EXTRAS:
        return True
    if char.isascii():
        return char.isalnum()
    # A compatibility form with ASCII in it ("full-width a", "one half", "(1)") becomes another
    # domain once normalised.
    return all(
        not c.isascii() and unicodedata.category(c)[0] in _LABEL_CATEGORIES
        for c in unicodedata.normalize("NFKC", char)
    )


def _is_literal(inner: str) -> bool:
    tag, colon, rest = inner.partition(":")
    try:
        if not colon:
            return ipaddress.IPv4Address(inner).version == 4
        if tag.lower() == "ipv6":
            return "%" not in rest and ipaddress.IPv6Address(rest).version == 6
        # Valid with the tag "2001", but certainly meant as an IPv6 address without its tag.
        if _is_ipv6(inner):
            return False
    except ValueError:
        return False
    return _TAGGED_LITERAL.match(inner) is not None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.IPv6Address(text).version == 6
    except ValueError:
        return False


def _groups(ipv6: str) -> int:
    """How many of the eight groups of an IPv6 address are written out."""
    # The last two may be written as an IPv4 address.
    return sum(2 if "." in group else 1 for group in ipv6.split(":") if group)


def _domain(text: str) -> Domain | AddressLiteral:
    return AddressLiteral(text) if text.startswith("[") else _domain_of_mailbox(text)


def _domain_of_mailbox(name: str) -> Domain:
    """The domain of a mailbox; unlike a host name, it may have underscores."""
    if "_" not in name:
        return Domain(name)
    Domain(name.replace("_", "0"))
    domain = object.__new__(Domain)
    object.__setattr__(domain, "name", name)
    return domain


# Cached, because most applications send to few domains.
_known_domain = functools.lru_cache(maxsize=1024)(_domain_of_mailbox)


def _path(address: str, read: Callable[[str], Mailbox | None]) -> Mailbox | None:
    """Read a path; the error suggests what to pass instead, if that is clear."""
    _check_str(address, "an address")
    try:
        return read(_without_brackets(address))
    except ValidationError as error:
        advice = advice_for(address)
        if not advice:
            raise
        raise ValidationError(f"{error}; {advice}") from None


def _null_or_mailbox(text: str) -> Mailbox | None:
    return _mailbox(text) if text else None


def _postmaster_or_mailbox(text: str) -> Mailbox | None:
    return None if text.lower() == "postmaster" else _mailbox(text)


def _mailbox(text: str) -> Mailbox:
    """Read a mailbox that has no blanks around it."""
    if text.strip(" \t") != text:
        raise ValidationError(f"a blank in an address: {_shown(text)}")
    return Mailbox(text)


def advice_for(address: str) -> str:
    """What to pass instead of an address with a name, or of several addresses; "" if unclear."""
    if len(address) > MAX_ADVICE:
        return ""
    for pieces in _readings(address):
        found = [_bare_address(piece) for piece in pieces]
        if len(found) > 1 and all(found):
            return f"these are several addresses: pass a list, {found!a}"
        if found and all(found):
            return f"pass the address alone: {found[0]!a}"
    return ""


def _readings(text: str) -> Iterator[list[str]]:
    """The ways to split a text into addresses, in the order in which they are tried."""
    yield [piece for each in re.split("[,;]", text) if (piece := each.strip(" \t"))]
    # The comma may be part of a name.
    yield [text.strip(" \t")]
    # A comma may also be part of one of several names, of a comment or of a group.
    from smtpconn.model.address_list import read_addresses

    with contextlib.suppress(ValidationError):
        yield read_addresses(text)
    yield text.split()


def _bare_address(text: str) -> str:
    """The address after a name, or the whole text; "" if that is not an address."""
    inner = text[text.rfind("<") + 1 : -1] if text.endswith(">") else text
    try:
        return str(_mailbox(inner))
    except ValidationError:
        return ""


def _without_brackets(address: str) -> str:
    text = str.__str__(address).strip(" \t")
    if address and not text:
        raise ValidationError("the address has only blanks")
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    # A-d-l = At-domain *( "," At-domain ), followed by ":" and the mailbox (RFC 5321 4.1.2).
    if text.startswith("@"):
        route, colon, text = text.partition(":")
        if not colon or not text:
            raise ValidationError(f"a source route without an address: {_shown(address)}")
        for hop in route.split(","):
            if not hop.startswith("@"):
                raise ValidationError(f"not a source route: {_shown(address)}")
            _domain(hop[1:])
    return text


def _parse(address: str) -> tuple[str, Domain | AddressLiteral]:
    """The local part of a mailbox without quoting, and its domain."""
    _check_encodable(address, "address")
    local_part, rest = _split_local_part(address)
    if not local_part and not address.startswith('"'):
        raise ValidationError(f"there is nothing before the @: {_shown(address)}")
    return local_part, _domain(rest)


def _split_local_part(address: str) -> tuple[str, str]:
    """The local part without quoting, and the domain's text."""
    if address.startswith('"'):
        local_part, end = _unquote(address)
        if address[end : end + 1] != "@":
            raise ValidationError(f"there is no @ after the quoted part: {_shown(address)}")
        return local_part, address[end + 1 :]
    local_part, at, domain = address.partition("@")
    if not at:
        raise ValidationError(f"there is no @ in the address: {_shown(address)}")
    if local_part and not _is_loose_dot_string(local_part):
        raise ValidationError(
            f"the part before the @ needs quotes or has a character that may not be sent: "
            f"{_shown(address)}"
        )
    return local_part, domain


def _unquote(address: str) -> tuple[str, int]:
    """Read the quoted string that ``address`` begins with; its content, and where it ends."""
    content: list[str] = []
    position = 1
    while position < len(address):
        char = address[position]
        if char == '"':
            return "".join(content), position + 1
        if char == "\\":
            position += 1
            char = address[position : position + 1]
        if not char or not _in_quoted_string(char):
            break
        content.append(char)
        position += 1
    raise ValidationError(f"the quoted part is not well-formed: {_shown(address)}")


def _in_quoted_string(char: str) -> bool:
    # qtextSMTP and quoted-pairSMTP are printable ASCII (RFC 5321 4.1.2) and UTF8-non-ascii.
    return " " <= char <= "~" or (char >= "\u00a0" and char not in "\u2028\u2029")


def _is_dot_string(text: str) -> bool:
    return _DOT_STRING.match(text) is not None and (
        text.isascii() or all(map(_in_quoted_string, text))
    )


def _is_loose_dot_string(text: str) -> bool:
    return _LOOSE_DOT_STRING.match(text) is not None and (
        text.isascii() or all(map(_in_quoted_string, text))
    )


def _quoted_if_needed(local_part: str) -> str:
    if _is_dot_string(local_part):
        return local_part
    escaped = local_part.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
