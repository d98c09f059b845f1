"""`LMTP`: `SMTP` for a server that answers for each recipient (RFC 2033)."""

from __future__ import annotations

import smtplib

from smtpconn.smtplib.pools import Pools
from smtpconn.smtplib.replies import Reply
from smtpconn.smtplib.smtp import DEFAULT_TIMEOUT, SMTP


class LMTP(SMTP, smtplib.LMTP):
    """``smtplib.LMTP`` over smtpconn; every recipient's final reply is read (RFC 2033 4.2).

    Args:
        host: a name, an address, or the path of a UNIX socket (begins with "/").
        port, local_hostname, source_address, timeout: as ``smtplib.LMTP`` takes them.
        pool: as `SMTP` takes it.
    """

    ehlo_msg = "lhlo"

    def __init__(
        self,
        host: str = "",
        port: int = smtplib.LMTP_PORT,
        local_hostname: str | None = None,
        source_address: tuple[str, int] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        *,
        pool: Pools | bool | None = None,
    ) -> None:
        SMTP.__init__(self, host, port, local_hostname, timeout, source_address, pool=pool)

    def connect(  # type: ignore[override]  # typeshed allows any socket address
        self,
        host: str = "localhost",
        port: int = 0,
        source_address: tuple[str, int] | None = None,
    ) -> Reply:
        """As `SMTP.connect`; ``host`` may be the path of a UNIX socket. Returns the greeting."""
        return SMTP.connect(self, host, port, source_address)

    def _host_and_port(self, host: str, port: int | str | None) -> tuple[str, int]:
        return (host, 0) if host.startswith("/") else super()._host_and_port(host, port)
