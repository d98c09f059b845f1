"""``python -m smtpconn.smtplib``: programs that are run with the drop-in in smtplib's place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpconn.testing import SmtpServer
from tests.support.pages.page import ROOT

SCRIPT = """\
import smtplib, sys
from smtplib import SMTP, SMTPException
import helper
assert smtplib.SMTP is SMTP and smtplib.__name__ == "smtpconn.smtplib"
assert __name__ == "__main__"
assert sys.argv[1:] == ["--host", "X"], sys.argv
for _ in range(3):
    with SMTP("{host}", {port}) as smtp:
        smtp.sendmail("me@example.com", ["you@example.net"], "Subject: hi\\n\\nHello!")
print(helper.WORD)
raise SystemExit(3)
"""


@pytest.fixture
def program(tmp_path: Path, smtp_server: SmtpServer) -> Path:
    """A script with a module beside it."""
    (tmp_path / "helper.py").write_text("WORD = 'done'\n")
    path = tmp_path / "program.py"
    path.write_text(SCRIPT.format(host=smtp_server.host, port=smtp_server.port))
    return path


def run(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "smtpconn.smtplib", *arguments],
        capture_output=True,
        text=True,
        timeout=19,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{path}"},
        check=False,
    )


@pytest.mark.parametrize(
    ("options", "connections"), [((), 1), (("--max-size", "2"), 1), (("--no-pool",), 3)]
)
def test_a_script(
    smtp_server: SmtpServer, program: Path, options: tuple[str, ...], connections: int
) -> None:
    """It has its arguments, its directory, its exit code, and one connection."""
    done = run(*options, str(program), "--host", "X")
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")
    assert len(smtp_server.messages) == 3
    assert len(smtp_server.connections) == connections


def test_a_module(smtp_server: SmtpServer, program: Path) -> None:
    """The same with -m."""
    done = run("-m", "program", "--host", "X", path=str(program.parent))
    assert (done.returncode, done.stdout, done.stderr) == (3, "done\n", "")
    assert len(smtp_server.connections) == 1


THREADS = """\
import atexit, smtplib, threading

def send(number):
    with smtplib.SMTP("{host}", {port}, timeout=5) as smtp:
        ready.set()
        if number == 1:
            ended.join()
        smtp.sendmail("me@example.com", ["you@example.net"], f"Subject: {{number}}\\n\\nHello!")

ready, ended = threading.Event(), threading.main_thread()
atexit.register(send, 2)
threading.Thread(target=send, args=(1,)).start()
ready.wait(5)
"""


def test_threads_that_outlive_the_script(tmp_path: Path, smtp_server: SmtpServer) -> None:
    """They and functions that are called at exit send over pooled connections."""
    path = tmp_path / "program.py"
    path.write_text(THREADS.format(host=smtp_server.host, port=smtp_server.port))
    done = run(str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [m.email["Subject"] for m in smtp_server.messages] == ["1", "2"]
    assert len(smtp_server.connections) == 1


def test_modules_are_searched_where_python_searches(tmp_path: Path) -> None:
    """Beside the script, through a link to it, too; not in the current directory."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "program.py").write_text("import sys\nprint(*sys.path, sep='\\n')\n")
    (tmp_path / "link.py").symlink_to(tmp_path / "scripts" / "program.py")
    seen = [
        subprocess.run(
            [sys.executable, *command, tmp_path / "link.py"],
            capture_output=True,
            text=True,
            timeout=19,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT)},
            check=True,
        ).stdout
        for command in ([], ["-m", "smtpconn.smtplib"])
    ]
    assert seen[0] == seen[1]
    assert seen[0].startswith(str(tmp_path / "scripts"))


def test_how_careful_it_is(tmp_path: Path, smtp_server_factory: Callable[..., SmtpServer]) -> None:
    """Certificates are verified, unless --no-verify says otherwise."""
    server = smtp_server_factory(tls="starttls")
    path = tmp_path / "program.py"
    path.write_text(
        f"import smtplib\nsmtplib.SMTP({server.host!r}, {server.port}).starttls()\nprint('TLS')\n"
    )
    done = run(str(path))
    assert done.returncode == 1
    assert "TlsError" in done.stderr
    assert run("--no-verify", str(path)).stdout == "TLS\n"


def test_a_wrong_call() -> None:
    """It says how it is called."""
    done = run()
    assert done.returncode == 2
    assert "usage: python -m smtpconn.smtplib" in done.stderr
