"""smtp-sink, which comes with Postfix: takes any mail at great speed, and fails on demand.

`SmtpSink("-q", "DATA")` hangs up at DATA without a word, `("-Q", "RCPT")` says 421 first,
`("-f", "MAIL")` and `("-r", "MAIL")` refuse for good or for now, `("-p",)` has no PIPELINING,
`("-L",)` speaks LMTP; smtp-sink(1) lists them all.  It knows neither BDAT nor TLS.

Messages are stored as it dumps them: with LF, below X-Mail-Args and X-Rcpt-Args lines which hold
the envelope.
"""

import os
from pathlib import Path

from tests.realservers.base import NOBODY, RealServer

SMTP_SINK = Path("/usr/sbin/smtp-sink")
LISTENING = "0A"


class SmtpSink(RealServer):
    """smtp-sink on `port`, with further options."""

    name = "smtp-sink"
    programs = (SMTP_SINK,)
    needs_root = False
    mailbox = "mail/message.*"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options

    def configure(self) -> None:
        owner = NOBODY if os.geteuid() == 0 else -1
        self.make_directories("mail", owner=owner)

    def command(self) -> list[str]:
        account = ["-u", "nobody"] if os.geteuid() == 0 else []
        dump = ["-d", str(self.root / "mail/message.")]
        address = f"{self.host}:{self.port}"
        return [str(SMTP_SINK), *account, *dump, *self.options, address, "128"]

    def is_ready(self) -> bool:
        # A connection to try it out would count as one of those after which `-n` ends it, and
        # some options take away the banner; so look it up in the kernel's list of sockets.
        local = f"0100007F:{self.port:04X}"
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        return any(fields[1] == local and fields[3] == LISTENING for fields in sockets)
