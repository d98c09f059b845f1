"""The choices of a connection: protocol, TLS and pipelining."""

from __future__ import annotations

import enum

from smtpconn.model.pickling import reduce_enum


class Protocol(enum.StrEnum):
    """The protocol of a connection: SMTP (RFC 5321) or LMTP (RFC 2033)."""

    __reduce_ex__ = reduce_enum

    SMTP = "SMTP"
    LMTP = "LMTP"


class Pipelining(enum.StrEnum):
    """How many commands are sent before their replies have come (RFC 2920).

    OFF: one at a time. AUTO: groups of commands as in RFC 2920, if the server offers PIPELINING.
    EAGER: the content, too, is sent before the recipients' replies; for servers the user trusts.
    """

    __reduce_ex__ = reduce_enum

    OFF = "OFF"
    AUTO = "AUTO"
    EAGER = "EAGER"


class TlsMode(enum.StrEnum):
    """How a connection is protected.

    NONE: not at all. IMPLICIT: TLS from the first byte (port 465). STARTTLS: no TLS until STARTTLS,
    which must succeed (ports 587 and 25).
    """

    __reduce_ex__ = reduce_enum

    NONE = "NONE"
    IMPLICIT = "IMPLICIT"
    STARTTLS = "STARTTLS"
