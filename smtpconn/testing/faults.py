"""What goes wrong on demand: faults, and which of them strikes when."""

from __future__ import annotations

import threading
from dataclasses import dataclass

STEPS = frozenset(
    [
        "CONNECT",
        "HANDSHAKE",
        "EHLO",
        "HELO",
        "LHLO",
        "STARTTLS",
        "AUTH",
        "CHALLENGE",
        "MAIL",
        "RCPT",
        "DATA",
        "CONTENT",
        "BDAT",
        "RSET",
        "NOOP",
        "VRFY",
        "EXPN",
        "HELP",
        "QUIT",
        "*",
    ]
)


@dataclass(slots=True)
class Fault:
    """One fault; see `SmtpServer.fault` for the meanings. ``times`` and ``skip`` count down."""

    step: str
    reply: str | bytes | None
    delay: float
    close: bool
    reset: bool
    hang: bool
    split: int
    before: bytes
    after: bytes
    times: int | None
    skip: int
    match: str | None

    def __post_init__(self) -> None:
        if self.step not in STEPS:
            raise ValueError(f"there is no step {self.step!r}; there are {' '.join(sorted(STEPS))}")

    @property
    def hangs_up_unanswered(self) -> bool:
        """Whether the connection ends instead of an answer."""
        return (self.close or self.reset) and self.reply is None

    def octets(self, reply: bytes) -> bytes:
        """The reply as it leaves, ``reply`` being the normal one."""
        if isinstance(self.reply, str):
            reply = b"".join(line.encode() + b"\r\n" for line in self.reply.split("\n"))
        elif self.reply is not None:
            reply = self.reply
        return self.before + reply + self.after


class Faults:
    """The faults of a server, asked by the threads of all its connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Have it strike from now on."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Have none strike any more."""
        with self._lock:
            self._faults.clear()

    def take(self, step: str, line: str = "") -> Fault | None:
        """The fault that strikes at this step, if one does; the oldest that matches."""
        with self._lock:
            for fault in self._faults:
                if fault.step not in (step, "*") or (fault.match or "") not in line:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                return fault
        return None
