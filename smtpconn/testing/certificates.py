"""Certificates for test servers, from an authority that exists in this process only.

They are made by trustme (extra ``pytest``), which is imported only when TLS is used.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme

NAMES = ("localhost", "127.0.0.1", "::1", "mx.example.test")
"""The names in every certificate of a server."""


class Authority:
    """A certification authority that lives as long as the process.

    Attributes:
        pem: its certificate.
    """

    def __init__(self, authority: trustme.CA) -> None:
        self._authority = authority
        self.pem = authority.cert_pem.bytes()

    def server_context(self, host: str) -> ssl.SSLContext:
        """A server-side context with a new certificate for this machine and for ``host``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = NAMES if host in ("", *NAMES) else (*NAMES, host)
        self._authority.issue_cert(*names).configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """A client-side context that trusts this authority and no other, and checks names."""
        return ssl.create_default_context(cadata=self.pem.decode())


_authorities: dict[str, Authority] = {}


def authority() -> Authority:
    """The authority of this process.

    Raises:
        ImportError: trustme is not installed.
    """
    try:
        import trustme
    except ImportError as error:
        raise ImportError(
            "a test server with TLS needs trustme: pip install 'smtpconn[pytest]'"
        ) from error
    if "own" not in _authorities:
        # Threads may come here at the same time; all use the authority that was stored first.
        _authorities.setdefault("own", Authority(trustme.CA()))
    return _authorities["own"]
