"""The choices of a connection: protocol, TLS and pipelining."""

from __future__ import annotations

import enum

from smtpconn.model.pickling import reduce_enum


class Protocol(enum.StrEnum):
    """What is spoken: SMTP (RFC 5321) or LMTP (RFC 2033)."""

    __reduce_ex__ = reduce_enum

    SMTP = "SMTP"
    LMTP = "LMTP"


class Pipelining(enum.StrEnum):
    """How far commands run ahead of their replies (RFC 2920).

    OFF: not at all. AUTO: groups of commands as RFC 2920 has them, where the server offers it.
    EAGER: also content before the recipients' replies, for servers the user trusts.
    """

    __reduce_ex__ = reduce_enum

    OFF = "OFF"
    AUTO = "AUTO"
    EAGER = "EAGER"


class TlsMode(enum.StrEnum):
    """How a connection is protected.

    NONE: not at all. IMPLICIT: TLS from the first octet (port 465). STARTTLS: in clear until
    STARTTLS, which then has to succeed (ports 587 and 25).
    """

    __reduce_ex__ = reduce_enum

    NONE = "NONE"
    IMPLICIT = "IMPLICIT"
    STARTTLS = "STARTTLS"
