"""Settings of the process for ``smtplib``'s API: pooling, and which connections are allowed."""

from __future__ import annotations

import ssl
import warnings
from dataclasses import dataclass
from typing import Unpack

from smtpconn.net.tls import shared_context
from smtpconn.pool.options import PoolKeywords
from smtpconn.smtplib.pools import Pools

_unverified: dict[tuple[str | None, str | None, type[ssl.SSLContext]], ssl.SSLContext] = {}


@dataclass(slots=True)
class Settings:
    """The settings of the process.

    Attributes:
        pools: the default pools; None for no pooling.
        verify: whether certificates are checked if the program gives no context.
        allow_cleartext_auth: whether a password may be sent without TLS to another machine.
    """

    pools: Pools | None = None
    verify: bool = True
    allow_cleartext_auth: bool = False

    def context(self, certfile: str | None = None, keyfile: str | None = None) -> ssl.SSLContext:
        """The TLS context if the program gives none; the same object for the same files."""
        if self.verify:
            return shared_context(None, certfile, keyfile)
        # Without a lock, because a forked child could inherit a locked one. If two threads create a
        # context at the same time, `setdefault` gives both the first. The class is part of the key
        # because gevent may replace it.
        key = (certfile, keyfile, ssl.SSLContext)
        context = _unverified.get(key)
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certfile:
                context.load_cert_chain(certfile, keyfile)
            context = _unverified.setdefault(key, context)
        return context


current = Settings()


def check_files(context: ssl.SSLContext | None, keyfile: str | None, certfile: str | None) -> None:
    """Check that a client certificate is given in one way only, as ``smtplib`` does.

    Raises:
        ValueError: both a context and a file are given.
    """
    for name, value in (("keyfile", keyfile), ("certfile", certfile)):
        if context is not None and value is not None:
            raise ValueError(f"context and {name} arguments are mutually exclusive")
    if keyfile is not None or certfile is not None:
        warnings.warn(
            "keyfile and certfile are deprecated, use a custom context instead",
            DeprecationWarning,
            3,
        )


def pooled(**options: Unpack[PoolKeywords]) -> Pools:
    """Use pooled connections for every `SMTP`, `SMTP_SSL` and `LMTP` created from now on.

    Call it once at the start of a program, or use the result in a ``with`` statement: its end
    closes the pools and restores the previous setting.

    Args:
        options: for each pool, as `smtpconn.ConnectionPool` takes them; ``max_size`` is 10 and
            ``acquire_timeout`` 60 seconds unless given.

    Raises:
        ValidationError: as `smtpconn.ConnectionPool`.
    """
    pools, before = Pools(**options), current.pools
    current.pools = pools

    def restore() -> None:
        if current.pools is pools:
            current.pools = before

    pools.when_closed(restore)
    return pools


def configure(*, verify: bool = True, allow_cleartext_auth: bool = False) -> None:
    """Set which connections this module allows from now on.

    Args:
        verify: whether `SMTP.starttls` and `SMTP_SSL` check certificates and host names if the
            program gives no context. The standard library's ``smtplib`` does not check
            them. With False, this module does not either, and an attacker on the network can read
            passwords and messages.
        allow_cleartext_auth: whether passwords may be sent without TLS to other machines.
    """
    current.verify, current.allow_cleartext_auth = verify, allow_cleartext_auth
