"""The wire log as a transcript and as the times of the steps."""

from __future__ import annotations

import logging

import pytest

from smtpconn import SmtpConnection, TlsMode
from smtpconn.cli import transcript
from smtpconn.cli.transcript import Line, Recorder, Steps, steps
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates


def lines(*texts: str) -> list[Line]:
    """Lines a second apart, from "-> EHLO x" and its like; "==" puts TLS on."""
    made: list[Line] = []
    under_tls = False
    for at, text in enumerate(texts):
        mark, _, rest = text.partition(" ")
        under_tls = under_tls or (mark == "==" and rest.startswith("TLS"))
        made.append(Line(float(at), 1, mark, rest, under_tls))
    return made


STARTTLS = lines(
    "== Connected to mx:25.",
    "<- 220-mx",
    "<- 220 ready",
    "-> EHLO me",
    "<- 250-mx",
    "<- 250 AUTH PLAIN",
    "-> STARTTLS",
    "<- 220 go",
    "== TLS from here on",
    "-> EHLO me",
    "<- 250-mx",
    "<- 250-SIZE 9",
    "<- 250 PIPELINING",
    "-> AUTH LOGIN <secret>",
    "<- 334 UGFz",
    "-> <secret>",
    "<- 235 ok",
)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (Line(0, 1, "==", "Connected to mx:25.", False), "=== Connected to mx:25."),
        (Line(0, 1, "->", "NOOP", False), " -> NOOP"),
        (Line(0, 1, "->", "", False), " ->"),
        (Line(0, 1, "->", "NOOP", True), " ~> NOOP"),
        (Line(0, 1, "<-", "250-one", False), "<-  250-one"),
        (Line(0, 1, "<-", "250 one", True), "<~  250 one"),
        (Line(0, 1, "<-", "354 go", False), "<-  354 go"),
        (Line(0, 1, "<-", "550 no", False), "<** 550 no"),
        (Line(0, 1, "<-", "450 no", True), "<~* 450 no"),
    ],
)
def test_the_marks(line: Line, shown: str) -> None:
    """The marks are those of swaks."""
    assert str(line) == shown


def test_the_steps_of_a_session_with_starttls() -> None:
    """Each step has its time: the last EHLO, and the whole login."""
    assert steps(STARTTLS, -2.0) == Steps(connect=2, banner=2, ehlo=3, tls=2, login=3)


def test_the_steps_of_a_session_with_implicit_tls() -> None:
    """With implicit TLS the handshake comes before the banner."""
    said = lines("== Connected to mx:465.", "== TLS from here on", "<- 220 mx")
    assert steps(said, -1.0) == Steps(connect=1, banner=1, tls=1)


def test_steps_that_did_not_happen() -> None:
    """A step that did not happen has no time."""
    assert steps([], 0.0) == Steps()
    said = lines("== Connected to mx:25.", "<- 220 mx", "-> EHLO me")
    assert steps(said, 0.0) == Steps(connect=0, banner=1)


def test_banner_and_offers() -> None:
    """After a failure the log has the banner and the capabilities."""
    assert transcript.banner(STARTTLS) == ["220-mx", "220 ready"]
    assert transcript.banner([]) == []
    offers = transcript.capabilities(STARTTLS)
    assert offers is not None
    assert offers.size_limit == 9
    before = transcript.capabilities([line for line in STARTTLS if not line.under_tls])
    assert before is not None
    assert before.auth_mechanisms == ("PLAIN",)
    for said in ([], lines("-> EHLO me"), lines("-> EHLO me", "<- 550 no")):
        assert transcript.capabilities(said) is None


def test_it_is_the_wire_log(certificates: Certificates) -> None:
    """Every line of the SMTP session is there, in order, with TLS from where it began."""
    told: list[Line] = []
    with (
        SmtpServer(tls_context=certificates.server_context()) as server,
        Recorder(told.append) as recorder,
        SmtpConnection.connect(
            "localhost", server.port, TlsMode.STARTTLS, 5, tls_context=certificates.client_context()
        ) as connection,
    ):
        connection.noop()
    texts = [str(line) for line in told]
    assert texts[0] == f"=== Connected to localhost:{server.port}."
    assert texts[1] == "<-  220 mx.example.test ESMTP"
    assert " -> STARTTLS" in texts
    assert texts[texts.index("<-  220 2.0.0 Ready to start TLS") + 1] == "=== TLS from here on"
    assert texts[-4:] == [" ~> NOOP", "<~  250 2.0.0 Ok", " ~> QUIT", "<~  221 2.0.0 Bye"]
    assert recorder.lines == told


def test_an_error_in_writing_the_transcript() -> None:
    """An error in writing the transcript ends it, and not the SMTP session."""
    told: list[Line] = []

    def tell(line: Line) -> None:
        told.append(line)
        raise BrokenPipeError

    with (
        SmtpServer() as server,
        Recorder(tell),
        SmtpConnection.connect(server.host, server.port, TlsMode.NONE, 5) as connection,
    ):
        connection.send("a@b.c", "d@e.f", b"Subject: x\r\n\r\n")
        assert len(server.messages) == 1
    assert len(told) == 1


def test_loggers_are_left_as_they_were() -> None:
    """Level, handlers and propagation are restored."""
    loggers = [logging.getLogger(name) for name in ("smtpconn.wire", "smtpconn.connection")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    with Recorder():
        assert all(logger.isEnabledFor(logging.DEBUG) for logger in loggers)
    assert [(lo.level, lo.propagate, list(lo.handlers)) for lo in loggers] == before


def test_other_records_are_ignored() -> None:
    """Other records of the same loggers are ignored."""
    with Recorder() as recorder:
        logging.getLogger("smtpconn.connection").debug("#1 mx:25: closed: QUIT was sent")
        logging.getLogger("smtpconn.wire").debug("#1 -> <greeting>")
    assert recorder.lines == []
    with Recorder(keeps=False) as recorder:
        logging.getLogger("smtpconn.wire").debug("#1 -> NOOP")
    assert recorder.lines == []
