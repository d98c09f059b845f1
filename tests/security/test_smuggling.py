"""Smuggling: no message ends before its end, whatever a server takes for a line end.

Servers disagree on whether a bare CR or LF ends a line (CVE-2023-51764, -51765, -51766); a client
that lets one through lets one message become two.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable
from email.message import EmailMessage
from typing import TypeAlias

import pytest

from smtpconn import BodyType, MailFromParams, SmtpConnection, ValidationError
from smtpconn.model.content import Content
from tests.support.recording_servers import ME, YOU, recorded

LINE_ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\n")
WITH_NUL = (b"\0\r\n", b"\r\0\n", b"\r\n\0")
SECOND = b"MAIL FROM:<admin@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nX: y\r\n\r\nz"
ENDINGS = list(itertools.product(LINE_ENDS, LINE_ENDS))

# Whatever some server takes for the end of a message.
ANY_END = re.compile(rb"(?:\A|\r\n|\r|\n)\.(?=\r|\n)")

Form: TypeAlias = "bytes | bytearray | memoryview | io.BytesIO | Iterable[bytes]"
Send = Callable[[SmtpConnection, Form], object]


def send(connection: SmtpConnection, message: Form) -> object:
    """Send with DATA."""
    return connection.send(ME, YOU, message)


def send_bdat(connection: SmtpConnection, message: Form) -> object:
    """Send with BDAT."""
    return connection.send_bdat(ME, YOU, message)


def every_form(message: bytes) -> list[bytes | io.BytesIO | Iterable[bytes]]:
    """The message whole, as a file, and cut at each byte."""
    return [message, io.BytesIO(message), [message[i : i + 1] for i in range(len(message))]]


@pytest.mark.parametrize(("before", "after"), ENDINGS)
def test_data_has_one_end(before: bytes, after: bytes) -> None:
    """Of DATA there is one end of message, by any server's idea of a line end."""
    message = b"Subject: a\r\n\r\nb" + before + b"." + after + SECOND
    with recorded() as (recorder, connection):
        for form in every_form(message):
            connection.send(ME, YOU, form)
        connection.quit()
        for content in recorder.contents:
            ends = [match.start() for match in ANY_END.finditer(content)]
            assert ends == [len(content) - len(b"\r\n.\r\n")]
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)
        assert recorder.verbs == [b"EHLO"] + [b"MAIL", b"RCPT", b"DATA"] * 3 + [b"QUIT"]


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_bdat_has_no_bare_line_end(line_end: bytes) -> None:
    """Of BDAT there is as much as announced, and no bare CR or LF in it."""
    message = b"Subject: a\r\n\r\nb" + line_end + b"." + line_end + SECOND
    with recorded() as (recorder, connection):
        for form in every_form(message):
            connection.send_bdat(ME, YOU, form)
        connection.quit()
        assert len(recorder.contents) == 3
        for content in recorder.contents:
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)
        assert recorder.verbs == [b"EHLO"] + [b"MAIL", b"RCPT", b"BDAT"] * 3 + [b"QUIT"]


@pytest.mark.parametrize("how", [send, send_bdat])
@pytest.mark.parametrize("before", WITH_NUL)
@pytest.mark.parametrize("after", [*LINE_ENDS, *WITH_NUL])
def test_no_nul_reaches_a_server_as_text(how: Send, before: bytes, after: bytes) -> None:
    """There are servers that drop NULs, and then the dot behind one may end the message."""
    message = b"Subject: a\r\n\r\nb" + before + b"." + after + SECOND
    for form in (message, bytearray(message), memoryview(message)):
        with recorded() as (recorder, connection):
            with pytest.raises(ValidationError, match="NUL"):
                how(connection, form)
            connection.quit()
            assert recorder.verbs == [b"EHLO", b"QUIT"]
    for stream in every_form(message)[1:]:
        with recorded() as (recorder, connection):
            with pytest.raises(ValidationError, match="NUL") as caught:
                how(connection, stream)
            assert not caught.value.may_have_been_delivered
            # Of DATA there is no way back; the chunks of BDAT are forgotten at the next RSET.
            assert connection.is_open is (how is send_bdat)
            assert not any(b"\0" in content for content in recorder.contents)


def test_no_nul_of_a_form_reaches_a_server_by_send_message() -> None:
    """The text of a web form is what it is; the message is refused before a command is said."""
    message = EmailMessage()
    message["From"], message["To"] = ME, YOU
    message.set_content("hello\r\n\0.\r\n" + SECOND.decode())
    with recorded() as (recorder, connection):
        with pytest.raises(ValidationError, match="NUL"):
            connection.send_message(message)
        connection.quit()
        assert recorder.verbs == [b"EHLO", b"QUIT"]


def test_binarymime_is_counted_not_ended() -> None:
    """What looks like an end of message is content in BINARYMIME, untouched and counted."""
    message = b"a\n.\n\r.\r\r\n.\r\n\0.\r\n" + SECOND
    params = MailFromParams(body=BodyType.BINARYMIME)
    with recorded() as (recorder, connection):
        connection.send_bdat(ME, YOU, message, params)
        connection.quit()
        assert recorder.contents == [message]
        assert recorder.verbs == [b"EHLO", b"MAIL", b"RCPT", b"BDAT", b"QUIT"]


@pytest.mark.parametrize("how", [send, send_bdat])
@pytest.mark.parametrize(
    "message", [b"", b".", b"\r", b"\n", b".\r\n", b"\r\n.", b"a\r\n.\r", b".\n."]
)
def test_the_edges_of_a_message(how: Send, message: bytes) -> None:
    """A message that begins or ends in a dot, CR or LF, or with nothing, is one message."""
    with recorded() as (recorder, connection):
        how(connection, message)
        connection.noop()
        connection.quit()
        assert recorder.verbs[-2:] == [b"NOOP", b"QUIT"]
        assert len(recorder.contents) == 1


@pytest.mark.parametrize("message", [b"a\r\n.\r\nb", b"a\r\n\r\n.\r\nb", b"a\n.\nb", b"a\r.\rb"])
def test_dots_are_stuffed_across_every_cut(message: bytes) -> None:
    """Where a message is cut into pieces changes nothing of what leaves (CVE-2021-38189)."""
    whole = b"".join(Content(message).as_data())
    assert b"\r\n..\r\n" in whole
    for cuts in itertools.combinations(range(len(message) + 1), 3):
        edges = (0, *cuts, len(message))
        pieces = [message[a:b] for a, b in itertools.pairwise(edges)]
        assert b"".join(Content(pieces).as_data()) == whole
