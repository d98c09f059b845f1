"""``smtpconn send``: messages arrive as they are, and each has a status."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from smtpconn import Envelope, PoolClosedError, SendOutcome, SendResult, SmtpResponse
from smtpconn.cli import main, messages
from smtpconn.cli.messages import MessageSource, OutgoingMessage
from smtpconn.cli.output import Output
from smtpconn.cli.results import DeliveryStatus
from smtpconn.cli.send import BatchSender
from smtpconn.cli.target import Target
from smtpconn.model.modes import TlsMode
from smtpconn.testing import SmtpServer
from tests.realservers.dovecot import Dovecot
from tests.realservers.postfix import Postfix
from tests.support.command_runner import HEADER, MESSAGE, Input, Runner


def test_a_file(smtpconn: Runner, server: SmtpServer, files: list[str]) -> None:
    """It arrives byte by byte, for the recipients in its header; the reply is shown."""
    ran = smtpconn("send", server.url, files[0])
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"delivered: {files[0]}: to 1 of 1 recipients: 250 2.0.0 Ok: queued\n"
    (message,) = server.messages
    assert (message.sender, message.recipients) == ("me@example.com", ("you@example.com",))
    assert message.content == Path(files[0]).read_bytes()
    assert message.via == "DATA"


@pytest.mark.parametrize("arguments", [[], ["-"], ["-d", "-"], ["--data", "-"]])
def test_standard_input(
    smtpconn: Runner,
    server: SmtpServer,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    """Standard input is sent without a file and for -, with CRLF line ends."""
    monkeypatch.setattr("sys.stdin", Input(MESSAGE.replace("\r\n", "\n").encode()))
    ran = smtpconn("send", server.url, *arguments)
    assert ran.code == 0
    assert server.messages[0].content == MESSAGE.encode()


def test_a_composed_message(smtpconn: Runner, server: SmtpServer) -> None:
    """The options of swaks compose and send a message."""
    ran = smtpconn(
        "send", "-s", server.host, "-p", server.port, "-f", "me@example.com",
        "-t", "a@example.com,b@example.com", "-t", "c@example.com",
        "--h-Subject", "hello there", "--body", "Hi!", "--timeout", "5",
    )  # fmt: skip
    assert ran.code == 0
    (message,) = server.messages
    assert message.recipients == ("a@example.com", "b@example.com", "c@example.com")
    assert b"\r\nSubject: hello there\r\n" in message.content
    assert message.content.endswith(b"\r\n\r\nHi!\r\n")


def test_many_files(smtpconn: Runner, server: SmtpServer, files: list[str]) -> None:
    """All arrive, over a few connections; the report has the counts."""
    ran = smtpconn("send", server.url, *files)
    assert ran.code == 0
    assert sorted(m.content for m in server.messages) == [Path(f).read_bytes() for f in files]
    assert len(server.connections) <= 4
    lines = ran.out.splitlines()
    assert lines[:3] == ["delivered         10", "refused            0", "unknown            0"]
    assert lines[3].startswith("10 messages in ")


def test_it_goes_on_after_failures(
    smtpconn: Runner, server: SmtpServer, files: list[str], tmp_path: Path
) -> None:
    """Refused, missing and broken messages are reported beside those that were delivered."""
    texts = {
        "refused": MESSAGE.replace("you@", "nobody@"),
        "partly": MESSAGE.replace("you@example.com", "nobody@example.com, you@example.com"),
        "broken": "Subject: nobody\r\n\r\n",
    }
    paths = {name: str(tmp_path / f"{name}.eml") for name in (*texts, "missing")}
    for name, text in texts.items():
        Path(paths[name]).write_text(text, newline="")
    ran = smtpconn("send", server.url, *paths.values(), *files)
    assert ran.code == 40
    assert len(server.messages) == 11
    lines = ran.out.splitlines()
    assert f"failed        {paths['missing']}: No such file or directory" in lines
    assert any(line.startswith(f"refused       {paths['refused']}: the only rec") for line in lines)
    assert any(line.startswith(f"failed        {paths['broken']}: the message") for line in lines)
    assert any("to 1 of 2 recipients: 250" in line for line in lines)
    assert ran.err == "smtpconn: 4 of 14 messages were not delivered to every recipient\n"


def test_what_may_have_been_delivered(
    smtpconn: Runner, server: SmtpServer, files: list[str]
) -> None:
    """An unknown message has its own exit code and text, alone and among many."""
    server.fault("CONTENT", close=True)
    ran = smtpconn("send", server.url, files[0])
    assert ran.code == 41
    assert "may have been delivered: do not send it again blindly" in ran.err
    server.fault("CONTENT", close=True)
    ran = smtpconn("send", server.url, *files, "--connections", 1)
    assert ran.code == 41
    assert "unknown            1" in ran.out
    assert "1 may have been delivered: do not send again blindly" in ran.err
    assert len(server.messages) == 9


@pytest.mark.parametrize(
    ("step", "reply", "code"),
    [
        ("CONNECT", "554 no", 21),
        ("MAIL", "550 no", 23),
        ("RCPT", "550 no", 24),
        ("DATA", "451 no", 25),
        ("CONTENT", "554 no", 26),
    ],
)
def test_exit_codes_of_failures(
    smtpconn: Runner, server: SmtpServer, files: list[str], step: str, reply: str, code: int
) -> None:
    """The exit code is that of the step; standard error has the reply in one line."""
    server.fault(step, reply=reply)
    ran = smtpconn("send", server.url, files[0])
    assert (ran.code, ran.out) == (code, "")
    assert reply in ran.err
    assert ran.err.count("\n") == 1


def test_no_server(smtpconn: Runner, files: list[str]) -> None:
    """Without a server all messages have one error."""
    ran = smtpconn("send", "smtp://localhost:1", *files)
    assert ran.code == 2
    assert ran.err == (
        "smtpconn: the connection to localhost:1 failed during connect: Connection refused\n"
    )
    assert "failed            10" in ran.out
    assert smtpconn("send", "smtp://localhost:1", files[0], "--sysexits").code == 75


def test_as_json(smtpconn: Runner, server: SmtpServer, files: list[str]) -> None:
    """Each message has its envelope, status and reply."""
    server.fault("RCPT", reply="450 4.2.0 later", match="you@")
    found = smtpconn("send", server.url, *files[:2], "--json", "--connections", 1).object
    assert found["command"] == "send"
    assert found["counts"] == {
        "unknown": 0, "refused": 1, "failed": 0, "partly": 0, "delivered": 1,
    }  # fmt: skip
    by_status = {each["fate"]: each for each in found["messages"]}
    assert by_status["delivered"]["reply"]["code"] == 250
    assert by_status["delivered"]["error"] is None
    assert by_status["refused"]["refused"] == [
        {
            "recipient": "you@example.com",
            "reply": {"code": 450, "enhanced_status": "4.2.0", "lines": ["4.2.0 later"]},
        }
    ]
    assert by_status["refused"]["error"]["transient"] is True
    assert {each["name"] for each in found["messages"]} == set(files[:2])


def test_the_transcript(smtpconn: Runner, server: SmtpServer, files: list[str]) -> None:
    """With -v the SMTP session is shown, with the content unless -n."""
    ran = smtpconn("send", server.url, files[0], "-v")
    lines = ran.out.splitlines()
    size = Path(files[0]).stat().st_size
    assert f" -> MAIL FROM:<me@example.com> SIZE={size}" in lines
    assert lines[lines.index(" -> <content>") + 1] == " -> From: me@example.com"
    assert " -> Subject: number 0" in lines
    assert "<-  250 2.0.0 Ok: queued" in lines
    ran = smtpconn("send", server.url, files[0], "-v", "-n")
    assert " -> <content>" in ran.out
    assert "Subject" not in ran.out
    ran = smtpconn("send", server.url, *files, "-v")
    assert "Subject" not in ran.out
    assert ran.out.count(" -> DATA") == 10
    assert ran.out.count("=== Connected") == 1


def test_the_transcript_of_a_failure(
    smtpconn: Runner, server: SmtpServer, files: list[str]
) -> None:
    """Refusals are marked, and the error ends it; with --json it goes to standard error."""
    server.fault("MAIL", reply="550 no", times=2)
    ran = smtpconn("send", server.url, files[0], "--show-time-lapse")
    assert "<** 550 no" in ran.out
    assert "*** the server refused mail: 550 no" in ran.out
    assert "=== response in 0." in ran.out
    ran = smtpconn("send", server.url, files[0], "-v", "--json")
    assert "<** 550 no" in ran.err
    assert ran.object["error"]["reply"]["code"] == 550


@pytest.mark.parametrize("protocol", ["SMTP", "LMTP"])
def test_bdat(smtpconn: Runner, files: list[str], protocol: str) -> None:
    """With --bdat, over SMTP and LMTP, one after the other over one connection."""
    with SmtpServer(protocol=protocol) as server:
        ran = smtpconn("send", server.url, "--bdat", *files)
        assert ran.code == 0
        assert [message.via for message in server.messages] == ["BDAT"] * 10
        assert len(server.connections) == 1


def test_bdat_goes_on_after_failures(
    smtpconn: Runner, server: SmtpServer, files: list[str]
) -> None:
    """A lost connection is replaced; without CHUNKING there is an error."""
    server.fault("CONTENT", close=True)
    ran = smtpconn("send", server.url, "--bdat", *files)
    assert ran.code == 41
    assert len(server.messages) == 9
    assert len(server.connections) == 2
    with SmtpServer(extensions=[]) as other:
        ran = smtpconn("send", other.url, "--bdat", files[0])
    assert ran.code == 23
    assert "CHUNKING" in ran.err


def test_lmtp(smtpconn: Runner, tmp_path: Path, files: list[str]) -> None:
    """Each recipient has its own reply."""
    path = str(tmp_path / "lmtp")
    with SmtpServer(protocol="LMTP", unix_path=path) as server:
        server.fault("CONTENT", reply="552 5.2.2 full", match="full@", times=None)
        url = f"lmtp+unix://{path}"
        ran = smtpconn("send", url, files[0], "-t", "full@example.com,you@example.com")
        assert ran.code == 40
        assert "to 1 of 2 recipients" in ran.out
        assert "not to full@example.com: 552 5.2.2 full" in ran.out
        ran = smtpconn("send", url, files[0], "-t", "full@example.com")
        assert ran.code == 26
        assert "not delivered to full@example.com" in ran.err


def test_a_large_file_is_streamed(
    smtpconn: Runner, server: SmtpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives unchanged and with its size, by DATA and BDAT."""
    monkeypatch.setattr(messages, "WHOLE", 1000)
    content = (HEADER + "\r\n").encode() + b".line\r\n" * 50_000
    path = tmp_path / "large.eml"
    path.write_bytes(content)
    for more in ([], ["--bdat"]):
        assert smtpconn("send", server.url, path, *more).code == 0
        assert server.messages[-1].content == content
        assert f"SIZE={len(content)}" in server.messages[-1].mail_parameters


