"""Hints for the two common TLS mistakes, added to the text of a connection error.

The TLS mode may not fit the port (RFC 8314 3.3: TLS starts at once on 465, and later or never on
587 and 25), or the authority or the name in a certificate is not the expected one. OpenSSL's
errors, or a timeout, do not tell the user which mistake it is.
"""

from __future__ import annotations

import ssl

from smtpconn.model.errors import (
    ConnectionClosedError,
    ParseError,
    Phase,
    SmtpError,
    SmtpTimeoutError,
    TlsError,
    TransportError,
    public_class,
)
from smtpconn.model.modes import Protocol, TlsMode
from smtpconn.net.tls import Authorities

IMPLICIT_TLS_PORT = 465
"""The port where TLS starts with the first byte (RFC 8314 3.3)."""

CLEAR_PORTS = frozenset({25, 587})
"""The ports where a session starts without TLS (RFC 5321 4.5.4.2, RFC 6409 3.1)."""

# OpenSSL's reasons for bytes that are not TLS, in its several versions.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})

# X509_V_ERR_*: 2, 20, 21: unknown issuer; 18, 19: self-signed; 62, 64: another name.
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
_ANOTHER_NAME = frozenset({62, 64})

_PLAIN_ERRORS = (TlsError, TransportError, ConnectionClosedError, SmtpTimeoutError, ParseError)


def with_hint(
    error: SmtpError,
    host: str,
    port: int,
    protocol: Protocol,
    tls_mode: TlsMode,
    context_is_callers: bool,
    cafile: str | None,
) -> SmtpError:
    """The same error with a hint appended to its text; itself if there is no hint.

    Args:
        error: the failure of connecting.
        host, port, protocol, tls_mode: what the connection was made with.
        context_is_callers: whether the caller passed its own TLS context.
        cafile: the caller's authorities, if any.
    """
    kind = public_class(error)
    if kind not in _PLAIN_ERRORS:
        return error
    if isinstance(error.__cause__, ssl.SSLCertVerificationError):
        authorities = None if context_is_callers else Authorities.chosen(cafile)
        hint = _certificate_hint(error.__cause__, authorities)
    else:
        hint = _mode_hint(error, host, port, protocol, tls_mode)
    if not hint:
        return error
    hinted = kind(f"{error}; {hint}", phase=error.phase, cause=error.__cause__)
    hinted.__cause__ = error.__cause__
    return hinted


def _certificate_hint(error: ssl.SSLCertVerificationError, authorities: Authorities | None) -> str:
    if error.verify_code in _ANOTHER_NAME:
        return (
            "if it is the right server, set tls_server_name= (?tls_server_name= in a URL) to a "
            "name in its certificate"
        )
    if error.verify_code not in _UNKNOWN_AUTHORITY:
        return ""
    if authorities is None:
        return "load its authority into the tls_context given"
    if authorities.named_by:
        return (
            f"only the authorities named by {authorities.named_by} are trusted: add the right one"
        )
    return "if its authority is to be trusted, set cafile= (?cafile= in a URL) or SSL_CERT_FILE"


def _mode_hint(
    error: SmtpError, host: str, port: int, protocol: Protocol, tls_mode: TlsMode
) -> str:
    if host.startswith("/"):
        return ""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = "lmtp" if protocol is Protocol.LMTP else "smtp"
    if tls_mode is TlsMode.IMPLICIT:
        is_clear = getattr(error.__cause__, "reason", None) in _NO_TLS
        if error.phase is not Phase.TLS or not (is_clear or port in CLEAR_PORTS):
            return ""
        # Port 25 is for mail between servers, some of which have no TLS.
        also = f" (or {scheme}://{where} without TLS)" if is_clear and port != 587 else ""
        return (
            f"TLS was expected from the first byte at {where}, which seems to begin in clear: "
            f"try {scheme}+starttls://{where}{also}; outside a URL that is TlsMode.STARTTLS"
        )
    is_silent = isinstance(error, SmtpTimeoutError)
    if error.phase is not Phase.GREETING or not (is_silent or port == IMPLICIT_TLS_PORT):
        return ""
    return (
        f"a greeting in clear was expected at {where}; if TLS begins there with the first byte, "
        f"as usual at port {IMPLICIT_TLS_PORT}: try {scheme}s://{where}; outside a URL that is "
        f"TlsMode.IMPLICIT"
    )
