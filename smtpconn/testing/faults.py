"""Faults: errors that the server makes on demand, each at a step of the protocol."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import NoneType

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


_KINDS: dict[str, tuple[type, ...]] = {
    "reply": (str, bytes, NoneType),
    "delay": (int, float),
    "close": (bool,),
    "reset": (bool,),
    "hang": (bool,),
    "split": (int,),
    "before": (bytes,),
    "after": (bytes,),
    "times": (int, NoneType),
    "skip": (int,),
    "match": (str, NoneType),
}


@dataclass(slots=True)
class Fault:
    """One fault; see `SmtpServer.fault` for the meanings. ``times`` and ``skip`` count down.

    Raises:
        TypeError, ValueError: an invalid value. Without this check it would fail later, in the
            thread of a connection, where no test sees it.
    """

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
            raise ValueError(f"unknown step {self.step!r}; the steps are {' '.join(sorted(STEPS))}")
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            # A bool is an int, but not a number of seconds, of bytes or of times.
            is_stray_bool = isinstance(value, bool) and bool not in kinds
            if not isinstance(value, kinds) or is_stray_bool:
                expected = " or ".join("None" if k is NoneType else k.__name__ for k in kinds)
                raise TypeError(f"{name} is {expected}, not {value!r:.80}")
        if not 0 <= self.delay < threading.TIMEOUT_MAX:
            raise ValueError(f"delay is a number of seconds, not {self.delay!r}")
        if self.split < 0 or self.skip < 0 or (self.times is not None and self.times < 1):
            raise ValueError("split and skip are at least 0, and times is at least 1 or None")

    @property
    def hangs_up_unanswered(self) -> bool:
        """Whether the server closes the connection instead of sending a reply."""
        return (self.close or self.reset) and self.reply is None

    def apply_to(self, reply: bytes) -> bytes:
        """The bytes to send in place of the normal ``reply``."""
        if isinstance(self.reply, str):
            reply = b"".join(line.encode() + b"\r\n" for line in self.reply.split("\n"))
        elif self.reply is not None:
            reply = self.reply
        return self.before + reply + self.after


class Faults:
    """The faults of a server, shared by the threads of all its connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Add a fault."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, step: str, line: str = "") -> Fault | None:
        """The oldest fault that applies to this step and command line; None without one."""
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