def test_delivery_status_notifications(
    smtpconn: Runner, server: SmtpServer, files: list[str]
) -> None:
    """The DSN options become parameters of MAIL and RCPT."""
    ran = smtpconn(
        "send", server.url, files[0], "--dsn-notify", "success,delay", "--dsn-ret", "hdrs",
        "--envid", "x1",
    )  # fmt: skip
    assert ran.code == 0
    (message,) = server.messages
    assert {"RET=HDRS", "ENVID=x1"} <= set(message.mail_parameters)
    assert message.recipient_parameters == (("NOTIFY=SUCCESS,DELAY",),)


@pytest.mark.parametrize(
    ("stage", "commands"),
    [
        ("connect", []),
        ("ehlo", ["EHLO", "QUIT"]),
        ("mail", ["EHLO", "MAIL", "RSET", "QUIT"]),
        ("rcpt", ["EHLO", "MAIL", "RCPT", "RCPT", "RSET", "QUIT"]),
    ],
)
def test_quit_after_a_stage(
    smtpconn: Runner, server: SmtpServer, stage: str, commands: list[str]
) -> None:
    """Nothing is sent, and no message is needed if the options have the envelope."""
    ran = smtpconn(
        "send", server.url, "-f", "me@example.com", "-t", "a@example.com,b@example.com",
        "-q", stage,
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(f"{stage}: ok; nothing was sent\n")
    server.wait_for(lambda: server.connections != [] and server.connections[0].closed)
    assert [line.split()[0] for line in server.connections[0].commands] == commands
    assert server.messages == []


def test_quit_after_rcpt(smtpconn: Runner, server: SmtpServer, tmp_path: Path) -> None:
    """Each recipient has its reply; the code is 24 if none is accepted and 40 if some are."""
    path = tmp_path / "m.eml"
    path.write_text("From: me@example.com\nTo: nobody@example.com\nCc: you@example.com\n\nhi\n")
    ran = smtpconn("send", server.url, path, "-q", "rcpt")
    assert ran.code == 40
    assert "refused       nobody@example.com: 550 5.1.1" in ran.out
    assert "accepted      you@example.com: 250" in ran.out
    found = smtpconn("send", server.url, path, "-q", "rcpt", "--json").object
    assert [each["reply"]["code"] for each in found["recipients"]] == [550, 250]
    ran = smtpconn("send", server.url, "-f", "", "-t", "nobody@example.com", "-q", "rcpt")
    assert ran.code == 24
    server.fault("MAIL", reply="550 no")
    assert smtpconn("send", server.url, path, "-q", "rcpt").code == 23
    assert server.messages == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["smtp://a", "smtp://b", "f"], "more than one URL"),
        (["f"], "which server"),
        (["mx:25", "-t", "you@example.net", "--body", "x"], "--server HOST"),
        (["smtp://a", "f", "-f", "nobody"], "not an address"),
        (["smtp://a", "f", "-t", "x"], "x"),
        (["smtp://a", "f", "--dsn-notify", "x"], "--dsn-notify"),
        (["smtp://a", "/no/such.eml"], "/no/such.eml: No such file"),
        (["smtp://a", "."], ".: Is a directory"),
        (["smtp://a"], "there is no message in it"),
    ],
)
def test_mistakes_in_options(smtpconn: Runner, arguments: list[str], text: str) -> None:
    """A mistake in the options is one line and code 1, and nothing is sent."""
    ran = smtpconn("send", *arguments)
    assert ran.code == 1
    assert text in ran.err
    assert ran.err.count("\n") == 1


