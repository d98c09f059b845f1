"""What ``check`` found, as a report that an administrator reads, and as JSON.

Rule: a report says what was seen, in the server's own words where it has some, and notes what
deserves attention; it does not guess. A line that is not there was not found out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from smtpconn.cli import transcript
from smtpconn.cli.asjson import Json, of_server
from smtpconn.cli.certificate import Certificate
from smtpconn.cli.output import BAD, DOUBTFUL, GOOD, HEAD, Output
from smtpconn.cli.target import Target
from smtpconn.cli.transcript import Line, Steps
from smtpconn.model.capabilities import ServerCapabilities, SmtpExtension
from smtpconn.model.errors import SmtpError, TlsError
from smtpconn.model.modes import TlsMode
from smtpconn.net.tls import TlsInfo

SOON = 30
"""Days before its end from which a certificate is worth a note."""

_SHOWS_PASSWORD = ("PLAIN", "LOGIN")


@dataclass(frozen=True, slots=True)
class Latency:
    """How fast the server answers, in seconds."""

    least: float
    median: float
    most: float


@dataclass(slots=True)
class Finding:
    """What is known of a server; None for what was not found out.

    Attributes:
        target: which server it is.
        banner: what it greets with, line by line.
        capabilities: what it offers, to those who got as far as we did.
        offers_in_clear: what it offered before there was TLS.
        tls, certificate: what protects the session.
        is_authenticated, mechanism: whether we logged in, and how.
        steps: how long opening the session took.
        noop: how fast it answers.
    """

    target: Target
    banner: list[str] = field(default_factory=list)
    capabilities: ServerCapabilities | None = None
    offers_in_clear: ServerCapabilities | None = None
    tls: TlsInfo | None = None
    certificate: Certificate | None = None
    is_authenticated: bool = False
    mechanism: str | None = None
    steps: Steps = field(default_factory=Steps)
    noop: Latency | None = None

    def learn(self, lines: list[Line], begun: float) -> None:
        """Take from the log what no connection tells, above all if there came to be none."""
        self.banner = transcript.greeting(lines)
        self.steps = transcript.steps(lines, begun)
        self.mechanism = transcript.mechanism(lines)
        if self.capabilities is None:
            self.capabilities = transcript.capabilities(lines)
        self.offers_in_clear = transcript.capabilities(
            [line for line in lines if not line.under_tls]
        )

    def notes(self) -> list[str]:
        """What deserves attention."""
        notes: list[str] = []
        offers = self.offers_in_clear
        # Nobody is on the way of a UNIX socket.
        if offers is not None and not self.target.host.startswith("/"):
            if offers.supports_starttls and self.target.tls_mode is TlsMode.NONE:
                notes.append("this session was in clear, although the server offers STARTTLS")
            if any(offers.supports_auth(name) for name in _SHOWS_PASSWORD):
                notes.append("the server takes passwords in clear (AUTH without TLS)")
        if self.tls is not None and not self.tls.is_verified:
            notes.append("the certificate was not checked (--insecure)")
        if self.certificate is not None:
            days = self.certificate.days_left(datetime.now(UTC))
            if days < 0:
                notes.append(f"the certificate is over since {-days} days")
            elif days < SOON:
                notes.append(f"the certificate is valid for only {days} more days")
        return notes


def show(finding: Finding, error: SmtpError | None, out: Output) -> None:
    """Write the report."""
    target = finding.target
    how = {TlsMode.NONE: "in clear", TlsMode.IMPLICIT: "TLS", TlsMode.STARTTLS: "STARTTLS"}
    out.row("server", f"{target}, {target.protocol}, {how[target.tls_mode]}", HEAD)
    for line in finding.banner:
        out.row("banner", line)
    if finding.tls is not None:
        _show_tls(finding.tls, finding.certificate, out)
    if finding.capabilities is not None:
        _show_capabilities(finding.capabilities, out)
    if finding.is_authenticated:
        who = target.user or "the certificate's name"
        out.row("login", f"{who}, by {finding.mechanism}", GOOD)
    if finding.noop is not None:
        noop = finding.noop
        out.row(
            "NOOP",
            f"{milliseconds(noop.median)} (fastest {milliseconds(noop.least)}, "
            f"slowest {milliseconds(noop.most)})",
        )
    steps = [(name, seconds) for name, seconds in _steps(finding.steps) if seconds is not None]
    if steps:
        out.row("times", ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in steps))
    for note in finding.notes():
        out.row("note", note, DOUBTFUL)
    if isinstance(error, TlsError) and finding.tls is None:
        out.row("note", "--insecure shows a certificate without believing it", DOUBTFUL)
    out.row("result", "ok" if error is None else "failed", GOOD if error is None else BAD)


def milliseconds(seconds: float) -> str:
    """A duration as people compare it."""
    value = seconds * 1000
    return (
        f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
    )


def size(octets: int) -> str:
    """A number of octets as people say it."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if octets >= unit:
            return f"{octets / unit:.1f} {name}"
    return f"{octets} octets"


def _show_tls(tls: TlsInfo, found: Certificate | None, out: Output) -> None:
    verified = "certificate verified" if tls.is_verified else "certificate NOT verified"
    resumed = ", resumed" if tls.is_resumed else ""
    out.row(
        "TLS",
        f"{tls.version}, {tls.cipher} ({tls.bits} bits), {verified}{resumed}",
        GOOD if tls.is_verified else BAD,
    )
    if found is None:
        return out.row("certificate", "none that can be read", DOUBTFUL)
    days = found.days_left(datetime.now(UTC))
    signed = " (self-signed)" if found.is_self_signed else ""
    out.row("certificate", (found.subject or "(no subject)") + signed)
    out.row("  for", ", ".join(found.names) or "(no names)")
    out.row("  issuer", found.issuer or "(no issuer)")
    out.row(
        "  valid",
        f"{found.not_before:%Y-%m-%d} to {found.not_after:%Y-%m-%d}, {days} days left",
        BAD if days < 0 else DOUBTFUL if days < SOON else "",
    )
    return out.row("  SHA-256", found.sha256)


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


def _steps(steps: Steps) -> list[tuple[str, float | None]]:
    return [
        ("connect", steps.connect),
        ("banner", steps.banner),
        ("EHLO", steps.ehlo),
        ("TLS", steps.tls),
        ("login", steps.login),
    ]


def as_json(finding: Finding) -> dict[str, Json]:
    """The report as JSON."""
    offers, noop = finding.capabilities, finding.noop
    return {
        "server": of_server(finding.target),
        "banner": finding.banner,
        "name": None if offers is None else offers.greeting_name,
        "extensions": None
        if offers is None
        else [{"keyword": e.keyword, "parameters": e.parameters} for e in offers.extensions],
        "size_limit": None if offers is None else offers.size_limit,
        "auth_mechanisms": None if offers is None else offers.auth_mechanisms,
        "tls": None if finding.tls is None else _tls_json(finding.tls, finding.certificate),
        "login": {"user": finding.target.user, "mechanism": finding.mechanism}
        if finding.is_authenticated
        else None,
        "times": {name.lower(): seconds for name, seconds in _steps(finding.steps)},
        "noop": None
        if noop is None
        else {"min": noop.least, "median": noop.median, "max": noop.most},
        "notes": finding.notes(),
    }


def _tls_json(tls: TlsInfo, found: Certificate | None) -> dict[str, Json]:
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
