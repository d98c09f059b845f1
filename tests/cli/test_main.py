"""The command as a whole: as a process, and where everything is caught."""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import smtpconn as package
from smtpconn.cli import main
from smtpconn.testing import SmtpServer
from tests.support.command_runner import Runner

ROOT = Path(package.__file__).parent.parent

WITHOUT_RICH = (
    "import sys; sys.modules['rich'] = None; from smtpconn.cli import main; sys.exit(main())"
)


def process(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run an interpreter with these arguments, warnings being errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        input=stdin,
        capture_output=True,
        timeout=15,
        check=False,
    )


def test_python_m_smtpconn(server: SmtpServer) -> None:
    """``python -m smtpconn`` runs the command; a message on standard input arrives."""
    done = process("-m", "smtpconn", "send", server.url, stdin=b"From: a@b.c\nTo: d@e.f\n\nhi\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert server.messages[0].content == b"From: a@b.c\r\nTo: d@e.f\r\n\r\nhi\r\n"
    assert b"250 2.0.0 Ok: queued" in done.stdout


def test_without_rich(server: SmtpServer) -> None:
    """The command works without the package rich."""
    done = process("-c", WITHOUT_RICH, "check", server.url)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"result        ok" in done.stdout


def test_it_is_installed_under_its_name() -> None:
    """The entry point is the function that python -m runs."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    line = config["options.entry_points"]["console_scripts"].strip()
    assert line == "smtpconn = smtpconn.cli:main"
    assert callable(main)
    extra = config["options.extras_require"]["cli"].split()
    assert extra == ["cryptography>=42", "rich", "trustme"]


def test_importing_the_package_does_not_bring_it_along() -> None:
    """Importing smtpconn imports neither argparse nor rich."""
    script = "import sys, smtpconn; sys.exit('argparse' in sys.modules or 'rich' in sys.modules)"
    assert process("-c", script).returncode == 0


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the version of the package."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{package.__version__}\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the commands."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("check", "send", "ping", "serve"))


def test_a_broken_pipe(server: SmtpServer) -> None:
    """A broken pipe prints nothing on standard error."""
    command = f"{sys.executable} -m smtpconn check {server.url} | true; echo ${{PIPESTATUS[0]}}"
    for _ in range(3):
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, timeout=15, check=False, text=True
        )
        assert done.stderr == ""
        # It may have written everything before the reader was gone.
        assert done.stdout.strip() in ("141", "0")


def test_a_pipe_that_is_broken_before(
    smtpconn: Runner, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that is broken from the start ends the command with 141 and no output."""

    def broken(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("smtpconn.cli.output.Output.line", broken)
    # Which would be pytest's own.
    module = importlib.import_module("smtpconn.cli.main")
    monkeypatch.setattr(module, "_discard_stdout", lambda: None)
    ran = smtpconn("check", server.url)
    assert (ran.code, ran.everything) == (141, "")


COMMAND_LINES = ["check {}", "send {} -", "ping {} -c 1", "send --help", "--version", "check"]


@pytest.mark.parametrize("command", COMMAND_LINES)
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">/dev/full"])
def test_closed_and_full_streams(server: SmtpServer, command: str, streams: str) -> None:
    """No traceback, and the exit code of what was done; a full disk is an error that is named."""
    line = f"{sys.executable} -W error -m smtpconn {command.format(server.url)}"
    feed = "" if "<" in streams else "printf 'From: a@b.c\\nTo: d@e.f\\n\\nhi\\n' | "
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {feed}{line} {streams}"],
        capture_output=True, text=True, timeout=15, check=False,
    )  # fmt: skip
    everything = done.stdout + done.stderr
    assert "Traceback" not in everything
    assert "Exception ignored" not in everything
    is_bad = command == "check" or ("send {}" in command and "<" in streams)
    is_full = "full" in streams and "{}" in command
    assert done.returncode == (1 if is_bad or is_full else 0)
    assert ("standard output: No space left on device" in done.stderr) == is_full


def test_a_closed_standard_output_is_not_a_socket(server: SmtpServer) -> None:
    """The connection does not get descriptor 1, into which print would write."""
    server.fault("QUIT", delay=0.2)
    command = f"{sys.executable} -m smtpconn check {server.url} >&-"
    assert subprocess.run(["bash", "-c", command], timeout=15, check=False).returncode == 0
    assert server.connections[0].commands[1:] == ["NOOP"] * 3 + ["QUIT"]


def test_ctrl_c(smtpconn: Runner, server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the command with 130 and one word."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("smtpconn.cli.check.target_of", interrupted)
    ran = smtpconn("check", server.url)
    assert (ran.code, ran.out, ran.err) == (130, "", "smtpconn: interrupted\n")


def test_a_bug(smtpconn: Runner, server: SmtpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is one line, without the text of the error, which may contain a secret."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("sesame")

    monkeypatch.setattr("smtpconn.cli.check.target_of", broken)
    ran = smtpconn("check", server.url)
    assert (ran.code, ran.out) == (70, "")
    assert "this is a bug in smtpconn: ZeroDivisionError at test_main.py:" in ran.err
    assert "sesame" not in ran.err
    found = smtpconn("check", server.url, "--json")
    assert "sesame" not in found.everything
    assert found.object["error"]["class"] == "ZeroDivisionError"


def test_an_error_of_the_system(
    smtpconn: Runner, server: SmtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OSError is one line with the name of the file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/tmp/x")

    monkeypatch.setattr("smtpconn.cli.check.target_of", full)
    ran = smtpconn("check", server.url)
    assert (ran.code, ran.err) == (1, "smtpconn: /tmp/x: No space left on device\n")
