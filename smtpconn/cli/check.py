"""``smtpconn check``: what does this server offer, and does it do what I need?

The command opens a session as a program would, reports what the server offers, measures three
NOOPs, and quits. After a failure it reports what it found before. The report quotes the server's
replies, and notes what needs attention; a missing line means that the check did not get that far.
"""

from __future__ import annotations

import argparse
import hashlib
import ssl
import statistics
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from smtpconn.cli import options, transcript
from smtpconn.cli.exit_codes import CommandResult, Json, server_json
from smtpconn.cli.output import BAD, GOOD, HEADING, WARNING, Output, milliseconds, size
from smtpconn.cli.target import (
    SESSION_STAGES,
    Target,
    check_stage,
    connect_only,
    open_session,
    target_of,
)
from smtpconn.cli.transcript import Line, Steps
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.errors import Phase, SmtpError, TlsError
from smtpconn.model.modes import TlsMode
from smtpconn.net.tls import TlsInfo

NOOPS = 3
"""The number of NOOPs that measure the latency; servers close connections that send many."""

SOON = 30
"""A certificate with fewer days left gets a note."""

_CLEARTEXT_MECHANISMS = ("PLAIN", "LOGIN")
_TLS_MODES = {TlsMode.NONE: "in clear", TlsMode.IMPLICIT: "TLS", TlsMode.STARTTLS: "STARTTLS"}
_NO_CRYPTOGRAPHY = (
    "the package cryptography reads the whole certificate: pip install 'smtpconn[cli]'"
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    options.target_argument(parser)
    options.server(parser)
    group = parser.add_argument_group("check")
    group.add_argument(
        "-q", "--quit-after", choices=SESSION_STAGES, metavar="STAGE",
        help=f"stop after {', '.join(SESSION_STAGES)}",
    )  # fmt: skip
    group.add_argument(
        "--min-days", type=options.count, metavar="DAYS",
        help="fail (29) if the certificate is valid for fewer days",
    )  # fmt: skip
    options.transcript(parser)
    options.common(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Examine a server and report."""
    target = target_of(args, out)
    check_stage(target, args.quit_after)
    report = Report(target)
    error: SmtpError | None = None
    with transcript.Recorder(out.transcript_writer(args)) as recorder:
        begun = time.monotonic()
        try:
            _examine(target, args.quit_after, report)
            _check_days(report, args.min_days)
        except SmtpError as raised:
            error = raised
            out.transcript_error(str(error))
    report.add_from_log(recorder.lines, begun)
    report.show(error, out)
    return CommandResult.of(error, report.as_json())


def _examine(target: Target, stage: str | None, report: Report) -> None:
    if stage == "connect":
        return connect_only(target)
    with open_session(target, stage) as connection:
        report.add_from_connection(connection)
        if stage is None:
            report.noop = _latency(connection)
    return None


def _latency(connection: SmtpConnection) -> Latency:
    seconds = []
    for _ in range(NOOPS):
        begun = time.monotonic()
        connection.noop()
        seconds.append(time.monotonic() - begun)
    return Latency(min(seconds), statistics.median(seconds), max(seconds))


def _check_days(report: Report, min_days: int | None) -> None:
    if min_days is None:
        return
    if report.certificate is None:
        reason = f"; {_NO_CRYPTOGRAPHY}" if report.is_cryptography_missing else ""
        raise TlsError(f"--min-days: no certificate was read{reason}", phase=Phase.TLS)
    days = report.certificate.days_left(datetime.now(UTC))
    if days < min_days:
        raise TlsError(
            f"the certificate is valid for {days} more days, fewer than {min_days}",
            phase=Phase.TLS,
        )


# The certificate


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate (RFC 5280).

    Attributes:
        subject, issuer: such as ``CN=mx.example.com, O=Example``; "" without such an attribute.
        names: the host names and addresses that it is valid for.
        not_before, not_after: when it is valid.
        sha256: its fingerprint, in hexadecimal.
        is_self_signed: whether subject and issuer are the same.
    """

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    sha256: str
    is_self_signed: bool

    def days_left(self, now: datetime) -> int:
        """Whole days until it expires; negative after that."""
        return (self.not_after - now).days


def read_certificate(der: bytes) -> Certificate:
    """Read a certificate in DER, trusted or not.

    Raises:
        ImportError: the package cryptography is missing.
        ValueError: it is not a certificate.
    """
    from cryptography import x509

    try:
        # cryptography warns about old certificates with details that current RFCs forbid.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = x509.load_der_x509_certificate(der)
            issuer, subject = found.issuer, found.subject
            names: list[str] = []
            for extension in found.extensions:
                if isinstance(extension.value, x509.SubjectAlternativeName):
                    names += (
                        str(name.value)
                        for name in extension.value
                        if isinstance(name, (x509.DNSName, x509.IPAddress))
                    )
    except (ValueError, x509.DuplicateExtension) as error:
        raise ValueError(f"not a certificate: {error}") from error
    return Certificate(
        subject=_distinguished_name(_attributes(subject)),
        issuer=_distinguished_name(_attributes(issuer)),
        names=tuple(names),
        not_before=found.not_valid_before_utc,
        not_after=found.not_valid_after_utc,
        sha256=_fingerprint(der),
        is_self_signed=issuer == subject,
    )


def _attributes(name: Any) -> list[tuple[str, str]]:
    return [(attribute.oid._name, str(attribute.value)) for attribute in name]


def certificate_from_ssl(der: bytes, found: Mapping[str, Any]) -> Certificate | None:
    """Read the dict of `ssl.SSLSocket.getpeercert`, which is empty without verification."""
    if not found:
        return None
    issuer, subject = found.get("issuer", ()), found.get("subject", ())
    kinds = ("DNS", "IP Address")
    return Certificate(
        subject=_distinguished_name([pair for rdn in subject for pair in rdn]),
        issuer=_distinguished_name([pair for rdn in issuer for pair in rdn]),
        names=tuple(name for kind, name in found.get("subjectAltName", ()) if kind in kinds),
        not_before=datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notBefore"]), UTC),
        not_after=datetime.fromtimestamp(ssl.cert_time_to_seconds(found["notAfter"]), UTC),
        sha256=_fingerprint(der),
        is_self_signed=issuer == subject,
    )


def _distinguished_name(attributes: list[tuple[str, str]]) -> str:
    """CN, O and OU of a name (RFC 4519), as ``CN=mx.example.com, O=Example``."""
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU"}
    return ", ".join(
        sorted(f"{short[name]}={value}" for name, value in attributes if name in short)
    )


def _fingerprint(der: bytes) -> str:
    return hashlib.sha256(der).digest().hex(":").upper()


# The report


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds from a NOOP to its reply."""

    least: float
    median: float
    most: float


@dataclass(slots=True)
class Report:
    """The findings about a server; None or empty for those that the check did not get.

    Attributes:
        target: the server.
        banner: the lines of its greeting, with their codes.
        capabilities: the extensions that it offers at the end of the session.
        cleartext_capabilities: the extensions that it offered before TLS.
        tls, certificate: the TLS data and the server's certificate.
        is_cryptography_missing: whether the package cryptography, which reads the whole
            certificate, is missing.
        mechanism: the SASL mechanism of the login.
        steps: the duration of each step of the session.
        noop: the latency of NOOP.
    """

    target: Target
    banner: list[str] = field(default_factory=list)
    capabilities: ServerCapabilities | None = None
    cleartext_capabilities: ServerCapabilities | None = None
    tls: TlsInfo | None = None
    certificate: Certificate | None = None
    is_cryptography_missing: bool = False
    mechanism: str | None = None
    steps: Steps = field(default_factory=Steps)
    noop: Latency | None = None

    def add_from_connection(self, connection: SmtpConnection) -> None:
        """Add the greeting, extensions, AUTH mechanism and TLS data of an open session."""
        *first, last = connection.greeting.lines
        self.banner = [*(f"220-{line}" for line in first), f"220 {last}"]
        self.capabilities = connection.capabilities
        self.mechanism = connection.auth_mechanism
        self.tls = connection.tls_info
        if self.tls is not None and self.tls.certificate is not None and connection.tls is not None:
            self._add_certificate(self.tls.certificate, connection.tls.getpeercert() or {})

    def _add_certificate(self, der: bytes, found_by_ssl: Mapping[str, Any]) -> None:
        try:
            self.certificate = read_certificate(der)
        except ImportError:
            self.is_cryptography_missing = True
            self.certificate = certificate_from_ssl(der, found_by_ssl)
        except ValueError:
            pass  # the report says that the certificate cannot be read

    def add_from_log(self, lines: list[Line], begun: float) -> None:
        """Add the times; after a failure also the greeting and capabilities received before it.

        Args:
            lines: the lines of the transcript.
            begun: when connecting began (monotonic clock).
        """
        self.steps = transcript.steps(lines, begun)
        self.banner = self.banner or transcript.banner(lines)
        self.capabilities = self.capabilities or transcript.capabilities(lines)
        self.cleartext_capabilities = transcript.capabilities(
            [line for line in lines if not line.under_tls]
        )

    def notes(self) -> list[str]:
        """The findings that need attention, one line each."""
        notes: list[str] = []
        offers = self.cleartext_capabilities
        # A UNIX socket cannot be eavesdropped on.
        if offers is not None and not self.target.host.startswith("/"):
            if offers.supports_starttls and self.target.tls_mode is TlsMode.NONE:
                notes.append("this session was in clear, although the server offers STARTTLS")
            if any(offers.supports_auth(name) for name in _CLEARTEXT_MECHANISMS):
                notes.append("the server takes passwords in clear (AUTH without TLS)")
        if self.tls is not None and not self.tls.is_verified:
            notes.append("the certificate was not checked (--insecure)")
        if self.certificate is not None:
            days = self.certificate.days_left(datetime.now(UTC))
            if days < 0:
                notes.append(f"the certificate expired {-days} days ago")
            elif days < SOON:
                notes.append(f"the certificate is valid for only {days} more days")
        if self.is_cryptography_missing:
            notes.append(_NO_CRYPTOGRAPHY)
        return notes

    def show(self, error: SmtpError | None, out: Output) -> None:
        """Write the report."""
        target = self.target
        out.row("server", f"{target}, {target.protocol}, {_TLS_MODES[target.tls_mode]}", HEADING)
        for line in self.banner:
            out.row("banner", line)
        if self.tls is not None:
            self._show_tls(self.tls, out)
        if self.capabilities is not None:
            _show_capabilities(self.capabilities, out)
        if self.mechanism is not None:
            user = target.user or "the certificate's name"
            out.row("login", f"{user}, by {self.mechanism}", GOOD)
        if self.noop is not None:
            fastest, slowest = milliseconds(self.noop.least), milliseconds(self.noop.most)
            out.row(
                "NOOP",
                f"{milliseconds(self.noop.median)} (fastest {fastest}, slowest {slowest})",
            )
        steps = [(name, seconds) for name, seconds in self._named_steps() if seconds is not None]
        if steps:
            out.row("times", ", ".join(f"{name} {milliseconds(s)}" for name, s in steps))
        for note in self.notes():
            out.row("note", note, WARNING)
        cause = None if error is None else error.__cause__
        if isinstance(cause, ssl.SSLCertVerificationError):
            out.row("note", "--tls-ca-path names an authority to trust", WARNING)
            out.row("note", "--insecure shows a certificate without trusting it", WARNING)
        out.row("result", "ok" if error is None else "failed", GOOD if error is None else BAD)

    def _show_tls(self, tls: TlsInfo, out: Output) -> None:
        verified = "certificate verified" if tls.is_verified else "certificate NOT verified"
        resumed = ", resumed" if tls.is_resumed else ""
        out.row(
            "TLS",
            f"{tls.version}, {tls.cipher} ({tls.bits} bits), {verified}{resumed}",
            GOOD if tls.is_verified else BAD,
        )
        found = self.certificate
        if found is None:
            return out.row("certificate", "none that can be read", WARNING)
        days = found.days_left(datetime.now(UTC))
        signed = " (self-signed)" if found.is_self_signed else ""
        out.row("certificate", (found.subject or "(no subject)") + signed)
        out.row("  for", ", ".join(found.names) or "(no names)")
        out.row("  issuer", found.issuer or "(no issuer)")
        out.row(
            "  valid",
            f"{found.not_before:%Y-%m-%d} to {found.not_after:%Y-%m-%d}, {days} days left",
            BAD if days < 0 else WARNING if days < SOON else "",
        )
        return out.row("  SHA-256", found.sha256)

    def _named_steps(self) -> list[tuple[str, float | None]]:
        steps = self.steps
        return [
            ("connect", steps.connect),
            ("banner", steps.banner),
            ("EHLO", steps.ehlo),
            ("TLS", steps.tls),
            ("login", steps.login),
        ]

    def as_json(self) -> dict[str, Json]:
        """The report as JSON."""
        offers, noop = self.capabilities, self.noop
        return {
            "server": server_json(self.target),
            "banner": self.banner,
            "name": None if offers is None else offers.greeting_name,
            "extensions": None
            if offers is None
            else [{"keyword": e.keyword, "parameters": e.parameters} for e in offers.extensions],
            "size_limit": None if offers is None else offers.size_limit,
            "auth_mechanisms": None if offers is None else offers.auth_mechanisms,
            "tls": None if self.tls is None else self._tls_json(self.tls),
            "login": None
            if self.mechanism is None
            else {"user": self.target.user, "mechanism": self.mechanism},
            "times": {name.lower(): seconds for name, seconds in self._named_steps()},
            "noop": None
            if noop is None
            else {"min": noop.least, "median": noop.median, "max": noop.most},
            "notes": self.notes(),
        }

    def _tls_json(self, tls: TlsInfo) -> dict[str, Json]:
        found = self.certificate
        return {
            "version": tls.version,
            "cipher": tls.cipher,
            "bits": tls.bits,
            "verified": tls.is_verified,
            "resumed": tls.is_resumed,
            "certificate": None
            if found is None
            else {
                "subject": found.subject,
                "issuer": found.issuer,
                "names": found.names,
                "not_before": found.not_before.isoformat(),
                "not_after": found.not_after.isoformat(),
                "days_left": found.days_left(datetime.now(UTC)),
                "sha256": found.sha256,
                "self_signed": found.is_self_signed,
            },
        }


def _show_capabilities(offers: ServerCapabilities, out: Output) -> None:
    out.row("name", offers.greeting_name)
    name = "offers"
    for extension in offers.extensions:
        out.row(name, _extension(extension, offers))
        name = ""
    if not offers.extensions:
        out.row(name, "no extension")


def _extension(extension: SmtpExtension, offers: ServerCapabilities) -> str:
    if extension.keyword == "SIZE" and offers.size_limit is not None:
        return f"{extension} ({size(offers.size_limit)})"
    return str(extension)
