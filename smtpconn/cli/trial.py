"""``smtpconn send --quit-after``: as far as a stage, and nothing is sent."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from smtpconn.cli import stages, transcript
from smtpconn.cli.asjson import Json, of_reply, of_server
from smtpconn.cli.exit_codes import CommandError, CommandResult, ExitCode
from smtpconn.cli.messages import envelope_to_try
from smtpconn.cli.output import BAD, GOOD, Output
from smtpconn.cli.target import Target
from smtpconn.model.errors import SmtpError


def dry_run(
    target: Target, args: argparse.Namespace, files: Sequence[str], out: Output
) -> CommandResult:
    """Go as far as a stage, and send nothing."""
    stage = args.quit_after
    tried: list[tuple[str, Json]] = []
    error: BaseException | None = None
    with transcript.Recorder(out.teller(args), keeps=False):
        try:
            accepted, refused = _go_to(target, stage, args, files, tried, out)
        except SmtpError as raised:
            error, accepted, refused = raised, 0, 0
            out.transcript_error(str(raised))
    result: dict[str, Json] = {
        "server": of_server(target),
        "quit_after": stage,
        "recipients": [{"recipient": path, "reply": reply} for path, reply in tried],
    }
    if error is None and refused:
        text = f"{refused} of {accepted + refused} recipients were refused"
        return CommandResult(
            ExitCode.SOME_REFUSED if accepted else ExitCode.RCPT,
            CommandError(text, os.EX_UNAVAILABLE),
            result,
        )
    if error is None:
        out.line(f"{stage}: ok; nothing was sent", GOOD)
    return CommandResult.of(error, result)


def _go_to(
    target: Target,
    stage: str,
    args: argparse.Namespace,
    files: Sequence[str],
    tried: list[tuple[str, Json]],
    out: Output,
) -> tuple[int, int]:
    """How many recipients were accepted, and how many refused."""
    if stage == "connect":
        stages.connect_only(target)
        return 0, 0
    if stage not in ("mail", "rcpt"):
        stages.open_session(target, stage).quit()
        return 0, 0
    envelope = envelope_to_try(args, files)
    recipients = list(envelope.recipients) if stage == "rcpt" else []
    with target.connect() as connection:
        replies = connection.try_envelope(
            envelope.sender,
            recipients,
            envelope.mail_params,
            envelope.rcpt_params if recipients else None,
        )
    accepted = 0
    for path, reply in zip(recipients, replies, strict=True):
        accepted += reply.is_success
        tried.append((str(path), of_reply(reply)))
        out.row("accepted" if reply.is_success else "refused", f"{path}: {reply}",
                GOOD if reply.is_success else BAD)  # fmt: skip
    return accepted, len(replies) - accepted
