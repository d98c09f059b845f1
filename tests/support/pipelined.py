"""What is said for numbered messages, and replies to it, for tests of many messages in a row."""

from __future__ import annotations

from collections.abc import Callable

from smtpconn import (
    MailFromParams,
    Pipelining,
    SendResult,
    SmtpError,
)
from smtpconn.protocol.mail_request import MailRequest, Outcome, make_request
from smtpconn.protocol.session import SessionState
from tests.support.exchanges import session

OFFERS = "PIPELINING;8BITMIME;CHUNKING;BINARYMIME"


GO = "250 reset\n250 sender\n250 recipient\n354 go\n"


FIRST = "250 sender\n250 recipient\n354 go\n"


NO = "503 pipelined after end of DATA\n"


Asked = MailRequest | SmtpError


Many = Callable[[], tuple[SessionState, list[Asked]]]


def letter(number: int, *recipients: str, message: object = None, **params: object) -> MailRequest:
    """The message of a number: its sender and its content say which."""
    to = [f"{name}@d.example" for name in recipients or ("c",)]
    content = message if message is not None else f"{number}\r\n".encode()
    mail_params = MailFromParams(**params)  # type: ignore[arg-type]
    return make_request(f"{number}@b.example", to, content, mail_params)  # type: ignore[arg-type]


def envelope(number: int, *recipients: str, verb: str = "DATA\n") -> str:
    """What is said for it up to DATA."""
    to = "".join(f"RCPT TO:<{name}@d.example>\n" for name in recipients or ("c",))
    return f"MAIL FROM:<{number}@b.example>\n{to}{verb}"


def reset(number: int, *recipients: str, verb: str = "DATA\n") -> str:
    """The same with RSET before it."""
    return "RSET\n" + envelope(number, *recipients, verb=verb)


def content(number: int) -> str:
    """What is said of it behind DATA."""
    return f"{number}\n.\n"


def chunk(number: int) -> str:
    """The same for BDAT."""
    return f"BDAT 3 LAST\n{number}\n"


def many(*requests: Callable[[], Asked] | int, offers: str = OFFERS, **facts: object) -> Many:
    """What `run_script_many` makes anew each time: a session, and the messages of these numbers."""

    def make() -> tuple[SessionState, list[Asked]]:
        made = [letter(r) if isinstance(r, int) else r() for r in requests]
        return session(offers, **facts), made

    return make


def kinds(outcomes: list[Outcome]) -> list[str]:
    """What each outcome is: the final reply's text, or the error's name."""
    return [
        o.response.lines[0] if isinstance(o, SendResult) else type(o).__name__ for o in outcomes
    ]


TAKEN = "250 sender\n250 recipient\n250 taken\n"


def eager(*requests: object, **facts: object) -> Many:
    """The same as `many`, of a session that may send eagerly."""
    return many(*requests, pipelining=Pipelining.EAGER, **facts)  # type: ignore[arg-type]


def whole(number: int, *recipients: str, behind: bool = True) -> str:
    """All that is said of a message."""
    said = (reset if behind else envelope)(number, *recipients, verb="")
    return said + chunk(number)
