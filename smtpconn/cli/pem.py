"""PEM files that options name: our own certificate, and the authorities to trust.

Rule: a file that is no use is a `UsageError` that names the file; OpenSSL's own errors name none.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from smtpconn.cli.exit_codes import UsageError
from smtpconn.net.tls import new_context


def load_certificate(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Load our own certificate.

    Args:
        context: where to.
        certificate: a PEM file.
        key: another one, if the key is not in the same.

    Raises:
        UsageError: a file cannot be read, or holds no such thing.
    """
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise UsageError(f"--tls-cert {certificate} is no use: {_reason(error)}") from None


def trusting(path: str | None) -> ssl.SSLContext:
    """A context for a client that trusts the authorities in a file or directory.

    Args:
        path: None for those of `smtpconn.net.tls.new_context`.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    if path is None:
        return new_context()
    try:
        is_directory = Path(path).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_directory else path, capath=path if is_directory else None
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"--tls-ca-path {path} is no use: {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"it holds no PEM that fits ({error.reason or 'unreadable'})"
    return str(getattr(error, "strerror", None) or error)
