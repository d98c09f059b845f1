"""TLS settings: which peers are believed (RFC 3207 4.1, RFC 8314); and what a handshake came to.

Rule: verification is the default and is never weakened here. Who wants less gives a context of
their own and answers for it.
"""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """What a TLS handshake came to.

    Attributes:
        version: such as ``TLSv1.3``.
        cipher: the name of the cipher suite, as OpenSSL has it.
        bits: the length of its secret key.
        is_verified: whether the certificate and the host name were checked. If not, somebody on
            the way may be the one who answers.
        is_resumed: whether an earlier session was taken up again.
        certificate: the peer's, in DER; None if it showed none.
    """

    version: str
    cipher: str
    bits: int
    is_verified: bool
    is_resumed: bool
    certificate: bytes | None = field(repr=False)

    @classmethod
    def from_socket(cls, tls: ssl.SSLSocket) -> Self | None:
        """Ask the socket ``tls``; None if its handshake is not done, or it is closed."""
        version, cipher = tls.version(), tls.cipher()
        if version is None or cipher is None:
            return None
        context = tls.context
        return cls(
            version=version,
            cipher=cipher[0],
            bits=cipher[2],
            is_verified=context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname,
            is_resumed=bool(tls.session_reused),
            certificate=tls.getpeercert(binary_form=True),
        )


def new_context() -> ssl.SSLContext:
    """A context that trusts certifi's authorities, checks the host name and needs TLS 1.2."""
    # Here and not above: it takes as long to import as half of smtpconn, and has no other use.
    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@functools.cache
def default_context() -> ssl.SSLContext:
    """The `new_context` of those who have none of their own.

    Made once per process, because reading the authorities takes longer than most connections.
    """
    return new_context()
