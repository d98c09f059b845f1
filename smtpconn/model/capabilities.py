"""A server's extensions, parsed from the reply to EHLO (RFC 5321 4.1.1.1).

An extension is recognised only by the first word of its own line, in any case. A search for
"STARTTLS" anywhere in the reply could be misled by a greeting that mentions it. Lines that are not
in the form of an extension are ignored.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field

from smtpconn.model.pickling import reduce_enum, reduce_value
from smtpconn.model.replies import SmtpResponse

_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*\Z")
_MECHANISM = re.compile(r"[A-Za-z0-9\-_]+\Z")


class AuthMechanism(enum.StrEnum):
    """The SASL mechanisms that smtpconn supports, by the names that servers advertise."""

    __reduce_ex__ = reduce_enum

    PLAIN = "PLAIN"
    LOGIN = "LOGIN"
    XOAUTH2 = "XOAUTH2"
    OAUTHBEARER = "OAUTHBEARER"
    CRAM_MD5 = "CRAM-MD5"
    SCRAM_SHA_1 = "SCRAM-SHA-1"
    SCRAM_SHA_1_PLUS = "SCRAM-SHA-1-PLUS"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_256_PLUS = "SCRAM-SHA-256-PLUS"
    EXTERNAL = "EXTERNAL"


@dataclass(frozen=True, slots=True)
class SmtpExtension:
    """One line of the EHLO reply.

    Attributes:
        keyword: in upper case.
        parameters: as sent.
    """

    __reduce_ex__ = reduce_value

    keyword: str
    parameters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.keyword, *self.parameters))


@dataclass(frozen=True, slots=True)
class ServerCapabilities:
    """The content of a server's reply to EHLO, LHLO or HELO.

    Attributes:
        greeting_name: the server's name for itself.
        extensions: one entry per keyword, in the server's order.
        supports_pipelining: RFC 2920.
        supports_chunking: RFC 3030.
        supports_8bitmime: RFC 6152.
        supports_smtputf8: RFC 6531.
        supports_size: RFC 1870.
        size_limit: the largest message in bytes the server accepts; None without a limit (RFC
            1870).
        has_limits: whether the server named limits (RFC 9422).
        max_recipients: the most RCPTs in a transaction (RFC 9422 5.2); None if the server named no
            limit.
        max_transactions: the most MAILs on a connection (RFC 9422 5.1); None if the server named
            no limit.
    """

    __reduce_ex__ = reduce_value

    greeting_name: str = ""
    extensions: tuple[SmtpExtension, ...] = ()
    _by_keyword: dict[str, SmtpExtension] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    # Computed once, because every message needs them.
    supports_pipelining: bool = field(init=False, repr=False, compare=False)
    supports_chunking: bool = field(init=False, repr=False, compare=False)
    supports_8bitmime: bool = field(init=False, repr=False, compare=False)
    supports_smtputf8: bool = field(init=False, repr=False, compare=False)
    supports_size: bool = field(init=False, repr=False, compare=False)
    size_limit: int | None = field(init=False, repr=False, compare=False)
    has_limits: bool = field(init=False, repr=False, compare=False)
    max_recipients: int | None = field(init=False, repr=False, compare=False)
    max_transactions: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = self._by_keyword
        for extension in self.extensions:
            known.setdefault(extension.keyword, extension)
        size_limit = next((_count(parameter) for parameter in self.parameters("SIZE")), None)
        for name, value in (
            ("supports_pipelining", "PIPELINING" in known),
            ("supports_chunking", "CHUNKING" in known),
            ("supports_8bitmime", "8BITMIME" in known),
            ("supports_smtputf8", "SMTPUTF8" in known),
            ("supports_size", "SIZE" in known),
            ("size_limit", size_limit),
            ("has_limits", "LIMITS" in known),
            ("max_recipients", self._limit("RCPTMAX")),
            ("max_transactions", self._limit("MAILMAX")),
        ):
            object.__setattr__(self, name, value)

    def supports(self, keyword: str) -> bool:
        """Whether an extension was advertised; ``keyword`` in any case."""
        return keyword.isascii() and keyword.upper() in self._by_keyword

    def parameters(self, keyword: str) -> tuple[str, ...]:
        """The parameters of the extension ``keyword`` as sent; empty if there are none."""
        extension = self._by_keyword.get(keyword.upper())
        return extension.parameters if extension is not None else ()

    @property
    def supports_binarymime(self) -> bool:
        """RFC 3030 3."""
        return "BINARYMIME" in self._by_keyword

    @property
    def supports_starttls(self) -> bool:
        """RFC 3207."""
        return "STARTTLS" in self._by_keyword

    @property
    def supports_dsn(self) -> bool:
        """RFC 3461."""
        return "DSN" in self._by_keyword

    @property
    def supports_enhanced_status_codes(self) -> bool:
        """RFC 2034."""
        return "ENHANCEDSTATUSCODES" in self._by_keyword

    @property
    def supports_deliver_by(self) -> bool:
        """RFC 2852."""
        return "DELIVERBY" in self._by_keyword

    @property
    def supports_future_release(self) -> bool:
        """RFC 4865."""
        return "FUTURERELEASE" in self._by_keyword

    @property
    def supports_mt_priority(self) -> bool:
        """RFC 6710."""
        return "MT-PRIORITY" in self._by_keyword

    @property
    def supports_require_tls(self) -> bool:
        """RFC 8689."""
        return "REQUIRETLS" in self._by_keyword

    @property
    def auth_mechanisms(self) -> tuple[str, ...]:
        """The SASL mechanisms offered, in upper case and in the server's order (RFC 4954 3)."""
        offered = (p.upper() for p in self.parameters("AUTH") if _MECHANISM.match(p))
        # Each once: many servers repeat their list in the old form, "AUTH=".
        return tuple(dict.fromkeys(offered))

    @property
    def auth_offer(self) -> str:
        """The offered mechanisms in words, with a hint if STARTTLS may lead to more."""
        offer = " ".join(self.auth_mechanisms) or "no AUTH at all"
        if self.supports_starttls:
            offer += (
                " without TLS. It offers STARTTLS, and may offer more after it: ask for that with "
                "TlsMode.STARTTLS or a URL that begins with smtp+starttls://"
            )
        return offer

    def supports_auth(self, mechanism: AuthMechanism | str) -> bool:
        """Whether a SASL mechanism is offered; its name in any case."""
        return mechanism.isascii() and mechanism.upper() in self.auth_mechanisms

    def _limit(self, name: str) -> int | None:
        for parameter in self.parameters("LIMITS"):
            key, _, value = parameter.partition("=")
            if key.upper() == name:
                return _count(value)
        return None

    @classmethod
    def from_ehlo(
        cls, reply: SmtpResponse, ignore_extensions: frozenset[str] = frozenset()
    ) -> ServerCapabilities:
        """Read a positive EHLO or LHLO reply, leaving out the keywords in ``ignore_extensions``."""
        found: dict[str, SmtpExtension] = {}
        for line in reply.lines[1:]:
            # "AUTH=LOGIN PLAIN" is the form of a draft of RFC 2554. Old Exchange and many
            # appliances send it, alone or in addition.
            word, *parameters = _words(line) or [""]
            if word[:5].upper() == "AUTH=":
                word, parameters = word[:4], [word[5:], *parameters] if word[5:] else parameters
            # Matched before upper(), because some non-ASCII letters have an ASCII upper case.
            if not _KEYWORD.match(word) or (keyword := word.upper()) in ignore_extensions:
                continue
            # Some servers spread AUTH over several lines; their lists are joined.
            known = found[keyword].parameters if keyword in found else ()
            if keyword == "AUTH" or keyword not in found:
                new = (parameter for parameter in parameters if parameter not in known)
                found[keyword] = SmtpExtension(keyword, (*known, *new))
        return cls(greeting_name(reply), tuple(found.values()))

    @classmethod
    def from_helo(cls, reply: SmtpResponse) -> ServerCapabilities:
        """Read a positive HELO reply: a name and no extensions, whatever its text says."""
        return cls(greeting_name(reply))


def _count(text: str) -> int | None:
    """A limit as a server writes it; None (no limit) for 0 and for text that is no number."""
    return int(text) or None if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _words(line: str) -> list[str]:
    """The words of a line, separated by spaces and tabs but not by other Unicode spaces."""
    return [word for word in line.replace("\t", " ").split(" ") if word]


def greeting_name(reply: SmtpResponse) -> str:
    """The server's name for itself: the first word of its reply."""
    words = _words(reply.lines[0])
    return words[0] if words else ""
