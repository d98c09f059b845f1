"""The account of what became of messages: what senders were told, and what was stored."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    """What became of every message.

    Attributes:
        acknowledged, unknown, failed: the messages by what the sender was told.
        stored: how often each was stored.
        errors: how often each kind of error was raised.
        unclassified: errors that are no `SmtpError`.
        without_outcome: messages that were taken and of which nothing was told.
    """

    acknowledged: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    stored: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unclassified: list[BaseException] = field(default_factory=list)
    without_outcome: set[str] = field(default_factory=set)

    def imbalances(self) -> dict[str, int]:
        """What must not be: all zero if the books balance."""
        return {
            "acknowledged and not stored": len(self.acknowledged - set(self.stored)),
            "stored, neither acknowledged nor unknown": len(
                set(self.stored) - self.acknowledged - self.unknown
            ),
            "certainly failed and stored": len(self.failed & set(self.stored)),
            "stored twice": sum(count > 1 for count in self.stored.values()),
            "errors of no known class": len(self.unclassified),
            "without an outcome": len(self.without_outcome),
        }
