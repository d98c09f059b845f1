"""TLS settings: which peers are believed (RFC 3207 4.1, RFC 8314); and what a handshake came to.

Rule: verification is the default and is never weakened here. Who wants less gives a context of
their own and answers for it.
"""

from __future__ import annotations

import os
import ssl
import threading
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from smtpconn.model.errors import Phase, TlsError
from smtpconn.model.pickling import reduce_value


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

    __reduce_ex__ = reduce_value

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


@dataclass(frozen=True, slots=True)
class Authorities:
    """Whose certificates are believed.

    One rule for all of smtpconn: authorities that somebody names count alone (pinning); otherwise
    the system's and certifi's count together, because either may be old or missing.

    Attributes:
        cafile: a file with authorities in PEM; None if there is none.
        capath: directories with authorities, as OpenSSL has them; None if there are none.
        named_by: what names them, such as ``SSL_CERT_FILE=/etc/ca.pem``; "" if nobody does.
    """

    cafile: str | None
    capath: str | None
    named_by: str

    @classmethod
    def chosen(cls, cafile: str | None) -> Self:
        """Those in ``cafile``, else those the environment names, else all there are."""
        if cafile is not None:
            return cls(cafile, None, f"cafile={cafile}")
        # OpenSSL reads both by itself, but goes on to trust the system's where one is not set.
        named = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        named_by = " and ".join(f"{name}={value}" for name, value in named.items() if value)
        return cls(named["SSL_CERT_FILE"] or None, named["SSL_CERT_DIR"] or None, named_by)

    def new_context(self) -> ssl.SSLContext:
        """A context that trusts them, checks the host name and needs TLS 1.2.

        Raises:
            TlsError: the file cannot be read, or holds no authority.
        """
        # Without a file or a directory these are the system's.
        try:
            context = ssl.create_default_context(cafile=self.cafile, capath=self.capath)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise TlsError(
                f"the authorities named by {self.named_by} cannot be read: {reason}",
                phase=Phase.TLS,
            ) from error
        if not self.named_by:
            # Not above: it takes as long to import as half of smtpconn, and has no other use.
            import certifi

            context.load_verify_locations(cafile=certifi.where())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def new_context(cafile: str | None = None) -> ssl.SSLContext:
    """A context of the caller's own that checks certificates and host names and needs TLS 1.2.

    Args:
        cafile: the authorities to trust, a file in PEM; None for those in ``SSL_CERT_FILE`` and
            ``SSL_CERT_DIR`` if set, else the system's and certifi's.

    Raises:
        TlsError: the authorities cannot be read.
    """
    return Authorities.chosen(cafile).new_context()


_Files: TypeAlias = tuple[Authorities, str | None, str | None]
_contexts: dict[tuple[_Files, tuple[int, ...]], ssl.SSLContext] = {}
_locks: dict[int, threading.RLock] = {}

LOCK_TIMEOUT = 1.0
"""Seconds to wait at most for another thread that makes a context; then one's own is made."""


def shared_context(
    cafile: str | None = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    *,
    seconds: float = LOCK_TIMEOUT,
) -> ssl.SSLContext:
    """The process's one context for these files; another one when a file has changed.

    It is made once, because reading the authorities takes longer than most connections, and because
    a TLS session is of use only with the very context it came from.

    Args:
        cafile: as `new_context` takes it.
        certfile, keyfile: the client's certificate and its key, in PEM.
        seconds: how long another thread may be waited for that makes one.

    Raises:
        TlsError: the authorities cannot be read.
        OSError: the client's certificate or key cannot be read.
    """
    authorities = Authorities.chosen(cafile)
    files: _Files = (authorities, certfile, keyfile)
    key = (files, tuple(_changed_at(f) for f in (authorities.cafile, certfile, keyfile) if f))
    if (context := _contexts.get(key)) is not None:
        return context
    # One per process id, because a forked child may inherit one that is held for ever.
    lock = _locks.get(os.getpid()) or _locks.setdefault(os.getpid(), threading.RLock())
    is_held = lock.acquire(timeout=min(seconds, LOCK_TIMEOUT))
    try:
        if (context := _contexts.get(key)) is not None:
            return context
        context = authorities.new_context()
        if certfile:
            context.load_cert_chain(certfile, keyfile or None)
        # The lock saves work; that there is only one is this line's doing. So it holds for a signal
        # handler, too, that sends mail while its own thread is here.
        context = _contexts.setdefault(key, context)
    finally:
        if is_held:
            lock.release()
    for other in list(_contexts):
        if other[0] == files and other != key:
            _contexts.pop(other, None)
    return context


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0  # whoever reads it says so, and names it
