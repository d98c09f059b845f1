"""Where secrets come from, and that they never come out again."""

from __future__ import annotations

import base64
import sys

import pytest

from smtpconn.cli import secrets
from smtpconn.cli.exit_codes import UsageError
from smtpconn.cli.secrets import Secrets
from smtpconn.testing import SmtpServer
from tests.realservers.certificates import Certificates
from tests.support.command_runner import Input, Runner

USER, PASSWORD = "alice", "open sesame + 1"
COMMAND = f"{sys.executable} -c 'print(\"{PASSWORD}\")'"


def forms(password: str = PASSWORD) -> list[str]:
    """The forms in which a password travels."""
    plain = base64.b64encode(f"\0{USER}\0{password}".encode()).decode()
    return [password, base64.b64encode(password.encode()).decode(), plain]


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is the value of the variable."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", PASSWORD)
    assert secrets.password(USER, None) == PASSWORD


def test_from_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is the first line of the output; the command overrides the environment."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", "another")
    assert secrets.password(USER, COMMAND) == PASSWORD


def test_from_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal the user is asked, by name."""
    asked: list[str] = []

    def getpass(prompt: str) -> str:
        asked.append(prompt)
        return PASSWORD

    monkeypatch.setattr("sys.stdin", Input(b"", is_terminal=True))
    monkeypatch.setattr("getpass.getpass", getpass)
    assert secrets.password(USER, None) == PASSWORD
    assert asked == ["Password for alice: "]


def test_a_prompt_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-D at the prompt is an error of one line."""

    def getpass(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin", Input(b"", is_terminal=True))
    monkeypatch.setattr("getpass.getpass", getpass)
    with pytest.raises(UsageError, match="no password was typed for alice"):
        secrets.password(USER, None)


def test_no_password() -> None:
    """Without a terminal there is no prompt, and the error says what to do."""
    with pytest.raises(UsageError, match="set SMTPCONN_PASSWORD or give --auth-password-command"):
        secrets.password(USER, None)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("/no/such/program", "cannot be run"),
        ("", "cannot be run"),
        ("'", "cannot be run"),
        (f"{sys.executable} -c 'print(\"{PASSWORD}\"); raise SystemExit(3)'", "with status 3"),
        (f"{sys.executable} -c pass", "printed nothing"),
    ],
)
def test_a_command_that_fails(command: str, text: str) -> None:
    """The error does not quote the output of the command."""
    with pytest.raises(UsageError, match=text) as caught:
        secrets.output_of(command)
    assert PASSWORD not in str(caught.value)


def test_a_command_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does not end is an error after a timeout."""
    monkeypatch.setattr(secrets, "COMMAND_TIMEOUT", 0.05)
    with pytest.raises(UsageError, match="did not end"):
        secrets.output_of(f"{sys.executable} -c 'import time; time.sleep(10)'")


def test_hiding() -> None:
    """Every form of a secret is removed, unless it is too short."""
    secrets = Secrets()
    secrets.add(USER, PASSWORD)
    secrets.add(USER, "a")
    for form in forms():
        assert secrets.hide(f"you sent {form}, alas") == "you sent <secret>, alas"


ECHO = "535 5.7.8 no such login: " + " ".join(forms())


@pytest.mark.parametrize(
    "how", [(), ("-v",), ("--json",), ("--json", "-v"), ("--show-time-lapse",)]
)
@pytest.mark.parametrize(
    "command",
    [("check",), ("ping", "-c", "1"), ("send", "-f", "a@b.c", "-t", "d@e.f", "--body", "x")],
)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", None])
@pytest.mark.parametrize("is_right", [True, False])
def test_no_secret_is_ever_written(
    smtpconn: Runner,
    monkeypatch: pytest.MonkeyPatch,
    certificates: Certificates,
    how: tuple[str, ...],
    command: tuple[str, ...],
    mechanism: str | None,
    is_right: bool,
) -> None:
    """In no output of any command, whether the login succeeds or the server echoes all of it."""
    monkeypatch.setenv("SMTPCONN_PASSWORD", PASSWORD)
    with SmtpServer(users={USER: PASSWORD}, tls_context=certificates.server_context()) as server:
        if not is_right:
            for step in ("AUTH", "CHALLENGE"):
                server.fault(step, reply=ECHO, times=None)
        arguments = ["--auth", mechanism] if mechanism else []
        ran = smtpconn(
            *command, "-s", f"localhost:{server.port}", "--tls", "--tls-ca-path",
            certificates.ca_file, "-au", USER, *arguments, *how,
        )  # fmt: skip
    assert ran.code == (0 if is_right else 28)
    assert not [form for form in forms() if form in ran.everything]
    if not is_right:
        assert "no such login: <secret>" in ran.everything


def test_a_password_in_a_url_is_warned_about_and_not_shown(
    smtpconn: Runner, server: SmtpServer
) -> None:
    """Neither in the warning nor in any error."""
    url = f"smtp://alice:{PASSWORD.replace(' ', '%20')}@{server.host}:{server.port}"
    ran = smtpconn("check", url)
    assert ran.code == 28
    assert "read the password in the URL; use SMTPCONN_PASSWORD" in ran.err
    for more in ([url], ["--no-such-option", url], ["-p", url], ["-s", url], ["--timeout", url]):
        ran = smtpconn("check", url, *more)
        assert ran.code == 1
        assert "sesame" not in ran.everything
    ran = smtpconn("send", url, url)
    assert ran.code == 1
    assert "sesame" not in ran.everything


def test_a_url_from_the_environment_is_not_warned_about(
    smtpconn: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password in the environment is not visible to others."""
    with SmtpServer(users={USER: PASSWORD}) as server:
        url = f"smtp://{USER}:{PASSWORD.replace(' ', '%20')}@{server.host}:{server.port}"
        monkeypatch.setenv("SMTPCONN_URL", url)
        ran = smtpconn("check")
    assert (ran.code, ran.err) == (0, "")
    assert "login         alice, by PLAIN" in ran.out


def test_there_is_no_option_for_a_password(smtpconn: Runner) -> None:
    """swaks's -ap is refused with the reason, and what follows a wrong option is not quoted."""
    for option in ("-ap", "--auth-password", "--password", "--passwd", "--passwd=x"):
        ran = smtpconn("check", "localhost:1", "-au", USER, option, PASSWORD, PASSWORD)
        assert ran.code == 1
        assert PASSWORD not in ran.everything
        assert ran.err.count("\n") == 1
    ran = smtpconn("check", "localhost:1", f"-ap{PASSWORD}")
    assert ran.code == 1
    assert "sesame" not in ran.everything.lower()