# Real servers


def test_postfix(smtpconn: Runner, postfix: Postfix, files: list[str]) -> None:
    """Recipients are tried without a message, then messages arrive, each once."""
    url = f"smtp://localhost:{postfix.port}"
    to = "alice@example.test,nobody@example.test"
    ran = smtpconn("send", url, "-f", "me@client.example", "-t", to, "-q", "rcpt")
    assert ran.code == 40
    assert "refused       nobody@example.test: 550 5.1.1" in ran.out
    assert "accepted      alice@example.test: 250 2.1.5" in ran.out
    ran = smtpconn("send", url, *files, "-t", "alice@example.test")
    assert ran.code == 0
    stored = postfix.wait_for_stored(len(files), user="alice")
    assert len(stored) == len(files)
    ran = smtpconn("send", url, files[0], "-t", "bob@example.test", "--bdat")
    assert ran.code == 0
    (message,) = postfix.wait_for_stored(1, user="bob")
    assert message.endswith(b"\n\nHello!\n.\n")


def test_dovecot(smtpconn: Runner, dovecot: Dovecot, files: list[str]) -> None:
    """Over LMTP carol, who is over her quota, is reported apart from alice."""
    to = "carol@example.test,alice@example.test"
    ran = smtpconn("send", f"lmtp+unix://{dovecot.socket_path}", files[0], "-t", to)
    assert ran.code == 40
    assert "not to carol@example.test: 552 5.2.2" in ran.out
    assert len(dovecot.wait_for_stored(1, user="alice")) == 1


