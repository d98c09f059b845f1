"""TLS settings: which certificates are trusted (RFC 3207 4.1, RFC 8314), and what was negotiated.

Verification is the default and is never weakened here. A caller who wants less passes their own
context.
"""

from __future__ import annotations

import os
import ssl
import threading
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from smtpconn.model.errors import Phase, TlsError
from smtpconn.model.pickling import reduce_value
from smtpconn.net.forking import current_process


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """The result of a TLS handshake.

    Attributes:
        version: such as ``TLSv1.3``.
        cipher: OpenSSL's name of the cipher suite.
        bits: the length of its secret key.
        is_verified: whether the certificate and the host name were checked. If not, the peer may be
            an attacker on the network.
        is_resumed: whether an earlier session was resumed.
        certificate: the peer's certificate in DER; None if it sent none.
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
        """Read it from the socket ``tls``; None before the handshake and after it was closed."""
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
    """The certificate authorities that are trusted.

    One rule for all of smtpconn: if authorities are configured, only those are trusted (pinning).
    Otherwise the system's and certifi's are trusted together, because either may be old or missing.

    Attributes:
        cafile: a file with authorities in PEM; None if there is none.
        capath: directories with authorities, in OpenSSL's format; None if there are none.
        named_by: the setting they come from, such as ``SSL_CERT_FILE=/etc/ca.pem``; "" if none.
    """

    cafile: str | None
    capath: str | None
    named_by: str

    @classmethod
    def chosen(cls, cafile: str | None) -> Self:
        """Those in ``cafile``, else those of the environment, else the system's and certifi's."""
        if cafile is not None:
            return cls(cafile, None, f"cafile={cafile}")
        # OpenSSL reads both variables itself, but if one is not set it adds the system's.
        named = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
        named_by = " and ".join(f"{name}={value}" for name, value in named.items() if value)
        return cls(named["SSL_CERT_FILE"] or None, named["SSL_CERT_DIR"] or None, named_by)

    def new_context(self) -> ssl.SSLContext:
        """A context that trusts them, checks the host name and requires TLS 1.2.

        Raises:
            TlsError: the file cannot be read, or holds no authority.
        """
        # Without a file and a directory, this loads the system's authorities.
        try:
            context = ssl.create_default_context(cafile=self.cafile, capath=self.capath)
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise TlsError(
                f"the authorities named by {self.named_by} cannot be read: {reason}",
                phase=Phase.TLS,
            ) from error
        if not self.named_by:
            # Imported here only: it takes as long as half of smtpconn.
            import certifi

            context.load_verify_locations(cafile=certifi.where())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def new_context(cafile: str | None = None) -> ssl.SSLContext:
    """A new context that checks certificates and host names and requires TLS 1.2.

    Args:
        cafile: a PEM file with the authorities to trust; None for those in ``SSL_CERT_FILE`` and
            ``SSL_CERT_DIR`` if set, else the system's and certifi's.

    Raises:
        TlsError: the authorities cannot be read.
    """
    return Authorities.chosen(cafile).new_context()


_Files: TypeAlias = tuple[Authorities, str | None, str | None]
_contexts: dict[tuple[_Files, tuple[int, ...], type[ssl.SSLContext]], ssl.SSLContext] = {}
_locks: dict[int, threading.RLock] = {}

LOCK_TIMEOUT = 1.0
"""Seconds to wait at most for another thread that creates the context; then create it here too."""


def _check_readable(*files: str | None) -> None:
    """Raise an OSError that names the file; the one that ``load_cert_chain`` raises does not."""
    for file in filter(None, files):
        with open(file, "rb"):
            pass


def shared_context(
    cafile: str | None = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    *,
    seconds: float = LOCK_TIMEOUT,
) -> ssl.SSLContext:
    """The context that all connections with these files share; a new one when a file has changed.

    It is shared because reading the authorities takes longer than most connections, and because a
    TLS session can be resumed only with the context it came from.

    Args:
        cafile: as `new_context` takes it.
        certfile, keyfile: the client's certificate and its key, in PEM.
        seconds: how long to wait for another thread that is creating the context.

    Raises:
        TlsError: the authorities cannot be read.
        OSError: the client's certificate or key cannot be read.
    """
    authorities = Authorities.chosen(cafile)
    files: _Files = (authorities, certfile, keyfile)
    changes = tuple(_changed_at(f) for f in (authorities.cafile, certfile, keyfile) if f)
    # The class is in the key: a context made before gevent replaced it can no longer connect.
    key = (files, changes, ssl.SSLContext)
    if (context := _contexts.get(key)) is not None:
        return context
    # One lock per process: a lock inherited by a forked child may never be released.
    process = current_process()
    lock = _locks.get(process) or _locks.setdefault(process, threading.RLock())
    is_held = lock.acquire(timeout=min(seconds, LOCK_TIMEOUT))
    try:
        if (context := _contexts.get(key)) is not None:
            return context
        context = authorities.new_context()
        if certfile:
            _check_readable(certfile, keyfile)
            context.load_cert_chain(certfile, keyfile or None)
        # The lock only avoids double work; this line ensures that all callers get the same context,
        # also a signal handler that sends mail while its own thread runs this function.
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
        return 0  # reading the file fails later, with an error that names it
