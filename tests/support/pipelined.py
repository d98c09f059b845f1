"""Commands of numbered messages, and replies to them, for tests of many messages in one call."""

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
    """The message with a number, which its sender and its content contain."""
    to = [f"{name}@d.example" for name in recipients or ("c",)]
    content = message if message is not None else f"{number}\r\n".encode()
    mail_params = MailFromParams(**params)  # type: ignore[arg-type]
    return make_request(f"{number}@b.example", to, content, mail_params)  # type: ignore[arg-type]


def envelope(number: int, *recipients: str, verb: str = "DATA\n") -> str:
    """The commands of a message up to DATA."""
    to = "".join(f"RCPT TO:<{name}@d.example>\n" for name in recipients or ("c",))
    return f"MAIL FROM:<{number}@b.example>\n{to}{verb}"


def reset(number: int, *recipients: str, verb: str = "DATA\n") -> str:
    """The same with RSET before."""
    return "RSET\n" + envelope(number, *recipients, verb=verb)


def content(number: int) -> str:
    """The content of a message after DATA."""
    return f"{number}\n.\n"


def chunk(number: int) -> str:
    """The content of a message with BDAT."""
    return f"BDAT 3 LAST\n{number}\n"


def many(*requests: Callable[[], Asked] | int, offers: str = OFFERS, **facts: object) -> Many:
    """A function that makes a session and these messages, for each run of `run_script_many`."""

    def make() -> tuple[SessionState, list[Asked]]:
        made = [letter(r) if isinstance(r, int) else r() for r in requests]
        return session(offers, **facts), made

    return make


def kinds(outcomes: list[Outcome]) -> list[str]:
    """Each outcome as the text of the final reply, or the name of the error's class."""
    return [
        o.response.lines[0] if isinstance(o, SendResult) else type(o).__name__ for o in outcomes
    ]


TAKEN = "250 sender\n250 recipient\n250 taken\n"


def eager(*requests: object, **facts: object) -> Many:
    """As `many`, with a session that uses `Pipelining.EAGER`."""
    return many(*requests, pipelining=Pipelining.EAGER, **facts)  # type: ignore[arg-type]


def whole(number: int, *recipients: str, behind: bool = True) -> str:
    """The commands and the content of a message with BDAT."""
    said = (reset if behind else envelope)(number, *recipients, verb="")
    return said + chunk(number)
