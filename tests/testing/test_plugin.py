"""The pytest plugin, in separate test runs: its fixtures, and that it has no side effects."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import smtpconn
from smtpconn.testing import SmtpServer

ROOT = Path(__file__).parent.parent.parent

SEND = """
    import smtplib
    import pytest

    def send(server, to="you@example.com", text="Hello!"):
        with smtplib.SMTP(server.host, server.port, timeout=5) as client:
            client.sendmail("me@example.com", [to], f"Subject: hello\\r\\n\\r\\n{text}\\r\\n")
"""


@pytest.fixture(autouse=True)
def checkout_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs load the plugin from this tree, whatever copy is installed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def run(
    pytester: pytest.Pytester, tests: str, *, apart: bool = False, **outcomes: int
) -> pytest.RunResult:
    """Run tests, where warnings are errors, and count the outcomes.

    Args:
        pytester: the fixture.
        tests: their source.
        apart: whether they need an interpreter of their own.
        outcomes: how many passed, failed, and so on.
    """
    pytester.makepyfile(SEND + tests)
    start = pytester.runpytest_subprocess if apart else pytester.runpytest_inprocess
    result = start("-W", "error", "--strict-markers", "-p", "no:cacheprovider")
    result.assert_outcomes(**outcomes)
    return result


def test_a_server_for_each_test(pytester: pytest.Pytester) -> None:
    """Each test has a server of its own, which is there and empty."""
    run(
        pytester,
        """
    ports = set()

    @pytest.mark.parametrize("number", range(3))
    def test_mail(smtp_server, number):
        assert smtp_server.messages == []
        assert smtp_server.url == f"smtp://{smtp_server.host}:{smtp_server.port}"
        send(smtp_server)
        (message,) = smtp_server.wait_for_messages(1)
        assert message.sender == "me@example.com"
        assert message.recipients == ("you@example.com",)
        assert message.email["Subject"] == "hello"
        assert message.email.get_content() == "Hello!\\r\\n"
    """,
        passed=3,
    )


def test_the_server_is_gone_after_the_test(pytester: pytest.Pytester) -> None:
    """No thread and no port is left, also when the test fails."""
    run(
        pytester,
        """
    import socket, threading
    seen = []

    def test_fails(smtp_server):
        seen.append((smtp_server.host, smtp_server.port))
        assert False

    def test_after():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(seen[0], 5)
        assert threading.active_count() == 1
    """,
        apart=True,
        passed=1,
        failed=1,
    )


def test_the_marker_says_what_kind_of_server(pytester: pytest.Pytester) -> None:
    """TLS that can be trusted, logins and LMTP; the closest marker has the last word."""
    run(
        pytester,
        """
    import ssl
    pytestmark = pytest.mark.smtp_server(users={"app": "s3cret"}, require_auth=True)

    @pytest.mark.smtp_server(tls="starttls")
    def test_starttls(smtp_server):
        with smtplib.SMTP(smtp_server.host, smtp_server.port, timeout=5) as client:
            client.starttls(context=smtp_server.client_context)
            client.login("app", "s3cret")
            client.sendmail("me@example.com", ["you@example.com"], "Subject: hello\\r\\n")
        (message,) = smtp_server.messages
        assert (message.tls, message.user) == (True, "app")

    @pytest.mark.smtp_server(tls="implicit", users=None, require_auth=False)
    def test_implicit(smtp_server):
        assert smtp_server.url.startswith("smtps://")
        context = ssl.create_default_context(cafile=smtp_server.ca_file)
        with smtplib.SMTP_SSL("localhost", smtp_server.port, timeout=5, context=context) as client:
            client.noop()

    def test_not_trusted_by_others(smtp_server_factory):
        server = smtp_server_factory(tls="implicit")
        with pytest.raises(ssl.SSLCertVerificationError):
            smtplib.SMTP_SSL(server.host, server.port, context=ssl.create_default_context())

    @pytest.mark.smtp_server(protocol="LMTP", users=None, require_auth=False)
    def test_lmtp(smtp_server):
        assert smtp_server.url.startswith("lmtp://")
        with smtplib.LMTP(smtp_server.host, smtp_server.port) as client:
            client.sendmail("me@example.com", ["you@example.com"], "Subject: x")
        assert len(smtp_server.messages) == 1
    """,
        passed=4,
    )


def test_code_that_trusts_the_systems_authorities(pytester: pytest.Pytester) -> None:
    """SSL_CERT_FILE makes a default context trust the server, without a change to the code."""
    run(
        pytester,
        """
    import ssl

    @pytest.mark.smtp_server(tls="implicit")
    def test_default(smtp_server, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", smtp_server.ca_file)
        context = ssl.create_default_context()
        with smtplib.SMTP_SSL(smtp_server.host, smtp_server.port, context=context) as client:
            client.noop()
    """,
        passed=1,
    )


def test_several_servers(pytester: pytest.Pytester) -> None:
    """The factory makes any number, each of its own kind."""
    run(
        pytester,
        """
    def test_two(smtp_server, smtp_server_factory):
        other = smtp_server_factory(hostname="backup.example.test")
        send(smtp_server)
        send(other)
        send(other)
        assert [len(s.messages) for s in (smtp_server, other)] == [1, 2]
    """,
        passed=1,
    )


def test_what_goes_wrong_on_demand(pytester: pytest.Pytester) -> None:
    """Refusing a recipient, shutting down, dropping and delaying, in one line each."""
    run(
        pytester,
        """
    import time

    def test_refused(smtp_server):
        smtp_server.refuse_recipient("you@example.com")
        for _ in range(2):
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                send(smtp_server)
        send(smtp_server, "her@example.com")
        assert len(smtp_server.messages) == 1

    def test_421(smtp_server):
        smtp_server.shut_down_at("MAIL")
        with pytest.raises(smtplib.SMTPException, match="421"):
            send(smtp_server)
        send(smtp_server)

    def test_dropped(smtp_server):
        smtp_server.drop_at("CONTENT")
        with pytest.raises(smtplib.SMTPServerDisconnected):
            send(smtp_server)
        assert smtp_server.messages == []

    def test_late(smtp_server):
        smtp_server.delay_at("MAIL", 0.2)
        begun = time.monotonic()
        send(smtp_server)
        assert time.monotonic() - begun >= 0.2
    """,
        passed=4,
    )


def test_wrong_use_is_said(pytester: pytest.Pytester) -> None:
    """An option there is not, and one without a name, are errors of the test and not ignored."""
    result = run(
        pytester,
        """
    @pytest.mark.smtp_server(lts=True)
    def test_unknown(smtp_server):
        pass

    @pytest.mark.smtp_server("starttls")
    def test_unnamed(smtp_server):
        pass
    """,
        errors=2,
    )
    result.stdout.fnmatch_lines(
        ["*unexpected keyword argument 'lts'*", "*takes options by name only*"], consecutive=False
    )


def test_a_suite_with_a_fixture_of_that_name_keeps_it(pytester: pytest.Pytester) -> None:
    """What a user's conftest calls smtp_server is what the user's tests get."""
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef smtp_server(): return 'mine'\n")
    run(pytester, "\n    def test_mine(smtp_server): assert smtp_server == 'mine'\n", passed=1)


def test_a_suite_that_does_not_use_it_pays_nothing(pytester: pytest.Pytester) -> None:
    """Neither smtpconn nor trustme is imported in a run where no test asks for a server."""
    run(
        pytester,
        """
    import sys

    def test_modules():
        assert "pytest_smtpconn" in sys.modules
        assert not {"smtpconn", "trustme", "certifi"} & set(sys.modules)
    """,
        apart=True,
        passed=1,
    )


def test_trustme_is_needed_for_tls_alone(pytester: pytest.Pytester) -> None:
    """Without it a server in clear works, and one with TLS says what to install."""
    run(
        pytester,
        """
    import sys

    def test_without(smtp_server, smtp_server_factory, monkeypatch):
        send(smtp_server)
        assert "trustme" not in sys.modules
        monkeypatch.setitem(sys.modules, "trustme", None)
        with pytest.raises(ImportError, match=r"pip install 'smtpconn\\[pytest\\]'"):
            smtp_server_factory(tls="starttls")
    """,
        apart=True,
        passed=1,
    )


def test_the_sample_tests(pytester: pytest.Pytester) -> None:
    """Tests of code that uses smtplib, smtpconn and Django, as they are shown to users."""
    pytester.copy_example(str(ROOT / "examples" / "test_your_mail.py"))
    # Apart from this process, whose Django has settings of other tests.
    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=3)


def test_the_fixture_is_there_in_this_suite(smtp_server: SmtpServer) -> None:
    """The plugin is found by its entry point, as it is for users."""
    (entry,) = (e for e in metadata.entry_points(group="pytest11") if e.name == "smtpconn")
    assert entry.value == "pytest_smtpconn"
    assert isinstance(smtp_server, SmtpServer)


def test_what_is_tested_here_is_this_tree() -> None:
    """Also where a copy of smtpconn is installed, whose plugin pytest has loaded before."""
    assert Path(smtpconn.__file__).parent == ROOT / "smtpconn"


def test_the_plugin_alone_imports_nothing_of_smtpconn() -> None:
    """That is what the two before rest upon."""
    script = "import sys, pytest_smtpconn; sys.exit('smtpconn' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
