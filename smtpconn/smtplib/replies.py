"""Replies as ``smtplib`` returns them: the code and the text in bytes."""

from __future__ import annotations

from typing import TypeAlias

from smtpconn.model.replies import SmtpResponse

Reply: TypeAlias = tuple[int, bytes]


def pair(response: SmtpResponse) -> Reply:
    """The code and the text of a reply."""
    return response.code, text_of(response)


def text_of(response: SmtpResponse) -> bytes:
    """The text of a reply: its lines without surrounding whitespace, joined by LF."""
    lines = (line.strip(" \t\r\n") for line in response.lines)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def response_of(reply: Reply) -> SmtpResponse:
    """The `SmtpResponse` for a code and text."""
    code, text = reply
    return SmtpResponse(code, tuple(text.decode("utf-8", "surrogateescape").split("\n")))
