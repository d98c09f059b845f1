"""TLS settings: which peers are believed (RFC 3207 4.1, RFC 8314).

Rule: verification is the default and is never weakened here. Who wants less gives a context of
their own and answers for it.
"""

from __future__ import annotations

import enum
import functools
import ssl


class TlsMode(enum.StrEnum):
    """How a connection is protected.

    NONE: not at all. IMPLICIT: TLS from the first octet (port 465). STARTTLS: in clear until
    STARTTLS, which then has to succeed (ports 587 and 25).
    """

    NONE = "NONE"
    IMPLICIT = "IMPLICIT"
    STARTTLS = "STARTTLS"


@functools.cache
def default_context() -> ssl.SSLContext:
    """A context that trusts certifi's authorities, checks the host name and needs TLS 1.2.

    Made once per process, because reading the authorities takes longer than most connections.
    """
    # Here and not above: it takes as long to import as half of smtpconn, and has no other use.
    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
