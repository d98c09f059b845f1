"""``smtpconn check``: what is this server, and does it do what I need?

It opens a session as a program would, looks at everything the session tells, asks for three NOOPs
to see how fast the server answers, and leaves. What was found before something failed is reported
all the same. How it is reported is in `smtpconn.cli.report`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import UTC, datetime

from smtpconn.cli import certificate, options, stages, transcript
from smtpconn.cli.exit_codes import CommandResult
from smtpconn.cli.output import Output
from smtpconn.cli.report import Finding, Latency, as_json, show
from smtpconn.cli.target import Target, target_of
from smtpconn.client.connection import SmtpConnection
from smtpconn.model.errors import Phase, SmtpError, TlsError

NOOPS = 3
"""How often the server is asked for a sign of life; servers drop those who ask often."""


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    options.target_argument(parser)
    options.server(parser)
    group = parser.add_argument_group("check")
    group.add_argument(
        "-q", "--quit-after", choices=stages.SESSION_STAGES, metavar="STAGE",
        help=f"go no further than {', '.join(stages.SESSION_STAGES)}",
    )  # fmt: skip
    group.add_argument(
        "--min-days", type=options.count, metavar="DAYS",
        help="fail (29) if the certificate is valid for fewer days",
    )  # fmt: skip
    options.transcript(parser)
    options.common(parser)


def run(args: argparse.Namespace, out: Output) -> CommandResult:
    """Look at a server and report."""
    target = target_of(args, out)
    stages.check_stage(target, args.quit_after)
    finding = Finding(target)
    error: SmtpError | None = None
    with transcript.Recorder(out.teller(args)) as recorder:
        begun = time.monotonic()
        try:
            _examine(target, args.quit_after, finding)
            _check_days(finding, args.min_days)
        except SmtpError as raised:
            error = raised
            out.transcript_error(str(error))
    finding.learn(recorder.lines, begun)
    show(finding, error, out)
    return CommandResult.of(error, as_json(finding))


def _examine(target: Target, stage: str | None, finding: Finding) -> None:
    if stage == "connect":
        return stages.connect_only(target)
    with stages.open_session(target, stage) as connection:
        finding.capabilities = connection.capabilities
        finding.is_authenticated = connection.is_authenticated
        finding.tls = connection.tls_info
        if finding.tls is not None and finding.tls.certificate is not None:
            finding.certificate = _read(finding.tls.certificate)
        if stage is None:
            finding.noop = _latency(connection)
    return None


def _read(der: bytes) -> certificate.Certificate | None:
    try:
        return certificate.read(der)
    except ValueError:
        return None  # the report says that there was one


def _latency(connection: SmtpConnection) -> Latency:
    seconds = []
    for _ in range(NOOPS):
        begun = time.monotonic()
        connection.noop()
        seconds.append(time.monotonic() - begun)
    return Latency(min(seconds), statistics.median(seconds), max(seconds))


def _check_days(finding: Finding, least: int | None) -> None:
    if least is None:
        return
    if finding.certificate is None:
        raise TlsError("--min-days: there is no certificate to look at", phase=Phase.TLS)
    days = finding.certificate.days_left(datetime.now(UTC))
    if days < least:
        raise TlsError(
            f"the certificate is valid for {days} more days, fewer than {least}", phase=Phase.TLS
        )
