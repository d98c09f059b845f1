"""`SMTP_SSL`: `SMTP` with TLS from the first byte."""

from __future__ import annotations

import smtplib
import socket
import ssl
import sys

from smtpconn.smtplib import settings
from smtpconn.smtplib.connection import wrap_in_tls
from smtpconn.smtplib.pools import Pools
from smtpconn.smtplib.smtp import DEFAULT_TIMEOUT, SMTP


class SMTP_SSL(SMTP, smtplib.SMTP_SSL):
    """``smtplib.SMTP_SSL`` over smtpconn; without a context the certificate is verified.

    Args:
        host, port, local_hostname, timeout, source_address, context: as ``smtplib.SMTP_SSL``.
        pool: as `SMTP` takes it.
    """

    default_port = smtplib.SMTP_SSL_PORT
    _has_own_context = False

    if sys.version_info >= (3, 12):

        def __init__(
            self,
            host: str = "",
            port: int = 0,
            local_hostname: str | None = None,
            *,
            timeout: float = DEFAULT_TIMEOUT,
            source_address: tuple[str, int] | None = None,
            context: ssl.SSLContext | None = None,
            pool: Pools | bool | None = None,
        ) -> None:
            self._has_own_context = context is not None
            self.context = context or settings.current.context()
            SMTP.__init__(self, host, port, local_hostname, timeout, source_address, pool=pool)

    else:

        def __init__(
            self,
            host: str = "",
            port: int = 0,
            local_hostname: str | None = None,
            keyfile: str | None = None,
            certfile: str | None = None,
            timeout: float = DEFAULT_TIMEOUT,
            source_address: tuple[str, int] | None = None,
            context: ssl.SSLContext | None = None,
            *,
            pool: Pools | bool | None = None,
        ) -> None:
            settings.check_files(context, keyfile, certfile)
            self.keyfile, self.certfile = keyfile, certfile
            self._has_own_context = context is not None
            self.context = context or settings.current.context(certfile, keyfile)
            SMTP.__init__(self, host, port, local_hostname, timeout, source_address, pool=pool)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = super()._get_socket(host, port, timeout)
        return wrap_in_tls(sock, self.context, host, self._deadline())

    def _first_context(self) -> tuple[ssl.SSLContext | None, bool]:
        return self.context, self._has_own_context