# Many messages, and Ctrl-C


def batch(count: int, stderr: io.StringIO) -> BatchSender:
    """A batch of messages m0, m1, ..."""

    def opener(name: str) -> OutgoingMessage:
        return OutgoingMessage(name, Envelope("a@b.c", ["d@e.f"], b""), b"")

    def source(name: str) -> MessageSource:
        return MessageSource(name, lambda: opener(name))

    sources = [source(f"m{n}") for n in range(count)]
    return BatchSender(sources, Output(stdout=io.StringIO(), stderr=stderr))


def quiet() -> Output:
    """An output without a reader."""
    return Output(stdout=io.StringIO(), stderr=io.StringIO())


class FullDisk(io.RawIOBase):
    """A file on a full disk."""

    is_full = True

    def writable(self) -> bool:
        """It is open for writing."""
        return True

    def write(self, data: Any) -> int:
        """Fail while the disk is full."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


class Interrupted(Iterator[SendOutcome]):
    """Sends two messages at a time, and is interrupted at these calls."""

    def __init__(self, envelopes: Iterable[Envelope], *interrupts: int) -> None:
        self._envelopes = iter(envelopes)
        self._interrupts = list(interrupts)
        self._in_flight = [next(self._envelopes)]
        self._calls = 0

    def __next__(self) -> SendOutcome:
        self._in_flight += [envelope for envelope in [next(self._envelopes, None)] if envelope]
        self._calls += 1
        if self._calls in self._interrupts:
            raise KeyboardInterrupt
        if not self._in_flight:
            raise StopIteration
        result = SendResult(SmtpResponse(250, ("ok",)), ())
        return SendOutcome(self._in_flight.pop(0), result, None)


TARGET = Target("localhost", 25, TlsMode.NONE)


def test_ctrl_c_waits_for_the_messages_in_flight() -> None:
    """No further message begins; those in flight have their outcome, the others are not begun."""
    stderr = io.StringIO()
    these = batch(10, stderr)
    found = these.send(
        TARGET, lambda _, envelopes: contextlib.nullcontext(Interrupted(envelopes, 3))
    )
    assert these.was_interrupted
    assert "waiting for the messages in flight" in stderr.getvalue()
    assert [result.status for result in found] == [DeliveryStatus.DELIVERED] * 4 + [
        DeliveryStatus.FAILED
    ] * 6
    assert {str(result).partition(": ")[2] for result in found[4:]} == {"not begun"}
    assert {result.name for result in found} == {f"m{n}" for n in range(10)}


def test_ctrl_c_twice_gives_up() -> None:
    """The messages in flight are unknown then."""
    these = batch(10, io.StringIO())
    found = these.send(
        TARGET, lambda _, envelopes: contextlib.nullcontext(Interrupted(envelopes, 3, 4))
    )
    assert these.was_interrupted
    statuses = [result.status for result in found]
    assert (
        statuses
        == [DeliveryStatus.DELIVERED] * 2
        + [DeliveryStatus.UNKNOWN] * 2
        + [DeliveryStatus.FAILED] * 6
    )


@pytest.mark.parametrize("arguments", [[], ["--bdat"]])
def test_ctrl_c_in_the_middle(server: SmtpServer, files: list[str], arguments: list[str]) -> None:
    """A real SIGINT: the replies to the messages in flight are waited for, so none is unknown."""
    server.fault("CONTENT", delay=0.5, times=None)
    command = [sys.executable, "-W", "error", "-m", "smtpconn", "send", server.url, "--json"]
    with subprocess.Popen(
        [*command, *arguments, *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # By then every connection is busy.
        busy = 1 if arguments else 4
        verb = "BDAT" if arguments else "DATA"
        server.wait_for(
            lambda: sum(verb in " ".join(c.commands) for c in server.connections) == busy
        )
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    found = json.loads(out)
    assert process.returncode == found["exit"] == 130
    assert err.endswith("smtpconn: interrupted\n")
    assert "Traceback" not in err
    counts = found["counts"]
    assert sum(counts.values()) == len(files)
    assert counts["failed"] > 0
    assert counts["unknown"] == 0
    assert counts["delivered"] == len(server.messages) > 0


def test_ctrl_c_twice_in_the_middle(server: SmtpServer, files: list[str]) -> None:
    """It does not wait for a server that never answers; the messages in flight are unknown."""
    server.fault("CONTENT", hang=True, times=None)
    command = [sys.executable, "-W", "error", "-m", "smtpconn", "send", server.url, "--json"]
    with subprocess.Popen(
        [*command, *files, "--connections", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        server.wait_for(lambda: sum("DATA" in c.commands for c in server.connections) == 2)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "waiting for the messages in flight" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)
    found = json.loads(out)
    assert process.returncode == 130
    assert err == "smtpconn: interrupted\n"
    # Behind a content leaves the envelope of the next message, which is in flight, too.
    assert 2 <= found["counts"]["unknown"] <= 4
    assert found["counts"]["failed"] == 10 - found["counts"]["unknown"]


@pytest.mark.parametrize(("arguments", "busy"), [(["--connections", "3"], 3), (["--bdat"], 1)])
def test_ctrl_c_many_times_on_many_files(
    server: SmtpServer, files: list[str], arguments: list[str], busy: int
) -> None:
    """However often it is pressed: no traceback, every file is in the report, and the unknown
    messages are its last lines, where they cannot scroll away."""
    server.fault("CONTENT", hang=True, times=None)
    many = files * 20
    command = [sys.executable, "-W", "error", "-m", "smtpconn", "send", server.url]
    with subprocess.Popen(
        [*command, *many, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        verb = "BDAT" if "--bdat" in arguments else "DATA"
        server.wait_for(
            lambda: sum(verb in " ".join(c.commands) for c in server.connections) == busy
        )
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "waiting for the messages in flight" in process.stderr.readline()
        assert process.stdout is not None
        reader = ThreadPoolExecutor(1)
        report = reader.submit(process.stdout.read)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            threading.Event().wait(0.005)
        lines = report.result(timeout=15).splitlines()
        reader.shutdown()
        err = process.stderr.read()
    # A signal may also end the process after everything was written.
    assert process.returncode in (130, -signal.SIGINT)
    assert err == "smtpconn: interrupted\n"
    # Behind a content leaves the envelope of the next message, which is in flight, too.
    unknown = sum(line.startswith("unknown       /") for line in lines)
    assert busy <= unknown <= (busy if "--bdat" in arguments else 2 * busy)
    assert sum(line.startswith("failed        /") for line in lines) == len(many) - unknown
    assert f"unknown            {unknown}" in lines
    assert all(line.startswith("unknown       /") for line in lines[-unknown:])
    assert lines[-unknown - 1].startswith("unknown: these may have been delivered")


def test_ctrl_c_while_connecting(files: list[str]) -> None:
    """Nothing is in flight, so the first one ends it and nothing is unknown."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "smtpconn",
            "send",
            f"smtp://127.0.0.1:{port}",
        ]
        with (
            subprocess.Popen(
                [*command, *files, "--json"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
            silent.accept()[0],
        ):
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=15)
    assert (process.returncode, err) == (130, "smtpconn: interrupted\n")
    assert json.loads(out)["counts"]["failed"] == len(files)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (KeyboardInterrupt(), "late: not begun"),
        (PoolClosedError("the pool is closed"), "late: the pool is closed"),
    ],
)
def test_a_message_that_is_opened_too_late_is_not_sent(end: BaseException, text: str) -> None:
    """A file that is still being read when the account is made is not begun, and never is."""
    opening, opened = threading.Event(), threading.Event()

    def open_slowly() -> OutgoingMessage:
        opening.set()
        assert opened.wait(10)
        return OutgoingMessage("late", Envelope("a@b.c", ["d@e.f"], b""), b"")

    sender = BatchSender([MessageSource("late", open_slowly)], quiet())
    taken: list[Envelope] = []

    class Outcomes(Iterator[SendOutcome]):
        def __init__(self, envelopes: Iterable[Envelope]) -> None:
            self.thread = threading.Thread(target=lambda: taken.extend(envelopes))
            self.thread.start()

        def __next__(self) -> SendOutcome:
            assert opening.wait(10)
            sender.was_interrupted = isinstance(end, KeyboardInterrupt)
            raise end

    outcomes: list[Outcomes] = []

    def method(_: Target, envelopes: Iterable[Envelope]) -> AbstractContextManager[Outcomes]:
        outcomes.append(Outcomes(envelopes))
        return contextlib.nullcontext(outcomes[0])

    (result,) = sender.send(TARGET, method)
    opened.set()
    outcomes[0].thread.join(10)
    assert (result.status, str(result)) == (DeliveryStatus.FAILED, text)
    assert taken == []


def test_a_report_that_cannot_be_written(
    server: SmtpServer,
    files: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is that of the messages, and the unknown ones are named on standard error."""
    server.fault("CONTENT", close=True)
    disk = FullDisk()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BufferedWriter(disk)))
    code = main(["send", server.url, *files[:3], "--connections", "1"])
    disk.is_full = False  # or the file, when it is collected, would fail once more
    err = capsys.readouterr().err
    assert code == 41
    assert "unknown: " in err
    assert "1 may have been delivered" in err
    assert "Traceback" not in err
    assert len(server.messages) == 2
